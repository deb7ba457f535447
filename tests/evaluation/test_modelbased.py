"""Rollouts in a simulator whose dynamics are exact, against closed forms and numbers worked by hand."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from dynamics_toys import Known, reward_of_first, unit_spec
from torch import Tensor
from value_toys import GAIN, LOGGING_GAIN, NOISE, PRICE, A, B, Linear, lqr_log, lqr_value

from mbrl.core import Batch, Dynamics, Prediction, Spec
from mbrl.evaluation.estimates import Refused
from mbrl.evaluation.fqe import FittedQ
from mbrl.evaluation.modelbased import (
    Starts,
    cvar,
    difference,
    rolled,
    simulated_values,
    start_states,
    truncated_value,
    truncated_values,
    uncertain_share,
    value,
)
from mbrl.simulator.simulator import Simulator

LQR = lqr_log(60, 3, seed=0)
SPEC = dataclasses.replace(
    LQR.spec(torch.arange(60)), obs_low=(-99.0,) * 2, obs_high=(99.0,) * 2, reward_low=-999.0, reward_high=999.0
)


class Exact(Dynamics):
    """The world of `lqr_log` itself."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, 1)
        self.weight = torch.nn.Parameter(torch.zeros(1, 1))

    def loss(self, batch: Batch) -> Tensor:
        return self.weight.squeeze(-1) + 0 * batch.reward.sum(-1)

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        mean = (obs @ A.float().T + action @ B.float().T).expand(1, *obs.shape[-2:])
        reward = (-obs.square().sum(-1) - PRICE * action.square().sum(-1)).expand(1, -1)
        return Prediction(mean, torch.full_like(mean, NOISE), reward, torch.zeros_like(reward), torch.ones(3))


def begun(steps: int, copies: int = 1) -> Starts:
    obs = LQR.starts.repeat(copies, 1)
    return Starts(obs, torch.full((len(obs),), steps), torch.zeros(len(obs), dtype=torch.long))


def valued(gain: list[list[float]], gamma: float) -> FittedQ:
    """What stands for a fit whose values are exact, of two members."""

    def v(obs: Tensor) -> Tensor:
        return lqr_value(obs, gain, gamma).expand(2, -1)

    fit: Any = SimpleNamespace(gamma=gamma, v=v, check=lambda: None)
    return fit


def test_with_exact_dynamics_the_value_is_the_closed_form() -> None:
    starts = begun(120, copies=20)
    estimate = simulated_values(
        {"it": Linear(SPEC, GAIN)}, Simulator(Exact(SPEC), SPEC), starts, gamma=0.9, level=0.99, seed=0
    )["it"]
    truth = float(lqr_value(LQR.starts, GAIN, 0.9).mean())
    assert estimate.value == pytest.approx(truth, rel=0.01)
    assert estimate.low < truth < estimate.high
    assert estimate.diagnostics["value"] == "discounted, cut"
    assert estimate.diagnostics["beyond"] == pytest.approx(0.9**120)
    assert estimate.diagnostics["mean_length"] == 120


@pytest.mark.parametrize("horizon", [1, 5])
def test_truncated_rollouts_with_exact_values_beyond_are_exact_at_any_horizon(horizon: int) -> None:
    starts, policy = begun(2, copies=50), Linear(SPEC, GAIN)  # logged lengths do not cut the world
    played = rolled(policy, Simulator(Exact(SPEC), SPEC), starts, seed=0, horizon=horizon)
    estimate = truncated_value(played, valued(GAIN, 0.95), level=0.9)
    assert estimate.value == pytest.approx(float(lqr_value(LQR.starts, GAIN, 0.95).mean()), rel=0.02)
    assert (estimate.diagnostics["gamma"], estimate.diagnostics["horizon"]) == (0.95, horizon)
    assert estimate.low < estimate.value < estimate.high


def test_differences_are_paired_by_start_and_noise() -> None:
    starts, world = begun(30), Simulator(Exact(SPEC), SPEC)
    two = [rolled(Linear(SPEC, gain), world, starts, seed=0) for gain in (GAIN, LOGGING_GAIN)]
    gap = difference(*two, starts, gamma=1.0, level=0.9, seed=0)
    alone = [value(played, starts, gamma=1.0, level=0.9, seed=0) for played in two]
    assert gap.value == pytest.approx(alone[0].value - alone[1].value)
    assert gap.high - gap.low < 0.6 * (alone[0].high - alone[0].low)
    assert difference(two[0], two[0], starts, gamma=1.0, level=0.9, seed=0)[:3] == (0, 0, 0)
    with pytest.raises(ValueError, match=r"the rollouts are \[30, 60\] and \[31, 60\] steps and rows"):
        difference(two[0], rolled(Linear(SPEC, GAIN), world, begun(31), seed=0), starts, gamma=1.0, level=0.9, seed=0)


class Rest(Linear):
    """Of a world with one channel."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, [[0.0]])


def counting(ends_at: float = torch.inf) -> tuple[Simulator, Starts]:
    """x' = x + 1 and r = x from 0, 1 and 2; the world ends beyond `ends_at`; uncertainty is x / 2."""
    spec = unit_spec()
    world = Simulator(
        Known(spec, members=1), spec, uncertainty=reward_of_first, termination=lambda o, a, n: n[..., 0] > ends_at
    )
    world.uncertainty_scale.fill_(2.0)
    world.calibrated = True
    return world, Starts(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([4, 2, 4]), torch.arange(3))


