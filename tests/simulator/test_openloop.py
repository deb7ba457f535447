"""Following logged actions: what is followed how far, whose band it is, and where trust ends."""

from dataclasses import replace

import pytest
import torch
from dynamics_toys import Known, unit_spec

from mbrl.core import generator
from mbrl.data.dataset import TransitionDataset
from mbrl.simulator.openloop import OpenLoop, open_loop, start_rows, trusted_steps
from mbrl.simulator.simulator import Simulator


def counting(lengths: tuple[int, ...] = (6, 3)) -> TransitionDataset:
    """obs counts the steps of each episode from 0; the reward is obs. Member 0 of `Known` is exactly right."""
    obs = torch.cat([torch.arange(float(n)) for n in lengths]).view(-1, 1)
    last = torch.cat([torch.arange(n) == n - 1 for n in lengths])
    return TransitionDataset.create(
        "toy/count-v0",
        obs=obs,
        action=torch.zeros_like(obs),
        reward=obs[:, 0],
        next_obs=obs + 1,
        terminated=torch.zeros_like(last),
        truncated=last,
        episode=torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)),
        discrete=False,
        action_low=[-1.0],
        action_high=[1.0],
    )


def test_the_right_model_is_followed_without_error_to_the_end_of_each_episode() -> None:
    followed = open_loop(
        Simulator(Known(unit_spec(), 1), unit_spec()), counting(), torch.tensor([0, 4, 7]), 6, 2, rng()
    )
    assert followed.valid.T.long().tolist() == [[1] * 6, [1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]
    assert followed.starts().tolist() == [3, 3, 1, 1, 1, 1]
    assert followed.truth[:, 0].tolist() == [[k + 1, k] for k in range(6)]
    assert followed.error().eq(0).all()
    assert followed.coverage().eq(1).all()


def test_each_particle_keeps_its_member() -> None:
    followed = open_loop(Simulator(Known(unit_spec(), 2), unit_spec()), counting(), torch.tensor([0]), 3, 5, rng())
    # members gain 1 and 2 a step: after k steps they are at k and 2 k, and nowhere between
    assert followed.mean[:, 0, 0].tolist() == [1.5, 3.0, 4.5]
    assert followed.low[:, 0, 0].tolist() == [1, 2, 3]
    assert followed.high[:, 0, 0].tolist() == [2, 4, 6]
    assert followed.error()[:, 0].tolist() == [0.5, 1.0, 1.5]
    assert followed.coverage()[:, 0].tolist() == [1, 1, 1]


def test_noise_makes_a_band_of_its_own_width() -> None:
    simulator = Simulator(Known(unit_spec(), 1, std=2.0), unit_spec())
    followed = open_loop(simulator, counting((40,)), torch.arange(30), 4, 2000, rng())
    width = (followed.high - followed.low)[:, :, 0].mean(1)
    expected = 2 * 1.6449 * 2.0 * torch.arange(1, 5).sqrt()
    torch.testing.assert_close(width, expected, rtol=0.03, atol=0)


@pytest.mark.parametrize("particles", [19, 50])
def test_a_band_of_few_particles_holds_what_it_promises(particles: int) -> None:
    simulator = Simulator(Known(unit_spec(), 1, std=1.0), unit_spec())
    data, noise = counting((3000,)), torch.randn(3000, 1, generator=generator(1, "test"))
    world = replace(data, next_obs=data.next_obs + noise)
    followed = open_loop(simulator, world, torch.arange(3000), 1, particles, rng())
    assert followed.coverage()[0, 0].item() == pytest.approx(0.9, abs=0.015)


def rng() -> torch.Generator:
    return generator(0, "test")


def test_starts_have_rows_enough_ahead_and_are_of_the_episodes() -> None:
    data = counting((6, 3, 8))
    assert start_rows(data, torch.tensor([0, 1]), 99, 3, rng()).tolist() == [0, 1, 2, 3, 6]
    assert len(start_rows(data, torch.tensor([2]), 4, 2, rng())) == 4
    assert start_rows(data, torch.tensor([2]), 99, 1, rng()).tolist() == list(range(9, 17))


@pytest.mark.parametrize(
    ("coverage", "share", "steps"),
    [
        ([0.9, 0.9, 0.84, 0.9], [0.1, 0.2, 0.2, 0.2], 2),
        ([0.85, 0.85, 0.85, 0.85], [0.1, 0.5, 0.51, 0.2], 2),
        ([1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], 4),
        ([0.5, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], 0),
        ([1.0, 1.0, 1.0, 1.0], [0.0, float("nan"), 0.0, 0.0], 1),
    ],
)
def test_trust_ends_at_the_first_step_that_fails(coverage: list[float], share: list[float], steps: int) -> None:
    covered, wrong = torch.tensor(coverage).view(-1, 1), torch.tensor(share).view(-1, 1)
    alike = torch.zeros_like(covered, dtype=torch.bool)
    found, chance = trusted_steps(covered, wrong, alike, 0.85, 0.5)
    assert (found.tolist(), chance.tolist()) == ([steps], [False])


@pytest.mark.parametrize(
    ("coverage", "share", "alike", "steps"),
    [
        ([0.9, 0.9, 0.9, 0.9], [0.9, 1.0, 1.2, 1.0], [True, True, True, False], 3),  # nobody foresees the first step
        ([0.9, 0.8, 0.9, 0.9], [0.9, 1.0, 1.2, 1.0], [True, True, True, True], 1),
        ([0.98, 0.98, 0.98, 0.98], [0.9, 0.9, 0.9, 0.9], [False, True, True, True], 0),  # rare events that it has lost
        ([0.9, 0.9, 0.9, 0.9], [0.4, 0.6, 0.6, 0.6], [True, True, True, True], 1),  # here it could have been foreseen
    ],
)
def test_of_chance_no_error_is_asked_but_that_it_is_as_the_log_s(
    coverage: list[float], share: list[float], alike: list[bool], steps: int
) -> None:
    columns = (torch.tensor(column).view(-1, 1) for column in (coverage, share, alike))
    found, chance = trusted_steps(*columns, 0.85, 0.5)
    assert (found.tolist(), chance.tolist()) == ([steps], [bool(alike[0]) and share[0] > 0.5])


def test_how_alike_simulated_and_logged_values_are() -> None:
    """Logged 0, 2, 4 (mean 2, std sqrt(8/3)); of the second step only the first two starts, 1 and 1."""
    truth = torch.tensor([[0.0, 2.0, 4.0], [1.0, 1.0, 9.0]]).unsqueeze(-1)
    mean = torch.tensor([[3.0, 3.0, 3.0], [1.0, 1.0, 9.0]]).unsqueeze(-1)
    std = torch.tensor([[2.0, 2.0, 2.0], [0.0, 0.0, 9.0]]).unsqueeze(-1)
    valid = torch.tensor([[True, True, True], [True, True, False]])
    ratio, bias = OpenLoop(torch.arange(3), valid, truth, mean, mean, mean, std).likeness()
    assert ratio.flatten().tolist() == pytest.approx([2 / (8 / 3) ** 0.5, 1.0])
    assert bias.flatten().tolist() == pytest.approx([1 / (8 / 3) ** 0.5, 0.0])
