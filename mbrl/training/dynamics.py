"""Fit a dynamics model: a LightningModule shell under a Trainer, with early stopping and best weights per member."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor
from tqdm import tqdm

from mbrl import files
from mbrl.core import Batch, Dynamics, generator

SCORE_ROWS = 8192  # predicted at once, which bounds the memory of a hold-out score
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # those that leave weights and buffers in float32
CHECKPOINT = "dynamics.ckpt"

Log = Callable[[dict[str, float], int], None]


class FitReport(NamedTuple):
    """What a fit did."""

    epochs: int
    updates: int
    scores: list[float]  # [E] best hold-out error of each member: mean squared error in units of the log's spread
    elites: list[int]  # [K] best member first
    seconds: float  # of this process; a resumed fit does not know how long the part before it took


def bootstrap_rows(episode: Tensor, rng: torch.Generator) -> Tensor:
    """The rows [N'] of as many episodes as there are, drawn with replacement; `episode` [N] numbers each row's."""
    _, index, counts = episode.unique(return_inverse=True, return_counts=True)
    order = index.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    drawn = torch.randint(len(counts), (len(counts),), generator=rng)
    lengths = counts[drawn]
    within = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    return order[starts[drawn].repeat_interleave(lengths) + within]


@torch.no_grad()
def holdout_score(dynamics: Dynamics, holdout: Batch) -> Tensor:
    """Mean squared error of each member's predicted mean next observation and reward, [E].

    Each channel counts in units of its spread in the log (`Prediction.scale`), so that none decides by its scale.
    """
    total = torch.zeros(dynamics.members, device=holdout.obs.device)
    for chunk in zip(*(t.split(SCORE_ROWS) for t in holdout), strict=True):
        rows = Batch(*chunk)
        prediction = dynamics.predict(rows.obs, rows.action)
        mean, _ = prediction.normalised()
        truth = torch.cat([rows.next_obs, rows.reward.unsqueeze(-1)], -1) / prediction.scale
        total += (mean - truth).square().mean(-1).sum(-1)
    return total / len(holdout.obs)


class _Batches:
    """An epoch of [E, B, ...] batches, gathered by index on the device of the rows; stateless between epochs."""

    def __init__(self, shell: _Shell, rows: list[Tensor], seed: int, batch_size: int, steps: int) -> None:
        self.shell, self.rows, self.seed, self.batch_size, self.steps = shell, rows, seed, batch_size, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        shell = self.shell
        rng = generator(self.seed, f"batches/{int(shell.epochs)}")
        world, rank = shell.trainer.world_size, shell.trainer.global_rank
        needed = self.steps * self.batch_size * world
        orders = [self._order(rows, needed, rng)[rank::world] for rows in self.rows]
        index = torch.stack(orders).to(shell.device)
        for rows in index.split(self.batch_size, 1):
            yield Batch(*(t[rows] for t in shell.train_rows))

    @staticmethod
    def _order(rows: Tensor, needed: int, rng: torch.Generator) -> Tensor:
        rounds = -(-needed // len(rows))
        return rows[torch.cat([torch.randperm(len(rows), generator=rng) for _ in range(rounds)])[:needed]]


class _Shell(pl.LightningModule):
    """Optimiser, hold-out score and bookkeeping around a model; no arithmetic of the model's own.

    Everything that decides how a fit goes on is a buffer, so that a checkpoint of the state dict is a whole one.
    """

    epochs: Tensor  # [] long: finished ones
    score: Tensor  # [E] best so far
    reference: Tensor  # [E] the score from which the next improvement counts
    stale: Tensor  # [E] long: epochs since the last improvement that counted

    def __init__(self, dynamics: Dynamics, train: Batch, holdout: Batch, settings: _Settings) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.best = copy.deepcopy(dynamics).requires_grad_(False)
        self.train_rows, self.holdout_rows, self.settings = train, holdout, settings
        members = dynamics.members
        self.register_buffer("epochs", torch.zeros((), dtype=torch.long))
        self.register_buffer("score", torch.full((members,), math.inf))
        self.register_buffer("reference", torch.full((members,), math.inf))
        self.register_buffer("stale", torch.zeros(members, dtype=torch.long))
        self.loss_sum = torch.zeros(())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.dynamics.parameters(), lr=self.settings.lr, fused=True)

    def on_fit_start(self) -> None:
        self.train_rows = Batch(*(t.to(self.device) for t in self.train_rows))
        self.holdout_rows = Batch(*(t.to(self.device) for t in self.holdout_rows))

    def on_train_start(self) -> None:
        self._stop_if_stale()

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(generator(self.settings.seed, f"model/{int(self.epochs)}").initial_seed())
        self.loss_sum = torch.zeros((), device=self.device)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # gathered there

    def training_step(self, batch: Batch) -> Tensor:
        loss = self.dynamics.loss(batch).sum()
        self.loss_sum += loss.detach()
        return loss

    def on_train_epoch_end(self) -> None:
        self.dynamics.eval()
        score = holdout_score(self.dynamics, self.holdout_rows)
        self.dynamics.train()
        self._keep_best(score)
        self.epochs += 1
        self._stop_if_stale()
        self._report(score)

    def _keep_best(self, score: Tensor) -> None:
        active = self.stale < self.settings.patience
        better = active & (score < self.score)  # never true of NaN
        with torch.no_grad():
            for kept, now in zip(self.best.parameters(), self.dynamics.parameters(), strict=True):
                kept[better] = now[better]
        self.score = torch.where(better, score, self.score)
        counts = active & (score < (1 - self.settings.min_improvement) * self.reference)
        self.reference = torch.where(counts, score, self.reference)
        self.stale = torch.where(counts, 0, self.stale + 1)

    def _stop_if_stale(self) -> None:
        self.trainer.should_stop = bool((self.stale >= self.settings.patience).all())

    def _report(self, score: Tensor) -> None:
        if not self.trainer.is_global_zero:
            return
        metrics = {
            "loss": float(self.loss_sum) / self.trainer.num_training_batches / self.dynamics.members,
            "holdout_mean": float(score.mean()),
            "holdout_best": float(self.score.min()),
            "members_in_training": float((self.stale < self.settings.patience).sum()),
        }
        epoch = int(self.epochs)
        if self.settings.log is not None:
            self.settings.log(metrics, epoch)
        if self.settings.progress:
            told = ", ".join(f"{k} {v:.4g}" for k, v in metrics.items())
            tqdm.write(f"dynamics: epoch {epoch}: {told}", file=sys.stderr)


class _Settings(NamedTuple):
    seed: int
    lr: float
    patience: int
    min_improvement: float
    progress: bool
    log: Log | None


class _Bar(Callback):
    """tqdm over the updates of an epoch, on stderr."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = int(trainer.num_training_batches)
        self.bar = tqdm(total=total, desc=f"epoch {trainer.current_epoch + 1}", leave=False, file=sys.stderr)

    def on_train_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.bar.close()

    def on_exception(self, *_: Any) -> None:
        self.bar.close()


class _VerifiedIO(CheckpointIO):
    """Lightning's checkpoints through `mbrl.files`: whole or absent, verified by SHA-256 when read."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        files.save(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return files.load(Path(path), map_location if map_location is not None else "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


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
        ValueError: a setting or a shape is not as above.
        FloatingPointError: fewer members than elites ever had a finite hold-out score.
        CorruptFileError: the checkpoint in `folder` is truncated or altered.
        KeyboardInterrupt: Ctrl-C; the same call goes on from the last finished epoch in `folder`.
    """
    _check(dynamics, train, train_episode, holdout, batch_size, patience, precision)
    begun = time.monotonic()
    home = next(dynamics.parameters()).device
    shell = _Shell(dynamics, train, holdout, _Settings(seed, lr, patience, min_improvement, progress, log))
    rng = generator(seed, "bootstrap")
    rows = [bootstrap_rows(train_episode.cpu(), rng) for _ in range(dynamics.members)]
    callbacks: list[Callback] = []
    if folder is not None:
        callbacks.append(ModelCheckpoint(folder, Path(CHECKPOINT).stem, enable_version_counter=False))
    if progress and sys.stderr.isatty():
        callbacks.append(_Bar())
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=devices,
        precision=precision,
        strategy=strategy,
        max_epochs=max_epochs,
        callbacks=callbacks,
        plugins=[_VerifiedIO()],
        logger=False,
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    steps = math.ceil(len(train.obs) / batch_size / trainer.world_size)
    last = folder / CHECKPOINT if folder is not None else None
    with _interruptible(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        trainer.fit(shell, _Batches(shell, rows, seed, batch_size, steps), ckpt_path=last if last and last.exists() else None)
    finite = int(shell.score.isfinite().sum())
    if finite < len(dynamics.elites):
        raise FloatingPointError(
            f"{finite} members of {dynamics.members} ever had a finite hold-out error, {len(dynamics.elites)} are needed: lower lr (now {lr})"
        )
    dynamics.load_state_dict(shell.best.state_dict())
    dynamics.elites.copy_(shell.score.argsort()[: len(dynamics.elites)])
    dynamics.to(home).eval()
    epochs = int(shell.epochs)
    return FitReport(epochs, epochs * steps, shell.score.tolist(), dynamics.elites.tolist(), time.monotonic() - begun)


def _check(
    dynamics: Dynamics, train: Batch, episode: Tensor, holdout: Batch, batch_size: int, patience: int, precision: str
) -> None:
    if len(train.obs) == 0 or len(holdout.obs) == 0:
        raise ValueError(f"{len(train.obs)} training and {len(holdout.obs)} held-out rows: both need at least one episode")
    if episode.shape != (len(train.obs),):
        raise ValueError(f"train_episode has shape {list(episode.shape)}, expected [{len(train.obs)}], one a training row")
    if batch_size < 1 or patience < 1:
        raise ValueError(f"batch_size is {batch_size} and patience is {patience}, expected at least 1 each")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    for name, parameter in dynamics.named_parameters():
        if parameter.dim() == 0 or parameter.shape[0] != dynamics.members:
            shape = list(parameter.shape)
            raise ValueError(
                f"parameter {name} of {type(dynamics).__name__} has shape {shape}, expected [{dynamics.members}, ...]: the"
                " member axis first, so that each member can be given its own best weights back"
            )


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Lightning ends a Ctrl-C with SIGINT ignored and SystemExit; callers of a library expect KeyboardInterrupt."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, before)
            raise KeyboardInterrupt from end
        raise
