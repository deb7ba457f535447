"""How numbers are told, and what a panel is given to judge by."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from weather_world import driven

from mbrl.appraisal import select
from mbrl.assessment import figure, make_bench, shown
from mbrl.data.division import Division
from mbrl.evaluation.estimates import Estimate
from mbrl.registry.rules import read
from mbrl.settings import Trial


@pytest.mark.parametrize(
    ("value", "text"),
    [(-690.04, "-690.0"), (1.0, "1.0"), (0.0, "0.0"), (0.5, "0.5"), (-3.14159e-5, "-3.14e-05"), (math.nan, "nan")],
)
def test_returns_of_any_scale_can_be_read(value: float, text: str) -> None:
    assert figure(value) == text


def test_an_interval_is_told_in_the_digits_of_its_largest_end() -> None:
    assert shown(Estimate(0.04, -0.02, 12.34, 5)) == "0.0 [-0.0, 12.3]"
    assert shown(Estimate(-0.000412, -0.0005, -0.00031, 5)) == "-0.000412 [-0.0005, -0.00031]"


def test_in_the_weather_that_a_policy_was_learned_in_it_is_not_judged() -> None:
    data = driven((6, 4, 9, 5, 7))
    sides = Division(*(torch.tensor(side) for side in ([0, 1], [2], [3], [4])))
    seen: Any = SimpleNamespace(simulator=SimpleNamespace(replaying=lambda log: None))
    for log, starts in ((data, [3, 4]), (replace(data, exogenous=()), [0, 1, 2, 3, 4])):
        bench = make_bench(log, seen, Trial(starts=9), read(), 0, sides)
        assert sorted(log.episode[bench.starts.rows].tolist()) == starts


def test_gains_on_different_logs_are_not_compared() -> None:
    cases: Any = [SimpleNamespace(bench=SimpleNamespace(data=driven(lengths))) for lengths in ((6, 4), (6, 5))]
    with pytest.raises(ValueError, match=r"come from different logs \(toy/driven-v0\).*--data ID"):
        select(cases, read(), Trial())
