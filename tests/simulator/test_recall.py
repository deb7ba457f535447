"""States of a model that remembers: looked up in a log, carried by the simulator, begun anew with an episode."""

from pathlib import Path

import gymnasium as gym
import pytest
import torch
from memory_toys import Summing, dataset, sums
from torch import Tensor
from weather_world import Rest

from mbrl import files
from mbrl.core import Memory, generator
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.modelbased import simulated_values, start_states
from mbrl.serving import export
from mbrl.simulator import recall as module
from mbrl.simulator import stored
from mbrl.simulator.card import report_card
from mbrl.simulator.envs import SimulatorVectorEnv
from mbrl.simulator.onestep import look
from mbrl.simulator.openloop import open_loop
from mbrl.simulator.recall import Recall
from mbrl.simulator.rollout import imagine
from mbrl.simulator.simulator import Simulator

DATA = sums([4, 1, 3])
BEFORE = [0.0, 0.5, 0.75, 1.25, 0.0, 0.0, 1.5, 1.75]  # half the sum of the observations before each row


def world(data: TransitionDataset = DATA, members: int = 1, std: float = 0.0, **arguments: object) -> Simulator:
    spec = data.spec(torch.arange(data.episodes))
    return Simulator(Summing(spec, members, std), spec, **{"margin": 99.0, **arguments})  # type: ignore[arg-type]


def rng(seed: int = 0) -> torch.Generator:
    return generator(seed, "test")


def doubt(prediction: object) -> Tensor:
    return prediction.obs.std(0, correction=0)[..., 0]  # type: ignore[attr-defined,no-any-return]


def test_states_of_logged_rows_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DATA.obs[:, 0].tolist() == [1.0, 0.5, 1.0, 1.25, 2.0, 3.0, 0.5, 2.0]
    model = Summing(DATA.spec(torch.arange(3)), 2)
    for kept, stride in ((2**26, 1), (9, 2), (5, 4)):
        monkeypatch.setattr(module, "KEPT", kept)
        recall = Recall(DATA.batch(), DATA.episode)
        found = recall(model, torch.arange(8).flip(0)).flip(1)
        assert recall.stride == stride
        assert found[0, :, 0].tolist() == BEFORE
        assert found[1, :, 0].tolist() == [2 * value for value in BEFORE]


def test_rows_of_an_episode_have_to_be_next_to_each_other() -> None:
    with pytest.raises(ValueError, match="the rows of an episode are not next to each other"):
        Recall(DATA.batch(), torch.tensor([0, 0, 1, 1, 0, 0, 2, 2]))
    with pytest.raises(ValueError, match=r"episode has shape \[3\], expected one number a row: 8"):
        Recall(DATA.batch(), torch.arange(3))


def test_rollouts_begin_with_what_was_before_their_rows() -> None:
    rows, simulator = torch.tensor([7, 2, 4]), world()
    replaying = simulator.replaying(DATA)
    memory = replaying.begin(DATA.obs[rows], rng(), rows)
    assert memory is not None
    assert memory.hidden is not None
    assert memory.hidden.tolist() == [[[1.75]], [[0.75]], [[0.0]]]
    part = simulator.replaying(DATA, torch.tensor([2, 0]))  # rows 5, 6, 7, 0, 1, 2, 3
    begun = part.begin(DATA.obs[:2], rng(), torch.tensor([2, 6]))
    assert begun is not None
    assert begun.hidden is not None
    assert begun.hidden.flatten().tolist() == [1.75, 1.25]
    fresh = simulator.begin(DATA.obs[rows], rng())
    assert fresh is not None
    assert torch.equal(fresh.hidden, torch.zeros(3, 1, 1))
    with pytest.raises(ValueError, match="nothing says what was before the rows that rollouts begin with"):
        simulator.begin(DATA.obs[rows], rng(), rows)


def test_learners_are_refused_rows_that_are_not_remembered() -> None:
    simulator = world()
    simulator.replaying(DATA).check_replays(DATA.obs)
    for one in (simulator, simulator.replaying(DATA, torch.tensor([0]))):
        with pytest.raises(ValueError, match="does not replay the 8 logged rows"):
            one.check_replays(DATA.obs)


@pytest.mark.parametrize("uncertainty", [None, doubt], ids=["own member", "all members"])
def test_a_step_uses_its_members_state_and_moves_that_of_all_on(uncertainty: object) -> None:
    simulator = world(members=3, uncertainty=uncertainty)
    simulator.calibrate(DATA.batch(), DATA.episode)
    simulator.recalibration.scale.fill_(1.0)
    rows = torch.arange(8).repeat(20)
    simulator = simulator.replaying(DATA)
    memory = simulator.begin(DATA.obs[rows], rng(), rows)
    step = simulator.step(DATA.obs[rows], DATA.action[rows], rng(), memory)
    before = torch.tensor(BEFORE)[rows]
    said = torch.stack([(e + 1) * before + 0.5 for e in range(3)])
    member = (said - step.next_obs[:, 0]).abs().argmin(0)
    torch.testing.assert_close(said.gather(0, member[None])[0], step.next_obs[:, 0])
    assert member[before > 0].unique().tolist() == [0, 1, 2]
    assert step.memory is not None
    assert step.memory.hidden is not None
    after = (before + 0.5 * DATA.obs[rows, 0]).unsqueeze(-1) * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(step.memory.hidden[..., 0], after)


def test_a_world_that_remembers_needs_its_memory() -> None:
    for memory in (None, Memory()):
        with pytest.raises(ValueError, match="Summing remembers: pass the memory of `begin`"):
            world().step(DATA.obs, DATA.action, rng(), memory)


