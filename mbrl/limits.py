"""What settings may be: refusals that name the setting, its value and what was expected."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

LARGEST_SEED = 2**32 - 1  # of numpy and scikit-learn


def expect(good: bool, name: str, value: object, expected: str) -> None:
    """Refuse a value that is not good."""
    if not good:  # false of NaN as well, whatever the comparison
        raise ValueError(f"{name} is {value}, expected {expected}")


def at_least(least: int, group: str, settings: object, *names: str) -> None:
    """Refuse the named settings of a group where they are below `least`."""
    for name in names:
        value = getattr(settings, name)
        expect(value >= least, f"{group}.{name}", value, f"at least {least}")


def callable_with(name: str, function: Callable[..., Any] | None, *arguments: str) -> None:
    """Refuse a function that does not take these arguments."""
    if function is None:
        return
    try:
        inspect.signature(function).bind(*arguments)
    except (TypeError, ValueError) as error:  # the latter of functions in C, which say nothing of their arguments
        told = f"which does not take ({', '.join(arguments)}): {error}"
        raise ValueError(f"{name} is {dotted(function)}, {told}") from error


def dotted(function: Callable[..., Any]) -> str:
    """What a function is called in a message."""
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}"


def asked(name: str, function: Callable[..., Any], *arguments: object) -> Any:
    """What somebody's function returns; an error of its own names the setting.

    Raises:
        ValueError: it raises anything.
    """
    try:
        return function(*arguments)
    except Exception as error:  # whatever it raises, it is somebody else's code
        raise ValueError(f"{name} {dotted(function)} raised {type(error).__name__}: {error}") from error


def answered(
    name: str, function: Callable[..., Any], found: object, shape: Sequence[int], boolean: bool = False
) -> Tensor:
    """What somebody's function returned, refused if it is no tensor of that shape; no value is looked at.

    Args:
        name: of the setting.
        function: which was called.
        found: what it returned.
        shape: expected.
        boolean: whether truth values are.
    """
    kind = "bool tensor" if boolean else "tensor"
    if not isinstance(found, Tensor) or list(found.shape) != list(shape) or (boolean and found.dtype != torch.bool):
        got = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{name} {dotted(function)} returned {got}, expected a {kind} {list(shape)}")
    return found


def check_seed(seed: int) -> None:
    """Refuse a seed that is none of numpy's."""
    expect(0 <= seed <= LARGEST_SEED, "seed", seed, f"0 to {LARGEST_SEED}")


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that say the same twice, or nothing, or are none of numpy's.

    Raises:
        ValueError: so they are.
    """
    if len(set(seeds)) != len(seeds) or not seeds or min(seeds) < 0 or max(seeds) > LARGEST_SEED:
        told = f"expected different numbers, at least one, each from 0 to {LARGEST_SEED}"
        raise ValueError(f"seeds are {list(seeds)}, {told}")


def check_device(setting: str, device: str) -> None:
    """Refuse a device that torch does not see."""
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not usable.get(device, True):
        raise ValueError(f"{setting} is {device!r}, and torch {torch.__version__} sees no such device: use cpu")
