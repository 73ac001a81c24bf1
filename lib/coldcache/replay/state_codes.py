"""What the kernel of states knows by number, and what it is handed: `state_kernel`'s and its callers', without numba."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from coldcache.sources.arrays import address, compiled, handed, place, places

FOREVER = 1 << 62
GONE = -FOREVER
FAR = FOREVER - 1  # a time to live beyond all measure is still one
# In place of a deadline: a time to live that the server refuses, and one that is past already.
REFUSED, PAST = -1, -2
UNBOUNDED = 1 << 40  # evictions of a stretch that nobody counted

# What a command does to the key of the row.
(
    NOTHING, STORE, ADD, MAYBE_ADD, REMOVE, GETDEL, MAYBE_REMOVE, EXPIRE, PERSIST, GETEX, FORGET,
    SOURCE, RESULT, RENAME_FROM, RENAME_TO, COPY_TO, TAKE, GIVE, FLUSH_DB, FLUSH_NODE, EMPTY_NODE, FORGET_NODE,
) = range(22)  # fmt: skip
NX, XX, GT, LT, KEEPTTL, GET, PERSISTS, ONLY_IF_NEW = (1 << bit for bit in range(8))
STRING = 1  # types are numbered from 1; 0 is not known
# What a write answers: nothing; reads that missed; or, as it replaces the whole value, hits too.
ANSWERS_NOTHING, ANSWERS_MISSES, ANSWERS_ALL = range(3)

# How much is known of a read, and what the chain of reads it belongs to began with.
CERTAIN_MISS, CERTAIN_HIT, AT_RISK, OPEN = range(4)  # at risk: there, unless it was evicted
START, PRESENT, MAYBE, ABSENT = range(4)
# What a census at the start said of a key.
NO_CENSUS, CENSUS_ABSENT, CENSUS_PRESENT = range(3)
NO_HINT, BEFORE_DEADLINE, AFTER_DEADLINE, DEADLINE_KNOWN = range(4)
# What had become of a key that was missed.
UNKNOWN, EXPIRED, EVICTED, DELETED, FLUSHED, NEVER_WRITTEN = range(6)

KEY = np.dtype(
    [
        ("low", np.int64), ("high", np.int64), ("touched", np.int64), ("epoch", np.int32), ("chain", np.int32),
        ("proof", np.int32), ("life", np.int32), ("missed", np.int32), ("hit", np.int32),
        ("type", np.uint8), ("why", np.uint8), ("kind", np.uint8), ("volatile", np.uint8), ("unused", np.int64),
    ],
    align=True,
)  # fmt: skip
_CACHE_LINE = 64  # bytes: a key is one, so that its row costs one access to memory

_Bools = npt.NDArray[np.bool_]
_Bytes = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_Narrow = npt.NDArray[np.int32]


class Rows(NamedTuple):
    """One row per key access, in stream order; see `coldcache.replay.rows.AccessRows`."""

    row: _Narrow
    t_us: _Ints
    seq: _Ints
    epoch: _Narrow
    node: _Narrow
    scope: _Narrow  # the database
    key: _Narrow  # -1 without
    effect: _Bytes
    flags: _Bytes
    type: _Bytes
    deadline_us: _Ints
    lookups: _Bytes
    arg: _Narrow
    answers: _Bytes
    window: _Narrow
    family: _Narrow


_ROWS = (
    np.int32, np.int64, np.int64, np.int32, np.int32, np.int32, np.int32, np.uint8, np.uint8, np.uint8, np.int64, np.uint8,
    np.int32, np.uint8, np.int32, np.int32,
)  # fmt: skip


class Evictions(NamedTuple):
    """What was evicted in each window."""

    before: _Ints  # counted up to its start
    after: _Ints  # counted up to its end
    volatile_only: _Bools  # only keys with a time to live


_EVICTIONS = np.int64, np.int64, np.bool_


class Seen(NamedTuple):
    """One row per look-up; see `coldcache.replay.states.Reads`."""

    row: _Narrow
    t_us: _Ints
    family: _Narrow
    window: _Narrow
    lookups: _Bytes
    seen: _Bytes
    kind: _Bytes
    hint: _Bytes
    before: _Narrow  # the read before it in its chain, -1 at the first
    state: _Bytes  # what had become of the key, if it was missed
    gap_us: _Narrow  # until the write that answered it, -1 without
    life: _Narrow  # which life of a key may have ended by eviction, -1 without


_SEEN = (
    np.int32, np.int64, np.int32, np.int32, np.uint8, np.uint8, np.uint8, np.uint8, np.int32, np.uint8, np.int32, np.int32,
)  # fmt: skip


class Work(NamedTuple):
    """Where the kernel keeps what it knows of reads, databases and servers, as it goes."""

    below: _Narrow  # the unanswered read before a read
    scope_row: _Ints  # the last row that flushed a database, -1 without
    scope_t: _Ints  # and when
    node_row: _Ints  # the last row after which a server was empty, -1 without
    node_t: _Ints  # and when
    node_empty: _Bools  # and whether it was found so, not flushed
    forgot: _Ints  # the last row after which nothing is known of a server's keys, -1 without
    epoch: _Narrow  # a server's, -1 before its first row
    is_first: _Bools  # this epoch is the server's first
    began: _Ints  # the row it began with
    first_window: _Narrow  # and that row's window


_WORK = (
    np.int32, np.int64, np.int64, np.int64, np.int64, np.bool_, np.int64, np.int32, np.bool_, np.int64, np.int32,
)  # fmt: skip


def unfilled(count: int, kinds: Iterable[npt.DTypeLike]) -> list[npt.NDArray[Any]]:
    """Return a column of so many elements of each kind, for compiled code to fill."""
    return [np.empty(count, kind) for kind in kinds]


def _unknown_keys(count: int) -> npt.NDArray[np.void]:
    """Return the states of `count` keys that no line has named."""
    unknown = np.zeros(1, KEY)
    unknown["low"], unknown["high"], unknown["epoch"], unknown["why"] = GONE, FOREVER, -1, NEVER_WRITTEN
    for name in ("chain", "proof", "life", "missed", "hit", "touched"):
        unknown[name] = -1
    room = np.empty((count + 1) * _CACHE_LINE, np.uint8)
    start = -room.ctypes.data % _CACHE_LINE
    keys = room[start : start + count * _CACHE_LINE].view(KEY)
    keys.view(np.int64).reshape(count, _CACHE_LINE // 8)[:] = unknown.view(np.int64)  # whole lines: numpy sets fields one by one
    return keys


def _kernel() -> Mapping[str, Callable[..., int]]:
    beside = ("replay.state_codes", "sources.log_kernel", "payload_kernel")
    return compiled("coldcache.replay.state_kernel", *(f"coldcache.{name}" for name in beside))


def trace(
    rows: Rows, evictions: Evictions, census: _Bytes | None = None, *, reads: int, keys: int, scopes: int, nodes: int,
    slack_us: int, fill_window_us: int,
) -> Seen:  # fmt: skip
    """Follow every key through the log.

    Parameters
    ----------
    rows, evictions
        See there.
    census : uint8, one a key, optional
        What one at the start said of it: ``NO_CENSUS``, ``CENSUS_ABSENT`` or ``CENSUS_PRESENT``.
    reads, keys, scopes, nodes : int
        How many look-ups of keys, keys, databases and servers there are.
    slack_us : int
        How near to its deadline a key's presence stays open.
    fill_window_us : int
        The longest time from a read to the write that answers it.
    """
    count = len(rows.t_us)
    rows = Rows(*map(handed, rows, _ROWS))
    evictions = Evictions(*map(handed, evictions, _EVICTIONS))
    census = np.full(keys, NO_CENSUS, np.uint8) if census is None else handed(census, np.uint8)
    states = _unknown_keys(keys)
    work = Work(
        below=np.empty(reads, np.int32), scope_row=np.full(scopes, -1, np.int64), scope_t=np.zeros(scopes, np.int64),
        node_row=np.full(nodes, -1, np.int64), node_t=np.zeros(nodes, np.int64), node_empty=np.zeros(nodes, np.bool_),
        forgot=np.full(nodes, -1, np.int64), epoch=np.full(nodes, -1, np.int32), is_first=np.ones(nodes, np.bool_),
        began=np.zeros(nodes, np.int64), first_window=np.zeros(nodes, np.int32),
    )  # fmt: skip
    out = Seen(*unfilled(reads, _SEEN))
    evicting = len(evictions.after) > 0 and evictions.after[-1] > 0
    tables = places(rows, _ROWS, count), places(evictions, _EVICTIONS), places(work, _WORK), places(out, _SEEN, reads)
    by_key = place(census, np.uint8, keys), place(states, KEY, keys)
    _kernel()["trace"](*map(address, tables), *by_key, count, int(evicting), slack_us, fill_window_us)
    return out
