"""CQL in its Lagrangian form: the weight climbs the dual, and the gap stays where the threshold is."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mbrl.core import Batch, Spec, generator, seeded
from mbrl.testing import check_learner
from mbrl.training.policy import fit_policy
from policies import CQL

Problem = Callable[[bool], tuple[Spec, Batch]]
FAST: dict[str, Any] = {"hidden": (32, 32), "actor_lr": 3e-3, "critic_lr": 3e-3, "tau": 0.05}


def made(spec: Spec, **arguments: Any) -> Any:
    with seeded(0, "test"):
        return CQL(spec, **{"hidden": (16,), **arguments})


@pytest.mark.parametrize("discrete", [False, True], ids=["box", "discrete"])
def test_contract_of_a_tuned_weight(discrete: bool, problem: Problem) -> None:
    check_learner(lambda spec: CQL(spec, hidden=(16,), samples=3, threshold=0.5), problem(discrete)[0])


@pytest.mark.parametrize(("threshold", "step"), [(0.5, 0.1), (0.9, -0.1)])
def test_the_weight_climbs_towards_the_threshold(threshold: float, step: float, problem: Problem) -> None:
    """Two choices of value 0: a gap of log 2 = 0.69. Adam's first step is the learning rate, in log w from log 3."""
    spec, rows = problem(True)
    learner = made(spec, conservatism=3.0, threshold=threshold, conservatism_lr=0.1)
    with torch.no_grad():
        for weight in learner.agent.critics.parameters():
            weight.zero_()
    told = learner.update(rows, None, generator(0, "a"))
    assert float(told["gap"]) == pytest.approx(math.log(2))
    assert float(told["conservatism"]) == pytest.approx(3.0)  # what this update was made with
    assert float(learner.log_weight.grad) == pytest.approx(threshold - math.log(2), abs=1e-6)
    assert float(learner.log_weight.detach()) == pytest.approx(math.log(3) + step)


@pytest.mark.parametrize(("std", "below"), [(1.0, 0.5), (0.03, math.log(3))])
def test_the_gap_of_equal_values_is_a_log_2_less_what_a_narrow_actor_hides(
    std: float, below: float, problem: Problem
) -> None:
    """Critics of 0: samples of a narrow actor weigh next to nothing, and the uniform third of all is what is left."""
    spec, rows = problem(False)
    learner = made(spec, threshold=0.1)
    with torch.no_grad():
        for parameter in [*learner.agent.critics.parameters(), *learner.agent.actor.parameters()]:
            parameter.zero_()
        learner.agent.actor.network.output.bias[spec.action_dim :] = math.log(std)
    told = learner.update(rows, None, generator(0, "a"))
    assert float(told["gap"]) == pytest.approx(spec.action_dim * math.log(2) - below, abs=0.1)


def test_a_weight_that_is_tuned_begins_as_the_fixed_one_and_has_an_end(problem: Problem) -> None:
    spec, rows = problem(False)
    fixed, tuned = made(spec, conservatism=2.0), made(spec, conservatism=2.0, threshold=0.1)
    for learner in (fixed, tuned):
        learner.update(rows, None, generator(0, "a"))
    assert set(fixed.optimizers) == {"actor", "critics"}
    assert set(tuned.optimizers) == {"actor", "critics", "conservatism"}
    assert all(torch.equal(v, tuned.agent.state_dict()[k]) for k, v in fixed.agent.state_dict().items())
    with torch.no_grad():
        tuned.log_weight.fill_(30.0)
    assert float(tuned.update(rows, None, generator(0, "a"))["conservatism"]) == pytest.approx(1e6)
    assert float(tuned.log_weight.detach()) == pytest.approx(math.log(1e6), abs=1e-2)  # and no more, to come down from


@pytest.mark.parametrize("threshold", [0.55, 0.65])
def test_the_gap_is_kept_where_the_threshold_is(threshold: float, problem: Problem) -> None:
    """No reward, and four in five actions the first: from their entropy, 0.50, for a weight of 5, to log 2 for none."""
    spec, rows = problem(True)
    second = (torch.arange(len(rows.reward)) % 5 == 0).long()
    rows = rows._replace(action=torch.eye(2)[second], reward=torch.zeros(len(second)))
    learner = made(spec, **FAST, threshold=threshold, conservatism_lr=0.03)
    gaps: list[float] = []

    def note(metrics: dict[str, torch.Tensor], _: int) -> None:
        gaps.append(float(metrics["gap"]))

    fit_policy(learner, rows, updates=400, batch_size=256, real_ratio=1.0, log=note, log_every=1)
    assert min(gaps) < 0.53
    assert sum(gaps[-100:]) / 100 == pytest.approx(threshold, abs=0.02)


def test_what_cannot_be_is_refused(problem: Problem) -> None:
    spec, _ = problem(False)
    for threshold in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"threshold is {threshold}, expected a gap to keep to, or None"):
            CQL(spec, threshold=threshold)
    with pytest.raises(ValueError, match=r"conservatism is 0\.0, expected more than 0 to tune it from"):
        CQL(spec, conservatism=0.0, threshold=0.5)
