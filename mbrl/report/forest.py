"""Forest plots: every policy by every kind of estimator, with its interval; and how estimates met the truth."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from mbrl.report import style
from mbrl.report.plots import Interval, draw_interval

MARKERS = ("o", "s", "D", "^", "v", "P", "X")
COLOURS = (style.GREY, style.ORANGE, style.PURPLE, style.BLUE)  # of the log, the imitation, the champion, the others
COLUMNS = 3  # scatter plots side by side
REASON = 100  # letters of the reason why there is no estimate; the table and the JSON have all of it


class Stand(NamedTuple):
    """One panel: what one kind of estimator says, in one unit."""

    title: str  # the kind, and at which discount
    unit: str  # of the axis
    rows: Mapping[str, Interval]  # by the policy's name, in order
    reference: float | None = None  # a dashed line: what the log earned, or no gain
    missing: Mapping[str, str] = {}  # policies without an estimate, and why


class Cloud(NamedTuple):
    """One panel: estimates of several policies over their true values."""

    title: str
    unit: str
    truth: Sequence[float]
    estimates: Sequence[Interval]


def plot_forest(path: Path, stands: Sequence[Stand], title: str, parties: Sequence[str]) -> None:
    """Draw one panel a kind, one under the other, a row for each policy.

    Args:
        path: the file to write.
        stands: the panels; each has its own axis, as values of different discounts are no comparison.
        title: what is on trial, and the verdict.
        parties: names that have a colour of their own, in the order of `COLOURS`; all others share the last one.

    Raises:
        ValueError: there is no panel, a panel has no row, or an interval does not hold its value.
        OSError: the file cannot be written; an older one is untouched.
    """
    if not stands:
        raise ValueError("there is nothing to draw, expected at least one kind of estimator")
    for stand in stands:
        if not stand.rows and not stand.missing:
            raise ValueError(f"the panel {stand.title!r} has no row, expected at least one policy")
        for name, (value, low, high) in stand.rows.items():
            if low > value or high < value:
                raise ValueError(f"{name!r} in {stand.title!r} has the interval [{low}, {high}] without its {value}")
    counts = [len(stand.rows) + len(stand.missing) for stand in stands]
    figure = style.new_figure(10.5, 1.2 + sum(0.9 + 0.42 * count for count in counts), title)
    grid = figure.subplots(len(stands), 1, squeeze=False, height_ratios=[0.6 + count for count in counts])[:, 0]
    for axes, stand in zip(grid, stands, strict=True):
        _draw_stand(axes, stand, parties)
    style.write(figure, path)


def plot_judges(path: Path, clouds: Sequence[Cloud], title: str) -> None:
    """Draw estimates over true values, a panel for each judge: on the dashed diagonal it is right.

    Raises:
        ValueError: there is no panel, or a panel has no policy.
        OSError: the file cannot be written; an older one is untouched.
    """
    if not clouds or not all(cloud.estimates for cloud in clouds):
        raise ValueError("there is nothing to draw, expected judges with at least one estimate each")
    columns = min(COLUMNS, len(clouds))
    lines = -(-len(clouds) // columns)
    figure = style.new_figure(0.8 + 4.2 * columns, 0.8 + 3.8 * lines, title)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, cloud in zip(grid, clouds, strict=False):
        _draw_cloud(axes, cloud)
    for axes in grid[len(clouds) :]:
        axes.remove()
    style.write(figure, path)


def _draw_stand(axes: Axes, stand: Stand, parties: Sequence[str]) -> None:
    style.dress(axes, grid="x")
    if stand.reference is not None:
        axes.axvline(stand.reference, color=style.GREY, ls="--", lw=1.4)
    names = [*stand.rows, *stand.missing]
    for position, name in enumerate(names):
        place = parties.index(name) if name in parties else len(COLOURS) - 1
        if name in stand.rows:
            draw_interval(axes, position, stand.rows[name], COLOURS[place], MARKERS[place])
        else:
            told = textwrap.shorten(
                f"no estimate: {stand.missing[name]}", REASON, placeholder="\N{HORIZONTAL ELLIPSIS}"
            )
            note = axes.annotate(told, (0.01, position), va="center", fontsize=style.SMALL, color=style.RED,
                                 xycoords=axes.get_yaxis_transform())  # fmt: skip
            note.set_in_layout(False)  # however long the reason is
    axes.set_title(stand.title, fontsize=style.MEDIUM, loc="left")
    axes.set_yticks(range(len(names)), names, fontsize=style.MEDIUM)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(stand.unit, fontsize=style.SMALL)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))


def _draw_cloud(axes: Axes, cloud: Cloud) -> None:
    truth, said = np.asarray(cloud.truth, dtype=float), np.asarray(cloud.estimates, dtype=float)
    style.dress(axes, grid="both")
    ends = np.array([truth.min(), truth.max()])
    axes.plot(ends, ends, color=style.GREY, ls="--", lw=1.4)
    good = np.isfinite(said).all(axis=1)
    bars = np.stack([said[good, 0] - said[good, 1], said[good, 2] - said[good, 0]])
    axes.errorbar(truth[good], said[good, 0], yerr=bars, fmt="o", color=style.BLUE, ms=5, capsize=3, lw=1.2)
    bad = f"; {int((~good).sum())} not finite" if not good.all() else ""
    axes.set_title(cloud.title + bad, fontsize=style.MEDIUM, loc="left")
    axes.set_xlabel(f"true {cloud.unit}", fontsize=style.SMALL)
    axes.set_ylabel("estimate", fontsize=style.SMALL)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
