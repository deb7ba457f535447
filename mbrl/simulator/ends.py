"""When a simulated world ends, and what that pays: both are told from the whole next observation, once it is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.core import Dynamics, Prediction, Spec
from mbrl.limits import answered, asked
from mbrl.simulator.dealing import Deal, own_states, rows_of

Termination = Callable[[Tensor, Tensor, Tensor], Tensor]  # obs, action, next_obs -> bool [B]
Clip = Callable[[Tensor], Tensor]


class Ends(NamedTuple):
    """Of a simulator: by its rule, by the head of its model, or never.

    Where the log's ends pay another kind of reward (`Spec.end_reward`), a model predicts that of a step after which the
    world goes on, and beside it what an end would pay (`Dynamics.end_pay`). Which of the two it is hangs on the very
    transition: on noise, on a flag that is drawn, on channels that are copied, replayed or computed. Told from a mean
    that knows none of these, trips were free.
    """

    dynamics: Dynamics
    spec: Spec
    rule: Termination | None

    def by_rule(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor | None:
        """Whether transitions [..., O] end the world by the rule, [...] bool; None where there is none.

        A rule is of the plant, and reads its plain observations: the newest ones of a window.

        Raises:
            ValueError: it returns anything else.
        """
        if self.rule is None:
            return None
        width = self.spec.frame_dim
        found = asked("simulator.termination", self.rule, obs[..., :width], action, next_obs[..., :width])
        return answered("simulator.termination", self.rule, found, next_obs.shape[:-1], boolean=True)

    def chance(
        self, obs: Tensor, action: Tensor, next_obs: Tensor, members: Tensor | None, hidden: Tensor | None
    ) -> Tensor:
        """Probability [E', B] that the world ends with transitions, by members; shapes as in `Dynamics.predict`."""
        ruled = self.by_rule(obs, action, next_obs)
        count = self.dynamics.members if members is None else len(members)
        if ruled is not None:
            return ruled.to(obs.dtype).expand(count, obs.shape[-2])
        if not self.spec.terminals:
            return obs.new_zeros(count, obs.shape[-2])
        return self.dynamics.termination(obs, action, next_obs, members, hidden)

    def settled(
        self,
        said: Prediction,
        obs: Tensor,
        action: Tensor,
        next_obs: Tensor,
        members: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Prediction:
        """What members say of transitions whose next observation is known: a reward's mean and std are of both cases.

        A mixture's moments: r + p (e - r), and (1 - p) s^2 + p t^2 + p (1 - p) (e - r)^2, of reward r with std s, what
        an end pays e with std t, and its probability p.
        """
        pay = self.dynamics.end_pay(obs, action, next_obs, members, hidden)
        if pay is None:
            return said
        chance, (mean, std) = self.chance(obs, action, next_obs, members, hidden), pay
        apart = mean - said.reward
        variance = (1 - chance) * said.reward_std.square() + chance * std.square()
        variance = variance + chance * (1 - chance) * apart.square()
        return said._replace(reward=said.reward + chance * apart, reward_std=variance.sqrt())

    def drawn(
        self,
        obs: Tensor,
        action: Tensor,
        next_obs: Tensor,
        reward: Tensor,
        deal: Deal,
        hidden: Tensor | None,
        clip: Clip,
        rng: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """The reward and whether the world ended, [B] each, by the member that each row is dealt to.

        `reward` is that of a world that goes on, `clip` keeps another one within the range of the log.
        """
        ruled = self.by_rule(obs, action, next_obs)
        learned, apart = ruled is None and self.spec.terminals, self.dynamics.ends_apart
        terminated = torch.zeros_like(reward, dtype=torch.bool) if ruled is None else ruled
        if not learned and not apart:
            return reward, terminated
        states = own_states(hidden, deal.members, deal.rows)
        before, did, after = (rows_of(column, deal.rows) for column in (obs, action, next_obs))
        if learned:
            chance = _of_rows(self.dynamics.termination(before, did, after, deal.members, states), deal)
            terminated = torch.rand(chance.shape, generator=rng, device=chance.device) < chance
        pay = self.dynamics.end_pay(before, did, after, deal.members, states)
        if pay is None:
            return reward, terminated
        mean, std = (_of_rows(column, deal) for column in pay)
        paid = mean + std * torch.randn(mean.shape, generator=rng, device=mean.device)
        return torch.where(terminated, clip(paid), reward), terminated


def _of_rows(column: Tensor, deal: Deal) -> Tensor:
    """What members [K, C] say of the rows that they are dealt, in the order of the rows, [B]."""
    return column.flatten().index_select(0, deal.slots)
