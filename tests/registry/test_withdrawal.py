"""Aliases that are taken away: a canary ends, a champion stops to act."""

import pytest
from mlflow import MlflowClient
from promotion_toys import entries, standing

from mbrl.registry import chronicle, promotion, proof, store
from mbrl.registry.promotion import RefusedError


@pytest.mark.usefixtures("trusting")
def test_a_champion_that_is_withdrawn_stops_to_act_and_is_never_gone_back_to(registry):
    for version in ("1", "2", "3"):
        promotion.promote("toy", version)
    moved = promotion.withdraw("toy", "champion")
    assert (moved.before, moved.after) == ("3", None)
    assert standing() == {"toy-policy@candidate": "4", "toy-policy@previous": "2"}
    assert [(m.model, m.before, m.after) for m in entries()[-2].moves] == [
        ("toy-policy", "3", None),
        ("toy-simulator", "2", None),
    ]
    assert promotion.promote("toy", "4").before is None
    assert chronicle.reign(entries(), "toy-policy") == ["1", "2", "4"]
    assert promotion.rollback("toy").after == "2"
    assert standing()["toy-policy@previous"] == "1"
    assert proof.verify("toy") == []


@pytest.mark.usefixtures("trusting")
def test_where_the_champion_was_withdrawn_rollback_puts_the_one_before_in_its_place(registry):
    promotion.promote("toy", "1")
    promotion.promote("toy", "3")
    promotion.withdraw("toy", "champion")
    moved = promotion.rollback("toy")
    assert (moved.before, moved.after) == (None, "1")
    assert "toy-policy@previous" not in standing()
    promotion.withdraw("toy", "champion")
    promotion.promote("toy", "2")
    promotion.promote("toy", "3")
    promotion.withdraw("toy", "champion")
    MlflowClient(store.connect()).delete_model_version("toy-policy", "2")
    proof.repair("toy")  # MLflow took `previous` away with it
    with pytest.raises(RefusedError, match="toy-policy/2 is deleted; there is no earlier champion that holds"):
        promotion.rollback("toy")


@pytest.mark.usefixtures("trusting")
def test_without_any_champion_there_is_nothing_to_go_back_to(registry):
    promotion.promote("toy", "1")
    promotion.withdraw("toy", "champion")
    with pytest.raises(ValueError, match="has no champion to go back from, and no earlier one to go back to"):
        promotion.rollback("toy")


@pytest.mark.usefixtures("trusting")
def test_what_watches_or_waits_is_withdrawn_and_can_then_be_deleted(registry):
    promotion.promote("toy", "1", "shadow")
    promotion.promote("toy", "4", "canary")
    for alias, version in (("shadow", "1"), ("canary", "4"), ("candidate", "4")):
        with pytest.raises(RefusedError, match=f"{alias} .*point to version {version}: move or withdraw them first"):
            promotion.delete("toy", version)
        assert promotion.withdraw("toy", alias).before == version
    assert standing() == {}
    for version in ("1", "2", "3", "4"):
        promotion.delete("toy", version)
    with pytest.raises(ValueError, match="no version of toy-policy is called shadow: there is nothing to withdraw"):
        promotion.withdraw("toy", "shadow")
    with pytest.raises(ValueError, match="alias is 'best': expected one of candidate, shadow, canary, champion, prev"):
        promotion.withdraw("toy", "best")
