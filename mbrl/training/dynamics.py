"""Fit a dynamics model: a LightningModule shell under a Trainer, with early stopping and best weights per member."""

from __future__ import annotations

import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from tqdm import tqdm

from mbrl.core import Batch, Dynamics
from mbrl.data.source import Source
from mbrl.precision import settled
from mbrl.training.bootstrap import BootstrapBatches, held_runs
from mbrl.training.room import ASKED, check_room, row_taken
from mbrl.training.shell import Log, Settings, Shell
from mbrl.training.trainer import StderrBar, VerifiedIO, in_processes, interruptible, quiet, relayed, started_by

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "auto")  # those that leave weights and buffers in float32
CHECKPOINT = "dynamics.ckpt"


class FitReport(NamedTuple):
    """What a fit did."""

    epochs: int
    updates: int
    scores: list[float]  # [E] best hold-out error of each member: see `Lookahead.score`
    elites: list[int]  # [K] best member first
    seconds: float  # of this process; a resumed fit does not know how long the part before it took


def fit_dynamics(
    dynamics: Dynamics,
    train: Source,
    holdout: Batch,
    holdout_episode: Tensor | None = None,
    *,
    seed: int,
    batch_size: int = 256,
    lr: float = 1e-3,
    max_epochs: int = 100,
    epoch_updates: int = 1,
    patience: int = 5,
    min_improvement: float = 0.01,
    multistep: int = 1,
    multistep_weight: float = 1.0,
    folder: Path | None = None,
    accelerator: str = "cpu",
    devices: int = 1,
    precision: str = "32-true",
    strategy: str = "auto",
    progress: str | None = None,
    log: Log | None = None,
) -> FitReport:
    """Train every member on its own bootstrap of the training episodes, in place; keep each member's best weights.

    After every epoch each member is scored on the held-out rows, `multistep` steps ahead, with its weights averaged
    over about this epoch. A member whose score has not improved by `min_improvement` for `patience` epochs is done:
    its best weights are final, whatever the others do (of several that are as good but for `min_improvement`, the
    last: variances are learned after means). When all are done, every member gets its own best weights back, and
    the best of them become `dynamics.elites`, as many as before.

    With `multistep` h above 1 the loss adds the error of following the model's own mean for up to h steps along the
    logged actions (`Lookahead.loss`), for any model, through its `predict`. An update then costs two
    to three times as much as without.

    A model that remembers (`Dynamics.memory` above 0) learns from runs of rows (`remembered_loss`), as many rows an
    update as any other, and is scored with the states that it has made of the held-out episodes from their beginning.

    Every trainable parameter of the model must have the member axis first, [E, ...].

    Args:
        dynamics: trained in place, with Adam.
        train: the training rows, N of them; one of several groups is learned from group after group, an epoch each.
        holdout: [M, ...], rows of other episodes.
        holdout_episode: [M] long, the episode of each of these rows, which are in time order; needed if `multistep` is
            above 1 or the model remembers.
        seed: of the bootstraps and the batches; the initial weights are the model's own affair.
        batch_size: rows per member and update (and device).
        lr: learning rate.
        max_epochs: an epoch is ceil(N / groups / batch_size) updates, or the least multiple that is not below
            `epoch_updates`.
        epoch_updates: updates of an epoch, at least: on a small log it passes over the rows several times, so that
            patience does not end what has hardly begun.
        patience: epochs without improvement after which a member is done.
        min_improvement: what counts as one, relative to the score at the last one.
        multistep: h, or the rows of the longest training episode if these are fewer; 1 looks one step ahead only, as
            a model that remembers does.
        multistep_weight: of the multi-step loss beside the model's own.
        folder: where a checkpoint is kept after every epoch, and resumed from if one is there; None keeps none.
        accelerator: as in lightning's Trainer, like the next three.
        devices: how many; several divide every epoch's rows among them.
        precision: one that leaves the weights in float32; `auto` is bf16-mixed where its matmuls are in hardware.
        strategy: how several devices work together; `auto` and `ddp` are one process a device, with a batch each.
        progress: show a bar on a terminal, and a line per epoch, on stderr, under this name; None shows nothing.
        log: called with the metrics of every epoch and its number.

    Raises:
        ValueError: a setting or a shape is not as above, or the checkpoint in `folder` is of another fit.
        FloatingPointError: a member never had a finite hold-out score.
        CorruptFileError: the checkpoint in `folder` is truncated or altered.
        KeyboardInterrupt: Ctrl-C; the same call goes on from the last finished epoch in `folder`.
    """
    settings = Settings(seed, batch_size, lr, epoch_updates, patience, min_improvement, multistep, multistep_weight)
    _check_settings(settings, max_epochs, precision)
    check_memory(dynamics, multistep)
    held = _held(holdout, holdout_episode, multistep, dynamics)
    _check(dynamics, train, held)
    horizon = min(multistep, train.longest)
    begun, device = time.monotonic(), next(dynamics.parameters()).device
    runs, settings = held_runs(holdout, held, horizon), settings._replace(multistep=horizon)
    shell = Shell(dynamics.train(), train, runs, held.sort(stable=True).values, settings)
    if batch_size > ASKED:
        _check_batch(shell, batch_size, accelerator, devices)
    strategy, method = started_by(strategy, accelerator, devices)
    last = folder / CHECKPOINT if folder is not None else None
    callbacks: list[Callback] = [StderrBar()] if progress and sys.stderr.isatty() else []
    if last is not None:
        callbacks.append(ModelCheckpoint(last.parent, last.stem, enable_version_counter=False))
    telling = relayed(partial(_tell, progress, log), method)
    gpus = range(torch.cuda.device_count())
    with quiet(), interruptible(), in_processes(devices), torch.random.fork_rng(devices=gpus), telling as shell.report:
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            precision=settled(precision, accelerator),
            strategy=strategy,
            max_epochs=max_epochs,
            callbacks=callbacks,
            plugins=[VerifiedIO()],
            logger=False,
            enable_checkpointing=last is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(shell, ckpt_path=last if last is not None and last.exists() else None)
    _give_back(dynamics, shell, lr)
    dynamics.to(device).eval()
    counts, seconds = (int(shell.epochs), int(shell.updates)), time.monotonic() - begun
    return FitReport(*counts, shell.score.tolist(), dynamics.elites.tolist(), seconds)


