"""Channels that jump to one value time and again: read from the log, learned as a hurdle, drawn, not followed."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from dynamics_toys import spec_of, unit_spec
from torch import Tensor

from dynamics import ProbabilisticEnsemble, RecurrentEnsemble
from dynamics.functional import mixed_moments
from mbrl.core import Batch, Dynamics, Spec, generator, seeded
from mbrl.data import exact
from mbrl.data.dataset import TransitionDataset
from mbrl.data.source import Whole
from mbrl.simulator.simulator import Simulator
from mbrl.testing import check_dynamics
from mbrl.training.dynamics import fit_dynamics
from mbrl.training.lookahead import Lookahead

SMALL = {"members": 2, "elites": 2, "hidden": 16, "layers": 1, "reward_network": (16,)}
COUNT = 4000


def since(rows: int, seed: int) -> Batch:
    """Channel 0: days since an order, which comes with 0.3 + 0.2 of the action; channel 1 is a level."""
    rng = generator(seed, "since")
    days, level = torch.randint(6, (rows,), generator=rng).float(), torch.randn(rows, generator=rng)
    action = torch.rand(rows, 1, generator=rng) * 2 - 1
    order = torch.rand(rows, generator=rng) < 0.3 + 0.2 * action[:, 0]
    obs = torch.stack([days, level], 1)
    next_obs = torch.stack([torch.where(order, 0.0, days + 1), 0.5 * level + action[:, 0]], 1)
    return Batch(obs, action, level, next_obs, torch.zeros(rows, dtype=torch.bool))


def resetting(log: Batch) -> Spec:
    return replace(spec_of(log), resets=(0,), reset_values=(0.0,))


def columns() -> dict[str, tuple[Tensor, Tensor]]:
    """By what they are: a channel now and next, in `COUNT` rows."""
    rng = generator(0, "columns")
    noise, draw = torch.randn(COUNT, generator=rng), torch.rand(COUNT, generator=rng)
    days = since(COUNT, 0)
    stock = 50 + 50 * draw
    walk = (10 * draw).round()
    speed = 6 * noise
    mode = (draw < 0.2).float()
    return {
        "days": (days.obs[:, 0], days.next_obs[:, 0]),
        "stock": (stock, torch.where(stock < 60, 100.0, stock - 3 + noise)),
        "meal": (torch.where(draw < 0.1, 60 + 5 * noise, 0.0), torch.where(noise > 1.3, 60 + 5 * draw, 0.0)),
        "rounded": (walk, (walk + noise).round()),
        "saturated": (speed, (speed + 3 * noise.roll(1)).clamp(-10, 10)),
        "set-point": (mode, torch.where(noise > 1.5, 1 - mode, mode)),
        "noise": (speed, speed + noise.roll(1)),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("days", 0.0), ("stock", 100.0), ("meal", 0.0)]
    + [(name, None) for name in ("rounded", "saturated", "set-point", "noise")],
)
def test_the_log_says_which_channels_begin_anew(name: str, value: float | None) -> None:
    now, after = columns()[name]
    assert exact.resets(now[:, None], after[:, None], [0]) == ({} if value is None else {0: value})


def test_few_rows_say_nothing() -> None:
    now, after = (column[:200, None] for column in columns()["days"])
    assert exact.resets(now, after, [0]) == {}


def test_a_spec_has_what_begins_anew_in_the_place_of_what_holds() -> None:
    """Where all rest is at the value of the reset, the value is what is learned; a flag that rests at both holds."""
    rests, flag = columns()["meal"], columns()["set-point"]
    assert float((rests[0] == rests[1]).float().mean()) > exact.MOSTLY
    obs, next_obs = (torch.stack(pair, 1) for pair in zip(rests, flag, strict=True))
    last = torch.arange(COUNT) % 10 == 9
    log = TransitionDataset.create(
        "toy/resets-v0",
        obs=obs,
        action=torch.zeros(COUNT, 1),
        reward=torch.zeros(COUNT),
        next_obs=next_obs,
        terminated=torch.zeros(COUNT, dtype=torch.bool),
        truncated=last,
        episode=torch.arange(COUNT) // 10,
        action_low=[-1.0],
        action_high=[1.0],
        discrete=False,
    )
    for episodes in torch.arange(400), torch.arange(7):
        spec = log.spec(episodes)
        assert (spec.resets, spec.reset_values, spec.holding, spec.resting) == ((0,), (0.0,), (1,), [0, 1])
    assert Spec.from_dict(spec.to_dict()) == spec
    assert replace(spec, predicted=(1,)).resets == ()
    assert replace(spec, predicted=(1,)).reset_values == ()
    with pytest.raises(ValueError, match=r"reset_values is \[\], expected one for each of \[0\]"):
        replace(spec, reset_values=())


def test_a_mixture_of_a_jump_and_a_change() -> None:
    """A quarter of the time to 0 from 8, else up by 4 with std 1: mean 9, variance 0.75 * (1 + 0.25 * 144) = 27.75."""
    still = torch.tensor([0.25])
    mean, std = mixed_moments(torch.tensor([4.0]), torch.tensor([1.0]), still, torch.tensor([-8.0]))
    assert float(mean) + 8 == pytest.approx(9.0)
    assert float(std.square()) == pytest.approx(27.75)


@pytest.mark.parametrize("model", [ProbabilisticEnsemble, RecurrentEnsemble])
def test_contract(model: Callable[..., Dynamics]) -> None:
    check_dynamics(lambda spec: model(spec, **SMALL), resetting(since(200, 0)))


def test_a_model_learns_when_a_channel_begins_anew_and_a_simulated_one_is_never_between() -> None:
    log, held = since(COUNT, 0), since(500, 1)
    with seeded(0, "since"):
        model = ProbabilisticEnsemble(resetting(log), **SMALL)
    fit_dynamics(model, Whole(log, torch.arange(COUNT) // 20), held, seed=0, lr=5e-3, max_epochs=15, patience=15)
    obs, action = torch.tensor([[4.0, 0.0]]).expand(COUNT, -1), torch.tensor([[1.0], [-1.0]]).repeat(COUNT // 2, 1)
    world = Simulator(model, resetting(log))
    world.calibrate(held)
    after = world.step(obs, action, generator(0, "draws")).next_obs[:, 0]
    begun = after == 0
    assert float(begun[::2].float().mean()) == pytest.approx(0.5, abs=0.06)
    assert float(begun[1::2].float().mean()) == pytest.approx(0.1, abs=0.06)
    assert float((after[~begun] - 5).abs().max()) < 0.5


def test_a_fit_that_looks_ahead_follows_it_as_it_was_logged() -> None:
    spec = replace(unit_spec(2), resets=(0,), reset_values=(0.0,))
    assert Lookahead(spec, 3).followed.tolist() == [1]
