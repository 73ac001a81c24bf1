"""What the rows of a shard add up to, by key family, compiled: one pass.

Everything is an address or a number, and nothing allocates: see :func:`coldcache.sources.arrays.compiled`, and
:mod:`coldcache.replay.tally` for what Python calls.
"""

from __future__ import annotations

from coldcache.replay.fills import COUNTED, DONE, HIT, MISS, READ, REWRITTEN, SAME_VALUE, STORED, WRITE
from coldcache.replay.tally import MISS_KINDS, SUMS, Columns
from coldcache.sources.log_kernel import int8s, int16s, int32s, int64s, uint8s

(
    _READS, _HITS, _LOOKUPS, _HIT_LOOKUPS, _USEFUL, _USEFUL_LOOKUPS, _FILLED, _WRITES, _DONE_WRITES, _READ_KEYS,
    _WRITTEN_KEYS, _READ_AND_WRITTEN_KEYS, _REWRITES, _REWRITES_SAME, _STORED, _STORED_NX, _REFUSED_WITH_TTL,
) = range(len(SUMS))  # fmt: skip
_KEY_READ, _KEY_WRITTEN = 1, 2


def add_up(
    columns_at: int, count: int, is_nx_at: int, seen_at: int, sums_at: int, times_at: int, formats: int, forms: int
) -> int:
    """Add every row that is counted to the sums of its family.

    Parameters
    ----------
    columns_at, count : int
        Address of the addresses of ``Columns``, and how many rows there are, which is returned, too.
    is_nx_at : int
        Address of a byte for each condition: whether it is NX.
    seen_at : int
        Address of a byte for each name of a key, all 0.
    sums_at : int
        Address of a row of int64 for each family: ``SUMS``; misses by kind, as rows and as look-ups; value formats of
        what is written, and of what was stored; forms of a time to live of what was stored.
    times_at : int
        Address of a row of int64 for each family: first time of the reads and of the writes that were done, and the last of both.
    formats, forms : int
        How many there are of each.
    """
    a = int64s(columns_at)
    rows = Columns(
        uint8s(a[0]), uint8s(a[1]), int32s(a[2]), int8s(a[3]), int32s(a[4]), int8s(a[5]), int64s(a[6]), int64s(a[7]),
        int16s(a[8]), int16s(a[9]), int16s(a[10]),
    )  # fmt: skip
    is_nx, seen, sums, times = uint8s(is_nx_at), uint8s(seen_at), int64s(sums_at), int64s(times_at)
    kinds = len(SUMS)
    kind_lookups = kinds + MISS_KINDS
    of_format = kind_lookups + MISS_KINDS
    of_stored_format = of_format + formats
    of_form = of_stored_format + formats
    width = of_form + forms
    for row in range(count):
        is_ = rows.marks[row]
        if is_ & COUNTED == 0 or is_ & (READ | WRITE) == 0:
            continue
        mine = rows.family[row] * width
        name, partner, t_us, span = rows.name[row], rows.partner[row], rows.t_us[row], 4 * rows.family[row]
        before = seen[name]
        after = before
        if is_ & READ:
            lookups = rows.lookups[row]
            after |= _KEY_READ
            times[span] = min(times[span], t_us)
            times[span + 2] = max(times[span + 2], t_us)
            sums[mine + _READS] += 1
            sums[mine + _LOOKUPS] += lookups
            if is_ & MISS:
                kind = rows.kind[row]
                sums[mine + kinds + kind] += 1
                sums[mine + kind_lookups + kind] += lookups
                sums[mine + _FILLED] += partner >= 0
            elif is_ & HIT:
                sums[mine + _HITS] += 1
                sums[mine + _HIT_LOOKUPS] += lookups
                if partner < 0:
                    sums[mine + _USEFUL] += 1
                    sums[mine + _USEFUL_LOOKUPS] += lookups
        if is_ & WRITE:
            value_format, form, condition = rows.value_format[row], rows.ttl_form[row], rows.condition[row]
            sums[mine + _WRITES] += 1
            if is_ & DONE:
                after |= _KEY_WRITTEN
                times[span + 1] = min(times[span + 1], t_us)
                times[span + 3] = max(times[span + 3], t_us)
                sums[mine + _DONE_WRITES] += 1
            elif form >= 0 and condition < 0:
                sums[mine + _REFUSED_WITH_TTL] += 1
            if value_format >= 0:
                sums[mine + of_format + value_format] += 1
            if is_ & STORED:
                sums[mine + _STORED] += 1
                if condition >= 0 and is_nx[condition]:
                    sums[mine + _STORED_NX] += 1
                if value_format >= 0:
                    sums[mine + of_stored_format + value_format] += 1
                if form >= 0:
                    sums[mine + of_form + form] += 1
            # A row that reads, too, answers no read.
            if is_ & READ == 0 and partner >= 0 and rows.marks[partner] & HIT:
                sums[mine + _REWRITES] += rows.found[row] & (REWRITTEN | SAME_VALUE) != 0
                sums[mine + _REWRITES_SAME] += rows.found[row] & SAME_VALUE != 0
        if after != before:
            seen[name] = after
            sums[mine + _READ_KEYS] += after & ~before & _KEY_READ != 0
            sums[mine + _WRITTEN_KEYS] += after & ~before & _KEY_WRITTEN != 0
            sums[mine + _READ_AND_WRITTEN_KEYS] += after == _KEY_READ | _KEY_WRITTEN
    return count


# What Python calls, and how many integers it gives.
ENTRIES = {"add_up": (add_up, 8)}
