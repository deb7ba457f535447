"""The report card: what a simulator says of itself, held against episodes that it has not seen.

Pure numbers; `mbrl.report.card` draws them. A card is plain values, so that it is JSON as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mbrl.core import Batch, Spec, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.simulator.onestep import joined, look, one_step, reward_bias, termination_skill, uncertainty_worth
from mbrl.simulator.openloop import LEVEL, OpenLoop, followed_channels, open_loop, start_rows, trusted_steps
from mbrl.simulator.recalibration import outcome
from mbrl.simulator.simulator import Simulator
from mbrl.simulator.verdict import LEAST_COVERAGE, MOST_BIAS, MOST_RATIO, MOST_SHARE, judge

HORIZON, STARTS, PARTICLES = 50, 200, 50  # steps followed; start states; particles from each, at least
ROUNDING = 1e-5  # of a computed channel's size, by which it may be off whatever it changes by
FEW = 20  # starts: a step that fewer of them reach is not reported


class Card(NamedTuple):
    """The numbers, and the trajectories that pictures need."""

    numbers: dict[str, Any]
    followed: OpenLoop
    episode: Tensor  # [S] long, of each start of `followed`


@torch.no_grad()
def report_card(
    simulator: Simulator,
    data: TransitionDataset,
    episodes: Tensor,
    *,
    calibrated_on: Tensor,
    seed: int,
    about: Mapping[str, Any],
    crossed: Sequence[Tensor] = (),
    horizon: int = HORIZON,
) -> Card:
    """Measure a calibrated simulator on held-out episodes.

    Args:
        simulator: calibrated.
        data: the log.
        episodes: [k] long, held out: neither fitted on nor, where there are enough, calibrated on.
        calibrated_on: [j] long, the episodes of this log that the recalibration was fitted to; none for another log.
        seed: of start states, particles and foreign actions.
        about: versions and whatever else the card is to carry.
        crossed: sides of `episodes`, [k1] and [k2] long. The intervals of one step are then graded on each side as
            they are when they are recalibrated on the other: the simulator itself may have been calibrated on both,
            which few episodes are too few for otherwise. What is followed for many steps is so as it is served.
        horizon: steps of the open loop, at most.

    Raises:
        ValueError: there are no held-out episodes, the log is of another shape, or the simulator is not calibrated.
    """
    spec = simulator.spec
    if not len(episodes):
        raise ValueError(f"no held-out episodes of {data.id} to make a card from: hold out at least one (data.split)")
    if not simulator.calibrated:
        raise ValueError("the simulator is not calibrated: call calibrate(holdout) before its card")
    found = (data.obs.shape[1], data.action.shape[1], data.discrete)
    if found != (spec.obs_dim, spec.action_dim, spec.discrete):
        raise ValueError(
            f"{data.id} has (observations, actions, discrete) {found}, and the simulator was fitted on"
            f" {(spec.obs_dim, spec.action_dim, spec.discrete)}: name a log of the same plant (data.id)"
        )
    rng = generator(seed, "card")
    worlds = _worlds(simulator, data, episodes, crossed)
    rows = torch.cat([data.rows(side) for _, side in worlds])
    batch, parts = data.batch(rows), []
    for world, side in worlds:
        own = data.rows(side)
        parts.append((world.recalibration, look(world, data.batch(own), rng, data.episode[own])))
    seen = joined([part for _, part in parts])
    called = (*data.channels, "reward"), (*data.units, "")
    names, units = ([column[k] for k in spec.targets] for column in called)
    followed = _follow(simulator, data, episodes, horizon, rng)
    spread = outcome(batch, simulator.targets).std(0, correction=0)
    numbers: dict[str, Any] = {
        "about": dict(about),
        "data": {
            "id": data.id,
            "fingerprint": data.fingerprint,
            "episodes": len(episodes),
            "rows": len(rows),
            "calibration_episodes": len(calibrated_on),
            "crossed": bool(crossed),
            "measured_on_calibration": not crossed and bool(torch.isin(episodes, calibrated_on).any()),
        },
        "channels": names,
        "units": units,
        "exogenous": [data.channels[k] for k in spec.exogenous],
        "carried": _carried(spec, data, batch),
        "clocks": _clocks(simulator, data, batch),
        "computed": _computed(simulator, data, batch),
        "spread": spread.tolist(),
        "one_step": one_step(simulator, parts),
        "open_loop": _open_loop(simulator, followed, called, batch),
        "uncertainty": uncertainty_worth(simulator, seen),
        "termination": termination_skill(seen.terminated, batch.terminated),
        "reward": reward_bias(seen),
    }
    numbers["trusted_horizon"] = _trusted(numbers["open_loop"])
    numbers["verdict"] = judge(numbers)
    return Card(_plain(numbers), followed, data.episode[followed.rows])


def _worlds(
    simulator: Simulator, data: TransitionDataset, episodes: Tensor, crossed: Sequence[Tensor]
) -> list[tuple[Simulator, Tensor]]:
    """By whom which episodes are forecast: each side by a simulator that is recalibrated on the others."""
    if not crossed:
        return [(simulator, episodes)]
    worlds = []
    for k, side in enumerate(crossed):
        rows = data.rows(torch.cat([other for j, other in enumerate(crossed) if j != k]))
        worlds.append((simulator.recalibrated(data.batch(rows), data.episode[rows]), side))
    return worlds


def _follow(
    simulator: Simulator, data: TransitionDataset, episodes: Tensor, horizon: int, rng: torch.Generator
) -> OpenLoop:
    longest = int(data.lengths[episodes].max())
    rows = start_rows(data, episodes, STARTS, min(2, longest), rng)
    each = -(-PARTICLES // len(simulator.dynamics.elites))
    return open_loop(simulator, data, rows, min(horizon, longest), each, rng)


def _open_loop(
    simulator: Simulator, followed: OpenLoop, called: Sequence[Sequence[str]], batch: Batch
) -> dict[str, Any]:
    channels = followed_channels(simulator)
    names, units = ([column[k] for k in channels] for column in called)
    spread = outcome(batch, torch.tensor(channels)).std(0, correction=0)
    count = followed.starts()
    enough = int((count >= min(FEW, int(count[0]))).long().cumprod(0).sum())
    error = followed.error()[:enough]
    ratio, bias = followed.likeness()
    return {
        "channels": names,
        "units": units,
        "spread": spread,
        "level": LEVEL,
        "starts": count[:enough],
        "error": error,
        "share": _share(error, spread),
        "coverage": followed.coverage()[:enough],
        "spread_ratio": ratio[:enough],
        "bias": bias[:enough],
    }


def _carried(spec: Spec, data: TransitionDataset, rows: Batch) -> list[dict[str, Any]]:
    """Of each channel that is copied, the share of the rows in which the log has the same value."""
    now = torch.cat([rows.obs[:, : spec.frame_dim], rows.action], 1)
    alike = (rows.next_obs[:, list(spec.carried)] == now[:, list(spec.sources)]).double().mean(0).tolist()
    names = [*data.channels[: spec.frame_dim], *data.action_channels]
    pairs = zip(spec.carried, spec.sources, alike, strict=True)
    return [{"channel": names[k], "source": names[source], "agrees": share} for k, source, share in pairs]


def _clocks(simulator: Simulator, data: TransitionDataset, rows: Batch) -> list[dict[str, Any]]:
    """Of each clock, its step and its period, and the share of the rows in which the log has what it says."""
    spec, logged = simulator.spec, rows.next_obs[:, simulator.filling.clocks]
    off = (simulator.filling.later(rows.obs) - logged).abs()
    alike = (off <= ROUNDING * logged.abs().amax(0)).double().mean(0).tolist()
    columns = zip(spec.clocks, spec.clock_steps, spec.clock_periods, alike, strict=True)
    return [{"channel": data.channels[k], "step": s, "period": p, "agrees": share} for k, s, p, share in columns]


def _computed(simulator: Simulator, data: TransitionDataset, rows: Batch) -> list[dict[str, Any]]:
    """How far the known structure is from the log, given the other channels as logged, by computed channel."""
    error = simulator.structure_error(rows)
    if error is None:
        return []
    names = [data.channels[k] for k in simulator.filling.computed.tolist()]
    units = [data.units[k] for k in simulator.filling.computed.tolist()]
    change = (rows.next_obs - rows.obs)[:, simulator.filling.computed].std(0, correction=0)
    off = error.abs().mean(0)
    rounding = ROUNDING * rows.next_obs[:, simulator.filling.computed].abs().amax(0)
    columns = (names, units, off.tolist(), change.tolist(), (off <= torch.maximum(change, rounding)).tolist())
    keys = ("channel", "unit", "mean_absolute_error", "spread_of_change", "agrees")
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]


def _share(error: Tensor, spread: Tensor) -> Tensor:
    """Error in units of the spread; 0 for a channel that is constant and met exactly."""
    return torch.where(error == 0, 0.0, error / spread)


def _trusted(loop: Mapping[str, Any]) -> dict[str, Any]:
    """The horizon of each channel that varies, and of the whole: that of its weakest observation channel."""
    ratio = loop["spread_ratio"]
    alike = (ratio >= 1 / MOST_RATIO) & (ratio <= MOST_RATIO) & (loop["bias"] <= MOST_BIAS)
    steps, chance = trusted_steps(loop["coverage"], loop["share"], alike, LEAST_COVERAGE, MOST_SHARE)
    steps = torch.where(loop["spread"] > 0, steps, len(loop["coverage"]))
    weakest = int(steps[:-1].argmin())
    return {
        "steps": steps[weakest],
        "followed": len(loop["coverage"]),
        "weakest": loop["channels"][weakest],
        "channels": steps,
        "chance": [name for name, so in zip(loop["channels"][:-1], chance.tolist(), strict=False) if so],
        "least_coverage": LEAST_COVERAGE,
        "most_share": MOST_SHARE,
    }


def _plain(value: Any) -> Any:
    """Tensors as numbers and lists, and NaN and infinity, which JSON does not have, as None."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
