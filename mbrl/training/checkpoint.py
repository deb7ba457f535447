"""Everything that a learner's next update depends on, to and from one file; and a Ctrl-C that tears no update."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mbrl import files
from mbrl.core import Learner, Spec
from mbrl.training.averaging import Average
from mbrl.training.buffer import Ring

KEYS = {"settings", "spec", "state_dict", "optimizers", "ring", "rng", "updates", "config", "average"}


class Checkpoint:
    """A learner, its optimisers, the ring, the generators and the counter.

    Args:
        path: of the file; None keeps nothing.
        settings: plain values that decide how updates go on; a file with others is refused.
        learner, ring, rngs, average: what is saved and restored, in place; average is None where none is kept.
    """

    def __init__(
        self,
        path: Path | None,
        settings: dict[str, Any],
        learner: Learner,
        ring: Ring,
        rngs: dict[str, torch.Generator],
        average: Average | None,
    ) -> None:
        self.path, self.settings = path, settings
        self.learner, self.ring, self.rngs, self.average = learner, ring, rngs, average

    def save(self, updates: int) -> None:
        """Write the state after `updates` updates, atomically.

        Raises:
            FloatingPointError: a weight is NaN or infinite; an older file is untouched.
        """
        weights = [p.isfinite().all() for p in self.learner.parameters()]
        if weights and not bool(torch.stack(weights).all()):
            raise FloatingPointError(
                f"{type(self.learner).__name__} has weights that are not finite after update {updates}: the learning"
                " diverged. Lower its learning rates; an older checkpoint is kept"
            )
        if self.path is not None:
            content = {
                "config": self.learner.config,
                "settings": self.settings,
                "spec": self.learner.spec.to_dict(),
                "state_dict": self.learner.state_dict(),
                "optimizers": {name: o.state_dict() for name, o in self.learner.optimizers.items()},
                "ring": self.ring.state(),
                "rng": {name: rng.get_state() for name, rng in self.rngs.items()},
                "updates": updates,
                "average": None if self.average is None else self.average.module.state_dict(),
            }
            files.save(self.path, content)

    def restore(self, content: dict[str, Any] | None, most: int) -> int:
        """Go on from what `read` has read: the number of updates already done, at most `most`; 0 for None.

        Raises:
            ValueError: it was written under other settings, or after more updates.
        """
        if content is None:
            return 0
        self._check(content, most)
        self.learner.load_state_dict(content["state_dict"])
        for name, optimizer in self.learner.optimizers.items():
            optimizer.load_state_dict(content["optimizers"][name])
        if self.average is not None:
            self.average.module.load_state_dict(content["average"])
        self.ring.restore(content["ring"])
        for name, rng in self.rngs.items():
            rng.set_state(content["rng"][name])
        return int(content["updates"])

    def _check(self, content: dict[str, Any], most: int) -> None:
        then = {**content["settings"], "learner": content["config"], "spec": Spec.from_dict(content["spec"]).to_dict()}
        now = {**self.settings, "learner": self.learner.config, "spec": self.learner.spec.to_dict()}
        changed = [k for k in now if then.get(k) != now[k]]
        if changed:
            told = ", ".join("spec" if k == "spec" else f"{k} was {then.get(k)}, is {now[k]}" for k in changed)
            raise ValueError(
                f"{self.path} is of another training: {told}. Resume with the configuration that it was started with,"
                " or start a new one elsewhere"
            )
        if content["updates"] > most:
            raise ValueError(f"{self.path} has {content['updates']} updates behind it, more than the {most} asked for")


def read(path: Path | None) -> dict[str, Any] | None:
    """What a learner's checkpoint holds; None where there is no such file.

    Raises:
        CorruptFileError: the file is damaged, or is no checkpoint of a learner.
    """
    if path is None or not path.exists():
        return None
    content = files.load(path)
    if set(content) != KEYS:
        raise files.CorruptFileError(f"{path} is not a learner's checkpoint: it holds {sorted(content)}")
    return content


@contextmanager
def noted_interrupt() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C is only noted, so that no update is torn; the second one acts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals go to the main thread alone
        return
    heard = threading.Event()
    usual = signal.getsignal(signal.SIGINT)

    def note(*_: Any) -> None:
        heard.set()
        signal.signal(signal.SIGINT, usual)
        print("stopping after this update; once more to stop at once", file=sys.stderr)

    signal.signal(signal.SIGINT, note)
    try:
        yield heard.is_set
    finally:
        signal.signal(signal.SIGINT, usual)
