"""The main job, stage by stage: log -> simulator -> rehearsed policy -> evidence -> registry.

Every stage leaves its result in the run's folder, and is skipped or continued where an earlier process left one.
"""

from __future__ import annotations

import datetime
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from mbrl import environments, files
from mbrl.core import Batch, Dynamics, Learner, Policy, Spec, seeded
from mbrl.data import minari
from mbrl.data.dataset import TransitionDataset
from mbrl.evaluation.estimates import Estimate, bootstrap
from mbrl.evaluation.evidence import acting, simulated_values, start_states
from mbrl.registry import models
from mbrl.registry.gates import Evidence, Verdict, decide
from mbrl.registry.lineage import Lineage, LoggedData
from mbrl.registry.runs import RunLog
from mbrl.report.dossier import draw_returns, sample_rollouts
from mbrl.settings import Data, Fit, Imitation, Rehearsal, Trial, World
from mbrl.simulator.simulator import Simulator
from mbrl.training.dynamics import fit_dynamics
from mbrl.training.policy import PolicyReport, fit_policy

EXPERIMENT = "mbrl"
JUDGE_HOLDOUT = 0.15  # of the second simulator's episodes: what stops its own training

Factory = Callable[[Spec], Learner]


@dataclass
class Pipeline:
    """One `mbrl run`; see `stages.run` for the fields."""

    data: Data
    name: str
    env: str | None
    seed: int
    accelerator: str
    fit: Fit
    world: World
    rehearsal: Rehearsal
    imitation: Imitation
    trial: Trial
    folder: Path | None
    resolved: str

    def run(self, dynamics: Callable[[Spec], Dynamics], learner: Factory, baseline: Factory) -> dict[str, Any]:
        """All stages; returns what `mbrl run --json` prints."""
        models.check_name(self.name)
        if self.env is not None:
            environments.make(self.env).close()  # a misspelt name should not cost an hour first
        log = minari.load(self.data.id, self.data.download)
        learn, held, judge = log.split(self.data.split, self.seed)
        spec = log.spec(learn)
        self._tell("log", f"{log.id}: {len(log):,} rows, {log.episodes:,} episodes, return {log.returns().mean():.1f}")
        folder, run_id = self._open_folder(log)
        with RunLog.open(EXPERIMENT, self.name, run_id) as record:
            self._remember(folder, record, log)
            world = self._simulator("simulator", dynamics, spec, log, learn, held, self.seed, folder, record)
            lineage = Lineage(log.id, log.fingerprint)
            number = models.log_simulator(record, world, self.name, lineage)
            real = log.batch(log.rows(learn))
            cloned = self._clone(baseline, spec, real, folder, record)
            candidate, report = self._rehearse(learner, spec, real, world, folder, record)
            second = self._judge(dynamics, log, judge, folder, record)
            with record.stage("evidence") as stage:
                policies = {"behaviour cloning": cloned, "candidate": candidate}
                values, verdict = self._weigh(policies, log, second, stage)
                lineage = Lineage(log.id, log.fingerprint, f"{self.name}-simulator/{number}")
                version = models.log_policy(record, candidate, self.name, lineage)
                champion = self._promote(verdict, version, record)
                own = self._values({"candidate": candidate}, log, world)["candidate"]
                true = self._measure(policies, stage)
                draw_returns(stage, log.returns(), values, true, f"{self.name}: {_outcome(verdict)}")
                sample_rollouts(stage, candidate, world, log, held, self.rehearsal.horizon, self.seed)
        return {
            "name": self.name,
            "run_id": record.run_id,
            "folder": str(folder),
            "data": {"id": log.id, "fingerprint": log.fingerprint, "rows": len(log), "episodes": log.episodes},
            "logged_return": bootstrap(log.returns().numpy(), self.trial.level)._asdict(),
            "second_simulator": {name: value._asdict() for name, value in values.items()},
            "own_simulator": {"candidate": own._asdict()},
            "true_environment": {name: value._asdict() for name, value in true.items()},
            "updates": report.updates,
            "simulator_version": number,
            "policy_version": version,
            "promoted": verdict.promote,
            "reasons": list(verdict.reasons),
            "champion": champion,
        }

    # ------------------------------------------------------------------ the run's folder

    def _open_folder(self, log: TransitionDataset) -> tuple[Path, str | None]:
        """The folder, and the MLflow run of the process that left it."""
        stamp = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        folder = self.folder or files.home() / "runs" / f"{self.name}-{stamp}"
        note = folder / "run.json"
        if not note.exists():
            return folder, None
        left = json.loads(note.read_text())
        if left["fingerprint"] != log.fingerprint:
            raise ValueError(
                f"{folder} was begun on a log with fingerprint {left['fingerprint'][:12]}, and {log.id} now has"
                f" {log.fingerprint[:12]}: restore that log, or start a new run without --folder"
            )
        self._tell("resume", f"{folder}")
        return folder, left["run_id"]

    def _remember(self, folder: Path, record: RunLog, log: TransitionDataset) -> None:
        note = {"run_id": record.run_id, "name": self.name, "fingerprint": log.fingerprint}
        settings = yaml.safe_load(self.resolved) or {}
        settings["folder"] = str(folder)
        for path, content in (
            (folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False)),
            (folder / "run.json", json.dumps(note)),
        ):
            with files.replacing(path) as beside:
                beside.write_text(content)
        record.params({k: v for k, v in settings.items() if k not in ("config", "folder")})
        record.text(yaml.safe_dump(settings, sort_keys=False), "config.yaml")
        record.tags({"mbrl.data_id": log.id, "mbrl.data_fingerprint": log.fingerprint, "mbrl.folder": str(folder)})
        record.input(LoggedData(log), "training")
        self._tell("resume with", f"mbrl run --config {folder / 'config.yaml'}   (if this process ends early)")

    # ------------------------------------------------------------------ stages

    def _simulator(
        self,
        stage: str,
        dynamics: Callable[[Spec], Dynamics],
        spec: Spec,
        log: TransitionDataset,
        learn: Tensor,
        held: Tensor,
        seed: int,
        folder: Path,
        record: RunLog,
    ) -> Simulator:
        """A simulator fitted on the episodes `learn`, with its uncertainty measured on the episodes `held`."""
        path = folder / f"{stage}.ckpt"
        if path.exists():
            return Simulator.load(files.load(path))
        rows, held_rows = log.rows(learn), log.batch(log.rows(held))
        with seeded(seed, stage):
            model = dynamics(spec)
        with record.stage(stage) as child:
            report = fit_dynamics(
                model,
                log.batch(rows),
                log.episode[rows],
                held_rows,
                seed=seed,
                folder=folder / stage,
                accelerator=self.accelerator,
                progress=True,
                log=child.metrics,
                **vars(self.fit),
            )
            child.tags({"mbrl.elites": report.elites})
            child.metrics({f"holdout_member_{e}": score for e, score in enumerate(report.scores)}, report.epochs)
        simulator = Simulator(model.cpu(), spec, **vars(self.world))
        simulator.calibrate(held_rows)
        files.save(path, simulator.state())
        best = min(report.scores)
        self._tell(stage, f"{report.epochs} epochs, hold-out error {best:.3g} (best member), {report.seconds:.0f} s")
        return simulator

    def _clone(self, baseline: Factory, spec: Spec, real: Batch, folder: Path, record: RunLog) -> Policy:
        with seeded(self.seed, "baseline"):
            learner = baseline(spec)
        self._fit("baseline", learner, real, None, folder, record, real_ratio=1.0, **vars(self.imitation))
        return learner.policy

    def _rehearse(
        self, factory: Factory, spec: Spec, real: Batch, world: Simulator, folder: Path, record: RunLog
    ) -> tuple[Policy, PolicyReport]:
        with seeded(self.seed, "policy"):
            learner = factory(spec)
        report = self._fit("policy", learner, real, world, folder, record, **vars(self.rehearsal))
        return learner.policy, report

    def _fit(
        self,
        stage: str,
        learner: Learner,
        real: Batch,
        world: Simulator | None,
        folder: Path,
        record: RunLog,
        **settings: Any,
    ) -> PolicyReport:
        with record.stage(stage) as child:
            report = fit_policy(
                learner,
                real,
                world,
                seed=self.seed,
                checkpoint=folder / f"{stage}.ckpt",
                accelerator=self.accelerator,
                log=child.metrics,
                label=stage,
                **settings,
            )
        learner.cpu()
        self._tell(stage, f"{report.updates:,} updates, {report.imagined_rows:,} imagined rows, {report.seconds:.0f} s")
        return report

    def _judge(
        self, dynamics: Callable[[Spec], Dynamics], log: TransitionDataset, judge: Tensor, folder: Path, record: RunLog
    ) -> Simulator:
        """The second simulator: another seed, and episodes that the first one and the learner never saw."""
        count = min(max(1, round(len(judge) * JUDGE_HOLDOUT)), len(judge) - 1)
        if count < 1:
            raise ValueError(
                f"the second simulator gets {len(judge)} of {log.episodes} episodes and needs 2: raise the last of"
                f" data.split, now {list(self.data.split)}"
            )
        fitted, held = judge[count:], judge[:count]
        return self._simulator("judge", dynamics, log.spec(fitted), log, fitted, held, self.seed + 1, folder, record)

    def _values(self, policies: dict[str, Policy], log: TransitionDataset, simulator: Simulator) -> dict[str, Estimate]:
        starts, steps = start_states(log, self.trial.starts, self.seed), int(log.lengths.max())
        return simulated_values(policies, simulator, starts, steps, level=self.trial.level, seed=self.seed)

    def _weigh(
        self, policies: dict[str, Policy], log: TransitionDataset, second: Simulator, stage: RunLog
    ) -> tuple[dict[str, Estimate], Verdict]:
        logged = bootstrap(log.returns().numpy(), self.trial.level, self.seed)
        values = self._values(policies, log, second)
        verdict = decide(Evidence(logged, values["behaviour cloning"], values["candidate"]))
        stage.dict(
            {
                "logged": logged._asdict(),
                "second_simulator": {name: value._asdict() for name, value in values.items()},
                "verdict": {**verdict._asdict(), "rules": [rule._asdict() for rule in verdict.rules]},
            },
            "evidence.json",
        )
        self._tell("logged", _told(logged))
        for name, value in values.items():
            self._tell(name, f"{_told(value)} in the second simulator")
        self._tell("verdict", _outcome(verdict))
        for reason in verdict.reasons:
            self._tell("", reason)
        return values, verdict

    def _promote(self, verdict: Verdict, version: str, record: RunLog) -> str | None:
        """Move the alias if the verdict says so; the champion's version afterwards, None without one."""
        record.tags({"mbrl.verdict": _outcome(verdict), "mbrl.reasons": "; ".join(verdict.reasons)})
        if verdict.promote:
            models.set_champion(self.name, version)
        champion = models.champion(self.name)
        self._tell("registry", f"{self.name}-policy version {version}; champion: {champion or 'none'}")
        return champion

    def _measure(self, policies: dict[str, Policy], stage: RunLog) -> dict[str, Estimate]:
        """True returns, where an environment is named; after the verdict, so that no gate can have seen them."""
        if self.env is None:
            return {}
        true = {}
        for name, policy in policies.items():
            returns = environments.true_returns(acting(policy), self.env, self.trial.episodes, 1000 + self.seed)
            true[name] = bootstrap(returns, self.trial.level, self.seed)
            self._tell(name, f"{_told(true[name])} in {self.env}, {self.trial.episodes} episodes")
        stage.dict({name: value._asdict() for name, value in true.items()}, "true_environment.json")
        return true

    @staticmethod
    def _tell(what: str, text: str) -> None:
        print(f"{what:<18} {text}", flush=True)


def _told(estimate: Estimate) -> str:
    return f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"


def _outcome(verdict: Verdict) -> str:
    return "promoted" if verdict.promote else "no evidence of improvement"
