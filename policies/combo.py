"""COMBO: a critic that is conservative on imagined actions, instead of a penalty on the reward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrl.core import Batch, Learner, Policy, Spec, World
from policies.actor_critic import ActorCritic, joined
from policies.conservative import conservative_update


class COMBO(Learner):
    """Conservative offline model-based policy optimisation (Yu et al. 2021, eq. 2 and 3).

    The critics' loss is the Bellman error on logged and imagined rows plus `conservatism` times
    (logsumexp of Q over sampled actions at logged and imagined states - mean Q of the logged rows).
    Sampled actions: uniform ones and the policy's at obs and at next_obs, importance-weighted by their density.
    For Discrete actions the sum over all choices is exact and nothing is sampled.

    Args:
        conservatism: weight of the gap, in units of the log's reward spread.
        samples: actions of each of the three kinds.
        See `ActorCritic` for the others.
    """

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256, 256),
        conservatism: float = 1.0,
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
        del simulator
        if not len(real.reward):
            raise ValueError("COMBO is conservative relative to logged rows and got none: raise real_ratio")
        batch = joined(real, imagined)
        return conservative_update(self.agent, batch, len(real.reward), self.conservatism, self.samples, rng)