def test_imagined_rows_go_on_from_the_log_and_begin_anew_with_its_state() -> None:
    rows, simulator = torch.tensor([2, 5]), world().replaying(DATA)
    policy = Rest(simulator.spec)
    dreamt = imagine(policy, simulator, DATA.obs[rows], 2, 0.0, rng(), rows)
    assert dreamt.next_obs[..., 0].tolist() == [[1.25, 0.5], [1.75, 2.0]]  # as it was logged, and beyond
    ended = world(termination=lambda obs, action, next_obs: next_obs[..., 0] > -9).replaying(DATA)
    again = imagine(policy, ended, DATA.obs[rows], 3, 0.0, rng(), rows)
    assert again.next_obs[..., 0].tolist() == [[1.25, 0.5]] * 3


def test_particles_remember_their_own_steps() -> None:
    data = sums([6, 5])
    followed = open_loop(world(data), data, torch.tensor([0, 2, 7]), 4, 3, rng())
    assert followed.error().max() < 1e-6
    assert followed.valid.sum().item() == 4 + 4 + 4
    apart = open_loop(world(data, members=2), data, torch.tensor([0]), 3, 1, rng())
    # after 1, 0.5: member 1 says 0 + 0.5, then 1 + 0.5, then 1 + 0.5 + 0.5 with its own 0.5
    assert apart.mean[:, 0, 0].tolist() == [0.5, (1.0 + 1.5) / 2, (1.25 + 2.0) / 2]


def test_calibration_and_card_know_what_was_before_each_row() -> None:
    simulator = world(std=1.0)
    simulator.calibrate(DATA.batch(), DATA.episode)
    assert simulator.recalibration.scale.tolist() == [1.0, 1.0]  # of errors that are all 0
    seen = look(simulator, DATA.batch(), rng(), DATA.episode)
    assert torch.equal(seen.forecast.mean, seen.target)
    for call in (lambda: simulator.calibrate(DATA.batch()), lambda: look(simulator, DATA.batch(), rng())):
        with pytest.raises(ValueError, match="Summing remembers, and the episode of each row is not given"):
            call()
    card = report_card(
        simulator, DATA, torch.arange(3), calibrated_on=torch.arange(0), seed=0, about={}, horizon=3
    ).numbers
    assert card["one_step"]["mean_absolute_error"] == [0.0, 0.0]


def test_policies_are_judged_from_the_beginnings_of_episodes() -> None:
    data = dataset([torch.ones(4, 1)] * 3, [torch.zeros(3, 1)] * 3, [torch.ones(3)] * 3)
    simulator = world(data)
    simulator.low.fill_(-99.0)
    simulator.high.fill_(99.0)
    starts = start_states(data, 3, 0)
    found = simulated_values(
        {"rest": Rest(simulator.spec)}, simulator.replaying(data), starts, gamma=1.0, level=0.9, seed=0
    )
    assert found["rest"].value == 1.0 + 0.5 + 1.0  # rewards are the observations 1, 0 + 0.5, 0.5 + 0.5


def test_an_episode_of_an_environment_begins_with_a_blank_memory(tmp_path: Path) -> None:
    simulator = world(starts=DATA.starts[:1], trusted_horizon=3)
    files.save(tmp_path / "simulator.ckpt", stored.state(simulator))
    envs = SimulatorVectorEnv(tmp_path / "simulator.ckpt", 2)
    envs.reset(seed=0)
    shown = [envs.step(torch.zeros(2, 1).numpy())[0][0, 0].item() for _ in range(8)]
    assert shown == [0.5, 1.0, 1.25, 1.0, 0.5, 1.0, 1.25, 1.0]  # a start, 1, after each three steps
    one = gym.make("mbrl:mbrl/Simulator-v0", simulator=simulator)
    one.reset(seed=0, options={"obs": torch.full((1,), 2.0).numpy()})
    assert [one.step(torch.zeros(1).numpy())[0].item() for _ in range(2)] == [0.5, 1.5]


def test_rows_of_a_batch_that_begin_anew_leave_the_others_their_memory() -> None:
    simulator = world(starts=DATA.starts[:1], termination=lambda obs, action, next_obs: next_obs[..., 0] > 2.2)
    envs = SimulatorVectorEnv(simulator, 2, horizon=99)
    envs.reset(seed=0, options={"obs": torch.tensor([[3.0], [1.0]]).numpy()})
    shown = [envs.step(torch.zeros(2, 1).numpy())[0][:, 0].tolist() for _ in range(6)]
    # 3, 0.5, 2, 2.25 ends; then a start, 1, while the other goes on: 1, 0.5, 1, 1.25, 1.75, 2.375
    assert shown == [[0.5, 0.5], [2.0, 1.0], [2.25, 1.25], [1.0, 1.75], [0.5, 2.375], [1.0, 1.0]]


def test_the_served_step_takes_and_returns_the_states(tmp_path: Path) -> None:
    simulator = world(members=2)
    answer = export.OneStep(simulator)(DATA.obs[:1], DATA.action[:1], torch.zeros(1, 2))
    assert answer["hidden"].tolist() == [[0.5, 1.0]]
    again = export.OneStep(simulator)(DATA.obs[1:2], DATA.action[1:2], answer["hidden"])
    assert again["next_obs"].tolist() == [[(1.0 + 1.5) / 2]]
    assert again["hidden"].tolist() == [[0.75, 1.5]]
    export.export_simulator(simulator, tmp_path)
    program = torch.export.load(tmp_path / "simulator.pt2").module()
    served = program(DATA.obs[:2], DATA.action[:2], torch.tensor([[0.0, 0.0], [0.5, 1.0]]))
    assert served["hidden"].tolist() == [[0.5, 1.0], [0.75, 1.5]]
    assert list(export.example_step(simulator)) == ["obs", "action", "hidden"]
