"""What is wrong with a log, and what it cannot teach: every check over a TransitionDataset, without side effects.

The checks are small functions, by what they look at: `mbrl.data.checks` (the log as it stands), `channels`, `outliers`
and `levels` (its columns), `suspicions` (against a quick refit), `sight` (how far back one has to look) and `behaviour`
(who acted, and how freely).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mbrl.data import behaviour, channels, checks, suspicions
from mbrl.data.behaviour import Freedom
from mbrl.data.dataset import TransitionDataset
from mbrl.data.findings import SEVERITIES, Finding
from mbrl.data.levels import levels
from mbrl.data.outliers import Odd
from mbrl.data.sight import hidden_state

LEAST_ROWS = 200  # below this a refit says nothing


@dataclass(frozen=True, eq=False)
class Audit:
    """The findings of an audit, worst first, and how freely the log acted."""

    data: TransitionDataset
    findings: tuple[Finding, ...]
    freedom: Freedom | None  # None where there are too few rows for a refit, or some that are not finite

    @property
    def serious(self) -> tuple[Finding, ...]:
        """The findings that have to be mended before anything is learned."""
        return tuple(f for f in self.findings if f.severity == "serious")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        data, free = self.data, self.freedom
        return {
            "data": {
                "id": data.id,
                "fingerprint": data.fingerprint,
                "rows": len(data),
                "episodes": data.episodes,
                "series": len(data.series) or data.episodes,
            },
            "exogenous": [data.channels[k] for k in data.exogenous],
            "counts": {severity: sum(f.severity == severity for f in self.findings) for severity in SEVERITIES},
            "findings": [finding.to_dict() for finding in self.findings],
            "action_freedom": None
            if free is None
            else {"whole": free.whole, "regions": free.regions.tolist(), "rows": free.rows.tolist()},
        }


def audit(data: TransitionDataset, *, sides: Sequence[Tensor] = (), seed: int = 0, history: int = 1) -> Audit:
    """Look for everything that is known to spoil learning from a log.

    Args:
        data: the log, on the CPU.
        sides: episodes [k] of each side of a split, to say whether copies of an episode lie on different ones.
        seed: of the rows and episodes that the refits draw.
        history: observations in a row that will be read at once.

    Returns:
        the findings, worst first. Rows are those of `data`, counted from 0; a refit looks at `suspicions.MOST_ROWS`
        rows at most, whole episodes at a time or a part of a longer one, and at none with a value that no plant seems
        to have had. Single odd rewards are not looked for while there are outliers.
    """
    found = list(checks.not_finite(data))
    if found:
        return Audit(data, tuple(found), None)
    past = channels.Past.of(data)
    found += checks.copied_episodes(data, tuple(sides))
    for check in (
        checks.duplicate_rows,
        checks.broken_sequence,
        checks.flags_inside,
        checks.uneven_cuts,
        checks.ends_at_a_limit,
        checks.constant_cost,
        checks.equal_returns,
    ):
        found += check(data)
    for look in (
        channels.sensors,
        levels,
        channels.stacked_past,
        channels.clocks,
        channels.whole_actions,
        channels.untried_choices,
    ):
        found += look(data, past)
    odd = Odd.of(data, past)
    found += odd.findings
    free = None
    if len(data) - odd.spoiled.sum() >= LEAST_ROWS:
        refit = suspicions.Refit.of(data, seed, odd.spoiled)
        found += suspicions.shifted_action(refit)
        stretched = any(finding.kind == "outliers" for finding in odd.findings)  # also what the plant itself does
        found += (f for f in suspicions.rewards(refit) if not (stretched and f.kind == "inconsistent reward"))
        found += suspicions.missing_ends(refit)
        found += hidden_state(data, seed, history)
        free = behaviour.freedom(refit)
        found += behaviour.actions(refit, free)
        found += behaviour.one_policy(refit)
    return Audit(data, tuple(sorted(found, key=lambda f: SEVERITIES.index(f.severity))), free)
