import datetime
import hashlib
import json
import sqlite3

import pytest
from mlflow import MlflowClient

from mbrl.registry import ledger as book
from mbrl.registry import store
from mbrl.registry.ledger import GENESIS, Ledger, LedgerError, Move, OvertakenError

MOVE = Move("toy-policy", "champion", None, "1")


def written(count=3):
    ledger = Ledger.open("toy")
    for number in range(count):
        ledger.append(ledger.entries(), "intended", "promote", {"version": str(number)}, [MOVE])
    return ledger


def altered(home, number, change):
    """Change the text of an entry in the database, past MLflow."""
    with sqlite3.connect(home / "mlflow.db") as connection:
        ((key, text),) = connection.execute(
            "SELECT key, value FROM params WHERE key = ?", (f"entry.{number:06d}",)
        ).fetchall()
        connection.execute("UPDATE params SET value = ? WHERE key = ?", (change(text), key))
    connection.close()


def test_entries_come_back_in_a_chain_of_hashes(home):
    ledger = written()
    entries = Ledger.open("toy").entries()
    assert [e.number for e in entries] == [1, 2, 3]
    assert [e.previous for e in entries] == [GENESIS, entries[0].hash, entries[1].hash]
    assert entries[1].moves == (MOVE,)
    assert entries[1].about == {"version": "1"}
    kept = MlflowClient(store.connect()).get_run(ledger._run_id).data.params["entry.000002"]
    digest, body = kept.split(" ", 1)
    assert digest == entries[1].hash == hashlib.sha256(body.encode()).hexdigest()
    assert json.loads(body)["previous"] == entries[0].hash
    assert entries[1].to_dict()["moves"] == [{"model": "toy-policy", "alias": "champion", "before": None, "after": "1"}]


def test_a_ledger_that_was_never_begun_is_empty_and_reading_begins_none(home):
    assert Ledger.open("toy").entries() == ()
    assert MlflowClient(store.connect()).get_experiment_by_name("mbrl-ledger-toy") is None


def test_one_writer_only_gets_a_number(home):
    ledger, other = written(1), Ledger.open("toy")
    seen = ledger.entries()
    other.append(seen, "refused", "promote", {"who": "bob"})
    with pytest.raises(OvertakenError, match="entry 2 of the ledger of toy is another one's"):
        ledger.append(seen, "refused", "promote", {"who": "ann"})
    assert [e.about.get("who") for e in Ledger.open("toy").entries()] == [None, "bob"]


def test_two_that_begin_a_ledger_at_once_share_it(home, monkeypatch):
    real, raced = MlflowClient.rename_experiment, []

    def slow(client, experiment, name):
        if not raced:
            raced.append(name)
            Ledger.open("toy").append((), "refused", "promote", {"who": "bob"})
        real(client, experiment, name)

    monkeypatch.setattr(MlflowClient, "rename_experiment", slow)
    with pytest.raises(OvertakenError):
        Ledger.open("toy").append((), "refused", "promote", {"who": "ann"})
    assert [e.about["who"] for e in Ledger.open("toy").entries()] == ["bob"]
    names = [e.name for e in MlflowClient(store.connect()).search_experiments()]
    assert sorted(names) == ["Default", "mbrl-ledger-toy"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_changed_byte_is_found_and_the_entry_named(home, number):
    written()
    for position in (0, 63, 64, 70, -1):

        def flip(text, position=position):
            raw = bytearray(text.encode())
            raw[position] ^= 1
            return raw.decode()

        altered(home, number, flip)
        with pytest.raises(LedgerError, match=rf"entry {number} of the ledger of toy is altered: SHA-256 of its text"):
            Ledger.open("toy").entries()
        altered(home, number, flip)
    assert len(Ledger.open("toy").entries()) == 3


def test_an_entry_that_was_forged_with_its_hash_breaks_the_chain(home):
    written()

    def forge(text):
        body = text.partition(" ")[2].replace('"version":"1"', '"version":"9"')
        return f"{hashlib.sha256(body.encode()).hexdigest()} {body}"

    altered(home, 2, forge)
    with pytest.raises(
        LedgerError, match=r"entry 3 of the ledger of toy follows \w{12}, and the entry before is \w{12}"
    ):
        Ledger.open("toy").entries()


def test_an_entry_that_was_taken_out_or_put_elsewhere_is_named(home):
    written()
    with sqlite3.connect(home / "mlflow.db") as connection:
        connection.execute("DELETE FROM params WHERE key = 'entry.000002'")
    with pytest.raises(LedgerError, match="entry 2 of the ledger of toy is missing, and later ones are there"):
        Ledger.open("toy").entries()
    with sqlite3.connect(home / "mlflow.db") as connection:
        connection.execute("UPDATE params SET key = 'entry.000002' WHERE key = 'entry.000003'")
    connection.close()
    with pytest.raises(LedgerError, match="entry 2 of the ledger of toy says that it is entry 3"):
        Ledger.open("toy").entries()


def test_a_ledger_that_was_deleted_is_not_begun_anew(home):
    ledger = written(1)
    client = MlflowClient(store.connect())
    client.delete_run(ledger._run_id)
    with pytest.raises(LedgerError, match=rf"deleted: `mlflow runs restore --run-id {ledger._run_id}`"):
        Ledger.open("toy")
    client.delete_experiment(client.get_experiment_by_name("mbrl-ledger-toy").experiment_id)
    with pytest.raises(LedgerError, match=r"deleted: `mlflow experiments restore` mbrl-ledger-toy"):
        Ledger.open("toy")


def test_a_clock_that_runs_backwards_is_recorded_and_breaks_nothing(home, monkeypatch):
    written(1)
    late = Ledger.open("toy").entries()[0].time
    monkeypatch.setattr(book, "now", lambda: datetime.datetime.fromisoformat(late) - datetime.timedelta(hours=1))
    ledger = written(1)
    first, second = ledger.entries()
    assert second.about["clock"] == "3600.000 s behind entry 1"
    assert second.time < first.time
    assert second.previous == first.hash


def test_reasons_are_shortened_to_what_mlflow_keeps_and_nothing_else_is(home):
    ledger = Ledger.open("toy")
    reasons = ["x" * 400] * 30
    entry = ledger.append((), "refused", "promote", {"who": "ann", "reasons": reasons})
    assert ledger.entries() == (entry,)
    assert entry.about["reasons"][0] == reasons[0]
    assert entry.about["reasons"][-1] == "…"
    with pytest.raises(ValueError, match=r"has .* characters, expected at most 5935"):
        ledger.append((entry,), "refused", "promote", {"who": "x" * 6000})


def test_names_have_ledgers_of_their_own(home):
    written(2)
    assert Ledger.open("other").entries() == ()
    with pytest.raises(ValueError, match="expected 1 to 100 letters"):
        Ledger.open("a/b")
