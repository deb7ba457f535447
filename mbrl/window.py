"""The window that a policy and a model read where one observation is not enough (delays, velocities not logged).

With a history of k the channels of a window are, newest first, o_t, o_{t-1} ... o_{t-k+1}, a_{t-1} ... a_{t-k+1}. So
the first F channels are the observation as the plant gives it: whatever reads those channels (a rule for terminals, a
reward, a known structure) is the same with and without a history, and a history of 1 is the observation itself.

Axis letters as in `mbrl.core`; F channels of a plain observation, O = k F + (k - 1) A of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor, nn

from mbrl.core import Policy, Spec


@final
@dataclass(frozen=True)
class Window:
    """How a window begins, and how it goes on. Every part of the house that makes one makes it here.

    An episode begins with its first observation in the place of all older ones, and with the neutral action in the
    place of the earlier ones: 0, or the bound next to it, for a Box; no choice at all, a row of zeros, for Discrete.
    So a policy answers from the first observation on, and no logged row is lost; a learner sees such beginnings in the
    log and knows them from what follows.
    """

    history: int  # k, at least 1
    frame: int  # F
    neutral: tuple[float, ...]  # [A]

    @classmethod
    def made(cls, history: int, frame: int, discrete: bool, low: Sequence[float], high: Sequence[float]) -> Self:
        """The window of a problem with action bounds `low` and `high` [A].

        Raises:
            ValueError: history is below 1.
        """
        if history < 1:
            raise ValueError(f"history is {history}, expected at least 1, which is the newest observation alone")
        bounds = zip(low, high, strict=True)
        return cls(history, frame, tuple(0.0 if discrete else min(max(0.0, a), b) for a, b in bounds))

    @classmethod
    def of(cls, spec: Spec) -> Self:
        """The window that networks built for `spec` read."""
        return cls.made(spec.history, spec.frame_dim, spec.discrete, spec.action_low, spec.action_high)

    @property
    def width(self) -> int:
        """O, channels of a window."""
        return self.history * self.frame + (self.history - 1) * len(self.neutral)

    def begin(self, obs: Tensor) -> Tensor:
        """The window [..., O] with which an episode begins whose first observation is obs [..., F]."""
        actions = obs.new_tensor(self.neutral * (self.history - 1)).expand(*obs.shape[:-1], -1)
        return torch.cat([obs] * self.history + [actions], -1)

    def shift(self, window: Tensor, action: Tensor, obs: Tensor) -> Tensor:
        """The window [..., O] after `window` [..., O], where `action` [..., A] was taken and led to `obs` [..., F].

        Axes that `action` does not have, those of members for instance, are alike for all of them.
        """
        if self.history == 1:
            return obs
        frames = self.history * self.frame
        older, actions = window[..., : frames - self.frame], window[..., frames : window.shape[-1] - len(self.neutral)]
        return torch.cat([obs, older, action.expand(*window.shape[:-1], -1), actions], -1)


@final
class Remembering(nn.Module):
    """A policy that is given plain observations, with what it has to remember of each row passed in and out.

    The past [B, O - F] of a row is its window without the newest observation: of width 0 where the history is 1.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.window = Window.of(policy.spec)

    def forward(self, obs: Tensor, past: Tensor, began: Tensor) -> dict[str, Tensor]:
        """Act by the mode, as it is served.

        Args:
            obs: [B, F] newest observations.
            past: [B, O - F] as of the last call for the same row; not read where `began`.
            began: [B] bool, whether an episode begins with this observation.

        Returns:
            action, [B, A] or (Discrete) [B] int64, and the past [B, O - F] for the next call.
        """
        window = torch.where(began.unsqueeze(-1), self.window.begin(obs), torch.cat([obs, past], -1))
        action: Tensor = self.policy(window)
        taken = action
        if self.policy.spec.discrete:
            choices = torch.arange(self.policy.spec.action_dim, device=obs.device)
            taken = (action.unsqueeze(-1) == choices).to(obs.dtype)
        return {"action": action, "past": self.window.shift(window, taken, obs)[..., self.window.frame :]}


@final
class Shortened(Policy):
    """A policy of a short history that is given longer windows: it acts on their newest part.

    So it can be asked about the same rows as policies that look back further. It is not for a registry, whose policies
    keep their own windows.

    Args:
        policy: with a history of at least 1.
        history: of the windows, at least as long.

    Raises:
        ValueError: the windows are shorter than the policy's own.
    """

    def __init__(self, policy: Policy, history: int) -> None:
        own = policy.spec
        if history < own.history:
            raise ValueError(f"history is {history}, expected at least {own.history}, what the policy looks back to")
        super().__init__(_looking_back(own, history))
        self.policy = policy

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        return self.policy.act(self.newest(obs), rng)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor | None:
        return self.policy.log_prob(self.newest(obs), action)

    def newest(self, window: Tensor) -> Tensor:
        """Of windows [..., O] what the policy reads, in its order."""
        own, frame, begin = self.policy.spec, self.spec.frame_dim, self.spec.history * self.spec.frame_dim
        seen, taken = own.history * frame, (own.history - 1) * own.action_dim
        return torch.cat([window[..., :seen], window[..., begin : begin + taken]], -1)


def _looking_back(spec: Spec, history: int) -> Spec:
    """The spec of windows of another history of the same plant, with the moments of single observations."""
    frame, more = spec.frame_dim, history - 1

    def wide(name: str, action: tuple[float, ...]) -> tuple[float, ...]:
        values: tuple[float, ...] = getattr(spec, name)
        return values[:frame] * history + action * more

    zeros, ones = (0.0,) * spec.action_dim, (1.0,) * spec.action_dim
    return replace(
        spec,
        history=history,
        obs_dim=history * frame + more * spec.action_dim,
        obs_mean=wide("obs_mean", spec.action_mean),
        obs_std=wide("obs_std", spec.action_std),
        obs_low=wide("obs_low", spec.action_low),
        obs_high=wide("obs_high", spec.action_high),
        delta_mean=wide("delta_mean", zeros),
        delta_std=wide("delta_std", ones),
    )
