"""The contracts of policies and of learners."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import torch
from torch import Tensor

from mbrl.core import Batch, Learner, Policy, Spec, World, build, generator, seeded
from mbrl.testing.rows import rows_for
from mbrl.watching import Tape, no_host_reads

FAR = 100  # times an observation of the log, where a policy has to keep to its bounds as well
ROUNDING = 1e-3  # in actions: a planner magnifies how a batch rounds (9e-5 seen), a mixed-up row is off by more


def check_policy(policy: Policy) -> None:
    """A policy's contract: shapes, bounds, reproducible noise, a mode without any, a description to rebuild it."""
    spec, rng = policy.spec, generator(0, "check")
    obs = rows_for(spec, 7).obs
    _check_plain(policy)
    with torch.no_grad():
        mode, noisy = policy.act(obs, None), policy.act(obs, rng)
        _check_action("mode", mode, spec)
        _check_action("sample", noisy, spec)
        _check_action(f"mode {FAR} times as far out", policy.act(FAR * obs, None), spec)
        assert torch.equal(mode, policy.act(obs, None)), "the mode differs between two calls"
        assert torch.equal(noisy, policy.act(obs, generator(0, "check"))), "equal generators, different actions"
        alone = policy.act(obs[3:4], None)
        assert torch.allclose(mode[3:4], alone, atol=ROUNDING), "a row depends on its neighbours"
        log_prob = policy.log_prob(obs, noisy)
        if log_prob is not None:
            assert log_prob.shape == (7,), f"log_prob: shape {tuple(log_prob.shape)}, expected [7]"
            assert bool(log_prob.isfinite().all()), "log_prob of the policy's own actions is not finite"
        served = policy(obs)
        expected = ((7,), torch.int64) if spec.discrete else ((7, spec.action_dim), torch.float32)
        assert (tuple(served.shape), served.dtype) == expected, f"forward gives {served.shape} {served.dtype}"
        twin = build(policy.config, Policy, spec)
        twin.load_state_dict(policy.state_dict())
        assert torch.equal(twin(obs), served), "a policy rebuilt from config and state_dict acts differently"


def _check_action(name: str, action: Tensor, spec: Spec) -> None:
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    assert action.shape == (7, spec.action_dim), f"{name}: shape {tuple(action.shape)}, expected [7, A]"
    assert action.dtype == torch.float32, f"{name}: {action.dtype}, expected float32"
    assert bool(action.isfinite().all()), f"{name}: not finite"
    inside = (action >= low - 1e-5) & (action <= high + 1e-5)
    assert bool(inside.all()), f"{name}: outside the bounds, {action[~inside.all(-1)].tolist()[0]}: clamp it, or squash"
    if spec.discrete:
        assert bool((action.sum(-1) == 1).all() and (action.amax(-1) == 1).all()), f"{name}: not one-hot"


def _check_plain(made: Policy | Learner) -> None:
    for name, value in made.config["init_args"].items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            told = "a checkpoint holds numbers, texts, lists and dicts: take its name, or a number"
            raise AssertionError(f"the argument {name} is {value!r}, and {told}") from error


