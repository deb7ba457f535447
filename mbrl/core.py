"""The nouns of the house: what a model, a policy and a learner are. Read this file first.

Axis letters in every docstring: N rows, B batch, E members, T steps, O observation, A action.
All tensors are float32 in the environment's own units unless a docstring says otherwise. A Discrete
action travels as its one-hot row, so that every network reads `action [..., A]`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from mbrl.descent import descend as descend
from mbrl.descent import is_mapped as is_mapped
from mbrl.descent import leaf as leaf
from mbrl.descent import polyak_ as polyak_
from mbrl.descent import slope as slope
from mbrl.described import Described as Described
from mbrl.described import build as build
from mbrl.described import locate as locate
from mbrl.described import signature as signature
from mbrl.precision import full_precision as full_precision
from mbrl.precision import narrow as narrow
from mbrl.precision import narrow_linear as narrow_linear
from mbrl.randomness import generator as generator
from mbrl.randomness import seeded as seeded
from mbrl.returns import discounted_sums as discounted_sums
from mbrl.returns import returns_to_go as returns_to_go
from mbrl.spec import Spec as Spec
from mbrl.spreads import deviation as deviation
from mbrl.spreads import variance as variance
from mbrl.world import Foreseen as Foreseen
from mbrl.world import Memory as Memory
from mbrl.world import Step as Step
from mbrl.world import World as World


class Batch(NamedTuple):
    """Transitions. Truncation is not here: it ends an episode, not the world."""

    obs: Tensor  # [..., O]
    action: Tensor  # [..., A]
    reward: Tensor  # [...]
    next_obs: Tensor  # [..., O]
    terminated: Tensor  # [...] bool: the world ended, so nothing is bootstrapped from next_obs


NOTHING = Batch(*[torch.empty(0)] * 5)  # in the place of rows that are not here


def rows_at(batch: Batch, index: Tensor) -> Batch:
    """The rows of a Batch of [N, ...] at `index` [...] long: [..., ...]. Quicker than indexing, which checks more."""
    flat = index.flatten()
    return Batch(*(column.index_select(0, flat).unflatten(0, index.shape) for column in batch))


class Prediction(NamedTuple):
    """What a model says of the next step, per member, in the environment's own units.

    A channel that is not among `Spec.predicted` keeps its present value, with a std of 0: the simulator fills it in.
    `scale` [O + 1] is the spread of the log's (observation change, reward): dividing by it makes
    deviations comparable between channels.

    A channel that may next have one value exactly, a set-point its present one, a counter that begins anew its first
    (`Spec.resting`), has a probability `still` of doing so. Its mean and its std are then those of both cases together,
    and `moved` and `moved_std` those of the other one: what moves seldom and little, beside its size, cannot be told
    from the former in float32. Where the end of the world pays a reward of another kind
    (`Dynamics.end_pay`), the reward is that of a step after which it goes on.
    """

    obs: Tensor  # [E, B, O] mean of the next observation
    obs_std: Tensor  # [E, B, O]
    reward: Tensor  # [E, B] mean
    reward_std: Tensor  # [E, B]
    scale: Tensor  # [O + 1]
    still: Tensor | None = None  # [E, B, O]; None where every channel always changes
    now: Tensor | None = None  # [E, B, O] that value of each channel, where there is a `still`
    moved: Tensor | None = None  # [E, B, O] mean of the next observation where it is not `now`; `obs` if it never is
    moved_std: Tensor | None = None  # [E, B, O]

    def of(self, members: Tensor) -> Prediction:
        """What these members ([E'] long) say."""
        rows = {name: column for name, column in self._asdict().items() if name != "scale" and column is not None}
        return Prediction(**{name: column[members] for name, column in rows.items()}, scale=self.scale)

    def typical(self) -> tuple[Tensor, Tensor]:
        """Mean and std [E, B, O] of the next observation, where what more likely stays than changes does stay.

        The rare jump of a set-point, which nobody can foretell, is no doubt about the steps without one.
        """
        if self.still is None or self.now is None:
            return self.obs, self.obs_std
        stays = self.still > 0.5
        return torch.where(stays, self.now, self.obs), self.obs_std.masked_fill(stays, 0.0)

    def normalised(self) -> tuple[Tensor, Tensor]:
        """Mean and std of (next observation, reward) in units of `scale`, [E, B, O + 1] each: the `typical` ones."""
        obs, obs_std = self.typical()
        mean = torch.cat([obs, self.reward.unsqueeze(-1)], -1)
        std = torch.cat([obs_std, self.reward_std.unsqueeze(-1)], -1)
        return mean / self.scale, std / self.scale


class Dynamics(Described):
    """A model of the world: E members, each of which predicts the next observation and the reward.

    Normalisation lives in the model's buffers; callers see the environment's units only.
    Every trainable parameter has the member axis first, [E, ...], so that each member can be kept on its own; there is
    one at least, as a fit is gradient descent on `loss`.

    A model that remembers has a state of every row and member, hidden [E, B, H]: what it made of the observations and
    actions of the episode before that row. Whoever steps the model passes the state in and out, `initial` where an
    episode begins and `remember` from one row to the next; the other methods are given it. For a model that remembers
    nothing hidden is None everywhere.
    """

    elites: Tensor  # [K] long buffer: the members to roll out, best hold-out score first
    memory: int = 0  # rows of an episode, at least, whose memory a fit trains; 0: the model remembers nothing
    ends_apart: bool = False  # whether there is an `end_pay`

    def __init__(self, spec: Spec, members: int) -> None:
        super().__init__()
        if members < 1:
            raise ValueError(f"members is {members}, expected at least 1")
        self.spec = spec
        self.members = members
        self.register_buffer("elites", torch.arange(members))

    @abstractmethod
    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        """Training loss of every member, [E], on its own rows: `batch` is [E, B, ...], their states [E, B, H]."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """For the optimiser: {"params": [...]}, with a "weight_decay" (L2) where a group has one of its own."""
        return [{"params": list(self.parameters())}]

    def initial(self, rows: int) -> Tensor | None:
        """The states [E, rows, H] with which episodes begin; None: the model remembers nothing."""
        del rows
        return None

    def remember(
        self, obs: Tensor, action: Tensor, hidden: Tensor | None, members: Tensor | None = None
    ) -> Tensor | None:
        """The states [E', B, H] of the rows after these; shapes and gradients as in `predict`."""
        del obs, action, members
        return hidden

    @abstractmethod
    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        """Predict one step with the given members ([E'] long; default all of them, in order).

        A network has outputs for the channels of `Spec.predicted` and the reward only; see `Prediction` for the others.
        Gradients pass through the means to obs and to the parameters: a multi-step fit learns through them.

        Args:
            obs: [B, O], seen by every member, or [E', B, O], where each member has rows of its own.
            action: [B, A] or [E', B, A].
            members: [E'] long.
            hidden: [E', B, H], each member's own; None for a model that remembers nothing.
        """

    def termination(
        self,
        obs: Tensor,
        action: Tensor,
        next_obs: Tensor,
        members: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Probability that the world ends with this transition, [E', B]; same shapes as in `predict`.

        A model without a termination head says zero.
        """
        del action, next_obs, hidden
        count = self.members if members is None else len(members)
        return obs.new_zeros(count, obs.shape[-2])

    def end_pay(
        self,
        obs: Tensor,
        action: Tensor,
        next_obs: Tensor,
        members: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor] | None:
        """Mean and std [E', B] of the reward if the world ends with this transition; None: the same as of any step."""
        del obs, action, next_obs, members, hidden
        return None


class Foresight(Described):
    """The expected step of a simulator, which `World.foresight` gives: what a policy that plans is registered with.

    Deterministic, and of each row alone. Exogenous channels keep their present value: at work nobody knows the next
    ones, and persistence is what can be assumed of any of them.
    """

    dynamics: Dynamics

    @abstractmethod
    def forward(self, obs: Tensor, action: Tensor) -> Foreseen:
        """What follows from obs [B, O] with action [B, A], in the environment's units."""


class Policy(Described):
    """What is registered, promoted and served."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec

    @abstractmethod
    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        """Actions [B, A] inside the bounds for observations [B, O]; `rng=None` means the mode, without noise."""

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor | None:
        """Log density (Discrete: log probability) of `action` [B, A] at `obs` [B, O]: [B], or None without one."""
        del obs, action
        return None

    def forward(self, obs: Tensor) -> Tensor:
        """What is served: the mode, as the environment wants it, [B, A] float32 or (Discrete) [B] int64."""
        action = self.act(obs, None)
        return action.argmax(-1) if self.spec.discrete else action


class Learner(Described):
    """A policy and the way it improves. Knows no Lightning, MLflow, Gymnasium or file.

    `optimizers` is filled in the constructor, with torch's own made with `fused=True`: others read their step on the
    host, which makes a GPU wait. The rig checkpoints these and the state dict: whatever else an update
    depends on has to be a parameter or a buffer, changed in place, or a run that is resumed, or whose updates are
    captured (`mbrl.training.capture`), would go on differently. One that steps its optimisers by `descend`, and takes
    other gradients by `leaf` and `slope`, can be trained as a population of many seeds (`mbrl.training.population`).
    """

    imagines: bool = True  # False: `update` never reads imagined rows, and the rig makes none
    plans: ClassVar[bool] = False  # True: it needs the simulator, imagined rows or not
    remodels: bool = False  # True: it enters a copy of the simulator, which it changes
    grounded: bool = False  # True: no update without logged rows
    members: int = 1  # learners that it is made of: all are given rows of their own, and these come member after member

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.optimizers: dict[str, Optimizer] = {}

    @property
    @abstractmethod
    def policy(self) -> Policy:
        """The policy being improved."""

    @property
    def rehearsing(self) -> Policy:
        """The policy that imagined rollouts follow: another one where `policy` is too slow for that."""
        return self.policy

    @property
    def studies(self) -> bool:
        """Whether `study` reads the whole log, which then has to be in memory."""
        return type(self).study is not Learner.study

    def study(self, real: Batch, ends: Tensor | None) -> Batch:
        """What `update` is given is drawn from here; called once, before the first update.

        The logged rows as they are, if not overridden. Here a learner that needs more than single transitions makes it
        of the log, and returns a lesson for each row, in their order: a row of the same kind, in which `reward` may be
        what it has made of the rewards, or K rows, so that columns are [N, K, ...] and `update` is given [B, K, ...].
        What it has to remember goes into buffers. May read from the device.

        Args:
            real: logged rows [N, ...], episode after episode, each in the order of time.
            ends: [N] bool, the last row of each episode, terminated or truncated; None where whoever trains the learner
                has none: one that needs them raises a ValueError that says so.
        """
        del ends
        return real

    def enter(self, simulator: World) -> World:
        """The world to rehearse in, which `update` is given, too; called before updates begin, or go on.

        The simulator as it is, if not overridden, on the learner's device. A learner that changes its weights makes a
        copy of its own, once, as a submodule, so that checkpoints hold it, and leaves the simulator alone.
        """
        return simulator

    @abstractmethod
    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        """One improvement step on logged rows [B, ...] and imagined rows [B', ...]; returns detached scalars.

        `simulator` is the world of `enter`; None where the run has none, or this learner has no use for it.
        Tensor code without host synchronisation: no `.item()`, no Python branch on a tensor.
        """
