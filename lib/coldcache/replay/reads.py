"""What is counted of the reads of a shard, and how they are judged: what Python calls of `read_kernel`, without numba."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from coldcache.replay.states import Reads, TimedReads
from coldcache.sources.arrays import address, compiled, handed, place, places

CELL = 3  # numbers that `counted` counts of each window and family

_Bytes = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_Narrow = npt.NDArray[np.int32]


class Counted(NamedTuple):
    """Reads that are counted; see `coldcache.replay.states.TimedReads`."""

    family: _Narrow
    window: _Narrow
    lookups: _Bytes
    seen: _Bytes
    gap_us: _Narrow
    life: _Narrow  # which life of a key may have ended by a counted eviction, -1 without


_COUNTED = np.int32, np.int32, np.uint8, np.uint8, np.int32, np.int32


class Counts(NamedTuple):
    """What is counted of reads; look-ups, if nothing else is said.

    cells : (windows, families, 3), all of them, certain hits, certain misses
    unbounded : by family, of keys that were there unless evicted, where nobody counted evictions
    unbounded_reads : by family, how many reads these are
    answered : by family, reads that a write answered
    life_family, life_reads : of each life of a key that a counted eviction may have ended
    """

    cells: _Ints
    unbounded: _Ints
    unbounded_reads: _Ints
    answered: _Ints
    life_family: _Ints
    life_reads: _Ints


_COUNTS = (np.int64,) * len(Counts._fields)


class Weighed(NamedTuple):
    """Reads whose chances are added up; see `coldcache.replay.states.Reads`."""

    family: _Narrow
    window: _Narrow
    lookups: _Bytes
    seen: _Bytes


_WEIGHED = np.int32, np.int32, np.uint8, np.uint8


class Ended(NamedTuple):
    """Reads of which it is said what had become of their keys; see `coldcache.replay.states.Reads`."""

    family: _Narrow
    seen: _Bytes
    kind: _Bytes
    before: _Narrow
    state: _Bytes
    is_hit: npt.NDArray[np.bool_]


_ENDED = np.int32, np.uint8, np.uint8, np.int32, np.uint8, np.bool_


def _kernel() -> Mapping[str, Callable[..., int]]:
    beside = ("replay.reads", "replay.state_codes", "sources.log_kernel", "payload_kernel")
    return compiled("coldcache.replay.read_kernel", *(f"coldcache.{name}" for name in beside))


def counted(reads: TimedReads, life: _Narrow, windows: int, families: int) -> Counts:
    """Count the reads of a shard; `life` : of each read, see `Counted`."""
    count, lives = len(reads.row), int(life.max(initial=-1)) + 1
    given = reads.family, reads.window, reads.lookups, reads.seen, reads.gap_us, life
    columns = Counted(*map(handed, given, _COUNTED))
    shapes = (windows, families, CELL), families, families, families, lives, lives
    counts = Counts(*(np.zeros(shape, np.int64) for shape in shapes))
    tables = places(columns, _COUNTED, count), places(counts, _COUNTS)
    _kernel()["counted"](*map(address, tables), count, families)
    return counts


def weighed(reads: Reads, chance: _Floats, windows: int, families: int) -> tuple[_Floats, _Floats, _Floats]:
    """Return each read's chance of a hit, and by window and family the look-ups that hit, and their doubt.

    Parameters
    ----------
    reads : Reads
    chance : float64
        Of each read that is not a certain hit.
    windows, families : int
        How many there are.

    Returns
    -------
    (p_hit, estimate, doubt)
        `doubt` : the variances of the reads that are not certain, and a little more.
    """
    count = len(reads.row)
    columns = Weighed(*map(handed, (reads.family, reads.window, reads.lookups, reads.seen), _WEIGHED))
    p_hit, estimate, doubt = np.empty(count), np.zeros((windows, families)), np.zeros((windows, families))
    chance = handed(chance, np.float64)
    table, room = places(columns, _WEIGHED, count), places((chance, p_hit, estimate, doubt), [np.float64] * 4)
    _kernel()["weighed"](address(table), *room.tolist(), count, families)
    return p_hit, estimate, doubt


def ended(reads: Reads, is_hit: npt.NDArray[np.bool_], gone: _Bytes, unwritten: int) -> _Bytes:
    """Return what had become of the key of each read that missed, see `KEY_STATES`; ``UNKNOWN`` of hits.

    Parameters
    ----------
    reads : Reads
    is_hit : bool, one a read
    gone : uint8, one a family
        What became of a key that no line had named, and that a read had found.
    unwritten : int
        What became of one that none had found.
    """
    count = len(reads.row)
    given = reads.family, reads.seen, reads.kind, reads.before, reads.state, is_hit
    columns, gone = Ended(*map(handed, given, _ENDED)), handed(gone, np.uint8)
    was_there, state = np.empty(count, np.bool_), np.empty(count, np.uint8)
    table = places(columns, _ENDED, count)
    room = place(gone, np.uint8), place(was_there, np.bool_), place(state, np.uint8)
    _kernel()["ended"](address(table), *room, unwritten, count)
    return state
