"""A log in one file or in several (a day each, a run each): read one after the other, with one count of rows."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from mbrl.data.cells import CellError
from mbrl.data.readers import Source, open_source, suffix

T = TypeVar("T")


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file, by column."""

    source: Source
    start: int  # the first row, counted within the file
    first: int  # the same, counted through all files
    columns: dict[str, Any]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def read(self, use: Callable[[Any], T], name: str) -> T:
        """A column as what it is used for; errors name the file, the row and the column."""
        try:
            return use(self.columns[name])
        except CellError as error:
            raise self.fault(name, error) from error
        except ValueError as error:
            raise ValueError(f"{self.source.path}: column {name!r} {error}") from error

    def fault(self, name: str, error: CellError) -> ValueError:
        """The error, with file, row and column."""
        return ValueError(
            f"{self.source.path}: row {self.start + error.row}, column {name!r} {error} (rows count from 0)"
        )


@final
class LogFiles:
    """The files of a log in their order, all of one kind; as text, what to call them in a message."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = tuple(parts)
        names = [part.path.name for part in self.parts]
        self._called = names if len(set(names)) == len(names) else [str(part.path) for part in self.parts]
        self._starts = [0]  # first rows of the files that are read so far, counted through all files

    def __str__(self) -> str:
        first, last = self.parts[0].path, self.parts[-1].path
        return str(first) if len(self.parts) == 1 else f"{len(self.parts)} files, {first} to {last}"

    @property
    def rows(self) -> int | None:
        """How many rows there are, where the files say so."""
        counts = [part.rows for part in self.parts]
        return None if None in counts else sum(count or 0 for count in counts)

    def at(self, row: int) -> str:
        """What to call a row that was read: by its number, and where there are several files by its file."""
        if len(self.parts) == 1:
            return f"row {row}"
        part = min(bisect_right(self._starts, row), len(self.parts)) - 1
        return f"row {row - self._starts[part]} of {self._called[part]}"

    def counted(self) -> list[dict[str, Any]]:
        """The files, once all are read: path, and first_row, counted through all of them."""
        starts = self._starts[: len(self.parts)]
        return [{"path": str(p.path), "first_row": n} for p, n in zip(self.parts, starts, strict=True)]

    def chunks(self, names: Sequence[str]) -> Iterator[Chunk]:
        """The named columns, file by file and a chunk of rows at a time; see `Source.chunks` for errors."""
        first = 0
        for number, part in enumerate(self.parts, 1):
            start = 0
            for columns in part.chunks(names):
                chunk = Chunk(part, start, first, columns)
                yield chunk
                start, first = start + len(chunk), first + len(chunk)
            if number == len(self._starts):  # every pass finds the same
                self._starts.append(first)


def open_files(files: str | Path | Sequence[str | Path]) -> LogFiles:
    """The log in a file, in files as they are named, or in all files of a folder by the order of their names.

    Numbers in the names of a folder's files count as numbers, day-10 comes after day-9; and so they do where several
    files are named in the order of their letters, which is how a shell spells out `day-*.csv`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: none is named, one is named twice, they are of several kinds, or one is not what its suffix says.
    """
    named = [Path(files)] if isinstance(files, str | Path) else [Path(file) for file in files]
    if named == sorted(named, key=str):
        named.sort(key=_numbered)
    paths = [path for file in named for path in (_listed(file) if file.is_dir() else [file])]
    if not paths:
        raise ValueError("no file is named, expected one that ends in .npz, .csv, .csv.gz or .parquet")
    times = Counter(path.resolve() for path in paths)
    if twice := next((path for path in paths if times[path.resolve()] > 1), None):
        raise ValueError(f"{twice} is named twice: name each file of the log once")
    parts = [open_source(path) for path in paths]
    if other := next((part for part in parts if type(part) is not type(parts[0])), None):
        raise ValueError(f"{other.path} and {parts[0].path} are files of different kinds: save the log in one kind")
    return LogFiles(parts)


def _listed(folder: Path) -> list[Path]:
    """The files of a log in a folder, by name."""
    found = [path for path in folder.iterdir() if not path.name.startswith(".") and suffix(path) and path.is_file()]
    if not found:
        raise ValueError(f"the folder {folder} holds no file that ends in .npz, .csv, .csv.gz or .parquet")
    return sorted(found, key=_numbered)


def _numbered(path: Path) -> list[tuple[str, int]]:
    """What a path is sorted by: the text between its numbers, and these as numbers."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", str(path))]
