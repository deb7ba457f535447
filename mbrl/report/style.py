"""How every picture looks: palette, font sizes, layout, and the one way to write it.

Figures are made without pyplot, so that nothing global is touched and threads may draw. The colours are those of Okabe
and Ito, which people with any colour vision tell apart; what a colour says, a marker, a line style or a word says too.
"""

from __future__ import annotations

import base64
import textwrap
from itertools import product
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from mbrl.files import replacing

BLACK, BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F",
)  # fmt: skip
CURVES = list(product(("-", "--", ":", "-."), (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK)))
SMALL, MEDIUM, LARGE = 9, 11, 13  # font sizes in points
FORMATS = ("png", "svg", "pdf")

Floats: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.int64]


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure of that size in inches, whose parts keep out of each other's way."""
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    figure.suptitle(textwrap.fill(title, int(8 * width)), fontsize=LARGE, fontweight="bold")
    return figure


def dress(axes: Axes, grid: Literal["x", "both"]) -> None:
    """Spines, grid, tick labels and margins, as on all axes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#E5E5E5", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL)
    axes.margins(x=0.03)


def number(value: float) -> str:
    """Four digits, or all before the point, with the minus sign that the axes use."""
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}").replace("-", "\N{MINUS SIGN}")


def short(name: str, letters: int) -> str:
    """At most so many letters: what tells names of sensors apart is mostly at their ends."""
    left = letters // 2
    return name if len(name) <= letters else f"{name[:left]}…{name[left + 1 - letters :]}"


def count_bad(values: Floats) -> int:
    """How many values are NaN or infinite."""
    return int((~np.isfinite(values)).sum())


def finite_only(values: Floats | np.float64) -> Floats:
    """Infinities as NaN, which matplotlib leaves out of lines and limits."""
    return np.where(np.isfinite(values), values, np.nan)


def write(figure: Figure, path: Path) -> None:
    """Write the figure in the format of the path's suffix, whole or not at all.

    Raises:
        ValueError: the suffix is none of `FORMATS`.
        OSError: the file cannot be written; an older one is untouched.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise ValueError(f"{path} ends in {path.suffix!r}, expected one of {', '.join('.' + f for f in FORMATS)}")
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar in a channel's name is a dollar
    with replacing(path) as beside:
        figure.savefig(beside, format=suffix, dpi=120)


def data_uri(picture: Path) -> str:
    """A PNG file as a page holds it."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
