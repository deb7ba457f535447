"""A world whose velocity is not logged and whose actions come a step late: what a window is for, in closed form.

x' = x + v and v' = v / 2 + a, of which x alone is logged; every episode begins at rest. With x and the last x and a,
v = (x - last x) / 2 + last a, so a window of two knows everything and a single observation does not.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TransformAction
from torch import Tensor, nn

from dynamics import DeterministicEnsemble
from mbrl.core import Batch, Dynamics, Policy, Prediction, Spec, generator, seeded
from mbrl.data.dataset import TransitionDataset
from mbrl.data.history import windowed
from mbrl.data.source import Whole
from mbrl.evaluation.evidence import acting
from mbrl.serving.export import OneStep
from mbrl.simulator.card import report_card
from mbrl.simulator.envs import SimulatorEnv, SimulatorVectorEnv
from mbrl.simulator.openloop import open_loop
from mbrl.simulator.rollout import imagine, play
from mbrl.simulator.simulator import Simulator
from mbrl.simulator.wrappers import HistoryVectorWindow, HistoryWindow
from mbrl.training.bootstrap import held_runs
from mbrl.training.dynamics import fit_dynamics
from mbrl.training.lookahead import Lookahead
from mbrl.window import Window

STEPS = 20


def late(episodes: int = 8, seed: int = 0, discrete: bool = False) -> TransitionDataset:
    """A plain log; Discrete: actions -1, 0 and 1. The reward is -x^2."""
    rng = generator(seed, "late")
    x, v = torch.randn(episodes, generator=rng), torch.zeros(episodes)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(STEPS):
        choice = torch.randint(3, (episodes,), generator=rng)
        a = choice - 1.0 if discrete else 2 * torch.rand(episodes, generator=rng) - 1
        taken = torch.eye(3)[choice] if discrete else a.unsqueeze(-1)
        rows.append((x, taken, x + v))
        x, v = x + v, v / 2 + a
    obs, action, next_obs = (torch.stack(column, 1).flatten(0, 1) for column in zip(*rows, strict=True))
    last = torch.arange(len(obs)) % STEPS == STEPS - 1
    return TransitionDataset.create(
        "toy/late-v0",
        obs=obs.unsqueeze(-1),
        action=action,
        reward=-obs.square(),
        next_obs=next_obs.unsqueeze(-1),
        terminated=torch.zeros_like(last),
        truncated=last,
        episode=torch.arange(len(obs)) // STEPS,
        discrete=discrete,
        action_low=[0.0] * 3 if discrete else [-1.0],
        action_high=[1.0] * 3 if discrete else [1.0],
        channels=["x"],
        action_channels=["a-", "a0", "a+"] if discrete else ["a"],
    )


class Exact(Dynamics):
    """The law of that world for windows of two or more, every member the same, with `std` for what is predicted."""

    def __init__(self, spec: Spec, std: float = 0.0) -> None:
        super().__init__(spec, 2)
        self.std = std
        self.weight = nn.Parameter(torch.zeros(2, 1))
        self.register_buffer("scale", torch.ones(spec.obs_dim + 1))

    def loss(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        return self.weight.squeeze(-1) + 0 * batch.reward.sum(-1)

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        k = self.spec.history
        last = obs[..., k : k + self.spec.action_dim]
        pushed = last[..., 2] - last[..., 0] if self.spec.discrete else last[..., 0]
        mean = obs.clone()
        mean[..., 0] += (obs[..., 0] - obs[..., 1]) / 2 + pushed
        reward = -obs[..., 0].square()
        count = self.members if members is None else len(members)
        if mean.dim() == 2:
            mean, reward = mean.expand(count, -1, -1), reward.expand(count, -1)
        spread = torch.zeros_like(mean)
        spread[..., 0] = self.std
        return Prediction(mean, spread, reward, torch.full_like(reward, self.std), self.scale)


class Brake(Policy):
    """Pushes against the movement that its window shows."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.gain = nn.Parameter(torch.tensor(0.5))

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        del rng
        wish = -self.gain * (obs[..., 0] - obs[..., 1])
        if self.spec.discrete:
            return torch.nn.functional.one_hot((wish.sign() + 1).long(), 3).float()
        return wish.clamp(-1, 1).unsqueeze(-1)


