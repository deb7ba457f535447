"""The expected step: what it is the mean of, and that it needs nothing but plain values and tensors."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dynamics_toys import Known, reward_of_first, unit_spec
from memory_toys import Summing

from mbrl import files
from mbrl.core import Batch, Foresight, Spec, build, generator
from mbrl.simulator.replay import Replay
from mbrl.simulator.simulator import Simulator

ROWS = torch.tensor([[0.5], [-2.0]])
STILL = torch.zeros(2, 1)


def above_three(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
    del obs, action
    return next_obs[..., 0] > 3


def known(spec: Spec | None = None, **settings: object) -> Simulator:
    """All three members of `Known` are elites: on average obs + 2 and a reward of obs + 10."""
    spec = unit_spec() if spec is None else spec
    model = Known(spec, 3, std=0.7, chances=(0.1, 0.9, 0.5))
    return Simulator(model, spec, **settings)  # type: ignore[arg-type]


@torch.no_grad()
def test_it_is_the_mean_of_the_elites_without_noise() -> None:
    foresight = known().foresight()
    found = foresight(ROWS, STILL)
    assert found.next_obs.tolist() == [[2.5], [0.0]]
    assert found.reward.tolist() == [10.5, 8.0]
    assert found.terminated.tolist() == [0.0, 0.0]
    assert found.uncertainty.tolist() == [0.0, 0.0]
    foresight.dynamics.elites = torch.tensor([2, 0])
    assert foresight(ROWS, STILL).reward.tolist() == [10.5, 8.0]
    foresight.dynamics.elites = torch.tensor([2])
    assert foresight(ROWS, STILL).next_obs.tolist() == [[3.5], [1.0]]


@torch.no_grad()
def test_the_end_is_a_probability_or_by_rule_and_doubt_is_in_its_unit() -> None:
    world = known(unit_spec(terminals=True), uncertainty=reward_of_first)
    nine = torch.zeros(9, 1)
    rows = Batch(nine + 4, nine, nine[:, 0], nine + 5, nine[:, 0] > 0)
    with pytest.raises(RuntimeError, match="call calibrate"):
        world.foresight()
    world.calibrate(rows)
    found = world.foresight()(ROWS, STILL)
    assert found.terminated.tolist() == pytest.approx([0.5, 0.5])  # of 0.1, 0.9 and 0.5
    assert found.uncertainty.tolist() == pytest.approx([0.5 / 4, -2.0 / 4])
    ruled = known(termination=above_three).foresight()(torch.tensor([[0.9], [1.1]]), STILL)
    assert ruled.terminated.tolist() == [0.0, 1.0]


@torch.no_grad()
def test_it_is_clipped_as_every_step_is() -> None:
    found = known(unit_spec(1, -1.0, 1.0)).foresight()(ROWS, STILL)
    assert found.next_obs.tolist() == [[pytest.approx(1.2)], [pytest.approx(0.0)]]  # a tenth of the range beyond 1
    assert found.reward.tolist() == pytest.approx([1.2, 1.2])


@torch.no_grad()
def test_exogenous_channels_keep_their_value() -> None:
    spec = replace(unit_spec(2), exogenous=(1,), predicted=(0,))
    world = known(spec, replay=Replay(torch.tensor([[7.0], [8.0], [9.0]]), torch.tensor([2])))
    found = world.foresight()(torch.tensor([[0.5, 7.0]]), STILL[:1])
    assert found.next_obs.tolist() == [[2.5, 7.0]]


@torch.no_grad()
def test_it_is_rebuilt_from_a_file_and_does_not_change_with_the_simulator(tmp_path: Path) -> None:
    world = known(uncertainty=reward_of_first, termination=above_three)
    world.calibrate(Batch(ROWS.abs(), STILL, ROWS[:, 0], ROWS, STILL[:, 0] > 0))
    foresight = world.foresight()
    wanted, state = foresight(ROWS, STILL), torch.random.get_rng_state()
    files.save(tmp_path / "x.ckpt", {"config": foresight.config, "state_dict": foresight.state_dict()})
    content = files.load(tmp_path / "x.ckpt")
    again = build(content["config"], Foresight, world.spec)
    again.load_state_dict(content["state_dict"])
    assert torch.equal(torch.random.get_rng_state(), state)
    world.uncertainty_scale.fill_(100.0)
    for one in (foresight, again):
        for a, b in zip(one(ROWS, STILL), wanted, strict=True):
            assert torch.equal(a, b)
    assert not any(p.requires_grad for p in foresight.parameters())


def test_what_cannot_be_foreseen_is_refused() -> None:
    with pytest.raises(ValueError, match="the simulator has observations"):
        build(known().foresight().config, Foresight, unit_spec(2))
    with pytest.raises(ValueError, match="cannot be saved"):
        known(termination=lambda obs, action, next_obs: next_obs[..., 0] > 0).foresight()


def test_a_model_that_remembers_is_refused() -> None:
    spec = unit_spec()
    with pytest.raises(ValueError, match=r"Summing remembers, and a policy that plans.*data\.history"):
        Simulator(Summing(spec), spec).foresight()


def test_a_sampled_step_has_the_expected_mean() -> None:
    world, rng = known(), generator(0, "x")
    obs = torch.full((20_000, 1), 0.5)
    step = world.step(obs, torch.zeros(20_000, 1), rng)
    expected = world.foresight()(obs[:1], STILL[:1])
    assert float(step.next_obs.mean()) == pytest.approx(float(expected.next_obs), abs=0.05)
    assert float(step.reward.mean()) == pytest.approx(float(expected.reward), abs=0.2)
