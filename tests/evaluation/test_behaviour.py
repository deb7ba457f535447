"""Behaviour models of loggers whose distribution is known, and the measure that ratios are taken in."""

import math

import numpy as np
import pytest
import torch
from evaluation_toys import Linear, Plant, wide_spec
from torch import Tensor

from mbrl.core import Policy
from mbrl.data.audit import audit
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.behaviour import Training, fit_behaviour
from mbrl.evaluation.densities import EDGE, Support
from mbrl.evaluation.estimates import Refused
from mbrl.evaluation.importance import importance_sampling
from mbrl.evaluation.ratios import Ratios, Weights
from mbrl.evaluation.trajectories import Trajectories

EPISODES, STEPS = 60, 20
QUICK = Training(hidden=(32,), components=3, steps=400, batch=256, lr=5e-3)


def observations(seed: int = 0) -> Tensor:
    return torch.randn(EPISODES * STEPS, 2, generator=torch.Generator().manual_seed(seed))


def log(obs: Tensor, action: Tensor, discrete: bool = False) -> TransitionDataset:
    rows, last = len(obs), torch.arange(len(obs)) % STEPS == STEPS - 1
    return TransitionDataset.create(
        "toy/logger-v0",
        obs=obs,
        action=action,
        reward=torch.zeros(rows),
        next_obs=obs,
        terminated=torch.zeros(rows, dtype=torch.bool),
        truncated=last,
        episode=torch.arange(rows) // STEPS,
        discrete=discrete,
        action_low=[0.0 if discrete else -1.0] * action.shape[1],
        action_high=[1.0] * action.shape[1],
    )


def clipped(seed: int = 0) -> tuple[TransitionDataset, Tensor]:
    """0.8 x_0 - 0.2 x_1 and noise of 0.4, clipped to [-1, 1]; and the mean before the clipping."""
    obs = observations(seed)
    mean = 0.8 * obs[:, :1] - 0.2 * obs[:, 1:]
    noise = 0.4 * torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed + 1))
    return log(obs, (mean + noise).clamp(-1, 1)), mean


EVERYONE = torch.arange(EPISODES)


@pytest.mark.parametrize("masses", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("mean", "std"), [(0.2, 0.3), (1.0, 0.5), (-0.9, 2.0)])
def test_what_is_limited_by_bounds_still_sums_to_one(masses, mean, std):
    low, high = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    support = Support(low, high, *(torch.tensor([mass]) for mass in masses))
    points = torch.linspace(-1, 1, 200_001, dtype=torch.float64).unsqueeze(-1)
    chance = support.log_normal(points, torch.full_like(points, mean), torch.full_like(points, std)).exp()
    on = torch.stack(support.on_mass(points)).any(0)
    inside = float((chance * ~on).sum() * (points[1] - points[0]))
    on_bounds = sum(float(chance[end]) for end, mass in zip((0, -1), masses, strict=True) if mass)
    assert inside + on_bounds == pytest.approx(1, abs=1e-3)
    if all(masses):
        assert float(chance[-1]) == pytest.approx(0.5 * math.erfc((1 - EDGE - mean) / std / math.sqrt(2)))


def test_the_bounds_on_which_a_log_gathers_are_found():
    action = torch.tensor([[-1.0, 0.3], [-0.9999, 0.2], [0.99, -0.1], [0.5, 0.0]])
    support = Support.of(action, torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0]))
    assert support.mass_low.tolist() == [True, False]
    assert support.mass_high.tolist() == [False, False]
    at_low, at_high = support.on_mass(action)
    assert at_low[:, 0].tolist() == [True, True, False, False]
    assert not at_high.any()


def test_a_clipped_gaussian_logger_is_found_with_its_masses():
    data, mean = clipped()
    model = fit_behaviour(data, EVERYONE, seed=0, training=QUICK)
    assert model.support.mass_low.all()
    assert model.support.mass_high.all()
    fresh, means = clipped(seed=5)
    true = model.support.log_normal(fresh.action, means, torch.full_like(means, 0.4)).sum(-1)
    said = model.log_prob(fresh.obs, fresh.action)
    assert float((true - said).mean()) < 0.06  # Kullback-Leibler divergence, in nats
    assert float(true.mean()) > -0.8
    told = model.diagnostics
    assert told["calibrated_nll"] <= told["held_nll"]
    assert told["freedom"] > 0.2
    assert not any(parameter.requires_grad for parameter in model.parameters())
    del mean


def test_a_logger_of_two_minds_is_a_mixture():
    obs = observations()
    rng = torch.Generator().manual_seed(2)
    side = torch.where(torch.rand(len(obs), 1, generator=rng) < 0.5, 0.5, -0.5)
    data = log(obs, (side + 0.05 * torch.randn(len(obs), 1, generator=rng)).clamp(-0.99, 0.99))
    model = fit_behaviour(data, EVERYONE, seed=0, training=QUICK)
    at = torch.tensor([[-0.5], [0.0], [0.5]])
    density = model.log_prob(torch.zeros(3, 2), at).exp()
    peak = 0.5 / (0.05 * math.sqrt(2 * math.pi))
    assert density[[0, 2]].tolist() == pytest.approx([peak, peak], rel=0.3)
    assert float(density[1]) < 0.05 * peak


