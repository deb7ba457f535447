"""Empty cells of a log that is put on a grid: what the rule of the grid says between the rows that have a value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from mbrl.data.episodes import Rows, part
from mbrl.data.schema import Schema


def mended(rows: Rows, schema: Schema) -> tuple[Rows, dict[str, int]]:
    """The rows with empty cells of observation and action filled, as far as the schema's rule allows it.

    `last`: the value of the last row that has one, at most `gap` before. `linear`: of an observation, what lies between
    two rows with a value, at most `gap` apart. Categories and actions always keep the last value. What a column lacks
    in every row stays empty, and so does the action of a last row, which is none.

    Returns:
        the rows, and how many cells were filled in each column.
    """
    assert rows.time is not None
    obs, action, filled = rows.obs.astype(np.float64), rows.action.astype(np.float64), dict[str, int]()
    smooth = schema.resample == "linear"
    for k, name in enumerate(rows.columns["obs"]):
        new = _filled(obs[:, k], rows.time, schema.gap, smooth and name not in rows.held)
        column = name.rpartition("=")[0] if name in rows.held else name  # of a category, all channels are empty at once
        filled[column], obs[:, k] = int((np.isnan(obs[:, k]) & ~np.isnan(new)).sum()), new
    acting = slice(None) if rows.next_obs is not None else slice(len(rows) - 1)
    for k, name in enumerate(rows.columns["action"]):
        new = _filled(action[acting, k], rows.time[acting], schema.gap, False)
        filled[name], action[acting, k] = int((np.isnan(action[acting, k]) & ~np.isnan(new)).sum()), new
    return replace(rows, obs=obs, action=action), {name: count for name, count in filled.items() if count}


def _filled(values: np.ndarray, time: np.ndarray, gap: float | None, smooth: bool) -> np.ndarray:
    """A channel [n] with values where it has none, as far as there are some near enough."""
    empty, most = np.isnan(values), math.inf if gap is None else gap
    there = np.flatnonzero(~empty)
    if not empty.any() or not len(there):
        return values
    after = np.searchsorted(there, np.arange(len(values)))  # which of them comes next; before it is the last one
    before = there[np.maximum(after - 1, 0)]
    if smooth:
        until = there[np.minimum(after, len(there) - 1)]
        near = empty & (after > 0) & (after < len(there)) & (time[until] - time[before] <= most)
        return np.where(near, np.interp(time.astype(np.float64), time[there].astype(np.float64), values[there]), values)
    near = empty & (after > 0) & (time - time[before] <= most)
    return np.where(near, values[before], values)


def known(rows: Rows) -> Iterator[Rows]:
    """The rows in as many parts as are left without those in which an observation or an action is still empty.

    Their neighbours with a value are too far apart, so it is as if nothing had been logged. Where a row with a flag
    would be lost, or a column is empty in every row, nothing is left out: whoever wrote the log has to mend it.
    """
    empty = np.concatenate([np.isnan(rows.obs), np.isnan(rows.action)], axis=1)
    lost = np.logical_or.reduce(empty[:, ~empty.all(0)], axis=1)
    lost[-1] &= np.isnan(rows.obs[-1]).any() or rows.next_obs is not None  # a last row has no action
    if not lost.any() or (lost & (rows.terminated | rows.truncated)).any():
        yield rows
        return
    edges = np.flatnonzero(np.diff(np.concatenate([[True], lost, [True]]).astype(np.int8)))
    for start, end in edges.reshape(-1, 2).tolist():
        yield part(rows, start, end)
