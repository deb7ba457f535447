"""The learner whose policy plans: it learns as another does, and registers what needs no simulator any more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from planning_toys import Heap, Hill, choices_spec, doubt_above_one, world_of

from mbrl import files
from mbrl.core import Learner, Spec, build, generator, seeded
from mbrl.serving.export import policy_from, policy_state
from mbrl.simulator.simulator import Simulator
from mbrl.testing import check_learner, check_policy, rows_for
from mbrl.training.policy import fit_policy
from policies import CEM, SAC, Planning

SPEC = world_of(Hill).spec
SMALL: dict[str, Any] = {"hidden": [8, 8], "discount": 0.9}
CLS = {False: "policies.CEM", True: "policies.MCTS"}
QUICK = {False: {"candidates": 8, "elites": 2, "rounds": 2}, True: {"simulations": 4}}


def planning(spec: Spec, horizon: int | None = 2, penalty: float = 0.0, **inner: Any) -> Planning:
    learner = {"class_path": "policies.SAC", "init_args": {**SMALL, **inner}}
    planner = {"class_path": CLS[spec.discrete], "init_args": QUICK[spec.discrete]}
    with seeded(0, "test"):
        return Planning(spec, learner, planner, horizon, penalty)


@pytest.mark.parametrize("world", [world_of(Hill), world_of(Heap, choices_spec())], ids=["box", "discrete"])
def test_contract(world: Simulator) -> None:
    check_learner(planning, world.spec, world)


def test_it_learns_as_the_other_learner_does_and_its_plans_follow() -> None:
    learner, world = planning(SPEC), world_of(Hill)
    with seeded(0, "test"):
        other = SAC(SPEC, **SMALL)
    other.load_state_dict(learner.inner.state_dict())
    learner.enter(world)
    obs, before = rows_for(SPEC, 12).obs, None
    for one in (learner, other):
        one.update(rows_for(SPEC, 12, 0), rows_for(SPEC, 9, 1), generator(0, "x"), world)
    for name, value in other.state_dict().items():
        assert torch.equal(value, learner.inner.state_dict()[name])
    assert set(learner.state_dict()) == {f"inner.{name}" for name in other.state_dict()}  # no second copy, no world
    assert learner.rehearsing is learner.inner.policy
    plan = learner.policy
    assert isinstance(plan, CEM)
    assert plan.outlook.discount == 0.9
    assert plan.outlook.critics is learner.inner.agent.critics
    before = plan.act(obs, None)
    for _ in range(20):
        learner.update(rows_for(SPEC, 12, 0), None, generator(1, "x"), world)
    assert not torch.equal(plan.act(obs, None), before)


def test_the_whole_log_is_read_where_the_other_learner_reads_it() -> None:
    assert not planning(SPEC).studies
    inner = {"class_path": "policies.IQL", "init_args": {"hidden": [8, 8]}}
    planner = {"class_path": "policies.CEM", "init_args": QUICK[False]}
    with seeded(0, "test"):
        both = Planning(SPEC, inner, planner, 2), build(inner, Learner, SPEC)
    assert both[0].studies is both[1].studies is False


@torch.no_grad()
def test_the_policy_keeps_its_world_whatever_happens_to_the_simulator(tmp_path: Path) -> None:
    world = world_of(Hill, uncertainty=doubt_above_one, apart=0.3)
    learner = planning(SPEC, penalty=1.0)
    learner.enter(world)
    obs = rows_for(SPEC, 6).obs
    wanted = learner.policy(obs)
    files.save(tmp_path / "policy.ckpt", policy_state(learner.policy))
    world.uncertainty_scale.fill_(1e-6)
    world.dynamics.apart = 99.0
    assert torch.equal(learner.policy(obs), wanted)
    assert torch.equal(policy_from(tmp_path / "policy.ckpt")(obs), wanted)


def test_a_run_that_was_stopped_goes_on_with_the_same_plans(tmp_path: Path) -> None:
    world, rows = world_of(Hill), rows_for(SPEC, 40)
    settings: dict[str, Any] = {"batch_size": 8, "rollout_starts": 4, "rollout_every": 4, "keep_rollouts": 2}
    whole, first, second = planning(SPEC), planning(SPEC), planning(SPEC)
    fit_policy(whole, rows, world, updates=12, horizon=2, penalty=0.0, **settings)
    at = tmp_path / "policy.ckpt"
    fit_policy(first, rows, world, updates=6, horizon=2, penalty=0.0, checkpoint=at, **settings)
    fit_policy(second, rows, world, updates=12, horizon=2, penalty=0.0, checkpoint=at, **settings)
    obs = rows_for(SPEC, 5).obs
    with torch.no_grad():
        assert torch.equal(second.policy(obs), whole.policy(obs))
        assert not torch.equal(second.policy(obs), first.policy(obs))


@pytest.mark.parametrize(("trusted", "planned"), [(0, 1), (3, 3), (500, 20)])
def test_without_a_horizon_it_is_the_trusted_one(trusted: int, planned: int) -> None:
    world, learner = world_of(Hill), planning(SPEC, horizon=None)
    world.trusted_horizon = trusted
    learner.enter(world)
    assert isinstance(learner.policy, CEM)
    assert learner.policy.outlook.horizon == planned


def test_a_horizon_beyond_the_trusted_one_is_allowed() -> None:
    world, learner = world_of(Hill), planning(SPEC, horizon=4)
    world.trusted_horizon = 2
    learner.enter(world)
    check_policy(learner.policy)


def test_building_plans_leaves_the_global_generator_alone() -> None:
    learner, state = planning(SPEC), torch.random.get_rng_state()
    learner.enter(world_of(Hill))
    assert torch.equal(torch.random.get_rng_state(), state)


def with_planner(spec: Spec, cls: str, **settings: Any) -> Planning:
    return Planning(
        spec, {"class_path": "policies.SAC", "init_args": SMALL}, {"class_path": cls, "init_args": settings}
    )


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: planning(SPEC).policy.act(torch.zeros(1, 1), None), "CEM has no simulator to plan in"),
        (lambda: planning(SPEC, horizon=0), "horizon is 0, expected at least 1"),
        (lambda: planning(SPEC, penalty=-1.0), "penalty is -1.0"),
        (
            lambda: planning(SPEC, penalty=1.0).enter(world_of(Hill)),
            "penalty is 1.0 but the simulator has no uncertainty",
        ),
        (lambda: planning(SPEC, horizon=None).enter(world_of(Hill)), "horizon is none, and no report card"),
        (lambda: with_planner(SPEC, "policies.MCTS"), "MCTS plans in Discrete spaces"),
        (lambda: with_planner(choices_spec(), "policies.CEM"), "CEM plans in Box spaces"),
        (
            lambda: with_planner(SPEC, "policies.SAC"),
            r"'policies\.SAC' is not a subclass of policies\.planner\.Planner",
        ),
        (lambda: with_planner(SPEC, "policies.CEM", speed=3), r"init_args \['speed'\] do not fit policies\.CEM"),
        (lambda: Planning(SPEC, {"class_path": "policies.BC"}, {"class_path": "policies.CEM"}), "BC has no critics"),
        (lambda: planning(SPEC).enter(world_of(Heap, choices_spec())), "the simulator has observations"),
        (lambda: fit_policy(planning(SPEC), rows_for(SPEC, 9), None), "Planning plans in a simulator: give one"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()
