"""How an update's time and a training's memory grow with the log, the ensemble and the batch, at Hopper's sizes.

Every case is measured in a process of its own, whose peak of resident memory is its own, on a synthetic log that lies
in files as the cache of a data set does.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbrl import files
from mbrl.bench import hopper_sized
from mbrl.core import Dynamics, Learner, Spec
from mbrl.report.console import tell
from mbrl.report.scaling import Growth, plot_growth
from mbrl.scaledcase import Case, Cost
from mbrl.sizes import Sizes

STEPS = 1000  # of an episode
CHUNK = 1_000_000  # rows that are made at a time


def cases(sizes: Sizes) -> list[Case]:
    """The first of each together, and then one of them changed at a time; every log in memory and from the disk."""
    base = Case(sizes.rows[0], sizes.members[0], sizes.batches[0], None)
    found = [base._replace(rows=count, resident=held) for count in sizes.rows for held in (None, sizes.resident)]
    found += [base._replace(members=count) for count in sizes.members[1:]]
    found += [base._replace(batch=size) for size in sizes.batches[1:]]
    both = [(count, batched) for count in sizes.populations[1:] for batched in (False, True)]
    return [*found, *(base._replace(population=count, batched=batched) for count, batched in both)]


def told(
    dynamics: Callable[[Spec], Dynamics], learner: Callable[[Spec], Learner], sizes: Sizes, folder: Path, seed: int
) -> dict[str, Any]:
    """Measure all cases, write `scaling.md` and `scaling.png` into the folder, and hand back the numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    spec, _ = hopper_sized(2, seed)
    plugins = dynamics(spec).config, learner(spec).config
    found, threads = [], torch.get_num_threads()
    for case, cost in measure(*plugins, cases(sizes), updates=sizes.updates, threads=threads, seed=seed):
        found.append((case, cost))
        tell("scaling", f"{case}: {cost}")
    table = markdown(found)
    print(table)
    with files.replacing(folder / "scaling.md") as beside:
        beside.write_text(table)
    plot_growth(folder / "scaling.png", growths(found), f"Training at Hopper's sizes, {threads} thread(s)")
    return {"table": table, "scaling": [{**case._asdict(), **cost._asdict()} for case, cost in found]}


def measure(
    dynamics: dict[str, Any], learner: dict[str, Any], asked: Sequence[Case], *, updates: int, threads: int, seed: int
) -> Iterator[tuple[Case, Cost]]:
    """Each case with its cost, as it comes.

    Args:
        dynamics, learner: configurations of the plug-ins.
        asked: the cases.
        updates: that are timed, of each.
        threads: torch's; those of several trainings at once are divided among them.
        seed: of the synthetic rows.

    Raises:
        RuntimeError: a process failed, for want of memory for instance; the message has its last line.
    """
    with tempfile.TemporaryDirectory(prefix="mbrl-scaling-") as folder:
        for count in sorted({case.rows for case in asked}):
            _write(Path(folder) / str(count), count, seed)
        for case in asked:
            told = {
                "folder": str(Path(folder) / str(case.rows)),
                "case": case,
                "dynamics": dynamics,
                "learner": learner,
                "updates": updates,
                "threads": max(1, threads // (1 if case.batched else case.population)),
            }
            yield case, _together(case, [sys.executable, "-m", "mbrl.scaledcase", json.dumps(told)])


def _together(case: Case, command: Sequence[str]) -> Cost:
    """The cost of as many processes at once as the case has."""
    pipe, count = subprocess.PIPE, 1 if case.batched else case.population
    running = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for _ in range(count)]
    said = [process.communicate() for process in running]
    for process, (_, err) in zip(running, said, strict=True):
        if process.returncode:
            why = (err.strip().splitlines() or [f"ended with status {process.returncode}"])[-1]
            raise RuntimeError(f"{case} could not be measured: {why}")
    costs = [Cost(*json.loads(out)) for out, _ in said]
    dynamics_ms, policy_ms, group_s = (statistics.mean(cost[k] for cost in costs) for k in range(3))
    return Cost(dynamics_ms, policy_ms, group_s, costs[0].turn, sum(cost.peak_mib for cost in costs))


