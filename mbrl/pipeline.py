"""The main job, stage by stage: log -> simulator -> rehearsed policies -> evidence -> registry.

Every stage leaves its result in the run's folder, and is skipped or continued where an earlier process left one.
"""

from __future__ import annotations

import copy
import datetime
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from mbrl import environments, files, logs
from mbrl.answer import answer, tell_time
from mbrl.assessment import Assessment, Entrant, tell_few
from mbrl.core import Dynamics, Learner, Spec
from mbrl.crew import Crew
from mbrl.data.dataset import TransitionDataset
from mbrl.data.source import Streamed
from mbrl.evaluation.costs import logged_costs
from mbrl.inspection import EXPERIMENT
from mbrl.making import Making, makings, stage_of
from mbrl.registry import models
from mbrl.registry.lineage import Lineage, LoggedData
from mbrl.registry.rules import read as read_rules
from mbrl.registry.runs import RunLog
from mbrl.report.console import tell
from mbrl.report.dossier import draw_evidence, draw_returns, sample_rollouts
from mbrl.runfolder import RunFolder, lasting
from mbrl.settings import Candidate, Data, Fit, Imitation, Rehearsal, Trial, World
from mbrl.simulator.simulator import Simulator
from mbrl.training.policy import PolicyReport, check_memory, fit_policy
from mbrl.training.population import Population
from mbrl.worlds import Desk, Log, Model, Rehearsed, Worlds, built

Factory = Callable[[Spec], Learner]


