"""Learners that differ by their seed, trained as one: they become what each of them would have become alone."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rehearsal_toys import ROWS, SHORT, SPEC, parts, same, weights
from torch import Tensor

from mbrl import files
from mbrl.core import Batch, Learner, Policy, Spec, World, build, generator, rows_at, seeded
from mbrl.testing import no_host_reads
from mbrl.training import policy, population, room
from mbrl.training.buffer import Ring
from mbrl.training.policy import fit_policy
from mbrl.training.population import Population, apart
from mbrl.watching import Tape

SEEDS = [3, 0, 7]
SMALL: dict[str, Any] = {"hidden": [16, 16]}
BOX = {
    "BC": SMALL,
    "SAC": {**SMALL, "critics": 4, "layer_norm": True},
    "COMBO": {**SMALL, "samples": 3},
    "MOBILE": {**SMALL, "samples": 2},
    "CQL": {**SMALL, "samples": 3},
    "EDAC": {**SMALL, "critics": 3},
    "IQL": SMALL,
    "AWAC": SMALL,
    "AWR": SMALL,
    "BCQ": SMALL,
    "TD3BC": SMALL,
    "ReBRAC": SMALL,
    "DecisionTransformer": {"width": 8, "layers": 1},
}
DISCRETE = {
    "BC": SMALL,
    "SAC": SMALL,
    "CQL": SMALL,
    "IQL": SMALL,
    "AWAC": SMALL,
    "AWR": SMALL,
    "DiscreteBCQ": SMALL,
    "DecisionTransformer": {"width": 8, "layers": 1},
}
CASES = [(name, arguments, False) for name, arguments in BOX.items()]
CASES += [(name, arguments, True) for name, arguments in DISCRETE.items()]


def configured(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"policies.{name}", "init_args": arguments}


def alone(spec: Spec, config: dict[str, Any], seed: int) -> Learner:
    with seeded(seed, "policy"):
        made: Learner = build(config, Learner, spec)
    return made


def log(discrete: bool) -> tuple[Spec, Batch, Tensor]:
    """A spec, rows [200] and the ends of episodes of 20."""
    ends = torch.arange(200) % 20 == 19
    if not discrete:
        return SPEC, ROWS, ends
    from dataclasses import replace

    choices = torch.eye(3)[torch.arange(200) % 3]
    kind = {"discrete": True, "action_low": (0.0,) * 3, "action_high": (1.0,) * 3}
    return replace(SPEC, **kind), ROWS._replace(action=choices), ends


@pytest.mark.parametrize(("name", "arguments", "discrete"), CASES, ids=[f"{n}-{d}" for n, _, d in CASES])
def test_members_become_what_they_would_become_alone(
    name: str, arguments: dict[str, Any], discrete: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given the same noise: two updates on rows of their own, after which weights differ by rounding alone."""
    monkeypatch.setattr(population, "vmap", lambda one, randomness: partial(torch.func.vmap, randomness="same")(one))
    (spec, rows, ends), config = log(discrete), configured(name, **arguments)
    together = Population(spec, config, SEEDS)
    members = [alone(spec, config, seed) for seed in SEEDS]
    for k, member in enumerate(members):
        assert same(together.policy.single(k).state_dict(), member.policy.state_dict())
    lessons = together.study(rows, ends)
    world = parts()[1] if together.imagines and not discrete else None
    dreams = rows_at(rows, torch.arange(12) + 100) if together.imagines else None
    seen = rows_at(lessons, torch.arange(24) * 5)
    rng = generator(0, "population")
    for _ in range(2):
        metrics = together.update(seen, dreams, rng, world)
    losses = []
    for k, member in enumerate(members):
        member.study(rows, ends)
        rng = generator(0, "population")
        own = rows_at(seen, torch.arange(8) + 8 * k)
        dreamt = None if dreams is None else rows_at(dreams, torch.arange(4) + 4 * k)
        for _ in range(2):
            losses.append(member.update(own, dreamt, rng, world))
        found = {key: value[k] for key, value in together.learner.state_dict().items()}
        far = [(found[key] - value).abs() > 2e-5 + 1e-4 * value.abs() for key, value in member.state_dict().items()]
        odd = torch.cat([one.flatten() for one in far]).float().mean()
        assert odd < (0.01 if name == "DecisionTransformer" else 1e-9)  # keys have a bias without a gradient: noise
    for key, value in metrics.items():
        assert value.shape == ()
        mean = torch.stack([loss[key] for loss in losses[1::2]]).mean()
        torch.testing.assert_close(value, mean, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "arguments"), [*BOX.items(), ("CQL", {**BOX["CQL"], "threshold": 5.0})])
