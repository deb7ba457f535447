"""`mbrl sweep`: configurations and seeds on one log, each an `mbrl run` in a process of its own, several at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from mbrl import files
from mbrl.assessment import shown, small
from mbrl.contest import run_settings, sharing
from mbrl.engines import Ended, Engine, Member, complaint, lost, write
from mbrl.evaluation.estimates import Estimate
from mbrl.inspection import EXPERIMENT
from mbrl.registry.runs import RunLog
from mbrl.report.console import tell
from mbrl.standings import Arena


def sweep(
    name: str, arena: Arena, configurations: Mapping[str, Path], seeds: Sequence[int], folder: Path, engine: Engine
) -> dict[str, Any]:
    """Run what has not been run of all configurations and seeds, and tell what became of each.

    The runs become children of one MLflow run. A member that fails leaves the others alone, and the same call goes on
    with it.

    Raises:
        ValueError: as `engines.write`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs = list(_runs(name, arena, configurations, seeds, folder))
    write(runs)
    members = [member for member, _ in runs]
    notes = folder / "sweep.json"
    known = json.loads(notes.read_text())["run_id"] if notes.exists() else None
    ended: dict[str, Ended] = {}
    with closing(engine(members)) as going, RunLog.open(EXPERIMENT, name, known) as record:
        with files.replacing(notes) as beside:
            beside.write_text(json.dumps({"run_id": record.run_id}))
        for one in going:
            ended[one.member.name] = one
            if (run_id := _run_id(one.member)) is not None:
                record.adopt(run_id)
            tell(one.member.name, one.failure or one.answer["verdict"])
        return _told(folder, arena, [ended[member.name] for member in members], record.run_id)


def _runs(
    name: str, arena: Arena, configurations: Mapping[str, Path], seeds: Sequence[int], folder: Path
) -> Iterator[tuple[Member, dict[str, Any]]]:
    """All members, with their settings."""
    for label, path in configurations.items():
        settings = sharing(run_settings(path, arena, ()), folder)
        for seed in seeds:
            own = f"{label}-{seed}"
            yield Member.of(own, folder), settings | {"seed": seed, "env": arena.env, "name": f"{name}-{own}"}


def _run_id(member: Member) -> str | None:
    notes = member.folder / "run.json"
    found: str | None = json.loads(notes.read_text()).get("run_id") if notes.exists() else None
    return found


def _told(folder: Path, arena: Arena, ended: Sequence[Ended], run_id: str) -> dict[str, Any]:
    lines = [f"| run | verdict | {'true return' if arena.env else 'gain over the log, in spreads'} |", "|---|---|---|"]
    for one in ended:
        lines.append(f"| {one.member.name} | {one.answer.get('verdict', 'failed')} | {_value(one, arena)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    failed = lost(ended)
    answer = {
        "folder": str(folder),
        "run_id": run_id,
        "table": text,
        "members": {one.member.name: one.answer for one in ended if one.failure is None},
        "failed": failed,
    }
    return answer | ({"error": complaint(failed, len(ended))} if failed else {})


def _value(one: Ended, arena: Arena) -> str:
    if one.failure is not None:
        return ""
    row = one.answer["candidates"][one.answer["chosen"]]
    found = row["true_return"] if arena.env else row["gain_in_spreads"]
    if not found:
        return "-"
    value = Estimate(**found)
    return shown(value) if arena.env else small(value)
