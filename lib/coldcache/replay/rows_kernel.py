"""What each row of a shard does to its key, compiled: two passes over its columns.

Everything is an address or a number, and nothing allocates: see :func:`coldcache.sources.arrays.compiled`, and
:mod:`coldcache.replay.rows` for what Python calls.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from coldcache.replay.rows import (
    ANSWERS,
    BLOCKS,
    EXPIRES,
    FLAGS,
    MEANINGS,
    MS_FAR,
    NO_TARGET,
    ON_KEYS,
    ON_TARGET,
    SECOND_KEY,
    SLACK_MS,
    TARGET,
    TYPE,
    Columns,
    Effects,
    Written,
)
from coldcache.replay.state_codes import (
    ANSWERS_NOTHING,
    EXPIRE,
    FAR,
    FOREVER,
    FORGET,
    NOTHING,
    PAST,
    REFUSED,
    STORE,
)
from coldcache.sources.log_kernel import int16s, int32s, int64s, uint8s

_NULL = int(np.iinfo(np.int64).min)  # as in coldcache.shards.shard, which imports pandas
_SLACK_US = int(SLACK_MS * 1000)


@njit(inline="always")
def _deadline(t, asked_ms, absolute, deletes):
    """Return when a time to live ends, or what else becomes of it; `deletes`: what is past already deletes the key."""
    if asked_ms == _NULL:
        return REFUSED
    ms = min(max(asked_ms, -MS_FAR), MS_FAR)
    if absolute:
        if not deletes and ms + t // 1000 <= 0:
            return REFUSED
        if ms * 1000 < -_SLACK_US:
            return PAST
    elif ms <= 0:
        # EXPIRE takes what is past and deletes; SET and GETEX refuse what is not positive.
        return PAST if deletes else REFUSED
    return FAR if ms >= MS_FAR else t + ms * 1000


def effects(columns_at: int, meanings_at: int, effects_at: int, queues_at: int, count: int, nodes: int, queues: int) -> int:
    """Write what each row does to its key; return how many rows there are.

    Parameters
    ----------
    columns_at, meanings_at, effects_at : int
        Addresses of the addresses of the columns of ``Columns``, ``Meanings`` and ``Effects``.
    queues_at, queues : int
        Address of a byte for each key, 0, and how many there are: none where no client blocks on a key.
    count : int
        How many rows there are.
    nodes : int
        How many servers there are, the last one being of the rows that name none.
    """
    a, b, c = int64s(columns_at), int64s(meanings_at), int64s(effects_at)
    columns = Columns(
        int64s(a[0]), int16s(a[1]), int16s(a[2]), int16s(a[3]), int16s(a[4]), int16s(a[5]), int32s(a[6]), uint8s(a[7]),
        int64s(a[8]), int32s(a[9]),
    )  # fmt: skip
    commands, is_write, absolute, flags = uint8s(b[0]), uint8s(b[1]), uint8s(b[2]), uint8s(b[3])
    found = Effects(int32s(c[0]), uint8s(c[1]), uint8s(c[2]), uint8s(c[3]), uint8s(c[4]), int64s(c[5]))
    is_queue = uint8s(queues_at)
    for i in range(count if queues > 0 else 0):
        if columns.key[i] >= 0 and commands[MEANINGS * (columns.command[i] + 1) + BLOCKS] != 0:
            is_queue[columns.key[i]] = 1
    for i in range(count):
        said = MEANINGS * (columns.command[i] + 1)
        writes = is_write[columns.op[i] + 1] != 0
        target = commands[said + TARGET]
        is_target = target != NO_TARGET and (columns.arg[i] == 1 if target == SECOND_KEY else writes)
        effect = commands[said + (ON_TARGET if is_target else ON_KEYS)]
        if queues > 0 and effect != NOTHING and columns.key[i] >= 0 and is_queue[columns.key[i]] != 0:
            effect = FORGET
        found.node[i] = columns.node[i] if columns.node[i] >= 0 else nodes - 1
        found.effect[i] = effect
        found.flags[i] = commands[said + FLAGS] | flags[columns.condition[i] + 1]
        found.type[i] = commands[said + TYPE]
        found.answers[i] = commands[said + ANSWERS] if writes and columns.lookups[i] == 0 else ANSWERS_NOTHING
        form = columns.ttl_form[i]
        found.deadline_us[i] = FOREVER
        if form >= 0:
            deletes = commands[said + EXPIRES] != 0
            found.deadline_us[i] = _deadline(columns.t_us[i], columns.ttl_ms[i], absolute[form + 1] != 0, deletes)
    return count


def longest(columns_at: int, count: int, longest_at: int, writes_at: int, with_ttl_at: int) -> int:
    """Find the longest time to live of each family; return how many rows there are.

    Parameters
    ----------
    columns_at : int
        Address of the addresses of the columns of ``Written``.
    count : int
        How many rows there are.
    longest_at, writes_at, with_ttl_at : int
        Addresses of three int64 for each family, 0: its longest time to live, µs; its writes; those with a time to live.
    """
    a = int64s(columns_at)
    columns = Written(int64s(a[0]), int32s(a[1]), uint8s(a[2]), int64s(a[3]))
    longest_us, writes, with_ttl = int64s(longest_at), int64s(writes_at), int64s(with_ttl_at)
    for i in range(count):
        effect, deadline, family = columns.effect[i], columns.deadline_us[i], columns.family[i]
        # INCR and EXPIRE make one write with a time to live.
        if family < 0 or not (effect == EXPIRE or (effect == STORE and deadline != REFUSED)):
            continue
        if effect == STORE:
            writes[family] += 1
        if 0 < deadline < FAR:
            with_ttl[family] += 1
            longest_us[family] = max(longest_us[family], deadline - columns.t_us[i])
    return count


# What Python calls, and how many integers it gives.
ENTRIES = {"effects": (effects, 7), "longest": (longest, 5)}
