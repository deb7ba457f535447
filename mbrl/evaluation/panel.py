"""A panel of estimators: what each kind says of the policies of one log, and of the log itself, like for like.

model: whole episodes in the second simulator, undiscounted. model+fqe: as many steps as it is trusted for, and fitted
Q values from there on. fqe: fitted Q values alone. The others weigh logged episodes (`mbrl.evaluation.importance`,
`mbrl.evaluation.doubly_robust`). All but the first discount.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mbrl.allocator import give_back
from mbrl.core import Policy
from mbrl.data.series import Pieces
from mbrl.evaluation.bench import Bench
from mbrl.evaluation.combining import Combination, combine
from mbrl.evaluation.doubly_robust import doubly_robust, magic
from mbrl.evaluation.estimates import Estimate, Refused
from mbrl.evaluation.importance import importance_sampling
from mbrl.evaluation.marginal import marginal_value
from mbrl.evaluation.modelbased import Recital, rolled, truncated_values
from mbrl.evaluation.opinions import Answer, Opinion
from mbrl.evaluation.ratios import CLIP, Ratios, Weights
from mbrl.evaluation.trajectories import check_acts_on
from mbrl.evaluation.twoway import spread_over
from mbrl.simulator.rollout import Played
from mbrl.simulator.simulator import Simulator

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
    answers, refused, kind = {}, {}, KINDS[called]
    log = kind.log(bench)
    for name, policy in policies.items():
        if told is not None:
            told(name, f"is judged by {called}")
        try:
            answers[name] = kind.answer(bench, policy)
        except Refused as reason:
            refused[name] = str(reason)
        give_back()  # of many policies' rollouts and fits
    gamma = bench.gamma if kind.discounted else 1.0
    return Opinion(gamma, spread(bench.returns(gamma)), bench.level, log, answers, refused, bench.pieces)


def spread(returns: Tensor) -> float:
    """Standard deviation of returns [n] float64; 1 where they are equal, but for the rounding of their sums."""
    deviation = float(returns.std())
    return deviation if deviation > ROUNDING * float(returns.abs().max()) else 1.0


def _sampled(values: Tensor, bench: Bench) -> Answer:
    """Of [E, S] values by member and start state of the bench."""
    sample = values.double().numpy(force=True)
    return Answer(spread_over(sample, bench.level, bench.pieces), sample)


# ---------------------------------------------------------------------- in the second simulator


def _worlds(bench: Bench) -> list[Simulator]:
    """One for each elite member, which then takes every step: its error stays its own from start to end."""
    if bench.simulator is None:
        raise Refused("there is no second simulator")
    worlds = []
    for member in bench.simulator.dynamics.elites:
        world, dynamics = bench.simulator.plain(), copy.copy(bench.simulator.dynamics)
        dynamics._buffers = {**dynamics._buffers, "elites": member.view(1)}
        world._modules = {**world._modules, "dynamics": dynamics}
        worlds.append(world)
    return worlds


def _rollouts(bench: Bench, policy: Policy, horizon: int | None) -> list[Played]:
    """By member, of whole episodes or up to the horizon; all policies meet the same noise."""
    return [rolled(policy, world, bench.starts, bench.seed, horizon, whole=False) for world in _worlds(bench)]


def _model(bench: Bench, policy: Policy) -> Answer:
    episodes = _rollouts(bench, policy, None)
    return _sampled(torch.stack([played.returns(bench.starts.limit, 1.0) for played in episodes]), bench)


def _model_and_critic(bench: Bench, policy: Policy) -> Answer:
    """`mbrl.evaluation.modelbased.truncated_value` with a row for each member of the model, and its share of critics.

    Critics that go on from the same member's rollouts share its error, and so are no draws of their own. Of a single
    member no spread is known: the critics' is taken, and the diagnostics count one member.
    """
    critic = bench.critic(policy)
    critic.check()  # before any rollout
    trusted = None if bench.simulator is None else bench.simulator.trusted_horizon
    if trusted is None:
        raise Refused("no card says for how many steps the second simulator is trusted")
    values = [truncated_values(begun, critic) for begun in _rollouts(bench, policy, trusted)]
    shared = [_shared(own.T, bench) for own in values]
    rows = [shared[k % len(values)][k] for k in range(len(shared[0]))]
    found = _sampled(torch.stack(rows), bench)
    if len(values) > 1:
        return found
    estimate = found.estimate
    return found._replace(estimate=estimate._replace(diagnostics={**estimate.diagnostics, "members": 1}))


def _shared(values: Tensor, bench: Bench) -> Tensor:
    """Values [M, ...] by critic as means of the share of each member of the model; their own of one or of none."""
    members = 1 if bench.simulator is None else len(bench.simulator.dynamics.elites)
    count = min(members, len(values)) if members > 1 else len(values)
    return torch.stack([values[k::count].mean(0) for k in range(count)])


# ---------------------------------------------------------------------- from logged rows


def _critic(bench: Bench, policy: Policy) -> Answer:
    critic = bench.critic(policy)
    critic.check()
    return _sampled(critic.v(bench.starts.obs), bench)


def _weights(bench: Bench, policy: Policy, unbiased: bool) -> Weights:
    """Clipped; but not those of an `unbiased` estimator whose ratios are exact, which clipping would move."""
    seen = bench.seen()
    behaviour = bench.behaviour() if seen.propensity is None else None
    clip = None if unbiased and behaviour is None else CLIP
    return Weights.of(Ratios.of(policy, seen, behaviour), seen, clip)


def _weighed(name: Any, bench: Bench, policy: Policy) -> Answer:
    weights = _weights(bench, policy, name in ("IS", "PDIS"))
    return Answer(importance_sampling(name, weights, bench.seen(), bench.gamma, level=bench.coverage, seed=bench.seed))


def _corrected(estimator: Callable[..., Estimate], bench: Bench, policy: Policy) -> Answer:
    weights, seen = _weights(bench, policy, False), bench.seen()
    values = bench.critic(policy).cross_fitted(seen, bench.episodes)
    return Answer(estimator(weights, seen, bench.gamma, values.q, values.v, level=bench.coverage, seed=bench.seed))


def _marginal(bench: Bench, policy: Policy | None) -> Answer:
    level, seed = bench.coverage, bench.seed
    return Answer(marginal_value(bench.data, bench.episodes, policy, gamma=bench.gamma, level=level, seed=seed))


# ---------------------------------------------------------------------- the log, like for like


def _logged(gamma: float | None, bench: Bench) -> Answer:
    """Returns of the logged episodes, by the start states that they began from; None for the bench's discount."""
    return _earned(bench, bench.returns(bench.gamma if gamma is None else gamma).unsqueeze(0))


