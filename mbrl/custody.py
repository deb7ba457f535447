"""The commands that decide about registered policies: one function each, as in `mbrl.stages`, which has the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mbrl.registry import promotion


def promote(
    name: str,
    version: str | None = None,
    to: Literal["shadow", "canary", "champion"] = "champion",
    approver: str | None = None,
    expected: str | None = None,
) -> dict[str, Any]:
    """Move an alias of a registered policy to a version that its verdict, its files and its answers speak for.

    Args:
        name: NAME of the registered model NAME-policy.
        version: of that model; the one called candidate if not given.
        to: the alias to move. A shadow only watches and needs no verdict.
        approver: who approves it, where the rules want somebody beside the author.
        expected: version that the alias has to be at; where it is when the command begins if not given.
    """
    from mbrl.registry import promotion

    return _moved(promotion.promote(name, version, to, approver, expected))


def rollback(name: str) -> dict[str, Any]:
    """Make the last champion before the present one that still holds champion again.

    Args:
        name: NAME of the registered model NAME-policy.
    """
    from mbrl.registry import promotion

    return _moved(promotion.rollback(name))


def withdraw(name: str, alias: Literal["candidate", "shadow", "canary", "champion", "previous"]) -> dict[str, Any]:
    """Take an alias away from the version that has it: a shadow or canary ends, a champion stops to act.

    Args:
        name: NAME of the registered model NAME-policy.
        alias: the one to take away. Nothing is asked of any version: it is refused only while another move
            of NAME is half-done, which `mbrl history NAME --repair` finishes.
    """
    from mbrl.registry import promotion

    return _moved(promotion.withdraw(name, alias))


def history(name: str, verify: bool = False, repair: bool = False) -> dict[str, Any]:
    """Tell every decision about a registered policy; prove that all of it holds, or mend what was half-done.

    Args:
        name: NAME of the registered model NAME-policy.
        verify: prove the ledger's chain, the aliases, and every version's files, verdict, evidence and answers; end
            with exit status 1 if anything does not hold.
        repair: first finish or take back what was half-done, and put aliases to where the ledger has them.
    """
    from mbrl.registry import chronicle, models, proof
    from mbrl.registry.ledger import Ledger

    mended = proof.repair(name) if repair else []
    for line in mended:
        print(f"mended: {line}")
    wrong = proof.verify(name) if verify else []
    if wrong:
        return {"wrong": wrong, "mended": mended, "error": f"{name} does not hold: {'; '.join(wrong)}"}
    entries = Ledger.open(name).entries()
    if not entries:
        models.check_known(f"{name}-policy")
    for entry in entries:
        print(chronicle.line(entry))
    head = entries[-1].hash if entries else None
    proved = "; chain, aliases, verdicts, evidence, files and golden pairs hold" if verify else ""
    print(f"{name}: {len(entries)} entries, head {head}{proved}")
    told = {"name": name, "entries": [entry.to_dict() for entry in entries], "head": head, "mended": mended}
    return {**told, "wrong": wrong} if verify else told


def delete(name: str, version: str) -> dict[str, Any]:
    """Delete a version of a registered policy that no alias points to.

    Args:
        name: NAME of the registered model NAME-policy.
        version: of that model.
    """
    from mbrl.registry import promotion

    return _moved(promotion.delete(name, version))


def copy(name: str, to: str, version: str | None = None, as_name: str | None = None) -> dict[str, Any]:
    """Copy a registered policy, its simulator and its lineage to another store or name, where it becomes the candidate.

    Args:
        name: NAME of the registered model NAME-policy.
        to: URI of an MLflow server or of a sqlite file, or another MBRL_HOME.
        version: of that model; the champion if not given.
        as_name: NAME there; the same if not given.
    """
    from mbrl.registry import transfer

    copied = transfer.copy(name, to, version, as_name)
    rehearsed = f", rehearsed in {copied.simulator}," if copied.simulator else ""
    print(f"{copied.policy}{rehearsed} is in {copied.uri}: the candidate there, promote it with mbrl promote")
    return copied._asdict()


def _moved(moved: promotion.Moved) -> dict[str, Any]:
    if moved.entry is None:
        print(f"{moved.model}@{moved.alias} is at version {moved.after} already")
    else:
        print(f"{moved.model}@{moved.alias}: {moved.before or 'none'} -> {moved.after or 'none'}")
        print(f"ledger: entry {moved.entry}, head {moved.head}")
    return moved._asdict()
