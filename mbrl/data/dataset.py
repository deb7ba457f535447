"""TransitionDataset: a log as flat tensors, split by episode, identified by a fingerprint over all of its content."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self, final

import torch
from torch import Tensor

from mbrl.core import Batch, Spec, generator
from mbrl.data.mapped import Mapped
from mbrl.data.moments import finite_bounds
from mbrl.data.promises import check
from mbrl.data.series import shuffled


@final
@dataclass(frozen=True, eq=False)
class TransitionDataset:
    """Every transition of a log, in order: N rows, O observation and A action channels.

    The rows of an episode are contiguous and in time order, and `next_obs` never crosses into another
    episode. The last row of every episode is terminated, truncated or both. Build one with `create`. Tensors are read,
    never written to: those that lie in files may be read from there anew at any time.
    """

    id: str  # the Minari id
    obs: Tensor  # [N, O] float32
    action: Tensor  # [N, A] float32; Discrete: the one-hot row
    reward: Tensor  # [N] float32
    next_obs: Tensor  # [N, O] float32
    terminated: Tensor  # [N] bool: the world ended
    truncated: Tensor  # [N] bool: the episode was cut, the world went on
    episode: Tensor  # [N] long, 0 .. episodes - 1
    discrete: bool
    action_low: tuple[float, ...]  # [A] declared bounds, the log's own range where a bound is infinite
    action_high: tuple[float, ...]  # [A]
    env_id: str | None  # what `mbrl.environments.make` takes, where the log says which environment it is from
    channels: tuple[str, ...]  # [O] names of the observation's channels
    units: tuple[str, ...]  # [O] their units, "" where nothing is said
    action_channels: tuple[str, ...]  # [A] names; of a Discrete action, those of its choices
    action_units: tuple[str, ...]  # [A]
    exogenous: tuple[int, ...]  # channels of the observation that nothing in the world decides, such as the weather
    bound_low: tuple[float | None, ...]  # [F + 1] physical bounds of the newest observation and the reward, or None
    bound_high: tuple[float | None, ...]  # [F + 1]
    fingerprint: str  # hex SHA-256 over dtype, shape and bytes of every tensor, bounds, series, `discrete`, `exogenous`
    propensity: Tensor | None = None  # [N] float32 log density (Discrete: log probability) of the action when logged
    cost: Tensor | None = None  # [N] float32 what a row costs beside its reward: limited, and not learned from
    time_limit: int | None = None  # steps after which the environment cuts an episode, where the log says so
    series: tuple[int, ...] = ()  # episodes of each series (see `mbrl.data.series`), in order; () where none was cut
    history: int = 1  # observations in each row of obs: more than 1 in what `mbrl.data.history.windowed` made
    mapped: Mapped | None = None  # where the tensors lie in files, not in memory

    @classmethod
    def create(
        cls,
        id: str,
        *,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        next_obs: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        episode: Tensor,
        propensity: Tensor | None = None,
        cost: Tensor | None = None,
        discrete: bool,
        action_low: Sequence[float],
        action_high: Sequence[float],
        env_id: str | None = None,
        time_limit: int | None = None,
        series: Sequence[int] = (),
        channels: Sequence[str] = (),
        units: Sequence[str] = (),
        action_channels: Sequence[str] = (),
        action_units: Sequence[str] = (),
        exogenous: Sequence[int] = (),
        bound_low: Sequence[float | None] = (),
        bound_high: Sequence[float | None] = (),
    ) -> Self:
        """Check the tensors, resolve infinite action bounds to the log's own range, and take the fingerprint.

        Channels without names are called "observation 0", "action 0" and so on. Names and units are not content: the
        fingerprint does not change with them.

        Raises:
            ValueError: a shape, dtype, the order of the episodes or a count of names is not as the class promises, or
                a row leaves the physical bounds.
        """
        low, high = finite_bounds(action, action_low, action_high)
        data = cls(
            id=id,
            obs=obs,
            action=action,
            reward=reward,
            next_obs=next_obs,
            terminated=terminated,
            truncated=truncated,
            episode=episode,
            propensity=propensity,
            cost=cost,
            discrete=discrete,
            action_low=low,
            action_high=high,
            env_id=env_id,
            time_limit=time_limit,
            series=tuple(series),
            channels=tuple(channels) or tuple(f"observation {k}" for k in range(obs.shape[-1])),
            units=tuple(units) or ("",) * obs.shape[-1],
            action_channels=tuple(action_channels) or tuple(f"action {k}" for k in range(action.shape[-1])),
            action_units=tuple(action_units) or ("",) * action.shape[-1],
            exogenous=tuple(exogenous),
            bound_low=tuple(bound_low) or (None,) * (obs.shape[-1] + 1),
            bound_high=tuple(bound_high) or (None,) * (obs.shape[-1] + 1),
            fingerprint="",
        )
        check(data)
        return replace(data, fingerprint=data._digest())

    def __len__(self) -> int:
        """The number of rows, N."""
        return len(self.reward)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name; `propensity` and `cost` only where they were logged."""
        return {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}

    @property
    def frame_dim(self) -> int:
        """The width F of a plain observation: of obs itself, or of the newest one in a window."""
        return (self.obs.shape[1] - (self.history - 1) * self.action.shape[1]) // self.history

    @property
    def labels(self) -> tuple[str, ...]:
        """What to write beside each channel of the observation, [O]: `temperature [degC]`."""
        pairs = zip(self.channels, self.units, strict=True)
        return tuple(f"{name} [{unit}]" if unit else name for name, unit in pairs)

    @cached_property
    def lengths(self) -> Tensor:
        """Rows of each episode, [n] long."""
        return torch.bincount(self.episode)

    @cached_property
    def first(self) -> Tensor:
        """Index of the first row of each episode, [n] long."""
        return self.lengths.cumsum(0) - self.lengths

    @property
    def episodes(self) -> int:
        """The number of episodes, n."""
        return len(self.lengths)

    @cached_property
    def series_of(self) -> Tensor:
        """The number of the series that each episode is a piece of, [n] long; its own one where nothing was cut."""
        count = torch.tensor(self.series or (1,) * self.episodes, device=self.obs.device)
        return torch.arange(len(count), device=count.device).repeat_interleave(count)

    @property
    def starts(self) -> Tensor:
        """The first observation of each episode, [n, O]."""
        return self.obs[self.first]

    def returns(self) -> Tensor:
        """The undiscounted return of each episode, [n] float32, summed in float64."""
        return self.sums(self.reward)

    def sums(self, column: Tensor) -> Tensor:
        """The sum of a column [N] over each episode, [n] float32, summed in float64."""
        total = torch.zeros(self.episodes, dtype=torch.float64, device=column.device)
        return total.index_add_(0, self.episode, column.double()).float()

    def rows(self, episodes: Tensor) -> Tensor:
        """Row indices of the given episodes ([k] long), episode after episode, [sum of their lengths] long."""
        lengths = self.lengths[episodes]
        offset = (self.first[episodes] - (lengths.cumsum(0) - lengths)).repeat_interleave(lengths)
        return offset + torch.arange(len(offset), device=offset.device)

    def ends(self, rows: Tensor) -> Tensor:
        """Which of the given rows ([B] long) are the last of their episodes, terminated or truncated: [B] bool."""
        return rows == (self.first + self.lengths - 1)[self.episode[rows]]

    def batch(self, rows: Tensor | None = None) -> Batch:
        """The given rows ([B] long; default all of them, without a copy) as a Batch with [B, ...] tensors."""
        whole = Batch(self.obs, self.action, self.reward, self.next_obs, self.terminated)
        if rows is None:
            return whole
        return Batch(*(self._taken(column, rows) for column in whole))

    def split(self, fractions: Sequence[float], seed: int) -> tuple[Tensor, ...]:
        """Divide the episodes at random, e.g. into (0.9, 0.1); every side gets at least one episode.

        Pieces of one series stay together in blocks (`mbrl.data.series.blocks`), but for those that a side ends with.

        Returns:
            one sorted [k] long tensor of episode indices per fraction; they are disjoint and cover the log.

        Raises:
            ValueError: a fraction is not positive, they do not sum to 1, or there are fewer episodes than sides.
        """
        shares = [float(f) for f in fractions]
        if not shares or min(shares) <= 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            raise ValueError(f"split fractions are {shares}, expected positive numbers that sum to 1")
        if self.episodes < len(shares):
            raise ValueError(
                f"{self.id} has {self.episodes} episode(s), which cannot be split into {len(shares)} non-empty sides: "
                "log more episodes (a split never cuts one)"
            )
        counts = [max(1, round(share * self.episodes)) for share in shares]
        while excess := sum(counts) - self.episodes:
            counts[counts.index(max(counts))] -= 1 if excess > 0 else -1
        every = torch.arange(self.episodes, device=self.obs.device)
        order = shuffled(self, every, generator(seed, "split"))
        return tuple(side.sort().values for side in order.split(counts))

    def some(self, order: Tensor, rows: int) -> Tensor:
        """The first of the episodes `order` [k] long up to the one with which there are `rows` rows, in time order."""
        return order[: int((self.lengths[order].cumsum(0) < rows).sum()) + 1].sort().values

    def spec(self, episodes: Tensor) -> Spec:
        """The problem that the given episodes ([k] long) pose; see `mbrl.data.problem.spec_of`."""
        from mbrl.data.problem import spec_of  # which reads data sets

        return spec_of(self, episodes)

    def _taken(self, column: Tensor, rows: Tensor) -> Tensor:
        taken = column[rows]
        self.let_go()
        return taken

    def let_go(self) -> None:
        """Give back the memory of rows that were read from files; they may be read anew at any time."""
        if self.mapped is not None:
            self.mapped.let_go()

    def to(self, device: torch.device | str) -> Self:
        """The same data set with its tensors on `device`."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return replace(self, **moved)

    def _digest(self) -> str:
        digest = hashlib.sha256(b"mbrl transitions 1")
        for name, tensor in self.tensors.items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        digest.update(f"{self.discrete} {self.action_low} {self.action_high}".encode())
        for name in ("exogenous", "bound_low", "bound_high", "series"):
            if any(entry is not None for entry in getattr(self, name)):
                digest.update(f"{name} {getattr(self, name)}".encode())
        return digest.hexdigest()
