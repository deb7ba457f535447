"""The sizes of `mbrl bench --scaling`."""

from __future__ import annotations

from dataclasses import dataclass, field

from mbrl.limits import at_least, expect


@dataclass
class Sizes:
    """Sizes at which `mbrl bench` measures how costs grow; the first of each is the one of the other measurements.

    Args:
        rows: of the log.
        members: of the ensemble.
        batches: rows of a batch.
        populations: trainings at once, each in a process of its own, and as one learner with a further axis.
        updates: that are timed at each; the median counts.
        resident: MiB of logged rows that are held at once of a log that is read from the disk.
    """

    rows: list[int] = field(default_factory=lambda: [200_000, 2_000_000, 20_000_000])
    members: list[int] = field(default_factory=lambda: [7, 1, 50])
    batches: list[int] = field(default_factory=lambda: [256, 4096])
    populations: list[int] = field(default_factory=lambda: [1, 4, 16])
    updates: int = 50
    resident: int = 256

    def __post_init__(self) -> None:
        at_least(1, "sizes", self, "updates", "resident")
        for name in ("rows", "members", "batches", "populations"):
            value = getattr(self, name)
            expect(bool(value) and min(value, default=0) >= 1, f"sizes.{name}", value, "numbers of at least 1")
        expect(min(self.rows) >= 1000, "sizes.rows", self.rows, "1,000 or more, which are an episode")
