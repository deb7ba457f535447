"""Doubly robust estimators against exact truth, their identities with importance sampling, and MAGIC by hand."""

import math

import numpy as np
import pytest
import torch
from evaluation_toys import HORIZON, LOGGED, TARGET, every_episode, sampled, truth
from scipy import optimize

from mbrl.evaluation.doubly_robust import doubly_robust, doubly_robust_values, magic, simplex_minimum
from mbrl.evaluation.estimates import Refused
from mbrl.evaluation.importance import importance_sampling
from mbrl.evaluation.ratios import Ratios, Weights
from mbrl.evaluation.trajectories import Trajectories, to_the_end

GAMMAS = [0.0, 0.7, 1.0]
QUICK = {"resamples": 50, "floor": 0.0, "slack": math.inf}


def exact(log, **policies):
    return Weights.of(log.ratios(**policies), log.seen, clip=None)


def wrong(values):
    """Values that are biased wherever they are not 0 by definition."""
    q, v = values
    return torch.where(q != 0, 2 * q + 1, q), torch.where(v != 0, v - 3, v)


def nothing(log):
    return torch.zeros(len(log.chance), HORIZON), torch.zeros(len(log.chance), HORIZON + 1)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("change", [lambda log, qv: qv, lambda log, qv: nothing(log)], ids=["exact", "zero"])
def test_the_expectation_over_all_episodes_is_the_truth(gamma, change):
    whole = every_episode()
    q, v = change(whole, whole.values(gamma))
    values = doubly_robust_values(exact(whole), whole.seen, gamma, q, v)
    assert float(whole.chance @ values) == pytest.approx(truth(gamma), abs=1e-12)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_expectation_is_the_truth_for_a_biased_model_as_well(gamma):
    """Any Q will do with exact ratios, as long as V is its mean under the policy."""
    whole = every_episode()
    rng = torch.Generator().manual_seed(0)
    table = torch.randn(HORIZON, 2, 2, generator=rng, dtype=torch.float64)
    mean = torch.cat([(TARGET * table).sum(-1), torch.zeros(1, 2, dtype=torch.float64)])
    steps, alive = torch.arange(HORIZON), whole.seen.valid
    q = table[steps, whole.state, whole.action].where(alive, 0.0)
    v = torch.cat([mean[steps, whole.state].where(alive, 0.0), torch.zeros(len(q), 1)], 1)
    values = doubly_robust_values(exact(whole), whole.seen, gamma, q, v)
    assert float(whole.chance @ values) == pytest.approx(truth(gamma), abs=1e-12)


def test_an_exact_model_needs_no_exact_ratios():
    whole = every_episode()
    q, v = whole.values(0.9)
    off = Ratios(whole.ratios().log * 0.3, {})
    values = doubly_robust_values(Weights.of(off, whole.seen, clip=None), whole.seen, 0.9, q, v)
    assert float(whole.chance @ values) == pytest.approx(truth(0.9), abs=1e-12)


