"""How an alias is moved: in two phases, under a lock, and by a request that says where it has to stand before.

The intention is written to the ledger, the aliases are moved, and the ledger says that it is done. The intention names
all moves and bars every other one, so whoever finds it (the same command once more, or `mbrl history NAME --repair`)
knows exactly what was half-done, after a SIGKILL or a lost server at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mbrl.registry import chronicle, models
from mbrl.registry.aliases import Registry
from mbrl.registry.circumstances import circumstances, who
from mbrl.registry.ledger import Entry, Ledger, Move, OvertakenError

DECISION_TAG, OUTCOME_TAG = "mbrl.decision", "mbrl.outcome"


class RefusedError(ValueError):
    """The move was not made. The message says why, and so does the ledger."""


class Moved(NamedTuple):
    """What became of a request: where the alias stood and stands, and the ledger's last entry."""

    model: str
    alias: str
    before: str | None
    after: str | None
    entry: int | None  # None where nothing had to be done
    head: str | None  # its hash: who remembers it can prove that the ledger's end was not cut off


class Request(NamedTuple):
    """A move that is about to be made, and what has been found against it so far."""

    action: str
    version: str
    alias: str | None  # the one that must stand where `expected` says
    expected: str | None
    about: Mapping[str, Any]
    moves: Callable[[Sequence[Entry]], list[Move]]
    against: Sequence[str] = ()
    compares: bool = True  # whether it matters where the alias stands
    known: Sequence[Entry] | None = None  # the ledger when `against` was found; None where no verdict matters


def carry_out(registry: Registry, ledger: Ledger, request: Request) -> Moved:
    """Make a move under the lock, in two phases; or finish the very same one that was cut short; or refuse it."""
    with registry.lock():
        while True:
            entries = ledger.entries()
            waiting = chronicle.pending(entries)
            if waiting is not None and _same(waiting, request):
                intention = waiting
                break
            against = [*request.against, *_barred(registry, entries, waiting, request)]
            try:
                if against:
                    about = {**_signed(request.about), "to": request.alias, "reasons": against}
                    ledger.append(entries, "refused", request.action, about)
                    raise RefusedError(
                        f"{request.action} of {registry.policy} version {request.version}: {'; '.join(against)}"
                    )
                moves = request.moves(entries)
                intention = ledger.append(entries, "intended", request.action, _signed(request.about), moves)
                break
            except OvertakenError:  # by another machine
                continue
        apply(registry, intention)
        last = settle(ledger, intention)
    mine = next((m for m in intention.moves if m.alias == request.alias and m.model == registry.policy), None)
    before, after = (mine.before, mine.after) if mine else (request.version, None)
    return Moved(registry.policy, request.alias or "none", before, after, last.number, last.hash)


def apply(registry: Registry, intention: Entry) -> None:
    """Do what an intention says; what was done before changes nothing."""
    version = str(intention.about.get("version"))
    if intention.action == "delete":
        if registry.exists(registry.policy, version):
            with models.explained(registry.client, registry.uri, registry.policy):
                registry.client.delete_model_version(registry.policy, version)
        return
    if intention.action in ("judge", "copy"):
        decision = chronicle.decision(intention)
        with models.explained(registry.client, registry.uri, registry.policy):
            for tag, value in ((DECISION_TAG, decision.to_json()), (OUTCOME_TAG, decision.outcome)):
                registry.client.set_model_version_tag(registry.policy, version, tag, value)
    registry.move(intention.moves)


def mend(registry: Registry, ledger: Ledger, entries: Sequence[Entry], moves: Sequence[Move]) -> None:
    """Put aliases that were moved past the ledger to where `moves` say, under the caller's lock."""
    intention = ledger.append(entries, "intended", "repair", _signed({}), moves)
    apply(registry, intention)
    settle(ledger, intention)


def settle(ledger: Ledger, intention: Entry, phase: str = "done", **about: Any) -> Entry:
    """Write that an intention was carried out (or taken back), unless somebody has; the ledger's last entry."""
    while True:
        entries = ledger.entries()
        if chronicle.pending(entries) is None:
            return entries[-1]
        try:
            said = {"of": intention.number, "who": who(), **about}
            return ledger.append(entries, phase, intention.action, said)
        except OvertakenError:
            continue


def _same(waiting: Entry, request: Request) -> bool:
    """Whether a request is the one that was cut short."""
    aliases: set[str | None] = {move.alias for move in waiting.moves} if waiting.moves else {None}
    same = (waiting.action, waiting.about.get("version")) == (
        request.action,
        request.version,
    ) and request.alias in aliases
    return same and waiting.about.get("decision") == request.about.get("decision")


def _barred(registry: Registry, entries: Sequence[Entry], waiting: Entry | None, request: Request) -> list[str]:
    """What bars any move now, and what bars this one."""
    if waiting is not None:
        return [
            f"another move is half-done, wait for it or mend it (mbrl history {registry.name} --repair):"
            f" {chronicle.line(waiting)}"
        ]
    at = registry.aliases()
    against = [
        f"{model}@{alias} is at {found or 'no version'}, and the ledger put it at {put or 'none'}: moved past"
        f" the ledger (mbrl history {registry.name} --repair puts it back)"
        for (model, alias), put, found in chronicle.differences(entries, at)
    ]
    if request.action == "delete":
        held = sorted(alias for (model, alias), v in at.items() if (model, v) == (registry.policy, request.version))
        if held:
            told = f"{' and '.join(held)} of {registry.policy} point to version {request.version}"
            against.append(f"{told}: move or withdraw them first")
    elif request.action != "withdraw" and not request.against and not registry.exists(registry.policy, request.version):
        against.append(f"there is no version {request.version} of {registry.policy} any more: it was deleted meanwhile")
    found = at.get((registry.policy, request.alias)) if request.alias else None
    if request.alias and request.compares and found != request.expected:
        against.append(
            f"{registry.policy}@{request.alias} is at {found or 'no version'}, expected {request.expected or 'none'}:"
            " it was moved meanwhile"
        )
    verdict = chronicle.judged(entries, request.version)
    if (
        request.known is not None
        and verdict is not None
        and verdict != chronicle.judged(request.known, request.version)
    ):
        against.append(f"version {request.version} was judged anew meanwhile, in entry {verdict.number}: try again")
    return against


def _signed(about: Mapping[str, Any]) -> dict[str, Any]:
    return {**about, "who": who(), **circumstances()}
