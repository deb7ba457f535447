"""The decision transformer: returns by hand, what sees what, and that the answer follows what is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mixed_logs import mixed_log, true_return

from mbrl.core import Batch, Spec, generator, returns_to_go, seeded
from mbrl.data.dataset import TransitionDataset
from mbrl.data.history import windowed
from mbrl.serving.export import export_policy, policy_from
from mbrl.testing import check_learner, check_policy, rows_for
from mbrl.training.policy import fit_policy
from policies import DecisionTransformer
from policies.decision_transformer import ReturnConditioned

Problem = Callable[[bool], tuple[Spec, Batch]]
SMALL: dict[str, Any] = {"width": 32, "layers": 2, "heads": 2}
KINDS = pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])


def window_spec(discrete: bool, history: int = 3) -> Spec:
    data = windowed(mixed_log(discrete), history)
    return data.spec(torch.arange(data.episodes))


def trained(data: TransitionDataset, updates: int, **arguments: Any) -> DecisionTransformer:
    episodes = torch.arange(data.episodes)
    rows = data.rows(episodes)
    with seeded(0, "test"):
        learner = DecisionTransformer(data.spec(episodes), **SMALL, lr=2e-3, **arguments)
    fit_policy(learner, data.batch(rows), ends=data.ends(rows), updates=updates, batch_size=64, real_ratio=1.0)
    return learner


@KINDS
def test_contract(discrete: bool, problem: Problem) -> None:
    assert not DecisionTransformer.imagines
    check_learner(lambda spec: DecisionTransformer(spec, width=8, layers=1), problem(discrete)[0])
    check_learner(lambda spec: DecisionTransformer(spec, width=8, layers=2, heads=2), window_spec(discrete))


def test_mixed_precision_reads_observations_in_full() -> None:
    policy = ReturnConditioned(window_spec(False), width=8, layers=1)
    obs, goal = torch.randn(5, policy.spec.obs_dim), torch.zeros(5)
    seen: list[torch.dtype] = []
    policy.embed_obs.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        found = policy.forecast(obs, goal)
    assert seen == [torch.float32]
    torch.testing.assert_close(found, policy.forecast(obs, goal), atol=0.02, rtol=0.02)


def test_returns_by_hand() -> None:
    """One that ends: 3, 2 + 3 / 2, 1 + 3.5 / 2. One that is cut, of mean 5: 10 beyond it, 6 + 10 / 2, 4 + 11 / 2."""
    found = returns_to_go(
        torch.tensor([1.0, 2.0, 3.0, 4.0, 6.0]),
        torch.tensor([False, False, True, False, False]),
        torch.tensor([False, False, True, False, True]),
        0.5,
    )
    assert found.tolist() == [2.75, 3.5, 3.0, 9.5, 11.0]


def test_a_cut_does_not_tell_how_much_time_was_left() -> None:
    ends = torch.arange(20) % 10 == 9
    found = returns_to_go(torch.full((20,), -2.0), torch.zeros(20, dtype=torch.bool), ends, 0.9)
    assert torch.allclose(found, torch.full((20,), -20.0))


def test_study_keeps_the_rows_and_remembers_the_quantile() -> None:
    data = mixed_log(False)
    real, ends = data.batch(), data.ends(torch.arange(len(data)))
    with seeded(0, "test"):
        learner = DecisionTransformer(data.spec(torch.arange(data.episodes)), **SMALL, discount=0.0, quantile=0.75)
    before = real.reward.clone()
    lessons = learner.study(real, ends)
    assert torch.equal(real.reward, before)
    assert torch.equal(lessons.reward, real.reward)  # of discount 0, the reward itself
    assert all(torch.equal(getattr(lessons, k), getattr(real, k)) for k in ("obs", "action", "next_obs", "terminated"))
    assert float(learner.actor.target) == pytest.approx(float(real.reward.quantile(0.75)), abs=0.01)
    assert float(learner.actor.return_mean) == pytest.approx(float(real.reward.mean()), rel=1e-5)
    assert float(learner.actor.return_std) == pytest.approx(float(real.reward.std(correction=0)), rel=1e-5)
    learner.study(real._replace(reward=torch.ones_like(before)), ends)
    assert float(learner.actor.return_std) == 1.0  # and not 0, by which returns would be divided


def test_the_sequence_is_in_the_order_of_time() -> None:
    """A window (o_t, o_t-1, o_t-2, a_t-1, a_t-2) becomes R, o_t-2, a_t-2, o_t-1, a_t-1, o_t."""
    spec = window_spec(False)
    with seeded(0, "test"):
        policy = ReturnConditioned(spec, **SMALL)
    obs = rows_for(spec, 4).obs
    with torch.no_grad():
        found = policy.tokens(obs, torch.tensor([0.0, 1.0, 2.0, 3.0])) - policy.place
        known = policy.standardise(obs)
        newest, before, oldest, last_action, first_action = known.split(1, -1)
        observed, acted = policy.embed_obs, policy.embed_action
        asked = policy.embed_return(torch.arange(4.0).unsqueeze(-1))
        wanted = [asked, observed(oldest), acted(first_action), observed(before), acted(last_action), observed(newest)]
    assert torch.allclose(found, torch.stack(wanted, 1), atol=1e-6)


def test_no_token_sees_a_later_one_and_the_last_sees_all() -> None:
    spec = window_spec(False)
    with seeded(0, "test"):
        policy = ReturnConditioned(spec, **SMALL)
    tokens = torch.randn(1, 6, 32, generator=generator(0, "tokens"))
    for k in range(6):
        changed = tokens.clone()
        changed[:, k] += torch.randn(32, generator=generator(1, "tokens"))
        with torch.no_grad():
            moved = [policy.transformer(x, mask=policy.mask, is_causal=True) for x in (tokens, changed)]
        where = ((moved[0] - moved[1]).abs().amax((0, 2)) > 1e-5).tolist()
        assert where == [place >= k for place in range(6)]


def test_it_does_what_it_is_asked_for(problem: Problem) -> None:
    """One-step episodes of uniform choices: asked for a return of 1 it chooses right, asked for 0 it chooses wrong."""
    spec, rows = problem(True)
    with seeded(0, "test"):
        learner = DecisionTransformer(spec, **SMALL, lr=2e-3, quantile=0.9)
    fit_policy(learner, rows, ends=rows.terminated, updates=150, batch_size=64, real_ratio=1.0)
    policy, right = learner.policy, rows.obs.argmax(-1)
    assert float(policy.target) == 1.0
    assert (policy(rows.obs) == right).float().mean() > 0.95
    policy.target.fill_(0.0)
    assert (policy(rows.obs) == right).float().mean() < 0.05


@KINDS
def test_a_mixed_log_is_left_behind(discrete: bool) -> None:
    """Imitation of it gets below -5; see `test_advantage_weighted`."""
    learner = trained(mixed_log(discrete), 200, discount=0.5, quantile=0.95)
    assert true_return(learner.policy) > -2.5


@KINDS
def test_the_policy_of_a_window_keeps_its_contract(discrete: bool) -> None:
    with seeded(0, "test"):
        check_policy(ReturnConditioned(window_spec(discrete), **SMALL))


def test_it_is_served_with_a_history(tmp_path: Path) -> None:
    spec = window_spec(False, 2)
    with seeded(0, "test"):
        policy = ReturnConditioned(spec, width=8, layers=1)
    policy.target.fill_(-1.0)
    export_policy(policy, tmp_path)
    obs = rows_for(spec, 9).obs
    assert torch.equal(policy_from(tmp_path / "policy.ckpt")(obs), policy(obs))


def test_log_prob_is_that_of_the_choices(problem: Problem) -> None:
    spec, rows = problem(True)
    with seeded(0, "test"):
        policy = DecisionTransformer(spec, **SMALL).policy
    with torch.no_grad():
        every = [policy.log_prob(rows.obs, choice.expand(len(rows.obs), -1)) for choice in torch.eye(2)]
        drawn = policy.act(rows.obs, generator(0, "draws"))[:, 1].mean()
    assert torch.allclose(torch.stack(every).exp().sum(0), torch.ones(len(rows.obs)), atol=1e-5)
    assert float(drawn) == pytest.approx(float(every[1].exp().mean()), abs=0.04)


def test_what_cannot_be_is_refused(problem: Problem) -> None:
    spec, rows = problem(False)
    with pytest.raises(ValueError, match="DecisionTransformer learns from whole episodes: give `ends`"):
        fit_policy(DecisionTransformer(spec, width=8), rows, updates=1, real_ratio=1.0)
    for discount in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"discount is {discount}, expected from 0 to below 1"):
            DecisionTransformer(spec, discount=discount)
    for quantile in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=rf"quantile is {quantile}, expected from 0 to 1"):
            DecisionTransformer(spec, quantile=quantile)
    for heads in (0, 3):
        with pytest.raises(ValueError, match=rf"heads is {heads} and width 8, expected heads that divide the width"):
            DecisionTransformer(spec, width=8, heads=heads)