def test_returns_and_doubtful_steps_by_hand() -> None:
    world, starts = counting()
    played = rolled(Rest(world.spec), world, starts, seed=0)
    assert played.returns(starts.limit, 1.0).tolist() == [0 + 1 + 2 + 3, 1 + 2, 2 + 3 + 4 + 5]
    assert played.returns(starts.limit, 0.5).tolist() == [0.5 + 0.5 + 0.375, 2.0, 2 + 1.5 + 1 + 0.625]
    # x / 2 > 1: the step from 3 of the first row, none of the second, those from 3, 4 and 5 of the third
    assert uncertain_share(played, starts.limit) == pytest.approx(4 / 10)
    assert uncertain_share(played, starts.limit, 1.6) == pytest.approx(2 / 10)  # above 3.2: from 4 and 5
    unknown = played._replace(uncertainty=torch.full_like(played.uncertainty, math.nan))
    assert uncertain_share(unknown, starts.limit) == 1.0
    estimate = value(played, starts, gamma=1.0, level=0.9, seed=0)
    assert estimate.diagnostics == {
        "interval": "BCa",
        "level": 0.9,
        "value": "undiscounted",
        "gamma": 1.0,
        "mean_length": pytest.approx(10 / 3),
        "beyond": None,
        "uncertain_share": pytest.approx(0.4),
    }


def test_nothing_is_worth_anything_beyond_the_end_of_the_world() -> None:
    world, starts = counting(ends_at=2.5)
    played = rolled(Rest(world.spec), world, starts, seed=0, horizon=2)
    assert played.returns(starts.limit, 1.0).tolist() == [0 + 1 + 2, 1 + 2, 2]
    assert played.living.tolist() == [True, False, False]
    assert played.stop.flatten().tolist() == [2, 3, 3]
    fit: Any = SimpleNamespace(gamma=0.5, v=lambda obs: torch.full((2, 3), 8.0), check=lambda: None)
    assert truncated_value(played, fit, level=0.9).value == pytest.approx((0.5 + 2 + (1 + 1) + 2) / 3)


def test_a_horizon_beyond_the_limits_is_rolled_out() -> None:
    world, starts = counting()
    played = rolled(Rest(world.spec), world, starts, seed=0, horizon=6)
    assert len(played.reward) == 6
    assert played.stop.flatten().tolist() == [6, 7, 8]
    assert played.returns(starts.limit, 1.0).tolist() == [6, 3, 14]


def test_what_no_one_looks_at_is_not_rolled_out() -> None:
    world, starts = counting(ends_at=2.5)
    fit: Any = SimpleNamespace(gamma=0.5, v=lambda obs: obs.T + 8.0, check=lambda: None)
    long, short = (rolled(Rest(world.spec), world, starts, seed=0, horizon=2, whole=whole) for whole in (True, False))
    assert (len(long.reward), len(short.reward)) == (4, 2)
    assert torch.equal(truncated_values(long, fit), truncated_values(short, fit))
    assert len(rolled(Rest(world.spec), world, starts, seed=0, whole=False).reward) == 4


def test_conditional_value_at_risk_by_hand() -> None:
    returns = torch.arange(10.0)
    assert cvar(returns, share=0.2, level=0.9, seed=0).value == pytest.approx(0.5)
    assert cvar(returns, share=0.25, level=0.9, seed=0).value == pytest.approx((0 + 1 + 0.5 * 2) / 2.5)
    assert cvar(returns, share=1.0, level=0.9, seed=0).value == pytest.approx(4.5)
    assert cvar(torch.ones(4), share=0.3, level=0.9, seed=0)[:3] == pytest.approx((1, 1, 1))
    normal = torch.from_numpy(np.random.default_rng(0).normal(size=4000))
    estimate = cvar(normal, share=0.1, level=0.95, seed=0)
    assert estimate.low < -1.7550 < estimate.high  # -phi(z) / 0.1 at the tenth percentile
    assert estimate == cvar(normal, share=0.1, level=0.95, seed=0)


def test_bad_arguments_are_named() -> None:
    world, starts = counting()
    policy = Rest(world.spec)
    with pytest.raises(Refused, match="trusted horizon is 0"):
        rolled(policy, world, starts, seed=0, horizon=0)
    with pytest.raises(ValueError, match="horizon is -1"):
        rolled(policy, world, starts, seed=0, horizon=-1)
    with pytest.raises(ValueError, match=r"gamma is 1\.1"):
        value(rolled(policy, world, starts, seed=0), starts, gamma=1.1, level=0.9, seed=0)
    with pytest.raises(ValueError, match="share is 0"):
        cvar(torch.ones(3), share=0, level=0.9, seed=0)
    with pytest.raises(ValueError, match=r"1 return\(s\)"):
        cvar(torch.ones(1), share=0.5, level=0.9, seed=0)


def test_starts_are_of_the_episodes_that_are_asked_for() -> None:
    chosen = torch.tensor([7, 3, 11])
    starts = start_states(LQR, 9, seed=0, episodes=chosen)
    assert sorted(LQR.episode[starts.rows].tolist()) == [3, 7, 11]
    assert torch.equal(starts.obs, LQR.obs[starts.rows])
    assert len(start_states(LQR, 2, seed=0, episodes=chosen).rows) == 2
