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


@final
class Steps:
    """Updates of a learner and rollouts of its policy, each captured where there is a recorder.

    Args:
        learner: which is improved.
        world: what it has entered; None where nothing is imagined or planned.
        imagines: whether updates are given imagined rows.
        rngs: streams by name, of which `imagination` and `update` are drawn from.
        autocast: the precision, as a context.
        recorder: of both, see `capture`.
        rollout: the horizon and the pessimism of `imagine`.
    """

    def __init__(
        self,
        learner: Learner,
        world: World | None,
        imagines: bool,
        rngs: Mapping[str, torch.Generator],
        autocast: Callable[[], AbstractContextManager[Any]],
        recorder: Recorder | None,
        **rollout: Any,
    ) -> None:
        self.learner, self.world, self.imagines, self.rngs = learner, world, imagines, rngs
        self.autocast, self.rollout = autocast, rollout
        self._imagine, self._update = Captured(self._imagined, recorder), Captured(self._updated, recorder)

    def imagine(self, start: Tensor, rows: Tensor) -> Batch:
        """Rollouts [T, B, ...] of the policy, in eval mode, from logged states [B, O], which are of these rows [B]."""
        self.learner.eval()
        dreamt = self._imagine(start, rows)
        self.learner.train()
        return dreamt

    def update(self, seen: Batch, dreamt: Batch | None) -> dict[str, Tensor]:
        """One update; its metrics hold until the next one."""
        return self._update(*seen, *(dreamt or ()))

    def _imagined(self, start: Tensor, rows: Tensor) -> Batch:
        assert self.world is not None
        with self.autocast():
            rng = self.rngs["imagination"]
            return imagine(self.learner.rehearsing, self.world, start, rng=rng, rows=rows, **self.rollout)

    def _updated(self, *columns: Tensor) -> dict[str, Tensor]:
        seen, dreamt = Batch(*columns[:WIDTH]), Batch(*columns[WIDTH:]) if self.imagines else None
        with self.autocast():
            return self.learner.update(seen, dreamt, self.rngs["update"], self.world)
