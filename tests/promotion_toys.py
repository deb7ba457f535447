"""A registry with several versions of a policy that share their files, and processes that compete for its aliases."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from registry_toys import DECISION, LINEAGE, Line, simulator, spec

from mbrl.registry import aliases, models, promotion, scrutiny, store
from mbrl.registry.ledger import Entry, Ledger
from mbrl.registry.lineage import Lineage
from mbrl.registry.runs import RunLog

VERSIONS = 4
PATIENCE = 240.0  # s, of a process with others on a busy machine
WRITES = (  # every call that changes a registry
    "log_param",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_model_version_tag",
    "update_model_version",
    "delete_model_version",
    "set_tag",
    "create_experiment",
    "rename_experiment",
)


def fill(name: str = "toy") -> None:
    """Two simulators, and four versions of a policy: 1 and 2 rehearsed in the first, 3 and 4 in the second.

    To save time 3 has the files of 1, 4 those of 2, and both simulators the same ones.
    """
    with RunLog.open("mbrl", "a run") as log:
        log.params({"seed": 7})
        models.log_simulator(log, simulator(), name, LINEAGE)
        first = Lineage(LINEAGE.data_id, LINEAGE.data_fingerprint, f"{name}-simulator/1", learner="registry_toys.Line")
        for gain in (0.5, 2.0):
            models.log_policy(log, Line(spec(), gain), name, first)
        client = MlflowClient(store.connect())
        for model, like in ((f"{name}-simulator", "1"), (f"{name}-policy", "1"), (f"{name}-policy", "2")):
            made = client.get_model_version(model, like)
            tags = made.tags | ({"mbrl.simulator": f"{name}-simulator/2"} if model.endswith("policy") else {})
            client.create_model_version(model, made.source, made.run_id, tags=tags)


def files_of(model: str, version: str) -> Path:
    """The folder of a version in an embedded store."""
    source = MlflowClient(store.connect()).get_model_version(model, version).source
    return Path(mlflow.get_logged_model(source.removeprefix("models:/")).artifact_location.removeprefix("file://"))


@pytest.fixture(scope="session")
def filled(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with `fill`'s models and a verdict in favour of each; tests copy its database and share its files."""
    home = tmp_path_factory.mktemp("filled")
    shutil.copy(template, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MBRL_HOME", str(home))
        fill()
        for version in range(1, VERSIONS + 1):
            promotion.judge("toy", str(version), DECISION, author="ann")
    return home


@pytest.fixture
def registry(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, with a copy of the filled database."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(filled / "mlflow.db", home / "mlflow.db")
    monkeypatch.setenv("MBRL_HOME", str(home))
    return home


@pytest.fixture
def damaged(registry: Path) -> Iterator[Callable[[str, Callable[[bytearray], bytes]], None]]:
    """Change the bytes of a file of version 1 (and 3) of the policy until the end of the test."""
    whole: dict[Path, bytes] = {}

    def damage(name: str, change: Callable[[bytearray], bytes]) -> None:
        path = files_of("toy-policy", "1") / name
        whole.setdefault(path, path.read_bytes())
        path.write_bytes(change(bytearray(whole[path])))

    yield damage
    for path, content in whole.items():
        path.write_bytes(content)


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files and answers as they are, for tests of what surrounds these checks."""
    monkeypatch.setattr(scrutiny, "objections", lambda *args, **kwargs: [])


def standing() -> dict[str, str]:
    """{model@alias: version} as MLflow has them."""
    return {f"{model}@{alias}": v for (model, alias), v in aliases.Registry("toy").aliases().items()}


def entries() -> list[Entry]:
    return Ledger.open("toy").entries()


@contextmanager
def at_write(act: Callable[[], None], when: int, after: bool = False) -> Iterator[list[str]]:
    """Call `act` before (or after) the `when`-th call that changes a registry; the names of all calls so far."""
    seen: list[str] = []

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            mine = len(seen) == when
            if mine and not after:
                act()
            answer = real(*args, **kwargs)
            if mine and after:
                act()
            return answer

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(MlflowClient, name, watched(name, getattr(MlflowClient, name)))
        yield seen


def compete(home: str, number: int, barrier: Any, rounds: int, answers: Any) -> None:
    """One of several processes that all try to move the champion, once a round, from where it stood before."""
    os.environ["MBRL_HOME"] = home
    scrutiny.objections = lambda *args, **kwargs: []  # the files are the same in every round
    store.LOCK_SECONDS = PATIENCE
    for turn in range(rounds):
        before = promotion.champion("toy")
        version = [str(v) for v in range(1, VERSIONS + 1) if str(v) != before][number % (VERSIONS - 1)]
        barrier.wait(PATIENCE)
        try:
            moved = promotion.promote("toy", version, expected=before)
            answers.put((turn, version, moved.before, moved.after))
        except promotion.RefusedError as refusal:
            answers.put((turn, version, str(refusal), None))
        barrier.wait(PATIENCE)


def killed(home: str, when: int, after: bool, command: str) -> None:
    """Promote or roll back, and be killed at a write."""
    os.environ["MBRL_HOME"] = home
    with at_write(lambda: os.kill(os.getpid(), signal.SIGKILL), when, after):
        promotion.promote("toy", "3") if command == "promote" else promotion.rollback("toy")
