"""How unsure a model is of a prediction: pure functions from `Prediction` to [B].

All of them read `Prediction.normalised()`, in units of the spread of the log's observation changes and rewards, so
that no channel decides by its scale. The simulator rescales each by its own quantile on held-out transitions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl.core import Prediction, deviation, variance


def max_aleatoric(prediction: Prediction) -> Tensor:
    """The largest norm over members of the predicted std: max_i ||sigma_i||_2 (MOPO, Yu et al. 2020, section 4.3)."""
    _, std = prediction.normalised()
    return torch.linalg.vector_norm(std, dim=-1).amax(0)


def ensemble_std(prediction: Prediction) -> Tensor:
    """The std of the members' means, ||std_i mu_i||_2: zero where all members agree.

    The epistemic part of the ensemble variance of Lu et al. 2022 ("Revisiting Design Choices in Offline Model-Based
    RL", section 3), whose mixture is that of Lakshminarayanan et al. 2017.
    """
    mean, _ = prediction.normalised()
    return torch.linalg.vector_norm(deviation(mean), dim=-1)


def max_pairwise(prediction: Prediction) -> Tensor:
    """The largest distance between two members' means for one input: max_ij ||mu_i - mu_j||_2.

    The discrepancy of MOReL (Kidambi et al. 2020, equation 2).
    """
    mean, _ = prediction.normalised()
    rows = mean.transpose(0, 1)
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").amax((-2, -1))


def mixture_std(prediction: Prediction) -> Tensor:
    """The std of the members' equal mixture, ||(mean_i sigma_i^2 + var_i mu_i)^(1/2)||_2: noise and ignorance together.

    Lakshminarayanan et al. 2017, section 2.4, by the law of total variance; the ensemble std of Lu et al. 2022.
    """
    mean, std = prediction.normalised()
    return (std.square().mean(0) + variance(mean)).sum(-1).sqrt()
