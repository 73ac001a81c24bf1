"""Rows dealt out to shards, and their columns put in that order, compiled: each is one pass over memory of Arrow's.

Everything is an address or a number, and nothing allocates: see :func:`coldcache.sources.arrays.compiled`, and
:mod:`coldcache.shards.columns` for what Python calls. Where an address of bits may be 0, all rows are valid; else the bit of
the first row is `offset` bits behind it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from coldcache.payload_kernel import eight_bytes
from coldcache.shards.columns import DIGEST_DIGITS, EVERYWHERE, IN_ITS_SHARD, NOWHERE, Rows, Sifted
from coldcache.shards.shard import SPREAD
from coldcache.sources.log_kernel import int32s, int64s, uint8s, uint64s


@njit(inline="always")
def _is_valid(valid_at: int, bit: int) -> Any:
    return valid_at == 0 or (uint8s(valid_at)[bit >> 3] >> (bit & 7)) & 1 != 0


def sift(rows_at: int, sifted_at: int, rows: int, all_kept: int) -> int:
    """Tell where each row goes, and count; return how many look up or write a key.

    Parameters
    ----------
    rows_at, sifted_at : int
        Addresses of the addresses of the columns of ``Rows`` and ``Sifted``. Truths are bytes.
    rows, all_kept : int
        How many there are, and whether none is left out.
    """
    a, b = int64s(rows_at), int64s(sifted_at)
    of = Rows(
        int32s(a[0]), uint64s(a[1]), uint64s(a[2]), int32s(a[3]), uint8s(a[4]), int32s(a[5]), uint8s(a[6]), int32s(a[7]),
        int32s(a[8]), int64s(a[9]), uint8s(a[10]),
    )  # fmt: skip
    to = Sifted(uint8s(b[0]), uint64s(b[1]), int64s(b[2]), int64s(b[3]))
    commands = lookup_rows = used = 0
    for row in range(rows):
        template, command, looks_up = of.template[row], of.command[row], of.lookups[row] > 0
        commands += command >= 0 and of.arg[row] <= 0
        to.ids[row] = of.ids[row] ^ (of.further[template] * SPREAD) if template >= 0 else of.ids[row]
        to.fate[row] = NOWHERE
        if all_kept == 0 and of.kept[row] == 0:
            continue
        if command >= 0 and of.sweeps[command] != 0:
            to.fate[row] = EVERYWHERE
        elif template >= 0:
            to.fate[row] = IN_ITS_SHARD
        if template >= 0 and (looks_up or (of.op[row] >= 0 and of.writes[of.op[row]] != 0)):
            lookup_rows += looks_up
            to.used_us[used] = of.t_us[row]
            used += 1
    to.counts[0] = commands
    to.counts[1] = lookup_rows
    return used


def choose(key_at: int, ids_at: int, fate_at: int, rows: int, count: int, shard_at: int, sizes_at: int) -> int:
    """Write the shard of each row, and add to the size of each; return how many rows go everywhere.

    Parameters
    ----------
    key_at, ids_at, fate_at, rows : int
        Addresses of the columns, uint64, uint64 and uint8, and how many rows there are.
    count : int
        How many shards there are.
    shard_at, sizes_at : int
        Addresses of room for an int32 a row, -1 where it goes everywhere or nowhere; of an int64 a shard, 0.
    """
    key, ids, fate, shard, sizes = uint64s(key_at), uint64s(ids_at), uint8s(fate_at), int32s(shard_at), int64s(sizes_at)
    everywhere = 0
    for row in range(rows):
        shard[row] = -1
        if fate[row] == IN_ITS_SHARD:
            hashed = (ids[row] if ids[row] != 0 else key[row]) * SPREAD
            # As good as a remainder, and faster.
            shard[row] = np.int64(((hashed >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32))
            sizes[shard[row]] += 1
        everywhere += fate[row] == EVERYWHERE
    return everywhere


def deal(shard_at: int, fate_at: int, rows: int, count: int, next_at: int, from_at: int, to_at: int) -> int:
    """Write the rows that go anywhere, in their order, and the place of each among those of all shards; return how many.

    The rows of a shard stand together, each in their order, those of one shard after those of the other.

    Parameters
    ----------
    shard_at, fate_at, rows, count : int
        As of :func:`choose`.
    next_at : int
        Address of where each shard's rows begin, int64, which is counted on.
    from_at, to_at : int
        Addresses of room for the rows and their places, int32.
    """
    shard, fate, following, out, to = int32s(shard_at), uint8s(fate_at), int64s(next_at), int32s(from_at), int32s(to_at)
    dealt = 0
    for row in range(rows):
        chosen = np.int64(shard[row])
        if chosen >= 0:
            out[dealt] = row
            to[dealt] = following[chosen]
            following[chosen] += 1
            dealt += 1
        elif fate[row] == EVERYWHERE:
            for every in range(count):
                out[dealt] = row
                to[dealt] = following[every]
                following[every] += 1
                dealt += 1
    return dealt


def extent(values_at: int, size: int, valid_at: int, offset: int, rows: int, extent_at: int) -> int:
    """Make the two int64 at an address the least and the greatest of these numbers and themselves; return how many there are.

    `size` : bytes of each, 4 or 8.
    """
    wide, narrow, found = int64s(values_at), int32s(values_at), int64s(extent_at)
    least, greatest = found[0], found[1]
    for row in range(rows):
        if _is_valid(valid_at, offset + row):
            number = wide[row] if size == 8 else np.int64(narrow[row])
            least, greatest = min(least, number), max(greatest, number)
    found[0] = least
    found[1] = greatest
    return rows


def move(
    values_at: int, size: int, valid_at: int, offset: int, table_at: int, from_at: int, to_at: int, rows: int, base: int,
    null: int, out_at: int, out_size: int,
) -> int:  # fmt: skip
    """Write the numbers of some rows, with `null` where there is none, to their places, each less `base`; return how many.

    Rows in their order are read faster than places in theirs: each shard's are on other lines of the cache.

    Parameters
    ----------
    values_at, size : int
        Address of the numbers, and the bytes of each, 4 or 8.
    valid_at, offset : int
        Where bits tell which of them are valid.
    table_at : int
        Address of what they stand for from -1 on, int32; 0 if they stand for themselves.
    from_at, to_at, rows : int
        Addresses of the rows and their places, int32, and how many there are.
    base, null : int
    out_at, out_size : int
        Address of room for them, and the bytes of each, 1, 4 or 8.
    """
    wide, narrow, table, read, write = int64s(values_at), int32s(values_at), int32s(table_at), int32s(from_at), int32s(to_at)
    for dealt in range(rows):
        row, place = np.int64(read[dealt]), np.int64(write[dealt])
        number = wide[row] if size == 8 else np.int64(narrow[row])
        if valid_at != 0:
            # What is null is read, too, and then masked: no processor can guess which rows are.
            known = -np.int64((uint8s(valid_at)[(offset + row) >> 3] >> ((offset + row) & 7)) & 1)
            number = (number & known) | (null & ~known)
        if table_at != 0:
            number = np.int64(table[number + 1])
        number -= base
        if out_size == 1:
            uint8s(out_at)[place] = number
        elif out_size == 4:
            int32s(out_at)[place] = number
        else:
            int64s(out_at)[place] = number
    return rows


@njit(inline="always")
def _four_bytes(base: int, at: int) -> Any:
    """Return the number that eight hex digits write, of either case."""
    text = eight_bytes(base, at)
    # The digit of each byte: letters have a bit that figures lack, and count on from 9.
    letters = (text >> np.uint64(6)) & np.uint64(0x0101010101010101)
    digits = (text & np.uint64(0x0F0F0F0F0F0F0F0F)) + np.uint64(9) * letters
    # Neighbours put together, the first one higher: of bytes, of pairs, of fours.
    pairs = ((digits << np.uint64(4)) | (digits >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    fours = ((pairs << np.uint64(8)) | (pairs >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    return ((fours << np.uint64(16)) | (fours >> np.uint64(32))) & np.uint64(0x00000000FFFFFFFF)


def digests(data_at: int, bounds_at: int, size: int, valid_at: int, offset: int, rows: int, out_at: int) -> int:
    """Write digests of 16 hex digits as uint64, 0 where there is none; return how many have another length.

    `bounds_at`, `size` : address of where each begins among the bytes at `data_at`, and the bytes of each bound, 4 or 8.
    """
    wide, narrow, out = int64s(bounds_at), int32s(bounds_at), uint64s(out_at)
    others = 0
    for row in range(rows):
        out[row] = np.uint64(0)
        if _is_valid(valid_at, offset + row):
            start = wide[row] if size == 8 else np.int64(narrow[row])
            end = wide[row + 1] if size == 8 else np.int64(narrow[row + 1])
            if end - start == DIGEST_DIGITS:
                out[row] = (_four_bytes(data_at, start) << np.uint64(32)) | _four_bytes(data_at, start + 8)
            else:
                others += 1
    return others


# What Python calls, and how many integers it gives.
ENTRIES = {
    "sift": (sift, 4), "choose": (choose, 7), "deal": (deal, 7), "extent": (extent, 6), "move": (move, 12),
    "digests": (digests, 7),
}  # fmt: skip
