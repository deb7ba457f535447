"""What is told of policies of several runs, of which each kind of estimator may have nothing to say in one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gate_toys import RULES

from mbrl.appraisal import Case, Truth, said, scores, table
from mbrl.comparison import _clouds, _tell
from mbrl.evaluation.estimates import Estimate
from mbrl.evaluation.opinions import Answer, Opinion
from mbrl.evaluation.panel import Heard
from mbrl.report.dossier import stands


def opinion(gamma: float, **values: float) -> Opinion:
    answers = {f"mill-policy/{name[1:]}": Answer(Estimate(v, v - 1, v + 1, 9)) for name, v in values.items()}
    return Opinion(gamma, 2.0, 0.9, Answer(Estimate(10.0, 9.0, 11.0, 20)), answers, {})


def case(labels: list[str], opinions: dict[str, Opinion], origins: Any = (), **silent: dict[str, str]) -> Case:
    data: Any = SimpleNamespace(id="toy/mill-v0", fingerprint="f" * 64)
    bench: Any = SimpleNamespace(data=data, returns=lambda gamma: torch.tensor([8.0, 12.0]).double())
    return Case(origins, dict.fromkeys(labels), {}, None, bench, Heard(opinions, **{"refused": {}, **silent}))  # type: ignore


FULL = {"model": opinion(1.0, v1=14.0), "model+fqe": opinion(0.9, v1=13.0), "fqe": opinion(0.9, v1=12.0)}
VALUES = {g: {f"mill-policy/{k}": Estimate(15.0 - k, 0, 20, 5) for k in (1, 2)} for g in (1.0, 0.9)}
TRUE = Truth(VALUES, {1.0: 1.0, 0.9: 0.01})


@pytest.mark.parametrize("turned", [False, True])
def test_a_kind_that_one_run_leaves_out_is_told_of_the_others(turned: bool, capsys: pytest.CaptureFixture[str]) -> None:
    less = {"model": opinion(1.0, v2=10.0), "fqe": opinion(0.9, v2=11.0)}
    found = [case(["mill-policy/1"], FULL), case(["mill-policy/2"], less, repeats={"model+fqe": "fqe"})]
    found = found[::-1] if turned else found
    answer = table(found, RULES)
    assert set(answer["estimates"]["model+fqe"]) == {"log", "mill-policy/1"}
    why = "no step is trusted, so it would repeat fqe"
    assert answer["refused"] == {"model+fqe": {"mill-policy/2": why}}
    assert answer["discount"] == {"model": 1.0, "model+fqe": 0.9, "fqe": 0.9}
    _tell(answer, {})
    told = capsys.readouterr().out
    assert "mill-policy/1                13.0 [12.0, 14.0]" in told
    assert f"mill-policy/2                no estimate: {why}" in told
    assert [scores(found, TRUE, RULES)[kind].policies for kind in ("model", "model+fqe", "fqe")] == [2, 1, 2]
    assert {cloud.title: len(cloud.estimates) for cloud in _clouds(found, TRUE, RULES)} == {
        "model": 2,
        "model+fqe": 1,
        "fqe": 2,
        "combined": 2,
    }


@pytest.mark.parametrize("own", ["1", "2", ""])
def test_a_champion_that_is_heard_in_several_runs_has_the_numbers_of_one(own: str) -> None:
    """Of its own run, or of the first where that is not among them: mill-policy/3 stands beside /1 and /2."""
    names = ["1", "2"]
    found = [
        case(
            [f"mill-policy/{name}", "mill-policy/3"],
            {"model": opinion(1.0, **{f"v{name}": 12.0, "v3": worth})},
            [SimpleNamespace(label="mill-policy/3")] if name == own else [],
        )
        for name, worth in zip(names, (13.0, 16.0), strict=True)
    ]
    true = Truth({1.0: {f"mill-policy/{k}": Estimate(15.0, 0, 20, 5) for k in (1, 2, 3)}}, {1.0: 1.0})
    answer, worth = table(found, RULES), 16.0 if own == "2" else 13.0
    assert answer["estimates"]["model"]["mill-policy/3"]["value"] == worth
    assert answer["combined_gain_in_spreads"]["mill-policy/3"]["value"] == (worth - 10.0) / 2
    assert said(found, "model")["mill-policy/3"].value == worth
    assert scores(found, true, RULES)["model"].policies == 3
    found[0].heard.opinions["model"].answers.pop("mill-policy/3")  # type: ignore[attr-defined]
    found[0].heard.opinions["model"].refused["mill-policy/3"] = "few"  # type: ignore[index]
    answer = table(found, RULES)
    assert ("mill-policy/3" in answer["estimates"]["model"]) == (own == "2")
    assert answer["refused"] == ({} if own == "2" else {"model": {"mill-policy/3": "few"}})


def test_a_kind_that_one_run_refuses_hides_no_other_run(capsys: pytest.CaptureFixture[str]) -> None:
    kept = {"model": opinion(1.0, v2=10.0)}
    found = [
        case(["mill-policy/1"], FULL),
        case(["mill-policy/2"], kept, refused=dict.fromkeys(FULL.keys() - kept, "few")),
    ]
    _tell(answer := table(found, RULES), {})
    assert answer["refused"]["fqe"] == {"mill-policy/2": "few"}
    told = capsys.readouterr().out
    assert "mill-policy/1                12.0 [11.0, 13.0]" in told
    assert "fqe: no estimate" not in told


def test_what_the_log_s_own_actions_earn_in_a_simulator_that_pays_more_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = opinion(1.0, v1=14.0)
    earned = said.log.estimate._replace(diagnostics={"recited": 13.0})
    opinions = {"model": said._replace(log=said.log._replace(estimate=earned)), "fqe": opinion(0.9, v1=12.0)}
    _tell(table([case(["mill-policy/1"], opinions)], RULES), {})
    told = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines() if line.startswith("  log ")]
    assert told == [
        "10.0 [9.0, 11.0]; it makes 13.0 of the log's own actions, and gains are over that",
        "10.0 [9.0, 11.0]",
    ]
    model, critics = stands(opinions, {})
    assert (model.reference, critics.reference) == (13.0, 10.0)
    assert model.unit.endswith("; dashed: what it makes of the log's own actions")
    assert "dashed" not in critics.unit


def test_a_kind_that_all_leave_out_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    both = {"model": opinion(1.0, v1=14.0), "fqe": opinion(0.9, v1=12.0)}
    _tell(table([case(["mill-policy/1"], both, repeats={"model+fqe": "fqe"})], RULES), {})
    assert "model+fqe: not counted: no step is trusted, so it would repeat fqe" in capsys.readouterr().out
    refused = table([case(["mill-policy/1"], {}, refused={"model": "no judge"})], RULES)
    _tell(refused, {})
    assert "model: no estimate: no judge" in capsys.readouterr().out


def test_values_of_an_endless_world_have_no_error_beside_returns_that_were_cut() -> None:
    """At a discount of 0.9 and cut after 10 steps, a third of what fqe counts lies beyond."""
    full = {"fqe": opinion(0.9, v1=12.0, v2=11.0), "pdis": opinion(0.9, v1=12.0, v2=11.0)}
    found = [case(["mill-policy/1", "mill-policy/2"], full | {"model": opinion(1.0, v1=14.0, v2=13.0)})]
    for beyond, told in (0.05, {"fqe", "pdis", "model"}), (0.35, {"pdis", "model"}):
        true = Truth(VALUES, {1.0: 1.0, 0.9: beyond})
        rows = scores(found, true, RULES)
        assert {kind for kind, row in rows.items() if row.coverage is not None} - {"combined"} == told
        assert {kind for kind, row in rows.items() if row.absolute_error is not None} - {"combined"} == told
        assert rows["fqe"].rank_correlation == pytest.approx(1.0)
        assert rows["combined"].coverage is not None
