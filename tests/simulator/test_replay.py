"""Exogenous channels: replayed row by row as they were logged, and never invented."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from weather_world import Driven, Rest, driven, simulator_of, weather

from mbrl import files
from mbrl.core import Memory, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.modelbased import simulated_values, start_states
from mbrl.simulator import stored
from mbrl.simulator.card import report_card
from mbrl.simulator.envs import SimulatorEnv
from mbrl.simulator.episodes import Episodes
from mbrl.simulator.openloop import open_loop
from mbrl.simulator.replay import Replay
from mbrl.simulator.rollout import imagine, play
from mbrl.simulator.simulator import Simulator
from mbrl.testing import no_host_reads
from mbrl.training.policy import fit_policy
from policies import BC

DATA = driven()
STEPS = torch.arange(20.0)


def rng() -> torch.Generator:
    return generator(0, "test")


def carried(data: TransitionDataset = DATA, **arguments: Any) -> Simulator:
    """A simulator with start states and the episodes that they begin."""
    return simulator_of(data, starts=data.starts, replay=Replay.of(data), **arguments)


def test_the_series_of_each_episode_has_one_observation_more_than_transitions() -> None:
    replay = Replay.of(DATA, torch.tensor([2, 1]))
    values = torch.cat([weather(2, STEPS[:10]), weather(1, STEPS[:5])])
    assert torch.equal(replay.values[:, 0], values)
    assert replay.rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13]
    assert (replay.start.tolist(), replay.first.tolist()) == ([0, 10], [0, 9])
    following, seen = replay(torch.tensor([0, 8, 9, 10]))
    assert following.tolist() == [1, 9, 9, 11]
    assert torch.equal(seen[:, 0], values[[1, 9, 9, 11]])
    assert replay.ended(torch.tensor([8, 9, 14])).tolist() == [False, True, True]


def test_imagined_weather_is_the_logged_one_row_by_row() -> None:
    world, rows = simulator_of(DATA).replaying(DATA), torch.tensor([0, 4, 10])  # 6, 2 and 9 rows are left
    batch = imagine(Rest(world.spec), world, DATA.obs[rows], 6, 0.0, rng(), rows)
    episode, step = torch.tensor([0, 0, 2]), torch.tensor([0, 4, 0])
    for t in range(6):
        since = torch.tensor([t, t % 2, t])  # the second begins anew where its log ends
        for k in range(3):
            now, then = (weather(int(episode[k]), step[k] + since[k] + ahead) for ahead in (0.0, 1.0))
            assert (batch.obs[t, k, 0], batch.next_obs[t, k, 0]) == (now, then)
    assert torch.equal(batch.obs[[2, 4], 1], DATA.obs[[4, 4]])
    assert not batch.terminated.any()
    torch.testing.assert_close(batch.next_obs[..., 1], 0.8 * batch.obs[..., 1] + 0.125 + batch.obs[..., 0])
    torch.testing.assert_close(batch.reward, batch.obs.sum(-1))


def test_rows_count_within_the_episodes_that_are_replayed() -> None:
    world = simulator_of(DATA).replaying(DATA, torch.tensor([1, 2]))
    obs = DATA.obs[DATA.rows(torch.tensor([1, 2]))]
    world.check_replays(obs)
    batch = imagine(Rest(world.spec), world, obs, 1, 0.0, rng(), torch.arange(13))
    assert torch.equal(batch.next_obs[0, :, 0], DATA.next_obs[6:, 0])


def test_episodes_of_another_log_begin_as_they_did() -> None:
    """The start states that the simulator carries are of the episodes that it replayed before."""
    for world in simulator_of(DATA), carried():
        other = world.replaying(DATA, torch.tensor([2, 1]))
        obs, memory = other.start(20, rng())
        after = other.step(obs, torch.zeros(20, 1), rng(), memory).next_obs
        number = (obs[:, None] == DATA.starts).all(-1).long().argmax(1)
        assert set(number.tolist()) == {1, 2}
        assert torch.equal(after[:, 0], torch.stack([weather(int(k), torch.tensor(1.0)) for k in number]))
    assert world.starts is not None
    assert len(world.starts) == 3  # the world that was asked keeps its own


def test_an_unknown_row_is_given_the_beginning_of_a_random_episode() -> None:
    world = simulator_of(DATA).replaying(DATA)
    step = world.step(torch.zeros(300, 2), torch.zeros(300, 1), rng(), world.begin(torch.zeros(300, 2), rng()))
    first = torch.stack([weather(k, torch.tensor(1.0)) for k in range(3)])
    drawn = (step.next_obs[:, :1] == first).float()
    assert drawn.sum(1).eq(1).all()
    assert (drawn.mean(0) > 0.2).all()


def test_the_open_loop_follows_the_log_exactly() -> None:
    world, rows = simulator_of(DATA), torch.tensor([0, 7, 10])
    followed = open_loop(world, DATA, rows, 9, 3, rng())
    assert followed.starts().tolist() == [3, 3, 3, 2, 2, 2, 1, 1, 1]
    assert followed.mean.shape == (9, 3, 2)  # the level and the reward: nobody predicts the weather
    torch.testing.assert_close(followed.mean[followed.valid], followed.truth[followed.valid])


def test_returns_end_with_the_replayed_log() -> None:
    world, start = simulator_of(DATA).replaying(DATA), DATA.starts
    limit, rows = torch.tensor([50, 50, 3]), DATA.first
    returns = play(Rest(world.spec), world, start, int(limit.max()), rng(), rows).returns(limit, 1.0).float()
    batch = imagine(Rest(world.spec), world, start, 9, 0.0, rng(), rows)
    wanted = [batch.reward[:6, 0].sum(), batch.reward[:4, 1].sum(), batch.reward[:3, 2].sum()]
    torch.testing.assert_close(returns, torch.stack(wanted))
    starts = start_states(DATA, 3, seed=0)
    assert torch.equal(starts.obs, DATA.obs[starts.rows])
    value = simulated_values({"rest": Rest(world.spec)}, world, starts, gamma=1.0, level=0.9, seed=0)["rest"]
    wanted[2] = batch.reward[:, 2].sum()
    assert value.value == pytest.approx(float(sum(wanted)) / 3, rel=1e-5)


def test_episodes_replay_the_log_of_their_start_and_are_cut_at_its_end() -> None:
    episodes = Episodes(carried(), 4, seed=1, horizon=100)
    obs, still = episodes.begin(), torch.zeros(4, 1)
    number = (obs[:, None] == DATA.starts).all(-1).long().argmax(1)
    assert len(set(number.tolist())) > 1
    elapsed = torch.zeros(4)
    for _ in range(25):
        moment = episodes.step(still)
        again = (moment.obs[:, None] == DATA.starts).all(-1)
        assert torch.equal(again.any(1), moment.began)
        number = torch.where(moment.began, again.long().argmax(1), number)
        elapsed = torch.where(moment.began, 0, elapsed + 1)
        wanted = [weather(int(k), t) for k, t in zip(number, elapsed, strict=True)]
        assert torch.equal(moment.obs[:, 0], torch.stack(wanted))
        assert torch.equal(moment.truncated, elapsed == DATA.lengths[number])
        assert not moment.terminated.any()


def test_the_environment_needs_no_log(tmp_path: Any) -> None:
    files.save(tmp_path / "world.ckpt", stored.state(carried(std=0.1)))
    env = SimulatorEnv(tmp_path / "world.ckpt", horizon=50)
    check_env(env, skip_render_check=True)
    obs, _ = env.reset(seed=3)
    number = int((torch.tensor(obs) == DATA.starts).all(-1).long().argmax())
    for t in range(int(DATA.lengths[number])):
        obs, _, _, truncated, _ = env.step(env.action_space.sample())
        assert obs[0] == weather(number, torch.tensor(t + 1.0))
    assert truncated
    env.reset(options={"obs": [0.0, 0.0]})
    assert env.step(env.action_space.sample())[0][0] in [weather(k, torch.tensor(1.0)) for k in range(3)]
    envs = gym.make_vec("mbrl:mbrl/Simulator-v0", num_envs=3, simulator=str(tmp_path / "world.ckpt"))
    envs.reset(seed=0)
    assert envs.step(envs.action_space.sample())[0].shape == (3, 2)


def test_imagination_never_makes_the_host_wait() -> None:
    world, rows = simulator_of(DATA, std=0.1).replaying(DATA), torch.arange(9)
    with no_host_reads():
        batch = imagine(Rest(world.spec), world, DATA.obs[rows], 7, 0.0, rng(), rows)
    assert batch.next_obs.isfinite().all()


def test_replaying_leaves_the_world_itself_alone() -> None:
    world, other = carried(), driven((3,), seed=1)
    twin = world.replaying(other)
    assert (len(twin.filling.replay.lengths), len(world.filling.replay.lengths)) == (1, 3)  # type: ignore[union-attr]
    assert twin.dynamics is world.dynamics
    assert world.plain().filling is world.filling


def test_only_predicted_channels_are_graded() -> None:
    data = driven(tuple([30] * 30), std=0.3)
    world = simulator_of(data, std=0.3)
    sides = torch.arange(15), torch.arange(15, 30)
    world.calibrate(data.batch(data.rows(sides[0])))
    assert world.recalibration.scale.shape == (2,)
    numbers = report_card(world, data, sides[1], calibrated_on=sides[0], seed=0, about={}, horizon=10).numbers
    assert (numbers["channels"], numbers["exogenous"]) == (["level", "reward"], ["weather"])
    assert numbers["one_step"]["coverage"]["90%"][0] == pytest.approx(0.9, abs=0.05)
    assert numbers["trusted_horizon"]["weakest"] == "level"
    assert numbers["trusted_horizon"]["steps"] > 1


def test_a_policy_rehearses_in_the_weather_that_was_logged() -> None:
    real, settings = DATA.batch(), {"updates": 2, "rollout_starts": 7, "horizon": 3, "rollout_every": 1, "penalty": 0.0}
    world = simulator_of(DATA)

    class Spy(BC):
        imagines = True
        seen: list[torch.Tensor] = []  # noqa: RUF012

        def update(self, real: Any, imagined: Any, rng: Any, simulator: Any = None) -> Any:
            self.seen.append(imagined)
            return super().update(real, None, rng)

    fit_policy(Spy(world.spec), real, world.replaying(DATA), **settings)
    pairs = {(float(a), float(b)) for a, b in zip(DATA.obs[:, 0], DATA.next_obs[:, 0], strict=True)}
    for batch in Spy.seen:
        assert {(float(a), float(b)) for a, b in zip(batch.obs[:, 0], batch.next_obs[:, 0], strict=True)} <= pairs
    with pytest.raises(ValueError, match="does not replay the 19 logged rows that it is to start from"):
        fit_policy(Spy(world.spec), real, world.replaying(DATA, torch.tensor([0, 1])), **settings)
    with pytest.raises(ValueError, match="does not replay the 19 logged rows"):
        fit_policy(Spy(world.spec), real, world, **settings)


def test_what_cannot_be_replayed_is_refused() -> None:
    world, obs = simulator_of(DATA), DATA.obs[:2]
    with pytest.raises(ValueError, match="carries no logged episodes to replay its exogenous channels from"):
        world.begin(obs, rng())
    with pytest.raises(ValueError, match="pass the memory of `begin` on"):
        world.replaying(DATA).step(obs, torch.zeros(2, 1), rng())
    with pytest.raises(ValueError, match="pass the memory of `begin` on"):
        world.replaying(DATA).step(obs, torch.zeros(2, 1), rng(), Memory())
    with pytest.raises(ValueError, match="2 start states are not the beginnings of the 3 replayed episodes"):
        simulator_of(DATA, starts=DATA.starts[:2], replay=Replay.of(DATA))
    with pytest.raises(ValueError, match="3 start states are not the beginnings"):
        simulator_of(DATA, starts=DATA.starts.flip(0), replay=Replay.of(DATA))
    with pytest.raises(ValueError, match="the replayed log has 2 exogenous channels, expected 1"):
        simulator_of(DATA, replay=Replay(torch.zeros(3, 2), torch.tensor([2])))
    with pytest.raises(ValueError, match=r"4 rows of exogenous channels for episodes of \[2\] transitions"):
        Replay(torch.zeros(4, 1), torch.tensor([2]))


def test_a_log_with_other_exogenous_channels_is_refused() -> None:
    columns = {**DATA.tensors, "discrete": False, "action_low": [-1.0], "action_high": [1.0]}
    for channels, text in ([], r"\[\]"), ([1], r"\[1\]"):
        other = TransitionDataset.create("toy/other-v0", **columns, exogenous=channels)
        assert other.fingerprint != DATA.fingerprint
        with pytest.raises(ValueError, match=rf"toy/other-v0 has exogenous channels {text}, and .* with \[0\]"):
            simulator_of(DATA).replaying(other)
    for channels in ([0, 1], [2], [1, 0], [0, 0]):
        with pytest.raises(ValueError, match="expected some of the channels 0 to 1, in order, and not all of them"):
            TransitionDataset.create("toy/other-v0", **columns, exogenous=channels)


def test_a_channel_that_nothing_fills_in_is_refused() -> None:
    spec = DATA.spec(torch.arange(3))
    bare = replace(spec, exogenous=())  # `predicted` is still the level alone
    with pytest.raises(ValueError, match=r"channels \[0\] are not predicted, and nothing fills them in"):
        Simulator(Driven(bare), bare)


def test_weather_stays_as_it_was_where_the_loggers_world_ended_and_this_one_goes_on() -> None:
    """Episodes of 6, 4 and 9 transitions: rows that are cut where their log is end there, the others at their limit."""
    world, rows = simulator_of(DATA).replaying(DATA), DATA.first[:3]
    lengths = DATA.lengths[:3]
    seen: list[torch.Tensor] = []

    def measure(obs: torch.Tensor, action: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        seen.append(after[:, DATA.exogenous[0]])
        return after[:, 0]

    limit = torch.stack([lengths[0], lengths.max(), lengths[2]])
    steps = int(lengths.max())
    played = play(Rest(world.spec), world, DATA.obs[rows], steps, rng(), rows, None, measure, limit)
    assert played.taken.sum(0).tolist() == limit.tolist()
    assert int(lengths[1]) < steps
    held = torch.stack(seen)[int(lengths[1]) - 1 :, 1]
    assert len(held.unique()) == 1
    assert play(Rest(world.spec), world, DATA.obs[rows], steps, rng(), rows).taken.sum(0).tolist() == lengths.tolist()
