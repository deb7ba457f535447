"""Registered policies on a log: what the estimators say of them, and what these were worth."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mbrl import environments, files, playing
from mbrl.assessment import make_bench, plain
from mbrl.core import Policy
from mbrl.data import minari
from mbrl.data.dataset import TransitionDataset
from mbrl.data.division import divide
from mbrl.data.history import windowed
from mbrl.evaluation.bench import Bench
from mbrl.evaluation.estimates import Estimate, bootstrap
from mbrl.evaluation.evidence import acting
from mbrl.evaluation.judging import Score, score
from mbrl.evaluation.panel import KINDS, Heard, check_kinds, combined_gain, hear, spread
from mbrl.evaluation.trajectories import check_acts_on, fitted
from mbrl.registry import models, promotion, witnesses
from mbrl.registry.gates import CLONING, LOG
from mbrl.registry.rules import Rules
from mbrl.registry.witnesses import Origin, Witnesses
from mbrl.report.console import seldom
from mbrl.settings import Trial

COMBINED = "combined"
BEYOND = 0.05  # weight of the steps after a cut, above which a true return is not what endless values are of


class Case(NamedTuple):
    """Policies whose witnesses are those of one run, on one log."""

    origins: Sequence[Origin]
    policies: Mapping[str, Policy]  # by label, NAME-policy/3
    champions: Mapping[str, str]  # by NAME: the label of its champion, where it can act on this log
    seen: Witnesses
    bench: Bench
    heard: Heard

    @property
    def spread(self) -> float:
        """Standard deviation of the log's undiscounted returns; 1 where they are equal."""
        return spread(self.bench.returns(1.0))

    def score(self, label: str, rules: Rules) -> Estimate | None:
        """The combined gain over the log in spreads; None where a kind gave no estimate."""
        return combined_gain(self.heard, label, rules.ranking)


def named(policy: str) -> list[str]:
    """The URIs in `models:/NAME-policy/1,models:/NAME-policy@champion`; `models:/NAME-policy` is all its versions.

    Raises:
        ValueError: there is none.
        StoreError: there is no such model.
    """
    found: list[str] = []
    for part in filter(None, (part.strip() for part in policy.split(","))):
        whole = re.fullmatch(r"models:/([^/@]+)-policy", part)
        found += witnesses.versions(whole[1]) if whole else [part]
    if not found:
        raise ValueError(f"policy is {policy!r}, expected one or more URIs such as models:/NAME-policy/3")
    return found


def judgeable(uris: Sequence[str]) -> list[str]:
    """Those of the policies that a second simulator was kept for; who is left out is told.

    Raises:
        ValueError: there is none.
        StoreError: there is no such model, alias or version.
    """
    found: list[str] = []
    for number, uri in enumerate(uris, 1):
        try:
            witnesses.origin(uri)
            found.append(uri)
        except ValueError as reason:
            if number == len(uris) and not found:
                raise
            print(f"left out: {reason}")
    return found


def cases(uris: Sequence[str], data_id: str | None, kinds: Sequence[str], trial: Trial, rules: Rules) -> list[Case]:
    """Hear the estimators on policies, run by run: each is judged by the second simulator of its own run.

    Args:
        uris: of the policies.
        data_id: the log; the one that each policy was trained on if None.
        kinds: of estimators.
        trial: settings.
        rules: their level is that of the bounds.

    Raises:
        ValueError: an estimator or a log is not known, a policy's spec does not fit the log (which field), or a run has
            kept no witnesses.
        StoreError: there is no such model, alias or version.
    """
    check_kinds(kinds)
    runs: dict[str, list[Origin]] = {}
    for origin in dict.fromkeys(witnesses.origin(uri) for uri in uris):
        runs.setdefault(origin.run_id, []).append(origin)
    return [_case(run, origins, data_id, kinds, trial, rules) for run, origins in runs.items()]


