"""Files of a log as a stream of column chunks: .npz member by member, .csv and .parquet through pyarrow.

A chunk is a dict from column to its values in these rows: a numpy array from an npz, an Arrow array from a
table. `mbrl.data.cells` converts either kind. `obs[4]` names one channel of a column of arrays, unless a column of the
file is called so.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

CHUNK = 65_536  # rows
CHANNEL = re.compile(r"(.+)\[(\d+)\]")  # array[k]
HEAD = 1 << 20  # bytes in which the header line of a CSV is looked for
QUOTED = pa.csv.ParseOptions(newlines_in_values=True)  # in quotes, a cell may have several lines
SEPARATORS = (b";", b"\t", b"|")  # that other programs write in the place of commas
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # what such a file begins with


class Source(ABC):
    """A file with columns of equal length."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """All columns of the file."""

    @property
    @abstractmethod
    def rows(self) -> int | None:
        """How many rows there are, where the file says so."""

    def integer(self, name: str) -> bool:
        """Whether a column is known to hold whole numbers by its type."""
        return False

    def has(self, name: str) -> bool:
        """Whether `name` is a column, or one channel of a column."""
        return self.place(name)[0] in self.names

    def chunks(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The named columns and channels of columns, a chunk of rows at a time, in the file's order.

        Raises:
            ValueError: the file is damaged, a column has a shape or type that no log has, or it has no such channel.
        """
        places = {name: self.place(name) for name in names}
        for chunk in self._chunks(list(dict.fromkeys(column for column, _ in places.values()))):
            yield {
                name: chunk[column] if k is None else self._channel(chunk[column], column, k)
                for name, (column, k) in places.items()
            }

    @abstractmethod
    def _chunks(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """`chunks` of whole columns."""

    def place(self, name: str) -> tuple[str, int | None]:
        """The column that a name is of, and which of its channels; None for all of them."""
        match = None if name in self.names else CHANNEL.fullmatch(name)
        return (match[1], int(match[2])) if match else (name, None)

    def _channel(self, values: Any, column: str, k: int) -> Any:
        if isinstance(values, np.ndarray):
            width = values.shape[1] if values.ndim > 1 else 1
            if k < width:
                return values.reshape(len(values), -1)[:, k]
            raise ValueError(f"{self.path}: there is no {column}[{k}], the array {column!r} has {width} channel(s)")
        try:
            return pc.list_element(values, k)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"{self.path}: there is no {column}[{k}] in every row: {error}") from error


def suffix(path: Path) -> str | None:
    """Which of the suffixes of a log a file has, None for none of them."""
    return next((known for known in KINDS if path.name.lower().endswith(known)), None)


def open_source(path: Path) -> Source:
    """The reader for a file, by its suffix.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the suffix is unknown, or the file is not what its suffix says.
    """
    known = suffix(path)
    if known is None and not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    if known is None:
        raise ValueError(f"{path}: the suffix is none of {', '.join(KINDS)}: save the log as one of these")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with _reading(path):
        return KINDS[known](path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}. Convert it, as with iconv -f LATIN1 -t UTF-8") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged, or is not what its suffix says: {error}") from error


class Npz(Source):
    """A zip of arrays, decompressed as a stream: the whole file is never in memory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with zipfile.ZipFile(path) as archive, ExitStack() as stack:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            self._arrays = {
                name.removesuffix(".npy"): _header(stack.enter_context(archive.open(name)), f"{path}: {name}")
                for name in members
            }

    @property
    def names(self) -> list[str]:
        return list(self._arrays)

    @property
    def rows(self) -> int | None:
        lengths = Counter(shape[0] for shape, _, _ in self._arrays.values() if shape)
        return lengths.most_common(1)[0][0] if lengths else None  # an array of another length is no column

    def length(self, name: str) -> int:
        """Of one array, or of that whose channel is named."""
        return self._arrays[self.place(name)[0]][0][0]

    def integer(self, name: str) -> bool:
        return bool(np.issubdtype(self._arrays[name][1], np.integer))

    def array(self, name: str) -> np.ndarray:
        """One array as a whole, for the small ones."""
        with _reading(self.path), np.load(self.path) as archive:
            return np.asarray(archive[name])

    def _chunks(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        counts = {}
        for name in names:
            shape, dtype, _ = self._arrays[name]
            if len(shape) not in (1, 2):
                what = "images are not supported, " if len(shape) > 2 else ""
                raise ValueError(f"{self.path}: array {name!r} is {list(shape)}: {what}expected [N] or [N, k]")
            if dtype.hasobject:
                raise ValueError(f"{self.path}: array {name!r} holds pickled objects, which are never loaded")
            counts[name] = shape[0]
        if len(set(counts.values())) > 1:
            raise ValueError(f"{self.path}: the arrays differ in length: {counts}")
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(self.path))
            streams = {}
            for name in names:
                file = stack.enter_context(archive.open(f"{name}.npy"))
                streams[name] = _stream(file, *_header(file, f"{self.path}: {name}"))
            for _ in range(0, next(iter(counts.values())), CHUNK):
                with _reading(self.path):
                    chunk = {name: next(stream) for name, stream in streams.items()}
                yield chunk


_Header = tuple[tuple[int, ...], np.dtype, bool]


def _header(file: IO[bytes], where: str) -> _Header:
    """Shape, dtype and whether the order is Fortran's; leaves `file` at the first value."""
    try:
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = readers[np.lib.format.read_magic(file)](file)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{where} is not a numpy array that can be read: {error}") from error
    return shape, dtype, fortran


