"""The evidence on one candidate, put together from the opinions of a panel and from what these rest on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mbrl.core import Policy
from mbrl.data.series import Pieces
from mbrl.evaluation.answers import spent
from mbrl.evaluation.bench import Bench
from mbrl.evaluation.costs import FittedCost, framed, logged_costs
from mbrl.evaluation.estimates import Estimate, Refused
from mbrl.evaluation.grounds import support, tail, walk
from mbrl.evaluation.opinions import Opinion
from mbrl.evaluation.panel import FULL, Heard
from mbrl.evaluation.twoway import spread_over
from mbrl.registry.gates import CANDIDATE, CHAMPION, CLONING, COSTED, LOG, NEAR, CardFacts, Evidence, View
from mbrl.registry.rules import Rules
from mbrl.simulator.rollout import Cost


class Provenance(NamedTuple):
    """Which data set and which files the evidence is from."""

    fingerprints: Mapping[str, str]  # of the data set that each part is from
    hashes: Mapping[str, tuple[str, str]]  # by file: SHA-256 that was recorded, and that was found
    card: CardFacts | None  # of the simulator that judges
    champion: str | None  # the reigning champion's version


def gather(
    bench: Bench,
    heard: Heard,
    roles: Mapping[str, str],
    policy: Policy,
    rules: Rules,
    provenance: Provenance,
    cost: Cost | None = None,
) -> Evidence:
    """What speaks for and against one policy.

    Args:
        bench: what the panel worked on.
        heard: what a panel said.
        roles: the name in what was heard of CANDIDATE, CLONING and, where one reigns, CHAMPION.
        policy: the candidate.
        rules: their level is that of the bounds.
        provenance: data set, files, card and champion.
        cost: of a transition, beside its reward. It comes before a cost column of the log, which is learned (see
            `mbrl.evaluation.costs`) where it is None; without a column either, no cost is counted.
    """
    views, refused = {}, dict(heard.refused)
    for kind, opinion in heard.opinions.items():
        missing = [opinion.refused[name] for name in roles.values() if name in opinion.refused]
        if missing:
            refused[kind] = missing[0]
        else:
            views[kind] = view(opinion, roles)
    logged, counted = logged_costs(bench.data, cost), cost and framed(cost, bench.data.frame_dim)
    if cost is None and logged is not None:
        try:
            counted = bench.cost()
        except Refused as reason:
            refused[COSTED] = str(reason)
    try:
        near = bench.neighbours()
    except Refused as reason:
        near, refused[NEAR] = None, str(reason)
    walked, costs = None, None
    if bench.simulator is not None:
        walked = walk(policy, bench.simulator, bench.starts, near, seed=bench.seed)
        costs = None if counted is None else _told(spent(bench, policy, counted), counted)
    return Evidence(
        level=rules.level,
        views=views,
        refused=refused,
        repeats=heard.repeats,
        fingerprints=provenance.fingerprints,
        hashes=provenance.hashes,
        card=provenance.card,
        champion=provenance.champion,
        outside=walked and walked.outside,
        doubt=walked and walked.doubt,
        support=None if near is None else support(policy, bench.data, near),
        unread=bench.unread(),
        tail=_tail(bench, heard.opinions, roles[CANDIDATE]),
        cost=costs,
        logged_cost=None
        if logged is None
        else spread_over(logged.unsqueeze(0).cpu().numpy(), rules.level, Pieces.of(bench.data)),
    )


def _told(estimate: Estimate, cost: Cost) -> Estimate:
    """With what the cost is counted by, and how well that is known."""
    about = cost.about if isinstance(cost, FittedCost) else {"cost": "trial.cost"}
    return estimate._replace(diagnostics={**estimate.diagnostics, **about})


def view(opinion: Opinion, roles: Mapping[str, str]) -> View:
    """An opinion as the gate sees it: values by role, and what the candidate gains over every other."""
    candidate = roles[CANDIDATE]
    values: dict[str, Estimate] = {LOG: opinion.log.estimate}
    gains = {LOG: opinion.gain(candidate)}
    for role in (CLONING, CHAMPION, CANDIDATE):
        if role in roles:
            values[role] = opinion.answers[roles[role]].estimate
            if role != CANDIDATE:
                gains[role] = opinion.gain(candidate, roles[role])
    return View(opinion.gamma, opinion.spread, values, gains)


def _tail(bench: Bench, opinions: Mapping[str, Opinion], candidate: str) -> float | None:
    """The worst tenth of simulated returns against that of the logged ones, in spreads."""
    opinion = opinions.get(FULL)
    sample = opinion.answers[candidate].sample if opinion is not None and candidate in opinion.answers else None
    if opinion is None or sample is None:
        return None
    return (tail(sample) - tail(bench.data.returns().cpu().numpy())) / opinion.spread
