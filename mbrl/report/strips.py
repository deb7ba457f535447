"""A running episode as a picture: one strip a channel, for an environment that is asked to render itself."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mbrl.core import Spec
from mbrl.report import style
from mbrl.report.plots import MAX_CHANNELS

WINDOW = 100  # the last steps, which are shown
WIDTH, TOP, HEIGHT, BOTTOM = 6.4, 0.5, 0.62, 0.56  # inches: of the picture, the title, a strip, the axis below
DPI = 100  # which makes both sides even numbers of pixels, as video encoders want them
LEFT, RIGHT = 0.24, 0.97  # where the strips begin and end, as shares of the width: no layout engine, which is slow


def draw_episode(played: NDArray[np.float32], spec: Spec, uncertain: bool) -> NDArray[np.uint8]:
    """Draw the last steps of an episode: a strip per channel over the range of the log, the reward, the uncertainty.

    Of more than `MAX_CHANNELS` channels the first ones are drawn, and the title says so.

    Args:
        played: [T, F + 2] observation, reward and uncertainty of each step; the first step has neither of the latter.
        spec: the problem, whose logged ranges are shaded.
        uncertain: whether to draw the uncertainty.

    Returns:
        [H, W, 3] RGB; H and W are the same for every episode of one simulator.
    """
    channels, columns = min(spec.frame_dim, MAX_CHANNELS), played.T.astype(np.float64)
    strips = [(f"observation {i}", columns[i], spec.obs_low[i], spec.obs_high[i]) for i in range(channels)]
    strips.append(("reward", columns[-2], spec.reward_low, spec.reward_high))
    if uncertain:
        strips.append(("uncertainty", columns[-1], 0.0, 1.0))
    part = f", first {channels} of {spec.frame_dim} channels" if channels < spec.frame_dim else ""
    tall = TOP + HEIGHT * len(strips) + BOTTOM
    figure = Figure(figsize=(WIDTH, tall), dpi=DPI)
    figure.suptitle(f"Imagined episode, step {len(played) - 1}{part}", fontsize=style.MEDIUM, fontweight="bold")
    grid = figure.subplots(
        len(strips),
        1,
        sharex=True,
        squeeze=False,
        gridspec_kw={"left": LEFT, "right": RIGHT, "top": 1 - TOP / tall, "bottom": BOTTOM / tall, "hspace": 0.25},
    )[:, 0]
    for axes, (name, values, low, high) in zip(grid, strips, strict=True):
        _draw(axes, name, values, low, high)
    grid[-1].set_xlabel(
        "step (shaded: the range of the log" + ("; uncertainty: up to 1)" if uncertain else ")"), fontsize=style.SMALL
    )
    return _pixels(figure)


def _draw(axes: Axes, name: str, values: style.Floats, low: float, high: float) -> None:
    """One strip: `values` [T] as a line, the range from `low` to `high` shaded."""
    first = max(0, len(values) - 1 - WINDOW)
    shown = values[first:]
    line = style.finite_only(shown)
    room = 0.15 * (high - low) or 0.15 * abs(high) or 0.15
    axes.axhspan(low, high, color=style.SKY, alpha=0.13, lw=0)
    axes.plot(np.arange(first, first + len(line)), line, color=style.BLUE, lw=1.4)
    axes.plot(len(values) - 1, line[-1], color=style.BLUE, marker="o", ms=4)
    drawn = line[np.isfinite(line)]
    axes.set_ylim(min([low, *drawn]) - room, max([high, *drawn]) + room)
    axes.set_xlim(first - 1, first + WINDOW + 1)
    axes.set_ylabel(name, fontsize=style.SMALL, rotation=0, ha="right", va="center")
    axes.yaxis.set_label_coords(-0.09, 0.5)
    style.dress(axes, grid="both")
    axes.yaxis.set_major_locator(MaxNLocator(2))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
