"""Goals and trips: what the end of the world pays is learned apart from the reward of a step."""

import json
import math
from dataclasses import replace
from operator import itemgetter

import pytest
import torch
from dynamics_toys import linear_world, spec_of, unit_spec
from torch import Tensor

from dynamics import ProbabilisticEnsemble, RecurrentEnsemble
from dynamics.ending import EndReward
from dynamics.uncertainty import max_aleatoric
from mbrl.core import Batch, Prediction, Spec, generator, rows_at, seeded
from mbrl.data.moments import ends_apart
from mbrl.simulator.holding import Stated
from mbrl.testing import check_dynamics
from mbrl.training.bootstrap import Runs
from mbrl.training.lookahead import Lookahead

GOAL = replace(unit_spec(terminals=True), live_reward=(0.0, 1.0), end_reward=(100.0, 10.0))
SMALL = {"members": 2, "elites": 1, "hidden": 16, "layers": 2}


def walk(rows: int, seed: int) -> Batch:
    """x' = x + 0.1 a, from x within [-1, 1]; a step costs 0.1, and to get beyond 0.99 ends the world and pays 100."""
    rng = generator(seed, "walk")
    obs = torch.rand(rows, 1, generator=rng) * 2 - 1
    action = torch.rand(rows, 1, generator=rng) * 2 - 1
    after = obs + 0.1 * action
    ended = after[:, 0] > 0.99
    return Batch(obs, action, torch.where(ended, 100.0, -0.1), after, ended)


def of_ends(batch: Batch) -> Spec:
    live, end = ends_apart(batch.reward, batch.terminated)
    return replace(spec_of(batch), live_reward=live, end_reward=end)


def test_rewards_of_ends_are_apart_where_they_are_of_another_kind() -> None:
    ended = torch.arange(100) >= 90
    reward = torch.where(ended, 100.0, torch.arange(100) % 2)
    assert ends_apart(reward, ended) == ((0.5, 0.5), (100.0, pytest.approx(0.995)))  # a hundredth of what lies between
    assert ends_apart(reward[:99], ended[:99]) == ((), ())  # nine say nothing
    both = torch.where(ended & (torch.arange(100) % 2 == 0), -100.0, reward)  # to land, or to crash
    assert ends_apart(both, ended) == ((0.5, 0.5), (0.0, 100.0))
    near = torch.where(ended, 2.9, torch.arange(100) % 2)
    assert ends_apart(near, ended) == ((), ())  # 4.8 spreads
    pole = torch.ones(100)
    assert ends_apart(pole, ended) == ((), ())
    assert ends_apart(torch.where(ended, 0.0, pole), ended) == ((1.0, 1.0), (0.0, 0.01))
    assert ends_apart(pole, torch.ones(100, dtype=torch.bool)) == ((), ())


def test_a_prediction_is_of_both_cases() -> None:
    model = EndReward(GOAL, members=1, hidden=4)
    for weight in model.mlp.weights:
        weight.data.zero_()  # mean 0 of ends, in units of 10 about 100, and log-variance 0
    said = Prediction(
        torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), torch.ones(1, 1), torch.full((1, 1), 2.0), torch.ones(2)
    )
    inputs = torch.zeros(1, 1, 2)
    found = model.mixed(said, torch.full((1, 1), 0.25), inputs, torch.zeros(1, 1, 1), None)
    assert found.reward.item() == pytest.approx(0.75 * 1 + 0.25 * 100)
    within = 0.75 * 4 + 0.25 * 100 * math.exp(0.0)
    assert found.reward_within is not None
    assert found.reward_within.item() ** 2 == pytest.approx(within, rel=0.2)  # but for the soft bounds of a variance
    between = found.reward_std.square() - found.reward_within.square()
    assert between.item() == pytest.approx(0.25 * 0.75 * 99**2, rel=1e-3)
    assert max_aleatoric(found).item() == pytest.approx(found.reward_within.item())  # which case it is is no doubt


def test_a_reward_is_drawn_near_the_mean_of_both_cases() -> None:
    columns = torch.zeros(2, 1000, 1), torch.ones(2, 1000, 1), torch.full((2, 1000), 30.0), torch.full((2, 1000), 45.0)
    said = Prediction(*columns, torch.ones(2), reward_within=torch.full((2, 1000), 1.0))
    parts = [Stated.of(said).each(itemgetter(k)) for k in range(2)]
    drawn = Stated.joined(parts, 0).sample(1.0, generator(0, "test"))
    assert drawn.shape == (2000, 2)
    assert drawn.mean(0).tolist() == pytest.approx([0, 30], abs=0.1)
    assert drawn.std(0).tolist() == pytest.approx([1, 1], rel=0.1)


