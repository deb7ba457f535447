"""A model at work: what `mlflow.pyfunc.load_model` runs. MLflow keeps a copy of this file inside every model.

It reads nothing but the model's own folder and imports torch, numpy and MLflow only, so that a model runs as it was
registered whatever version of mbrl is installed beside it, or none. `manifest.json` in that folder lists the SHA-256
of every file, and every file is verified before it is used.

A policy that was learned with a history is called like any other, with the newest observations alone: what it has to
remember of each stream is kept here, see `Streams`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from torch import Tensor

MANIFEST = "artifacts/manifest.json"  # paths inside the model's folder
UNLISTED = (MANIFEST, "registered_model_meta")  # the latter is MLflow's note, in a copy, of what it is a copy of
LARGEST = 1e30  # of an input: beyond it numbers stand for missing values, and float32 overflows within a network
MOST_STREAMS = 100_000  # whose past is kept: a process that serves for years must not grow for years


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
        ValueError: a file is missing, truncated or altered, or torch cannot load the program; the message names it.
    """

    def __init__(self, folder: Path) -> None:
        self.manifest = read(folder)
        path = folder / "artifacts" / f"{self.manifest['kind']}.pt2"
        try:
            self.module = torch.export.load(path).module()
        except (RuntimeError, AssertionError, LookupError, TypeError, AttributeError) as error:  # of another version
            raise ValueError(f"{path} cannot be loaded by torch {torch.__version__}: {error!r}") from error

    def __call__(self, inputs: Any) -> np.ndarray | dict[str, np.ndarray]:
        """The program's outputs for one batch of rows.

        Args:
            inputs: float32 array [B, O] of observations (policy), or a dict of arrays by name (simulator).

        Returns:
            One array (policy: [B, A] float32, Discrete [B] int64), or a dict of arrays by name (simulator).

        Raises:
            ValueError: no rows, a missing or unknown input, a dtype or shape other than expected, NaN, infinity or
                a number beyond `LARGEST`; or the answer is not finite.
        """
        tensors = self.tensors(inputs)
        with torch.no_grad():
            result: Tensor | dict[str, Tensor] = self.module(*tensors)
        for name, answer in (result if isinstance(result, dict) else {"action": result}).items():
            _check_answer(name, answer, tensors)
        return {k: v.numpy() for k, v in result.items()} if isinstance(result, dict) else result.numpy()

    def tensors(self, inputs: Any) -> list[Tensor]:
        """The inputs of a call, checked, in the order of the manifest; errors as of the call."""
        wanted: dict[str, int] = self.manifest["inputs"]
        given = inputs if isinstance(inputs, dict) else {"obs": inputs}
        if set(given) != set(wanted):
            raise ValueError(f"inputs are {sorted(given)}, expected {sorted(wanted)}")
        tensors = [_checked(name, given[name], width) for name, width in wanted.items()]
        rows = {name: len(tensor) for name, tensor in zip(wanted, tensors, strict=True)}
        if len(set(rows.values())) != 1:
            raise ValueError(f"inputs differ in their number of rows: {rows}")
        return tensors


