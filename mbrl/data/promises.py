"""What a TransitionDataset promises of its tensors, checked when one is made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from mbrl.data.dataset import TransitionDataset


def check(data: TransitionDataset) -> None:
    """Raise ValueError where a shape, a dtype, a count, a bound or the order of the episodes is not as promised."""
    _check_tensors(data)
    _check_channels(data)
    _check_bounds(data)
    steps = data.episode.diff()
    if data.episode[0] != 0 or not bool(((steps == 0) | (steps == 1)).all()):
        raise ValueError(f"{data.id}: episode numbers must be 0, 1, 2, ... with the rows of each one together")
    if data.series and (min(data.series) < 1 or sum(data.series) != data.episodes):
        raise ValueError(
            f"{data.id}: series are of {sum(data.series)} episodes, expected counts of 1 or more that sum to"
            f" {data.episodes}"
        )
    last = torch.cat([steps == 1, torch.ones(1, dtype=torch.bool)])
    if not bool((data.terminated | data.truncated)[last].all()):
        raise ValueError(f"{data.id}: the last row of every episode must be terminated or truncated")


def _check_tensors(data: TransitionDataset) -> None:
    n, floats = len(data.reward), torch.float32
    wanted = {
        "obs": ((n, data.obs.shape[-1]), floats),
        "action": ((n, data.action.shape[-1]), floats),
        "reward": ((n,), floats),
        "next_obs": ((n, data.obs.shape[-1]), floats),
        "terminated": ((n,), torch.bool),
        "truncated": ((n,), torch.bool),
        "episode": ((n,), torch.long),
        "propensity": ((n,), floats),
        "cost": ((n,), floats),
    }
    for name, tensor in data.tensors.items():
        shape, dtype = wanted[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise ValueError(
                f"{data.id}: {name} is {list(tensor.shape)} {tensor.dtype}, expected {list(shape)} {dtype}"
            )
    if data.discrete and data.propensity is not None and bool((data.propensity > 0).any()):
        raise ValueError(
            f"{data.id}: propensity is {float(data.propensity.max()):g} at most, expected natural logarithms of"
            " probabilities, which are not above 0: log the logarithm, or convert the column"
        )
    if n == 0:
        raise ValueError(f"{data.id} holds no transition")


def _check_channels(data: TransitionDataset) -> None:
    pairs = {"channels": "obs", "units": "obs", "action_channels": "action", "action_units": "action"}
    for name, width in pairs.items():
        found, count = getattr(data, name), data.tensors[width].shape[1]
        if len(found) != count:
            raise ValueError(f"{data.id}: {len(found)} {name} for {count} channels: {', '.join(found)}")
    channels = data.obs.shape[1]
    if list(data.exogenous) != sorted(set(data.exogenous)) or not set(data.exogenous) < set(range(channels)):
        raise ValueError(
            f"{data.id}: exogenous is {list(data.exogenous)}, expected some of the channels 0 to {channels - 1}, in"
            " order, and not all of them"
        )


def _check_bounds(data: TransitionDataset) -> None:
    """No row leaves the physical bounds."""
    for name, sign in ("bound_low", -1), ("bound_high", 1):
        ends = getattr(data, name)
        if len(ends) != data.frame_dim + 1:
            raise ValueError(f"{data.id}: {name} has {len(ends)} values, expected {data.frame_dim + 1}")
        if all(end is None for end in ends):
            continue
        limit = torch.tensor([math.inf * sign if end is None else end for end in ends])
        for seen in (data.obs, data.next_obs):
            beyond = sign * (torch.cat([seen, data.reward[:, None]], 1) - limit.to(seen)) > 0
            if beyond.any():
                row, k = beyond.nonzero()[0].tolist()
                what = "the reward" if k == data.obs.shape[1] else data.channels[k]
                raise ValueError(
                    f"{data.id}: {what} is beyond its {name} {ends[k]} in {int(beyond[:, k].sum())} rows, first row"
                    f" {row}: correct the rows or the schema's bounds, and import the log again"
                )
