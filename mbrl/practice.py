"""`mbrl finetune`: measure the old policy, practise in the true environment, measure, register and judge the new one.

Real and imagined rows are mixed as in MBPO (Janner et al. 2019, algorithm 2), with two differences: an update's real
rows are drawn from the log and from the true episodes in a stated proportion (Ball et al. 2023, "RLPD", section 4.1),
and the simulator stays the registered one, which the new version's lineage names, instead of being fitted anew.
"""

from __future__ import annotations

import copy
import datetime
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from mbrl import environments, files
from mbrl.assessment import figure, plain, shown
from mbrl.core import Batch, Learner, Policy, generator
from mbrl.data.joining import joined, transitions
from mbrl.evaluation.estimates import bootstrap
from mbrl.heritage import Heritage, inherit
from mbrl.inspection import EXPERIMENT
from mbrl.probation import Driver, Probation
from mbrl.registry import models, promotion, verdicts
from mbrl.registry.decisions import Decision
from mbrl.registry.lineage import Lineage, LoggedData
from mbrl.registry.runs import RunLog
from mbrl.report.console import tell
from mbrl.runfolder import RunFolder
from mbrl.training.buffer import Ring
from mbrl.training.policy import fit_policy
from mbrl.worlds import Desk

LEVEL = 0.95  # of the interval whose lower end is the floor where none is given