def _case(
    run: str, origins: list[Origin], data_id: str | None, kinds: Sequence[str], trial: Trial, rules: Rules
) -> Case:
    seen, first = witnesses.fetch(run), origins[0]
    data = windowed(minari.load(data_id or first.data_id), seen.cloning.spec.history)
    policies = {origin.label: models.load_policy(origin.uri) for origin in origins}
    for label, policy in policies.items():
        try:
            check_acts_on(policy.spec, data)
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from error
    champions: dict[str, str] = {}
    for name in dict.fromkeys(origin.label.rpartition("-policy/")[0] for origin in origins):
        reigning = _champion(name, data, policies)
        champions |= {} if reigning is None else {name: reigning}
    own = data.fingerprint == seen.data_fingerprint
    if own and (first.split is None or first.seed is None):
        raise ValueError(
            f"run {run} does not say how {data.id} was divided (data.split, seed): name another log (--data)"
        )
    seed = first.seed or 0
    division = divide(data, first.split, seed, needs_terminals=False) if own and first.split is not None else None
    bench = make_bench(data, seen, trial, rules, seed, division)
    heard = hear(bench, {CLONING: seen.cloning, **policies}, kinds, seldom())
    return Case(origins, policies, champions, seen, bench, heard)


def _champion(name: str, data: TransitionDataset, policies: dict[str, Policy]) -> str | None:
    """The label of NAME's champion, which is added to the policies, if there is one that can act on this log."""
    version = promotion.champion(name)
    if version is None:
        return None
    label = f"{name}-policy/{version}"
    if label not in policies:
        policy = models.load_policy(f"models:/{label}")
        try:
            policies[label] = fitted(policy, data)
        except ValueError as reason:
            print(f"the champion {label} is left out: {reason}")
            return None
    return label


# ---------------------------------------------------------------------- mbrl evaluate


def table(found: Sequence[Case], rules: Rules) -> dict[str, Any]:
    """What was heard, as plain values: estimates by kind and policy, gains in spreads, and who refused.

    A kind that has nothing to say in one run alone is refused for that run's policies; in all of them, for the log.
    """
    first, gammas = found[0], discounts(found)
    kinds = dict.fromkeys([*gammas, *(kind for case in found for kind in case.heard.refused)])
    judges = judged(found)
    estimates: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    refused: dict[str, dict[str, str]] = {kind: {} for kind in kinds}
    for kind in kinds:
        for case in reversed(found):
            opinion = case.heard.opinions.get(kind)
            own = [label for label in case.policies if judges[label] is case]
            if opinion is None:
                refused[kind] |= dict.fromkeys(own if kind in gammas else [LOG], _silence(case, kind))
                continue
            answers = {LOG: opinion.log, **opinion.answers}
            heard = [name for name in (LOG, CLONING, *own) if name in answers]
            estimates[kind] |= {name: plain(answers[name].estimate) for name in heard}
            refused[kind] |= {name: opinion.refused[name] for name in (CLONING, *own) if name in opinion.refused}
    gains = {label: case.score(label, rules) for label, case in judges.items()}
    return {
        "data": {"id": first.bench.data.id, "fingerprint": first.bench.data.fingerprint},
        "level": rules.level,
        "discount": gammas,
        "estimates": estimates,
        "refused": {kind: told for kind in kinds if (told := _missing(refused[kind], estimates[kind]))},
        "repeats": {kind: other for case in found for kind, other in case.heard.repeats.items()},
        "combined_gain_in_spreads": {label: None if gain is None else plain(gain) for label, gain in gains.items()},
        "champions": {name: label for case in found for name, label in case.champions.items()},
    }


def discounts(found: Sequence[Case]) -> dict[str, float]:
    """The kinds that have an opinion in at least one case, and its discount."""
    return {kind: opinion.gamma for case in found for kind, opinion in case.heard.opinions.items()}


def judged(found: Sequence[Case]) -> dict[str, Case]:
    """Whose numbers are a policy's, by label: those of its own run, or of the first where a champion stands by."""
    own = {origin.label: case for case in found for origin in case.origins}
    beside: dict[str, Case] = {}
    for case in found:
        for label in case.policies:
            beside.setdefault(label, own.get(label, case))
    return beside


