import getpass
import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from promotion_toys import entries, standing
from registry_toys import DECISION, LINEAGE, crown

from mbrl.registry import aliases, chronicle, promotion, proof, scrutiny, store
from mbrl.registry.decisions import NOBODY, Decision
from mbrl.registry.promotion import RefusedError
from mbrl.registry.runs import RunLog

HARMFUL = Decision("harmful", "2", "d" * 64, ("it loses 3 on the log",))


def test_a_promotion_moves_champion_previous_and_the_simulator_and_says_so(registry):
    before = len(entries())
    first = promotion.promote("toy", "1")
    assert standing() == {
        "toy-policy@candidate": "4",
        "toy-policy@champion": "1",
        "toy-simulator@champion": "1",
    }
    second = promotion.promote("toy", "3", approver="carl")
    assert standing() == {
        "toy-policy@candidate": "4",
        "toy-policy@champion": "3",
        "toy-policy@previous": "1",
        "toy-simulator@champion": "2",
    }
    assert (first.before, first.after, second.before, second.after) == (None, "1", "1", "3")
    told = entries()[before:]
    assert [(e.phase, e.action) for e in told] == [("intended", "promote"), ("done", "promote")] * 2
    assert (told[-1].number, told[-1].hash) == (second.entry, second.head)
    about = told[2].about
    assert about["who"] == getpass.getuser()
    assert about["approver"] == "carl"
    assert (about["data_id"], about["data_fingerprint"]) == (LINEAGE.data_id, LINEAGE.data_fingerprint)
    assert about["simulator"] == "toy-simulator/2"
    assert about["seeds"] == {"seed": "7"}
    assert about["decision"]["evidence_hash"] == "e" * 64
    assert about["decision"]["rules_version"] == "1"
    assert {"torch", "mlflow", "numpy"} <= set(about["versions"])
    assert "Python" in about["machine"]
    assert set(about["code"]) >= {"version"}
    assert [m.alias for m in told[2].moves] == ["previous", "champion", "champion"]
    assert proof.verify("toy") == []


def test_the_candidate_is_the_version_that_is_promoted_unless_another_is_named(registry):
    assert promotion.promote("toy").after == "4"
    assert promotion.promote("toy", "toy-policy/2").after == "2"
    assert promotion.promote("toy", "models:/toy-policy/2").entry is None  # it is there already


def test_a_number_with_zeros_before_it_is_the_number(registry):
    assert promotion.promote("toy", "03").after == "3"
    with pytest.raises(RefusedError, match="champion"):
        promotion.delete("toy", "03")
    assert standing()["toy-policy@champion"] == "3"
    assert proof.verify("toy") == []


def test_the_champion_that_a_verdict_compares_with_is_kept(registry):
    assert promotion.compared("toy", "1") is None
    promotion.judge("toy", "2", DECISION._replace(champion="1"))
    promotion.judge("toy", "3", DECISION._replace(champion=NOBODY))
    assert (promotion.compared("toy", "2"), promotion.compared("toy", "3")) == ("1", None)


@pytest.mark.usefixtures("trusting")
def test_shadow_and_canary_move_alone(registry):
    promotion.promote("toy", "1", "shadow")
    promotion.promote("toy", "2", "canary")
    assert standing() == {"toy-policy@candidate": "4", "toy-policy@shadow": "1", "toy-policy@canary": "2"}


def test_a_version_acts_only_with_a_verdict_that_says_promote(registry):
    promotion.judge("toy", "2", HARMFUL)
    for to in ("champion", "canary"):
        with pytest.raises(RefusedError, match=r"the verdict on toy-policy/2 is 'harmful': it loses 3 on the log"):
            promotion.promote("toy", "2", to)
    assert "toy-policy@champion" not in standing()
    refused = entries()[-1]
    assert (refused.phase, refused.action, refused.about["to"]) == ("refused", "promote", "canary")
    assert refused.about["reasons"] == ["the verdict on toy-policy/2 is 'harmful': it loses 3 on the log"]
    assert promotion.promote("toy", "2", "shadow").after == "2"  # who only watches harms nobody


