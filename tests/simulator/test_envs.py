"""The Gymnasium shells: the API's own checker, exact seeding, and equality with the core."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from dynamics_toys import spec_of, unit_spec
from env_toys import LOG, played, world
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from dynamics import ProbabilisticEnsemble
from dynamics.uncertainty import mixture_std
from mbrl.core import Batch, generator, seeded
from mbrl.simulator.envs import SimulatorEnv, SimulatorVectorEnv
from mbrl.simulator.episodes import Episodes
from mbrl.simulator.inputs import action_rows
from mbrl.simulator.rollout import imagine
from mbrl.simulator.simulator import Simulator
from mbrl.simulator.wrappers import UncertaintyPenalty, UncertaintyVectorPenalty

ID = "mbrl:mbrl/Simulator-v0"
UP = np.ones(1, np.float32)


@pytest.mark.parametrize("arguments", [{}, {"discrete": True}, {"uncertainty": None}])
def test_gymnasiums_own_checker_has_no_complaint(arguments: dict[str, Any]) -> None:
    env = gym.make(ID, simulator=world(**arguments), render_mode="rgb_array")
    check_env(env.unwrapped)  # warnings are errors here


def test_a_constant_sensor_is_no_complaint_either() -> None:
    constant = LOG.obs.clone()
    constant[:, 1] = 0.5
    log = LOG._replace(obs=constant, next_obs=torch.stack([LOG.next_obs[:, 0], constant[:, 1]], 1))
    spec = spec_of(log)
    env = gym.make(ID, simulator=Simulator(ProbabilisticEnsemble(spec, 2, 2, 4, 1), spec, starts=constant[:9]))
    check_env(env.unwrapped)
    assert env.reset(seed=0)[0] in env.observation_space


def test_what_a_space_with_a_constant_channel_samples_is_taken() -> None:
    """Its Box has one float32 of room there, because Gymnasium warns of none; the simulator is given the constant."""
    spec = replace(spec_of(LOG), action_low=(0.5,), action_high=(0.5,), obs_low=(0.0, 0.5), obs_high=(1.0, 0.5))
    simulator = Simulator(ProbabilisticEnsemble(spec, 2, 2, 4, 1), spec, margin=0.0, starts=torch.tensor([[0.5, 0.5]]))
    env = SimulatorEnv(simulator)
    top = np.nextafter(np.float32(0.5), np.float32(1))
    assert env.action_space.high.tolist() == [top]
    assert action_rows(np.array([top]), spec, ()).tolist() == [[0.5]]
    with pytest.raises(ValueError, match=r"action\[0\] is 0\.50001\d*, expected 0\.5 to 0\.5"):
        action_rows(np.array([0.50001], np.float32), spec, ())
    assert env.reset(options={"obs": env.observation_space.high})[0].tolist() == [1.0, 0.5]


@pytest.mark.parametrize("discrete", [False, True])
def test_equal_seeds_make_equal_episodes(discrete: bool) -> None:
    env = SimulatorEnv(world(discrete), horizon=9)
    assert played(env, 3) == played(env, 3) == played(SimulatorEnv(world(discrete), horizon=9), 3)
    assert played(env, 3) != played(env, 4)
    unseeded = [SimulatorEnv(world()).reset()[0].tolist() for _ in range(4)]
    assert any(obs != unseeded[0] for obs in unseeded)


def test_it_says_what_the_core_says() -> None:
    simulator = world()
    env = SimulatorVectorEnv(simulator, num_envs=16, horizon=5)
    first, info = env.reset(seed=7)
    root = int(gym.utils.seeding.np_random(7)[0].integers(2**62))
    core = Episodes(simulator, 16, root, 5)
    assert np.array_equal(first, core.begin().numpy())
    assert info == {}
    for step in range(12):
        action = np.linspace(-1, 1, 16, dtype=np.float32)[:, None]
        obs, reward, terminated, truncated, info = env.step(action)
        moment = core.step(torch.tensor(action))
        assert np.array_equal(obs, moment.obs.numpy())
        assert np.array_equal(reward, moment.reward.double().numpy())
        assert np.array_equal(terminated, moment.terminated.numpy())
        assert np.array_equal(truncated, moment.truncated.numpy())
        assert np.array_equal(info["uncertainty"], moment.uncertainty.numpy())
        assert np.array_equal(info["_uncertainty"], ~moment.began.numpy())
        if step == 4:
            assert truncated.sum() + terminated.sum() > 0


@pytest.mark.parametrize("discrete", [False, True])
def test_one_row_of_the_batch_is_the_single_environment(discrete: bool) -> None:
    single, batch = SimulatorEnv(world(discrete), horizon=6), SimulatorVectorEnv(world(discrete), horizon=6)
    action = 2 if discrete else UP / 2
    alone, together = single.reset(seed=11)[0], batch.reset(seed=11)[0]
    assert np.array_equal(alone, together[0])
    ends = 0
    for _ in range(40):
        obs, reward, terminated, truncated, info = single.step(action)
        row = batch.step(np.asarray([action]))
        assert np.array_equal(obs, row[0][0])
        assert (reward, terminated, truncated) == tuple(column[0] for column in row[1:4])
        assert info["uncertainty"] == row[4]["uncertainty"][0]
        if terminated or truncated:
            ends += 1
            began = batch.step(np.asarray([action]))  # its action is ignored, and this is no transition
            assert np.array_equal(single.reset()[0], began[0][0])
            assert [column[0] for column in began[1:4]] == [0.0, False, False]
            assert not began[4]["_uncertainty"][0]
    assert ends > 3


def test_the_autoreset_is_stated_as_gymnasium_wants_it() -> None:
    envs = gym.make_vec(ID, num_envs=3, simulator=world(), max_episode_steps=2, horizon=9)
    assert isinstance(envs, SimulatorVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert (envs.observation_space.shape, envs.action_space.shape) == ((3, 2), (3, 1))
    recorded = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    recorded.reset(seed=0)
    lengths: list[int] = []
    for _ in range(7):
        *_, info = recorded.step(envs.action_space.sample())
        lengths += info["episode"]["l"][info["_episode"]].tolist() if "episode" in info else []
    assert lengths
    assert set(lengths) <= {1, 2}
    assert gym.make_vec(ID, num_envs=2, vectorization_mode="sync", simulator=world()).reset(seed=0)[0].shape == (2, 2)


def test_terminated_is_not_truncated() -> None:
    never = SimulatorEnv(world(termination=lambda obs, action, next_obs: torch.zeros(len(obs), dtype=bool)), horizon=3)
    always = SimulatorEnv(world(termination=lambda obs, action, next_obs: torch.ones(len(obs), dtype=bool)), horizon=1)
    never.reset(seed=0)
    assert [never.step(UP)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]
    always.reset(seed=0)
    assert always.step(UP)[2:4] == (True, False)


def test_an_episode_is_as_long_as_the_simulator_is_trusted() -> None:
    assert SimulatorEnv(world()).horizon == 100  # of the spec
    assert SimulatorEnv(world(trusted_horizon=12)).horizon == 12
    assert SimulatorEnv(world(trusted_horizon=12), horizon=30).horizon == 30
    assert SimulatorVectorEnv(world(trusted_horizon=12), 2, max_episode_steps=50).horizon == 12


def test_what_it_returns_may_be_written_to() -> None:
    env, envs = SimulatorEnv(world()), SimulatorVectorEnv(world(), 2)
    clean = [played(env, 5, 1), envs.reset(seed=5)[0].tolist(), envs.step(np.zeros((2, 1)))[0].tolist()]
    env.reset(seed=5)[0].fill(99)
    env.action_space.seed(0)
    assert env.step(env.action_space.sample())[0].tolist() == clean[0][1][0]
    envs.reset(seed=5)[0].fill(99)
    assert envs.step(np.zeros((2, 1)))[0].tolist() == clean[2]


def test_the_uncertainty_is_told_unless_there_is_none_or_it_is_left_out() -> None:
    for simulator, wanted, there in (
        (world(), True, True),
        (world(), False, False),
        (world(uncertainty=None), True, False),
    ):
        env = SimulatorEnv(simulator, uncertainty=wanted)
        env.reset(seed=0)
        assert ("uncertainty" in env.step(UP)[-1]) is there
        envs = SimulatorVectorEnv(simulator, 2, uncertainty=wanted)
        envs.reset(seed=0)
        assert ("uncertainty" in envs.step(np.zeros((2, 1)))[-1]) is there


def test_the_penalty_is_that_of_imagined_rollouts() -> None:
    spec = unit_spec(low=-100.0, high=100.0)
    spec = type(spec).from_dict({**spec.to_dict(), "reward_std": 5.0})
    with seeded(0, "test"):
        model = ProbabilisticEnsemble(spec, 2, 2, hidden=4, layers=1).eval()
    simulator = Simulator(model, spec, mixture_std, starts=torch.tensor([[3.0]]))
    rows = torch.linspace(0.5, 1, 9).view(-1, 1)
    simulator.calibrate(Batch(rows, rows, rows[:, 0], rows, torch.zeros(9, dtype=torch.bool)))

    honest, lowered = SimulatorEnv(simulator), UncertaintyPenalty(SimulatorEnv(simulator), penalty=2.0)
    honest.reset(seed=1)
    lowered.reset(seed=1)
    _, reward, _, _, info = honest.step(UP)
    assert lowered.step(UP)[1] == pytest.approx(reward - 2.0 * 5.0 * info["uncertainty"])

    class Up:
        @staticmethod
        def act(obs: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
            return torch.ones(len(obs), 1)

    start = torch.tensor([[3.0]])
    raw, priced = (imagine(Up(), simulator, start, 1, p, generator(0, "x")).reward.item() for p in (0.0, 2.0))
    once = simulator.step(start, torch.ones(1, 1), generator(0, "x"))
    assert raw - priced == pytest.approx(2.0 * 5.0 * once.uncertainty.item(), rel=1e-4)

    plain = SimulatorVectorEnv(simulator, 2, horizon=1)
    dear = UncertaintyVectorPenalty(SimulatorVectorEnv(simulator, 2, horizon=1), penalty=2.0)
    for envs in plain, dear:
        envs.reset(seed=1)
    for began in (False, True):
        _, rewards, _, _, info = plain.step(np.ones((2, 1)))
        lower = dear.step(np.ones((2, 1)))[1]
        assert lower == pytest.approx(rewards - 10.0 * info["uncertainty"])
        assert (lower == 0).all() == began


def test_it_draws_itself() -> None:
    env = SimulatorEnv(world(), render_mode="rgb_array")
    with pytest.raises(gym.error.ResetNeeded, match="no episode to draw"):
        env.render()
    env.reset(seed=0)
    before = env.render()
    env.step(UP)
    after = env.render()
    assert before.dtype == np.uint8
    assert before.shape == after.shape
    assert (before != after).any()
    with pytest.raises(ValueError, match="render_mode is 'human', expected None or 'rgb_array'"):
        SimulatorEnv(world(), render_mode="human")
    with pytest.warns(UserWarning, match="make the environment with render_mode='rgb_array'"):
        assert SimulatorEnv(world()).render() is None
