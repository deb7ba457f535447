"""AWAC: an actor-critic whose actor imitates the logged actions that its critics find better than its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Adam

from mbrl.core import Batch, Learner, Policy, Spec, World, descend, polyak_
from policies.actors import Categorical, Gaussian
from policies.functional import advantage_weighted, bellman_target
from policies.networks import Critics, usual_value
from policies.ranges import check_rates


class AWAC(Learner):
    """Advantage-weighted actor-critic (Nair et al. 2020, "AWAC").

    Critics: (r + discount min_k slow Q_k(s', a') - Q_k(s, a))^2 with a' drawn from the actor, so that they value the
    policy at hand. Actor (eq. 13): imitation of logged actions weighted by exp(beta A), where A is min_k Q_k(s, a)
    minus the same of an action drawn from the actor; for Discrete actions both expectations over the actor are exact.

    `AWR`, its ancestor, weighs in the same way, but by logged returns less a fitted V, so its weights are those of one
    step away from the log's policy, however long it learns; the critics here follow the policy on its way. IQL has
    Q-functions too, but never asks them about an action that was not logged.

    Rewards are divided by their spread in the log. Weights are clipped, where the paper's code divides them by their
    sum in the batch.

    Args:
        spec: of the log.
        hidden: widths of the actor's and the critics' layers.
        beta: inverse temperature of the weights, for rewards of spread 1: 1 / lambda of the paper, which has 1 to 1 / 3
            for lambda. 0 is imitation.
        largest_weight: where they are clipped.
        critics: how many; the smallest counts.
        layer_norm: on the critics' hidden layers.
        discount: per step.
        tau: rate at which the slow critics follow.

    Raises:
        ValueError: beta is negative, critics is below 1, or the discount or tau is out of range.
    """

    imagines = False

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256),
        beta: float = 3.0,
        largest_weight: float = 100.0,
        critics: int = 2,
        layer_norm: bool = False,
        discount: float = 0.99,
        tau: float = 0.005,
        actor_lr: float = 3e-4,
        critic_lr: float = 3e-4,
    ) -> None:
        super().__init__(spec)
        if not beta >= 0:
            raise ValueError(f"beta is {beta}, expected 0 (imitation) or more")
        check_rates(discount, tau)
        self.beta, self.largest_weight, self.discount, self.tau = beta, largest_weight, discount, tau
        actor = Categorical if spec.discrete else Gaussian
        self.actor: Categorical | Gaussian = actor(spec, tuple(hidden))
        self.critics = Critics(spec, critics, hidden, layer_norm, usual_value(spec, discount))
        self.slow = copy.deepcopy(self.critics).requires_grad_(False)
        self.optimizers = {
            "actor": Adam(self.actor.parameters(), actor_lr, fused=True),
            "critics": Adam(self.critics.parameters(), critic_lr, fused=True),
        }

    @property
    def policy(self) -> Policy:
        return self.actor

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del imagined, simulator
        with torch.no_grad():
            reward, future = real.reward / self.spec.reward_std, self._expected(self.slow, real.next_obs, rng)
            target = bellman_target(reward, real.terminated, future, self.discount)
        values = self.critics(real.obs, real.action)
        critic_loss = (values - target).square().mean(1).sum()
        descend(self.optimizers["critics"], critic_loss)
        polyak_(list(self.slow.parameters()), list(self.critics.parameters()), self.tau)
        with torch.no_grad():
            advantage = self.critics(real.obs, real.action).amin(0) - self._expected(self.critics, real.obs, rng)
        log_prob = self.actor.log_prob(real.obs, real.action)
        actor_loss = advantage_weighted(log_prob, advantage, self.beta, self.largest_weight)
        descend(self.optimizers["actor"], actor_loss)
        return {
            "critic_loss": critic_loss.detach() / len(values),
            "value": values.detach().mean(),
            "advantage": advantage.mean(),
            "log_prob": log_prob.detach().mean(),
        }

    def _expected(self, critics: Critics, obs: Tensor, rng: torch.Generator) -> Tensor:
        """min_k Q_k under the actor, [B]: of one drawn action for Box, in expectation for Discrete."""
        if isinstance(self.actor, Categorical):
            return (self.actor.log_probs(obs).exp() * critics.every(obs).amin(0)).sum(-1)
        return critics(obs, self.actor.act(obs, rng)).amin(0)
