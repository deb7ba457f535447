"""True episodes beside a log: as rows with the log's layout, and as a share of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mbrl import environments
from mbrl.core import Batch, Spec
from mbrl.data.dataset import TransitionDataset
from mbrl.environments import Discrete, Episode
from mbrl.window import Window


def transitions(episode: Episode, spec: Spec, env: str) -> Batch:
    """The rows [T, ...] of an episode that was played in `env`, with windows where the spec has a history."""
    _, space = environments.spaces(env)
    if isinstance(space, Discrete):
        action = torch.eye(spec.action_dim)[torch.from_numpy(episode.actions - space.start)]
    else:
        action = torch.from_numpy(episode.actions).float()
    window, frames = Window.of(spec), torch.from_numpy(episode.observations)
    seen = [window.begin(frames[0])]
    for taken, frame in zip(action, frames[1:], strict=True):
        seen.append(window.shift(seen[-1], taken, frame))
    obs, reward = torch.stack(seen), torch.from_numpy(episode.rewards).float()
    return Batch(obs[:-1], action, reward, obs[1:], torch.from_numpy(episode.terminations))


def joined(data: TransitionDataset, episodes: Tensor, played: Sequence[Batch], share: float) -> TransitionDataset:
    """Episodes of a log, then played ones, repeated so often that uniform draws are of these with a given chance.

    Args:
        data: the log.
        episodes: of it, [k] long.
        played: whole episodes, rows [T, ...] in time order.
        share: of the rows, those of played episodes, about; more where once is more already.

    Returns:
        a data set to draw from; it has no fingerprint, as it is no log.
    """
    logged, true = data.rows(episodes), sum(len(episode.reward) for episode in played)
    copies = max(1, round(share / (1 - share) * len(logged) / true))
    added = [*played] * copies
    lengths = torch.tensor([*data.lengths[episodes].tolist(), *(len(episode.reward) for episode in added)])
    columns: dict[str, Any] = {
        name: torch.cat([column, *(getattr(episode, name) for episode in added)])
        for name, column in data.batch(logged)._asdict().items()
    }
    number = torch.arange(len(lengths)).repeat_interleave(lengths)
    last = torch.zeros(len(number), dtype=torch.bool)
    last[lengths.cumsum(0) - 1] = True
    truncated = last & ~columns["terminated"]
    gone: dict[str, Any] = {"propensity": None, "cost": None, "series": (), "fingerprint": ""}
    return replace(data, **columns, truncated=truncated, episode=number, **gone)
