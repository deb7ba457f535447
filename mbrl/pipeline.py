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
from typing import Any, NamedTuple, TypeVar

import torch
import yaml
from torch import Tensor

from mbrl import environments, files, inspection
from mbrl.assessment import Assessment, plain
from mbrl.core import Dynamics, Learner, Policy, Spec, generator, seeded
from mbrl.data import minari
from mbrl.data.audit import audit
from mbrl.data.dataset import TransitionDataset
from mbrl.data.division import Division, divide, halves
from mbrl.data.history import windowed
from mbrl.evaluation.grounds import disagreement
from mbrl.inspection import EXPERIMENT
from mbrl.registry import models, witnesses
from mbrl.registry.gates import CANDIDATE
from mbrl.registry.lineage import Lineage, LoggedData
from mbrl.registry.rules import read as read_rules
from mbrl.registry.runs import RunLog
from mbrl.registry.witnesses import Witnesses
from mbrl.report.audit_page import write_page
from mbrl.report.console import tell
from mbrl.report.dossier import draw_evidence, draw_returns, sample_rollouts
from mbrl.runfolder import RunFolder
from mbrl.settings import Data, Fit, Imitation, Rehearsal, Trial, World
from mbrl.simulator import stored
from mbrl.simulator.card import report_card
from mbrl.simulator.replay import Replay
from mbrl.simulator.simulator import Simulator
from mbrl.simulator.structure import channel_numbers, without
from mbrl.training.dynamics import fit_dynamics
from mbrl.training.policy import PolicyReport, fit_policy

STARTS = 1000  # logged start states, at most, that a simulator carries for those who have no log
REPLAYED = 200_000  # rows of the episodes, at most, whose exogenous channels go with them

Model = Callable[[Spec], Dynamics]
Factory = Callable[[Spec], Learner]
Built = TypeVar("Built")


class _Log(NamedTuple):
    """The data set as it was logged and as it is learned from, and its episodes by purpose."""

    plain: TransitionDataset
    data: TransitionDataset  # with windows in its rows, where there is a history
    episodes: Division


