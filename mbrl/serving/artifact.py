"""A model at work: what `mlflow.pyfunc.load_model` runs. MLflow keeps a copy of this file inside every model.

It reads nothing but the model's own folder and imports torch, numpy and MLflow only, so that a model runs as it was
registered whatever version of mbrl is installed beside it, or none. `manifest.json` in that folder lists the SHA-256
of every file, and every file is verified before it is used.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from torch import Tensor

MANIFEST = "artifacts/manifest.json"  # paths inside the model's folder


def seal(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the SHA-256 of its own content."""
    return {**manifest, "sha256": _digest(manifest)}


def read(folder: Path) -> dict[str, Any]:
    """The manifest of the model in `folder`, after verifying it and every file that it lists.

    Raises:
        ValueError: a file is missing, truncated or altered; the message names it.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        wanted, found = manifest["sha256"], _digest({k: v for k, v in manifest.items() if k != "sha256"})
        listed: dict[str, str] = manifest["files"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is missing, truncated or altered: {error!r}") from error
    if wanted != found:
        raise ValueError(f"{path} is altered: SHA-256 of its content is {found}, expected {wanted}")
    for name, digest in listed.items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing; the model's manifest lists it")
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise ValueError(f"{folder / name} is truncated or altered: SHA-256 is {found}, expected {digest}")
    return manifest


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


class Program:
    """The exported program of the model in `folder`: numpy arrays in, numpy arrays out, on the CPU.

    Raises:
        ValueError: a file is missing, truncated or altered; the message names it.
    """

    def __init__(self, folder: Path) -> None:
        self.manifest = read(folder)
        self.module = torch.export.load(folder / "artifacts" / f"{self.manifest['kind']}.pt2").module()

    def __call__(self, inputs: Any) -> np.ndarray | dict[str, np.ndarray]:
        """The program's outputs for one batch of rows.

        Args:
            inputs: float32 array [B, O] of observations (policy), or a dict of arrays by name (simulator).

        Returns:
            One array (policy: [B, A] float32, Discrete [B] int64), or a dict of arrays by name (simulator).

        Raises:
            ValueError: no rows, a missing or unknown input, a dtype or shape other than expected, NaN or infinity.
        """
        wanted: dict[str, int] = self.manifest["inputs"]
        given = inputs if isinstance(inputs, dict) else {"obs": inputs}
        if set(given) != set(wanted):
            raise ValueError(f"inputs are {sorted(given)}, expected {sorted(wanted)}")
        tensors = [_checked(name, given[name], width) for name, width in wanted.items()]
        rows = {name: len(tensor) for name, tensor in zip(wanted, tensors, strict=True)}
        if len(set(rows.values())) != 1:
            raise ValueError(f"inputs differ in their number of rows: {rows}")
        with torch.no_grad():
            result: Tensor | dict[str, Tensor] = self.module(*tensors)
        return {k: v.numpy() for k, v in result.items()} if isinstance(result, dict) else result.numpy()


def _checked(name: str, value: Any, width: int) -> Tensor:
    if not isinstance(value, np.ndarray) or value.dtype != np.float32:
        found = f"dtype {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise ValueError(f"{name} is {found}, expected a numpy array of float32; convert with .astype('float32')")
    if value.ndim != 2 or value.shape[1] != width or len(value) == 0:
        raise ValueError(f"{name} has shape {value.shape}, expected (rows, {width}) with at least one row")
    finite = np.isfinite(value)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(f"{name} is {value[row, column]} at row {row}, column {column}, expected finite numbers")
    return torch.tensor(value)


class _Calls:
    """The two methods that MLflow calls.

    In a class of their own, and `predict` without annotations, because MLflow inspects `predict` where a subclass of
    PythonModel defines it: it reads a schema out of the annotations, and warns both of those that are not lists of
    its own types and of none. The signature that every model carries says more than these could.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Verify every file and load the program."""
        self.program = Program(Path(context.artifacts["manifest"]).parents[1])

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """See `Program`; `context` and `params` are not used."""
        del context, params
        return self.program(model_input)


class Served(_Calls, PythonModel):
    """What MLflow loads."""


if __name__ != "mbrl.serving.artifact":  # MLflow runs its copy of this file and asks which object is the model
    set_model(Served())
