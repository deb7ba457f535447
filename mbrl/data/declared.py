"""What an import declares of the whole log: its schema, its spaces, and what its channels are called and bound by."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Container
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mbrl import environments
from mbrl.core import locate
from mbrl.data.cells import numbers
from mbrl.data.columns import MOST_CHOICES, Plan
from mbrl.data.episodes import Rows
from mbrl.data.logfiles import LogFiles
from mbrl.data.readers import Npz, Source
from mbrl.data.schema import ROLES, STANDARD, Schema, closest
from mbrl.environments import Box, Discrete


def schema_of(files: LogFiles, path: str | Path | None) -> Schema:
    """The schema, all of whose columns every file has."""
    where = f"the schema {path}" if path is not None else "without --schema"
    source = files.parts[0]
    layout = replace(STANDARD, index="index" if "index" in source.names else None) if isinstance(source, Npz) else None
    if path is not None:
        schema = Schema.read(Path(path), layout)
    elif layout is not None:
        schema = layout
    else:
        raise ValueError(f"{source.path} needs --schema FILE.yaml, which names its columns: {', '.join(source.names)}")
    for part in files.parts:
        _check_columns(part, schema, where, "" if path is not None else "; name other columns in a --schema FILE.yaml")
    return schema


def _check_columns(source: Source, schema: Schema, where: str, hint: str) -> None:
    for name in schema.columns():
        if not source.has(name):
            if "," in name and all(source.has(part.strip()) for part in name.split(",")):
                hint = f"; several columns are a list, [{name}]"
            raise ValueError(f"{source.path} has no column {name!r} ({where}): {closest(name, source.names)}{hint}")
        column, channel = source.place(name)
        if channel is not None and column in schema.columns():
            raise ValueError(f"{where} names {column!r} and {name!r}, which is part of it: name each channel once")
    if schema.index and schema.index not in source.names:
        raise ValueError(f"{source.path} has no array {schema.index!r}, which the first file of the log has")


def rule_of(schema: Schema) -> Callable[..., Any] | None:
    """The reward function of the schema, which has to take (obs, action, next_obs)."""
    if schema.reward_function is None:
        return None
    try:
        rule: Callable[..., Any] = locate(schema.reward_function)
    except ValueError as error:
        raise ValueError(f"reward_function: {error}") from error
    try:
        inspect.signature(rule).bind("obs", "action", "next_obs")
    except TypeError as error:
        raise ValueError(
            f"reward_function {schema.reward_function!r} does not take (obs, action, next_obs): {error}"
        ) from error
    return rule


def about(schema: Schema, first: Rows, constant: Container[str], action: Box | Discrete) -> dict[str, list[Any]]:
    """What `TransitionDataset.create` is told of the channels that are kept, from the first rows of the log."""
    kept = [k for k, name in enumerate(first.columns["obs"]) if name not in constant]
    channels = [first.columns["obs"][k] for k in kept]
    acted = first.columns["action"]
    if isinstance(action, Discrete):
        choices = (
            schema.discrete if isinstance(schema.discrete, tuple) else range(action.start, action.start + int(action.n))
        )
        acted = [f"{acted[0]}={k}" for k in choices]
    units = [[schema.units.get(_column(schema, n), "") for n in names] for names in (channels, acted)]
    told: dict[str, list[Any]] = {"channels": channels, "units": units[0]}
    told |= {"action_channels": acted, "action_units": units[1]}
    if given := [k for k, name in enumerate(channels) if name in first.given]:
        told["exogenous"] = given
    if schema.bounds:
        ends = [bounds_of(schema, first, k) for k in kept]
        ends.append(schema.bounds.get(schema.reward or "", (-math.inf, math.inf)))
        told["bound_low"] = [low if math.isfinite(low) else None for low, _ in ends]
        told["bound_high"] = [high if math.isfinite(high) else None for _, high in ends]
    return told


def _column(schema: Schema, channel: str) -> str:
    """The column that a channel is of: that of `array[k]` is the array, unless a column of the file is called so."""
    return channel if channel in schema.columns() else re.sub(r"\[\d+\]$", "", channel)


def bounds_of(schema: Schema, first: Rows, channel: int) -> tuple[float, float]:
    """Physical bounds of a channel of the observation: the tighter of those of its column and of its next one."""
    names = [_column(schema, first.columns[part][channel]) for part in ("obs", "next_obs") if first.columns[part]]
    ends = [schema.bounds[name] for name in names if name in schema.bounds]
    return max([-math.inf, *(low for low, _ in ends)]), min([math.inf, *(high for _, high in ends)])


def spaces(files: LogFiles, plan: Plan, first: Rows, env: str | None) -> tuple[Box, Box | Discrete]:
    """Flat spaces: those of the environment, or what the log and its schema declare."""
    schema = plan.schema
    if first.next_obs is not None and first.next_obs.shape != first.obs.shape:
        raise ValueError(
            f"{files}: the observation has {first.obs.shape[1]} channels and the next observation "
            f"{first.next_obs.shape[1]}"
        )
    declared = _declared(files, schema, first, env, plan.lenient)
    if env is None:
        _check_clip(files, schema, declared)
        dtype = np.float32 if first.obs.dtype == np.float32 else np.float64
        kept = sum(name not in plan.constant for name in first.columns["obs"])
        return Box(-np.inf, np.inf, (kept,), dtype), declared
    wanted = environments.spaces(env)
    _check_clip(files, schema, wanted[1])
    width = 1 if isinstance(wanted[1], Discrete) else wanted[1].shape[0]
    for what, count, found in (
        ("observation", wanted[0].shape[0], first.obs.shape[1]),
        ("action", width, first.action.shape[1]),
    ):
        if count != found:
            raise ValueError(
                f"{files}: the {what} has {found} channels and that of {env} {count}: "
                f"change the schema's {what}, or --env"
            )
    if schema.discrete and not isinstance(wanted[1], Discrete):
        raise ValueError(f"the schema says `discrete: true`, and the action of {env} is {wanted[1]}")
    if isinstance(schema.discrete, tuple) and wanted[1] != Discrete(len(schema.discrete)):
        raise ValueError(
            f"the schema names {len(schema.discrete)} choices, numbered from 0, and the action of {env} is {wanted[1]}"
        )
    if schema.action_low is not None and declared != wanted[1]:
        raise ValueError(f"the schema declares the action {declared}, and {env} has {wanted[1]}: drop one of them")
    return wanted


def _check_clip(files: LogFiles, schema: Schema, space: Box | Discrete) -> None:
    if schema.clip_action and not (isinstance(space, Box) and space.is_bounded()):
        raise ValueError(
            f"{files}: the schema says `clip_action: true`, and the action is {space}: give action_low and"
            " action_high to clip it to"
        )


def _declared(files: LogFiles, schema: Schema, first: Rows, env: str | None, lenient: bool) -> Box | Discrete:
    """The action space of the schema; infinite bounds where it declares none."""
    width = first.action.shape[1]
    if isinstance(schema.discrete, tuple) and env is None:
        return Discrete(len(schema.discrete))
    if schema.discrete and env is None:
        return _counted(files, schema.action[0], lenient)
    standard = all(getattr(schema, role) == getattr(STANDARD, role) for role in ROLES) and schema.action_low is None
    if env is None and standard and any(part.integer("action") for part in files.parts):
        raise ValueError(
            f"{files}: the action is an array of integers: say what it is with --env, "
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


def _counted(files: LogFiles, name: str, lenient: bool) -> Discrete:
    """As many choices as the log shows, by a pass over the action column alone."""
    most = 0.0
    for chunk in files.chunks([name]):
        values = chunk.read(partial(numbers, lenient=lenient), name)
        most = max(most, values.max(initial=0, where=np.isfinite(values)))
    if most >= MOST_CHOICES:
        raise ValueError(
            f"{files}: the discrete action {name!r} goes up to {most:.0f}, expected an integer from 0 and below "
            f"{MOST_CHOICES}: number the choices, or drop `discrete: true`"
        )
    return Discrete(int(most) + 1)
