"""The LightningModule around a model: optimiser, hold-out score, each member's best weights, when to stop."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor

from mbrl.core import Batch, Dynamics, generator
from mbrl.data.source import Source
from mbrl.precision import cast_once
from mbrl.simulator.recall import recalling
from mbrl.training.averaging import Average
from mbrl.training.bootstrap import BootstrapBatches, Dealt, Runs
from mbrl.training.lookahead import Lookahead
from mbrl.training.recurrence import remembered_loss

Log = Callable[[dict[str, float], int], None]


class Settings(NamedTuple):
    """How a fit goes on, as in `fit_dynamics`."""

    seed: int
    batch_size: int
    lr: float
    epoch_updates: int
    patience: int
    min_improvement: float
    multistep: int
    multistep_weight: float


class Shell(pl.LightningModule):
    """Optimiser, hold-out score and bookkeeping around a model; no arithmetic of the model's own.

    The loss of an update is the model's own on all rows, which are one step each, and with `multistep` above 1 the
    multi-step one on the same rows as runs: for any model, as that asks for nothing but `predict`.

    What is scored after an epoch, and kept, is the average of the weights over about an epoch. The last weights walk
    around it, and a channel that is known almost exactly (a sum of others, say) doubles its error from one epoch to the
    next, which hides what is still being learned of the others.

    Everything that decides how a fit goes on is a buffer, so that a checkpoint of the state dict is a whole one.
    """

    epochs: Tensor  # [] long: finished ones
    updates: Tensor  # [] long: in these
    score: Tensor  # [E] of the weights that are kept
    least: Tensor  # [E] best so far
    reference: Tensor  # [E] the score from which the next improvement counts
    stale: Tensor  # [E] long: epochs since the last improvement that counted

    def __init__(self, dynamics: Dynamics, source: Source, holdout: Runs, held: Tensor, settings: Settings) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.lookahead = Lookahead(dynamics.spec, settings.multistep)
        self.mean = Average(dynamics, 1)  # over an epoch, once it is known how many processes divide it
        self.averaged, self.best = self.mean.module.train(), copy.deepcopy(dynamics).requires_grad_(False)
        self.source, self.holdout, self.held, self.settings = source, holdout, held, settings
        self.report: Log | None = None
        self.processes = 1
        members = dynamics.members
        self.register_buffer("epochs", torch.zeros((), dtype=torch.long))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.register_buffer("score", torch.full((members,), math.inf))
        self.register_buffer("least", torch.full((members,), math.inf))
        self.register_buffer("reference", torch.full((members,), math.inf))
        self.register_buffer("stale", torch.zeros(members, dtype=torch.long))

    def setup(self, stage: str) -> None:
        """One thread for each of several processes on a CPU: a fork has not OpenMP's, and would wait for them."""
        del stage
        self.processes = self.trainer.world_size
        if self.processes > 1 and self.trainer.strategy.root_device.type == "cpu":
            torch.set_num_threads(1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.dynamics.parameter_groups(), lr=self.settings.lr, fused=True)

    def train_dataloader(self) -> BootstrapBatches:
        held, valid, _ = self.holdout
        self.holdout = Runs(Batch(*(column.to(self.device) for column in held)), valid.to(self.device))
        self.batches = BootstrapBatches(
            self.source,
            self.dynamics.members,
            self.settings.seed,
            self.settings.batch_size,
            self.settings.epoch_updates,
            self.settings.multistep,
            min(self.dynamics.memory, self.source.longest),
            self.trainer.global_rank,
            self.processes,
            self.device,
        )
        self.batches.epoch = int(self.epochs)
        self.mean.updates = len(self.batches)
        return self.batches

    def on_train_start(self) -> None:
        self._stop_if_all_done()

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(generator(self.settings.seed, f"model/{int(self.epochs)}").initial_seed())  # dropout and such
        self.loss_sum = torch.zeros((), device=self.device)

    def transfer_batch_to_device(self, batch: Dealt | Runs, device: torch.device, dataloader_idx: int) -> Dealt | Runs:
        return batch  # gathered there

    def training_step(self, batch: Dealt | Runs) -> Tensor:
        with cast_once():
            loss = self.loss(batch)
        self.loss_sum += loss.detach()
        return loss

    def loss(self, batch: Dealt | Runs) -> Tensor:
        """The sum over members."""
        if isinstance(batch, Runs):
            return remembered_loss(self.dynamics, batch).sum()
        loss = self.dynamics.loss(batch.rows).sum()
        if batch.runs is not None:
            ahead = self.lookahead.loss(self.dynamics, batch.runs, self.processes).sum()
            loss = loss + self.settings.multistep_weight * ahead
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.mean.follow(self.dynamics, self.trainer.global_step)

    def on_train_epoch_end(self) -> None:
        self.averaged.eval()
        rows = Batch(*(column[:, 0] for column in self.holdout.rows))  # runs of one row, where a model remembers
        recall = recalling(self.averaged, rows, self.held)
        score = self.lookahead.score(self.averaged, self.holdout, recall)
        self.averaged.train()  # Lightning warns of a part that is not
        self._keep_best(score)
        self.epochs += 1
        self.updates += len(self.batches)
        self.batches.epoch = int(self.epochs)
        self._stop_if_all_done()
        loss = self.trainer.strategy.reduce(self.loss_sum, reduce_op="mean")  # of all processes: each is to ask
        told = self._metrics(score, loss)
        if self.report is not None and self.trainer.is_global_zero:
            self.report(told, int(self.epochs))

    @torch.no_grad()
    def _keep_best(self, score: Tensor) -> None:
        """The last weights with the best score, but for what is no improvement: variances are learned after means."""
        training, slack = self.stale < self.settings.patience, 1 + self.settings.min_improvement
        self.least = torch.where(training & (score < self.least), score, self.least)  # never true of NaN
        better = training & (score <= slack * self.least)
        for kept, now in zip(self.best.parameters(), self.averaged.parameters(), strict=True):
            kept[better] = now[better]
        self.score = torch.where(better, score, self.score)
        counts = training & (score < (1 - self.settings.min_improvement) * self.reference)
        self.reference = torch.where(counts, score, self.reference)
        self.stale = torch.where(counts, 0, self.stale + 1)

    def _stop_if_all_done(self) -> None:
        self.trainer.should_stop = bool((self.stale >= self.settings.patience).all())

    def _metrics(self, score: Tensor, loss: Tensor) -> dict[str, float]:
        return {
            "loss": float(loss) / len(self.batches) / self.dynamics.members,
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
        rows = {
            "rows": self.source.rows,
            "groups": self.source.groups,
            "heldout_rows": int(self.holdout.valid.sum()),
        }
        log = hashlib.sha256(json.dumps(self.dynamics.spec.to_dict(), sort_keys=True).encode()).hexdigest()[:12]
        return self.settings._asdict() | rows | {"log": log, "model": self.dynamics.config}
