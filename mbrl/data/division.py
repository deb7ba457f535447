"""Which episodes are for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.core import generator
from mbrl.data.dataset import TransitionDataset

JUDGE_HOLDOUT = 0.15  # of the second simulator's episodes: what stops its own training
LEAST = 4  # episodes of a log: one to learn from, one to measure on, two to judge


class Division(NamedTuple):
    """Episodes by purpose, [n] long each; no episode has two."""

    learn: Tensor  # for the policy and its simulator
    held: Tensor  # stop its training, and (see `halves`) calibrate and measure it
    judge: Tensor  # for the second simulator
    judge_held: Tensor  # stop its training, and measure it


def divide(data: TransitionDataset, split: Sequence[float], seed: int, needs_terminals: bool = True) -> Division:
    """Divide the episodes, at random, into shares for learning, measuring and judging.

    Args:
        data: the log.
        split: the three shares; together 1.
        seed: of the division.
        needs_terminals: whether both simulators have to learn from the log when the world ends. A simulator that has
            seen no terminal believes in a world without end, and values every policy accordingly.

    Raises:
        ValueError: the log has fewer than `LEAST` episodes, or a share is too small to hold an episode, two for the
            judge, or a terminal where the log has some.
    """
    if data.episodes < LEAST:
        raise ValueError(
            f"the log has {data.episodes} episodes, expected at least {LEAST}: one to learn from, one to measure the"
            " simulator on, and two for the second simulator, which judges; log more"
        )
    learn, held, judge = data.split(split, seed)
    count = min(max(1, round(len(judge) * JUDGE_HOLDOUT)), len(judge) - 1)
    if count < 1:
        raise ValueError(
            f"the second simulator gets {len(judge)} of {data.episodes} episodes and needs 2: raise the last of"
            f" data.split, now {list(split)}"
        )
    judge = judge[torch.randperm(len(judge), generator=generator(seed, "judge"))]  # logs are often sorted by skill
    division = Division(learn, held, judge[count:].sort().values, judge[:count].sort().values)
    if needs_terminals and bool(data.terminated.any()):
        sides = {"the simulator": (0, division.learn), "the second simulator": (2, division.judge)}
        for whose, (place, episodes) in sides.items():
            if not bool(data.terminated[data.rows(episodes)].any()):
                raise ValueError(
                    f"{int(data.terminated.sum())} of {data.episodes} episodes end in a terminal, and none of them is"
                    f" among the {len(episodes)} that {whose} learns from: raise number {place + 1} of data.split, now"
                    f" {list(split)}, or name a rule as simulator.termination"
                )
    return division


def halves(held: Tensor, seed: int) -> tuple[Tensor, ...]:
    """Held-out episodes [k] long, divided at random, each half to be graded as the other taught; () of one alone."""
    if len(held) < 2:
        return ()
    order = held[torch.randperm(len(held), generator=generator(seed, "halves"))]
    middle = (len(held) + 1) // 2
    return order[:middle].sort().values, order[middle:].sort().values
