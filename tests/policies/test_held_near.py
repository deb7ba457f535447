"""TD3+BC, ReBRAC, EDAC and CQL: what is different in each, by hand, and what they make of a mixed log."""

from typing import Any

import numpy as np
import pytest
import torch
from mixed_logs import mixed, true_return

from mbrl.bench import hopper_sized
from mbrl.core import Batch, Learner, generator, seeded
from mbrl.testing import check_learner
from mbrl.training.policy import fit_policy
from policies import CQL, EDAC, SAC, TD3BC, ReBRAC
from policies.functional import gradient_similarity, relative_value, smoothed_action

FAST: dict[str, Any] = {"hidden": (32, 32), "actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.05}
SOFT = {**FAST, "temperature_lr": 3e-3}
BOX, CHOICES = mixed(False), mixed(True)


def made(cls: Any, discrete: bool = False, **arguments: Any) -> Any:
    with seeded(0, "test"):
        return cls((CHOICES if discrete else BOX)[0], **arguments)


@pytest.mark.parametrize(
    ("cls", "discrete"), [(TD3BC, False), (ReBRAC, False), (EDAC, False), (CQL, False), (CQL, True)]
)
def test_contract(cls: type[Learner], discrete: bool) -> None:
    check_learner(lambda spec: cls(spec, hidden=(16,)), (CHOICES if discrete else BOX)[0])


@pytest.mark.parametrize(
    ("cls", "discrete", "arguments", "least"),
    [
        (TD3BC, False, {**FAST, "alpha": 10.0}, -1.0),
        (ReBRAC, False, {**FAST, "behaviour_lr": 3e-3}, -1.0),
        (EDAC, False, {**SOFT, "critics": 3, "diversity": 0.1}, -1.0),
        (CQL, False, {**SOFT, "conservatism": 0.2, "samples": 4}, -1.0),
        (CQL, True, {**SOFT, "conservatism": 0.2}, -1.0),
    ],
    ids=["td3bc", "rebrac", "edac", "cql", "cql discrete"],
)
def test_a_mixed_log_is_improved_on(cls: Any, discrete: bool, arguments: dict[str, Any], least: float) -> None:
    """Imitation gets -7 (Box) and -25 (Discrete), the best possible are -0.08 and -0.46."""
    learner = made(cls, discrete, **arguments)
    fit_policy(learner, (CHOICES if discrete else BOX)[1], updates=500, batch_size=128, real_ratio=1.0)
    assert true_return(learner.policy) > least


def test_directions_of_gradients_by_hand() -> None:
    """Unit vectors at 0, 90 and 60 degrees: cosines 0, 1/2 and sqrt(3)/2, each pair counted twice, over K - 1 = 2."""
    gradients = torch.tensor([[[2.0, 0.0]], [[0.0, 5.0]], [[0.5, np.sqrt(3) / 2]]])
    assert float(gradient_similarity(gradients)) == pytest.approx(0 + 0.5 + np.sqrt(3) / 2)
    alike = torch.ones(4, 3, 2)
    assert float(gradient_similarity(alike)) == pytest.approx(4)


def test_diversity_pulls_gradients_apart_and_without_it_the_critics_are_those_of_sac() -> None:
    spec, rows = hopper_sized(128, 0)  # directions of a single channel are 1 and -1, and have no slope

    def built(cls: Any, **arguments: Any) -> Any:
        with seeded(0, "test"):
            return cls(spec, hidden=(16,), critics=3, actor_lr=3e-4, temperature_lr=3e-4, **arguments)

    told = {}
    for diversity in (0.0, 5.0):
        learner, rng = built(EDAC, critic_lr=3e-3, diversity=diversity), generator(0, "x")
        for _ in range(40):
            metrics = learner.update(rows, None, rng)
        told[diversity] = float(metrics["similarity"])
    assert told[5.0] < told[0.0] - 0.3
    plain, bare = built(SAC), built(EDAC, diversity=0.0)
    for one in (plain, bare):
        one.update(rows, None, generator(0, "y"))
    for a, b in zip(plain.parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_edac_reads_imagined_rows_too() -> None:
    alone, both = made(EDAC, hidden=(16,)), made(EDAC, hidden=(16,))
    whole = BOX[1]
    half = len(whole.reward) // 2
    real, dreamt = Batch(*(c[:half] for c in whole)), Batch(*(c[half:] for c in whole))
    one, other = alone.update(whole, None, generator(0, "a")), both.update(real, dreamt, generator(0, "a"))
    assert float(one["critic_loss"]) == pytest.approx(float(other["critic_loss"]))


def test_the_actor_s_loss_weighs_value_and_distance_as_the_paper_does() -> None:
    """lambda = alpha / mean |Q|: values 1 and -3 have mean size 2, and count as 1/2 and -3/2."""
    assert relative_value(torch.tensor([1.0, -3.0])).tolist() == [0.5, -1.5]
    noise = torch.tensor([0.9, -0.9, 0.1])
    assert smoothed_action(torch.tensor([0.8, 0.0, 0.0]), noise, 0.5).tolist() == pytest.approx([1.0, -0.5, 0.1])


def test_imitation_is_what_is_left_without_a_value() -> None:
    """With alpha 0 only |pi - a|^2 counts, whose optimum is the mean of the logged actions."""
    learner = made(TD3BC, **FAST, alpha=0.0)
    fit_policy(learner, BOX[1], updates=300, batch_size=256)
    left = BOX[1].obs[:, 0] < -0.3
    logged = BOX[1].action[left].mean()
    assert float(learner.policy.act(BOX[1].obs[left], None).detach().mean()) == pytest.approx(float(logged), abs=0.15)


@pytest.mark.parametrize("cls", [TD3BC, ReBRAC])
def test_a_terminal_is_not_bootstrapped_and_a_penalty_lowers_the_target(cls: Any) -> None:
    learner = made(cls, hidden=(16,))
    rows = Batch(*(c[:4] for c in BOX[1]))._replace(terminated=torch.tensor([True, True, False, False]))
    agent, seen = learner.agent, {}
    after = torch.zeros(4, 1)
    slow = agent.slow_critics(rows.next_obs, agent.critics.bounds.scale(after)).amin(0)
    reward = rows.reward / learner.spec.reward_std
    for cost in (0.0, 2.0):
        target = torch.where(rows.terminated, reward, reward + 0.99 * (slow - cost))
        values = agent.critics(rows.obs, rows.action)
        seen[cost] = float((values - target).square().mean().detach())
        fresh = made(cls, hidden=(16,))
        told = fresh.agent.improve_critics(rows, after, cost * torch.ones(4))
        assert float(told["critic_loss"]) == pytest.approx(seen[cost], rel=1e-5)
    assert seen[0.0] != seen[2.0]


def test_rows_are_dealt_to_the_critics_steps() -> None:
    agent = made(TD3BC, hidden=(16,), delay=2).agent
    first, second = agent.shares(Batch(*(c[:6] for c in BOX[1])))
    assert torch.equal(torch.cat([first.obs, second.obs]), BOX[1].obs[:6])


def test_cql_lowers_actions_that_the_log_lacks() -> None:
    """On choices the gap is exact: logsumexp over both minus the logged one, log 2 for equal values."""
    low, high = (made(CQL, True, **SOFT, conservatism=weight) for weight in (0.0, 5.0))
    gaps = []
    for learner in (low, high):
        rng = generator(0, "x")
        first = learner.update(CHOICES[1], None, rng)["gap"]
        for _ in range(80):
            last = learner.update(CHOICES[1], None, rng)["gap"]
        gaps.append((float(first), float(last)))
    assert gaps[0][0] == gaps[1][0]
    assert gaps[1][1] < gaps[0][1]


@pytest.mark.parametrize(
    ("cls", "arguments", "part"),
    [
        (TD3BC, {"alpha": -1.0}, "alpha is -1.0"),
        (TD3BC, {"delay": 0}, "delay is 0"),
        (ReBRAC, {"critic_penalty": -0.1}, "critic_penalty is -0.1"),
        (EDAC, {"critics": 1}, "critics is 1, expected 2 or more"),
        (EDAC, {"diversity": float("nan")}, "diversity is nan"),
    ],
)
def test_wrong_arguments_are_named(cls: Any, arguments: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        made(cls, **arguments)


@pytest.mark.parametrize("cls", [TD3BC, ReBRAC, EDAC])
def test_discrete_actions_are_refused_and_another_learner_is_named(cls: Any) -> None:
    with pytest.raises(ValueError, match=f"{cls.__name__} acts in Box spaces, and .* are Discrete: use policies"):
        made(cls, True)
