"""The loop of a policy's training: rows in, updates, rollouts every now and then, checkpoints, and where time went."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor
from tqdm import tqdm

from mbrl.core import Learner
from mbrl.training.averaging import Average
from mbrl.training.buffer import Ring
from mbrl.training.checkpoint import Checkpoint, noted_interrupt
from mbrl.training.drawing import Logged
from mbrl.training.steps import Steps

Log = Callable[[dict[str, Tensor], int], None]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was heard; the checkpoint holds the state, and the same call goes on from it."""


class Pace(NamedTuple):
    """Where the time of one call of `fit_policy` went: a resumed run counts from its resumption."""

    updates: int
    imagined_rows: int
    seconds: float
    rollouts: float  # seconds of them, as the next
    logging: float  # metrics, the bar and checkpoints

    def __str__(self) -> str:
        rates = f"{self.updates / self.seconds:,.0f} updates/s"
        if self.imagined_rows:
            rates += f", {self.imagined_rows / self.rollouts:,.0f} imagined rows/s"
        rollouts, logging = self.rollouts / self.seconds, self.logging / self.seconds
        return (
            f"{rates}; rollouts {rollouts:.0%} of the time, updates {1 - rollouts - logging:.0%}, logging {logging:.1%}"
        )


def now(device: torch.device) -> float:
    """Seconds; of a GPU's when it has done what it was given, as calls return when it has heard of them."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@final
@dataclass
class Loop:
    """What a training is made of, as `fit_policy` puts it together."""

    learner: Learner
    logged: Logged
    ring: Ring
    steps: Steps
    rngs: dict[str, torch.Generator]
    mean: Average | None
    state: Checkpoint
    dreamt_rows: int  # of an update; with 0 nothing is imagined
    rollout_every: int
    rollout_starts: int
    checkpoint_every: int
    log: Log | None
    log_every: int
    label: str
    imagining: float = 0.0  # seconds
    logging: float = 0.0

    def run(self, first: int, updates: int) -> Pace:
        """Updates from the number `first` on, until there are so many.

        Raises:
            Interrupted, FloatingPointError: as `fit_policy` does.
        """
        started, before, done = time.perf_counter(), self.ring.written, first
        with noted_interrupt() as heard, _Bar(updates, first, self.label) as bar:
            for done in range(first + 1, updates + 1):
                metrics = self._step(done - 1)
                told = done % self.log_every == 0
                updated = now(self.ring.device) if told else time.perf_counter()
                if told:
                    bar.show(done)
                    _finite(metrics, done)
                    if self.log is not None:
                        self.log({name: value.clone() for name, value in metrics.items()}, done)
                stop = heard()  # read once: a signal between two readings would skip the checkpoint
                if done % self.checkpoint_every == 0 or done == updates or stop:
                    _finite(metrics, done)
                    self.state.save(done)
                self.logging += time.perf_counter() - updated
                if stop:
                    break
        if heard():  # also during the last update or while it was kept: nobody else has been told
            raise Interrupted(f"stopped after {done} of {updates} updates of {self.label}")
        seconds = time.perf_counter() - started
        return Pace(updates - first, self.ring.written - before, seconds, self.imagining, self.logging)

    def _step(self, update: int) -> dict[str, Tensor]:
        self.logged.reach(update)
        if self.dreamt_rows and update % self.rollout_every == 0:
            begun = now(self.ring.device)
            self.ring.add(self.steps.imagine(*self.logged.starts(self.rollout_starts, self.rngs["start"])))
            self.imagining += now(self.ring.device) - begun
        seen = self.logged.draw(self.rngs["rows"])
        dreamt = self.ring.sample(self.dreamt_rows, self.rngs["rows"]) if self.dreamt_rows else None
        metrics = self.steps.update(seen, dreamt)
        if self.mean is not None:
            self.mean.follow(self.learner.policy, update + 1)
        return metrics


def _finite(metrics: dict[str, Tensor], done: int) -> None:
    for name, value in metrics.items():
        if not bool(torch.isfinite(value)):
            raise FloatingPointError(
                f"{name} is {float(value)} at update {done}: the learning diverged. Lower the learning rates or raise"
                " the penalty; the checkpoint before it is kept"
            )


class _Bar:
    """A bar on a terminal, a line every half minute otherwise."""

    def __init__(self, updates: int, first: int, label: str) -> None:
        terminal = sys.stderr.isatty()
        self.bar = tqdm(total=updates, initial=first, desc=label, unit="update", disable=not terminal, leave=False)
        self.updates, self.label, self.quiet, self.told = updates, label, not terminal, time.monotonic()

    def show(self, done: int) -> None:
        self.bar.update(done - self.bar.n)
        if self.quiet and time.monotonic() - self.told > 30:
            print(f"{self.label}: {done:,} of {self.updates:,} updates", file=sys.stderr, flush=True)
            self.told = time.monotonic()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
