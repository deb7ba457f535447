"""What a model that remembers knows of a row: from the log, and from step to step in a simulated world."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor, nn

from mbrl.core import Batch, Dynamics, Memory
from mbrl.simulator.dealing import chunk_rows

KEPT = 2**26  # numbers of logged states that are kept, at most; the others are computed anew from these


@final
class Recall(nn.Module):
    """The states of logged rows, of which there are N: what a model makes of the episode before each of them.

    The model is run over all episodes, side by side, when a state is asked for the first time. Of a log so large that
    its states fill more than `KEPT` numbers those of every s-th row of an episode are kept, and up to s - 1 steps lead
    from one of these to any other: the states are the same.

    Args:
        rows: [N, ...], the rows of an episode next to each other and in time order.
        episode: [N] long, numbers each one's.

    Raises:
        ValueError: the rows of an episode are not next to each other, or there is not one episode number a row.
    """

    obs: Tensor  # [N, O]
    action: Tensor  # [N, A]
    place: Tensor  # [N] long: of each row in its episode
    slot: Tensor  # [N] long: where in `kept` the last state is that is kept, up to this row
    kept: Tensor | None  # [E, M, H]: states of the rows whose place is a multiple of the stride

    def __init__(self, rows: Batch, episode: Tensor) -> None:
        super().__init__()
        if episode.shape != rows.reward.shape:
            raise ValueError(f"episode has shape {list(episode.shape)}, expected one number a row: {len(rows.reward)}")
        numbers, lengths = episode.unique_consecutive(return_counts=True)
        if len(numbers.unique()) < len(numbers):
            raise ValueError("the rows of an episode are not next to each other: give them episode after episode")
        first = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        place = torch.arange(len(episode), device=episode.device) - first
        place = place.to(rows.obs.device)
        columns = {"obs": rows.obs, "action": rows.action, "place": place, "slot": place, "kept": None}
        for name, column in columns.items():
            self.register_buffer(name, column, persistent=False)
        self.lengths: list[int] = lengths.tolist()
        self.stride = 1

    @torch.no_grad()
    def forward(self, dynamics: Dynamics, index: Tensor) -> Tensor:
        """The states [E, B, H] of the rows at `index` [B] long; always of the same model, as it was the first time."""
        if self.kept is None:
            self.kept = self._run(dynamics)
        anchor = index - self.place[index] % self.stride
        hidden = self.kept.index_select(1, self.slot[index])
        for step in range(self.stride - 1):
            here = torch.minimum(anchor + step, index)
            ahead = _moved(dynamics, self.obs[here], self.action[here], hidden, None)
            hidden = torch.where((anchor + step < index).unsqueeze(-1), ahead, hidden)
        return hidden

    def _run(self, dynamics: Dynamics) -> Tensor:
        """The states that are kept, from one step of all episodes after the other, the longest episodes first."""
        order = sorted(range(len(self.lengths)), key=lambda k: -self.lengths[k])
        first = (self.place == 0).nonzero().flatten()[torch.tensor(order, device=self.place.device)]
        hidden = _given(dynamics.initial(len(first)))
        members, _, width = hidden.shape
        self.stride = max(1, -(-members * width * len(self.place) // KEPT))
        self.slot = (self.place % self.stride == 0).cumsum(0) - 1
        kept = hidden.new_empty(members, int(self.slot[-1]) + 1, width)
        live = len(first)
        for step in range(self.lengths[order[0]]):
            while self.lengths[order[live - 1]] <= step:
                live -= 1
            here, hidden = first[:live] + step, hidden[:, :live]
            if step % self.stride == 0:
                kept[:, self.slot[here]] = hidden
            hidden = _moved(dynamics, self.obs[here], self.action[here], hidden, None)
        return kept


def recalling(dynamics: Dynamics, rows: Batch, episode: Tensor | None) -> Recall | None:
    """The states of logged rows [N, ...]; None for a model that remembers nothing.

    Raises:
        ValueError: the model remembers, and it is not said which rows belong together, or as `Recall` does.
    """
    if not dynamics.memory:
        return None
    if episode is None:
        raise ValueError(
            f"{type(dynamics).__name__} remembers, and the episode of each row is not given: say which rows belong"
            " together"
        )
    return Recall(rows, episode)


def in_parts(
    dynamics: Dynamics, rows: Batch, episode: Tensor | None, size: int
) -> Iterator[tuple[Batch, Tensor | None]]:
    """Logged rows [N, ...] in parts of at most `size`, each with its states [E, B, H]; raises as `recalling`."""
    states = recalling(dynamics, rows, episode)
    for index in torch.arange(len(rows.obs), device=rows.obs.device).split(size):
        part = Batch(*(column[int(index[0]) : int(index[-1]) + 1] for column in rows))
        yield part, None if states is None else states(dynamics, index)


def state_of(dynamics: Dynamics, memory: Memory | None) -> Tensor | None:
    """The states [B, E, H] that rollouts carry; None for a model that remembers nothing.

    Raises:
        ValueError: the model remembers, and there is no state.
    """
    hidden = None if memory is None else memory.hidden
    if dynamics.memory and hidden is None:
        raise ValueError(f"{type(dynamics).__name__} remembers: pass the memory of `begin`, or of the step before, on")
    return hidden


def moved_on(
    dynamics: Dynamics, obs: Tensor, action: Tensor, memory: Memory | None, members: Tensor | None = None
) -> Memory | None:
    """The memory after a step from obs [B, O], in which every member has seen it, or `members` [K] their [K, B, O]."""
    if memory is None or memory.hidden is None:
        return memory
    hidden = memory.hidden.transpose(0, 1)
    if members is None:
        return memory._replace(hidden=_moved(dynamics, obs, action, hidden, None).transpose(0, 1))
    part = _moved(dynamics, obs, action, hidden.index_select(0, members), members)
    return memory._replace(hidden=hidden.index_copy(0, members, part).transpose(0, 1))


def _moved(dynamics: Dynamics, obs: Tensor, action: Tensor, hidden: Tensor, members: Tensor | None) -> Tensor:
    """The states [E', B, H] after the rows [B, ...] or [E', B, ...], in parts that stay in a CPU's cache."""
    size = chunk_rows(obs, len(hidden))
    parts = (x.split(size, -2) for x in (obs, action, hidden))
    return torch.cat([_given(dynamics.remember(o, a, h, members)) for o, a, h in zip(*parts, strict=True)], 1)


def _given(hidden: Tensor | None) -> Tensor:
    if hidden is None:
        raise TypeError("a model whose `memory` is above 0 gave no state: `initial` and `remember` return tensors")
    return hidden
