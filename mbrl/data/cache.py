"""The flat cache of a data set, in `<data set>/.mbrl/`, where Minari does not look.

Its name holds the SHA-256 of the fields of a TransitionDataset, that of the files it was made from, and the
fingerprint of its content: one of another version or of a changed source is not read. `mbrl.files` verifies every byte
before any is used.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import fields
from pathlib import Path

from mbrl import files
from mbrl.data.dataset import TransitionDataset

_FIELDS = hashlib.sha256(" ".join(field.name for field in fields(TransitionDataset)).encode()).hexdigest()[:8]


def read(id: str, folder: Path, source: str) -> TransitionDataset | None:
    """The cached data set, or None where there is none of this source (hex SHA-256).

    Raises:
        CorruptFileError: the cache is truncated or altered; the message names the file.
    """
    for path in sorted((folder / ".mbrl").glob(f"flat-{_FIELDS}-{source[:16]}-*.pt")):
        try:
            content = files.load(path)
        except files.CorruptFileError as error:
            raise files.CorruptFileError(f"{error}. It is only a cache: delete it, and it is rebuilt") from error
        if content.pop("source") == source:
            return TransitionDataset(id=id, **content)
    return None


def write(data: TransitionDataset, folder: Path, source: str) -> None:
    """Write the cache and remove those of older sources; a data set on a read-only or full disk only warns."""
    here = folder / ".mbrl"
    path = here / f"flat-{_FIELDS}-{source[:16]}-{data.fingerprint[:16]}.pt"
    about = {f.name: getattr(data, f.name) for f in fields(data) if f.name not in ("id", *data.tensors)}
    try:
        files.save(path, {"source": source, **about, **data.tensors})
        for old in here.glob("flat*.pt"):
            if old != path:
                old.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(f"the cache {path} could not be written, so the next load is slow again: {error}", stacklevel=3)
