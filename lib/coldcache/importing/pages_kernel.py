"""The values of Parquet pages, compiled by numba; see ``Encodings.md`` of apache/parquet-format.

Everything is an address or a number, and nothing allocates: see :func:`coldcache.sources.arrays.compiled`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from coldcache.importing.parquet import BLOCK, MINIBLOCKS
from coldcache.payload_kernel import byte_at, store_eight_bytes
from coldcache.sources.log_kernel import highest_bit, int32s, int64s, uint8s

_U, _INT = np.uint64, np.int64
_MINIBLOCK = BLOCK // MINIBLOCKS


def compact(values_at: int, size: int, valid_at: int, rows: int, out_at: int) -> int:
    """Write the values that are not null as 64-bit integers; return how many.

    Parameters
    ----------
    values_at, size : int
        Address of the rows' integers, and how many bytes each has: 4 or 8. 0: the lengths between 4-byte ends.
    valid_at : int
        Address of a bit for each row, 0 where none is null.
    rows : int
        How many there are.
    out_at : int
        Address of room for them.
    """
    out, count = int64s(out_at), _INT(0)
    narrow, wide = int32s(values_at), int64s(values_at)
    for row in range(rows):
        if size == 8:
            out[count] = wide[row]
        elif size == 4:
            out[count] = narrow[row]
        else:
            out[count] = narrow[row + 1] - narrow[row]
        # Without a branch: which rows are null is not to be foreseen.
        count += 1 if valid_at == 0 else (byte_at(valid_at, row >> 3) >> (row & 7)) & 1
    return count


@njit(error_model="numpy")
def _varint(out_at: int, place: int, value: Any) -> int:
    """Write an unsigned integer seven bits at a time; return the place behind it."""
    out = uint8s(out_at)
    while value >= _U(128):
        out[place] = (value & _U(127)) | _U(128)
        value >>= _U(7)
        place += 1
    out[place] = value
    return place + 1


@njit(inline="always")
def _zigzag(value: int) -> Any:
    return _U((value << 1) ^ (value >> 63))


@njit(error_model="numpy")
def _bits(values_at: int, first: int, count: int, whole: int, least: int, width: int, out_at: int, place: int) -> int:
    """Write so many low bits of each value less `least`, zeros up to `whole` of them; return the place behind."""
    values = int64s(values_at)
    held, used = _U(0), _INT(0)
    for j in range(whole):
        value = _U(values[first + j] - least) if j < count else _U(0)
        held |= value << _U(used)
        used += width
        if used >= 64:
            store_eight_bytes(out_at, place, held)
            place += 8
            used -= 64
            held = value >> _U(width - used) if used > 0 else _U(0)
    if used > 0:
        store_eight_bytes(out_at, place, held)
    return place + (used + 7) // 8


def packed(values_at: int, count: int, width: int, out_at: int) -> int:
    """Write the lowest bits of 64-bit integers as one bit-packed run, without its head; return how many bytes."""
    return _bits(values_at, 0, count, (count + 7) & ~7, 0, width, out_at, 0)


def delta_packed(values_at: int, count: int, out_at: int) -> int:
    """Write 64-bit integers as ``DELTA_BINARY_PACKED``, overwriting them; return how many bytes."""
    values, out = int64s(values_at), uint8s(out_at)
    place = _varint(out_at, _INT(0), _U(BLOCK))
    place = _varint(out_at, place, _U(MINIBLOCKS))
    place = _varint(out_at, place, _U(count))
    place = _varint(out_at, place, _zigzag(values[0]) if count > 0 else _U(0))
    for j in range(count - 1):
        values[j] = values[j + 1] - values[j]
    for first in range(0, count - 1, BLOCK):
        end = min(first + BLOCK, count - 1)
        least = values[first]
        for j in range(first, end):
            least = min(least, values[j])
        place = _varint(out_at, place, _zigzag(least))
        widths = place
        place += MINIBLOCKS
        for number in range(MINIBLOCKS):
            begin = first + number * _MINIBLOCK
            some = _U(0)
            for j in range(begin, min(begin + _MINIBLOCK, end)):
                some |= _U(values[j] - least)
            width = highest_bit(some)
            out[widths + number] = width
            if begin < end and width > 0:
                place = _bits(values_at, begin, end - begin, _INT(_MINIBLOCK), least, width, out_at, place)
    return place


# What Python calls, and how many integers it gives.
ENTRIES = {"compact": (compact, 5), "packed": (packed, 4), "delta_packed": (delta_packed, 3)}
