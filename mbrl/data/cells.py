"""A column's values, as numpy arrays or as Arrow arrays, -> numbers, flags, labels and times."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FLAGS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


class CellError(ValueError):
    """A value that cannot be read; `row` counts from the first row of the chunk."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def numbers(values: Any, lenient: bool = False, what: str = "a number") -> np.ndarray:
    """Channels [n, k] of a column; what is missing becomes NaN. A float keeps its precision, the rest is float64.

    Args:
        values: of the column.
        lenient: whether a text that is no number is missing, too.
        what: to say that was expected.

    Raises:
        CellError: a cell is not a number.
        ValueError: the column's type is not numeric, or the rows of a list column differ in length.
    """
    if isinstance(values, pa.Array):
        if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            return _listed(values, lenient, what)
        if pa.types.is_fixed_size_list(values.type):
            return _spread(values, values.type.list_size, lenient, what)
        if _textual(values):
            values = pc.utf8_trim_whitespace(values)
            try:
                values = values.cast(pa.float64())
            except pa.ArrowInvalid:
                values = _parsed(_counted(values), pa.float64(), what, lenient)
        elif pa.types.is_integer(values.type):
            values = values.cast(pa.float64(), safe=False)
        elif not pa.types.is_floating(values.type):
            values = _parsed(values, pa.float64(), what)
        values = values.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"has type {values.dtype}, expected numbers")
    wide = values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)
    return wide.reshape(len(wide), -1)


def _counted(values: pa.Array) -> pa.Array:
    """Texts with 1 and 0 in the place of true and false, as a column of these is read where it is no text."""
    lower = pc.utf8_lower(values)
    for word, number in ("true", "1"), ("false", "0"):
        values = pc.if_else(pc.equal(lower, word), number, values)
    return values


def _textual(values: pa.Array) -> bool:
    return bool(pa.types.is_string(values.type) or pa.types.is_large_string(values.type))


def _listed(values: pa.Array, lenient: bool, what: str) -> np.ndarray:
    """Lists of one length each, which is that of the first list there is: [n, k]."""
    lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
    known = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
    if len(values) and not len(known):
        raise CellError(0, f"is empty, and so are the {len(values) - 1} rows after it")
    odd = [row for row in known if lengths[row] != lengths[known[0]]]
    if odd:
        told = f"holds {lengths[odd[0]]:g} numbers, the rows before it {lengths[known[0]]:g}"
        raise CellError(int(odd[0]), told)
    return _spread(values, int(lengths[known[0]]) if len(known) else 0, lenient, what)


def _spread(values: pa.Array, width: int, lenient: bool, what: str) -> np.ndarray:
    """Lists of `width` numbers; one that is missing is as many NaN: [n, width]."""
    there = numbers(values.flatten(), lenient, what).reshape(-1, width)
    if not values.null_count:
        return there
    found = np.full((len(values), width), np.nan, there.dtype)
    found[values.is_valid().to_numpy(zero_copy_only=False)] = there
    return found


def _column(values: Any) -> Any:
    """Values of a column that has to have one channel: [n], or the Arrow array.

    Raises:
        ValueError: it has more.
    """
    if isinstance(values, pa.Array):
        if pa.types.is_nested(values.type):
            raise ValueError(
                f"has type {values.type}, expected one value a row: name one of its channels, as in NAME[0]"
            )
        return values
    if values.ndim > 1 and values.shape[1] != 1:
        raise ValueError(f"has {values.shape[1]} channels, expected 1: name one of them, as in NAME[0]")
    return values.reshape(len(values))


def _parsed(values: pa.Array, wanted: pa.DataType, what: str, lenient: bool = False) -> pa.Array:
    try:
        return values.cast(wanted)
    except pa.ArrowNotImplementedError as error:
        raise ValueError(f"has type {values.type}, expected {what}") from error
    except pa.ArrowInvalid:
        found: list[Any] = []
        for row, value in enumerate(values):
            try:
                found.append(value.cast(wanted))
            except pa.ArrowInvalid as error:
                if not lenient:
                    raise CellError(row, f"is {value.as_py()!r}, expected {what}{_comma(value.as_py())}") from error
                found.append(pa.scalar(None, wanted))
        return pa.array([value.as_py() for value in found], wanted)


def _comma(cell: Any) -> str:
    """A hint where a cell is a number but for its commas, as 0,5 and 1.234,5 and 1,234.5 are."""
    return ": write it with a decimal point, and no comma" if re.fullmatch(r"[-+]?[\d.]*,[\d.,]+", str(cell)) else ""


def flags(values: Any) -> np.ndarray:
    """A column of 0 and 1, or false and true, [n] bool.

    Raises:
        CellError: a cell is anything else.
    """
    values = _column(values)
    texts = values if isinstance(values, pa.Array) else pa.array(values.astype(values.dtype.newbyteorder("=")))
    texts = pc.fill_null(pc.utf8_lower(pc.utf8_trim_whitespace(texts.cast(pa.string()))), "")
    found = pc.index_in(texts, value_set=pa.array(list(_FLAGS)))
    if found.null_count:
        row = int(np.argmax(found.is_null().to_numpy(zero_copy_only=False)))
        raise CellError(row, f"is {texts[row].as_py()!r}, expected 0 or 1, false or true")
    return np.array(list(_FLAGS.values()))[found.to_numpy()]