def test_no_operation_of_an_update_falls_back_to_one_member_after_the_other(name: str, arguments: dict) -> None:
    """Torch warns where it does, which is an error here."""
    spec, rows, ends = log(False)
    together = Population(spec, configured(name, **arguments), [0, 1])
    dreams = rows_at(rows, torch.arange(8)) if together.imagines else None
    seen = rows_at(together.study(rows, ends), torch.arange(16))
    metrics = together.update(seen, dreams, generator(0, "population"), parts()[1] if together.imagines else None)
    assert all(value.isfinite() for value in metrics.values())


def test_noise_is_drawn_for_each_member_anew() -> None:
    together = Population(SPEC, configured("SAC", **SMALL), [0, 1])
    for one in together.policy.parameters():
        one.data[1] = one.data[0]
    obs = ROWS.obs[:6].repeat(2, 1)
    first, second = together.policy.act(obs, generator(0, "noise")).chunk(2)
    assert not torch.isclose(first, second).any()
    first, second = together.policy.act(obs, None).chunk(2)
    torch.testing.assert_close(first, second)


def test_no_member_reads_anything_of_another() -> None:
    ends = []
    for seeds, others in (([0, 1], 0), ([0, 2], 50)):
        together, rng = Population(SPEC, configured("SAC", **SMALL), seeds), generator(0, "population")
        for _ in range(3):
            rows = rows_at(ROWS, torch.cat([torch.arange(8), torch.arange(8) + others]))
            together.update(rows, None, rng)
        ends.append({name: value.clone() for name, value in together.learner.state_dict().items()})
    first, second = ends
    assert all(torch.equal(first[name][0], second[name][0]) for name in first)
    assert not any(torch.equal(first[name][1], second[name][1]) for name in first if name.endswith("weight"))


def test_a_ring_keeps_the_rows_of_members_apart() -> None:
    ring = Ring(SPEC, capacity=12, members=2)
    number = torch.arange(8.0).view(2, 4)  # two steps; of each the first two rows are of member 0, the others of 1
    shaped = Batch(*(column[:8].unflatten(0, (2, 4)) for column in ROWS))
    ring.add(shaped._replace(reward=number))
    assert ring.rows.reward.tolist() == [0, 2, 1, 3, 4, 6, 5, 7, 0, 0, 0, 0]  # in turn: 0, 1, 0, 1, ...
    for _ in range(3):
        assert set(ring.sample(40, generator(0, "ring")).reward[:20].tolist()) == {0, 1, 4, 5}
        assert set(ring.sample(40, generator(0, "ring")).reward[20:].tolist()) == {2, 3, 6, 7}
    ring.add(shaped._replace(reward=number + 8))  # of 16 the newest 12 stay
    assert set(ring.sample(80, generator(1, "ring")).reward[:40].tolist()) == {4, 5, 8, 9, 12, 13}
    with pytest.raises(ValueError, match="capacity is 7, expected at least 1, and a multiple of the 2 members"):
        Ring(SPEC, capacity=7, members=2)


