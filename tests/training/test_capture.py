"""Captured calls do what they do when they are called: with a tape in the place of a GPU, and a GPU's API in its."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from rehearsal_toys import ROWS, SHORT, SPEC, parts, same, weights
from torch import Tensor
from weather_world import Driven, driven

from dynamics import ProbabilisticEnsemble
from mbrl.core import Batch, Learner, World, generator, seeded
from mbrl.simulator.simulator import Simulator
from mbrl.testing import check_learner
from mbrl.training import capture, policy
from mbrl.training.capture import WARM, Captured, CudaGraphs, count_on_device, recorder
from mbrl.training.policy import fit_policy
from mbrl.watching import Tape
from policies import RAMBO, SAC


class Counted(Tape):
    """A tape that counts what it is asked for."""

    made: list[str] = []  # noqa: RUF012 (emptied before each use)

    def warm(self, call: Callable[[], Any]) -> Any:
        self.made.append("warm")
        return super().warm(call)

    def record(self, call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        self.made.append("record")
        return super().record(call)


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`fit_policy(capture=True)` on this CPU does with a tape what it does with CUDA graphs on a GPU."""
    monkeypatch.setattr(policy, "recorder", lambda *_: Counted())
    monkeypatch.setattr(Counted, "made", [])
    return Counted.made


def test_a_captured_call_is_recorded_once_and_returns_the_same_tensors_with_new_values() -> None:
    state, calls = torch.zeros(2), []

    def add(x: Tensor) -> Tensor:
        calls.append(len(calls))
        state.add_(x)
        return 10 * state

    told = Captured(add, Tape())
    found = [told(torch.full((2,), float(k))) for k in range(WARM + 4)]
    assert calls == list(range(WARM + 1))
    assert state.tolist() == [21.0, 21.0]  # 0 + 1 + ... + 6: recording counts once
    assert [value[0].item() for value in found[:WARM]] == [0.0, 10.0, 30.0]
    assert all(value is found[-1] for value in found[WARM:])
    assert found[-1].tolist() == [210.0, 210.0]


def test_without_a_recorder_every_call_is_made() -> None:
    calls: list[float] = []
    plain = Captured(lambda x: calls.append(x.item()), None)
    for k in range(6):
        plain(torch.tensor(float(k)))
    assert calls == [0, 1, 2, 3, 4, 5]


def test_a_tape_draws_anew_and_plays_branches_as_they_were() -> None:
    rng, twin, branch = generator(0, "tape"), generator(0, "tape"), [1.0]
    drawn, replay = Tape().record(lambda: branch[0] * torch.randn(3, generator=rng))
    for _ in range(3):
        replay()
        assert torch.equal(drawn, torch.randn(3, generator=twin))
        branch[0] = 2.0


@pytest.mark.parametrize("average", [None, 4])
def test_a_captured_training_ends_at_the_same_weights(average: int | None, taped: list[str]) -> None:
    ends, metrics = [], []
    for captured in False, True:
        learner, simulator = parts()
        told: list[dict[str, Tensor]] = []
        found = fit_policy(
            learner, ROWS, simulator, updates=40, average=average, penalty=1.0, halt=2.0, capture=captured,
            log=lambda values, _, told=told: told.append(values), log_every=5, **SHORT,
        )  # fmt: skip
        ends.append(weights(learner) | {f"policy.{k}": v for k, v in found.policy.state_dict().items()})
        metrics.append(told)
    assert same(*ends)
    assert len(metrics[0]) == 8
    assert all(same(*pair) for pair in zip(*metrics, strict=True))
    assert taped.count("warm") == 2 * WARM
    assert taped.count("record") == 2


def test_a_captured_training_goes_on_where_another_was_stopped(tmp_path: Path, taped: list[str]) -> None:
    straight, simulator = parts()
    fit_policy(straight, ROWS, simulator, updates=40, **SHORT)
    for captured, updates in (True, 17), (False, 24), (True, 40):
        learner, simulator = parts()
        path = tmp_path / "policy.ckpt"
        fit_policy(learner, ROWS, simulator, updates=updates, checkpoint=path, capture=captured, **SHORT)
    assert same(weights(straight), weights(learner))
    assert "record" in taped


def test_a_model_that_learns_on_is_captured_with_the_learner(taped: list[str]) -> None:
    ends = []
    for captured in False, True:
        with seeded(0, "test"):
            learner = RAMBO(SPEC, hidden=(8,), imitation=6)
            model = ProbabilisticEnsemble(SPEC, members=2, elites=2, hidden=8, layers=1, reward_network=(8,))
        fit_policy(learner, ROWS, Simulator(model, SPEC), updates=30, capture=captured, **SHORT)
        ends.append(weights(learner))
    assert same(*ends)
    assert "record" in taped


def test_a_world_that_replays_its_log_is_captured(taped: list[str]) -> None:
    data, ends = driven(), []
    for captured in False, True:
        spec = data.spec(torch.arange(data.episodes))
        with seeded(0, "test"):
            learner = SAC(spec, hidden=(8,))
        world = Simulator(Driven(spec, 0.1), spec).replaying(data)
        fit_policy(learner, data.batch(), world, updates=40, capture=captured, **SHORT)
        ends.append(weights(learner))
    assert same(*ends)
    assert "record" in taped


