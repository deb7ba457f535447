"""Where bfloat16 is worth its rounding, and where it is not."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor

NARROW = 32  # columns of a matrix product below which a CPU does its transpose in half the time, or less
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]  # weights, losses and optimisers are float32 in all of them


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """For first and last layers: bfloat16 rounds a Q-value of 300 to a multiple of 2, and a position of 1 m to 4 mm."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


@contextmanager
def cast_once() -> Iterator[None]:
    """Weights that autocast casts in here are cast once until its own context ends, and no more for every use.

    Which is what torch does by itself, and Lightning turns off. A loss of ten steps casts them, and back their
    gradients, ten times: a quarter of its time. Not for what steps an optimiser and reads on: it would read old ones.
    """
    usual = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(True)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(usual)


def narrow(x: Tensor, weight: Tensor) -> bool:
    """Whether x @ weight [..., I, J] is better computed by `narrow_linear`.

    On a CPU, where few columns leave its matrix product half idle; not for a gradient, which would take longer so.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" and weight.shape[-1] < NARROW


def narrow_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [E, B, I] @ weight [E, I, J] + bias [E, 1, J], computed as its transpose: [E, B, J]."""
    return torch.baddbmm(bias.mT, weight.mT, x.mT).mT


def settled(precision: str, accelerator: str) -> Precision:
    """The precision that is meant: `auto` is bf16-mixed where the device multiplies bfloat16, and 32-true elsewhere.

    A notice on stderr says so if bf16-mixed is asked for where it is the slower one.
    """
    if precision == "auto":
        return "bf16-mixed" if multiplies_bfloat16(accelerator) else "32-true"
    if precision == "bf16-mixed" and not multiplies_bfloat16(accelerator) and (ratio := slowness()) > 1:
        print(
            f"precision is bf16-mixed, and this processor emulates bfloat16: a matrix product takes {ratio:.1f} times"
            " as long as in 32-true; auto chooses what is quicker",
            file=sys.stderr,
        )
    return precision  # type: ignore[return-value]


def slowness(size: int = 256, rounds: int = 10) -> float:
    """How many times as long as in float32 a product of two square matrices takes in bfloat16 on this CPU."""
    taken = []
    for kind in torch.bfloat16, torch.float32:
        left = torch.ones(size, size, dtype=kind)
        torch.mm(left, left)
        begun = time.perf_counter()
        for _ in range(rounds):
            torch.mm(left, left)
        taken.append(time.perf_counter() - begun)
    return taken[0] / taken[1]


def multiplies_bfloat16(accelerator: str) -> bool:
    """Whether the device has instructions for it; without them torch converts, and is slower than in float32."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.cpu._is_avx512_bf16_supported()
    return torch.cuda.is_bf16_supported(including_emulation=False)
