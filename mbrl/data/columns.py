"""The columns of a file -> rows by meaning: what a schema names, checked, encoded and put together chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from mbrl.data.cells import CellError, flags, labels, numbers, texts, times
from mbrl.data.episodes import Rows
from mbrl.data.logfiles import Chunk, LogFiles
from mbrl.data.readers import Npz
from mbrl.data.schema import Schema

MOST_CHOICES = 1_000  # of a category or a discrete action: each is a one-hot channel
MANY = 30  # categories that are all numbers, from which on they are likely to be measured


@dataclass
class _Seen:
    """What a column of the observation holds in the whole file."""

    names: set[str] = field(default_factory=set)  # categories
    low: np.ndarray | None = None  # [k] of a measurement
    high: np.ndarray | None = None

    def add(self, values: np.ndarray) -> None:
        """Take in a chunk: names [n] or numbers [n, k]."""
        if values.dtype.kind == "U":
            self.names.update(filter(None, values.tolist()))
            return
        low = np.fmin.reduce(values, axis=0)
        high = np.fmax.reduce(values, axis=0)
        if self.low is not None and len(self.low) != len(low):
            raise CellError(0, f"holds {len(low)} numbers, the rows before it {len(self.low)}")
        self.low = low if self.low is None else np.fmin(self.low, low)
        self.high = high if self.high is None else np.fmax(self.high, high)

    def constant(self) -> dict[int, str]:
        """The channels that never change, and the value that they keep."""
        if self.names:
            return {0: next(iter(self.names))} if len(self.names) == 1 else {}
        assert self.low is not None
        assert self.high is not None
        same = np.flatnonzero(self.low == self.high).tolist()
        return {k: f"{self.low[k]:.6g}" for k in same}


@dataclass(frozen=True)
class Plan:
    """What becomes of the observation's columns, known after one pass over them."""

    schema: Schema  # with the categories of every categorical column
    constant: dict[str, str]  # channel -> its only value; dropped
    lenient: bool = False  # whether a cell that is no number counts as empty, and a category may be (as in resampling)


def survey(files: LogFiles, schema: Schema, drop: bool, lenient: bool = False) -> Plan:
    """Find categories and, where `drop`, channels of the observation that never change; `lenient` as in `Plan`.

    Raises:
        ValueError: a cell cannot be read, a category is not among those that the schema lists, or nothing is left.
    """
    if not schema.categorical and not drop:
        return Plan(schema, {}, lenient)
    after = dict(zip(schema.next_observation, schema.seen, strict=False))
    seen = {name: _Seen() for name in schema.seen}
    chunk = None
    names = dict.fromkeys((*schema.seen, *schema.next_observation))
    others = [schema.fallback[name] for name in names if name in schema.fallback]
    for chunk in files.chunks(list(dict.fromkeys([*names, *others]))):
        for name in names:
            column = after.get(name, name)
            category = column in schema.categorical
            named = partial(texts, lenient=lenient or schema.resample is not None)
            values = chunk.read(named, name) if category else measured(schema, name, chunk, lenient)
            try:
                seen[column].add(values)
            except CellError as error:
                raise chunk.fault(name, error) from error
    if chunk is None:
        raise ValueError(f"{files} holds no row")
    categories = {name: listed or tuple(sorted(seen[name].names)) for name, listed in schema.categorical.items()}
    for name, listed in categories.items():
        if not listed:
            raise ValueError(f"{files}: column {name!r} is empty in every row, expected categories")
        if len(listed) > MOST_CHOICES:
            raise ValueError(
                f"{files}: column {name!r} has {len(listed):,} categories, expected at most {MOST_CHOICES}: "
                "group them, or use a column of numbers as one"
            )
    whole = replace(schema, categorical=categories)
    return Plan(whole, _constant(files, whole, seen) if drop else {}, lenient)


