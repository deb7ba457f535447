"""One Fabric loop for every learner, with checkpoints from which a killed run resumes bit by bit."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from mbrl import files
from mbrl.core import Batch, Learner, generator
from mbrl.simulator.rollout import imagine
from mbrl.simulator.simulator import Simulator
from mbrl.training.buffer import Ring

STREAMS = ("rows", "start", "imagination", "update")  # each with a generator of its own


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was heard; the checkpoint holds the state, and the same call goes on from it."""


class PolicyReport(NamedTuple):
    updates: int
    imagined_rows: int
    seconds: float  # of this call: a resumed run counts from its resumption
    rollout_seconds: float  # the part of it spent in imagination


def fit_policy(
    learner: Learner,
    real: Batch,
    simulator: Simulator | None = None,
    *,
    seed: int = 0,
    updates: int = 100_000,
    batch_size: int = 256,
    real_ratio: float = 0.5,
    horizon: int = 5,
    penalty: float = 1.0,
    rollout_every: int = 250,
    rollout_starts: int = 2_500,
    keep_rollouts: int = 20,
    checkpoint: Path | None = None,
    checkpoint_every: int = 10_000,
    accelerator: str = "cpu",
    precision: str = "32-true",
    log: Callable[[dict[str, Tensor], int], None] | None = None,
    log_every: int = 250,
    label: str = "policy",
) -> PolicyReport:
    """Improve `learner` in place on logged rows and on rows imagined by its own policy in `simulator`.

    Args:
        learner: built; its weights move to the accelerator's device.
        real: logged transitions [N, ...], training split only.
        simulator: None where the learner imagines nothing.
        seed: of row choice, start states, imagination and the learner's own noise, a stream each.
        updates: in all, those before a resumption included.
        batch_size: rows an update, logged and imagined together.
        real_ratio: the logged share of them; 1 means no imagination.
        horizon, penalty: of `imagine`.
        rollout_every: updates between two batches of imagined rollouts.
        rollout_starts: logged states that each of these begins with.
        keep_rollouts: how many of these batches the ring holds.
        checkpoint: a file, written every `checkpoint_every` updates, at Ctrl-C and at the end; if it exists, the run
            goes on from it.
        accelerator, precision: of Fabric. One device.
        log: called with the learner's metrics (tensors) and the update's number.
        log_every: updates between two such calls.
        label: of the progress bar.

    Raises:
        Interrupted: after Ctrl-C, with the checkpoint written.
        ValueError: an argument out of range, or a learner that imagines without a simulator.
        FloatingPointError: a metric became NaN or infinite; the last checkpoint is from before.
    """
    imagines = learner.imagines and real_ratio < 1
    _check(learner, simulator if imagines else None, imagines, updates, batch_size, real_ratio, rollout_every)
    fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
    device = fabric.device
    learner.to(device)
    real = Batch(*(column.to(device) for column in real))
    real_rows = batch_size if not imagines else round(batch_size * real_ratio)
    ring = Ring(learner.spec, max(rollout_starts * horizon * keep_rollouts, 1) if imagines else 1, device)
    if imagines and simulator is not None:
        simulator.to(device)
    rngs = {name: generator(seed, f"{label}/{name}", device) for name in STREAMS}
    state = _State(learner, ring, rngs, checkpoint)
    first = state.restore()
    started, imagining, rows = time.perf_counter(), 0.0, 0
    metrics: dict[str, Tensor] = {}
    with _graceful() as stopping, _Bar(updates, first, label) as bar:
        for update in range(first, updates):
            if imagines and update % rollout_every == 0:
                assert simulator is not None
                begun = time.perf_counter()
                index = torch.randint(len(real.reward), (rollout_starts,), generator=rngs["start"], device=device)
                batch = imagine(learner.policy, simulator, real.obs[index], horizon, penalty, rngs["imagination"])
                ring.add(batch)
                rows += batch.reward.numel()
                imagining += time.perf_counter() - begun
            chosen = _rows(real, real_rows, rngs["rows"])
            dreamt = ring.sample(batch_size - real_rows, rngs["rows"]) if imagines else None
            with fabric.autocast():
                metrics = learner.update(chosen, dreamt, rngs["update"])
            done = update + 1
            if done % log_every == 0:
                bar.show(done)
                if log is not None:
                    log(metrics, done)
            if done % checkpoint_every == 0 or done == updates or stopping():
                _finite(metrics, done)
                state.save(done)
            if stopping():
                raise Interrupted(f"stopped after {done} of {updates} updates of {label}")
    return PolicyReport(updates, rows, time.perf_counter() - started, imagining)


def _check(
    learner: Learner,
    simulator: Simulator | None,
    imagines: bool,
    updates: int,
    batch_size: int,
    real_ratio: float,
    rollout_every: int,
) -> None:
    for name, value in (("updates", updates), ("batch_size", batch_size), ("rollout_every", rollout_every)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if not 0 <= real_ratio <= 1:
        raise ValueError(f"real_ratio is {real_ratio}, expected a share between 0 and 1")
    if imagines and simulator is None:
        raise ValueError(f"{type(learner).__name__} learns from imagined rows: give a simulator, or real_ratio 1")


def _rows(real: Batch, count: int, rng: torch.Generator) -> Batch:
    index = torch.randint(len(real.reward), (count,), generator=rng, device=real.reward.device)
    return Batch(*(column[index] for column in real))


def _finite(metrics: dict[str, Tensor], done: int) -> None:
    for name, value in metrics.items():
        if not bool(torch.isfinite(value)):
            raise FloatingPointError(
                f"{name} is {float(value)} at update {done}: the learning diverged. Lower the learning rates or raise"
                " the penalty; the checkpoint before it is kept"
            )


class _State:
    """Everything that the next update depends on, to and from one file."""

    def __init__(self, learner: Learner, ring: Ring, rngs: dict[str, torch.Generator], path: Path | None) -> None:
        self.learner, self.ring, self.rngs, self.path = learner, ring, rngs, path

    def save(self, done: int) -> None:
        if self.path is None:
            return
        content: dict[str, Any] = {
            "config": self.learner.config,
            "spec": self.learner.spec.to_dict(),
            "state_dict": self.learner.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.learner.optimizers.items()},
            "ring": self.ring.state(),
            "rng": {name: rng.get_state() for name, rng in self.rngs.items()},
            "updates": done,
        }
        files.save(self.path, content)

    def restore(self) -> int:
        """The number of updates already done: 0 without a checkpoint."""
        if self.path is None or not self.path.exists():
            return 0
        content = files.load(self.path, next(iter(self.rngs.values())).device)
        if content["config"] != self.learner.config:
            raise ValueError(
                f"{self.path} was written by {content['config']}, and this run has {self.learner.config}:"
                " resume with the configuration that it was started with"
            )
        self.learner.load_state_dict(content["state_dict"])
        for name, optimizer in self.learner.optimizers.items():
            optimizer.load_state_dict(content["optimizers"][name])
        self.ring.restore(content["ring"])
        for name, rng in self.rngs.items():
            rng.set_state(content["rng"][name].cpu())
        return int(content["updates"])


@contextmanager
def _graceful() -> Iterator[Callable[[], bool]]:
    """While inside, the first Ctrl-C is only noted, so that no update is torn; the second one acts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
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
