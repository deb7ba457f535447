"""Fit a dynamics model: a LightningModule shell under a Trainer, with early stopping and best weights per member."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from tqdm import tqdm

from mbrl.core import Batch, Dynamics, generator
from mbrl.training.bootstrap import BootstrapBatches
from mbrl.training.trainer import StderrBar, VerifiedIO, interruptible, quiet

SCORE_ROWS = 8192  # predicted at once, which bounds the memory of a hold-out score
SCORE_FLOOR = 1e-8  # of a channel: what float32 can tell apart from exact
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # those that leave weights and buffers in float32
CHECKPOINT = "dynamics.ckpt"

Log = Callable[[dict[str, float], int], None]


class FitReport(NamedTuple):
    """What a fit did."""

    epochs: int
    updates: int
    scores: list[float]  # [E] best hold-out error of each member: see `holdout_score`
    elites: list[int]  # [K] best member first
    seconds: float  # of this process; a resumed fit does not know how long the part before it took


@torch.no_grad()
def holdout_score(dynamics: Dynamics, holdout: Batch) -> Tensor:
    """Error of each member's predicted mean next observation and reward, [E]: how well its typical channel is known.

    The geometric mean, over channels, of the mean squared error in units of the log's spread (`Prediction.scale`):
    neither a channel of large scale nor one that nobody can predict (noise, a set-point that jumps) decides, and an
    improvement by 1 % is one by 1 % of the average channel. Channels that no model predicts do not count.
    """
    device = holdout.obs.device
    targets = torch.tensor(dynamics.spec.targets, device=device)
    total = torch.zeros(dynamics.members, dynamics.spec.obs_dim + 1, device=device)
    for chunk in zip(*(t.split(SCORE_ROWS) for t in holdout), strict=True):
        rows = Batch(*chunk)
        prediction = dynamics.predict(rows.obs, rows.action)
        mean, _ = prediction.normalised()
        truth = torch.cat([rows.next_obs, rows.reward.unsqueeze(-1)], -1) / prediction.scale
        total += (mean - truth).square().sum(-2)
    return (total / len(holdout.obs)).index_select(-1, targets).clamp_min(SCORE_FLOOR).log().mean(-1).exp()


class _Settings(NamedTuple):
    seed: int
    batch_size: int
    lr: float
    patience: int
    min_improvement: float


class _Shell(pl.LightningModule):
    """Optimiser, hold-out score and bookkeeping around a model; no arithmetic of the model's own.

    Everything that decides how a fit goes on is a buffer, so that a checkpoint of the state dict is a whole one.
    """

    epochs: Tensor  # [] long: finished ones
    updates: Tensor  # [] long: in these
    score: Tensor  # [E] best so far
    reference: Tensor  # [E] the score from which the next improvement counts
    stale: Tensor  # [E] long: epochs since the last improvement that counted

    def __init__(self, dynamics: Dynamics, train: Batch, episode: Tensor, holdout: Batch, settings: _Settings) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.best = copy.deepcopy(dynamics).requires_grad_(False)
        self.rows, self.episode, self.holdout, self.settings = train, episode, holdout, settings
        self.report: Log | None = None
        members = dynamics.members
        self.register_buffer("epochs", torch.zeros((), dtype=torch.long))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.register_buffer("score", torch.full((members,), math.inf))
        self.register_buffer("reference", torch.full((members,), math.inf))
        self.register_buffer("stale", torch.zeros(members, dtype=torch.long))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.dynamics.parameter_groups(), lr=self.settings.lr, fused=True)

    def train_dataloader(self) -> BootstrapBatches:
        rows = Batch(*(column.to(self.device) for column in self.rows))
        self.holdout = Batch(*(column.to(self.device) for column in self.holdout))
        seed, size = self.settings.seed, self.settings.batch_size
        rank, world = self.trainer.global_rank, self.trainer.world_size
        self.batches = BootstrapBatches(rows, self.episode, self.dynamics.members, seed, size, rank, world)
        self.batches.epoch = int(self.epochs)
        return self.batches

    def on_train_start(self) -> None:
        self._stop_if_all_done()

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(generator(self.settings.seed, f"model/{int(self.epochs)}").initial_seed())  # dropout and such
        self.loss_sum = torch.zeros((), device=self.device)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # gathered there

    def training_step(self, batch: Batch) -> Tensor:
        loss = self.dynamics.loss(batch).sum()
        self.loss_sum += loss.detach()
        return loss

    def on_train_epoch_end(self) -> None:
        self.dynamics.eval()
        score = holdout_score(self.dynamics, self.holdout)
        self.dynamics.train()
        self._keep_best(score)
        self.epochs += 1
        self.updates += len(self.batches)
        self.batches.epoch = int(self.epochs)
        self._stop_if_all_done()
        if self.report is not None and self.trainer.is_global_zero:
            self.report(self._metrics(score), int(self.epochs))

    @torch.no_grad()
    def _keep_best(self, score: Tensor) -> None:
        training = self.stale < self.settings.patience
        better = training & (score < self.score)  # never true of NaN
        for kept, now in zip(self.best.parameters(), self.dynamics.parameters(), strict=True):
            kept[better] = now[better]
        self.score = torch.where(better, score, self.score)
        counts = training & (score < (1 - self.settings.min_improvement) * self.reference)
        self.reference = torch.where(counts, score, self.reference)
        self.stale = torch.where(counts, 0, self.stale + 1)

    def _stop_if_all_done(self) -> None:
        self.trainer.should_stop = bool((self.stale >= self.settings.patience).all())

    def _metrics(self, score: Tensor) -> dict[str, float]:
        return {
            "loss": float(self.loss_sum) / len(self.batches) / self.dynamics.members,
            "holdout_error": float(score.mean()),
            "best_holdout_error": float(self.score.mean()),
            "members_in_training": float((self.stale < self.settings.patience).sum()),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["fit"] = self._identity()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored, ours = checkpoint["fit"], self._identity()
        if stored != ours:
            odd = ", ".join(f"{k} was {stored.get(k)}, is {v}" for k, v in ours.items() if stored.get(k) != v)
            raise ValueError(f"the checkpoint is of another fit: {odd}. Give another folder, or the same settings")

    def _identity(self) -> dict[str, Any]:
        settings, rows = self.settings._asdict(), {"rows": len(self.rows.obs), "heldout_rows": len(self.holdout.obs)}
        return settings | rows | {"model": self.dynamics.config}


def fit_dynamics(
    dynamics: Dynamics,
    train: Batch,
    train_episode: Tensor,
    holdout: Batch,
    *,
    seed: int,
    batch_size: int = 256,
    lr: float = 1e-3,
    max_epochs: int = 100,
    patience: int = 5,
    min_improvement: float = 0.01,
    folder: Path | None = None,
    accelerator: str = "cpu",
    devices: int = 1,
    precision: str = "32-true",
    strategy: str = "auto",
    progress: bool = False,
    log: Log | None = None,
) -> FitReport:
    """Train every member on its own bootstrap of the training episodes, in place; keep each member's best weights.

    After every epoch each member is scored on the held-out rows. A member whose score has not improved by
    `min_improvement` for `patience` epochs is done: its best weights are final, whatever the others do. When all are
    done, every member gets its own best weights back, and the best of them become `dynamics.elites`, as many as before.

    Every trainable parameter of the model must have the member axis first, [E, ...].

    Args:
        dynamics: trained in place, with Adam.
        train: [N, ...].
        train_episode: [N] long, the episode of each training row.
        holdout: [M, ...], rows of other episodes.
        seed: of the bootstraps and the batches; the initial weights are the model's own affair.
        batch_size: rows per member and update (and device).
        lr: learning rate.
        max_epochs: an epoch is ceil(N / batch_size) updates.
        patience: epochs without improvement after which a member is done.
        min_improvement: what counts as one, relative to the score at the last one.
        folder: where a checkpoint is kept after every epoch, and resumed from if one is there; None keeps none.
        accelerator: as in lightning's Trainer, like the next three.
        devices: how many; several divide every epoch's rows among them.
        precision: one that leaves the weights in float32.
        strategy: how several devices work together.
        progress: a bar on a terminal, and a line per epoch, on stderr.
        log: called with the metrics of every epoch and its number.

    Raises:
        ValueError: a setting or a shape is not as above, or the checkpoint in `folder` is of another fit.
        FloatingPointError: a member never had a finite hold-out score.
        CorruptFileError: the checkpoint in `folder` is truncated or altered.
        KeyboardInterrupt: Ctrl-C; the same call goes on from the last finished epoch in `folder`.
    """
    _check(dynamics, train, train_episode, holdout, precision)
    for name, value in ("batch_size", batch_size), ("max_epochs", max_epochs), ("patience", patience):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    begun, device = time.monotonic(), next(dynamics.parameters()).device
    settings = _Settings(seed, batch_size, lr, patience, min_improvement)
    shell = _Shell(dynamics.train(), train, train_episode, holdout, settings)
    shell.report = partial(_tell, progress, log)
    last = folder / CHECKPOINT if folder is not None else None
    callbacks: list[Callback] = [StderrBar()] if progress and sys.stderr.isatty() else []
    if last is not None:
        callbacks.append(ModelCheckpoint(last.parent, last.stem, enable_version_counter=False))
    with quiet(), interruptible(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            precision=precision,
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


def _tell(progress: bool, log: Log | None, metrics: dict[str, float], epoch: int) -> None:
    if log is not None:
        log(metrics, epoch)
    if progress:
        told = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        tqdm.write(f"dynamics: epoch {epoch}: {told}", file=sys.stderr)


@torch.no_grad()
def _give_back(dynamics: Dynamics, shell: _Shell, lr: float) -> None:
    """Every member's best weights to the member, and the best members to the elites."""
    lost = (~shell.score.isfinite()).nonzero().flatten().tolist()
    if lost:
        raise FloatingPointError(f"members {lost} never had a finite hold-out error: lower lr (now {lr})")
    for parameter, best in zip(dynamics.parameters(), shell.best.parameters(), strict=True):
        parameter.copy_(best)
    dynamics.elites.copy_(shell.score.argsort()[: len(dynamics.elites)])


def _check(dynamics: Dynamics, train: Batch, episode: Tensor, holdout: Batch, precision: str) -> None:
    if len(train.obs) == 0 or len(holdout.obs) == 0:
        raise ValueError(
            f"{len(train.obs)} training and {len(holdout.obs)} held-out rows: both need at least one episode"
        )
    if episode.shape != (len(train.obs),):
        raise ValueError(
            f"train_episode has shape {list(episode.shape)}, expected [{len(train.obs)}], one a training row"
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    for name, parameter in dynamics.named_parameters():
        if parameter.dim() == 0 or parameter.shape[0] != dynamics.members:
            shape = list(parameter.shape)
            raise ValueError(
                f"parameter {name} of {type(dynamics).__name__} has shape {shape}, expected [{dynamics.members}, ...]:"
                " the member axis first, so that each member can be given its own best weights back"
            )
