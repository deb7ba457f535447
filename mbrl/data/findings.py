"""What an audit says of a log: findings, worst first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Severity = Literal["serious", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")  # worst first
ROWS_NAMED = 20  # of a finding; `count` says how many there are

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a log, or that it cannot teach."""

    kind: str  # a short name, the same in every audit
    severity: Severity  # serious: mend the log before anything is learned from it
    found: str  # what was seen, with numbers
    effect: str  # what it will do to learning
    remedy: str  # what to change
    rows: tuple[int, ...] = ()  # the first `ROWS_NAMED` rows of the data set, counted from 0
    count: int = 0  # of all such rows
    channels: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def line(self) -> str:
        """The finding in one line."""
        return f"{self.severity}: {self.kind}: {self.found}"


def named(rows: Flags | Sequence[int] | NDArray[np.int64]) -> dict[str, Any]:
    """The fields `rows` and `count` of a finding, from flags [N] or row numbers in order."""
    array = np.asarray(rows)
    numbers = np.flatnonzero(array) if array.dtype == bool else array
    return {"rows": tuple(int(r) for r in numbers[:ROWS_NAMED]), "count": len(numbers)}


def share(count: int, of: int) -> str:
    """`12 rows (0.4 %)`."""
    return f"{count:,} row{'s' * (count != 1)} ({100 * count / of:.2g} %)"
