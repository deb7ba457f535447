"""An average of a policy's weights over the last updates: what is registered, where it is asked for."""

from __future__ import annotations

import copy

import torch

from mbrl.core import Policy


class Average:
    """A copy of a policy whose weights are an exponential average of those it follows.

    A policy that goes on being improved by noisy gradients walks around what it has found; its average does not
    (Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging"). The first `updates` weights are
    averaged evenly, so that those of the beginning do not linger.

    Args:
        policy: to be copied, on its device.
        updates: over how many of them the average is, about: its weights follow by one part in so many.
    """

    def __init__(self, policy: Policy, updates: int) -> None:
        self.policy = copy.deepcopy(policy).requires_grad_(False).eval()
        self.updates = updates

    @torch.no_grad()
    def follow(self, policy: Policy, done: int) -> None:
        """Take the weights after update `done` in; buffers are taken as they are."""
        share = 1 / min(done, self.updates)
        torch._foreach_lerp_(list(self.policy.parameters()), list(policy.parameters()), share)
        for kept, now in zip(self.policy.buffers(), policy.buffers(), strict=True):
            kept.copy_(now)