def measurements(schema: Schema) -> Iterator[str]:
    """What to tell of columns that are listed as categories, and hold what looks like a measurement."""
    for column, listed in schema.categorical.items():
        if len(listed) > MANY and all(_is_number(category) for category in listed):
            told = f"{column!r} has {len(listed):,} categories, all of them numbers, and a channel for each"
            yield f"{told}: a measurement is not listed under `categorical`"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _constant(files: LogFiles, schema: Schema, seen: dict[str, _Seen]) -> dict[str, str]:
    found, moving = dict[str, str](), False
    for name in schema.seen:
        listed, low = schema.categorical.get(name), seen[name].low
        width = len(listed) if listed is not None else 1 if low is None else len(low)
        constant = seen[name].constant()
        moving |= name in schema.observation and len(constant) < (width if listed is None else 1)
        for k, value in constant.items():
            if listed is not None:
                found |= {f"{name}={category}": value for category in listed}
            else:
                found[name if width == 1 else f"{name}[{k}]"] = value
    if found and not moving:
        left = f"; {', '.join(schema.exogenous)} are exogenous, and not to be predicted" if schema.exogenous else ""
        raise ValueError(f"{files}: no column of the observation ever changes: {', '.join(found)}{left}")
    return found


def rows(files: LogFiles, plan: Plan) -> Iterator[Rows]:
    """The log as chunks of rows, by meaning; constant channels are still there (`to_episode` drops them).

    Raises:
        ValueError: a cell cannot be read as what its column is for; the message names the row and the column.
    """
    schema = plan.schema
    named, kind = dict[str, list[str]](), ""
    for chunk in files.chunks(schema.columns()):
        look, number = chunk.read, partial(measured, schema, chunk=chunk, lenient=plan.lenient)
        coded = partial(_codes, lenient=plan.lenient or schema.resample is not None)
        obs, held = _observation(schema, schema.observation, look, number, coded)
        given, also = _observation(schema, schema.exogenous, look, number, coded)
        action = {name: _acted(schema, name, look, number) for name in schema.action}
        after, _ = _observation(schema, schema.next_observation, look, number, coded)
        reward, cost, propensity = (_single(chunk, schema, role, number) for role in ("reward", "cost", "propensity"))
        columns = {
            "obs": _channels(obs | given),
            "action": _channels(action),
            "reward": [schema.reward or ""],
            "propensity": [schema.propensity or ""],
            "cost": [schema.cost or ""],
            "next_obs": _channels(after),
            "time": [schema.time or ""],
        }
        if named not in ({}, columns):
            told = f"from {files.at(chunk.first)} on, the channels are {columns}, before it {named}"
            raise ValueError(f"{chunk.source.path}: {told}")
        named, never = columns, np.zeros(len(chunk), bool)
        stamps = chunk.read(times, schema.time) if schema.time else None
        known = stamps is not None and bool(np.isfinite(stamps.seconds).any())
        if stamps is not None and known and stamps.kind != (kind := kind or stamps.kind):
            raise ValueError(
                f"{chunk.source.path}: column {schema.time!r} holds {stamps.kind} from row {chunk.start} on (rows count"
                f" from 0), and {kind} before: write all times of a log alike, with a zone in every row or in none"
            )
        episode = look(labels, schema.episode) if schema.episode else None
        if schema.index and isinstance(chunk.source, Npz):
            own = np.arange(chunk.start, chunk.start + len(chunk))
            episode = np.searchsorted(_index(chunk.source, schema), own, side="right")
        yield Rows(
            first=chunk.first,
            obs=np.concatenate([*obs.values(), *given.values()], axis=1),
            action=np.concatenate(list(action.values()), axis=1),
            reward=reward,
            next_obs=np.concatenate(list(after.values()), axis=1) if after else None,
            terminated=look(flags, schema.terminal) if schema.terminal else never,
            truncated=look(flags, schema.truncated) if schema.truncated else never,
            episode=episode,
            time=stamps and stamps.seconds,
            columns=columns,
            held=(*held, *also),
            given=tuple(_channels(given)),
            propensity=propensity,
            cost=cost,
            opens=chunk.start == 0,
            at=files.at,
        )


def _single(chunk: Chunk, schema: Schema, role: str, number: Callable[[str], np.ndarray]) -> np.ndarray | None:
    """The column of a role that has one channel, [n], None where none is named."""
    name = getattr(schema, role)
    if name is None:
        return None
    values = number(name)
    if values.shape[1] != 1:
        raise ValueError(f"{chunk.source.path}: the {role} {name!r} has {values.shape[1]} channels, expected 1")
    return values[:, 0]


