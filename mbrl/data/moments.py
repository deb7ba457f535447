"""What is read from a log's columns: moments, and action bounds where none are declared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

ANOTHER = 5.0  # spreads from the mean of all other rewards, beyond which those of ends are of another kind
ENDS = 10  # rows at least in which the world ended, to say so
RESOLUTION = 2.0**-23  # of a float32: a channel that varies less than this, relative to its size, is constant


@dataclass(frozen=True)
class Moments:
    """Of some channels, one value each."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def moments(columns: Iterable[Tensor], sizes: Sequence[float] | None = None) -> Moments:
    """Moments of each [k] column; std is 1 where the column varies by no more than the rounding of its `sizes`.

    One column is held at a time.
    """
    seen = [_moments(column.double()) for column in columns]
    mean, std, low, high = ([found[k] for found in seen] for k in range(4))
    sizes = sizes or [max(abs(a), abs(b)) for a, b in zip(low, high, strict=True)]
    std = [s if s > RESOLUTION * size else 1.0 for s, size in zip(std, sizes, strict=True)]
    return Moments(tuple(mean), tuple(std), tuple(low), tuple(high))


def varies(channel: Moments) -> bool:
    """Whether the one channel differs by more than rounding from row to row."""
    (low,), (high,) = channel.low, channel.high
    return high - low > 4 * RESOLUTION * max(abs(low), abs(high))


def ends_apart(reward: Tensor, terminated: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the rewards [N] where the world went on, and where it ended; () twice if these are alike.

    What reaching a goal, or a trip, pays is of another kind than the reward of a step: a network that is to say both
    takes the few rows for noise. The first std is the size of what does not vary, the second at least a hundredth of
    how far apart the two kinds are.
    """
    live, end = reward[~terminated].double(), reward[terminated].double()
    if len(end) < ENDS or not len(live):
        return (), ()
    mean, spread = float(live.mean()), float(live.std(correction=0))
    apart = float((end - mean).square().mean().sqrt())
    rounding = 4 * RESOLUTION * float(reward.abs().max())
    if apart <= max(ANOTHER * spread, rounding):
        return (), ()
    size = spread if spread > rounding else abs(mean) or 1.0
    return (mean, size), (float(end.mean()), max(float(end.std(correction=0)), 0.01 * apart))


def _moments(wide: Tensor) -> tuple[float, float, float, float]:
    return float(wide.mean()), float(wide.std(correction=0)), float(wide.min()), float(wide.max())


def finite_bounds(
    action: Tensor, low: Sequence[float], high: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Declared action bounds [A], and the range of `action` [N, A] where one is infinite.

    Raises:
        ValueError: there is not one of each for every action channel.
    """
    if action.ndim != 2 or not len(low) == len(high) == action.shape[1]:
        raise ValueError(f"{len(low)} lower and {len(high)} upper action bounds for actions {list(action.shape)}")
    if not len(action):
        return tuple(low), tuple(high)  # `mbrl.data.promises` has the better words for an empty log
    logged = zip(action.amin(0).tolist(), action.amax(0).tolist(), strict=True)
    pairs = [
        (a if math.isfinite(a) else least, b if math.isfinite(b) else most)
        for a, b, (least, most) in zip(low, high, logged, strict=True)
    ]
    return tuple(float(a) for a, _ in pairs), tuple(float(b) for _, b in pairs)
