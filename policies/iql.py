"""IQL: dynamic programming over logged actions only, and a policy that imitates the better ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Adam

from mbrl.core import Batch, Learner, Policy, Spec, World, descend, polyak_
from policies.actors import Categorical, Gaussian
from policies.functional import advantage_weighted, bellman_target, expectile_loss
from policies.networks import Critics, Value, usual_value
from policies.ranges import check_rates


class IQL(Learner):
    """Implicit Q-learning (Kostrikov et al. 2022): no critic is ever asked about an action that was not logged.

    Value (eq. 5): V(s) is the expectile of min_k slow Q_k(s, a) over logged actions, a soft maximum within the log.
    Critics (eq. 6): (r + discount V(s') - Q_k(s, a))^2. Actor (eq. 7): imitation of logged actions weighted by
    exp(beta (min_k slow Q_k - V)). All of it is the same for Box (Gaussian actor) and Discrete (categorical) actions.

    Rewards are divided by their spread in the log, where the paper's code scales them by the range of returns; the
    actor's learning rate is constant, where the paper's falls along a cosine.

    Args:
        spec: of the log.
        hidden: widths of the actor's, the value's and the critics' layers.
        expectile: from 0.5, the value of the log's own policy, to below 1.
        beta: inverse temperature of the weights, for rewards of spread 1; 0 is imitation.
        largest_weight: where they are clipped.
        critics: how many; the smallest counts.
        layer_norm: on the critics' and the value's hidden layers.
        discount: per step.
        tau: rate at which the slow critics follow.

    Raises:
        ValueError: expectile is not between 0 and 1, beta is negative, critics is below 1, or the discount or tau is
            out of range.
    """

    imagines = False

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256),
        expectile: float = 0.7,
        beta: float = 3.0,
        largest_weight: float = 100.0,
        critics: int = 2,
        layer_norm: bool = False,
        discount: float = 0.99,
        tau: float = 0.005,
        actor_lr: float = 3e-4,
        critic_lr: float = 3e-4,
        value_lr: float = 3e-4,
    ) -> None:
        super().__init__(spec)
        if not 0 < expectile < 1:
            raise ValueError(f"expectile is {expectile}, expected a number between 0 and 1, such as 0.7")
        if not beta >= 0:
            raise ValueError(f"beta is {beta}, expected 0 (imitation) or more")
        check_rates(discount, tau)
        self.expectile, self.beta, self.largest_weight = expectile, beta, largest_weight
        self.discount, self.tau = discount, tau
        actor = Categorical if spec.discrete else Gaussian
        self.actor: Categorical | Gaussian = actor(spec, tuple(hidden))
        usual = usual_value(spec, discount)
        self.value = Value(spec, hidden, layer_norm, usual)
        self.critics = Critics(spec, critics, hidden, layer_norm, usual)
        self.slow = copy.deepcopy(self.critics).requires_grad_(False)
        self.optimizers = {
            "actor": Adam(self.actor.parameters(), actor_lr, fused=True),
            "value": Adam(self.value.parameters(), value_lr, fused=True),
            "critics": Adam(self.critics.parameters(), critic_lr, fused=True),
        }

    @property
    def policy(self) -> Policy:
        return self.actor

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del imagined, rng, simulator
        with torch.no_grad():
            lowest = self.slow(real.obs, real.action).amin(0)
        value_loss = expectile_loss(lowest - self.value(real.obs), self.expectile).mean()
        descend(self.optimizers["value"], value_loss)
        with torch.no_grad():
            advantage = lowest - self.value(real.obs)
            reward = real.reward / self.spec.reward_std
            target = bellman_target(reward, real.terminated, self.value(real.next_obs), self.discount)
        log_prob = self.actor.log_prob(real.obs, real.action)
        actor_loss = advantage_weighted(log_prob, advantage, self.beta, self.largest_weight)
        descend(self.optimizers["actor"], actor_loss)
        values = self.critics(real.obs, real.action)
        critic_loss = (values - target).square().mean(1).sum()
        descend(self.optimizers["critics"], critic_loss)
        polyak_(list(self.slow.parameters()), list(self.critics.parameters()), self.tau)
        return {
            "critic_loss": critic_loss.detach() / len(values),
            "value_loss": value_loss.detach(),
            "value": values.detach().mean(),
            "advantage": advantage.mean(),
            "log_prob": log_prob.detach().mean(),
        }
