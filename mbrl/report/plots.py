"""Pictures of a run: imagined rollouts over the log they start from, and returns with their intervals.

Every function writes one file, whole or not at all; its suffix (.png, .svg, .pdf) is its format.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import ArrayLike

from mbrl.report import style

MAX_COLUMNS, MAX_CHANNELS = 4, 12
RETURN_LABEL = "return (undiscounted, per episode)"


class Fan(NamedTuple):
    """Imagined rollouts that start from one logged observation."""

    episode: int  # its number in the log, for the title
    logged: ArrayLike  # [T, O] the observations of the whole episode
    start: int  # the step of `logged` that the rollouts start from
    imagined: Sequence[ArrayLike]  # each [H, O]: what is imagined for steps start + 1 ... start + H


class Interval(NamedTuple):
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float


def plot_rollouts(path: Path, fans: Sequence[Fan], channels: Sequence[str]) -> None:
    """Draw imagined rollouts over the logged episodes that they start from: a row per channel, a column per start.

    A rollout that is shorter than the longest one of its fan ends in a cross: it terminated there. Of more than
    `MAX_CHANNELS` channels the first ones are drawn, and the title says so. A strip says how many of its values are
    not finite.

    Args:
        path: the file to write.
        fans: 1 to `MAX_COLUMNS` start states with their rollouts.
        channels: [O] names of the observation's channels.

    Raises:
        ValueError: a shape or a start step does not fit, or there is nothing to draw.
        OSError: the file cannot be written; an older one is untouched.
    """
    if not 1 <= len(fans) <= MAX_COLUMNS:
        raise ValueError(f"there are {len(fans)} fans of rollouts, expected 1 to {MAX_COLUMNS}")
    if not channels:
        raise ValueError("there are no channel names, expected one for each channel of the observation")
    checked = [(fan, *_arrays(fan, len(channels))) for fan in fans]
    shown = channels[:MAX_CHANNELS]
    part = f" (first {len(shown)} of {len(channels)} channels)" if len(shown) < len(channels) else ""
    figure = style.new_figure(2.6 + 3.6 * len(fans), 2.1 + 1.15 * len(shown), f"Imagined rollouts over the log{part}")
    grid = figure.subplots(len(shown), len(fans), sharex="col", squeeze=False)
    for column, (fan, logged, imagined) in enumerate(checked):
        for row in range(len(shown)):
            _draw_strip(grid[row, column], logged[:, row], fan.start, [rollout[:, row] for rollout in imagined])
        grid[0, column].set_title(f"episode {fan.episode}, from step {fan.start}", fontsize=style.MEDIUM)
        grid[-1, column].set_xlabel("step of the logged episode", fontsize=style.MEDIUM)
    for row, name in enumerate(shown):
        grid[row, 0].set_ylabel(
            textwrap.fill(name, 24), fontsize=style.MEDIUM, rotation=0, ha="right", va="center", labelpad=9
        )
    figure.align_ylabels(grid[:, 0])
    handles = [
        Line2D([], [], color=style.BLACK, lw=1.8, label="logged"),
        Line2D([], [], color=style.BLACK, marker="|", ms=12, mew=1.8, ls="", label="logged end"),
        Line2D([], [], color=style.BLACK, marker="o", ls="", label="start"),
        Line2D([], [], color=style.BLUE, lw=1.2, label="imagined, under the learned policy"),
        Line2D([], [], color=style.RED, marker="x", mew=1.8, ls="", label="imagined termination"),
    ]
    ncols = 5 if len(fans) > 2 else len(fans) + 1
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, fontsize=style.MEDIUM, frameon=False)
    style.write(figure, path)


def plot_returns(
    path: Path,
    logged: ArrayLike,
    simulated: Mapping[str, Interval],
    true: Mapping[str, Interval] | None = None,
    title: str = "Returns",
    coverage: float = 0.95,
) -> None:
    """Draw the evidence of a run in one picture: the logged returns, and each policy's value with its interval.

    Args:
        path: the file to write.
        logged: [N] returns of the logged episodes.
        simulated: values in the second simulator, by the policy's name.
        true: values measured in the true environment, where it is known.
        title: what is on trial, and the verdict.
        coverage: of the intervals.

    Raises:
        ValueError: there is no finite logged return, there is no value to show, or an interval does not hold its value.
        OSError: the file cannot be written; an older one is untouched.
    """
    returns = np.asarray(logged, dtype=float)
    if returns.ndim != 1 or not np.isfinite(returns).any():
        raise ValueError(f"logged returns have shape {returns.shape}, expected [N] with at least one finite value")
    rows = [(f"{name}\nin the second simulator", style.BLUE, "o", value) for name, value in simulated.items()]
    rows += [(f"{name}\nin the true environment", style.GREEN, "D", value) for name, value in (true or {}).items()]
    if not rows:
        raise ValueError("there is no value to draw beside the logged returns, expected a simulated or a true one")
    for label, _, _, (value, low, high) in rows:
        if low > value or high < value:
            raise ValueError(f"{label!r} has the interval [{low}, {high}], expected one that holds its value {value}")
    figure = style.new_figure(10.5, 3.7 + 0.6 * len(rows), title)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.3, 0.4 + 0.6 * len(rows)])
    mean = _draw_histogram(top, returns)
    style.dress(bottom, grid="x")
    bottom.axvline(mean, color=style.GREY, ls="--", lw=1.4)
    for position, (_, colour, marker, interval) in enumerate(rows):
        draw_interval(bottom, position, interval, colour, marker)
    bottom.set_title(f"Value of each policy, with its {coverage:.0%} interval", fontsize=style.MEDIUM, loc="left")
    bottom.set_yticks(range(len(rows)), [label for label, *_ in rows], fontsize=style.MEDIUM)
    bottom.set_ylim(len(rows) - 0.5, -0.5)
    bottom.set_xlabel(RETURN_LABEL, fontsize=style.MEDIUM)
    bottom.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    style.write(figure, path)


def _arrays(fan: Fan, width: int) -> tuple[style.Floats, list[style.Floats]]:
    """The logged [T, O] and imagined [H, O] observations of a fan, checked."""
    logged = np.asarray(fan.logged, dtype=float)
    imagined = [np.asarray(rollout, dtype=float) for rollout in fan.imagined]
    where = f"of the fan from step {fan.start} of episode {fan.episode}"
    if logged.ndim != 2 or logged.shape[1] != width:
        raise ValueError(f"the logged episode {where} has shape {logged.shape}, expected [T, {width}]")
    if not 0 <= fan.start < len(logged):
        raise ValueError(f"the start {where} lies outside its {len(logged)} observations")
    if not imagined:
        raise ValueError(f"there is no imagined rollout {where}, expected at least one")
    for rollout in imagined:
        if rollout.ndim != 2 or rollout.shape[1] != width or len(rollout) == 0:
            raise ValueError(f"an imagined rollout {where} has shape {rollout.shape}, expected [H >= 1, {width}]")
    return logged, imagined


def _draw_strip(axes: Axes, logged: style.Floats, start: int, imagined: Sequence[style.Floats]) -> None:
    """One channel of one fan, `logged` [T] and each `imagined` [H]: the steps around the rollouts only."""
    horizon = max(len(rollout) for rollout in imagined)
    first, last = max(0, start - horizon), min(len(logged) - 1, start + 2 * horizon)
    lines = [logged[first : last + 1], *imagined]
    axes.axvspan(start, start + horizon, color=style.SKY, alpha=0.13, lw=0)
    axes.plot(np.arange(first, last + 1), style.finite_only(lines[0]), color=style.BLACK, lw=1.8, zorder=3)
    if last == len(logged) - 1:
        axes.plot(last, style.finite_only(logged[last]), color=style.BLACK, marker="|", ms=12, mew=1.8, zorder=3)
    for rollout in imagined:
        line = style.finite_only(np.concatenate([logged[start : start + 1], rollout]))
        axes.plot(np.arange(start, start + len(line)), line, color=style.BLUE, lw=1.2, alpha=0.75, zorder=2)
        if len(rollout) < horizon:
            axes.plot(start + len(rollout), line[-1], color=style.RED, marker="x", mew=1.8, zorder=4)
    axes.plot(start, style.finite_only(logged[start]), color=style.BLACK, marker="o", ms=5, zorder=4)
    if bad := sum(style.count_bad(line) for line in lines):
        axes.set_title(f"{bad} not finite", fontsize=style.SMALL, color=style.RED, loc="right")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    style.dress(axes, grid="both")


def _draw_histogram(axes: Axes, returns: style.Floats) -> float:
    """The distribution of logged returns [N] and their mean, which is returned; says how many are not finite."""
    finite = returns[np.isfinite(returns)]
    mean, bad = float(finite.mean()), style.count_bad(returns)
    axes.hist(finite, bins=int(np.clip(math.sqrt(len(finite)), 5, 40)), color=style.GREY, alpha=0.55, edgecolor="white")
    if len(finite) <= 50:  # so few that a bar may be thinner than a pixel
        axes.plot(finite, np.zeros(len(finite)), color=style.BLACK, marker="|", ms=14, ls="", clip_on=False)
    axes.axvline(mean, color=style.GREY, ls="--", lw=1.4)
    name = f"{len(finite):,} logged episode{'s' * (len(finite) != 1)}, mean return {style.number(mean)} (dashed)"
    axes.set_title(name + (f"; {bad:,} more not finite" if bad else ""), fontsize=style.MEDIUM, loc="left")
    axes.set_ylabel("episodes", fontsize=style.MEDIUM)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    style.dress(axes, grid="x")
    return mean


def draw_interval(axes: Axes, position: int, interval: Interval, colour: str, marker: str) -> None:
    """One row of the lower panel of `plot_returns`: a value with its interval, and both in figures at the right."""
    value, low, high = interval
    good = bool(np.isfinite(interval).all())
    if good:
        bars = [[value - low], [high - value]]
        axes.errorbar(value, position, xerr=bars, fmt=marker, color=colour, ms=8, capsize=5, lw=2)
    text = f"{style.number(value)}  [{style.number(low)}, {style.number(high)}]"
    axes.annotate(text if good else f"not finite: {text}", (1.01, position), xycoords=axes.get_yaxis_transform(),
                  ha="left", va="center", fontsize=style.MEDIUM, color=colour if good else style.RED)  # fmt: skip
