"""Soft actor-critic on logged and imagined rows. With penalised imagined rows it is MOPO."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrl.core import Batch, Learner, Policy, Spec, World
from policies.actor_critic import ActorCritic, joined


class SAC(Learner):
    """SAC (Haarnoja et al. 2018); MOPO (Yu et al. 2020, algorithm 2) when the rig penalises imagined rewards.

    Actor: tanh-Gaussian for Box actions, categorical for Discrete ones. See `ActorCritic` for the arguments.
    """

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256),
        critics: int = 2,
        layer_norm: bool = False,
        discount: float = 0.99,
        tau: float = 0.005,
        actor_lr: float = 1e-4,
        critic_lr: float = 3e-4,
        temperature_lr: float = 1e-4,
        entropy_target: float | None = None,
        soft_backup: bool = True,
    ) -> None:
        super().__init__(spec)
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
            soft_backup=soft_backup,
        )
        self.optimizers = self.agent.optimizers

    @property
    def policy(self) -> Policy:
        return self.agent.actor

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del simulator
        batch = joined(real, imagined)
        return self.agent.improve(batch, self.agent.target(batch, rng), rng)
