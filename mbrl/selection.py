"""Which of several registered policies to take, by what the estimators say of them; none, where nothing carries one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mbrl.appraisal import Case
from mbrl.evaluation.combining import choose
from mbrl.evaluation.estimates import Estimate
from mbrl.evaluation.gathering import Provenance, gather
from mbrl.evaluation.panel import preference
from mbrl.registry import promotion
from mbrl.registry.gates import CANDIDATE, CHAMPION, CLONING, Verdict, decide
from mbrl.registry.rules import Rules
from mbrl.registry.witnesses import Origin
from mbrl.settings import Trial


class Selection(NamedTuple):
    """Which candidate the evidence carries, if any, and what stays where it carries none."""

    selected: str | None  # NAME-policy/3
    kept: str  # the champion's label, or behaviour cloning: what to go on with where nothing was selected
    refused_champion: str | None  # the reigning champion's label, where it is among those heard and no longer passes
    verdicts: Mapping[str, Verdict]  # by label
    gains: Mapping[str, Estimate | None]  # combined, over the log, in spreads
    preferences: Mapping[str, float | None]  # by which one is chosen of those that the gate would promote


def select(found: Sequence[Case], rules: Rules, trial: Trial) -> Selection:
    """Of the candidates that the gate would promote, the one that looks best by `rules.choice`.

    Raises:
        ValueError: they were heard on several logs, whose spreads are no common unit.
    """
    if len({case.bench.data.fingerprint for case in found}) > 1:
        logs = ", ".join(dict.fromkeys(case.bench.data.id for case in found))
        raise ValueError(
            f"the versions come from different logs ({logs}), and gains in the spreads of one are not comparable with"
            " those of another, nor does the gate take evidence from two: select among those of one log (--versions)"
        )
    verdicts, gains, preferences = {}, {}, {}
    kept = CLONING
    for case in found:
        for origin in case.origins:
            champion = case.champions.get(origin.label.rpartition("-policy/")[0])
            kept = champion or kept
            verdicts[origin.label] = _weighed(case, origin, champion, rules, trial)
            gains[origin.label] = case.score(origin.label, rules)
            preferences[origin.label] = preference(case.heard, origin.label, rules.choice, rules.ranking)
    promotable = {label: verdict.promote for label, verdict in verdicts.items()}
    grounded = {label: verdict.grounded for label, verdict in verdicts.items()}
    best = choose(preferences, promotable, gains, rules.tie, grounded) if any(promotable.values()) else None
    reigning = [label for case in found for label in case.champions.values()]
    refused = next((label for label in reigning if label in verdicts and not verdicts[label].promote), None)
    return Selection(best, kept, refused, verdicts, gains, preferences)


def _weighed(case: Case, origin: Origin, champion: str | None, rules: Rules, trial: Trial) -> Verdict:
    name, _, version = origin.label.rpartition("-policy/")
    reigning = promotion.champion(name)
    reigning = None if reigning == version else reigning
    roles = {CANDIDATE: origin.label, CLONING: CLONING}
    if reigning is not None and champion is not None:
        roles[CHAMPION] = champion
    marks = {
        "log": case.bench.data.fingerprint,
        "second simulator": case.seen.data_fingerprint,
        "policy": origin.data_fingerprint,
    }
    provenance = Provenance(marks, case.seen.hashes, case.seen.card, reigning)
    policy = case.policies[origin.label]
    evidence = gather(case.bench, case.heard, roles, policy, rules, provenance, trial.cost)
    return decide(evidence, rules)