class Standing(NamedTuple):
    """A learner at one moment, and the policy that it has made."""

    policy: Policy
    weights: dict[str, Any]
    optimizers: dict[str, Any]
    updates: int

    @classmethod
    def of(cls, policy: Policy, learner: Learner, updates: int) -> Standing:
        """A copy, which does not change with the learner."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in learner.optimizers.items()}
        return cls(*copy.deepcopy((policy, learner.state_dict(), optimizers)), updates)


class Practised(NamedTuple):
    """What came of the practice."""

    standing: Standing | None  # None: nothing that was learned has kept the floor
    new: np.ndarray  # [n] returns of the new policy
    episodes: list[tuple[int, float]]  # steps spent at the end of each practised episode, and its return
    floor: float
    spent: int  # steps in all
    handed_back: bool


@dataclass(frozen=True)
class Practice:
    """One `mbrl finetune`; see `mbrl.finetuning.finetune` for the fields."""

    name: str
    version: str | None
    env: str
    steps: int
    floor: float | None
    episodes: int
    updates_per_step: int
    share: float
    seed: int

    def run(self) -> dict[str, Any]:
        """All of it; returns what `mbrl finetune --json` prints."""
        left = inherit(self.name, self.version)
        label = left.origin.label
        environments.check_spaces(self.env, left.policy.spec, label)
        probation = Probation(self.env, self.steps, self.episodes, self.seed)
        old = probation.measure(left.policy)
        worth = bootstrap(old, LEVEL, self.seed)
        tell("old policy", f"{label}: {shown(worth)} in {self.env}, {len(old)} episodes")
        probation.floor = worth.low if self.floor is None else self.floor
        if probation.broken:
            raise ValueError(
                f"floor is {probation.floor:g}, and {label} itself returns {figure(worth.value)} (mean of {len(old)}"
                " episodes): a floor above the old policy's own return would hand back to something worse. Lower it"
            )
        stamp = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        path = files.home() / "runs" / f"{self.name}-finetuned-{stamp}"
        with (
            RunFolder.open(path, left.fingerprint) as folder,
            RunLog.open(EXPERIMENT, f"{self.name} fine-tuned") as record,
        ):
            folder.remember(run_id=record.run_id, name=self.name, finetuned_from=label)
            record.params(
                {
                    **asdict(self),
                    "version": left.version,
                    "learner": left.checkpoint["config"],
                    "rehearsal": left.settings,
                }
            )
            record.tags({"mbrl.folder": str(path)})
            record.input(LoggedData(left.data), "training")
            with record.stage("finetuning") as stage:
                practised = self._practise(left, probation, stage)
                decision = self._judged(left, old, practised, stage)
            desk = Desk(folder, record)
            version = self._register(left, practised, decision, desk)
            answer = self._answer(left, old, practised, decision, version, desk)
            folder.finish(answer)
        return answer

    def _practise(self, left: Heritage, probation: Probation, stage: RunLog) -> Practised:
        """Play and learn, until the budget or the floor is reached; the last weights that kept the floor."""
        driver = Driver(left.policy, generator(self.seed, "finetuning"))
        played: list[Batch] = []
        told: list[tuple[int, float]] = []
        kept = learned = Standing.of(left.policy, left.learner, 0)
        for episode, value in probation.practice(driver):
            told.append((probation.spent, value))
            newest = float(np.mean(probation.newest))
            stage.metrics({"true_return": value, "newest_true_returns": newest}, probation.spent)
            if len(told) % self.episodes == 0:
                tell("practice", f"{probation.spent:,} of {self.steps:,} steps; newest episodes {figure(newest)}")
            if probation.broken:
                break
            before, kept = kept, learned
            played.append(transitions(episode, left.policy.spec, self.env))
            try:
                learned = self._learned(left, played, self.updates_per_step * len(episode.rewards), kept)
            except FloatingPointError as error:
                if kept.updates == 0:
                    raise
                kept = before  # what is measured now is `learned`, which is not to be handed back to itself
                tell("practice", f"{error}; it ends here, with what was learned from the episodes before")
                break
            driver.policy = learned.policy
        new = np.array([]) if probation.broken else probation.measure(driver.policy)
        if not probation.broken:
            return Practised(learned, new, told, probation.floor, probation.spent, False)
        tell(
            "handed back", f"the newest {self.episodes} episodes return less than the floor, {figure(probation.floor)}"
        )
        return Practised(kept if kept.updates else None, new, told, probation.floor, probation.spent, True)

    def _learned(self, left: Heritage, played: Sequence[Batch], updates: int, before: Standing) -> Standing:
        """Updates on the log, on the true episodes, and on what is imagined from the states of both.

        Where the policy is an average of weights, it goes on as one: one that began with every episode would be of as
        many updates as the episode has, few of them where it is short. What learned from the best logged episodes alone
        goes on with these, and with every true one: best of the mixture could be all of the one or none.
        """
        data = joined(left.data, left.lessons(), played, self.share)
        policy = fit_policy(
            left.learner,
            data.batch(),
            left.simulator and left.simulator.replaying(data),
            ends=data.ends(torch.arange(len(data))),
            seed=self.seed,
            updates=updates,
            averaged=(before.policy, left.checkpoint["updates"] + before.updates),
            label=f"finetuning {len(played)}",
            **left.settings | {"best": 1.0},
        ).policy
        return Standing.of(policy, left.learner, before.updates + updates)

    def _judged(self, left: Heritage, old: np.ndarray, practised: Practised, stage: RunLog) -> Decision:
        """The verdict, and the file with all that it is made of."""
        seen = verdicts.TrueReturns(
            old=old,
            new=practised.new,
            logged=left.data.returns().double().numpy(),
            against=left.version,
            champion=promotion.champion(self.name),
            handed_back=practised.handed_back,
        )
        outcome, reasons = verdicts.decide(seen)
        content = {
            "env": self.env,
            "first_seed": self.seed,
            "floor": practised.floor,
            "against": left.origin.label,
            "champion": seen.champion,
            "old": old.tolist(),
            "new": practised.new.tolist(),
            "practised": practised.episodes,
            "log_mean": float(seen.logged.mean()),
            "outcome": outcome,
            "reasons": reasons,
        }
        digest = stage.dict(content, "true_returns.json")
        where = f"runs:/{stage.run_id}/true_returns.json"
        return verdicts.decision(self.name, left.version, outcome, reasons, digest, where)

    def _register(self, left: Heritage, practised: Practised, decision: Decision, desk: Desk) -> str | None:
        """The new version of NAME-policy, with its verdict in the ledger; None where there is nothing to register."""
        desk.record.tags({"mbrl.verdict": decision.outcome, "mbrl.reasons": "; ".join(decision.reasons)})
        tell("verdict", decision.outcome)
        for reason in decision.reasons:
            tell("", reason)
        label, standing = left.origin.label, practised.standing
        if standing is None:
            tell("registry", f"no new version; {label} stays as it is")
            return None
        self._keep(left, standing, desk.folder)
        lineage = replace(
            Lineage.of(left.data, left.origin.simulator, left.learner.config["class_path"]),
            finetuned_from=label,
            true_env=self.env,
            true_steps=practised.spent,
        )
        version = desk.register("policy_version", models.log_policy, standing.policy, self.name, lineage)
        promotion.judge(self.name, version, decision)
        tell("registry", f"{self.name}-policy version {version}, fine-tuned from {label}; not promoted")
        return version

    def _answer(
        self, left: Heritage, old: np.ndarray, practised: Practised, decision: Decision, version: str | None, desk: Desk
    ) -> dict[str, Any]:
        measured = {"old": bootstrap(old, LEVEL, self.seed)}
        if not practised.handed_back:
            measured["new"] = bootstrap(practised.new, LEVEL, self.seed)
            tell("new policy", f"{shown(measured['new'])} from the same starts")
        return {
            "name": self.name,
            "run_id": desk.record.run_id,
            "folder": str(desk.folder.path),
            "env": self.env,
            "steps": practised.spent,
            "budget": self.steps,
            "floor": practised.floor,
            "finetuned_from": left.version,
            "policy_version": version,
            "updates": 0 if practised.standing is None else practised.standing.updates,
            "handed_back": practised.handed_back,
            "true_environment": plain(measured),
            "verdict": decision.outcome,
            "reasons": list(decision.reasons),
            "champion": promotion.champion(self.name),
        }

    @staticmethod
    def _keep(left: Heritage, standing: Standing, folder: RunFolder) -> None:
        """The learner's checkpoint, from which the new version can be fine-tuned in turn."""
        averaged = left.checkpoint["average"] is not None
        changed = {
            "state_dict": standing.weights,
            "optimizers": standing.optimizers,
            "ring": Ring(left.policy.spec, 1).state(),
            "rng": {},
            "updates": left.checkpoint["updates"] + standing.updates,
            "average": standing.policy.state_dict() if averaged else None,
        }
        files.save(folder.path / "policy.ckpt", left.checkpoint | changed)
