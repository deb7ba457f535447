"""Metric values on their way to the store: buffered as tensors, sent in batches, kept where the store is away."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import NamedTuple

import torch
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from torch import Tensor

from mbrl.registry.store import StoreError, reason, shown

FLUSH_SECONDS = 2.0
FLUSH_VALUES = 500  # that wait at most
RETRY_SECONDS = 60.0  # after the store did not answer, work goes on undisturbed for this long
VALUES_PER_CALL = 1000  # MLflow's limit


class Row(NamedTuple):
    """What one call of `metrics` recorded. Values are copies: a tensor may be updated in place before the flush."""

    run_id: str
    step: int
    time: int  # ms
    names: tuple[str, ...]  # K
    values: Tensor  # [K], on the device where it was computed


class Sender:
    """Sends what the parent and all its stages record; keeps what the store did not take."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self.client = client
        self.uri = uri
        self.rows: list[Row] = []
        self.unsent: dict[str, list[Metric]] = defaultdict(list)
        self.ends: dict[str, str] = {}  # run id -> status that the store has yet to learn
        self.count = 0
        self.due = time.monotonic() + FLUSH_SECONDS
        self.error: Exception | None = None

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.count += len(row.names)
        now = time.monotonic()
        if now >= self.due or (self.count >= FLUSH_VALUES and self.error is None):
            self.flush()

    def flush(self) -> None:
        """Send everything; a store that does not answer is remembered in `error`, and nothing is dropped."""
        self._unpack()
        try:
            for run_id, metrics in self.unsent.items():
                while metrics:
                    self.client.log_batch(run_id, metrics=metrics[:VALUES_PER_CALL], synchronous=True)
                    del metrics[:VALUES_PER_CALL]
            for run_id in list(self.ends):
                self.client.set_terminated(run_id, self.ends[run_id])
                del self.ends[run_id]
            self.error = None
        except (MlflowException, OSError) as error:
            self.error = error
        self.due = time.monotonic() + (FLUSH_SECONDS if self.error is None else RETRY_SECONDS)

    def _unpack(self) -> None:
        """Rows -> Metric entities: one copy from each device, however many values there are."""
        for kind in {(row.values.device, row.values.dtype) for row in self.rows}:
            here = [row for row in self.rows if (row.values.device, row.values.dtype) == kind]
            flat = iter(torch.cat([row.values for row in here]).tolist())
            for row in here:
                self.unsent[row.run_id] += [Metric(name, next(flat), row.time, row.step) for name in row.names]
        self.rows.clear()
        self.count = 0

    def report(self, error: Exception) -> StoreError:
        """The error to raise at the end, when the store never came back."""
        waiting = sum(map(len, self.unsent.values()))
        return StoreError(
            f"{shown(self.uri)} did not take the last {waiting} metric values and the end of {len(self.ends)} runs: "
            f"{reason(error)}. The work itself is done and its files are whole; see to the store and resume the run"
        )
