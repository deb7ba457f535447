"""The aliases of a NAME: which there are, where they stand, and the one place that moves them.

MLflow moves an alias for whoever asks last, and lets names differ in case only. So nothing but this file sets aliases,
one process at a time: a lock beside the sqlite file, which every home that uses the file shares. On a server the lock
(in `MBRL_HOME`) reaches the processes of this home only; between machines it is the ledger that lets one writer pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self, final

import filelock
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from mbrl import files
from mbrl.registry import models, store
from mbrl.registry.chronicle import ALIASES, CHAMPION
from mbrl.registry.ledger import Move

STAGES = ("shadow", "canary", CHAMPION)  # where a version can be promoted to
ACTING = ("canary", CHAMPION)  # whose answers reach the plant: they need a verdict that says promote
HIDDEN = "PERMISSION_DENIED"  # what a server with accounts answers of a model that there is not
WAIT_SECONDS = 120.0  # for other processes that move aliases


def check_alias(label: str, alias: str, known: Sequence[str]) -> str:
    """`alias` itself, if it is one of those that are `known` here; `label` is the setting that it was given as.

    Raises:
        ValueError: it is none of them; the message has the list.
    """
    if alias in known:
        return alias
    near = f", which differs from {alias.lower()!r} in case only" if alias.lower() in set(ALIASES) - {alias} else ""
    raise ValueError(f"{label} is {alias!r}{near}: expected one of {', '.join(known)}")


@contextmanager
def absence_allowed(*also: str) -> Iterator[None]:
    """Leave what is asked of a model or a version where MLflow says that there is none, or `also` another code."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", *also):
            raise


@final
class Registry:
    """The registered models of one NAME, `NAME-policy` and `NAME-simulator`, as far as promotion needs them."""

    def __init__(self, name: str) -> None:
        self.name = models.check_name(name)
        self.policy = f"{name}-policy"
        self.uri = store.connect()
        self.client = MlflowClient(self.uri)

    @classmethod
    def known(cls, name: str) -> Self:
        """The registry of NAME, where `NAME-policy` exists.

        Raises:
            ValueError: the name is malformed.
            StoreError: there is no such model; the message lists what there is.
        """
        self = cls(name)
        with models.explained(self.client, self.uri, self.policy):
            self.client.get_registered_model(self.policy)
        return self

    def aliases(self) -> dict[tuple[str, str], str]:
        """{(model, alias): version} of both models, the user's own aliases among them.

        Raises:
            StoreError: the store does not answer.
        """
        found: dict[tuple[str, str], str] = {}
        for model in (self.policy, f"{self.name}-simulator"):
            with models.explained(self.client, self.uri, model), absence_allowed(HIDDEN):
                known = self.client.get_registered_model(model).aliases
                found |= {(model, alias): str(version) for alias, version in known.items()}
        return found

    def check_case(self, aliases: Mapping[tuple[str, str], str]) -> None:
        """Refuse a registry in which somebody has made an alias such as Champion.

        Raises:
            ValueError: there is one; the message names it.
        """
        if odd := next(((m, a) for m, a in aliases if a not in ALIASES and a.lower() in ALIASES), None):
            model, alias = odd
            raise ValueError(
                f"{model} has an alias {alias!r}, which differs from {alias.lower()!r} in case only, and will be taken"
                " for it: remove it in MLflow, then try again"
            )

    def version(self, version: str) -> ModelVersion:
        """One version of `NAME-policy`.

        Raises:
            StoreError: there is none; the message lists what there is.
        """
        with models.explained(self.client, self.uri, self.policy):
            return self.client.get_model_version(self.policy, version)

    def exists(self, model: str, version: str) -> bool:
        """Whether a version is there.

        Raises:
            StoreError: the store does not answer.
        """
        with models.explained(self.client, self.uri, model), absence_allowed():
            self.client.get_model_version(model, version)
            return True
        return False

    def move(self, moves: Sequence[Move]) -> None:
        """Carry the moves out, in their order; one that was carried out before changes nothing.

        Raises:
            StoreError: the store does not answer, or a version is gone.
        """
        for move in moves:
            with models.explained(self.client, self.uri, move.model):
                if move.after is not None:
                    self.client.set_registered_model_alias(move.model, move.alias, move.after)
                elif move.before is not None:
                    self.client.delete_registered_model_alias(move.model, move.alias)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process of this home, and of this sqlite file, from moving aliases.

        Raises:
            StoreError: another process has held the lock for two minutes, or another home has the file.
        """
        uri = store.registry()
        store.claim(uri)
        if uri.startswith(store.SQLITE):
            path = Path(f"{uri.removeprefix(store.SQLITE)}.aliases.lock")
        else:
            path = files.home() / "locks" / hashlib.sha256(uri.encode()).hexdigest()[:16]
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(path, timeout=WAIT_SECONDS):
                yield
        except filelock.Timeout as error:
            raise store.StoreError(
                f"{path} has been held by another process for {WAIT_SECONDS:g} s: wait for it, or end it"
            ) from error
