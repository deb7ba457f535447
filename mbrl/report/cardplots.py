"""The pictures of a report card. Each function writes one file, whole or not at all."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from mbrl.report import style
from mbrl.report.plots import MAX_CHANNELS
from mbrl.simulator.openloop import OpenLoop

FOLLOWED = 6  # channels whose trajectories are drawn
LEVEL = "90%"  # of the intervals that are shown per channel


def plot_intervals(path: Path, numbers: Mapping[str, Any]) -> None:
    """Draw whether one-step intervals hold what they promise: over levels, per channel, and as a histogram."""
    one, names = numbers["one_step"], numbers["channels"]
    figure = style.new_figure(13.0, 1.4 + max(3.4, 0.28 * len(names)), "Are its error bars honest, one step ahead?")
    curve, channels, histogram = figure.subplots(1, 3)
    levels = np.array(one["curve"]["levels"])
    curve.plot([0, 1], [0, 1], color=style.GREY, ls="--", lw=1.4, label="exactly honest")
    curve.plot(levels, one["curve"]["scaled"], color=style.ORANGE, lw=1.6, ls=":", label="before recalibration")
    curve.plot(levels, one["curve"]["observed"], color=style.BLUE, lw=2, label="this simulator")
    curve.legend(fontsize=style.SMALL, frameon=False)
    _titled(curve, "Promised against kept", "promised share inside the interval", "share of the log inside")
    curve.yaxis.set_major_formatter(PercentFormatter(1))
    curve.xaxis.set_major_formatter(PercentFormatter(1))
    rows = np.arange(len(names))
    channels.axvspan(0.88, 0.92, color=style.SKY, alpha=0.25, lw=0)
    channels.plot(one["coverage_scaled"][LEVEL], rows, "o", color=style.ORANGE, mfc="none", label="before")
    channels.plot(one["coverage"][LEVEL], rows, "o", color=style.BLUE, label="this simulator")
    channels.set_yticks(rows, [style.short(name, 22) for name in names])
    channels.invert_yaxis()
    channels.xaxis.set_major_locator(MaxNLocator(5))
    channels.xaxis.set_major_formatter(PercentFormatter(1))
    _titled(channels, f"{LEVEL} intervals, per channel", "share of the log inside (blue band: 88% to 92%)", "")
    pit = np.array(one["pit"])
    edges = np.linspace(0, 1, len(pit) + 1)
    histogram.stairs(pit.mean(1) * len(pit), edges, fill=True, color=style.SKY)
    histogram.axhline(1, color=style.GREY, ls="--", lw=1.4)
    _titled(
        histogram, "Where the log falls in the forecast", "below   …   level of the forecast   …   above", "density"
    )
    histogram.set_ylim(bottom=0)
    style.write(figure, path)


def plot_horizon(path: Path, numbers: Mapping[str, Any]) -> None:
    """Draw error and coverage of every channel against the number of steps ahead, and where trust ends."""
    loop, trusted = numbers["open_loop"], numbers["trusted_horizon"]
    share, covered = _floats(loop["share"]), _floats(loop["coverage"])
    steps = np.arange(1, len(share) + 1)
    shown = _first(loop["channels"], trusted["weakest"])
    title = f"How far ahead can it be followed?{_drawn(shown, loop['channels'])}"
    figure = style.new_figure(13.0, 4.6, title)
    left, right = figure.subplots(1, 2)
    for i, channel in enumerate(shown):
        dashes, colour = style.CURVES[i % len(style.CURVES)]
        name = loop["channels"][channel]
        for axes, values in (left, share), (right, covered):
            axes.plot(steps, values[:, channel], ls=dashes, color=colour, lw=1.5, label=style.short(name, 26))
    for axes, limit in (left, trusted["most_share"]), (right, trusted["least_coverage"]):
        axes.axhline(limit, color=style.RED, ls="--", lw=1.4)
        axes.axvspan(0, trusted["steps"], color=style.GREEN, alpha=0.08, lw=0)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlim(0, len(steps) + 0.5)
        axes.set_ylim(bottom=0)
    left.set_ylim(top=min(1.6, max(1.0, float(np.nanmax(share[:, shown])) * 1.05)))
    right.set_ylim(top=1.03)
    right.yaxis.set_major_formatter(PercentFormatter(1))
    _titled(left, "Error, as a share of the channel's spread", "steps ahead (green: trusted)", "error / spread")
    _titled(right, "Logged values inside the 90% band", "steps ahead (green: trusted)", "share inside")
    right.legend(fontsize=style.SMALL, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    style.write(figure, path)


def plot_followed(path: Path, numbers: Mapping[str, Any], followed: OpenLoop, columns: Mapping[str, int]) -> None:
    """Draw logged values over the simulator's band, a row per channel and a column per start.

    Args:
        path: the file to write.
        numbers: of the card.
        followed: the trajectories.
        columns: by its title, the index of a start.
    """
    loop, weakest = numbers["open_loop"], numbers["trusted_horizon"]["weakest"]
    channels = _first(loop["channels"], weakest, FOLLOWED)
    drawn = _drawn(channels, loop["channels"])
    title = f"What happened, and what it foresaw from the first point and the logged actions{drawn}"
    figure = style.new_figure(2.6 + 3.5 * len(columns), 1.9 + 1.25 * len(channels), title)
    grid = figure.subplots(len(channels), len(columns), sharex="col", squeeze=False)
    for column, (heading, start) in enumerate(columns.items()):
        length = int(followed.valid[:, start].sum())
        steps = np.arange(1, length + 1)
        for row, channel in enumerate(channels):
            axes = grid[row, column]
            truth, mean, low, high = (x[:length, start, channel].numpy() for x in followed[2:6])
            axes.fill_between(steps, low, high, color=style.SKY, alpha=0.35, lw=0)
            axes.plot(steps, mean, color=style.BLUE, lw=1.4)
            axes.plot(steps, truth, color=style.BLACK, lw=1.6)
            axes.axvline(numbers["trusted_horizon"]["steps"], color=style.GREEN, ls="--", lw=1.2)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            style.dress(axes, grid="both")
        grid[0, column].set_title(heading, fontsize=style.MEDIUM)
        grid[-1, column].set_xlabel("steps ahead", fontsize=style.MEDIUM)
    for row, channel in enumerate(channels):
        label = " ".join(filter(None, (loop["channels"][channel], _bracket(loop["units"][channel]))))
        grid[row, 0].set_ylabel(textwrap.fill(label, 20), rotation=0, ha="right", va="center", labelpad=9)
    handles = [
        Line2D([], [], color=style.BLACK, lw=1.6, label="logged"),
        Line2D([], [], color=style.BLUE, lw=1.4, label="foreseen"),
        Patch(color=style.SKY, alpha=0.35, label="its 90% band"),
        Line2D([], [], color=style.GREEN, ls="--", lw=1.2, label="trusted horizon"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=style.MEDIUM, frameon=False)
    style.write(figure, path)


def plot_doubt(path: Path, numbers: Mapping[str, Any]) -> None:
    """Draw true error by decile of uncertainty, and the bias of the reward by decile of the reward."""
    figure = style.new_figure(13.0, 4.0, "Does it know where it is unsure?")
    left, right = figure.subplots(1, 2)
    error = _floats(numbers["uncertainty"]["deciles"])[:, 1]
    left.bar(np.arange(1, len(error) + 1), error, color=style.BLUE, alpha=0.75)
    _titled(left, "True error where it is sure … where it is unsure", "tenth of the log, by uncertainty", "mean error")
    bias = _floats(numbers["reward"]["bias_by_decile"])
    right.axhline(0, color=style.GREY, lw=1.2)
    right.bar(np.arange(1, len(bias) + 1), bias[:, 1], color=style.ORANGE, alpha=0.85)
    labels = [style.number(float(x)) for x in bias[:, 0]]
    right.set_xticks(np.arange(1, len(bias) + 1), labels, rotation=35, ha="right")
    _titled(right, "Reward: foreseen minus logged", "tenth of the log, by its logged reward (mean)", "mean difference")
    style.write(figure, path)


def notable(followed: OpenLoop, spread: Sequence[float], episode: Tensor) -> dict[str, int]:
    """Starts worth a look, by title: a typical one and the worst of two episodes, by error in units of the spread.

    Args:
        followed: the trajectories; the longer half of them is looked at.
        spread: [C].
        episode: [S] long, of each start.
    """
    unit = torch.tensor([s or 1.0 for s in spread])
    length = followed.valid.sum(0)
    error = ((followed.mean - followed.truth) / unit).abs().mean(-1)
    size = torch.where(followed.valid, error, 0.0).sum(0) / length
    long = (length >= length.float().quantile(0.5)).nonzero().flatten()
    order = long[size[long].argsort(descending=True)]
    others = order[episode[order] != episode[order[0]]]
    chosen = {"a typical start": order[len(order) // 2], "the worst start": order[0]}
    if len(others):
        chosen["the worst of another episode"] = others[0]
    return {f"{name}\n(episode {int(episode[i]):,})": int(i) for name, i in chosen.items()}


def _first(names: Sequence[str], weakest: str, most: int = MAX_CHANNELS) -> list[int]:
    """At most so many channels, of which the weakest is one."""
    order = [names.index(weakest), *(i for i, name in enumerate(names) if name != weakest)]
    return sorted(order[:most])


def _drawn(shown: Sequence[int], names: Sequence[str]) -> str:
    """What a title says where not all channels are drawn."""
    return "" if len(shown) == len(names) else f" ({len(shown)} of {len(names)} channels)"


def _floats(values: Any) -> style.Floats:
    """Lists of numbers in which None stands for NaN."""
    return np.array(values, dtype=float)


def _bracket(unit: str) -> str:
    return f"[{unit}]" if unit else ""


def _titled(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    axes.set_title(title, fontsize=style.MEDIUM, loc="left")
    axes.set_xlabel(xlabel, fontsize=style.SMALL)
    axes.set_ylabel(ylabel, fontsize=style.SMALL)
    style.dress(axes, grid="both")