@dataclass
class Pipeline:
    """One `mbrl run`; see `stages.run` for the fields."""

    data: Data
    name: str
    env: str | None
    seed: int
    accelerator: str
    workers: int | Literal["auto"]
    fit: Fit
    world: World
    candidates: Mapping[str, Candidate]  # by name; a single one is called CANDIDATE
    imitation: Imitation
    trial: Trial
    folder: Path | None
    resolved: dict[str, Any]
    seeds: Sequence[int] | None = None
    population: Literal["auto", "batched", "processes"] = "auto"

    def run(self, dynamics: Model, baseline: Factory) -> dict[str, Any]:
        """All stages; returns what `mbrl run --json` prints. A run that was finished before is told again."""
        models.check_name(self.name)
        makings = self.makings
        assessment = Assessment(self.name, self.env, self.seed, self.trial, read_rules(self.trial.rules))
        if self.env is not None:
            environments.spaces(self.env)  # one that is not there is refused before the log is read
        log = logs.read(self.data, self.seed, needs_terminals=self.world.termination is None)
        logged_costs(log.data, self.trial.cost)  # a slip in a function is not to come to light at the end
        logs.told(log, asked=self.data.history == "auto")
        tell_few(log.episodes, self.data.split, assessment.rules)
        worlds = Worlds(self.name, self.seed, self.accelerator, self.fit, self.world, dynamics, log, self._resident)
        spec = worlds.spec(log.episodes.learn)
        if self.env is not None:
            environments.check_spaces(self.env, spec, f"the log {log.data.id}")
        model = worlds.model("simulator", log.episodes.learn, self.seed)
        learners = {name: one.learner(spec) for name, one in makings.items()}
        cloning = built("baseline", baseline, spec, self.seed)
        for name, learner in learners.items():
            self._check(learner, makings[name].rehearsal, worlds, model)
        check_memory(cloning, worlds.few, None, self.accelerator, {"real_ratio": 1.0, **vars(self.imitation)})
        stamp = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        path = (self.folder or files.home() / "runs" / f"{self.name}-{stamp}").absolute()
        with RunFolder.open(path, log.plain.fingerprint) as folder:
            folder.settle({**self.resolved, "folder": str(path)})
            if folder.result is not None:
                tell("finished", f"{path} holds this run and its result; nothing is repeated")
                return folder.result
            try:
                with RunLog.open(EXPERIMENT, self.name, folder.facts.get("run_id")) as record:
                    result = self._stages(worlds, model, learners, cloning, assessment, Desk(folder, record))
            except KeyboardInterrupt as stop:
                raise KeyboardInterrupt(f"{str(stop) or 'stopped'}; go on with: {folder.again}") from stop
            folder.finish(result)
        tell("next", "mbrl ui   shows the curves, pictures, verdict and models of all runs")
        return result

    def make(self, stage: str, dynamics: Model) -> dict[str, Any]:
        """One stage of the run that another process has begun in the folder, beside that process: no result but files.

        A stage is `simulator`, `judge`, or that of a candidate, which needs the simulator made and registered if it
        rehearses.
        """
        if (path := self.folder) is None:
            raise ValueError("a stage alone is made in the folder of a run")
        log = logs.read(self.data, self.seed, needs_terminals=self.world.termination is None)
        worlds = Worlds(self.name, self.seed, self.accelerator, self.fit, self.world, dynamics, log, self._resident)
        with (
            RunFolder.beside(path, log.plain.fingerprint, stage) as folder,
            RunLog.shared(EXPERIMENT, self.name, folder.facts["run_id"]) as record,
        ):
            desk = Desk(folder, record)
            if stage in ("simulator", "judge"):
                worlds.fitted(stage, desk)
                return {}
            making = {one.stage: one for one in self.makings.values()}[stage]
            learn = log.episodes.learn
            learner = making.learner(worlds.spec(learn))
            needed = self._rehearses(learner, making.rehearsal)
            own = worlds.own(worlds.model("simulator", learn, self.seed), desk) if needed else None
            self._improve(making, learner, log, own, desk)
        return {}

    def _stages(
        self,
        worlds: Worlds,
        model: Dynamics,
        learners: Mapping[str, Learner],
        cloning: Learner,
        assessment: Assessment,
        desk: Desk,
    ) -> dict[str, Any]:
        log, data, makings = worlds.log, worlds.log.data, self.makings
        self._remember(data, desk)
        logs.audited(log, desk, self.seed, self.data.strict)
        rehearsing = {name for name in learners if self._rehearses(learners[name], makings[name].rehearsal)}
        others = [one.stage for name, one in makings.items() if name not in rehearsing]
        with Crew(desk.folder, min(self._processes, len(learners) + 2)) as crew:
            crew.begin(*(["simulator"] if rehearsing else []), "judge", *others)
            crew.wait("simulator")
            own = worlds.own(model, desk) if rehearsing else None
            crew.begin(*(one.stage for name, one in makings.items() if name in rehearsing))
            cloned = self._fit("baseline", cloning, log, None, desk, self.seed, real_ratio=1.0, **vars(self.imitation))
            reports, lost = self._reports(learners, log, own, crew, desk)
            crew.wait("judge")
            seen = worlds.second(cloned.policy, desk)
        entrants, rows = {}, {}
        for name, report in reports.items():
            rehearsed = own if name in rehearsing else None
            path = _one(learners[name]).config["class_path"]
            lineage = Lineage.of(data, rehearsed and f"{self.name}-simulator/{rehearsed.version}", path)
            for label, policy in makings[name].made(report.policy, desk.folder.path).items():
                version = desk.register(f"{stage_of(label)}_version", models.log_policy, policy, self.name, lineage)
                entrants[label] = Entrant(policy, version)
                rows[label] = {"version": version, "updates": report.updates, "rehearsed": rehearsed is not None}
        weighing = time.perf_counter()
        with desk.record.stage("evidence") as stage:
            found = assessment.weigh(entrants, data, log.episodes, seen, stage)
            best = {found.chosen: entrants[found.chosen].policy}
            simulated = {} if own is None else assessment.values(best, data, own.simulator)
            true = assessment.measure(found.policies, stage)
            title = f"{self.name}: {found.best.outcome(assessment.rules)}"
            draw_evidence(stage, found.heard.opinions, true, title)
            draw_returns(stage, data.returns(), found.simulated, true, title, assessment.rules.coverage)
            if own is not None:
                chosen = next(one for one in makings.values() if found.chosen in one.policies)
                steps = chosen.rehearsal.steps(own.trusted)
                held = log.episodes.held
                sample_rollouts(stage, best[found.chosen], own.simulator, data, held, steps, self.seed)
            champion = assessment.promote(found, entrants, desk.record)  # last: a failure before leaves the alias alone
        desk.folder.remember(evidence_seconds=time.perf_counter() - weighing)
        tell_time(desk)
        return answer(data, own, found, rows, lost, simulated, true, champion, desk)

    # ------------------------------------------------------------------ what can be refused before any work

    @property
    def makings(self) -> dict[str, Making]:
        """What is made of the candidates, by name."""
        on_gpu = self.accelerator in ("cuda", "mps") or (self.accelerator == "auto" and torch.cuda.is_available())
        batched = on_gpu if self.population == "auto" else self.population == "batched"
        return makings(self.candidates, self.seed, self.seeds, batched)

    @property
    def _processes(self) -> int:
        """How many may work at this run at once."""
        if self.workers == "auto":
            return Crew.room() if self.accelerator == "cpu" else 1
        return self.workers

    @property
    def _resident(self) -> int:
        """Bytes of logged rows that a training holds in memory."""
        return self.data.resident << 20

    @staticmethod
    def _rehearses(learner: Learner, rehearsal: Rehearsal) -> bool:
        """Whether there has to be a simulator."""
        return learner.plans or (learner.imagines and rehearsal.real_ratio < 1)

    def _check(self, learner: Learner, rehearsal: Rehearsal, worlds: Worlds, model: Dynamics) -> None:
        """Refuse a learner that could not be rehearsed, asking a copy of it in a world that nothing is fitted to."""
        rehearsal.check(type(_one(learner)).__name__, learner.imagines, self.world.uncertainty is not None)
        world = worlds.unfitted(model) if self._rehearses(learner, rehearsal) else None
        if world is not None:
            copy.deepcopy(learner).enter(world)
        check_memory(learner, worlds.few, world, self.accelerator, rehearsal.settled(1, 1))

    # ------------------------------------------------------------------ stages

    def _remember(self, data: TransitionDataset, desk: Desk) -> None:
        settings, (folder, record) = desk.folder.settings, desk
        folder.remember(run_id=record.run_id, name=self.name)
        record.params({k: v for k, v in lasting(settings).items() if k != "folder"})
        record.text(yaml.safe_dump(settings, sort_keys=False), "config.yaml")
        record.tags(Lineage.of(data).tags() | {"mbrl.folder": str(folder.path)})
        record.input(LoggedData(data), "training")
        word = "resumed in" if record.resumed else "folder"
        tell(word, f"{folder.path}   (should this end early: {folder.again})")

    def _reports(
        self, learners: Mapping[str, Learner], log: Log, own: Rehearsed | None, crew: Crew, desk: Desk
    ) -> tuple[dict[str, PolicyReport], dict[str, str]]:
        """What the candidates have become; and why, of those that diverged: the others go on without them.

        Raises:
            FloatingPointError: all of them did.
        """
        reports, lost = dict[str, PolicyReport](), dict[str, str]()
        for name, learner in learners.items():
            making = self.makings[name]
            crew.wait(making.stage)
            try:
                reports[name] = self._improve(making, learner, log, own, desk)
            except FloatingPointError as error:
                if len(lost) + 1 == len(learners):
                    raise
                lost[name] = str(error)
                tell(name, f"left out: {error}")
        desk.record.tags({f"mbrl.left_out.{name}": why for name, why in lost.items()})
        return reports, lost

    def _improve(self, one: Making, learner: Learner, log: Log, own: Rehearsed | None, desk: Desk) -> PolicyReport:
        """Rehearse one candidate."""
        rehearsal = one.rehearsal
        needed = own if self._rehearses(learner, rehearsal) else None
        rows = int(log.data.lengths[log.episodes.learn].sum())
        settings = rehearsal.settled(rows, needed.trusted if needed else 0)
        planned = learner.config["init_args"].get("horizon") if learner.plans else None
        if needed is not None and planned is not None and planned > needed.trusted:
            told = f"{one.name} plans {planned} steps ahead, beyond the {needed.trusted} that the report card trusts"
            tell("horizon", told)
        return self._fit(one.stage, learner, log, needed and needed.simulator, desk, one.seeds[0], **settings)

    def _fit(
        self, stage: str, learner: Learner, log: Log, world: Simulator | None, desk: Desk, seed: int, **settings: Any
    ) -> PolicyReport:
        """Improve the learner, from its checkpoint if there is one, and leave it on the CPU."""
        with desk.record.stage(stage) as child:
            report = fit_policy(
                learner,
                Streamed(log.data, log.episodes.learn, self._resident, self.seed),
                world and world.replaying(log.data, log.episodes.learn),
                seed=seed,
                checkpoint=desk.folder.path / f"{stage}.ckpt",
                accelerator=self.accelerator,
                log=child.metrics,
                label=stage,
                **settings,
            )
        learner.cpu()
        report.policy.cpu()
        if f"{stage}_seconds" not in desk.folder.facts:
            desk.folder.remember(**{f"{stage}_seconds": report.pace.seconds})
        if report.pace.updates:
            seconds = f"{report.pace.seconds:.0f} s"
            tell(stage, f"{report.updates:,} updates, {report.imagined_rows:,} imagined rows, {seconds}")
            tell("", str(report.pace))
        return report


def _one(learner: Learner) -> Learner:
    """The learner, or what a population is made of."""
    return learner.learner if isinstance(learner, Population) else learner
