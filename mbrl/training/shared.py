"""Fitted models that runs share: what one of them has fitted to the same rows in the same way is not fitted again."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import filelock

import mbrl
from mbrl import files
from mbrl.core import Dynamics
from mbrl.report.console import tell
from mbrl.training.dynamics import FitReport


def fit_once(
    folder: Path | None, label: str, model: Dynamics, about: Mapping[str, Any], fit: Callable[[], FitReport]
) -> FitReport:
    """Fit the model, or give it the weights that this very fit has left in the folder; the report of that fit.

    Fits are the same where the model's class, the file that it is written in, its configuration and its first weights
    are, what they are `about`, and the version of this package. Of several processes that want the same fit at once,
    one makes it, and the others wait.

    Args:
        folder: where fits are kept; None keeps none, and finds none.
        label: of what is told.
        model: in its first weights; it has those of the fit afterwards.
        about: whatever else decides the fit, as plain values: rows, settings, seed.
        fit: makes it, in place.

    Raises:
        CorruptFileError: what was kept is truncated or altered.
        OSError: it cannot be written.
    """
    if folder is None:
        return fit()
    path = folder / f"{_digest(model, about)}.ckpt"
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        tell(label, f"another run makes this very fit: waiting for {path}")
        lock.acquire()
    try:
        return _made(path, label, model, fit)
    finally:
        lock.release()


def _made(path: Path, label: str, model: Dynamics, fit: Callable[[], FitReport]) -> FitReport:
    if path.exists():
        content = files.load(path)
        model.load_state_dict(content["model"])
        model.eval()  # as a fit leaves it: one with dropout would go on drawing
        tell(label, f"fitted before, to the same rows in the same way: {path}")
        return FitReport(**content["report"])
    report = fit()
    files.save(path, {"model": model.state_dict(), "report": report._asdict()})
    return report


def _digest(model: Dynamics, about: Mapping[str, Any]) -> str:
    """Hex SHA-256 of all that decides a fit."""
    source = getattr(sys.modules[type(model).__module__], "__file__", None)
    said = {
        "version": mbrl.__version__,
        "model": model.config,
        "source": None if source is None else files.sha256(Path(source)),
        "spec": model.spec.to_dict(),
        **about,
    }
    whole = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        whole.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()
