"""Exact solutions with one feature a state and choice, and marginalised importance sampling beside closed forms."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from value_toys import GAIN, Choose, Linear, lqr_log, lqr_value, tabular_log

from mbrl.core import generator
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.critics import Encoding
from mbrl.evaluation.estimates import Refused
from mbrl.evaluation.fitting import Rows
from mbrl.evaluation.linear import FourierFeatures, fixed_point
from mbrl.evaluation.marginal import marginal_value, weighted

GAMMA = 0.8
DATA = tabular_log(60, 7, seed=0)
EVERY = torch.arange(DATA.episodes)


def cells(obs: Tensor, action: Tensor) -> Tensor:
    """One-hot states and choices -> one of four cells."""
    return (obs.unsqueeze(-1) * action.unsqueeze(-2)).flatten(-2)


HERE, NEXT = cells(DATA.obs, DATA.action).double(), DATA.next_obs.double()


def model() -> tuple[Tensor, Tensor]:
    """Certainty-equivalent transitions [4 cells, 2 states], 0 where the world ended, and rewards [4]."""
    count = HERE.sum(0)
    lives = (~DATA.terminated).double().unsqueeze(-1)
    return HERE.T @ (NEXT * lives) / count.unsqueeze(-1), HERE.T @ DATA.reward.double() / count


def true_q(choice: Tensor) -> Tensor:
    """Values [4] in that model, of a policy with the probabilities `choice` [2, 2] of (state, choice)."""
    change, pays = model()
    onward = change @ torch.block_diag(choice[0:1], choice[1:2])
    return torch.linalg.solve(torch.eye(4).double() - GAMMA * onward, pays)


@pytest.mark.parametrize("choice", [[[1.0, 0.0], [1.0, 0.0]], [[0.3, 0.7], [0.9, 0.1]]])
def test_linear_fitted_q_with_a_feature_a_cell_is_the_certainty_equivalent_model(choice: list[list[float]]) -> None:
    chances = torch.tensor(choice).double()
    there = cells(NEXT, NEXT @ chances)
    discount = torch.where(DATA.terminated, 0.0, GAMMA)
    found = fixed_point(HERE, there, DATA.reward, discount)
    torch.testing.assert_close(found, true_q(chances), atol=1e-6, rtol=0)  # gamma travels as float32
    exact = GAMMA * (~DATA.terminated).double()
    torch.testing.assert_close(fixed_point(HERE, there, DATA.reward, exact), true_q(chances), atol=1e-12, rtol=0)


def test_the_model_under_the_log_s_own_choices_is_the_mean_logged_return() -> None:
    # whole episodes by (step, state, choice): nothing is shared between steps, so that model and log are one
    steps = torch.cat([torch.arange(int(n)) for n in DATA.lengths])
    tag = torch.nn.functional.one_hot(steps, 7).double()

    def timed(state: Tensor, action: Tensor, when: Tensor) -> Tensor:
        return (when.unsqueeze(-1) * cells(state, action).unsqueeze(-2)).flatten(-2)

    last = DATA.truncated | DATA.terminated
    here = timed(DATA.obs.double(), DATA.action.double(), tag)
    there = timed(NEXT, DATA.action.roll(-1, 0).double(), tag.roll(-1, 0))
    tried = here.sum(0) > 0
    discount = GAMMA * (~last).double()
    found = fixed_point(here[:, tried], there[:, tried], DATA.reward, discount)
    values = here[DATA.first][:, tried] @ found
    returns = torch.stack(
        [
            (GAMMA ** torch.arange(int(n)).double()) @ DATA.reward[DATA.episode == k].double()
            for k, n in enumerate(DATA.lengths)
        ]
    )
    assert float(values.mean()) == pytest.approx(float(returns.mean()), abs=1e-12)


def test_exact_occupancy_ratios_of_the_tabular_model() -> None:
    choice, encoding = 1, Encoding(DATA.spec(EVERY))
    raw = torch.tensor([[1.0, 0.0], [0.0, 1.0]])

    def features(x: Tensor) -> Tensor:  # a constant and three of four cells
        plain = x * encoding.std + encoding.mean
        return torch.cat([torch.ones_like(x[:, :1]), cells(plain[:, :2] @ raw, plain[:, 2:])[:, 1:]], -1)

    policy = Choose(DATA.spec(EVERY), choice)
    estimate = marginal_value(DATA, EVERY, policy, gamma=GAMMA, features=features, ridges=[0.0])
    always = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).double()
    value = (DATA.starts.double() @ (true_q(always).view(2, 2)[:, choice])).mean()
    assert estimate.value == pytest.approx(float(value), abs=1e-5)
    assert estimate.low < estimate.value < estimate.high
    change, _ = model()
    occupancy = torch.linalg.solve(
        torch.eye(2).double() - GAMMA * change.view(2, 2, 2)[:, choice].T, (1 - GAMMA) * DATA.starts.double().mean(0)
    )
    ratio = occupancy / HERE.mean(0).view(2, 2)[:, choice]
    assert estimate.diagnostics["largest_weight"] == pytest.approx(float(ratio.max()), rel=1e-4)
    weights = HERE.view(-1, 2, 2)[:, :, choice] @ ratio
    assert estimate.effective_n == pytest.approx(float(weights.sum() ** 2 / weights.square().sum()), rel=1e-3)


def test_the_linear_quadratic_world_within_its_interval() -> None:
    data = lqr_log(200, 15, seed=0)
    every = torch.arange(200)
    policy = Linear(data.spec(every), GAIN)
    estimate = marginal_value(data, every, policy, gamma=GAMMA, features=128, level=0.99)
    truth = float(lqr_value(data.starts, GAIN, GAMMA).mean())
    assert estimate.value == pytest.approx(truth, rel=0.1)
    assert estimate.low < truth < estimate.high
    assert 10 < estimate.effective_n < 3000
    assert estimate == marginal_value(data, every, policy, gamma=GAMMA, features=128, level=0.99)


def test_weights_are_normalised_and_a_log_that_is_not_visited_refuses() -> None:
    raw, reward = torch.tensor([3.0, -0.5, 1.5]).double(), torch.tensor([1.0, 4.0, 2.0]).double()
    half = torch.full((3,), 0.5).double()
    found = weighted(raw, reward, half, 0.5)
    assert found.value == pytest.approx((3 * 1 - 0.5 * 4 + 1.5 * 2) / 4 / 0.5)
    assert found.negative == pytest.approx(0.1)
    assert float(found.weights.mean()) == pytest.approx(1.0)
    ended = weighted(raw.abs(), reward, torch.tensor([0.5, 0.0, 0.5]).double(), 0.5)
    assert float((ended.weights * torch.tensor([0.5, 1.0, 0.5])).mean()) == pytest.approx(0.5)
    with pytest.raises(Refused, match="50% of the occupancy ratios' mass is negative, more than 30%"):
        weighted(torch.tensor([1.1, -1.1, 0.0]).double(), reward, half, 0.5)
    with pytest.raises(Refused, match="below the floor of 1e\\+06"):
        marginal_value(DATA, EVERY, None, gamma=GAMMA, features=8, floor=1e6)


def test_fourier_features_are_those_of_their_kernel() -> None:
    x = torch.randn(50, 2, generator=generator(0, "test"))
    features = FourierFeatures.drawn(x, 20_000, generator(0, "features"))
    widths = 1 / features.frequency.std(0, correction=0).mean()
    assert widths > 0
    found = features(x)[:, 1:] @ features(x)[:, 1:].T
    assert found.diagonal().tolist() == pytest.approx([1.0] * 50, abs=1e-3)
    assert torch.linalg.eigvalsh(found.double()).min() > -1e-3
    far = (x[0] - x).norm(dim=-1).argsort()
    assert found[0, far[1]] > found[0, far[-1]]


def test_bad_arguments_are_named() -> None:
    policy = Choose(DATA.spec(EVERY), 0)
    with pytest.raises(ValueError, match=r"gamma is 1, expected .* \[0, 1\)"):
        marginal_value(DATA, EVERY, policy, gamma=1)
    with pytest.raises(ValueError, match=r"1 episode\(s\) of toy/evaluation-v0: none can be held out"):
        marginal_value(DATA, EVERY[:1], policy, gamma=0.9)
    with pytest.raises(ValueError, match="ridges is"):
        marginal_value(DATA, EVERY, policy, gamma=0.9, ridges=[-1.0])
    with pytest.raises(ValueError, match="level is 95"):
        marginal_value(DATA, EVERY, policy, gamma=0.9, level=95)
    wrong = Choose(dataclasses.replace(policy.spec, discrete=False), 0)
    with pytest.raises(ValueError, match="discrete is False, and the log's True"):
        marginal_value(DATA, EVERY, wrong, gamma=0.9)
    rows = Rows.of(DATA, EVERY, policy, Encoding(policy.spec), 0.9)
    assert len(rows.reward) == len(DATA)


def test_a_log_of_single_cut_rows_is_refused() -> None:
    count = torch.arange(len(DATA))
    single = dataclasses.replace(DATA, episode=count, truncated=count >= 0, terminated=count < 0)
    with pytest.raises(Refused, match=r"no row of .* is followed by another, so nothing says where actions lead"):
        marginal_value(single, count, None, gamma=0.9)


@pytest.mark.parametrize("lengths", [(1, 60), (1, 60, 60), (1, 1, 60, 60, 60)])
def test_a_log_of_which_most_episodes_are_single_cut_rows_is_refused_or_valued(
    lengths: tuple[int, ...], toy_data: Callable[..., TransitionDataset]
) -> None:
    """A part of the groups may hold no row that is followed by another, whatever the draw of the groups."""
    log = toy_data(lengths)
    log = dataclasses.replace(log, truncated=log.truncated | log.terminated, terminated=log.terminated & False)
    for seed in range(4):
        with pytest.raises(Refused, match=r"too many episodes were cut after a single step|effective|negative"):
            marginal_value(log, torch.arange(len(lengths)), None, gamma=0.9, features=32, floor=1e6, seed=seed)