def _write(folder: Path, rows: int, seed: int) -> None:
    """A synthetic log's columns, a file each, made a part at a time; episodes of `STEPS` rows."""
    folder.mkdir()
    columns: dict[str, Any] = {}
    for first in range(0, rows, CHUNK):
        number = np.arange(first, min(first + CHUNK, rows))
        _, made = hopper_sized(len(number), seed + first)
        parts = {name: column.numpy() for name, column in made._asdict().items()}
        parts |= {"truncated": number % STEPS == STEPS - 1, "episode": number // STEPS}
        for name, part in parts.items():
            if first == 0:
                path, shape = folder / f"{name}.npy", (rows, *part.shape[1:])
                columns[name] = np.lib.format.open_memmap(path, "w+", part.dtype, shape)
            columns[name][number] = part


def markdown(found: Sequence[tuple[Case, Cost]]) -> str:
    """A table: a line for each case."""
    lines = ["| rows | members | batch | at once | rows in memory | ensemble update | policy update | peak memory |"]
    lines.append("|---" * 8 + "|")
    for case, cost in found:
        held = "all" if case.resident is None else f"{case.resident} MiB at once"
        if cost.group_s:
            held += f", {cost.group_s:.1f} s every {cost.turn:,} updates"
        at_once = f"{case.population}, {'batched' if case.batched else 'processes'}" if case.population > 1 else "1"
        lines.append(
            f"| {case.rows:,} | {case.members} | {case.batch:,} | {at_once} | {held}"
            f" | {cost.dynamics_ms:.1f} ms | {cost.policy_ms:.1f} ms | {cost.peak_mib:,.0f} MiB |"
        )
    return "\n".join(lines) + "\n"


def growths(found: Sequence[tuple[Case, Cost]]) -> list[list[Growth]]:
    """What to draw: the time of updates, and the memory, over each of the sizes."""
    base = found[0][0]._replace(resident=None)
    named = {
        "rows": "rows of the log",
        "members": "members of the ensemble",
        "batch": "rows of a batch",
        "population": "trainings at once",
    }
    times, memory = [], []
    for axis in named:
        same = {axis: getattr(base, axis), "resident": None, "batched": False}
        alike = sorted(
            (point for point in found if point[0]._replace(**same) == base), key=lambda p: getattr(p[0], axis)
        )
        held = [(getattr(case, axis), cost) for case, cost in alike if case.resident is None and not case.batched]
        lines = {"ensemble": [(size, cost.dynamics_ms) for size, cost in held]}
        lines["policy"] = [(size, cost.policy_ms) for size, cost in held]
        peaks = {"all rows in memory": [(size, cost.peak_mib) for size, cost in held]}
        streamed = [(getattr(case, axis), cost) for case, cost in alike if case.resident is not None]
        if axis == "rows" and streamed:
            lines["ensemble, from the disk"] = [(size, cost.dynamics_ms) for size, cost in streamed]
            lines["policy, from the disk"] = [(size, cost.policy_ms) for size, cost in streamed]
            peaks["from the disk"] = [(size, cost.peak_mib) for size, cost in streamed]
        batched = [(case.population, cost) for case, cost in alike if case.batched]
        if axis == "population" and batched:
            alone = held[:1]
            lines["policies, batched"] = [(size, cost.policy_ms) for size, cost in (*alone, *batched)]
            peaks["batched"] = [(size, cost.peak_mib) for size, cost in (*alone, *batched)]
        times.append(Growth(named[axis], "ms an update", lines))
        memory.append(Growth(named[axis], "peak memory, MiB", peaks))
    return [times, memory]
