"""Two processes that share a fit do what one does with batches of twice the size."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import forked
from test_fit_dynamics import EPISODE, HELD, LOG, small

from mbrl.core import Dynamics
from mbrl.data.source import Whole
from mbrl.training.dynamics import fit_dynamics
from mbrl.training.shell import Shell
from mbrl.training.trainer import relayed, started_by

Curve = list[tuple[int, dict[str, float]]]


def fitted(**settings: Any) -> tuple[Dynamics, Curve]:
    model, curve = small(), []
    settings = {"seed": 0, "max_epochs": 3, **settings}
    fit_dynamics(model, Whole(LOG, EPISODE), HELD, log=lambda told, epoch: curve.append((epoch, told)), **settings)
    return model, curve


@pytest.mark.parametrize("multistep", [1, 4])
def test_two_processes_equal_one_with_the_doubled_batch(
    multistep: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(shell: Shell) -> None:
        torch.save(shell.state_dict(), tmp_path / f"{shell.trainer.global_rank}-of-{shell.trainer.world_size}.pt")

    monkeypatch.setattr(Shell, "on_train_end", keep)
    settings = {"multistep": multistep, "holdout_episode": torch.arange(200) // 10}
    whole, curve = fitted(batch_size=64, **settings)
    halves, shared = fitted(batch_size=32, devices=2, strategy="ddp", **settings)
    assert [epoch for epoch, _ in shared] == [epoch for epoch, _ in curve] == [1, 2, 3]
    for (_, one), (_, two) in zip(curve, shared, strict=True):
        assert two == pytest.approx(one, rel=1e-5)
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    first, second = (torch.load(tmp_path / f"{rank}-of-2.pt") for rank in (0, 1))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_fit_in_two_processes_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    settings = {"batch_size": 32, "devices": 2}
    straight, _ = fitted(**settings)
    fitted(folder=tmp_path, max_epochs=1, **settings)
    resumed, curve = fitted(folder=tmp_path, **settings)
    assert [epoch for epoch, _ in curve] == [2, 3]
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def interrupted() -> None:
    """A fit without end, in two processes, that says how it was ended."""
    try:
        fitted(batch_size=32, devices=2, max_epochs=100_000, patience=100_000, progress="dynamics")
    except KeyboardInterrupt:
        print("interrupted", flush=True)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_reach_all_processes(stop: signal.Signals, tmp_path: Path) -> None:
    told = tmp_path / "told"
    child = forked(interrupted, output=told)
    assert child.pid is not None
    deadline = time.monotonic() + 120
    try:
        while "epoch 2" not in told.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if stop == signal.SIGINT:
            os.killpg(child.pid, stop)  # as a terminal does
        else:
            os.kill(child.pid, stop)  # as a container does, to the first process alone
        child.join(120)
        assert (child.exitcode, told.read_text().splitlines()[-1]) == (0, "interrupted")
        with pytest.raises(ProcessLookupError):  # nobody is left
            os.killpg(child.pid, 0)
    finally:
        if child.is_alive():
            os.killpg(child.pid, signal.SIGKILL)


def threaded() -> None:
    torch.set_num_threads(2)
    torch.ones(2000, 2000) @ torch.ones(2000, 2000)  # OpenMP has threads from now on, which no fork has
    print(len(fitted(batch_size=32, devices=2, max_epochs=2)[1]), torch.get_num_threads(), flush=True)


def test_processes_do_not_wait_for_threads_that_they_have_not(tmp_path: Path) -> None:
    child = forked(threaded, output=tmp_path / "told")
    assert child.pid is not None
    try:
        child.join(240)
        assert child.exitcode == 0
        assert (tmp_path / "told").read_text().splitlines()[-1] == "2 2"
    finally:
        if child.is_alive():
            os.killpg(child.pid, signal.SIGKILL)


def test_what_goes_wrong_in_a_process_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(folder=tmp_path, max_epochs=1, batch_size=32, devices=2)
    with pytest.raises(
        RuntimeError, match="in one of the 2 processes of this fit: ValueError: the checkpoint is of"
    ) as told:
        fitted(folder=tmp_path, lr=0.01, batch_size=32, devices=2)
    assert "\n" not in str(told.value)
    monkeypatch.setattr(Shell, "on_train_start", lambda shell: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RuntimeError, match=r"one of the 2 processes of this fit was ended .*: where memory is short"):
        fitted(batch_size=32, devices=2)


@pytest.mark.parametrize(
    ("strategy", "accelerator", "devices", "expected"),
    [
        ("auto", "cpu", 1, ("auto", None)),
        ("ddp", "cpu", 2, ("ddp_fork", "fork")),
        ("auto", "cuda", 2, ("ddp_spawn", "spawn")),
        ("ddp_spawn", "cpu", 2, ("ddp_spawn", "spawn")),
        ("fsdp", "cuda", 2, ("fsdp", None)),
    ],
)
def test_processes_are_copies_of_this_one(
    strategy: str, accelerator: str, devices: int, expected: tuple[str, str | None]
) -> None:
    assert started_by(strategy, accelerator, devices) == expected


def test_a_report_that_fails_is_told_at_the_end_and_holds_nobody_up() -> None:
    calls = []

    def report(*arguments: int) -> None:
        calls.append(arguments)
        raise BrokenPipeError("nobody reads")

    def send() -> None:
        with relayed(report, "fork") as send:
            for number in range(20_000):  # more than a pipe holds
                send(number)

    with pytest.raises(BrokenPipeError, match="nobody reads"):
        send()
    assert calls == [(0,)]


def test_without_processes_a_report_is_called_as_it_is() -> None:
    with relayed(print, None) as report:
        assert report is print
