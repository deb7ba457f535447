"""Imagination in a world whose every number can be worked by hand: x' = x + a, reward x', the end above 1."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mbrl.bench import hopper_sized
from mbrl.core import Batch, Dynamics, Policy, Prediction, Spec, generator
from mbrl.simulator.rollout import imagine, play
from mbrl.simulator.simulator import Simulator
from mbrl.testing import no_host_reads

SPEC = replace(
    hopper_sized(2, 0)[0],
    **dict.fromkeys(("obs_mean", "delta_mean"), (0.0,)),
    **dict.fromkeys(("obs_std", "delta_std"), (1.0,)),
    **dict.fromkeys(("action_low",), (-1.0,)),
    **dict.fromkeys(("action_high", "action_std"), (1.0,)),
    obs_dim=1,
    predicted=(),
    action_dim=1,
    action_mean=(0.0,),
    obs_low=(-10.0,),
    obs_high=(10.0,),
    reward_low=-10.0,
    reward_high=10.0,
    reward_std=2.0,
)


class Adder(Dynamics):
    """Two members that know the world exactly."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, members=2)

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        return batch.reward.mean(-1)

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        count = self.members if members is None else len(members)
        mean = (obs + action).expand(count, *obs.shape[-2:])
        zero = torch.zeros_like(mean)
        return Prediction(mean, zero, mean[..., 0], zero[..., 0], torch.ones(2))


class Half(Policy):
    """Always 0.5."""

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        return torch.full_like(obs, 0.5)


def above_one(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return next_obs[..., 0] > 1


def distance(prediction: Prediction) -> Tensor:
    return prediction.obs[0, :, 0].abs()


def world(uncertain: bool = False) -> Simulator:
    simulator = Simulator(Adder(SPEC), SPEC, distance if uncertain else None, above_one)
    one = torch.ones(1, 1)
    simulator.calibrate(Batch(one, one, one[0], one, one[0] > 0))  # the uncertainty's unit becomes |1 + 1| = 2
    return simulator


START = torch.tensor([[0.0], [0.75], [-3.0]])


def test_rows_after_a_termination_begin_again_at_the_logged_state() -> None:
    batch = imagine(Half(SPEC), world(), START, 4, 0.0, generator(0, "x"))
    assert batch.reward.shape == (4, 3)
    assert batch.obs[..., 0].T.tolist() == [[0, 0.5, 1, 0], [0.75, 0.75, 0.75, 0.75], [-3, -2.5, -2, -1.5]]
    assert batch.next_obs[..., 0].T.tolist() == [[0.5, 1, 1.5, 0.5], [1.25] * 4, [-2.5, -2, -1.5, -1]]
    assert batch.terminated.T.tolist() == [[False, False, True, False], [True] * 4, [False] * 4]
    living = batch.obs[..., 0]
    assert not (living > 1).any()  # no state that the world had ended in is acted from


def test_the_penalty_is_in_units_of_the_reward_spread_and_of_the_uncertainty_quantile() -> None:
    plain = imagine(Half(SPEC), world(), START, 2, 0.0, generator(0, "x"))
    penalised = imagine(Half(SPEC), world(uncertain=True), START, 2, 3.0, generator(0, "x"))
    # 3 (penalty) x 2 (reward spread) x |x'| / 2 (unit of the uncertainty)
    assert torch.allclose(penalised.reward, plain.reward - 3 * 2 * plain.next_obs[..., 0].abs() / 2)
    assert torch.equal(penalised.next_obs, plain.next_obs)


def test_a_halt_without_a_cost_is_a_truncation_that_keeps_its_step() -> None:
    free = imagine(Half(SPEC), world(uncertain=True), START, 4, 0.0, generator(0, "x"))
    cut = imagine(Half(SPEC), world(uncertain=True), START, 4, 0.0, generator(0, "x"), halt=1.1)
    # |x'| / 2 in the third row is 1.25 at the first step, and below 1.1 at all others, which are never reached
    assert free.obs[:, 2, 0].tolist() == [-3, -2.5, -2, -1.5]
    assert cut.obs[:, 2, 0].tolist() == [-3] * 4
    assert cut.next_obs[:, 2, 0].tolist() == [-2.5] * 4
    assert cut.reward[:, 2].tolist() == [-2.5] * 4  # as the simulator says it
    assert not cut.terminated[:, 2].any()
    for one, other in zip(cut, free, strict=True):
        assert torch.equal(one[:, :2], other[:, :2])  # 1.5 / 2 and less
    on_the_line = imagine(Half(SPEC), world(uncertain=True), START, 4, 0.0, generator(0, "x"), halt=1.25)
    assert torch.equal(on_the_line.obs, free.obs)


def test_a_halt_with_a_cost_ends_the_world_with_the_lowest_reward_and_less() -> None:
    batch = imagine(Half(SPEC), world(uncertain=True), START, 2, 3.0, generator(0, "x"), halt=1.1, halt_cost=5.0)
    assert batch.terminated[:, 2].all()
    assert batch.obs[:, 2, 0].tolist() == [-3, -3]
    assert batch.reward[:, 2].tolist() == [100 * (-10 - 5 * 2)] * 2  # lowest - cost x spread, for ever; no penalty
    plain = imagine(Half(SPEC), world(uncertain=True), START, 2, 3.0, generator(0, "x"))
    assert torch.equal(batch.reward[:, :2], plain.reward[:, :2])
    assert torch.equal(batch.terminated[:, :2], plain.terminated[:, :2])


def test_returns_stop_at_the_end_of_the_world() -> None:
    returns = play(Half(SPEC), world(), START, 4, generator(0, "x")).returns(torch.tensor([4, 4, 4]), 1.0)
    assert returns.tolist() == [0.5 + 1 + 1.5, 1.25, -2.5 - 2 - 1.5 - 1]


def test_returns_stop_where_the_episode_is_cut() -> None:
    returns = play(Half(SPEC), world(), START, 4, generator(0, "x")).returns(torch.tensor([2, 1, 3]), 1.0)
    assert returns.tolist() == [0.5 + 1, 1.25, -2.5 - 2 - 1.5]


def test_imagination_reads_nothing_from_the_device() -> None:
    simulator = world(uncertain=True)
    with no_host_reads():
        batch = imagine(Half(SPEC), simulator, START, 3, 1.0, generator(0, "x"), halt=1.1, halt_cost=1.0)
    assert batch.reward.shape == (3, 3)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="horizon is 0"):
        imagine(Half(SPEC), world(), START, 0, 0.0, generator(0, "x"))
    with pytest.raises(ValueError, match="penalty is -1"):
        imagine(Half(SPEC), world(), START, 1, -1.0, generator(0, "x"))
    with pytest.raises(ValueError, match="no uncertainty"):
        imagine(Half(SPEC), world(), START, 1, 1.0, generator(0, "x"))
    for uncertain, halt, cost, message in (
        (False, 1.0, None, "halt is 1.0 but the simulator has no uncertainty"),
        (True, 0.0, None, "halt is 0.0, expected an uncertainty above 0"),
        (True, float("nan"), None, "halt is nan"),
        (True, 1.0, -1.0, "halt_cost is -1.0, expected 0 or more"),
        (True, 1.0, float("inf"), "halt_cost is inf"),
        (True, None, 1.0, "halt_cost is 1.0 and halt is None"),
    ):
        with pytest.raises(ValueError, match=message):
            imagine(Half(SPEC), world(uncertain), START, 1, 0.0, generator(0, "x"), halt=halt, halt_cost=cost)
