"""Columns of a log that lie in files and are mapped into memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import Any, Self, final

import numpy as np


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
