"""Report cards and the simulator versions that they speak of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml
from mlflow import MlflowClient

from mbrl.registry import models, store

SUMMARY = ("mbrl.trusted_horizon", "mbrl.coverage_90", "mbrl.calibration_error", "mbrl.card_grade")


class Version(NamedTuple):
    """A registered simulator, and how the log was divided that it was fitted on."""

    uri: str  # models:/NAME-simulator/3
    label: str  # NAME-simulator/3
    data_id: str
    data_fingerprint: str
    split: tuple[float, ...] | None  # None where the run that made it does not say
    seed: int | None


def find(name: str, version: str | None) -> Version:
    """Version `version` of NAME-simulator, the newest one if None.

    Raises:
        ValueError: the name is malformed, or mbrl has not registered that version.
        StoreError: there is no such model or version; the message lists what there is.
    """
    client = MlflowClient(uri := store.connect())
    model = f"{models.check_name(name)}-simulator"
    with models.explained(client, uri, model):
        client.get_registered_model(model)
        if version is None:
            numbers = [int(v.version) for v in client.search_model_versions(f"name = '{model}'")]
            if not numbers:
                raise store.StoreError(f"{model} has no version: all that there were are deleted; register one anew")
            version = str(max(numbers))
        found = client.get_model_version(model, version)
        params = client.get_run(found.run_id).data.params
    split, seed = (yaml.safe_load(params[k]) if k in params else None for k in ("data.split", "seed"))
    tags = found.tags
    if "mbrl.data_id" not in tags:
        raise ValueError(f"{model}/{version} has no tag mbrl.data_id: it is none of the simulators that mbrl registers")
    return Version(
        f"models:/{model}/{version}",
        f"{model}/{version}",
        tags["mbrl.data_id"],
        tags["mbrl.data_fingerprint"],
        None if split is None else tuple(split),
        seed,
    )


def bind(label: str, run_id: str, numbers: Mapping[str, Any], own_log: bool) -> None:
    """Tag the version `label` (NAME-simulator/3) with the run that holds its card.

    A card on the log that the simulator is from gives the version its trusted horizon, coverage and grade as well; one
    on another log is filed under that log's name.

    Raises:
        StoreError: the store did not take it.
    """
    where, (model, version) = f"runs:/{run_id}/card.html", label.split("/")
    tags = {"mbrl.card" if own_log else f"mbrl.card.{numbers['data']['id']}": where}
    if own_log:
        mean = numbers["one_step"]["mean"]
        values = (
            numbers["trusted_horizon"]["steps"],
            mean["coverage"]["90%"],
            mean["calibration_error"],
            numbers["verdict"]["grade"],
        )
        tags |= {key: str(value) for key, value in zip(SUMMARY, values, strict=True)}
    client = MlflowClient(uri := store.connect())
    with models.explained(client, uri, model):
        for key, value in tags.items():
            client.set_model_version_tag(model, version, key, value)
