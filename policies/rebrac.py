"""ReBRAC: TD3+BC whose actor and critics are held near the log by penalties of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from mbrl.core import Batch, Spec, World
from policies.actors import Deterministic, require
from policies.functional import descend
from policies.td3 import DelayedLearner


class ReBRAC(DelayedLearner):
    """ReBRAC (Tarasov et al. 2023, "Revisiting the Minimalist Approach to Offline Reinforcement Learning", eq. 4).
    Box actions.

    TD3+BC with deeper networks, LayerNorm in the critics, larger batches, and two penalties in place of one. Actor:
    actor_penalty |pi(s) - a|^2 - Q(s, pi(s)) / mean |Q|. Critics: their target is
    r + discount (min_k slow Q_k(s', a') - critic_penalty |a' - b(s')|^2), a' the slow actor's smoothed action.

    In the paper b(s') is the action that was logged at s'. A transition has none, and there is none where a log was cut
    off; here b is the mean logged action at s', from a network that imitates the log beside the others, on the same
    rows. In expectation over the logged actions at s' the two squared distances differ by the variance of these, on
    which the policy has no influence: the paper's penalty also makes states dear in which the log is varied, this one
    does not.

    An update is `delay` steps of the critics, each on its share of the rows, and one of the actor: see
    `DelayedActorCritic`. The paper's million steps on 1024 rows are 500,000 updates with a batch_size of 2048.

    The arguments that are not here are those of `DelayedLearner`.

    Args:
        actor_penalty: beta_1 of the paper, which chooses it for each data set, from 0.0005 to 1.
        critic_penalty: beta_2, from 0 to 0.5 there, here for rewards of spread 1.
        behaviour_lr: learning rate of the network that imitates the log.

    Raises:
        ValueError: the log's actions are Discrete, a penalty is negative, or `delay` is below 1.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        hidden: Sequence[int] = (256, 256, 256),
        actor_penalty: float = 0.05,
        critic_penalty: float = 0.01,
        layer_norm: bool = True,
        actor_lr: float = 1e-3,
        critic_lr: float = 1e-3,
        behaviour_lr: float = 1e-3,
        **agent: Any,
    ) -> None:
        require(spec, False, "ReBRAC", "policies.CQL or policies.SAC")
        for name, value in (("actor_penalty", actor_penalty), ("critic_penalty", critic_penalty)):
            if not value >= 0:
                raise ValueError(f"{name} is {value}, expected 0 (none) or more")
        super().__init__(spec, hidden=hidden, layer_norm=layer_norm, actor_lr=actor_lr, critic_lr=critic_lr, **agent)
        self.actor_penalty, self.critic_penalty = actor_penalty, critic_penalty
        self.behaviour = Deterministic(spec, tuple(hidden))
        self.optimizers["behaviour"] = Adam(self.behaviour.parameters(), behaviour_lr, fused=True)

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del imagined, simulator
        behaviour_loss = self._distance(real.obs, self.agent.critics.bounds.unscale(real.action)).mean()
        descend(self.optimizers["behaviour"], behaviour_loss)
        shares = self.agent.shares(real)
        for share in shares:
            after = self.agent.next_action(share.next_obs, rng)
            with torch.no_grad():
                distance = self._distance(share.next_obs, after)
            metrics = self.agent.improve_critics(share, after, self.critic_penalty * distance)
        metrics |= self.agent.improve_actor(shares[-1], 1.0, self.actor_penalty)
        self.agent.follow()
        return {**metrics, "next_distance": distance.mean(), "behaviour_loss": behaviour_loss.detach()}

    def _distance(self, obs: Tensor, action: Tensor) -> Tensor:
        """|action - b(obs)|^2 [B] of actions [B, A] in [-1, 1] units."""
        return (self.agent.critics.bounds.unscale(self.behaviour.act(obs, None)) - action).square().sum(-1)
