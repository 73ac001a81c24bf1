"""Which write answers which read, compiled: one pass over a case's reads and writes, in order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# A write that follows a read of the same key within this time is taken to answer it. Ten times
# the slowest backend of an image analyzer; the lab's takes 20 ms.
FILL_WINDOW_S = 5.0
_NONE = -1


@njit(nogil=True, cache=True)
def answered_reads(
    order: Any, keys: Any, groups: Any, epochs: Any, stamps: Any, is_miss: Any, answers: Any, overwrites: Any,
    window_us: int, first_touch: Any, in_flight: Any, follows: Any,
) -> None:  # fmt: skip
    """Pair every write with the latest unanswered miss of its key, else hit.

    Reads that wait for an answer are kept as chains, the latest first: misses and hits apart. A write answers a miss
    first: of two workers that missed one key, the second's write may come after another's hit.

    Parameters
    ----------
    order : int array
        Places in `keys`, of which the first ``len(is_miss)`` are reads, the others writes, in the order of time.
    keys, groups, epochs : int arrays
        Of each read and write: its key; its key in its epoch; its epoch.
    stamps : int64 array
        µs since the epoch, likewise.
    is_miss : bool array, by read
    answers, overwrites : bool arrays, by write
        Whether it may answer a read, and whether it stores the whole value, so that it answers a hit, too.
    window_us : int
        The longest time from a read to its answer.
    first_touch, in_flight : bool arrays, by read
        Out: no earlier access of the key; a miss after the key's first read and before its first write, both in its epoch.
    follows : int array, by write
        Out: the read it answers, -1 without one.
    """
    reads = len(is_miss)
    groups_count = groups.max() + 1 if len(groups) else 0
    miss = np.full(groups_count, _NONE, np.int64)
    hit = np.full(groups_count, _NONE, np.int64)
    below = np.full(reads, _NONE, np.int64)
    written = np.zeros(groups_count, np.bool_)
    touched = np.full(keys.max() + 1 if len(keys) else 0, _NONE, np.int64)
    for at in order:
        key, group = keys[at], groups[at]
        if at < reads:
            first_touch[at] = touched[key] == _NONE
            in_flight[at] = is_miss[at] and touched[key] == epochs[at] and not written[group]
            if touched[key] == _NONE:
                touched[key] = epochs[at]
            if is_miss[at]:
                below[at] = miss[group]
                miss[group] = at
            else:
                below[at] = hit[group]
                hit[group] = at
                written[group] = True  # it was there: a later miss is no longer the first filling
            continue
        write = at - reads
        follows[write] = _NONE
        written[group] = True
        if not answers[write]:
            continue
        if touched[key] == _NONE:
            touched[key] = epochs[at]
        read = miss[group]
        if read != _NONE and stamps[at] - stamps[read] <= window_us:
            miss[group] = below[read]
            follows[write] = read
            continue
        miss[group] = _NONE
        if not overwrites[write]:
            continue
        read = hit[group]
        if read != _NONE and stamps[at] - stamps[read] <= window_us:
            hit[group] = below[read]
            follows[write] = read
        else:
            hit[group] = _NONE