def check_learner(factory: Callable[[Spec], Learner], spec: Spec, simulator: World | None = None) -> None:
    """A learner's contract: `update` changes the weights, from its generator alone, without reading from the device,
    and can be captured: played back it does what it does when it is called.

    One that imagines is given imagined rows, and an update without any, as on logged rows alone; others never see one.
    One that reads the simulator has to be given one, which it must leave as it is.
    """
    assert not isinstance(factory, Learner), "check_learner takes the class, or a function of the spec that makes one"
    real, imagined = rows_for(spec, 12, 0), rows_for(spec, 9, 1)
    untouched = None if simulator is None else copy.deepcopy(simulator.state_dict())
    (first, lessons, world), (second, _, _) = (_updated(factory, spec, real, imagined, simulator) for _ in range(2))
    dreams = imagined if first.imagines else None
    for name, value in (untouched or {}).items():
        same = simulator is None or torch.equal(value, simulator.state_dict()[name])
        assert same, f"the learner changed {name} of the simulator: `enter` has to make a copy of its own"
    for name, value in first.state_dict().items():
        assert bool(value.isfinite().all()), f"{name} is not finite after two updates"
        assert torch.equal(value, second.state_dict()[name]), f"{name} differs between two equal runs"
    with seeded(0, "check"):
        fresh = factory(spec)
    if simulator is not None:
        fresh.enter(simulator)
    before = dict(fresh.policy.named_parameters())
    assert any(not torch.equal(v, before[k]) for k, v in first.policy.named_parameters()), "the policy did not move"
    assert first.optimizers, "optimizers is empty, so nothing of them would be in a checkpoint"
    state = torch.random.get_rng_state()
    with no_host_reads():
        metrics = first.update(lessons, dreams, generator(1, "check"), world)
    assert torch.equal(state, torch.random.get_rng_state()), "update draws from torch's global generator"
    assert isinstance(metrics, dict), f"update returns {type(metrics).__name__}, expected a dict of metrics"
    for name, value in metrics.items():
        assert isinstance(value, Tensor), f"metric {name} is {type(value).__name__}, expected a tensor"
        assert value.numel() == 1, f"metric {name} has shape {tuple(value.shape)}, expected a scalar"
        assert not value.requires_grad, f"metric {name} is not detached"
    _check_plain(first)
    _check_goes_on(first, spec, lessons, dreams, simulator, world)
    check_policy(first.policy)
    if dreams is not None:
        first.update(lessons, None, generator(3, "check"), world)


def _check_goes_on(
    learner: Learner, spec: Spec, lessons: Batch, imagined: Batch | None, simulator: World | None, world: World | None
) -> None:
    """The next three updates of the learner, of one that is restored, and of one whose update is played back."""
    (resumed, other), (taped, third) = (_twin(learner, spec, simulator) for _ in range(2))
    told = []
    for one, its_world in (learner, world), (resumed, other):
        rng = generator(2, "check")
        told.append(([one.update(lessons, imagined, rng, its_world) for _ in range(3)], one.state_dict()))
    assert _equal(told[0], told[1]), (
        "a learner restored from state_dict and optimizers goes on differently: keep all state there"
    )
    rng, played = generator(2, "check"), []
    metrics, replay = Tape().record(lambda: taped.update(lessons, imagined, rng, third))
    for _ in range(3):
        replay()
        played.append({name: value.clone() for name, value in metrics.items()})
    assert _equal(told[0], (played, taped.state_dict())), (
        "an update that is played back, as a CUDA graph would be, goes on differently: what changes from one update to"
        " the next has to be a tensor that is changed in place, and no Python value"
    )


def _twin(learner: Learner, spec: Spec, simulator: World | None) -> tuple[Learner, World | None]:
    twin = build(learner.config, Learner, spec)
    world = None if simulator is None else twin.enter(simulator)
    twin.load_state_dict(copy.deepcopy(learner.state_dict()))
    for name, optimizer in learner.optimizers.items():
        twin.optimizers[name].load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return twin, world


Told = tuple[list[dict[str, Tensor]], dict[str, Tensor]]  # metrics of each update, and the weights after the last


def _equal(one: Told, other: Told) -> bool:
    pairs = zip([*one[0], one[1]], [*other[0], other[1]], strict=True)
    return all(torch.equal(value, b[name]) for a, b in pairs for name, value in a.items())


def _updated(
    factory: Callable[[Spec], Learner], spec: Spec, real: Batch, imagined: Batch, simulator: World | None
) -> tuple[Learner, Batch, World | None]:
    with seeded(0, "check"):
        learner = factory(spec)
    ends = real.terminated | (torch.arange(len(real.reward)) % 6 == 5)
    lessons = learner.study(real, ends)
    several = lessons.reward.shape[1:]
    for name, given, found in zip(Batch._fields, real, lessons, strict=True):
        expected = [len(real.reward), *several, *given.shape[1:]]
        assert list(found.shape) == expected, f"study gives {name} of {list(found.shape)}, expected {expected}"
    world = None if simulator is None else learner.enter(simulator)
    rng, before = generator(0, "check"), [column.clone() for column in lessons]
    for _ in range(2):
        learner.update(lessons, imagined if learner.imagines else None, rng, world)
    for name, column, kept in zip(Batch._fields, lessons, before, strict=True):
        assert torch.equal(column, kept), f"update changes {name} of the rows that it is given: make a copy"
    return learner, lessons, world