class Streams:
    """A policy with a history at work on several streams (machines, users, environments) at once.

    Every row of a call is the newest observation of one stream. The past of a stream, its older observations and the
    actions that were answered, is kept from call to call, in this process alone; it begins as an episode of the log
    did, with the first observation in the place of those that there are not. A stream is told apart

    - by its name, in `params={"stream": ["boiler-1", "boiler-2"]}`: a name that is new begins an episode. The
      `MOST_STREAMS` names used last are remembered; one that has dropped out begins anew.
    - by its place where no names are given: row i is stream i, and one row is one stream. The number of rows may then
      change only where all of them begin anew.

    `params={"reset": [True]}` begins a new episode in all rows of the call, and with one value per row in those that
    say so. A call that says [True] therefore neither needs nor sees any past: each of its rows is the first of an
    episode. A call that ends in an error changes nothing. Calls from several threads wait for each other.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._blank = torch.zeros(program.manifest["past"])
        self._named: dict[str, Tensor] = {}  # the past of each stream, the one used last at the end
        self._placed: Tensor | None = None  # [B, past] of the streams without names
        self._lock = threading.Lock()

    def __call__(self, inputs: Any, params: Mapping[str, Any] | None = None) -> np.ndarray:
        """The actions for one batch of rows: arguments and errors as of `Program`, and as above.

        Raises:
            ValueError: a stream is named twice, there are as many names or resets as there are neither rows nor one
                for all, or the number of rows without names has changed.
        """
        (obs,) = self.program.tensors(inputs)
        given = params or {}
        names, reset = _names(given.get("stream", ()), len(obs)), _reset(given.get("reset", ()), len(obs))
        with self._lock:
            past, began = self._recalled(names, reset)
            with torch.no_grad():
                answer: dict[str, Tensor] = self.program.module(obs, past, began)
            _check_answer("action", answer["action"], [obs])
            self._keep(names, answer["past"])
        return answer["action"].numpy()

    def _recalled(self, names: list[str], reset: Tensor) -> tuple[Tensor, Tensor]:
        """The past of every row, [B, past], and whether an episode begins with it, [B] bool."""
        if names:
            fresh = torch.tensor([name not in self._named for name in names])
            return torch.stack([self._named.get(name, self._blank) for name in names]), fresh | reset
        if self._placed is None or reset.all():
            return self._blank.expand(len(reset), -1), torch.ones_like(reset)
        if len(self._placed) != len(reset):
            raise ValueError(
                f"{len(reset)} rows without names, and {len(self._placed)} in the call before: such rows are told apart"
                " by their place. Name them (params={'stream': [...]}), or begin them all anew"
                " (params={'reset': [True]})"
            )
        return self._placed, reset

    def _keep(self, names: list[str], past: Tensor) -> None:
        if not names:
            self._placed = past
            return
        for name, row in zip(names, past, strict=True):
            self._named.pop(name, None)
            self._named[name] = row.clone()  # a view would keep the whole batch
        while len(self._named) > max(MOST_STREAMS, len(names)):
            del self._named[next(iter(self._named))]


def _names(given: Sequence[str], rows: int) -> list[str]:
    names = list(given)
    if names and len(names) != rows:
        raise ValueError(f"stream has {len(names)} names for {rows} rows, expected one a row")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"stream names {twice!r} twice in one call, expected one row a stream: call once a time step")
    return names


def _reset(given: Sequence[bool], rows: int) -> Tensor:
    if len(given) not in (0, 1, rows):
        raise ValueError(f"reset has {len(given)} values for {rows} rows, expected one for all or one a row")
    return torch.tensor(list(given) or [False], dtype=torch.bool).expand(rows)


def _checked(name: str, value: Any, width: int) -> Tensor:
    if not isinstance(value, np.ndarray) or value.dtype != np.float32:
        found = f"dtype {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise ValueError(f"{name} is {found}, expected a numpy array of float32; convert with .astype('float32')")
    if value.ndim != 2 or value.shape[1] != width or len(value) == 0:
        raise ValueError(f"{name} has shape {value.shape}, expected (rows, {width}) with at least one row")
    usual = np.abs(value) <= LARGEST
    if not usual.all():
        row, column = np.argwhere(~usual)[0]
        raise ValueError(
            f"{name} is {value[row, column]} at row {row}, column {column}, expected finite numbers of {LARGEST:g} at"
            " most in size; one that stands for a missing value is none"
        )
    return torch.tensor(np.ascontiguousarray(value))  # torch takes no negative strides


def _check_answer(name: str, answer: Tensor, inputs: Sequence[Tensor]) -> None:
    finite = answer.isfinite().reshape(len(answer), -1).all(-1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        given = max(float(rows[row].abs().max()) for rows in inputs)
        raise ValueError(
            f"{name} is not finite at row {row}, whose largest input is {given:.3g}: expected inputs such as the model"
            " was fitted on"
        )


class _Calls:
    """The two methods that MLflow calls.

    In a class of their own, and `predict` without annotations, because MLflow inspects `predict` where a subclass of
    PythonModel defines it: it reads a schema out of the annotations, and warns both of those that are not lists of
    its own types and of none. The signature that every model carries says more than these could.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Verify every file and load the program."""
        self.program = Program(Path(context.artifacts["manifest.json"]).parents[1])
        self.streams = Streams(self.program) if self.program.manifest["past"] else None

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """See `Streams`, and `Program` for a model that remembers nothing: it needs no `params`, which have to fit."""
        del context
        if self.streams is not None:
            return self.streams(model_input, params)
        answers, given = self.program(model_input), params or {}
        rows = len(next(iter(answers.values())) if isinstance(answers, dict) else answers)
        _names(given.get("stream", ()), rows)
        _reset(given.get("reset", ()), rows)
        return answers


class Served(_Calls, PythonModel):
    """What MLflow loads."""


if __name__ != "mbrl.serving.artifact":  # MLflow runs its copy of this file and asks which object is the model
    set_model(Served())
