"""Policies and simulators in the registry: logged, sealed, registered with their lineage, and loaded again."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from mbrl import __version__, files
from mbrl.core import Policy, Spec
from mbrl.registry import store
from mbrl.registry.lineage import Lineage
from mbrl.registry.runs import RunLog
from mbrl.serving import artifact, export, golden
from mbrl.simulator.simulator import Simulator

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
SEALED = "mbrl.sha256"  # the tag of a version: the SHA-256 of its manifest, which has those of its files
REQUIREMENTS = ("mlflow", "numpy", "torch")  # all that mbrl/serving/artifact.py imports
STREAMS = ParamSchema(  # of every policy, so that its caller need not know whether it has a history
    [ParamSpec("stream", DataType.string, [], (-1,)), ParamSpec("reset", DataType.boolean, [], (-1,))]
)


def check_name(name: str) -> str:
    """`name` itself, if the registry and its `models:/` URIs can carry it.

    Raises:
        ValueError: it holds other characters than letters, digits, _ and -, or is too long or empty.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"name is {name!r}, expected 1 to 100 letters, digits, _ or -, the first a letter or digit")
    return name


def log_policy(log: RunLog, policy: Policy, name: str, lineage: Lineage) -> str:
    """Log the policy as a model of the run, register it as `NAME-policy`, and return the new version.

    Served, it answers plain observations, and takes `params` that name streams and begin episodes
    (`mbrl.serving.artifact.Streams`); a policy without a history remembers nothing and ignores them.

    Raises:
        ValueError: the name is malformed, or the policy cannot be rebuilt, exported or answers outside its bounds.
        StoreError: the store did not take it.
    """
    check_name(name)
    spec = policy.spec
    inputs = {"obs": spec.frame_dim}
    answer = TensorSpec(np.dtype("int64"), (-1,)) if spec.discrete else _floats(spec.action_dim)
    signature = ModelSignature(Schema([_floats(spec.frame_dim)]), Schema([answer]), STREAMS)
    sample = export.example(spec)["obs"][:, : spec.frame_dim].numpy()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export.export_policy(policy, folder)
        golden.write(export.policy_from(folder / "policy.ckpt"), folder)
        return _register(log, "policy", name, folder, spec, lineage, inputs, signature, sample)


def log_simulator(log: RunLog, simulator: Simulator, name: str, lineage: Lineage) -> str:
    """Log the simulator as a model of the run, register it as `NAME-simulator`, and return the new version.

    Served, it answers {obs, action} (and exogenous, if a channel is) with its expected step: see
    `mbrl.serving.export.OneStep`. It remembers nothing: of a log with a history, obs are windows (`mbrl.window`), and
    so is next_obs; of a model that remembers, hidden is an input and an output, which the caller passes on.

    Raises:
        ValueError: the name is malformed, or the simulator cannot be rebuilt or exported.
        StoreError: the store did not take it.
    """
    check_name(name)
    spec = simulator.spec
    sample = {name: rows.numpy() for name, rows in export.example_step(simulator).items()}
    inputs = {name: rows.shape[1] for name, rows in sample.items()}
    row = TensorSpec(np.dtype("float32"), (-1,), "")
    outputs = [_floats(spec.obs_dim, column) for column in ("next_obs", "next_obs_low", "next_obs_high")] + [
        TensorSpec(row.type, row.shape, column)
        for column in ("reward", "reward_low", "reward_high", "terminated", "uncertainty")
    ]
    if "hidden" in inputs:
        outputs.append(_floats(inputs["hidden"], "hidden"))
    signature = ModelSignature(Schema([_floats(v, k) for k, v in inputs.items()]), Schema(outputs))
    with tempfile.TemporaryDirectory() as folder:
        export.export_simulator(simulator, Path(folder))
        return _register(log, "simulator", name, Path(folder), spec, lineage, inputs, signature, sample)


def load_policy(uri: str) -> Policy:
    """The policy behind a URI such as `models:/NAME-policy@champion` or `models:/NAME-policy/3`, to act or train on.

    It acts on what it was trained on: of a log with a history on windows, which `mbrl.window.Remembering` makes of
    plain observations.

    Raises:
        StoreError: there is no such model, alias or version; the message lists what there is.
        CorruptFileError: a file of the model is missing, truncated or altered; the message names it.
        ValueError: the URI is malformed, the model is not a policy, or its class is not importable here.
    """
    with _verified(uri, "policy") as path:
        return export.policy_from(path)


def load_simulator(uri: str) -> Simulator:
    """The simulator behind `models:/NAME-simulator@champion` or `models:/NAME-simulator/3`; raises as `load_policy`."""
    with _verified(uri, "simulator") as path:
        return export.simulator_from(path)


def _floats(width: int, name: str | None = None) -> TensorSpec:
    return TensorSpec(np.dtype("float32"), (-1, width), name)


