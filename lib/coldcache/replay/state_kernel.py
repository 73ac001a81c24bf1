"""The state of every key through a log of commands without replies, compiled by numba.

A key's state is the interval ``[low, high]`` that holds the moment until which it lives: it is there while
``t < low``, gone once ``t >= high``, and in between nobody can say. `GONE` and `FOREVER` are the ends of
time, so ``[GONE, GONE]`` is an absent key, ``[FOREVER, FOREVER]`` one without a time to live, and
``[GONE, FOREVER]`` one of which nothing is known. Every command is taken through both cases, the key
present and the key absent; what may come of either is the new interval. `low` leaves evictions aside,
which have no line; `high` does not.

Everything is an address or a number, and nothing allocates: see :func:`coldcache.sources.arrays.compiled`, and
:mod:`coldcache.replay.state_codes` for the numbers and for what Python calls.

Semantics: Redis's ``t_string.c``, ``expire.c``, ``db.c``, checked against live servers by the tests.
"""

# numba infers the types itself, and refuses to compile what does not fit.

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import from_dtype, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from coldcache.replay.state_codes import (
    ABSENT,
    ADD,
    AFTER_DEADLINE,
    ANSWERS_ALL,
    ANSWERS_NOTHING,
    AT_RISK,
    BEFORE_DEADLINE,
    CENSUS_ABSENT,
    CENSUS_PRESENT,
    CERTAIN_HIT,
    CERTAIN_MISS,
    COPY_TO,
    DEADLINE_KNOWN,
    DELETED,
    EMPTY_NODE,
    EVICTED,
    EXPIRE,
    EXPIRED,
    FLUSH_DB,
    FLUSHED,
    FOREVER,
    FORGET,
    FORGET_NODE,
    GET,
    GETDEL,
    GETEX,
    GIVE,
    GONE,
    GT,
    KEEPTTL,
    KEY,
    LT,
    MAYBE,
    MAYBE_ADD,
    MAYBE_REMOVE,
    NEVER_WRITTEN,
    NO_HINT,
    NOTHING,
    NX,
    ONLY_IF_NEW,
    OPEN,
    PAST,
    PERSIST,
    PERSISTS,
    PRESENT,
    REFUSED,
    REMOVE,
    RENAME_FROM,
    RENAME_TO,
    RESULT,
    SOURCE,
    START,
    STORE,
    STRING,
    TAKE,
    UNBOUNDED,
    UNKNOWN,
    XX,
    Evictions,
    Rows,
    Seen,
    Work,
)
from coldcache.sources.log_kernel import int32s, int64s, uint8s

_CREATES, _PROVES, _FAILS = 1, 2, 4
_AHEAD = 16  # rows: so early a key's state is asked for, that it is there when its row is
_KEY, _KEY_SIZE = from_dtype(KEY), KEY.itemsize


