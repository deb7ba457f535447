"""One loop for every learner; what is killed resumes bit by bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mbrl import files
from mbrl.bench import hopper_sized
from mbrl.core import Batch, Learner, Policy, Spec, World, generator, seeded
from mbrl.simulator.simulator import Simulator
from mbrl.training.loop import Interrupted, Pace
from mbrl.training.policy import fit_policy

SPEC, ROWS = hopper_sized(200, 0)
SHORT = {"batch_size": 16, "horizon": 2, "rollout_every": 7, "rollout_starts": 10, "keep_rollouts": 2}


def parts() -> tuple[Learner, Simulator]:
    from dynamics import ProbabilisticEnsemble
    from dynamics.uncertainty import ensemble_std
    from policies import SAC

    with seeded(0, "test"):
        learner = SAC(SPEC, hidden=(16, 16))
        model = ProbabilisticEnsemble(SPEC, members=3, elites=2, hidden=8, layers=1)
    simulator = Simulator(model, SPEC, ensemble_std)
    simulator.calibrate(ROWS)
    return learner, simulator


def weights(learner: Learner) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in learner.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def straight(updates: int) -> dict[str, Tensor]:
    learner, simulator = parts()
    fit_policy(learner, ROWS, simulator, updates=updates, **SHORT)
    return weights(learner)


def test_same_seed_same_weights_and_another_seed_others() -> None:
    first = straight(10)
    assert same(first, straight(10))
    learner, simulator = parts()
    fit_policy(learner, ROWS, simulator, updates=10, seed=1, **SHORT)
    assert not same(first, weights(learner))


@pytest.mark.parametrize("stop", [5, 14, 20])  # within a batch of rollouts, at its end, with a ring that has rotated
def test_resume_is_bit_identical(stop: int, tmp_path: Path) -> None:
    path = tmp_path / "policy.ckpt"
    learner, simulator = parts()
    fit_policy(learner, ROWS, simulator, updates=stop, checkpoint=path, **SHORT)
    resumed, simulator = parts()
    report = fit_policy(resumed, ROWS, simulator, updates=30, checkpoint=path, **SHORT)
    assert report.updates == 30
    assert same(weights(resumed), straight(30))


CHILD = """
import sys, time
from pathlib import Path
from typing import Any
sys.path[:0] = {paths!r}
from test_fit_policy import ROWS, SHORT, parts
import torch
from mbrl.training.policy import fit_policy
torch.set_num_threads(1)
learner, simulator = parts()
fit_policy(learner, ROWS, simulator, updates={updates}, checkpoint=Path(sys.argv[1]), checkpoint_every=10, log_every=1,
           log=lambda metrics, done: time.sleep(0.01), **SHORT)