class Own(Policy):
    """Acts as its only weight says."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.level = torch.nn.Parameter(torch.rand(()) - 0.5)

    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        return self.level.expand(*obs.shape[:-1], self.spec.action_dim)


class Looking(Learner):
    """Learns nothing; says how far imagined actions are from those of its own policy, and how many rows it got."""

    def __init__(self, spec: Spec, plans: bool = False) -> None:
        super().__init__(spec)
        self.own = Own(spec)

    @property
    def policy(self) -> Policy:
        return self.own

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        assert imagined is not None
        count = torch.stack([torch.ones_like(real.reward).sum(), torch.ones_like(imagined.reward).sum()])
        return {"off": (imagined.action - self.own.level.detach()).abs().amax(), "real": count[0], "imagined": count[1]}


def test_each_member_is_given_its_own_share_of_rows_and_its_own_dreams() -> None:
    together, said = Population(SPEC, {"class_path": f"{__name__}.Looking", "init_args": {}}, SEEDS), []
    assert together.policy.policy.level.unique().numel() == 3
    report = fit_policy(
        together, ROWS, parts()[1], updates=8, log=lambda metrics, at: said.append(metrics), log_every=1, **SHORT
    )
    assert {float(metrics["off"]) for metrics in said} == {0.0}
    assert {(float(metrics["real"]), float(metrics["imagined"])) for metrics in said} == {(8.0, 8.0)}
    assert report.imagined_rows == 2 * 3 * 10 * 2  # rollouts x members x starts x steps


def trained(updates: int, checkpoint: Path | None, average: int | None = None, capture: bool = False) -> Population:
    together = Population(SPEC, configured("SAC", **SMALL), [0, 1])
    fit_policy(
        together,
        ROWS,
        parts()[1],
        updates=updates,
        checkpoint=checkpoint,
        average=average,
        capture=capture,
        **SHORT,
    )
    return together


def test_a_population_goes_on_bit_by_bit(tmp_path: Path) -> None:
    trained(9, tmp_path / "stopped.ckpt")
    assert same(weights(trained(20, tmp_path / "stopped.ckpt")), weights(trained(20, None)))


def test_a_population_is_captured_like_any_other_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CUDA graph does on a GPU is done by a tape here: the operations once, and then the tape again."""
    monkeypatch.setattr(policy, "recorder", lambda *_: Tape())
    assert same(weights(trained(20, None, capture=True)), weights(trained(20, None)))


def test_a_population_leaves_global_randomness_alone() -> None:
    state = torch.random.get_rng_state()
    together = Population(SPEC, configured("AWR", **SMALL), [0, 1])
    together.study(ROWS, torch.arange(len(ROWS.reward)) == len(ROWS.reward) - 1)
    together.policy.single(1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_update_of_a_population_reads_nothing_from_the_device() -> None:
    together, rng = Population(SPEC, configured("COMBO", **SMALL), [0, 1]), generator(0, "population")
    together.update(ROWS, ROWS, rng)  # the first one makes the state of the optimisers
    with no_host_reads():
        together.update(ROWS, ROWS, rng)


def test_members_have_checkpoints_of_their_own_to_go_on_from(tmp_path: Path) -> None:
    together = trained(12, tmp_path / "all.ckpt", average=4)
    whole = files.load(tmp_path / "all.ckpt")
    for k, content in enumerate(apart(whole, 2)):
        files.save(tmp_path / f"{k}.ckpt", content)
        one = alone(SPEC, configured("SAC", **SMALL), 99)
        at = dict(updates=12, checkpoint=tmp_path / f"{k}.ckpt", average=4, **SHORT)
        report = fit_policy(one, ROWS, parts()[1], **at)  # nothing is left to do: it is only read
        assert report.updates == 12
        assert same(weights(one), {name: value[k] for name, value in together.learner.state_dict().items()})
        steps = [state["step"].item() for state in one.optimizers["critics"].state.values()]
        assert set(steps) == {12.0}
        every = whole["ring"]["rows"]
        assert all(torch.equal(own, every[name][k::2]) for name, own in content["ring"]["rows"].items())
        fit_policy(one, ROWS, parts()[1], **at | {"updates": 16})
        assert all(value.isfinite().all() for value in one.state_dict().values())


class Stubborn(Looking):
    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        self.own.level.square().sum().backward()
        return {}


def test_what_is_no_population_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for seeds in ([], [1, 1]):
        with pytest.raises(ValueError, match=r"seeds are .*, expected different numbers, at least one"):
            Population(SPEC, configured("SAC"), seeds)
    with pytest.raises(ValueError, match="RAMBO has a simulator of its own, and a population shares one"):
        Population(SPEC, configured("RAMBO"), [0, 1])
    stubborn = Population(SPEC, {"class_path": f"{__name__}.Stubborn", "init_args": {}}, [0, 1])
    with pytest.raises(RuntimeError, match=r"Stubborn\.update cannot be mapped .*step its optimisers by mbrl\.core"):
        stubborn.update(ROWS, None, generator(0, "population"))
    monkeypatch.setattr(room, "free", lambda device: 3e6)
    with pytest.raises(ValueError, match=r"seeds is 50, and one of them takes about .* at most \d+ fit"):
        Population(SPEC, configured("SAC"), list(range(50)))
