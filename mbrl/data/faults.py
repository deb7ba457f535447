"""What is wrong with the rows of an episode, by row and column; see `mbrl.data.episodes`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mbrl.data.episodes import ROUNDING, Rows
from mbrl.environments import Box, Discrete

LEAST_SIZE = 1e-9  # of a channel, in its unit: smaller values are what arithmetic leaves of a 0
DATED = 1e8  # seconds; beyond it times are dates, in seconds since 1970
AUTUMN = 3_600  # seconds by which clocks are set back
OF_STEPS = ("action", "propensity", "reward", "cost")  # what a final observation goes without
SQUARED = float(np.sqrt(np.finfo(np.float32).max))  # 1.8e19, the largest number whose square float32 can hold
LARGEST = dict.fromkeys(("obs", *OF_STEPS, "next_obs"), SQUARED) | {"time": np.finfo(np.float64).max}


def fault(rows: Rows, space: Box | Discrete, alone: bool = False) -> str | None:
    """Why an episode cannot be used, naming its first bad row and the column; None where it can.

    Without next observations the last row is a final observation, and what else it holds does not matter. `alone`
    allows a single row of that kind, which comes to nothing.
    """
    for name in LARGEST:
        values = _used(rows, name)
        if values is None or (np.abs(values) <= LARGEST[name]).all():
            continue
        wide = values.reshape(len(values), -1)
        row, channel = np.argwhere(~(np.abs(wide) <= LARGEST[name]))[0].tolist()
        value = wide[row, channel]
        whose = "which is not finite" if np.isinf(value) else "whose square is not finite in float32"
        what = "empty or not a number" if np.isnan(value) else f"{value}, {whose}"
        count = int((~(np.abs(wide) <= LARGEST[name])).any(1).sum())
        others = f" (so are {count} of {len(wide)} rows of this episode)" if count > 1 else ""
        return f"{rows.at(rows.first + row)}, column {rows.columns[name][channel]!r} is {what}{others}"
    if rows.time is not None and (np.diff(rows.time) < 0).any():
        row = int(np.argmax(np.diff(rows.time) < 0)) + 1
        before, after = rows.time[row - 1], rows.time[row]
        dated = after > DATED and before - after <= AUTUMN
        clock = (
            "; in local time an hour comes twice when clocks are set back: log UTC, or a zone with each"
            if dated
            else ""
        )
        return (
            f"{rows.at(rows.first + row)} is out of time order: {rows.columns['time'][0]!r} falls from "
            f"{before} to {after} within an episode; sort the log by episode and time, "
            f"or mark where another run begins (episode, terminal or truncated){clock}"
        )
    if len(rows) == 1 and rows.next_obs is None and not alone:
        return (
            f"{rows.at(rows.first)} is an episode of one row, and the log has no next observation to go with it: name a"
            " `next_observation`, or say `final_action: true` if rows that are flagged terminal acted and were paid"
        )
    return _disagreement(rows) or _out_of_bounds(rows, space) or _improbable(rows, space)


def unusable(rows: Rows, space: Box | Discrete, bounds: Mapping[str, tuple[float, float]]) -> np.ndarray:
    """The steps of which a number cannot be used, [steps] bool: of the action or what it earned, or of either state."""
    step, state = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    for name in LARGEST:
        values = getattr(rows, name)
        if values is not None:
            of = state if name == "obs" else step
            of |= (~(np.abs(values) <= LARGEST[name])).reshape(len(rows), -1).any(1)
    step |= _beyond(rows.action, space).any(1)
    if rows.propensity is not None and isinstance(space, Discrete):
        step |= rows.propensity > ROUNDING
    for name, found in outside(rows, bounds).items():
        of = step if name in rows.columns["reward"] else state
        of[found - rows.first] = True
    if rows.next_obs is not None:
        return step | state
    return step[:-1] | state[:-1] | state[1:]


def _used(rows: Rows, name: str) -> np.ndarray | None:
    """The values of a field that become part of the episode, None where there are none."""
    values: np.ndarray | None = getattr(rows, name)
    return values if values is None or rows.next_obs is not None or name not in OF_STEPS else values[:-1]


def differing(said: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Which values [n, O] differ by more than rounding: [n, O]. In a channel of small values a small error counts."""
    size = np.maximum(np.abs(found).max(0, initial=LEAST_SIZE), np.abs(said).max(0, initial=LEAST_SIZE))
    return np.abs(said - found) > ROUNDING * np.maximum(np.abs(found), np.minimum(1, size))


