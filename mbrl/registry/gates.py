"""Promote, no evidence of improvement, or harmful: a pure function of evidence and rules. It fails closed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeGuard

from mbrl.evaluation.combining import agreement, combine, in_spreads
from mbrl.evaluation.estimates import Estimate
from mbrl.registry.rules import Rules

CANDIDATE, LOG, CLONING, CHAMPION = "candidate", "log", "behaviour cloning", "champion"
TOLD = {CANDIDATE: "the candidate", LOG: "the log", CLONING: CLONING, CHAMPION: "the champion"}
OUTSIDE, DOUBT = "share of simulated steps outside the log", "share of doubtful simulated steps"
TRUSTED = "trusted horizon of the card"
COST = "upper bound of the cost"
SUPPORT = "share of logged states where its action has support"
COSTED, NEAR = "cost", "edge of the log"  # keys of `Evidence.refused` that say why what rests on them is not known
RESTS = {COST: COSTED, OUTSIDE: NEAR, SUPPORT: NEAR}
UNREAD = "observations in a row that the log asks for, and nobody reads"
GROUNDS = ("outside", "doubt", "support", "unread", "tail")  # numbers of the evidence that are on no scale of returns
FLOORS = {LOG: "least_gain_over_log", CHAMPION: "least_gain_over_champion"}

Outcome = Literal["promote", "no evidence of improvement", "harmful"]


class View(NamedTuple):
    """What one kind of estimator says of everybody, at one discount: values of another discount stand in another view.

    The value of the log is the mean return of its episodes at that discount. `gains` are candidate minus another, by
    the other's name: paired over start states and members where the estimator can.
    """

    gamma: float  # 1: undiscounted
    spread: float  # standard deviation of the logged returns at gamma: the unit of the rules; 1 where they are equal
    values: Mapping[str, Estimate]  # by name; CANDIDATE is among them
    gains: Mapping[str, Estimate]  # by the other's name; LOG is among them

    def standard(self, other: str) -> Estimate:
        """The gain over another, in spreads."""
        return in_spreads(self.gains[other], self.spread)


class CardFacts(NamedTuple):
    """What the report card says of the simulator that judges, which no candidate was rehearsed in."""

    grade: str
    coverage: float  # of its 90 % intervals on held-out rows
    trusted_horizon: float  # steps


class Evidence(NamedTuple):
    """All that the gate sees of a candidate."""

    level: float  # of each one-sided bound
    views: Mapping[str, View]  # by kind of estimator
    refused: Mapping[str, str]  # kinds that gave no estimate, COSTED and NEAR where these are not known, and why
    fingerprints: Mapping[str, str]  # of the data set that each part of the evidence is from: all have to be one
    hashes: Mapping[str, tuple[str, str]]  # by file: SHA-256 that was recorded, and that was found
    card: CardFacts | None
    champion: str | None  # the reigning champion's version, over which every view must then have a gain
    outside: float | None = None  # share of simulated steps that lie farther from the log than its own rows do
    doubt: float | None = None  # share of simulated steps well above the uncertainty quantile of held-out rows
    support: float | None = None  # share of logged states where the log would not call the candidate's action odd
    unread: float | None = None  # observations in a row that the log asks for and nobody reads; None: it cannot say
    tail: float | None = None  # mean of the worst tenth of its simulated returns minus that of the log's, in spreads
    cost: Estimate | None = None  # of a simulated episode of the candidate, undiscounted
    logged_cost: Estimate | None = None  # of a logged episode
    repeats: Mapping[str, str] = MappingProxyType({})  # kinds that would say what another one says, and which


class Rule(NamedTuple):
    """One rule, what it saw, and its outcome."""

    name: str
    value: Any
    relation: str  # of the value to the threshold, where the rule is kept: "above", "at least", "at most" or "one of"
    threshold: Any
    outcome: Literal["passed", "failed", "not asked"]

    def sentence(self) -> str:
        """For a reader who was not there."""
        if self.outcome == "not asked":
            return f"{self.name}: not asked"
        seen = "not known" if self.value is None else _shown(self.value)
        be = "is" if self.outcome == "passed" else "is not"
        return f"{self.name}: {seen} {be} {self.relation} {_shown(self.threshold)}"


class Verdict(NamedTuple):
    """The outcome, why, and every rule with what it saw; by which version of the rules."""

    outcome: Outcome
    reasons: tuple[str, ...]
    rules: tuple[Rule, ...]
    version: str

    @property
    def promote(self) -> bool:
        """Whether the alias may move."""
        return self.outcome == "promote"

    @property
    def grounded(self) -> bool:
        """Whether its simulated steps are such as log and simulator know, and the simulator is trusted for some."""
        return not any(rule.outcome == "failed" for rule in self.rules if rule.name in (OUTSIDE, DOUBT, TRUSTED))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**self._asdict(), "reasons": list(self.reasons), "rules": [rule._asdict() for rule in self.rules]}


def decide(evidence: Evidence, rules: Rules) -> Verdict:
    """Weigh the evidence by the rules.

    Every number must be finite and every interval in order, whether a rule compares it or not; a kind that the rules
    ask for and that is missing, parts from several data sets, and a file that is not the one recorded, refuse as well.
    A candidate has to gain over the log and the champion, and nothing may say that imitation of the log does better. It
    is harmful where the upper bound of its combined gain over the log is below the rules' limit, and the evidence
    itself is sound.
    """
    faults = _faults(evidence, rules)
    gains = {} if faults else _combined(evidence, rules)
    sound = Rule("faults of the evidence", len(faults), "at most", 0, _passed(not faults))
    harm = Rule("upper bound of the gain over the log", None, "at least", 0 - rules.harmful_loss, "not asked")
    if gains:
        high = gains[LOG].high
        harm = harm._replace(value=high, outcome=_passed(high >= harm.threshold))
    gained, limits = _gain_rules(evidence, rules, gains), _limits(evidence, rules)
    table = (sound, harm, *gained, *limits)
    judged = (harm, *limits) if faults else table[1:]  # the faults are why no gain is known
    reasons = [*faults, *(rule.sentence() for rule in judged if rule.outcome == "failed")]
    bases = dict.fromkeys(RESTS.get(rule.name, "") for rule in judged if rule.outcome == "failed")
    reasons += [f"the {base} is not known: {evidence.refused[base]}" for base in bases if base in evidence.refused]
    if harm.outcome == "failed":
        return Verdict("harmful", tuple(reasons), table, rules.version)
    if reasons:
        return Verdict("no evidence of improvement", tuple(reasons), table, rules.version)
    kept = tuple(rule.sentence() for rule in table if rule.outcome == "passed")
    return Verdict("promote", kept, table, rules.version)


def _combined(evidence: Evidence, rules: Rules) -> dict[str, Estimate]:
    """The combined gain over each other that the rules have a limit for, in spreads."""
    kinds = _deciding(evidence, rules)
    views, fewer = {kind: evidence.views[kind] for kind in kinds}, len(kinds) < len(rules.kinds)
    others = [other for other in (*FLOORS, CLONING) if all(other in view.gains for view in views.values())]
    how = rules.deciding(fewer)
    return {o: combine({k: view.standard(o) for k, view in views.items()}, how) for o in others}


def _deciding(evidence: Evidence, rules: Rules) -> tuple[str, ...]:
    """The kinds that the rules ask for, without those that would repeat another one of them."""
    return tuple(kind for kind in rules.kinds if evidence.repeats.get(kind) not in rules.kinds)


# ---------------------------------------------------------------------- what makes evidence no evidence


def _faults(evidence: Evidence, rules: Rules) -> list[str]:
    faults = [] if evidence.level == rules.level else [f"the bounds are of level {evidence.level}, not {rules.level}"]
    faults += _foreign(evidence.fingerprints) + _altered(evidence.hashes)
    deciding = _deciding(evidence, rules)
    if len(deciding) < min(2, len(rules.kinds)):
        told = ", ".join(f"{kind} repeats {other}" for kind, other in evidence.repeats.items())
        faults.append(f"{told}: {len(deciding)} of {len(rules.kinds)} kinds is left, and nothing can contradict it")
    for kind in deciding:
        if kind not in evidence.views:
            faults.append(f"{kind} is missing: {evidence.refused.get(kind, 'it was not asked')}")
    for kind, view in evidence.views.items():
        faults += _view_faults(kind, view, evidence.champion is not None and kind in deciding)
        if kind in deciding and CANDIDATE in view.values and view.values[CANDIDATE].diagnostics.get("members") == 1:
            faults.append(
                f"{kind} is of one member, which does not show how far others would be from it: fit a second simulator"
                " of two members or more, two of them elites"
            )
    numbers: dict[str, object] = {name: getattr(evidence, name) for name in GROUNDS}
    if evidence.card is not None:
        numbers |= {f"card.{name}": getattr(evidence.card, name) for name in ("coverage", "trusted_horizon")}
    faults += [f for name, value in numbers.items() if value is not None for f in _number_faults(name, value)]
    costs = {"cost": evidence.cost, "logged_cost": evidence.logged_cost}
    return faults + [f for name, cost in costs.items() if cost is not None for f in _estimate_faults(name, cost)]


def _foreign(fingerprints: Mapping[str, str]) -> list[str]:
    if len(set(fingerprints.values())) == 1 and all(fingerprints.values()):
        return []
    told = ", ".join(f"{what} {mark[:12] or 'unknown'}" for what, mark in fingerprints.items())
    return [f"the evidence is not of one data set: {told or 'none is named'}"]


def _altered(hashes: Mapping[str, tuple[str, str]]) -> list[str]:
    altered = [
        f"{name} has SHA-256 {found[:12]}, and {wanted[:12] or 'none'} was recorded"
        for name, (wanted, found) in hashes.items()
        if not wanted or wanted != found
    ]
    return altered if hashes else ["no file of the evidence was verified"]


def _view_faults(kind: str, view: View, reigns: bool) -> list[str]:
    good = _finite(view.gamma) and 0 < view.gamma <= 1
    faults = [] if good else [f"{kind}.gamma is {view.gamma}, expected a discount above 0, up to 1"]
    if not (_finite(view.spread) and view.spread > 0):
        faults.append(f"{kind}.spread is {view.spread}, expected a finite number above 0")
    wanted = {"values": {CANDIDATE, LOG, CLONING}, "gains": {LOG, CLONING} | ({CHAMPION} if reigns else set())}
    for column, names in wanted.items():
        estimates: Mapping[str, Estimate] = getattr(view, column)
        faults += [f"{kind}.{column} has nothing of {TOLD[name]}" for name in sorted(names - set(estimates))]
        faults += [f for n, e in estimates.items() for f in _estimate_faults(f"{kind}.{column}[{n}]", e)]
    return faults


def _estimate_faults(name: str, estimate: Estimate) -> list[str]:
    parts = ("value", "low", "high", "effective_n")
    faults = [fault for part in parts for fault in _number_faults(f"{name}.{part}", getattr(estimate, part))]
    if not faults and estimate.low > estimate.high:
        faults.append(f"{name} has its lower bound {estimate.low:g} above its upper bound {estimate.high:g}")
    return faults


def _number_faults(name: str, value: object) -> list[str]:
    return [] if _finite(value) else [f"{name} is {value}, expected a finite number"]


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


# ---------------------------------------------------------------------- the rules


def _gain_rules(evidence: Evidence, rules: Rules, gains: Mapping[str, Estimate]) -> tuple[Rule, ...]:
    table = []
    for other, floor in FLOORS.items():
        least, name = getattr(rules, floor), f"lower bound of the gain over {TOLD[other]}"
        if other == CHAMPION and evidence.champion is None:
            table.append(Rule(name, None, "above", least, "not asked"))
            continue
        value = gains[other].low if other in gains else None
        table.append(Rule(name, value, "above", least, _passed(value is not None and value > least)))
    preferred = evidence.views[rules.choice].standard(LOG).value if gains and rules.choice in evidence.views else None
    good = preferred is not None and preferred > rules.least_gain_by_choice
    table.append(
        Rule(f"gain over the log by {rules.choice}", preferred, "above", rules.least_gain_by_choice, _passed(good))
    )
    high = gains[CLONING].high if CLONING in gains else None
    table.append(_least(f"upper bound of the gain over {TOLD[CLONING]}", high, 0 - rules.most_loss_to_cloning))
    share = n = None
    if gains:
        views = {kind: evidence.views[kind] for kind in _deciding(evidence, rules)}
        share = agreement({kind: view.gains[LOG] for kind, view in views.items()})
        n = min(view.gains[LOG].effective_n for view in views.values())
    table.append(_least("share of the kinds that see a gain over the log", share, rules.least_agreement))
    table.append(_least("effective sample size", n, rules.least_effective_n))
    return tuple(table)


def _limits(evidence: Evidence, rules: Rules) -> tuple[Rule, ...]:
    card, cost = evidence.card, evidence.cost
    grade, coverage, horizon = (None, None, None) if card is None else card
    loss = -evidence.tail if evidence.tail is not None and _finite(evidence.tail) else None
    return (
        _most(OUTSIDE, evidence.outside, rules.most_outside),
        _most(DOUBT, evidence.doubt, rules.most_doubt),
        _most(UNREAD, evidence.unread, None if evidence.unread is None else rules.most_unread),
        _least(SUPPORT, evidence.support, rules.least_support),
        _most("loss of the worst tenth of returns", loss, rules.most_tail_loss),
        _most(COST, None if cost is None else cost.high, rules.most_cost),
        Rule("grade of the card", grade, "one of", rules.grades, _passed(grade in rules.grades)),
        _least("coverage of the card", coverage, rules.least_card_coverage),
        _least(TRUSTED, horizon, rules.least_trusted_horizon),
    )


def _least(name: str, value: float | None, least: float) -> Rule:
    return Rule(name, value, "at least", least, _passed(_finite(value) and value >= least))


def _most(name: str, value: float | None, most: float | None) -> Rule:
    if most is None:
        return Rule(name, value, "at most", None, "not asked")
    return Rule(name, value, "at most", most, _passed(_finite(value) and value <= most))


def _passed(kept: bool) -> Literal["passed", "failed"]:
    return "passed" if kept else "failed"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if _finite(value) else str(value)
