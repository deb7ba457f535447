"""Channels that keep their value exactly: read from the log, learned as a hurdle, drawn, foreseen and not doubted."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from dynamics_toys import Known, spec_of, unit_spec
from torch import Tensor

from dynamics import ProbabilisticEnsemble, RecurrentEnsemble
from dynamics.functional import mixed_moments
from dynamics.parts import Normaliser
from dynamics.uncertainty import max_aleatoric, mixture_std
from mbrl.core import Batch, Dynamics, Prediction, Spec, generator, seeded
from mbrl.data.dataset import TransitionDataset
from mbrl.data.source import Whole
from mbrl.simulator.calibration import residuals
from mbrl.simulator.holding import Stated, log_normal_cdf
from mbrl.simulator.recalibration import Recalibration
from mbrl.simulator.recall import in_parts
from mbrl.simulator.simulator import Simulator
from mbrl.testing import check_dynamics
from mbrl.training.dynamics import fit_dynamics

WIDE = torch.tensor(-math.inf), torch.tensor(math.inf)  # bounds where nothing is clipped
SMALL = {"members": 2, "elites": 2, "hidden": 16, "layers": 1, "reward_network": (16,)}


class Resting(Known):
    """`Known`, whose channel 0 keeps its value with the probability `chance`; a change is by e + 1, of std `std`."""

    def __init__(self, spec: Spec, members: int = 3, std: float = 0.0, chance: float = 0.75) -> None:
        super().__init__(spec, members, std)
        self.chance = chance

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        says = super().predict(obs, action, members, hidden)
        still = torch.zeros_like(says.obs)
        still[..., 0] = self.chance
        change, std = mixed_moments(says.obs - obs, says.obs_std, still)
        mixed = says._replace(obs=obs + change, obs_std=std, still=still, now=obs.expand_as(change))
        return mixed._replace(moved=says.obs, moved_std=says.obs_std)


def recipe(rows: int, seed: int) -> Batch:
    """Channel 0 is a level; channel 1 a set-point in steps of 1, that may change while the level is above 0 alone."""
    rng = generator(seed, "recipe")
    level, point = torch.randn(rows, generator=rng), torch.randint(3, (rows,), generator=rng).float()
    action, noise = torch.rand(rows, 1, generator=rng) * 2 - 1, torch.randn(rows, generator=rng)
    changes = (level > 0) & (torch.rand(rows, generator=rng) < 0.4)
    after = torch.where(changes, point + 1 + 0.1 * noise, point)
    obs, next_obs = torch.stack([level, point], 1), torch.stack([0.5 * level + action[:, 0], after], 1)
    return Batch(obs, action, level, next_obs, torch.zeros(rows, dtype=torch.bool))


def test_a_mixture_and_what_it_is_made_of() -> None:
    """Half a quarter of the time up by 2 with std 1: mean 0.5, variance 0.25 * (1 + 0.75 * 4) = 1."""
    still = torch.tensor([0.75, 0.0])
    mean, std = mixed_moments(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 0.5]), still)
    assert (mean.tolist(), std.tolist()) == ([0.5, 3.0], [1.0, 0.5])
    moved = torch.tensor([12.0, 13.0]), torch.tensor([1.0, 0.5])
    stated = Stated(mean + 10, std, still, torch.tensor([10.0, 10.0]), *moved)
    assert [moment.tolist() for moment in stated.changing(2.0)] == [[12.0, 13.0], [2.0, 1.0]]
    density = stated.log_density(torch.tensor([[10.0, 13.0], [12.0, 10.0]]), *WIDE)
    peak = -0.5 * math.log(2 * math.pi)
    assert density[0].tolist() == pytest.approx([math.log(0.75), peak + math.log(2.0)])
    assert density[1].tolist() == pytest.approx([peak + math.log(0.25), peak + math.log(2.0) - 18.0])


def test_a_probability_of_one_leaves_no_nan() -> None:
    one, nothing = torch.tensor([1.0]), torch.tensor([0.0])
    assert float(Stated(one, nothing, one, one, one, nothing).log_density(one, *WIDE)) == 0.0


def test_the_log_says_which_channels_hold() -> None:
    """Channel 0 moves, 1 rests in 6 rows of 8, 2 in 3 of them, 3 in all, 4 is exogenous."""
    count = 8
    obs = torch.zeros(count, 5)
    obs[:, 0] = torch.arange(count)
    next_obs = obs.clone()
    next_obs[:, 0] += 1
    next_obs[:2, 1] += 1
    next_obs[:5, 2] += 1
    next_obs[:2, 4] += 1
    log = TransitionDataset.create(
        "toy/held-v0",
        obs=obs,
        action=torch.zeros(count, 1),
        reward=torch.zeros(count),
        next_obs=next_obs,
        terminated=torch.zeros(count, dtype=torch.bool),
        truncated=torch.arange(count) % 4 == 3,
        episode=torch.arange(count) // 4,
        action_low=[-1.0],
        action_high=[1.0],
        discrete=False,
        exogenous=[4],
    )
    assert log.spec(torch.arange(2)).holding == (1,)
    batches = replace(log, obs=obs.index_fill(1, torch.tensor(3), 2.0), next_obs=next_obs.clone())
    batches.obs[:4, 3], batches.next_obs[:, 3] = 1.0, batches.obs[:, 3].index_fill(0, torch.arange(4), 1.0)
    assert batches.spec(torch.arange(2)).holding == (1, 3)  # a product that differs from episode to episode alone
    assert batches.spec(torch.tensor([1])).holding == (2,)
    assert log.spec(torch.tensor([1])).holding == (2,)  # in the second episode 1 never changes, and 2 in 3 rows of 4


def test_a_channel_that_is_not_predicted_holds_nothing() -> None:
    spec = replace(unit_spec(3), holding=(0, 1))
    assert replace(spec, predicted=(1, 2)).holding == (1,)


@pytest.mark.parametrize("uncertainty", [None, max_aleatoric])
def test_a_step_keeps_the_value_or_changes_it_but_does_not_tremble(uncertainty: Any) -> None:
    spec = replace(unit_spec(2), holding=(0,))
    world = Simulator(Resting(spec, std=0.3), spec, uncertainty)
    rows = torch.full((8000, 2), 5.0)
    world.calibrated = True
    step = world.step(rows, torch.zeros(8000, 1), generator(0, "test"))
    kept = step.next_obs[:, 0] == 5.0
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.02)
    assert not (step.next_obs[:, 1] == 5.0).any()
    moved = step.next_obs[~kept, 0] - 5
    assert float(moved.mean()) == pytest.approx(2.0, abs=0.06)  # the members say 1, 2 and 3
    assert float(moved.square().mean()) == pytest.approx(0.09 + 14 / 3, abs=0.2)
    particles, _, _ = world.propagate(rows.expand(3, -1, -1), torch.zeros(8000, 1), generator(1, "test"))
    assert float((particles[..., 0] == 5.0).float().mean()) == pytest.approx(0.75, abs=0.01)


def test_what_is_expected_and_what_is_doubted_is_that_it_rests() -> None:
    spec, rows = replace(unit_spec(2), holding=(0,)), torch.tensor([[5.0, 5.0]])
    often, seldom = (Simulator(Resting(spec, std=0.3, chance=chance), spec) for chance in (0.75, 0.25))
    with torch.no_grad():
        assert often.foresight()(rows, torch.zeros(1, 1)).next_obs.tolist() == [[5.0, 7.0]]
        assert seldom.foresight()(rows, torch.zeros(1, 1)).next_obs.tolist() == [[6.5, 7.0]]
    says = often.dynamics.predict(rows, torch.zeros(1, 1))
    plain = says._replace(still=None, now=None, moved=None, moved_std=None)
    assert float(max_aleatoric(says)) == pytest.approx(0.3 * 2**0.5)  # of channel 1 and the reward
    assert float(mixture_std(says)) < float(mixture_std(plain))


def test_rows_kept_and_changed_have_their_densities() -> None:
    spec = replace(unit_spec(1), holding=(0,))
    world = Simulator(Resting(spec, members=1, std=0.5), spec)
    nothing = torch.zeros(2, 1)
    rows = Batch(nothing + 5, nothing, nothing[:, 0] + 5, torch.tensor([[5.0], [6.0]]), nothing[:, 0] > 0)
    reward = -0.5 * math.log(2 * math.pi) + math.log(2.0)
    expected = [math.log(0.75) + reward, math.log(0.25) + 2 * reward]
    assert world.log_density(rows).tolist() == pytest.approx(expected, abs=1e-5)


def test_values_on_a_bound_have_the_probability_of_what_was_clipped_to_it() -> None:
    """The expected gradient of the log density of one's own samples is 0, clipped or not (RAMBO, proposition 2)."""
    mean, std = torch.tensor([-0.05, 1.2], requires_grad=True), torch.tensor([0.1, 0.4], requires_grad=True)
    low, high = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    drawn = mean + std * torch.randn(20_000, 2, generator=generator(0, "test"))
    value = drawn.detach().clamp(low, high)
    assert (value == low).float().mean(0).tolist() == pytest.approx([0.6915, 0.0013], abs=0.01)
    density = Stated(mean, std).log_density(value, low, high)
    on_low = density[value[:, 0] == 0, 0]
    assert on_low.tolist() == pytest.approx([math.log(0.69146)] * len(on_low), abs=1e-4)
    density.mean(0).sum().backward()
    assert mean.grad is not None
    assert std.grad is not None
    assert (mean.grad * std.detach()).tolist() == pytest.approx([0.0, 0.0], abs=0.02)  # in spreads, as the next
    assert (std.grad * std.detach()).tolist() == pytest.approx([0.0, 0.0], abs=0.02)