def labels(values: Any) -> np.ndarray:
    """A column of ids, [n] of whatever the file holds.

    Raises:
        CellError: a cell is empty.
    """
    values = _column(values)
    if isinstance(values, pa.Array):
        if values.null_count:
            raise CellError(int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))), "is empty")
        values = np.array(values.to_pylist(), dtype=object)
    found = np.asarray(values)
    if (odd := found != found).any():  # NaN, which is no other row's id either
        raise CellError(int(np.argmax(odd)), "is NaN")
    return found


class Times(NamedTuple):
    """A column of times that can be compared."""

    seconds: np.ndarray  # [n], or numbers as they are
    kind: str  # only those of one kind can be compared with others


NUMBERS, ZONED, LOCAL = "numbers", "times with a zone", "times without a zone"


def times(values: Any) -> Times:
    """A column of times: numbers as they are, timestamps and durations as seconds.

    Raises:
        CellError: a cell is neither a number nor an ISO 8601 timestamp, with a zone in every row or in none; or numbers
            were rounded until neighbours are equal.
    """
    values, kind = _column(values), NUMBERS
    if isinstance(values, pa.DictionaryArray):
        values = values.dictionary_decode()
    if isinstance(values, pa.Array):
        if _textual(values):
            try:
                return Times(numbers(values)[:, 0], kind)
            except CellError:
                values = _stamps(pc.utf8_trim_whitespace(values))
        if pa.types.is_date(values.type) or pa.types.is_timestamp(values.type):
            kind = ZONED if pa.types.is_timestamp(values.type) and values.type.tz else LOCAL
            values = values.cast(pa.timestamp("ns"))
        elif pa.types.is_duration(values.type):
            values = values.cast(pa.duration("ns"))
        else:
            return Times(_told_apart(numbers(values)[:, 0]), kind)
        return Times(np.asarray(numbers(values.cast(pa.int64()))[:, 0] * 1e-9), kind)
    if values.dtype.kind in "mM":
        wide = values.astype(f"{values.dtype.kind}8[ns]")
        kind = LOCAL if values.dtype.kind == "M" else NUMBERS
        return Times(np.where(np.isnat(wide), np.nan, wide.astype(np.int64) * 1e-9), kind)
    return Times(_told_apart(numbers(values)[:, 0]), kind)


def _told_apart(column: np.ndarray) -> np.ndarray:
    """Times [n] as float64, unless float32 has made one of several: seconds since 1970 lie 128 apart in it."""
    if column.dtype.itemsize >= 8:
        return column.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite times are refused where rows are cut into episodes
        ahead, apart = np.diff(column), np.spacing(np.abs(column[1:]))
    equal = np.flatnonzero(ahead == 0)
    if len(equal) and (ahead[ahead > 0] <= 2 * apart[ahead > 0]).any():
        k = int(equal[0])
        raise CellError(
            k + 1,
            f"is what the row before it has, {float(column[k]):.0f}: {column.dtype} numbers lie {float(apart[k]):g}"
            " apart there, write times as float64",
        )
    return column.astype(np.float64)


def _stamps(values: pa.Array) -> pa.Array:
    """Timestamps of texts; those with a zone are brought to UTC."""
    try:
        return values.cast(pa.timestamp("ns", "UTC"))
    except pa.ArrowInvalid:
        what = (
            "a number or an ISO timestamp, with a zone in every row or in none; pandas.to_datetime(COLUMN,"
            " dayfirst=True) makes one of other dates"
        )
        return _parsed(values, pa.timestamp("ns"), what)


def texts(values: Any, lenient: bool = False) -> np.ndarray:
    """A column of names of categories or choices, [n] of str, without the spaces around them.

    Args:
        values: of the column.
        lenient: whether a name may be missing; it is empty then.

    Raises:
        CellError: a cell is empty.
    """
    values = _column(values)
    if isinstance(values, pa.DictionaryArray):
        values = values.dictionary_decode()
    if isinstance(values, pa.Array) and pa.types.is_floating(values.type):
        values = values.to_numpy(zero_copy_only=False)
    cells = values.to_pylist() if isinstance(values, pa.Array) else list(values)  # 0.1 of float32 is called so
    called = {cell: "" if cell is None else name(cell) for cell in set(cells)}
    names = np.array([called[cell] for cell in cells], dtype=str)
    names[names == "nan"] = ""
    if not lenient and (names == "").any():
        raise CellError(
            int(np.argmax(names == "")), "is empty or NaN (as NA and null in a CSV are), expected a category"
        )
    return names


def name(cell: Any) -> str:
    """What a category is called: 2 and 2.0 are one, as a column of numbers in which one is missing holds the latter."""
    text = (cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell)).strip()
    whole = re.sub(r"\.0+$", "", text) if re.fullmatch(r"-?\d+\.0+", text) else text
    return "0" if whole == "-0" else whole
