"""A panel of estimators on the policies of one log: what they share, and what each kind says."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.core import Policy, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.estimates import Refused
from mbrl.evaluation.evidence import Starts
from mbrl.evaluation.opinions import Answer, Opinion, spread_over
from mbrl.evaluation.trajectories import Trajectories
from mbrl.simulator.rollout import simulated_returns
from mbrl.simulator.simulator import Simulator

FULL = "model"  # the kind whose values are undiscounted returns of whole simulated episodes


@dataclass(frozen=True)
class Bench:
    """What all estimators of one log share."""

    data: TransitionDataset
    episodes: Tensor  # [n] long, those that critics and behaviour models are fitted on
    held: Tensor  # [k] long, rows that the simulator was not fitted on
    simulator: Simulator | None  # the second one, replaying `data`; None where there is none
    cloning: Policy  # what goes on as the log does where its episodes are cut
    starts: Starts
    gamma: float  # of the kinds that discount
    level: float  # of each one-sided bound
    seed: int
    updates: int  # of the critics


class Kind(NamedTuple):
    """How one kind of estimator answers."""

    discounted: bool  # whether its values are of the bench's discount, or undiscounted
    endless: bool  # whether they go on where an episode was cut
    answer: Callable[[Bench, Policy], Answer]


def opinions(bench: Bench, policies: Mapping[str, Policy], kinds: Sequence[str]) -> dict[str, Opinion]:
    """What each kind says of each policy, and of the log at the same discount and length.

    Raises:
        ValueError: there is no such kind.
    """
    check_kinds(kinds)
    return {kind: _opinion(bench, policies, KINDS[kind]) for kind in kinds}


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse names of estimators that nobody has heard of, and none at all.

    Raises:
        ValueError: a name is unknown, or there is none.
    """
    if odd := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"there is no estimator called {', '.join(odd)}: the estimators are {', '.join(KINDS)}")
    if not kinds:
        raise ValueError(f"no estimator is named, expected some of {', '.join(KINDS)}")


def _opinion(bench: Bench, policies: Mapping[str, Policy], kind: Kind) -> Opinion:
    answers, refused = {}, {}
    for name, policy in policies.items():
        try:
            answers[name] = kind.answer(bench, policy)
        except Refused as reason:
            refused[name] = str(reason)
    gamma = bench.gamma if kind.discounted else 1.0
    every = Trajectories.of(bench.data, torch.arange(bench.data.episodes, device=bench.data.obs.device))
    returns = every.returns(gamma)
    log = returns[bench.data.episode[bench.starts.rows]].unsqueeze(0)
    sample = log.cpu().numpy()
    whole = spread_over(returns.unsqueeze(0).cpu().numpy(), bench.level)
    return Opinion(gamma, float(returns.std()), bench.level, Answer(whole, sample), answers, refused)


def _model(bench: Bench, policy: Policy) -> Answer:
    """Whole episodes in the second simulator, by elite member: each is a world of its own, from start to end."""
    simulator = _needed(bench.simulator)
    rows = []
    for member in simulator.dynamics.elites:
        rng = generator(bench.seed, "trial/noise", bench.starts.obs.device)
        world = _alone(simulator, member)
        rows.append(simulated_returns(policy, world, bench.starts.obs, bench.starts.limit, rng, bench.starts.rows))
    return _answer(torch.stack(rows), bench.level)


def _needed(simulator: Simulator | None) -> Simulator:
    if simulator is None:
        raise Refused("there is no second simulator")
    return simulator


def _alone(simulator: Simulator, member: Tensor) -> Simulator:
    """The same world, its tensors shared, in which one member takes every step."""
    world = simulator.plain()
    dynamics = copy.copy(simulator.dynamics)
    dynamics._buffers = {**simulator.dynamics._buffers, "elites": member.view(1)}
    world._modules = {**simulator._modules, "dynamics": dynamics}
    return world


def _answer(values: Tensor, level: float) -> Answer:
    sample = values.double().cpu().numpy()
    return Answer(spread_over(sample, level), sample)


KINDS: Mapping[str, Kind] = {FULL: Kind(discounted=False, endless=False, answer=_model)}
