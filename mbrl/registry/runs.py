"""One MLflow run per `mbrl run`, a child run per stage: parameters, curves, files, and an honest last status."""

from __future__ import annotations

import hashlib
import json
import math
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from mlflow import MlflowClient
from mlflow.data.dataset import Dataset
from mlflow.entities import DatasetInput, InputTag, LifecycleStage, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID
from torch import Tensor

from mbrl.registry import store
from mbrl.registry.sender import Row, Sender

ENTITIES_PER_CALL, PARAM_LENGTH, TAG_LENGTH = 100, 6000, 8000  # MLflow's limits
STAGE_TAG = "mbrl.stage"
NAME = re.compile(r"[\w\-. /:]{1,250}")  # what MLflow accepts as a key


@final
class RunLog:
    """A run, or one stage of it; a context manager that leaves FINISHED, FAILED or (Ctrl-C) KILLED behind.

    Every call names its run explicitly; MLflow's active run is neither read nor set. Metrics are buffered and sent
    every two seconds or 500 values. If the store goes away meanwhile, they are kept, work continues, and the error
    is raised when the outermost run ends. Every other call raises StoreError when the store does not take it.
    """

    def __init__(self, sender: Sender, run: Run, parent: bool, resumed: bool) -> None:
        """Use `RunLog.open` and `stage`."""
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.resumed = resumed
        self._sender = sender
        self._is_parent = parent
        self._params: dict[str, str] = dict(run.data.params)
        self._stored: dict[str, int] = {}  # last step of each curve of a resumed run
        if resumed:
            for key in run.data.metrics:
                self._stored[key] = max(m.step for m in sender.client.get_metric_history(self.run_id, key))
            sender.client.update_run(self.run_id, status="RUNNING")

    @classmethod
    def open(cls, experiment: str, name: str, run_id: str | None = None) -> Self:
        """Start a run in the experiment, or reopen the run `run_id` of an earlier process and continue it.

        Raises:
            StoreError: the store cannot be used, or there is no such run.
        """
        client = MlflowClient(uri := store.connect())
        sender = Sender(client, uri)
        elsewhere = ", unless MBRL_HOME is the one that it was begun with" if uri.startswith(store.SQLITE) else ""
        resumed = f"run {run_id!r} cannot be resumed{elsewhere}"
        with _asking(uri, resumed if run_id else f"run {name!r} cannot be started"):
            if run_id is None:
                run = client.create_run(store.get_or_create(experiment), tags=resolve_tags(), run_name=name)
                return cls(sender, run, parent=True, resumed=False)
            run = client.get_run(run_id)
            if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
                raise store.StoreError(f"run {run_id!r} is deleted: `mlflow runs restore`, or start a new one")
            return cls(sender, run, parent=True, resumed=True)

    @classmethod
    @contextmanager
    def shared(cls, experiment: str, name: str, run_id: str) -> Iterator[Self]:
        """The run of another process, for a stage of it; how the run ends is said by that process.

        Raises:
            StoreError: as in `open`, or the store did not take all of the curves.
        """
        record = cls.open(experiment, name, run_id)
        yield record
        record._sender.flush()
        if (error := record._sender.error) is not None:
            raise record._sender.report(error) from error

    def stage(self, name: str) -> Self:
        """A child run for one stage; that of another process where this run was resumed, or is shared, and got as far.

        Raises:
            StoreError: the store does not answer.
        """
        client = self._sender.client
        with _asking(self._sender.uri, f"stage {name!r} of run {self.run_id} cannot be started"):
            query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.run_id}' and tags.`{STAGE_TAG}` = '{name}'"
            found = client.search_runs([self.experiment_id], query, max_results=1)
            if found:
                return type(self)(self._sender, found[0], parent=False, resumed=True)
            tags = {**resolve_tags(), MLFLOW_PARENT_RUN_ID: self.run_id, STAGE_TAG: name}
            run = client.create_run(self.experiment_id, tags=tags, run_name=name)
            return type(self)(self._sender, run, parent=False, resumed=False)

    def adopt(self, run_id: str) -> None:
        """Make another run a child of this one.

        Raises:
            StoreError: the store does not answer, or there is no such run.
        """
        with _asking(self._sender.uri, f"run {run_id} cannot become a part of run {self.run_id}"):
            self._sender.client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, self.run_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del trace
        status = RunStatus.FINISHED if kind is None else RunStatus.FAILED
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            status = RunStatus.KILLED
        self._sender.ends[self.run_id] = RunStatus.to_string(status)
        self._sender.flush()
        if self._is_parent and self._sender.error is not None:
            report = self._sender.report(self._sender.error)
            if error is None:
                raise report from self._sender.error
            error.add_note(str(report))

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; nested mappings become dotted keys, long values are cut to MLflow's limit.

        Raises:
            ValueError: a key is not one that MLflow takes, or a resumed run had another value.
        """
        flat = {_key(k): _cut(v, PARAM_LENGTH) for k, v in _flatten(values)}
        for key in sorted(flat.keys() & self._params.keys()):
            if flat[key] != self._params[key]:
                raise ValueError(
                    f"parameter {key!r} of run {self.run_id} was {self._params[key]} and is now {flat[key]}: "
                    "resume with the run's own configuration, or start a new run"
                )
        self._batches(params=[Param(k, v) for k, v in flat.items() if k not in self._params])
        self._params |= flat

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags; long values are cut to MLflow's limit."""
        self._batches(tags=[RunTag(_key(k), _cut(v, TAG_LENGTH)) for k, v in values.items()])

    def input(self, dataset: Dataset, context: str) -> None:
        """Say what data the run used, and for what (`context`, such as "training")."""
        entry = DatasetInput(dataset._to_mlflow_entity(), [InputTag(MLFLOW_DATASET_CONTEXT, context)])
        with self._asking("the data set"):
            try:
                self._sender.client.log_inputs(self.run_id, [entry])
            except MlflowException as error:
                if "unique constraint" not in str(error).lower():
                    raise
                self._sender.client.log_inputs(
                    self.run_id, [entry]
                )  # another run has just made it, and it is there now

    def metrics(self, values: Mapping[str, Tensor | float], step: int) -> None:
        """Record points of curves; tensors of one element stay on their device until the buffer is sent.

        A resumed run repeats the steps between its last checkpoint and its end: points that the store holds already
        are not sent again. NaN is kept; MLflow's sqlite stores infinity as the largest double.

        Raises:
            ValueError: a name is not one that MLflow takes, or a tensor has more than one element.
        """
        fresh = {_key(k): v for k, v in values.items() if step > self._stored.get(k, -math.inf)}
        for key, value in fresh.items():
            if isinstance(value, Tensor) and value.numel() != 1:
                raise ValueError(f"metric {key!r} has shape {tuple(value.shape)}, expected one element")
        tensors = {k: v.detach().reshape(()).float() for k, v in fresh.items() if isinstance(v, Tensor)}
        numbers = {k: float(v) for k, v in fresh.items() if not isinstance(v, Tensor)}
        now = int(time.time() * 1000)
        if numbers:
            self._sender.add(
                Row(self.run_id, step, now, tuple(numbers), torch.tensor(list(numbers.values()), dtype=torch.float64))
            )
        for device in {v.device for v in tensors.values()}:
            here = {k: v for k, v in tensors.items() if v.device == device}
            self._sender.add(Row(self.run_id, step, now, tuple(here), torch.stack(list(here.values()))))

    def text(self, content: str, path: str) -> str:
        """Store text as the artefact `path`; the SHA-256 of its bytes."""
        with self._asking(path):
            self._sender.client.log_text(self.run_id, content, path)
        return hashlib.sha256(content.encode()).hexdigest()

    def dict(self, content: Mapping[str, Any], path: str) -> str:
        """Store plain values as the JSON artefact `path`; NaN and infinity, which JSON lacks, become strings."""
        plain = json.loads(json.dumps(content), parse_constant=str)
        return self.text(json.dumps(plain, indent=2) + "\n", path)

    def file(self, source: Path, folder: str | None = None) -> None:
        """Store a file, under its own name, in a folder of the run's artefacts."""
        with self._asking(str(source)):
            self._sender.client.log_artifact(self.run_id, str(source), folder)

    def table(self, columns: Mapping[str, np.ndarray], path: str) -> None:
        """Store columns, [N] or [N, ...] (rows become lists) as the Parquet artefact `path`.

        Raises:
            ValueError: the columns differ in length, or `path` does not end in .parquet.
        """
        if not path.endswith(".parquet"):
            raise ValueError(f"path is {path!r}, expected a name that ends in .parquet")
        if len({len(v) for v in columns.values()}) > 1:
            raise ValueError(f"columns differ in length: { {k: len(v) for k, v in columns.items()} }")
        arrays = {k: _column(v) for k, v in columns.items()}
        target = Path(path)
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder, target.name)
            pyarrow.parquet.write_table(pyarrow.table(arrays), local)
            self.file(local, None if target.parent == Path() else target.parent.as_posix())

    def _batches(self, **entities: list[Any]) -> None:
        ((kind, entries),) = entities.items()
        for i in range(0, len(entries), ENTITIES_PER_CALL):
            with self._asking(kind):
                part = {kind: entries[i : i + ENTITIES_PER_CALL]}
                self._sender.client.log_batch(self.run_id, **part, synchronous=True)

    def _asking(self, what: str) -> AbstractContextManager[None]:
        return _asking(self._sender.uri, f"run {self.run_id} could not log {what}")


@contextmanager
def _asking(uri: str, failure: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise store.StoreError(f"{failure}: {store.shown(uri)} answers: {store.reason(error)}") from error


def _column(values: np.ndarray) -> pyarrow.Array:
    """[N] as it is, [N, ...] as fixed-size lists."""
    if values.ndim == 1:
        return pyarrow.array(values)
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.reshape(-1)), math.prod(values.shape[1:]))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat += _flatten(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, value)]
    return flat


def _cut(value: Any, length: int) -> str:
    text = str(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def _key(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name that MLflow takes: 1 to 250 letters, digits, or any of _-. /:")
    return name