def test_what_rests_on_a_bound_may_have_been_clipped_to_it() -> None:
    """A valve that is shut, and a sensor that never moved: own samples have an expected score of 0."""
    logit, mean = torch.tensor([0.5, -9.0], requires_grad=True), torch.tensor([0.3, 1.0], requires_grad=True)
    std, now, rows = torch.tensor([1.0, 0.01], requires_grad=True), torch.tensor([0.0, 1.0]), 40_000
    low, high = torch.tensor([0.0, 1.0]), torch.tensor([5.0, 1.0])
    stated = Stated(mean, std, logit.sigmoid(), now, mean, std).each(lambda column: column.expand(rows, 2))
    with torch.no_grad():
        value = stated.sample(1.0, generator(0, "test")).clamp(low, high)
    shut = 0.62246 + 0.37754 * 0.38209
    assert float((value[:, 0] == 0).float().mean()) == pytest.approx(shut, abs=0.01)
    density = stated.log_density(value, low, high)
    assert density[value[:, 0] == 0, 0].unique().tolist() == pytest.approx([math.log(shut)], abs=1e-4)
    assert density[:, 1].unique().tolist() == pytest.approx([0.0], abs=1e-5)
    density.mean(0).sum().backward()
    for leaf in (logit, mean, std):
        assert leaf.grad is not None
        assert leaf.grad.tolist() == pytest.approx([0.0, 0.0], abs=0.01)


