"""ReBRAC: TD3+BC whose actor and critics are held near the log by penalties of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mbrl.core import Batch, Spec, World
from policies.actors import require
from policies.td3 import DelayedLearner


class ReBRAC(DelayedLearner):
    """ReBRAC (Tarasov et al. 2023, "Revisiting the Minimalist Approach to Offline Reinforcement Learning", eq. 3, 4).
    Box actions.

    TD3+BC with deeper networks, LayerNorm in the critics, larger batches, and two penalties in place of one. Actor:
    actor_penalty |pi(s) - a|^2 - Q(s, pi(s)) / mean |Q|. Critics: their target is
    r + discount (min_k slow Q_k(s', a') - critic_penalty |a' - b|^2), a' the slow actor's smoothed action and b the
    action that was logged at s', in the next row of the episode. A row with which the world ended needs none; the last
    row of an episode that was cut has none, and is left out, as in the authors' data.

    An update is `delay` steps of the critics, each on its share of the rows, and one of the actor: see
    `DelayedActorCritic`. The paper's million steps on 1024 rows are 500,000 updates with a batch_size of 2048.

    The arguments that are not here are those of `DelayedLearner`.

    Args:
        actor_penalty: beta_1 of the paper, which chooses it for each data set, from 0.0005 to 1.
        critic_penalty: beta_2, from 0 to 0.5 there, here for rewards of spread 1.

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
        **agent: Any,
    ) -> None:
        require(spec, False, "ReBRAC", "policies.CQL or policies.SAC")
        for name, value in (("actor_penalty", actor_penalty), ("critic_penalty", critic_penalty)):
            if not value >= 0:
                raise ValueError(f"{name} is {value}, expected 0 (none) or more")
        super().__init__(spec, hidden=hidden, layer_norm=layer_norm, actor_lr=actor_lr, critic_lr=critic_lr, **agent)
        self.actor_penalty, self.critic_penalty = actor_penalty, critic_penalty

    def study(self, real: Batch, ends: Tensor | None) -> Batch:
        """Of each row two [N, 2, ...]: itself and the next one of its episode; after a terminated one, itself again.

        In the place of the last row of an episode that was cut stands the lesson of the row before it; in that of an
        episode of a single row that of another row, of each in turn, so that none weighs much more than others.

        Raises:
            ValueError: no `ends`, or no row is followed by another.
        """
        if ends is None:
            raise ValueError("ReBRAC reads the next logged action: give `ends`, the last row of each episode")
        usable = ~ends | real.terminated
        if not bool(usable.any()):
            raise ValueError(
                "every episode of this log is one row that was cut, so no next action was logged: use policies.TD3BC"
            )
        row = torch.arange(len(ends), device=ends.device) - (~usable).long()
        lessons, alone = usable.nonzero().squeeze(-1), (~usable & ends.roll(1)).nonzero().squeeze(-1)
        row[alone] = lessons[torch.arange(len(alone), device=ends.device) % len(lessons)]
        following = torch.where(ends[row], row, row + 1)
        return Batch(*(torch.stack([column[row], column[following]], 1) for column in real))

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        del imagined, simulator
        rows = Batch(*(column[:, 0] for column in real))
        shares = self.agent.shares(rows)
        logged = self.agent.critics.bounds.unscale(real.action[:, 1]).tensor_split(self.agent.delay)
        for share, following in zip(shares, logged, strict=True):
            after = self.agent.next_action(share.next_obs, rng)
            distance = (after - following).square().sum(-1)
            metrics = self.agent.improve_critics(share, after, self.critic_penalty * distance)
        metrics |= self.agent.improve_actor(shares[-1], 1.0, self.actor_penalty)
        self.agent.follow()
        return {**metrics, "next_distance": distance.mean()}
