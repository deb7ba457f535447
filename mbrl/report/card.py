"""The report card as one HTML page that needs nothing but itself: pictures inside, no script, no network."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jinja2

from mbrl.files import replacing
from mbrl.report import cardplots
from mbrl.report.style import data_uri, number
from mbrl.simulator.card import Card

TEMPLATE = "card.html.j2"


def write_page(path: Path, card: Card) -> None:
    """Write the page of a card, whole or not at all.

    Raises:
        OSError: the file cannot be written; an older one is untouched.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mbrl.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "percent": _percent}
    page = environment.get_template(TEMPLATE).render(**card.numbers, pictures=_pictures(card))
    with replacing(path) as beside:
        beside.write_text(page, encoding="utf-8")


def _pictures(card: Card) -> dict[str, str]:
    """The pictures as data URIs, by name."""
    numbers = card.numbers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cardplots.plot_intervals(folder / "intervals.png", numbers)
        cardplots.plot_horizon(folder / "horizon.png", numbers)
        starts = cardplots.notable(card.followed, numbers["open_loop"]["spread"], card.episode)
        cardplots.plot_followed(folder / "followed.png", numbers, card.followed, starts)
        cardplots.plot_doubt(folder / "doubt.png", numbers)
        return {picture.stem: data_uri(picture) for picture in folder.glob("*.png")}


def _figure(value: Any) -> str:
    return "not known" if value is None else number(float(value))


def _percent(value: Any) -> str:
    return "not known" if value is None else f"{float(value):.1%}"
