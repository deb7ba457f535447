"""What `fit_policy` refuses, before anything is learned."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch

from mbrl.core import Batch, Learner, World, generator, rows_at
from mbrl.simulator.rollout import Pessimism
from mbrl.simulator.simulator import Simulator
from mbrl.training.drawing import Logged
from mbrl.training.room import check_room, row_bytes, row_taken
from mbrl.training.steps import Context, Steps

PRECISIONS = ("32-true", "bf16-mixed", "auto")  # weights, targets and losses stay float32 in both
STREAMS = ("rows", "start", "imagination", "update")  # each with a generator of its own


def check(
    learner: Learner,
    worldless: bool,
    counts: dict[str, int],
    real_ratio: float,
    best: float,
    precision: str,
    rows: int,
) -> None:
    """Refuse arguments that are out of range, and learners that lack what they need.

    Raises:
        ValueError: so they are.
    """
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if not 0 <= real_ratio <= 1:
        raise ValueError(f"real_ratio is {real_ratio}, expected a share between 0 and 1")
    size = counts["batch_size"]
    if learner.imagines and real_ratio < 1 and round(size * real_ratio) == size:
        raise ValueError(
            f"real_ratio is {real_ratio} and batch_size {size}: no row of an update would be an imagined one; lower"
            " real_ratio, raise batch_size, or set real_ratio to 1, which imagines nothing"
        )
    if learner.imagines and real_ratio > 0 and round(size * real_ratio) == 0:
        raise ValueError(
            f"real_ratio is {real_ratio} and batch_size {size}: no row of an update would be a logged one; raise one of"
            " them, or set real_ratio to 0, where a learner needs no logged rows"
        )
    if learner.grounded and real_ratio == 0:
        raise ValueError(f"real_ratio is 0, and {type(learner).__name__} needs logged rows in every update: raise it")
    if learner.remodels and best < 1:
        raise ValueError(
            f"best is {best}, and {type(learner).__name__} keeps its model true to the logged rows that it is given:"
            " set best to 1, so that it sees all of them"
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if rows == 0:
        raise ValueError("there are no logged rows to learn from")
    if worldless and learner.plans:
        raise ValueError(f"{type(learner).__name__} plans in a simulator: give one, or choose a learner that does not")
    if worldless:
        raise ValueError(f"{type(learner).__name__} learns from imagined rows: give a simulator, or real_ratio 1")


def check_batch(
    learner: Learner,
    world: World | None,
    logged: Logged,
    batch_size: int,
    real_rows: int,
    autocast: Context,
    rollout: dict[str, Any],
) -> None:
    """Refuse a batch that does not fit, by updates of a copy of the learner with small ones.

    Raises:
        ValueError: so it is; the message says how many rows do.
    """
    device, share, crowd = logged.real.reward.device, real_rows / batch_size, learner.members

    def update(count: int) -> None:
        twin, place = copy.deepcopy((learner, world))
        rngs = {name: generator(0, name, device) for name in STREAMS}
        seen = max(1, round(count * share))
        dreamt = _first(logged.real, crowd * (count - seen)) if seen < count else None
        Steps(twin, place, rngs, autocast, None, **rollout).update(_first(logged.lessons, crowd * seen), dreamt)

    each = row_taken(update) + 2 * crowd * row_bytes(logged.lessons)
    check_room("batch_size", batch_size, each, device, "a row" if crowd == 1 else f"a row of each of the {crowd} seeds")


def check_ring(crowd: int, settings: Mapping[str, Any], each: float, device: torch.device) -> int:
    """The rows of a ring for `crowd` learners, refused if so many of `each` bytes do not fit.

    Raises:
        ValueError: so it is; the message says how many do.
    """
    factors = "rollout_starts", "horizon", "keep_rollouts"
    rows: int = math.prod(settings[name] for name in factors)
    check_room(" x ".join(factors), rows, crowd * each, device, "a row" if crowd == 1 else f"a row of {crowd} seeds")
    return crowd * rows


def _first(rows: Batch, count: int) -> Batch:
    """`count` of the rows, the first ones, again and again where these are fewer."""
    return rows_at(rows, torch.arange(count, device=rows.reward.device) % len(rows.reward))


def pessimistic(
    simulator: Simulator | None, penalty: float | None, halt: float | None, halt_cost: float | None
) -> dict[str, Any]:
    """The arguments of `imagine` that make it pessimistic; without a simulator nothing is imagined.

    Raises:
        ValueError: one of them is out of range, or given where nothing is imagined.
    """
    if simulator is None:
        for name, value in ("penalty", penalty), ("halt", halt):
            if value:
                raise ValueError(
                    f"{name} is {value} and nothing is imagined: leave it out, lower real_ratio, or choose a learner"
                    " that imagines"
                )
        return {"penalty": 0.0, "halt": None, "halt_cost": None}
    if penalty is None:
        penalty = 0.0 if simulator.uncertainty is None else 1.0
    Pessimism.of(simulator, penalty, halt, halt_cost)
    return {"penalty": penalty, "halt": halt, "halt_cost": halt_cost}