@pytest.mark.parametrize("z", [-300.0, -30.0, -1.0, 0.0, 1.0, 30.0])
def test_a_probability_far_out_has_a_logarithm_and_a_slope(z: float) -> None:
    at = torch.tensor(z, requires_grad=True)
    logarithm = log_normal_cdf(at)
    logarithm.backward()
    assert at.grad is not None
    exact = torch.special.log_ndtr(torch.tensor(z, dtype=torch.float64))
    assert float(logarithm.detach()) == pytest.approx(float(exact), rel=1e-5, abs=1e-7)
    slope = math.exp(-0.5 * z * z - float(exact)) / math.sqrt(2 * math.pi)
    assert float(at.grad) == pytest.approx(slope, rel=1e-3, abs=1e-7)


def test_the_scale_is_fitted_to_changes_alone() -> None:
    """A change is stated as 2 with std 0.5; the three that happen are 1 off, and rows that rest say nothing."""
    now, still = torch.zeros(1, 6, 1), torch.full((1, 6, 1), 0.75)
    mean, std = mixed_moments(now + 2, now + 0.5, still)
    target = torch.tensor([0.0, 3.0, 0.0, 1.0, 3.0, 0.0]).view(6, 1)
    fitted = Recalibration(1)
    stated = Stated(mean, std, still, now, now + 2, now + 0.5)
    fitted.fit(residuals(stated, target, torch.ones(1)), torch.ones(1), "scale")
    assert float(fitted.scale) == pytest.approx(2.0)
    assert stated.changing(fitted.scale)[1].flatten().tolist() == pytest.approx([1.0] * 6)


@pytest.mark.parametrize("model", [ProbabilisticEnsemble, RecurrentEnsemble])
def test_contract(model: Callable[..., Dynamics]) -> None:
    check_dynamics(lambda spec: model(spec, **SMALL), replace(spec_of(recipe(200, 0)), holding=(1,)))


