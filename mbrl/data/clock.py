"""Time stamps of an episode: evenly spaced, put on a grid by a stated rule, or refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mbrl.data.episodes import Rows
from mbrl.data.schema import Schema

JITTER = 0.1  # of the period, by which a step may differ from it


def uneven(rows: Rows, period: float, stated: bool) -> str | None:
    """Why the rows of an episode are not one `period` apart, naming the first that is not; None where they are.

    A period that is not `stated` is that of the first episode.
    """
    assert rows.time is not None
    steps = np.diff(rows.time.astype(np.float64))
    odd = np.flatnonzero(np.abs(steps - period) > JITTER * period)
    if not len(odd):
        return None
    row, name = int(odd[0]) + 1, rows.columns["time"][0]
    if not steps[row - 1]:
        return (
            f"{rows.at(rows.first + row)} has the same time as the row before it in {name!r} (so have"
            f" {int((steps == 0).sum())} rows of this episode): remove the repetitions, or give `period` and `max_gap`"
            " with `resample: last` or `linear`, which do without them"
        )
    whose = "" if stated else ", as in the first episode: state `period` if it is another"
    return (
        f"{rows.at(rows.first + row)} is {steps[row - 1]:.6g} after the row before it in {name!r}, and the period is "
        f"{period:.6g}{whose} ({len(odd)} of {len(steps)} steps of this episode differ): state `max_gap`, beyond which "
        "an episode ends, and `period` with `resample: last` or `linear`, or leave `time` out of the schema"
    )


def resampled(rows: Rows, schema: Schema) -> Rows:
    """An episode on the grid that begins with its first row, by the rule of the schema.

    A terminal beyond the last point of the grid gets a point of its own, so that no end is lost. `first` keeps the
    file's row of the episode's beginning.
    """
    assert rows.time is not None
    assert schema.period is not None
    time = (rows.time - rows.time[0]).astype(np.float64)
    steps = time[-1] / schema.period
    whole = np.floor(steps + JITTER)
    extra = rows.terminated[-1] and steps - whole > JITTER
    grid = np.arange(int(whole) + 1 + int(extra)) * schema.period
    room = JITTER * schema.period  # a row that is late by less than the jitter belongs to its point
    last = np.searchsorted(time, grid + room, side="right") - 1
    obs = rows.obs[last]
    if schema.resample == "linear":
        free = [k for k, name in enumerate(rows.columns["obs"]) if name not in rows.held]
        obs = np.array(obs, np.float64)
        obs[:, free] = np.column_stack([np.interp(grid, time, rows.obs[:, k]) for k in free])
    ends = np.zeros(len(grid), bool)
    ends[-1] = True
    return replace(
        rows,
        obs=obs,
        action=rows.action[last],
        reward=_averaged(rows.reward, last),
        cost=_averaged(rows.cost, last),
        terminated=ends & rows.terminated[-1],
        truncated=ends & rows.truncated[-1],
        episode=None if rows.episode is None else np.repeat(rows.episode[:1], len(grid)),
        time=grid + rows.time[0],
    )


def _averaged(column: np.ndarray | None, last: np.ndarray) -> np.ndarray | None:
    """Mean of the rows from a point's own row until the next point's; its own row alone where there is no other."""
    if column is None:
        return None
    total = np.concatenate([[0.0], np.cumsum(column, dtype=np.float64)])
    until = np.append(last[1:], last[-1] + 1)
    until = np.maximum(until, last + 1)
    return (total[until] - total[last]) / (until - last)
