"""Whole numbers as PostgreSQL's binary protocol has them: arrays of bigint, and rows of COPY. All in numpy."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

Ints = npt.NDArray[np.int64]
COPY_BEGINS, COPY_ENDS = b"PGCOPY\n\xff\r\n\x00" + bytes(8), b"\xff\xff"
# an array on the wire: dimensions, nulls, type, length, lower bound; then length and value of each element
_HEADER, _ELEMENT = struct.Struct(">iiiii"), np.dtype([("bytes", ">i4"), ("value", ">i8")])
_BIGINT = 20


def text(numbers: pl.Series) -> str:
    """An array as a parameter: of a list the driver would look at each number, half a second a million."""
    return f"{{{numbers.cast(pl.String).str.join(',').item()}}}"


def lengths(arrays: Sequence[bytes]) -> Ints:
    return np.array([(len(array) - _HEADER.size) // _ELEMENT.itemsize for array in arrays], np.int64)


def values(arrays: Sequence[bytes]) -> Ints:
    """The elements of all arrays, one after another."""
    joined = b"".join(array[_HEADER.size :] for array in arrays)
    return np.frombuffer(joined, _ELEMENT)["value"].astype(np.int64)


def arrays(elements: Ints, starts: Ints, ends: Ints) -> Iterator[bytes]:
    """An array of each piece, with its length in front as in a row of COPY."""
    wire, size = np.empty(len(elements), _ELEMENT), _ELEMENT.itemsize
    wire["bytes"], wire["value"] = 8, elements
    text = wire.tobytes()
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        n = end - start
        yield (
            struct.pack(">i", _HEADER.size + n * size)
            + _HEADER.pack(1, 0, _BIGINT, n, 1)
            + text[start * size : end * size]
        )


def rows(columns: Mapping[str, npt.NDArray[np.int64] | npt.NDArray[np.int32]]) -> bytes:
    """A whole binary COPY. In: columns of one length, int8 as 64 bits and int4 as 32."""
    parts = [("columns", ">i2")]
    for name, column in columns.items():
        parts += [(f"{name}:bytes", ">i4"), (name, f">i{column.itemsize}")]
    table = np.empty(len(next(iter(columns.values()))), np.dtype(parts))
    table["columns"] = len(columns)
    for name, column in columns.items():
        table[f"{name}:bytes"], table[name] = column.itemsize, column
    return COPY_BEGINS + table.tobytes() + COPY_ENDS
