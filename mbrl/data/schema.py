"""Which column of a log is what: the YAML schema of `mbrl import`, and the layout that needs none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import yaml


def closest(word: str, known: Iterable[str]) -> str:
    """A hint for a message: the nearest known name, if any is near, and all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"There are: {', '.join(known)}"


@dataclass(frozen=True)
class Schema:
    """The columns of a log (arrays, in an npz) by their meaning.

    A schema file is YAML with these names as keys. `observation` and `action` take one name or a list; an npz
    array or a Parquet list column may be [N, k] and then stands for k channels.

    Without `next_observation`, the next row of the episode is the next observation. The last row of an episode
    then has no successor: its observation becomes the final one, its action and reward are dropped, and its
    terminal or truncated flag belongs to the transition that leads to it.
    """

    observation: tuple[str, ...]
    action: tuple[str, ...]
    reward: str
    terminal: str | None = None  # 1 or true where the world ended with this row
    truncated: str | None = None  # 1 or true where the episode was cut after this row
    episode: str | None = None  # an id; the rows of one episode are together
    time: str | None = None  # must not decrease within an episode
    next_observation: tuple[str, ...] = ()
    action_low: tuple[float, ...] | None = None  # declared bounds: one number, or one per action channel
    action_high: tuple[float, ...] | None = None
    discrete: bool = False  # the action is an integer from 0
    index: str | None = None  # npz layout only: an array with the first row of each episode

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a schema file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not YAML, a key is unknown or missing, or a value has the wrong type.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"the schema {path} is not YAML: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"the schema {path} must be a mapping of keys such as observation, action and reward")
        known = [f.name for f in fields(cls) if f.name != "index"]
        for key in content:
            if key not in known:
                raise ValueError(f"the schema {path} has an unknown key {key!r}: {closest(str(key), known)}")
        for key in ("observation", "action", "reward"):
            if content.get(key) in (None, [], ""):
                why = "; a log without reward cannot be learned from" if key == "reward" else ""
                raise ValueError(f"the schema {path} names no {key}: add `{key}: COLUMN`{why}")
        values: dict[str, Any] = {}
        for key, value in content.items():
            try:
                values[key] = _CHECKS[key](value)
            except TypeError as error:
                raise ValueError(f"the schema {path}: {key} is {value!r}, expected {error}") from error
        schema = cls(**values)
        schema.check(f"the schema {path}")
        return schema

    def check(self, where: str) -> None:
        """Raise ValueError where the schema contradicts itself; `where` begins the message."""
        if not (self.terminal or self.truncated or self.episode or self.index):
            raise ValueError(f"{where} cannot tell episodes apart: name the column of episode, terminal or truncated")
        if (self.action_low is None) != (self.action_high is None):
            raise ValueError(f"{where} has one of action_low and action_high: give both or neither")
        if self.discrete and (self.action_low is not None or len(self.action) != 1):
            raise ValueError(f"{where}: a discrete action is one column and has no action_low or action_high")

    def columns(self) -> list[str]:
        """Every name that the schema uses, once."""
        single = (self.reward, self.terminal, self.truncated, self.episode, self.time)
        names = (*self.observation, *self.action, *self.next_observation, *single)
        return list(dict.fromkeys(name for name in names if name))


STANDARD = Schema(  # the layout of an npz that needs no schema
    observation=("obs",),
    action=("action",),
    reward="reward",
    next_observation=("next_obs",),
    terminal="done",
    truncated="truncated",
)


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("the name of one column")
    return value


def _names(value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        raise TypeError("one name, or a list of different names")
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


_CHECKS = {
    "observation": _names,
    "action": _names,
    "reward": _name,
    "terminal": _name,
    "truncated": _name,
    "episode": _name,
    "time": _name,
    "next_observation": _names,
    "action_low": _numbers,
    "action_high": _numbers,
    "discrete": _flag,
}
