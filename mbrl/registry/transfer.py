"""From one registered model or store to another (dev to prod): files and lineage are copied, nothing is referred to."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.models import Model

from mbrl.registry import aliases, chronicle, models, promotion, scrutiny, store, witnesses
from mbrl.registry.decisions import NOBODY
from mbrl.registry.ledger import Ledger
from mbrl.registry.runs import RunLog
from mbrl.registry.twophase import RefusedError

COPIED_TAG, SEAL_TAG = "mbrl.copied_from", "mbrl.copied_sha256"  # a label, and what the manifest's content hashed to
EXPERIMENT = "mbrl"
LINEAGE = tuple(
    f"mbrl.{name}"
    for name in (
        *("data_id", "data_fingerprint", "data_history", "observation", "action"),
        *("learner", "true_env", "true_steps"),
    )
)


class Parcel(NamedTuple):
    """A version on its way: its folder, what its manifest, tags and run say, where it is from, and its papers."""

    folder: Path
    manifest: dict[str, Any]
    tags: dict[str, str]
    params: dict[str, str]
    origin: str  # STORE NAME-kind/VERSION
    papers: list[Path]  # evidence of a policy and what it is judged by, report card of a simulator
    marks: dict[str, str]  # tags of the run that they are in

    @property
    def seal(self) -> str:
        """SHA-256 of the manifest's content: numbers begin anew in a store that is made again."""
        return str(self.manifest["sha256"])


class Copied(NamedTuple):
    """What became of a version: its label there, that of its simulator if it has one, and the ledger's head there."""

    policy: str
    simulator: str | None
    uri: str
    entry: int | None
    head: str | None


def copy(name: str, to: str, version: str | None = None, new_name: str | None = None) -> Copied:
    """Copy a version of `NAME-policy`, the champion if None, to another store or name, where it becomes the candidate.

    With it go every file, the simulator that it was rehearsed in, tags, the run's parameters, the evidence, the second
    simulator that it can be judged in again, and the entry of the ledger with its verdict. The copy is whole without
    the store that it is from. A copy that was cut short is finished by the same call.

    Args:
        name: NAME of `NAME-policy`.
        to: URI of an MLflow server or of a sqlite file, or another MBRL_HOME.
        version: of `NAME-policy`.
        new_name: NAME in the other store; the same if None.

    Raises:
        ValueError: there is no champion, or the copy would be the version itself.
        RefusedError: a file does not hold, or a golden pair.
        StoreError: one of the stores does not answer.
        LedgerError: one of the ledgers is damaged.
    """
    target = models.check_name(new_name or name)
    registry = aliases.Registry.known(name)
    at = registry.aliases().get((registry.policy, aliases.CHAMPION))
    number = promotion.numbered(registry, version) if version else at
    if number is None:
        raise ValueError(f"{registry.policy} has no champion: name a version (--version V)")
    entries = Ledger.open(name).entries()
    verdict = chronicle.judged(entries, number)
    if against := scrutiny.objections(registry, number, verdict, gated=False):
        raise RefusedError(f"copy of {registry.policy}/{number}: {'; '.join(against)}")
    decision = None if verdict is None else chronicle.decision(verdict)
    reigning = None if decision is None else _sealed(registry, decision.champion)
    judges = witnesses.kept_for(registry.policy, number)
    papers = [decision.evidence] if decision is not None and decision.evidence is not None else []
    with _packed(registry, registry.policy, number, papers, judges) as policy:
        label = policy.tags.get("mbrl.simulator", "")
        with _simulator(registry, label) as simulator, store.at(to) as uri:
            if (uri, target) == (registry.uri, name):
                raise ValueError(
                    f"{registry.policy}/{number} is in {store.shown(uri)} already: give the copy a new name"
                )
            run_id, made, rehearsed = _unpacked(target, policy, simulator)
            if decision is None or verdict is None:
                return Copied(made, rehearsed, store.shown(uri), None, None)
            about = {"origin": {"store": store.shown(registry.uri), "entry": verdict.number, "hash": verdict.hash}}
            evidence = f"runs:/{run_id}/{policy.papers[0].name}" if papers else None  # the first of the papers
            known = _known_as(target, registry, decision.champion, reigning)
            kept = decision._replace(evidence=evidence, champion=known)
            done = promotion.judge(target, made.rpartition("/")[2], kept, "copy", verdict.about["author"], about)
            return Copied(made, rehearsed, store.shown(uri), done.entry, done.head)


@contextmanager
def _packed(
    registry: aliases.Registry, model: str, version: str, papers: Sequence[str], judges: Run | None = None
) -> Iterator[Parcel]:
    """A version's files, verified, and the papers (runs:/RUN/FILE) that go with them, the last that of its judges."""
    client, params, marks = registry.client, {}, {}
    if judges is not None:
        papers = [*papers, f"runs:/{judges.info.run_id}/{witnesses.FILE}"]
        params, marks = dict(judges.data.params), {witnesses.SEAL: judges.data.tags[witnesses.SEAL]}
    with models.fetched(model, version) as (folder, manifest), tempfile.TemporaryDirectory() as beside:
        with models.explained(client, registry.uri, model):
            found = client.get_model_version(model, version)
            run = models.run_of(client, found)
            kept = [Path(mlflow.artifacts.download_artifacts(paper, dst_path=beside)) for paper in papers]
        origin = f"{store.shown(registry.uri)} {model}/{version}"
        params |= run.data.params if run else {}
        yield Parcel(folder, manifest, dict(found.tags), params, origin, kept, marks)


