"""Pictures of an audit: the episodes of a log, how freely it acted, and the rows that a finding names."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mbrl.data.behaviour import THIN, Freedom
from mbrl.data.dataset import TransitionDataset
from mbrl.data.findings import Finding
from mbrl.report import style

STRIPS = 4  # channels drawn for a finding, at most
AROUND = 40  # rows before and after the first row of a finding


def plot_episodes(path: Path, data: TransitionDataset) -> None:
    """Draw the return and the length of each episode, in the order of the log; those that terminated as crosses.

    Raises:
        OSError: the file cannot be written; an older one is untouched.
    """
    figure = style.new_figure(10.5, 4.6, "Episodes, in the order of the log")
    ended = data.terminated[data.first + data.lengths - 1].numpy()
    columns = {"return": data.returns().numpy().astype(np.float64), "rows": data.lengths.numpy().astype(np.float64)}
    number = np.arange(data.episodes)
    for axes, (name, values) in zip(figure.subplots(2, 1, sharex=True), columns.items(), strict=True):
        shown = style.finite_only(values)
        axes.plot(number[~ended], shown[~ended], ls="", marker="o", ms=3, color=style.BLUE)
        axes.plot(number[ended], shown[ended], ls="", marker="x", ms=4, color=style.RED)
        axes.set_ylabel(name, fontsize=style.MEDIUM)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        style.dress(axes, grid="both")
    axes.set_xlabel("episode", fontsize=style.MEDIUM)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    handles = [
        Line2D([], [], color=style.BLUE, marker="o", ls="", label="cut (truncated)"),
        Line2D([], [], color=style.RED, marker="x", ls="", label="the world ended (terminated)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=style.MEDIUM, frameon=False)
    style.write(figure, path)


def plot_freedom(path: Path, free: Freedom) -> None:
    """Draw how freely each region of the state space was acted in, the least free ones first.

    Raises:
        OSError: the file cannot be written; an older one is untouched.
    """
    known = np.flatnonzero(np.isfinite(free.regions))
    order = known[np.argsort(free.regions[known])]
    figure = style.new_figure(10.5, 3.6, "Freedom of the logged actions, by region of the state space")
    axes = figure.subplots()
    thin = free.regions[order] < THIN
    heights = np.minimum(free.regions[order], 1.0)
    axes.bar(np.arange(len(order)), heights, color=np.where(thin, style.RED, style.BLUE), width=0.75)
    axes.plot(np.flatnonzero(thin), heights[thin], ls="", marker="x", color=style.RED)  # a bar of no height
    axes.axhline(THIN, color=style.GREY, ls="--", lw=1.4)
    axes.set_ylim(0, 1.05)
    axes.set_ylabel(
        "spread of the action where\nthe observation is alike\n(1 = as in the whole log)", fontsize=style.SMALL
    )
    axes.set_xticks(np.arange(len(order)), [f"{free.rows[r]:,}" for r in order], rotation=60, fontsize=style.SMALL)
    axes.set_xlabel("rows of the region, of those looked at", fontsize=style.MEDIUM)
    left = len(free.regions) - len(known)
    note = f"dashed: {THIN:.0%}, below which the log shows hardly more than one action per state (crosses)"
    if left:
        note += f"; {left} region(s) with too few alike states are not shown"
    axes.set_title(textwrap.fill(note, 110), fontsize=style.SMALL, loc="left")
    style.dress(axes, grid="both")
    style.write(figure, path)


def plot_rows(path: Path, data: TransitionDataset, finding: Finding) -> None:
    """Draw the log around the first row that a finding names, with all its named rows in sight marked.

    The finding's own channels are drawn, or else the first observation, the first action and the reward.

    Raises:
        OSError: the file cannot be written; an older one is untouched.
    """
    at = finding.rows[0]
    rows = np.arange(max(0, at - AROUND), min(len(data), at + AROUND + 1))
    strips = _strips(data, finding)
    figure = style.new_figure(10.5, 1.2 + 1.15 * len(strips), f"Rows {rows[0]:,} to {rows[-1]:,} of the log")
    marked = np.intersect1d(finding.rows, rows)
    starts = np.intersect1d(data.first.numpy(), rows)
    grid = figure.subplots(len(strips), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, column) in zip(grid, strips.items(), strict=True):
        _strip(axes, rows, column, marked, starts)
        axes.set_ylabel(textwrap.fill(name, 24), fontsize=style.SMALL, rotation=0, ha="right", va="center", labelpad=9)
    grid[-1].set_xlabel("row (large dots: named by the finding; dotted: an episode begins)", fontsize=style.MEDIUM)
    style.write(figure, path)


def _strips(data: TransitionDataset, finding: Finding) -> dict[str, style.Floats]:
    """Columns [N] by their labels."""
    every = {
        **{
            name: (label, data.obs[:, k])
            for k, (name, label) in enumerate(zip(data.channels, data.labels, strict=True))
        },
        **{name: (name, data.action[:, k]) for k, name in enumerate(data.action_channels)},
        "reward": ("reward", data.reward),
    }
    wanted = [n for n in finding.channels if n in every] or [data.channels[0], data.action_channels[0], "reward"]
    return {every[n][0]: every[n][1].numpy().astype(np.float64) for n in wanted[:STRIPS]}


def _strip(axes: Axes, rows: style.Rows, column: style.Floats, marked: style.Rows, starts: style.Rows) -> None:
    axes.plot(rows, style.finite_only(column[rows]), color=style.BLACK, lw=1.2, marker=".", ms=3)
    axes.plot(marked, style.finite_only(column[marked]), ls="", marker="o", ms=5, color=style.RED)
    for start in starts:
        axes.axvline(start - 0.5, color=style.GREY, ls=":", lw=1.2)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    style.dress(axes, grid="both")