def test_each_kind_is_learned_from_its_own_rows() -> None:
    with seeded(0, "test"):
        model = ProbabilisticEnsemble(GOAL, members=1, elites=1, hidden=4, layers=1)
    assert model.head is not None
    assert model.end_reward is not None
    rows = Batch(
        torch.rand(1, 6, 1), torch.rand(1, 6, 1), torch.zeros(1, 6), torch.rand(1, 6, 1), torch.zeros(1, 6).bool()
    )
    rows.terminated[0, 2] = True

    def gradients(row: int, part: torch.nn.Module) -> list[Tensor]:
        reward = rows.reward.clone()
        reward[0, row] = 50.0
        return list(torch.autograd.grad(model.loss(rows._replace(reward=reward)).sum(), list(part.parameters())))

    step, end = model.gaussian.reward_mlp, model.end_reward
    assert step is not None
    for part, row, other in ((step, 2, 0), (end, 0, 2)):
        at_rest = list(torch.autograd.grad(model.loss(rows).sum(), list(part.parameters())))
        assert all(torch.equal(a, b) for a, b in zip(gradients(row, part), at_rest, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(gradients(other, part), at_rest, strict=True))


def test_a_look_ahead_leaves_ends_to_the_rows_that_ended() -> None:
    """It taught the head of MountainCar's judge that nothing ever ends: a goal a step too late costs it twice."""
    with seeded(0, "test"):
        model = ProbabilisticEnsemble(GOAL, members=1, elites=1, hidden=4, layers=1)
    rows = Batch(
        torch.rand(2, 3, 1), torch.rand(2, 3, 1), torch.rand(2, 3), torch.rand(2, 3, 1), torch.zeros(2, 3).bool()
    )
    rows.terminated[1, 2] = True
    runs, ahead = Runs(rows, torch.ones(2, 3, dtype=torch.bool)), Lookahead(GOAL, 3)
    squares = ahead.squares(model, runs)
    assert squares.shape == (1, 2, 3, 2)
    assert squares[0, 1, 2, 1] == 0
    assert (squares[0, :, :2, 1] > 0).all()
    paid = rows._replace(reward=torch.where(rows.terminated, 100.0, rows.reward))
    assert torch.equal(ahead.squares(model, Runs(paid, runs.valid)), squares)
    for part in (model.head, model.end_reward):
        assert part is not None
        found = torch.autograd.grad(squares.sum(), list(part.parameters()), allow_unused=True, retain_graph=True)
        assert not any(gradient is not None and gradient.any() for gradient in found)


@pytest.mark.parametrize("model", [ProbabilisticEnsemble, RecurrentEnsemble])
def test_the_contract_is_kept(model: type[ProbabilisticEnsemble]) -> None:
    log = linear_world(200, 0, -1.0)
    spec = of_ends(log._replace(reward=torch.where(log.terminated, 50.0, log.reward)))
    assert spec.end_reward
    check_dynamics(lambda spec: model(spec, members=3, elites=2, hidden=8, layers=1), spec)
    assert model(spec, termination_head=False, members=1, elites=1, hidden=8, layers=1).end_reward is None


def test_a_seldom_goal_is_worth_what_it_pays() -> None:
    log = walk(4000, 0)
    assert 20 < int(log.terminated.sum()) < 80
    found = {}
    for spec in (of_ends(log), spec_of(log)):
        with seeded(0, "test"):
            model = ProbabilisticEnsemble(spec, **SMALL, reward_network=(16, 16))
        optimizer, rng = torch.optim.Adam(model.parameter_groups(), 3e-3), generator(0, "batches")
        for _ in range(500):
            optimizer.zero_grad()
            model.loss(rows_at(log, torch.randint(4000, (2, 128), generator=rng))).sum().backward()
            optimizer.step()
        fresh = walk(4000, 1)
        with torch.no_grad():
            said = model.predict(fresh.obs, fresh.action).reward.mean(0)
        found[bool(spec.end_reward)] = (float(said[fresh.terminated].mean()), float(said.sum() / fresh.reward.sum()))
    reached, total = found[True]
    assert reached > 60
    assert total == pytest.approx(1, abs=0.15)
    assert found[False][0] < 40  # what one network makes of it: noise


def test_a_spec_has_both_or_neither_and_older_ones_have_neither() -> None:
    with pytest.raises(
        ValueError, match=r"live_reward is \[\] and end_reward \[1\.0, 2\.0\], expected a mean and a std"
    ):
        replace(unit_spec(), end_reward=(1.0, 2.0))
    assert Spec.from_dict(json.loads(json.dumps(GOAL.to_dict()))) == GOAL
    before = {name: value for name, value in unit_spec().to_dict().items() if name not in ("live_reward", "end_reward")}
    assert Spec.from_dict(before) == unit_spec()
