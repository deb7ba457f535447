"""Checks that read a log as it stands: copies, ends, costs and returns. Pure functions of a TransitionDataset."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl.data.dataset import TransitionDataset
from mbrl.data.division import LEAST
from mbrl.data.faults import SQUARED, differing
from mbrl.data.findings import Finding, Flags, named, share

PREFIX = 5  # rows with which two recordings of one episode begin alike, before the rest is compared
ANEW = 0.02  # share of the returns to a same observation with another action: a copied row has its own


def not_finite(data: TransitionDataset) -> Iterator[Finding]:
    """NaN and infinity, in any column, and what is infinite once it is squared."""
    for name in ("obs", "action", "reward", "next_obs", "cost"):
        if name not in data.tensors:
            continue
        bad = ~(data.tensors[name].reshape(len(data), -1).abs() <= SQUARED).all(1).numpy()
        if bad.any():
            yield Finding(
                "not finite",
                "serious",
                f"{name} is NaN, infinite or beyond {SQUARED:.2g} in {share(int(bad.sum()), len(data))}; nothing else"
                " was checked",
                "every loss that sees one of these rows becomes NaN",
                "repair the rows, or import again with --on-bad-rows drop-episode",
                **named(bad),
            )


def copied_episodes(data: TransitionDataset, sides: tuple[Tensor, ...]) -> Iterator[Finding]:
    """The same episode twice, whole or cut: equal to the last bit, up to the end of the shorter one."""
    pairs = _moving(data, _pairs(data))
    if not pairs:
        return
    side = {int(episode): k for k, episodes in enumerate(sides) for episode in episodes}
    across = sum(side.get(a) != side.get(b) for a, b in pairs)
    one, other = pairs[0]
    text = f"{len(pairs)} episode(s) repeat an earlier one, such as episode {other} episode {one}"
    natural = _few_states(data, pairs)
    yield Finding(
        "same episode twice",
        "note" if natural else "serious",
        text + (f"; {across} of them lie on another side of the split" if sides else ""),
        "none, where the world has few states, so that short episodes are bound to be alike"
        if natural
        else "a model is judged on rows that it was fitted to, so hold-out errors and the second simulator flatter it",
        "nothing, unless a logger or an export wrote them twice"
        if natural
        else "import each recording once; where a machine repeats itself exactly, keep one of the episodes",
        **named(data.rows(torch.tensor([b for _, b in pairs])).numpy()),
    )


def _pairs(data: TransitionDataset) -> list[tuple[int, int]]:
    """(an episode, a later one) of which the shorter is, row by row, how the longer begins; a later one has one pair.

    Shorter ones than `PREFIX` rows are compared with those of their own length.
    """
    rows = torch.cat([data.obs, data.action, data.reward[:, None]], 1).numpy()
    spans = list(zip(data.first.tolist(), data.lengths.tolist(), strict=True))
    alike: dict[bytes, list[int]] = {}
    for episode, (first, length) in enumerate(spans):
        if length >= 2:
            alike.setdefault(rows[first : first + min(length, PREFIX)].tobytes(), []).append(episode)
    found: dict[int, int] = {}
    for episodes in alike.values():
        if len(episodes) == 1:
            continue
        begun: list[tuple[bytes, int]] = []  # in the order of their rows, each comes after all that it begins with
        for whole, episode in sorted(
            (rows[first : first + n].tobytes(), e) for e in episodes for first, n in [spans[e]]
        ):
            while begun and not whole.startswith(begun[-1][0]):
                begun.pop()
            if begun:
                one, other = sorted((begun[-1][1], episode))
                found.setdefault(other, one)
            begun.append((whole, episode))
    return [(found[other], other) for other in sorted(found)]


def _moving(data: TransitionDataset, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those pairs in which the later episode is not one row again and again: a plant at rest is no copy."""
    rows = torch.cat([data.obs, data.action, data.reward[:, None]], 1)
    spans = [(pair, int(data.first[pair[1]]), int(data.lengths[pair[1]])) for pair in pairs]
    return [pair for pair, first, length in spans if bool((rows[first : first + length] != rows[first]).any())]


