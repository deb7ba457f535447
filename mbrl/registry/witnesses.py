"""What a run keeps for those who judge its policies, then or later: the second simulator, and behaviour cloning."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from mbrl import files
from mbrl.core import Policy
from mbrl.registry import models, store
from mbrl.registry.gates import CardFacts
from mbrl.registry.runs import RunLog
from mbrl.serving import export
from mbrl.simulator import stored
from mbrl.simulator.simulator import Simulator

FILE = "witnesses.ckpt"
SEAL = "mbrl.witnesses_sha256"  # a tag of the run


class Witnesses(NamedTuple):
    """What values of policies are estimated with, beside the log."""

    simulator: Simulator  # the second one, with its trusted horizon
    cloning: Policy
    card: CardFacts  # of this simulator
    data_fingerprint: str  # of the log that both were fitted on
    hashes: Mapping[str, tuple[str, str]]  # by file: SHA-256 that was recorded, and that was found


class Origin(NamedTuple):
    """Where a policy version comes from, as far as it matters to those who judge it or go on with it."""

    label: str  # NAME-policy/3
    uri: str  # models:/NAME-policy/3
    data_id: str
    data_fingerprint: str
    run_id: str  # of the run that has kept witnesses
    split: tuple[float, ...] | None  # None where that run does not say
    seed: int | None
    simulator: str | None  # NAME-simulator/3 that it was rehearsed in
    folder: Path | None  # of the run that made this version itself; None where that run says none


def write(folder: Path, simulator: Simulator, cloning: Policy, card: Mapping[str, Any]) -> str:
    """Write the witnesses of a run to its folder; the file's SHA-256.

    Args:
        folder: of the run.
        simulator: the second one, with its trusted horizon.
        cloning: the imitation of the log.
        card: numbers of the report card of this simulator.
    """
    content = {
        "simulator": stored.state(simulator),
        "cloning": export.policy_state(cloning),
        "card": {
            "grade": card["verdict"]["grade"],
            "coverage": card["one_step"]["mean"]["coverage"]["90%"],
            "trusted_horizon": card["trusted_horizon"]["steps"],
        },
        "data_fingerprint": card["data"]["fingerprint"],
    }
    files.save(folder / FILE, content)
    return files.sha256(folder / FILE)


def keep(record: RunLog, folder: Path) -> None:
    """Store what `write` wrote with the run, and its SHA-256 in a tag.

    Raises:
        StoreError: the store did not take it.
    """
    record.file(folder / FILE)
    record.tags({SEAL: files.sha256(folder / FILE)})


def read(folder: Path, recorded: str) -> Witnesses:
    """The inverse of `write`; `recorded` is the SHA-256 that the file had.

    Raises:
        CorruptFileError: the file is truncated or altered.
        ValueError: the class of the model or the policy is not importable here.
    """
    content = files.load(folder / FILE)
    return Witnesses(
        stored.load(content["simulator"]),
        export.policy_of(content["cloning"]),
        CardFacts(**content["card"]),
        content["data_fingerprint"],
        {FILE: (recorded, files.sha256(folder / FILE))},
    )


def fetch(run_id: str) -> Witnesses:
    """The witnesses that a run has kept; raises as `read` does, and StoreError where the store does not answer."""
    client = MlflowClient(uri := store.connect())
    with tempfile.TemporaryDirectory() as folder:
        with models.explained(client, uri, f"run {run_id}"):
            recorded = client.get_run(run_id).data.tags[SEAL]
            client.download_artifacts(run_id, FILE, folder)
        return read(Path(folder), recorded)


def versions(name: str) -> list[str]:
    """URIs of all versions of `NAME-policy`, oldest first.

    Raises:
        StoreError: there is no such model, or the store does not answer.
    """
    client = MlflowClient(uri := store.connect())
    model = f"{models.check_name(name)}-policy"
    with models.explained(client, uri, model):
        client.get_registered_model(model)
        found = sorted(int(v.version) for v in client.search_model_versions(f"name = '{model}'"))
    return [f"models:/{model}/{number}" for number in found]


def origin(uri: str) -> Origin:
    """Where a registered policy comes from.

    Its witnesses are with its own run, that of its simulator, or that of the version that it was fine-tuned from.

    Raises:
        StoreError: there is no such model, alias or version.
        ValueError: the URI is malformed, or no such run has kept witnesses.
    """
    model, version = models.resolve(uri, "policy")
    client = MlflowClient(where := store.connect())
    with models.explained(client, where, model):
        found = client.get_model_version(model, version)
        tags, own = found.tags, models.run_of(client, found)
        folder = None if own is None else own.data.tags.get("mbrl.folder")
        run = _judged_by(client, model, version, tags)
    params = run.data.params
    split, seed = (yaml.safe_load(params[k]) if k in params else None for k in ("data.split", "seed"))
    return Origin(
        f"{model}/{version}",
        f"models:/{model}/{version}",
        tags["mbrl.data_id"],
        tags["mbrl.data_fingerprint"],
        str(run.info.run_id),
        None if split is None else tuple(split),
        seed,
        tags.get("mbrl.simulator"),
        None if folder is None else Path(folder),
    )


def kept_for(model: str, version: str) -> Run | None:
    """The run with the witnesses of a version of a policy; None where none has kept any, or they are gone."""
    client = MlflowClient(where := store.connect())
    try:
        with models.explained(client, where, model):
            return _judged_by(client, model, version, client.get_model_version(model, version).tags)
    except (ValueError, store.StoreError):
        return None


def _judged_by(client: MlflowClient, model: str, version: str, tags: Mapping[str, str]) -> Run:
    """The run that has kept witnesses: the policy's own, its simulator's, or that of what it was fine-tuned from."""
    simulator, _, number = tags.get("mbrl.simulator", "").partition("/")
    for name, which in (model, version), (simulator, number):
        run = models.run_of(client, client.get_model_version(name, which)) if name else None
        if run is not None and SEAL in run.data.tags:
            return run
    older, _, number = tags.get("mbrl.finetuned_from", "").partition("/")
    if older:
        return _judged_by(client, older, number, client.get_model_version(older, number).tags)
    raise ValueError(
        f"{model}/{version} has no second simulator to be judged in: neither its run nor that of the simulator it was"
        f" rehearsed in ({tags.get('mbrl.simulator', 'none')}) has kept one, or they are deleted. Register it from an"
        " `mbrl run`, or with the lineage of a simulator of one"
    )
