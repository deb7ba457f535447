"""Codes for what was not read, such as -9999 or 0, are told as such, and spoil no other check."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from audit_toys import FAULTS, kinds, moved, plant, put, sensor, unsighted

from mbrl.data.audit import audit
from mbrl.data.channels import Past
from mbrl.data.dataset import TransitionDataset
from mbrl.data.findings import Finding
from mbrl.data.outliers import Odd
from mbrl.data.suspicions import Refit

pytestmark = pytest.mark.usefixtures("coarse")
__all__ = ["unsighted"]

NONE = Past((), (), {})


@pytest.fixture(scope="module")
def clean() -> TransitionDataset:
    return plant()


def some(share: float, run: int, rows: int = 2400) -> torch.Tensor:
    """Rows of stretches of `run`, drawn at random, about so many in all."""
    begins = np.random.default_rng(0).choice(rows - run, max(1, int(share * rows / run)), replace=False)
    return torch.tensor(np.unique((begins[:, None] + np.arange(run)).ravel()))


def sentinel(data: TransitionDataset) -> Finding:
    (found,) = Odd.of(data, NONE).findings
    assert found.kind == "sentinel value"
    return found


@pytest.mark.parametrize("value", [-9999.0, -12.0])
@pytest.mark.parametrize("share", [0.002, 0.02, 0.1])
def test_a_code_in_single_rows_is_serious_and_nothing_else_is_said(
    share: float, value: float, clean: TransitionDataset
) -> None:
    """The channel spans 4, so that -12 is two and a half spans below it."""
    rows = some(share, 1)
    found = audit(sensor(clean, lambda column: put(column, rows, value)))
    assert [(f.kind, f.severity, f.channels) for f in found.findings] == [("sentinel value", "serious", ("level",))]
    assert (found.findings[0].rows, found.findings[0].count) == (tuple(rows[:20].tolist()), len(rows))
    assert f"level is exactly {value:.6g} in {len(rows)} rows" in found.findings[0].found
    assert "for a moment each time" in found.findings[0].found


def test_a_code_at_either_end_has_a_finding_each_and_wild_values_one_more(clean: TransitionDataset) -> None:
    low, high, wild = some(0.03, 1).chunk(3)
    column = put(put(clean.obs[:, 0], low, -9999.0), high, 9999.0)
    spoiled = put(column, wild, 500.0 + torch.arange(len(wild)))
    odd = Odd.of(replace(clean, obs=torch.cat([spoiled[:, None], clean.obs[:, 1:]], 1)), NONE)
    assert [(f.kind, f.count) for f in odd.findings] == [
        ("sentinel value", len(low)), ("sentinel value", len(high)), ("outliers", len(wild)),
    ]  # fmt: skip
    rows = torch.cat([low, high, wild])
    before = rows[(rows % 60) > 0] - 1  # these have one for their next observation
    assert set(np.flatnonzero(odd.spoiled)) == {*rows.tolist(), *before.tolist()}


def test_an_hour_without_a_reading_is_a_code_where_no_plant_can_be(clean: TransitionDataset) -> None:
    rows = some(0.05, 20)
    for value, severity in ((-9999.0, "serious"), (-60.0, "warning")):
        assert sentinel(sensor(clean, lambda column, v=value: put(column, rows, v))).severity == severity
    assert not Odd.of(sensor(clean, lambda column: put(column, rows, -12.0)), NONE).findings


def test_a_machine_that_is_off_is_told_by_all_that_is_off_with_it(clean: TransitionDataset) -> None:
    """Both sensors say it, so neither is a code; one that says it alone may be."""
    rows = some(0.05, 20)
    one = sensor(clean, lambda column: put(column, rows, -60.0))
    both = sensor(one, lambda column: put(column, rows, -60.0), 1)
    assert sentinel(one).channels == ("level",)
    odd = Odd.of(both, NONE)
    assert not odd.spoiled.any()
    assert {f.severity for f in odd.findings} <= {"note"}


def test_a_code_of_a_reward_and_of_a_command_is_found_and_a_valve_that_is_shut_is_none(
    clean: TransitionDataset,
) -> None:
    rows = some(0.02, 1)
    assert sentinel(replace(clean, reward=put(clean.reward, rows, -9999.0))).channels == ("reward",)
    for value, found in ((-999.0, [("sentinel value", "valve")]), (-30.0, [])):
        action = clean.action.clone()
        action[rows, 0] = value
        odd = Odd.of(replace(clean, action=action), NONE)
        assert [(f.kind, f.channels[0]) for f in odd.findings] == found


def test_what_episodes_end_with_is_no_code(clean: TransitionDataset) -> None:
    last = torch.arange(1, len(clean) + 1) % 60 == 0
    ended = replace(clean, terminated=last, truncated=torch.zeros_like(last), reward=clean.reward.where(~last, 500.0))
    assert not Odd.of(ended, NONE).findings


def test_a_fault_is_found_all_the_same_beside_a_code() -> None:
    late = plant()
    late = replace(late, action=moved(late, late.action, 1))
    found = audit(sensor(late, lambda column: put(column, some(0.05, 1), -9999.0)))
    assert kinds(found) == {"sentinel value", "shifted actions"}
    merged = FAULTS["ends that are not marked"][1](plant())
    assert "missing end" in kinds(audit(sensor(merged, lambda column: put(column, some(0.02, 1, len(column)), -999.0))))


def test_rows_on_both_sides_of_a_code_are_no_neighbours(clean: TransitionDataset) -> None:
    spoiled = np.zeros(len(clean), bool)
    spoiled[5] = True
    refit = Refit.of(clean, 0, spoiled)
    assert refit.rows.tolist() == [k for k in range(len(clean)) if k != 5]
    assert not refit.inner[[0, 4, 5]].any()
    assert refit.inner[[1, 3, 6]].all()