def test_a_version_without_a_verdict_does_not_act(registry):
    client = MlflowClient(store.connect())
    made = client.get_model_version("toy-policy", "1")
    client.create_model_version("toy-policy", made.source, made.run_id, tags=made.tags)
    with pytest.raises(RefusedError, match="toy-policy/5 has no verdict in the ledger of toy"):
        promotion.promote("toy", "5")


def test_a_verdict_that_was_changed_in_the_tags_is_found(registry):
    promotion.judge("toy", "2", HARMFUL)
    MlflowClient(store.connect()).set_model_version_tag("toy-policy", "2", "mbrl.decision", DECISION.to_json())
    with pytest.raises(RefusedError, match=r"tag mbrl.decision of toy-policy/2 is not the verdict in entry \d+"):
        promotion.promote("toy", "2")
    assert any("tag mbrl.decision of toy-policy/2" in line for line in proof.verify("toy"))


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize(
    ("approver", "message"),
    [
        (None, "the rules want an approver beside the author ann: --approver WHO"),
        ("ann", "the approver ann is the author, and the rules want another one"),
    ],
)
def test_an_approver_is_not_the_author_where_the_rules_say_so(registry, approver, message):
    promotion.judge("toy", "1", DECISION._replace(second_person=True), author="ann")
    with pytest.raises(RefusedError, match=message):
        promotion.promote("toy", "1", approver=approver)
    assert promotion.promote("toy", "1", approver="bob").after == "1"


@pytest.mark.usefixtures("trusting")
def test_a_move_from_elsewhere_than_expected_is_refused(registry):
    promotion.promote("toy", "1")
    with pytest.raises(RefusedError, match=r"toy-policy@champion is at 1, expected 3: it was moved meanwhile"):
        promotion.promote("toy", "2", expected="3")
    assert promotion.promote("toy", "2", expected="1").after == "2"


def test_a_verdict_that_comes_while_files_are_verified_counts(registry, monkeypatch):
    verdicts = iter((HARMFUL, HARMFUL))

    def slowly(registry, version, *args, **kwargs):
        if verdict := next(verdicts, None):
            promotion.judge("toy", version, verdict)  # another process, as verifying takes its time
        return []

    promotion.promote("toy", "1")
    promotion.promote("toy", "3")
    monkeypatch.setattr(scrutiny, "objections", slowly)
    with pytest.raises(RefusedError, match=r"version 2 was judged anew meanwhile, in entry \d+: try again"):
        promotion.promote("toy", "2")
    with pytest.raises(RefusedError, match=r"version 1 was judged anew meanwhile"):
        promotion.rollback("toy")
    assert standing()["toy-policy@champion"] == "3"


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("best", "to is 'best': expected one of shadow, canary, champion"),
        ("Champion", "to is 'Champion', which differs from 'champion' in case only: expected one of"),
        ("previous", "to is 'previous': expected one of shadow, canary, champion"),
    ],
)
def test_an_unknown_alias_is_answered_with_the_list(registry, to, message):
    with pytest.raises(ValueError, match=message):
        promotion.promote("toy", "1", to)


def test_aliases_that_differ_in_case_only_are_refused(registry):
    MlflowClient(store.connect()).set_registered_model_alias("toy-policy", "Champion", "1")
    for work in (lambda: promotion.promote("toy", "1"), lambda: promotion.rollback("toy")):
        with pytest.raises(ValueError, match="has an alias 'Champion', which differs from 'champion' in case only"):
            work()
    assert "has an alias 'Champion'" in proof.verify("toy")[0]


