"""The problem as a network sees it, in numbers read from the log. `mbrl.core` has it with the other nouns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

BOUNDS = ("bound_low", "bound_high")  # fields with one value a channel, and one for the reward
OF_CLOCKS = ("clock_steps", "clock_turns", "clock_periods")  # fields with one value a clock
OF_RESETS = ("reset_values",)  # fields with one value a resetting channel
OF_ENDS = ("live_reward", "end_reward")  # mean and std, or nothing
FREE = ("sources", *OF_CLOCKS, *OF_RESETS, *OF_ENDS, *BOUNDS)  # fields that have not one value a channel
LATER = frozenset(
    {"terminal_rate", "carried", "clocks", "sources", "resets", *OF_CLOCKS, *OF_RESETS, *OF_ENDS}
)  # a stored spec may lack them
CHANNEL_LISTS = ("predicted", "exogenous", "holding", "resets", "carried", "clocks")  # of a plain observation


@dataclass(frozen=True)
class Spec:
    """All that a network must know of the problem, read from the training split of the log.

    Box actions keep their declared bounds (the log's own range where a bound is infinite). For
    Discrete actions `action_dim` is the number of choices and the bounds are 0 and 1.

    Raises:
        ValueError: a field has not one value a channel, the history does not fit obs_dim, no channel is predicted, a
            channel is named twice, is not one of the newest observation, or is both predicted and exogenous, or a
            carried one has no source, or a clock no step, turn or period.
    """

    obs_dim: int
    action_dim: int
    discrete: bool
    action_low: tuple[float, ...]  # [A]
    action_high: tuple[float, ...]  # [A]
    action_mean: tuple[float, ...]  # [A]
    action_std: tuple[float, ...]  # [A]
    obs_mean: tuple[float, ...]  # [O]
    obs_std: tuple[float, ...]  # [O]; 1 where the channel is constant, as in every std here
    obs_low: tuple[float, ...]  # [O] smallest logged value, next observations included
    obs_high: tuple[float, ...]  # [O]
    delta_mean: tuple[float, ...]  # [O] of next_obs - obs
    delta_std: tuple[float, ...]  # [O]
    reward_mean: float
    reward_std: float  # its size, where it is constant, and 1 where that is 0
    reward_low: float
    reward_high: float
    terminals: bool  # whether the log holds a true terminal
    max_episode_steps: int  # the longest logged episode
    exogenous: tuple[int, ...] = ()  # channels that nothing inside the world decides (weather): replayed from a log
    bound_low: tuple[
        float | None, ...
    ] = ()  # [F + 1] physical bounds of the newest observation and the reward, or None
    bound_high: tuple[float | None, ...] = ()  # [F + 1]; () for no bounds at all
    predicted: tuple[int, ...] = ()  # channels that a model predicts; () for all that are none of the others
    holding: tuple[int, ...] = ()  # predicted channels that mostly keep their value exactly: set-points, modes
    resets: tuple[int, ...] = ()  # predicted channels that jump to one value time and again: days since, a full stock
    reset_values: tuple[float, ...] = ()  # of each of them
    carried: tuple[int, ...] = ()  # channels whose next value is a present one of `sources`: the past, logged along
    sources: tuple[int, ...] = ()  # of each carried one: channel k of the observation, or F + k of the action
    clocks: tuple[int, ...] = ()  # channels that go on by a step in every row, see `mbrl.data.exact.Clock`
    clock_steps: tuple[float, ...] = ()  # of each clock
    clock_turns: tuple[float, ...] = ()  # beyond which it goes back
    clock_periods: tuple[float, ...] = ()  # by so much; 0 for a counter, which never does
    history: int = 1  # observations in a row of obs; with more than 1, obs is a window (`mbrl.window`)
    terminal_rate: float = 0.0  # share of the rows with which the world ended
    live_reward: tuple[float, ...] = ()  # mean and std of the reward where the world went on, and where it ended,
    end_reward: tuple[float, ...] = ()  # if that is of another kind, as for a goal or a trip; () where it is not

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and field.name not in (*CHANNEL_LISTS, *FREE):
                width = self.action_dim if field.name.startswith("action") else self.obs_dim
                if len(value) != width:
                    raise ValueError(f"{field.name} has {len(value)} values, expected one a channel: {width}")
        if self.history < 1 or self.frame_dim < 1 or self.frame_dim * self.history != self.obs_dim - self._actions:
            raise ValueError(
                f"history is {self.history} with observations [{self.obs_dim}] and actions [{self.action_dim}],"
                " expected at least 1, and windows of so many observations and one action less"
            )
        for name in BOUNDS:
            count = len(getattr(self, name))
            if count not in (0, self.frame_dim + 1):
                raise ValueError(f"{name} has {count} values, expected one a channel and the reward's, or none at all")
        given = self.frame_dim + self.action_dim
        if len(self.sources) != len(self.carried) or not set(self.sources) <= set(range(given)):
            raise ValueError(
                f"sources is {list(self.sources)} for the carried channels {list(self.carried)}, expected one for each,"
                f" from 0 to {given - 1}"
            )
        if {len(self.live_reward), len(self.end_reward)} not in ({0}, {2}):
            raise ValueError(
                f"live_reward is {list(self.live_reward)} and end_reward {list(self.end_reward)}, expected a mean and a"
                " std each, or nothing in both"
            )
        for name, channels in (*((name, self.clocks) for name in OF_CLOCKS), ("reset_values", self.resets)):
            if len(getattr(self, name)) != len(channels):
                raise ValueError(f"{name} is {list(getattr(self, name))}, expected one for each of {list(channels)}")
        self._leave_out({*self.predicted, *self.exogenous}, "carried", "sources")
        self._leave_out({*self.predicted, *self.exogenous, *self.carried}, "clocks", *OF_CLOCKS)
        if not self.predicted:
            filled = {*self.exogenous, *self.carried, *self.clocks}
            object.__setattr__(self, "predicted", tuple(k for k in range(self.frame_dim) if k not in filled))
        for name in CHANNEL_LISTS:
            value = getattr(self, name)
            if list(value) != sorted(set(value)) or not set(value) <= set(range(self.frame_dim)):
                raise ValueError(f"{name} is {list(value)}, expected channels from 0 to {self.frame_dim - 1} in order")
        if both := set(self.predicted) & set(self.exogenous):
            raise ValueError(f"channels {sorted(both)} are predicted and exogenous: a channel is one of them")
        object.__setattr__(self, "holding", tuple(k for k in self.holding if k in self.predicted))
        self._leave_out({*self.holding, *set(self.resets).difference(self.predicted)}, "resets", *OF_RESETS)
        if not self.predicted:
            raise ValueError(
                f"all {self.frame_dim} channels are exogenous, carried or clocks, and none is left for a model to"
                " predict"
            )

    def _leave_out(self, others: set[int], channels: str, *about: str) -> None:
        """Take these `others` out of a list of channels, and what is known `about` each of them."""
        rows = zip(*(getattr(self, name) for name in (channels, *about)), strict=True)
        kept = [row for row in rows if row[0] not in others]
        for place, name in enumerate((channels, *about)):
            object.__setattr__(self, name, tuple(row[place] for row in kept))  # frozen for everybody else

    @property
    def frame_dim(self) -> int:
        """The width F of a plain observation, which is the newest one in a window, and all of obs without a history."""
        return (self.obs_dim - self._actions) // self.history

    @property
    def _actions(self) -> int:
        return (self.history - 1) * self.action_dim

    def limits(self, bounds: tuple[float | None, ...], none: float) -> list[float]:
        """`bound_low` or `bound_high` of (obs, reward), [O + 1]: older observations have those of the newest."""
        *seen, reward = [none if bound is None else bound for bound in bounds or [None] * (self.frame_dim + 1)]
        return [*seen * self.history, *[none] * self._actions, reward]

    @property
    def moving_actions(self) -> list[int]:
        """The channels of the action that can move; an actuator that is out of order has one value."""
        return [k for k, (low, high) in enumerate(zip(self.action_low, self.action_high, strict=True)) if low < high]

    @property
    def resting(self) -> list[int]:
        """Predicted channels that may next have one value exactly: their present one, or that of a reset."""
        return sorted((*self.holding, *self.resets))

    @property
    def targets(self) -> tuple[int, ...]:
        """Which of (next observation, reward), [O + 1], a model predicts: the last is the reward."""
        return (*self.predicted, self.obs_dim)

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of numbers and lists, for checkpoints and JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a field is missing or unknown.
        """
        known = {f.name for f in fields(cls)}
        if odd := sorted((known ^ set(values)) - (LATER - set(values))):
            raise ValueError(f"the stored spec does not fit this version of mbrl: fields {odd} are missing or unknown")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)
