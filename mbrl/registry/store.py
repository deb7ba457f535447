"""Where runs and models are kept: the user's MLflow server, or one sqlite file under `MBRL_HOME`."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import filelock
import mlflow
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mbrl import files
from mbrl.allocator import uncollected

LOCK_SECONDS = 20.0  # how long another process may keep the store to itself before we give up
URI_VARIABLE, REGISTRY_VARIABLE, HOME_VARIABLE = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MBRL_HOME"
SQLITE = "sqlite:///"  # and an absolute path
PATHS = (  # tables and columns of MLflow's that hold absolute paths; tags do where they are of a home's folders
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("tags", "value"),
)
DEFAULTS = {  # of MLflow's own switches, for users who have not set them
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing is sent to anyone
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # 7, the default, hold a training for minutes
    "MLFLOW_UV_AUTO_DETECT": "false",  # else a uv.lock in the working directory enters every model
}


class StoreError(RuntimeError):
    """The store of runs and models cannot be used. The message says which store, why, and what to change."""


def connect() -> str:
    """Point MLflow, in this process, at the store of runs and models, and return its URI.

    An `MLFLOW_TRACKING_URI` that the user has set wins (so does an `MLFLOW_REGISTRY_URI`; without one, MLflow keeps
    the models where it keeps the runs). Else the store is `MBRL_HOME/mlflow.db`, which is created under a file lock,
    so that processes that start together do not create it twice. Pickled models are refused from here on, MLflow
    speaks up for warnings only, and its telemetry is off unless `MLFLOW_DISABLE_TELEMETRY` says false.

    Raises:
        StoreError: the file is locked by another process, damaged, or of another version of MLflow; or the URI is none
            of a store.
    """
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name, level in (("mlflow", logging.WARNING), ("alembic", logging.WARNING), ("mlflow.store.db", logging.FATAL)):
        logging.getLogger(name).setLevel(level)  # mlflow.store.db prints the traceback of errors that it also raises
    chosen = os.environ.get(URI_VARIABLE)
    if not chosen:
        _prepare(database())
    elif not chosen.startswith(SQLITE):
        _check_kind(chosen)
    uri = chosen or _uri(database())
    mlflow.set_tracking_uri(uri)
    if not chosen:
        os.environ.pop(URI_VARIABLE, None)  # MLflow has just set it; left there it would pass for the user's choice
    return uri


def _check_kind(uri: str) -> None:
    """Refuse what MLflow has no client for, such as a folder; nobody is asked whether there is a server."""
    try:
        MlflowClient(uri)
    except MlflowException as error:
        raise StoreError(
            f"{shown(uri)} is no store: {reason(error)}. Name the URI of a server (http://HOST:PORT), a sqlite file, or"
            f" another {HOME_VARIABLE}"
        ) from error


def database() -> Path:
    """The sqlite file of the embedded store."""
    return files.home() / "mlflow.db"


def registry() -> str:
    """The URI of the models, once `connect` has been called: that of the runs, unless the user keeps them apart."""
    return str(mlflow.get_registry_uri())


def artifacts(uri: str) -> str | None:
    """Where artefacts of a new experiment go: `MBRL_HOME/artifacts` if the store is embedded, else None."""
    embedded = uri.startswith(SQLITE) and Path(uri.removeprefix(SQLITE)).resolve() == database().resolve()
    return (files.home() / "artifacts").as_uri() if embedded else None


def claim(uri: str) -> None:
    """Take a sqlite file for this `MBRL_HOME`, whose folder holds what belongs to it; a server belongs to everybody.

    The file NAME.home beside the database names the home that has it. A home that was moved, copied or deleted has no
    claim any more.

    Raises:
        StoreError: another home has it; the message names both.
    """
    if not uri.startswith(SQLITE):
        return
    path, ours = Path(uri.removeprefix(SQLITE)).resolve(), files.home().resolve()
    note = _note(path)
    with _locked(path):
        owner = Path(note.read_text()) if note.exists() else ours
        theirs = owner / path.name if path.parent == ours else path  # a copied home brings the note of the first
        if owner != ours and owner.is_dir() and theirs.exists() and theirs.samefile(path):
            raise StoreError(
                f"{path} belongs to MBRL_HOME {owner}, and MBRL_HOME is {ours}: set MBRL_HOME={owner}, or give"
                f" {ours} a store of its own (unset {URI_VARIABLE}); to share a store, run an MLflow server"
            )
        if owner != ours or not note.exists():
            _own(note, ours)


@contextmanager
def at(target: str) -> Iterator[str]:
    """Work in another store for as long as the context lasts; its URI.

    `target` is the URI of a server, a sqlite file (its URI, or a path that ends in .db), or another `MBRL_HOME`; a
    sqlite file's home is its folder.

    Raises:
        StoreError: the store cannot be used.
    """
    if target.endswith(".db") and "://" not in target:
        target = SQLITE + str(Path(target).absolute())
    names = (URI_VARIABLE, REGISTRY_VARIABLE, HOME_VARIABLE)
    before = {name: os.environ.pop(name, None) for name in names}
    try:
        if target.startswith(SQLITE):
            os.environ[HOME_VARIABLE] = str(Path(target.removeprefix(SQLITE)).parent)
            os.environ[URI_VARIABLE] = target
        elif "://" in target:
            os.environ |= {URI_VARIABLE: target, HOME_VARIABLE: before[HOME_VARIABLE] or ""}
        else:
            os.environ[HOME_VARIABLE] = target
        mlflow.set_registry_uri("")
        yield connect()
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        mlflow.set_registry_uri("")
        connect()


def get_or_create(name: str) -> str:
    """The id of the experiment called `name`; artefacts of a new one go to `MBRL_HOME/artifacts` if it is embedded.

    Raises:
        StoreError: the experiment has been deleted, another home has the store, or the store does not answer.
    """
    client = MlflowClient(uri := connect())
    claim(uri)
    try:
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=artifacts(uri)))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(name)  # another process was faster
    except MlflowException as error:
        raise StoreError(f"experiment {name!r} cannot be opened in {shown(uri)}: {reason(error)}") from error
    if found is None or found.lifecycle_stage != LifecycleStage.ACTIVE:
        raise StoreError(
            f"experiment {name!r} in {shown(uri)} is deleted: restore it (`mlflow experiments restore`) or rename"
        )
    return str(found.experiment_id)


def shown(uri: str) -> str:
    """A URI as it may be printed: without the user and password that it carries."""
    return re.sub(r"//[^/\s]*@", "//***@", uri)


def reason(error: Exception) -> str:
    """The first line of MLflow's message, which may name the server; SQL statements follow it."""
    return shown((str(error) or repr(error)).splitlines()[0])


