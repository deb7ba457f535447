"""Which data made which simulator made which policy: MLflow data set inputs, and tags that link the three."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from mlflow.data.dataset import Dataset
from mlflow.data.schema import TensorDatasetSchema
from mlflow.types import Schema, TensorSpec

from mbrl.data.dataset import TransitionDataset
from mbrl.registry.source import MinariSource

TAG_LENGTH = 4000  # of a tag's value: MLflow takes 5000 at most
DIGEST_LENGTH = 36  # MLflow's limit; the whole fingerprint stands in the profile and in the tags


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from; carried as tags by its registered version and by its manifest."""

    data_id: str  # Minari id
    data_fingerprint: str  # hex SHA-256 over the whole content
    simulator: str | None = None  # NAME-simulator/VERSION that a policy was rehearsed in
    data_history: int | None = None  # observations in each row, where these are windows; part of the fingerprint
    learner: str | None = None  # dotted path of what made a policy
    finetuned_from: str | None = None  # NAME-policy/VERSION that a policy went on from in a true environment
    true_env: str | None = None  # which one
    true_steps: int | None = None  # taken there
    observation: str | None = None  # the channels of a row, in order, with their units
    action: str | None = None

    @classmethod
    def of(cls, data: TransitionDataset, simulator: str | None = None, learner: str | None = None) -> Self:
        """What is made of this data (and, for a policy, in this simulator and by this learner)."""
        history, frame = data.history if data.history > 1 else None, data.frame_dim
        seen = _channels(data.channels[:frame], data.units[:frame])
        acted = _channels(data.action_channels, data.action_units)
        return cls(data.id, data.fingerprint, simulator, history, learner, observation=seen, action=acted)

    def tags(self) -> dict[str, str]:
        """`mbrl.data_id` and so on: `mbrl.` and the name of each field that says something."""
        return {f"mbrl.{k}": str(v) for k, v in asdict(self).items() if v is not None}


def _channels(names: Sequence[str], units: Sequence[str]) -> str:
    """`temperature [degC], level [m]`: what a tag can hold of them."""
    told = [f"{name} [{unit}]" if unit else name for name, unit in zip(names, units, strict=True)]
    whole = ", ".join(told)
    return whole if len(whole) <= TAG_LENGTH else f"{len(told)} channels, {told[0]} to {told[-1]}"


class LoggedData(Dataset):
    """A `TransitionDataset` as MLflow sees one. MLflow's own digest samples the head only; ours covers all."""

    def __init__(self, data: TransitionDataset) -> None:
        self._data = data
        super().__init__(MinariSource(data.id), name=data.id)

    def _compute_digest(self) -> str:
        return self._data.fingerprint[:DIGEST_LENGTH]

    def to_dict(self) -> dict[str, str]:
        """Name, digest, source, schema and profile, each as MLflow stores it."""
        return {
            **super().to_dict(),
            "schema": json.dumps(self.schema.to_dict()),
            "profile": json.dumps(self.profile),
        }

    @property
    def schema(self) -> TensorDatasetSchema:
        """Name, dtype and shape of every tensor."""
        columns = {k: v.numpy(force=True) for k, v in self._data.tensors.items()}
        specs = [TensorSpec(np.dtype(v.dtype), (-1, *v.shape[1:]), k) for k, v in columns.items()]
        return TensorDatasetSchema(Schema(specs))

    @property
    def profile(self) -> dict[str, Any]:
        """Rows, episodes, terminals, mean logged return, length of the windows, and the whole fingerprint."""
        data = self._data
        return {
            "rows": len(data),
            "episodes": data.episodes,
            "terminals": int(data.terminated.sum()),
            "mean_return": float(data.returns().mean()),
            "history": data.history,
            "fingerprint": data.fingerprint,
        }
