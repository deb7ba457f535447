"""Files that are whole or absent: written beside, fsynced, renamed, and verified by SHA-256 before they are read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import pickle
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LEFT = re.compile(r"\..+\.[0-9a-f]{12}(\.\w+)?")  # what `replacing` calls its temporary files
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HOUR = 3600.0  # seconds, in which nobody writes a file
MAGIC = b"mbrl-1 sha256 "  # a checkpoint is this, 64 hex digits, a newline, and the payload that they describe


class CorruptFileError(ValueError):
    """A file's content is not what was written. The message names the file and both digests."""


def home() -> Path:
    """The root of all state of the tool: `MBRL_HOME`, by default `./.mbrl`, as an absolute path."""
    return Path(os.environ.get("MBRL_HOME") or ".mbrl").expanduser().absolute()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success fsync it and rename it to `path`, else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{path.stem}.{secrets.token_hex(6)}{path.suffix}"  # writers may look at the suffix
    os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            raise type(error)(
                error.errno, f"{error.strerror}: make room there, or write elsewhere", str(path)
            ) from error
        raise
    finally:
        beside.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Delete what writers that were killed have left in a folder, and in those right within, an hour ago or longer."""
    for path in (*folder.glob(".*"), *folder.glob("*/.*")):
        with contextlib.suppress(FileNotFoundError):
            if LEFT.fullmatch(path.name) and path.is_file() and time.time() - path.stat().st_mtime > HOUR:
                path.unlink()


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, or of a folder: over the sorted relative names and digests of the files in it."""
    if path.is_dir():
        names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        return hashlib.sha256("".join(f"{sha256(path / n)}  {n}\n" for n in names).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(path: Path, content: dict[str, Any]) -> str:
    """Write tensors and plain values to `path`, atomically; return the payload's SHA-256.

    Raises:
        OSError: the disk is full or not writable; an older file at `path` is untouched.
        ValueError: something in `content` is neither a tensor nor a plain value, so that `load` would refuse it.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getbuffer()
    try:
        torch.load(io.BytesIO(payload), map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} would hold more than tensors and plain values, such as the numbers, texts, lists and dicts that a"
            " plug-in is made with, and is not written"
        ) from error
    digest = hashlib.sha256(payload).hexdigest()
    with replacing(path) as beside, beside.open("wb") as file:
        file.write(MAGIC + digest.encode() + b"\n")
        file.write(payload)
    return digest


def load(path: Path, device: Any = "cpu") -> dict[str, Any]:
    """Read what `save` wrote, after verifying its digest; nothing but tensors and plain values is unpickled.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFileError: the file is truncated, altered, or not one of ours.
    """
    import torch

    raw = memoryview(path.read_bytes())  # slices of it are no copies
    head, newline, payload = raw[: len(MAGIC) + 64], raw[len(MAGIC) + 64 : len(MAGIC) + 65], raw[len(MAGIC) + 65 :]
    if bytes(head[: len(MAGIC)]) != MAGIC or newline != b"\n":
        raise CorruptFileError(
            f"{path} does not begin like a file that mbrl wrote: it is truncated, altered or foreign"
        )
    wanted, found = bytes(head[len(MAGIC) :]).decode("ascii", "replace"), hashlib.sha256(payload).hexdigest()
    if wanted != found:
        raise CorruptFileError(f"{path} is truncated or altered: SHA-256 is {found}, expected {wanted}")
    content: dict[str, Any] = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    return content
