"""The last stage of a run: what speaks for the candidate, the verdict, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from mbrl import playing
from mbrl.core import Policy
from mbrl.data.dataset import TransitionDataset
from mbrl.data.division import Division
from mbrl.data.series import Pieces
from mbrl.evaluation.bench import FOLDS, Bench
from mbrl.evaluation.combining import choose
from mbrl.evaluation.estimates import Estimate, bootstrap
from mbrl.evaluation.evidence import acting
from mbrl.evaluation.gathering import Provenance, gather
from mbrl.evaluation.modelbased import simulated_values, start_states
from mbrl.evaluation.panel import FULL, Heard, combined_gain, hear, preference
from mbrl.evaluation.trajectories import fitted
from mbrl.evaluation.twoway import spread_over
from mbrl.registry import models, promotion
from mbrl.registry.decisions import NOBODY, Decision
from mbrl.registry.gates import CANDIDATE, CHAMPION, CLONING, LOG, Evidence, Verdict, decide
from mbrl.registry.rules import Rules
from mbrl.registry.runs import RunLog
from mbrl.registry.witnesses import Witnesses
from mbrl.report.console import seldom, tell
from mbrl.settings import Trial
from mbrl.simulator.simulator import Simulator

BOUND = ": the highest lower bound, as none passes the rules"
FIRST = ": the first of them, as none passes the rules, and no lower bound above 0 is to be relied on"
TRUE_SEED = 1000  # of the first true episode of a run with seed 0


class Entrant(NamedTuple):
    """A policy that a run has made, and its version of NAME-policy."""

    policy: Policy
    version: str


class Finding(NamedTuple):
    """What was seen of one candidate, and what the gate made of it."""

    evidence: Evidence
    verdict: Verdict
    gain: Estimate | None  # combined, over the log, in spreads; None where a kind gave no estimate
    preference: float | None  # by which one of several is chosen; None where it is not known
    file: str  # runs:/RUN/evidence.json, which has all that the gate saw
    digest: str  # hex SHA-256 of that file

    def outcome(self, rules: Rules) -> str:
        """The verdict in words."""
        passed = "passed, for a second person to promote" if rules.second_person else "promoted"
        return passed if self.verdict.promote else self.verdict.outcome

    def decision(self, rules: Rules) -> Decision:
        """What the registry keeps of the verdict."""
        outcome, reasons, _, version = self.verdict
        champion = self.evidence.champion or NOBODY
        return Decision(outcome, version, self.digest, reasons, self.file, rules.second_person, champion)


class Findings(NamedTuple):
    """What was seen of all of them."""

    policies: dict[str, Policy]  # by name: the candidates and those that they have to beat
    logged: Estimate  # mean undiscounted return of the log
    heard: Heard
    of: dict[str, Finding]  # by candidate
    chosen: str  # the candidate that the evidence speaks for most; the first one where it speaks for none
    why: str  # it was chosen, if not by passing the rules

    @property
    def best(self) -> Finding:
        """What was seen of the chosen one."""
        return self.of[self.chosen]

    @property
    def simulated(self) -> dict[str, Estimate]:
        """Undiscounted values in the second simulator, by name; none where the rules do not ask for them."""
        opinion = self.heard.opinions.get(FULL)
        return {} if opinion is None else {name: answer.estimate for name, answer in opinion.answers.items()}


@dataclass(frozen=True)
class Assessment:
    """How the policies of one run are judged; see `stages.run` for the fields."""

    name: str
    env: str | None
    seed: int
    trial: Trial
    rules: Rules

    def values(self, policies: dict[str, Policy], data: TransitionDataset, simulator: Simulator) -> dict[str, Estimate]:
        """Each policy's value in a simulator, from logged start states."""
        starts = start_states(data, self.trial.starts, self.seed)
        world, level = simulator.replaying(data), self.rules.coverage
        return simulated_values(policies, world, starts, gamma=1.0, level=level, seed=self.seed)

    def weigh(
        self,
        entrants: Mapping[str, Entrant],
        data: TransitionDataset,
        episodes: Division,
        seen: Witnesses,
        stage: RunLog,
    ) -> Findings:
        """Hear every kind of estimator on the candidates and on those that they have to beat, and decide on each.

        `evidence.json`, of several candidates one for each, has all that was seen.
        """
        reigning = promotion.champion(self.name)
        if reigning in [entrant.version for entrant in entrants.values()]:  # this run was cut short after its promotion
            reigning = promotion.compared(self.name, str(reigning))
        others = {CLONING: seen.cloning, **_comparable(self.name, reigning, data)}
        policies = others | {name: entrant.policy for name, entrant in entrants.items()}
        bench = make_bench(data, seen, self.trial, self.rules, self.seed, episodes)
        heard = hear(bench, policies, self.rules.kinds, seldom())
        marks = {"log": data.fingerprint, "second simulator": seen.data_fingerprint}
        provenance = Provenance(marks, seen.hashes, seen.card, reigning)
        of = {}
        for name, entrant in entrants.items():
            roles = {role: role for role in others} | {CANDIDATE: name}
            evidence = gather(bench, heard, roles, entrant.policy, self.rules, provenance, self.trial.cost)
            verdict = decide(evidence, self.rules)
            content = {"evidence": plain(evidence), "verdict": verdict.to_dict(), "rules": self.rules.to_dict()}
            file = "evidence.json" if len(entrants) == 1 else f"evidence-{name}.json"
            digest, path = stage.dict(content, file), f"runs:/{stage.run_id}/{file}"
            gain = combined_gain(heard, name, self.rules.ranking)
            liking = preference(heard, name, self.rules.choice, self.rules.ranking)
            of[name] = Finding(evidence, verdict, gain, liking, path, digest)
        logged = spread_over(data.returns().unsqueeze(0).cpu().numpy(), self.rules.level, Pieces.of(data))
        promotable, grounded = ({n: getattr(f.verdict, x) for n, f in of.items()} for x in ("promote", "grounded"))
        preferences, gains = ({n: getattr(f, x) for n, f in of.items()} for x in ("preference", "gain"))
        chosen = choose(preferences, promotable, gains, self.rules.tie, grounded)
        why = FIRST if chosen is None else "" if promotable[chosen] else BOUND
        findings = Findings(policies, logged, heard, of, chosen or next(iter(of)), why)
        _tell(findings, self.rules)
        return findings

    def measure(self, policies: dict[str, Policy], stage: RunLog) -> dict[str, Estimate]:
        """True returns, where an environment is named; after the verdict, so that no gate can have seen them.

        All policies of a run meet the same starts, and runs of other seeds other ones: a mean over seeds whose starts
        were the same would know nothing of how much the starts decide.
        """
        if self.env is None:
            return {}
        true, first = {}, TRUE_SEED + self.seed * self.trial.episodes
        for name, policy in policies.items():
            returns = playing.true_returns(acting(policy), self.env, self.trial.episodes, first)
            true[name] = bootstrap(returns, self.rules.coverage, self.seed)
            tell(name, f"{shown(true[name])} in {self.env}, {self.trial.episodes} episodes")
        stage.dict(plain(true), "true_environment.json")
        return true

    def promote(self, findings: Findings, entrants: Mapping[str, Entrant], record: RunLog) -> str | None:
        """Write the verdicts to the ledger, and move the alias if the chosen one's says so; the champion afterwards."""
        best, version = findings.best, entrants[findings.chosen].version
        outcome = best.outcome(self.rules)
        last = {name: name == findings.chosen for name in entrants}  # the last one judged is called candidate
        for name in sorted(entrants, key=last.__getitem__):
            promotion.judge(self.name, entrants[name].version, findings.of[name].decision(self.rules))
        try:
            promotion.promote(self.name, version)
        except promotion.RefusedError as refusal:
            if best.verdict.promote:  # the gate was not what refused
                tell("registry", str(refusal))
                outcome = "passed, not promoted"
        record.tags({"mbrl.verdict": outcome, "mbrl.reasons": "; ".join(best.verdict.reasons)})
        champion = promotion.champion(self.name)
        tell("registry", f"{self.name}-policy version {version}; champion: {champion or 'none'}")
        return champion


