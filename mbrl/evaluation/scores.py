"""Proper scores and calibration of predictive distributions: pure functions of tensors.

Axis letters as in `mbrl.core`; C channels, L levels. Scores without a stated reduction keep the shape of their
arguments. The definitions are those of uncertainty-toolbox (Chung et al. 2021), which the tests compare with.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor

LEVELS = 99  # 0.01, 0.02 ... 0.99: at which calibration is measured


def gaussian_nll(mean: Tensor, std: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of `target` under a Gaussian, in nats."""
    return 0.5 * ((target - mean) / std).square() + std.log() + 0.5 * math.log(2 * math.pi)


def gaussian_crps(mean: Tensor, std: Tensor, target: Tensor) -> Tensor:
    """Continuous ranked probability score of a Gaussian (Gneiting and Raftery 2007, equation 21), in target's unit."""
    z = (target - mean) / std
    density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    return std * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))


def quantile_crps(quantiles: Tensor, target: Tensor) -> Tensor:
    """The same score from quantiles [L, ...] at the levels (i + 1/2) / L: twice their mean pinball loss."""
    count = len(quantiles)
    levels = (torch.arange(count, device=target.device, dtype=target.dtype) + 0.5) / count
    levels = levels.view(-1, *[1] * target.dim())
    beyond = target - quantiles
    return 2 * torch.maximum(levels * beyond, (levels - 1) * beyond).mean(0)


def interval_score(low: Tensor, high: Tensor, target: Tensor, level: float) -> Tensor:
    """Width of the central `level` interval plus 2 / (1 - level) times the miss (Gneiting and Raftery 2007, eq. 43)."""
    miss = (low - target).clamp_min(0) + (target - high).clamp_min(0)
    return high - low + 2 / (1 - level) * miss


def sharpness(std: Tensor) -> Tensor:
    """Root mean square of predicted stds [N, ...] over rows: small is sharp, whether right or wrong."""
    return std.square().mean(0).sqrt()


def coverage(pit: Tensor, level: float) -> Tensor:
    """Share of rows of the probability integral transform [N, C] inside the central `level` interval: [C]."""
    return ((2 * pit - 1).abs() <= level).to(pit.dtype).mean(0)


def calibration_curve(pit: Tensor) -> tuple[Tensor, Tensor]:
    """Levels [L] of central intervals, and the share of rows of `pit` [N, C] inside each: [L, C]."""
    levels = torch.arange(1, LEVELS + 1, device=pit.device, dtype=pit.dtype) / (LEVELS + 1)
    return levels, torch.stack([coverage(pit, float(level)) for level in levels])


def calibration_error(pit: Tensor) -> Tensor:
    """Mean absolute difference of nominal and observed coverage of central intervals (MACE), of `pit` [N, C]: [C]."""
    levels, observed = calibration_curve(pit)
    return (observed - levels.unsqueeze(-1)).abs().mean(0)


def pit_histogram(pit: Tensor, bins: int = 20) -> Tensor:
    """Share of rows of `pit` [N, C] in each of `bins` equal bins: [bins, C]; 1 / bins everywhere is calibrated."""
    place = (pit * bins).long().clamp(0, bins - 1)
    counts = torch.zeros(bins, pit.shape[1], dtype=torch.float64, device=pit.device)
    return counts.scatter_add_(0, place, torch.ones_like(place, dtype=torch.float64)) / len(pit)


def brier(probability: Tensor, outcome: Tensor) -> float:
    """Mean squared difference of a probability [N] and what happened, [N] bool."""
    return float((probability - outcome.to(probability.dtype)).square().mean())


def auroc(score: Tensor, positive: Tensor) -> float | None:
    """Chance that a positive row of `score` [N] is above a negative one, ties half; None where one kind is missing."""
    yes, no = score[positive].numpy(force=True), score[~positive].numpy(force=True)
    if not len(yes) or not len(no):
        return None
    ranks = stats.rankdata(np.concatenate([yes, no]))[: len(yes)].sum()  # Mann and Whitney's U, without its p-value
    return float((ranks - len(yes) * (len(yes) + 1) / 2) / (len(yes) * len(no)))


def spearman(one: Tensor, other: Tensor) -> float | None:
    """Rank correlation of [N] with [N]; None where one of them is constant, and so has no ranks."""
    a, b = one.numpy(force=True), other.numpy(force=True)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(stats.spearmanr(a, b).statistic)


def by_decile(key: Tensor, *values: Tensor) -> list[tuple[float, ...]]:
    """Means of `key` [N] and each of `values` [N] in ten (or, of fewer rows, N) equal groups of rising `key`."""
    groups = key.argsort(stable=True).tensor_split(min(10, len(key)))
    return [tuple(float(column[rows].mean()) for column in (key, *values)) for rows in groups]
