"""Several `mbrl run`s at once, each in a process of its own: on this machine, or elsewhere (`mbrl.cluster`)."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import torch
import yaml

from mbrl import files
from mbrl.data import minari
from mbrl.following import INTERRUPTED, Going
from mbrl.report.console import tell
from mbrl.runfolder import PATIENCE as LEAVING
from mbrl.runfolder import RUN as LOCK
from mbrl.runfolder import aside, differences
from mbrl.training.room import check_room

RUN = (sys.executable, "-m", "mbrl.following", "run", "--config")
HANDED_ON = ("MBRL_", "MLFLOW_", "MINARI_", "PYTHON")  # beginnings of the variables that a member's machine is told
RUN_BYTES = 2**30  # of memory that a run takes: `configs/auto.yaml` on 20,000 rows, at its most
LINES = 3  # of a failed member's log that are told


class Member(NamedTuple):
    """One run of several."""

    name: str
    path: Path  # its whole configuration; beside it are its folder and what it printed
    command: Sequence[str]  # what makes the run, but for this path

    @classmethod
    def of(cls, name: str, parent: Path) -> Member:
        """A member whose configuration is `parent`/`name`.yaml, and whose folder is beside it."""
        return cls(name, parent / f"{name}.yaml", RUN)

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.path.with_suffix("")

    @property
    def result(self) -> Path:
        """What the run leaves in its folder when it is done."""
        return self.folder / "result.json"


def write(members: Iterable[tuple[Member, Mapping[str, Any]]]) -> None:
    """Write the whole configurations of members; what was begun with another one is put aside, and begun anew.

    Raises:
        ValueError: one that was begun with another configuration is done, or in work.
    """
    whole = [(member, {**settings, "folder": str(member.folder)}) for member, settings in members]
    changed = {member: odd for member, settings in whole if (odd := _changed(member, settings))}
    for member, odd in changed.items():
        if member.result.exists():
            raise ValueError(
                f"{member.folder} holds a finished run with other settings: {odd}. Delete that folder to make the run"
                " anew, or give another --folder"
            )
    for member, odd in changed.items():
        if member.folder.exists():
            tell(member.name, f"begins anew, as its settings changed: {odd}. What there was is {aside(member.folder)}")
    for member, settings in whole:
        with files.replacing(member.path) as beside:
            beside.write_text(yaml.safe_dump(settings, sort_keys=False))


def _changed(member: Member, settings: Mapping[str, Any]) -> str:
    """How these settings differ from those that the member was written with; empty where they do not."""
    return differences(yaml.safe_load(member.path.read_text()), settings) if member.path.exists() else ""


class Ended(NamedTuple):
    """What became of a member."""

    member: Member
    answer: dict[str, Any]  # the result of the run; empty where it failed
    failure: str | None = None
    stopped: bool = False  # from outside, as by a signal: it says nothing of the run, which goes on from there


Run = Callable[[Sequence[Member], Mapping[str, str], int], Generator[Ended]]


class Engine(NamedTuple):
    """Who makes the runs."""

    run: Run
    workers: int  # how many at once
    threads: int  # of each
    here: bool  # on this machine, whose memory they share

    @classmethod
    def of(cls, engine: str, workers: int, threads: int, ray_address: str | None) -> Engine:
        """The engine that a command line asks for.

        Raises:
            ValueError: a number is below 1, there is an address and no Ray, or no Ray head answers there.
        """
        for setting, value in ("workers", workers), ("threads", threads):
            if value < 1:
                raise ValueError(f"{setting} is {value}, expected at least 1")
        if ray_address is not None and engine != "ray":
            raise ValueError(
                f"ray_address is {ray_address!r} and engine is {engine}: set engine to ray, or leave it out"
            )
        if engine == "processes":
            return cls(in_processes, workers, threads, True)
        from mbrl.cluster import on_ray  # which runs what stands here

        return cls(on_ray(ray_address, threads), workers, threads, ray_address is None)

    def __call__(self, members: Sequence[Member]) -> Generator[Ended]:
        """Run what has not been run; each is told as it ends.

        Raises:
            ValueError: as many at once do not fit into this machine's memory.
        """
        if self.here:
            left = sum(not member.result.exists() for member in members)
            check_room("workers", min(self.workers, left), RUN_BYTES, torch.device("cpu"), "a run")
        told = {key: value for key, value in os.environ.items() if key.startswith(HANDED_ON)}
        told |= {"MBRL_HOME": str(files.home()), "MINARI_DATASETS_PATH": str(minari.home())}
        return self.run(members, told | {"OMP_NUM_THREADS": str(self.threads)}, self.workers)


def in_processes(members: Sequence[Member], told: Mapping[str, str], workers: int) -> Generator[Ended]:
    """As many at once as there are workers, on this machine."""
    pool, going = ThreadPoolExecutor(workers), Going()
    try:
        tasks = [pool.submit(run_member, member, told, going) for member in members]
        for task in as_completed(tasks):
            yield task.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        going.stop()
        pool.shutdown()


def _wait_for(folder: Path, going: Going) -> None:
    """Until nobody works in a member's folder, for a while; what is wrong with it the run will say."""
    deadline = time.monotonic() + LEAVING
    while folder.is_dir() and not going.stopped and time.monotonic() < deadline:
        try:
            with filelock.FileLock(folder / LOCK, timeout=0.5):
                return
        except filelock.Timeout:
            continue
        except (OSError, NotImplementedError):
            return


def run_member(
    member: Member, told: Mapping[str, str], going: Going | None = None, folder: Path | None = None
) -> Ended:
    """One `mbrl run`, in a process of its own in this folder, which goes on where an earlier one ended.

    One that is just being stopped has a while to leave the member's folder.
    """
    log, going = member.path.with_suffix(".log"), going or Going()
    _wait_for(member.folder, going)
    if going.stopped:
        return Ended(member, {}, "was not begun", stopped=True)
    with log.open("w") as out:
        status = going.run([*member.command, str(member.path)], out, told, folder)
    if status == 0 and member.result.exists():
        return Ended(member, json.loads(member.result.read_text()))
    last = " / ".join(log.read_text(errors="replace").strip().splitlines()[-LINES:])
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return Ended(member, {}, f"{how}; its log {log} ends: {last}", stopped=status < 0 or status == INTERRUPTED)


def lost(ended: Sequence[Ended]) -> dict[str, str]:
    """The members that failed, and how."""
    return {one.member.name: one.failure for one in ended if one.failure is not None}


def complaint(failed: Mapping[str, str], of: int) -> str:
    """What a command says that could not make all of its runs."""
    reasons = "".join(f"\n  {name} {why}" for name, why in failed.items())
    return f"{len(failed)} of {of} runs failed; mend what they say, and the same command goes on with them:{reasons}"
