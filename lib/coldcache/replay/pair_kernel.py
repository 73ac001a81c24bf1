"""What each row is, which write answers which read, and what was written before, compiled: passes over a shard's rows, in order.

Everything is an address or a number, and nothing allocates: see :func:`coldcache.sources.arrays.compiled`, and
:mod:`coldcache.replay.fills` for what Python calls.
"""

from __future__ import annotations

from coldcache.replay.fills import (
    COUNTED,
    DONE,
    FILL_KNOWN,
    FIRST_TOUCH,
    IN_FLIGHT,
    MISS,
    NONE,
    OVERWRITES,
    READ,
    REWRITTEN,
    SAME_VALUE,
    WRITE,
    Labels,
    Meanings,
    Pairs,
    Steps,
    Work,
)
from coldcache.sources.log_kernel import int8s, int16s, int32s, int64s, uint8s, uint64s


def mark(labels_at: int, meanings_at: int, count: int, marks_at: int, state_at: int) -> int:
    """Write what each row is, and the state of the key of each miss.

    Parameters
    ----------
    labels_at, meanings_at : int
        Address of the addresses of the columns of ``Labels`` and ``Meanings``.
    count : int
        How many rows there are; it is returned, too.
    marks_at, state_at : int
        Addresses of room for as many bytes.
    """
    a, b = int64s(labels_at), int64s(meanings_at)
    labels = Labels(
        int32s(a[0]), int8s(a[1]), int16s(a[2]), int16s(a[3]), int16s(a[4]), int16s(a[5]), int16s(a[6]), int32s(a[7])
    )  # fmt: skip
    means = Meanings(uint8s(b[0]), uint8s(b[1]), uint8s(b[2]), uint8s(b[3]), uint8s(b[4]), uint8s(b[5]))
    marks, state = uint8s(marks_at), uint8s(state_at)
    for row in range(count):
        is_ = state_of = 0
        if labels.family[row] >= 0:
            if labels.lookups[row] > 0:
                is_ = READ | means.got[labels.got[row] + 1]
                if is_ & MISS:
                    state_of = means.state[labels.state[row] + 1]
            if means.op[labels.op[row] + 1]:
                is_ |= WRITE | means.outcome[labels.outcome[row] + 1] | means.command[labels.command[row] + 1]
            is_ |= means.epoch[labels.epoch[row] + 1]
        marks[row] = is_
        state[row] = state_of
    return count


def pair(
    steps_at: int, work_at: int, pairs_at: int, order_at: int, count: int, window_us: int, ends_at: int
) -> int:  # fmt: skip
    """Pair every write with the latest unanswered miss of its key, else hit, and note what was written last.

    Reads that wait for an answer are kept as chains, the latest first: misses and hits apart. A write answers a miss
    first: of two workers that missed one key, the second's write may come after another's hit.

    Parameters
    ----------
    steps_at, work_at, pairs_at : int
        Address of the addresses of the columns of ``Steps``, ``Work`` and ``Pairs``; those of ``Work`` are filled with
        what they are without any row.
    order_at : int
        Address of the rows in the order of time, int64; 0 where they are.
    count : int
        How many rows there are; it is returned, too.
    window_us : int
        The longest time from a read to its answer.
    ends_at : int
        Address of when each epoch ended, int64.
    """
    a, b, c = int64s(steps_at), int64s(work_at), int64s(pairs_at)
    steps = Steps(uint8s(a[0]), int64s(a[1]), int64s(a[2]), int32s(a[3]), int64s(a[4]), uint64s(a[5]), uint8s(a[6]))
    work = Work(
        int32s(b[0]), int32s(b[1]), uint8s(b[2]), int32s(b[3]), int32s(b[4]), uint64s(b[5]), uint8s(b[6]), int32s(b[7])
    )  # fmt: skip
    pairs = Pairs(uint8s(c[0]), int32s(c[1]), int32s(c[2]), int8s(c[3]))
    order, ends_us = int64s(order_at), int64s(ends_at)
    t_us, epoch, miss, hit, touched, below = steps.t_us, steps.epoch, work.miss, work.hit, work.touched, work.below
    found, partner = pairs.found, pairs.partner
    for step in range(count):
        at = step if order_at == 0 else order[step]
        is_ = steps.marks[at]
        found[at] = 0
        partner[at] = NONE
        pairs.written[at] = NONE
        if is_ & (READ | WRITE) == 0:
            continue
        key, group = steps.key[at], steps.group[at]
        if is_ & READ:
            if touched[key] == NONE:
                touched[key] = epoch[at]
                found[at] = FIRST_TOUCH
                first_here = False
            else:
                first_here = touched[key] == epoch[at]
            if is_ & MISS:
                if first_here and work.there[group] == 0:
                    found[at] |= IN_FLIGHT
                below[at] = miss[group]
                miss[group] = at
                last = work.last_done[key]
                if last != NONE and epoch[last] == epoch[at]:
                    pairs.written[at] = last
            else:
                below[at] = hit[group]
                hit[group] = at
                work.there[group] = 1  # it was there: a later miss is no longer the first filling
        if is_ & WRITE == 0:
            continue
        work.there[group] = 1
        digest = steps.digest[at]
        if digest != 0 and digest == work.last_digest[key]:
            found[at] |= SAME_VALUE
        work.last_digest[key] = digest
        if is_ & DONE == 0:
            continue
        work.last_done[key] = at
        if is_ & READ:
            continue
        if touched[key] == NONE:
            touched[key] = epoch[at]
        read = miss[group]
        if read != NONE and t_us[at] - t_us[read] <= window_us:
            miss[group] = below[read]
            partner[read] = at
            partner[at] = read
            continue
        miss[group] = NONE
        if is_ & OVERWRITES == 0:
            continue
        read = hit[group]
        if read != NONE and t_us[at] - t_us[read] <= window_us:
            hit[group] = below[read]
            partner[read] = at
            partner[at] = read
            if work.answered_hit[key]:
                found[at] |= REWRITTEN
            work.answered_hit[key] = 1
        else:
            hit[group] = NONE
    for row in range(count):
        is_ = steps.marks[row]
        kind = NONE
        if is_ & READ and (partner[row] != NONE or ends_us[epoch[row]] - t_us[row] >= window_us):
            found[row] |= FILL_KNOWN
        if is_ & MISS and is_ & COUNTED:
            told = found[row]
            cold = told & FIRST_TOUCH or (told & IN_FLIGHT and partner[row] != NONE)
            kind = 4 * steps.state[row] + (2 if told & FILL_KNOWN else 0) + (1 if cold else 0)
        pairs.kind[row] = kind
    return count


# What Python calls, and how many integers it gives.
ENTRIES = {"mark": (mark, 5), "pair": (pair, 7)}
