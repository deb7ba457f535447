"""CQL: critics that value actions outside the log no higher than those in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from mbrl.core import Batch, Spec, World, descend
from policies.actor_critic import SoftLearner
from policies.conservative import conservative_update
from policies.ranges import check_conservatism

MOST = 1e6  # conservatism, where no weight brings the gap down to the threshold: the authors' code has the same


class CQL(SoftLearner):
    """Conservative Q-learning (Kumar et al. 2020), CQL(H), eq. 4: `COMBO` on logged rows alone.

    The critics' loss is the Bellman error plus `conservatism` times (logsumexp of Q over actions - mean Q of the logged
    ones). For Box actions the sum is over sampled actions, weighted by their density (appendix F); for Discrete ones it
    is exact. The actor and its temperature are soft actor-critic's, with a backup that holds no entropy.

    With a `threshold` this is the Lagrangian form (eq. 30): the weight w is tuned by dual gradient ascent on
    w (gap - threshold), so that it grows while the mean gap of the critics is above the threshold, and shrinks below
    it. As for the temperature, the step is one of log w. The gap is the cross-entropy of the logged actions, in
    [-1, 1] units, under a policy as exp Q: A log 2 (Box) or log A (Discrete) where all actions are worth the same, and
    never below the entropy of the log's own policy; a threshold has to be between these two, or the weight goes to 0 or
    without end. For Box actions the sum is an estimate, which is too low by up to log 3 where the actor, which two
    thirds of the samples are from, is narrow: leave as much below A log 2. That of the paper, 5 or 10, is for its
    rewards and for a gap without the -log of the number of samples.

    The arguments that are not here are those of `SoftLearner`.

    Args:
        conservatism: weight of the gap, for rewards of spread 1; the more, the nearer the policy stays to the log.
            Where it is tuned, what it begins with.
        samples: actions of each of three kinds: uniform, the actor's at obs and at next_obs. Box only.
        threshold: the gap that the weight is tuned for; None for a fixed weight.
        conservatism_lr: learning rate of log w.

    Raises:
        ValueError: threshold is not finite, conservatism is negative, or not positive where it is tuned, or samples is
            below 1.
    """

    imagines = False

    def __init__(
        self,
        spec: Spec,
        *,
        hidden: Sequence[int] = (256, 256, 256),
        conservatism: float = 5.0,
        samples: int = 10,
        threshold: float | None = None,
        conservatism_lr: float = 3e-4,
        **agent: Any,
    ) -> None:
        check_conservatism(conservatism, samples)
        super().__init__(spec, hidden=hidden, **agent)
        self.conservatism, self.samples, self.threshold = conservatism, samples, threshold
        self.agent.soft_backup = False
        if threshold is not None:
            if not math.isfinite(threshold):
                raise ValueError(
                    f"threshold is {threshold}, expected a gap to keep to, or None for a fixed conservatism"
                )
            if not conservatism > 0:
                raise ValueError(f"conservatism is {conservatism}, expected more than 0 to tune it from")
            self.log_weight = nn.Parameter(torch.tensor(math.log(conservatism)))
            self.optimizers["conservatism"] = Adam([self.log_weight], conservatism_lr, fused=True)

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del imagined, simulator
        if self.threshold is None:
            return conservative_update(self.agent, real, len(real.reward), self.conservatism, self.samples, rng)
        with torch.no_grad():
            # the weight itself, so that it can come down at once; clamping in place cannot be mapped over a population
            self.log_weight.copy_(self.log_weight.clamp(max=math.log(MOST)))
        weight = self.log_weight.detach().exp()
        metrics = conservative_update(self.agent, real, len(real.reward), weight, self.samples, rng)
        descend(self.optimizers["conservatism"], -self.log_weight * (metrics["gap"] - self.threshold))
        return {**metrics, "conservatism": weight}
