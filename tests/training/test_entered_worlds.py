"""Learners that see the simulator: `enter`, `rehearsing`, and what a checkpoint holds of a changed world."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynamics import ProbabilisticEnsemble
from mbrl.bench import hopper_sized
from mbrl.core import Batch, Learner, Policy, Spec, World, seeded
from mbrl.simulator.simulator import Simulator
from mbrl.testing import check_learner
from mbrl.training.policy import fit_policy

SPEC, ROWS = hopper_sized(100, 0)
SHORT = {"batch_size": 16, "horizon": 2, "rollout_every": 7, "rollout_starts": 10, "keep_rollouts": 2}


def simulator() -> Simulator:
    with seeded(0, "world"):
        model = ProbabilisticEnsemble(SPEC, members=2, elites=2, hidden=8, layers=1, reward_network=(8,))
    return Simulator(model, SPEC)


class Always(Policy):
    """The same action everywhere, which can be learned."""

    def __init__(self, spec: Spec, value: float = 0.0) -> None:
        super().__init__(spec)
        self.value = nn.Parameter(torch.full((spec.action_dim,), value))

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        return self.value.clamp(-1, 1).expand(len(obs), -1)


class Seer(Learner):
    """Moves its action towards the logged one, and the weights of its world, a copy or the simulator itself, along."""

    def __init__(self, spec: Spec, copies: bool = True) -> None:
        super().__init__(spec)
        self.copies, self.actor, self.quick = copies, Always(spec), Always(spec, 0.5)
        self.optimizers["actor"] = torch.optim.Adam(self.actor.parameters(), 1e-2, fused=True)
        self.events: list[str] = []
        self.seen: list[tuple[Batch | None, World | None]] = []

    @property
    def policy(self) -> Policy:
        return self.actor

    @property
    def rehearsing(self) -> Policy:
        return self.quick

    def enter(self, simulator: World) -> World:
        self.events.append("enter")
        world = copy.deepcopy(simulator) if self.copies else simulator
        self.world = world if self.copies else None
        self.optimizers["dynamics"] = torch.optim.Adam(world.dynamics.parameters(), 1e-2, fused=True)
        return world

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self.events.append("load")
        return super().load_state_dict(*args, **kwargs)

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        self.seen.append((imagined, simulator))
        loss = (self.actor.act(real.obs, None) - real.action).square().mean()
        if simulator is not None:
            loss = loss + simulator.dynamics.predict(real.obs, real.action).reward.square().mean()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {"loss": loss.detach()}


class Planner(Seer):
    imagines, plans = False, True


class ModelFree(Seer):
    imagines = False


def test_the_world_is_entered_once_and_before_a_checkpoint_is_restored(tmp_path: Path) -> None:
    path = tmp_path / "policy.ckpt"
    for updates, expected in ((8, ["enter"]), (16, ["enter", "load"])):
        learner = Seer(SPEC)
        fit_policy(learner, ROWS, simulator(), updates=updates, checkpoint=path, **SHORT)
        assert learner.events == expected


def test_imagined_rows_are_of_the_entered_world_and_follow_the_rehearsing_policy() -> None:
    class Ending(Seer):
        def enter(self, simulator: World) -> World:
            world = super().enter(simulator)
            world.termination = lambda obs, action, next_obs: torch.ones_like(obs[..., 0], dtype=torch.bool)
            return world

    learner, honest = Ending(SPEC), simulator()
    fit_policy(learner, ROWS, honest, updates=8, **SHORT)
    for imagined, world in learner.seen:
        assert world is learner.world
        assert world is not honest
        assert imagined is not None
        assert bool((imagined.action == 0.5).all())  # `policy` began at 0
        assert bool(imagined.terminated.all())  # in the simulator itself the untrained head ends half of them


def test_who_neither_imagines_nor_plans_is_shown_no_world() -> None:
    for cls, entered in ((ModelFree, False), (Planner, True)):
        learner = cls(SPEC)
        fit_policy(learner, ROWS, simulator(), updates=2, **SHORT)
        assert learner.events == ["enter"] * entered
        assert all(imagined is None and (world is not None) == entered for imagined, world in learner.seen)
    with pytest.raises(ValueError, match="Planner plans in a simulator: give one"):
        fit_policy(Planner(SPEC), ROWS, updates=2)


@pytest.mark.parametrize("stop", [5, 14])
def test_a_run_resumes_bit_by_bit_in_a_world_that_was_changed(stop: int, tmp_path: Path) -> None:
    def fitted(updates: int, path: Path | None) -> dict[str, Tensor]:
        learner = Seer(SPEC)
        fit_policy(learner, ROWS, simulator(), updates=updates, checkpoint=path, **SHORT)
        return learner.state_dict()

    path = tmp_path / "policy.ckpt"
    fitted(stop, path)
    resumed, straight = fitted(21, path), fitted(21, None)
    assert any(name.startswith("world.dynamics.") for name in straight)
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())
    kept = simulator().state_dict()
    assert any(not torch.equal(kept[name.removeprefix("world.")], v) for name, v in straight.items() if "world" in name)


def test_the_simulator_is_as_it_was() -> None:
    honest = simulator()
    before = copy.deepcopy(honest.state_dict())
    fit_policy(Seer(SPEC), ROWS, honest, updates=3, **SHORT)
    assert all(torch.equal(value, before[name]) for name, value in honest.state_dict().items())


def test_the_contract_of_learners_knows_who_changes_the_simulator() -> None:
    check_learner(Seer, SPEC, simulator())
    with pytest.raises(AssertionError, match=r"changed dynamics\..* of the simulator: `enter` has to make a copy"):
        check_learner(lambda spec: Seer(spec, copies=False), SPEC, simulator())
