"""The commands of promotion, and what a reader in MLflow sees."""

import contextlib
import io
import json
import sqlite3

import pytest
from mlflow import MlflowClient
from registry_toys import DECISION

from mbrl.__main__ import main
from mbrl.registry import modelcard, promotion, store
from mbrl.registry.decisions import Decision


def spoken(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main([*arguments, "--json"])
    return status, json.loads(out.getvalue()), err.getvalue()


def test_promote_roll_back_tell_and_delete(registry):
    status, answer, told = spoken("promote", "toy", "--version", "1", "--approver", "bob")
    assert (status, answer["before"], answer["after"]) == (0, None, "1")
    assert "toy-policy@champion: none -> 1" in told
    assert answer["head"] in told
    assert spoken("promote", "toy", "--version", "2", "--to", "shadow")[1]["alias"] == "shadow"
    assert "is at version 1 already" in spoken("promote", "toy", "--version", "1")[2]
    assert spoken("promote", "toy")[1]["after"] == "4"
    status, answer, _ = spoken("delete", "toy", "--version", "2")
    assert (status, "shadow of toy-policy point to version 2" in answer["error"]) == (1, True)
    assert spoken("delete", "toy", "--version", "3")[:1] == (0,)
    assert spoken("rollback", "toy")[1]["after"] == "1"
    status, answer, told = spoken("history", "toy", "--verify")
    assert (status, answer["wrong"]) == (0, [])
    assert [e["action"] for e in answer["entries"] if e["phase"] == "refused"] == ["delete"]
    assert f"head {answer['head']}; chain, aliases, verdicts, evidence, files and golden pairs hold" in told
    assert "approved by bob" in told


def test_a_name_that_nobody_registered_has_no_history(registry):
    status, answer, _ = spoken("history", "tooy")
    assert (status, "'tooy-policy' in" in answer["error"]) == (1, True)
    assert "registered models: toy-policy" in answer["error"]
    status, answer, _ = spoken("history", "toy-policy")  # as a run tells it
    assert (status, "; of toy-policy say NAME 'toy'; registered" in answer["error"]) == (1, True)


def test_history_names_a_flipped_byte_and_mends_an_alias(registry):
    spoken("promote", "toy", "--version", "1")
    MlflowClient(store.connect()).set_registered_model_alias("toy-policy", "champion", "2")
    status, answer, _ = spoken("history", "toy", "--verify")
    assert (status, len(answer["wrong"])) == (1, 1)
    status, answer, told = spoken("history", "toy", "--verify", "--repair")
    assert (status, answer["mended"]) == (0, ["toy-policy@champion: 2 -> 1"])
    assert "mended: toy-policy@champion: 2 -> 1" in told
    with sqlite3.connect(registry / "mlflow.db") as connection:
        connection.execute("UPDATE params SET value = replace(value, 'better', 'butter') WHERE key = 'entry.000003'")
    connection.close()
    for arguments in (["--verify"], ["--repair"], []):
        status, answer, _ = spoken("history", "toy", *arguments)
        assert (status, "entry 3 of the ledger of toy is altered" in answer["error"]) == (1, True)


def test_an_unknown_alias_is_answered_with_the_list(registry):
    status, answer, _ = spoken("promote", "toy", "--to", "Champion")
    assert status == 2
    assert all(part in answer["error"] for part in ("shadow", "canary", "champion", "Champion"))


def test_copy_names_what_it_made(registry):
    status, answer, told = spoken("copy", "toy", "--version", "1", "--to", str(registry), "--as-name", "plant")
    assert (status, answer["policy"], answer["simulator"]) == (0, "plant-policy/1", "plant-simulator/1")
    assert "plant-policy/1, rehearsed in plant-simulator/1, is in sqlite:" in told


def test_version_and_run_lead_to_each_other(registry):
    promotion.judge("toy", "3", DECISION._replace(reasons=("it is better by 3",)))
    client = MlflowClient(store.connect())
    version = client.get_model_version("toy-policy", "3")
    run = client.get_run(version.run_id)
    assert f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}" in version.description
    assert "- it is better by 3" in version.description
    assert "registry_toys.Line" in version.description
    note = run.data.tags["mlflow.note.content"]
    assert "[toy-policy/3](#/models/toy-policy/versions/3)" in note
    assert "[toy-simulator/2](#/models/toy-simulator/versions/2)" in note


def test_a_model_card_says_what_is_known_and_no_more():
    facts = modelcard.Facts(
        "boiler",
        "7",
        Decision("harmful", "3", "a" * 64, ("it loses",), "runs:/r/evidence.json"),
        {
            "mbrl.data_id": "acme/boiler-v0",
            "mbrl.data_fingerprint": "f" * 64,
            "mbrl.simulator": "boiler-simulator/2",
            "mbrl.learner": "policies.SAC",
        },
        {"mbrl.trusted_horizon": "12", "mbrl.coverage_90": "0.91", "mbrl.card_grade": "good"},
        {"seed": "5"},
        ("1", "abc"),
        {"evidence": "def"},
    )
    card = modelcard.model_card(facts)
    for part in (
        "# boiler-policy, version 7",
        "**harmful** by the rules 3.",
        f"- Evidence: `runs:/r/evidence.json`, SHA-256 `{'a' * 64}`",
        "[boiler-simulator/2](#/models/boiler-simulator/versions/2)",
        "- Made by: [the run](#/experiments/1/runs/abc), seed 5",
        "- Trusted horizon, in steps: 12",
        "- Coverage of the 90 % interval: 91.0%",
    ):
        assert part in card
    none = modelcard.model_card(facts._replace(simulator={**facts.simulator, "mbrl.coverage_90": "None"}))
    assert "interval: unknown" in none
    assert "Trusted horizon" not in modelcard.model_card(facts._replace(simulator={}))
    page = modelcard.run_page(facts)
    assert "- [evidence](#/experiments/1/runs/def): the evidence" in page
    assert "[audit]" not in page


@pytest.mark.parametrize("values", [{"outcome": "promote"}, {**DECISION.to_dict(), "more": 1}])
def test_a_decision_of_another_version_is_refused(values):
    assert Decision.from_dict(DECISION.to_dict()) == DECISION
    with pytest.raises(ValueError, match="the stored decision does not fit this version of mbrl"):
        Decision.from_dict(values)
