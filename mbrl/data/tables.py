"""Logs as files (npz, CSV, Parquet) -> a Minari data set, as a stream: `mbrl import`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from mbrl.data import minari
from mbrl.data.clock import resampled, uneven
from mbrl.data.columns import Plan, rows, survey
from mbrl.data.declared import about, rule_of, schema_of, spaces
from mbrl.data.episodes import Rows, cut, limited, pieces, to_episode
from mbrl.data.faults import fault, outside
from mbrl.data.findings import ROWS_NAMED
from mbrl.data.lastrows import Unpaid, closed
from mbrl.data.logfiles import LogFiles, open_files
from mbrl.data.schema import Schema
from mbrl.environments import Box, Discrete, Episode

LINE_EVERY = 5.0  # seconds between progress lines where stderr is not a terminal


@dataclass(frozen=True)
class _Log:
    files: LogFiles
    plan: Plan
    spaces: tuple[Box, Box | Discrete]
    rule: Callable[..., Any] | None  # what gives the reward


@dataclass
class _Tally:
    period: float | None
    gaps: int = 0
    clipped: int = 0  # rows with an action that was brought to its bounds
    outside: dict[str, list[np.ndarray]] = field(default_factory=dict)
    rows: int = 0
    terminals: int = 0
    last_rows: int = 0  # rows that became a final observation only
    lone: int = 0  # terminal rows among them that have no row before them
    latched: int = 0  # terminal rows alone, right after another terminal row
    longest: int = 0  # steps of an episode
    unpaid: Unpaid = field(default_factory=Unpaid)
    returns: list[float] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)

    def outside_of(self, name: str) -> dict[str, Any]:
        """How many rows leave the bounds of a column, and the first of them."""
        found = np.unique(np.concatenate(self.outside[name]))  # two pieces share a row
        return {"count": len(found), "rows": found[:ROWS_NAMED].tolist()}


def import_log(
    file: str | Path | Sequence[str | Path],
    id: str,
    *,
    env: str | None = None,
    schema: str | Path | None = None,
    on_bad_rows: Literal["error", "drop-episode"] = "error",
) -> dict[str, Any]:
    """Turn a log into a Minari (hdf5) data set that appears whole or not at all.

    Episodes end where a terminal or truncated flag is set, where the episode id changes, at a gap in time, and at the
    end of a file; an end without a flag counts as truncated. With a column of time an episode goes on into the next
    file where that begins later than this one ends, and none of the other ends is there. Ids count within a file.

    Args:
        file: .npz, .csv, .csv.gz or .parquet; or several of one kind with the same columns, as a list or as a folder;
            see `mbrl.data.logfiles.open_files` for their order. An npz with obs, action, next_obs, reward, done and
            truncated (and perhaps index, the first row of each episode) needs no schema, or one that names no column.
        id: NAMESPACE/NAME-vN, not taken.
        env: Gymnasium id, or `module:EnvId`, that the log is from: gives the spaces and the action bounds.
        schema: YAML file that names the columns, see `mbrl.data.schema.Schema`.
        on_bad_rows: what a row that cannot be used does: stop the import, or drop its episode. A flag, an id, a time,
            a category or the name of a choice that cannot be read always stops it.

    Returns:
        what was imported: id, path, files (path and first_row: rows are counted through all of them), episodes, rows,
        terminals, mean_return, dropped (episode, row, reason), gaps, lone_terminals, clipped_actions (rows), period,
        outside_bounds (by column: count and first rows), constant (channels dropped, with their value), exogenous
        (channels), ...

    Raises:
        ValueError: the log, the schema, the environment and the id do not fit together; the message names the row
            (counted from 0 in its file), the column or the key.
        FileExistsError: the id is taken.
        FileNotFoundError: there is no such file.
    """
    begin = time.monotonic()
    if on_bad_rows not in ("error", "drop-episode"):
        raise ValueError(f"on_bad_rows is {on_bad_rows!r}, expected 'error' or 'drop-episode'")
    minari.check_id(id)
    minari.check_free(id)
    files = open_files(file)
    columns = schema_of(files, schema)
    drop, lenient = schema is not None and env is None and not columns.keep_constant, on_bad_rows != "error"
    plan = survey(files, columns, drop, lenient)
    for channel, value in plan.constant.items():
        print(f"import: {channel!r} is {value} in every row and is dropped", file=sys.stderr)
    chunks = rows(files, plan)
    first = next(chunks, None)
    if first is None:
        raise ValueError(f"{files} holds no row")
    log = _Log(files, plan, spaces(files, plan, first, env), rule_of(columns))
    if env is not None and first.given:
        told = ", ".join(first.columns["obs"])
        print(f"import: the observation of {env} has to be {told}, in this order: exogenous last", file=sys.stderr)
    tally = _Tally(period=columns.period)
    episodes = _episodes(log, _shown(chain([first], chunks), files.rows), on_bad_rows, tally)
    name = files.parts[0].path.name if len(files.parts) == 1 else f"{len(files.parts)} files"
    note = f"imported from {name} by mbrl"
    names = about(columns, first, plan.constant, log.spaces[1])
    made = minari.write(id, episodes, *log.spaces, env_id=env, description=note, names=names)
    try:
        data = minari.load(id)
    except ValueError:
        minari.remove(id)  # what cannot be used must not keep the id
        raise
    if latched := tally.latched if tally.longest > 1 else 0:
        told = "a row that ends the world comes right after another one, and ends an episode of its own or nothing"
        print(f"import: {latched} times {told}: of a flag that stays set, flag the first row alone", file=sys.stderr)
    if tally.lone > latched:
        told = "a terminal row stands alone between two gaps in time, and ends nothing"
        alone = tally.lone - latched
        print(f"import: {alone} times {told}: raise max_gap to have it end the rows before it", file=sys.stderr)
    return {
        "id": id,
        "path": str(made),
        "files": files.counted(),
        "episodes": data.episodes,
        "rows": len(data),
        "terminals": tally.terminals,
        "mean_return": sum(tally.returns) / len(tally.returns),
        "rows_without_successor": tally.last_rows,
        "dropped_episodes": len(tally.dropped),
        "dropped": tally.dropped,
        "gaps": tally.gaps,
        "lone_terminals": tally.lone,
        "clipped_actions": tally.clipped,
        "period": tally.period,
        "outside_bounds": {name: tally.outside_of(name) for name in tally.outside},
        "constant": plan.constant,
        "exogenous": [data.channels[k] for k in data.exogenous],
        "fingerprint": data.fingerprint,
        "seconds": time.monotonic() - begin,
    }


def _episodes(
    log: _Log, chunks: Iterable[Rows], on_bad_rows: Literal["error", "drop-episode"], tally: _Tally
) -> Iterator[Episode]:
    schema, files = log.plan.schema, log.files
    before: Rows | None = None
    space = log.spaces[1]
    for number, (logged, more) in enumerate(_logged(cut(chunks, schema.gap), schema)):
        raw, logged = logged, closed(logged, schema)  # what is resampled is closed anew, but checked as it was logged
        if schema.clip_action and isinstance(space, Box):
            logged, clipped = limited(logged, space)
            tally.clipped += clipped
        if before is not None:
            tally.gaps += _paused(before, logged, schema.gap)
            tally.latched += _latched(before, logged)
        before = logged
        reason = _reason(log, logged, tally)
        if reason is not None:
            if on_bad_rows == "error":
                raise ValueError(
                    f"{files}: {reason} (rows count from 0; --on-bad-rows drop-episode leaves such episodes out)"
                )
            tally.dropped.append({"episode": number, "row": logged.first, "reason": reason})
            continue
        if violated := outside(logged, schema.bounds):
            for name, found in violated.items():
                tally.outside.setdefault(name, []).append(found)
            tally.dropped.append({"episode": number, "row": logged.first, "reason": f"{', '.join(violated)}: bounds"})
            continue
        whole = logged
        if schema.resample:
            whole = closed(resampled(replace(logged, next_obs=raw.next_obs), schema), schema)
        for ready, goes_on in pieces(whole, schema.cut_every):
            yield from _stored(log, ready, more or goes_on, tally)
    if tally.outside and on_bad_rows == "error":
        raise ValueError(f"{files}: {_told_outside(log, tally)}")
    if not tally.rows:
        raise ValueError(f"{files}: no episode is left, {len(tally.dropped)} were dropped: {tally.dropped[:1]}")
    if notice := tally.unpaid.notice(schema):
        print(f"import: {notice}", file=sys.stderr)


def _logged(parts: Iterable[Rows], schema: Schema) -> Iterator[tuple[Rows, bool]]:
    """What becomes an episode each, and whether it goes on in the next one; what is resampled is cut thereafter."""
    for part in parts:
        if schema.resample:
            yield part, False
        else:
            yield from pieces(closed(part, schema), schema.cut_every)


def _stored(log: _Log, ready: Rows, more: bool, tally: _Tally) -> Iterator[Episode]:
    """The rows as an episode, counted; nothing of a single one that has no successor."""
    if len(ready) == 1 and ready.next_obs is None:
        tally.last_rows += 1
        tally.lone += int(ready.terminated[-1])
        tally.unpaid.count(ready, None)
        return
    episode = to_episode(ready, log.spaces[1], log.plan.constant, log.rule)
    tally.rows += len(episode.rewards)
    tally.longest = max(tally.longest, len(episode.rewards))
    tally.last_rows += 0 if more else len(ready) - len(episode.rewards)
    tally.terminals += int(episode.terminations[-1])
    tally.returns.append(float(episode.rewards.sum()))
    tally.unpaid.count(ready, episode, more)
    yield episode


def _paused(before: Rows, after: Rows, gap: float | None) -> bool:
    """Whether nothing but a gap in time parts two pieces of the log."""
    if gap is None or before.time is None or after.time is None or before.terminated[-1] or before.truncated[-1]:
        return False
    same = before.episode is None or after.episode is None or before.episode[-1] == after.episode[0]
    return bool(same and after.time[0] - before.time[-1] > gap)


def _latched(before: Rows, after: Rows) -> bool:
    """Whether a terminal row stands alone after another one: a flag that stays set ends the world again and again."""
    same = before.episode is None or after.episode is None or before.episode[-1] == after.episode[0]
    return bool(same and not after.opens and len(after) == 1 and after.terminated[0] and before.terminated[-1])


def _reason(log: _Log, logged: Rows, tally: _Tally) -> str | None:
    """Why an episode cannot be used, None where it can."""
    schema = log.plan.schema
    alone = schema.gap is not None and len(logged) == 1 and logged.next_obs is None  # between two gaps
    reason = fault(logged, log.spaces[1], alone)
    if reason is not None or logged.time is None or schema.resample or len(logged) < 2:
        return reason
    if tally.period is None:
        tally.period = float(np.median(np.diff(logged.time)))
    return uneven(logged, tally.period)


def _told_outside(log: _Log, tally: _Tally) -> str:
    told = []
    for name in tally.outside:
        found = tally.outside_of(name)
        first = ", ".join(log.files.at(row) for row in found["rows"][:5])
        low, high = log.plan.schema.bounds[name]
        told.append(f"column {name!r} leaves its bounds [{low:g}, {high:g}] in {found['count']} rows, such as {first}")
    return (
        f"{'; '.join(told)} (rows count from 0): correct the rows or the schema's bounds, or leave their episodes out "
        "with --on-bad-rows drop-episode"
    )


def _shown(chunks: Iterable[Rows], total: int | None) -> Iterator[Rows]:
    """Pass chunks on and show the progress on stderr: a bar on a terminal, else a line now and then."""
    seen, said = 0, time.monotonic()
    with tqdm(total=total, unit="row", unit_scale=True, desc="import", disable=not sys.stderr.isatty()) as bar:
        for chunk in chunks:
            yield chunk
            seen += len(chunk)
            bar.update(len(chunk))
            if bar.disable and time.monotonic() - said > LINE_EVERY:
                print(f"import: {seen:,} rows" + (f" of {total:,}" if total else ""), file=sys.stderr)
                said = time.monotonic()
