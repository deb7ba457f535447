"""Stable-Baselines3, unmodified, learns in a simulator."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from dynamics_toys import unit_spec
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_checker import check_env
from torch import Tensor

from mbrl.core import Batch, Dynamics, Prediction, Spec
from mbrl.simulator.simulator import Simulator
from mbrl.simulator.wrappers import UncertaintyPenalty


class Paid(Dynamics):
    """The state stays where it is. The first action channel, or the last of several choices, is what is earned."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, members=1)

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        return batch.reward.mean(-1)

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        del members
        obs, earned = obs.expand(1, *obs.shape[-2:]), action[..., -1].expand(1, action.shape[-2])
        return Prediction(obs, 0 * obs, earned, 0 * earned, torch.ones(obs.shape[-1] + 1))


def doubt(prediction: Prediction) -> Tensor:
    """Half of what is earned."""
    return prediction.reward[0] / 2


def paying(discrete: bool = False) -> gym.Env:
    values = unit_spec(low=-1.0, high=1.0).to_dict() | {"max_episode_steps": 10, "discrete": discrete}
    if discrete:
        values |= {"action_dim": 3} | {
            f"action_{k}": [float(k in ("high", "std"))] * 3 for k in ("low", "high", "mean", "std")
        }
    spec = Spec.from_dict(values)
    simulator = Simulator(Paid(spec), spec, doubt, starts=torch.zeros(1, 1))
    simulator.calibrated = True
    return gym.make("mbrl:mbrl/Simulator-v0", simulator=simulator)


@pytest.mark.parametrize("discrete", [False, True])
def test_its_checker_has_no_complaint(discrete: bool) -> None:
    check_env(paying(discrete).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("discrete", [False, True])
def test_ppo_finds_what_pays(discrete: bool) -> None:
    ppo = PPO("MlpPolicy", paying(discrete), n_steps=128, learning_rate=3e-3, gamma=0.5, seed=0, device="cpu")
    ppo.learn(1024)
    action, _ = ppo.predict(np.zeros(1, np.float32), deterministic=True)
    assert action == 2 if discrete else action[0] > 0.5


def test_sac_flees_what_is_penalised() -> None:
    env = UncertaintyPenalty(paying(), penalty=6.0)  # earns a, pays 6 * a / 2
    small = {"policy_kwargs": {"net_arch": [32, 32]}, "learning_starts": 64, "batch_size": 64}
    sac = SAC("MlpPolicy", env, gamma=0.5, learning_rate=3e-3, seed=0, device="cpu", **small)
    sac.learn(400)
    assert sac.predict(np.zeros(1, np.float32), deterministic=True)[0][0] < -0.5