def test_a_version_of_another_model_is_refused(registry):
    with pytest.raises(ValueError, match="toy-policy takes versions of its own only: `mbrl copy` first"):
        promotion.promote("toy", "other-policy/1")
    with pytest.raises(ValueError, match="version is 'newest', expected a number such as 3"):
        promotion.promote("toy", "newest")
    with pytest.raises(store.StoreError, match=r"versions of toy-policy: \[1, 2, 3, 4\]"):
        promotion.promote("toy", "9")
    with pytest.raises(store.StoreError, match="registered models: toy-policy, toy-simulator"):
        promotion.promote("nobody", "1")


def test_a_reference_to_another_model_is_refused(registry):
    client = MlflowClient(store.connect())
    client.create_registered_model("other-policy")
    client.copy_model_version("models:/toy-policy/1", "other-policy")
    promotion.judge("other", "1", DECISION)
    with pytest.raises(RefusedError, match="other-policy/1 holds the files of toy-policy: use `mbrl copy`"):
        promotion.promote("other", "1")


def test_an_alias_that_was_moved_past_the_ledger_bars_everything_until_it_is_put_back(registry):
    crown("toy", "1")
    MlflowClient(store.connect()).set_registered_model_alias("toy-policy", "champion", "2")
    with pytest.raises(RefusedError, match=r"toy-policy@champion is at 2, and the ledger put it at 1: moved past the"):
        promotion.promote("toy", "3")
    assert "toy-policy@champion is at 2, and the ledger put it at 1" in proof.verify("toy")
    assert proof.repair("toy") == ["toy-policy@champion: 2 -> 1"]
    assert proof.verify("toy") == []
    assert promotion.champion("toy") == "1"
    assert proof.repair("toy") == []


@pytest.mark.usefixtures("trusting")
def test_an_alias_of_a_version_that_was_deleted_past_the_ledger_is_taken_away(registry):
    promotion.promote("toy", "1")
    promotion.promote("toy", "2")
    MlflowClient(store.connect()).delete_model_version("toy-policy", "2")  # MLflow drops its aliases without a word
    assert proof.repair("toy") == ["toy-policy@champion: no version -> no version"]
    assert proof.verify("toy") == []
    assert promotion.champion("toy") is None
    assert promotion.promote("toy", "3").after == "3"


@pytest.mark.usefixtures("trusting")
def test_rollback_goes_back_one_champion_at_a_time_and_never_forward(registry):
    for version in ("1", "2", "3"):
        promotion.promote("toy", version)
    moved = promotion.rollback("toy")
    assert (moved.before, moved.after) == ("3", "2")
    assert standing()["toy-policy@previous"] == "1"
    assert standing()["toy-simulator@champion"] == "1"
    assert promotion.rollback("toy").after == "1"
    assert "toy-policy@previous" not in standing()
    with pytest.raises(RefusedError, match="there is no earlier champion that holds"):
        promotion.rollback("toy")
    assert promotion.champion("toy") == "1"
    assert chronicle.reign(entries(), "toy-policy") == ["1"]


def test_rollback_passes_over_what_does_not_hold(registry):
    for version in ("1", "2", "3", "4"):
        promotion.promote("toy", version)
    promotion.judge("toy", "3", HARMFUL)
    MlflowClient(store.connect()).set_registered_model_alias("toy-policy", "previous", "1")
    proof.repair("toy")
    MlflowClient(store.connect()).delete_model_version("toy-policy", "2")
    moved = promotion.rollback("toy")
    assert moved.after == "1"
    assert entries()[-2].about["reasons"] == [
        "the verdict on toy-policy/3 is 'harmful': it loses 3 on the log",
        "toy-policy/2 is deleted",
    ]


def test_there_is_nothing_to_go_back_from_without_a_champion(registry):
    with pytest.raises(ValueError, match="toy-policy has no champion to go back from"):
        promotion.rollback("toy")