def _uri(path: Path) -> str:
    if odd := sorted(set("?#%") & set(str(path))):
        raise StoreError(f"MBRL_HOME is {str(path.parent)!r}: a sqlite URI cannot hold {odd}, choose another folder")
    return f"{SQLITE}{path}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from the sqlite file."""
    lock = filelock.FileLock(f"{path}.lock", timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise StoreError(
            f"{path}.lock has been held by another process for {LOCK_SECONDS:g} s: wait for it, or end it"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _prepare(path: Path) -> None:
    """Create the tables if the file is new, and find out within a bounded time whether it can be written."""
    uri = _uri(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            _probe(path)
            file = path.stat()
            _tables(uri, file.st_dev, file.st_ino)
            _follow(path)
    except sqlite3.DatabaseError as error:
        advice = "close the program that holds it" if "locked" in str(error) else "move it away, or restore a copy"
        raise StoreError(f"{path} cannot be used after waiting up to {LOCK_SECONDS:g} s: {error}; {advice}") from error
    except (MlflowException, SQLAlchemyError) as error:
        raise StoreError(f"{path} cannot be used by this version of MLflow: {reason(error)}") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be created: {error}; set MBRL_HOME to a folder you can write to") from error


@cache
def _tables(uri: str, device: int, inode: int) -> None:
    """Create or check the tables of a file, once in a process."""
    del device, inode
    with uncollected():  # MLflow imports its store here
        MlflowClient(uri).search_experiments(max_results=1)


def _probe(path: Path) -> None:
    with closing(sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.execute("ROLLBACK")


def _follow(path: Path) -> None:
    """Where a home was moved, or is a copy: have the paths in its store, which are absolute, begin with its own.

    Else a moved one would look for its files where they no longer are, and a copy would write into the first one's.
    """
    note, ours = _note(path), path.parent.resolve()
    owner = Path(note.read_text()) if note.exists() else ours
    if owner == ours or ((owner / path.name).exists() and (owner / path.name).samefile(path)):
        return
    with closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as connection, connection:
        for table, column in PATHS:
            for old, new in ((owner.as_uri(), ours.as_uri()), (str(owner), str(ours))):
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                    f" WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )
    _own(note, ours)


def _note(path: Path) -> Path:
    """The file beside a database that names the home that has it."""
    return path.with_name(f"{path.name}.home")


def _own(note: Path, home: Path) -> None:
    with files.replacing(note) as beside:
        beside.write_text(str(home))
