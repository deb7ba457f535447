"""EDAC: many critics, kept from agreeing on where to climb."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrl.core import Batch, Learner, Policy, Spec, World
from policies.actor_critic import ActorCritic, joined
from policies.actors import require
from policies.functional import gradient_similarity


class EDAC(Learner):
    """Ensemble-diversified actor-critic (An et al. 2021, "Uncertainty-Based Offline Reinforcement Learning with
    Diversified Q-Ensemble", algorithm 1). Box actions only.

    SAC with many critics, whose smallest value counts, and in their loss `diversity` times how alike the directions of
    their action gradients are at the rows of the batch (eq. 8): the less alike, the lower the smallest value of actions
    that these lack. Gradients are those in [-1, 1] units of the actions. On imagined rows, too, and without a penalty,
    it is RAVL (Sims et al. 2024, "The Edge-of-Reach Problem in Offline Model-Based Reinforcement Learning").

    Args:
        diversity: eta of the paper; 0 is SAC-N, for which `SAC` with as many critics is quicker.
        critics: 2 or more; the paper has 10 to 50 with diversity and up to 500 without.
        See `ActorCritic` for the others.

    Raises:
        ValueError: the log's actions are Discrete, `critics` is below 2, or `diversity` is negative.
    """

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256, 256),
        diversity: float = 1.0,
        critics: int = 10,
        layer_norm: bool = False,
        discount: float = 0.99,
        tau: float = 0.005,
        actor_lr: float = 3e-4,
        critic_lr: float = 3e-4,
        temperature_lr: float = 3e-4,
        entropy_target: float | None = None,
    ) -> None:
        super().__init__(spec)
        require(spec, False, "EDAC", "policies.SAC with critics: 10, or policies.CQL")
        if critics < 2:
            raise ValueError(f"critics is {critics}, expected 2 or more: one alone has no other to differ from")
        if not diversity >= 0:
            raise ValueError(f"diversity is {diversity}, expected 0 (SAC-N) or more")
        self.diversity = diversity
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
            soft_backup=True,
        )
        self.optimizers = self.agent.optimizers

    @property
    def policy(self) -> Policy:
        return self.agent.actor

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del simulator
        critics, batch = self.agent.critics, joined(real, imagined)
        target = self.agent.target(batch, rng)
        action = batch.action.repeat(critics.count, 1, 1).requires_grad_()  # a leaf for each critic
        values = critics(batch.obs, action)
        (slope,) = torch.autograd.grad(values.sum(), action, create_graph=True)
        similarity = gradient_similarity(slope * critics.bounds.half_range)
        bellman = (values - target).square().mean(1).sum()
        self.agent.step("critics", bellman + self.diversity * similarity)
        metrics = self.agent.improve_actor(batch.obs, rng)
        self.agent.follow()
        return {
            "critic_loss": bellman.detach() / len(values),
            "value": values.detach().mean(),
            "similarity": similarity.detach(),
            **metrics,
        }
