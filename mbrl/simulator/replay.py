"""Exogenous channels (weather, demand, set-points) as they were logged, to be replayed in imagined rollouts."""

from __future__ import annotations

from typing import Any, Self, final

import torch
from torch import Tensor, nn

from mbrl.data.dataset import TransitionDataset


@final
class Replay(nn.Module):
    """The exogenous channels of logged episodes: K episodes, n transitions, R = n + K observations.

    A rollout that begins at a logged row is given that row's own successors, so nothing is invented. The successor of
    an episode's last observation is in no log: there, whoever rolls out has to stop or begin anew, and must not
    bootstrap from a state that nobody saw.

    Args:
        values: [R, X] of every observation, the final ones included, episode after episode.
        lengths: [K] long, transitions of each episode, at least 1.

    Raises:
        ValueError: the lengths do not make as many observations, or there is no episode.
    """

    values: Tensor  # [R, X]
    lengths: Tensor  # [K] long
    last: Tensor  # [R] long: the last observation of each one's episode
    rows: Tensor  # [n] long: the observation that each transition begins with
    start: Tensor  # [K] long: the first observation of each episode
    first: Tensor  # [K] long: the first transition of each episode

    def __init__(self, values: Tensor, lengths: Tensor) -> None:
        super().__init__()
        counts = lengths + 1
        if not len(lengths) or int(lengths.min()) < 1 or int(counts.sum()) != len(values):
            raise ValueError(
                f"{len(values)} rows of exogenous channels for episodes of {lengths.tolist()[:9]} transitions: expected"
                " at least one episode, and one row more than it has transitions for each"
            )
        last = (counts.cumsum(0) - 1).repeat_interleave(counts)
        rows = (torch.arange(len(values), device=last.device) != last).nonzero().flatten()
        columns = {"values": values, "lengths": lengths, "last": last, "rows": rows, "start": counts.cumsum(0) - counts}
        columns["first"] = lengths.cumsum(0) - lengths
        for name, column in columns.items():
            self.register_buffer(name, column, persistent=False)

    @classmethod
    def of(cls, data: TransitionDataset, episodes: Tensor | None = None) -> Self:
        """The exogenous channels of some episodes ([k] long; default all), in the order of `data.rows(episodes)`."""
        chosen = torch.arange(data.episodes, device=data.obs.device) if episodes is None else episodes
        channels = torch.tensor(data.exogenous, device=data.obs.device)
        rows, lengths = data.rows(chosen), data.lengths[chosen]
        replay = cls(data.obs.new_zeros(len(rows) + len(chosen), len(channels)), lengths)
        replay.values[replay.rows] = data.obs[rows][:, channels]
        ends = lengths.cumsum(0) - 1
        replay.values[replay.last[replay.start]] = data.next_obs[rows[ends]][:, channels]
        return replay

    def begin(self, count: int, rng: torch.Generator, rows: Tensor | None = None) -> Tensor:
        """Cursors [B] long: of the transitions `rows` ([B] long), or of the beginnings of episodes drawn at random."""
        if rows is not None:
            return self.rows[rows]
        return self.start[torch.randint(len(self.start), (count,), generator=rng, device=self.start.device)]

    def forward(self, cursor: Tensor) -> tuple[Tensor, Tensor]:
        """The successors of the observations at `cursor` [B]: their cursors [B], and their channels [B, X].

        The last observation of an episode is its own successor, which keeps shapes static; see `ended`.
        """
        following = torch.minimum(cursor + 1, self.last[cursor])
        return following, self.values[following]

    def ended(self, cursor: Tensor) -> Tensor:
        """Where no successor is known, [B] bool."""
        return cursor == self.last[cursor]

    def state(self) -> dict[str, Any]:
        """What `Replay(**state)` is made from."""
        return {"values": self.values, "lengths": self.lengths}
