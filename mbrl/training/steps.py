"""The two things that a training of a learner repeats: an update, and a batch of imagined rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, final

import torch
from torch import Tensor

from mbrl.core import Batch, Learner, World
from mbrl.simulator.rollout import imagine
from mbrl.training.capture import Captured, Recorder

WIDTH = len(Batch._fields)
Context = Callable[[], AbstractContextManager[Any]]


@final
class Steps:
    """Updates of a learner and rollouts of its policy, each captured where there is a recorder.

    Args:
        learner: which is improved.
        world: what it has entered; None where nothing is imagined or planned.
        rngs: streams by name, of which `imagination` and `update` are drawn from.
        autocast: the precision, as a context.
        recorder: of both, see `capture`.
        rollout: the horizon and the pessimism of `imagine`.
    """

    def __init__(
        self,
        learner: Learner,
        world: World | None,
        rngs: Mapping[str, torch.Generator],
        autocast: Context,
        recorder: Recorder | None,
        **rollout: Any,
    ) -> None:
        self.learner = learner
        self._imagine = Captured(_imagining(learner, world, rngs["imagination"], autocast, rollout), recorder)
        self._update = Captured(_updating(learner, world, rngs["update"], autocast), recorder)

    def imagine(self, start: Tensor, rows: Tensor) -> Batch:
        """Rollouts [T, B, ...] of the policy, in eval mode, from logged states [B, O], which are of these rows [B]."""
        self.learner.eval()
        dreamt = self._imagine(start, rows)
        self.learner.train()
        return dreamt

    def update(self, seen: Batch, dreamt: Batch | None) -> dict[str, Tensor]:
        """One update; its metrics hold until the next one."""
        return self._update(*seen, *(dreamt or ()))


def _imagining(
    learner: Learner, world: World | None, rng: torch.Generator, autocast: Context, rollout: Mapping[str, Any]
) -> Callable[[Tensor, Tensor], Batch]:
    def imagined(start: Tensor, rows: Tensor) -> Batch:
        assert world is not None
        with autocast():
            return imagine(learner.rehearsing, world, start, rng=rng, rows=rows, **rollout)

    return imagined


def _updating(
    learner: Learner, world: World | None, rng: torch.Generator, autocast: Context
) -> Callable[..., dict[str, Tensor]]:
    def updated(*columns: Tensor) -> dict[str, Tensor]:
        seen, dreamt = Batch(*columns[:WIDTH]), Batch(*columns[WIDTH:]) if columns[WIDTH:] else None
        with autocast():
            usual = torch.is_autocast_cache_enabled()
            torch.set_autocast_cache_enabled(False)  # it would keep weights in bfloat16 as they were before a step
            try:
                return learner.update(seen, dreamt, rng, world)
            finally:  # the context of 32-true restores nothing
                torch.set_autocast_cache_enabled(usual)

    return updated
