"""Variances along an axis, by hand."""

import pytest
import torch

from mbrl.core import deviation, variance


def test_population_variance_of_the_leading_axis_by_hand():
    values = torch.tensor([[0.0, 5.0], [0.0, 5.0], [6.0, 5.0]])  # means 2 and 5
    assert variance(values).tolist() == [(4 + 4 + 16) / 3, 0.0]
    assert deviation(values).tolist() == pytest.approx([8**0.5, 0.0])


def test_another_axis():
    assert deviation(torch.tensor([[1.0, 3.0], [2.0, 2.0]]), -1).tolist() == [1.0, 0.0]


def test_numbers_far_from_zero_keep_their_variance():
    values = torch.tensor([1e6 - 1, 1e6 + 1])  # of squares alone, float32 would leave nothing
    assert variance(values).item() == 1.0


def test_what_is_not_finite_stays_so():
    assert deviation(torch.tensor([1.0, torch.inf])).isnan()
    assert variance(torch.tensor([1.0, torch.nan])).isnan()
