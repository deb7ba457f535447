"""What does not fit into memory is refused before anything is learned, and the message says how much would."""

import math
from pathlib import Path

import pytest
import torch

import dynamics
import policies
from mbrl.bench import hopper_sized
from mbrl.core import Batch, Learner, seeded
from mbrl.data.source import Whole
from mbrl.simulator.simulator import Simulator
from mbrl.training import room
from mbrl.training.dynamics import fit_dynamics
from mbrl.training.policy import fit_policy

SPEC, ROWS = hopper_sized(20_000, 0)
ENDS = torch.arange(20_000) % 100 == 99
CPU = torch.device("cpu")


def made(name: str, **settings: object) -> Learner:
    with seeded(0, "room"):
        learner: Learner = getattr(policies, name)(SPEC, hidden=(8, 8), **settings)
    return learner


def test_how_many_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free", lambda _: 3 * 2**30)
    monkeypatch.setattr(room, "give_back", lambda: False)
    room.check_room("workers", 3, 2**30, CPU, "a run")
    with pytest.raises(ValueError, match=r"^workers is 4, and a run takes about 1 GiB of memory, of which cpu has 3 "):
        room.check_room("workers", 4, 2**30, CPU, "a run")
    with pytest.raises(ValueError, match=r"is 2,000,000, and a row takes about 2 KiB .*: at most 1,572,864 fit"):
        room.check_room("batch_size", 2_000_000, 2048, CPU)


def test_what_earlier_work_has_freed_is_given_back_before_anything_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [2**30, 2**31]
    monkeypatch.setattr(room, "free", lambda _: left[0])
    monkeypatch.setattr(room, "give_back", lambda: bool(left.pop(0)))
    room.check_room("workers", 2, 2**30, CPU, "a run")
    assert left == [2**31]


def test_a_row_takes_twice_what_autograd_keeps_of_it() -> None:
    weight = torch.zeros(4, 8, requires_grad=True)

    def step(count: int) -> torch.Tensor:
        x = torch.zeros(count, 4)
        return (x @ weight).exp().sum()  # keeps x and the 8 results of exp, 12 numbers of 4 bytes a row

    assert room.row_taken(step) == 2 * 12 * 4


def test_of_several_passes_the_largest_counts() -> None:
    weight = torch.zeros(4, 8, requires_grad=True)

    def step(count: int) -> None:
        for passes in range(3):
            x = torch.zeros(count, 4 if passes == 1 else 2)
            (x @ weight[: x.shape[1]]).exp().sum().backward()

    assert room.row_taken(step) == 2 * 12 * 4


def test_a_row_of_a_run_takes_as_much_however_long_runs_are() -> None:
    weight = torch.zeros(4, 8, requires_grad=True)

    def step(count: int) -> torch.Tensor:
        x = torch.zeros(-(-count // 100), 100, 4)  # whole runs of 100
        return (x @ weight).exp().sum()

    assert room.row_taken(step) == 0.0  # of batches that are shorter than a run
    assert room.row_taken(step, 100) == 2 * 12 * 4


@pytest.mark.parametrize("processes", [1, 3])
def test_every_process_of_a_cpu_holds_a_batch(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with seeded(0, "room"):
        model = dynamics.ProbabilisticEnsemble(SPEC, 2, 1, hidden=8, layers=1, reward_network=())
    monkeypatch.setattr(room, "free", lambda _: 2**20)
    held = Batch(*(column[:100] for column in ROWS))
    with pytest.raises(ValueError, match=r"batch_size is 10,000, and a row takes about .* at most") as refused:
        fit_dynamics(model, Whole(ROWS, ENDS.cumsum(0)), held, seed=0, batch_size=10_000, devices=processes)
    assert int(str(refused.value).split()[-2]) == {1: 267, 3: 89}[processes]


def test_free_memory_is_what_the_machine_and_its_container_leave(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:     5 kB\n")
    assert room._of_machine(tmp_path / "meminfo") == 5 * 1024
    assert room._of_machine(tmp_path / "none") == math.inf  # not a Linux
    assert room._of_group(tmp_path) == math.inf
    (tmp_path / "memory.stat").write_text("anon 300\nfile 5000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert room._of_group(tmp_path) == math.inf
    (tmp_path / "memory.max").write_text("1000\n")
    assert room._of_group(tmp_path) == 700
    (tmp_path / "memory.max").write_text("200\n")
    assert room._of_group(tmp_path) == 0
    assert room.free(CPU) > 0


@pytest.mark.parametrize("name", ["SAC", "BC", "TD3BC", "ReBRAC", "EDAC", "CQL", "IQL", "AWAC", "AWR", "BCQ"])
def test_a_batch_that_does_not_fit_is_refused(name: str) -> None:
    learner, before = made(name), torch.get_rng_state()
    weights = {key: value.clone() for key, value in learner.state_dict().items()}
    with pytest.raises(ValueError, match=r"batch_size is 1,000,000,000,000, and a row takes about .* fit"):
        fit_policy(learner, ROWS, ends=ENDS, updates=1, batch_size=10**12, real_ratio=1.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[key]) for key, value in learner.state_dict().items())


def test_asking_changes_nothing_of_what_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for asked in 16, 10**9:
        monkeypatch.setattr("mbrl.training.policy.ASKED", asked)
        learner = made("SAC")
        fit_policy(learner, ROWS, updates=2, batch_size=64, real_ratio=1.0)
        ends.append(learner.state_dict())
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


def test_what_does_not_fit_of_imagined_rows_and_of_a_model_s_batch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with seeded(0, "room"):
        model = dynamics.ProbabilisticEnsemble(SPEC, 2, 1, hidden=8, layers=1, reward_network=())
    with pytest.raises(ValueError, match=r"keep_rollouts is 100,000,000,000,000, and a row takes about 105 B"):
        fit_policy(made("SAC"), ROWS, Simulator(model, SPEC), updates=1, rollout_starts=10**12)
    for world in Simulator(model, SPEC), None:
        ratio = 1.0 if world is None else 0.5
        with pytest.raises(ValueError, match="batch_size is 1,000,000,000,000"):
            fit_policy(made("SAC"), ROWS, world, updates=1, batch_size=10**12, real_ratio=ratio)
    monkeypatch.setattr(room, "free", lambda _: 2**20)
    held = Batch(*(column[:100] for column in ROWS))
    with pytest.raises(ValueError, match=r"batch_size is 1,000,000,000, and a row takes about .* at most"):
        fit_dynamics(model, Whole(ROWS, ENDS.cumsum(0)), held, seed=0, batch_size=10**9)
