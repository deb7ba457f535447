"""TD3+BC: an actor that climbs the critics and imitates the log at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl.core import Batch, Spec, World
from policies.actors import require
from policies.td3 import DelayedLearner


class TD3BC(DelayedLearner):
    """TD3+BC (Fujimoto & Gu 2021, "A Minimalist Approach to Offline Reinforcement Learning", eq. 3 to 5). Box actions.

    The actor's loss is -lambda Q(s, pi(s)) + |pi(s) - a|^2 / A with lambda = alpha / mean |Q|, a constant in each
    step, so that alpha means the same on whatever scale returns are; a constant in every reward is part of |Q|, as in
    the paper, and shifts the balance towards imitation. Actions are in [-1, 1] units, observations are
    standardised. Q is the smallest of the critics; the authors' code climbs the first one.

    An update is `delay` steps of the critics, each on its share of the rows, and one of the actor: see
    `DelayedActorCritic`. The paper's million steps on 256 rows are 500,000 updates with a batch_size of 512.

    The arguments that are not here are those of `DelayedLearner`.

    Args:
        alpha: weight of the value against imitation; 0 is behaviour cloning.

    Raises:
        ValueError: the log's actions are Discrete, `alpha` is negative, or `delay` is below 1.
    """

    def __init__(self, spec: Spec, *, alpha: float = 2.5, **agent: Any) -> None:
        require(spec, False, "TD3BC", "policies.CQL or policies.SAC")
        if not alpha >= 0:
            raise ValueError(f"alpha is {alpha}, expected 0 (imitation) or more")
        super().__init__(spec, **agent)
        self.alpha = alpha

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del imagined, simulator
        shares = self.agent.shares(real)
        for share in shares:
            metrics = self.agent.improve_critics(share, self.agent.next_action(share.next_obs, rng))
        metrics |= self.agent.improve_actor(shares[-1], self.alpha, 1 / self.spec.action_dim)
        self.agent.follow()
        return metrics
