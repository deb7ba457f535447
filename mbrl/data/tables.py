"""Logs as files (npz, CSV, Parquet) -> a Minari data set, as a stream: `mbrl import`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from mbrl import environments
from mbrl.data import minari
from mbrl.data.cells import CellError, flags, labels, numbers, times
from mbrl.data.episodes import Rows, cut, fault, to_episode
from mbrl.data.readers import Npz, Source, open_source
from mbrl.data.schema import STANDARD, Schema, closest
from mbrl.environments import Box, Discrete, Episode

MOST_CHOICES = 1_000  # of a discrete action: each is a one-hot channel
LINE_EVERY = 5.0  # seconds between progress lines where stderr is not a terminal


@dataclass
class _Tally:
    rows: int = 0
    terminals: int = 0
    last_rows: int = 0  # rows that became a final observation only
    returns: list[float] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)


def import_log(
    file: str | Path,
    id: str,
    *,
    env: str | None = None,
    schema: str | Path | None = None,
    on_bad_rows: Literal["error", "drop-episode"] = "error",
) -> dict[str, Any]:
    """Turn a log into a Minari (hdf5) data set that appears whole or not at all.

    Episodes end where a terminal or truncated flag is set, where the episode id changes, and at the end of the
    file; an end without a flag counts as truncated.

    Args:
        file: .npz, .csv, .csv.gz or .parquet. An npz with obs, action, next_obs, reward, done and truncated
            (and perhaps index, the first row of each episode) needs no schema.
        id: NAMESPACE/NAME-vN, not taken.
        env: Gymnasium id, or `module:EnvId`, that the log is from: gives the spaces and the action bounds.
        schema: YAML file that names the columns, see `mbrl.data.schema.Schema`.
        on_bad_rows: what a row that cannot be used does: stop the import, or drop its episode.

    Returns:
        what was imported: id, path, episodes, rows, terminals, mean_return, dropped (episode, row, reason), ...

    Raises:
        ValueError: the log, the schema, the environment and the id do not fit together; the message names the row
            (counted from 0), the column or the key.
        FileExistsError: the id is taken.
        FileNotFoundError: there is no such file.
    """
    begin = time.monotonic()
    if on_bad_rows not in ("error", "drop-episode"):
        raise ValueError(f"on_bad_rows is {on_bad_rows!r}, expected 'error' or 'drop-episode'")
    minari.check_id(id)
    minari.check_free(id)
    source = open_source(Path(file))
    columns = _schema(source, schema)
    chunks = _rows(source, columns)
    first = next(chunks, None)
    if first is None:
        raise ValueError(f"{source.path} holds no row")
    spaces = _spaces(source, columns, first, env)
    tally = _Tally()
    episodes = _episodes(source, _shown(chain([first], chunks), source.rows), spaces, on_bad_rows, tally)
    made = minari.write(id, episodes, *spaces, env_id=env, description=f"imported from {source.path.name} by mbrl")
    data = minari.load(id)
    return {
        "id": id,
        "path": str(made),
        "episodes": data.episodes,
        "rows": len(data),
        "terminals": tally.terminals,
        "mean_return": sum(tally.returns) / len(tally.returns),
        "rows_without_successor": tally.last_rows,
        "dropped_episodes": len(tally.dropped),
        "dropped": tally.dropped,
        "fingerprint": data.fingerprint,
        "seconds": time.monotonic() - begin,
    }


def _schema(source: Source, path: str | Path | None) -> Schema:
    """The schema, all of whose columns the file has."""
    where = f"the schema {path}" if path is not None else "without --schema"
    if path is not None:
        schema = Schema.read(Path(path))
    elif isinstance(source, Npz):
        schema = replace(STANDARD, index="index" if "index" in source.names else None)
    else:
        raise ValueError(f"{source.path} needs --schema FILE.yaml, which names its columns: {', '.join(source.names)}")
    for name in schema.columns():
        if name not in source.names:
            hint = "" if path is not None else "; name other columns in a --schema FILE.yaml"
            raise ValueError(f"{source.path} has no column {name!r} ({where}): {closest(name, source.names)}{hint}")
    return schema


def _rows(source: Source, schema: Schema) -> Iterator[Rows]:
    """The file as chunks of rows, by meaning."""
    start, named = 0, dict[str, list[str]]()
    index = _index(source, schema.index) if isinstance(source, Npz) and schema.index else None
    for chunk in source.chunks(schema.columns()):
        read = partial(_read, source, chunk=chunk, start=start)
        wide = {name: read(numbers, name) for name in (*schema.observation, *schema.action, schema.reward)}
        after = {name: read(numbers, name) for name in schema.next_observation}
        reward = wide[schema.reward]
        if reward.shape[1] != 1:
            raise ValueError(f"{source.path}: the reward {schema.reward!r} has {reward.shape[1]} channels, expected 1")
        columns = {
            "obs": _channels(schema.observation, wide),
            "action": _channels(schema.action, wide),
            "reward": [schema.reward],
            "next_obs": _channels(schema.next_observation, after),
            "time": [schema.time or ""],
        }
        if named not in ({}, columns):
            raise ValueError(f"{source.path}: from row {start} on, the channels are {columns}, before it {named}")
        named, never = columns, np.zeros(len(reward), bool)
        episode = read(labels, schema.episode) if schema.episode else None
        if index is not None:
            episode = np.searchsorted(index, np.arange(start, start + len(reward)), side="right")
        yield Rows(
            first=start,
            obs=np.concatenate([wide[name] for name in schema.observation], axis=1),
            action=np.concatenate([wide[name] for name in schema.action], axis=1),
            reward=reward[:, 0],
            next_obs=np.concatenate(list(after.values()), axis=1) if after else None,
            terminated=read(flags, schema.terminal) if schema.terminal else never,
            truncated=read(flags, schema.truncated) if schema.truncated else never,
            episode=episode,
            time=read(times, schema.time) if schema.time else None,
            columns=columns,
        )
        start += len(reward)


def _read(source: Source, use: Callable[[Any], np.ndarray], name: str, chunk: dict[str, Any], start: int) -> np.ndarray:
    """A column of a chunk; its errors name the file, the row and the column."""
    try:
        return use(chunk[name])
    except CellError as error:
        raise ValueError(
            f"{source.path}: row {start + error.row}, column {name!r} {error} (rows count from 0)"
        ) from error
    except ValueError as error:
        raise ValueError(f"{source.path}: column {name!r} {error}") from error


def _index(source: Npz, name: str) -> np.ndarray:
    index = source.array(name)
    if index.ndim != 1 or not len(index) or index[0] != 0 or (np.diff(index) <= 0).any():
        raise ValueError(
            f"{source.path}: the array {name!r} must hold the first row of each episode: increasing from 0"
        )
    return index


def _channels(names: Iterable[str], values: dict[str, np.ndarray]) -> list[str]:
    """What to call each channel in a message: the column, or array[k]."""
    widths = {name: values[name].shape[1] for name in names}
    return [name if width == 1 else f"{name}[{k}]" for name, width in widths.items() for k in range(width)]


def _spaces(source: Source, schema: Schema, first: Rows, env: str | None) -> tuple[Box, Box | Discrete]:
    """Flat spaces: those of the environment, or what the log and its schema declare."""
    if first.next_obs is not None and first.next_obs.shape != first.obs.shape:
        raise ValueError(
            f"{source.path}: the observation has {first.obs.shape[1]} channels and the next observation "
            f"{first.next_obs.shape[1]}"
        )
    declared = _declared(source, schema, first, env)
    if env is None:
        dtype = np.float32 if first.obs.dtype == np.float32 else np.float64
        return Box(-np.inf, np.inf, first.obs.shape[1:], dtype), declared
    spaces = environments.spaces(env)
    width = 1 if isinstance(spaces[1], Discrete) else spaces[1].shape[0]
    for what, wanted, found in (
        ("observation", spaces[0].shape[0], first.obs.shape[1]),
        ("action", width, first.action.shape[1]),
    ):
        if wanted != found:
            raise ValueError(
                f"{source.path}: the {what} has {found} channels and that of {env} {wanted}: "
                f"change the schema's {what}, or --env"
            )
    if schema.discrete and not isinstance(spaces[1], Discrete):
        raise ValueError(f"the schema says `discrete: true`, and the action of {env} is {spaces[1]}")
    if schema.action_low is not None and declared != spaces[1]:
        raise ValueError(f"the schema declares the action {declared}, and {env} has {spaces[1]}: drop one of them")
    return spaces


def _declared(source: Source, schema: Schema, first: Rows, env: str | None) -> Box | Discrete:
    """The action space of the schema; infinite bounds where it declares none."""
    width = first.action.shape[1]
    if schema.discrete and env is None:
        return _counted(source, schema.action[0])
    if env is None and replace(schema, index=None) == STANDARD and isinstance(source, Npz) and source.integer("action"):
        raise ValueError(
            f"{source.path}: the action is an array of integers: say what it is with --env, "
            "or with `discrete: true` (or action_low and action_high) in a --schema"
        )
    bounds = []
    for key, default in (("action_low", -np.inf), ("action_high", np.inf)):
        values = getattr(schema, key) or (default,)
        if len(values) not in (1, width):
            raise ValueError(f"the schema's {key} has {len(values)} numbers for {width} action channels")
        bounds.append(np.broadcast_to(np.asarray(values, np.float32), (width,)))
    if not (bounds[0] < bounds[1]).all():
        raise ValueError(f"the schema's action_low {bounds[0].tolist()} is not below action_high {bounds[1].tolist()}")
    return Box(bounds[0], bounds[1], dtype=np.float32)


def _counted(source: Source, name: str) -> Discrete:
    """As many choices as the log shows, by a pass over the action column alone."""
    start, most = 0, 0.0
    for chunk in source.chunks([name]):
        values = _read(source, numbers, name, chunk, start)
        most = max(most, values.max(initial=0, where=np.isfinite(values)))
        start += len(values)
    if most >= MOST_CHOICES:
        raise ValueError(
            f"{source.path}: the discrete action {name!r} goes up to {most:.0f}, expected an integer from 0 and below "
            f"{MOST_CHOICES}: number the choices, or drop `discrete: true`"
        )
    return Discrete(int(most) + 1)


def _episodes(
    source: Source,
    rows: Iterable[Rows],
    spaces: tuple[Box, Box | Discrete],
    on_bad_rows: Literal["error", "drop-episode"],
    tally: _Tally,
) -> Iterator[Episode]:
    for number, logged in enumerate(cut(rows)):
        reason = fault(logged, spaces[1])
        if reason is not None:
            if on_bad_rows == "error":
                raise ValueError(
                    f"{source.path}: {reason} (rows count from 0; --on-bad-rows drop-episode leaves such episodes out)"
                )
            tally.dropped.append({"episode": number, "row": logged.first, "reason": reason})
            continue
        episode = to_episode(logged, spaces[1])
        tally.rows += len(episode.rewards)
        tally.last_rows += len(logged.reward) - len(episode.rewards)
        tally.terminals += int(episode.terminations[-1])
        tally.returns.append(float(episode.rewards.sum()))
        yield episode
    if not tally.rows:
        raise ValueError(f"{source.path}: no episode is left, {len(tally.dropped)} were dropped: {tally.dropped[0]}")


def _shown(chunks: Iterable[Rows], total: int | None) -> Iterator[Rows]:
    """Pass chunks on and show the progress on stderr: a bar on a terminal, else a line now and then."""
    seen, said = 0, time.monotonic()
    with tqdm(total=total, unit="row", unit_scale=True, desc="import", disable=not sys.stderr.isatty()) as bar:
        for chunk in chunks:
            yield chunk
            seen += len(chunk.reward)
            bar.update(len(chunk.reward))
            if bar.disable and time.monotonic() - said > LINE_EVERY:
                print(f"import: {seen:,} rows" + (f" of {total:,}" if total else ""), file=sys.stderr)
                said = time.monotonic()
