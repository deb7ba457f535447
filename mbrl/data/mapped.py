"""Columns of a log that lie in files and are mapped into memory."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self, final

import numpy as np


def new_array(place: Path | None, name: str, shape: tuple[int, ...], kind: type[np.generic]) -> np.ndarray:
    """Zeros in a file `name`.npy of the folder `place`; in memory without one, or where the disk has no room for them.

    The room is taken before anything is written: a mapped file that finds its disk full ends the process.
    """
    if place is None:
        return np.zeros(shape, kind)
    path = place / f"{name}.npy"
    try:
        array = np.lib.format.open_memmap(path, "w+", kind, shape)
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except (OSError, AttributeError):  # macOS has no such call
        path.unlink(missing_ok=True)
        return np.zeros(shape, kind)
    return array


@final
class Mapped:
    """The maps behind a log's tensors."""

    def __init__(self, maps: Iterable[mmap.mmap]) -> None:
        self.maps = tuple(maps)

    @classmethod
    def of(cls, arrays: Iterable[np.ndarray]) -> Self:
        """Those of arrays that numpy has mapped."""
        bases: list[Any] = [array.base for array in arrays]
        return cls(base for base in bases if isinstance(base, mmap.mmap))

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[()]]]:
        """Of a copy, which another process may be given, the tensors are in memory: no map is behind them."""
        return type(self), ((),)

    def let_go(self) -> None:
        """Give the pages that were read back to the kernel; touched again, they come from its cache or from the disk.

        It would take them anyway where memory is short; until then they count as this process's.
        """
        if hasattr(mmap, "MADV_DONTNEED"):  # Linux, macOS
            for one in self.maps:
                one.madvise(mmap.MADV_DONTNEED)
