"""Promotion under competition, SIGKILL and lost stores: after each, alias and ledger agree or --repair makes them."""

import shutil
import signal
from collections import Counter

import pytest
from forks import forks
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from promotion_toys import at_write, compete, killed
from registry_toys import DECISION

from mbrl.registry import chronicle, promotion, proof, scrutiny, store
from mbrl.registry.ledger import Ledger

PROCESSES, ROUNDS = 10, 2


class CrashError(BaseException):
    """What no handler catches: the process ends here."""


def crash():
    raise CrashError


def agree():
    """Whether nothing is half-done and every alias stands where the ledger put it."""
    entries = Ledger.open("toy").entries()
    at = promotion.Registry("toy").aliases()
    return chronicle.pending(entries) is None and not chronicle.differences(entries, at)


@pytest.mark.usefixtures("trusting")
def test_ten_processes_at_once_one_wins_each_round_and_the_chain_verifies(registry):
    promotion.promote("toy", "4")
    barrier, answers = forks().Barrier(PROCESSES), forks().SimpleQueue()
    begun = [
        forks().Process(target=compete, args=(str(registry), number, barrier, ROUNDS, answers))
        for number in range(PROCESSES)
    ]
    before = len(Ledger.open("toy").entries())
    for process in begun:
        process.start()
    for process in begun:
        process.join()
    assert [process.exitcode for process in begun] == [0] * PROCESSES
    told = [answers.get() for _ in range(PROCESSES * ROUNDS)]
    won = sorted((turn, was, now) for turn, _, was, now in told if now is not None)
    assert [turn for turn, _, _ in won] == list(range(ROUNDS))
    assert [was for _, was, _ in won] == ["4", *(now for _, _, now in won[:-1])]
    assert all("it was moved meanwhile" in why for _, _, why, now in told if now is None)
    entries = Ledger.open("toy").entries()[before:]
    assert Counter(e.phase for e in entries) == {
        "intended": ROUNDS,
        "done": ROUNDS,
        "refused": ROUNDS * (PROCESSES - 1),
    }
    assert promotion.champion("toy") == won[-1][2]
    assert agree()


WORKS = {
    "promote": lambda: promotion.promote("toy", "3"),
    "rollback": lambda: promotion.rollback("toy"),
    "judge": lambda: promotion.judge("toy", "2", DECISION._replace(rules_version="2")),
    "delete": lambda: promotion.delete("toy", "2"),
    "withdraw": lambda: promotion.withdraw("toy", "champion"),
}


