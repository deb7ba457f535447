"""Episodes side by side, and which policies can be asked about them."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from mbrl.core import Policy, Spec
from mbrl.data.dataset import TransitionDataset
from mbrl.data.series import Pieces
from mbrl.window import Shortened

BOUND_ROOM = 0.1  # share of the action's range by which a policy's bounds may differ from the log's


class Trajectories(NamedTuple):
    """Whole episodes, padded at their end to the longest one: n episodes, T steps.

    Everything is 0 or False where `valid` is False. One convention holds for ended episodes in every estimator: the
    world stays where it is and pays nothing (an absorbing state). Beyond the end the reward is 0, the likelihood ratio
    of each step is 1, so that an episode's weight stays what it was, and Q = V = 0 where the world ended. Where an
    episode was only cut (truncated), the world went on: V(`final_obs`) stands for what was not logged, once, at the
    first step after the end; with 0 in its place a value is that of the steps that were logged.
    """

    obs: Tensor  # [n, T, O]
    action: Tensor  # [n, T, A]
    reward: Tensor  # [n, T]
    next_obs: Tensor  # [n, T, O]
    terminated: Tensor  # [n, T] bool
    valid: Tensor  # [n, T] bool: a row exists
    propensity: Tensor | None = None  # [n, T] logged log density (Discrete: log probability) of the action
    pieces: Pieces | None = None  # of the episodes; None where all are independent

    @classmethod
    def of(cls, data: TransitionDataset, episodes: Tensor) -> Self:
        """The given episodes ([n] long) of a log, in this order; one may be there twice.

        Raises:
            ValueError: there are no episodes.
        """
        if not len(episodes):
            raise ValueError(f"no episode of {data.id} was given, expected at least one")
        lengths = data.lengths[episodes]
        steps = torch.arange(int(lengths.max()), device=lengths.device)
        valid = steps < lengths.unsqueeze(-1)
        index = (data.first[episodes].unsqueeze(-1) + steps).where(valid, 0)

        def padded(column: Tensor) -> Tensor:
            taken = column[index]
            return taken.where(valid.view(*valid.shape, *[1] * (taken.dim() - 2)), taken.new_zeros(()))

        obs, action, reward = padded(data.obs), padded(data.action), padded(data.reward)
        next_obs, terminated = padded(data.next_obs), padded(data.terminated)
        propensity = None if data.propensity is None else padded(data.propensity)
        return cls(obs, action, reward, next_obs, terminated, valid, propensity, Pieces.of(data, episodes))

    @property
    def lengths(self) -> Tensor:
        """Steps of each episode, [n] long."""
        return self.valid.sum(-1)

    @property
    def final_obs(self) -> Tensor:
        """The observation after each episode's last step, [n, O]."""
        return self.next_obs[torch.arange(len(self.obs), device=self.obs.device), self.lengths - 1]

    @property
    def ended(self) -> Tensor:
        """Whether the world ended with each episode, [n] bool; where not, the episode was cut."""
        return self.terminated[torch.arange(len(self.obs), device=self.obs.device), self.lengths - 1]

    def returns(self, gamma: float) -> Tensor:
        """Discounted return of each episode as far as it was logged, [n] float64; gamma = 1 is undiscounted."""
        return self.reward.double() @ discounts(gamma, self.reward)


def to_the_end(v: Tensor, final: Tensor, seen: Trajectories) -> Tensor:
    """v [n, T + 1] from values of the logged steps [n, T], and of the observation after each episode's last one [n]."""
    return torch.cat([v, torch.zeros_like(v[:, :1])], 1).scatter(1, seen.lengths.unsqueeze(-1), final.unsqueeze(-1))


def discounted_returns(data: TransitionDataset, gamma: float) -> Tensor:
    """Of each episode of a log as far as it was logged, [n] float64, without padding; gamma = 1 is undiscounted."""
    step = torch.arange(len(data), device=data.reward.device) - data.first[data.episode]
    weight = discounts(gamma, data.reward.new_empty(0, int(data.lengths.max())))
    total = torch.zeros(data.episodes, dtype=torch.float64, device=data.reward.device)
    return total.index_add_(0, data.episode, weight[step] * data.reward.double())


def discounts(gamma: float, like: Tensor) -> Tensor:
    """gamma^t for each step of [n, T], as [T] float64 on its device.

    Raises:
        ValueError: gamma is not within [0, 1].
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}, expected a discount factor within [0, 1], where 1 is undiscounted")
    steps = torch.arange(like.shape[1], device=like.device, dtype=torch.float64)
    return torch.as_tensor(gamma, dtype=torch.float64, device=like.device) ** steps


def fitted(policy: Policy, data: TransitionDataset) -> Policy:
    """The policy, at work on the rows of a log: on the newest part of windows that are longer than its own.

    Raises:
        ValueError: as `check_acts_on`.
    """
    if policy.spec.history < data.history and policy.spec.frame_dim == data.frame_dim:
        policy = Shortened(policy, data.history).eval()
    check_acts_on(policy.spec, data)
    return policy


def check_acts_on(spec: Spec, data: TransitionDataset) -> None:
    """Check that a policy made for `spec` can act on the rows of a log.

    Raises:
        ValueError: the spec says otherwise of a field: its name, and both values.
    """
    found = {
        "discrete": data.discrete,
        "history": data.history,
        "obs_dim": data.obs.shape[1],
        "action_dim": data.action.shape[1],
        "exogenous": data.exogenous,
    }
    for name, value in found.items():
        if getattr(spec, name) != value:
            hint = f": give it the log with `data.history {spec.history}`" if name == "history" else ""
            raise ValueError(
                f"the policy's spec does not fit {data.id}: {name} is {getattr(spec, name)}, and the log's {value}"
                + hint
            )
    for name in ("action_low", "action_high"):
        for k, (own, logged) in enumerate(zip(getattr(spec, name), getattr(data, name), strict=True)):
            room = BOUND_ROOM * (data.action_high[k] - data.action_low[k])
            if abs(own - logged) > room:
                raise ValueError(
                    f"the policy's spec does not fit {data.id}: {name} of {data.action_channels[k]} is {own:g}, and the"
                    f" log's {logged:g}: they have other units, or bounds that were read from the logged actions;"
                    " declare action_low and action_high in the schema of both logs"
                )
