from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from dynamics_toys import unit_spec
from gymnasium import spaces

from mbrl import environments, playing

NESTED = spaces.Dict(
    {
        "goal": spaces.Box(-1, 1, (2,), np.float32),
        "arm": spaces.Tuple((spaces.Box(-1, 1, (2, 2), np.float64), spaces.Box(0, 9, (), np.int64))),
    }
)


class Count(gym.Env[Any, Any]):
    """Rewards the step number times the action; lasts 3 steps, or 4 after an odd seed."""

    observation_space: spaces.Space[Any] = spaces.Dict({"t": spaces.Box(-1, 99, (1,), np.float64)})
    action_space: spaces.Space[Any] = spaces.Box(-2, 2, (1, 1), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.last = 0, 3 + (seed or 0) % 2
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self.observe(), float(self.t * np.sum(action)), self.t >= self.last, False, {}

    def observe(self) -> dict[str, np.ndarray]:
        return {"t": np.array([self.t], np.float64)}


class Choose(Count):
    action_space = spaces.Discrete(3, start=5)


class Endless(Count):
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observe(), 0.0, False, False, {}


class Reusing(Count):
    """Goes on in the array that it has returned, and scales the action that it was given."""

    observation_space = spaces.Box(-1, 99, (1,), np.float32)

    def observe(self) -> Any:
        if self.t == 0:
            self.at = np.zeros(1, np.float32)
        self.at[0] = self.t
        return self.at

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        action *= 10
        return super().step(action)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    names = {"mbrltest/Count-v0": Count, "mbrltest/Choose-v0": Choose, "mbrltest/Endless-v0": Endless}
    names["mbrltest/Reusing-v0"] = Reusing
    for name, cls in names.items():
        gym.register(name, cls)
    yield
    for name in names:
        del gym.registry[name]


def test_flatten_is_gymnasiums_row_by_row() -> None:
    NESTED.seed(0)
    samples = [NESTED.sample() for _ in range(5)]
    stacked = {
        "goal": np.stack([s["goal"] for s in samples]),
        "arm": tuple(np.stack([s["arm"][k] for s in samples]) for k in range(2)),
    }
    flat = environments.flatten(NESTED, stacked, 5)
    assert flat.dtype == np.float32
    assert flat.shape == (5, 7)
    np.testing.assert_allclose(flat, [spaces.flatten(NESTED, s) for s in samples], rtol=1e-6)


def test_flat_spaces_keep_the_bounds() -> None:
    obs, action = environments.flat_spaces(NESTED, spaces.Box(-1, np.array([[1.0, 2.0]]), dtype=np.float64))
    assert obs.shape == (7,)
    assert action == spaces.Box(-1, np.array([1.0, 2.0]), dtype=np.float64)
    assert environments.flat_spaces(NESTED, spaces.Discrete(4))[1] == spaces.Discrete(4)


@pytest.mark.parametrize(
    ("obs", "action", "message"),
    [
        (spaces.Box(0, 255, (64, 64, 3), np.uint8), spaces.Discrete(2), "images"),
        (spaces.Box(0, 255, (8, 8), np.uint8), spaces.Discrete(2), "images"),
        (spaces.Box(0, 1, (3, 8, 8), np.float32), spaces.Discrete(2), "images"),
        (spaces.Dict({"camera": spaces.Box(0, 255, (64, 64, 3), np.uint8)}), spaces.Discrete(2), "images"),
        (spaces.Discrete(16), spaces.Discrete(2), "Dict or Tuple of Boxes"),
        (spaces.Dict({"room": spaces.Discrete(16)}), spaces.Discrete(2), "Dict or Tuple of Boxes"),
        (spaces.Box(0, 1, (3,)), spaces.MultiDiscrete([2, 2]), r"MultiDiscrete\(\[2 2\]\) is not supported"),
        (spaces.Box(0, 1, (3,)), spaces.MultiBinary(3), "Box and Discrete actions"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(obs: spaces.Space, action: spaces.Space, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        environments.flat_spaces(obs, action)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Pendulun-v1", "Did you mean: `Pendulum`"),
        ("Pendulum-v9", "v9"),
        ("not an id", "Malformed"),
        ("nosuchmodule:Env-v0", "PYTHONPATH"),
        ("json:Env-v0", "importing 'json' did not register 'Env-v0'"),
    ],
)
def test_an_environment_that_cannot_be_made_says_why(env_id: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        environments.make(env_id)


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (-2.0, 2.0, ""),
        (-1.0, 2.001, ""),  # a rounded bound
        (-1.0, 3.0, "takes action[0] from -2 to 2, and the log has it from -1 to 3: what is beyond will be clipped"),
        (-200.0, 200.0, "from -200 to 200: what is beyond will be clipped. Are they in one unit?"),
    ],
)
def test_actions_that_an_environment_will_clip_are_told(
    low: float, high: float, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = replace(unit_spec(), action_low=(low,), action_high=(high,))
    environments.check_spaces("mbrltest/Count-v0", spec, "the log")
    said = " ".join(capsys.readouterr().out.split())
    assert told in said
    assert bool(said) == bool(told)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any, **kwargs: Any) -> None:
        raise gym.error.DependencyNotInstalled("MuJoCo is not installed")

    monkeypatch.setattr(gym, "make", missing)
    with pytest.raises(ValueError, match=r"MuJoCo is not installed.*offline-mbrl\[mujoco\]"):
        environments.make("Hopper-v5")


def test_returns_are_those_of_one_environment_after_another() -> None:
    def act(obs: np.ndarray, episodes: Sequence[int]) -> np.ndarray:
        assert obs.dtype == np.float32
        return -obs[:, 2:]

    def alone(seed: int) -> float:
        env = gym.make("Pendulum-v1")
        obs, _ = env.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(np.clip(act(obs[None], [seed])[0], -2, 2))
            total += float(reward)
            ended = terminated or truncated
        return total

    returns = playing.true_returns(act, "Pendulum-v1", 18, seed=5)
    assert returns.shape == (18,)
    np.testing.assert_allclose(returns[[0, 1, 15, 16, 17]], [alone(5 + k) for k in (0, 1, 15, 16, 17)], rtol=1e-12)


def test_actions_are_clipped_and_given_the_environments_shape() -> None:
    seen = []

    def act(obs: np.ndarray, episodes: Sequence[int]) -> np.ndarray:
        seen.append((len(obs), list(episodes)))
        return np.full((len(obs), 1), 100.0)

    returns = playing.true_returns(act, "mbrltest/Count-v0", 3, seed=0)
    assert returns.tolist() == [2 * (1 + 2 + 3), 2 * (1 + 2 + 3 + 4), 2 * (1 + 2 + 3)]
    assert seen == [(3, [0, 1, 2])] * 3 + [(1, [1])]
    discounted = playing.play(act, "mbrltest/Count-v0", 3, seed=0).returns(0.5)
    assert discounted.tolist() == [2 * (1 + 1 + 0.75), 2 * (1 + 1 + 0.75 + 0.5), 2 * (1 + 1 + 0.75)]


def test_what_a_cut_leaves_out_is_known_by_its_weight() -> None:
    def act(obs: np.ndarray, episodes: Sequence[int]) -> np.ndarray:
        return np.zeros((len(obs), 1))

    assert playing.play(act, "Pendulum-v1", 2, 3).beyond(0.99).tolist() == pytest.approx([0.99**200] * 2)
    assert playing.play(act, "mbrltest/Count-v0", 2, 0).beyond(0.99).tolist() == [0, 0]  # these end


def test_discrete_actions_count_from_zero() -> None:
    returns = playing.true_returns(lambda obs, episodes: np.full(len(obs), 2), "mbrltest/Choose-v0", 1, seed=0)
    assert returns.tolist() == [7 * (1 + 2 + 3)]


@pytest.mark.parametrize(
    ("env_id", "action", "message"),
    [
        ("Pendulum-v1", np.zeros, r"shape \[2\], expected \[2, 1\]"),
        ("Pendulum-v1", lambda n: np.full((n, 1), np.nan), "not finite"),
        ("mbrltest/Choose-v0", lambda n: np.full(n, 3), "integers 0 to 2"),
        ("mbrltest/Choose-v0", np.zeros, "integers 0 to 2"),
        ("mbrltest/Choose-v0", lambda n: np.zeros((n, 3)), r"expected \[2\]"),
    ],
)
def test_a_wrong_action_is_an_error(env_id: str, action: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        playing.true_returns(lambda obs, episodes: action(len(obs)), env_id, 2, seed=0)


def test_no_episode_and_an_endless_one_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playing, "MAX_STEPS", 20)
    with pytest.raises(ValueError, match="at least 1"):
        playing.true_returns(lambda obs, episodes: obs, "Pendulum-v1", 0, seed=0)
    with pytest.raises(ValueError, match="did not end in 20 steps"):
        playing.true_returns(lambda obs, episodes: obs, "mbrltest/Endless-v0", 1, seed=0)
    with pytest.raises(ValueError, match="did not end in 20 steps"):
        list(playing.record("mbrltest/Endless-v0", lambda obs, rng: obs, 1, seed=0))


def test_record_logs_whole_episodes_reproducibly() -> None:
    def controller(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rng.normal(0, 3, 1)

    first, second = (list(playing.record("Pendulum-v1", controller, 2, seed=7)) for _ in range(2))
    assert len(first) == 2
    episode = first[0]
    assert episode.observations.shape == (201, 3)
    assert episode.actions.shape == (200, 1)
    assert np.abs(episode.actions).max() == 2.0  # as the environment was given them
    assert (episode.terminations.any(), episode.truncations.tolist()) == (False, [False] * 199 + [True])
    np.testing.assert_array_equal(episode.observations[0], gym.make("Pendulum-v1").reset(seed=7)[0])
    for a, b in zip(first[1], second[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_record_keeps_what_an_environment_writes_over() -> None:
    (episode,) = playing.record("mbrltest/Reusing-v0", lambda obs, rng: np.full(1, 0.5), 1, seed=0)
    assert episode.observations.tolist() == [[0], [1], [2], [3]]
    assert episode.actions.tolist() == [[0.5]] * 3
    assert episode.rewards.tolist() == [5, 10, 15]


def test_record_takes_discrete_and_nested_spaces() -> None:
    (episode,) = playing.record("mbrltest/Choose-v0", lambda obs, rng: np.array(1), 1, seed=0)
    assert episode.actions.tolist() == [6, 6, 6]
    assert episode.observations.tolist() == [[0], [1], [2], [3]]
    assert episode.rewards.tolist() == [6, 12, 18]
    assert episode.terminations.tolist() == [False, False, True]
    (cart,) = playing.record("CartPole-v1", lambda obs, rng: rng.integers(2), 1, seed=0)
    assert len(cart.actions) == len(cart.rewards) == len(cart.observations) - 1


def test_only_mujoco_environments_require_mujoco() -> None:
    assert environments.requirements(environments.make("Pendulum-v1")) == []