"""


def test_sigkill_and_resume_is_bit_identical(tmp_path: Path) -> None:
    path, updates = tmp_path / "policy.ckpt", 400
    root = Path(__file__).parents[2]
    code = CHILD.format(paths=[str(root), str(Path(__file__).parent)], updates=updates)
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = files.load(path)["updates"]
    assert 0 < done < updates
    resumed, simulator = parts()
    fit_policy(resumed, ROWS, simulator, updates=updates, checkpoint=path, checkpoint_every=10, **SHORT)
    assert same(weights(resumed), straight(updates))


def test_ctrl_c_stops_between_updates_and_is_resumable(tmp_path: Path) -> None:
    path = tmp_path / "policy.ckpt"
    learner, simulator = parts()

    def press(metrics: dict[str, Tensor], done: int) -> None:
        if done == 12:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="12 of 30"):
        fit_policy(learner, ROWS, simulator, updates=30, checkpoint=path, log=press, log_every=1, **SHORT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed, simulator = parts()
    fit_policy(resumed, ROWS, simulator, updates=30, checkpoint=path, **SHORT)
    assert same(weights(resumed), straight(30))


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "policy.ckpt"
    learner, simulator = parts()
    fit_policy(learner, ROWS, simulator, updates=10, checkpoint=path, **SHORT)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fit_policy(learner, ROWS, simulator, updates=20, checkpoint=path, **SHORT)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.ckpt"
    learner, simulator = parts()
    fit_policy(learner, ROWS, simulator, updates=10, checkpoint=path, **SHORT)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(files.CorruptFileError, match=r"policy\.ckpt is truncated or altered"):
        fit_policy(learner, ROWS, simulator, updates=20, checkpoint=path, **SHORT)


class Constant(Policy):
    def act(self, obs: Tensor, rng: torch.Generator | None) -> Tensor:
        return obs.new_zeros(len(obs), self.spec.action_dim)


class Spy(Learner):
    """Learns nothing; remembers the rows it was shown."""

    def __init__(self, spec: Spec, poison: bool = False) -> None:
        super().__init__(spec)
        self.poison, self.seen = poison, []
        self._policy = Constant(spec)

    @property
    def policy(self) -> Policy:
        return self._policy

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        self.seen.append((len(real.reward), 0 if imagined is None else len(imagined.reward)))
        return {"loss": torch.tensor(float("nan") if self.poison else 0.0)}


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


def test_a_diverged_learner_stops_and_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "policy.ckpt"
    with pytest.raises(FloatingPointError, match="loss is nan at update 5"):
        fit_policy(Spy(SPEC, poison=True), ROWS, updates=5, real_ratio=1.0, checkpoint=path)
    assert not path.exists()


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
        ({"real_ratio": 0.99, "batch_size": 32}, "real_ratio is 0.99 and batch_size 32: no row of an update would be"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_policy(Spy(SPEC), ROWS, parts()[1], **settings)
    with pytest.raises(ValueError, match="no logged rows"):
        fit_policy(Spy(SPEC), Batch(*(c[:0] for c in ROWS)), real_ratio=1.0)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.ckpt"
    settings = {"real_ratio": 1.0, "checkpoint": path}
    fit_policy(Spy(SPEC), ROWS, updates=3, **settings)
    for other, message in (
        ({"seed": 7}, "seed was 0, is 7"),
        ({"batch_size": 32, "horizon": 2}, "batch_size was 256, is 32, horizon was 5, is 2"),
        ({"updates": 2}, "3 updates behind it, more than the 2 asked for"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_policy(Spy(SPEC), ROWS, **{"updates": 3, **settings, **other})
    with pytest.raises(ValueError, match=r"learner was .*'poison': False.* is .*'poison': True"):
        fit_policy(Spy(SPEC, poison=True), ROWS, updates=4, **settings)
    content = files.load(path)
    before = {name: value for name, value in content["spec"].items() if name not in ("carried", "terminal_rate")}
    files.save(path, content | {"spec": before | {"sources": []}})  # by a version that did not know these fields
    assert fit_policy(Spy(SPEC), ROWS, updates=4, **settings).updates == 4
    files.save(path, {"something": 1})
    with pytest.raises(files.CorruptFileError, match="not a learner's checkpoint"):
        fit_policy(Spy(SPEC), ROWS, updates=4, **settings)


def test_a_checkpoint_of_other_pessimism_is_refused(tmp_path: Path) -> None:
    path, (learner, simulator) = tmp_path / "policy.ckpt", parts()
    fit_policy(learner, ROWS, simulator, updates=1, checkpoint=path, **SHORT)
    for other, message in (
        ({"penalty": 9.0}, r"penalty was 1\.0, is 9\.0"),  # 1 where the simulator has an uncertainty
        ({"halt": 2.0, "halt_cost": 3.0}, r"halt was None, is 2\.0, halt_cost was None, is 3\.0"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_policy(learner, ROWS, simulator, updates=2, checkpoint=path, **SHORT, **other)
    fit_policy(learner, ROWS, simulator, updates=2, checkpoint=path, **SHORT, penalty=1.0)
    certain = tmp_path / "certain.ckpt"
    for penalty in (None, 0.0):  # 0 where it has none
        fit_policy(learner, ROWS, simulator.plain(), updates=1, checkpoint=certain, **SHORT, penalty=penalty)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    class Broken(Spy):
        def __init__(self, spec: Spec) -> None:
            super().__init__(spec)
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def update(
            self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
        ) -> dict[str, Tensor]:
            self.weight.data.fill_(torch.inf)
            return super().update(real, imagined, rng)

    with pytest.raises(FloatingPointError, match="weights that are not finite after update 2"):
        fit_policy(Broken(SPEC), ROWS, updates=2, real_ratio=1.0, checkpoint=tmp_path / "policy.ckpt")
    assert not list(tmp_path.iterdir())


def test_rollouts_begin_in_logged_states_and_the_policy_dreams_in_eval_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, simulator = parts()
    started: list[Tensor] = []
    modes: list[bool] = []
    from mbrl.training import steps as loop

    honest = loop.imagine

    def spy(actor: Policy, world: Simulator, start: Tensor, *rest: Any, **named: Any) -> Batch:
        started.append(start)
        modes.append(actor.training)
        return honest(actor, world, start, *rest, **named)

    monkeypatch.setattr(loop, "imagine", spy)
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


def test_streams_of_randomness_are_separate() -> None:
    """The start states and rows of a run do not depend on how long its rollouts are."""
    drawn = [torch.rand(3, generator=generator(0, f"policy/{name}")) for name in ("rows", "start", "imagination")]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
