"""Pure maths of the models: tensors and floats in, tensors out. Axes as in `mbrl.core`; I inputs, H hidden units."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import binary_cross_entropy_with_logits, layer_norm, silu, softplus

from mbrl.core import full_precision, is_mapped, narrow, narrow_linear

TINY = 1e-30  # a variance, of what never changes
WORTH_BALANCING = 2_000_000  # multiplications in a matrix product that takes longer than the calls to balance it


def batched_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer per member: x [E, B, I], weight [E, I, H], bias [E, 1, H] -> [E, B, H]."""
    if narrow(x, weight):
        return narrow_linear(x, weight, bias)
    if is_mapped() or torch.compiler.is_compiling() or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return torch.baddbmm(bias, x, weight)
    small = x.shape[1] * weight.shape[1] * weight.shape[2] < WORTH_BALANCING
    if small or len(x) % torch.get_num_threads() == 0:
        return torch.baddbmm(bias, x, weight)
    return _BalancedLinear.apply(x, weight, bias)


def balanced_bmm(x: Tensor, y: Tensor) -> Tensor:
    """`torch.bmm` for a CPU whose threads the batch does not divide among: [E, B, I], [E, I, H] -> [E, B, H].

    A batched product gives every thread whole matrices, so that of 7 on 2 threads one thread waits while the other
    multiplies its fourth. The matrices that are left over are multiplied here one by one, by all threads together.
    """
    out = x.new_empty(len(x), x.shape[1], y.shape[2])
    even = len(x) - len(x) % torch.get_num_threads()
    torch.bmm(x[:even], y[:even], out=out[:even])
    for left, right, product in zip(x[even:], y[even:], out[even:], strict=True):
        torch.mm(left, right, out=product)
    return out


class _BalancedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return balanced_bmm(x, weight).add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        of_x = balanced_bmm(gradient, weight.mT) if ctx.needs_input_grad[0] else None
        return of_x, balanced_bmm(x.mT, gradient), gradient.sum(1, keepdim=True)


def batched_layer_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LayerNorm per member (Ba et al. 2016, equation 4): x [E, B, H], scale and shift [E, 1, H] -> [E, B, H]."""
    return torch.addcmul(shift, layer_norm(x, x.shape[-1:]), scale)


def batched_mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    scales: Sequence[Tensor] = (),
    shifts: Sequence[Tensor] = (),
) -> Tensor:
    """Linear layers with SiLU between them, one network per member: [E, B, I] -> [E, B, last H].

    With scales and shifts, [E, 1, H] for each layer but the last, LayerNorm stands between a layer and its SiLU. The
    first and the last layer compute in float32 whatever autocast says.
    """
    for i, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
        with full_precision(x) if i == 0 else nullcontext():
            x = batched_linear(x, weight, bias)
        x = batched_layer_norm(x, scales[i], shifts[i]) if scales else x
        x = silu(x, inplace=not torch.is_grad_enabled())
    with full_precision(x):
        return batched_linear(x.float(), weights[-1], biases[-1])


def gru_cell(x: Tensor, hidden: Tensor, weights: tuple[Tensor, Tensor], biases: tuple[Tensor, Tensor]) -> Tensor:
    """One step of a gated recurrent unit per member (Cho et al. 2014), as `torch.nn.GRU` defines it: [E, B, H].

    r, z = sigmoid(W_x x + b_x + W_h h + b_h), n = tanh(W_x x + b_x + r (W_h h + b_h)), h' = (1 - z) n + z h, with rows
    of W and b of their own for r, z and n.

    Args:
        x: [E, B, I].
        hidden: [E, B, H].
        weights: W_x [E, I, 3 H] and W_h [E, H, 3 H]; r, z and n side by side.
        biases: b_x and b_h, [E, 1, 3 H].
    """
    width = hidden.shape[-1]
    seen, kept = (batched_linear(v, w, b) for v, w, b in zip((x, hidden), weights, biases, strict=True))
    reset, update = (seen[..., : 2 * width] + kept[..., : 2 * width]).sigmoid().chunk(2, -1)
    new = torch.addcmul(seen[..., 2 * width :], reset, kept[..., 2 * width :]).tanh()
    return new + update * (hidden - new)


def soft_clamp(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Squash x smoothly between low and high, with a gradient everywhere (PETS, Chua et al. 2018, appendix A.1)."""
    x = high - softplus(high - x)
    return low + softplus(x - low)


def gaussian_nll(
    mean: Tensor, log_var: Tensor, target: Tensor, beta: Tensor | None = None, counted: Tensor | None = None
) -> Tensor:
    """Twice the Gaussian negative log-likelihood without its constant, averaged over rows and channels.

    The loss of PETS (Chua et al. 2018, equation 1), as MOPO and its descendants scale it; with `beta` that of Seitzer
    et al. 2022, equation 5: every term is weighted by the predicted variance, as a constant, to the power beta.

    Args:
        mean: [E, B, D].
        log_var: [E, B, D].
        target: [E, B, D].
        beta: [D], from 0 (the likelihood) to 1 (the mean learns as from its squared error).
        counted: [E, B, D] bool; what is not counted adds zero to the average.

    Returns:
        [E].
    """
    loss = (mean - target).square() * (-log_var).exp() + log_var
    if beta is not None:
        loss = loss * (beta * log_var.detach()).exp()
    return (loss if counted is None else loss.where(counted, 0.0)).mean((-2, -1))


def squared_error(mean: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over rows and channels: [E, B, D] twice -> [E]."""
    return (mean - target).square().mean((-2, -1))


def binary_cross_entropy(logit: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy of logits [E, B, ...] and bool labels of this shape: [E]."""
    return binary_cross_entropy_with_logits(logit, label.to(logit.dtype), reduction="none").flatten(1).mean(-1)


def mixed_moments(mean: Tensor, std: Tensor, still: Tensor, resting: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean and std of a change that is `resting` with probability `still`, and else has this mean and std: [...]."""
    changes = 1 - still
    variance = changes * (std.square() + still * (mean - resting).square())
    return changes * mean + still * resting, variance.clamp_min(TINY).sqrt()  # the root of 0 has no gradient


def as_members(x: Tensor, members: int) -> Tensor:
    """Give every member its rows: [B, D], seen by all, or [E, B, D] already, -> [E, B, D] without a copy.

    Raises:
        ValueError: neither form.
    """
    if x.dim() == 2:
        return x.expand(members, *x.shape)
    if x.dim() != 3 or x.shape[0] != members:
        raise ValueError(f"got a tensor of shape {list(x.shape)}, expected [B, D] or [{members}, B, D]")
    return x
