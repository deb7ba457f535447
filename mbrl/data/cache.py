"""The flat cache of a data set: a folder in `<data set>/.mbrl/`, where Minari does not look, a file for each column.

Columns are mapped into memory, not read into it: of a log that is larger than that, pages come and go as they are used.
The folder's name holds the SHA-256 of the fields of a TransitionDataset, that of the files it was made from, and the
fingerprint of its content: one of another version or of a changed source is not read. Every byte is verified before
any is used.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbrl import files
from mbrl.data import workspace
from mbrl.data.dataset import TransitionDataset
from mbrl.data.mapped import Mapped

_FIELDS = hashlib.sha256(" ".join(field.name for field in fields(TransitionDataset)).encode()).hexdigest()[:8]
_ABOUT = "about.pt"  # everything but the columns, and their digests


def read(id: str, folder: Path, source: str) -> TransitionDataset | None:
    """The cached data set, or None where there is none of this source (hex SHA-256).

    Raises:
        CorruptFileError: a file is missing, truncated or altered; the message names it.
    """
    for path in sorted((folder / ".mbrl").glob(f"flat-{_FIELDS}-{source[:16]}-*")):
        try:
            about = files.load(path / _ABOUT)
            if about.pop("source") == source:
                columns = {name: _column(path / name, digest) for name, digest in about.pop("columns").items()}
                tensors: dict[str, Any] = {
                    Path(name).stem: torch.from_numpy(column) for name, column in columns.items()
                }
                return TransitionDataset(id=id, **about, **tensors, mapped=Mapped.of(columns.values()))
        except (files.CorruptFileError, FileNotFoundError) as error:
            raise files.CorruptFileError(f"{error}. {path} is only a cache: delete it, and it is rebuilt") from error
    return None


@contextmanager
def scratch(folder: Path) -> Iterator[Path | None]:
    """A folder on the disk of the cache, for columns that are being made; None where there can be none."""
    with ExitStack() as stack:
        try:
            (folder / ".mbrl").mkdir(exist_ok=True)
            place = stack.enter_context(workspace.hidden(folder / ".mbrl"))
        except OSError:
            place = None
        yield place


def _column(path: Path, digest: str) -> np.ndarray:
    if (found := files.sha256(path)) != digest:
        raise files.CorruptFileError(f"{path} is truncated or altered: SHA-256 is {found}, expected {digest}")
    column: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)  # its file is never written to
    return column


def write(data: TransitionDataset, folder: Path, source: str) -> bool:
    """Write the cache and remove those of older sources; whether it is there.

    A data set on a read-only or full disk only warns. It is made in a hidden folder beside its place, so that it is
    there whole or not at all.
    """
    here = folder / ".mbrl"
    path = here / f"flat-{_FIELDS}-{source[:16]}-{data.fingerprint[:16]}"
    about = {f.name: getattr(data, f.name) for f in fields(data) if f.name not in ("id", "mapped", *data.tensors)}
    try:
        here.mkdir(exist_ok=True)
        with workspace.hidden(here) as work:
            made, digests = work / "cache", {}
            made.mkdir()
            for name, tensor in data.tensors.items():
                with files.replacing(made / f"{name}.npy") as beside:
                    np.save(beside, tensor.numpy())
                digests[f"{name}.npy"] = files.sha256(made / f"{name}.npy")
            files.save(made / _ABOUT, {"source": source, "columns": digests, **about})
            try:
                made.rename(path)
            except OSError:
                if not path.exists():  # else another process was faster
                    raise
        for old in here.glob("flat*"):
            if old != path:
                shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(f"the cache {path} could not be written, so the next load is slow again: {error}", stacklevel=3)
        return False
    return True
