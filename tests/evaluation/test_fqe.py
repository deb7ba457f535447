"""Fitted Q evaluation against closed forms, numbers worked by hand, and what it promises of its intervals."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from scipy import stats
from value_toys import GAIN, LOGGING_GAIN, Choose, Linear, log, lqr_log, lqr_value

from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.critics import Encoding
from mbrl.evaluation.estimates import Refused
from mbrl.evaluation.fitting import Folds, Rows, reachable
from mbrl.evaluation.fqe import FittedQ, differences, fit_q, pooled
from mbrl.evaluation.trajectories import Trajectories

SMALL: dict[str, Any] = {
    "members": 4,
    "folds": 2,
    "hidden": (32, 32),
    "updates": 500,
    "batch": 128,
    "lr": 3e-3,
    "tau": 0.05,
}
LQR = lqr_log(150, 20, seed=0)
EVERY = torch.arange(LQR.episodes)
SPEC = LQR.spec(EVERY)


def fitted(gain: list[list[float]] | None, data: TransitionDataset = LQR, **settings: Any) -> FittedQ:
    policy = None if gain is None else Linear(SPEC, gain)
    return fit_q(data, torch.arange(data.episodes), policy, gamma=0.8, **{**SMALL, **settings})


@pytest.fixture(scope="module")
def better() -> FittedQ:
    torch.set_num_threads(1)
    return fitted(GAIN)


@pytest.fixture(scope="module")
def logged() -> FittedQ:
    torch.set_num_threads(1)
    return fitted(LOGGING_GAIN)


def paying(*ends: str) -> TransitionDataset:
    """Two steps an episode, 1 each, that are cut or end the world."""
    rows = 2 * len(ends)
    second = torch.arange(rows) % 2 == 1
    terminal = second & torch.tensor([end == "terminal" for end in ends]).repeat_interleave(2)
    obs, action = (torch.arange(rows) % 2).float().unsqueeze(-1), torch.linspace(-1, 1, rows).unsqueeze(-1)
    return log(obs, action, torch.ones(rows), obs + 1, terminal, second & ~terminal, discrete=False)


def test_a_terminal_is_never_bootstrapped_and_a_truncation_is() -> None:
    data = paying("terminal", "cut")
    policy = Linear(data.spec(torch.arange(2)), [[0.5]])
    encoding = Encoding(policy.spec)
    rows = Rows.of(data, torch.arange(2), policy, encoding, 0.9)
    assert rows.discount.tolist() == pytest.approx([0.9, 0, 0.9, 0.9])
    assert torch.equal(rows.there, encoding(data.next_obs, data.next_obs / 2))


def test_the_log_s_own_next_action_is_the_logged_one_and_a_cut_row_has_none() -> None:
    data = paying("terminal", "cut", "cut")
    encoding = Encoding(data.spec(torch.arange(3)))
    rows = Rows.of(data, torch.tensor([0, 2]), None, encoding, 0.9)
    assert rows.discount.tolist() == pytest.approx([0.9, 0, 0.9])
    assert rows.owner.tolist() == [0, 0, 1]
    assert torch.equal(rows.there[0], encoding(data.next_obs, data.action.roll(-1, 0))[0])
    assert torch.equal(rows.there[2], encoding(data.next_obs, data.action.roll(-1, 0))[4])


@pytest.mark.parametrize(("end", "value"), [("cut", 10.0), ("terminal", 1.9)])
def test_a_world_that_pays_1_a_step(end: str, value: float) -> None:
    data = paying(*[end] * 6)
    settings = {**SMALL, "members": 2, "hidden": (8,), "updates": 300, "batch": 16, "lr": 0.02}
    fit = fit_q(data, torch.arange(6), None, gamma=0.9, **settings)
    assert fit.estimate().value == pytest.approx(value, abs=0.1)


def test_what_rewards_allow_by_hand() -> None:
    rewards = torch.tensor([-1.0, 2.0])
    assert reachable(rewards, 0.9, False, None) == pytest.approx((-10.0, 20.0))
    assert reachable(rewards + 2, 0.9, False, None) == pytest.approx((10.0, 40.0))
    assert reachable(rewards + 2, 0.9, True, None) == pytest.approx((1.0, 40.0))
    assert reachable(rewards, 0.5, True, 2) == pytest.approx((-1.5, 3.0))
    assert reachable(rewards - 3, 0.5, False, 2) == pytest.approx((-6.0, -1.0))
    assert reachable(rewards, 0.0, False, None) == pytest.approx((-1.0, 2.0))


def test_no_member_sees_its_own_fold_and_each_has_a_full_bootstrap_sample() -> None:
    folds = Folds.drawn(torch.arange(11), 6, 3, seed=0)
    assert torch.bincount(folds.episode).tolist() == [4, 4, 3]
    assert torch.bincount(folds.member).tolist() == [2, 2, 2]
    held = folds.held(torch.arange(11))
    assert not folds.counts[held].any()
    assert folds.counts.sum(1).tolist() == [7, 7, 8] * 2
    assert (folds.counts > 1).any()  # with replacement


def test_the_value_of_a_linear_policy_is_near_the_closed_form(better: FittedQ) -> None:
    truth, estimate = lqr_value(LQR.starts, GAIN, 0.8), better.estimate(0.95)
    assert estimate.value == pytest.approx(float(truth.mean()), rel=0.08)
    assert estimate.low < float(truth.mean()) < estimate.high
    assert torch.corrcoef(torch.stack([better.starts.mean(1).double(), truth]))[0, 1] > 0.95
    assert estimate.effective_n == LQR.episodes
    assert estimate.diagnostics["gamma"] == 0.8
    assert estimate.diagnostics["value"] == "discounted"
    assert abs(estimate.diagnostics["held_td_mean"]) < 0.1
    assert estimate.diagnostics["clipped"] < 0.02


def test_a_paired_difference_is_narrower_and_has_the_right_sign(better: FittedQ, logged: FittedQ) -> None:
    gap = differences(better, logged, 0.95)
    truth = float((lqr_value(LQR.starts, GAIN, 0.8) - lqr_value(LQR.starts, LOGGING_GAIN, 0.8)).mean())
    apart = [fit.estimate(0.95) for fit in (better, logged)]
    assert truth > 0
    assert gap.low < truth < gap.high
    assert gap.high - gap.low < 0.7 * sum(e.high - e.low for e in apart)
    assert differences(better, better)[:3] == (0, 0, 0)


def test_the_log_s_own_value_is_that_of_its_actions() -> None:
    quiet = lqr_log(150, 20, seed=1, exploring=0.02)  # so that the logged actions are nearly those of the gain
    own = fitted(None, quiet)
    truth = float(lqr_value(quiet.starts, LOGGING_GAIN, 0.8).mean())
    assert own.estimate().value == pytest.approx(truth, rel=0.1)
    with pytest.raises(ValueError, match="the log's own policy, which is known by its logged actions only"):
        own.v(quiet.starts)


def test_cross_fitted_values_are_those_of_members_that_never_saw_the_episode(better: FittedQ) -> None:
    chosen = torch.tensor([7, 3, 90])
    paths = Trajectories.of(LQR, chosen)
    part = better.cross_fitted(paths, chosen)
    assert (part.q.shape, part.v.shape) == ((3, 20), (3, 21))
    for place, episode in enumerate(chosen.tolist()):
        unseen = better.folds.counts[:, episode] == 0
        own = better.folds.member == better.folds.episode[episode]
        assert unseen[own].all()
        row = paths.obs[place], paths.action[place]
        torch.testing.assert_close(part.q[place], better.q(*row)[own].mean(0), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(part.v[place, :-1], better.v(row[0])[own].mean(0), atol=1e-4, rtol=1e-4)
        last = better.v(paths.next_obs[place, -1:])[own].mean()
        torch.testing.assert_close(part.v[place, -1], last, atol=1e-4, rtol=1e-4)


def test_ended_worlds_and_missing_rows_are_worth_0_and_strangers_are_valued_by_all() -> None:
    data = paying(*["terminal", "cut"] * 4)
    few = torch.arange(6)
    policy = Linear(data.spec(few), [[0.5]])
    fit = fit_q(data, few, policy, gamma=0.5, members=2, folds=2, hidden=(4,), updates=1, batch=4)
    paths = Trajectories.of(data, torch.tensor([0, 7]))
    short = paths._replace(valid=torch.tensor([[True, True], [True, False]]))
    part = fit.cross_fitted(short, torch.tensor([0, 7]))
    assert part.q[1, 1] == part.v[0, 2] == part.v[1, 2] == 0
    torch.testing.assert_close(part.v[1, 1], fit.v(paths.next_obs[1, :1]).mean())
    torch.testing.assert_close(part.v[1, 0], fit.v(paths.obs[1, :1]).mean())


def test_equal_seeds_give_equal_fits_whatever_ran_before() -> None:
    one = fitted(GAIN, updates=20)
    torch.rand(3)
    assert torch.equal(one.starts, fitted(GAIN, updates=20).starts)
    assert not torch.equal(one.starts, fitted(GAIN, updates=20, seed=1).starts)


def test_choices_are_read_as_one_hot_rows() -> None:
    # one state; choice 0 pays 0 and choice 1 pays 1: always the second is worth 1 / (1 - 0.5)
    rows = 40
    action = torch.eye(2)[torch.arange(rows) % 2]
    obs, never = torch.zeros(rows, 1), torch.zeros(rows, dtype=torch.bool)
    data = log(obs, action, action[:, 1].clone(), obs, never, torch.arange(rows) % 4 == 3, discrete=True)
    every = torch.arange(10)
    settings = {**SMALL, "hidden": (16,), "updates": 300, "lr": 0.01}
    values = [fit_q(data, every, Choose(data.spec(every), c), gamma=0.5, **settings).estimate().value for c in (0, 1)]
    assert values == pytest.approx([0.0, 2.0], abs=0.05)


def test_the_pooled_interval_by_hand() -> None:
    values = torch.tensor([[0.0, 2.0], [4.0, 6.0], [2.0, 4.0]])  # members 2 and 4; start states 1, 5, 3
    between, within = 2.0 * 1.5, 4.0 / 3
    freedom = (between + within) ** 2 / (between**2 / 1 + within**2 / 2)
    half = stats.t.ppf(0.95, freedom) * math.sqrt(between + within)
    assert pooled(values, 0.9, {})[:4] == pytest.approx((3.0, 3 - half, 3 + half, 3))


def test_the_pooled_interval_covers_as_often_as_it_says() -> None:
    rng = torch.Generator().manual_seed(0)
    hits, wide, narrow = [], [], []
    for _ in range(600):
        log_noise, starts = torch.randn((), generator=rng), 3 * torch.randn(40, 1, generator=rng)
        members = 0.5 * log_noise + 0.5 * torch.randn(1, 8, generator=rng)  # each a resample of the same log
        estimate = pooled(starts + members, 0.9, {})
        hits.append(estimate.low <= 0 <= estimate.high)
        wide.append(estimate.high - estimate.low)
        more = starts.repeat(4, 1) + members / 2
        narrow.append(pooled(more, 0.9, {}).high - pooled(more, 0.9, {}).low)
    assert 0.87 <= sum(hits) / 600 <= 0.95
    assert 0.45 < sum(narrow) / sum(wide) < 0.55  # as n^-1/2


def test_intervals_of_short_logs_hold_the_value_of_the_population() -> None:
    corners = lqr_value(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), GAIN, 0.8)
    truth = float(corners[0] + corners[1] - corners[2])  # the mean over standard normal starts
    fits = [fitted(GAIN, lqr_log(100, 15, seed=seed), hidden=(16, 16), updates=400) for seed in range(5)]
    hits = [fit.estimate(0.9).low <= truth <= fit.estimate(0.9).high for fit in fits]
    assert sum(hits) >= 4


def test_a_fit_that_diverged_is_refused(better: FittedQ, logged: FittedQ) -> None:
    bad = dataclasses.replace(better, diagnostics={**better.diagnostics, "diverged": True})
    for ask in (bad.estimate, lambda: differences(bad, logged), lambda: differences(logged, bad)):
        with pytest.raises(Refused, match="fitted Q evaluation diverged"):
            ask()
    with pytest.raises(Refused, match="nothing but another log helps; else lower gamma"):
        bad.cross_fitted(Trajectories.of(LQR, EVERY[:2]), EVERY[:2])


def test_a_policy_that_answers_nan_is_refused() -> None:
    fit = fitted([[math.nan, 0.0]], updates=20)
    assert fit.diagnostics["clipped"] == 1
    with pytest.raises(Refused, match="100% of the late targets are not finite or outside"):
        fit.estimate()


@pytest.mark.parametrize("gamma", [-0.1, 1.0, 1.5, math.nan])
def test_gamma_must_discount(gamma: float) -> None:
    with pytest.raises(ValueError, match=r"gamma is .* within \[0, 1\)"):
        fit_q(LQR, EVERY, None, gamma=gamma)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"1 episode\(s\) of toy/evaluation-v0 cannot be divided into 2 folds"):
        fit_q(LQR, EVERY[:1], None, gamma=0.9, **SMALL)
    for changed in ({"folds": 1}, {"members": 3}, {"members": 0}):
        with pytest.raises(ValueError, match=r"members is . and folds ., expected"):
            fitted(GAIN, **changed)
    for name in ("updates", "batch", "horizon"):
        with pytest.raises(ValueError, match=f"{name} is 0, expected at least 1"):
            fitted(GAIN, **{name: 0})
    wrong = dataclasses.replace(SPEC, discrete=True)
    with pytest.raises(ValueError, match="discrete is True, and the log's False"):
        fit_q(LQR, EVERY, Linear(wrong, GAIN), gamma=0.9)


def test_fits_that_are_not_alike_have_no_paired_difference() -> None:
    one = fitted(GAIN, updates=2)
    with pytest.raises(ValueError, match="the two fits differ in seed: 0 and 1"):
        differences(one, fitted(GAIN, updates=2, seed=1))
    with pytest.raises(ValueError, match="the two fits differ in horizon: None and 30"):
        differences(one, fitted(GAIN, updates=2, horizon=30))
    other = fit_q(LQR, EVERY[:100], Linear(SPEC, GAIN), gamma=0.8, **{**SMALL, "updates": 2})
    with pytest.raises(ValueError, match="differ in episodes; fit both alike"):
        differences(one, other)


def test_episodes_of_one_step_that_were_cut_leave_nothing_to_fit_the_log_on() -> None:
    rows = torch.arange(8.0).unsqueeze(-1)
    cut = torch.ones(8, dtype=torch.bool)
    data = log(rows, rows / 8, torch.ones(8), rows + 1, ~cut, cut, discrete=False)
    with pytest.raises(Refused, match="a critic would be fitted on no row: too many episodes are one step long"):
        fit_q(data, torch.arange(8), None, gamma=0.9, **SMALL)