class _Desk(NamedTuple):
    """Where the run writes."""

    folder: RunFolder
    record: RunLog


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
    resolved: dict[str, Any]

    def run(self, dynamics: Model, learner: Factory, baseline: Factory) -> dict[str, Any]:
        """All stages; returns what `mbrl run --json` prints. A run that was finished before is told again."""
        models.check_name(self.name)
        assessment = Assessment(self.name, self.env, self.seed, self.trial, read_rules(self.trial.rules))
        log = self._read()
        spec = self._spec(log.data, log.episodes.learn)
        if self.env is not None:
            environments.check_fits(self.env, spec.frame_dim, spec.action_dim, spec.discrete, f"the log {log.data.id}")
        model = _built("simulator", dynamics, spec, self.seed)
        candidate, cloning = (_built(*of, spec, self.seed) for of in (("policy", learner), ("baseline", baseline)))
        self._check_penalty(candidate)
        stamp = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        path = (self.folder or files.home() / "runs" / f"{self.name}-{stamp}").absolute()
        with RunFolder.open(path, log.plain.fingerprint) as folder:
            folder.settle({**self.resolved, "folder": str(path)})
            if folder.result is not None:
                tell("finished", f"{path} holds this run and its result; nothing is repeated")
                return folder.result
            try:
                with RunLog.open(EXPERIMENT, self.name, folder.facts.get("run_id")) as record:
                    result = self._stages(dynamics, model, candidate, cloning, assessment, log, _Desk(folder, record))
            except KeyboardInterrupt as stop:
                again = f"mbrl run --config {path / 'config.yaml'}"
                raise KeyboardInterrupt(f"{str(stop) or 'stopped'}; go on with: {again}") from stop
            folder.finish(result)
        tell("next", "mbrl ui   shows the curves, pictures, verdict and models of all runs")
        return result

    def _stages(
        self,
        dynamics: Model,
        model: Dynamics,
        candidate: Learner,
        cloning: Learner,
        assessment: Assessment,
        log: _Log,
        desk: _Desk,
    ) -> dict[str, Any]:
        data = log.data
        self._remember(data, desk)
        self._audit(log, desk)
        learn, held, *_ = log.episodes
        world = self._simulator("simulator", model, data, learn, held, self.seed, desk)
        simulator, card = self._graded(world, data, held, desk)
        self._fit("baseline", cloning, log, None, desk, real_ratio=1.0, **vars(self.imitation))
        steps = self.rehearsal.steps(card["trusted_horizon"]["steps"])
        report = self._fit("policy", candidate, log, world, desk, **{**vars(self.rehearsal), "horizon": steps})
        other = _built("judge", dynamics, self._spec(data, log.episodes.judge), self.seed + 1)
        seen = self._witnesses(other, cloning.policy, log, desk)
        lineage = Lineage.of(data, f"{self.name}-simulator/{simulator}")
        version = self._register("policy_version", models.log_policy, candidate.policy, lineage, desk)
        with desk.record.stage("evidence") as stage:
            found = assessment.weigh(candidate.policy, version, data, log.episodes, seen, stage)
            own = assessment.values({CANDIDATE: candidate.policy}, data, world)
            true = assessment.measure(found.policies, stage)
            title = f"{self.name}: {found.outcome}"
            draw_evidence(stage, found.heard.opinions, true, title)
            draw_returns(stage, data.returns(), found.simulated, true, title, assessment.rules.coverage)
            sample_rollouts(stage, candidate.policy, world, data, held, steps, self.seed)
            champion = assessment.promote(found, version, desk.record)  # last: a failure before leaves the alias alone
        return {
            "name": self.name,
            "run_id": desk.record.run_id,
            "folder": str(desk.folder.path),
            "data": {
                "id": data.id,
                "fingerprint": data.fingerprint,
                "rows": len(data),
                "episodes": data.episodes,
                "history": data.history,
            },
            "logged_return": plain(found.logged),
            "estimates": {kind: plain(view.values) for kind, view in found.evidence.views.items()},
            "own_simulator": plain(own),
            "true_environment": plain(true),
            "updates": report.updates,
            "simulator_version": simulator,
            "simulator_verdict": card["verdict"]["sentence"],
            "trusted_horizon": card["trusted_horizon"]["steps"],
            "policy_version": version,
            "verdict": found.verdict.outcome,
            "promoted": found.verdict.promote,
            "reasons": list(found.verdict.reasons),
            "champion": champion,
        }

    # ------------------------------------------------------------------ what can be refused before any work

    def _read(self) -> _Log:
        plain = minari.load(self.data.id, self.data.download)
        data = windowed(plain, self.data.history)
        episodes = divide(data, self.data.split, self.seed, needs_terminals=self.world.termination is None)
        said = f"{len(data):,} rows, {data.episodes:,} episodes, mean return {data.returns().mean():.1f}"
        seen = f", windows of {data.history} observations" if data.history > 1 else ""
        tell("log", f"{data.id}: {said}{seen}")
        return _Log(plain, data, episodes)

    def _spec(self, data: TransitionDataset, episodes: Tensor) -> Spec:
        """The spec of the episodes, without the channels that the known structure computes."""
        return without(data.spec(episodes), self._computed(data))

    def _computed(self, data: TransitionDataset) -> tuple[int, ...]:
        return channel_numbers(self.world.computed, data.channels[: data.frame_dim])

    def _check_penalty(self, learner: Learner) -> None:
        imagines = learner.imagines and self.rehearsal.real_ratio < 1
        if imagines and self.rehearsal.penalty and self.world.uncertainty is None:
            raise ValueError(
                f"rehearsal.penalty is {self.rehearsal.penalty} and simulator.uncertainty is null: name one, such as"
                " dynamics.uncertainty.max_aleatoric, or set rehearsal.penalty to 0"
            )

    # ------------------------------------------------------------------ stages

    def _remember(self, data: TransitionDataset, desk: _Desk) -> None:
        settings, (folder, record) = desk.folder.settings, desk
        folder.remember(run_id=record.run_id, name=self.name)
        record.params({k: v for k, v in settings.items() if k != "folder"})
        record.text(yaml.safe_dump(settings, sort_keys=False), "config.yaml")
        record.tags(Lineage.of(data).tags() | {"mbrl.folder": str(folder.path)})
        record.input(LoggedData(data), "training")
        word = "resumed in" if record.resumed else "folder"
        tell(word, f"{folder.path}   (should this end early: mbrl run --config {folder.path / 'config.yaml'})")

    def _audit(self, log: _Log, desk: _Desk) -> None:
        """Tell and keep what is wrong with the log; stop here only if `data.strict` asks for it."""
        if desk.folder.facts.get("audited"):
            return
        with desk.record.stage("audit") as stage:
            divided = log.episodes
            sides = (divided.learn, divided.held, torch.cat([divided.judge, divided.judge_held]))
            found = audit(log.plain, sides=sides, seed=self.seed)
            page = desk.folder.path / "audit.html"
            write_page(page, found)
            stage.dict(found.to_dict(), "audit.json")
            stage.file(page)
            for finding in found.findings:
                tell("audit", finding.line())
            tell("audit", f"{len(found.serious)} serious of {len(found.findings)} finding(s); {page}")
            if self.data.strict and found.serious:
                raise ValueError(
                    f"the audit of {log.data.id} has {len(found.serious)} serious finding(s), see {page}: mend the log,"
                    " or set data.strict to false"
                )
        desk.folder.remember(audited=True)

    def _simulator(
        self,
        stage: str,
        model: Dynamics,
        data: TransitionDataset,
        learn: Tensor,
        held: Tensor,
        seed: int,
        desk: _Desk,
    ) -> Simulator:
        """A simulator fitted on the episodes `learn` until it is best on `held`, and calibrated on these."""
        path = desk.folder.path / f"{stage}.ckpt"
        if path.exists():
            return stored.load(files.load(path))
        rows, other = data.rows(learn), data.rows(held)
        with desk.record.stage(stage) as child:
            report = fit_dynamics(
                model,
                data.batch(rows),
                data.episode[rows],
                data.batch(other),
                data.episode[other],
                seed=seed,
                folder=desk.folder.path / stage,
                accelerator=self.accelerator,
                progress=True,
                log=child.metrics,
                **vars(self.fit),
            )
            child.tags({"mbrl.elites": report.elites})
            child.metrics({f"holdout_member_{e}": score for e, score in enumerate(report.scores)}, report.epochs)
        kept, replay = learn[torch.randperm(len(learn), generator=generator(seed, "starts"))[:STARTS]], None
        if data.exogenous:
            kept = kept[: max(1, int((data.lengths[kept].cumsum(0) <= REPLAYED).sum()))]
            replay = Replay.of(data, kept)
        world = vars(self.world) | {"computed": self._computed(data)}
        if stage == "judge" and self.world.uncertainty is None:  # the gate asks how doubtful the rollouts are
            world["uncertainty"] = disagreement
        simulator = Simulator(model.cpu(), model.spec, **world, starts=data.starts[kept], replay=replay)
        simulator.calibrate(data.batch(other), data.episode[other])
        files.save(path, stored.state(simulator))
        best = min(report.scores)
        tell(stage, f"{report.epochs} epochs, hold-out error {best:.3g} (best member), {report.seconds:.0f} s")
        return simulator

    def _graded(
        self, world: Simulator, data: TransitionDataset, held: Tensor, desk: _Desk
    ) -> tuple[str, dict[str, Any]]:
        """Register the simulator with its report card: its version, and the card's numbers."""
        path = desk.folder.path / "card.json"
        if path.exists():
            numbers: dict[str, Any] = json.loads(path.read_text())
            world.trusted_horizon = numbers["trusted_horizon"]["steps"]
            return str(desk.folder.facts["simulator_version"]), numbers
        about = inspection.about(world, (data.id, data.fingerprint), self.seed)
        crossed = halves(held, self.seed)
        card = report_card(world, data, held, calibrated_on=held, seed=self.seed, about=about, crossed=crossed)
        world.trusted_horizon = card.numbers["trusted_horizon"]["steps"]
        version = self._register("simulator_version", models.log_simulator, world, Lineage.of(data), desk)
        with desk.record.stage("card") as stage:
            inspection.keep(card, f"{self.name}-simulator/{version}", stage, path.parent, path.stem, own_log=True)
        tell("card", f"{card.numbers['verdict']['sentence']}   {path.with_suffix('.html')}")
        return version, card.numbers

    def _witnesses(self, model: Dynamics, cloning: Policy, log: _Log, desk: _Desk) -> Witnesses:
        """The second simulator, graded on episodes that it has not seen, and the imitation: kept with the run."""
        data, (_, held, learn, stop), folder = log.data, log.episodes, desk.folder
        second = self._simulator("judge", model, data, learn, stop, self.seed + 1, desk)
        if "witnesses_sha256" not in folder.facts:
            about = inspection.about(second, (data.id, data.fingerprint), self.seed + 1)
            card = report_card(second, data, held, calibrated_on=stop, seed=self.seed, about=about)
            second.trusted_horizon = card.numbers["trusted_horizon"]["steps"]
            recorded = witnesses.write(folder.path, second, cloning, card.numbers)
            witnesses.keep(desk.record, folder.path)
            folder.remember(witnesses_sha256=recorded)
            tell("judge", card.numbers["verdict"]["sentence"])
        return witnesses.read(folder.path, folder.facts["witnesses_sha256"])

    def _fit(
        self, stage: str, learner: Learner, log: _Log, world: Simulator | None, desk: _Desk, **settings: Any
    ) -> PolicyReport:
        """Improve the learner, from its checkpoint if there is one, and leave it on the CPU."""
        rows = log.data.rows(log.episodes.learn)
        with desk.record.stage(stage) as child:
            report = fit_policy(
                learner,
                log.data.batch(rows),
                world and world.replaying(log.data, log.episodes.learn),
                ends=log.data.ends(rows),
                seed=self.seed,
                checkpoint=desk.folder.path / f"{stage}.ckpt",
                accelerator=self.accelerator,
                log=child.metrics,
                label=stage,
                **settings,
            )
        learner.cpu()
        tell(stage, f"{report.updates:,} updates, {report.imagined_rows:,} imagined rows, {report.seconds:.0f} s")
        return report

    def _register(self, fact: str, log: Callable[..., str], model: Any, lineage: Lineage, desk: _Desk) -> str:
        """The model's new version, or the one that an earlier process of this run has registered."""
        if fact not in desk.folder.facts:
            desk.folder.remember(**{fact: log(desk.record, model, self.name, lineage)})
        return str(desk.folder.facts[fact])


def _built(stage: str, factory: Callable[[Spec], Built], spec: Spec, seed: int) -> Built:
    with seeded(seed, stage):
        return factory(spec)
