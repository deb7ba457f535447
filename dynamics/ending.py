"""What the end of the world pays, where that is of another kind than the reward of a step: a goal, or a trip."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynamics import functional
from dynamics.parts import BatchedMLP, Normaliser, TerminationHead
from mbrl.core import Batch, Dynamics, Spec

LOG_VARIANCE = (-10.0, 2.0)  # bounds, in units of the spread of what ends paid


class EndReward(nn.Module):
    """A Gaussian of the reward with which the world ends, a small network per member that reads a whole transition.

    Of thousands of rows only the last one of an episode has such a reward. To a network that is to say both kinds it is
    noise, by likelihood; here, as in a hurdle model (Cragg 1971), the rows in which the world went on teach one, those
    in which it ended the other, and which of them a transition is paid by hangs on whether the world ends with it.

    Args:
        spec: of a log whose `end_reward` is not ().
        members: E.
        hidden: units of each of the two hidden layers.
        state: channels that the inputs have more, where the model remembers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: Spec, members: int, hidden: int, state: int = 0) -> None:
        super().__init__()
        self.mlp = BatchedMLP(members, [2 * spec.obs_dim + spec.action_dim + state, hidden, hidden, 2])
        mean, std = spec.end_reward
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, inputs: Tensor, next_obs: Tensor, members: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance [E', B] in units of what ends paid; inputs as those of a `TerminationHead`."""
        mean, raw = self.mlp(torch.cat([inputs, next_obs], -1), members).unbind(-1)
        return mean, functional.soft_clamp(raw, *LOG_VARIANCE)

    def loss(self, inputs: Tensor, next_obs: Tensor, reward: Tensor, terminated: Tensor) -> Tensor:
        """Twice the negative log-likelihood of the rewards of ends, by the number of all rows, [E]; for [E, B, ...]."""
        mean, log_variance = self(inputs, next_obs)
        error = (reward - self.mean) / self.std - mean
        each = error.square() * (-log_variance).exp() + log_variance
        return each.where(terminated, 0.0).mean(-1)

    def pay(self, inputs: Tensor, next_obs: Tensor, members: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and std [E', B] of what ends pay, in the reward's unit; inputs as in `forward`."""
        mean, log_variance = self(inputs, next_obs, members)
        return mean * self.std + self.mean, (0.5 * log_variance).exp() * self.std


def end_reward(spec: Spec, members: int, head: nn.Module | None, hidden: int, state: int = 0) -> EndReward | None:
    """Where the log's ends pay another kind of reward, and a head says when they come; None elsewhere."""
    return EndReward(spec, members, hidden, state) if spec.end_reward and head is not None else None


def loss_of_ends(
    head: TerminationHead | None, reward: EndReward | None, inputs: Tensor, next_obs: Tensor, batch: Batch
) -> Tensor | float:
    """What the heads cost each member, [E], for a batch [E, B, ...]: when the world ends, and what that pays."""
    if head is None:
        return 0.0
    loss = head.loss(inputs, next_obs, batch.terminated)
    return loss if reward is None else loss + reward.loss(inputs, next_obs, batch.reward, batch.terminated)


class Ending(Dynamics):
    """A model whose heads read a whole transition: when the world ends, and what that pays."""

    normaliser: Normaliser
    head: TerminationHead | None
    end_reward: EndReward | None

    def termination(
        self,
        obs: Tensor,
        action: Tensor,
        next_obs: Tensor,
        members: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Probability that the world ends with this transition; see `Dynamics.termination`."""
        if self.head is None:
            return super().termination(obs, action, next_obs, members, hidden)
        return self.head(*self._transition(obs, action, next_obs, members, hidden), members).sigmoid()

    def end_pay(
        self,
        obs: Tensor,
        action: Tensor,
        next_obs: Tensor,
        members: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor] | None:
        """What the end of the world pays with this transition; see `Dynamics.end_pay`."""
        if self.end_reward is None:
            return super().end_pay(obs, action, next_obs, members, hidden)
        return self.end_reward.pay(*self._transition(obs, action, next_obs, members, hidden), members)

    def _transition(
        self, obs: Tensor, action: Tensor, next_obs: Tensor, members: Tensor | None, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What heads read: inputs and the next observation, normalised."""
        del members, hidden
        return self.normaliser.inputs(obs, action), self.normaliser.obs(next_obs)
