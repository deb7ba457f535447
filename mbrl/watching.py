"""What tensor code does, operation by operation, on any device: whether a GPU would wait for it, and a tape of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")
HOST_READS = (
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "allclose", "bincount"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"),
)
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")


class _Watch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        told = "use torch.where, or shapes; give an optimiser of torch fused=True"
        assert name not in HOST_READS, f"aten::{name} makes the host wait for the device: {told}"
        masks = [i for i in args[1] if i is not None and i.dtype == torch.bool] if name in INDEXING else []
        assert not masks, f"aten::{name} with a boolean mask makes the host wait for the device: use torch.where"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host_reads() -> Iterator[None]:
    """Fail where tensor code inside reads a value from its device (`.item()`, a branch on a tensor, a boolean index).

    Works on the CPU as well, so that a machine without an accelerator can hold the rule; what copies whole tensors
    there (`.tolist()`, `.numpy()`, `.cpu()`) leaves no trace on a CPU and is not seen.
    """
    with _Watch():
        yield


class Tape:
    """A `mbrl.training.capture.Recorder` that does on any device, slowly, what a CUDA graph does on a GPU.

    It holds the tensor operations of a call, and plays them back without the Python that they were written in: what
    that decides, a counter or a branch, stays as it was. So a learner whose updates are the same played back as called
    may be captured.
    """

    def warm(self, call: Callable[[], T]) -> T:
        """The call as it is."""
        return call()

    def record(self, call: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """What the call returns, and what does its work once more into the same tensors.

        Recording has to do that work itself; so the first playing does nothing.

        Raises:
            AssertionError: a tensor is made of Python's numbers, which a graph cannot hold.
        """
        with _Notes() as notes:
            result = call()
        due = False

        def replay() -> None:
            nonlocal due
            if due:
                notes.play()
            due = True

        return result, replay


class _Notes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func.overloadpacket.__name__ == "lift_fresh"
        assert not made, "a tensor is made of Python's numbers, which a GPU has to wait for: keep it in a buffer"
        result = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, _tensors(result)))
        return result

    @torch.no_grad()
    def play(self) -> None:
        for func, args, kwargs, results in self.done:
            for kept, again in zip(results, _tensors(func(*args, **kwargs)), strict=True):
                if kept.data_ptr() != again.data_ptr():  # else it was changed in place, or is a view
                    kept.copy_(again)


def _tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [t for one in result for t in _tensors(one)] if isinstance(result, list | tuple) else []
