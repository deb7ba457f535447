"""What lightning's Trainer is given here: verified checkpoints, a bar on stderr, and a Ctrl-C that remains one."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException
from tqdm import tqdm

from mbrl import files


class VerifiedIO(CheckpointIO):
    """Lightning's checkpoints through `mbrl.files`: whole or absent, and verified by SHA-256 when they are read."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint atomically; an older one at `path` stays if that fails."""
        del storage_options
        files.save(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; tensors and plain values only, whatever `weights_only` says."""
        del weights_only
        return files.load(Path(path), map_location if map_location is not None else "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint that may be gone already."""
        Path(path).unlink(missing_ok=True)


class StderrBar(Callback):
    """tqdm over the updates of each epoch, on stderr; stdout belongs to results."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the epoch's bar."""
        total = int(trainer.num_training_batches)
        self.bar = tqdm(total=total, desc=f"epoch {trainer.current_epoch + 1}", leave=False, file=sys.stderr)

    def on_train_batch_end(self, *args: Any) -> None:
        """Count an update."""
        self.bar.update()

    def on_train_epoch_end(self, *args: Any) -> None:
        """Close the epoch's bar."""
        self.bar.close()

    def on_exception(self, *args: Any) -> None:
        """Close the bar before the exception is printed."""
        self.bar.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence lightning's adverts and device lines, and nothing else."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # lightning 2.6 under torch 2.13
            warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a resume
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def relayed(report: Callable[..., None], method: str | None) -> Iterator[Callable[..., None]]:
    """What another process may call so that `report` is called in this one, with the same arguments.

    Args:
        report: called in a thread of its own, in the order of the calls.
        method: how these processes are started: fork or spawn; None where there are none, and `report` is called.

    Raises:
        Exception: what `report` raised first, at the end; it is not called again.
    """
    if method is None:
        yield report
        return
    queue = multiprocessing.get_context(method).SimpleQueue()

    def listen() -> None:
        ended = False
        try:
            for arguments in iter(queue.get, None):
                report(*arguments)
            ended = True
        finally:
            while not ended:  # to the end, or who sends would wait for ever
                ended = queue.get() is None

    with ThreadPoolExecutor(1) as pool:
        listening = pool.submit(listen)
        try:
            yield partial(_send, queue)
        finally:
            queue.put(None)
    listening.result()


def _send(queue: Any, *arguments: Any) -> None:
    queue.put(arguments)


def started_by(strategy: str, accelerator: str, devices: int) -> tuple[str, str | None]:
    """Lightning's strategy, and how its other processes start (None: there are none).

    `ddp` would start the command anew in every process. Here they are copies of this one: forks on a CPU, fresh ones
    where a device does not survive a fork.
    """
    if devices == 1:
        return strategy, None
    method = "fork" if accelerator == "cpu" else "spawn"
    if strategy in ("auto", "ddp"):
        return f"ddp_{method}", method
    return strategy, next((way for way in ("fork", "spawn") if strategy.endswith(way)), None)


@contextmanager
def interruptible() -> Iterator[None]:
    """Lightning ends a Ctrl-C with SIGINT ignored and SystemExit; callers of a library expect KeyboardInterrupt.

    Raises:
        KeyboardInterrupt: after lightning's graceful stop, with SIGINT handled as before; also of a SIGTERM, as batch
            systems and containers send, which it catches, too.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if isinstance(end, SIGTERMException):
            raise KeyboardInterrupt("stopped by SIGTERM") from end
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from end


@contextmanager
def in_processes(devices: int) -> Iterator[None]:
    """What goes wrong in a process of a shared fit, in a line instead of that process's traceback.

    Raises:
        RuntimeError: something did.
        KeyboardInterrupt: SIGTERM, which all processes then hear as a Ctrl-C.
    """
    shared = devices > 1 and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _stop_all) if shared else None
    try:
        yield
    except ProcessExitedException as error:
        raise RuntimeError(
            f"one of the {devices} processes of this fit was ended ({error}): where memory is short, lower fit.devices"
            " or fit.batch_size"
        ) from error
    except ProcessRaisedException as error:
        raise RuntimeError(
            f"in one of the {devices} processes of this fit: {str(error).strip().splitlines()[-1]}"
        ) from error
    finally:
        if shared:
            signal.signal(signal.SIGTERM, before)


def _stop_all(*_: Any) -> None:
    for process in multiprocessing.active_children():
        if process.pid is not None:
            os.kill(process.pid, signal.SIGINT)
    raise KeyboardInterrupt("stopped by SIGTERM")
