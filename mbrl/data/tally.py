"""What an import counts, and what is told of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mbrl.data.episodes import Rows
from mbrl.data.findings import ROWS_NAMED
from mbrl.data.lastrows import Unpaid
from mbrl.data.logfiles import LogFiles
from mbrl.data.schema import Schema


@dataclass
class Tally:
    """What is counted of a log while its episodes are made."""

    period: float | None
    gaps: int = 0
    apart: float | None = None  # the rows at the first of them
    filled: Counter[str] = field(default_factory=Counter)  # by column, cells that were empty
    unknown: int = 0  # rows left out, as they have an empty cell and no value near enough
    clipped: int = 0  # rows with an action that was brought to its bounds
    outside: dict[str, list[np.ndarray]] = field(default_factory=dict)
    rows: int = 0
    terminals: int = 0
    last_rows: int = 0  # rows that became a final observation only
    lone: int = 0  # terminal rows among them that have no row before them
    latched: int = 0  # terminal rows alone, right after another terminal row
    longest: int = 0  # steps of an episode
    begun: int = 0  # series: what nothing parts but a pause or a file's end
    backward: int = 0  # files that begin before the one before them ends, where no id says that they are another series
    cut: bool = False  # whether `cut_every` has cut something
    series: list[int] = field(default_factory=list)  # of each episode, the number of the one that it is of
    unpaid: Unpaid = field(default_factory=Unpaid)
    returns: list[float] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)

    def outside_of(self, name: str) -> dict[str, Any]:
        """How many rows leave the bounds of a column, and the first of them."""
        found = np.unique(np.concatenate(self.outside[name]))  # two pieces share a row
        return {"count": len(found), "rows": found[:ROWS_NAMED].tolist()}

    def nothing_left(self, schema: Schema) -> str:
        """Why a log has no episode."""
        if self.dropped:
            return f"no episode is left, {len(self.dropped)} were dropped: {self.dropped[:1]}"
        told = "no episode is left, as every row stands alone"
        if self.apart is None:
            return f"{told}: a step needs the row after it, or a `next_observation`"
        key = f"period {schema.period:g}" if schema.max_gap is None else f"max_gap {schema.max_gap:g}"
        return (
            f"{told}: they are {self.apart:g} apart, and by {key} an episode ends at a step longer than"
            f" {schema.gap:g}; both are in the unit of {schema.time!r}, seconds where it holds timestamps"
        )

    def left_bounds(self, files: LogFiles, schema: Schema) -> str:
        """Which columns leave their bounds, where, and what to do."""
        told = []
        for name in self.outside:
            found = self.outside_of(name)
            first = ", ".join(files.at(row) for row in found["rows"][:5])
            low, high = schema.bounds[name]
            told.append(
                f"column {name!r} leaves its bounds [{low:g}, {high:g}] in {found['count']} rows, such as {first}"
            )
        return (
            f"{'; '.join(told)} (rows count from 0): correct the rows or the schema's bounds, or leave their episodes"
            " out with --on-bad-rows drop-episode"
        )


def paused(before: Rows, after: Rows, gap: float | None) -> float | None:
    """The gap in time, where nothing else parts two pieces of the log."""
    if gap is None or before.time is None or after.time is None or not unbroken(before, after):
        return None
    pause = float(after.time[0] - before.time[-1])
    return pause if pause > gap else None


def unbroken(before: Rows, after: Rows) -> bool:
    """Whether a plant goes on, as no flag and no other id says otherwise: a pause, or a new file, is no news of it."""
    return bool(_same(before, after) and not before.terminated[-1] and not before.truncated[-1])


def latched(before: Rows, after: Rows) -> bool:
    """Whether a terminal row stands alone after another one: a flag that stays set ends the world again and again."""
    return bool(
        _same(before, after) and not after.opens and len(after) == 1 and after.terminated[0] and before.terminated[-1]
    )


def backward(before: Rows, after: Rows) -> bool:
    """Whether a file begins before the last one ended, and there are no ids."""
    if before.time is None or after.time is None or after.episode is not None:
        return False
    return after.opens and bool(after.time[0] <= before.time[-1])


def _same(before: Rows, after: Rows) -> bool:
    """Whether ids and times allow it. In a new file time has to go on: ids count within a file, and files of two plants
    overlap. Where there is neither, files are of one series.
    """
    if before.episode is None or after.episode is None:
        return not backward(before, after)
    forward = before.time is not None and after.time is not None and bool(after.time[0] > before.time[-1])
    return bool(before.episode[-1] == after.episode[0]) and (forward or not after.opens)
