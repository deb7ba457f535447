"""The one door to the aliases: judge, promote, roll back, withdraw, delete. The ledger has every decision made here.

What is asked of a version before it may act: that the gate's verdict on it, as the ledger has it, says promote; that
every file of it has the SHA-256 that its manifest lists; and that it answers its golden observations as it did when it
was registered. A version that only watches (shadow) needs no verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mbrl.registry import aliases, chronicle, models, scrutiny
from mbrl.registry.aliases import CHAMPION, Registry
from mbrl.registry.circumstances import who
from mbrl.registry.decisions import NOBODY, Decision
from mbrl.registry.describing import describe
from mbrl.registry.ledger import Entry, Ledger, Move
from mbrl.registry.twophase import Moved, RefusedError, Request, carry_out

__all__ = ["Moved", "RefusedError", "Registry", "champion", "delete", "judge", "promote", "rollback", "withdraw"]


def champion(name: str) -> str | None:
    """The version of `NAME-policy` that the alias `champion` points at, or None without one.

    Raises:
        StoreError: the store does not answer.
    """
    registry = Registry(name)
    return registry.aliases().get((registry.policy, CHAMPION))


def compared(name: str, version: str) -> str | None:
    """The champion that the last verdict on a version compares it with; None without one.

    Raises:
        StoreError: the store does not answer.
        LedgerError: the ledger is damaged.
    """
    verdict = chronicle.judged(Ledger.open(name).entries(), version)
    champion = None if verdict is None else chronicle.decision(verdict).champion
    return None if champion == NOBODY else champion


def judge(
    name: str,
    version: str,
    decision: Decision,
    action: str = "judge",
    author: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> Moved:
    """Write a gate's verdict on a version to the ledger and to its tags, and call the version `candidate`.

    The same verdict on the same version once more changes nothing, so that a run can be resumed.

    Raises:
        StoreError: there is no such version, or the store does not answer.
        RefusedError: another move is half-done.
        LedgerError: the ledger is damaged.
    """
    registry, ledger = Registry.known(name), Ledger.open(name)
    entries = ledger.entries()
    known = chronicle.judged(entries, version)
    if known is not None and chronicle.says(known, decision) and chronicle.pending(entries) is None:
        at = registry.aliases().get((registry.policy, "candidate"))
        describe(registry, version, decision)  # which the call before may have been too short-lived for
        return Moved(registry.policy, "candidate", at, at, None, None)
    verdict = decision.to_dict()
    reasons = verdict.pop("reasons")
    about = {**_facts(registry, version), "author": author or who(), "decision": verdict, "reasons": reasons}

    def moves(entries: Sequence[Entry]) -> list[Move]:
        before = chronicle.placed(entries).get((registry.policy, "candidate"))
        return [Move(registry.policy, "candidate", before, version)]

    about |= more or {}
    moved = carry_out(registry, ledger, Request(action, version, "candidate", None, about, moves, compares=False))
    describe(registry, version, decision)
    return moved


def promote(
    name: str,
    version: str | None = None,
    to: str = CHAMPION,
    approver: str | None = None,
    expected: str | None = None,
) -> Moved:
    """Move the alias `to` (shadow, canary or champion) to a version, if all that is known speaks for it.

    A champion takes the alias `champion` of the simulator that it was rehearsed in along, and leaves `previous` where
    `champion` was. The move is compare-and-set: it is refused if the alias is not where it was when this call began.

    Args:
        name: NAME of `NAME-policy`.
        version: its number, or NAME-policy/NUMBER; the version called `candidate` if None.
        to: the alias to move.
        approver: who approves, where the rules want a second person.
        expected: the version that the alias must stand at; where it stands at this moment if None.

    Raises:
        RefusedError: the gate's verdict is missing or against it, or compares it with another champion than the one
            that reigns; a file or a golden pair does not hold, the approver is missing or the author, the alias has
            moved or the version was judged anew meanwhile, or another move is half-done.
        ValueError: an unknown alias, or a version of another model.
        StoreError: there is no such version, or the store does not answer.
        LedgerError: the ledger is damaged.
    """
    aliases.check_alias("to", to, aliases.STAGES)
    registry = Registry.known(name)
    at = registry.aliases()
    registry.check_case(at)
    number = numbered(registry, version) if version else at.get((registry.policy, "candidate"))
    if number is None:
        raise ValueError(f"{registry.policy} has no version called candidate: name one (--version V)")
    ledger, current = Ledger.open(name), at.get((registry.policy, to))
    entries = ledger.entries()
    about = _facts(registry, number) | ({"approver": approver} if approver else {})
    if current == number and expected in (None, current) and chronicle.pending(entries) is None:
        return Moved(registry.policy, to, current, number, None, None)
    verdict = chronicle.judged(entries, number)
    if verdict is not None:
        about["decision"] = verdict.about["decision"]
    against = scrutiny.objections(registry, number, verdict, gated=to in aliases.ACTING)
    against += scrutiny.alone(verdict, approver) if to in aliases.ACTING else []
    against += scrutiny.overtaken(verdict, current) if to == CHAMPION else []

    def moves(entries: Sequence[Entry]) -> list[Move]:
        placed = chronicle.placed(entries)
        before = placed.get((registry.policy, to))
        own = [Move(registry.policy, to, before, number)]
        return own if to != CHAMPION else _with_champion(registry, placed, own[0], about.get("simulator"), before)

    wanted = current if expected is None else expected
    return carry_out(registry, ledger, Request("promote", number, to, wanted, about, moves, against, known=entries))


def rollback(name: str) -> Moved:
    """Go back to the last champion before the present one that still holds: verdict, every file, golden pairs.

    Where the champion was withdrawn, that is the last one before it.
    Those that do not are passed over, and the ledger says why. `previous` then is the champion before that one.

    Raises:
        RefusedError: no earlier champion holds, the alias has moved or the version was judged anew meanwhile, or
            another move is half-done.
        StoreError: the store does not answer.
        LedgerError: the ledger is damaged.
    """
    registry, ledger = Registry.known(name), Ledger.open(name)
    at = registry.aliases()
    registry.check_case(at)
    entries, current = ledger.entries(), at.get((registry.policy, CHAMPION))
    line = chronicle.reign(entries, registry.policy)
    if current is None and not line:
        raise ValueError(f"{registry.policy} has no champion to go back from, and no earlier one to go back to")
    waiting = chronicle.pending(entries)
    if waiting is not None and waiting.action == "rollback":  # this very command, cut short: its target was checked
        target: str | None = waiting.about["version"]
        against: list[str] = []
    else:
        target, against = scrutiny.last_that_holds(registry, entries, [v for v in line if v != current])
    subject = target or current or line[-1]
    facts = _facts(registry, subject) if registry.exists(registry.policy, subject) else {"version": subject}
    about = {**facts, "left": current, "reasons": against}

    def moves(entries: Sequence[Entry]) -> list[Move]:
        placed = chronicle.placed(entries)
        line = chronicle.reign(entries, registry.policy)
        before = line[line.index(target) - 1] if target in line[1:] else None
        own = Move(registry.policy, CHAMPION, placed.get((registry.policy, CHAMPION)), target)
        return _with_champion(registry, placed, own, about.get("simulator"), before)

    none = [] if target else [*against, "there is no earlier champion that holds"]
    request = Request("rollback", subject, CHAMPION, current, about, moves, none, known=entries)
    return carry_out(registry, ledger, request)


def withdraw(name: str, alias: str) -> Moved:
    """Take an alias away from the version that it points to: a shadow or canary ends, a champion stops to act.

    Nothing is asked of any version, so that an end is always possible. A champion takes the alias of its simulator
    along, and `rollback` never goes back to it; where there is an earlier champion, `rollback` puts that in its place.

    Args:
        name: NAME of `NAME-policy`.
        alias: candidate, shadow, canary, champion or previous.

    Raises:
        ValueError: an unknown alias, or no version has it.
        RefusedError: the alias has moved meanwhile, or another move is half-done.
        StoreError: the store does not answer.
        LedgerError: the ledger is damaged.
    """
    aliases.check_alias("alias", alias, aliases.ALIASES)
    registry, ledger = Registry.known(name), Ledger.open(name)
    entries = ledger.entries()
    current = _half_withdrawn(chronicle.pending(entries), alias) or registry.aliases().get((registry.policy, alias))
    if current is None:
        raise ValueError(f"no version of {registry.policy} is called {alias}: there is nothing to withdraw")

    def moves(entries: Sequence[Entry]) -> list[Move]:
        placed = chronicle.placed(entries)
        owners = [registry.policy, *([f"{registry.name}-simulator"] if alias == CHAMPION else [])]
        return [Move(model, alias, placed[model, alias], None) for model in owners if (model, alias) in placed]

    return carry_out(registry, ledger, Request("withdraw", current, alias, current, {"version": current}, moves))


def delete(name: str, version: str) -> Moved:
    """Delete a version that no alias points to; the ledger keeps what was decided about it.

    Raises:
        RefusedError: an alias points to it, or another move is half-done.
        ValueError: a version of another model.
        StoreError: there is no such version, or the store does not answer.
        LedgerError: the ledger is damaged.
    """
    registry, ledger = Registry.known(name), Ledger.open(name)
    number = numbered(registry, version)
    waiting = chronicle.pending(ledger.entries())
    if waiting is None or (waiting.action, waiting.about["version"]) != ("delete", number):
        registry.version(number)
    return carry_out(registry, ledger, Request("delete", number, None, None, {"version": number}, lambda _: []))


def _with_champion(
    registry: Registry, placed: Mapping[tuple[str, str], str], own: Move, simulator: str | None, previous: str | None
) -> list[Move]:
    """All moves of a new champion, its own as the last: `previous`, and the simulator that it was rehearsed in.

    Where there is none, or it is not there any more, no simulator is the champion's.
    """
    moves = [Move(registry.policy, "previous", placed.get((registry.policy, "previous")), previous)]
    model, _, number = (simulator or "").partition("/")
    worlds = f"{registry.name}-simulator"
    after = number if model == worlds and registry.exists(model, number) else None
    moves.append(Move(worlds, CHAMPION, placed.get((worlds, CHAMPION)), after))
    return [move for move in moves if move.before != move.after] + [own]


def _half_withdrawn(waiting: Entry | None, alias: str) -> str | None:
    """The version that the very same command was withdrawing when it was cut short."""
    if waiting is None or waiting.action != "withdraw" or waiting.moves[0].alias != alias:
        return None
    return waiting.moves[0].before


def numbered(registry: Registry, version: str) -> str:
    """The number in `3`, `03` or `NAME-policy/3`, as the registry has it."""
    model, slash, number = version.removeprefix("models:/").rpartition("/")
    if slash and model != registry.policy:
        raise ValueError(
            f"version is {version!r}, and {registry.policy} takes versions of its own only: `mbrl copy` first"
        )
    if not number.isdecimal():
        raise ValueError(f"version is {version!r}, expected a number such as 3, or {registry.policy}/3")
    return str(int(number))


def _facts(registry: Registry, version: str) -> dict[str, Any]:
    """Where a version comes from: its run, the run's seeds, the data, and the simulator that it was rehearsed in."""
    found = registry.version(version)
    tags = {
        name: found.tags.get(f"mbrl.{name}")
        for name in ("data_id", "data_fingerprint", "simulator", "copied_from", "sha256")
    }
    facts = {"version": version, "run": found.run_id, **{name: value for name, value in tags.items() if value}}
    with models.explained(registry.client, registry.uri, registry.policy):
        run = models.run_of(registry.client, found)
    params = run.data.params if run else {}
    seeds = {key: value for key, value in params.items() if key.rpartition(".")[2] == "seed"}
    return {**facts, "seeds": seeds}
