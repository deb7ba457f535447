"""Where those channels of the next observation come from that no model predicts."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from mbrl.core import Memory, Spec
from mbrl.simulator.replay import Replay
from mbrl.simulator.structure import Structure, compute
from mbrl.spec import OF_CLOCKS
from mbrl.window import Window


@final
class Filling(nn.Module):
    """Completes a next observation, of which a model has given the predicted channels.

    Carried channels are copies within the limits, clocks go on by their step, exogenous ones come from a log as they
    are; then `structure` computes what is left from the observation, the action and the next observation as far as it
    is known (what is not yet has its present value), within the limits as well.
    Where obs is a window, all of these are channels of its newest observation, and the older ones move on.

    Args:
        spec: says which channels are predicted, and which are exogenous.
        replay: the logged episodes that exogenous channels are replayed from; without one, no step can be made where
            there are such channels.
        structure: obs, action, next_obs -> the channels `computed`, [..., C].
        computed: channels, in the order in which the function gives them.
        limits: [O] twice, between which carried and computed channels and clocks are kept.

    Raises:
        ValueError: the replay has other channels than the spec, a channel has two origins or none, or the structure
            gives anything but [..., C].
    """

    predicted: Tensor | None  # [P] long; None where these are all channels
    carried: Tensor  # [K] long
    sources: Tensor  # [K] long: which of (newest observation, action), [F + A], they are copies of
    clocks: Tensor  # [L] long
    clock_steps: Tensor  # [L], and so on: see `mbrl.data.exact.Clock`
    clock_turns: Tensor
    clock_periods: Tensor
    exogenous: Tensor  # [X] long
    computed: Tensor  # [C] long
    carried_low: Tensor  # [K]
    carried_high: Tensor  # [K]
    clocks_low: Tensor  # [L]
    clocks_high: Tensor  # [L]
    computed_low: Tensor  # [C]
    computed_high: Tensor  # [C]
    replay: Replay | None

    def __init__(
        self,
        spec: Spec,
        replay: Replay | None = None,
        structure: Structure | None = None,
        computed: Sequence[int] = (),
        limits: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        if replay is not None and replay.values.shape[1] != len(spec.exogenous):
            raise ValueError(
                f"the replayed log has {replay.values.shape[1]} exogenous channels, expected {len(spec.exogenous)}"
            )
        _check(spec, structure, computed)
        partial = len(spec.predicted) < spec.obs_dim
        own = (spec.carried, spec.clocks, computed)
        carried, clocks, places = (torch.tensor(list(channels), dtype=torch.long) for channels in own)
        low, high = limits or (math.inf * torch.ones(spec.obs_dim) * sign for sign in (-1, 1))
        columns = {
            "predicted": torch.tensor(spec.predicted) if partial else None,
            "carried": carried,
            "sources": torch.tensor(spec.sources, dtype=torch.long),
            "exogenous": torch.tensor(spec.exogenous, dtype=torch.long),
            "computed": places,
            "carried_low": low[carried],
            "carried_high": high[carried],
            "clocks": clocks,
            "clocks_low": low[clocks],
            "clocks_high": high[clocks],
            **{name: torch.tensor(getattr(spec, name)) for name in OF_CLOCKS},
            "computed_low": low[places],
            "computed_high": high[places],
        }
        for name, column in columns.items():
            self.register_buffer(name, column, persistent=False)
        self.register_module("replay", replay)
        self.structure = structure
        self.window = Window.of(spec)
        if structure is not None:
            one = torch.tensor([spec.obs_mean])[:, : spec.frame_dim]
            compute(structure, len(computed), one, one.new_tensor([spec.action_mean]), one)

    def replaying(self, replay: Replay) -> Filling:
        """The same one, with another log to replay."""
        other = copy.copy(self)
        other._modules = {**self._modules, "replay": replay}
        return other

    def begin(self, count: int, rng: torch.Generator, rows: Tensor | None) -> Memory | None:
        """See `Simulator.begin`."""
        if not len(self.exogenous):
            return None
        if self.replay is None:
            raise ValueError(
                "this simulator carries no logged episodes to replay its exogenous channels from: give it some with"
                " `simulator.replaying(data)`"
            )
        return Memory(cursor=self.replay.begin(count, rng, rows))

    def forward(
        self, obs: Tensor, action: Tensor, values: Tensor, memory: Memory | None
    ) -> tuple[Tensor, Memory | None]:
        """The whole next observation [..., O], and the memory for the step after it.

        Args:
            obs: [..., O] now.
            action: [..., A] taken.
            values: [..., P] of the predicted channels.
            memory: [B], B the last axis of rows; None where nothing is exogenous.

        Raises:
            ValueError: there is no memory, and a channel is exogenous.
        """
        if not len(self.exogenous):
            return self.complete(obs, action, values), memory
        if self.replay is None or memory is None or memory.cursor is None:
            raise ValueError("exogenous channels are replayed from a logged row: pass the memory of `begin` on")
        cursor, logged = self.replay(memory.cursor)
        return self.complete(obs, action, values, logged), memory._replace(cursor=cursor)

    def complete(self, obs: Tensor, action: Tensor, values: Tensor, exogenous: Tensor | None = None) -> Tensor:
        """The whole next observation [..., O], with the next `exogenous` channels [B, X] as they are given.

        Raises:
            ValueError: a channel is exogenous, and none are given.
        """
        if self.predicted is None:
            return values
        width = self.window.frame
        next_obs = self.place(obs, values)
        if len(self.carried):
            given = torch.cat([obs[..., :width], action.expand(*obs.shape[:-1], -1)], -1)
            copies = torch.clamp(given.index_select(-1, self.sources), self.carried_low, self.carried_high)
            next_obs = next_obs.index_copy(-1, self.carried, copies)
        if len(self.clocks):
            next_obs = next_obs.index_copy(-1, self.clocks, self.later(obs))
        if len(self.exogenous):
            if exogenous is None:
                raise ValueError(f"channels {self.exogenous.tolist()} are exogenous: their next values are needed")
            next_obs = next_obs.index_copy(-1, self.exogenous, exogenous.expand(*obs.shape[:-1], -1))
        if self.structure is not None:
            # like a rule, it is of the plant, and reads plain observations
            found = compute(self.structure, len(self.computed), obs[..., :width], action, next_obs[..., :width])
            next_obs = next_obs.index_copy(-1, self.computed, torch.clamp(found, self.computed_low, self.computed_high))
        return self.window.shift(obs, action, next_obs[..., :width])

    def later(self, obs: Tensor) -> Tensor:
        """What the clocks of obs [..., O] say a row later, [..., L]."""
        now = obs.index_select(-1, self.clocks)
        beyond = (now - self.clock_turns) * self.clock_steps > 0
        on = now + self.clock_steps - torch.where(beyond, self.clock_periods, 0.0)
        return torch.clamp(on, self.clocks_low, self.clocks_high)

    def place(self, obs: Tensor, values: Tensor) -> Tensor:
        """The predicted channels [..., P] in `obs` [..., O], the others as they are there."""
        return values if self.predicted is None else obs.index_copy(-1, self.predicted, values)


def _check(spec: Spec, structure: Structure | None, computed: Sequence[int]) -> None:
    """Every channel comes from one place."""
    if (structure is None) != (not computed):
        raise ValueError(
            f"simulator.structure is {structure} and simulator.computed is {list(computed)}: give both, the function"
            " and the channels that it computes, or neither"
        )
    if twice := sorted({*spec.predicted, *spec.carried, *spec.clocks, *spec.exogenous} & set(computed)):
        raise ValueError(
            f"channels {twice} are computed, and predicted, carried, clocks or exogenous as well: a channel is one of"
            " them"
        )
    known = {*spec.predicted, *spec.carried, *spec.clocks, *spec.exogenous, *computed}
    if unknown := sorted(set(range(spec.frame_dim)) - known):
        raise ValueError(f"channels {unknown} are not predicted, and nothing fills them in")
