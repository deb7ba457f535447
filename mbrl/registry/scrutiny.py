"""What speaks against letting a version act: its verdict, its files, its answers, and who approves it."""

from __future__ import annotations

from collections.abc import Sequence

from mbrl.registry import chronicle, models
from mbrl.registry.aliases import CHAMPION, Registry
from mbrl.registry.decisions import NOBODY
from mbrl.registry.ledger import Entry
from mbrl.registry.twophase import DECISION_TAG
from mbrl.serving import golden


def objections(registry: Registry, version: str, verdict: Entry | None, gated: bool) -> list[str]:
    """What speaks against letting a version act: its verdict (if `gated`), a file, its answers to the golden pairs.

    Raises:
        StoreError: the store does not answer.
    """
    found = []
    label, tags = f"{registry.policy}/{version}", registry.version(version).tags
    if verdict is not None:
        decision = chronicle.decision(verdict)
        if tags.get(DECISION_TAG) != decision.to_json():
            found.append(f"tag {DECISION_TAG} of {label} is not the verdict in entry {verdict.number} of the ledger")
        if gated and not decision.passed:
            found.append(f"the verdict on {label} is {decision.outcome!r}: {'; '.join(decision.reasons)}")
    elif gated:
        found.append(
            f"{label} has no verdict in the ledger of {registry.name}: `mbrl run`, `mbrl finetune` and `mbrl copy`"
            " write one"
        )
    try:
        with models.fetched(registry.policy, version) as (folder, manifest):
            if manifest.get("model") != registry.policy:
                found.append(
                    f"{label} holds the files of {manifest.get('model')}: use `mbrl copy`, which keeps its lineage"
                )
            else:
                golden.check(folder, label)
            judged = tags.get(models.SEALED) if verdict is None else verdict.about.get("sha256")
            if judged not in (None, manifest["sha256"]):
                found.append(
                    f"{label} holds other files than were registered: SHA-256 of its manifest is"
                    f" {manifest['sha256']}, expected {judged}"
                )
    except ValueError as error:
        found.append(str(error))
    return found


def alone(verdict: Entry | None, approver: str | None) -> list[str]:
    """What the rules have against this approver: that there is none, or that it is the author."""
    if verdict is None or not verdict.about["decision"]["second_person"]:
        return []
    author = verdict.about["author"]
    if approver is None:
        return [f"the rules want an approver beside the author {author}: --approver WHO"]
    return [f"the approver {approver} is the author, and the rules want another one"] if approver == author else []


def overtaken(verdict: Entry | None, reigning: str | None) -> list[str]:
    """What speaks against taking the reigning champion's place: that the verdict comes from before it reigned."""
    compared = None if verdict is None else chronicle.decision(verdict).champion
    if compared is None or reigning in (None, compared):
        return []
    whom = "nobody, as there was no champion" if compared == NOBODY else f"version {compared}"
    return [
        f"the verdict compares it with {whom}, and version {reigning} reigns now: run it again (`mbrl run`), which"
        f" compares it with that one, or end the reign first (`mbrl withdraw` with --alias {CHAMPION})"
    ]


def last_that_holds(registry: Registry, entries: Sequence[Entry], line: Sequence[str]) -> tuple[str | None, list[str]]:
    passed_over: list[str] = []
    for version in reversed(line):
        if not registry.exists(registry.policy, version):
            against = [f"{registry.policy}/{version} is deleted"]
        else:
            against = objections(registry, version, chronicle.judged(entries, version), gated=True)
        if not against:
            return version, passed_over
        passed_over += against
    return None, passed_over
