"""Where those channels of the next observation come from that no model predicts."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from mbrl.core import Memory, Spec
from mbrl.simulator.replay import Replay
from mbrl.window import Window


@final
class Filling(nn.Module):
    """Completes a next observation, of which a model has given the predicted channels.

    Where obs is a window, these and the exogenous channels are of its newest observation, and the older ones move on.

    Args:
        spec: says which channels are predicted, and which are exogenous.
        replay: the logged episodes that exogenous channels are replayed from; without one, no step can be made where
            there are such channels.

    Raises:
        ValueError: the replay has other channels than the spec, or nothing fills a channel in.
    """

    predicted: Tensor | None  # [P] long; None where these are all channels
    exogenous: Tensor  # [X] long

    def __init__(self, spec: Spec, replay: Replay | None = None) -> None:
        super().__init__()
        if replay is not None and replay.values.shape[1] != len(spec.exogenous):
            raise ValueError(
                f"the replayed log has {replay.values.shape[1]} exogenous channels, expected {len(spec.exogenous)}"
            )
        unknown = sorted(set(range(spec.frame_dim)) - {*spec.predicted, *spec.exogenous})
        if unknown:
            raise ValueError(f"channels {unknown} are not predicted, and nothing fills them in")
        partial = len(spec.predicted) < spec.obs_dim
        self.register_buffer("predicted", torch.tensor(spec.predicted) if partial else None, persistent=False)
        self.register_buffer("exogenous", torch.tensor(spec.exogenous, dtype=torch.long), persistent=False)
        self.replay = replay
        self.window = Window.of(spec)

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
        next_obs = obs.index_copy(-1, self.predicted, values)
        if len(self.exogenous):
            if exogenous is None:
                raise ValueError(f"channels {self.exogenous.tolist()} are exogenous: their next values are needed")
            next_obs = next_obs.index_copy(-1, self.exogenous, exogenous.expand(*obs.shape[:-1], -1))
        return self.window.shift(obs, action, next_obs[..., : self.window.frame])
