"""What is killed resumes bit by bit, and no checkpoint is taken for another one."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import forked
from rehearsal_toys import ROWS, SHORT, SPEC, Spy, parts, same, straight, weights
from torch import Tensor

from mbrl import files, precision
from mbrl.core import Batch, Spec, World
from mbrl.training.loop import Interrupted
from mbrl.training.policy import fit_policy


@pytest.mark.parametrize("stop", [5, 14, 20])  # within a batch of rollouts, at its end, with a ring that has rotated
def test_resume_is_bit_identical(stop: int, tmp_path: Path) -> None:
    path = tmp_path / "policy.ckpt"
    learner, simulator = parts()
    fit_policy(learner, ROWS, simulator, updates=stop, checkpoint=path, **SHORT)
    resumed, simulator = parts()
    report = fit_policy(resumed, ROWS, simulator, updates=30, checkpoint=path, **SHORT)
    assert report.updates == 30
    assert same(weights(resumed), straight(30))


def test_auto_goes_on_in_the_precision_that_was_begun_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that multiplies bfloat16, and then on one that does not."""
    path = tmp_path / "policy.ckpt"
    for updates, multiplies in (4, True), (8, False):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda _, answer=multiplies: answer)
        learner, simulator = parts()
        fit_policy(learner, ROWS, simulator, updates=updates, checkpoint=path, precision="auto", **SHORT)
        assert files.load(path)["settings"]["precision"] == "bf16-mixed"
    learner, simulator = parts()
    with pytest.raises(ValueError, match="precision was bf16-mixed, is 32-true"):
        fit_policy(learner, ROWS, simulator, updates=9, checkpoint=path, **SHORT)


def slow(path: Path, updates: int) -> None:
    torch.set_num_threads(1)
    learner, simulator = parts()
    settings = {"updates": updates, "checkpoint": path, "checkpoint_every": 10, "log_every": 1, **SHORT}
    fit_policy(learner, ROWS, simulator, log=lambda metrics, done: time.sleep(0.05), **settings)


def test_sigkill_and_resume_is_bit_identical(tmp_path: Path) -> None:
    path, updates = tmp_path / "policy.ckpt", 100
    child = forked(slow, path, updates, output=tmp_path / "told")
    deadline = time.monotonic() + 120
    while not path.exists() or files.load(path)["updates"] < 20:  # the second one, in the place of the first
        assert child.is_alive(), (tmp_path / "told").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.kill()
    child.join()
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


def test_ctrl_c_during_the_last_update_stops_what_comes_after_it(tmp_path: Path) -> None:
    path = tmp_path / "policy.ckpt"

    def press(metrics: dict[str, Tensor], done: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="3 of 3"):
        fit_policy(Spy(SPEC), ROWS, updates=3, real_ratio=1.0, checkpoint=path, log=press, log_every=3)
    assert fit_policy(Spy(SPEC), ROWS, updates=3, real_ratio=1.0, checkpoint=path).pace.updates == 0  # all were kept


def test_ctrl_c_while_the_last_checkpoint_is_written_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, save = tmp_path / "policy.ckpt", files.save

    def slowly(*given: Any) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return save(*given)

    monkeypatch.setattr(files, "save", slowly)
    with pytest.raises(Interrupted, match="3 of 3"):
        fit_policy(Spy(SPEC), ROWS, updates=3, real_ratio=1.0, checkpoint=path)
    assert files.load(path)["updates"] == 3


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


def test_a_diverged_learner_stops_and_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "policy.ckpt"
    with pytest.raises(FloatingPointError, match="loss is nan at update 5"):
        fit_policy(Spy(SPEC, poison=True), ROWS, updates=5, real_ratio=1.0, checkpoint=path)
    assert not path.exists()


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
