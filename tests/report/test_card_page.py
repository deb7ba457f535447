"""The page of a report card: what it shows, that it needs nothing but itself, and that names are not markup."""

import copy
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from card_toys import mill_card

from mbrl.report import cardplots, style
from mbrl.report.card import write_page
from mbrl.simulator.card import Card
from mbrl.simulator.openloop import OpenLoop


@pytest.fixture(scope="module")
def card() -> Card:
    return mill_card()


class Tags(HTMLParser):
    """Collects what a page refers to, and checks that its tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_but_itself(card: Card, tmp_path: Path) -> None:
    write_page(tmp_path / "sub" / "card.html", card)
    page = (tmp_path / "sub" / "card.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(tags.sources) == 4
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in tags.sources)
    assert "<script" not in page
    assert "{{" not in page


@pytest.mark.usefixtures("undrawn")
def test_the_page_says_what_the_numbers_say(card: Card, tmp_path: Path) -> None:
    write_page(tmp_path / "card.html", card)
    page = re.sub(r"base64,[^\"]*", "", (tmp_path / "card.html").read_text())
    numbers = card.numbers
    assert numbers["verdict"]["sentence"] in page
    assert page.count('<li class="yes"') + page.count('<li class="no"') == len(numbers["verdict"]["reasons"])
    for part in ("mill-simulator/3", "acme/mill-v0", "torch 2.13.0", "f" * 64, numbers["data"]["fingerprint"], "[m]"):
        assert part in page
    assert f"{numbers['trusted_horizon']['steps']} steps" in page
    assert "when the world ends (2 ends)" in page


@pytest.mark.usefixtures("undrawn")
def test_copies_stand_in_one_line_with_those_that_do_not_hold(card: Card, tmp_path: Path) -> None:
    pairs = [("past", "level", 1.0), ("order", "action 0", 0.75)]
    carried = [{"channel": channel, "source": source, "agrees": share} for channel, source, share in pairs]
    write_page(tmp_path / "card.html", card._replace(numbers={**card.numbers, "carried": carried}))
    page = (tmp_path / "card.html").read_text()
    told = "past from level; order from action 0 (so in only 75.0% of these rows): neither predicted nor graded"
    assert told in page
    assert page.count("copied from the row before") == 1


@pytest.mark.usefixtures("undrawn")
def test_clocks_stand_in_one_line_with_their_steps(card: Card, tmp_path: Path) -> None:
    rows = [("hour", 1.0, 24.0, 1.0), ("step", 2.0, 0.0, 0.5)]
    clocks = [dict(zip(("channel", "step", "period", "agrees"), row, strict=True)) for row in rows]
    write_page(tmp_path / "card.html", card._replace(numbers={**card.numbers, "clocks": clocks}))
    page = (tmp_path / "card.html").read_text()
    assert "hour by 1 a step, and back by 24; step by 2 a step (so in only 50.0% of these rows): neither" in page


@pytest.mark.usefixtures("undrawn")
def test_a_name_is_text_and_not_markup(card: Card, tmp_path: Path) -> None:
    write_page(tmp_path / "card.html", card)
    page = (tmp_path / "card.html").read_text()
    assert "<b>level" not in page
    assert "&lt;b&gt;level&lt;/b&gt; $\\x$" in page


@pytest.mark.usefixtures("undrawn")
def test_what_is_not_known_is_said(card: Card, tmp_path: Path) -> None:
    numbers = copy.deepcopy(card.numbers)
    numbers["uncertainty"] |= {"spearman": None, "outside_error": None}
    numbers["termination"] = None
    write_page(tmp_path / "card.html", card._replace(numbers=numbers))
    page = (tmp_path / "card.html").read_text()
    assert "not known" in page
    assert "no held-out episode ends by itself" in page


def test_an_older_page_survives_a_failure(card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "card.html"
    path.write_text("old")

    def full(figure: object, path: Path) -> None:
        raise OSError("No space left")

    monkeypatch.setattr(style, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write_page(path, card)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["card.html"]


def test_notable_starts_are_a_typical_one_and_the_worst_of_two_episodes() -> None:
    error = torch.tensor([0.1, 0.5, 0.9, 0.8, 0.3])
    zero, wrong = torch.zeros(2, 5, 1), error.view(1, 5, 1).expand(2, -1, -1)
    followed = OpenLoop(torch.arange(5), torch.ones(2, 5, dtype=torch.bool), zero, wrong, zero, zero, zero)
    chosen = cardplots.notable(followed, [0.0], torch.tensor([0, 1, 2, 2, 3]))
    assert chosen == {
        "a typical start\n(episode 1)": 1,
        "the worst start\n(episode 2)": 2,
        "the worst of another episode\n(episode 1)": 1,
    }
    alone = cardplots.notable(followed, [1.0], torch.zeros(5, dtype=torch.long))
    assert [name.split("\n")[0] for name in alone] == ["a typical start", "the worst start"]


def test_of_many_channels_the_weakest_is_drawn_and_the_title_says_how_many_are() -> None:
    names = [f"obs[{k}]" for k in range(11)]
    assert cardplots._first(names, "obs[10]", 6) == [0, 1, 2, 3, 4, 10]
    assert cardplots._first(names, "obs[2]") == list(range(11))
    assert cardplots._drawn([0, 10], names) == " (2 of 11 channels)"
    assert cardplots._drawn(range(11), names) == ""


@pytest.mark.usefixtures("undrawn")
def test_a_page_names_a_weakest_channel_where_one_fails_and_a_fit_where_it_saw_the_episodes(
    card: Card, tmp_path: Path
) -> None:
    told = []
    for steps, crossed in (2, True), (card.numbers["trusted_horizon"]["followed"], False):
        other = copy.deepcopy(card)
        other.numbers["trusted_horizon"]["steps"] = steps
        other.numbers["data"] |= {"crossed": crossed, "measured_on_calibration": False}
        write_page(tmp_path / "card.html", other)
        page = (tmp_path / "card.html").read_text()
        told.append(("Weakest channel" in page, "told the fit when to stop" in page))
    assert told == [(True, True), (False, False)]