def _register(
    log: RunLog,
    kind: str,
    name: str,
    folder: Path,
    spec: Spec,
    lineage: Lineage,
    inputs: dict[str, int],
    signature: ModelSignature,
    sample: Any,
) -> str:
    """Lay the files in `folder` out as MLflow has them, seal them, log them as a model of the run, and register it."""
    code, model = Path(artifact.__file__), f"{name}-{kind}"
    manifest = folder / "manifest.json"
    manifest.touch()  # its place is among the files that MLflow lays out, and it is written when these are there
    content = {
        "kind": kind,
        "model": model,
        "mbrl": __version__,
        "inputs": inputs,
        "past": spec.obs_dim - inputs["obs"],  # what is remembered of each row beside what is given
        "spec": spec.to_dict(),
        "run_id": log.run_id,
        "lineage": lineage.tags(),
    }
    client = MlflowClient(uri := store.connect())
    with explained(client, uri, model), tempfile.TemporaryDirectory() as temporary:
        logged = client.create_logged_model(  # by hand: `Model.log` would put it into MLflow's active experiment
            log.experiment_id, kind, log.run_id, tags=lineage.tags(), model_type=kind
        )
        local = Path(temporary, "model")
        mlflow.pyfunc.save_model(
            local,
            python_model=str(code),
            artifacts={path.name: str(path) for path in sorted(folder.iterdir())},
            signature=signature,
            input_example=sample,
            pip_requirements=[f"{package}=={installed(package).partition('+')[0]}" for package in REQUIREMENTS],
            mlflow_model=Model(model_uuid=logged.model_id, run_id=log.run_id, model_id=logged.model_id),
        )
        tags = lineage.tags() | {SEALED: seal(local, content)["sha256"]}
        version = publish(client, local, logged, model, log.run_id, tags)
    log.tags({f"mbrl.{kind}": f"{model}/{version}"})
    return version


def seal(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest of the model in `folder`: `content`, and the SHA-256 of every file in the folder."""
    for cache in folder.rglob("__pycache__"):  # MLflow imports the code to see whether it can be
        shutil.rmtree(cache)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    listed = {name: files.sha256(folder / name) for name in names if name not in artifact.UNLISTED}
    sealed = artifact.seal({**content, "files": listed})
    (folder / artifact.MANIFEST).write_text(json.dumps(sealed, indent=2))
    return sealed


def publish(
    client: MlflowClient, folder: Path, logged: LoggedModel, model: str, run_id: str, tags: Mapping[str, str]
) -> str:
    """Store the files of a sealed folder as the logged model, and register it: the new version of `model`."""
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        model, f"models:/{logged.model_id}", run_id, tags=dict(tags), model_id=logged.model_id
    )
    version = str(made.version)
    client.set_logged_model_tags(
        logged.model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([{"name": model, "version": version}])}
    )
    return version


def resolve(uri: str, kind: str) -> tuple[str, str]:
    """Model and version number behind a URI such as `models:/NAME-policy@champion` or `models:/NAME-policy/3`.

    Raises:
        StoreError: there is no such model, alias or version; the message lists what there is.
        ValueError: the URI is malformed.
    """
    match = re.fullmatch(r"models:/([^/@]+)(?:/([0-9]+)|@([A-Za-z0-9_-]+))", uri)
    if not match:
        raise ValueError(f"{uri!r} is not a model URI: expected models:/NAME-{kind}@champion or models:/NAME-{kind}/3")
    client = MlflowClient(where := store.connect())
    model, version, alias = match.groups()
    with explained(client, where, model):
        found = client.get_model_version_by_alias(model, alias) if alias else client.get_model_version(model, version)
    return model, str(found.version)


@contextmanager
def _verified(uri: str, kind: str) -> Iterator[Path]:
    """The checkpoint of a registered model, after every file of the model has been verified."""
    model, version = resolve(uri, kind)
    with fetched(model, version, uri) as (local, manifest):
        if manifest["kind"] != kind:
            raise ValueError(f"{uri} is a {manifest['kind']}, expected a {kind}")
        yield local / "artifacts" / f"{kind}.ckpt"


@contextmanager
def fetched(model: str, version: str, told: str | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A copy of a version's folder, for as long as the context lasts, and its manifest; every file is verified.

    Raises:
        StoreError: there is no such version; the message lists what there is.
        CorruptFileError: a file of the model is missing, truncated or altered; the message names it.
    """
    client = MlflowClient(where := store.connect())
    with tempfile.TemporaryDirectory() as folder:
        with explained(client, where, model):
            local = Path(mlflow.artifacts.download_artifacts(f"models:/{model}/{version}", dst_path=folder))
        try:
            manifest = artifact.read(local)
        except ValueError as error:
            raise files.CorruptFileError(f"{told or f'{model}/{version}'}: {error}") from error
        yield local, manifest


def run_of(client: MlflowClient, version: ModelVersion) -> Run | None:
    """The run that made a version, or None if somebody has removed it: the version is whole without it."""
    try:
        return client.get_run(version.run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def check_known(model: str) -> None:
    """Refuse the name of a model that nobody has registered.

    Raises:
        StoreError: there is no such model; the message lists what there is.
    """
    client = MlflowClient(uri := store.connect())
    with explained(client, uri, model):
        client.get_registered_model(model)


@contextmanager
def explained(client: MlflowClient, uri: str, model: str) -> Iterator[None]:
    """Turn MLflow's errors into one that says which store was asked, and what it holds instead."""
    try:
        yield
    except MlflowException as error:
        raise store.StoreError(_explanation(client, store.shown(uri), model, store.reason(error))) from error


def _explanation(client: MlflowClient, where: str, model: str, why: str) -> str:
    try:
        known = {m.name: m.aliases for m in client.search_registered_models(max_results=1000)}
        versions = sorted(int(v.version) for v in client.search_model_versions(f"name = '{model}'"))
    except MlflowException:
        return f"{model!r} in {where}: {why}"  # the store does not answer at all, as it says
    if model in known:
        return f"{model!r} in {where}: {why}; versions of {model}: {versions}, aliases: {known[model]}"
    name = model.removesuffix("-simulator")
    alone = f"{name}-policy" if name != model and f"{name}-policy" in known else None
    told = f"; {alone} was learned without one, and judge-card.html in its run's folder is the judge's" if alone else ""
    if name in known or (name := model.removesuffix("-policy")) in known:  # the command adds what the name ends in
        told = f"; of {name} say NAME {name.removesuffix('-policy').removesuffix('-simulator')!r}"
    return f"there is no model {model!r} in {where}{told}; registered models: {', '.join(sorted(known)) or 'none'}"