def right_of_zero(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """A rule written for the plain observation: any channel beyond 0 ends the world."""
    assert obs.shape[-1] == next_obs.shape[-1] == 1
    return (next_obs > 0).all(-1)


def exact(data: TransitionDataset, std: float = 0.0, **arguments: Any) -> Simulator:
    spec = data.spec(torch.arange(data.episodes))
    return Simulator(Exact(spec, std), spec, **{"margin": 9.0, "starts": data.starts, **arguments})


def least_squares_error(data: TransitionDataset) -> float:
    """Root mean square of what no linear model of (obs, action) can say of the newest next observation."""
    inputs = torch.cat([data.obs, data.action, torch.ones(len(data), 1)], -1).double()
    target = data.next_obs[:, :1].double()
    fit = torch.linalg.lstsq(inputs, target, driver="gelsd").solution
    return float((inputs @ fit - target).square().mean().sqrt())


@pytest.mark.parametrize("discrete", [False, True])
def test_a_window_of_two_explains_what_one_observation_cannot(discrete: bool) -> None:
    plain = late(50, discrete=discrete)
    hidden = float((plain.next_obs - plain.obs).std())  # the velocity
    assert least_squares_error(plain) > 0.9 * hidden
    assert least_squares_error(windowed(plain, 2)) < 1e-5 * hidden


def test_a_learned_model_finds_it() -> None:
    scores = []
    for history in (1, 2):
        data = windowed(late(100), history)
        learn, held = torch.arange(80), torch.arange(80, 100)
        rows = data.rows(learn)
        with seeded(0, "test"):
            model = DeterministicEnsemble(data.spec(learn), members=2, elites=1, hidden=32, layers=1)
        report = fit_dynamics(
            model,
            Whole(data.batch(rows), data.episode[rows]),
            data.batch(data.rows(held)),
            seed=0,
            lr=1e-2,
            max_epochs=25,
        )
        scores.append(min(report.scores))
    assert scores[1] < scores[0] / 20


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("history", [2, 3])
def test_logged_actions_lead_through_the_logged_windows(discrete: bool, history: int) -> None:
    data = windowed(late(discrete=discrete), history)
    simulator, obs = exact(data), data.starts
    for step in range(STEPS):
        rows = data.first + step
        torch.testing.assert_close(obs, data.obs[rows], rtol=0, atol=1e-4)
        obs, reward, *_ = simulator.step(obs, data.action[rows], generator(step, "test"))
        torch.testing.assert_close(obs, data.next_obs[rows], rtol=0, atol=1e-4)
        torch.testing.assert_close(reward, data.reward[rows], rtol=0, atol=1e-3)


def test_a_multistep_fit_follows_the_windows_of_its_own_means() -> None:
    data = windowed(late(), 3)
    simulator, runs = exact(data), held_runs(data.batch(), data.episode, STEPS)
    squares = Lookahead(simulator.spec, STEPS).squares(simulator.dynamics, runs)
    assert squares.shape == (2, 8, STEPS, 2)  # x and the reward
    assert float(squares.max()) < 1e-5


def test_the_newest_observation_alone_is_predicted_followed_and_reported() -> None:
    data = windowed(late(), 3)
    simulator = exact(data)
    simulator.calibrate(data.batch())
    followed = open_loop(simulator, data, data.first, STEPS, 3, generator(0, "test"))
    assert followed.truth.shape == (STEPS, 8, 2)  # x and the reward
    assert float(followed.error().max()) < 1e-3
    unsure = exact(data, std=1e-3, recalibration="scale")
    unsure.calibrate(data.batch())
    unsure.recalibration.scale.fill_(1.0)
    card = report_card(unsure, data, torch.arange(8), calibrated_on=torch.arange(0), seed=0, about={})
    assert card.numbers["channels"] == ["x", "reward"]
    assert len(card.numbers["one_step"]["bias"]) == len(card.numbers["spread"]) == 2
    assert card.numbers["trusted_horizon"]["steps"] >= STEPS // 2


def test_imagined_rows_are_windows_that_follow_each_other() -> None:
    data = windowed(late(), 3)
    simulator, window = exact(data), Window.of(data.spec(torch.arange(8)))
    dreamt = imagine(Brake(simulator.spec), simulator, data.obs[:40], 6, 0.0, generator(0, "test"))
    torch.testing.assert_close(dreamt.next_obs, window.shift(dreamt.obs, dreamt.action, dreamt.next_obs[..., :1]))
    assert torch.equal(dreamt.obs[1:], dreamt.next_obs[:-1])


def test_a_rule_sees_the_plain_observation() -> None:
    data = windowed(late(), 2)
    simulator = exact(data, termination=right_of_zero)
    obs = torch.tensor([[-2.0, -1.0, 0.5], [1.0, -1.0, 0.0]])  # goes to -2 and 2
    step = simulator.step(obs, torch.zeros(2, 1), generator(0, "test"))
    assert step.next_obs.tolist() == [[-2, -2, 0], [2, 1, 0]]
    assert step.terminated.tolist() == [False, True]
    simulator.calibrate(data.batch())
    assert OneStep(simulator)(obs, torch.zeros(2, 1))["terminated"].tolist() == [0, 1]
    ends = data.batch()._replace(terminated=(data.next_obs > 0).all(-1))
    assert torch.equal(simulator.ends.by_rule(ends.obs, ends.action, ends.next_obs), data.next_obs[:, 0] > 0)


def test_the_served_simulator_is_given_a_window_and_gives_the_next_one() -> None:
    data = windowed(late(), 2)
    simulator = exact(data)
    simulator.calibrate(data.batch())
    answer = OneStep(simulator)(data.obs, data.action)
    torch.testing.assert_close(answer["next_obs"], data.next_obs, rtol=0, atol=1e-4)
    torch.testing.assert_close(answer["next_obs_low"][:, 1:], data.next_obs[:, 1:])


@pytest.mark.parametrize("discrete", [False, True])
def test_an_environment_shows_what_the_plant_would(discrete: bool) -> None:
    plain = late(discrete=discrete)
    simulator = exact(windowed(plain, 3))
    env = SimulatorEnv(simulator, horizon=STEPS)
    assert env.observation_space.shape == (1,)
    for episode in range(3):
        rows = slice(int(plain.first[episode]), int(plain.first[episode]) + STEPS)
        obs, _ = env.reset(options={"obs": plain.obs[rows][0].numpy()})
        for seen, action, following in zip(plain.obs[rows], plain.action[rows], plain.next_obs[rows], strict=True):
            np.testing.assert_allclose(obs, seen, atol=1e-4)
            obs, *_ = env.step(int(action.argmax()) if discrete else action.numpy())
            np.testing.assert_allclose(obs, following, atol=1e-4)


def test_gymnasiums_checker_has_no_complaint_of_windows() -> None:
    simulator = exact(windowed(late(), 2))
    check_env(gym.make("mbrl:mbrl/Simulator-v0", simulator=simulator, render_mode="rgb_array").unwrapped)


def test_a_start_that_is_a_window_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r'options\["obs"\] is float32 of shape \(3,\), expected numbers of shape \(1,\)'
    ):
        SimulatorEnv(exact(windowed(late(), 2))).reset(options={"obs": np.zeros(3, np.float32)})


