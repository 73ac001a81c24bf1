"""What is counted of the reads of a shard, and how they are judged, compiled: one pass each.

Everything is an address or a number, and nothing allocates: see :func:`coldcache.sources.arrays.compiled`, and
:mod:`coldcache.replay.reads` for what Python calls.
"""

from __future__ import annotations

from coldcache.replay.reads import CELL, Counted, Counts, Ended, Weighed
from coldcache.replay.state_codes import AT_RISK, CERTAIN_HIT, CERTAIN_MISS, OPEN, START, UNKNOWN
from coldcache.sources.log_kernel import float64s, int32s, int64s, uint8s


def counted(columns_at: int, counts_at: int, count: int, families: int) -> int:
    """Count reads; return how many there are.

    Parameters
    ----------
    columns_at, counts_at : int
        Addresses of the addresses of the columns of ``Counted``, and of ``Counts``, which are added to.
    count, families : int
        How many reads and families there are.
    """
    a, b = int64s(columns_at), int64s(counts_at)
    reads = Counted(int32s(a[0]), int32s(a[1]), uint8s(a[2]), uint8s(a[3]), int32s(a[4]), int32s(a[5]))
    counts = Counts(int64s(b[0]), int64s(b[1]), int64s(b[2]), int64s(b[3]), int64s(b[4]), int64s(b[5]))
    for i in range(count):
        family, lookups, seen, life = reads.family[i], reads.lookups[i], reads.seen[i], reads.life[i]
        cell = CELL * (reads.window[i] * families + family)
        counts.cells[cell] += lookups
        counts.cells[cell + 1] += lookups if seen == CERTAIN_HIT else 0
        counts.cells[cell + 2] += lookups if seen == CERTAIN_MISS else 0
        counts.answered[family] += reads.gap_us[i] >= 0
        if seen == AT_RISK and life < 0:
            counts.unbounded[family] += lookups
            counts.unbounded_reads[family] += 1
        elif seen == AT_RISK:
            counts.life_family[life] = family
            counts.life_reads[life] += lookups
    return count


def weighed(
    columns_at: int, chance_at: int, p_hit_at: int, estimate_at: int, doubt_at: int, count: int, families: int
) -> int:  # fmt: skip
    """Add the chances of reads up; return how many there are.

    Parameters
    ----------
    columns_at : int
        Address of the addresses of the columns of ``Weighed``.
    chance_at, p_hit_at : int
        Addresses of the chance of each read that is not a certain hit, and of room for that of each read.
    estimate_at, doubt_at : int
        Addresses of a number for each window and family, added to.
    count, families : int
        How many reads and families there are.
    """
    a = int64s(columns_at)
    reads = Weighed(int32s(a[0]), int32s(a[1]), uint8s(a[2]), uint8s(a[3]))
    chance, p_hit, estimate, doubt = float64s(chance_at), float64s(p_hit_at), float64s(estimate_at), float64s(doubt_at)
    chained = 0
    for i in range(count):
        seen, cell, lookups = reads.seen[i], reads.window[i] * families + reads.family[i], float(reads.lookups[i])
        if seen == CERTAIN_HIT:
            p_hit[i] = 1.0
            estimate[cell] += lookups
            continue
        hit = 0.0 if seen == CERTAIN_MISS else chance[chained]
        chained += 1
        p_hit[i] = hit
        estimate[cell] += lookups * hit
        if seen != CERTAIN_MISS:
            doubt[cell] += lookups * (hit * (1 - hit) + 1e-4)
    return count


def ended(columns_at: int, gone_at: int, was_there_at: int, state_at: int, unwritten: int, count: int) -> int:
    """Write what had become of the key of each read that missed; return how many reads there are.

    Parameters
    ----------
    columns_at : int
        Address of the addresses of the columns of ``Ended``.
    gone_at : int
        Address of a byte for each family, see :func:`coldcache.replay.reads.ended`.
    was_there_at, state_at : int
        Addresses of room for two bytes for each read: whether the first read of its chain hit; and the result.
    unwritten : int
        As for :func:`coldcache.replay.reads.ended`.
    count : int
        How many reads there are.
    """
    a = int64s(columns_at)
    reads = Ended(int32s(a[0]), uint8s(a[1]), uint8s(a[2]), int32s(a[3]), uint8s(a[4]), uint8s(a[5]))
    gone, was_there, state = uint8s(gone_at), uint8s(was_there_at), uint8s(state_at)
    for i in range(count):
        before = reads.before[i]
        # Hits come first in a chain: was its first read one? If not, and keys are evicted, it may have been that.
        there = was_there[before] if before >= 0 else reads.is_hit[i]
        was_there[i] = there
        become = reads.state[i]
        if reads.kind[i] == START and reads.seen[i] == OPEN:
            become = gone[reads.family[i]] if there != 0 else unwritten
        state[i] = UNKNOWN if reads.is_hit[i] != 0 else become
    return count


# What Python calls, and how many integers it gives.
ENTRIES = {"counted": (counted, 4), "weighed": (weighed, 7), "ended": (ended, 6)}
