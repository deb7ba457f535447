"""The pictures of a run: what is drawn, what it is called, what is refused, and that a file is whole or absent."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbrl.report import style
from mbrl.report.plots import MAX_CHANNELS, Fan, Interval, plot_returns, plot_rollouts

NAN, INF = float("nan"), float("inf")
LOG = np.stack([np.arange(20.0), -np.arange(20.0)], -1)  # [20, 2]
FAN = Fan(episode=4, logged=LOG, start=6, imagined=[np.full((3, 2), 1.0), np.full((2, 2), 2.0)])
VALUE = Interval(-300.0, -350.0, -250.0)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Figure]:
    """Call a plot function and get the figure that it would write."""

    def draw(plot: Callable[..., None], *args: Any, **options: Any) -> Figure:
        figures: list[Figure] = []
        with monkeypatch.context() as patch:
            patch.setattr(style, "write", lambda figure, path: figures.append(figure))
            plot(tmp_path / "picture.png", *args, **options)
        (figure,) = figures
        return figure

    return draw


def lines(axes: Axes, colour: str, marker: str = "None") -> list[tuple[list[float], list[float]]]:
    return [
        (np.atleast_1d(line.get_xdata()).tolist(), np.atleast_1d(line.get_ydata()).tolist())
        for line in axes.lines
        if line.get_color() == colour and line.get_marker() == marker
    ]


def test_a_strip_shows_the_log_around_the_start_and_every_rollout(drawn: Callable[..., Figure]) -> None:
    figure = drawn(plot_rollouts, [FAN], ["level", "flow"])
    level, flow = figure.axes
    around = [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0]  # three steps before, six after: the horizon is 3
    assert lines(level, style.BLACK) == [(around, around)]
    assert lines(flow, style.BLACK) == [(around, [-x for x in around])]
    assert lines(level, style.BLUE) == [([6, 7, 8, 9], [6, 1, 1, 1]), ([6, 7, 8], [6, 2, 2])]
    assert lines(level, style.BLACK, "o") == [([6], [6])]
    assert lines(level, style.RED, "x") == [([8], [2])]  # the shorter rollout terminated
    assert lines(level, style.BLACK, "|") == []  # the logged episode goes on


def test_the_end_of_the_logged_episode_is_marked(drawn: Callable[..., Figure]) -> None:
    (axes, _) = drawn(plot_rollouts, [FAN._replace(start=19)], ["level", "flow"]).axes
    assert lines(axes, style.BLACK) == [([16, 17, 18, 19], [16, 17, 18, 19])]
    assert lines(axes, style.BLACK, "|") == [([19], [19])]


def test_rows_are_channels_and_columns_are_starts(drawn: Callable[..., Figure]) -> None:
    figure = drawn(plot_rollouts, [FAN, FAN._replace(episode=9, start=0)], ["level", "flow"])
    assert len(figure.axes) == 4
    assert [axes.get_ylabel() for axes in figure.axes] == ["level", "", "flow", ""]
    assert [axes.get_title() for axes in figure.axes] == ["episode 4, from step 6", "episode 9, from step 0", "", ""]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", *["step of the logged episode"] * 2]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "logged",
        "logged end",
        "start",
        "imagined, under the learned policy",
        "imagined termination",
    ]


def test_of_many_channels_the_first_are_drawn_and_the_title_says_so(drawn: Callable[..., Figure]) -> None:
    fan = Fan(0, np.zeros((5, 30)), 0, [np.zeros((2, 30))])
    figure = drawn(plot_rollouts, [fan], [f"c{i}" for i in range(30)])
    assert [axes.get_ylabel() for axes in figure.axes] == [f"c{i}" for i in range(MAX_CHANNELS)]
    assert " ".join(figure.get_suptitle().split()) == "Imagined rollouts over the log (first 12 of 30 channels)"


def test_a_strip_counts_what_is_not_finite_and_draws_the_rest(drawn: Callable[..., Figure]) -> None:
    logged, imagined = LOG.copy(), np.ones((3, 2))
    logged[7, 0], imagined[1:, 0] = NAN, (INF, -INF)
    level, flow = drawn(plot_rollouts, [FAN._replace(logged=logged, imagined=[imagined])], ["level", "flow"]).axes
    assert level.get_title(loc="right") == "3 not finite"
    assert flow.get_title(loc="right") == ""
    np.testing.assert_array_equal(lines(level, style.BLUE), [([6, 7, 8, 9], [6, 1, NAN, NAN])])
    assert max(map(abs, level.get_ylim())) < 20


@pytest.mark.parametrize(
    ("fans", "channels", "message"),
    [
        ([], ["a", "b"], "0 fans of rollouts, expected 1 to 4"),
        ([FAN] * 5, ["a", "b"], "5 fans of rollouts, expected 1 to 4"),
        ([FAN], [], "no channel names"),
        ([FAN], ["a"], r"from step 6 of episode 4 has shape \(20, 2\), expected \[T, 1\]"),
        ([FAN._replace(logged=LOG[:, 0])], ["a", "b"], r"has shape \(20,\), expected \[T, 2\]"),
        ([FAN._replace(start=20)], ["a", "b"], "from step 20 of episode 4 lies outside its 20 observations"),
        ([FAN._replace(start=-1)], ["a", "b"], "lies outside"),
        ([FAN._replace(imagined=[])], ["a", "b"], "no imagined rollout of the fan from step 6 of episode 4"),
        ([FAN._replace(imagined=[np.zeros((3, 3))])], ["a", "b"], r"shape \(3, 3\), expected \[H >= 1, 2\]"),
        ([FAN._replace(imagined=[np.zeros((0, 2))])], ["a", "b"], r"shape \(0, 2\), expected \[H >= 1, 2\]"),
        ([FAN._replace(imagined=[np.zeros(2)])], ["a", "b"], r"shape \(2,\), expected \[H >= 1, 2\]"),
    ],
)
def test_rollouts_that_do_not_fit_are_refused(tmp_path: Path, fans: Any, channels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_rollouts(tmp_path / "a.png", fans, channels)
    assert list(tmp_path.iterdir()) == []


def test_returns_show_the_log_above_and_the_values_below(drawn: Callable[..., Figure]) -> None:
    logged = np.linspace(-1000.0, -500.0, 101)
    simulated = {"BC": Interval(-700.0, -720.0, -650.0), "candidate": VALUE}
    figure = drawn(plot_returns, logged, simulated, {"candidate": Interval(-1234.5, -1300.0, -200.0)}, "demo: promoted")
    top, bottom = figure.axes
    assert figure.get_suptitle() == "demo: promoted"
    assert top.get_title(loc="left") == "101 logged episodes, mean return \N{MINUS SIGN}750 (dashed)"
    assert sum(patch.get_height() for patch in top.patches) == 101
    assert top.get_ylabel() == "episodes"
    assert bottom.get_xlabel() == "return (undiscounted, per episode)"
    assert bottom.get_title(loc="left") == "Value of each policy, with its 95% interval"
    assert [label.get_text() for label in bottom.get_yticklabels()] == [
        "BC\nin the second simulator",
        "candidate\nin the second simulator",
        "candidate\nin the true environment",
    ]
    assert [text.get_text().replace("\N{MINUS SIGN}", "-") for text in bottom.texts] == [
        "-700  [-720, -650]",
        "-300  [-350, -250]",
        "-1,234  [-1,300, -200]",
    ]
    low, high = bottom.get_ylim()
    assert low > high  # the first row is at the top
    bars = [bar.get_segments()[0][:, 0].tolist() for container in bottom.containers for bar in container[2]]
    assert bars == [[-720, -650], [-350, -250], [-1300, -200]]
    for axes in (top, bottom):
        assert ([-750, -750], [0, 1]) in lines(axes, style.GREY)  # the mean of the log, through both


def test_returns_say_what_is_not_finite(drawn: Callable[..., Figure]) -> None:
    top, bottom = drawn(plot_returns, [1.0, 3.0, NAN, INF], {"BC": VALUE, "candidate": Interval(NAN, NAN, NAN)}).axes
    assert top.get_title(loc="left") == "2 logged episodes, mean return 2 (dashed); 2 more not finite"
    assert bottom.texts[1].get_text() == "not finite: nan  [nan, nan]"
    assert bottom.texts[1].get_color() == style.RED
    assert len(bottom.containers) == 1


def test_one_logged_episode_is_seen(drawn: Callable[..., Figure]) -> None:
    top, _ = drawn(plot_returns, [5.0], {"BC": Interval(1e6, 9e5, 2e6)}).axes
    assert top.get_title(loc="left") == "1 logged episode, mean return 5 (dashed)"
    assert lines(top, style.BLACK, "|") == [([5], [0])]


@pytest.mark.parametrize(
    ("logged", "simulated", "message"),
    [
        ([], {"BC": VALUE}, r"shape \(0,\), expected \[N\] with at least one finite value"),
        ([NAN, INF], {"BC": VALUE}, "at least one finite value"),
        ([[1.0, 2.0]], {"BC": VALUE}, r"shape \(1, 2\), expected \[N\]"),
        ([1.0], {}, "no value to draw beside the logged returns"),
        ([1.0], {"BC": Interval(3.0, 1.0, 2.0)}, r"BC.*interval \[1.0, 2.0\], expected one that holds its value 3.0"),
        ([1.0], {"BC": Interval(0.0, 1.0, 2.0)}, "expected one that holds its value 0.0"),
    ],
)
def test_returns_that_do_not_fit_are_refused(tmp_path: Path, logged: Any, simulated: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_returns(tmp_path / "a.png", logged, simulated)
    assert list(tmp_path.iterdir()) == []


def picture(path: Path, title: str = "Returns") -> None:
    plot_returns(path, [1.0, 2.0], {"BC": VALUE}, title=title)


@pytest.mark.parametrize(("name", "head"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF")])
def test_the_suffix_is_the_format(tmp_path: Path, name: str, head: bytes) -> None:
    picture(tmp_path / "sub" / name)
    assert (tmp_path / "sub" / name).read_bytes().startswith(head)
    assert [p.name for p in (tmp_path / "sub").iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.jpeg", "a"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"expected one of \.png, \.svg, \.pdf"):
        picture(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_all_pictures_are_drawn_and_the_same_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        plot_rollouts(tmp_path / name / "rollouts.png", [FAN], ["level", "flow"])
        picture(tmp_path / name / "returns.png")
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        assert path.stat().st_size > 10_000


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    name = r"$\nonsense{$ 100 % <b>"  # no formula, which matplotlib could not parse
    plot_rollouts(tmp_path / "a.png", [FAN], [name, "flow"])
    plot_returns(tmp_path / "b.png", [1.0], {name: VALUE}, title=name)
    assert len(list(tmp_path.iterdir())) == 2


def test_long_names_keep_both_ends() -> None:
    names = ["boiler_feedwater_temperature_outlet", "boiler_feedwater_temperature_inlet", "level", "x" * 22]
    assert [style.short(name, 22) for name in names] == [
        "boiler_feed…ure_outlet",
        "boiler_feed…ture_inlet",
        "level",
        "x" * 22,
    ]
    assert {len(style.short("abcdefghij", count)) for count in (4, 5)} == {4, 5}


def test_a_full_disk_keeps_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    picture(path)
    old = path.read_bytes()

    def full(self: Figure, beside: Path, **options: Any) -> None:
        beside.write_bytes(old[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        picture(path, "Other returns")
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_drawing_leaves_pyplot_alone(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, matplotlib\nbefore = dict(matplotlib.rcParams)\n"
        "from mbrl.report.plots import Interval, plot_returns\n"
        "plot_returns(pathlib.Path(sys.argv[1]), [1.0, 2.0], {'BC': Interval(1.5, 1.0, 2.0)})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\nassert dict(matplotlib.rcParams) == before"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(style.__file__).parents[2]), "MPLBACKEND": "tkagg"}
    command = [sys.executable, "-c", program, str(tmp_path / "a.png")]
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
