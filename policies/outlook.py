"""What a planner looks ahead with: a simulator's expectation, a policy to begin with, and critics for the rest."""

from __future__ import annotations

from typing import Any, NamedTuple, Self, final

import torch
from torch import Tensor

from mbrl.core import Described, Foresight, Policy, Spec, World, build
from policies.networks import Bounds, Critics


class Ahead(NamedTuple):
    """One foreseen step."""

    next_obs: Tensor  # [B, O]
    gain: Tensor  # [B] reward less penalty, in units of the log's reward spread
    living: Tensor  # [B] the probability that the world goes on


@final
class Outlook(Described):
    """The value of actions in a foreseen world: penalised rewards up to the horizon, and the critics' value there.

    A sequence of H actions is worth sum_t gamma^t p_t (r_t / s - penalty u_t) + gamma^H p_H min_k Q_k(o_H, pi(o_H)),
    with p_t the probability that the world has not ended before step t, s the log's reward spread and u the simulator's
    uncertainty: MOPO's penalised reward (Yu et al. 2020, eq. 7), planned with as in MBOP (Argenson and Dulac-Arnold
    2021) and TD-MPC (Hansen et al. 2022, eq. 3). Every step is the elites' mean ("expectation" of Chua et al. 2018,
    section 5), so no answer depends on a draw or on other rows.

    Args:
        spec: of the log.
        foresight: configuration of the simulator's expectation, {"class_path": ..., "init_args": {...}}.
        prior: configuration of the policy that search begins with, whose mode is valued at the horizon.
        critics: `Critics.sizes`.
        discount: of the critics, per step.
        horizon: steps, at least 1.
        penalty: at least 0.
    """

    def __init__(
        self,
        spec: Spec,
        foresight: dict[str, Any],
        prior: dict[str, Any],
        critics: dict[str, Any],
        discount: float,
        horizon: int,
        penalty: float,
    ) -> None:
        super().__init__()
        self.foresight: Foresight = build(foresight, Foresight, spec)
        self.prior: Policy = build(prior, Policy, spec)
        self.critics = Critics(spec, **critics)
        self.bounds = Bounds(spec)
        self.discount, self.horizon, self.penalty = discount, horizon, penalty
        self.reward_scale = spec.reward_std

    @classmethod
    def over(
        cls, world: World, prior: Policy, critics: Critics, *, discount: float, horizon: int, penalty: float
    ) -> Self:
        """Look ahead in a copy of `world`, with this very policy and these very critics, which may go on learning.

        Raises:
            ValueError: there is a penalty and no uncertainty, or the world gives no foresight.
        """
        if penalty and world.uncertainty is None:
            raise ValueError(
                f"penalty is {penalty} but the simulator has no uncertainty: set simulator.uncertainty to one, such as"
                " dynamics.uncertainty.max_aleatoric, or learner.init_args.penalty to 0"
            )
        foresight = (world if penalty else world.plain()).foresight()
        made = cls(prior.spec, foresight.config, prior.config, critics.sizes, discount, horizon, penalty)
        made.foresight, made.prior, made.critics = foresight, prior, critics
        return made.to(next(critics.parameters()).device).eval()

    def step(self, obs: Tensor, action: Tensor) -> Ahead:
        """What follows from obs [B, O] with action [B, A]."""
        next_obs, reward, terminated, uncertainty = self.foresight(obs, action)
        return Ahead(next_obs, reward / self.reward_scale - self.penalty * uncertainty, 1 - terminated)

    def value(self, obs: Tensor) -> Tensor:
        """What the critics expect of the prior policy from obs [B, O], the least of them: [B]."""
        return self.critics(obs, self.prior.act(obs, None)).amin(0)

    def rehearsed(self, obs: Tensor) -> Tensor:
        """The actions [B, H, A] that the prior policy would take from obs [B, O]."""
        actions = []
        for _ in range(self.horizon):
            actions.append(self.prior.act(obs, None))
            obs = self.foresight(obs, actions[-1]).next_obs
        return torch.stack(actions, 1)

    def worth(self, obs: Tensor, actions: Tensor) -> Tensor:
        """The value [B, N] of N sequences of actions [B, N, H, A] a row, from obs [B, O]."""
        count = actions.shape[1]
        here = obs.unsqueeze(1).expand(-1, count, -1).flatten(0, 1)
        flat = actions.flatten(0, 1)
        total, weight = torch.zeros_like(here[:, 0]), torch.ones_like(here[:, 0])
        for step in range(self.horizon):
            here, gain, living = self.step(here, flat[:, step])
            total = total + weight * gain
            weight = weight * self.discount * living
        return (total + weight * self.value(here)).unflatten(0, (-1, count))
