"""Hashes numbered in the order in which they first appear, compiled.

Everything is an address or a number, and nothing allocates: see :func:`coldcache.sources.arrays.compiled`, and
:mod:`coldcache.keys.numbering` for what Python calls.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from coldcache.sources.log_kernel import int32s, uint64s

_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # as in coldcache.shards.shard, which imports pandas


@njit(inline="always")
def _slot_of(value: Any, slots: Any, found: Any, mask: int, shift: Any) -> Any:
    """Return where the number of a value stands, or, as it is new, is to stand: -1 is there."""
    slot = np.int64((value * _SPREAD) >> shift)
    while slots[slot] >= 0 and found[slots[slot]] != value:
        slot = (slot + 1) & mask
    return slot


def number(values_at: int, rows: int, slots_at: int, bits: int, numbers_at: int, found_at: int, first_at: int) -> int:
    """Write the number of each value, and the different values in the order of their numbers; return how many these are.

    Parameters
    ----------
    values_at, rows : int
        Address of the values, uint64, and how many there are.
    slots_at, bits : int
        Address of ``2 ** bits`` int32, more than there are values, all -1.
    numbers_at, found_at, first_at : int
        Addresses of room for as many int32, uint64 and int32 as there are values; the last for the row of each
        different value where it first stands.
    """
    values, slots, numbers, found, first = (
        uint64s(values_at), int32s(slots_at), int32s(numbers_at), uint64s(found_at), int32s(first_at)
    )  # fmt: skip
    count = 0
    mask, shift = (1 << bits) - 1, np.uint64(64 - bits)
    for row in range(rows):
        slot = _slot_of(values[row], slots, found, mask, shift)
        if slots[slot] < 0:
            slots[slot] = count
            found[count] = values[row]
            first[count] = row
            count += 1
        numbers[row] = slots[slot]
    return count


def count_different(
    groups_at: int, values_at: int, rows: int, most: int, counts_at: int, slots_at: int, bits: int, found_at: int
) -> int:  # fmt: skip
    """Write how many different values each group has, but of more than `most` one more than that; return how many were kept.

    A group that has more is left alone from then on, so that what is looked up stays small.

    Parameters
    ----------
    groups_at, values_at, rows : int
        Addresses of the number of each row's group, int32, and its value, uint64, a hash; and how many there are.
    most : int
        As far as is counted.
    counts_at : int
        Address of an int32 for each group, 0.
    slots_at, bits : int
        Address of ``2 ** bits`` int32, more than there are rows, all -1.
    found_at : int
        Address of room for as many uint64 as there are rows.
    """
    groups, values, counts, slots, found = (
        int32s(groups_at), uint64s(values_at), int32s(counts_at), int32s(slots_at), uint64s(found_at)
    )  # fmt: skip
    kept = 0
    mask, shift = (1 << bits) - 1, np.uint64(64 - bits)
    for row in range(rows):
        group = groups[row]
        if counts[group] > most:
            continue
        both = (np.uint64(group) * _SPREAD) ^ values[row]
        slot = _slot_of(both, slots, found, mask, shift)
        if slots[slot] < 0:
            slots[slot] = kept
            found[kept] = both
            kept += 1
            counts[group] += 1
    return kept


# What Python calls, and how many integers it gives.
ENTRIES = {"number": (number, 7), "count_different": (count_different, 8)}
