"""Scores against closed forms, numbers worked by hand, and uncertainty-toolbox."""

import math

import pytest
import torch
from torch import Tensor
from uncertainty_toolbox import metrics_calibration, metrics_scoring_rule

from mbrl.core import generator
from mbrl.evaluation import scores

RNG = generator(0, "test")
MEAN, STD = torch.randn(400, generator=RNG).double(), 0.5 + torch.rand(400, generator=RNG).double()
TARGET = MEAN + 0.7 * STD * torch.randn(400, generator=RNG).double()
ARRAYS = tuple(x.numpy() for x in (MEAN, STD, TARGET))
EVEN = (torch.arange(200_000).double() + 0.5) / 200_000  # a uniform sample without its noise
NORMAL = torch.special.ndtri(EVEN)


def pit(scale: float) -> Tensor:
    """Of a standard normal under a Gaussian with `scale` times its std, [N, 1]."""
    return torch.special.ndtr(NORMAL / scale).unsqueeze(-1)


def test_a_standard_normal_scores_what_the_closed_forms_say() -> None:
    zero, one = torch.zeros_like(NORMAL), torch.ones_like(NORMAL)
    assert scores.gaussian_crps(zero, one, NORMAL).mean().item() == pytest.approx(1 / math.sqrt(math.pi), abs=1e-4)
    entropy = 0.5 * math.log(2 * math.pi * math.e)
    assert scores.gaussian_nll(zero, one, NORMAL).mean().item() == pytest.approx(entropy, abs=1e-3)
    assert scores.sharpness(torch.tensor([[3.0], [4.0]])).item() == pytest.approx(math.sqrt(12.5))


@pytest.mark.parametrize(("scale", "error"), [(1.0, 0.0), (0.5, 0.2069), (2.0, 0.2069)])
def test_calibration_error_of_a_wrong_std(scale: float, error: float) -> None:
    # over all levels |2 / pi arctan(scale) - 1/2| = 0.2048; 99 of 100 levels are neither 0 nor 1
    assert scores.calibration_error(pit(scale)).item() == pytest.approx(error, abs=1e-3)


def test_coverage_is_that_of_central_intervals() -> None:
    assert scores.coverage(pit(1.0), 0.9).item() == pytest.approx(0.9, abs=1e-4)
    assert scores.coverage(pit(2.0), 0.9).item() == pytest.approx(2 * 0.99950 - 1, abs=1e-3)
    two = torch.tensor([[0.04, 0.5], [0.06, 0.5], [0.94, 0.5], [0.96, 0.0]])
    assert scores.coverage(two, 0.9).tolist() == [0.5, 0.75]


def test_quantile_crps_is_the_closed_one() -> None:
    levels = (torch.arange(999).double() + 0.5) / 999
    quantiles = MEAN + STD * torch.special.ndtri(levels).unsqueeze(-1)
    exact = scores.gaussian_crps(MEAN, STD, TARGET)
    torch.testing.assert_close(scores.quantile_crps(quantiles, TARGET), exact, atol=2e-3, rtol=0)


def test_interval_score_by_hand() -> None:
    low, high = torch.zeros(3), torch.full((3,), 2.0)
    assert scores.interval_score(low, high, torch.tensor([1.0, -0.5, 2.25]), 0.9).tolist() == pytest.approx([2, 12, 7])


def test_scores_agree_with_uncertainty_toolbox() -> None:
    nll, crps = scores.gaussian_nll(MEAN, STD, TARGET).mean(), scores.gaussian_crps(MEAN, STD, TARGET).mean()
    assert nll.item() == pytest.approx(metrics_scoring_rule.nll_gaussian(*ARRAYS))
    assert crps.item() == pytest.approx(metrics_scoring_rule.crps_gaussian(*ARRAYS))
    assert scores.sharpness(STD).item() == pytest.approx(metrics_calibration.sharpness(ARRAYS[1]))
    errors = torch.special.ndtr((TARGET - MEAN) / STD).unsqueeze(-1)
    theirs = metrics_calibration.mean_absolute_calibration_error(*ARRAYS, num_bins=101)
    assert scores.calibration_error(errors).item() * 99 / 101 == pytest.approx(theirs, abs=5e-4)  # theirs has 0 and 1
    half = torch.special.ndtri(torch.tensor(0.95).double()) * STD
    mine = torch.stack([scores.interval_score(MEAN - z * STD, MEAN + z * STD, TARGET, p) for p, z in _central()])
    assert mine.mean().item() == pytest.approx(metrics_scoring_rule.interval_score(*ARRAYS), rel=1e-6)
    assert half.min() > 0


def _central() -> list[tuple[float, float]]:
    """uncertainty-toolbox's 99 levels of central intervals with their normal half-widths."""
    levels = torch.linspace(0.01, 0.99, 99).double()
    return [(p, float(torch.special.ndtri(torch.tensor(0.5 + p / 2).double()))) for p in levels.tolist()]


def test_pit_histogram_counts_rows() -> None:
    rows = torch.tensor([[0.0, 0.5], [0.1, 0.5], [0.6, 0.5], [1.0, 0.5]])
    assert scores.pit_histogram(rows, 2).tolist() == [[0.5, 0.0], [0.5, 1.0]]


def test_brier_and_auroc_by_hand() -> None:
    chance, ended = torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, False, True, True])
    assert scores.brier(chance, ended) == pytest.approx((0.01 + 0.16 + 0.36 + 0.01) / 4)
    assert scores.auroc(chance, ended) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert scores.auroc(chance, ~ended) == pytest.approx(1 - 3.5 / 4)
    assert scores.auroc(chance, torch.zeros(4, dtype=torch.bool)) is None
    assert scores.auroc(torch.ones(500), torch.arange(500) < 250) == 0.5  # a score that never varies


def test_rank_correlation_sees_ranks_only_and_says_when_there_are_none() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert scores.spearman(x, x.exp()) == pytest.approx(1.0)
    assert scores.spearman(x, torch.tensor([2.0, 1.0, 4.0, 3.0])) == pytest.approx(0.6)  # 1 - 6 * 4 / (4 * 15)
    assert scores.spearman(x, torch.ones(4)) is None


def test_deciles_are_of_the_key() -> None:
    key = torch.arange(20.0).flip(0)
    assert scores.by_decile(key, 2 * key)[0] == (0.5, 1.0)
    assert len(scores.by_decile(key, key)) == 10
    assert scores.by_decile(torch.tensor([2.0, 1.0]), torch.tensor([5.0, 7.0])) == [(1.0, 7.0), (2.0, 5.0)]
