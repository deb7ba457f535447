"""What an import says of itself to a reader: what was taken, what was left out and why, and what comes next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

FEW = 3  # dropped episodes that are named


def lines(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A word and a sentence for everything that there is to say of what `mbrl.data.tables.import_log` returned."""
    id, terminals = report["id"], report["terminals"]
    counted = f"{report['rows']:,} rows, {report['episodes']:,} episodes ({terminals:,} with a terminal end)"
    yield "log", f"{id}: {counted}, mean return {report['mean_return']:.6g}"
    if (series := report["series"]) < report["episodes"]:
        yield (
            "pieces",
            f"of {series:,} series: neither flag nor id parts them, and a pause is no news, so neighbours may be alike",
        )
    if (files := len(report["files"])) > 1:
        yield "files", f"{files:,}, whose rows are counted from 0 and through all of them"
    if last := report["rows_without_successor"]:
        yield "left out", f"rows that are final observations and no steps, as none of their episode follows: {last:,}"
    for one in report["dropped"][:FEW]:
        yield "left out", f"episode {one['episode']:,}, from row {one['row']:,} on, both from 0: {one['reason']}"
    if (more := report["dropped_episodes"] - FEW) > 0:
        yield "left out", f"more episodes, which --json names: {more:,}"
    if gaps := report["gaps"]:
        yield "gaps", f"pauses longer than max_gap, which end an episode: {gaps:,}"
    if filled := report["filled_cells"]:
        each = ", ".join(f"{name} {count:,}" for name, count in filled.items())
        yield "filled", f"empty cells, from the rows around them, by the rule of resample: {each}"
    if unknown := report["unknown_rows"]:
        yield "left out", f"rows with an empty cell and no value within max_gap, which end an episode: {unknown:,}"
    if report["period"] is not None:
        yield "period", f"{report['period']:g} a step"
    if clipped := report["clipped_actions"]:
        yield "clipped", f"rows with an action beyond its bounds, which was brought to them: {clipped:,}"
    for name, found in report["outside_bounds"].items():
        first = ", ".join(map(str, found["rows"]))
        yield "outside", f"rows with {name!r} beyond its physical bounds: {found['count']:,}; the first: {first}"
    if report["exogenous"]:
        yield "exogenous", ", ".join(report["exogenous"])
    yield "folder", f"{report['path']}   (fingerprint {report['fingerprint'][:12]}, {report['seconds']:.1f} s)"
    yield "next", f"mbrl audit {id}   says what the log can teach; mbrl run --data {id}   learns from it"
