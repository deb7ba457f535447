"""An update or a rollout that a GPU is given in one launch: recorded once, as a CUDA graph, and then replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

T = TypeVar("T")
WARM = 3  # calls before one is recorded: optimisers make their state in the first, libraries choose their algorithms


class Recorder(Protocol):
    """What makes a call repeatable without the Python that it is written in."""

    def warm(self, call: Callable[[], T]) -> T:
        """The call as it is, where it will be recorded."""

    def record(self, call: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """What the call returns, and what does its work once more into the same tensors.

        It has to be called for the first time, too.
        """


def recorder(device: torch.device, rngs: Iterable[torch.Generator], optimizers: Iterable[Optimizer]) -> Recorder | None:
    """What records on this device; None where nothing does, and a call is made as it is written.

    Args:
        device: of the learner.
        rngs: the generators that calls draw from.
        optimizers: those that step in a call.
    """
    return CudaGraphs(device, rngs, optimizers) if device.type == "cuda" else None


def count_on_device(optimizer: Optimizer) -> None:
    """Have an optimiser count its steps where its parameters are, those that it has taken, too."""
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
            for parameter in group["params"]:
                if "step" in (state := optimizer.state.get(parameter, {})):
                    state["step"] = torch.as_tensor(state["step"], dtype=torch.float32).to(parameter.device)


class CudaGraphs:
    """Records CUDA graphs, on a stream of its own; see `recorder`.

    A replay moves the generators on as the call would. Optimisers are told to keep no counter on the host.
    """

    def __init__(self, device: torch.device, rngs: Iterable[torch.Generator], optimizers: Iterable[Optimizer]) -> None:
        self.stream, self.rngs = torch.cuda.Stream(device), list(rngs)
        for optimizer in optimizers:
            count_on_device(optimizer)

    def warm(self, call: Callable[[], T]) -> T:
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            result = call()
        here.wait_stream(self.stream)
        return result

    def record(self, call: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        for rng in self.rngs:
            graph.register_generator_state(rng)
        with torch.cuda.graph(graph, stream=self.stream):
            result = call()
        return result, graph.replay


class Captured(Generic[T]):
    """A function of tensors that does the same for every value of them, as one that is recorded and replayed.

    What it reads beside its arguments, and what it changes, has to stay where it is: weights, the state of optimisers,
    generators. The same tensors are returned every time, with new values.

    Args:
        call: of tensors whose shapes are always the same, without host synchronisation.
        recorder: None to call it as it is, every time.
    """

    def __init__(self, call: Callable[..., T], recorder: Recorder | None) -> None:
        self.call, self.recorder, self.calls = call, recorder, 0
        self.given: list[Tensor] = []
        self.result: T
        self.replay: Callable[[], None]

    def __call__(self, *given: Tensor) -> T:
        if self.recorder is None:
            return self.call(*given)
        self.calls += 1
        if self.calls <= WARM:
            return self.recorder.warm(lambda: self.call(*given))
        if self.calls == WARM + 1:
            self.given = [column.clone() for column in given]
            self.result, self.replay = self.recorder.record(lambda: self.call(*self.given))
        for kept, column in zip(self.given, given, strict=True):
            kept.copy_(column)
        self.replay()
        return self.result