@contextmanager
def _simulator(registry: aliases.Registry, label: str) -> Iterator[Parcel | None]:
    """The simulator of a policy, with its report card; None if it has none, or it is deleted."""
    model, _, number = label.partition("/")
    if not number or not registry.exists(model, number):
        yield None
        return
    with models.explained(registry.client, registry.uri, model):
        card = registry.client.get_model_version(model, number).tags.get("mbrl.card", "")
    papers = [card, card.removesuffix("html") + "json"] if card else []
    with _packed(registry, model, number, papers) as parcel:
        yield parcel


def _unpacked(name: str, policy: Parcel, simulator: Parcel | None) -> tuple[str, str, str | None]:
    """Register both under NAME in the store of this moment, in a run of their own: its id, and their labels."""
    rehearsed = None if simulator is None else _there(f"{name}-simulator", simulator.origin, simulator.seal)
    if made := _there(f"{name}-policy", policy.origin, policy.seal):
        client = MlflowClient(uri := store.connect())
        with models.explained(client, uri, made.rpartition("/")[0]):
            run_id = str(client.get_model_version(*made.split("/")).run_id)
            for paper in policy.papers:  # the verdict may be newer than the copy
                client.log_artifact(run_id, str(paper))
            for key, mark in policy.marks.items():
                client.set_tag(run_id, key, mark)
        return run_id, made, rehearsed
    with RunLog.open(EXPERIMENT, f"copy of {policy.origin.rpartition(' ')[2]}") as log:
        log.params(policy.params)
        log.tags({COPIED_TAG: policy.origin, **policy.marks})
        tags = {key: value for key, value in policy.tags.items() if key in LINEAGE}
        if simulator is not None:
            rehearsed = rehearsed or _published(log, f"{name}-simulator", simulator, _card_tags(log, simulator))
            tags["mbrl.simulator"] = rehearsed
        return log.run_id, _published(log, f"{name}-policy", policy, tags), rehearsed


def _card_tags(log: RunLog, parcel: Parcel) -> dict[str, str]:
    """The tags of a simulator, with the report card in the run of the copy; cards on other logs stay where they are."""
    tags = {key: value for key, value in parcel.tags.items() if not key.startswith("mbrl.card.")}
    return tags | ({"mbrl.card": f"runs:/{log.run_id}/{parcel.papers[0].name}"} if parcel.papers else {})


def _known_as(name: str, registry: aliases.Registry, champion: str | None, sealed: str | None) -> str | None:
    """The number that another store's champion has in the store of this moment; where it was never copied, its label.

    That is no version here, so that a champion of this store is not replaced on the strength of a comparison with it.
    """
    if champion in (None, NOBODY):
        return champion
    label = f"{store.shown(registry.uri)} {registry.policy}/{champion}"
    copied = None if sealed is None else _there(f"{name}-policy", label, sealed)
    return label if copied is None else copied.rpartition("/")[2]


def _sealed(registry: aliases.Registry, champion: str | None) -> str | None:
    """SHA-256 of what a champion holds; None where there is none, or it is deleted."""
    if champion in (None, NOBODY) or not registry.exists(registry.policy, str(champion)):
        return None
    return registry.version(str(champion)).tags.get(models.SEALED)


def _there(model: str, origin: str, sealed: str) -> str | None:
    """The label of the copy that an earlier call has made of this very version, with these very files."""
    client = MlflowClient(uri := store.connect())
    with models.explained(client, uri, model):
        found = client.search_model_versions(f"name = '{model}'")
    made = [v for v in found if v.tags.get(COPIED_TAG) == origin and v.tags.get(SEAL_TAG) == sealed]
    return f"{model}/{made[0].version}" if made else None


def _published(log: RunLog, model: str, parcel: Parcel, tags: dict[str, str]) -> str:
    """Seal the files under their new name, with the seal that they had, and register them: the label of the copy."""
    client, kind = MlflowClient(uri := store.connect()), parcel.manifest["kind"]
    for paper in parcel.papers:
        log.file(paper)
    tags = {**tags, COPIED_TAG: parcel.origin, SEAL_TAG: parcel.seal}
    with models.explained(client, uri, model):
        logged = client.create_logged_model(log.experiment_id, kind, log.run_id, tags=tags, model_type=kind)
        about = Model.load(str(parcel.folder))
        about.model_id = about.model_uuid = logged.model_id
        about.run_id = log.run_id
        about.save(str(parcel.folder / "MLmodel"))
        (parcel.folder / "registered_model_meta").unlink(missing_ok=True)
        content = {key: value for key, value in parcel.manifest.items() if key not in ("files", "sha256")}
        origin = {"version": parcel.origin, "run_id": content["run_id"], "sha256": parcel.manifest["sha256"]}
        sealed = models.seal(parcel.folder, {**content, "model": model, "run_id": log.run_id, "origin": origin})
        tags[models.SEALED] = sealed["sha256"]
        version = models.publish(client, parcel.folder, logged, model, log.run_id, tags)
    log.tags({f"mbrl.{kind}": f"{model}/{version}"})
    return f"{model}/{version}"
