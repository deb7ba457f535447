"""Channels that were logged on two levels: in another unit for a while, or by another sensor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mbrl.data.channels import DISTINCT, Past
from mbrl.data.dataset import TransitionDataset
from mbrl.data.findings import Finding, Flags, Floats, named, share
from mbrl.data.outliers import runs

CHANGES = 4  # at most, from one level to the other
WIDE = 5.0  # of the steps that all but a thousandth stay below, by which the levels lie apart


def levels(data: TransitionDataset, past: Past) -> Iterator[Finding]:
    """Channels with two ranges of many values each, nothing between them, and hardly a change from one to the other.

    A plant goes from one to the other by what lies between, or does so often; what lies farther apart than it steps,
    and changes `CHANGES` times at most, is likely a unit, a calibration or a plant that is another one.
    """
    columns = dict(zip(data.channels, data.obs.numpy().T, strict=True))
    columns = {name: column for k, (name, column) in enumerate(columns.items()) if k not in past.known}
    if not data.discrete:
        columns |= dict(zip(data.action_channels, data.action.numpy().T, strict=True))
    on = np.diff(runs(data)) == 0
    for name, column in columns.items():
        found = _parted(column.astype(np.float64), on)
        if found is None:
            continue
        few, other = (found, ~found) if found.sum() <= len(found) / 2 else (~found, found)
        (a, b), (c, d) = ((float(column[side].min()), float(column[side].max())) for side in (few, other))
        yield Finding(
            "two levels",
            "warning",
            f"{name} lies in [{a:.4g}, {b:.4g}] in {share(int(few.sum()), len(few))}, in [{c:.4g}, {d:.4g}] in all"
            f" others, and goes from one to the other {int((few[1:] != few[:-1]).sum())} time(s) only",
            "what a value means depends on when it was logged, and a model sees two plants in one",
            "convert rows that are of another unit, calibration or sensor, or leave them out; if the plant itself was"
            " moved, or stood still, nothing needs to change",
            channels=(name,),
            **named(few),
        )


def _parted(column: Floats, on: Flags) -> Flags | None:
    """Which rows [N] of a channel are on its upper level; None where it has but one.

    `on` [N - 1]: the next row goes on from this one.
    """
    values = np.unique(column)
    if len(values) < 2 * DISTINCT:
        return None
    below = int(np.diff(values).argmax())
    if not DISTINCT <= below + 1 <= len(values) - DISTINCT:
        return None
    upper = column > values[below]
    changed = upper[1:] != upper[:-1]
    steps = np.abs(np.diff(column))[on & ~changed]
    if changed.sum() > CHANGES or not len(steps):
        return None
    return upper if values[below + 1] - values[below] > WIDE * np.quantile(steps, 0.999) else None
