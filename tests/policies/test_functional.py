"""Hand-worked numbers for the learners' maths."""

import math

import pytest
import torch

from mbrl.core import generator
from policies import functional


def test_bellman_target_bootstraps_past_a_truncation_but_not_past_a_terminal():
    target = functional.bellman_target(
        torch.tensor([1.0, 1.0]), torch.tensor([False, True]), torch.tensor([-10.0, -10.0]), 0.9
    )
    assert target.tolist() == [1.0 - 9.0, 1.0]  # negative values are kept: no clamp at zero


def test_conservative_gap_sums_over_actions_not_over_states():
    # one critic, two sampled actions at three states, each drawn with density 1/2
    sampled = torch.log(torch.tensor([[[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]]))  # [K=1, M=2, B=3]
    density = torch.full((2, 3), math.log(0.5))
    logged = torch.tensor([[1.0, 3.0]])
    # at each state log((Q1 + Q2) / 0.5 / 2): log 4, log 6, log 8
    expected = (math.log(4) + math.log(6) + math.log(8)) / 3 - 2.0
    assert functional.conservative_gap(sampled, density, logged).tolist() == pytest.approx([expected])


def test_tanh_gaussian_density_integrates_to_one():
    grid = torch.linspace(-1 + 1e-5, 1 - 1e-5, 20001, dtype=torch.float64)
    mean, log_std = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-0.5, dtype=torch.float64)
    noise = (torch.atanh(grid) - mean) / log_std.exp()
    action, log_density = functional.tanh_gaussian(mean.expand(20001, 1), log_std.expand(20001, 1), noise[:, None])
    assert torch.allclose(action[:, 0], grid)
    assert float(torch.trapezoid(log_density[:, 0].exp(), grid)) == pytest.approx(1.0, abs=1e-4)


def test_log_tanh_slope_stays_finite_where_the_naive_form_is_not():
    raw = torch.tensor([0.0, 2.0, 40.0, -40.0])
    slope = functional.log_tanh_slope(raw)
    assert slope[0] == pytest.approx(0.0, abs=1e-6)
    assert slope[1] == pytest.approx(math.log(1 - math.tanh(2.0) ** 2), rel=1e-5)
    assert torch.isfinite(slope).all()
    assert slope[2] == pytest.approx(2 * (math.log(2) - 40), rel=1e-6)


def test_gumbel_max_draws_the_categorical():
    logits = torch.log(torch.tensor([0.1, 0.2, 0.7])).expand(20000, 3)
    drawn = functional.sample_categorical(logits, generator(0, "test"))
    share = torch.bincount(drawn, minlength=3) / 20000
    assert share.tolist() == pytest.approx([0.1, 0.2, 0.7], abs=0.015)


def test_one_hot():
    assert functional.one_hot(torch.tensor([[2], [0]]), 3).tolist() == [[[0, 0, 1]], [[1, 0, 0]]]
