"""The groups of settings of `mbrl run`: what stages.py takes, and what a YAML spells out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mbrl.core import Prediction


@dataclass
class Data:
    """Which log, and how its episodes are divided.

    Args:
        id: Minari id of the data set.
        split: shares of the episodes that the policy and its simulator learn from, that measure this simulator, and
            that the second simulator, the judge, is fitted on; together 1.
        download: fetch the data set if it is not on this machine.
    """

    id: str
    split: tuple[float, float, float] = (0.7, 0.1, 0.2)
    download: bool = False


@dataclass
class Fit:
    """Supervised training of a dynamics model; all of `fit_dynamics` and, below `accelerator`, of Lightning's Trainer.

    Args:
        batch_size: rows per member and update.
        lr: learning rate of Adam.
        max_epochs: at most.
        patience: epochs without improvement after which a member is done.
        min_improvement: what counts as one, as a share of the hold-out error.
        devices: how many of the accelerator's devices.
        precision: e.g. 32-true or bf16-mixed.
        strategy: how several devices work together.
    """

    batch_size: int = 256
    lr: float = 1e-3
    max_epochs: int = 100
    patience: int = 5
    min_improvement: float = 0.01
    devices: int = 1
    precision: str = "32-true"
    strategy: str = "auto"


@dataclass
class World:
    """What turns a dynamics model into a simulator.

    Args:
        uncertainty: dotted path of a function Prediction -> [B].
        termination: dotted path of a rule (obs, action, next_obs) -> [B]; null means the learned head where the log
            has terminals, and a world without end where it has none.
        margin: how far predictions may leave the log's range, as a share of it.
        quantile: of the uncertainty on held-out rows, that counts as uncertainty 1.
    """

    uncertainty: Callable[[Prediction], Tensor] | None = None
    termination: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    margin: float = 0.1
    quantile: float = 0.95


@dataclass
class Rehearsal:
    """How long and on what the policy is improved.

    Args:
        updates: of the learner.
        batch_size: rows an update, logged and imagined together.
        real_ratio: the logged share of them.
        horizon: steps of an imagined rollout.
        penalty: of the uncertainty, in units of the reward's spread in the log.
        rollout_every: updates between two batches of rollouts.
        rollout_starts: logged states that each batch begins with.
        keep_rollouts: batches that the ring holds.
        checkpoint_every: updates between two checkpoints.
        precision: 32-true, or bf16-mixed where the processor multiplies bfloat16 faster.
    """

    updates: int = 100_000
    batch_size: int = 256
    real_ratio: float = 0.5
    horizon: int = 5
    penalty: float = 1.0
    rollout_every: int = 250
    rollout_starts: int = 2_500
    keep_rollouts: int = 20
    checkpoint_every: int = 10_000
    precision: str = "32-true"


@dataclass
class Imitation:
    """How long the baseline, behaviour cloning, is trained.

    Args:
        updates: of the baseline.
        batch_size: rows an update.
    """

    updates: int = 20_000
    batch_size: int = 256


@dataclass
class Trial:
    """How a candidate is judged.

    Args:
        starts: logged start states to roll out from in the second simulator, at most.
        level: of the two-sided intervals.
        episodes: played in the true environment at the end, where one is named.
    """

    starts: int = 512
    level: float = 0.95
    episodes: int = 20
