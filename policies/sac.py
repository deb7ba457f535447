"""Soft actor-critic on logged and imagined rows. With penalised imagined rows it is MOPO."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl.core import Batch, Spec, World
from policies.actor_critic import SoftLearner, joined


class SAC(SoftLearner):
    """SAC (Haarnoja et al. 2018); MOPO (Yu et al. 2020, algorithm 2) when the rig penalises imagined rewards.

    Actor: tanh-Gaussian for Box actions, categorical for Discrete ones. The arguments that are not here
    are those of `SoftLearner`.

    Args:
        soft_backup: whether the Bellman target holds the entropy bonus.
    """

    def __init__(self, spec: Spec, *, soft_backup: bool = True, **agent: Any) -> None:
        super().__init__(spec, **agent)
        self.agent.soft_backup = soft_backup

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del simulator
        batch = joined(real, imagined)
        return self.agent.improve(batch, self.agent.target(batch, rng), rng)
