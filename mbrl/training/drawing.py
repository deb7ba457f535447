"""The logged rows that updates of a learner are drawn from."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from mbrl.core import NOTHING, Batch, Learner, rows_at
from mbrl.data.source import Source
from mbrl.training.filtering import best_rows


@final
class Logged:
    """Rows of one group of a source at a time, on the learner's device; the next group comes when all were drawn once.

    A learner that makes lessons of whole episodes (`Learner.study`) or learns from the best of them has all rows at
    once, and so has a simulator that replays the log.

    Args:
        source: of the rows.
        learner: which is given them.
        best: the share of the rows to draw from, see `best_rows`.
        drawn: logged rows an update.
        begun: logged rows that rollouts begin with, an update.
        replayed: whether rollouts need to know which row of the log they begin with.
        device: of the rows.
    """

    real: Batch  # [n, ...] as logged

    def __init__(
        self,
        source: Source,
        learner: Learner,
        best: float,
        drawn: int,
        begun: float,
        replayed: bool,
        device: torch.device,
    ) -> None:
        self.groups = 1 if learner.studies or best < 1 or replayed else source.groups
        self.source, self.learner, self.best, self.drawn, self.device = source, learner, best, drawn, device
        self.turn = math.ceil(source.rows / self.groups / max(1, drawn + begun))  # updates that use a group's rows once
        self.number: int | None = None

    def reach(self, update: int) -> None:
        """Have the rows that this update, counted from 0, is drawn from."""
        number = 0 if self.groups == 1 else update // self.turn
        if number == self.number:
            return
        self.real = self.lessons = NOTHING  # the old ones go before the new ones come
        rows, _, ends = self.source.whole() if self.groups == 1 else self.source.group(number)
        self.number, self.real = number, Batch(*(column.to(self.device) for column in rows))
        ends = None if ends is None else ends.to(self.device)
        self.pool = best_rows(self.real.reward, ends, self.best)
        self.lessons = self.learner.study(self.real, ends)

    def draw(self, rng: torch.Generator) -> Batch:
        """An update's logged rows [drawn, ...], uniformly and with replacement."""
        size = len(self.lessons.reward) if self.pool is None else len(self.pool)
        chosen = torch.randint(size, (self.drawn,), generator=rng, device=self.device)
        return rows_at(self.lessons, chosen if self.pool is None else self.pool[chosen])

    def starts(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Logged states [count, O] that rollouts begin with, and their rows [count] long."""
        index = torch.randint(len(self.real.reward), (count,), generator=rng, device=self.device)
        return self.real.obs[index], index