def _earned(bench: Bench, returns: Tensor) -> Answer:
    """Of the returns [E, n] of all logged episodes, by member: their mean, and those of the bench's start states."""
    whole = spread_over(returns.numpy(force=True), bench.level, Pieces.of(bench.data))
    return Answer(whole, returns[:, bench.data.episode[bench.starts.rows]].numpy(force=True))


def _simulated(bench: Bench) -> Answer:
    """Returns of the logged episodes, and what each member of the second simulator pays their own actions beyond that.

    A simulator that pays the log more than the plant did pays everybody more, and that is no gain of a policy. Less
    says nothing: where a plant has to be held in balance, actions that answer to nothing lose it.
    """
    answer, starts, data = _logged(1.0, bench), bench.starts, bench.data
    if bench.simulator is None:
        return answer
    lengths = data.lengths[data.episode[starts.rows]]
    whole = starts._replace(limit=lengths)
    recited = [rolled(Recital(data, starts.rows), world, whole, bench.seed) for world in _worlds(bench)]
    means = torch.stack([played.returns(lengths, 1.0).mean() for played in recited]).numpy(force=True)
    assert answer.sample is not None
    beyond = means - answer.sample.mean()
    if not beyond.mean() > 0:
        return answer
    about = {**answer.estimate.diagnostics, "recited": float(means.mean())}
    return Answer(answer.estimate._replace(diagnostics=about), answer.sample + beyond[:, None])


def _continued(bench: Bench) -> Answer:
    """The same and, where an episode was cut, what the log's own policy would have earned from its last row on.

    By each share of the critics, so that what they do not know of it counts, and is paired with what they do not know
    of a policy.
    """
    data, critic = bench.data, bench.critic(None)
    critic.check()
    last = data.first + data.lengths - 1
    with torch.no_grad():
        ahead = _shared(critic.q(data.obs[last], data.action[last]), bench).double()
    steps = (data.lengths - 1).double()
    tail = bench.gamma**steps * (ahead - data.reward[last].double())
    return _earned(bench, bench.returns(bench.gamma) + tail.where(~data.terminated[last], 0.0))


def _fitted(bench: Bench) -> Answer:
    """Fitted Q values of the logged first actions: fitted as those of policies are, so that errors cancel."""
    critic = bench.critic(None)
    critic.check()
    first = bench.starts.rows
    return _sampled(critic.q(bench.data.obs[first], bench.data.action[first]), bench)


KINDS: Mapping[str, Kind] = {
    FULL: Kind(False, _model, _simulated, "whole episodes in the second simulator"),
    MIXED: Kind(
        True, _model_and_critic, _continued, "second simulator as far as it is trusted, fitted Q values beyond", True
    ),
    CRITIC: Kind(True, _critic, _fitted, "fitted Q values of logged rows", True),
    "is": Kind(True, partial(_weighed, "IS"), partial(_logged, None), "importance-weighted episodes"),
    "wis": Kind(True, partial(_weighed, "WIS"), partial(_logged, None), "self-normalised weighted episodes"),
    "pdis": Kind(True, partial(_weighed, "PDIS"), partial(_logged, None), "importance-weighted steps"),
    "pdwis": Kind(True, partial(_weighed, "PDWIS"), partial(_logged, None), "self-normalised weighted steps"),
    "dr": Kind(
        True,
        partial(_corrected, partial(doubly_robust, "DR")),
        _continued,
        "fitted Q values, corrected by weighted steps",
        True,
    ),
    "wdr": Kind(
        True,
        partial(_corrected, partial(doubly_robust, "WDR")),
        _continued,
        "fitted Q values, corrected by self-normalised steps",
        True,
    ),
    "dice": Kind(
        True,
        _marginal,
        partial(_marginal, policy=None),
        "logged rows, weighted by how often the policy is there",
        True,
    ),
    "magic": Kind(True, partial(_corrected, magic), _continued, "a blend of fitted Q values and weighted steps", True),
}
