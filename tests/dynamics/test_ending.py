"""Goals and trips: what the end of the world pays is learned apart from the reward of a step."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from dynamics_toys import Known, linear_world, spec_of, unit_spec
from torch import Tensor

from dynamics import ProbabilisticEnsemble, RecurrentEnsemble
from mbrl.core import Batch, Dynamics, Prediction, Spec, Step, generator, rows_at, seeded
from mbrl.data.dataset import TransitionDataset
from mbrl.data.moments import ends_apart
from mbrl.simulator.ends import Ends
from mbrl.simulator.simulator import Simulator
from mbrl.testing import check_dynamics
from mbrl.training.bootstrap import Runs
from mbrl.training.lookahead import Lookahead

GOAL = replace(unit_spec(terminals=True), live_reward=(0.0, 1.0), end_reward=(100.0, 10.0))
SMALL = {"members": 2, "elites": 1, "hidden": 16, "layers": 2}


def squared(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The first channel's square."""
    del obs, action
    return next_obs[..., :1].square()


def beyond_two(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """A rule of another plant than the head's."""
    del obs, action
    return next_obs[..., 0] > 2


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


class Trip(Known):
    """x' = x + 1 + noise in all members; where the last channel gets beyond a limit the world ends and pays -100."""

    ends_apart = True

    def __init__(self, spec: Spec, std: float = 1.0, limit: float = 1.0) -> None:
        super().__init__(spec, members=2, std=std)
        self.limit = limit

    def predict(
        self, obs: Tensor, action: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Prediction:
        said = super().predict(obs, action, members, hidden)
        still = [k for k in range(obs.shape[-1]) if k not in self.spec.predicted]
        mean, std = (obs + 1).expand_as(said.obs).clone(), said.obs_std.clone()
        mean[..., still], std[..., still] = obs[..., still].expand_as(mean[..., still]), 0.0
        reward = torch.full_like(said.reward, 2.0)
        return Prediction(mean, std, reward, torch.full_like(reward, 0.5), said.scale)

    def termination(
        self, obs: Tensor, action: Tensor, next_obs: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        count = self.members if members is None else len(members)
        return (next_obs[..., -1] > self.limit).float().expand(count, obs.shape[-2])

    def end_pay(
        self, obs: Tensor, action: Tensor, next_obs: Tensor, members: Tensor | None = None, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        chance = self.termination(obs, action, next_obs, members, hidden)
        return torch.full_like(chance, -100.0), torch.full_like(chance, 1e-3)


def stepped(model: Dynamics, spec: Spec, rows: int = 4000, **simulator: Any) -> tuple[Step, Tensor]:
    """A step from 0 with random actions, and the actions."""
    action = torch.rand(rows, 1, generator=generator(1, "test")) * 2 - 1
    world = Simulator(model, spec, **simulator)
    return world.step(torch.zeros(rows, spec.obs_dim), action, generator(0, "test")), action


def assert_paid(step: Step) -> None:
    assert 0 < int(step.terminated.sum()) < len(step.reward)
    assert torch.allclose(step.reward[step.terminated], torch.tensor(-100.0), atol=0.1)
    assert step.reward[~step.terminated].mean().item() == pytest.approx(2, abs=0.05)
    assert step.reward[~step.terminated].std().item() == pytest.approx(0.5, rel=0.1)


def test_a_reward_is_of_both_cases_once_the_next_observation_is_known() -> None:
    ends = Simulator(Trip(GOAL), GOAL).ends
    model = Known(GOAL, members=1, std=2.0, chances=(0.25,))
    model.end_pay = lambda *_: (torch.full((1, 3), 100.0), torch.full((1, 3), 10.0))  # type: ignore[method-assign]
    rows = torch.ones(3, 1)
    found = Ends(model, GOAL, None).settled(model.predict(rows, rows), rows, rows, rows)
    assert found.reward.tolist() == [[0.75 * 1 + 0.25 * 100] * 3]
    variance = 0.75 * 4 + 0.25 * 100 + 0.25 * 0.75 * 99**2
    assert found.reward_std.square().tolist() == [pytest.approx([variance] * 3)]
    said = ends.dynamics.predict(rows, rows)
    assert ends.settled(said, rows, rows, rows + 0.5).reward.tolist() == [[-100.0] * 3] * 2
    assert torch.equal(ends.settled(said, rows, rows, rows - 0.5).reward, said.reward)


def test_a_trip_by_noise_is_paid_for() -> None:
    """Of a mean next observation of 1 a head that ends beyond 1 says nothing ever ends: half of the steps do."""
    step, _ = stepped(Trip(GOAL), GOAL)
    assert torch.equal(step.terminated, step.next_obs[:, 0] > 1)
    assert step.terminated.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert_paid(step)


def test_a_trip_is_told_from_channels_that_no_model_predicts() -> None:
    two = unit_spec(2, terminals=True)
    goal = replace(two, live_reward=GOAL.live_reward, end_reward=GOAL.end_reward)
    copied = replace(goal, predicted=(0,), carried=(1,), sources=(2,))  # the last action
    step, action = stepped(Trip(copied, limit=0.5), copied)
    assert torch.equal(step.terminated, action[:, 0] > 0.5)
    assert_paid(step)
    computed = replace(goal, predicted=(0,))
    square = {"structure": squared, "computed": (1,)}
    step, _ = stepped(Trip(computed, limit=3.0), computed, **square)
    assert torch.equal(step.terminated, step.next_obs[:, 0].square() > 3)
    assert_paid(step)
    foresight = Simulator(Trip(computed, limit=0.5), computed, **square).foresight()
    seen = foresight(torch.zeros(1, 2), torch.zeros(1, 1))  # 1 from 0, and 1 squared
    assert (seen.terminated.item(), seen.reward.item()) == (1, -100)


def test_a_rule_says_what_is_paid_where_there_is_one() -> None:
    step, _ = stepped(Trip(GOAL, limit=-1e9), GOAL, termination=beyond_two)
    assert torch.equal(step.terminated, step.next_obs[:, 0] > 2)
    assert_paid(step)


def test_the_density_of_a_reward_is_that_of_what_happened() -> None:
    world, rows = Simulator(Trip(GOAL), GOAL), torch.zeros(1, 1)
    went, ended = (
        world.log_density(Batch(rows, rows, torch.tensor([reward]), rows + 1, torch.tensor([ended])))
        for reward, ended in ((2.0, False), (-100.0, True))
    )
    assert (ended - went).item() == pytest.approx(math.log(0.5 / 1e-3))


def test_the_scale_of_a_reward_is_that_of_steps_after_which_the_world_goes_on() -> None:
    world, rows = Simulator(Trip(GOAL), GOAL), torch.zeros(4, 1)
    after = torch.tensor([[0.5], [0.5], [1.5], [0.5]])  # of the two ends the head sees one
    ended = torch.tensor([False, False, True, True])
    world.calibrate(Batch(rows, rows, torch.tensor([3.0, 1.0, -100.0, -100.0]), after, ended))
    assert world.recalibration.scale[-1].item() == pytest.approx(1 / 0.5)
    never = Batch(rows[:2], rows[:2], torch.full((2,), -100.0), after[2:], ended[2:])
    assert world.recalibrated(never).recalibration.scale[-1] == 1


def test_a_step_ahead_counts_the_share_of_what_an_end_would_pay() -> None:
    world = Simulator(Trip(GOAL), GOAL)
    obs = torch.zeros(2, 1000, 1)
    after, reward, _ = world.propagate(obs, torch.zeros(1000, 1), generator(0, "test"))
    assert torch.equal(reward == -100, after[..., 0] > 1)


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
        ends = Simulator(model, spec).ends
        with torch.no_grad():
            said = ends.settled(model.predict(fresh.obs, fresh.action), fresh.obs, fresh.action, fresh.next_obs)
        said = said.reward.mean(0)
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


def test_all_of_a_log_says_whether_ends_pay_another_kind() -> None:
    ended = torch.arange(120) % 10 == 9
    log = TransitionDataset.create(
        "toy/goals-v0",
        obs=torch.arange(120.0)[:, None] / 10,
        action=torch.zeros(120, 1),
        reward=torch.where(ended, 100.0, torch.arange(120) % 2),
        next_obs=torch.arange(1.0, 121.0)[:, None] / 10,
        terminated=ended,
        truncated=torch.zeros(120, dtype=torch.bool),
        episode=torch.arange(120) // 10,
        discrete=False,
        action_low=[-1.0],
        action_high=[1.0],
    )
    whole, few = log.spec(torch.arange(12)), log.spec(torch.arange(3))
    assert whole.end_reward
    assert (few.live_reward, few.end_reward) == (whole.live_reward, whole.end_reward)
    assert ends_apart(log.reward[:30], ended[:30]) == ((), ())
