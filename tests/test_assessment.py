"""How numbers are told."""

import math

import pytest

from mbrl.assessment import figure, shown
from mbrl.evaluation.estimates import Estimate


@pytest.mark.parametrize(
    ("value", "text"),
    [(-690.04, "-690.0"), (1.0, "1.0"), (0.0, "0.0"), (0.5, "0.5"), (-3.14159e-5, "-3.14e-05"), (math.nan, "nan")],
)
def test_returns_of_any_scale_can_be_read(value: float, text: str) -> None:
    assert figure(value) == text


def test_an_interval_is_told_in_the_digits_of_its_largest_end() -> None:
    assert shown(Estimate(0.04, -0.02, 12.34, 5)) == "0.0 [-0.0, 12.3]"
    assert shown(Estimate(-0.000412, -0.0005, -0.00031, 5)) == "-0.000412 [-0.0005, -0.00031]"
