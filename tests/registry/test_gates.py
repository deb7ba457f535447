"""The gate by explicit rules: what each of them refuses, and that nothing broken gets through."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gate_toys import GOOD, RULES, view

from mbrl.evaluation.estimates import Estimate
from mbrl.registry.gates import CANDIDATE, CHAMPION, CLONING, LOG, CardFacts, Evidence, Rule, Verdict, View, decide
from mbrl.registry.rules import LIMITS, Rules

GAINS = GOOD.views["fqe"].gains
NAMES = [  # of every rule, in the order of the verdict
    "faults of the evidence",
    "upper bound of the gain over the log",
    "lower bound of the gain over the log",
    "lower bound of the gain over the champion",
    "gain over the log by model",
    "upper bound of the gain over behaviour cloning",
    "share of the kinds that see a gain over the log",
    "effective sample size",
    "share of simulated steps outside the log",
    "share of doubtful simulated steps",
    "observations in a row that the log asks for, and nobody reads",
    "share of logged states where its action has support",
    "loss of the worst tenth of returns",
    "upper bound of the cost",
    "grade of the card",
    "coverage of the card",
    "trusted horizon of the card",
]


def outcomes(verdict: Verdict) -> dict[str, str]:
    return {rule.name: rule.outcome for rule in verdict.rules}


def failed(evidence: Evidence, rules: Rules = RULES) -> list[str]:
    """The rules that fail; the candidate is not promoted, and each of them is among the reasons."""
    verdict = decide(evidence, rules)
    assert not verdict.promote
    names = [rule.name for rule in verdict.rules if rule.outcome == "failed"]
    assert [reason.split(":")[0] for reason in verdict.reasons] == names
    return names


def everybody(evidence: Evidence, **columns: View) -> Evidence:
    return evidence._replace(views={**evidence.views, **columns})


def test_a_candidate_that_keeps_every_rule_is_promoted_with_all_of_them_as_reasons() -> None:
    verdict = decide(GOOD, RULES)
    assert (verdict.outcome, verdict.promote, verdict.version) == ("promote", True, "test")
    assert outcomes(verdict) == dict.fromkeys(NAMES, "passed")
    assert len(verdict.reasons) == len(NAMES)
    assert verdict.reasons[2] == "lower bound of the gain over the log: 2 is above 0"
    assert verdict.reasons[14] == "grade of the card: good is one of good, with care"


def test_gains_are_weighed_in_spreads_and_by_the_middle_of_the_kinds() -> None:
    rules = {rule.name: rule.value for rule in decide(GOOD, RULES).rules}
    assert rules["lower bound of the gain over the log"] == (20 / 10 + 4 / 2) / 2
    assert rules["upper bound of the gain over the log"] == (40 / 10 + 12 / 2) / 2
    lowest = {rule.name: rule.value for rule in decide(GOOD, replace(RULES, combination="lowest")).rules}
    assert lowest["upper bound of the gain over the log"] == 4.0
    three = replace(RULES, kinds=("model", "fqe", "dice"))
    wild = everybody(GOOD, dice=view(-1e9, 1, 1e9))
    middle = decide(wild, three)
    assert middle.promote
    assert {rule.name: rule.value for rule in middle.rules}["lower bound of the gain over the log"] == 2.0
    verdict = decide(wild, replace(three, combination="lowest"))
    rules = {rule.name: rule.value for rule in verdict.rules}
    assert rules["lower bound of the gain over the log"] == -1e8  # the least that a kind thinks of it
    assert verdict.outcome == "no evidence of improvement"


def test_kinds_that_the_rules_do_not_name_have_no_vote() -> None:
    assert decide(everybody(GOOD, dice=view(-90, -80, -70)), RULES) == decide(GOOD, RULES)


@pytest.mark.parametrize(("low", "kept"), [(-1.0, False), (0.0, False), (0.01, True)])
def test_the_lower_bound_of_the_gain_must_be_above_its_floor(low: float, kept: bool) -> None:
    same = {"model": view(low, 5, 10), "fqe": view(low, 5, 10)}
    assert decide(GOOD._replace(views=same), RULES).promote == kept


@pytest.mark.parametrize(
    ("floor", "other"),
    [
        ("least_gain_over_log", "the log"),
        ("least_gain_over_champion", "the champion"),
    ],
)
def test_every_other_has_a_floor_of_its_own(floor: str, other: str) -> None:
    assert decide(GOOD, replace(RULES, **{floor: 1.9})).promote
    assert failed(GOOD, replace(RULES, **{floor: 2.0})) == [f"lower bound of the gain over {other}"]


@pytest.mark.parametrize(("high", "kept"), [(-0.1, False), (0.0, True), (9.0, True)])
def test_a_policy_has_to_beat_the_log_and_must_not_be_seen_to_lose_to_imitation(high: float, kept: bool) -> None:
    """Spreads are 10 and 2; imitation that does as well is no reason to go on with the log."""
    views = {
        kind: v._replace(
            gains={**v.gains, CLONING: Estimate(high - v.spread, high - 2 * v.spread, high * v.spread, 30)}
        )
        for kind, v in GOOD.views.items()
    }
    assert decide(GOOD._replace(views=views), RULES).promote == kept
    if not kept:
        assert failed(GOOD._replace(views=views)) == ["upper bound of the gain over behaviour cloning"]
        assert decide(GOOD._replace(views=views), replace(RULES, most_loss_to_cloning=0.2)).promote


@pytest.mark.parametrize(("value", "kept"), [(-1.0, False), (0.0, False), (0.1, True)])
def test_the_kind_to_choose_by_is_not_outvoted(value: float, kept: bool) -> None:
    """The other two are sure of a gain, and their median with it is one."""
    others = {"fqe": view(4, 8, 12, spread=2.0), "model+fqe": view(4, 8, 12, spread=2.0)}
    evidence = everybody(GOOD, model=view(value - 5, value, value + 5), **others)
    three = replace(RULES, kinds=("model", "model+fqe", "fqe"), least_agreement=0.6)
    assert decide(evidence, three).promote == kept
    assert decide(evidence, replace(three, choice="fqe")).promote
    assert decide(evidence, replace(three, least_gain_by_choice=0.01)).promote is False
    if not kept:
        assert failed(evidence, three) == ["gain over the log by model"]


def test_without_a_champion_no_gain_over_it_is_asked() -> None:
    views = {kind: v._replace(gains={LOG: v.gains[LOG], CLONING: v.gains[CLONING]}) for kind, v in GOOD.views.items()}
    verdict = decide(GOOD._replace(views=views, champion=None), RULES)
    assert verdict.promote
    assert outcomes(verdict)["lower bound of the gain over the champion"] == "not asked"
    assert not decide(GOOD._replace(views=views), RULES).promote


def test_harmful_is_what_is_below_the_log_with_its_upper_bound() -> None:
    below = GOOD._replace(views={"model": view(-40, -30, -20), "fqe": view(-12, -8, -4, spread=2.0)})
    verdict = decide(below, RULES)
    assert verdict.outcome == "harmful"
    assert verdict.reasons[0] == "upper bound of the gain over the log: -2 is not at least 0"
    assert decide(below, replace(RULES, harmful_loss=2.0)).outcome == "no evidence of improvement"
    around = GOOD._replace(views={"model": view(-40, -30, 1), "fqe": view(-40, -30, 1)})
    assert decide(around, RULES).outcome == "no evidence of improvement"
    broken = below._replace(hashes={"judge.ckpt": ("a", "b")})
    assert decide(broken, RULES).outcome == "no evidence of improvement"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (
            {
                "views": {
                    **GOOD.views,
                    "fqe": GOOD.views["fqe"]._replace(gains={**GAINS, LOG: Estimate(-0.5, -1, 50, 30)}),
                }
            },
            "share of the kinds that see a gain over the log",
        ),
        ({"views": {**GOOD.views, "fqe": view(4, 8, 12, n=9.9)}}, "effective sample size"),
        ({"outside": 0.31}, "share of simulated steps outside the log"),
        ({"outside": None}, "share of simulated steps outside the log"),
        ({"doubt": 0.21}, "share of doubtful simulated steps"),
        ({"doubt": None}, "share of doubtful simulated steps"),
        ({"support": 0.49}, "share of logged states where its action has support"),
        ({"support": None}, "share of logged states where its action has support"),
        ({"unread": 1}, "observations in a row that the log asks for, and nobody reads"),
        ({"tail": -0.11}, "loss of the worst tenth of returns"),
        ({"tail": None}, "loss of the worst tenth of returns"),
        ({"cost": Estimate(6.0, 5.0, 7.1, 30)}, "upper bound of the cost"),
        ({"cost": None}, "upper bound of the cost"),
        ({"card": CardFacts("poor", 0.9, 12)}, "grade of the card"),
        ({"card": CardFacts("good", 0.79, 12)}, "coverage of the card"),
        ({"card": CardFacts("good", 0.9, 4)}, "trusted horizon of the card"),
    ],
)
def test_each_rule_alone_keeps_a_candidate_back(change: dict[str, Any], name: str) -> None:
    assert failed(GOOD._replace(**change)) == [name]


def test_why_a_cost_is_not_known_is_among_the_reasons_where_a_rule_asks_for_it() -> None:
    unknown = GOOD._replace(cost=None, refused={"cost": "the cost is 0 in all rows: name a function as trial.cost"})
    verdict = decide(unknown, RULES)
    assert verdict.reasons == (
        "upper bound of the cost: not known is not at most 7",
        "the cost is not known: the cost is 0 in all rows: name a function as trial.cost",
    )
    assert decide(unknown, replace(RULES, most_cost=None)).promote


def test_why_nobody_knows_the_edge_of_the_log_is_told_once() -> None:
    refused = {"edge of the log": "one episode"}
    verdict = decide(GOOD._replace(outside=None, support=None, refused=refused), RULES)
    assert [reason.partition(":")[0] for reason in verdict.reasons] == [
        "share of simulated steps outside the log",
        "share of logged states where its action has support",
        "the edge of the log is not known",
    ]


def test_one_member_of_a_simulator_is_no_evidence_as_nothing_says_how_far_off_it_is() -> None:
    def told(members: int) -> Evidence:
        seen = GOOD.views["model"]
        own = seen.values[CANDIDATE]._replace(diagnostics={"members": members})
        return everybody(GOOD, model=seen._replace(values={**seen.values, CANDIDATE: own}))

    assert decide(told(2), RULES).promote
    verdict = decide(told(1), RULES)
    assert verdict.outcome == "no evidence of improvement"
    assert verdict.reasons[0].startswith("model is of one member, which does not show how far others would be from it")
    assert decide(told(1), replace(RULES, kinds=("fqe",), choice="fqe")).promote  # who does not ask it


def test_without_a_card_all_that_is_asked_of_it_fails() -> None:
    assert failed(GOOD._replace(card=None)) == NAMES[-3:]


def test_simulated_steps_that_nobody_knows_are_no_ground() -> None:
    """Whatever else is against a candidate."""
    bad = GOOD._replace(tail=-9.0, support=0.0)
    lost = GOOD._replace(card=GOOD.card._replace(trusted_horizon=4))
    cases = (GOOD, bad, bad._replace(outside=0.31), GOOD._replace(doubt=0.21), lost, GOOD._replace(card=None))
    assert [decide(case, RULES).grounded for case in cases] == [True, True, False, False, False, False]


def test_a_log_that_cannot_say_how_much_it_asks_for_is_not_asked() -> None:
    verdict = decide(GOOD._replace(unread=None), RULES)
    assert verdict.promote
    assert outcomes(verdict)["observations in a row that the log asks for, and nobody reads"] == "not asked"


def test_a_limit_of_nothing_is_not_asked() -> None:
    free = replace(RULES, **dict.fromkeys(LIMITS))
    verdict = decide(GOOD._replace(outside=None, doubt=None, unread=None, tail=None, cost=None), free)
    assert verdict.promote
    assert [name for name, outcome in outcomes(verdict).items() if outcome == "not asked"] == [
        "share of simulated steps outside the log",
        "share of doubtful simulated steps",
        "observations in a row that the log asks for, and nobody reads",
        "loss of the worst tenth of returns",
        "upper bound of the cost",
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"views": {"model": GOOD.views["model"]}}, "fqe is missing: it was not asked"),
        (
            {"views": {"model": GOOD.views["model"]}, "refused": {"fqe": "too few rows"}},
            "fqe is missing: too few rows",
        ),
        ({"level": 0.95}, "the bounds are of level 0.95, not 0.9"),
        (
            {"fingerprints": {"log": "f" * 64, "card": "e" * 64}},
            "the evidence is not of one data set: log ffffffffffff, card eeeeeeeeeeee",
        ),
        ({"fingerprints": {}}, "the evidence is not of one data set: none is named"),
        ({"fingerprints": {"log": ""}}, "the evidence is not of one data set: log unknown"),
        (
            {"hashes": {"judge.ckpt": ("a" * 64, "b" * 64)}},
            "judge.ckpt has SHA-256 bbbbbbbbbbbb, and aaaaaaaaaaaa was recorded",
        ),
        ({"hashes": {"judge.ckpt": ("", "")}}, "judge.ckpt has SHA-256 , and none was recorded"),
        ({"hashes": {}}, "no file of the evidence was verified"),
    ],
)
def test_evidence_that_is_not_sound_refuses_and_says_why(change: dict[str, Any], reason: str) -> None:
    verdict = decide(GOOD._replace(**change), RULES)
    assert verdict.outcome == "no evidence of improvement"
    assert verdict.reasons == (reason,)  # and not one for each gain that nobody knows for that reason
    assert outcomes(verdict)["faults of the evidence"] == "failed"
    assert outcomes(verdict)["lower bound of the gain over the log"] == "failed"


def with_part(kind: str, column: str, name: str, estimate: Estimate) -> Evidence:
    changed = GOOD.views[kind]
    return everybody(GOOD, **{kind: changed._replace(**{column: {**getattr(changed, column), name: estimate}})})


PARTS = [("values", CANDIDATE), ("values", LOG), ("values", CLONING), ("gains", LOG), ("gains", CHAMPION)]


@pytest.mark.parametrize(("place", "field"), [*itertools.product(PARTS, ("value", "low", "high", "effective_n"))])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan"), None, "150", True])
def test_what_is_not_a_finite_number_anywhere_refuses(place: tuple[str, str], field: str, bad: Any) -> None:
    column, name = place
    estimate = getattr(GOOD.views["fqe"], column)[name]
    verdict = decide(with_part("fqe", column, name, estimate._replace(**{field: bad})), RULES)
    assert verdict.outcome == "no evidence of improvement"
    assert f"fqe.{column}[{name}].{field} is {bad}, expected a finite number" in verdict.reasons


def test_a_broken_estimate_refuses_even_where_no_rule_compares_it() -> None:
    broken = everybody(GOOD, dice=view(math.nan, 1, 2))
    assert decide(broken, RULES).outcome == "no evidence of improvement"


@pytest.mark.parametrize("name", ["outside", "doubt", "support", "unread", "tail"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, "much"])
def test_a_broken_number_beside_the_views_refuses(name: str, bad: Any) -> None:
    verdict = decide(GOOD._replace(**{name: bad}), replace(RULES, **dict.fromkeys(LIMITS)))
    assert f"{name} is {bad}, expected a finite number" in verdict.reasons
    assert not verdict.promote


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gamma": 0.0}, "fqe.gamma is 0.0, expected a discount above 0, up to 1"),
        ({"gamma": math.nan}, "fqe.gamma is nan, expected a discount above 0, up to 1"),
        ({"spread": 0.0}, "fqe.spread is 0.0, expected a finite number above 0"),
        ({"spread": math.inf}, "fqe.spread is inf, expected a finite number above 0"),
        ({"values": {LOG: Estimate(1, 1, 1, 1)}}, "fqe.values has nothing of the candidate"),
        ({"gains": {LOG: Estimate(1, 1, 1, 30)}}, "fqe.gains has nothing of the champion"),
        ({"gains": {CHAMPION: Estimate(1, 1, 1, 30), LOG: Estimate(1, 1, 1, 30)}}, "fqe.gains has nothing of behav"),
    ],
)
def test_a_view_that_is_not_whole_refuses(change: dict[str, Any], reason: str) -> None:
    verdict = decide(everybody(GOOD, fqe=GOOD.views["fqe"]._replace(**change)), RULES)
    assert verdict.outcome == "no evidence of improvement"
    assert any(told.startswith(reason) for told in verdict.reasons)


def test_an_interval_in_disorder_refuses() -> None:
    verdict = decide(with_part("fqe", "gains", LOG, Estimate(1.0, 2.0, 0.5, 30)), RULES)
    assert "fqe.gains[log] has its lower bound 2 above its upper bound 0.5" in verdict.reasons


def test_numpy_numbers_are_numbers() -> None:
    estimate = GOOD.views["fqe"].gains[LOG]
    assert decide(with_part("fqe", "gains", LOG, Estimate(*map(np.float32, estimate[:4]))), RULES).promote


def test_a_verdict_is_plain_values() -> None:
    told = decide(GOOD, RULES).to_dict()
    assert (told["outcome"], told["version"]) == ("promote", "test")
    assert told["rules"][3] == {
        "name": "lower bound of the gain over the champion",
        "value": 2.0,
        "relation": "above",
        "threshold": 0.0,
        "outcome": "passed",
    }
    assert Rule("a", None, "at most", 1, "failed").sentence() == "a: not known is not at most 1"
    assert Rule("a", None, "at most", None, "not asked").sentence() == "a: not asked"
