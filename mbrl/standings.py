"""Who did how well in a comparison: scores from the answers of runs, a table, a picture and plain values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbrl import files
from mbrl.assessment import plain, shown, small
from mbrl.evaluation.estimates import Estimate
from mbrl.evaluation.intervals import student_t
from mbrl.making import stage_of
from mbrl.registry.gates import CLONING, LOG
from mbrl.report.dossier import PARTIES, intervals
from mbrl.report.forest import Stand, plot_forest

LEVELS = (
    "Intervals of means over seeds are Student's, of 95 %; those of a single seed and of the log are of their episodes,"
    " of 80 % if the rules say nothing else."
)
NOTHING = Estimate(np.nan, np.nan, np.nan, 0)  # of a run without an estimate


class Arena(NamedTuple):
    """A log to learn from, and where the truth can be had."""

    data_id: str
    env: str | None

    @property
    def name(self) -> str:
        """For registered models and files."""
        return self.data_id.rpartition("-v")[0].replace("/", "-")


class Score(NamedTuple):
    """What one learner got on one log with one seed."""

    value: Estimate  # true return; without an environment the combined gain over the log, in spreads
    verdict: str
    seconds: float  # of its rehearsal, and of the fit of the simulator where it has one
    seed: int


class Contest(NamedTuple):
    """What is compared."""

    arenas: Sequence[Arena]
    learners: Mapping[str, Path]  # by name: its configuration
    seeds: Sequence[int]
    more: Sequence[str]  # settings of `mbrl run` that hold for all, as on a command line
    together: int | None  # learners that share a run, at most
    folder: Path


def scores_of(
    answer: Mapping[str, Any], members: Sequence[str], arena: Arena, seed: int, first: bool
) -> Iterator[tuple[str, Score]]:
    """Of the learners of a run; of the first run of a log and a seed also that of behaviour cloning."""
    rows, seconds = answer["candidates"], answer["seconds"]
    fit = seconds.get("simulator", 0.0)
    each = {*rows, *left_out(answer, members)}
    shared = set(members) == each  # else they are one configuration's own: its score is that of the chosen one
    for name, row in rows.items() if shared else [(members[0], rows[answer["chosen"]])]:
        measured = row["true_return"] if arena.env else row["gain_in_spreads"]
        value = Estimate(**measured) if measured else NOTHING
        counted = {name: row} if shared else rows
        took = sum(seconds[stage_of(key)] for key in counted)
        simulated = fit if any(one["rehearsed"] for one in counted.values()) else 0.0
        yield name, Score(value, row["verdict"], took + simulated, seed)
    if first and arena.env:
        yield CLONING, Score(Estimate(**answer["true_environment"][CLONING]), "", seconds["baseline"], seed)


def left_out(answer: Mapping[str, Any], members: Sequence[str]) -> dict[str, str]:
    """The learners of a run that it went on without, and why."""
    return {name: why for name, why in answer.get("left_out", {}).items() if name in members}


def told(
    asked: Contest,
    scores: Mapping[str, Mapping[str, list[Score]]],
    logged: Mapping[str, Estimate],
    failed: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """Print the table and what failed, write both beside the picture, and hand all of it back as plain values.

    Args:
        asked: what is compared.
        scores: by log and learner, one a seed.
        logged: mean returns of the logs.
        failed: by log and learner, why there is no score.
    """
    means = {arena: {name: _mean(cells) for name, cells in table.items()} for arena, table in scores.items() if table}
    text = markdown(asked, means, scores, logged, failed)
    print(f"{text}\n{LEVELS}\n")
    for arena, reasons in failed.items():
        for name, reason in reasons.items():
            print(f"{name} on {arena}: {reason}")
    answer = {
        "folder": str(asked.folder),
        "table": text,
        "scores": {
            arena: {
                name: {"mean": plain(means[arena][name]), "seeds": [plain(cell._asdict()) for cell in cells]}
                for name, cells in table.items()
            }
            for arena, table in scores.items()
        },
        "logged": plain(dict(logged)),
        "failed": failed,
    }
    for file, content in ("table.md", text), ("comparison.json", json.dumps(answer, indent=2, default=str)):
        with files.replacing(asked.folder / file) as beside:
            beside.write_text(content)
    (asked.folder / "comparison.png").unlink(missing_ok=True)  # of an earlier call
    if panels := [_stand(arena, means, logged) for arena in asked.arenas if arena.name in means]:
        plot_forest(asked.folder / "comparison.png", panels, "Learners by log", PARTIES)
    return answer


def _known(cells: Sequence[Score]) -> list[Estimate]:
    """The values of those seeds whose run gave one: without a truth, a kind of estimator may have refused."""
    return [cell.value for cell in cells if np.isfinite(cell.value.value)]


def _mean(cells: Sequence[Score]) -> Estimate:
    """Over the seeds that gave a value, with Student's interval for their mean; NaN where none did.

    A single seed has the interval of its own episodes.
    """
    found = _known(cells)
    if len(found) < 2:
        return found[0] if found else NOTHING
    return student_t([one.value for one in found])


def _stand(arena: Arena, means: Mapping[str, Mapping[str, Estimate]], logged: Mapping[str, Estimate]) -> Stand:
    rows = {name: value for name, value in means[arena.name].items() if np.isfinite(value[:3]).all()}
    missing = {name: "no value with finite bounds" for name in means[arena.name] if name not in rows}
    if arena.env is None:
        return Stand(arena.data_id, "gain over the log, in spreads", intervals(rows), 0.0, missing)
    rows = {LOG: logged[arena.name], **rows}
    return Stand(f"{arena.data_id}, in {arena.env}", "true return", intervals(rows), logged[arena.name].value, missing)


def markdown(
    asked: Contest,
    means: Mapping[str, Mapping[str, Estimate]],
    scores: Mapping[str, Mapping[str, list[Score]]],
    logged: Mapping[str, Estimate],
    failed: Mapping[str, Mapping[str, str]],
) -> str:
    """The table: a row for the log itself, for behaviour cloning and for each learner; two columns for each log.

    The second one has the minutes that a learner took, on average over the seeds.
    """
    heads = [f"{a.data_id}{'' if a.env else ' (gain in spreads)'} | min" for a in asked.arenas]
    own = [shown(logged[a.name]) if a.env and a.name in logged else "" for a in asked.arenas]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (2 * len(heads) + 1) + "|"]
    lines.append(f"| {LOG} | {' | '.join(f'{value} |'.strip() for value in own)} |")
    for name in [CLONING, *asked.learners]:
        cells = [_cell(asked, arena, name, means, scores, failed) for arena in asked.arenas]
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cell or '|' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _cell(
    asked: Contest,
    arena: Arena,
    name: str,
    means: Mapping[str, Mapping[str, Estimate]],
    scores: Mapping[str, Mapping[str, list[Score]]],
    failed: Mapping[str, Mapping[str, str]],
) -> str:
    """What a learner got on a log, and the minutes that it took; empty where it was not asked."""
    found = scores[arena.name].get(name, [])
    took = f"{np.mean([cell.seconds for cell in found]) / 60:.1f}" if found else ""
    known = len(_known(found))
    if not known:
        return f"- | {took}".rstrip() if found or name in failed[arena.name] else ""
    value = means[arena.name][name]
    lacking = f" ({known} of {len(asked.seeds)} seeds)" if known < len(asked.seeds) else ""
    return f"{(shown if arena.env else small)(value)}{lacking} | {took}"
