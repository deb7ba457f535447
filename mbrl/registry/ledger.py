"""The ledger of a NAME: every decision about its versions, promotions and refusals, in a chain of hashes that grows.

It is kept in the registry itself, so that whoever shares the registry shares the ledger, on one machine or on many:
one MLflow run for each NAME, in an experiment of its own, whose parameters are the entries. MLflow never changes a
parameter once it is logged, and refuses another value under a key that is taken, by the primary key of its database.
So the ledger is append-only and atomic, and its next number can be taken by one writer only: a compare-and-set, in a
sqlite file as on a server. It is as durable as that database is (sqlite: fsync at every commit).

Each entry holds the SHA-256 of the entry before. A chain proves that nothing inside it was altered or left out; that
its end was not cut off is proved by whoever remembers a head, so every command tells it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self, final

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from mbrl.registry import models, store

GENESIS = "0" * 64  # what stands in the first entry in the place of the hash of the one before
RUN_TAG = "mbrl.ledger"  # of the experiment: the run that is the ledger
LENGTH = 6000  # of an entry: MLflow cuts longer values without a word
CUT = "…"  # stands for the reasons that an entry of that length has no room for
NOTE = "Every decision about the versions of {0}. Read it with `mbrl history {0}`, prove it with `--verify`."


class LedgerError(ValueError):
    """The ledger is not what was written, or is not there where it has to be. The message names the entry."""


class OvertakenError(RuntimeError):
    """Another process has written the entry that was about to be written: read again, and decide again."""


class Move(NamedTuple):
    """One alias of one registered model, from one version to another; None is no version."""

    model: str
    alias: str
    before: str | None
    after: str | None


class Entry(NamedTuple):
    """One entry. `number` counts from 1; `hash` is that of all the rest."""

    number: int
    previous: str
    time: str  # UTC, as the writer's clock had it
    phase: str  # intended | done | undone | refused
    action: str  # judge | promote | rollback | withdraw | delete | copy
    moves: tuple[Move, ...]
    about: Mapping[str, Any]
    hash: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self._asdict(), "moves": [move._asdict() for move in self.moves], "about": dict(self.about)}


def now() -> datetime.datetime:
    """The time that an entry gets."""
    return datetime.datetime.now(datetime.UTC)


@final
class Ledger:
    """The ledger of one NAME in the registry that this process uses."""

    def __init__(self, name: str, client: MlflowClient, uri: str, run_id: str | None) -> None:
        """Use `Ledger.open`."""
        self.name = name
        self._client = client
        self._uri = uri
        self._run_id = run_id

    @classmethod
    def open(cls, name: str) -> Self:
        """The ledger of NAME; it is begun with its first entry.

        Raises:
            StoreError: the store does not answer.
            LedgerError: the ledger has been deleted.
        """
        models.check_name(name)
        store.connect()
        uri = store.registry()
        client = MlflowClient(uri)  # where the models are, the ledger is
        self = cls(name, client, uri, None)
        with self._asking():
            self._run_id = self._found()
        return self

    def entries(self) -> tuple[Entry, ...]:
        """All entries, after proving the chain.

        Raises:
            StoreError: the store does not answer.
            LedgerError: an entry is altered, missing or out of its place; the message says which.
        """
        if self._run_id is None:
            return ()
        with self._asking():
            kept = self._client.get_run(self._run_id).data.params
        return chained({key: text for key, text in kept.items() if key.startswith("entry.")}, self.name)

    def append(
        self, entries: Sequence[Entry], phase: str, action: str, about: Mapping[str, Any], moves: Sequence[Move] = ()
    ) -> Entry:
        """Write the entry after `entries`, and return it.

        Raises:
            OvertakenError: somebody else has written that entry.
            StoreError: the store does not answer.
        """
        number, last = len(entries) + 1, entries[-1] if entries else None
        time, about = now(), dict(about)
        if last is not None and (lead := datetime.datetime.fromisoformat(last.time) - time) > datetime.timedelta():
            about["clock"] = f"{lead.total_seconds():.3f} s behind entry {last.number}"
        stamp = time.isoformat(timespec="milliseconds")
        entry = Entry(number, last.hash if last else GENESIS, stamp, phase, action, tuple(moves), about, "")
        text = _text(entry)
        with self._asking():
            run_id = self._run_id = self._run_id or self._begun()
            try:
                self._client.log_param(run_id, _key(number), text)
            except MlflowException as error:
                held = self._client.get_run(run_id).data.params.get(_key(number))
                if held is None:
                    raise
                if held != text:
                    raise OvertakenError(f"entry {number} of the ledger of {self.name} is another one's") from error
        return _entry(text, number, self.name)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            where, why = store.shown(self._uri), store.reason(error)
            raise store.StoreError(f"the ledger of {self.name} in {where}: {why}") from error

    def _found(self) -> str | None:
        experiment = self._client.get_experiment_by_name(f"mbrl-ledger-{self.name}")
        if experiment is None:
            return None
        if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
            raise LedgerError(f"the ledger of {self.name} is deleted: `mlflow experiments restore` {experiment.name}")
        run_id = str(experiment.tags[RUN_TAG])
        if self._client.get_run(run_id).info.lifecycle_stage != LifecycleStage.ACTIVE:
            raise LedgerError(f"the ledger of {self.name} is deleted: `mlflow runs restore --run-id {run_id}`")
        return run_id

    def _begun(self) -> str:
        """A ledger made beside and put in its place by its name, which one writer only can take."""
        name = f"mbrl-ledger-{self.name}"
        experiment = self._client.create_experiment(
            f"{name}.{secrets.token_hex(6)}", artifact_location=store.artifacts(self._uri)
        )
        tags = {MLFLOW_RUN_NOTE: NOTE.format(self.name)}
        run_id = str(self._client.create_run(experiment, tags=tags, run_name=f"ledger of {self.name}").info.run_id)
        self._client.set_terminated(run_id)
        self._client.set_experiment_tag(experiment, RUN_TAG, run_id)
        try:
            self._client.rename_experiment(experiment, name)
        except MlflowException:
            self._client.delete_experiment(experiment)
            found = self._found()
            if found is None:
                raise
            return found
        return run_id


def chained(kept: Mapping[str, str], name: str) -> tuple[Entry, ...]:
    """Entries in their order, from their texts by key, after proving the chain; see `Ledger.entries`."""
    entries: list[Entry] = []
    for number in range(1, len(kept) + 1):
        if _key(number) not in kept:
            raise LedgerError(f"entry {number} of the ledger of {name} is missing, and later ones are there")
        entry = _entry(kept[_key(number)], number, name)
        before = entries[-1].hash if entries else GENESIS
        if entry.previous != before:
            raise LedgerError(
                f"entry {number} of the ledger of {name} follows {entry.previous[:12]}, and the entry before is"
                f" {before[:12]}: one of them was replaced"
            )
        entries.append(entry)
    return tuple(entries)


def _key(number: int) -> str:
    return f"entry.{number:06d}"


def _text(entry: Entry) -> str:
    """`SHA256 JSON`; long reasons are cut to what MLflow takes, as the evidence has them in full."""
    content = entry.to_dict()
    del content["hash"]
    while len(body := json.dumps(content, sort_keys=True, separators=(",", ":"))) > LENGTH - 65:
        reasons = content["about"].get("reasons")
        if not reasons:
            raise ValueError(f"an entry of the ledger has {len(body)} characters, expected at most {LENGTH - 65}")
        content["about"]["reasons"] = [*reasons[:-2], CUT] if len(reasons) > 1 else []
    return f"{hashlib.sha256(body.encode()).hexdigest()} {body}"


def _entry(text: str, number: int, name: str) -> Entry:
    wanted, _, body = text.partition(" ")
    found = hashlib.sha256(body.encode()).hexdigest()
    if wanted != found:
        raise LedgerError(
            f"entry {number} of the ledger of {name} is altered: SHA-256 of its text is {found}, expected {wanted[:64]}"
        )
    content = json.loads(body)
    moves = tuple(Move(**move) for move in content.pop("moves"))
    entry = Entry(**content, moves=moves, hash=wanted)
    if entry.number != number:
        raise LedgerError(f"entry {number} of the ledger of {name} says that it is entry {entry.number}")
    return entry
