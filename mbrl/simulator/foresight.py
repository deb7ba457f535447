"""The expected step of a simulator: mean over elites, without noise. Served as it is, and built into planners."""

from __future__ import annotations

from typing import Any, Self, final

import torch
from torch import Tensor

from mbrl.core import Foreseen, Foresight, Prediction, Spec
from mbrl.simulator import stored
from mbrl.simulator.holding import Stated
from mbrl.simulator.simulator import Simulator


def expected(
    simulator: Simulator,
    everyone: Prediction,
    obs: Tensor,
    action: Tensor,
    exogenous: Tensor | None = None,
    hidden: Tensor | None = None,
) -> Foreseen:
    """What follows from obs [B, O] with action [B, A], of which `everyone` is the prediction of all members.

    Clipped to the log's widened range and filled in as in `Simulator.step`; `exogenous` [B, X] are the next values of
    exogenous channels, hidden [E, B, H] the states of a model that remembers. The uncertainty is 0 for a simulator
    without one.
    """
    elites = simulator.dynamics.elites
    states = None if hidden is None else hidden[elites]
    chosen = everyone.of(elites)
    mean = simulator.clip(_expected(Stated.of(chosen, simulator.targets)))
    next_obs = simulator.filling.complete(obs, action, mean[..., :-1], exogenous)
    settled = simulator.ends.settled(chosen, obs, action, next_obs, elites, states)
    reward = simulator.clip_reward(settled.reward.mean(0))
    terminated = simulator.ends.chance(obs, action, next_obs, elites, states).mean(0)
    if simulator.uncertainty is None:
        uncertainty = torch.zeros_like(reward)
    else:
        uncertainty = simulator.uncertainty(everyone) / simulator.uncertainty_scale
    return Foreseen(next_obs, reward, terminated, uncertainty)


def _expected(stated: Stated) -> Tensor:
    """The mean over members of what they state [E, B, C]; a channel that more likely rests than changes rests."""
    mean = stated.mean.mean(0)
    if stated.still is None or stated.now is None:
        return mean
    return torch.where(stated.still.mean(0) > 0.5, stated.now[0], mean)


@final
class Expectation(Foresight):
    """The expected step of a simulator whose model remembers nothing; exogenous channels keep their present value.

    Args:
        spec: of the policy that it is part of.
        simulator: what `mbrl.simulator.stored.described` says of the simulator, which has a spec of its own: a known
            structure leaves fewer channels to its model.

    Raises:
        ValueError: the simulator cannot be rebuilt, reads other observations or actions than the policy, or its model
            remembers: a policy is told the present alone, and would plan as if every step began an episode.
    """

    def __init__(self, spec: Spec, simulator: dict[str, Any]) -> None:
        super().__init__()
        self.simulator = stored.blank(simulator)
        self.dynamics = self.simulator.dynamics
        own = self.simulator.spec
        if (own.obs_dim, own.action_dim, own.discrete) != (spec.obs_dim, spec.action_dim, spec.discrete):
            raise ValueError(
                f"the simulator has observations [{own.obs_dim}] and actions [{own.action_dim}], expected"
                f" [{spec.obs_dim}] and [{spec.action_dim}] of the same kind: give the simulator of the same log"
            )
        if self.dynamics.memory:
            raise ValueError(
                f"{type(self.dynamics).__name__} remembers, and a policy that plans is told the present observation"
                " alone: choose a model without memory, with data.history where one observation is not enough"
            )

    @classmethod
    def of(cls, simulator: Simulator) -> Self:
        """The expectation of a simulator, with a copy of its weights.

        Raises:
            RuntimeError: it has an uncertainty but was never calibrated.
            ValueError: as above, or a part of it is not reachable by a dotted path.
        """
        if simulator.uncertainty is not None and not simulator.calibrated:
            raise RuntimeError("the uncertainty has no unit yet: call calibrate(holdout) before foresight()")
        made = cls(simulator.spec, stored.described(simulator))
        made.simulator.load_state_dict(simulator.state_dict())
        return made.to(simulator.low.device).requires_grad_(False).eval()

    def forward(self, obs: Tensor, action: Tensor) -> Foreseen:
        simulator = self.simulator
        channels = simulator.filling.exogenous
        held = obs.index_select(-1, channels) if len(channels) else None
        return expected(simulator, self.dynamics.predict(obs, action), obs, action, held)
