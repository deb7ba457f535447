"""The two simulators of a run, fitted, graded and kept: the one to rehearse in, and the judge's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from mbrl import files, inspection
from mbrl.core import Dynamics, Policy, Spec, generator, seeded
from mbrl.data.dataset import TransitionDataset
from mbrl.data.division import Division, halves
from mbrl.data.source import Streamed
from mbrl.evaluation.grounds import disagreement
from mbrl.registry import models, witnesses
from mbrl.registry.lineage import Lineage
from mbrl.registry.runs import RunLog
from mbrl.registry.witnesses import Witnesses
from mbrl.report.console import tell
from mbrl.runfolder import RunFolder
from mbrl.settings import Fit, World
from mbrl.simulator import stored
from mbrl.simulator.calibration import measure
from mbrl.simulator.card import report_card
from mbrl.simulator.replay import Replay
from mbrl.simulator.simulator import Simulator
from mbrl.simulator.structure import channel_numbers, without
from mbrl.training.dynamics import check_memory, fit_dynamics
from mbrl.training.shared import fit_once

STARTS = 1000  # logged start states, at most, that a simulator carries for those who have no log
PROBED = 64  # rows that functions of somebody's are tried on
HELD = 500_000  # held-out rows, to the end of an episode, that a fit is scored and calibrated on
REPLAYED = 200_000  # rows of the episodes, to the end of one, whose exogenous channels go with them

Model = Callable[[Spec], Dynamics]
Built = TypeVar("Built")


class Log(NamedTuple):
    """The data set as it was logged and as it is learned from, and its episodes by purpose."""

    plain: TransitionDataset
    data: TransitionDataset  # with windows in its rows, where there is a history
    episodes: Division


class Desk(NamedTuple):
    """Where a run writes."""

    folder: RunFolder
    record: RunLog

    def register(self, fact: str, log: Callable[..., str], model: Any, name: str, lineage: Lineage) -> str:
        """The model's new version, or the one that an earlier process of this run has registered."""
        if fact not in self.folder.facts:
            self.folder.remember(**{fact: log(self.record, model, name, lineage)})
        return str(self.folder.facts[fact])


class Rehearsed(NamedTuple):
    """The simulator that policies rehearse in."""

    simulator: Simulator
    version: str  # of NAME-simulator
    card: dict[str, Any]  # the numbers of its report card

    @property
    def trusted(self) -> int:
        """Steps that the card trusts it for."""
        return int(self.card["trusted_horizon"]["steps"])


