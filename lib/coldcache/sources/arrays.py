"""Columns between numpy and Arrow without pandas, which Arrow's own conversions import: half a second of a short program."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def column(numbers: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Return numbers or booleans as a column that shares their memory, so they must not change; null where not `valid`."""
    bits = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    if numbers.dtype == np.bool_:
        return pa.Array.from_buffers(pa.bool_(), len(numbers), [bits, pa.py_buffer(np.packbits(numbers, bitorder="little"))])
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), len(numbers), [bits, pa.py_buffer(numbers)])


def texts(words: Iterable[str]) -> pa.StringArray:
    """Return texts as a column."""
    encoded = [word.encode() for word in words]
    offsets = np.zeros(len(encoded) + 1, np.int32)
    np.cumsum([len(word) for word in encoded], out=offsets[1:])
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


def labels(numbers: npt.NDArray[Any], names: pa.StringArray, first: int = 0) -> pa.DictionaryArray:
    """Return a dictionary column, `first` being the number of the first name; those below it are null."""
    indices = numbers.astype(np.int32) - np.int32(first)
    return pa.DictionaryArray.from_arrays(column(indices, indices >= 0), names)


def numbers(whole: pa.Array) -> npt.NDArray[Any]:
    """Return the memory of a column of numbers or times as an array; what stands where it is null is undefined."""
    kind = np.dtype(np.int64) if pa.types.is_timestamp(whole.type) else np.dtype(whole.type.to_pandas_dtype())
    return np.frombuffer(whole.buffers()[1], kind)[whole.offset : whole.offset + len(whole)]