def _few_states(data: TransitionDataset, pairs: list[tuple[int, int]]) -> bool:
    """Whether half of the rows of episodes that repeat no other are repeated all the same."""
    copied = np.isin(data.episode.numpy(), [later for _, later in pairs])
    number, _ = _previous(torch.cat([data.obs, data.action, data.reward[:, None]], 1))
    own = number[~copied]
    return bool(len(np.unique(own)) <= 0.5 * len(own))


def duplicate_rows(data: TransitionDataset) -> Iterator[Finding]:
    """Observation, action and reward of another row. A log of few distinct states is left alone.

    A logger repeats one row after the other, or several in order. A world may come back to the very same state, such as
    a car to a wall: of a single row that is taken to be so, and of all of them where the action is then chosen anew.
    """
    whole, previous = _previous(torch.cat([data.obs, data.action, data.reward[:, None]], 1))
    inside = np.flatnonzero(data.episode.diff().numpy() == 0)
    frozen = np.zeros(len(data), bool)  # a plant at rest repeats itself: only rows beside moving ones count
    frozen[inside + 1] = whole[inside + 1] == whole[inside]
    rest = frozen.copy()
    rest[1:] &= frozen[:-1]
    copied = np.isin(data.episode.numpy(), [later for _, later in _pairs(data)])  # told by `copied_episodes`
    bad = (previous >= 0) & ~rest & ~copied
    if not bad.any() or bad.mean() >= 0.5:
        return
    in_order = inside[(previous[inside] >= 0) & (previous[inside + 1] == previous[inside] + 1)]
    written = frozen.copy()
    written[in_order] = written[in_order + 1] = True
    grave = bad & written
    natural = not grave.any() or _chosen_anew(data, ~rest & ~copied) > ANEW
    yield Finding(
        "duplicate rows",
        "note" if natural else "serious" if grave.mean() > 0.002 else "warning",
        f"{share(int(bad.sum()), len(data))} repeat an earlier row",
        "none, where the world itself comes back to the very same state, as a machine at its stop or a grid does"
        if natural
        else "repeated rows weigh more than others, and one after the other they teach that nothing moves",
        "nothing, unless a logger or an export wrote them twice"
        if natural
        else "remove the repetitions before the import: a logger may write one sample twice, an export may overlap",
        **named(bad),
    )


