import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import filelock
import mlflow
import pytest
from forks import forked
from mlflow import MlflowClient
from registry_toys import environment

from mbrl.registry import store
from mbrl.registry.runs import RunLog

START = """
import sys
from mbrl.registry import store
from mbrl.registry.runs import RunLog
uri = store.connect()
print(uri, store.get_or_create("shared"))
assert not [m for m in sys.modules if m.split(".")[0] in ("lightning", "gymnasium", "minari")]
"""


def test_the_embedded_store_is_one_file_under_home(home):
    uri = store.connect()
    assert uri == f"sqlite:///{home}/mlflow.db"
    assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == uri
    experiment = MlflowClient().get_experiment(store.get_or_create("first"))
    assert experiment.name == "first"
    assert experiment.artifact_location == (home / "artifacts").as_uri()
    assert store.get_or_create("first") == experiment.experiment_id
    assert store.get_or_create("second") != experiment.experiment_id


def test_the_uri_that_the_user_has_set_wins_and_ours_does_not_pass_for_it(home, monkeypatch, template):
    store.connect()
    assert "MLFLOW_TRACKING_URI" not in os.environ
    theirs = f"sqlite:///{template}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", theirs)
    assert store.connect() == theirs
    assert mlflow.get_registry_uri() == theirs
    assert os.environ["MLFLOW_TRACKING_URI"] == theirs


@pytest.mark.parametrize("way", ["moved", "copied"])
def test_a_home_that_was_moved_or_copied_keeps_its_files_by_it(home, tmp_path, monkeypatch, way):
    with RunLog.open("mbrl", "first") as log:
        log.text("kept", "note.txt")
        log.tags({"mbrl.folder": str(home / "runs" / "first"), "elsewhere": f"{home}-2/runs"})
    before = MlflowClient(store.connect()).get_run(log.run_id)
    other = tmp_path / "other"
    (shutil.move if way == "moved" else shutil.copytree)(home, other)
    monkeypatch.setenv("MBRL_HOME", str(other))
    client = MlflowClient(store.connect())
    run = client.get_run(log.run_id)
    assert run.info.artifact_uri == before.info.artifact_uri.replace(home.as_uri(), other.as_uri())
    assert Path(client.download_artifacts(log.run_id, "note.txt", str(tmp_path))).read_text() == "kept"
    assert (run.data.tags["mbrl.folder"], run.data.tags["elsewhere"]) == (f"{other}/runs/first", f"{home}-2/runs")
    with RunLog.open("mbrl", "second") as later:
        later.text("new", "note.txt")
    assert len(list(other.rglob("note.txt"))) == 2
    assert len(list(home.rglob("note.txt"))) == (0 if way == "moved" else 1)
    if way == "copied":
        monkeypatch.setenv("MBRL_HOME", str(home))
        assert MlflowClient(store.connect()).get_run(log.run_id).info.artifact_uri == before.info.artifact_uri


@pytest.mark.parametrize("uri", ["file:///tmp/runs", "/tmp/runs", "gopher://host"])
def test_a_uri_of_no_store_is_refused_by_name(home, monkeypatch, uri):
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(store.StoreError, match=rf"{uri} is no store: .*Name the URI of a server \(http://HOST:PORT\)"):
        store.connect()
    assert mlflow.get_tracking_uri() == before


def test_the_embedded_store_is_known_by_another_path_to_it(home, tmp_path, monkeypatch):
    """As where the working folder is reached by a link, and the shell's PWD says so."""
    store.connect()
    (tmp_path / "link").symlink_to(home)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'link' / 'mlflow.db'}")
    store.connect()
    experiment = MlflowClient().get_experiment(store.get_or_create("linked"))
    assert experiment.artifact_location == (home / "artifacts").as_uri()


def test_another_home_is_another_store(home, template, monkeypatch):
    first = store.connect()
    monkeypatch.setenv("MBRL_HOME", str(template.parent))
    assert store.connect() == f"sqlite:///{template}" != first


