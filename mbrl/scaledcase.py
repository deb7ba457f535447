"""One case of `mbrl.scaling`, in a process of its own: a short training on a log that lies in files."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.optim import Adam

from mbrl.allocator import keep_freed_memory
from mbrl.bench import ACTION, OBS, hopper_sized
from mbrl.core import Dynamics, Learner, build, generator, seeded
from mbrl.data.dataset import TransitionDataset
from mbrl.data.mapped import Mapped
from mbrl.data.source import Streamed
from mbrl.training.bootstrap import BootstrapBatches
from mbrl.training.drawing import Logged
from mbrl.training.population import Population

WARM = 3  # updates before the clock starts


class Case(NamedTuple):
    """What is trained on how much."""

    rows: int
    members: int
    batch: int
    resident: int | None  # MiB of logged rows in memory at once; None: all of them
    population: int = 1  # trainings at once
    batched: bool = False  # whether they are one learner with a further axis; else each is a process of its own


class Cost(NamedTuple):
    """What it takes; of several processes the mean of their times, and the sum of their memory."""

    dynamics_ms: float  # an update of the ensemble, median
    policy_ms: float  # an update of the learner, or of all of them, median
    group_s: float  # to have the rows of a group; 0 where they are all here from the beginning
    turn: int  # updates of the ensemble until the next group
    peak_mib: float  # of the process's resident memory


def _log(folder: Path) -> TransitionDataset:
    """That log, mapped."""
    arrays = {path.stem: np.load(path, mmap_mode="c") for path in folder.glob("*.npy")}
    columns: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
    nothing = (None,) * (OBS + 1)
    return TransitionDataset(
        id="bench/synthetic-v0",
        **columns,
        discrete=False,
        action_low=(-1.0,) * ACTION,
        action_high=(1.0,) * ACTION,
        env_id=None,
        channels=tuple(f"observation {k}" for k in range(OBS)),
        units=("",) * OBS,
        action_channels=tuple(f"action {k}" for k in range(ACTION)),
        action_units=("",) * ACTION,
        exogenous=(),
        bound_low=nothing,
        bound_high=nothing,
        fingerprint="",
        mapped=Mapped.of(arrays.values()),
    )


def _cost(told: dict[str, Any]) -> Cost:
    case = Case(*told["case"])
    data, (spec, _) = _log(Path(told["folder"])), hopper_sized(2, 0)
    resident = sys.maxsize if case.resident is None else case.resident << 20
    source = Streamed(data, torch.arange(data.episodes), resident, seed=0)
    sizes = told["dynamics"]["init_args"] | {"members": case.members, "elites": max(1, case.members * 5 // 7)}
    with seeded(0, "scaling"):
        model: Dynamics = build({**told["dynamics"], "init_args": sizes}, Dynamics, spec)
        learner: Learner = build(told["learner"], Learner, spec)
    if case.batched:
        learner = Population(spec, told["learner"], list(range(case.population)))
    begun = time.perf_counter()
    batches = BootstrapBatches(source, case.members, 0, case.batch)
    group = time.perf_counter() - begun if source.groups > 1 else 0.0
    if len(batches) <= WARM:
        raise ValueError(f"{case.rows:,} rows are {len(batches)} batches of {case.batch:,}, expected more than {WARM}")
    optimizer = Adam(model.parameter_groups(), 1e-3, fused=True)
    fitted = _median(partial(_fit, model, optimizer, iter(batches)), min(told["updates"], len(batches) - WARM))
    del batches
    drawn, rng = case.batch * learner.members, generator(0, "scaling")
    logged = Logged(source, learner, 1.0, drawn, 0.0, False, torch.device("cpu"))
    logged.reach(0)
    improved = _median(lambda: learner.update(logged.draw(rng), None, rng), told["updates"])
    turn = -(-source.rows // source.groups // case.batch)
    return Cost(1e3 * fitted, 1e3 * improved, group, turn, _peak())


def _fit(model: Dynamics, optimizer: Adam, batches: Iterator[Any]) -> None:
    optimizer.zero_grad(set_to_none=True)
    model.loss(next(batches).rows).sum().backward()
    optimizer.step()


def _median(update: Callable[[], object], updates: int) -> float:
    """Seconds of an update."""
    taken = []
    for _ in range(WARM + max(1, updates)):
        begun = time.perf_counter()
        update()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[WARM:])


def _peak() -> float:
    """The most resident memory that this process has had, MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # of this program alone, where getrusage remembers the process that it was forked from
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    keep_freed_memory()
    torch.set_num_threads(asked["threads"])
    print(json.dumps(_cost(asked)))
