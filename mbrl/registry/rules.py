"""The gate's rules are data: a YAML file with a version, checked when it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self, get_args

import yaml

from mbrl.evaluation.combining import Combination
from mbrl.evaluation.panel import check_kinds

PACKAGED = Path(__file__).with_name("rules.yaml")
GRADES = ("good", "with care", "poor")  # of a report card, best first
NUMBERS = (  # 0 or more each
    "least_gain_over_log",
    "least_gain_by_choice",
    "most_loss_to_cloning",
    "least_gain_over_champion",
    "tie",
    "harmful_loss",
    "least_agreement",
    "least_effective_n",
    "least_support",
    "least_card_coverage",
    "least_trusted_horizon",
)
LIMITS = (  # 0 or more each, or None for no limit
    "most_outside",
    "most_doubt",
    "most_unread",
    "most_tail_loss",
    "most_cost",
)
SHARES = ("least_agreement", "least_support", "least_card_coverage", "most_outside", "most_doubt")  # at most 1


@dataclass(frozen=True)
class Rules:
    """What a candidate must show; the packaged `rules.yaml` says what each field means.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    version: str
    kinds: tuple[str, ...]
    combination: Combination
    ranking: Combination
    choice: str
    tie: float
    level: float
    least_gain_over_log: float
    least_gain_by_choice: float
    most_loss_to_cloning: float
    least_gain_over_champion: float
    harmful_loss: float
    least_agreement: float
    least_effective_n: float
    most_outside: float | None
    most_doubt: float | None
    most_unread: float | None
    least_support: float
    most_tail_loss: float | None
    most_cost: float | None
    grades: tuple[str, ...]
    least_card_coverage: float
    least_trusted_horizon: float
    second_person: bool

    def __post_init__(self) -> None:
        _expect(isinstance(self.version, str) and bool(self.version), "version", self.version, 'a text, such as "1"')
        _expect(self._names("kinds"), "kinds", self.kinds, "a list of kinds of estimators, none of them twice")
        _expect(self.choice in self.kinds, "choice", self.choice, f"one of the kinds {list(self.kinds)}")
        _expect(
            self._names("grades") and set(self.grades) <= set(GRADES), "grades", self.grades, f"some of {list(GRADES)}"
        )
        choices = get_args(Combination)
        for name in ("combination", "ranking"):
            value = getattr(self, name)
            _expect(value in choices, name, value, f"one of {', '.join(choices)}")
        _expect(
            _number(self.level) and 0.5 < self.level < 1, "level", self.level, "a one-sided level between 0.5 and 1"
        )
        _expect(isinstance(self.second_person, bool), "second_person", self.second_person, "true or false")
        for name in (*NUMBERS, *LIMITS):
            value = getattr(self, name)
            if value is None and name in LIMITS:
                continue
            _expect(_number(value) and value >= 0, name, value, "a finite number, 0 or more")
            _expect(name not in SHARES or value <= 1, name, value, "a share, at most 1")

    def _names(self, field: str) -> bool:
        value = getattr(self, field)
        plain = isinstance(value, tuple) and bool(value) and all(isinstance(name, str) for name in value)
        return plain and len(set(value)) == len(value)

    @property
    def coverage(self) -> float:
        """Of the two-sided interval whose ends are the one-sided bounds of `level`."""
        return 2 * self.level - 1

    def deciding(self, fewer: bool) -> Combination:
        """How the kinds are combined; the lowest where some were left out as repeating another, so each has a veto."""
        return "lowest" if fewer else self.combination

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and YAML."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a key is missing or unknown, or a value is out of range.
        """
        known = [field.name for field in fields(cls)]
        if odd := [key for key in content if key not in known]:
            raise ValueError(f"there is no rule called {', '.join(map(str, odd))}: the rules are {', '.join(known)}")
        if missing := [name for name in known if name not in content]:
            raise ValueError(f"the rules lack {', '.join(missing)}: copy {PACKAGED}, and change that")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**plain)


def read(path: Path | None = None) -> Rules:
    """The rules in a YAML file, by default those that come with mbrl.

    Raises:
        ValueError: the file is not there or no YAML mapping, a key is missing or unknown, a value is out of range, or
            there is no such kind of estimator.
    """
    source = path or PACKAGED
    try:
        content = yaml.safe_load(source.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"the rules {source} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"the rules {source} hold a {type(content).__name__}, expected names and values")
    try:
        found = Rules.of(content)
        check_kinds(found.kinds)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return found if path is None else _unlike(found, read())


def _unlike(rules: Rules, packaged: Rules) -> Rules:
    """The rules under a version of their own: that of the packaged ones, and what differs from them."""
    ours, theirs = rules.to_dict(), packaged.to_dict()
    changed = [name for name in ours if ours[name] != theirs[name]]
    if rules.version != packaged.version or not changed:
        return rules
    return replace(rules, version=f"{rules.version}, changed: {', '.join(changed)}")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _expect(good: bool, name: str, value: object, expected: str) -> None:
    if not good:
        shown = list(value) if isinstance(value, tuple) else value
        raise ValueError(f"the rule {name} is {shown}, expected {expected}")