@pytest.mark.usefixtures("trusting")
def test_a_version_that_an_alias_points_to_is_not_deleted(registry):
    promotion.promote("toy", "1")
    promotion.promote("toy", "4")
    for version, held in (("1", "previous"), ("4", "candidate and champion")):
        with pytest.raises(
            RefusedError, match=f"{held} of toy-policy point to version {version}: move or withdraw them first"
        ):
            promotion.delete("toy", version)
    moved = promotion.delete("toy", "2")
    assert (moved.before, moved.after) == ("2", None)
    with pytest.raises(store.StoreError, match=r"versions of toy-policy: \[1, 3, 4\]"):
        promotion.delete("toy", "2")
    assert [(e.phase, e.action) for e in entries()[-2:]] == [("intended", "delete"), ("done", "delete")]
    assert proof.verify("toy") == []


def test_the_same_verdict_once_more_changes_nothing(registry):
    before = entries()
    assert promotion.judge("toy", "2", DECISION).entry is None
    assert entries() == before


def test_so_does_one_whose_reasons_the_ledger_has_shortened(registry):
    long = HARMFUL._replace(reasons=tuple(f"reason {k}: {'x' * 400}" for k in range(20)))
    entry = promotion.judge("toy", "1", long).entry
    assert promotion.judge("toy", "1", long).entry is None
    assert len(entries()) == entry
    assert entries()[-2].about["reasons"][-1] == "…"
    assert promotion.judge("toy", "1", long._replace(evidence_hash="f" * 64)).entry == entry + 2


def test_evidence_that_was_altered_is_named(registry):
    with RunLog.open("mbrl", "r") as log:
        digest = log.dict({"value": 1.0}, "evidence.json")
        uri = f"runs:/{log.run_id}/evidence.json"
        promotion.judge("toy", "2", DECISION._replace(evidence=uri, evidence_hash=digest))
        assert proof.verify("toy") == []
        log.dict({"value": 2.0}, "evidence.json")
        (line,) = proof.verify("toy")
        assert f"the evidence of toy-policy/2, {uri}, is altered: SHA-256 is " in line


def test_nothing_but_one_file_sets_aliases():
    setting = [
        p.name for p in Path(aliases.__file__).parents[1].rglob("*.py") if "registered_model_alias(" in p.read_text()
    ]
    assert setting == ["aliases.py"]


def test_who_was_compared_with_another_champion_does_not_take_the_place_of_this_one(registry):
    for version, champion in (("1", NOBODY), ("2", NOBODY), ("3", "1"), ("4", "9")):
        promotion.judge("toy", version, DECISION._replace(champion=champion))
    promotion.promote("toy", "1")
    with pytest.raises(RefusedError, match=r"compares it with nobody, as there was no champion, and version 1 reigns"):
        promotion.promote("toy", "2")
    promotion.promote("toy", "2", "canary")  # which replaces nobody
    promotion.promote("toy", "3")
    with pytest.raises(RefusedError, match=r"compares it with version 9, and version 3 reigns now: .*mbrl withdraw"):
        promotion.promote("toy", "4")
    promotion.rollback("toy")
    promotion.withdraw("toy", "champion")
    assert promotion.promote("toy", "4").after == "4"


def test_verdicts_of_before_champions_were_kept_still_hold(registry):
    kept = DECISION.to_dict()
    assert set(kept) == {"outcome", "rules_version", "evidence_hash", "reasons", "evidence", "second_person"}
    assert Decision.from_dict(json.loads(DECISION.to_json())) == DECISION
    promotion.promote("toy", "1")
    assert promotion.promote("toy", "2").after == "2"


def test_a_model_that_is_not_there_or_that_a_server_hides_has_no_aliases(registry, monkeypatch):
    assert promotion.Registry("nobody").aliases() == {}
    assert promotion.Registry("toy").exists("toy-policy", "9") is False

    def denied(*_):
        raise MlflowException("Permission denied", error_code=PERMISSION_DENIED)

    monkeypatch.setattr(MlflowClient, "get_registered_model", denied)
    assert promotion.Registry("toy").aliases() == {}