def test_an_exact_model_lowers_the_variance_and_no_model_leaves_that_of_pdis():
    whole = every_episode()

    def variance(q, v):
        values = doubly_robust_values(exact(whole), whole.seen, 0.9, q, v)
        return float(whole.chance @ (values - truth(0.9)).square())

    with_model, without = variance(*whole.values(0.9)), variance(*nothing(whole))
    assert with_model < 0.9 * without


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(("kind", "plain"), [("DR", "PDIS"), ("WDR", "PDWIS")])
def test_without_a_model_it_is_importance_sampling_per_decision(kind, plain, gamma):
    log = sampled(40, seed=1)
    assert len(set(log.seen.lengths.tolist())) > 1
    found = doubly_robust(kind, exact(log), log.seen, gamma, *nothing(log), **QUICK)
    expected = importance_sampling(plain, exact(log), log.seen, gamma, **QUICK)
    assert found.value == pytest.approx(expected.value, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert found.effective_n == expected.effective_n


def test_on_policy_both_are_the_same():
    log = sampled(40, seed=2)
    weights = exact(log, target=LOGGED)
    values = [doubly_robust(k, weights, log.seen, 0.9, *wrong(log.values(0.9)), **QUICK).value for k in ("DR", "WDR")]
    assert values[0] == pytest.approx(values[1], abs=1e-12)


@pytest.mark.parametrize("kind", ["DR", "WDR"])
def test_what_must_not_change_a_value_does_not(kind):
    log = sampled(25, seed=3)

    def value(some, scale=1.0):
        q, v = wrong(some.values(0.9))
        seen = some.seen._replace(reward=scale * some.seen.reward)
        return doubly_robust(kind, exact(some), seen, 0.9, scale * q, scale * v, **QUICK).value

    plain = value(log)
    assert value(log.take(torch.randperm(25, generator=torch.Generator().manual_seed(0)))) == pytest.approx(plain)
    assert value(log.take(torch.arange(25).repeat(2))) == pytest.approx(plain)
    assert value(log, scale=-4.0) == pytest.approx(-4 * plain)


def cut_log():
    """Two episodes of a world that pays 1 for ever: one cut after 2 steps, one after 1."""
    valid = torch.tensor([[True, True], [True, False]])
    reward = valid.double()
    wide = torch.zeros(2, 2, 1)
    return Trajectories(wide, wide, reward, wide, torch.zeros_like(valid), valid)


@pytest.mark.parametrize("kind", ["DR", "WDR"])
def test_the_value_after_a_cut_stands_for_what_was_not_logged(kind):
    seen, forever = cut_log(), 1 / (1 - 0.5)
    q = torch.tensor([[forever, forever], [forever, 0.0]])
    v = to_the_end(q, torch.tensor([forever, forever]), seen)
    assert v.tolist() == [[forever, forever, forever], [forever, forever, 0.0]]
    weights = Weights.of(Ratios(torch.zeros(2, 2, dtype=torch.float64), {}), seen)
    assert doubly_robust(kind, weights, seen, 0.5, q, v, **QUICK).value == pytest.approx(forever)
    empty = torch.zeros_like(q), torch.zeros_like(v)
    assert doubly_robust(kind, weights, seen, 0.5, *empty, **QUICK).value == pytest.approx((1.5 + 1) / 2)


def test_values_of_a_world_that_has_ended_are_refused_by_place():
    log = sampled(20, seed=4)
    q, v = log.values(0.9)
    early = int(log.seen.lengths.argmin())
    length = int(log.seen.lengths[early])
    weights = exact(log)
    for name, place in (("q", (early, length)), ("v", (early, length))):
        bad = {"q": q.clone(), "v": v.clone()}
        bad[name][place] = 7.0
        with pytest.raises(ValueError, match=rf"{name} is 7 at step {length} of episode {early}, expected 0"):
            doubly_robust("DR", weights, log.seen, 0.9, bad["q"], bad["v"])
    with pytest.raises(ValueError, match=r"v has shape \[20, 3\], expected finite numbers \[20, 4\]"):
        doubly_robust("WDR", weights, log.seen, 0.9, q, v[:, :-1])
    with pytest.raises(ValueError, match="q has shape"):
        magic(weights, log.seen, 0.9, q * math.nan, v)
    with pytest.raises(ValueError, match="kind is 'MDR', expected DR or WDR"):
        doubly_robust("MDR", weights, log.seen, 0.9, q, v)
    with pytest.raises(ValueError, match="switches is 1"):
        magic(weights, log.seen, 0.9, q, v, switches=1)
    with pytest.raises(Refused, match=r"MAGIC of 20 episodes .* expected at least 21"):
        magic(weights, log.seen, 0.9, q, v, floor=21)


def test_the_blend_by_hand():
    """Omega = diag(1, 2), b = (1, 1): A = [[2, 1], [1, 3]], A x ~ 1 at x = (2, 1) / 3.

    With b = (0, 1), A = diag(1, 3) and x = (3, 1) / 4; squares of b broadcast over the rows, in place of b b', would
    give [[1, 1], [0, 3]], x' A x = x_0 + 3 x_1^2 on the simplex, and (5, 1) / 6.
    """
    assert simplex_minimum(np.diag([1.0, 2.0]), np.array([1.0, 1.0])) == pytest.approx([2 / 3, 1 / 3], abs=1e-12)
    assert simplex_minimum(np.diag([1.0, 2.0]), np.array([0.0, 1.0])) == pytest.approx([3 / 4, 1 / 4], abs=1e-12)
    assert simplex_minimum(np.diag([1.0, 4.0]), np.array([2.0, 0.5])) == pytest.approx(
        [3.25 / 7.25, 4 / 7.25], abs=1e-12
    )
    on_the_edge = np.array([[1.0, 2.0], [2.0, 9.0]])  # the second is worse wherever it is mixed in
    assert simplex_minimum(on_the_edge, np.zeros(2)) == pytest.approx([1, 0], abs=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_blend_is_the_least_of_the_simplex(scale):
    rng = np.random.default_rng(5)
    for _ in range(20):
        root, bias = rng.standard_normal((7, 5)), np.abs(rng.standard_normal(5))
        omega = root.T @ root
        found = simplex_minimum(scale * omega, math.sqrt(scale) * bias)
        error = omega + np.outer(bias, bias)
        other = optimize.minimize(
            lambda x, a=error: x @ a @ x,
            np.full(5, 0.2),
            jac=lambda x, a=error: 2 * a @ x,
            bounds=[(0, 1)] * 5,
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
            tol=1e-12,
        )
        assert found.sum() == pytest.approx(1)
        assert found.min() >= 0
        assert found @ error @ found <= other.fun * (1 + 1e-9)


def test_magic_goes_from_the_model_to_wdr():
    log = sampled(200, seed=6)
    q, v = log.values(0.9)
    found = magic(exact(log), log.seen, 0.9, q, v, resamples=100, switches=10)
    said = found.diagnostics
    assert said["switches"] == [0, 1, 2, 3]
    assert said["partial_values"][0] == pytest.approx(float(v[:, 0].mean()), abs=1e-12)  # the model alone
    wdr = doubly_robust("WDR", exact(log), log.seen, 0.9, q, v, resamples=100)
    assert said["partial_values"][-1] == pytest.approx(wdr.value, abs=1e-12)
    assert found.value == pytest.approx(float(np.dot(said["blend"], said["partial_values"])), abs=1e-12)
    assert said["blend"][0] > 0.9  # an exact model varies with the start alone
    assert found.low < found.value < found.high


def test_magic_is_no_surer_than_wdr_that_it_trusts_the_model_by():
    """A model that is off by less than WDR can tell is followed, and stays as it is in every resample."""
    log = sampled(100, seed=8)
    q, v = log.values(0.9)
    near = torch.where(q != 0, q + 0.02, q), torch.where(v != 0, v + 0.02, v)
    for asked in ({}, {"side": "lower"}):
        settings = {"level": 0.8, "resamples": 100, "seed": 0, **asked}
        found = magic(exact(log), log.seen, 0.9, *near, **settings)
        wdr = doubly_robust("WDR", exact(log), log.seen, 0.9, *near, interval="percentile", **settings)
        assert found.diagnostics["blend"][0] > 0.9
        assert found.value - found.low >= (wdr.value - wdr.low) * (1 - 1e-9)
        assert found.high - found.value >= (wdr.high - wdr.value) * (1 - 1e-9)


def test_magic_leaves_a_model_that_the_episodes_contradict():
    log = sampled(400, seed=7)
    q, v = log.values(0.9)
    off = torch.where(q != 0, q + 20, q), torch.where(v != 0, v + 20, v)
    found = magic(exact(log), log.seen, 0.9, *off, resamples=100)
    assert found.diagnostics["partial_values"][0] == pytest.approx(float(v[:, 0].mean()) + 20, abs=1e-9)
    assert found.low < truth(0.9) < found.high
    assert found.diagnostics["blend"][-1] > 0.9
    assert sum(found.diagnostics["blend"]) == pytest.approx(1)