def _tell(progress: str | None, log: Log | None, metrics: dict[str, float], epoch: int) -> None:
    if log is not None:
        log(metrics, epoch)
    if progress:
        told = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        tqdm.write(f"{progress}: epoch {epoch}: {told}", file=sys.stderr)


@torch.no_grad()
def _give_back(dynamics: Dynamics, shell: Shell, lr: float) -> None:
    """Every member's best weights to the member, and the best members to the elites."""
    lost = (~shell.score.isfinite()).nonzero().flatten().tolist()
    if lost:
        raise FloatingPointError(f"members {lost} never had a finite hold-out error: lower lr (now {lr})")
    for parameter, best in zip(dynamics.parameters(), shell.best.parameters(), strict=True):
        parameter.copy_(best)
    dynamics.elites.copy_(shell.score.argsort()[: len(dynamics.elites)])


def _check_settings(settings: Settings, max_epochs: int, precision: str) -> None:
    for name in ("batch_size", "epoch_updates", "patience", "multistep"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} is {getattr(settings, name)}, expected at least 1")
    if max_epochs < 1:
        raise ValueError(f"max_epochs is {max_epochs}, expected at least 1")
    if not 0 < settings.multistep_weight < math.inf:
        raise ValueError(f"multistep_weight is {settings.multistep_weight}, expected a number above 0")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")


def _check_batch(shell: Shell, rows: int, accelerator: str, devices: int) -> None:
    """Refuse a batch that does not fit, by losses of small ones; all processes of a CPU hold theirs in its memory."""
    dynamics, settings, source = shell.dynamics, shell.settings, shell.source
    remembered = min(dynamics.memory, source.longest)

    def loss(count: int) -> Tensor:
        dealt = BootstrapBatches(source, dynamics.members, 0, count, horizon=settings.multistep, memory=remembered)
        return shell.loss(next(iter(dealt)))

    gpu = accelerator in ("cuda", "gpu") or (accelerator == "auto" and torch.cuda.is_available())
    each = row_taken(loss, max(settings.multistep, remembered)) * (1 if gpu else devices)
    check_room("batch_size", rows, each, torch.device("cuda" if gpu else "cpu"))


def check_memory(dynamics: Dynamics, multistep: int, setting: str = "multistep") -> None:
    """Refuse to fit a model that remembers several steps ahead.

    Raises:
        ValueError: so it would be; the message names the setting.
    """
    if dynamics.memory and multistep > 1:
        raise ValueError(
            f"{setting} is {multistep}, and {type(dynamics).__name__} remembers: it is fitted one step ahead. Set"
            f" {setting} to 1, or choose a model without memory (data.history shows it older rows)"
        )


def _held(holdout: Batch, episode: Tensor | None, multistep: int, dynamics: Dynamics) -> Tensor:
    """The episode of each held-out row, [M]; one step ahead every row may count as an episode of its own."""
    rows = len(holdout.obs)
    if episode is None:
        if multistep > 1 or dynamics.memory:
            why = f"{type(dynamics).__name__} remembers" if dynamics.memory else f"multistep is {multistep}"
            raise ValueError(f"{why} and holdout_episode is not given: say which rows belong together")
        return torch.arange(rows)
    if episode.shape != (rows,):
        raise ValueError(f"holdout_episode has shape {list(episode.shape)}, expected [{rows}], one a held-out row")
    return episode.cpu()


def _check(dynamics: Dynamics, train: Source, held: Tensor) -> None:
    if train.rows == 0 or len(held) == 0:
        raise ValueError(f"{train.rows} training and {len(held)} held-out rows: both need at least one episode")
    if not any(parameter.requires_grad for parameter in dynamics.parameters()):
        raise ValueError(
            f"{type(dynamics).__name__} has no parameter to train, and a fit is gradient descent: give it one"
        )
    for name, parameter in dynamics.named_parameters():
        if parameter.dim() == 0 or parameter.shape[0] != dynamics.members:
            shape = list(parameter.shape)
            raise ValueError(
                f"parameter {name} of {type(dynamics).__name__} has shape {shape}, expected [{dynamics.members}, ...]:"
                " the member axis first, so that each member can be given its own best weights back"
            )