def _stream(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype, fortran: bool) -> Iterator[np.ndarray]:
    width = int(np.prod(shape[1:], dtype=int)) * dtype.itemsize
    if fortran and len(shape) > 1:  # columns one after another: there is no row to read before all of them are
        whole = np.frombuffer(_exactly(file, shape[0] * width), dtype).reshape(shape, order="F")
        yield from (whole[row : row + CHUNK] for row in range(0, shape[0], CHUNK))
        return
    for row in range(0, shape[0], CHUNK):
        count = min(CHUNK, shape[0] - row)
        yield np.frombuffer(_exactly(file, count * width), dtype).reshape(count, *shape[1:])


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"{size - len(data)} bytes are missing")
    return data


class Csv(Source):
    """Comma-separated text with a header line, also gzipped. Every cell is read as text and converted by its use."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._check_header()
        with (
            pa.input_stream(str(path), compression=self._compression()) as text,
            pa.csv.open_csv(text, parse_options=QUOTED) as reader,
        ):
            self._names = reader.schema.names
        self._quotes_checked = False
        _check_once(path, self._names)

    def _check_header(self) -> None:
        """Refuse UTF-16, and a header that other marks than commas divide: every row would be one cell."""
        with pa.input_stream(str(self.path), compression=self._compression()) as text:
            header = text.read(HEAD).partition(b"\n")[0]
        if header.startswith(UTF16):
            raise ValueError(f"{self.path} is UTF-16 text: convert it, as with iconv -f UTF-16 -t UTF-8")
        if b"," in header or not (found := next((mark for mark in SEPARATORS if mark in header), None)):
            return
        told = found.decode()
        raise ValueError(
            f"{self.path}: the header has {told!r} between the columns, expected commas, and decimal points in the "
            f"rows: convert it, as with pandas.read_csv(FILE, sep={told!r}, decimal=',').to_csv(NEW, index=False)"
        )

    def _compression(self) -> str | None:
        return "gzip" if self.path.name.lower().endswith(".gz") else None

    @property
    def names(self) -> list[str]:
        return self._names

    @property
    def rows(self) -> int | None:
        return None

    def _chunks(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        rows = 0
        for chunk in self._cells(names):
            rows += len(chunk[names[0]])
            yield chunk
        if not self._quotes_checked and self._lines() > rows + 1:  # the header's
            self._check_quotes()
        self._quotes_checked = True

    def _cells(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        types = {name: pa.string() for name in names}
        convert = pa.csv.ConvertOptions(column_types=types, include_columns=list(names), strings_can_be_null=True)
        with _reading(self.path):
            text = pa.input_stream(str(self.path), compression=self._compression())
            reader = pa.csv.open_csv(text, parse_options=QUOTED, convert_options=convert)
        yield from _batches(self.path, iter(reader))

    def _lines(self) -> int:
        """Lines of the file, empty ones too."""
        lines = 0
        with _reading(self.path), pa.input_stream(str(self.path), compression=self._compression()) as text:
            while block := text.read(HEAD):
                lines += block.count(b"\n")
        return lines

    def _check_quotes(self) -> None:
        """Refuse a stray quote, which makes one cell of the rows up to the next one.

        Cells of several lines are as it should be. Of one that begins or ends within rows, every line break stands for
        as many commas as a row has.
        """
        begun, commas = 0, len(self._names) - 1
        for chunk in self._cells(self._names):
            for name, values in chunk.items():
                several = pc.match_substring(values, "\n").fill_null(False)
                for row in np.flatnonzero(several.to_numpy(zero_copy_only=False)):
                    cell = values[int(row)].as_py().rstrip("\r\n")
                    if commas * cell.count("\n") == cell.count(",") > 0:
                        raise ValueError(
                            f"{self.path}: row {begun + int(row)}, column {name!r} begins with a quote, and"
                            f" {cell.count(chr(10))} more lines are in it before another one, which look like rows:"
                            f" {cell[:60]!r} ... (rows count from 0). Remove the quote, or put the cell in quotes and"
                            " write those within it twice"
                        )
            begun += len(chunk[self._names[0]])


class Parquet(Source):
    """A Parquet file, by batches of rows."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with pa.parquet.ParquetFile(path, memory_map=True) as file:  # a log has more files than may be open at once
            self._names, self._rows = list(file.schema_arrow.names), int(file.metadata.num_rows)
        _check_once(path, self._names)

    @property
    def names(self) -> list[str]:
        return self._names

    @property
    def rows(self) -> int | None:
        return self._rows

    def _chunks(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        with _reading(self.path):
            file = pa.parquet.ParquetFile(self.path, memory_map=True)
        with file:
            yield from _batches(self.path, file.iter_batches(batch_size=CHUNK, columns=list(names)))


KINDS: dict[str, type[Source]] = {".npz": Npz, ".csv": Csv, ".csv.gz": Csv, ".parquet": Parquet}


def _check_once(path: Path, names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: columns {twice} occur twice: give each column a name of its own")


def _batches(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    while True:
        with _reading(path):
            batch = next(batches, None)
        if batch is None:
            return
        if batch.num_rows:
            yield dict(zip(batch.schema.names, batch.columns, strict=True))
