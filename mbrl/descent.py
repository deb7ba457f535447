"""One step of an optimiser, and gradients inside an update: alike for one learner, and for a population of them.

A population (`mbrl.training.population`) maps `Learner.update` over weights that have a leading axis. What reaches
beyond a single member there, the step of an optimiser that holds the weights of all of them, stands here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

_MAPPED: ContextVar[bool] = ContextVar("mapped", default=False)


@contextmanager
def mapped() -> Iterator[None]:
    """Inside, an update is being mapped over the members of a population by `torch.func.vmap`."""
    token = _MAPPED.set(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no rule for a further axis
            yield
    finally:
        _MAPPED.reset(token)


def is_mapped() -> bool:
    """Whether an update is being mapped over a population, where an `autograd.Function` needs a rule for that."""
    return _MAPPED.get()


def descend(optimizer: Optimizer, loss: Tensor) -> None:
    """One step of `optimizer` down `loss` (scalar), from fresh gradients.

    A learner that steps its optimisers by this alone can be trained as a population.
    """
    if is_mapped():
        _Descent.apply(loss, optimizer)
        return
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def leaf(x: Tensor) -> Tensor:
    """x, as something that `slope` can be taken at."""
    if is_mapped():
        fresh: Tensor = _Leaf.apply(x)
        return fresh
    return x.detach().requires_grad_()


def slope(value: Tensor, at: Tensor) -> Tensor:
    """The gradient of `value` (scalar) with respect to a `leaf`, in its shape; it can be differentiated further."""
    if is_mapped():
        found: Tensor = _Slope.apply(value, at)
        return found
    (found,) = torch.autograd.grad(value, at, create_graph=True)
    return found


@torch.no_grad()
def polyak_(slow: Sequence[Tensor], quick: Sequence[Tensor], rate: float) -> None:
    """slow <- (1 - rate) slow + rate quick, in place, tensor by tensor."""
    if is_mapped():  # which has no rule for a list of tensors, nor for lerp_
        for kept, now in zip(slow, quick, strict=True):
            kept.add_(now - kept, alpha=rate)
        return
    torch._foreach_lerp_(list(slow), list(quick), rate)


class _Mapped(torch.autograd.Function):
    """What is only ever called inside `torch.func.vmap`, whose rule it is: the losses of all members come at once.

    The members share no weight, so the gradient of the sum of their losses is the gradients of each of them.
    """

    @staticmethod
    def forward(*given: Any) -> Any:
        raise RuntimeError("this is mapped over a population, and was called outside of one")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise RuntimeError("nothing is differentiated through a step")


class _Descent(_Mapped):
    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, None], loss: Tensor, optimizer: Optimizer
    ) -> tuple[Tensor, int | None]:
        del info
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            loss.sum().backward()
        optimizer.step()
        return loss.detach(), in_dims[0]


class _Leaf(_Mapped):
    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None], x: Tensor) -> tuple[Tensor, int | None]:
        del info
        return x.detach().requires_grad_(), in_dims[0]


class _Slope(_Mapped):
    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None], value: Tensor, at: Tensor) -> tuple[Tensor, int | None]:
        del info
        with torch.enable_grad():
            (found,) = torch.autograd.grad(value.sum(), at, create_graph=True)
        return found, in_dims[1]
