"""A log whose rows carry their own past: each observation becomes the window that a policy will be given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch

from mbrl.data.dataset import TransitionDataset
from mbrl.window import Window


def windowed(data: TransitionDataset, history: int) -> TransitionDataset:
    """The same transitions, with the last `history` observations and the last `history` - 1 actions in each row.

    The layout, and how the first rows of an episode are filled, are those of `mbrl.window.Window`: no row is lost.
    Channels are called `angle (t-1)`. The fingerprint is made of the log's own and of the history, so that a windowed
    log is told from the plain one. A history of 1 is the log itself.

    Args:
        data: the plain log.
        history: k, at least 1.

    Raises:
        ValueError: history is below 1 or longer than the longest episode, or the log has windows already.
    """
    window = Window.made(history, data.obs.shape[1], data.discrete, data.action_low, data.action_high)
    if history == 1:
        return data
    if data.history > 1:
        raise ValueError(f"{data.id} has windows of {data.history} already: make them from the plain log")
    if history > (longest := int(data.lengths.max())):
        raise ValueError(
            f"data.history is {history}, and the longest episode of {data.id} has {longest} step{'s' * (longest != 1)},"
            f" so that no window would be full: set data.history to {longest} or less"
        )
    steps = torch.arange(len(data), device=data.obs.device)
    first = data.first[data.episode]
    neutral = data.action.new_tensor(window.neutral)
    frames = [data.obs[torch.maximum(steps - age, first)] for age in range(history)]
    actions = [
        torch.where((steps - age >= first).unsqueeze(-1), data.action[(steps - age).clamp_min(0)], neutral)
        for age in range(1, history)
    ]
    obs = torch.cat([*frames, *actions], -1)
    return replace(
        data,
        obs=obs,
        next_obs=window.shift(obs, data.action, data.next_obs),
        channels=(*_aged(data.channels, range(history)), *_aged(data.action_channels, range(1, history))),
        units=data.units * history + data.action_units * (history - 1),
        history=history,
        fingerprint=hashlib.sha256(f"{data.fingerprint} history {history}".encode()).hexdigest(),
    )


def _aged(names: Sequence[str], ages: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{name} (t-{age})" if age else name for age in ages for name in names)
