"""One loop for every learner."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rehearsal_toys import ROWS, SHORT, SPEC, Spy, parts, same, straight, weights
from torch import Tensor, nn

from mbrl.core import Batch, Policy, World
from mbrl.simulator.simulator import Simulator
from mbrl.training import steps
from mbrl.training.loop import Pace, now
from mbrl.training.policy import fit_policy


def test_same_seed_same_weights_and_another_seed_others() -> None:
    first = straight(10)
    assert same(first, straight(10))
    learner, simulator = parts()
    fit_policy(learner, ROWS, simulator, updates=10, seed=1, **SHORT)
    assert not same(first, weights(learner))


def test_rows_are_divided_by_the_real_ratio() -> None:
    _, simulator = parts()
    for ratio, expected in ((0.25, (4, 12)), (1.0, (16, 0)), (0.0, (0, 16))):
        learner = Spy(SPEC)
        report = fit_policy(learner, ROWS, simulator, updates=8, real_ratio=ratio, **SHORT)
        assert set(learner.seen) == {expected}
        assert report.imagined_rows == (0 if ratio == 1 else 2 * 10 * 2)  # updates 0 and 7, 10 starts, 2 steps


def test_logged_metrics_are_tensors_at_every_log_every() -> None:
    told: list[tuple[int, object]] = []
    fit_policy(
        Spy(SPEC), ROWS, updates=9, real_ratio=1.0, log=lambda m, k: told.append((k, type(m["loss"]))), log_every=4
    )
    assert told == [(4, Tensor), (8, Tensor)]


def test_bad_arguments(tmp_path: Path) -> None:
    for settings, message in (
        ({"updates": 0}, "updates is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rollout_every": 0}, "rollout_every is 0"),
        ({"horizon": 0}, "horizon is 0"),
        ({"rollout_starts": 0}, "rollout_starts is 0"),
        ({"keep_rollouts": 0}, "keep_rollouts is 0"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"log_every": 0}, "log_every is 0"),
        ({"precision": "16-mixed"}, "precision is '16-mixed', expected one of 32-true, bf16-mixed, auto"),
        ({"real_ratio": 1.5}, r"real_ratio is 1\.5"),
        ({}, "Spy learns from imagined rows"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_policy(Spy(SPEC), ROWS, None, **settings)
    for settings, message in (
        ({"penalty": -1.0}, "penalty is -1"),
        ({"penalty": float("nan")}, "penalty is nan"),
        ({"halt": 0.0}, "halt is 0"),
        ({"halt_cost": 1.0}, "halt_cost is 1.0 and halt is None"),
        ({"penalty": 2.0, "real_ratio": 1.0}, "penalty is 2.0 and nothing is imagined"),
        ({"halt": 1.0, "real_ratio": 1.0}, "halt is 1.0 and nothing is imagined"),
        ({"real_ratio": 0.99, "batch_size": 32}, "batch_size 32: no row of an update would be an imagined one"),
        (
            {"real_ratio": 0.01, "batch_size": 32},
            "real_ratio is 0.01 and batch_size 32: no row .* would be a logged one",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            fit_policy(Spy(SPEC), ROWS, parts()[1], **settings)
    with pytest.raises(ValueError, match="no logged rows"):
        fit_policy(Spy(SPEC), Batch(*(c[:0] for c in ROWS)), real_ratio=1.0)


def test_rollouts_begin_in_logged_states_and_the_policy_dreams_in_eval_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, simulator = parts()
    started: list[Tensor] = []
    modes: list[bool] = []
    honest = steps.imagine

    def spy(actor: Policy, world: Simulator, start: Tensor, *rest: Any, **named: Any) -> Batch:
        started.append(start)
        modes.append(actor.training)
        return honest(actor, world, start, *rest, **named)

    monkeypatch.setattr(steps, "imagine", spy)
    fit_policy(learner, ROWS, simulator, updates=15, **SHORT)
    assert len(started) == 3  # updates 0, 7 and 14
    logged = {tuple(row) for row in ROWS.obs.tolist()}
    assert all(tuple(row) in logged for start in started for row in start.tolist())
    assert not torch.equal(started[0], started[1])
    assert modes == [False] * 3
    assert not learner.training


def test_precision_reaches_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asks(Spy):
        def update(
            self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
        ) -> dict[str, Tensor]:
            asked.append(torch.is_autocast_enabled("cpu"))
            return super().update(real, imagined, rng)

    asked: list[bool] = []
    fit_policy(Asks(SPEC), ROWS, updates=1, real_ratio=1.0)
    fit_policy(Asks(SPEC), ROWS, updates=1, real_ratio=1.0, precision="bf16-mixed")
    for fast in True, False:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        fit_policy(Asks(SPEC), ROWS, updates=1, real_ratio=1.0, precision="auto")
    assert asked == [False, True, True, False]


def test_precision_reaches_the_imagination() -> None:
    learner, simulator = parts()
    hidden: list[torch.dtype] = []
    learner.policy.network.hidden[2].register_forward_hook(lambda layer, given, out: hidden.append(out.dtype))
    fit_policy(learner, ROWS, simulator, updates=1, precision="bf16-mixed", **SHORT)
    assert hidden[: SHORT["horizon"]] == [torch.bfloat16] * SHORT["horizon"]
    assert {column.dtype for column in ROWS} == {torch.float32, torch.bool}


def test_a_step_within_an_update_is_seen_by_what_comes_after_it() -> None:
    """Autocast would keep bfloat16 copies of the weights from before the step."""

    class Stepping(Spy):
        def update(
            self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
        ) -> dict[str, Tensor]:
            weight = nn.Parameter(torch.ones(1, 1))
            seen.append(nn.functional.linear(weight, weight).detach().item())
            with torch.no_grad():
                weight.mul_(2)
            seen.append(nn.functional.linear(weight, weight).detach().item())
            return super().update(real, imagined, rng)

    seen: list[float] = []
    fit_policy(Stepping(SPEC), ROWS, updates=1, real_ratio=1.0, precision="bf16-mixed")
    assert seen == [1.0, 4.0]


def test_what_autocast_keeps_elsewhere_in_the_process_is_left_alone() -> None:
    fit_policy(Spy(SPEC), ROWS, updates=1, real_ratio=1.0)
    assert torch.is_autocast_cache_enabled()


def test_time_on_a_gpu_is_told_when_it_has_done_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    before = now(torch.device("cpu"))
    assert not waited
    assert now(torch.device("cuda:1")) >= before
    assert waited == [torch.device("cuda:1")]


def test_the_pace_says_where_the_time_went(tmp_path: Path) -> None:
    pace = Pace(updates=100, imagined_rows=600, seconds=4.0, rollouts=1.0, logging=0.02)
    told = "25 updates/s, 600 imagined rows/s; rollouts 25% of the time, updates 74%, logging 0.5%"
    assert str(pace) == told
    assert str(pace._replace(imagined_rows=0, rollouts=0.0)).startswith("25 updates/s; rollouts 0%")
    path = tmp_path / "policy.ckpt"
    for updates, more in (8, 8), (20, 12), (20, 0):
        learner, simulator = parts()
        report = fit_policy(learner, ROWS, simulator, updates=updates, checkpoint=path, **SHORT)
        assert report.pace.updates == more
        assert 0 <= report.pace.rollouts + report.pace.logging <= report.pace.seconds
    assert report.imagined_rows == 3 * 20  # before updates 0, 7 and 14


def test_logged_rows_and_starts_do_not_depend_on_how_long_rollouts_are(monkeypatch: pytest.MonkeyPatch) -> None:
    class Notes(Spy):
        def update(
            self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
        ) -> dict[str, Tensor]:
            logged.append(real.obs)
            return super().update(real, imagined, rng, simulator)

    def spy(actor: Policy, world: Simulator, start: Tensor, *rest: Any, **named: Any) -> Batch:
        started.append(start)
        return honest(actor, world, start, *rest, **named)

    honest, seen = steps.imagine, []
    monkeypatch.setattr(steps, "imagine", spy)
    for horizon in (1, 3):
        logged: list[Tensor] = []
        started: list[Tensor] = []
        fit_policy(Notes(SPEC), ROWS, parts()[1], updates=15, **SHORT | {"horizon": horizon})
        seen.append((logged, started))
    assert [len(column) for column in seen[0]] == [15, 3]
    for one, other in zip(*seen, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
