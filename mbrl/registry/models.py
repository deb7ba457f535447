"""Policies and simulators in the registry: logged, registered with their lineage, promoted by alias, loaded again."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from mbrl import __version__, files
from mbrl.core import Policy, Spec
from mbrl.registry import store
from mbrl.registry.lineage import Lineage
from mbrl.registry.runs import RunLog
from mbrl.serving import artifact, export
from mbrl.simulator.simulator import Simulator

CHAMPION = "champion"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
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
    with tempfile.TemporaryDirectory() as folder:
        export.export_policy(policy, Path(folder))
        return _register(log, "policy", name, Path(folder), spec, lineage, inputs, signature, sample)


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


def set_champion(name: str, version: str) -> None:
    """Point the alias `champion` of `NAME-policy` at a version, and that of its simulator at the one it rehearsed in.

    Raises:
        StoreError: there is no such model or version; the message lists what there is.
    """
    client = MlflowClient(uri := store.connect())
    model = f"{check_name(name)}-policy"
    with explained(client, uri, model):
        simulator, _, number = client.get_model_version(model, version).tags.get("mbrl.simulator", "").partition("/")
        if simulator:
            client.set_registered_model_alias(simulator, CHAMPION, number)
        client.set_registered_model_alias(model, CHAMPION, version)


def champion(name: str) -> str | None:
    """The version of `NAME-policy` that the alias `champion` points at, or None without one.

    Raises:
        StoreError: the store does not answer.
    """
    client = MlflowClient(uri := store.connect())
    model = f"{check_name(name)}-policy"
    with explained(client, uri, model):
        found = client.search_registered_models(f"name = '{model}'")
        return str(found[0].aliases[CHAMPION]) if found and CHAMPION in found[0].aliases else None


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
    """Seal the files in `folder`, log them as a model of the run, and register it."""
    code = Path(artifact.__file__)
    listed = {f"artifacts/{kind}.{end}": files.sha256(folder / f"{kind}.{end}") for end in ("pt2", "ckpt")}
    content = {
        "kind": kind,
        "mbrl": __version__,
        "files": {code.name: files.sha256(code), **listed},
        "inputs": inputs,
        "past": spec.obs_dim - inputs["obs"],  # what is remembered of each row beside what is given
        "spec": spec.to_dict(),
        "run_id": log.run_id,
        "lineage": lineage.tags(),
    }
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(artifact.seal(content), indent=2))
    parts = {"program": folder / f"{kind}.pt2", "checkpoint": folder / f"{kind}.ckpt", "manifest": manifest}
    model, client = f"{name}-{kind}", MlflowClient(uri := store.connect())
    with explained(client, uri, model):
        logged = client.create_logged_model(  # by hand: `Model.log` would put it into MLflow's active experiment
            log.experiment_id, kind, log.run_id, tags=lineage.tags(), model_type=kind
        )
        info = Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            name=kind,
            run_id=log.run_id,
            model_id=logged.model_id,
            python_model=str(code),
            artifacts={k: str(v) for k, v in parts.items()},
            signature=signature,
            input_example=sample,
            pip_requirements=[f"{package}=={installed(package).partition('+')[0]}" for package in REQUIREMENTS],
        )
        try:
            client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = client.create_model_version(
            model, info.model_uri, log.run_id, tags=lineage.tags(), model_id=info.model_id
        )
        version = str(made.version)
        client.set_logged_model_tags(
            info.model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([{"name": model, "version": version}])}
        )
    log.tags({f"mbrl.{kind}": f"{model}/{version}"})
    return version


def resolve(uri: str, kind: str) -> tuple[str, str]:
    """Model and version number behind a URI such as `models:/NAME-policy@champion` or `models:/NAME-policy/3`.

    Raises:
        StoreError: there is no such model, alias or version; the message lists what there is.
        ValueError: the URI is malformed.
    """
    match = re.fullmatch(r"models:/([^/@]+)(?:/([0-9]+)|@([A-Za-z0-9_-]+))", uri)
    if not match:
        raise ValueError(
            f"{uri!r} is not a model URI: expected models:/NAME-{kind}@{CHAMPION} or models:/NAME-{kind}/3"
        )
    client = MlflowClient(where := store.connect())
    model, version, alias = match.groups()
    with explained(client, where, model):
        found = client.get_model_version_by_alias(model, alias) if alias else client.get_model_version(model, version)
    return model, str(found.version)


@contextmanager
def _verified(uri: str, kind: str) -> Iterator[Path]:
    """The checkpoint of a registered model, after every file of the model has been verified."""
    model, version = resolve(uri, kind)
    client = MlflowClient(where := store.connect())
    with tempfile.TemporaryDirectory() as folder:
        with explained(client, where, model):
            local = Path(mlflow.artifacts.download_artifacts(f"models:/{model}/{version}", dst_path=folder))
        try:
            manifest = artifact.read(local)
        except ValueError as error:
            raise files.CorruptFileError(f"{uri}: {error}") from error
        if manifest["kind"] != kind:
            raise ValueError(f"{uri} is a {manifest['kind']}, expected a {kind}")
        yield local / "artifacts" / f"{kind}.ckpt"


@contextmanager
def explained(client: MlflowClient, uri: str, model: str) -> Iterator[None]:
    """Turn MLflow's errors into one that says which store was asked, and what it holds instead."""
    try:
        yield
    except MlflowException as error:
        where, why = store.shown(uri), store.reason(error)
        raise store.StoreError(f"{model!r} in {where}: {why}{_inventory(client, model)}") from error


def _inventory(client: MlflowClient, model: str) -> str:
    try:
        known = {m.name: m.aliases for m in client.search_registered_models()}
        versions = sorted(int(v.version) for v in client.search_model_versions(f"name = '{model}'"))
    except MlflowException:
        return ""  # the store does not answer at all, and the error being explained says so
    if model not in known:
        return f"; registered models: {', '.join(sorted(known)) or 'none'}"
    return f"; versions of {model}: {versions}, aliases: {known[model]}"
