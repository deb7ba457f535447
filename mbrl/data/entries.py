"""What a schema file may say under each of its keys: YAML values, checked and made immutable."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from mbrl.data.cells import name


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("the name of one column")
    return value


def _names(value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        read = any(isinstance(n, bool | int | float) for n in (names if isinstance(names, list) else [value]))
        hint = "; in quotes, as in ['on', '7'], where YAML reads a truth value or a number" if read else ""
        raise TypeError(f"one name, or a list of different names{hint}")
    return tuple(names)


def _numbers(value: Any) -> tuple[float, ...]:
    numbers: Sequence[Any] = value if isinstance(value, list) else [value]
    if not numbers or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise TypeError("a number, or a list with one number per action channel")
    return tuple(float(n) for n in numbers)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        hint = ", and YAML takes 1e0 for one where it is written 1.0e+0" if _exponential(value) else ""
        raise TypeError(f"a number{hint}")
    return float(value)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TypeError("a whole number, 1 or more")
    return value


def _by_column(value: Any, use: Callable[[Any], Any], what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"a mapping from columns to {what}")
    return {name: use(entry) for name, entry in value.items()}


def _units(value: Any) -> dict[str, str]:
    return _by_column(value, _unit, "units, such as {level: m}")


def _unit(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a unit as text, in quotes where YAML reads a number or a truth value")
    return value


def _fallback(value: Any) -> dict[str, str]:
    return _by_column(value, _name, "columns, such as {applied_voltage: voltage}")


def _bounds(value: Any) -> dict[str, tuple[float, float]]:
    return _by_column(value, _ends, "[low, high], such as {level: [0, 2.5]}; null for an open end")


def _ends(value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise TypeError("[low, high] for each column; null for an open end")
    low, high = value
    return (-math.inf if low is None else _number(low)), (math.inf if high is None else _number(high))


def _categories(value: Any) -> dict[str, tuple[str, ...]]:
    """A list of columns, or a mapping from columns to their categories in order."""
    if isinstance(value, dict):
        return _by_column(value, _listed, "lists of categories")
    return dict.fromkeys(_names(value), ())


def _listed(value: Any, what: str = "a list of two or more different categories for each column") -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) < 2 or len({name(v) for v in value}) < len(value):
        raise TypeError(what)
    if any(isinstance(v, list | dict) or v is None or name(v) in ("", "nan") for v in value):
        raise TypeError("names that are not empty; in quotes where YAML takes them for null")
    if any(isinstance(v, bool) for v in value):
        raise TypeError("names; in quotes, as in ['off', 'on'], where YAML takes them for false and true")
    return tuple(name(v) for v in value)


def _choices(value: Any) -> bool | tuple[str, ...]:
    """Whether an action is an integer from 0, or the names of the choices in their order."""
    return (
        value if isinstance(value, bool) else _listed(value, "true or false, or a list of two or more different names")
    )


CHECKS: dict[str, Callable[[Any], Any]] = {
    "observation": _names,
    "exogenous": _names,
    "action": _names,
    "propensity": _name,
    "reward": _name,
    "cost": _name,
    "reward_function": _name,
    "terminal": _name,
    "truncated": _name,
    "episode": _name,
    "time": _name,
    "period": _number,
    "max_gap": _number,
    "cut_every": _count,
    "resample": _name,
    "units": _units,
    "bounds": _bounds,
    "categorical": _categories,
    "fallback": _fallback,
    "clip_action": _flag,
    "keep_constant": _flag,
    "next_observation": _names,
    "final_action": _flag,
    "action_low": _numbers,
    "action_high": _numbers,
    "discrete": _choices,
}


def _exponential(value: Any) -> bool:
    """Whether it is a text that everybody but YAML 1.1 takes for a number."""
    return isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) is not None
