"""What a ledger says, read from its entries alone: pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mbrl.registry.decisions import Decision
from mbrl.registry.ledger import CUT, Entry

CHAMPION = "champion"
ALIASES = ("candidate", "shadow", "canary", CHAMPION, "previous")


def pending(entries: Sequence[Entry]) -> Entry | None:
    """The intention that has neither been carried out nor taken back; there is one at most, as it bars all others."""
    settled = {entry.about["of"] for entry in entries if entry.phase in ("done", "undone")}
    waiting = [entry for entry in entries if entry.phase == "intended" and entry.number not in settled]
    return waiting[-1] if waiting else None


def carried_out(entries: Sequence[Entry]) -> list[Entry]:
    """The intentions that were carried out, in the order in which they ended."""
    return [entries[entry.about["of"] - 1] for entry in entries if entry.phase == "done"]


def placed(entries: Sequence[Entry]) -> dict[tuple[str, str], str]:
    """Where each alias stands: {(model, alias): version}; an alias without a version is left out."""
    aliases: dict[tuple[str, str], str] = {}
    for entry in carried_out(entries):
        for move in entry.moves:
            aliases.pop((move.model, move.alias), None)
            if move.after is not None:
                aliases[move.model, move.alias] = move.after
    return aliases


def differences(
    entries: Sequence[Entry], at: Mapping[tuple[str, str], str]
) -> list[tuple[tuple[str, str], str | None, str | None]]:
    """Aliases of ours that do not stand where the ledger put them: ((model, alias), where it did, where they do)."""
    put = placed(entries)
    ours = sorted(put.keys() | {key for key in at if key[1] in ALIASES})
    return [(key, put.get(key), at.get(key)) for key in ours if put.get(key) != at.get(key)]


def reign(entries: Sequence[Entry], model: str) -> list[str]:
    """The champions that lead to the present one, oldest first, without those that were withdrawn or gone back over."""
    line: list[str] = []
    for entry in carried_out(entries):
        for move in entry.moves:
            if (move.model, move.alias) == (model, CHAMPION):
                if move.after is None:  # withdrawn, or mended: its version was deleted past the ledger
                    line = [version for version in line if version != move.before]
                    continue
                if entry.action == "rollback":
                    line = line[: line.index(move.after) + 1] if move.after in line else []
                else:
                    line = [version for version in line if version != move.after] + [move.after]
    return line


def judged(entries: Sequence[Entry], version: str) -> Entry | None:
    """The entry with the last verdict on a version; None if there is none."""
    found = [e for e in carried_out(entries) if e.action in ("judge", "copy") and e.about["version"] == version]
    return found[-1] if found else None


def decision(entry: Entry) -> Decision:
    """The verdict in an entry; its reasons may have been shortened."""
    return Decision.from_dict({**entry.about["decision"], "reasons": tuple(entry.about.get("reasons", ()))})


def says(entry: Entry, verdict: Decision) -> bool:
    """Whether this is the verdict in an entry, which may have kept the first of its reasons only."""
    kept = decision(entry)
    if kept.reasons[-1:] == (CUT,):
        first = kept.reasons[:-1]
        verdict = verdict._replace(reasons=(*verdict.reasons[: len(first)], CUT))
    return kept == verdict


def line(entry: Entry) -> str:
    """One entry for a reader."""
    about = entry.about
    parts = [f"{entry.number:>4}  {entry.time}  {entry.phase:<8}", entry.action]
    if "version" in about:
        parts.append(f"version {about['version']}")
    parts += [f"{m.model}@{m.alias} {m.before or 'none'} -> {m.after or 'none'};" for m in entry.moves]
    if "of" in about:
        parts.append(f"(entry {about['of']})")
    if "decision" in about:
        parts.append(f"[{about['decision']['outcome']}, rules {about['decision']['rules_version']}]")
    parts += [f"by {about['who']}", *([f"approved by {about['approver']}"] if about.get("approver") else [])]
    parts += [f"({about['clock']})"] if "clock" in about else []
    return "  ".join([*parts[:1], " ".join(parts[1:]), *(f"- {reason}" for reason in about.get("reasons", ()))])
