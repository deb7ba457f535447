"""Forest plots and clouds are written whole, say what is missing, and refuse what cannot be drawn."""

import math
from pathlib import Path

import pytest

from mbrl.report.forest import Cloud, Stand, plot_forest, plot_judges
from mbrl.report.plots import Interval

ROWS = {"log": Interval(1.0, 0.0, 2.0), "candidate": Interval(3.0, 2.5, 3.5)}


def test_a_panel_for_each_kind_with_those_that_have_no_estimate(tmp_path: Path) -> None:
    path = tmp_path / "forest.svg"
    stands = [
        Stand("model", "return, undiscounted", ROWS, reference=1.0),
        Stand("fqe", "return, discount 0.99", {"log": ROWS["log"]}, missing={"candidate": "it diverged"}),
        Stand("dr", "return", {}, missing={"candidate": "word " * 100}),
        Stand("is", "return", {"log": Interval(1.0, -math.inf, math.inf)}),
    ]
    plot_forest(path, stands, "toy: promoted", ("log", "behaviour cloning", "champion"))
    drawn = path.read_text()
    assert drawn.count('id="axes_') == 4
    assert plain(drawn, "no estimate: it diverged")


def plain(svg: str, text: str) -> bool:
    """Text is drawn as outlines; matplotlib leaves it beside them as a comment."""
    return f"<!-- {text} -->" in svg


def test_a_cloud_for_each_judge(tmp_path: Path) -> None:
    path = tmp_path / "judges.svg"
    good = Cloud("model", "return", [0.0, 2.0], [Interval(0.5, 0.0, 1.0), Interval(1.5, 1.0, 2.5)])
    broken = Cloud("fqe", "return", [0.0, 2.0], [Interval(math.nan, 0.0, 1.0), Interval(1.5, 1.0, 2.5)])
    plot_judges(path, [good, broken, good, good], "Estimates over true values")
    drawn = path.read_text()
    assert drawn.count('id="axes_') == 4
    assert plain(drawn, "fqe; 1 not finite")


@pytest.mark.parametrize(
    ("stands", "part"),
    [
        ([], "there is nothing to draw"),
        ([Stand("model", "return", {})], "has no row"),
        ([Stand("model", "return", {"log": Interval(3.0, 0.0, 2.0)})], "without its 3.0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(stands: list[Stand], part: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=part):
        plot_forest(tmp_path / "forest.png", stands, "toy", ())
    assert list(tmp_path.iterdir()) == []


def test_no_judge_is_no_picture(tmp_path: Path) -> None:
    for clouds in ([], [Cloud("model", "return", [], [])]):
        with pytest.raises(ValueError, match="there is nothing to draw"):
            plot_judges(tmp_path / "judges.png", clouds, "toy")
