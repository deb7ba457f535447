"""Promote or not: a pure function of evidence. NaN or infinity anywhere refuses."""

from __future__ import annotations

import math
from numbers import Real
from typing import NamedTuple

from mbrl.evaluation.estimates import Estimate


class Evidence(NamedTuple):
    """What the gate sees. All three are undiscounted returns per episode, in the log's own units."""

    logged: Estimate  # mean logged return
    baseline: Estimate  # behaviour cloning, in the second simulator
    candidate: Estimate  # the new policy, in the second simulator, from the same start states


class Rule(NamedTuple):
    """One rule and its outcome; `value` must exceed `threshold`."""

    name: str
    value: float
    threshold: float
    passed: bool


class Verdict(NamedTuple):
    """Promote or not, and why: `reasons` explains every rule that failed, or, at a promotion, every rule."""

    promote: bool
    reasons: tuple[str, ...]
    rules: tuple[Rule, ...]


def decide(evidence: Evidence) -> Verdict:
    """Promote only a candidate whose lower bound beats the mean logged return and the baseline's value.

    Every number of every estimate must be finite and every interval in order, whether a rule compares it or not: an
    estimate with a broken part is not evidence.
    """
    broken = [fault for name, estimate in evidence._asdict().items() for fault in _faults(name, estimate)]
    low = evidence.candidate.low
    rules = (
        _beats("candidate beats the log", low, evidence.logged.value),
        _beats("candidate beats behaviour cloning", low, evidence.baseline.value),
    )
    promote = not broken and all(rule.passed for rule in rules)
    reasons = broken + [_sentence(rule) for rule in rules if promote or not rule.passed]
    return Verdict(promote, tuple(reasons), rules)


def _beats(name: str, value: float, threshold: float) -> Rule:
    finite = _finite(value) and _finite(threshold)
    return Rule(name, value, threshold, finite and value > threshold)


def _faults(name: str, estimate: Estimate) -> list[str]:
    faults = [f"{name}.{k} is {v}, expected a finite number" for k, v in estimate.numbers.items() if not _finite(v)]
    if faults:
        return faults
    if estimate.low > estimate.high:
        faults.append(f"{name} has its lower bound {estimate.low:g} above its upper bound {estimate.high:g}")
    if estimate.effective_n < 1:
        faults.append(f"{name} rests on {estimate.effective_n:g} values, expected at least 1")
    return faults


def _finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _sentence(rule: Rule) -> str:
    if not (_finite(rule.value) and _finite(rule.threshold)):
        return f"{rule.name}: lower bound {rule.value} cannot be compared with {rule.threshold}"
    relation = "is above" if rule.passed else "is not above"
    return f"{rule.name}: lower bound {rule.value:.6g} {relation} {rule.threshold:.6g}"
