"""Which write answers which read, and what was written before it, compiled: one pass over a shard's rows, in order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

# A write that follows a read of the same key within this time is taken to answer it. Ten times
# the slowest backend of an image analyzer; the lab's takes 20 ms.
FILL_WINDOW_S = 5.0
_NONE = -1


class Pairs(NamedTuple):
    """What is found of each row."""

    first_touch: np.ndarray  # bool, of a read: no earlier access of the key
    in_flight: np.ndarray  # bool: a miss after the key's first read and before its first write, both in its epoch
    fill_us: np.ndarray  # int64, of a read: until the write that answered it, -1 without
    follows: np.ndarray  # int32, of a write: the row of the read it answers, -1 without
    same_value: np.ndarray  # bool, of a write: the key's write before it stored the same bytes
    rewritten: np.ndarray  # bool, of a write that answers a hit: another write of the key did so before
    written_us: np.ndarray  # int64, of a miss: since the key's last write that was done, -1 without one in its epoch
    written_ttl_ms: np.ndarray  # int64: that write's time to live, `NULL` without


@njit(nogil=True, cache=True)
def pair(
    order: Any, keys: Any, groups: Any, key_count: int, group_count: int, epochs: Any, t_us: Any, is_read: Any, is_miss: Any,
    is_write: Any, answers: Any, overwrites: Any, done: Any, digests: Any, ttl_ms: Any, window_us: int, pairs: Pairs,
) -> None:  # fmt: skip
    """Pair every write with the latest unanswered miss of its key, else hit, and note what was written last.

    Reads that wait for an answer are kept as chains, the latest first: misses and hits apart. A write answers a miss
    first: of two workers that missed one key, the second's write may come after another's hit.

    Parameters
    ----------
    order : int array
        The rows in the order of time.
    keys, groups, epochs : int arrays, by row
        Its key, -1 without; its key in its epoch; its epoch.
    key_count, group_count : int
    t_us : int64 array, by row
    is_read, is_miss, is_write : bool arrays, by row
        A row that reads and writes does so in this order.
    answers, overwrites, done : bool arrays, by row
        Whether a write may answer a read; whether it stores the whole value, so that it answers a hit, too; whether
        it was not refused.
    digests, ttl_ms : uint64 and int64 arrays, by row
        Of the value written, 0 where it is not known; the time to live asked for.
    window_us : int
        The longest time from a read to its answer.
    pairs : Pairs
        Out. `fill_us`, `follows` and `written_us` are -1 and the others False before.
    """
    first_touch, in_flight, fill_us, follows = pairs.first_touch, pairs.in_flight, pairs.fill_us, pairs.follows
    same_value, rewritten, written_us, written_ttl_ms = pairs.same_value, pairs.rewritten, pairs.written_us, pairs.written_ttl_ms
    miss = np.full(group_count, _NONE, np.int32)
    hit = np.full(group_count, _NONE, np.int32)
    written = np.zeros(group_count, np.bool_)
    touched = np.full(key_count, _NONE, np.int32)
    last_done = np.full(key_count, _NONE, np.int32)
    last_digest = np.zeros(key_count, np.uint64)
    answered_hit = np.zeros(key_count, np.bool_)
    below = np.empty(len(keys), np.int32)
    for at in order:
        key, group = keys[at], groups[at]
        if key < 0:
            continue
        if is_read[at]:
            first_touch[at] = touched[key] == _NONE
            in_flight[at] = is_miss[at] and touched[key] == epochs[at] and not written[group]
            if touched[key] == _NONE:
                touched[key] = epochs[at]
            if is_miss[at]:
                below[at] = miss[group]
                miss[group] = at
                last = last_done[key]
                if last != _NONE and epochs[last] == epochs[at]:
                    written_us[at] = max(t_us[at] - t_us[last], 0)
                    written_ttl_ms[at] = ttl_ms[last]
            else:
                below[at] = hit[group]
                hit[group] = at
                written[group] = True  # it was there: a later miss is no longer the first filling
        if not is_write[at]:
            continue
        written[group] = True
        same_value[at] = digests[at] != 0 and digests[at] == last_digest[key]
        last_digest[key] = digests[at]
        if done[at]:
            last_done[key] = at
        if not answers[at]:
            continue
        if touched[key] == _NONE:
            touched[key] = epochs[at]
        read = miss[group]
        if read != _NONE and t_us[at] - t_us[read] <= window_us:
            miss[group] = below[read]
            fill_us[read] = t_us[at] - t_us[read]
            follows[at] = read
            continue
        miss[group] = _NONE
        if not overwrites[at]:
            continue
        read = hit[group]
        if read != _NONE and t_us[at] - t_us[read] <= window_us:
            hit[group] = below[read]
            fill_us[read] = t_us[at] - t_us[read]
            follows[at] = read
            rewritten[at] = answered_hit[key]
            answered_hit[key] = True
        else:
            hit[group] = _NONE
