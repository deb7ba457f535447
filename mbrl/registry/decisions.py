"""What a gate said of one version, as it is kept with that version: small, plain, and bound to its evidence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

PROMOTE = "promote"  # the one outcome that lets a version act
NOBODY = "nobody"  # reigned


class Decision(NamedTuple):
    """The verdict on one version. The evidence itself is a file of the run; here is its SHA-256."""

    outcome: str  # "promote", or in words why not
    rules_version: str
    evidence_hash: str  # hex SHA-256 of the file that `evidence` names
    reasons: tuple[str, ...] = ()
    evidence: str | None = None  # runs:/RUN/evidence.json
    second_person: bool = False  # whether the rules want an approver who is not the author
    champion: str | None = None  # the version that it was compared with, as it reigned, or NOBODY; None: not known

    @property
    def passed(self) -> bool:
        """Whether the version may act."""
        return self.outcome == PROMOTE

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; without a champion where none is known, as ledgers of before have it."""
        kept = {**self._asdict(), "reasons": list(self.reasons)}
        return kept if self.champion is not None else {k: v for k, v in kept.items() if k != "champion"}

    def to_json(self) -> str:
        """One line, equal for equal decisions."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a field is missing or unknown.
        """
        if odd := set(cls._fields) ^ ({"champion"} | set(values)):  # of older ledgers it is not known
            raise ValueError(f"the stored decision does not fit this version of mbrl: {sorted(odd)} missing or unknown")
        return cls(**{**values, "reasons": tuple(values["reasons"])})
