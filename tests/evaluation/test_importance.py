"""Importance sampling against exact truth: every episode of a 2-state MDP, and a linear-quadratic plant."""

import json
import math

import pytest
import torch
from evaluation_toys import LOGGED, Linear, Plant, every_episode, sampled, truth, wide_spec

from mbrl.data.series import Pieces
from mbrl.evaluation.doubly_robust import doubly_robust, magic
from mbrl.evaluation.estimates import Refused
from mbrl.evaluation.importance import KINDS, importance_sampling, per_episode
from mbrl.evaluation.ratios import Ratios, Weights
from mbrl.evaluation.trajectories import Trajectories

GAMMAS = [0.0, 0.7, 1.0]
QUICK = {"resamples": 50, "floor": 0.0, "slack": math.inf}


def exact(ratios, seen):
    return Weights.of(ratios, seen, clip=None)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("kind", ["IS", "PDIS"])
def test_the_expectation_over_all_episodes_is_the_truth(kind, gamma):
    whole = every_episode()
    assert float(whole.chance.sum()) == pytest.approx(1, abs=1e-14)
    values = per_episode(kind, exact(whole.ratios(), whole.seen), whole.seen, gamma)
    assert float(whole.chance @ values) == pytest.approx(truth(gamma), abs=1e-12)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_each_estimator_is_its_definition_with_episodes_of_different_lengths(gamma):
    log = sampled(30, seed=1)
    seen, ratio = log.seen, log.ratios().log.exp()
    assert len(set(seen.lengths.tolist())) > 1
    w, g, pd, top, bottom = [], [], [], [0.0] * 3, [0.0] * 3
    for i in range(30):
        weight = [math.prod(ratio[i, : t + 1].tolist()) for t in range(3)]  # of an ended episode: what it was
        w.append(weight[2])
        g.append(sum(gamma**t * float(seen.reward[i, t]) for t in range(3)))
        pd.append(sum(gamma**t * weight[t] * float(seen.reward[i, t]) for t in range(3)))
        for t in range(3):
            top[t] += weight[t] * float(seen.reward[i, t])
            bottom[t] += weight[t]
    by_hand = {
        "IS": sum(a * b for a, b in zip(w, g, strict=True)) / 30,
        "WIS": sum(a * b for a, b in zip(w, g, strict=True)) / sum(w),
        "PDIS": sum(pd) / 30,
        "PDWIS": sum(gamma**t * top[t] / bottom[t] for t in range(3)),
    }
    weights = exact(log.ratios(), seen)
    for kind in KINDS:
        assert importance_sampling(kind, weights, seen, gamma, **QUICK).value == pytest.approx(by_hand[kind], abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_on_policy_every_estimator_is_the_mean_return(kind):
    log = sampled(40, seed=2)
    estimate = importance_sampling(kind, exact(log.ratios(target=LOGGED), log.seen), log.seen, 0.9, **QUICK)
    assert estimate.value == pytest.approx(float(log.seen.returns(0.9).mean()), abs=1e-12)
    assert estimate.effective_n == pytest.approx(40)
    assert estimate.diagnostics["largest_share"] == pytest.approx(1 / 40)


@pytest.mark.parametrize("kind", KINDS)
def test_what_must_not_change_a_value_does_not(kind):
    log = sampled(25, seed=3)

    def value(some, gamma=0.9, change=lambda r: r):
        seen = some.seen._replace(reward=change(some.seen.reward).where(some.seen.valid, 0.0))
        return importance_sampling(kind, exact(some.ratios(), seen), seen, gamma, **QUICK).value

    plain = value(log)
    assert value(log.take(torch.randperm(25, generator=torch.Generator().manual_seed(0)))) == pytest.approx(plain)
    assert value(log.take(torch.arange(25).repeat(2))) == pytest.approx(plain)
    assert value(log, change=lambda r: 3 * r) == pytest.approx(3 * plain)
    weights = exact(log.ratios(), log.seen)
    first = weights.log[:, 0].exp()
    normaliser = first.sum() if kind == "PDWIS" else weights.log[:, -1].exp().sum() if kind == "WIS" else 25
    numerator = (weights.log[:, -1].exp() if kind in ("IS", "WIS") else first) * log.seen.reward[:, 0]
    assert value(log, gamma=0.0) == pytest.approx(float(numerator.sum() / normaliser))  # the first step alone


@pytest.mark.parametrize("kind", ["WIS", "PDWIS"])
def test_a_reward_shift_shifts_self_normalised_values_of_equal_lengths(kind):
    log = sampled(60, seed=4)
    log = log.take(torch.nonzero(log.seen.lengths == 3).flatten())
    weights = exact(log.ratios(), log.seen)
    shifted = log.seen._replace(reward=log.seen.reward + 2)
    one, other = (importance_sampling(kind, weights, s, 0.5, **QUICK).value for s in (log.seen, shifted))
    assert other - one == pytest.approx(2 * (1 + 0.5 + 0.25), abs=1e-12)


def test_huge_weights_do_not_overflow_where_they_are_normalised():
    seen = sampled(20, seed=5).seen
    log = torch.linspace(-400, 400, 20, dtype=torch.float64).unsqueeze(-1).expand(20, 3)
    weights = exact(Ratios(log.contiguous(), {}), seen)
    for kind in ("WIS", "PDWIS"):
        assert math.isfinite(importance_sampling(kind, weights, seen, 1.0, **QUICK).value)
    wis = importance_sampling("WIS", weights, seen, 1.0, **QUICK)
    heaviest = int(weights.log[:, -1].argmax())  # it has all of the weight
    assert wis.value == pytest.approx(float(seen.returns(1.0)[heaviest]))
    assert wis.effective_n == pytest.approx(1)
    for kind in ("IS", "PDIS"):
        with pytest.raises(Refused, match=f"the weights of {kind} overflow"):
            importance_sampling(kind, weights, seen, 1.0, **QUICK)


def unpaid(episodes: int, steps: int) -> Trajectories:
    """Episodes of equal length in which nothing is paid."""
    wide, valid = torch.zeros(episodes, steps, 1), torch.ones(episodes, steps, dtype=torch.bool)
    return Trajectories(wide, wide, wide[..., 0], wide, ~valid, valid)


def test_effective_episodes_by_hand():
    log = torch.tensor([[0.0, math.log(3)], [0.0, -math.inf], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    seen = unpaid(4, 2)
    weights = Weights.of(Ratios(log, {}), seen, clip=None)  # weights 1 1 1 1, then 3 0 1 1
    assert weights.effective(1.0, per_decision=False) == pytest.approx((25 / 11, 3 / 5))
    harmonic = 2 / (1 / 4 + 11 / 25)
    assert weights.effective(1.0, per_decision=True) == pytest.approx((harmonic, (1 / 4 + 3 / 5) / 2))
    assert weights.effective(0.0, per_decision=True) == pytest.approx((4, 1 / 4))


def test_steps_are_clipped_and_counted_and_zero_stays_zero():
    seen = unpaid(4, 3)
    log = torch.tensor([[5.0, 0, 0], [-9, 0, 0], [-math.inf, 0, 0], [1, 1, 1]], dtype=torch.float64)
    weights = Weights.of(Ratios(log, {}), seen)
    assert weights.log[:, -1].tolist() == [2, -6, -math.inf, 3]
    assert weights.about["clipped_share"] == pytest.approx(2 / 12)
    assert weights.about["clip"] == [-6, 2]
    with pytest.raises(ValueError, match=r"clip is \(1, 2\)"):
        Weights.of(Ratios(log, {}), seen, clip=(1, 2))
    log[0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        Weights.of(Ratios(log, {}), seen)


@pytest.mark.parametrize("kind", KINDS)
def test_few_effective_episodes_refuse_with_the_reason(kind):
    log = sampled(30, seed=7)
    never = log.ratios(target=torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64))
    with pytest.raises(
        Refused, match=rf"{kind} of 30 episodes of up to 3 steps rests on .* expected at least 29: one has"
    ):
        importance_sampling(kind, exact(never, log.seen), log.seen, 1.0, floor=29)
    nothing = Ratios(torch.full((30, 3), -math.inf, dtype=torch.float64), {})
    with pytest.raises(Refused, match="no logged episode could be the policy's"):
        importance_sampling(kind, exact(nothing, log.seen), log.seen, 1.0)


def late() -> tuple[Ratios, Trajectories]:
    """Forty episodes, of which the policy could have made two at the last of three steps."""
    log = torch.zeros(40, 3, dtype=torch.float64)
    log[:, 2] = -math.inf
    log[:2, 2] = math.log(20)
    seen = unpaid(40, 3)
    return Ratios(log, {}), seen._replace(reward=torch.arange(40.0).unsqueeze(-1).expand(40, 3).contiguous())


def test_a_step_that_a_resample_may_have_no_episode_of_is_refused():
    ratios, seen = late()
    weights, none = exact(ratios, seen), (torch.zeros(40, 3), torch.zeros(40, 4))
    with pytest.raises(Refused, match="PDWIS has no interval: a step rests on so few episodes"):
        importance_sampling("PDWIS", weights, seen, 1.0, **QUICK)
    with pytest.raises(Refused, match="WDR has no interval"):
        doubly_robust("WDR", weights, seen, 1.0, *none, **QUICK)
    with pytest.raises(Refused, match="MAGIC has no interval"):
        magic(weights, seen, 1.0, *none, **QUICK)
    assert math.isfinite(importance_sampling("PDIS", weights, seen, 1.0, **QUICK).low)  # which divides by no weights


def test_a_long_horizon_is_refused_where_its_intervals_would_not_cover():
    """Uniform behaviour against 0.9 / 0.1 over 20 steps: 95 % intervals of 100 episodes cover 11 %."""
    rng, refused = torch.Generator().manual_seed(8), 0
    for _ in range(20):
        rare = torch.rand(100, 20, generator=rng) < 0.5
        log = torch.where(rare, math.log(0.2), math.log(1.8)).double()
        seen = unpaid(100, 20)._replace(reward=rare.float())
        try:
            importance_sampling("IS", exact(Ratios(log, {}), seen), seen, 1.0, resamples=50)
        except Refused:
            refused += 1
    assert refused == 20


def test_a_mean_weight_far_from_one_is_refused():
    """Light episodes alone, without the heavy ones that the policy would make: the effective number is n."""
    seen, light = unpaid(30, 2), torch.full((30, 2), math.log(0.5), dtype=torch.float64)
    weights = exact(Ratios(light, {}), seen)
    assert weights.effective(1.0, per_decision=False)[0] == pytest.approx(30)
    assert weights.imbalance(1.0, per_decision=False) == pytest.approx(0.75)
    assert weights.imbalance(1.0, per_decision=True) == pytest.approx((0.5 + 0.75) / 2)
    assert weights.imbalance(0.0, per_decision=True) == pytest.approx(0.5)
    for kind, apart in (("IS", "0.75"), ("WIS", "0.75"), ("PDIS", "0.625"), ("PDWIS", "0.625")):
        with pytest.raises(Refused, match=rf"the mean weight of {kind} is {apart} away from 1"):
            importance_sampling(kind, weights, seen, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_cover_the_truth_where_the_weights_carry_it(kind):
    hits = []
    for trial in range(60):
        log = sampled(150, seed=100 + trial)
        found = importance_sampling(kind, exact(log.ratios(), log.seen), log.seen, 0.9, level=0.9, resamples=200)
        hits.append(found.low <= truth(0.9) <= found.high)
    assert sum(hits) / len(hits) >= 0.9 - 3 * math.sqrt(0.09 / len(hits))


@pytest.mark.parametrize("interval", ["Student t", "percentile"])
@pytest.mark.parametrize("kind", ["IS", "PDIS"])
def test_intervals_of_means(kind, interval):
    log = sampled(200, seed=9)
    weights = exact(log.ratios(), log.seen)
    values = per_episode(kind, weights, log.seen, 0.9).numpy()
    found = importance_sampling(kind, weights, log.seen, 0.9, level=0.9, interval=interval, resamples=2000)
    half = 1.645 * values.std(ddof=1) / math.sqrt(200)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)
    below = importance_sampling(kind, weights, log.seen, 0.9, interval=interval, side="lower", resamples=2000)
    assert below.low == pytest.approx(found.low, abs=0.03)
    assert below.high == math.inf


def test_an_estimate_says_how_it_came_about():
    log = sampled(50, seed=10)
    found = importance_sampling("PDWIS", Weights.of(log.ratios(), log.seen), log.seen, 0.9, resamples=50)
    told = found.to_dict()
    assert json.loads(json.dumps(told)) == told
    said = told["diagnostics"]
    assert (said["gamma"], said["episodes"], said["steps"], said["floor"]) == (0.9, 50, 3, 10.0)
    assert said["ess"] == found.effective_n
    assert said["interval"] == "BCa"


def test_what_there_is_not_is_named():
    log = sampled(50, seed=11)
    weights = exact(log.ratios(), log.seen)
    with pytest.raises(ValueError, match="kind is 'MAGIC', expected one of IS, WIS, PDIS, PDWIS"):
        importance_sampling("MAGIC", weights, log.seen, 0.9)
    with pytest.raises(ValueError, match="Student t is for means over episodes"):
        importance_sampling("WIS", weights, log.seen, 0.9, interval="Student t")
    with pytest.raises(ValueError, match="interval is 'bca'"):
        importance_sampling("IS", weights, log.seen, 0.9, interval="bca")
    with pytest.raises(ValueError, match="gamma is -1"):
        importance_sampling("IS", weights, log.seen, -1)


PLANT, STEPS, BEHAVIOUR = Plant(), 3, {"gain": 0.3, "std": 0.6}


@pytest.fixture(scope="module")
def plant_log():
    return PLANT.log(Linear(wide_spec(), **BEHAVIOUR), 20_000, STEPS, seed=0)


@pytest.mark.parametrize("kind", ["IS", "PDIS"])
def test_a_gaussian_policy_on_a_linear_quadratic_plant_has_its_closed_form(plant_log, kind):
    policy = Linear(wide_spec(), gain=0.6, std=0.5)
    ratios = Ratios.of(policy, plant_log, stochastic=True)
    found = importance_sampling(kind, exact(ratios, plant_log), plant_log, 0.9, interval="Student t", level=0.9999)
    assert found.low <= PLANT.value(0.6, 0.5, 0.9, STEPS) <= found.high
    assert found.high - found.low < 0.35  # |value| is about 2
    assert found.diagnostics["stochastic"] is True
    assert found.diagnostics["propensities"] == "logged"


def test_the_kernel_form_is_the_value_of_the_policy_with_the_kernel_s_noise(plant_log):
    policy, width = Linear(wide_spec(), gain=0.6), 0.4
    ratios = Ratios.of(policy, plant_log, bandwidth=torch.tensor([width]))
    found = importance_sampling("PDIS", exact(ratios, plant_log), plant_log, 0.9, interval="Student t", level=0.9999)
    assert found.low <= PLANT.value(0.6, width, 0.9, STEPS) <= found.high
    assert found.high - found.low < 0.35
    assert found.diagnostics["bandwidth"] == pytest.approx([width])


def test_the_bandwidth_follows_silverman_s_rule(plant_log):
    policy = Linear(wide_spec(), gain=0.6)
    apart = (plant_log.action + 0.6 * plant_log.obs).std(correction=0)
    expected = 1.06 * float(apart) * 20_000 ** (-1 / 5)
    assert Ratios.of(policy, plant_log).about["bandwidth"] == pytest.approx([expected])
    with pytest.raises(ValueError, match=r"bandwidth is \[0\.5, 0\.5\], expected 1 positive"):
        Ratios.of(policy, plant_log, bandwidth=torch.tensor([0.5, 0.5]))


def test_without_propensities_or_a_density_there_are_no_weights(plant_log):
    policy = Linear(wide_spec(), gain=0.6)
    with pytest.raises(Refused, match=r"the log has no propensities: name their column as `propensity`"):
        Ratios.of(policy, plant_log._replace(propensity=None))
    with pytest.raises(Refused, match="Linear has no log_prob"):
        Ratios.of(policy, plant_log, stochastic=True)


@pytest.mark.parametrize("kind", [*KINDS, "DR", "WDR", "MAGIC"])
def test_weights_that_change_slowly_leave_fewer_independent_pieces(kind):
    """Pieces in the order of what they add to the estimate are a few stretches, in a random order they are many."""
    log = sampled(200, seed=3)
    ratios, (q, v) = log.ratios(), log.values(1.0)
    order = per_episode("IS", exact(ratios, log.seen), log.seen, 1.0).argsort()

    def worth(rows):
        pieces = Pieces(torch.zeros(200, dtype=torch.long), torch.arange(200))
        some = log.take(rows)
        seen, weights = some.seen._replace(pieces=pieces), exact(some.ratios(), some.seen)
        if kind in KINDS:
            return importance_sampling(kind, weights, seen, 1.0, **QUICK).effective_n
        values = (weights, seen, 1.0, 0.5 * q[rows], 0.5 * v[rows])
        return (
            magic(*values, **QUICK).effective_n
            if kind == "MAGIC"
            else doubly_robust(kind, *values, **QUICK).effective_n
        )

    assert worth(order) < 20
    assert worth(torch.randperm(200, generator=torch.Generator().manual_seed(0))) > 60


def test_magic_does_not_trust_a_model_for_want_of_pieces_to_test_it_by():
    log, pieces = sampled(4, seed=3), Pieces(torch.zeros(4, dtype=torch.long), torch.arange(4))
    seen, (q, v) = log.seen._replace(pieces=pieces), log.values(1.0)
    with pytest.raises(
        Refused, match=r"the 4 pieces of a series that was not interrupted are worth . independent ones"
    ):
        magic(exact(log.ratios(), seen), seen, 1.0, q, v, **QUICK)
    found = importance_sampling("WIS", exact(log.ratios(), seen), seen, 1.0, **QUICK)
    assert (found.low, found.high) == (-math.inf, math.inf)
