"""An average of a module's weights over the last updates: what a fit keeps, and a rehearsal where it is asked for."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


class Average(Generic[Module]):
    """A copy of a module whose weights are an exponential average of those it follows.

    What goes on being improved by noisy gradients walks around what it has found; its average does not
    (Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging"). The first `updates` weights are
    averaged evenly, so that those of the beginning do not linger.

    Args:
        module: to be copied, on its device.
        updates: over how many of them the average is, about: its weights follow by one part in so many.
        past: updates that the module is an average of already; 0 where it has the weights of the beginning.
    """

    def __init__(self, module: Module, updates: int, past: int = 0) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.updates, self.past = updates, past

    @torch.no_grad()
    def follow(self, module: Module, done: int) -> None:
        """Take the weights after update `done` in; buffers are taken as they are."""
        share = 1 / min(self.past + done, self.updates)
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), share)
        for kept, now in zip(self.module.buffers(), module.buffers(), strict=True):
            kept.copy_(now)