@pytest.fixture(scope="module")
def prepared(filled, tmp_path_factory):
    """A database with 1 and then 4 as champions."""
    home = tmp_path_factory.mktemp("prepared")
    shutil.copy(filled / "mlflow.db", home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MBRL_HOME", str(home))
        patch.setattr(scrutiny, "objections", lambda *args, **kwargs: [])
        for version in ("1", "4"):
            promotion.promote("toy", version)
    return home / "mlflow.db"


@pytest.fixture
def two_champions(prepared, registry):
    store._prepare(registry / "mlflow.db")
    return lambda: restore(prepared, registry / "mlflow.db")


def restore(prepared, database):
    """The database as it was; in its own file, because MLflow keeps a connection to it."""
    import sqlite3

    with sqlite3.connect(prepared) as source, sqlite3.connect(database) as target:
        source.backup(target)
    source.close()
    target.close()


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("command", WORKS)
def test_a_crash_at_every_write_is_mended(two_champions, command):
    two_champions()
    with at_write(crash, 0) as writes:
        WORKS[command]()
    expected = promotion.Registry("toy").aliases()
    assert len(writes) >= 3
    for when in range(1, len(writes) + 1):
        for after in (False, True):
            two_champions()
            before = promotion.Registry("toy").aliases()
            with at_write(crash, when, after), pytest.raises(CrashError):
                WORKS[command]()
            begun = chronicle.pending(Ledger.open("toy").entries()) is not None
            told = proof.repair("toy")
            assert len(told) == begun, (when, after, told)
            assert all(line.startswith("finished: ") for line in told)
            assert agree()
            assert promotion.Registry("toy").aliases() in (before, expected)
            assert proof.repair("toy") == []


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("command", WORKS)
def test_the_same_command_once_more_finishes_what_was_half_done(two_champions, command):
    two_champions()
    with at_write(crash, 0) as writes:
        WORKS[command]()
    expected = promotion.Registry("toy").aliases()
    two_champions()
    last = len(writes) - writes[::-1].index("log_param")  # of the ledger; pages come after it
    with at_write(crash, last), pytest.raises(CrashError):  # all is done, and the ledger does not know
        WORKS[command]()
    other = promotion.judge if command != "judge" else promotion.rollback
    with pytest.raises(promotion.RefusedError, match=r"another move is half-done, .* \(mbrl history toy --repair\)"):
        other(*(("toy", "1", DECISION._replace(rules_version="3")) if command != "judge" else ("toy",)))
    WORKS[command]()
    assert agree()
    assert promotion.Registry("toy").aliases() == expected


@pytest.mark.usefixtures("trusting")
def test_what_cannot_go_forward_goes_back(two_champions):
    two_champions()
    before = promotion.Registry("toy").aliases()
    with at_write(crash, 3), pytest.raises(CrashError):  # `previous` has moved, `champion` has not
        promotion.promote("toy", "3")
    MlflowClient(store.connect()).delete_model_version("toy-policy", "3")
    (told,) = proof.repair("toy")
    assert told.startswith("taken back, as toy-policy/3 is deleted: ")
    assert promotion.Registry("toy").aliases() == before
    assert agree()


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("when", [1, 2, 3, 4])
def test_a_store_that_goes_away_in_the_middle_leaves_what_can_be_resumed(two_champions, when):
    def gone():
        raise MlflowException("Connection refused")

    two_champions()
    with at_write(gone, when), pytest.raises(store.StoreError, match="Connection refused"):
        promotion.promote("toy", "3")
    assert promotion.promote("toy", "3").after == "3"
    assert agree()


@pytest.mark.parametrize(("command", "when", "after"), [("promote", 2, True), ("rollback", 3, False)])
def test_a_killed_process_leaves_what_can_be_mended(two_champions, registry, command, when, after):
    two_champions()
    process = forks().Process(target=killed, args=(str(registry), when, after, command))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not agree()
    (told,) = proof.repair("toy")
    assert told.startswith("finished: ")
    assert promotion.champion("toy") == {"promote": "3", "rollback": "1"}[command]
    assert proof.verify("toy") == []


def test_two_homes_that_claim_one_database_are_refused_with_both_names(registry, tmp_path, monkeypatch):
    promotion.promote("toy", "1", "shadow")
    monkeypatch.setenv("MBRL_HOME", str(tmp_path / "second"))
    (tmp_path / "second").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registry}/mlflow.db")
    message = rf"mlflow\.db belongs to MBRL_HOME {registry}, and MBRL_HOME is {tmp_path}/second: set MBRL_HOME="
    with pytest.raises(store.StoreError, match=message):
        promotion.promote("toy", "2", "shadow")
    with pytest.raises(store.StoreError, match=message):
        store.get_or_create("mbrl")
    assert promotion.champion("toy") is None  # to read is no claim
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / "second" / "mlflow.db").symlink_to(registry / "mlflow.db")
    with pytest.raises(store.StoreError, match="belongs to MBRL_HOME"):
        store.get_or_create("mbrl")
    shutil.move(registry, tmp_path / "third")
    monkeypatch.setenv("MBRL_HOME", str(tmp_path / "third"))
    assert promotion.promote("toy", "2", "shadow").after == "2"
    shutil.copytree(tmp_path / "third", tmp_path / "fourth")
    monkeypatch.setenv("MBRL_HOME", str(tmp_path / "fourth"))
    assert promotion.promote("toy", "1", "shadow").after == "1"
