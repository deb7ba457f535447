"""Prove that ledger, aliases, verdicts and files agree, and mend what was half-done."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from mbrl.registry import chronicle, scrutiny, store
from mbrl.registry.aliases import Registry
from mbrl.registry.ledger import Entry, Ledger, Move
from mbrl.registry.twophase import apply, mend, settle


def verify(name: str) -> list[str]:
    """All that does not agree; empty if everything does.

    Proved are the chain of the ledger, that nothing in it is half-done, that each alias stands where the ledger put it,
    and of every version with a verdict: its tag, the SHA-256 of its evidence, every file of it, its golden pairs.

    Raises:
        StoreError: the store does not answer.
    """
    registry = Registry.known(name)
    try:
        entries = Ledger.open(name).entries()
        registry.check_case(at := registry.aliases())
    except ValueError as error:  # a damaged ledger proves nothing about anything else
        return [str(error)]
    found = []
    if (waiting := chronicle.pending(entries)) is not None:
        found.append(f"half-done: {chronicle.line(waiting)}")
    for (model, alias), put, stands in chronicle.differences(entries, at):
        found.append(f"{model}@{alias} is at {stands or 'no version'}, and the ledger put it at {put or 'none'}")
    seen = dict.fromkeys(e.about["version"] for e in chronicle.carried_out(entries) if "version" in e.about)
    for version in seen:
        verdict = chronicle.judged(entries, version)
        if registry.exists(registry.policy, version):
            found += scrutiny.objections(registry, version, verdict, gated=False)
            found += [] if verdict is None else _evidence(verdict, f"{registry.policy}/{version}")
    return found


def _evidence(verdict: Entry, label: str) -> list[str]:
    decision = chronicle.decision(verdict)
    if decision.evidence is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = Path(mlflow.artifacts.download_artifacts(decision.evidence, dst_path=folder))
        except (MlflowException, OSError) as error:
            return [f"the evidence of {label}, {decision.evidence}, cannot be read: {store.reason(error)}"]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest == decision.evidence_hash:
        return []
    return [
        f"the evidence of {label}, {decision.evidence}, is altered: SHA-256 is {digest}, expected"
        f" {decision.evidence_hash}"
    ]


def repair(name: str) -> list[str]:
    """Finish what was half-done, put aliases back to where the ledger has them, and say so; empty if nothing was.

    What was half-done goes forward: its moves are made and the ledger says so. It goes back only where a version that
    it leads to has been deleted meanwhile. An alias of a version that is gone is taken away.

    Raises:
        StoreError: the store does not answer; what is half-done stays so.
        LedgerError: the ledger is damaged, which nobody can mend here.
    """
    registry, ledger = Registry.known(name), Ledger.open(name)
    told = []
    with registry.lock():
        entries = ledger.entries()
        if (waiting := chronicle.pending(entries)) is not None:
            told.append(_settled(registry, ledger, waiting))
            entries = ledger.entries()
        moves = _back(registry, entries)
        if moves:
            mend(registry, ledger, entries, moves)
            told += [f"{m.model}@{m.alias}: {m.before or 'no version'} -> {m.after or 'no version'}" for m in moves]
    return told


def _settled(registry: Registry, ledger: Ledger, waiting: Entry) -> str:
    gone = [m for m in waiting.moves if m.after is not None and not registry.exists(m.model, m.after)]
    if not gone:
        apply(registry, waiting)
        settle(ledger, waiting, mended=True)
        return f"finished: {chronicle.line(waiting)}"
    standing = [m for m in waiting.moves if m.before is None or registry.exists(m.model, m.before)]
    registry.move([Move(m.model, m.alias, m.after, m.before) for m in reversed(standing)])
    settle(ledger, waiting, "undone", mended=True)
    return f"taken back, as {gone[0].model}/{gone[0].after} is deleted: {chronicle.line(waiting)}"


def _back(registry: Registry, entries: Sequence[Entry]) -> list[Move]:
    """The moves that put every alias to where the ledger has it, or away where that version is gone."""
    moves = []
    for (model, alias), put, stands in chronicle.differences(entries, registry.aliases()):
        there = put is not None and registry.exists(model, put)
        moves.append(Move(model, alias, stands, put if there else None))
    return moves
