"""Which write answers which read, and what was written before it, compiled: one pass over a shard's rows, in order.

Everything is an address or a number, and nothing allocates: see :func:`coldcache.sources.arrays.compiled`, and
:mod:`coldcache.replay.fills` for what Python calls.
"""

from __future__ import annotations

from coldcache.replay.fills import NONE, Pairs, Steps, Work
from coldcache.sources.log_kernel import int32s, int64s, uint8s, uint64s


def pair(steps_at: int, work_at: int, pairs_at: int, count: int, window_us: int) -> int:
    """Pair every write with the latest unanswered miss of its key, else hit, and note what was written last.

    Reads that wait for an answer are kept as chains, the latest first: misses and hits apart. A write answers a miss
    first: of two workers that missed one key, the second's write may come after another's hit.

    Parameters
    ----------
    steps_at, work_at, pairs_at : int
        Address of the addresses of the columns of ``Steps``, ``Work`` and ``Pairs``, which are filled with what they
        are without any row. Truths are bytes.
    count : int
        How many rows there are; it is returned, too.
    window_us : int
        The longest time from a read to its answer.
    """
    a, b, c = int64s(steps_at), int64s(work_at), int64s(pairs_at)
    steps = Steps(
        int64s(a[0]), int64s(a[1]), int64s(a[2]), int32s(a[3]), int64s(a[4]), uint8s(a[5]), uint8s(a[6]), uint8s(a[7]),
        uint8s(a[8]), uint8s(a[9]), uint8s(a[10]), uint64s(a[11]), int64s(a[12]),
    )  # fmt: skip
    work = Work(
        int32s(b[0]), int32s(b[1]), uint8s(b[2]), int32s(b[3]), int32s(b[4]), uint64s(b[5]), uint8s(b[6]), int32s(b[7])
    )  # fmt: skip
    pairs = Pairs(
        uint8s(c[0]), uint8s(c[1]), int64s(c[2]), int32s(c[3]), uint8s(c[4]), uint8s(c[5]), int64s(c[6]), int64s(c[7])
    )  # fmt: skip
    t_us, epoch, miss, hit, touched, below = steps.t_us, steps.epoch, work.miss, work.hit, work.touched, work.below
    for place in range(count):
        at = steps.order[place]
        key, group = steps.key[at], steps.group[at]
        if key < 0:
            continue
        if steps.is_read[at] != 0:
            is_miss = steps.is_miss[at] != 0
            pairs.first_touch[at] = touched[key] == NONE
            pairs.in_flight[at] = is_miss and touched[key] == epoch[at] and work.written[group] == 0
            if touched[key] == NONE:
                touched[key] = epoch[at]
            if is_miss:
                below[at] = miss[group]
                miss[group] = at
                last = work.last_done[key]
                if last != NONE and epoch[last] == epoch[at]:
                    pairs.written_us[at] = max(t_us[at] - t_us[last], 0)
                    pairs.written_ttl_ms[at] = steps.ttl_ms[last]
            else:
                below[at] = hit[group]
                hit[group] = at
                work.written[group] = 1  # it was there: a later miss is no longer the first filling
        if steps.is_write[at] == 0:
            continue
        work.written[group] = 1
        digest = steps.digest[at]
        pairs.same_value[at] = digest != 0 and digest == work.last_digest[key]
        work.last_digest[key] = digest
        if steps.done[at] != 0:
            work.last_done[key] = at
        if steps.answers[at] == 0:
            continue
        if touched[key] == NONE:
            touched[key] = epoch[at]
        read = miss[group]
        if read != NONE and t_us[at] - t_us[read] <= window_us:
            miss[group] = below[read]
            pairs.fill_us[read] = t_us[at] - t_us[read]
            pairs.follows[at] = read
            continue
        miss[group] = NONE
        if steps.overwrites[at] == 0:
            continue
        read = hit[group]
        if read != NONE and t_us[at] - t_us[read] <= window_us:
            hit[group] = below[read]
            pairs.fill_us[read] = t_us[at] - t_us[read]
            pairs.follows[at] = read
            pairs.rewritten[at] = work.answered_hit[key]
            work.answered_hit[key] = 1
        else:
            hit[group] = NONE
    return count


# What Python calls, and how many integers it gives.
ENTRIES = {"pair": (pair, 5)}