@intrinsic
def _key_at(_typing, address):
    """Return what an address holds, as the state of a key; to numba, a record is where it stands."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return _KEY(types.int64), generate


@intrinsic
def _prefetch(_typing, address):
    """Ask for the memory at an address, which will be written soon."""

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, *[ir.IntType(32)] * 3])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [pointer, *(ir.IntType(32)(number) for number in (1, 3, 1))])
        return context.get_dummy_value()

    return types.none(types.int64), generate


@njit(inline="always")
def _expires_anew(flags, deadline, low, high, held, slack):
    """Return the interval of a present key after EXPIRE; whether NX, XX, GT, LT are met may stay open."""
    if (flags & NX and flags & (XX | GT | LT)) or (flags & GT and flags & LT):
        return held, high  # the server refuses both together
    met = 2  # 0 no, 1 perhaps, 2 yes
    lasting, mortal = low == FOREVER, high < FOREVER
    if flags & NX:
        met = 0 if mortal else (2 if lasting else 1)
    if flags & XX and met:
        met = 0 if lasting else (2 if mortal else 1)
    if flags & (GT | LT) and met:
        asked = GONE if deadline == PAST else deadline
        earlier, later = asked < held - slack, asked > high + slack
        if flags & GT:
            met = 0 if lasting or earlier else (met if mortal and later else 1)
        else:
            met = met if lasting or earlier else (0 if mortal and later else 1)
    after = GONE if deadline == PAST else deadline
    if met == 2:
        return after, after
    if met == 1:
        return min(held, after), max(high, after)
    return held, high


@njit(inline="always")
def _step(effect, flags, kind, deadline, low, high, had, t, slack, evictable):
    """Take one key through one command: its new (low, high, type, what happened)."""
    there = low > t + slack
    may = high > t - slack
    held = max(low, t)
    happened = 0
    made = had
    there_low, there_high, else_low, else_high = held, high, GONE, GONE
    if effect == STORE:
        if deadline == REFUSED or (flags & NX and flags & XX) or (flags & KEEPTTL and deadline != FOREVER):
            return low, high, had, _FAILS
        if flags & GET and may and had not in (0, STRING) and there and not evictable:
            return low, high, had, _FAILS  # WRONGTYPE
        after = GONE if deadline == PAST else deadline
        else_low = else_high = after
        there_low = there_high = after
        made = kind
        if flags & KEEPTTL:
            there_low, there_high = held, high
        if flags & NX:
            there_low, there_high = held, high
            made = kind if not may or had == kind else (had if there and not evictable else 0)
            if there and not evictable:
                happened = _FAILS
        if flags & XX:
            else_low = else_high = GONE
            if not may:
                happened = _FAILS
        doubtful = flags & GET and may and had != STRING
        # Until 6.2 the server refuses NX with GET.
        doubtful = doubtful or (flags & NX and flags & GET) or flags & ONLY_IF_NEW
        if doubtful:
            there_low, there_high = min(there_low, held), max(there_high, high)
            made = had if had == kind else 0
            if flags & NX or flags & ONLY_IF_NEW:
                else_low = GONE
        if deadline != PAST and not flags & XX:
            happened |= _CREATES
            # Written or still there: either way it is there now.
            if not (flags & (NX | ONLY_IF_NEW) and doubtful):
                happened |= _PROVES
    elif effect in (ADD, MAYBE_ADD):
        if had not in (0, kind) and there and not evictable:
            return low, high, had, _FAILS  # WRONGTYPE
        else_low, else_high = FOREVER if effect == ADD else GONE, FOREVER
        made = kind if not may or had == kind else (had if there and not evictable else 0)
        happened = _CREATES | (_PROVES if effect == ADD else 0)
    elif effect == REMOVE:
        there_low = there_high = GONE
    elif effect == GETDEL:
        if had in (0, STRING):
            there_low = GONE
        if had == STRING:
            there_high = GONE
    elif effect in (MAYBE_REMOVE, TAKE):
        if kind == 0 or had in (0, kind):
            there_low = GONE
    elif effect == EXPIRE:
        if deadline == REFUSED:
            return low, high, had, _FAILS
        there_low, there_high = _expires_anew(flags, deadline, low, high, held, slack)
    elif effect == PERSIST:
        there_low = there_high = FOREVER
    elif effect == GETEX:
        if deadline == REFUSED or had not in (0, STRING):
            return low, high, had, _FAILS
        if deadline != FOREVER:
            after = GONE if deadline == PAST else deadline
            there_low, there_high = after, after
            if had == 0:
                there_low, there_high = min(held, after), max(high, after)
        elif flags & PERSISTS and had == STRING:
            there_low = there_high = FOREVER
        else:
            there_high = FOREVER  # PERSIST may have been asked for
    elif effect == FORGET:
        there_low, there_high, else_low, else_high = GONE, FOREVER, GONE, FOREVER
        made, happened = 0, _CREATES
    else:
        return low, high, had, 0
    if not may:
        return else_low, else_high, made, happened
    new_low = there_low if there else min(there_low, else_low)
    new_high = max(there_high, else_high) if evictable or not there else there_high
    return new_low, new_high, made, happened


@njit(inline="always")
def _refresh(k, epoch, first_epoch, began, window, census, scope_row, scope_t, node_row, node_t, node_empty, forgot, slack):
    """Bring a key's state up to date with the epochs, flushes and the like since it was last named."""
    if k.epoch != epoch:
        k.low, k.high, k.type = GONE, FOREVER, 0
        k.why = NEVER_WRITTEN if k.epoch == -1 and first_epoch else UNKNOWN
        k.kind, k.chain, k.life, k.proof, k.missed, k.hit, k.volatile = START, -1, -1, window, -1, -1, 1
        k.epoch, k.touched = epoch, began - 1
        if first_epoch and census == CENSUS_ABSENT:
            k.low, k.high, k.kind = GONE, GONE, ABSENT
        elif first_epoch and census == CENSUS_PRESENT:
            k.kind = PRESENT
    row, at, empty = scope_row, scope_t, False
    if node_row > row:
        row, at, empty = node_row, node_t, node_empty
    if forgot > k.touched and forgot > row:
        k.low, k.high, k.type, k.why = GONE, FOREVER, 0, UNKNOWN
        k.kind, k.chain = MAYBE, -1
    elif row > k.touched:
        if k.high != GONE:
            if k.high <= at - slack:
                k.why = EXPIRED
            elif k.why != NEVER_WRITTEN or k.kind != START or k.chain >= 0:
                k.why = UNKNOWN if empty else FLUSHED
            k.chain = -1
        k.low = k.high = GONE
        k.kind, k.life = ABSENT, -1