@pytest.mark.parametrize("discrete", [False, True])
def test_the_wrapper_shows_the_windows_that_the_policy_was_trained_on(discrete: bool) -> None:
    simulator = exact(windowed(late(discrete=discrete), 3))
    policy, env = Brake(simulator.spec), HistoryWindow(SimulatorEnv(simulator, horizon=9), 3)
    assert env.observation_space.shape == (simulator.spec.obs_dim,)
    remembering = acting(policy)
    obs, _ = env.reset(seed=0)
    for _ in range(9):
        assert obs in env.observation_space
        np.testing.assert_allclose(obs, env.unwrapped._episodes.obs[0], atol=1e-6)  # the simulator's own
        action = policy(torch.from_numpy(obs[None])).detach().numpy()
        np.testing.assert_array_equal(action, remembering(obs[None, :1], [0]))
        obs, *_ = env.step(int(action[0]) if discrete else action[0])


@pytest.mark.parametrize("discrete", [False, True])
def test_the_vector_wrapper_begins_anew_where_an_episode_does(discrete: bool) -> None:
    simulator = exact(windowed(late(discrete=discrete), 2), termination=right_of_zero)
    env = HistoryVectorWindow(SimulatorVectorEnv(simulator, 4, horizon=3), 2)
    env.action_space.seed(0)
    obs, _ = env.reset(seed=1)
    lengths = set()
    for _ in range(12):
        assert obs in env.observation_space
        np.testing.assert_array_equal(obs, env.unwrapped._episodes.obs)
        obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
        lengths |= set((terminated | truncated).tolist())
    assert lengths == {False, True}


def test_what_cannot_be_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="history is 0, expected at least 1"):
        HistoryWindow(gym.make("CartPole-v1"), 0)
    with pytest.raises(ValueError, match="expected a flat Box of observations"):
        HistoryWindow(gym.make("FrozenLake-v1"), 2)
    endless = TransformAction(gym.make("Pendulum-v1"), np.tanh, Box(-np.inf, np.inf, (1,), np.float32))
    assert HistoryWindow(endless, 1).observation_space.shape == (3,)
    with pytest.raises(
        ValueError, match=r"only finite bounds say which that is\. Wrap it in gymnasium's RescaleAction"
    ):
        HistoryWindow(endless, 2)
    modes = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
    envs = gym.make_vec("Pendulum-v1", 2, vectorization_mode="sync", vector_kwargs=modes)
    with pytest.raises(ValueError, match=r"autoreset of .* expected NEXT_STEP"):
        HistoryVectorWindow(envs, 2)


def test_a_policy_is_valued_with_its_window() -> None:
    data = windowed(late(3), 2)
    simulator, policy = exact(data), Brake(data.spec(torch.arange(3)))
    value = play(policy, simulator, data.starts, 9, generator(0, "test")).returns(torch.tensor([9, 9, 9]), 1.0).float()
    x, v, total, before = data.starts[:, 0], torch.zeros(3), torch.zeros(3), data.starts[:, 0]
    for _ in range(9):
        a = (-0.5 * (x - before)).clamp(-1, 1)
        total -= x.square()
        before, x, v = x, x + v, v / 2 + a
    torch.testing.assert_close(value, total.detach(), rtol=1e-4, atol=1e-4)