def _previous(columns: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A number for each distinct row of [N, k], and the row before that had the same one, or -1; both [N]."""
    whole = np.ascontiguousarray(columns.numpy())
    keys = whole.view(np.dtype((np.void, whole.dtype.itemsize * whole.shape[1]))).ravel()
    number = np.unique(keys, return_inverse=True)[1]
    order = np.argsort(number, kind="stable")
    same = np.flatnonzero(np.diff(number[order]) == 0)
    previous = np.full(len(whole), -1)
    previous[order[same + 1]] = order[same]
    return number, previous


def _chosen_anew(data: TransitionDataset, asked: Flags) -> float:
    """Of the rows asked about [N] whose observation was there before, the share with another action than then."""
    previous = _previous(data.obs)[1]
    back = np.flatnonzero((previous >= 0) & asked)
    if not len(back):
        return 0.0
    return float((data.action[back] != data.action[previous[back]]).any(1).double().mean())


def broken_sequence(data: TransitionDataset) -> Iterator[Finding]:
    """Within an episode, the next observation of a row is the observation of the row after it."""
    inside = np.flatnonzero(data.episode.diff().numpy() == 0)
    said, found = data.next_obs[inside].numpy(), data.obs[inside + 1].numpy()
    wrong = differing(said, found).any(1)
    if wrong.any():
        yield Finding(
            "next observation disagrees",
            "serious",
            f"next_obs of {share(int(wrong.sum()), len(data))} is not the observation of the row after it",
            "the model learns transitions that never happened",
            "mark the end of the episode where rows are missing, or leave next_observation out of the schema",
            **named(inside[wrong]),
        )


def flags_inside(data: TransitionDataset) -> Iterator[Finding]:
    """A terminated or truncated row that is not the last of its episode, and a log of one episode or a few."""
    inside = torch.cat([data.episode.diff() == 0, torch.zeros(1, dtype=torch.bool)])
    bad = ((data.terminated | data.truncated) & inside).numpy()
    if bad.any():
        yield Finding(
            "rows after an end",
            "serious",
            f"{share(int(bad.sum()), len(data))} end an episode that goes on",
            "the value of these states is cut off, and the world seems to go on after its end",
            "begin a new episode after each terminal or truncated row",
            **named(bad),
        )
    if data.episodes == 1:
        yield Finding(
            "one episode",
            "serious",
            f"all {len(data):,} rows are one episode",
            "a split never cuts an episode, so nothing can be held out",
            "mark where episodes end (an id, a flag, a `max_gap` in time), or cut a plant that never stops into pieces "
            "(`cut_every`: so many rows)",
        )
    elif data.episodes < LEAST:
        yield Finding(
            "few episodes",
            "serious",
            f"the log has {data.episodes} episodes",
            f"a run needs {LEAST}: to learn from, to measure the simulator on, and two for the simulator that judges",
            "log more episodes, mark more ends where the plant was started anew, or cut a plant that never stops into "
            "pieces (`cut_every`: so many rows)",
        )


def uneven_cuts(data: TransitionDataset) -> Iterator[Finding]:
    """No terminal anywhere, yet the episodes differ in length: what cut them was not a common time limit."""
    if data.series or data.terminated.any():  # pieces were cut by their import
        return
    shortest, longest = int(data.lengths.min()), int(data.lengths.max())
    if data.episodes < 2 or longest <= 2 * shortest:
        return
    short = data.lengths * 2 < longest
    yield Finding(
        "episodes without an end",
        "warning",
        f"no row is terminal, and {int(short.sum())} of {data.episodes} episodes are shorter than half the longest "
        f"({shortest} to {longest} rows)",
        "if some of them ended by a fault or a trip, the simulator never learns that the world can end, and policies "
        "learn to ignore it",
        "name the column that says so as `terminal`; if they were only cut, nothing needs to change",
        **named((data.first + data.lengths - 1)[short].numpy()),
    )


def ends_at_a_limit(data: TransitionDataset) -> Iterator[Finding]:
    """Terminals that mostly come with the last row of the very longest episodes, as old loggers flag a time limit.

    Where a channel has a value in these rows alone, which is the same in all of them, the observation tells when.
    """
    longest, ended = int(data.lengths.max()), data.sums(data.terminated) > 0
    at = ended & (data.lengths == longest)
    if longest < 2 or int(at.sum()) < max(3, int(ended.sum()) / 2):
        return
    last = (data.first + data.lengths - 1)[at]
    there = data.obs == data.obs[last[0]]
    tells = there[last].all(0) & (there.sum(0) == len(last))
    seen = next((name for name, tell in zip(data.channels, tells.tolist(), strict=True) if tell), None)
    over = "the task itself is over after so many steps"
    yield Finding(
        "ends at a limit",
        "note" if seen else "warning",
        f"{int(at.sum())} of {int(ended.sum())} episodes that end in a terminal are exactly {longest} rows long, and"
        " none is longer" + (f": {seen} tells when" if seen else ""),
        "if a time limit cut them, the simulator learns ends that have no cause, and no value of what would come next",
        f"nothing if {over}; else flag such rows as `truncated`"
        if seen
        else f"flag such rows as `truncated`; if {over}, add their number to the observation",
        **named(last.numpy()),
    )


def constant_cost(data: TransitionDataset) -> Iterator[Finding]:
    """A cost column that never changes says nothing of what would cost more."""
    if data.cost is not None and float(data.cost.min()) == float(data.cost.max()):
        yield Finding(
            "constant cost",
            "warning",
            f"the cost is {float(data.cost[0]):.6g} in every row",
            "what another policy costs cannot be learned: a gate that limits it (the rule most_cost) promotes nothing",
            "add a log of what costs more, name a function as trial.cost, or leave the column out of the schema",
        )


def equal_returns(data: TransitionDataset) -> Iterator[Finding]:
    """Episodes of which none earned more than another."""
    returns = data.returns()
    apart = float(returns.max() - returns.min())
    if data.episodes > 1 and apart <= 1e-6 * float(returns.abs().max()):  # but for rounding
        yield Finding(
            "equal returns",
            "warning",
            f"each of the {data.episodes} episodes earned {float(returns[0]):.6g}",
            "no episode shows what earns more, so a policy that does is hardly found; as the returns have no spread,"
            " gains are told in the reward's own unit",
            "add episodes that went better or worse, or choose a reward that tells them apart",
        )
