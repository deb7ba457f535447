"""What another process does between a look at the registry and the lock."""

import pytest
from mlflow import MlflowClient
from promotion_toys import standing
from registry_toys import DECISION, crown

from mbrl.registry import models, promotion, proof, store
from mbrl.registry.decisions import Decision
from mbrl.registry.promotion import RefusedError
from mbrl.registry.twophase import carry_out

HARMFUL = Decision("harmful", "2", "d" * 64, ("it loses 3 on the log",))

pytestmark = pytest.mark.usefixtures("trusting")


def meanwhile(monkeypatch, act):
    """Have `act` happen right before the next move asks for the lock."""
    waiting = [act]

    def carried(*request):
        for one in [waiting.pop()] if waiting else []:
            one()
        return carry_out(*request)

    monkeypatch.setattr(promotion, "carry_out", carried)


def test_a_version_that_becomes_the_champion_meanwhile_is_not_deleted(registry, monkeypatch):
    meanwhile(monkeypatch, lambda: promotion.promote("toy", "2"))
    with pytest.raises(RefusedError, match="champion of toy-policy point to version 2: move or withdraw them first"):
        promotion.delete("toy", "2")
    assert standing()["toy-policy@champion"] == "2"
    assert proof.verify("toy") == []


@pytest.mark.parametrize("command", ["promote", "judge"])
def test_a_version_that_is_deleted_meanwhile_leaves_no_half_done_move(registry, monkeypatch, command):
    promotion.promote("toy", "1")
    meanwhile(monkeypatch, lambda: promotion.delete("toy", "3"))
    with pytest.raises(RefusedError, match="there is no version 3 of toy-policy any more: it was deleted meanwhile"):
        promotion.promote("toy", "3") if command == "promote" else promotion.judge("toy", "3", HARMFUL)
    assert standing()["toy-policy@champion"] == "1"
    assert promotion.promote("toy", "2").before == "1"
    assert promotion.rollback("toy").after == "1"
    assert proof.verify("toy") == []


def test_a_verdict_that_is_refused_is_on_no_page(registry, monkeypatch):
    client = MlflowClient(store.connect())
    before = client.get_model_version("toy-policy", "3")
    monkeypatch.setattr(promotion, "carry_out", lambda *request: (_ for _ in ()).throw(RefusedError("half-done")))
    with pytest.raises(RefusedError, match="half-done"):
        promotion.judge("toy", "3", HARMFUL)
    after = client.get_model_version("toy-policy", "3")
    assert (after.description, after.tags) == (before.description, before.tags)


def test_a_page_that_was_not_written_comes_with_the_same_verdict_once_more(registry, monkeypatch):
    client = MlflowClient(store.connect())
    with monkeypatch.context() as patch:
        patch.setattr(promotion, "describe", lambda *about: (_ for _ in ()).throw(store.StoreError("no answer")))
        with pytest.raises(store.StoreError, match="no answer"):
            promotion.judge("toy", "3", HARMFUL)
    assert "harmful" not in client.get_model_version("toy-policy", "3").description
    assert promotion.judge("toy", "3", HARMFUL).entry is None
    assert "**harmful** by the rules 2." in client.get_model_version("toy-policy", "3").description


def test_a_page_is_no_longer_than_a_database_takes(registry):
    wordy = DECISION._replace(reasons=tuple(f"reason {k}: {'x' * 400}" for k in range(20)))
    promotion.judge("toy", "3", wordy)
    page = MlflowClient(store.connect()).get_model_version("toy-policy", "3").description
    assert (len(page), page[-1]) == (5000, "…")


def test_no_simulator_is_that_of_a_champion_which_was_rehearsed_in_none(registry):
    promotion.promote("toy", "1")
    client = MlflowClient(store.connect())
    made = client.get_model_version("toy-policy", "2")
    tags = {key: value for key, value in made.tags.items() if key != "mbrl.simulator"}
    client.create_model_version("toy-policy", made.source, made.run_id, tags=tags)
    crown("toy", "5")
    assert standing() == {
        "toy-policy@candidate": "5",
        "toy-policy@champion": "5",
        "toy-policy@previous": "1",
    }
    assert promotion.rollback("toy").after == "1"
    assert standing()["toy-simulator@champion"] == "1"
    assert proof.verify("toy") == []
    assert models.load_simulator("models:/toy-simulator@champion") is not None
