"""A panel of estimators: what each kind says of the policies of one log, and of the log itself, like for like.

model: whole episodes in the second simulator, undiscounted. model+fqe: as many steps as it is trusted for, and fitted
Q values from there on. fqe: fitted Q values alone. The others weigh logged episodes (`mbrl.evaluation.importance`,
`mbrl.evaluation.doubly_robust`). All but the first discount.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from mbrl.allocator import give_back
from mbrl.core import Policy
from mbrl.evaluation import answers, reference
from mbrl.evaluation.bench import Bench
from mbrl.evaluation.combining import Combination, combine
from mbrl.evaluation.doubly_robust import doubly_robust, magic
from mbrl.evaluation.estimates import Estimate, Refused
from mbrl.evaluation.opinions import Answer, Opinion
from mbrl.evaluation.trajectories import check_acts_on

FULL = "model"  # the kind whose values are undiscounted returns of whole simulated episodes
MIXED, CRITIC = "model+fqe", "fqe"
ROUNDING = 1e-6  # of returns, as a share of the largest


class Kind(NamedTuple):
    """How one kind of estimator answers: about a policy, and about the log at the same discount and length."""

    discounted: bool
    answer: Callable[[Bench, Policy], Answer]
    log: Callable[[Bench], Answer]
    about: str  # for a reader of a picture
    endless: bool = False  # whether its values are of a world that nobody cuts: truncated episodes count as going on


class Heard(NamedTuple):
    """What a panel said."""

    opinions: Mapping[str, Opinion]  # by kind
    refused: Mapping[str, str]  # kinds that have no opinion on anybody, and why
    repeats: Mapping[str, str] = MappingProxyType({})  # kinds that would say here what another one says: which


def combined_gain(heard: Heard, name: str, combination: Combination) -> Estimate | None:
    """A policy's gain over the log from all kinds, in spreads; None where one of them gave no estimate."""
    if heard.refused or not all(name in opinion.answers for opinion in heard.opinions.values()):
        return None
    return combine({kind: opinion.score(name) for kind, opinion in heard.opinions.items()}, combination)


def preference(heard: Heard, name: str, kind: str, combination: Combination) -> float | None:
    """How good a policy looks beside others, in spreads of the log's returns; None where that is not known.

    The gain over the log by one `kind`, for its value: what is safe the gate decides, by bounds; of that the best is
    wanted, and the kinds do not agree about it equally well. Where that kind has nothing to say, or kinds are left out
    as nothing is trusted in the second simulator, the lower bound of the combined gain.
    """
    opinion = heard.opinions.get(kind)
    if opinion is None or heard.repeats:
        gain = combined_gain(heard, name, combination)
        return None if gain is None else gain.low
    return opinion.score(name).value if name in opinion.answers else None


def hear(
    bench: Bench,
    policies: Mapping[str, Policy],
    kinds: Sequence[str],
    told: Callable[[str, str], None] | None = None,
) -> Heard:
    """What each kind says of each policy, by name. `told` hears which policy is next, and by which kind.

    Raises:
        ValueError: there is no such kind, or a policy's spec does not fit the log; the message names the field.
    """
    check_kinds(kinds)
    for policy in policies.values():
        check_acts_on(policy.spec, bench.data)
    opinions, refused, again = {}, {}, repeats(bench, kinds)
    for kind in kinds:
        if kind in again:
            continue
        try:
            opinions[kind] = _opinion(bench, policies, kind, told)
        except Refused as reason:  # about the log itself
            refused[kind] = str(reason)
    return Heard(opinions, refused, again)


def repeats(bench: Bench, kinds: Sequence[str]) -> dict[str, str]:
    """The kinds that would say here what another one of `kinds` says, and which.

    No step in a simulator that is trusted for none, and fitted Q values from there on, are the fitted Q values. Heard
    twice, critics would outvote the simulator; left out in silence, a kind that was asked for would not be missed.
    """
    trusted = None if bench.simulator is None else bench.simulator.trusted_horizon
    return {MIXED: CRITIC} if trusted == 0 and {MIXED, CRITIC} <= set(kinds) else {}


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse names of estimators that nobody has heard of, and none at all.

    Raises:
        ValueError: a name is unknown, or there is none.
    """
    if odd := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"there is no estimator called {', '.join(odd)}: the estimators are {', '.join(KINDS)}")
    if not kinds:
        raise ValueError(f"no estimator is named, expected some of {', '.join(KINDS)}")


def _opinion(
    bench: Bench, policies: Mapping[str, Policy], called: str, told: Callable[[str, str], None] | None
) -> Opinion:
    found, refused, kind = {}, {}, KINDS[called]
    log = kind.log(bench)
    for name, policy in policies.items():
        if told is not None:
            told(name, f"is judged by {called}")
        try:
            found[name] = kind.answer(bench, policy)
        except Refused as reason:
            refused[name] = str(reason)
        give_back()  # of many policies' rollouts and fits
    gamma = bench.gamma if kind.discounted else 1.0
    return Opinion(gamma, spread(bench.returns(gamma)), bench.level, log, found, refused, bench.pieces)


def spread(returns: Tensor) -> float:
    """Standard deviation of returns [n] float64; 1 where they are equal, but for the rounding of their sums."""
    deviation = float(returns.std())
    return deviation if deviation > ROUNDING * float(returns.abs().max()) else 1.0


KINDS: Mapping[str, Kind] = {
    FULL: Kind(False, answers.simulated, reference.recited, "whole episodes in the second simulator"),
    MIXED: Kind(
        True,
        answers.begun_and_fitted,
        reference.recited_and_continued,
        "second simulator as far as it is trusted, fitted Q values beyond",
        True,
    ),
    CRITIC: Kind(True, answers.fitted, reference.fitted, "fitted Q values of logged rows", True),
    "is": Kind(True, partial(answers.weighed, "IS"), reference.logged, "importance-weighted episodes"),
    "wis": Kind(True, partial(answers.weighed, "WIS"), reference.logged, "self-normalised weighted episodes"),
    "pdis": Kind(True, partial(answers.weighed, "PDIS"), reference.logged, "importance-weighted steps"),
    "pdwis": Kind(True, partial(answers.weighed, "PDWIS"), reference.logged, "self-normalised weighted steps"),
    "dr": Kind(
        True,
        partial(answers.corrected, partial(doubly_robust, "DR")),
        reference.continued,
        "fitted Q values, corrected by weighted steps",
        True,
    ),
    "wdr": Kind(
        True,
        partial(answers.corrected, partial(doubly_robust, "WDR")),
        reference.continued,
        "fitted Q values, corrected by self-normalised steps",
        True,
    ),
    "dice": Kind(
        True,
        answers.marginal,
        partial(answers.marginal, policy=None),
        "logged rows, weighted by how often the policy is there",
        True,
    ),
    "magic": Kind(
        True,
        partial(answers.corrected, magic),
        reference.continued,
        "a blend of fitted Q values and weighted steps",
        True,
    ),
}
