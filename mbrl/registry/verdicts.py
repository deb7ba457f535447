"""The verdict on a fine-tuned version: of what it and the old one truly returned, from the same starts."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from mbrl.evaluation.intervals import student_t
from mbrl.registry import chronicle
from mbrl.registry.decisions import PROMOTE, Decision
from mbrl.registry.gates import Rule
from mbrl.registry.ledger import Ledger
from mbrl.registry.rules import read

VERSION = "true returns 1"  # of the rules below
HANDED_BACK = "handed back"


class TrueReturns(NamedTuple):
    """All that the verdict is made of."""

    old: np.ndarray  # [n] returns of the version that was fine-tuned
    new: np.ndarray  # [n] of the new one, from the same starts
    logged: np.ndarray  # [m] of the log's episodes
    against: str  # which version the old one is
    champion: str | None  # which one reigns
    handed_back: bool  # because the floor was broken


def decide(seen: TrueReturns) -> tuple[str, tuple[str, ...]]:
    """The outcome, and why.

    "promote" takes a lower bound above 0 of the gain over the old version, paired by start, and one of the new returns
    that is above the upper bound of the log's mean; and that the old version is the champion, if there is one. The
    bounds are of the packaged rules' level, and Student's: of few episodes those of a bootstrap are too narrow.
    "harmful" is a gain over the old version whose upper bound is below 0.
    """
    if seen.handed_back:
        return HANDED_BACK, ("the newest true episodes returned less than the floor",)
    coverage = read().coverage
    gain = student_t(seen.new - seen.old, coverage)
    above = student_t(seen.new, coverage).low - student_t(seen.logged, coverage).high
    reigning = seen.against if seen.champion is None else seen.champion
    table = (
        _above(f"lower bound of the true gain over version {seen.against}", gain.low),
        _above("lower bound of the true gain over the log", above),
        Rule("version it was measured against", seen.against, "one of", (reigning,), _word(seen.against == reigning)),
    )
    failed = tuple(rule.sentence() for rule in table if rule.outcome == "failed")
    if gain.high < 0:
        return "harmful", failed
    if failed:
        return "no evidence of improvement", failed
    return PROMOTE, tuple(rule.sentence() for rule in table)


def decision(name: str, against: str, outcome: str, reasons: tuple[str, ...], digest: str, where: str) -> Decision:
    """What the registry keeps of it; a second person is wanted where one was for the version `against`.

    Raises:
        StoreError: the store does not answer.
        LedgerError: the ledger is damaged.
    """
    before = chronicle.judged(Ledger.open(name).entries(), against)
    second = before is not None and chronicle.decision(before).second_person
    return Decision(outcome, VERSION, digest, reasons, where, second, against)


def _above(name: str, value: float) -> Rule:
    return Rule(name, value, "above", 0.0, _word(value > 0))


def _word(kept: bool) -> Literal["passed", "failed"]:
    return "passed" if kept else "failed"