def make_bench(
    data: TransitionDataset,
    seen: Witnesses,
    trial: Trial,
    rules: Rules,
    seed: int,
    episodes: Division | None,
) -> Bench:
    """What a panel needs to judge policies on a log.

    Args:
        data: the log, with windows in its rows where policies have a history.
        seen: of the run that fitted the second simulator.
        trial: its settings.
        rules: their level is that of the bounds.
        seed: of starts, noise and critics.
        episodes: how the log was divided; None for a log that nothing was fitted on, all of which is used.
    """
    fit = torch.arange(data.episodes)
    if episodes is not None:
        fit = torch.cat([episodes.judge, episodes.judge_held]).sort().values
    return Bench(
        data=data,
        episodes=fit,
        simulator=seen.simulator.replaying(data),
        starts=start_states(data, trial.starts, seed, fit if data.exogenous else None),
        gamma=trial.discount,
        level=rules.level,
        seed=seed,
        updates=trial.critic_updates,
    )


def tell_few(episodes: Division, split: Sequence[float], rules: Rules) -> None:
    """Say before any work that the evidence will be missing, where too few episodes are left to judge."""
    count = len(episodes.judge) + len(episodes.judge_held)
    if count < min(FOLDS) and set(rules.kinds) - {FULL}:
        told = f"{count} of the episodes are left to judge, critics need {min(FOLDS)}, and without nothing is promoted"
        tell("log", f"{told}: raise the last of data.split, now {list(split)}, or log more")


