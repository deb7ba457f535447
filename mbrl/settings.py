"""The groups of settings of `mbrl run`: what stages.py takes, and what a YAML spells out.

Numbers are checked here, before any work, so that a slip does not come to light after an hour of training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mbrl.core import Learner, Prediction, Spec
from mbrl.limits import at_least, callable_with, expect

# All return a Tensor. Not said so, because jsonargparse would then offer the subclasses of Tensor as values.
Uncertainty = Callable[[Prediction], Any]
Termination = Callable[..., Any]
Structure = Callable[..., Any]
Cost = Callable[..., Any]

FEWEST = 10_000  # updates of a learner whose number of updates follows the log's rows: a network needs so many at least


@dataclass
class Data:
    """Which log, and how its episodes are divided.

    Args:
        id: Minari id of the data set, such as plant/run1-v0.
        split: shares of the episodes: those that the policy and its simulator learn from, those that measure this
            simulator, and those that the judge, a second simulator, is fitted on. They sum to 1, as [0.7,0.1,0.2] does.
        download: fetch the data set if it is not on this machine.
        strict: stop before any training if the audit of the log finds something serious.
        history: observations that models and policies are given at once, with the actions between them; more than 1
            where one observation does not say enough, as with delays or velocities that were not logged. auto: as many
            as a quick refit of the log asks for, 1 to 17.
        resident: MiB of logged rows that a training holds in memory at once; of a longer log one random group of
            episodes after the other is read from the disk. The order in which rows are dealt to an ensemble comes on
            top: for 7 members and 27 numbers a row, 1.6 times as much. Learners that read whole episodes, the best
            ones, or a history hold all of it.
    """

    id: str
    split: tuple[float, float, float] = (0.7, 0.1, 0.2)
    download: bool = False
    strict: bool = False
    history: int | Literal["auto"] = 1
    resident: int = 256

    def __post_init__(self) -> None:
        at_least(1, "data", self, "resident", *(["history"] if self.history != "auto" else []))
        if min(self.split) <= 0 or not math.isclose(sum(self.split), 1, abs_tol=1e-6):
            raise ValueError(f"data.split is {list(self.split)}, expected three shares above 0 that sum to 1")


@dataclass
class OtherLog:
    """Which log a report card is made on.

    Args:
        id: Minari id of the data set; the one that the simulator was fitted on, of which its held-out episodes are
            used, if not given. All episodes of another log are used.
        download: fetch the data set if it is not on this machine.
    """

    id: str | None = None
    download: bool = False


@dataclass
class Fit:
    """Supervised training of the dynamics models.

    Args:
        batch_size: rows per member and update.
        lr: learning rate of Adam.
        max_epochs: epochs at most.
        epoch_updates: updates of an epoch, at least: on a small log it is several passes over the rows.
        patience: epochs without improvement after which a member is done.
        min_improvement: what counts as an improvement, as a share of the hold-out error.
        multistep: steps, up to an episode's end, that a model is followed through its own predictions to train and
            score its error there; 1 looks one step ahead only, more costs two to three times the time of an epoch.
        multistep_weight: of that error beside the likelihood of one step.
        judge_multistep: the multistep of the second simulator, in which whole episodes are followed, where the first
            one is for a few steps; the same if not given.
        devices: how many of the accelerator's devices share the work, each with a batch of its own: a fit as with a
            batch so many times as large. On a CPU these are processes.
        precision: of the hidden layers' matrix products; all weights are float32. auto is bf16-mixed where
            the processor multiplies bfloat16 faster.
        strategy: of Lightning's Trainer, how several devices work together; auto and ddp are one process a device.
        shared: folder of fitted models, where this fit is taken from if another run has made it before, of the same
            rows, settings and seed, and left if not. `mbrl compare` and `mbrl sweep` have one.
    """

    batch_size: int = 256
    lr: float = 1e-3
    max_epochs: int = 100
    epoch_updates: int = 1
    patience: int = 5
    min_improvement: float = 0.01
    multistep: int = 1
    multistep_weight: float = 1.0
    judge_multistep: int | None = None
    devices: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "auto"] = "32-true"
    strategy: str = "auto"
    shared: Path | None = None

    def __post_init__(self) -> None:
        at_least(1, "fit", self, "batch_size", "max_epochs", "epoch_updates", "patience", "multistep", "devices")
        if self.judge_multistep is not None:
            at_least(1, "fit", self, "judge_multistep")
        expect(self.lr > 0, "fit.lr", self.lr, "a number above 0")
        expect(0 <= self.min_improvement < 1, "fit.min_improvement", self.min_improvement, "a share of 0 or more")
        expect(0 < self.multistep_weight < math.inf, "fit.multistep_weight", self.multistep_weight, "a number above 0")

    def arguments(self, judging: bool) -> dict[str, Any]:
        """Those of `mbrl.training.dynamics.fit_dynamics`, for the second simulator or for the first."""
        found = dict(vars(self))
        del found["shared"]
        own = found.pop("judge_multistep")
        return found | {"multistep": own} if judging and own is not None else found


@dataclass
class World:
    """What turns the dynamics models into simulators.

    Args:
        uncertainty: dotted path of a function from a Prediction to [B], such as dynamics.uncertainty.max_aleatoric;
            null for none, which leaves nothing to penalise.
        termination: dotted path of a rule from obs, action and next_obs to [B], such as dynamics.terminations.hopper;
            null for the learned head where the log has terminals, and for a world without end where it has none.
        margin: how far predictions may leave the log's range, as a share of that range.
        quantile: the uncertainty that this share of the held-out rows does not exceed counts as 1.
        structure: dotted path of a function from obs, action and next_obs to the channels `computed`, [..., C], such as
            the integral of a speed or a mass balance; null for none. The rest of next_obs is filled in.
        computed: channels that it computes, by name or number, in its order; no model predicts them.
        recalibration: of the stated intervals on held-out episodes; isotonic: the errors' own quantiles, a table per
            channel; scale: one factor per channel, which no heavy tail can be repaired with.
    """

    uncertainty: Uncertainty | None = None
    termination: Termination | None = None
    structure: Structure | None = None
    computed: list[int | str] = field(default_factory=list)
    margin: float = 0.1
    quantile: float = 0.95
    recalibration: Literal["isotonic", "scale"] = "isotonic"

    def __post_init__(self) -> None:
        callable_with("simulator.uncertainty", self.uncertainty, "prediction")
        callable_with("simulator.termination", self.termination, "obs", "action", "next_obs")
        callable_with("simulator.structure", self.structure, "obs", "action", "next_obs")
        both = (self.structure is None) == (not self.computed)
        expect(both, "simulator.computed", self.computed, "channels if simulator.structure is given, and only then")
        expect(0 <= self.margin < math.inf, "simulator.margin", self.margin, "0 or more")
        expect(0 < self.quantile <= 1, "simulator.quantile", self.quantile, "a share above 0, up to 1")


@dataclass
class Rehearsal:
    """How long and on what the policy is improved.

    Args:
        updates: number of updates of the learner, at most.
        passes: fewer updates on a small log: as many as give each of its rows this many places in a batch, on average,
            but no fewer than 10,000; null for `updates` on every log.
        batch_size: rows an update, logged and imagined together.
        real_ratio: the logged share of these rows; 1 means no imagination.
        best: the share of the log that logged rows are drawn from, by rows: the episodes of the highest return; 1 for
            all of it.
        horizon: steps of an imagined rollout; null for the trusted horizon of the simulator's report card, at least 1.
        penalty: what uncertainty 1 costs, in units of the reward's spread in the log; null for 1 where the simulator
            has an uncertainty, and 0 where it has none.
        halt: the uncertainty above which an imagined rollout goes no further, 1 being its quantile as above; null for
            rollouts that nothing halts.
        halt_cost: null, and a halt is a truncation; else it ends the world in a state that pays so many spreads less
            than the log's lowest reward for ever.
        rollout_every: updates between two batches of rollouts.
        rollout_starts: logged states that each batch of rollouts begins with.
        keep_rollouts: batches of rollouts that the ring buffer holds.
        average: updates over which the weights of the registered policy are averaged; null for the last weights.
        checkpoint_every: updates between two checkpoints.
        precision: 32-true or bf16-mixed, of updates and imagination; auto is the latter where the processor multiplies
            bfloat16 faster.
        capture: whether updates and rollouts are recorded as CUDA graphs and replayed, on a GPU: one launch instead of
            hundreds. Elsewhere it changes nothing. Off by default, as nobody has measured it on a GPU yet.
    """

    updates: int = 100_000
    passes: float | None = None
    batch_size: int = 256
    real_ratio: float = 0.5
    best: float = 1.0
    horizon: int | None = 5
    penalty: float | None = None
    halt: float | None = None
    halt_cost: float | None = None
    rollout_every: int = 250
    rollout_starts: int = 2_500
    keep_rollouts: int = 20
    average: int | None = None
    checkpoint_every: int = 10_000
    precision: Literal["32-true", "bf16-mixed", "auto"] = "32-true"
    capture: bool = False

    def __post_init__(self) -> None:
        at_least(1, "rehearsal", self, "updates", "batch_size", "rollout_every", "rollout_starts")
        for name in "horizon", "average":
            if getattr(self, name) is not None:
                at_least(1, "rehearsal", self, name)
        at_least(1, "rehearsal", self, "keep_rollouts", "checkpoint_every")
        expect(0 <= self.real_ratio <= 1, "rehearsal.real_ratio", self.real_ratio, "a share from 0 to 1")
        expect(0 < self.best <= 1, "rehearsal.best", self.best, "a share above 0 and at most 1")
        expect(self.passes is None or 0 < self.passes < math.inf, "rehearsal.passes", self.passes, "a number above 0")
        for name in ("penalty", "halt_cost"):
            value = getattr(self, name)
            expect(value is None or 0 <= value < math.inf, f"rehearsal.{name}", value, "0 or more")
        expect(self.halt is None or 0 < self.halt < math.inf, "rehearsal.halt", self.halt, "a number above 0")
        costly = self.halt is None and self.halt_cost is not None
        expect(not costly, "rehearsal.halt_cost", self.halt_cost, "null, or a rehearsal.halt with it, such as 2")

    def check(self, learner: str, imagines: bool, uncertain: bool) -> None:
        """Refuse what was asked for and would not be done.

        Args:
            learner: its name.
            imagines: whether it reads imagined rows.
            uncertain: whether the simulator has an uncertainty.

        Raises:
            ValueError: a penalty, a halt or a horizon of rollouts that are never made, or one of the first two where
                there is nothing to measure with. A penalty of 0 and the default horizon ask for nothing.
        """
        asked = {name: value for name in ("penalty", "halt") if (value := getattr(self, name))}
        measured = bool(asked)
        if self.horizon != type(self).horizon:
            asked["horizon"] = "null" if self.horizon is None else self.horizon
        first = next((f"rehearsal.{name} is {value}" for name, value in asked.items()), "")
        if asked and not imagines:
            raise ValueError(f"{first}, and {learner} never imagines: leave it out, or choose a learner that does")
        if asked and self.real_ratio == 1:
            raise ValueError(f"{first}, and rehearsal.real_ratio is 1, so nothing is imagined: change one of them")
        if measured and not uncertain:
            raise ValueError(
                f"{first} and simulator.uncertainty is null: name one, such as"
                f" dynamics.uncertainty.max_aleatoric, or set {first.split()[0]} to null"
            )

    def settled(self, rows: int, trusted: int) -> dict[str, Any]:
        """The settings of `fit_policy` on a log of so many rows, in a simulator whose trusted horizon is `trusted`."""
        settings = vars(self) | {"horizon": self.steps(trusted)}
        passes = settings.pop("passes")
        if passes is not None:
            settings["updates"] = min(self.updates, max(FEWEST, math.ceil(passes * rows / self.batch_size)))
        return settings

    def steps(self, trusted: int) -> int:
        """The steps of a rollout in a simulator whose trusted horizon is `trusted`."""
        return max(1, trusted) if self.horizon is None else self.horizon


@dataclass
class Candidate:
    """One of the policies that a run makes and judges.

    Args:
        learner: what improves it.
        rehearsal: how long and on what.
    """

    learner: Callable[[Spec], Learner]
    rehearsal: Rehearsal = field(default_factory=Rehearsal)


@dataclass
class Imitation:
    """How long the baseline, behaviour cloning, is trained.

    Args:
        updates: number of updates of the baseline.
        batch_size: logged rows an update.
    """

    updates: int = 20_000
    batch_size: int = 256

    def __post_init__(self) -> None:
        at_least(1, "imitation", self, "updates", "batch_size")


@dataclass
class Trial:
    """How policies are judged.

    Args:
        starts: logged start states, at most, that values are estimated from.
        discount: of the estimators that discount; the others say undiscounted returns.
        critic_updates: updates of the critics that estimate a policy's value from logged rows alone.
        rules: YAML file with the gate's rules; those that come with mbrl if not given.
        cost: dotted path of a function from obs, action and next_obs to [B], what a transition costs beside its reward;
            its sum over an episode is limited by the rule most_cost. It comes before a cost column of the log, which is
            learned from the judge's episodes if no function is given.
        episodes: to play in the true environment at the end of a run, where one is named.
    """

    starts: int = 512
    discount: float = 0.99
    critic_updates: int = 3_000
    rules: Path | None = None
    cost: Cost | None = None
    episodes: int = 20

    def __post_init__(self) -> None:
        at_least(2, "trial", self, "starts")
        at_least(1, "trial", self, "episodes", "critic_updates")
        expect(0 < self.discount < 1, "trial.discount", self.discount, "a number above 0 and below 1")
        callable_with("trial.cost", self.cost, "obs", "action", "next_obs")