def said(found: Sequence[Case], kind: str) -> dict[str, Estimate]:
    """A kind's estimates of all policies that it has one of, by label."""
    heard = {label: case.heard.opinions.get(kind) for label, case in judged(found).items()}
    return {
        label: opinion.answers[label].estimate
        for label, opinion in heard.items()
        if opinion is not None and label in opinion.answers
    }


def _missing(refused: Mapping[str, str], estimates: Mapping[str, Any]) -> dict[str, str]:
    """Why there is no estimate, of whom there is none: imitation may be refused in one run and not in another."""
    return {name: why for name, why in refused.items() if name not in estimates}


def _silence(case: Case, kind: str) -> str:
    """Why a kind has no opinion in a case."""
    other = case.heard.repeats.get(kind)
    return case.heard.refused[kind] if other is None else f"no step is trusted, so it would repeat {other}"


class Truth(NamedTuple):
    """True values of every policy and of behaviour cloning, from the same seeds."""

    values: Mapping[float, Mapping[str, Estimate]]  # by discount and policy
    beyond: Mapping[float, float]  # by discount: the weight that steps after the cut of an episode have, on average

    def cut(self, kinds: Mapping[str, float]) -> dict[str, float]:
        """Those of `kinds` (with their discounts) whose values count more of these steps than can be overlooked."""
        return {k: gamma for k, gamma in kinds.items() if KINDS[k].endless and self.beyond.get(gamma, 0.0) > BEYOND}


def truth(found: Sequence[Case], env: str, episodes: int, seed: int, level: float) -> Truth:
    """Every policy and behaviour cloning, at each discount that somebody judges them by and undiscounted."""
    gammas = sorted({*discounts(found).values(), 1.0}, reverse=True)
    policies = {CLONING: found[0].seen.cloning} | {label: p for case in found for label, p in case.policies.items()}
    for label, policy in policies.items():
        environments.check_spaces(env, policy.spec, label)
    values: dict[float, dict[str, Estimate]] = {gamma: {} for gamma in gammas}
    beyond = dict.fromkeys(gammas, 0.0)
    for label, policy in policies.items():
        played = playing.play(acting(policy), env, episodes, seed)
        for gamma in gammas:
            values[gamma][label] = bootstrap(played.returns(gamma), level, seed)
            beyond[gamma] += float(played.beyond(gamma).mean()) / len(policies)
    return Truth(values, beyond)


def scores(found: Sequence[Case], true: Truth, rules: Rules) -> dict[str, Score]:
    """What each kind's estimates were worth, and the combined ones: those in spreads of the log's returns.

    Error and coverage of values that count steps after the cut of an episode, which the truth has not, are None.

    Raises:
        ValueError: there are fewer than two policies.
    """
    labels = judged(found)
    table = {
        kind: score({label: true.values[gamma][label].value for label in labels}, said(found, kind))
        for kind, gamma in discounts(found).items()
    }
    table |= {k: table[k]._replace(absolute_error=None, coverage=None) for k in true.cut(discounts(found))}
    gains, gained = combined(found, true, rules)
    return {**table, COMBINED: score(gained, gains)}


def combined(found: Sequence[Case], true: Truth, rules: Rules) -> tuple[dict[str, Estimate], dict[str, float]]:
    """Combined gains over the log by policy, and the true ones, both in spreads."""
    gains: dict[str, Estimate] = {}
    gained: dict[str, float] = {}
    for label, case in judged(found).items():
        gain = case.score(label, rules)
        gains |= {} if gain is None else {label: gain}
        gained[label] = (true.values[1.0][label].value - float(case.bench.returns(1.0).mean())) / case.spread
    return gains, gained


def picture_path(labels: Sequence[str], data_id: str, kind: str) -> Path:
    """Where the picture of an evaluation goes: MBRL_HOME/evaluations."""
    whose = labels[0] if len(labels) == 1 else f"{labels[0]}-and-{len(labels) - 1}-more"
    return files.home() / "evaluations" / f"{whose}-on-{data_id}-{kind}.png".replace("/", "-")
