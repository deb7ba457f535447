"""Pure maths of the learners: tensors and floats in, tensors out."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mbrl.core import deviation, narrow, narrow_linear


def stacked_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """K linear layers at once: x [K, B, I], weight [K, I, J], bias [K, 1, J] -> [K, B, J]."""
    if narrow(x, weight):
        return narrow_linear(x, weight, bias)
    return torch.baddbmm(bias, x, weight)


def tanh_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Sample a squashed Gaussian: actions in (-1, 1) and the log density of each channel, [..., A] both.

    Haarnoja et al. 2018, "Soft Actor-Critic", appendix C, eq. 21; log(1 - tanh(u)^2) is written as
    2 (log 2 - u - softplus(-2u)), which stays finite for large |u|.
    """
    raw = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    return torch.tanh(raw), gaussian - log_tanh_slope(raw)


def log_tanh_slope(raw: Tensor) -> Tensor:
    """log d tanh(u)/du, elementwise."""
    return 2 * (math.log(2) - raw - F.softplus(-2 * raw))


def one_hot(index: Tensor, count: int) -> Tensor:
    """[...] integer choices -> [..., count] float rows (without the range check that would read from the device)."""
    rows = torch.zeros(*index.shape, count, device=index.device)
    return rows.scatter(-1, index.unsqueeze(-1), 1.0)


def sample_categorical(logits: Tensor, rng: torch.Generator) -> Tensor:
    """Gumbel-max: one choice a row, [..., A] -> [...] int64."""
    uniform = torch.rand(logits.shape, generator=rng, device=logits.device).clamp(1e-12, 1 - 1e-7)
    return (logits - torch.log(-torch.log(uniform))).argmax(-1)


def bellman_target(reward: Tensor, terminated: Tensor, next_value: Tensor, discount: Tensor | float) -> Tensor:
    """r + discount * V(s') where the world goes on, r where it ended (terminated, not truncated): [B]."""
    return reward + discount * torch.where(terminated, 0.0, next_value)


def conservative_gap(sampled: Tensor, log_density: Tensor, logged: Tensor) -> Tensor:
    """logsumexp over **actions** of importance-weighted Q, minus Q of the logged actions: scalar per critic, [K].

    Kumar et al. 2020, "Conservative Q-Learning", appendix F; Yu et al. 2021, "COMBO", eq. 3.

    Args:
        sampled: [K, M, B] Q-values of M sampled actions at each of B states.
        log_density: [M, B] log density of the distribution that each action was drawn from.
        logged: [K, B'] Q-values of logged state-action pairs.
    """
    soft_maximum = torch.logsumexp(sampled - log_density, dim=1) - math.log(sampled.shape[1])
    return soft_maximum.mean(-1) - logged.mean(-1)


def gradient_similarity(gradients: Tensor) -> Tensor:
    """How alike the directions of K gradients [K, B, A] are: mean over B of sum_{i != j} cos(g_i, g_j) / (K - 1).

    An et al. 2021, "Uncertainty-Based Offline Reinforcement Learning with Diversified Q-Ensemble", eq. 8: K where all
    agree, 0 where they are at right angles, scalar. For unit vectors the sum over pairs is |sum_i u_i|^2 - K.
    """
    unit = F.normalize(gradients, dim=-1)
    pairs = unit.sum(0).square().sum(-1) - unit.square().sum((0, -1))
    return pairs.mean() / (len(gradients) - 1)


def smoothed_action(action: Tensor, noise: Tensor, limit: float) -> Tensor:
    """clip(action + clip(noise, -limit, limit), -1, 1), elementwise: Fujimoto et al. 2018, "TD3", eq. 14."""
    return (action + noise.clamp(-limit, limit)).clamp(-1, 1)


def relative_value(value: Tensor) -> Tensor:
    """Q / mean |Q| of the batch [B], the mean a constant: Fujimoto & Gu 2021, "TD3+BC", eq. 5."""
    return value / value.detach().abs().mean().clamp_min(1e-8)


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """|expectile - 1(error < 0)| error^2, elementwise: 0.5 gives half the square, more weighs positive errors more.

    Kostrikov et al. 2022, "Offline Reinforcement Learning with Implicit Q-Learning", section 4.1. Minimised over v with
    error = x - v, it gives the expectile of x: the mean for 0.5, towards the largest x for 1.
    """
    return torch.where(error < 0, 1 - expectile, expectile) * error.square()


def advantage_weighted(log_prob: Tensor, advantage: Tensor, beta: float, largest: float) -> Tensor:
    """-mean min(exp(beta advantage), largest) log_prob: imitation of what was better than expected, scalar.

    The projection of exp(beta A) times the log's policy on the actor's family (Peng et al. 2019, "Advantage-Weighted
    Regression"; Nair et al. 2020, "AWAC", eq. 13; Kostrikov et al. 2022, eq. 7). Weights are constants.

    Args:
        log_prob: [B] of the logged actions.
        advantage: [B].
        beta: inverse temperature, in units of 1 / advantage; 0 imitates every row alike.
        largest: where weights are clipped, so that no row alone decides.
    """
    weight = (beta * advantage.detach()).exp().clamp_max(largest)
    return -(weight * log_prob).mean()


