"""Whether what a training holds at once fits into the memory of its device, and how much of it would."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mbrl.allocator import give_back
from mbrl.core import Batch

ASKED = 8192  # rows of a batch up to which nobody asks
UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
TRIED = (32, 64)  # rows, or runs, of the two batches that are tried


def row_bytes(rows: Batch) -> float:
    """Bytes of one of the rows [N, ...], N above 0."""
    return sum(column.nbytes for column in rows) / len(rows.reward)


def weight_bytes(module: nn.Module) -> float:
    """Bytes of a module's weights as they are trained: themselves, their gradients, and Adam's two moments."""
    return 4.0 * sum(weight.nbytes for weight in module.parameters())


def check_room(name: str, count: int, each: float, device: torch.device, thing: str = "a row") -> None:
    """Refuse to hold `count` things of `each` bytes where they do not fit.

    Raises:
        ValueError: so it is; the message says how many do.
    """
    room = free(device)
    if count * each > room and device.type == "cpu" and give_back():  # what earlier work has freed
        room = free(device)
    if count * each > room:
        raise ValueError(
            f"{name} is {count:,}, and {thing} takes about {_told(each)} of memory, of which {device.type} has"
            f" {_told(room)} free: at most {int(room // each):,} fit"
        )


def row_taken(step: Callable[[int], object], whole: int = 1) -> float:
    """Bytes that a row of a batch takes, about, by trying `step` on two small ones.

    Where rows come in runs, `whole` is their length: less than a run of each would be alike.

    They are those that autograd keeps, at most at once, and as many again for what it does not see: gradients, and what
    is computed without any. Measured, 9,000 to 65,536 rows take 1.3 to 2 times what it keeps, with most learners; BCQ,
    which compares ten actions without a gradient, takes 7 times.
    """
    most = []
    for count in TRIED:
        with _kept() as ledger:
            result = step(count * whole)
        del result  # which the graph hangs on
        most.append(ledger.most)
    return max(0.0, 2 * (most[1] - most[0]) / ((TRIED[1] - TRIED[0]) * whole))


def free(device: torch.device) -> float:
    """Bytes that are free on a GPU, or to this process on the machine; infinite where nobody says."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # kept by torch for itself
        return torch.cuda.mem_get_info(device)[0] + unused
    return min(_of_machine(), _of_group())


def _of_machine(path: Path = Path("/proc/meminfo")) -> float:
    """What Linux calls available."""
    lines = path.read_text().splitlines() if path.exists() else []
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)


def _of_group(folder: Path = Path("/sys/fs/cgroup")) -> float:
    """What the limit of a container leaves."""
    limit, used = folder / "memory.max", folder / "memory.stat"
    if not limit.exists() or not used.exists() or limit.read_text().strip() == "max":
        return math.inf
    taken = dict(line.split() for line in used.read_text().splitlines())
    return max(0.0, float(limit.read_text()) - float(taken["anon"]))


def _told(size: float) -> str:
    unit, name = next((unit, name) for unit, name in UNITS if size >= unit or unit == 1)
    return f"{size / unit:.3g} {name}"


class _Slip:
    """A tensor that autograd keeps, as long as it keeps it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Ledger:
    """Bytes of the storages that are kept, each once: now, and at most."""

    def __init__(self) -> None:
        self.now, self.most = 0, 0
        self.holders: Counter[int] = Counter()

    def keep(self, tensor: Tensor) -> _Slip:
        storage, slip = tensor.untyped_storage(), _Slip(tensor)
        place, size = storage.data_ptr(), storage.nbytes()
        if not self.holders[place]:
            self.now += size
            self.most = max(self.most, self.now)
        self.holders[place] += 1
        weakref.finalize(slip, self._release, place, size)
        return slip

    def _release(self, place: int, size: int) -> None:
        self.holders[place] -= 1
        if not self.holders[place]:
            self.now -= size


@contextmanager
def _kept() -> Iterator[_Ledger]:
    ledger = _Ledger()

    def unpack(slip: _Slip) -> Tensor:
        return slip.tensor

    with saved_tensors_hooks(ledger.keep, unpack):
        yield ledger