@njit(inline="always")
def _evictable(k, window, evictions):
    """Return how many evictions fell between the last proof of the key and now; 0 if none could be its own."""
    if evictions.volatile_only[window] != 0 and k.volatile == 0:
        return 0
    return evictions.after[window] - evictions.before[k.proof]


@njit(inline="always")
def _take_read(k, t, slack, risk, read, out):
    """Judge one read by its key's state, and chain it to those before it."""
    there = k.low > t + slack
    before = -1
    out.life[read] = -1
    out.hint[read] = NO_HINT
    if k.high <= t - slack:
        seen = CERTAIN_MISS
        if k.high != GONE:
            k.why = EXPIRED
        state = k.why
        if k.kind == ABSENT:
            before = k.chain
        k.kind = ABSENT
    elif there and risk == 0:
        seen, state = CERTAIN_HIT, UNKNOWN
        k.kind = PRESENT
    else:
        seen, state = OPEN, k.why if k.kind == START else UNKNOWN
        if k.kind == ABSENT:
            k.kind = MAYBE
        else:
            before = k.chain
        if there:
            seen, state = AT_RISK, EVICTED
        elif k.low == k.high:
            out.hint[read] = BEFORE_DEADLINE if t < k.low else AFTER_DEADLINE
            state = EXPIRED
        elif k.high < FOREVER:
            out.hint[read] = DEADLINE_KNOWN
    out.seen[read], out.kind[read], out.before[read], out.state[read] = seen, k.kind, before, state
    k.chain = -1 if seen == CERTAIN_HIT else read


@njit(inline="always")
def _answer(k, t, fill_window, all_reads, below, out):
    """Let a write answer the latest unanswered read of its key: one that may have missed, else a hit."""
    for turn in range(2 if all_reads else 1):
        read = k.missed if turn == 0 else k.hit
        if read >= 0 and t - out.t_us[read] <= fill_window:
            out.gap_us[read] = max(t - out.t_us[read], 0)
            if turn == 0:
                k.missed = below[read]
            else:
                k.hit = below[read]
            return
        if turn == 0:
            k.missed = -1
        else:
            k.hit = -1


