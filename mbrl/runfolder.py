"""The folder of one run: what it must remember so that a later process can continue it, or tell its result again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, final

import filelock
import yaml

from mbrl import files

RUN, STAGE = "run.lock", ".stage.lock"
PATIENCE = 60.0  # seconds; twice what a process gets to write its checkpoint when its run is gone
ANYHOW = ("workers", "fit.shared")  # settings that say how a run is made, and may change while it is


@final
class RunFolder:
    """Notes beside the checkpoints of a run: `config.yaml`, `run.json` (facts as they come in), `result.json`."""

    def __init__(self, path: Path, fingerprint: str, stage: str | None = None) -> None:
        """Use `RunFolder.open`, or `RunFolder.beside`."""
        self.path = path
        self._notes = f"{stage or 'run'}.json"
        self.settings: dict[str, Any] = {}
        self.facts = _read(path / "run.json", "fingerprint") or {"fingerprint": fingerprint}
        self.result = _read(path / "result.json")
        if (begun := self.facts["fingerprint"]) != fingerprint:
            raise ValueError(
                f"{path} was begun on a log with fingerprint {begun[:12]}, and the log now has {fingerprint[:12]}:"
                " restore that log, or start a new run without --folder"
            )

    @classmethod
    @contextmanager
    def open(cls, path: Path, fingerprint: str) -> Iterator[RunFolder]:
        """Take the folder for this process alone; it is made if it does not exist.

        Processes that made stages of it for one that is gone have `PATIENCE` seconds to end.

        Raises:
            ValueError: another process works in it, its run was on a log with another fingerprint, or a note in it
                cannot be read.
            OSError: it cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise type(error)(
                f"{path} cannot be made ({error.strerror}): set MBRL_HOME, or --folder, to where you may write"
            ) from error
        busy = f"{path} belongs to a run that another process is working on: wait, or end it"
        with _taken(path / RUN, 0, busy):
            for other in sorted(path.glob(f"*{STAGE}")):
                with _taken(other, PATIENCE, busy):
                    pass
            files.sweep(path)
            yield cls(path, fingerprint)

    @classmethod
    @contextmanager
    def beside(cls, path: Path, fingerprint: str, stage: str) -> Iterator[RunFolder]:
        """Take one stage of the folder, beside the process that has opened it.

        What is remembered here is for that process, which has to `join` it.

        Raises:
            ValueError: another process makes the stage, or as in `open`.
        """
        with _taken(path / f"{stage}{STAGE}", 0, f"another process makes {stage} in {path}: wait, or end it"):
            yield cls(path, fingerprint, stage)

    @property
    def again(self) -> str:
        """The command that goes on with the run, as it is typed."""
        return f"mbrl run --config {shlex.quote(str(self.path / 'config.yaml'))}"

    def settle(self, settings: dict[str, Any]) -> None:
        """Keep the whole configuration as `config.yaml`; a run that was begun goes on with the one that it has.

        Raises:
            ValueError: the folder has another configuration; the message names every difference.
        """
        path, self.settings = self.path / "config.yaml", settings
        if not path.exists():
            self.write(path.name, yaml.safe_dump(settings, sort_keys=False))
        elif odd := differences(yaml.safe_load(path.read_text()), settings):
            raise ValueError(
                f"{self.path} holds a run with other settings: {odd}. Continue it with `{self.again}`, or start a new"
                " run without --folder"
            )

    def remember(self, **facts: Any) -> None:
        """Add facts to `run.json`."""
        self.facts |= facts
        self.write(self._notes, json.dumps(self.facts, indent=2))

    def join(self, stage: str) -> None:
        """Remember what a process beside this one has found out while it made the stage."""
        notes = self.path / f"{stage}.json"
        if (facts := _read(notes)) is not None:
            self.remember(**facts | self.facts)
            notes.unlink()

    def finish(self, result: Mapping[str, Any]) -> None:
        """Keep the result: from now on the run is told, not repeated."""
        self.write("result.json", json.dumps(result, indent=2))

    def write(self, name: str, text: str) -> None:
        """Write a text file of the folder, whole or not at all."""
        with files.replacing(self.path / name) as beside:
            beside.write_text(text)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In what a run's configurations differ, but for what may change while it is made; empty where they do not."""
    return "; ".join(sorted(_differences(lasting(old), lasting(new))))


def lasting(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings without those that may change while a run is made."""
    kept = {key: value for key, value in settings.items() if f"{prefix}{key}" not in ANYHOW}
    return {k: lasting(value, f"{prefix}{k}.") if isinstance(value, Mapping) else value for k, value in kept.items()}


def aside(path: Path) -> Path:
    """Make room for a run that begins anew: the folder gets a name of its own, which is returned.

    Raises:
        ValueError: another process works in it.
    """
    place = next(free for k in count(1) if not (free := path.with_name(f"{path.name}.old-{k}")).exists())
    with _taken(path / RUN, 0, f"{path} belongs to a run that another process is working on: wait, or end it"):
        return path.rename(place)


@contextmanager
def _taken(path: Path, patience: float, busy: str) -> Iterator[None]:
    """Hold a lock, or raise ValueError with what to say where another process has it for longer."""
    lock = filelock.FileLock(path, timeout=patience)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ValueError(busy) from error
    try:
        yield
    finally:
        lock.release()


def _read(path: Path, *keys: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): start a new run without --folder") from error
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise ValueError(f"{path} is damaged (not an object with {list(keys)}): start a new run without --folder")
    return content


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in old.keys() | new.keys():
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from _differences(was, now, f"{prefix}{key}.")
        elif was != now:
            yield f"{prefix}{key} was {was}, is {now}"
