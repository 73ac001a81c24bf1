"""What each row is, which write answers which read, what was written before: the caller of `pair_kernel`, without numba."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from coldcache.sources.arrays import address, compiled, handed, place, places

# A write that follows a read of the same key within this time is taken to answer it. Ten times
# the slowest backend of an image analyzer; the lab's takes 20 ms.
FILL_WINDOW_S = 5.0
NONE = -1

#: What a row is, a bit each. A row that reads and writes does so in this order. `DONE`, `STORED` and `OVERWRITES` are said of
#: writes: it was not refused; it is known to have been stored; it stores the whole value.
READ, HIT, MISS, WRITE, DONE, STORED, OVERWRITES, COUNTED = (1 << bit for bit in range(8))
#: What is found of a row, a bit each. Of a read: no access of its key came before it. Of a miss: it came after the key's first
#: read and before its first write, both in its epoch. Of a read: it was answered, or its epoch lasted long enough to tell. Of a
#: write: the key's write before it stored the same bytes. Of a write that answers a hit: another write of the key did so before.
FIRST_TOUCH, IN_FLIGHT, FILL_KNOWN, SAME_VALUE, REWRITTEN = (1 << bit for bit in range(5))

_Bytes = npt.NDArray[np.uint8]
_Ints = npt.NDArray[np.int64]
_Narrow = npt.NDArray[np.int32]
_Label = npt.NDArray[np.int16]


class Labels(NamedTuple):
    """Columns of rows, of which five have few values."""

    family: _Narrow  # below 0 without a key
    lookups: npt.NDArray[np.int8]
    op: _Label
    outcome: _Label  # of a write
    command: _Label
    got: _Label  # what a read got
    state: _Label  # of the key of a miss
    epoch: _Narrow


_LABELS = np.int32, np.int8, np.int16, np.int16, np.int16, np.int16, np.int16, np.int32


class Meanings(NamedTuple):
    """What the values of ``Labels`` mean, from -1 on."""

    op: _Bytes  # `WRITE`, or 0
    outcome: _Bytes  # `DONE` and `STORED`
    command: _Bytes  # `OVERWRITES`
    got: _Bytes  # `HIT` or `MISS`
    state: _Bytes
    epoch: _Bytes  # `COUNTED`


_MEANINGS = (np.uint8,) * 6


def mark(labels: Labels, meanings: Meanings) -> tuple[_Bytes, _Bytes]:
    """Return what each row is (``READ`` and so on), and the state of the key of each miss, 0 for all other rows."""
    count = len(labels.family)
    labels, meanings = Labels(*map(handed, labels, _LABELS)), Meanings(*map(handed, meanings, _MEANINGS))
    marks, state = np.empty(count, np.uint8), np.empty(count, np.uint8)
    columns, tables = places(labels, _LABELS, count), places(meanings, _MEANINGS)
    _kernel()["mark"](address(columns), address(tables), count, place(marks, np.uint8), place(state, np.uint8))
    return marks, state


class Steps(NamedTuple):
    """Rows that are to be paired."""

    marks: _Bytes
    key: _Ints  # number of its key; of a row that neither reads nor writes any
    group: _Ints  # number of its key in its epoch
    epoch: _Narrow
    t_us: _Ints
    digest: npt.NDArray[np.uint64]  # of the value written, 0 where it is not known
    state: _Bytes  # of the key of a miss


_STEPS = np.uint8, np.int64, np.int64, np.int32, np.int64, np.uint64, np.uint8


class Pairs(NamedTuple):
    """What is found of each row."""

    found: _Bytes  # `FIRST_TOUCH` and so on
    partner: _Narrow  # of a read: the row of the write that answered it; of a write: of the read it answers; -1 without
    written: _Narrow  # of a miss: the row of the key's last write that was done, -1 without one in its epoch
    kind: npt.NDArray[np.int8]  # of a counted miss: what is known of its key; -1 of all others


_PAIRS = np.uint8, np.int32, np.int32, np.int8


class Work(NamedTuple):
    """Where the kernel keeps what it knows of each key, and of each key in its epoch, as it goes."""

    miss: _Narrow  # the latest unanswered miss of a group, `NONE` without
    hit: _Narrow  # the latest unanswered hit of a group, `NONE` without
    there: _Bytes  # a group was written, or there
    touched: _Narrow  # epoch of a key's first access, `NONE` without
    last_done: _Narrow  # row of a key's last write that was done, `NONE` without
    last_digest: npt.NDArray[np.uint64]  # of what was written to a key last
    answered_hit: _Bytes  # a write of a key answered a hit
    below: _Narrow  # the unanswered read before a read, by row


_WORK = np.int32, np.int32, np.uint8, np.int32, np.int32, np.uint64, np.uint8, np.int32


def pair(steps: Steps, order: _Ints | None, *, keys: int, groups: int, window_us: int, ends_us: _Ints) -> Pairs:
    """Pair every write with the latest unanswered miss of its key, else hit, and note what was written last.

    Parameters
    ----------
    steps : Steps
    order : int64, optional
        The rows in the order of time; None where they are.
    keys, groups : int
        How many keys there are, and how many keys in epochs.
    window_us : int
        The longest time from a read to its answer.
    ends_us : int64
        When each epoch ended.
    """
    count = len(steps.marks)
    steps = Steps(*map(handed, steps, _STEPS))
    pairs = Pairs(
        found=np.empty(count, np.uint8), partner=np.empty(count, np.int32), written=np.empty(count, np.int32),
        kind=np.empty(count, np.int8),
    )  # fmt: skip
    work = Work(
        miss=np.full(groups, NONE, np.int32), hit=np.full(groups, NONE, np.int32), there=np.zeros(groups, np.uint8),
        touched=np.full(keys, NONE, np.int32), last_done=np.full(keys, NONE, np.int32), last_digest=np.zeros(keys, np.uint64),
        answered_hit=np.zeros(keys, np.uint8), below=np.empty(count, np.int32),
    )  # fmt: skip
    tables = places(steps, _STEPS, count), places(work, _WORK), places(pairs, _PAIRS, count)
    ordered = place(order, np.int64, count) if order is not None else 0
    _kernel()["pair"](*map(address, tables), ordered, count, window_us, place(ends_us, np.int64))
    return pairs


def _kernel() -> Mapping[str, Callable[..., int]]:
    beside = ("replay.fills", "sources.log_kernel", "payload_kernel")
    return compiled("coldcache.replay.pair_kernel", *(f"coldcache.{name}" for name in beside))
