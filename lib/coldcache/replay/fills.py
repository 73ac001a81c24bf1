"""Which write answers which read, and what was written before it: what Python calls of `pair_kernel`, without numba."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from coldcache.sources.arrays import address, compiled, handed, places

# A write that follows a read of the same key within this time is taken to answer it. Ten times
# the slowest backend of an image analyzer; the lab's takes 20 ms.
FILL_WINDOW_S = 5.0
NONE = -1

_Bools = npt.NDArray[np.bool_]
_Ints = npt.NDArray[np.int64]
_Narrow = npt.NDArray[np.int32]


class Steps(NamedTuple):
    """Rows that are to be paired.

    A row that reads and writes does so in this order.
    """

    order: _Ints  # the rows in the order of time
    key: _Ints  # number of its key, -1 without
    group: _Ints  # number of its key in its epoch
    epoch: _Narrow
    t_us: _Ints
    is_read: _Bools
    is_miss: _Bools
    is_write: _Bools
    answers: _Bools  # a write may answer a read
    overwrites: _Bools  # a write stores the whole value, so that it answers a hit, too
    done: _Bools  # a write was not refused
    digest: npt.NDArray[np.uint64]  # of the value written, 0 where it is not known
    ttl_ms: _Ints  # time to live asked for


_STEPS = (
    np.int64, np.int64, np.int64, np.int32, np.int64, np.bool_, np.bool_, np.bool_, np.bool_, np.bool_, np.bool_,
    np.uint64, np.int64,
)  # fmt: skip


class Pairs(NamedTuple):
    """What is found of each row."""

    first_touch: _Bools  # of a read: no earlier access of the key
    in_flight: _Bools  # a miss after the key's first read and before its first write, both in its epoch
    fill_us: _Ints  # of a read: until the write that answered it, -1 without
    follows: _Narrow  # of a write: the row of the read it answers, -1 without
    same_value: _Bools  # of a write: the key's write before it stored the same bytes
    rewritten: _Bools  # of a write that answers a hit: another write of the key did so before
    written_us: _Ints  # of a miss: since the key's last write that was done, -1 without one in its epoch
    written_ttl_ms: _Ints  # that write's time to live, as given; `no_ttl` without one


_PAIRS = np.bool_, np.bool_, np.int64, np.int32, np.bool_, np.bool_, np.int64, np.int64


class Work(NamedTuple):
    """Where the kernel keeps what it knows of each key, and of each key in its epoch, as it goes."""

    miss: _Narrow  # the latest unanswered miss of a group, `NONE` without
    hit: _Narrow  # the latest unanswered hit of a group, `NONE` without
    written: _Bools  # a group was written, or there
    touched: _Narrow  # epoch of a key's first access, `NONE` without
    last_done: _Narrow  # row of a key's last write that was done, `NONE` without
    last_digest: npt.NDArray[np.uint64]  # of what was written to a key last
    answered_hit: _Bools  # a write of a key answered a hit
    below: _Narrow  # the unanswered read before a read, by row


_WORK = np.int32, np.int32, np.bool_, np.int32, np.int32, np.uint64, np.bool_, np.int32


def pair(steps: Steps, *, keys: int, groups: int, window_us: int, no_ttl: int) -> Pairs:
    """Pair every write with the latest unanswered miss of its key, else hit, and note what was written last.

    Parameters
    ----------
    steps : Steps
    keys, groups : int
        How many keys there are, and how many keys in epochs.
    window_us : int
        The longest time from a read to its answer.
    no_ttl : int
        Stands for no time to live.
    """
    count = len(steps.order)
    steps = Steps(*map(handed, steps, _STEPS))
    pairs = Pairs(
        first_touch=np.zeros(count, np.bool_), in_flight=np.zeros(count, np.bool_), fill_us=np.full(count, NONE, np.int64),
        follows=np.full(count, NONE, np.int32), same_value=np.zeros(count, np.bool_), rewritten=np.zeros(count, np.bool_),
        written_us=np.full(count, NONE, np.int64), written_ttl_ms=np.full(count, no_ttl, np.int64),
    )  # fmt: skip
    work = Work(
        miss=np.full(groups, NONE, np.int32), hit=np.full(groups, NONE, np.int32), written=np.zeros(groups, np.bool_),
        touched=np.full(keys, NONE, np.int32), last_done=np.full(keys, NONE, np.int32), last_digest=np.zeros(keys, np.uint64),
        answered_hit=np.zeros(keys, np.bool_), below=np.empty(count, np.int32),
    )  # fmt: skip
    tables = places(steps, _STEPS, count), places(work, _WORK), places(pairs, _PAIRS, count)
    beside = ("replay.fills", "sources.log_kernel", "payload_kernel")
    kernel = compiled("coldcache.replay.pair_kernel", *(f"coldcache.{name}" for name in beside))
    kernel["pair"](*map(address, tables), count, window_us)
    return pairs