def standardised(x: Tensor) -> Tensor:
    """x [B] less its mean over the batch, in units of its standard deviation there."""
    return (x - x.mean()) / (x.std(correction=0) + 1e-6)


def soft_minimum(values: Tensor, weight: float) -> Tensor:
    """weight min_k + (1 - weight) max_k of values [K, ...]: [...]. Fujimoto et al. 2019, "Off-Policy Deep Reinforcement
    Learning without Exploration", eq. 13.
    """
    return weight * values.amin(0) + (1 - weight) * values.amax(0)


def standard_divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)), elementwise, in nats. Kingma & Welling 2014, appendix B."""
    return 0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std


def likely(log_probs: Tensor, threshold: float) -> Tensor:
    """Which choices have at least `threshold` times the probability of the likeliest: [..., A] -> bool [..., A].

    Fujimoto et al. 2019, "Benchmarking Batch Deep Reinforcement Learning Algorithms"; the likeliest always has.
    """
    return (log_probs - log_probs.amax(-1, keepdim=True)).exp() >= threshold


def bellman_inconsistency(values: Tensor) -> Tensor:
    """How far models disagree about the value of what follows: std over E models of the mean over S samples, [B].

    Sun et al. 2023, "Model-Bellman Inconsistency for Model-based Offline RL", eq. 7: values [E, S, B] are those of the
    successors that each model samples. Zero with one model. The std of the E models themselves, without a correction.
    """
    return deviation(values.mean(1))


def adversarial_loss(log_density: Tensor, advantage: Tensor) -> Tensor:
    """Mean of A log p of sampled successors, scalar: a model that descends it makes what is good less likely.

    Rigter et al. 2022, "RAMBO-RL", proposition 2, the score-function gradient of the policy's value. Advantages [B] are
    constants, and standardised over the batch, as in the authors' code.
    """
    return (standardised(advantage.detach()) * log_density).mean()


def coloured(white: Tensor, colour: float) -> Tensor:
    """White noise [..., T] -> noise [..., T] of variance 1 whose power falls with frequency as f^-colour.

    Timmer and Koenig 1995, as in Pinneri et al. 2020, "Sample-efficient Cross-Entropy Method", section 3.1; the
    frequency 0 counts as the lowest other one, 1 / T.
    """
    steps = white.shape[-1]
    amplitude = torch.fft.fftfreq(steps, device=white.device).abs().clamp_min(1 / steps) ** (-colour / 2)
    return torch.fft.ifft(torch.fft.fft(white) * amplitude).real / amplitude.square().mean().sqrt()


def elite_weights(scores: Tensor, elites: int, softness: float, tie: float) -> Tensor:
    """Weights [..., N] that sum to 1, about even over the best `elites` of the scores [..., N], and 0 for the others.

    The edge between the two is midway between the last elite and the next. A candidate beyond it counts by how far, up
    to `softness` (best - edge) + `tie`, and fully from there on: so rounding moves the weights by rounding, where a
    hard choice would swap one candidate for another. Where all that is best is alike, within `tie`, it counts alike.
    """
    best = scores.topk(elites + 1, -1).values
    edge = (best[..., -2:-1] + best[..., -1:]) / 2
    gap, beyond = best[..., :1] - edge, scores - edge
    ramp = (beyond / (softness * gap + tie)).clamp(0, 1)
    weights = ramp + torch.exp(-gap / tie) * torch.sigmoid(beyond / tie)
    return weights / weights.sum(-1, keepdim=True)


def path_weights(scores: Tensor, temperature: float, tie: float) -> Tensor:
    """exp(score / lambda) [..., N], made to sum to 1: Williams et al. 2017, "Information Theoretic MPC", eq. 30 and 34.

    lambda is `temperature` times the standard deviation of the scores [..., N], and `tie`: on any scale of rewards the
    same share of candidates counts.
    """
    unit = temperature * deviation(scores, -1).unsqueeze(-1) + tie
    return torch.softmax(scores / unit, -1)


def puct(value: Tensor, visits: Tensor, prior: Tensor, exploration: float) -> Tensor:
    """value + exploration prior sqrt(sum of visits) / (1 + visits), [..., A]: a search tries the largest next.

    Silver et al. 2018, "AlphaZero", methods; Schrittwieser et al. 2020, "MuZero", eq. 2, whose logarithm adds less than
    0.03 in 500 visits. Values are in [0, 1].
    """
    return value + exploration * prior * visits.sum(-1, keepdim=True).sqrt() / (1 + visits)
