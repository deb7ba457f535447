"""A small log of CartPole, most of whose rows are of a controller that drops the pole, and what is learned from it."""

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch

from dynamics import ProbabilisticEnsemble
from dynamics.uncertainty import max_aleatoric
from mbrl import playing
from mbrl.core import Learner, Policy, seeded
from mbrl.data.dataset import TransitionDataset
from mbrl.data.source import Whole
from mbrl.evaluation.evidence import acting
from mbrl.simulator.simulator import Simulator
from mbrl.training.dynamics import fit_dynamics
from mbrl.training.policy import fit_policy

DISCRETE, BOX = "CartPole-v1", "mbrltest/PushedPole-v0"
CONTROLLERS = {  # episodes, and how often each pushes as it should
    DISCRETE: ((300, 0.25), (20, 0.95)),
    BOX: ((400, 0.2), (15, 0.95)),
}
CUT = 60  # steps at which an episode is cut
LONGEST = 100  # steps of an episode that is played: long enough to tell who holds the pole
SMALL: dict[str, Any] = {"hidden": (64, 64)}
# Hundreds of updates in the place of thousands: a short horizon, targets that follow soon, and large steps.
HASTY: dict[str, Any] = {**SMALL, "discount": 0.97, "actor_lr": 3e-3}
CRITICS: dict[str, Any] = {**HASTY, "tau": 0.02, "critic_lr": 3e-3}
SOFT: dict[str, Any] = {**CRITICS, "temperature_lr": 3e-3}
LOGGED: dict[str, Any] = {"real_ratio": 1.0}
IMAGINED: dict[str, Any] = {"horizon": 3, "rollout_every": 100, "rollout_starts": 400, "keep_rollouts": 5}
PENALISED: dict[str, Any] = {**IMAGINED, "penalty": 1.0}
BOLD: dict[str, Any] = {**IMAGINED, "penalty": 0.0}
HALTED: dict[str, Any] = {**BOLD, "halt": 2.0, "halt_cost": 1.0}
TRANSFORMER: dict[str, Any] = {"width": 32, "layers": 2, "heads": 1, "discount": 0.97, "lr": 3e-3}


class Pushed(gym.ActionWrapper):
    """CartPole whose cart is pushed with any force from -10 to 10."""

    def __init__(self) -> None:
        super().__init__(gym.make(DISCRETE))
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def action(self, action: np.ndarray) -> int:
        self.unwrapped.force_mag = 10 * abs(float(action[0]))
        return int(action[0] > 0)


if BOX not in gym.registry:
    gym.register(BOX, Pushed)


class Problem(NamedTuple):
    env: str
    data: TransitionDataset
    simulator: Simulator

    @classmethod
    def of(cls, env: str) -> "Problem":
        data = played(env)
        spec, rows = data.spec(torch.arange(data.episodes)), data.batch()
        with seeded(0, "cartpole"):
            model = ProbabilisticEnsemble(spec, members=3, elites=3, hidden=64, layers=2, reward_network=(32,))
        fit_dynamics(model, Whole(rows, data.episode), rows, seed=0, max_epochs=6, epoch_updates=100, lr=5e-3)
        simulator = Simulator(model, spec, max_aleatoric)
        simulator.calibrate(rows)
        return cls(env, data, simulator)

    def learned(self, kind: type[Learner], arguments: dict[str, Any], settings: dict[str, Any]) -> Policy:
        with seeded(0, "learner"):
            learner = kind(self.simulator.spec, **arguments)
        simulator = None if settings.get("real_ratio") == 1 else self.simulator
        settings = {"updates": 400, "batch_size": 128, **settings}
        ends = self.data.ends(torch.arange(len(self.data)))
        return fit_policy(learner, self.data.batch(), simulator, ends=ends, **settings).policy

    def earned(self, kind: type[Learner], arguments: dict[str, Any], settings: dict[str, Any]) -> float:
        """Mean true return of three episodes: `LONGEST` if the pole is held to the end."""
        policy = self.learned(kind, arguments, settings)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gym.spec(DISCRETE), "max_episode_steps", LONGEST)
            return float(np.mean(playing.true_returns(acting(policy), self.env, 3, 77)))


def played(name: str, seed: int = 0) -> TransitionDataset:
    """Episodes of the bad controller, which last 10 steps, and few of the good one, which are cut."""
    env, rng, rows = gym.make(name), np.random.default_rng(seed), []
    discrete = name == DISCRETE
    skills = [skill for count, skill in CONTROLLERS[name] for _ in range(count)]
    for episode, skill in enumerate(skills):
        obs, _ = env.reset(seed=episode)
        terminated, step = False, 0
        while not terminated and step < CUT:
            right = obs[2] + 0.5 * obs[3] + 0.05 * obs[0] + 0.1 * obs[1] > 0
            right, step = right == (rng.random() < skill), step + 1
            action = np.eye(2)[int(right)] if discrete else np.array([1.0 if right else -1.0]) * rng.uniform(0.5, 1.0)
            after, reward, terminated, _, _ = env.step(int(right) if discrete else action)
            rows.append((obs, action, reward, after, terminated, not terminated and step == CUT, episode))
            obs = after
    kinds = (torch.float32,) * 4 + (torch.bool,) * 2 + (torch.long,)
    columns = [torch.from_numpy(np.stack(c)).to(kind) for c, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "episode")
    return TransitionDataset.create(
        "toy/dropped-v0",
        **dict(zip(names, columns, strict=True)),
        discrete=discrete,
        action_low=[0.0, 0.0] if discrete else [-1.0],
        action_high=[1.0, 1.0] if discrete else [1.0],
    )
