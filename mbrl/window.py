"""The window that a policy and a model read where one observation is not enough (delays, velocities not logged).

With a history of k the channels of a window are, newest first, o_t, o_{t-1} ... o_{t-k+1}, a_{t-1} ... a_{t-k+1}. So
the first F channels are the observation as the plant gives it: whatever reads those channels (a rule for terminals, a
reward, a known structure) is the same with and without a history, and a history of 1 is the observation itself.

Axis letters as in `mbrl.core`; F channels of a plain observation, O = k F + (k - 1) A of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