def _observation(
    schema: Schema,
    names: tuple[str, ...],
    look: Callable[..., np.ndarray],
    number: Callable[[str], np.ndarray],
    coded: Callable[..., np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Channels [n, k] by column, those of a category as `column=category`; and the names of the latter."""
    found, held = dict[str, np.ndarray](), list[str]()
    partners = schema.seen if names is schema.next_observation else names
    for name, column in zip(names, partners, strict=False):
        if column not in schema.categorical:
            found[name] = number(name)
            continue
        listed = schema.categorical[column]
        codes = look(partial(coded, listed), name)
        for k, category in enumerate(listed):
            found[f"{name}={category}"] = np.where(np.isnan(codes), np.nan, codes == k)
            held.append(f"{name}={category}")
    for name in names[len(partners) :]:
        found[name] = number(name)
    return found, tuple(held)


def _acted(
    schema: Schema, name: str, look: Callable[..., np.ndarray], number: Callable[[str], np.ndarray]
) -> np.ndarray:
    """A column of the action [n, k], choices by their numbers."""
    if isinstance(schema.discrete, tuple):
        return look(partial(_chosen, schema.discrete), name)
    try:
        return number(name)
    except ValueError as error:
        if not schema.discrete:
            raise
        raise ValueError(f"{error}; where choices have names, list them in the schema: `discrete: [A, B]`") from error


def _codes(listed: tuple[str, ...], values: Any, lenient: bool) -> np.ndarray:
    """Numbers [n, 1] of the categories that a column holds, NaN where there is none, if it may be."""
    return _named(listed, texts(values, lenient), "categories")


def _chosen(listed: tuple[str, ...], values: Any) -> np.ndarray:
    """Numbers [n, 1] of the choices that a column holds, NaN where there is none, as in a last row."""
    return _named(listed, texts(values, lenient=True), "choices")


def _named(listed: tuple[str, ...], names: np.ndarray, what: str) -> np.ndarray:
    return np.where(names == "", np.nan, _numbered((*listed, ""), names, what))[:, None]


def _numbered(listed: tuple[str, ...], names: np.ndarray, what: str) -> np.ndarray:
    order = np.argsort(listed)
    at = np.searchsorted(listed, names, sorter=order).clip(max=len(listed) - 1)
    codes = order[at]
    wrong = np.flatnonzero(np.asarray(listed)[codes] != names)
    if len(wrong):
        row, known = int(wrong[0]), ", ".join(filter(None, listed))
        raise CellError(row, f"is {str(names[row])!r}, expected one of the schema's {what} {known}")
    return codes


def measured(schema: Schema, name: str, chunk: Chunk, lenient: bool = False) -> np.ndarray:
    """A column of numbers [n, k] of a chunk, with those of its fallback where it has none; `lenient` as in `Plan`."""
    hint = f", or `categorical: [{name}]` in the schema, which is for names" if name in schema.seen else ""
    empty = "--on-bad-rows drop-episode takes it for an empty cell"
    found = partial(numbers, lenient=lenient, what=f"a number ({empty}){hint}")
    values = chunk.read(found, name)
    if name not in schema.fallback:
        return values
    other = schema.fallback[name]
    instead = chunk.read(found, other)
    if instead.shape != values.shape:
        raise ValueError(
            f"{chunk.source.path}: the fallback {other!r} of {name!r} has {instead.shape[1]} channels, expected as many"
            f" as {name!r}: {values.shape[1]}"
        )
    return np.where(np.isnan(values), instead, values)


def _index(source: Npz, schema: Schema) -> np.ndarray:
    name, rows = schema.index or "", source.length(schema.observation[0])
    index = source.array(name)
    if index.ndim != 1 or not len(index) or index[0] != 0 or (np.diff(index) <= 0).any():
        raise ValueError(
            f"{source.path}: the array {name!r} must hold the first row of each episode: increasing from 0"
        )
    if index[-1] >= rows:
        raise ValueError(
            f"{source.path}: the array {name!r} has an episode begin in row {index[-1]}, and there are {rows} rows,"
            " counted from 0: it is of another file"
        )
    return index


def _channels(values: dict[str, np.ndarray]) -> list[str]:
    """What to call each channel: the column, or array[k]."""
    pairs: Iterable[tuple[str, int]] = ((name, column.shape[1]) for name, column in values.items())
    return [name if width == 1 else f"{name}[{k}]" for name, width in pairs for k in range(width)]
