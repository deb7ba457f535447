"""How numbers are told, and what a panel is given to judge by."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from weather_world import driven

from mbrl.assessment import Assessment, Entrant, Finding, figure, make_bench, shown, tell_few
from mbrl.data.division import Division
from mbrl.evaluation.estimates import Estimate
from mbrl.registry import promotion
from mbrl.registry.gates import Verdict
from mbrl.registry.rules import read
from mbrl.report.console import seldom
from mbrl.selection import select
from mbrl.settings import Trial


@pytest.mark.parametrize(
    ("value", "text"),
    [(-690.04, "-690.0"), (1.0, "1.0"), (0.0, "0.0"), (0.5, "0.5"), (-3.14159e-5, "-3.14e-05"), (math.nan, "nan")],
)
def test_returns_of_any_scale_can_be_read(value: float, text: str) -> None:
    assert figure(value) == text


def test_an_interval_is_told_in_the_digits_of_its_largest_end() -> None:
    assert shown(Estimate(0.04, -0.02, 12.34, 5)) == "0.0 [-0.0, 12.3]"
    assert shown(Estimate(-0.000412, -0.0005, -0.00031, 5)) == "-0.000412 [-0.0005, -0.00031]"


def test_in_the_weather_that_a_policy_was_learned_in_it_is_not_judged() -> None:
    data = driven((6, 4, 9, 5, 7))
    sides = Division(*(torch.tensor(side) for side in ([0, 1], [2], [3], [4])))
    seen: Any = SimpleNamespace(simulator=SimpleNamespace(replaying=lambda log: None))
    for log, starts in ((data, [3, 4]), (replace(data, exogenous=()), [0, 1, 2, 3, 4])):
        bench = make_bench(log, seen, Trial(starts=9), read(), 0, sides)
        assert sorted(log.episode[bench.starts.rows].tolist()) == starts


@pytest.mark.parametrize(
    ("judges", "kinds", "told"), [(3, ("model", "fqe"), True), (4, ("fqe",), False), (3, ("model",), False)]
)
def test_a_log_too_short_to_judge_by_is_told_before_any_work(
    judges: int, kinds: tuple[str, ...], told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = Division(*(torch.arange(count) for count in (9, 1, judges - 1, 1)))
    tell_few(sides, (0.7, 0.1, 0.2), replace(read(), kinds=kinds, choice=kinds[0]))
    said = capsys.readouterr().out
    assert (
        "3 of the episodes are left to judge, critics need 4, and without nothing is promoted: raise" in said
    ) == told
    assert bool(said) == told


def test_lines_about_long_work_are_seldom(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr("mbrl.report.console.time.monotonic", lambda: now)
    say = seldom()
    for now in (1.0, 30.0, 31.0, 59.0, 60.0):
        say("bc", f"at {now:g}")
    assert capsys.readouterr().out.split("\n") == ["bc                 at 30", "bc                 at 60", ""]


def test_gains_on_different_logs_are_not_compared() -> None:
    cases: Any = [SimpleNamespace(bench=SimpleNamespace(data=driven(lengths))) for lengths in ((6, 4), (6, 5))]
    with pytest.raises(ValueError, match=r"come from different logs \(toy/driven-v0\).*one log \(--versions\)"):
        select(cases, read(), Trial())


def test_runs_of_other_seeds_meet_other_starts_and_policies_of_one_run_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    met: dict[int, list[set[int]]] = {}

    def returns(act: object, env: str, episodes: int, first: int) -> np.ndarray:
        met[seed].append(set(range(first, first + episodes)))
        return np.arange(float(episodes))

    monkeypatch.setattr("mbrl.assessment.playing.true_returns", returns)
    monkeypatch.setattr("mbrl.assessment.acting", lambda policy: policy)
    record: Any = SimpleNamespace(dict=lambda content, path: None)
    for seed in range(3):
        met[seed] = []
        policies: Any = {"bold": None, "shy": None}
        Assessment("mill", "Mill-v0", seed, Trial(episodes=20), read()).measure(policies, record)
    assert all(bold == shy for bold, shy in met.values())
    assert met[0][0] == set(range(1000, 1020))
    assert len(set.union(*(bold for bold, _ in met.values()))) == 60


@pytest.mark.parametrize(
    ("outcome", "second", "refused", "told"),
    [
        ("promote", False, False, "promoted"),
        ("promote", True, True, "passed, not promoted"),
        ("harmful", False, True, "harmful"),
    ],
)
def test_promoted_is_what_the_registry_has_made_champion(
    outcome: str, second: bool, refused: bool, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def promote(name: str, version: str) -> None:
        if refused:
            raise promotion.RefusedError("mill-policy/3: not without a second person")

    tags: dict[str, str] = {}
    record: Any = SimpleNamespace(tags=tags.update)
    rules = replace(read(), second_person=second)
    finding = Finding(SimpleNamespace(champion=None), Verdict(outcome, (), (), "1"), None, None, "f", "d")  # type: ignore[arg-type]
    assert finding.outcome(rules) == ("passed, for a second person to promote" if second else told)
    monkeypatch.setattr(promotion, "judge", lambda *what: None)
    monkeypatch.setattr(promotion, "promote", promote)
    monkeypatch.setattr(promotion, "champion", lambda name: None if refused else "3")
    findings: Any = SimpleNamespace(best=finding, chosen="a", of={"a": finding})
    champion = Assessment("mill", None, 0, Trial(), rules).promote(findings, {"a": Entrant(None, "3")}, record)  # type: ignore[arg-type]
    assert champion == (None if refused else "3")
    assert tags["mbrl.verdict"] == told
