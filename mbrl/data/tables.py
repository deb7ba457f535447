"""Logs as files (npz, CSV, Parquet) -> a Minari data set, as a stream: `mbrl import`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from mbrl.data import minari
from mbrl.data.clock import resampled, uneven
from mbrl.data.columns import Plan, measurements, rows, survey
from mbrl.data.dataset import TransitionDataset
from mbrl.data.declared import about, rule_of, schema_of, spaces
from mbrl.data.episodes import Rows, cut, limited, parted, pieces, to_episode
from mbrl.data.faults import fault, outside, unusable
from mbrl.data.lastrows import closed
from mbrl.data.logfiles import LogFiles, open_files
from mbrl.data.mending import known, mended
from mbrl.data.schema import Schema
from mbrl.data.tally import Tally, backward, latched, paused, unbroken
from mbrl.environments import Box, Discrete, Episode

LINE_EVERY = 5.0  # seconds between progress lines where stderr is not a terminal


@dataclass(frozen=True)
class _Log:
    files: LogFiles
    plan: Plan
    spaces: tuple[Box, Box | Discrete]
    rule: Callable[..., Any] | None  # what gives the reward


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
        on_bad_rows: what a row that cannot be used does: stop the import, or drop its episode; of a series that
            `cut_every` cuts, the steps to and from that row alone. A flag, an id, a time, or the name of a category or
            of a choice that the schema does not list always stops it.

    Returns:
        what was imported: id, path, files (path and first_row: rows are counted through all of them), episodes, rows,
        terminals, mean_return, dropped (episode, row, reason), gaps, filled_cells (by column) and unknown_rows (with
        `resample`: what its rule gave for empty cells, and the rows for which it gave nothing), series (with
        `cut_every`: what no flag and no id parts, which the episodes are pieces of), lone_terminals, clipped_actions
        (rows), period, outside_bounds (by column: count and first rows), constant (channels dropped, with their value),
        exogenous (channels), ...

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
    for notice in measurements(plan.schema):
        _notice(notice)
    for channel, value in plan.constant.items():
        _notice(f"{channel!r} is {value} in every row and is dropped")
    chunks = rows(files, plan)
    first = next(chunks, None)
    if first is None:
        raise ValueError(f"{files} holds no row")
    log = _Log(files, plan, spaces(files, plan, first, env), rule_of(columns))
    if env is not None and first.given:
        told = ", ".join(first.columns["obs"])
        _notice(f"the observation of {env} has to be {told}, in this order: exogenous last")
    tally = Tally(period=columns.period)
    episodes = _episodes(log, _shown(chain([first], chunks), files.rows), on_bad_rows, tally)
    name = files.parts[0].path.name if len(files.parts) == 1 else f"{len(files.parts)} files"
    note = f"imported from {name} by mbrl"
    names = about(columns, first, plan.constant, log.spaces[1])
    kept: dict[str, Any] = {"env_id": env, "description": note, "names": names}
    made = minari.write(id, episodes, *log.spaces, **kept, series=lambda: tally.series if tally.cut else ())
    try:
        data = minari.load(id)
    except ValueError:
        minari.remove(id)  # what cannot be used must not keep the id
        raise
    _tell_odd_ends(tally)
    return _imported(made, files, plan, tally, data) | {"seconds": time.monotonic() - begin}


def _notice(text: str) -> None:
    print(f"import: {text}", file=sys.stderr)


def _tell_odd_ends(tally: Tally) -> None:
    """What ends and files say that is seldom meant."""
    if stuck := tally.latched if tally.longest > 1 else 0:
        told = "a row that ends the world comes right after another one, and ends an episode of its own or nothing"
        _notice(f"{stuck} times {told}: of a flag that stays set, flag the first row alone")
    if tally.backward and tally.cut:
        told = "a file begins before the one before it ends, and so counts as another series"
        _notice(f"{tally.backward} times {told}: name files of one plant in the order of time")
    if tally.lone > stuck:
        told = "a terminal row stands alone between two gaps in time, and ends nothing"
        _notice(f"{tally.lone - stuck} times {told}: raise max_gap to have it end the rows before it")


def _imported(path: Path, files: LogFiles, plan: Plan, tally: Tally, data: TransitionDataset) -> dict[str, Any]:
    """What `import_log` returns, but for the seconds."""
    return {
        "id": data.id,
        "path": str(path),
        "files": files.counted(),
        "episodes": data.episodes,
        "rows": len(data),
        "terminals": tally.terminals,
        "mean_return": sum(tally.returns) / len(tally.returns),
        "rows_without_successor": tally.last_rows,
        "dropped_episodes": len(tally.dropped),
        "dropped": tally.dropped,
        "gaps": tally.gaps,
        "filled_cells": dict(tally.filled),
        "unknown_rows": tally.unknown,
        "series": len(data.series) or data.episodes,
        "lone_terminals": tally.lone,
        "clipped_actions": tally.clipped,
        "period": tally.period,
        "outside_bounds": {name: tally.outside_of(name) for name in tally.outside},
        "constant": plan.constant,
        "exogenous": [data.channels[k] for k in data.exogenous],
        "fingerprint": data.fingerprint,
    }


def _episodes(
    log: _Log, chunks: Iterable[Rows], on_bad_rows: Literal["error", "drop-episode"], tally: Tally
) -> Iterator[Episode]:
    schema, files = log.plan.schema, log.files
    before: Rows | None = None
    space, going = log.spaces[1], False  # and whether the plant goes on from what was before
    for number, (logged, more) in enumerate(_logged(cut(chunks, schema.gap), log, on_bad_rows, tally)):
        tally.begun += not (going or (before is not None and unbroken(before, logged)))
        going = more
        raw, logged = logged, closed(logged, schema)  # what is resampled is closed anew, but checked as it was logged
        if schema.clip_action and isinstance(space, Box):
            logged, clipped = limited(logged, space)
            tally.clipped += clipped
        stays = before is not None and latched(before, logged)
        if before is not None:
            tally.latched += stays
            tally.backward += backward(before, logged)
            if (pause := paused(before, logged, schema.gap)) is not None:
                tally.gaps, tally.apart = tally.gaps + 1, tally.apart or pause
        before = logged
        reason = _reason(log, logged, tally, stays)
        if reason is not None:
            if on_bad_rows == "error":
                raise ValueError(
                    f"{files}: {reason} (rows count from 0; --on-bad-rows drop-episode leaves such episodes out"
                    f"{_filling(schema, logged)})"
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
            if len(whole) == 1 < len(raw) and whole.next_obs is None:
                told = f"it ends before the period, {schema.period:g}, is over"
                tally.dropped.append({"episode": number, "row": logged.first, "reason": told})
                continue
        for ready, goes_on in pieces(whole, schema.cut_every):
            yield from _stored(log, ready, more or goes_on, tally)
    if tally.outside and on_bad_rows == "error":
        raise ValueError(f"{files}: {tally.left_bounds(files, schema)}")
    if not tally.rows:
        raise ValueError(f"{files}: {tally.nothing_left(schema)}")
    if notice := tally.unpaid.notice(schema):
        _notice(notice)


def _filling(schema: Schema, logged: Rows) -> str:
    """How empty cells could be filled, where there are some that are not."""
    empty = np.isnan(logged.obs).any() or np.isnan(logged.action[:-1]).any()
    paid = [column for column in (logged.reward, logged.cost) if column is not None]
    if schema.resample and any(np.isnan(column[:-1]).any() for column in paid):
        told = "`resample` fills no reward and no cost, as nobody says what an empty cell means: a rate goes on"
        return f"; {told} (pandas.Series.ffill), an amount is 0 (pandas.Series.fillna)"
    told = "; `resample` in the schema fills empty cells up to `max_gap`"
    return told if empty and schema.time and not schema.resample else ""


def _logged(
    parts: Iterable[Rows], log: _Log, on_bad_rows: Literal["error", "drop-episode"], tally: Tally
) -> Iterator[tuple[Rows, bool]]:
    """What becomes an episode each, and whether it goes on in the next one; what is resampled is cut thereafter."""
    schema = log.plan.schema
    split = schema.cut_every is not None and on_bad_rows != "error"  # where a series is left out, all of it would be
    for part in parts:
        if schema.resample is None:
            whole = closed(part, schema)
            for run in _parted(whole, log) if split else [whole]:
                yield from pieces(run, schema.cut_every)
            continue
        whole, filled = mended(part, schema)
        tally.filled.update(filled)
        kept = list(known(whole))
        tally.unknown += len(whole) - sum(map(len, kept))
        for one in kept:
            yield from ((run, False) for run in (_parted(one, log) if split else [one]))


def _parted(rows: Rows, log: _Log) -> Iterator[Rows]:
    """Steps that cannot be used, and the others, each run of them by itself: of a series no more is to be lost."""
    schema, space = log.plan.schema, log.spaces[1]
    acted = limited(rows, space)[0] if schema.clip_action and isinstance(space, Box) else rows
    return parted(rows, unusable(acted, space, schema.bounds))


def _stored(log: _Log, ready: Rows, more: bool, tally: Tally) -> Iterator[Episode]:
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
    tally.series.append(tally.begun)
    tally.cut = tally.cut or more
    yield episode


def _reason(log: _Log, logged: Rows, tally: Tally, stays: bool) -> str | None:
    """Why an episode cannot be used, None where it can; `stays`: a terminal flag is that of the row before, too."""
    schema = log.plan.schema
    single = len(logged) == 1 and logged.next_obs is None
    alone = schema.gap is not None and single  # between two gaps
    if single and stays and not alone:
        return (
            f"{logged.at(logged.first)} ends the world, and so does the row before it: of a flag that stays set, flag"
            " the first row alone, and leave out the others"
        )
    reason = fault(logged, log.spaces[1], alone)
    if reason is not None or logged.time is None or schema.resample or len(logged) < 2:
        return reason
    if tally.period is None:
        tally.period = float(np.median(np.diff(logged.time)))
    return uneven(logged, tally.period, schema.period is not None)


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