class Counting(SAC):
    """Its third update and those after it are others, by a counter that no graph can see."""

    def __init__(self, spec: Any, **agent: Any) -> None:
        super().__init__(spec, **agent)
        self.register_buffer("count", torch.zeros(()))

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        self.count = self.count + 1  # a new tensor, where it should be changed in place
        return super().update(real._replace(reward=real.reward * self.count), imagined, rng, simulator)


class Making(SAC):
    """Makes a tensor of a Python number at every update."""

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        return super().update(real._replace(reward=real.reward * torch.tensor([2.0])), imagined, rng, simulator)


class Reading(SAC):
    """Counts on the device how often each row was drawn: its kernel waits for the largest number."""

    def update(
        self, real: Batch, imagined: Batch | None, rng: torch.Generator, simulator: World | None = None
    ) -> dict[str, Tensor]:
        weight = torch.bincount(real.terminated.long(), minlength=2)[0]
        return super().update(real._replace(reward=real.reward * weight), imagined, rng, simulator)


@pytest.mark.parametrize(
    ("cls", "told"), [(Counting, "changed in place"), (Making, "keep it in a buffer"), (Reading, "bincount")]
)
def test_a_learner_that_cannot_be_captured_breaks_the_contract(cls: type[Learner], told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_learner(lambda spec: cls(spec, hidden=(8,)), SPEC)


@pytest.mark.parametrize("captured", [False, True])
def test_a_training_that_is_over_holds_nothing(captured: bool, taped: list[str]) -> None:
    learner, simulator = parts()
    gc.disable()
    try:
        fit_policy(learner, ROWS, simulator, updates=40, capture=captured, **SHORT)
        gone = weakref.ref(learner)
        del learner
        assert (
            gone() is None
        )  # a cycle would hold it, and on a GPU the memory of its graphs, until Python looks for one
    finally:
        gc.enable()
    assert ("record" in taped) == captured


def test_nothing_is_recorded_on_a_cpu() -> None:
    learner, _ = parts()
    assert recorder(torch.device("cpu"), [generator(0, "x")], learner.optimizers.values()) is None
    assert all(not group["capturable"] for o in learner.optimizers.values() for group in o.param_groups)


class Gpu:
    """`torch.cuda` as far as graphs need it, with what was asked of it in order."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.within: list[str] = []

    def Stream(self, device: Any) -> Any:
        self.asked.append(("stream", str(device)))
        return _Queue(self, "side")

    def current_stream(self) -> Any:
        return _Queue(self, "main")

    @contextmanager
    def stream(self, queue: Any) -> Iterator[None]:
        self.within.append(queue.name)
        yield
        self.within.pop()

    def CUDAGraph(self) -> Any:
        return _Graph(self)

    @contextmanager
    def graph(self, graph: Any, stream: Any) -> Iterator[None]:
        self.asked.append(("capture", stream.name))
        self.within.append("capture")
        yield
        self.within.pop()


class _Queue:
    def __init__(self, gpu: Gpu, name: str) -> None:
        self.gpu, self.name = gpu, name

    def wait_stream(self, other: Any) -> None:
        self.gpu.asked.append(("wait", self.name, other.name))


class _Graph:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def register_generator_state(self, rng: Any) -> None:
        self.gpu.asked.append(("generator", rng))

    def replay(self) -> None:
        self.gpu.asked.append("replay")


def test_a_gpu_is_asked_in_the_order_that_torch_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    monkeypatch.setattr(capture.torch, "cuda", gpu)
    learner, _ = parts()
    found = recorder(torch.device("cuda:0"), ["rng"], learner.optimizers.values())  # type: ignore[list-item]
    assert isinstance(found, CudaGraphs)
    assert all(group["capturable"] for o in learner.optimizers.values() for group in o.param_groups)
    where: list[str] = []
    told = Captured(lambda x: where.append(gpu.within[-1]) or x, found)
    for k in range(WARM + 2):
        told(torch.tensor(float(k)))
    warmed = [("wait", "side", "main"), ("wait", "main", "side")]
    recorded = [("generator", "rng"), ("capture", "side"), "replay", "replay"]
    assert gpu.asked == [("stream", "cuda:0"), *WARM * warmed, *recorded]
    assert where == [*WARM * ["side"], "capture"]


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_steps_that_were_counted_on_the_host_are_counted_on_the_device_from_then_on(kind: Any) -> None:
    """An optimiser that is not fused keeps its counter on the CPU, and a checkpoint brings it back there."""
    optimizer = kind([torch.nn.Parameter(torch.ones(2))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    elsewhere = kind([torch.nn.Parameter(torch.ones(2, device="meta"))])
    (parameter,) = elsewhere.param_groups[0]["params"]
    elsewhere.state[parameter] = dict(*optimizer.state.values())
    count_on_device(elsewhere)
    assert elsewhere.param_groups[0]["capturable"]
    assert elsewhere.state[parameter]["step"].device == parameter.device
    count_on_device(optimizer)
    ((_, state),) = optimizer.state.items()
    assert float(state["step"]) == 1.0
    count_on_device(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))]))  # which counts nothing
