"""Which column of a log is what: the YAML schema of `mbrl import`, and the layout that needs none."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import yaml

from mbrl.data.entries import CHECKS

RULES = ("last", "linear")  # of resampling
ROLES = (
    "observation",
    "exogenous",
    "next_observation",
    "action",
    "propensity",
    "reward",
    "cost",
    "terminal",
    "truncated",
    "episode",
    "time",
)


def closest(word: str, known: Iterable[str]) -> str:
    """A hint for a message: the nearest known name, if any is near, and all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    return (f"did you mean {near[0]!r}? There" if near else "there") + f" are: {', '.join(known)}"


@dataclass(frozen=True)
class Schema:
    """The columns of a log (arrays, in an npz) by their meaning.

    A schema file is YAML with these names as keys. `observation` and `action` take one name or a list; an npz
    array or a Parquet list column may be [N, k] and then stands for k channels, one of which is called `array[0]`.

    Columns of the observation that nothing in the plant decides (weather, demand, set-points) are `exogenous` in place
    of `observation`: policies and models see them, behind the others; no model predicts them, and imagined rollouts
    replay them from a logged episode.

    `fallback` names, for a column that was not always logged, the one to read in its place, and `clip_action` brings
    actions to their bounds: together they say `what was applied, or else the command as the amplifier limited it`.

    A `discrete` action is an integer from 0, or one of the names that are listed there in the order of their numbers.

    `categorical` columns of the observation become one channel per category, and columns of the observation that never
    change are dropped with a notice (unless `keep_constant`).

    `propensity` is how likely the logger was to act as it did: the natural logarithm of the action's probability
    (Discrete) or of its density in the action's own units. Importance sampling uses it in place of a fitted model.

    `cost` is what a row costs beside its reward: a violated limit, wear, emissions. No policy learns from it; the gate
    limits its sum over an episode (the rule `most_cost`).

    Time is in its own unit, or in seconds where it is a timestamp. With `time`, the rows of an episode must be evenly
    spaced: by `period`, or by the spacing that the log begins with. A longer step than `max_gap` (1.5 periods where a
    period but no resampling is stated) ends the episode. `resample` puts uneven rows on a grid of `period` that begins
    with each episode: `last` takes the last value at or before a point, `linear` interpolates the observation between
    the rows around it. Actions and categories always take the last value, and columns of reward and cost the mean of
    the rows from a point until the next one (the last value where there are none). An empty cell of the observation or
    the action is filled by the same rule, from rows at most `max_gap` apart, and counted; a row with one that is
    farther from any value is left out, which ends an episode as a pause does.

    A plant that never stops has no episodes, and a log of it is one: `cut_every` makes pieces of it, in rows of the log
    or of the grid. They are truncated, and no step is lost between them. They are of one series, over pauses and files,
    until a flag or another id ends it, and no independent episodes (see `mbrl.data.series`). A row that cannot be used
    drops its piece alone (`on_bad_rows`), and with `resample`, before which nothing is cut, its whole episode.

    Without `next_observation`, the next row of the episode is the next observation. The last row of an episode
    then has no successor: its observation becomes the final one, its action, reward and cost are dropped, and its
    terminal or truncated flag belongs to the transition that leads to it. With `final_action` the row that is flagged
    terminal acted and was paid, and where that led, which is not in the log, is taken to be one more change like the
    last one (see `mbrl.data.lastrows.closed`).
    """

    observation: tuple[str, ...]  # what the plant decides; see also `exogenous`
    action: tuple[str, ...]
    reward: str | None = None  # a column, or else:
    reward_function: str | None = (
        None  # dotted path: (obs [n, O], action [n, A], next_obs [n, O]) -> reward [n], tensors
    )
    exogenous: tuple[str, ...] = ()  # what is observed, and decided elsewhere
    cost: str | None = None  # what is limited, and not learned from
    propensity: str | None = None  # natural log of the action's density (Discrete: probability) when it was logged
    terminal: str | None = None  # 1 or true where the world ended with this row
    truncated: str | None = None  # 1 or true where the episode was cut after this row
    episode: str | None = None  # an id; the rows of one episode are together
    time: str | None = None  # numbers or ISO timestamps; must not decrease within an episode
    period: float | None = None  # of the rows, or of the grid that they are resampled to
    max_gap: float | None = None  # a longer step in time ends the episode
    cut_every: int | None = None  # steps; a longer episode becomes equal pieces of that length at most
    resample: str | None = None  # last or linear
    units: dict[str, str] = field(default_factory=dict)  # by column, kept with the data set
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)  # physical ones, by column
    categorical: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by column; () for what the log holds
    fallback: dict[str, str] = field(default_factory=dict)  # by column: the one that is read where it is empty or NaN
    keep_constant: bool = False  # do not drop columns of the observation that never change
    next_observation: tuple[str, ...] = ()
    final_action: bool | None = None  # whether terminal rows acted and were paid; None: no, and what is lost is told
    action_low: tuple[float, ...] | None = None  # declared bounds: one number, or one per action channel
    action_high: tuple[float, ...] | None = None
    clip_action: bool = False  # bring commands to the bounds of the action, as the actuator did, and count them
    discrete: bool | tuple[str, ...] = False  # the action is an integer from 0, or one of these names
    index: str | None = None  # npz layout only: an array with the first row of each episode

    @classmethod
    def read(cls, path: Path, layout: Self | None = None) -> Self:
        """Read a schema file.

        Args:
            path: of it.
            layout: what a file that names no column at all is taken to name: the layout that needs no schema.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not YAML, a key is unknown or missing, or a value has the wrong type.
        """
        if path.is_dir() or not path.exists():  # a pipe can be read
            raise FileNotFoundError(f"there is no file {path}, which --schema names")
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
        silent = not {*ROLES, "reward_function"} & set(content)
        if layout is None or not silent:
            _check_named(path, content)
        values: dict[str, Any] = {}
        for key, value in content.items():
            try:
                values[key] = CHECKS[key](value)
            except TypeError as error:
                raise ValueError(f"the schema {path}: {key} is {value!r}, expected {error}") from error
        schema = replace(layout, **values) if layout is not None and silent else cls(**values)
        schema.check(f"the schema {path}")
        return schema

    def check(self, where: str) -> None:
        """Raise ValueError where the schema contradicts itself; `where` begins the message."""
        self._check_roles(where)
        if not (self.terminal or self.truncated or self.episode or self.index or self.max_gap or self.cut_every):
            raise ValueError(
                f"{where} cannot tell episodes apart: name the column of episode, terminal or truncated, or a "
                "`max_gap` in time, or cut one endless series into pieces, `cut_every: ROWS`"
            )
        if (self.action_low is None) != (self.action_high is None):
            raise ValueError(f"{where} has one of action_low and action_high: give both or neither")
        if self.discrete and (self.action_low is not None or self.clip_action or len(self.action) != 1):
            raise ValueError(
                f"{where}: a discrete action is one column and has no action_low, action_high or clip_action"
            )
        if self.final_action and (self.terminal is None or self.next_observation):
            raise ValueError(
                f"{where} has final_action, which is for a log with `terminal` and without `next_observation`: name the"
                " one, or leave out the other"
            )
        for key in ("clip_action", "resample"):
            if self.propensity and getattr(self, key):
                raise ValueError(
                    f"{where} has a propensity and {key}, which changes the action that it belongs to: drop one of them"
                )
        self._check_time(where)

    def _check_roles(self, where: str) -> None:
        """Every column has one role, and what is said by column is said of columns that can have it."""
        roles: dict[str, str] = {}
        for key in ROLES:
            value = getattr(self, key)
            for name in value if isinstance(value, tuple) else [value] if value else []:
                if name in roles:
                    raise ValueError(
                        f"{where} gives the column {name!r} two roles, {roles[name]} and {key}: a column has one, so "
                        "remove it from the other (or copy the column in the file)"
                    )
                roles[name] = key
        if self.reward and self.reward_function:
            raise ValueError(f"{where} has a reward and a reward_function: give one of them")
        allowed = {
            "units": ("observation", "exogenous", "action"),
            "bounds": ("observation", "exogenous", "next_observation", "reward"),
            "categorical": ("observation", "exogenous"),
            "fallback": ("observation", "exogenous", "next_observation", "action", "reward", "cost"),
        }
        for key, wanted in allowed.items():
            for name in getattr(self, key):
                if roles.get(name) not in wanted:
                    hint = "; the bounds of an action are action_low and action_high" if key == "bounds" else ""
                    raise ValueError(
                        f"{where}: {key} names {name!r}, expected a column of {', '.join(wanted)}{hint}: "
                        f"{closest(name, [n for n, role in roles.items() if role in wanted])}"
                    )
        for name, (low, high) in self.bounds.items():
            if not low < high or name in self.categorical:
                raise ValueError(f"{where}: bounds of {name!r} are [{low}, {high}], expected numbers with low < high")
        for name, other in self.fallback.items():
            if name == other:
                raise ValueError(f"{where}: {name!r} falls back to itself, expected another column")
        named = {*self.categorical, *(self.action if isinstance(self.discrete, tuple) else ())}
        if both := sorted(set(self.fallback) & named):
            raise ValueError(f"{where}: {both[0]!r} holds names, and fallback is for columns of numbers")
        if self.categorical and self.next_observation and len(self.next_observation) != len(self.seen):
            raise ValueError(
                f"{where}: with categorical columns, next_observation follows observation and exogenous one by one"
            )

    def _check_time(self, where: str) -> None:
        for key in ("period", "max_gap", "resample"):
            if getattr(self, key) is not None and self.time is None:
                raise ValueError(f"{where} has {key} and no time: add `time: COLUMN`")
        for key in ("period", "max_gap"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{where}: {key} is {value}, expected a number above 0")
        if self.period and self.max_gap and self.max_gap < self.period:
            raise ValueError(f"{where}: max_gap {self.max_gap} is below the period {self.period}: every row would end")
        if self.resample is None:
            return
        if self.resample not in RULES:
            raise ValueError(f"{where}: resample is {self.resample!r}, expected one of {', '.join(RULES)}")
        for key in ("period", "max_gap"):
            if getattr(self, key) is None:
                raise ValueError(f"{where}: resample needs `{key}: NUMBER`, in the unit of {self.time!r}")
        if self.next_observation:
            raise ValueError(f"{where}: resample takes the next observation from the grid: drop next_observation")

    @property
    def seen(self) -> tuple[str, ...]:
        """The columns of what a policy sees: the observation's, and behind them the exogenous ones."""
        return (*self.observation, *self.exogenous)

    @property
    def gap(self) -> float | None:
        """The step in time beyond which an episode ends, None where none is said."""
        if self.max_gap is None and self.period is not None:
            return 1.5 * self.period
        return self.max_gap

    def columns(self) -> list[str]:
        """Every name that the schema uses, once."""
        single = (self.propensity, self.reward, self.cost, self.terminal, self.truncated, self.episode, self.time)
        names = (*self.seen, *self.action, *self.next_observation, *single, *self.fallback.values())
        return list(dict.fromkeys(name for name in names if name))


def _check_named(path: Path, content: Mapping[str, Any]) -> None:
    for key in ("observation", "action"):
        if content.get(key) in (None, [], ""):
            raise ValueError(f"the schema {path} names no {key}: add `{key}: COLUMN`")
    if not content.get("reward") and not content.get("reward_function"):
        raise ValueError(
            f"the schema {path} names no reward: add `reward: COLUMN` or `reward_function: MODULE.FUNCTION`; a log "
            "without reward cannot be learned from"
        )


STANDARD = Schema(  # the layout of an npz that needs no schema
    observation=("obs",),
    action=("action",),
    reward="reward",
    next_observation=("next_obs",),
    terminal="done",
    truncated="truncated",
)
