"""Which rows have the same key: what Python calls of `numbering_kernel`, without numba."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from coldcache.sources.arrays import compiled, handed, place


def numbers_of(values: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    """Return the number of each value, in the order of first appearance, and the different values.

    Fit for hashes that nobody can foresee. ``pandas.factorize`` gives the same in five times the time (500,000 values, measured).
    """
    numbers, found, _ = numbers_and_first(values)
    return numbers, found


def numbers_and_first(
    values: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
    """Return what :func:`numbers_of` does, and the row of each different value where it first stands."""
    values = handed(values, np.uint64)
    slots, bits = _slots(len(values))
    numbers, found, first = np.empty(len(values), np.int32), np.empty(len(values), np.uint64), np.empty(len(values), np.int32)
    room = place(slots, np.int32), bits, place(numbers, np.int32), place(found, np.uint64), place(first, np.int32)
    count = _kernel()["number"](place(values, np.uint64), len(values), *room)
    return numbers, found[:count], first[:count]


def different_of(groups: npt.NDArray[np.int32], values: npt.NDArray[np.uint64], most: int) -> npt.NDArray[np.int32]:
    """Return of each row how many different values the rows of its group have; ``most + 1`` where they are more.

    `groups` are numbers from 0 on, `values` hashes as for :func:`numbers_of`.
    """
    groups, values = handed(groups, np.int32), handed(values, np.uint64)
    slots, bits = _slots(len(values))
    counts, kept = np.zeros(groups.max(initial=-1) + 1, np.int32), np.empty(len(values), np.uint64)
    room = place(counts, np.int32), place(slots, np.int32), bits, place(kept, np.uint64)
    _kernel()["count_different"](place(groups, np.int32), place(values, np.uint64, len(groups)), len(groups), most, *room)
    return counts[groups]


def _kernel() -> Mapping[str, Callable[..., int]]:
    return compiled("coldcache.keys.numbering_kernel", "coldcache.sources.log_kernel", "coldcache.payload_kernel")


def _slots(rows: int) -> tuple[npt.NDArray[np.int32], int]:
    """Return an empty table for so many numbers, and how many bits tell a place in it."""
    bits = max(1, (2 * rows).bit_length())
    return np.full(1 << bits, -1, np.int32), bits
