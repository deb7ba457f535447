"""What lightning's Trainer is given here: verified checkpoints, a bar on stderr, and a Ctrl-C that remains one."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import CheckpointIO
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
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # lightning 2.6 under torch 2.13
            warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")  # a resume
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def interruptible() -> Iterator[None]:
    """Lightning ends a Ctrl-C with SIGINT ignored and SystemExit; callers of a library expect KeyboardInterrupt.

    Raises:
        KeyboardInterrupt: after lightning's graceful stop, with SIGINT handled as before.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from end
