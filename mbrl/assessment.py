"""The last stage of a run: what speaks for the candidate, the verdict, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from mbrl import environments
from mbrl.core import Policy
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.estimates import Estimate, bootstrap
from mbrl.evaluation.evidence import acting
from mbrl.evaluation.modelbased import simulated_values, start_states
from mbrl.registry import promotion
from mbrl.registry.decisions import PROMOTE, Decision
from mbrl.registry.gates import Evidence, Verdict, decide
from mbrl.registry.runs import RunLog
from mbrl.report.console import tell
from mbrl.settings import Trial
from mbrl.simulator.simulator import Simulator

BASELINE, CANDIDATE = "behaviour cloning", "candidate"  # what the two policies are called in every answer
RULES_VERSION = "1"
TRUE_SEED = 1000  # of the first true episode, plus the run's own seed


class Findings(NamedTuple):
    """What was seen, and what the gate made of it."""

    logged: Estimate
    values: dict[str, Estimate]  # of each policy, in the second simulator
    verdict: Verdict
    evidence: str  # runs:/RUN/evidence.json, which has all that the gate saw
    evidence_hash: str  # hex SHA-256 of that file

    @property
    def decision(self) -> Decision:
        """What the registry keeps of the verdict."""
        outcome = PROMOTE if self.verdict.promote else "no evidence of improvement"
        return Decision(outcome, RULES_VERSION, self.evidence_hash, self.verdict.reasons, self.evidence)

    @property
    def outcome(self) -> str:
        """The verdict in words."""
        return "promoted" if self.verdict.promote else "no evidence of improvement"


@dataclass(frozen=True)
class Assessment:
    """How the policies of one run are judged; see `stages.run` for the fields."""

    name: str
    env: str | None
    seed: int
    trial: Trial

    def values(self, policies: dict[str, Policy], data: TransitionDataset, simulator: Simulator) -> dict[str, Estimate]:
        """Each policy's value in a simulator, from logged start states."""
        starts = start_states(data, self.trial.starts, self.seed)
        world, level = simulator.replaying(data), self.trial.level
        return simulated_values(policies, world, starts, gamma=1.0, level=level, seed=self.seed)

    def weigh(self, policies: dict[str, Policy], data: TransitionDataset, second: Simulator, stage: RunLog) -> Findings:
        """Value the policies in the second simulator, and decide; `evidence.json` has all that was seen."""
        logged = bootstrap(data.returns().numpy(), self.trial.level, self.seed)
        values = self.values(policies, data, second)
        verdict = decide(Evidence(logged, values[BASELINE], values[CANDIDATE]))
        rules = [rule._asdict() for rule in verdict.rules]
        evidence = {"logged": logged.to_dict(), "second_simulator": plain(values)}
        digest = stage.dict({**evidence, "verdict": {**verdict._asdict(), "rules": rules}}, "evidence.json")
        tell("logged", _told(logged))
        for name, value in values.items():
            tell(name, f"{_told(value)} in the second simulator")
        findings = Findings(logged, values, verdict, f"runs:/{stage.run_id}/evidence.json", digest)
        tell("verdict", findings.outcome)
        for reason in verdict.reasons:
            tell("", reason)
        return findings

    def measure(self, policies: dict[str, Policy], stage: RunLog) -> dict[str, Estimate]:
        """True returns, where an environment is named; after the verdict, so that no gate can have seen them."""
        if self.env is None:
            return {}
        true = {}
        for name, policy in policies.items():
            returns = environments.true_returns(acting(policy), self.env, self.trial.episodes, TRUE_SEED + self.seed)
            true[name] = bootstrap(returns, self.trial.level, self.seed)
            tell(name, f"{_told(true[name])} in {self.env}, {self.trial.episodes} episodes")
        stage.dict(plain(true), "true_environment.json")
        return true

    def promote(self, findings: Findings, version: str, record: RunLog) -> str | None:
        """Write the verdict to the ledger, and move the alias if it says so; the champion afterwards, or None."""
        reasons = "; ".join(findings.verdict.reasons)
        record.tags({"mbrl.verdict": findings.outcome, "mbrl.reasons": reasons})
        promotion.judge(self.name, version, findings.decision)
        try:
            promotion.promote(self.name, version)
        except promotion.RefusedError as refusal:
            if findings.verdict.promote:  # the gate was not what refused
                tell("registry", str(refusal))
        champion = promotion.champion(self.name)
        tell("registry", f"{self.name}-policy version {version}; champion: {champion or 'none'}")
        return champion


def plain(values: dict[str, Estimate]) -> dict[str, dict[str, Any]]:
    """Estimates as JSON has them."""
    return {name: value.to_dict() for name, value in values.items()}


def _told(estimate: Estimate) -> str:
    return f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"
