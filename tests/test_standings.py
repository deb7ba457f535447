"""The table of a comparison, from the scores of its runs."""

import json
import math
from pathlib import Path

import pytest

from mbrl.evaluation.estimates import Estimate
from mbrl.standings import NOTHING, Arena, Contest, Score, scores_of, told


def score(value: Estimate, seconds: float = 60.0) -> Score:
    return Score(value, "promote", seconds, seed=0)


def test_a_seed_without_an_estimate_is_told_and_takes_no_other_with_it(tmp_path: Path) -> None:
    asked = Contest([Arena("toy/mill-v0", None)], {"bold": Path("b"), "shy": Path("s")}, (0, 1, 2), (), None, tmp_path)
    bold = [score(NOTHING), score(Estimate(1.0, 0.5, 1.5, 9)), score(Estimate(3.0, 2.5, 3.5, 9))]
    scores = {"toy-mill": {"bold": bold, "shy": [score(NOTHING)] * 3}}
    answer = told(asked, scores, {}, {"toy-mill": {}})
    mean = answer["scores"]["toy-mill"]["bold"]["mean"]
    assert (mean["value"], mean["low"], mean["high"]) == pytest.approx((2.0, -10.71, 14.71), abs=0.01)  # t of 12.71
    assert "| bold | 2.00 [-10.71, 14.71] (2 of 3 seeds) | 1.0 |" in answer["table"]
    assert "| shy | - | 1.0 |" in answer["table"]
    assert len(answer["scores"]["toy-mill"]["bold"]["seeds"]) == 3
    assert math.isnan(answer["scores"]["toy-mill"]["shy"]["mean"]["value"])
    assert (tmp_path / "table.md").read_text() == answer["table"]
    assert json.loads((tmp_path / "comparison.json").read_text())["failed"] == {"toy-mill": {}}
    assert (tmp_path / "comparison.png").exists()


def test_a_log_on_which_nobody_has_an_estimate_is_drawn_all_the_same(tmp_path: Path) -> None:
    arenas = [Arena("toy/mill-v0", None), Arena("toy/pole-v0", "CartPole-v1")]
    asked = Contest(arenas, {"bold": Path("b")}, (0,), (), None, tmp_path)
    endless = Estimate(1.0, -math.inf, math.inf, 1)
    scores = {"toy-mill": {"bold": [score(endless)]}, "toy-pole": {"bold": [score(NOTHING)]}}
    told(asked, scores, {"toy-pole": Estimate(200.0, 190.0, 210.0, 9)}, {"toy-mill": {}, "toy-pole": {}})
    assert (tmp_path / "comparison.png").exists()


def test_each_log_has_a_column_of_scores_and_one_of_minutes(tmp_path: Path) -> None:
    arenas = [Arena("toy/mill-v0", None), Arena("toy/pole-v0", "CartPole-v1")]
    asked = Contest(arenas, {"bold": Path("b"), "shy": Path("s")}, (0, 1), (), None, tmp_path)
    one, other = Estimate(1.0, 0.5, 1.5, 9), Estimate(200.0, 190.0, 210.0, 9)
    scores = {
        "toy-mill": {"bold": [score(one, 30.0), score(one, 90.0)]},
        "toy-pole": {"bold": [score(other, 240.0)] * 2, "behaviour cloning": [score(other, 6.0)] * 2},
    }
    answer = told(asked, scores, {"toy-pole": other}, {"toy-mill": {"shy": "it acts in Box spaces"}, "toy-pole": {}})
    assert answer["table"].splitlines() == [
        "| | toy/mill-v0 (gain in spreads) | min | toy/pole-v0 | min |",
        "|---|---|---|---|---|",
        "| log | | | 200.0 [190.0, 210.0] | |",
        "| behaviour cloning | | | 200.0 [200.0, 200.0] | 0.1 |",
        "| bold | 1.00 [1.00, 1.00] | 1.0 | 200.0 [200.0, 200.0] | 4.0 |",
        "| shy | - | | | |",
    ]


def test_a_configuration_may_call_its_candidate_candidate() -> None:
    row = {"true_return": None, "gain_in_spreads": None, "verdict": "promote", "rehearsed": False}
    answer = {"candidates": {"candidate": row}, "chosen": "candidate", "seconds": {"policy": 7.0}}
    ((name, found),) = scores_of(answer, ["candidate"], Arena("toy/mill-v0", None), 3, True)
    assert (name, found.seconds, found.seed) == ("candidate", 7.0, 3)
