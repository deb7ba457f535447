"""How costs grow with sizes: lines over logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from mbrl.report import style

MARKERS = ("o", "s", "D", "^")


class Growth(NamedTuple):
    """One panel: what some costs are at some sizes."""

    size: str  # what grows, with its unit
    cost: str
    lines: Mapping[str, Sequence[tuple[float, float]]]  # by what it is the cost of: sizes and costs


def plot_growth(path: Path, panels: Sequence[Sequence[Growth]], title: str) -> None:
    """Draw lines of panels, one under the other.

    Args:
        path: the file to write.
        panels: as many in each line.
        title: what was measured, and on what.

    Raises:
        ValueError: there is no panel.
        OSError: the file cannot be written; an older one is untouched.
    """
    if not panels or not panels[0]:
        raise ValueError("there is nothing to draw, expected at least one panel")
    figure = style.new_figure(1 + 3.6 * len(panels[0]), 0.8 + 2.8 * len(panels), title)
    grid = figure.subplots(len(panels), len(panels[0]), squeeze=False)
    for row, line in zip(grid, panels, strict=True):
        for axes, panel in zip(row, line, strict=True):
            _draw(axes, panel)
    style.write(figure, path)


def _draw(axes: Axes, panel: Growth) -> None:
    style.dress(axes, grid="both")
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = sorted({size for line in panel.lines.values() for size, _ in line})
    for (name, line), marker, (dashes, colour) in zip(panel.lines.items(), MARKERS, style.CURVES, strict=False):
        axes.plot(*zip(*line, strict=True), marker=marker, ls=dashes, color=colour, label=name, lw=1.6, ms=5)
    axes.set_xticks(sizes, [style.number(size) for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: style.number(value)))
    axes.yaxis.set_minor_formatter(FuncFormatter(_few))
    axes.tick_params(axis="y", which="both", labelsize=style.SMALL)
    axes.set_xlabel(panel.size, fontsize=style.SMALL)
    axes.set_ylabel(panel.cost, fontsize=style.SMALL)
    axes.legend(fontsize=style.SMALL, frameon=False)


def _few(value: float, _: object) -> str:
    """Labels of 2 and 5 between the powers of ten."""
    return style.number(value) if f"{value:.0e}"[0] in "25" else ""
