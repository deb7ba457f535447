"""CQL: critics that value actions outside the log no higher than those in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mbrl.core import Batch, Spec, World
from policies.actor_critic import SoftLearner
from policies.conservative import conservative_update


class CQL(SoftLearner):
    """Conservative Q-learning (Kumar et al. 2020), CQL(H), eq. 4: `COMBO` on logged rows alone.

    The critics' loss is the Bellman error plus `conservatism` times (logsumexp of Q over actions - mean Q of the logged
    ones). For Box actions the sum is over sampled actions, weighted by their density (appendix F); for Discrete ones it
    is exact. The actor and its temperature are soft actor-critic's, with a backup that holds no entropy. The weight is
    fixed; the paper's Lagrangian form is not here.

    The arguments that are not here are those of `SoftLearner`.

    Args:
        conservatism: weight of the gap, for rewards of spread 1; the more, the nearer the policy stays to the log.
        samples: actions of each of three kinds: uniform, the actor's at obs and at next_obs. Box only.
    """

    imagines = False

    def __init__(
        self,
        spec: Spec,
        *,
        hidden: Sequence[int] = (256, 256, 256),
        conservatism: float = 5.0,
        samples: int = 10,
        **agent: Any,
    ) -> None:
        super().__init__(spec, hidden=hidden, **agent)
        self.conservatism, self.samples = conservatism, samples
        self.agent.soft_backup = False

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del imagined, simulator
        return conservative_update(self.agent, real, len(real.reward), self.conservatism, self.samples, rng)