def _disagreement(rows: Rows) -> str | None:
    """Minari keeps T + 1 observations of T steps, so within an episode next_obs must be the next row's obs."""
    if rows.next_obs is None:
        return None
    said, found = rows.next_obs[:-1], rows.obs[1:]
    differs = differing(said, found)
    if not differs.any():
        return None
    row, channel = np.argwhere(differs)[0].tolist()
    return (
        f"{rows.at(rows.first + row)}, column {rows.columns['next_obs'][channel]!r} is {said[row, channel]} and the"
        f" next row has {rows.columns['obs'][channel]!r} {found[row, channel]}: rows are missing or an episode ends"
        " here; mark the end (episode, terminal or truncated)"
    )


def _improbable(rows: Rows, space: Box | Discrete) -> str | None:
    """The probability of a choice is 1 at most, and its logarithm 0, but for rounding."""
    logged = _used(rows, "propensity") if isinstance(space, Discrete) else None
    if logged is None or not (bad := logged > ROUNDING).any():
        return None
    row = int(np.argmax(bad))
    return (
        f"{rows.at(rows.first + row)}, column {rows.columns['propensity'][0]!r} is {logged[row]}, expected the natural"
        " logarithm of a probability, which is not above 0: log the logarithm, or convert the column"
    )


def _limits(space: Box | Discrete) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest action, [A] each."""
    if isinstance(space, Discrete):
        return np.array([space.start]), np.array([space.start + space.n - 1])
    return space.low.astype(np.float64), space.high.astype(np.float64)


def _beyond(action: np.ndarray, space: Box | Discrete) -> np.ndarray:
    """Which of the actions [n, A] are none that the space has: [n, A] bool."""
    low, high = _limits(space)
    if isinstance(space, Discrete):
        return (action < low) | (action > high) | (action != np.round(action))
    room = ROUNDING * np.where(np.isfinite(low) & np.isfinite(high), np.maximum(np.abs(low), np.abs(high)), 1)
    return (action < low - room) | (action > high + room)


def _out_of_bounds(rows: Rows, space: Box | Discrete) -> str | None:
    action = _used(rows, "action")
    assert action is not None
    low, high, kind = *_limits(space), "an integer" if isinstance(space, Discrete) else "a value"
    bad = _beyond(action, space)
    if not bad.any():
        return None
    row, channel = np.argwhere(bad)[0].tolist()
    value = action[row, channel]
    remedy = "; correct the bounds, or, if the actuator limited commands to them, say `clip_action: true` in the schema"
    if isinstance(space, Discrete):
        remedy = "; number the choices from 0" if space.start == 0 and value < 0 else ""
        remedy = remedy if value == np.round(value) else "; an action of such values is not discrete"
    return (
        f"{rows.at(rows.first + row)}, column {rows.columns['action'][channel]!r} is {value}, expected "
        f"{kind} within the declared bounds [{low[channel]}, {high[channel]}] (so are {int(bad.any(1).sum())} of "
        f"{len(bad)} rows of this episode){remedy}"
    )


def outside(rows: Rows, bounds: Mapping[str, tuple[float, float]]) -> dict[str, np.ndarray]:
    """Rows of the file that leave the physical bounds of a column (all channels of an array), by its name.

    What binds a channel of the observation binds it in the next observation as well, and the other way round.
    What a last row goes without is not looked at.
    """
    found = {}
    twins = [pair for pair in (("obs", "next_obs"), ("next_obs", "obs"), ("reward",)) if rows.columns[pair[0]]]
    for name, (low, high) in bounds.items():
        wide = [
            values.reshape(len(values), -1)[:, k]
            for parts in twins
            for k, channel in enumerate(rows.columns[parts[0]])
            if channel == name or channel.startswith(f"{name}[")
            for part in parts
            if rows.columns[part] and (values := _used(rows, part)) is not None
        ]
        bad = np.flatnonzero(np.any([(column < low) | (column > high) for column in wide], axis=0))
        if len(bad):
            found[name] = rows.first + bad
    return found