def test_a_model_learns_when_a_set_point_rests_and_how_it_changes() -> None:
    log, held = recipe(4000, 0), recipe(500, 1)
    spec = replace(spec_of(log), holding=(1,))
    with seeded(0, "recipe"):
        model = ProbabilisticEnsemble(spec, **SMALL)
    fit_dynamics(model, Whole(log, torch.arange(4000) // 20), held, seed=0, lr=5e-3, max_epochs=15, patience=15)
    obs = torch.tensor([[-1.5, 1.0], [1.5, 1.0]])
    with torch.no_grad():
        says = model.predict(obs, torch.zeros(2, 1))
        assert says.still is not None
        asleep, awake = says.still[..., 1].mean(0).tolist()
        assert asleep > 0.98
        assert awake == pytest.approx(0.6, abs=0.1)
        assert not says.still[..., 0].any()
        mean, std = Stated.of(says).changing()
    assert float(mean[:, 1, 1].mean()) == pytest.approx(2.0, abs=0.1)
    assert float(std[:, 1, 1].mean()) == pytest.approx(0.1, abs=0.05)


def test_a_model_that_remembers_learns_it_too() -> None:
    log = recipe(2000, 0)
    with seeded(0, "recipe"):
        model = RecurrentEnsemble(replace(spec_of(log), holding=(1,)), **SMALL, state=4, memory=2)
    episode = torch.arange(2000) // 20
    fit_dynamics(model, Whole(log, episode), log, episode, seed=0, lr=5e-3, max_epochs=6, patience=6)
    with torch.no_grad():
        ((rows, hidden),) = in_parts(model, log, episode, 2000)
        still = model.predict(rows.obs, rows.action, None, hidden).still
    assert still is not None
    rests, asleep = log.obs[:, 1] == log.next_obs[:, 1], log.obs[:, 0] < -0.5
    assert float(still[:, asleep, 1].mean()) > 0.95
    assert float(still[:, ~asleep, 1].mean()) == pytest.approx(float(rests[~asleep].float().mean()), abs=0.06)


def test_a_channel_that_is_sure_to_rest_has_a_gradient() -> None:
    """Logits of 20 are a probability of 1 in float32, and nothing is left to take the root of."""
    logit = torch.full((3,), 20.0, requires_grad=True)
    mean, std = torch.full((3,), 2.0, requires_grad=True), torch.full((3,), 0.5, requires_grad=True)
    moments = mixed_moments(mean, std, logit.sigmoid())
    assert all(float(moment.detach().abs().max()) < 1e-12 for moment in moments)
    sum(moment.sum() for moment in moments).backward()
    assert all(bool(leaf.grad.isfinite().all()) for leaf in (logit, mean, std))


def test_the_density_of_a_set_point_far_from_zero_has_a_gradient() -> None:
    """A pressure of 101325 Pa that rests: rounding leaves nothing of its variance, or less than nothing."""
    still = torch.full((400, 1), 0.999)
    now = torch.full((400, 1), 101325.0) + torch.arange(400).unsqueeze(-1)
    change, std = torch.full_like(now, 5.0).requires_grad_(), torch.full_like(now, 1e-3).requires_grad_()
    moved, spread = mixed_moments(change, std, still)
    stated = Stated(now + moved, spread, still, now, now + change, std)
    value = torch.cat([now[:200], now[200:] + 5.0])
    density = stated.log_density(value, *WIDE)
    assert density[:200].unique().tolist() == pytest.approx([math.log(0.999)], abs=1e-6)
    density.sum().backward()
    assert change.grad is not None
    assert std.grad is not None
    assert bool(torch.cat([density, change.grad, std.grad]).isfinite().all())
    wide = torch.zeros_like(now).requires_grad_()
    rests = Stated(now, wide, torch.ones_like(now), now, now, wide)
    assert rests.log_density(now, *WIDE).tolist() == [[0.0]] * 400


def test_a_model_that_says_half_of_it_is_refused() -> None:
    spec = replace(unit_spec(1), holding=(0,))
    says = Resting(spec).predict(torch.zeros(2, 1), torch.zeros(2, 1))
    for name in "now", "moved", "moved_std":
        with pytest.raises(ValueError, match="has `still`, and not all of now, moved and moved_std"):
            Stated.of(says._replace(**{name: None}))


@pytest.mark.parametrize("rests", [0.99, 0.999])
def test_a_small_and_seldom_jump_of_a_large_value_is_told_exactly(rests: float) -> None:
    """Five units up from 101325, once in a thousand steps: less than a float32 of this size can tell of both cases."""
    spec = replace(unit_spec(1), holding=(0,))
    obs, jump = torch.tensor([[101325.0]]), torch.tensor([[[5.0, 0.0]]])
    still = torch.tensor([[[rests, 0.0]]])
    says = Normaliser(spec).prediction(obs, jump, torch.ones(1, 1, 2), still)
    mean, std = Stated.of(says).changing()
    assert (float(mean[..., 0]), float(std[..., 0])) == (101330.0, 1.0)