def test_a_categorical_logger_has_its_probabilities():
    obs = observations()
    chance = torch.softmax(torch.stack([2 * obs[:, 0], 0 * obs[:, 0], -obs[:, 1]], -1), -1)
    chosen = torch.multinomial(chance, 1, generator=torch.Generator().manual_seed(3)).squeeze(-1)
    action = torch.nn.functional.one_hot(chosen, 3).float()
    model = fit_behaviour(log(obs, action, discrete=True), EVERYONE, seed=0, training=QUICK)
    every = torch.stack([model.log_prob(obs, choice.expand(len(obs), 3)) for choice in torch.eye(3)], -1).exp()
    assert torch.allclose(every.sum(-1), torch.ones(len(obs)), atol=1e-5)
    assert float((every - chance).abs().mean()) < 0.05


def test_a_fit_is_decided_by_its_seed_and_leaves_global_randomness_alone():
    data, _ = clipped()
    short = QUICK._replace(steps=20)
    state = torch.random.get_rng_state()
    one, same, other = (fit_behaviour(data, EVERYONE, seed=s, training=short) for s in (0, 0, 1))
    said = [model.log_prob(data.obs, data.action) for model in (one, same, other)]
    assert torch.equal(said[0], said[1])
    assert not torch.equal(said[0], said[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_log_that_cannot_tell_a_rule_from_chance_is_refused():
    """Each episode has states of its own, so no two of different episodes are alike."""
    obs = observations() + 100 * torch.arange(EPISODES).repeat_interleave(STEPS)[:, None]
    with pytest.raises(
        Refused, match=r"nobody can say whether .* its episodes have fewer than 10 states alike: log more"
    ):
        fit_behaviour(log(obs, obs[:, 1:].sin()), EVERYONE, seed=0, training=QUICK)


def test_a_rule_is_refused_in_the_words_of_the_audit():
    obs = observations()
    data = log(obs, torch.tanh(0.8 * obs[:, :1]))
    with pytest.raises(Refused, match=r"the logged action of toy/logger-v0 is a function of the observation"):
        fit_behaviour(data, EVERYONE, seed=0)
    assert "rule-based logger" in [finding.kind for finding in audit(data).findings]
    with pytest.raises(Refused, match=r"on 1 episode\(s\) of 1200 rows"):
        fit_behaviour(data, EVERYONE[:1], seed=0)


class Constant(Policy):
    """One choice, or one action, whatever is seen; with a density where it is asked for."""

    def __init__(self, spec: object, action: tuple[float, ...]) -> None:
        super().__init__(spec)
        self.action = torch.tensor(action)

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        return self.action.expand(len(obs), -1)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        return torch.zeros(len(obs))


def test_a_discrete_policy_takes_its_choice_and_never_another():
    obs = observations()
    action = torch.eye(2)[torch.arange(len(obs)) % 2]
    data = log(obs, action, discrete=True)
    model = fit_behaviour(data, EVERYONE, seed=0, training=QUICK._replace(steps=100))
    seen = Trajectories.of(data, EVERYONE)
    ratios = Ratios.of(Constant(data.spec(EVERYONE), (0.0, 1.0)), seen, model)
    taken = ratios.log[:, 1::2]
    assert (ratios.log[:, ::2] == -torch.inf).all()
    assert torch.allclose(taken, -model.log_prob(data.obs, action)[1::2].double().view(EPISODES, -1), atol=1e-5)
    assert ratios.about["propensities"] == "fitted"
    assert ratios.about["behaviour_model"]["family"] == "categorical"


def test_a_density_is_not_compared_with_a_mass_on_a_bound():
    data, _ = clipped()
    model = fit_behaviour(data, EVERYONE, seed=0, training=QUICK._replace(steps=100))
    policy, seen = Constant(data.spec(EVERYONE), (0.5,)), Trajectories.of(data, EVERYONE)
    with pytest.raises(Refused, match=r"% of the logged actions lie on a bound.*stochastic=False"):
        Ratios.of(policy, seen, model, stochastic=True)
    kernel = Ratios.of(policy, seen, model)
    at_top = seen.action[..., 0] >= 1
    width = kernel.about["bandwidth"][0]
    beyond = math.log(0.5 * math.erfc((1 - EDGE - 0.5) / width / math.sqrt(2)))
    logged = model.log_prob(data.obs, data.action).double().view(EPISODES, STEPS)
    assert torch.allclose((kernel.log + logged)[at_top], torch.tensor(beyond, dtype=torch.float64), atol=1e-4)


def test_values_from_a_fitted_behaviour_are_near_those_of_the_logged_propensities():
    plant, steps = Plant(), 3
    seen = plant.log(Linear(wide_spec(), gain=0.3, std=0.6), 1000, steps, seed=4)
    rows = 1000 * steps
    flat = [column.flatten(0, 1).float() for column in (seen.obs, seen.action, seen.next_obs)]
    last = torch.arange(rows) % steps == steps - 1
    data = TransitionDataset.create(
        "toy/plant-v0",
        obs=flat[0],
        action=flat[1],
        reward=seen.reward.flatten().float(),
        next_obs=flat[2],
        terminated=torch.zeros(rows, dtype=torch.bool),
        truncated=last,
        episode=torch.arange(rows) // steps,
        discrete=False,
        action_low=[-math.inf],
        action_high=[math.inf],
    )
    model = fit_behaviour(data, torch.arange(1000), seed=0, training=QUICK)
    policy = Linear(wide_spec(), gain=0.6, std=0.5)
    found = [
        importance_sampling("PDWIS", Weights.of(Ratios.of(policy, s, model, stochastic=True), s), s, 0.9, resamples=200)
        for s in (seen, seen._replace(propensity=None, obs=seen.obs.float(), action=seen.action.float()))
    ]
    truth = plant.value(0.6, 0.5, 0.9, steps)
    assert [e.diagnostics["propensities"] for e in found] == ["logged", "fitted"]
    assert all(e.low <= truth <= e.high for e in found)
    assert np.ptp([e.value for e in found]) < 0.15