def _comparable(name: str, champion: str | None, data: TransitionDataset) -> dict[str, Policy]:
    """The reigning champion, if it can act on this log; if not, the gate will miss it, and here is told why."""
    if champion is None:
        return {}
    try:
        return {CHAMPION: fitted(models.load_policy(f"models:/{name}-policy/{champion}"), data)}
    except ValueError as reason:
        tell(CHAMPION, f"version {champion} cannot be compared: {reason}")
        return {}


def _tell(findings: Findings, rules: Rules) -> None:
    """What was seen, in lines."""
    if len(findings.of) == 1:
        for line in told(findings.best.evidence):
            tell(*line)
    else:
        for name, found in findings.of.items():
            gain = "not every kind has an estimate" if found.gain is None else f"{small(found.gain)} spreads"
            liked = "-" if found.preference is None else f"{found.preference:.2f}"
            seen = f"gain over the log, {rules.ranking} of the kinds: {gain}; to choose by: {liked}"
            why = "" if found.verdict.promote else f": {found.verdict.reasons[0]}"
            tell(name, f"{seen}; {found.verdict.outcome}{why}")
        tell("chosen", findings.chosen + findings.why)
    tell("verdict", findings.best.outcome(rules))
    tell("", "gains are those of all kinds combined, in spreads: standard deviations of the logged returns")
    for reason in findings.best.verdict.reasons:
        tell("", reason)


def told(evidence: Evidence) -> list[tuple[str, str]]:
    """The estimates as lines: who, and what each kind says of it."""
    lines = []
    for kind, view in evidence.views.items():
        discount = "undiscounted" if view.gamma == 1 else f"discount {view.gamma:g}"
        for role, value in view.values.items():
            gain = f"; from the same starts the candidate gains {shown(view.gains[role])}" if role in view.gains else ""
            lines.append((role, f"{shown(value)} by {kind}, {discount}{recited(value.diagnostics)}{gain}"))
    if evidence.logged_cost is not None:
        lines.append((LOG, f"an episode costs {shown(evidence.logged_cost)}"))
    if evidence.cost is not None:
        by = evidence.cost.diagnostics["cost"]
        lines.append((CANDIDATE, f"a simulated episode costs {shown(evidence.cost)}, {by}"))
    lines += [
        (kind, f"not counted: no step is trusted, so it would repeat {o}") for kind, o in evidence.repeats.items()
    ]
    return [*lines, *((kind, f"no estimate: {reason}") for kind, reason in evidence.refused.items())]


def recited(diagnostics: Mapping[str, Any]) -> str:
    """What a kind makes of the log's actions, where that is more than they earned; see `mbrl.evaluation.reference`."""
    if "recited" not in diagnostics:
        return ""
    return f"; it makes {figure(diagnostics['recited'])} of the log's own actions, and gains are over that"


def plain(value: Any) -> Any:
    """Evidence as JSON has it: estimates, named tuples and mappings as dicts."""
    if isinstance(value, Estimate):
        return value.to_dict()
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    return list(value) if isinstance(value, tuple) else value


def shown(estimate: Estimate) -> str:
    """A value and its interval."""
    parts = estimate.value, estimate.low, estimate.high
    value, low, high = (figure(part, max(map(abs, parts))) for part in parts)
    return f"{value} [{low}, {high}]"


def figure(value: float, scale: float | None = None) -> str:
    """A return: one digit behind the point, or three that count where such returns (`scale`) are below 1."""
    scale = abs(value) if scale is None else scale
    return f"{value:.3g}" if 0 < scale < 1 else f"{value:.1f}"


def small(gain: Estimate) -> str:
    """A gain in spreads and its interval."""
    return f"{gain.value:.2f} [{gain.low:.2f}, {gain.high:.2f}]"
