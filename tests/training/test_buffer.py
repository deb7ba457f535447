"""The ring rotates, and forgets the oldest rows first."""

import pytest
import torch

from mbrl.bench import hopper_sized
from mbrl.core import Batch, generator
from mbrl.training.buffer import Ring

SPEC, ROWS = hopper_sized(64, 0)


def numbered(first: int, count: int) -> Batch:
    """Rows whose reward is their number."""
    return Batch(*(c[:count] for c in ROWS))._replace(reward=torch.arange(first, first + count).float())


def held(ring: Ring) -> list[float]:
    return sorted(ring.rows.reward[: len(ring)].tolist())


def test_twelve_rows_into_five() -> None:
    ring = Ring(SPEC, 5)
    for k in range(12):
        ring.add(numbered(k, 1))
        assert held(ring) == [float(i) for i in range(max(0, k - 4), k + 1)]


@pytest.mark.parametrize("sizes", [(3, 4, 5), (12,), (4, 8), (5, 5, 2), (1, 11)])
def test_any_division_of_the_rows_leaves_the_newest_five(sizes: tuple[int, ...]) -> None:
    ring, first = Ring(SPEC, 5), 0
    for size in sizes:
        ring.add(numbered(first, size))
        first += size
    assert len(ring) == 5
    assert held(ring) == [7.0, 8.0, 9.0, 10.0, 11.0]


def test_columns_stay_together_and_leading_axes_are_flattened() -> None:
    ring = Ring(SPEC, 8)
    ring.add(Batch(*(c[:12].reshape(3, 4, *c.shape[1:]) for c in ROWS)))
    for row in range(8):
        match = (ROWS.reward[:12] == ring.rows.reward[row]).nonzero().item()
        assert match >= 4
        for column, logged in zip(ring.rows, ROWS, strict=True):
            assert torch.equal(column[row], logged[match])


def test_samples_come_from_written_rows_only_and_repeat_with_the_seed() -> None:
    ring = Ring(SPEC, 50)
    ring.add(numbered(1, 4))
    drawn = ring.sample(400, generator(0, "x")).reward
    assert set(drawn.tolist()) == {1.0, 2.0, 3.0, 4.0}
    assert torch.equal(drawn, ring.sample(400, generator(0, "x")).reward)


def test_state_round_trip() -> None:
    ring, other = Ring(SPEC, 5), Ring(SPEC, 5)
    ring.add(numbered(0, 7))
    other.restore(ring.state())
    for k in (7, 9):
        ring.add(numbered(k, 2))
        other.add(numbered(k, 2))
    assert all(torch.equal(a, b) for a, b in zip(ring.rows, other.rows, strict=True))


def test_bad_use() -> None:
    with pytest.raises(ValueError, match="empty ring"):
        Ring(SPEC, 5).sample(1, generator(0, "x"))
    with pytest.raises(ValueError, match="capacity is 0"):
        Ring(SPEC, 0)
    with pytest.raises(ValueError, match="holds 5 rows, this run's 6"):
        Ring(SPEC, 6).restore(Ring(SPEC, 5).state())
