"""Which episodes are for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.core import generator
from mbrl.data.dataset import TransitionDataset
from mbrl.data.series import shuffled

JUDGE_HOLDOUT = 0.15  # of the second simulator's episodes: what stops its own training
LEAST = 4  # episodes of a log: one to learn from, one to measure on, two to judge


class Division(NamedTuple):
    """Episodes by purpose, [n] long each; no episode has two."""

    learn: Tensor  # for the policy and its simulator
    held: Tensor  # stop its training, and (see `halves`) calibrate and measure it
    judge: Tensor  # for the second simulator
    judge_held: Tensor  # stop its training, and measure it

    @property
    def sides(self) -> tuple[Tensor, Tensor, Tensor]:
        """What was learned from, measured on and judged by, of which none may know another's episodes."""
        return self.learn, self.held, torch.cat([self.judge, self.judge_held])


def divide(data: TransitionDataset, split: Sequence[float], seed: int, needs_terminals: bool = True) -> Division:
    """Divide the episodes, at random, into shares for learning, measuring and judging.

    Where both simulators would not be shown the end of the world, few episodes change places (see `_ends_shared`), and
    a judge of one episode is given another one by the largest share. `needs_terminals` has no say in that, so that who
    divides a log again divides it alike.

    Args:
        data: the log.
        split: the three shares; together 1.
        seed: of the division.
        needs_terminals: whether both simulators have to learn from the log when the world ends. A simulator that has
            seen no terminal believes in a world without end, and values every policy accordingly.

    Raises:
        ValueError: the log has fewer than `LEAST` episodes, or one terminal alone where both simulators need one.
    """
    if data.episodes < LEAST:
        raise ValueError(
            f"the log has {data.episodes} episodes, expected at least {LEAST}: one to learn from, one to measure the"
            " simulator on, and two for the second simulator, which judges; log more, or import long ones in pieces"
            " (`cut_every: ROWS` in the schema)"
        )
    ending = data.sums(data.terminated) > 0
    if needs_terminals and int(ending.sum()) == 1:
        raise ValueError(
            f"1 of {data.episodes} episodes ends in a terminal, expected 2 or more, or none: of the simulator and the"
            " second one, which judges, each has to learn from one; log more episodes that end, or name a rule as"
            " simulator.termination"
        )
    learn, held, judge = _two_to_judge(data.split(split, seed), seed)
    count = min(max(1, round(len(judge) * JUDGE_HOLDOUT)), len(judge) - 1)
    judge = shuffled(data, judge, generator(seed, "judge"))  # logs are often sorted by skill
    return _ends_shared(Division(learn, held, judge[count:].sort().values, judge[:count].sort().values), ending, seed)


def _two_to_judge(sides: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    """The sides of a split of `LEAST` episodes or more, of which the last gets a second one from the largest."""
    learn, held, judge = sides
    if len(judge) >= 2:
        return sides
    largest = learn if len(learn) >= len(held) else held
    given = largest[torch.randint(len(largest), (1,), generator=generator(seed, "second"))]
    rest = largest[largest != given]
    judge = torch.cat([judge, given]).sort().values
    return (rest, held, judge) if largest is learn else (learn, rest, judge)


def _ends_shared(division: Division, ending: Tensor, seed: int) -> Division:
    """A division in which both simulators learn from an episode that ends in a terminal, if two do in the log.

    One in which they do already stays as it is. In another one, a part without such an episode changes a random one of
    its own for one of the part that has most to spare: the two that learn first, then, of what is left, the held-out.

    Args:
        division: of the log.
        ending: which of its episodes end in a terminal, [n] bool.
        seed: of the episodes that change places.
    """
    learning = ("learn", "judge")
    parts = division._asdict()
    if int(ending.sum()) < 2 or all(bool(ending[parts[name]].any()) for name in learning):
        return division
    rng = generator(seed, "ends")
    for needy in (*learning, "held", "judge_held"):
        counts = {name: int(ending[part].sum()) for name, part in parts.items()}
        spare = {name: n - (name in learning or needy not in learning) for name, n in counts.items()}
        giver = max(spare, key=spare.__getitem__)
        if counts[needy] or spare[giver] < 1:
            continue
        has = parts[giver][ending[parts[giver]]]
        given = has[torch.randint(len(has), (), generator=rng)]
        taken = parts[needy][torch.randint(len(parts[needy]), (), generator=rng)]
        for name, old, new in ((giver, given, taken), (needy, taken, given)):
            parts[name] = torch.where(parts[name] == old, new, parts[name]).sort().values
    return Division(**parts)


def halves(data: TransitionDataset, held: Tensor, seed: int) -> tuple[Tensor, ...]:
    """Held-out episodes [k] long, divided at random, each half to be graded as the other taught; () of one alone."""
    if len(held) < 2:
        return ()
    order = shuffled(data, held, generator(seed, "halves"))
    middle = (len(held) + 1) // 2
    return order[:middle].sort().values, order[middle:].sort().values
