"""TD3+BC: an actor that climbs the critics and imitates the log at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrl.core import Batch, Learner, Policy, Spec, World
from policies.actors import require
from policies.td3 import DelayedActorCritic


class TD3BC(Learner):
    """TD3+BC (Fujimoto & Gu 2021, "A Minimalist Approach to Offline Reinforcement Learning", eq. 3 to 5). Box actions.

    The actor's loss is -lambda Q(s, pi(s)) + |pi(s) - a|^2 / A with lambda = alpha / mean |Q|, a constant in each
    step, so that alpha means the same whatever the returns are. Actions are in [-1, 1] units, observations are
    standardised. Q is the smallest of the critics; the authors' code climbs the first one.

    An update is `delay` steps of the critics, each on its share of the rows, and one of the actor: see
    `DelayedActorCritic`. The paper's million steps on 256 rows are 500,000 updates with a batch_size of 512.

    Args:
        alpha: weight of the value against imitation; 0 is behaviour cloning.
        See `DelayedActorCritic` for the others.

    Raises:
        ValueError: the log's actions are Discrete, `alpha` is negative, or `delay` is below 1.
    """

    imagines = False

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int] = (256, 256),
        alpha: float = 2.5,
        critics: int = 2,
        layer_norm: bool = False,
        discount: float = 0.99,
        tau: float = 0.005,
        delay: int = 2,
        noise: float = 0.2,
        noise_limit: float = 0.5,
        actor_lr: float = 3e-4,
        critic_lr: float = 3e-4,
    ) -> None:
        super().__init__(spec)
        require(spec, False, "TD3BC", "policies.CQL or policies.SAC")
        if not alpha >= 0:
            raise ValueError(f"alpha is {alpha}, expected 0 (imitation) or more")
        self.alpha = alpha
        self.agent = DelayedActorCritic(
            spec,
            hidden=hidden,
            critics=critics,
            layer_norm=layer_norm,
            discount=discount,
            tau=tau,
            delay=delay,
            noise=noise,
            noise_limit=noise_limit,
            actor_lr=actor_lr,
            critic_lr=critic_lr,
        )
        self.optimizers = self.agent.optimizers

    @property
    def policy(self) -> Policy:
        return self.agent.actor

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
