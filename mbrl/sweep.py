"""`mbrl sweep`: configurations and seeds on one log, each an `mbrl run` in a process of its own, several at once."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml

from mbrl import files
from mbrl.assessment import shown, small
from mbrl.contest import Arena, run_settings
from mbrl.evaluation.estimates import Estimate
from mbrl.inspection import EXPERIMENT
from mbrl.registry.runs import RunLog
from mbrl.report.console import tell

RUN = (sys.executable, "-m", "mbrl", "run", "--json", "--config")
HANDED_ON = ("MBRL_", "MLFLOW_", "MINARI_", "PYTHON")  # beginnings of the variables that a member's machine is told
PATIENCE = 5.0  # seconds until an address that does not answer counts as unreachable
LINES = 3  # of a failed member's log that are told


class Member(NamedTuple):
    """One run of a sweep."""

    name: str
    path: Path  # its whole configuration; beside it are its folder, its log and its answer
    command: Sequence[str]  # what makes the run, but for this path


class Ended(NamedTuple):
    """What became of a member."""

    member: Member
    answer: dict[str, Any]  # what `mbrl run --json` printed; empty where it failed
    failure: str | None = None


Engine = Callable[[Sequence[Member], Mapping[str, str], int], Iterator[Ended]]


def sweep(
    name: str, arena: Arena, configurations: Mapping[str, Path], seeds: Sequence[int], folder: Path, engine: Engine,
    workers: int, threads: int,
) -> dict[str, Any]:  # fmt: skip
    """Run what has not been run of all configurations and seeds, and tell what became of each.

    The runs become children of one MLflow run. A member that fails leaves the others alone, and the same call goes on
    with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    members = list(_members(name, arena, configurations, seeds, folder))
    told = {key: value for key, value in os.environ.items() if key.startswith(HANDED_ON)}
    told |= {"OMP_NUM_THREADS": str(threads)}
    notes = folder / "sweep.json"
    known = json.loads(notes.read_text())["run_id"] if notes.exists() else None
    ended: dict[str, Ended] = {}
    with RunLog.open(EXPERIMENT, name, known) as record:
        with files.replacing(notes) as beside:
            beside.write_text(json.dumps({"run_id": record.run_id}))
        for one in engine(members, told, workers):
            ended[one.member.name] = one
            if (run_id := _run_id(one.member)) is not None:
                record.adopt(run_id)
            tell(one.member.name, one.failure or one.answer["verdict"])
        return _told(folder, arena, [ended[member.name] for member in members], record.run_id)


def _members(
    name: str, arena: Arena, configurations: Mapping[str, Path], seeds: Sequence[int], folder: Path
) -> Iterator[Member]:
    for label, path in configurations.items():
        settings = run_settings(path, arena, ())
        for seed in seeds:
            member = Member(f"{label}-{seed}", folder / f"{label}-{seed}.yaml", RUN)
            own = {"seed": seed, "env": arena.env, "name": f"{name}-{member.name}", "folder": str(_folder(member))}
            with files.replacing(member.path) as beside:
                beside.write_text(yaml.safe_dump(settings | own, sort_keys=False))
            yield member


def _folder(member: Member) -> Path:
    return member.path.with_suffix("")


def _run_id(member: Member) -> str | None:
    notes = _folder(member) / "run.json"
    found: str | None = json.loads(notes.read_text()).get("run_id") if notes.exists() else None
    return found


# ---------------------------------------------------------------------- engines


def in_processes(members: Sequence[Member], told: Mapping[str, str], workers: int) -> Iterator[Ended]:
    """As many at once as there are workers, on this machine."""
    with ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(run_member, member, told) for member in members]
        for task in as_completed(tasks):
            yield task.result()


def on_ray(address: str | None) -> Engine:
    """The same as tasks of a Ray cluster, one core each; without an address on this machine.

    All of a cluster's machines have to see the folder of the sweep, MBRL_HOME and the data sets under the same paths,
    and have this package.

    Raises:
        ValueError: Ray is not installed, or nothing answers at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "engine is ray, which is not installed: pip install 'offline-mbrl[ray]', or engine processes"
        ) from error
    if address is not None:
        _reachable(address)

    def run(members: Sequence[Member], told: Mapping[str, str], workers: int) -> Iterator[Ended]:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray's reports to its makers, which nobody asked for
        local = {"num_cpus": workers} if address is None else {"address": address}
        ray.init(**local, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            task = ray.remote(num_cpus=1, max_retries=0)(run_member)
            running = {task.remote(member, dict(told)): member for member in members}
            while running:
                (done,), _ = ray.wait(list(running))
                member = running.pop(done)
                try:
                    yield ray.get(done)
                except ray.exceptions.RayError as error:
                    yield Ended(member, {}, f"its Ray worker died: {str(error).splitlines()[0]}")
        finally:
            ray.shutdown()

    return run


def _reachable(address: str) -> None:
    """Ask before Ray does, which tries for many minutes."""
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        if not parts.hostname or not parts.port:
            raise OSError("not HOST:PORT")
        socket.create_connection((parts.hostname, parts.port), PATIENCE).close()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"ray_address is {address!r}, and nothing answers there ({error}): expected HOST:PORT of a Ray head, as in"
            " 10.0.0.1:6379; leave it out to use this machine"
        ) from error


def run_member(member: Member, told: Mapping[str, str]) -> Ended:
    """One `mbrl run`, in a process of its own, which goes on where an earlier one ended."""
    log, out = member.path.with_suffix(".log"), member.path.with_suffix(".json")
    with log.open("w") as err, out.open("w") as answer:
        status = subprocess.run(
            [*member.command, str(member.path)], stdout=answer, stderr=err, env={**os.environ, **told}, check=False
        ).returncode
    if status == 0:
        return Ended(member, json.loads(out.read_text()))
    last = " / ".join(log.read_text().strip().splitlines()[-LINES:])
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return Ended(member, {}, f"{how}; its log {log} ends: {last}")


# ---------------------------------------------------------------------- what is told


def _told(folder: Path, arena: Arena, ended: Sequence[Ended], run_id: str) -> dict[str, Any]:
    lines = [f"| run | verdict | {'true return' if arena.env else 'gain over the log, in spreads'} |", "|---|---|---|"]
    for one in ended:
        lines.append(f"| {one.member.name} | {one.answer.get('verdict', 'failed')} | {_value(one, arena)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    failed = {one.member.name: one.failure for one in ended if one.failure is not None}
    answer = {
        "folder": str(folder),
        "run_id": run_id,
        "table": text,
        "members": {one.member.name: one.answer for one in ended if one.failure is None},
        "failed": failed,
    }
    if failed:
        reasons = "".join(f"\n  {name} {why}" for name, why in failed.items())
        answer["error"] = f"{len(failed)} of {len(ended)} runs failed; the same command goes on with them:{reasons}"
    return answer


def _value(one: Ended, arena: Arena) -> str:
    if one.failure is not None:
        return ""
    row = one.answer["candidates"][one.answer["chosen"]]
    found = row["true_return"] if arena.env else row["gain_in_spreads"]
    if not found:
        return "-"
    value = Estimate(**found)
    return shown(value) if arena.env else small(value)