@njit(inline="always")
def _hand_over(s, k, renames, only_if_new, t, slack, s_risk):
    """Give what a key `s`, which may be there, holds to the target `k` of RENAME, RENAMENX or COPY.

    COPY may go to another database, or find its target taken: the target may stay as it was.
    """
    there, taken, free = s.low > t + slack, k.low > t + slack, k.high <= t - slack
    low = max(s.low, t) if there else GONE
    high = s.high
    sure = there and renames and (free or not only_if_new)
    if not sure:
        if not (renames and taken):
            low = min(low, k.low)
        elif there:
            low = min(low, max(k.low, t))
    if not sure or s_risk > 0:
        high = max(high, k.high)
    k.type = s.type if sure or s.type == k.type else 0
    k.proof = s.proof if sure else min(s.proof, k.proof)
    k.volatile = s.volatile if sure else 1
    k.low, k.high, k.life, k.chain = low, high, -1, -1
    k.kind = PRESENT if low > t + slack else MAYBE
    if renames:
        s.low = GONE
        if free or not only_if_new:
            s.high, s.why = GONE, DELETED
        s.kind = ABSENT if s.high == GONE else MAYBE
        s.chain = s.life = -1


def trace(
    rows_at, evictions_at, work_at, out_at, census_at, keys_at, count, evicting, slack, fill_window
):  # fmt: skip
    """Follow every key through the log; fill `out`; return how many reads there are.

    Parameters
    ----------
    rows_at, evictions_at, work_at, out_at : int
        Address of the addresses of the columns of ``Rows``, ``Evictions``, ``Work`` and ``Seen``. Truths are bytes.
    census_at, keys_at : int
        Addresses of a byte for each key, what a census at the start said of it, and of its state, a ``KEY``.
    count : int
        How many rows there are.
    evicting : int
        Whether any key was evicted.
    slack, fill_window : int
        How near to its deadline a key's presence stays open, and the longest time from a read to its answer, µs.
    """
    a, b, c, d = int64s(rows_at), int64s(evictions_at), int64s(work_at), int64s(out_at)
    rows = Rows(
        int32s(a[0]), int64s(a[1]), int64s(a[2]), int32s(a[3]), int32s(a[4]), int32s(a[5]), int32s(a[6]), uint8s(a[7]),
        uint8s(a[8]), uint8s(a[9]), int64s(a[10]), uint8s(a[11]), int32s(a[12]), uint8s(a[13]), int32s(a[14]), int32s(a[15]),
    )  # fmt: skip
    evictions = Evictions(int64s(b[0]), int64s(b[1]), uint8s(b[2]))
    work = Work(
        int32s(c[0]), int64s(c[1]), int64s(c[2]), int64s(c[3]), int64s(c[4]), uint8s(c[5]), int64s(c[6]), int32s(c[7]),
        uint8s(c[8]), int64s(c[9]), int32s(c[10]),
    )  # fmt: skip
    out = Seen(
        int32s(d[0]), int64s(d[1]), int32s(d[2]), int32s(d[3]), uint8s(d[4]), uint8s(d[5]), uint8s(d[6]), uint8s(d[7]),
        int32s(d[8]), uint8s(d[9]), int32s(d[10]), int32s(d[11]),
    )  # fmt: skip
    below, scope_row, scope_t, node_row, node_t = work.below, work.scope_row, work.scope_t, work.node_row, work.node_t
    node_empty, forgot, census = work.node_empty, work.forgot, uint8s(census_at)
    node_epoch, first_epoch, began, first_window = work.epoch, work.is_first, work.began, work.first_window
    reads = lives = 0
    swept = np.int64(0)  # the last row that changed the state of keys that it does not name
    # The sources of the command at hand.
    command, sources, all_absent, source, source_effect = np.int64(-1), 0, True, np.int32(-1), 0
    for i in range(count):
        _prefetch(keys_at + _KEY_SIZE * max(rows.key[min(i + _AHEAD, count - 1)], 0))
        t, node, epoch, effect, window = rows.t_us[i], rows.node[i], rows.epoch[i], np.int64(rows.effect[i]), rows.window[i]
        if node_epoch[node] != epoch:
            first_epoch[node] = node_epoch[node] == -1
            node_epoch[node], began[node], first_window[node] = epoch, i, window
            node_row[node] = forgot[node] = -1
            swept = i
        if rows.seq[i] != command:
            if source >= 0 and source_effect == RENAME_FROM:
                # Its target is in another part of the log.
                s = _key_at(keys_at + _KEY_SIZE * source)
                s.low, s.kind, s.chain = GONE, MAYBE, -1
            command, sources, all_absent, source = rows.seq[i], 0, True, np.int32(-1)
        if effect >= FLUSH_DB:
            swept = i
            if effect == FLUSH_DB:
                scope_row[rows.scope[i]], scope_t[rows.scope[i]] = i, t
            elif effect == FORGET_NODE:
                forgot[node] = i
            else:
                node_row[node], node_t[node], node_empty[node] = i, t, effect == EMPTY_NODE
            continue
        if rows.key[i] < 0:
            continue
        k = _key_at(keys_at + _KEY_SIZE * rows.key[i])
        scope = rows.scope[i]
        if k.touched < swept:
            _refresh(
                k, epoch, first_epoch[node] != 0, began[node], first_window[node], census[rows.key[i]],
                scope_row[scope], scope_t[scope], node_row[node], node_t[node], node_empty[node] != 0, forgot[node], slack,
            )  # fmt: skip
        k.touched = i
        risk = _evictable(k, window, evictions) if evicting != 0 else 0
        if rows.lookups[i] > 0:
            out.row[reads], out.t_us[reads], out.family[reads] = rows.row[i], t, rows.family[i]
            out.window[reads], out.lookups[reads] = window, rows.lookups[i]
            out.gap_us[reads] = -1
            _take_read(k, t, slack, risk, reads, out)
            if out.seen[reads] == AT_RISK and risk < UNBOUNDED:
                if k.life < 0:
                    k.life = lives
                    lives += 1
                out.life[reads] = k.life
            if out.seen[reads] in (CERTAIN_HIT, AT_RISK):
                below[reads], k.hit = k.hit, reads
            else:
                below[reads], k.missed = k.missed, reads
            reads += 1
        if effect == NOTHING:
            continue
        absent = k.high <= t - slack
        if effect in (SOURCE, RENAME_FROM, TAKE):
            sources += 1
            all_absent = all_absent and absent
            if sources == 1:
                source, source_effect = rows.key[i], effect
        if effect in (SOURCE, RENAME_FROM):
            continue
        flags, kind, deadline = np.int64(rows.flags[i]), np.int64(rows.type[i]), rows.deadline_us[i]
        if effect in (RENAME_TO, COPY_TO, RESULT, GIVE):
            known = source >= 0 and (effect != RESULT or sources == rows.arg[i])
            origin = source
            if effect == RENAME_TO:
                source = np.int32(-1)
            if known and all_absent and effect != RESULT:
                continue  # there was nothing to rename, copy or move
            if known and origin == rows.key[i] and effect != RESULT:
                continue  # onto itself
            if known and effect in (RENAME_TO, COPY_TO):
                s = _key_at(keys_at + _KEY_SIZE * origin)
                s_risk = _evictable(s, window, evictions)
                _hand_over(s, k, effect == RENAME_TO, flags & ONLY_IF_NEW, t, slack, s_risk)
                continue
            effect = MAYBE_ADD if known and effect == GIVE else REMOVE if known and all_absent else FORGET
        low, high, made, happened = _step(effect, flags, kind, deadline, k.low, k.high, np.int64(k.type), t, slack, risk > 0)
        if not absent:
            if high == GONE:
                k.why = EXPIRED if effect == STORE else DELETED
        elif k.high != GONE:
            k.why = EXPIRED
        if high == GONE:
            if k.kind != ABSENT:
                k.chain = -1
            k.kind, k.life = ABSENT, -1
        elif not happened & _FAILS and happened & _CREATES:
            k.chain = -1
            k.kind = PRESENT if low > t + slack else MAYBE
        elif k.low > t + slack and low <= t + slack:
            k.chain, k.kind = -1, MAYBE
        k.low, k.high, k.type = low, high, made
        if happened & _PROVES:
            k.proof, k.life, k.volatile = window, -1, 0
        if low < FOREVER or high < FOREVER:
            k.volatile = 1
        if rows.answers[i] != ANSWERS_NOTHING and not happened & _FAILS:
            _answer(k, t, fill_window, rows.answers[i] == ANSWERS_ALL, below, out)
    return reads


# What Python calls, and how many integers it gives.
ENTRIES = {"trace": (trace, 10)}