@dataclass(frozen=True)
class Worlds:
    """How a run makes its simulators; see `stages.run` for the first five fields."""

    name: str
    seed: int
    accelerator: str
    fit: Fit
    world: World
    dynamics: Model
    log: Log
    resident: int  # bytes of logged rows that a training holds in memory

    def spec(self, episodes: Tensor) -> Spec:
        """The spec of some episodes, without the channels that the known structure computes."""
        return without(self.log.data.spec(episodes), self._computed())

    def _computed(self) -> tuple[int, ...]:
        data = self.log.data
        return channel_numbers(self.world.computed, data.channels[: data.frame_dim])

    def model(self, stage: str, episodes: Tensor, seed: int) -> Dynamics:
        """A new model of the episodes.

        Raises:
            ValueError: it remembers, and the second simulator is to be fitted several steps ahead.
        """
        model = built(stage, self.dynamics, self.spec(episodes), seed)
        check_memory(model, self.fit.judge_multistep or 1, "fit.judge_multistep")
        return model

    @property
    def few(self) -> Streamed:
        """Rows of one episode, which say how much memory a row takes."""
        return Streamed(self.log.data, self.log.episodes.learn[:1], self.resident, self.seed)

    def unfitted(self, model: Dynamics) -> Simulator:
        """A simulator of the model as it is, over the episode of `few`: for what can be asked before any training."""
        learn = self.log.episodes.learn[:1]
        world = self._simulator("simulator", model, learn, self.seed).replaying(self.log.data, learn)
        world.calibrated, world.trusted_horizon = True, 1  # which no learner may ask for in an earnest world
        rows = self.log.data.rows(learn)[:PROBED]
        measure(world.ends, self.log.data.batch(rows), self.log.data.episode[rows], world.targets, world.uncertainty)
        return world

    def own(self, model: Dynamics, desk: Desk) -> Rehearsed:
        """The simulator to rehearse in, registered with its report card."""
        data, held = self.log.data, few(self.log.data, self.log.episodes.held, self.seed)
        world = self.fitted("simulator", desk, model)
        path = desk.folder.path / "card.json"
        if path.exists():
            numbers: dict[str, Any] = json.loads(path.read_text())
            world.trusted_horizon = numbers["trusted_horizon"]["steps"]
            return Rehearsed(world, str(desk.folder.facts["simulator_version"]), numbers)
        about = inspection.about(world, (data.id, data.fingerprint), self.seed)
        crossed = halves(data, held, self.seed)
        card = report_card(world, data, held, calibrated_on=held, seed=self.seed, about=about, crossed=crossed)
        world.trusted_horizon = card.numbers["trusted_horizon"]["steps"]
        version = desk.register("simulator_version", models.log_simulator, world, self.name, Lineage.of(data))
        with desk.record.stage("card") as stage:
            inspection.keep(card, f"{self.name}-simulator/{version}", stage, path.parent, path.stem, own_log=True)
        tell("card", f"{card.numbers['verdict']['sentence']}   {path.with_suffix('.html')}")
        return Rehearsed(world, version, card.numbers)

    def second(self, cloning: Policy, desk: Desk) -> Witnesses:
        """The second simulator, graded on episodes that it has not seen, and the imitation: kept with the run."""
        data, (_, held, _, stop), folder = self.log.data, self.log.episodes, desk.folder
        held, stop = (few(data, episodes, self.seed) for episodes in (held, stop))
        second = self.fitted("judge", desk)
        if "witnesses_sha256" not in folder.facts:
            about = inspection.about(second, (data.id, data.fingerprint), self.seed + 1)
            card = report_card(second, data, held, calibrated_on=stop, seed=self.seed, about=about)
            second.trusted_horizon = card.numbers["trusted_horizon"]["steps"]
            page = inspection.keep_judge(card, self.name, desk.record, folder.path)
            recorded = witnesses.write(folder.path, second, cloning, card.numbers)
            witnesses.keep(desk.record, folder.path)
            folder.remember(witnesses_sha256=recorded)
            tell("judge", f"{card.numbers['verdict']['sentence']}   {page}")
        return witnesses.read(folder.path, folder.facts["witnesses_sha256"])

    def fitted(self, stage: str, desk: Desk, model: Dynamics | None = None) -> Simulator:
        """The `simulator` or the `judge`, fitted on its own episodes until it is best on others, calibrated on these.

        It is left in the folder, and read from there if an earlier process has left it. `model` is a new one if None.
        """
        path, data, judging = desk.folder.path / f"{stage}.ckpt", self.log.data, stage == "judge"
        if path.exists():
            return stored.load(files.load(path))
        learn, held, *judges = self.log.episodes
        learn, held = judges if judging else (learn, held)
        seed, held = self.seed + judging, few(data, held, self.seed)
        model = model or self.model(stage, learn, seed)
        other, source = data.rows(held), Streamed(data, learn, self.resident, seed)
        if source.groups > 1:
            tell(stage, f"{source.groups} groups of episodes, one in memory at a time (data.resident)")
        settings = {"seed": seed, "accelerator": self.accelerator, **self.fit.arguments(judging=judging)}
        about = {"log": data.fingerprint, "learn": learn.tolist(), "held": held.tolist(), "groups": source.groups}
        with desk.record.stage(stage) as child:
            fit = partial(
                fit_dynamics,
                model,
                source,
                data.batch(other),
                data.episode[other],
                folder=desk.folder.path / stage,
                progress=stage,
                log=child.metrics,
                **settings,
            )
            report = fit_once(self.fit.shared, stage, model, about | settings, fit)
            child.tags({"mbrl.elites": report.elites})
            child.metrics({f"holdout_member_{e}": score for e, score in enumerate(report.scores)}, report.epochs)
        simulator = self._simulator(stage, model.cpu(), learn, seed)
        simulator.calibrate(data.batch(other), data.episode[other])
        desk.folder.remember(**{f"{stage}_seconds": report.seconds})
        files.save(path, stored.state(simulator))
        best = min(report.scores)
        tell(stage, f"{report.epochs} epochs, hold-out error {best:.3g} (best member), {report.seconds:.0f} s")
        return simulator

    def _simulator(self, stage: str, model: Dynamics, learn: Tensor, seed: int) -> Simulator:
        data = self.log.data
        kept, replay = learn[torch.randperm(len(learn), generator=generator(seed, "starts"))[:STARTS]], None
        if data.exogenous:
            kept = data.some(kept, REPLAYED)
            replay = Replay.of(data, kept)
        world = vars(self.world) | {"computed": self._computed()}
        if stage == "judge" and self.world.uncertainty is None:  # the gate asks how doubtful the rollouts are
            world["uncertainty"] = disagreement
        return Simulator(model, model.spec, **world, starts=data.starts[kept], replay=replay)


def few(data: TransitionDataset, held: Tensor, seed: int) -> Tensor:
    """Held-out episodes with about `HELD` rows: all of them in most logs, else some at random, at least one."""
    return data.some(held[torch.randperm(len(held), generator=generator(seed, "held"))], HELD)


def built(stage: str, factory: Callable[[Spec], Built], spec: Spec, seed: int) -> Built:
    """What the factory makes of a spec, its weights drawn from the stage's own stream."""
    with seeded(seed, stage):
        return factory(spec)
