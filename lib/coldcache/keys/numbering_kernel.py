"""Hashes numbered in the order in which they first appear, compiled.

Everything is an address or a number, and nothing allocates: see :func:`coldcache.sources.arrays.compiled`, and
:mod:`coldcache.keys.numbering` for what Python calls.
"""

from __future__ import annotations

import numpy as np

from coldcache.sources.log_kernel import int32s, uint64s

_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # as in coldcache.shards.shard, which imports pandas


def number(values_at: int, rows: int, slots_at: int, bits: int, numbers_at: int, found_at: int) -> int:
    """Write the number of each value, and the different values in the order of their numbers; return how many these are.

    Parameters
    ----------
    values_at, rows : int
        Address of the values, uint64, and how many there are.
    slots_at, bits : int
        Address of ``2 ** bits`` int32, more than there are values, all -1.
    numbers_at, found_at : int
        Addresses of room for as many int32 and uint64 as there are values.
    """
    values, slots, numbers, found = uint64s(values_at), int32s(slots_at), int32s(numbers_at), uint64s(found_at)
    count = 0
    mask, shift = (1 << bits) - 1, np.uint64(64 - bits)
    for row in range(rows):
        value = values[row]
        slot = np.int64((value * _SPREAD) >> shift)
        while slots[slot] >= 0 and found[slots[slot]] != value:
            slot = (slot + 1) & mask
        if slots[slot] < 0:
            slots[slot] = count
            found[count] = value
            count += 1
        numbers[row] = slots[slot]
    return count


# What Python calls, and how many integers it gives.
ENTRIES = {"number": (number, 6)}
