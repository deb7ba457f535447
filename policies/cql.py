"""CQL: critics that value actions outside the log no higher than those in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrl.core import Batch, Learner, Policy, Spec, World
from policies.actor_critic import ActorCritic
from policies.conservative import conservative_update


class CQL(Learner):
    """Conservative Q-learning (Kumar et al. 2020), CQL(H), eq. 4: `COMBO` on logged rows alone.

    The critics' loss is the Bellman error plus `conservatism` times (logsumexp of Q over actions - mean Q of the logged
    ones). For Box actions the sum is over sampled actions, weighted by their density (appendix F); for Discrete ones it
    is exact. The actor and its temperature are soft actor-critic's, with a backup that holds no entropy. The weight is
    fixed; the paper's Lagrangian form is not here.

    Args:
        conservatism: weight of the gap, for rewards of spread 1; the more, the nearer the policy stays to the log.
        samples: actions of each of three kinds: uniform, the actor's at obs and at next_obs. Box only.
        See `ActorCritic` for the others.
    """

    imagines = False

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256, 256),
        conservatism: float = 5.0,
        samples: int = 10,
        critics: int = 2,
        layer_norm: bool = False,
        discount: float = 0.99,
        tau: float = 0.005,
        actor_lr: float = 1e-4,
        critic_lr: float = 3e-4,
        temperature_lr: float = 1e-4,
        entropy_target: float | None = None,
    ) -> None:
        super().__init__(spec)
        self.conservatism, self.samples = conservatism, samples
        self.agent = ActorCritic(
            spec,
            hidden=hidden,
            critics=critics,
            layer_norm=layer_norm,
            discount=discount,
            tau=tau,
            actor_lr=actor_lr,
            critic_lr=critic_lr,
            temperature_lr=temperature_lr,
            entropy_target=entropy_target,
            soft_backup=False,
        )
        self.optimizers = self.agent.optimizers

    @property
    def policy(self) -> Policy:
        return self.agent.actor

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del imagined, simulator
        return conservative_update(self.agent, real, len(real.reward), self.conservatism, self.samples, rng)
