"""COMBO: a critic that is conservative on imagined actions, instead of a penalty on the reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mbrl.core import Batch, Spec, World
from policies.actor_critic import SoftLearner, joined
from policies.conservative import conservative_update
from policies.ranges import check_conservatism


class COMBO(SoftLearner):
    """Conservative offline model-based policy optimisation (Yu et al. 2021, eq. 2 and 3).

    The critics' loss is the Bellman error on logged and imagined rows plus `conservatism` times
    (logsumexp of Q over sampled actions at logged and imagined states - mean Q of the logged rows).
    Sampled actions: uniform ones and the policy's at obs and at next_obs, importance-weighted by their density.
    For Discrete actions the sum over all choices is exact and nothing is sampled.

    The arguments that are not here are those of `SoftLearner`.

    Args:
        conservatism: weight of the gap, in units of the log's reward spread.
        samples: actions of each of the three kinds.

    Raises:
        ValueError: conservatism is negative, or samples is below 1.
    """

    grounded = True

    def __init__(
        self,
        spec: Spec,
        *,
        hidden: Sequence[int] = (256, 256, 256),
        conservatism: float = 1.0,
        samples: int = 10,
        **agent: Any,
    ) -> None:
        check_conservatism(conservatism, samples)
        super().__init__(spec, hidden=hidden, **agent)
        self.conservatism, self.samples = conservatism, samples
        self.agent.soft_backup = False

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del simulator
        if not len(real.reward):
            raise ValueError("COMBO is conservative relative to logged rows and got none: raise real_ratio")
        batch = joined(real, imagined)
        return conservative_update(self.agent, batch, len(real.reward), self.conservatism, self.samples, rng)