def test_pickles_are_refused_and_mlflow_is_quiet(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    store.connect()
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert not logging.getLogger("mlflow.tracking.fluent").isEnabledFor(logging.INFO)
    assert not logging.getLogger("alembic.runtime.migration").isEnabledFor(logging.INFO)


def test_the_tables_of_a_file_are_checked_once_in_a_process(home, tmp_path, monkeypatch):
    asked = []
    search = MlflowClient.search_experiments
    monkeypatch.setattr(MlflowClient, "search_experiments", lambda *a, **k: asked.append(a) or search(*a, **k))
    store.connect()
    store.connect()
    assert len(asked) == 1
    monkeypatch.setenv("MBRL_HOME", str(tmp_path / "other"))
    shutil.copytree(home, tmp_path / "other")
    store.connect()
    assert len(asked) == 2


def begin():
    print(store.connect(), store.get_or_create("shared"), flush=True)


def test_processes_at_once_on_an_empty_home_share_one_store_and_leave_nothing_elsewhere(tmp_path, monkeypatch):
    """Three that are forked, and beside them one that begins from nothing and imports no more than it needs."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    variables = environment(MBRL_HOME=str(tmp_path / "a new" / "home"), OMP_NUM_THREADS="1")
    variables.pop("MLFLOW_TRACKING_URI", None)
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    fresh = subprocess.Popen([sys.executable, "-c", START], env=variables, **pipes)
    said = [tmp_path / f"said-{number}" for number in range(3)]
    others = [forked(begin, output=path, environ=variables) for path in said]
    expected = f"sqlite:///{tmp_path}/a new/home/mlflow.db 1\n"
    assert (fresh.communicate(), fresh.returncode) == ((expected, ""), 0)
    for process in others:
        process.join()
    assert [(path.read_text(), process.exitcode) for path, process in zip(said, others, strict=True)] == [
        (expected, 0)
    ] * 3
    assert list((tmp_path / "cwd").iterdir()) == []


def test_a_locked_file_is_named_after_a_bounded_wait(home, monkeypatch):
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)
    holder = sqlite3.connect(home / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(store.StoreError, match=r"home/mlflow\.db cannot be used .*0\.1 s: database is locked"):
        store.connect()
    holder.close()
    store.connect()


def test_a_lock_that_another_process_never_releases_is_named(home, monkeypatch):
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)
    with (
        filelock.FileLock(home / "mlflow.db.lock"),
        pytest.raises(store.StoreError, match=r"mlflow\.db\.lock has been held by another process for 0\.1 s"),
    ):
        store.connect()


def test_a_damaged_file_is_named(home):
    (home / "mlflow.db").write_bytes(b"not a database at all, but long enough to be read as one" * 40)
    with pytest.raises(store.StoreError, match=r"mlflow\.db cannot be used .* not a database; move it away"):
        store.connect()


def test_a_file_of_another_version_of_mlflow_is_named(home):
    with sqlite3.connect(home / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of the future'")
    connection.close()
    with pytest.raises(store.StoreError, match=r"mlflow\.db cannot be used by this version of MLflow"):
        store.connect()


def test_a_home_that_cannot_be_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("MBRL_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(store.StoreError, match="set MBRL_HOME to a folder"):
        store.connect()


@pytest.mark.parametrize("odd", ["what?", "#1", "50%20"])
def test_a_home_that_no_sqlite_uri_can_hold_is_refused(tmp_path, monkeypatch, odd):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MBRL_HOME", str(tmp_path / odd))
    with pytest.raises(store.StoreError, match=r"MBRL_HOME is .*cannot hold"):
        store.connect()
    assert not Path(tmp_path / odd).exists()


def test_a_deleted_experiment_is_named(home):
    MlflowClient(store.connect()).delete_experiment(store.get_or_create("gone"))
    with pytest.raises(store.StoreError, match=r"experiment 'gone' in sqlite:.* is deleted"):
        store.get_or_create("gone")


def test_an_experiment_that_appears_meanwhile_is_used(home, monkeypatch):
    there = store.get_or_create("raced")
    real, calls = MlflowClient.get_experiment_by_name, []

    def late(client, name):
        calls.append(name)
        return real(client, name) if len(calls) > 1 else None

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", late)
    assert store.get_or_create("raced") == there
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://ann:secret@mlflow.example:5000/x", "https://***@mlflow.example:5000/x"),
        ("postgresql://ann:secret@host/db", "postgresql://***@host/db"),
        ("http://ann:se@cret@host:5000", "http://***@host:5000"),
        ("sqlite:////home/ann@work/mlflow.db", "sqlite:////home/ann@work/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_passwords_are_not_printed(uri, shown):
    assert store.shown(uri) == shown


def test_the_reason_is_one_line():
    assert store.reason(RuntimeError("database is locked\n[SQL: SELECT ...]")) == "database is locked"
    assert store.reason(KeyError()) == "KeyError()"
    told = "API request to http://ann:secret@host:1/api/2.0/x failed: write to bob@host"
    assert store.reason(RuntimeError(told)) == told.replace("ann:secret", "***")


def test_mlflows_switches_are_set_where_the_user_has_not(home, monkeypatch):
    for name in store.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    store.connect()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"  # the user's own
