"""EDAC: many critics, kept from agreeing on where to climb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mbrl.core import Batch, Spec, World, leaf, slope
from policies.actor_critic import SoftLearner, joined
from policies.actors import require
from policies.functional import gradient_similarity


class EDAC(SoftLearner):
    """Ensemble-diversified actor-critic (An et al. 2021, "Uncertainty-Based Offline Reinforcement Learning with
    Diversified Q-Ensemble", algorithm 1). Box actions only.

    SAC with many critics, whose smallest value counts, and in their loss `diversity` times how alike the directions of
    their action gradients are at the rows of the batch (eq. 8): the less alike, the lower the smallest value of actions
    that these lack. Gradients are those in [-1, 1] units of the actions. On imagined rows, too, and without a penalty,
    it is RAVL (Sims et al. 2024, "The Edge-of-Reach Problem in Offline Model-Based Reinforcement Learning").

    The arguments that are not here are those of `SoftLearner`.

    Args:
        diversity: eta of the paper; 0 is SAC-N, for which `SAC` with as many critics is quicker. Where one action
            channel alone can move, directions are 1 or -1 and have no gradient: it then does nothing.
        critics: 2 or more; the paper has 10 to 50 with diversity and up to 500 without.

    Raises:
        ValueError: the log's actions are Discrete, `critics` is below 2, or `diversity` is negative.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        hidden: Sequence[int] = (256, 256, 256),
        diversity: float = 1.0,
        critics: int = 10,
        actor_lr: float = 3e-4,
        temperature_lr: float = 3e-4,
        **agent: Any,
    ) -> None:
        require(spec, False, "EDAC", "policies.SAC with critics: 10, or policies.CQL")
        if critics < 2:
            raise ValueError(f"critics is {critics}, expected 2 or more: one alone has no other to differ from")
        if not diversity >= 0:
            raise ValueError(f"diversity is {diversity}, expected 0 (SAC-N) or more")
        super().__init__(
            spec, hidden=hidden, critics=critics, actor_lr=actor_lr, temperature_lr=temperature_lr, **agent
        )
        self.diversity = diversity

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del simulator
        critics, batch = self.agent.critics, joined(real, imagined)
        target = self.agent.target(batch, rng)
        action = leaf(batch.action.repeat(critics.count, 1, 1))  # each critic its own
        values = critics(batch.obs, action)
        similarity = gradient_similarity(slope(values.sum(), action) * critics.bounds.half_range)
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
