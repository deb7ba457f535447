"""What a registered policy was left with: its learner as it was, the simulator that it rehearsed in, and the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mbrl import files
from mbrl.core import Learner, Policy, Spec, build, seeded
from mbrl.data import minari
from mbrl.data.dataset import TransitionDataset
from mbrl.data.division import divide
from mbrl.data.history import windowed
from mbrl.registry import models, promotion, witnesses
from mbrl.registry.aliases import Registry
from mbrl.registry.witnesses import Origin
from mbrl.runfolder import RunFolder
from mbrl.simulator.simulator import Simulator
from mbrl.training.checkpoint import KEYS
from mbrl.training.filtering import best_rows

# settings in a checkpoint that do not go on with its learner
OF_ONE_TRAINING = ("seed", "label", "rows", "groups", "device")


class Heritage(NamedTuple):
    """Whatever it takes to go on improving a registered policy."""

    origin: Origin
    version: str
    policy: Policy  # as it is registered
    learner: Learner  # with the weights and the optimisers of its checkpoint
    settings: dict[str, Any]  # of `fit_policy`
    checkpoint: dict[str, Any]  # what its file holds
    simulator: Simulator | None  # None where the learner neither imagines nor plans
    data: TransitionDataset  # with windows in its rows, where the policy has a history
    episodes: Tensor  # that it learned from, [k] long
    fingerprint: str  # of the log without windows

    def lessons(self) -> Tensor:
        """The episodes whose rows its updates were drawn from, [k'] long: fewer where it learned from the best."""
        rows = self.data.rows(self.episodes)
        kept = best_rows(self.data.reward[rows], self.data.ends(rows), self.settings["best"])
        return self.episodes if kept is None else self.data.episode[rows[kept]].unique()


def inherit(name: str, version: str | None) -> Heritage:
    """What version `version` of NAME-policy, the champion if None, was left with.

    Raises:
        ValueError: there is no champion, no checkpoint of a learner, or one of another policy; the log has changed.
        CorruptFileError: a file is damaged.
        StoreError: there is no such version or simulator, or the store does not answer.
    """
    model = f"{models.check_name(name)}-policy"
    number = promotion.champion(name) if version is None else promotion.numbered(Registry(name), version)
    if number is None:
        raise ValueError(f"{model} has no champion: name a version (--version V)")
    uri = f"models:/{model}/{number}"
    policy, origin = models.load_policy(uri), witnesses.origin(uri)
    plain = minari.load(origin.data_id)
    data = windowed(plain, policy.spec.history)
    if data.fingerprint != origin.data_fingerprint:
        raise ValueError(
            f"{data.id} has fingerprint {data.fingerprint[:12]}, and {origin.label} was learned from"
            f" {origin.data_fingerprint[:12]}: restore that log"
        )
    if origin.split is None or origin.seed is None:
        raise ValueError(f"the run of {origin.label} does not say how {data.id} was divided (data.split, seed)")
    episodes = divide(data, origin.split, origin.seed, needs_terminals=False).learn
    content = files.load(_checkpoint(origin, number, plain.fingerprint))
    if set(content) != KEYS:
        raise files.CorruptFileError(f"the checkpoint of {origin.label} holds {sorted(content)}, not a learner")
    if "terminal_rate" not in content["spec"]:
        raise ValueError(
            f"{origin.label} was learned before its spec had terminal_rate, which its values are now told from: learn"
            " it anew with `mbrl run`"
        )
    settings = {key: value for key, value in content["settings"].items() if key not in OF_ONE_TRAINING}
    with seeded(0, "inherit"):  # the random weights of a new learner are about to be overwritten
        learner: Learner = build(content["config"], Learner, Spec.from_dict(content["spec"]))
    simulator = None
    if learner.plans or (learner.imagines and settings["real_ratio"] < 1):
        if origin.simulator is None:
            raise ValueError(f"{origin.label} names no simulator, and {type(learner).__name__} goes on in one only")
        simulator = models.load_simulator(f"models:/{origin.simulator}")
    _restore(learner, content, data, episodes, simulator)
    kept = content["average"] or learner.policy.state_dict()
    if any(not torch.equal(kept[key], value) for key, value in policy.state_dict().items()):
        raise ValueError(
            f"the checkpoint in {origin.folder} has gone on since {origin.label} was registered: fine-tune a version"
            " whose run has ended with it"
        )
    return Heritage(origin, number, policy, learner, settings, content, simulator, data, episodes, plain.fingerprint)


def _checkpoint(origin: Origin, version: str, fingerprint: str) -> Path:
    """The file with the learner of this version."""
    lost = (
        f"{origin.label} has no learner's checkpoint to go on from: fine-tune it where `mbrl run` made it, with its"
        " folder in place"
    )
    if origin.folder is None or not (origin.folder / "run.json").exists():
        raise ValueError(f"{lost} ({origin.folder or 'its run names none'})")
    with RunFolder.open(origin.folder, fingerprint) as folder:
        stages = [
            fact.removesuffix("_version")
            for fact, value in folder.facts.items()
            if fact.startswith("policy") and fact.endswith("_version") and value == version
        ]
    path = origin.folder / f"{stages[0]}.ckpt" if stages else None
    if path is None or not path.exists():
        raise ValueError(f"{lost} ({path or origin.folder})")
    return path


def _restore(
    learner: Learner, content: dict[str, Any], data: TransitionDataset, episodes: Tensor, simulator: Simulator | None
) -> None:
    """Give the learner its weights and optimisers, once it has all the parts that it had."""
    rows = data.rows(episodes)
    learner.study(data.batch(rows), data.ends(rows))
    if simulator is not None:
        learner.enter(simulator.replaying(data, episodes))
    learner.load_state_dict(content["state_dict"])
    for key, optimizer in learner.optimizers.items():
        optimizer.load_state_dict(content["optimizers"][key])
        for group in optimizer.param_groups:
            if "capturable" in group:  # as it is where updates were captured on a GPU
                group["capturable"] = False
