"""Learners on a small log of CartPole, most of whose rows are of a controller that drops the pole: they do better."""

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch

from dynamics import ProbabilisticEnsemble
from dynamics.uncertainty import max_aleatoric
from mbrl import environments
from mbrl.core import Learner, Policy, seeded
from mbrl.data.dataset import TransitionDataset
from mbrl.data.source import Whole
from mbrl.evaluation.evidence import acting
from mbrl.simulator.simulator import Simulator
from mbrl.training.dynamics import fit_dynamics
from mbrl.training.policy import fit_policy
from policies import AWAC, AWR, BC, COMBO, CQL, IQL, MOBILE, RAMBO, SAC, DecisionTransformer, DiscreteBCQ

CONTROLLERS = (300, 0.25), (20, 0.95)  # episodes, and how often each pushes as it should
CUT = 60  # steps at which an episode is cut
SMALL: dict[str, Any] = {"hidden": (64, 64)}
SOFT = {**SMALL, "actor_lr": 1e-3, "critic_lr": 1e-3, "temperature_lr": 1e-3}
LOGGED: dict[str, Any] = {"real_ratio": 1.0}
IMAGINED: dict[str, Any] = {"horizon": 3, "rollout_every": 100, "rollout_starts": 400, "keep_rollouts": 5}
BOLD = {**IMAGINED, "penalty": 0.0}
HALTED = {**BOLD, "halt": 2.0, "halt_cost": 1.0}
MADE: dict[str, tuple[type[Learner], dict[str, Any], dict[str, Any]]] = {
    "iql": (IQL, SMALL, LOGGED),
    "cql": (CQL, SOFT, LOGGED),
    "awac": (AWAC, SMALL, LOGGED),
    "awr": (AWR, SMALL, LOGGED),
    "discrete_bcq": (DiscreteBCQ, SMALL, LOGGED),
    "dt": (DecisionTransformer, {"width": 32, "layers": 2, "heads": 1}, {**LOGGED, "batch_size": 64}),
    "mopo": (SAC, SOFT, {**IMAGINED, "penalty": 1.0}),
    "combo": (COMBO, SOFT, BOLD),
    "mobile": (MOBILE, {**SOFT, "samples": 3}, BOLD),
    "rambo": (RAMBO, SOFT, BOLD),
    "morel": (SAC, SOFT, HALTED),
}


class Problem(NamedTuple):
    data: TransitionDataset
    simulator: Simulator


def played(seed: int = 0) -> TransitionDataset:
    """Episodes of the bad controller, which last 10 steps, and few of the good one, which are cut."""
    env, rng, rows = gym.make("CartPole-v1"), np.random.default_rng(seed), []
    skills = [skill for count, skill in CONTROLLERS for _ in range(count)]
    for episode, skill in enumerate(skills):
        obs, _ = env.reset(seed=episode)
        terminated, step = False, 0
        while not terminated and step < CUT:
            right = obs[2] + 0.5 * obs[3] + 0.05 * obs[0] + 0.1 * obs[1] > 0
            action, step = int(right == (rng.random() < skill)), step + 1
            after, reward, terminated, _, _ = env.step(action)
            rows.append((obs, np.eye(2)[action], reward, after, terminated, not terminated and step == CUT, episode))
            obs = after
    kinds = (torch.float32,) * 4 + (torch.bool,) * 2 + (torch.long,)
    columns = [torch.from_numpy(np.stack(c)).to(kind) for c, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "episode")
    return TransitionDataset.create(
        "toy/dropped-v0",
        **dict(zip(names, columns, strict=True)),
        discrete=True,
        action_low=[0.0, 0.0],
        action_high=[1.0, 1.0],
    )


@pytest.fixture(scope="module")
def problem() -> Problem:
    data = played()
    spec, rows = data.spec(torch.arange(data.episodes)), data.batch()
    with seeded(0, "cartpole"):
        model = ProbabilisticEnsemble(spec, members=3, elites=3, hidden=64, layers=2, reward_network=(32,))
    fit_dynamics(model, Whole(rows, data.episode), rows, seed=0, max_epochs=10, epoch_updates=150, lr=3e-3)
    simulator = Simulator(model, spec, max_aleatoric)
    simulator.calibrate(rows)
    return Problem(data, simulator)


def learned(problem: Problem, kind: type[Learner], arguments: dict[str, Any], settings: dict[str, Any]) -> Policy:
    data, simulator = problem
    with seeded(0, "learner"):
        learner = kind(simulator.spec, **arguments)
    used = None if settings.get("real_ratio") == 1 else simulator
    ends = data.ends(torch.arange(len(data)))
    return fit_policy(learner, data.batch(), used, ends=ends, updates=1500, **{"batch_size": 128, **settings}).policy


def earned(policy: Policy) -> float:
    return float(np.mean(environments.true_returns(acting(policy), "CartPole-v1", 5, 77)))


def test_imitation_drops_it_as_most_of_the_log_does(problem: Problem) -> None:
    """A policy that holds the pole gets 500, the log 15 on average and 60 at most."""
    assert 12 < float(problem.data.returns().mean()) < 18
    assert earned(learned(problem, BC, SMALL, LOGGED)) < 15


@pytest.mark.parametrize("name", MADE)
def test_who_learns_from_the_reward_holds_it_for_longer_than_anybody_in_the_log(name: str, problem: Problem) -> None:
    assert earned(learned(problem, *MADE[name])) > CUT
