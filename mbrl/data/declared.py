"""What an import declares of the whole log: its spaces, and what its channels are called, measured in and bound by."""

from __future__ import annotations

import math
import re
from collections.abc import Container
from functools import partial
from typing import Any

import numpy as np

from mbrl import environments
from mbrl.data.cells import numbers
from mbrl.data.columns import MOST_CHOICES, Plan, read
from mbrl.data.episodes import Rows
from mbrl.data.readers import Npz, Source
from mbrl.data.schema import ROLES, STANDARD, Schema
from mbrl.environments import Box, Discrete


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


def spaces(source: Source, plan: Plan, first: Rows, env: str | None) -> tuple[Box, Box | Discrete]:
    """Flat spaces: those of the environment, or what the log and its schema declare."""
    schema = plan.schema
    if first.next_obs is not None and first.next_obs.shape != first.obs.shape:
        raise ValueError(
            f"{source.path}: the observation has {first.obs.shape[1]} channels and the next observation "
            f"{first.next_obs.shape[1]}"
        )
    declared = _declared(source, schema, first, env, plan.lenient)
    if env is None:
        _check_clip(source, schema, declared)
        dtype = np.float32 if first.obs.dtype == np.float32 else np.float64
        kept = sum(name not in plan.constant for name in first.columns["obs"])
        return Box(-np.inf, np.inf, (kept,), dtype), declared
    wanted = environments.spaces(env)
    _check_clip(source, schema, wanted[1])
    width = 1 if isinstance(wanted[1], Discrete) else wanted[1].shape[0]
    for what, count, found in (
        ("observation", wanted[0].shape[0], first.obs.shape[1]),
        ("action", width, first.action.shape[1]),
    ):
        if count != found:
            raise ValueError(
                f"{source.path}: the {what} has {found} channels and that of {env} {count}: "
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


def _check_clip(source: Source, schema: Schema, space: Box | Discrete) -> None:
    if schema.clip_action and not (isinstance(space, Box) and space.is_bounded()):
        raise ValueError(
            f"{source.path}: the schema says `clip_action: true`, and the action is {space}: give action_low and"
            " action_high to clip it to"
        )


def _declared(source: Source, schema: Schema, first: Rows, env: str | None, lenient: bool) -> Box | Discrete:
    """The action space of the schema; infinite bounds where it declares none."""
    width = first.action.shape[1]
    if isinstance(schema.discrete, tuple) and env is None:
        return Discrete(len(schema.discrete))
    if schema.discrete and env is None:
        return _counted(source, schema.action[0], lenient)
    standard = all(getattr(schema, role) == getattr(STANDARD, role) for role in ROLES) and schema.action_low is None
    if env is None and standard and isinstance(source, Npz) and source.integer("action"):
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


def _counted(source: Source, name: str, lenient: bool) -> Discrete:
    """As many choices as the log shows, by a pass over the action column alone."""
    start, most = 0, 0.0
    for chunk in source.chunks([name]):
        values = read(source, partial(numbers, lenient=lenient), name, chunk, start)
        most = max(most, values.max(initial=0, where=np.isfinite(values)))
        start += len(values)
    if most >= MOST_CHOICES:
        raise ValueError(
            f"{source.path}: the discrete action {name!r} goes up to {most:.0f}, expected an integer from 0 and below "
            f"{MOST_CHOICES}: number the choices, or drop `discrete: true`"
        )
    return Discrete(int(most) + 1)
