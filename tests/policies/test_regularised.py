"""TD3+BC, ReBRAC, EDAC and CQL: the idea of each by hand, and what they make of a log that is not worth imitating."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from dynamics_toys import unit_spec
from mixed_logs import STEPS, mixed, true_return

from mbrl.bench import hopper_sized
from mbrl.core import Batch, Learner, Spec, generator, seeded
from mbrl.testing import check_learner
from mbrl.training.policy import fit_policy
from policies import COMBO, CQL, EDAC, SAC, TD3BC, ReBRAC
from policies.functional import gradient_similarity, relative_value, smoothed_action

Problem = Callable[[bool], tuple[Spec, Batch]]
FAST: dict[str, Any] = {"hidden": (32, 32), "actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.05}
OURS: dict[Any, dict[str, Any]] = {
    TD3BC: {},
    ReBRAC: {},
    EDAC: {"critics": 4, "temperature_lr": 3e-3, "entropy_target": -4.0},
    CQL: {"samples": 3, "conservatism": 0.1, "temperature_lr": 3e-3, "entropy_target": -4.0},
}
EVERY = pytest.mark.parametrize("cls", OURS)
BOX_ONLY = pytest.mark.parametrize("cls", [TD3BC, ReBRAC, EDAC])
SPEC, ROWS = hopper_sized(64, 0)
WIDE = replace(SPEC, action_low=(0.0, -3.0, -1.0), action_high=(4.0, 1.0, 9.0))


def made(cls: Any, spec: Spec = WIDE, **arguments: Any) -> Any:
    with seeded(0, "test"):
        return cls(spec, **{"hidden": (16,), **arguments})


@EVERY
def test_contract(cls: Any, problem: Problem) -> None:
    assert cls.imagines == (cls is EDAC)
    check_learner(lambda spec: cls(spec, hidden=(16,)), problem(False)[0])


def test_contract_of_choices(problem: Problem) -> None:
    check_learner(lambda spec: CQL(spec, hidden=(16,)), problem(True)[0])


@BOX_ONLY
def test_choices_are_refused(cls: type[Learner], problem: Problem) -> None:
    with pytest.raises(ValueError, match=rf"{cls.__name__} acts in Box spaces.*Discrete: use policies\."):
        cls(problem(True)[0])


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (TD3BC, "alpha", -1.0),
        (TD3BC, "alpha", float("nan")),
        (TD3BC, "delay", 0),
        (ReBRAC, "actor_penalty", -0.1),
        (ReBRAC, "critic_penalty", float("nan")),
        (EDAC, "critics", 1),
        (EDAC, "diversity", -1.0),
    ],
)
def test_what_cannot_be_is_refused(cls: Any, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} is {value}, expected"):
        cls(SPEC, **{name: value})


def test_smoothing_clips_the_noise_and_the_action() -> None:
    found = smoothed_action(torch.tensor([0.0, 0.9, -0.2, 0.1]), torch.tensor([0.7, 0.3, -0.1, -0.9]), 0.5)
    assert found.tolist() == pytest.approx([0.5, 1.0, -0.3, -0.4])


def test_a_value_is_relative_to_a_constant() -> None:
    value = torch.tensor([-1.0, 3.0], requires_grad=True)
    relative = relative_value(value)
    assert relative.tolist() == [-0.5, 1.5]
    relative.sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [0.5, 0.5]


def test_similarity_by_hand() -> None:
    """Directions (1, 0), (0, 1), (0.6, 0.8): products 0, 0.6, 0.8, each twice, over K - 1 = 2; then all alike: K."""
    first = torch.tensor([[5.0, 0.0], [0.0, 0.1], [3.0, 4.0]])
    assert float(gradient_similarity(first[:, None])) == pytest.approx(1.4)
    both = torch.stack([first, torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])], 1)
    assert float(gradient_similarity(both)) == pytest.approx((1.4 + 3.0) / 2)


def test_edac_s_gradients_are_each_critic_s_own_in_units_of_the_range() -> None:
    learner = made(EDAC, critics=3)
    critics, rows = learner.agent.critics, Batch(*(c[:8] for c in ROWS))
    unit = (0.9 * torch.tanh(rows.action)).requires_grad_()  # within the bounds, beyond which nothing passes `scale`
    action = critics.bounds.scale(unit)
    rows, values = rows._replace(action=action.detach()), critics(rows.obs, action)
    slopes = [torch.autograd.grad(v.sum(), unit, retain_graph=True)[0].numpy() for v in values]
    directions = [s / np.linalg.norm(s, axis=-1, keepdims=True) for s in slopes]
    pairs = [(directions[i] * directions[j]).sum(-1) for i in range(3) for j in range(3) if i != j]
    found = learner.update(rows, None, generator(0, "a"))["similarity"]
    assert float(found) == pytest.approx(float(np.sum(pairs, 0).mean() / 2), abs=1e-4)


def test_diversity_drives_gradients_apart_and_none_is_sac_n() -> None:
    apart = {}
    for eta in (0.0, 5.0):
        learner = made(EDAC, critics=4, diversity=eta, critic_lr=3e-3)
        for _ in range(40):
            apart[eta] = float(learner.update(ROWS, None, generator(0, "a"))["similarity"])
    assert apart[5.0] < apart[0.0] - 0.5
    plain, none = made(SAC, critics=4, actor_lr=3e-4, temperature_lr=3e-4), made(EDAC, critics=4, diversity=0.0)
    for learner in (plain, none):
        for _ in range(5):
            learner.update(ROWS, None, generator(0, "a"))
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in none.state_dict().items())


@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_targets_of_both_td3_learners(penalty: float) -> None:
    """r / std + discount (min_k slow Q(s', a') - penalty |a' - b|^2) while the world goes on, b logged in the next row.

    Without noise; every fourth row terminates, the last one of each half is cut.
    """
    terminated, ends = torch.arange(64) % 4 == 0, torch.arange(64) % 32 == 31
    rows = ROWS._replace(terminated=terminated)
    learner = made(ReBRAC, critic_penalty=penalty, noise=0.0, delay=1, discount=0.8)
    agent = learner.agent
    with torch.no_grad():
        for weight in (*agent.slow_actor.parameters(), *agent.slow_critics.parameters()):
            weight += 0.2
        after, usual = agent.slow_actor.act(rows.next_obs, None), rows.action.roll(-1, 0)
        distance = ((after - usual) / torch.tensor([2.0, 2.0, 5.0])).square().sum(-1)
        future = agent.slow_critics(rows.next_obs, after).min(0).values - penalty * distance
        target = rows.reward / WIDE.reward_std + 0.8 * (1 - rows.terminated.float()) * future
        error = (agent.critics(rows.obs, rows.action) - target).square().mean(0)
    error[[31, 63]] = error[[30, 62]]  # of the rows before those that were cut
    lessons = learner.study(rows, ends | terminated)
    found = learner.update(lessons, None, generator(0, "a"))["critic_loss"]
    assert float(found) == pytest.approx(float(error.mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("ends", "terminated", "row", "following"),
    [
        ([2, 5], 2, [0, 1, 2, 3, 4, 4], [1, 2, 2, 4, 5, 5]),  # the first is over, the second was cut
        ([0, 2, 3, 4, 6], 4, [1, 1, 1, 4, 4, 5, 5], [2, 2, 2, 4, 4, 6, 6]),  # rows 0 and 3 are episodes that were cut
    ],
    ids=["longer episodes", "single rows"],
)
def test_rebrac_s_lessons(ends: list[int], terminated: int, row: list[int], following: list[int]) -> None:
    places = torch.arange(len(row))
    real = Batch(*(column[: len(row)] for column in ROWS))._replace(terminated=places == terminated)
    lessons = made(ReBRAC).study(real, torch.isin(places, torch.tensor(ends)))
    for found, column in zip(lessons, real, strict=True):
        assert torch.equal(found, torch.stack([column[row], column[following]], 1))


def test_rebrac_needs_a_next_action() -> None:
    with pytest.raises(ValueError, match="ReBRAC reads the next logged action: give `ends`"):
        made(ReBRAC).study(ROWS, None)
    never = torch.zeros(64, dtype=torch.bool)
    with pytest.raises(ValueError, match="every episode of this log is one row that was cut"):
        made(ReBRAC).study(ROWS._replace(terminated=never), ~never)


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_an_update_is_so_many_critic_steps_on_shares_and_one_of_the_actor(delay: int) -> None:
    learner = made(TD3BC, delay=delay)
    assert torch.equal(torch.cat([share.obs for share in learner.agent.shares(ROWS)]), ROWS.obs)
    learner.update(ROWS, None, generator(0, "a"))
    taken = {k: int(next(iter(o.state.values()))["step"]) for k, o in learner.optimizers.items()}
    assert taken == {"actor": 1, "critics": delay}


def test_without_value_td3bc_imitates(problem: Problem) -> None:
    spec, rows = problem(False)
    learner = made(TD3BC, spec, **FAST, alpha=0.0)
    fit_policy(learner, rows._replace(action=rows.obs), updates=200, batch_size=128, real_ratio=1.0)
    assert (learner.policy(rows.obs) - rows.obs).abs().mean() < 0.05


@pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])
def test_cql_is_combo_on_logged_rows(discrete: bool, problem: Problem) -> None:
    spec, rows = problem(discrete)
    part = Batch(*(c[:32] for c in rows))
    cql, combo = made(CQL, spec, conservatism=2.0), made(COMBO, spec, conservatism=2.0)
    cql.update(part, part, generator(0, "a"))  # it never reads imagined rows
    combo.update(part, None, generator(0, "a"))
    assert all(torch.equal(value, combo.state_dict()[key]) for key, value in cql.state_dict().items())


def test_cql_s_gap_over_choices_is_exact(problem: Problem) -> None:
    spec, rows = problem(True)
    learner = made(CQL, spec)
    with torch.no_grad():
        every = learner.agent.critics.every(rows.obs).numpy()  # [2, B, A]
    expected = (np.log(np.exp(every).sum(-1)) - (every * rows.action.numpy()).sum(-1)).mean()
    assert float(learner.update(rows, None, generator(0, "a"))["gap"]) == pytest.approx(float(expected), abs=1e-5)


@EVERY
def test_a_mixed_log_is_left_behind(cls: Any) -> None:
    """Imitation gets -7, doing nothing -2.7, the best -0.08."""
    spec, rows = mixed(False)
    learner = made(cls, spec, **FAST, **OURS[cls], discount=0.9)
    ends = torch.arange(len(rows.reward)) % STEPS == STEPS - 1
    fit_policy(learner, rows, ends=ends, updates=250, batch_size=256, real_ratio=1.0)
    assert true_return(learner.policy) > -2.0


def test_a_mixed_log_of_choices_is_left_behind() -> None:
    spec, rows = mixed(True)
    learner = made(CQL, spec, **FAST, conservatism=0.1, discount=0.9)
    fit_policy(learner, rows, updates=250, batch_size=256, real_ratio=1.0)
    assert true_return(learner.policy) > -2.0


def test_edac_reads_imagined_rows_too() -> None:
    alone, both = made(EDAC, hidden=(16,)), made(EDAC, hidden=(16,))
    half = len(ROWS.reward) // 2
    real, dreamt = Batch(*(c[:half] for c in ROWS)), Batch(*(c[half:] for c in ROWS))
    one, other = alone.update(ROWS, None, generator(0, "a")), both.update(real, dreamt, generator(0, "a"))
    assert float(one["critic_loss"]) == pytest.approx(float(other["critic_loss"]))


def test_a_channel_that_cannot_move_is_not_smoothed() -> None:
    still = {"action_low": (-1.0, 0.5), "action_high": (1.0, 0.5), "action_mean": (0.0, 0.5), "action_std": (1.0, 1.0)}
    spec = replace(unit_spec(), action_dim=2, **still)
    action = TD3BC(spec, hidden=(4,)).agent.next_action(torch.zeros(50, 1), generator(0, "x"))
    assert action[:, 0].std() > 0.05
    assert action[:, 1].unique().tolist() == [0.0]
