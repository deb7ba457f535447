"""How the Gymnasium shells are made and begun, and what they refuse."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from env_toys import played, world

from mbrl import files
from mbrl.simulator import stored
from mbrl.simulator.envs import SimulatorEnv, SimulatorVectorEnv
from mbrl.simulator.wrappers import UncertaintyPenalty, UncertaintyVectorPenalty

ROOT = Path(__file__).resolve().parents[2]
ID = "mbrl:mbrl/Simulator-v0"
UP = np.ones(1, np.float32)


def test_a_start_state_of_ones_own() -> None:
    start = np.array([0.5, -0.25])
    env, envs = SimulatorEnv(world(starts=None)), SimulatorVectorEnv(world(starts=None), 2)
    assert env.reset(options={"obs": start})[0].tolist() == start.tolist()
    assert envs.reset(options={"obs": [start, -start]})[0].tolist() == [start.tolist(), (-start).tolist()]
    for shell in env, envs:
        with pytest.raises(ValueError, match="this simulator carries no start states"):
            shell.reset()
    for options, part in (
        ({"state": start}, r"options has \['state'\], expected nothing but 'obs'"),
        ({"obs": [1.0]}, r'options\["obs"\] is float64 of shape \(1,\), expected numbers of shape \(2,\)'),
        ({"obs": [0.0, 99.0]}, r'options\["obs"\]\[1\] is 99\.0, expected -[\d.]+ to [\d.]+: the log says nothing'),
        ({"obs": [np.nan, 0.0]}, r'options\["obs"\]\[0\] is nan'),
    ):
        with pytest.raises(ValueError, match=part):
            env.reset(options=options)
    with pytest.raises(ValueError, match=r"of shape \(2,\), expected numbers of shape \(2, 2\)"):
        envs.reset(options={"obs": start})


@pytest.mark.parametrize(
    ("action", "part"),
    [
        ([1.5], r"action\[0\] is 1\.5, expected -1\.0 to 1\.0: clip or rescale the action"),
        ([np.nan], r"action\[0\] is nan, expected -1\.0 to 1\.0"),
        ([0.0, 0.0], r"action is float64 of shape \(2,\), expected numbers of shape \(1,\)"),
        (["up"], r"action is <U2 of shape \(1,\), expected numbers"),
    ],
)
def test_an_action_outside_the_space_is_refused(action: list[Any], part: str) -> None:
    env, envs = SimulatorEnv(world()), SimulatorVectorEnv(world(), 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=part):
        env.step(action)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"action(\[1, 0\])? is "):
        envs.step([[0.0], action] if len(action) == 1 else action)


@pytest.mark.parametrize("action", [3, -1, 1.0, [1]])
def test_a_discrete_action_outside_the_space_is_refused(action: Any) -> None:
    env = SimulatorEnv(world(discrete=True))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action is .*, expected integers (from 0 to 2|of shape \(\))"):
        env.step(action)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"num_envs": 0}, "num_envs is 0, expected at least 1"),
        ({"num_envs": 2, "max_episode_steps": 0}, "max_episode_steps is 0, expected at least 1"),
        ({"num_envs": 2, "horizon": 0}, "horizon is 0, expected a whole number of steps, at least 1"),
    ],
)
def test_no_environments_and_no_steps_are_refused(arguments: dict[str, int], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        gym.make_vec(ID, simulator=world(), **arguments)


def test_nothing_is_stepped_without_a_reset() -> None:
    env, envs = SimulatorEnv(world(), horizon=1), SimulatorVectorEnv(world(), 2)
    for shell, action in (env, UP), (envs, np.zeros((2, 1), np.float32)):
        with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\) before"):
            shell.step(action)
    env.reset(seed=0)
    env.step(UP)
    with pytest.raises(gym.error.ResetNeeded, match="no running episode"):
        env.step(UP)


def test_a_penalty_needs_a_simulator_an_uncertainty_and_a_sign() -> None:
    with pytest.raises(ValueError, match="has no learned simulator inside, expected a SimulatorEnv"):
        UncertaintyPenalty(gym.make("CartPole-v1"), 1.0)
    with pytest.raises(ValueError, match=r"penalty is 1\.0 but the simulator has no uncertainty"):
        UncertaintyPenalty(SimulatorEnv(world(), uncertainty=False), 1.0)
    with pytest.raises(ValueError, match=r"penalty is -1\.0, expected 0 or more"):
        UncertaintyVectorPenalty(SimulatorVectorEnv(world(), 2), -1.0)
    assert isinstance(UncertaintyPenalty(SimulatorEnv(world(uncertainty=None)), 0.0).unwrapped, SimulatorEnv)


def test_a_wrapped_environment_can_be_made_again_from_its_spec() -> None:
    env = UncertaintyPenalty(gym.make(ID, simulator=world()), penalty=0.5)
    again = gym.make(env.spec)
    assert isinstance(again, UncertaintyPenalty)
    assert played(again, 2) == played(env, 2)


def test_a_simulator_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "simulator.ckpt"
    files.save(path, stored.state(world()))
    assert played(SimulatorEnv(path), 1) == played(SimulatorEnv(str(path)), 1) == played(SimulatorEnv(world()), 1)
    altered = bytearray(path.read_bytes())
    altered[-100] ^= 1
    path.write_bytes(altered)
    with pytest.raises(files.CorruptFileError, match=r"simulator\.ckpt is truncated or altered: SHA-256 is"):
        gym.make(ID, simulator=path)
    with pytest.raises(FileNotFoundError, match=r"simulator is '.*nowhere.ckpt', and there is no such file: expected"):
        gym.make(ID, simulator=tmp_path / "nowhere.ckpt")
    files.save(path, {"config": {}, "state_dict": {}})
    with pytest.raises(ValueError, match=r"holds no simulator but \['config', 'state_dict'\]"):
        gym.make(ID, simulator=path)


@pytest.mark.parametrize("order", ["import gymnasium, mbrl", "import mbrl, gymnasium", "import mbrl.files, gymnasium"])
def test_it_is_registered_in_whichever_order_things_are_imported(order: str) -> None:
    program = f"import sys; {order}; assert 'torch' not in sys.modules; print(gymnasium.spec('mbrl/Simulator-v0').id)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    assert (done.stdout, done.stderr) == ("mbrl/Simulator-v0\n", "")
