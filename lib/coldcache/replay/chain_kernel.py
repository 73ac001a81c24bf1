"""The chains of the reads of a log, followed forward and backward, compiled.

Everything is an address or a number, and nothing allocates: see :func:`coldcache.sources.arrays.compiled`, and
:mod:`coldcache.replay.chains` for what Python calls. What a read brings is looked up in tables by family rather than
decided, for its branches nobody could foresee.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from coldcache.replay.chains import (
    ANSWERED,
    ANSWERS,
    BY_AGE,
    BY_FAMILY,
    KINDS,
    NEARLY_GOES,
    NEARLY_STAYS,
    NOT_ANSWERED,
    NOT_TOLD,
    STATES,
    STATISTICS,
    STAYS,
    TOLD,
    Chains,
    Limits,
    Linked,
)
from coldcache.replay.state_codes import (
    ABSENT,
    AFTER_DEADLINE,
    BEFORE_DEADLINE,
    CERTAIN_HIT,
    CERTAIN_MISS,
    NO_HINT,
    PRESENT,
    START,
)
from coldcache.sources.log_kernel import float64s, int32s, int64s, uint8s

_LEAST = 1e-100  # what no chance falls below, so that long chains do not end in 0 / 0
_TRIPLE = 8 * STATES  # bytes


@njit(inline="always")
def _columns_of(chains_at):
    a = int64s(chains_at)
    return Chains(int32s(a[0]), int32s(a[1]), uint8s(a[2]), uint8s(a[3]), uint8s(a[4]), uint8s(a[5]), float64s(a[6]))


@njit(inline="always")
def _left(t, began, ttl):
    """Return the share of the keys that are still there, of those that were at the start."""
    return min(max(1 - (t - began) / max(ttl, 1.0), 1e-4), 1.0)


def chained(linked_at: int, limits_at: int, chains_at: int, number_at: int, told_at: int, count: int) -> int:
    """Write the chains of reads; return how many reads these hold.

    Parameters
    ----------
    linked_at, limits_at, chains_at : int
        Addresses of the addresses of the columns of ``Linked``, ``Limits`` and ``Chains``.
    number_at : int
        Address of room for an int32 for each read.
    told_at : int
        Address of four int64 for each family, added to: see ``Told``.
    count : int
        How many reads there are.
    """
    a, b = int64s(linked_at), int64s(limits_at)
    reads = Linked(
        int64s(a[0]), int32s(a[1]), int32s(a[2]), uint8s(a[3]), uint8s(a[4]), uint8s(a[5]), int32s(a[6]), int32s(a[7])
    )  # fmt: skip
    limits = Limits(int64s(b[0]), float64s(b[1]), float64s(b[2]))
    chains, number, told = _columns_of(chains_at), int32s(number_at), int64s(told_at)
    held = 0
    for i in range(count):
        family, window, seen, kind, hint = reads.family[i], reads.window[i], reads.seen[i], reads.kind[i], reads.hint[i]
        answered = NOT_ANSWERED
        if reads.gap_us[i] >= 0:
            answered = ANSWERED
        elif reads.t_us[i] > limits.late_us[window]:
            answered = NOT_TOLD
        is_told = answered != NOT_TOLD
        if seen == CERTAIN_HIT:
            told[TOLD * family] += is_told
            told[TOLD * family + 1] += answered == ANSWERED
            continue
        if seen == CERTAIN_MISS:
            told[TOLD * family + 2] += is_told
            told[TOLD * family + 3] += answered == ANSWERED
        at = reads.before[i]
        source = STAYS
        if hint == BEFORE_DEADLINE:
            source = NEARLY_STAYS
        elif hint == AFTER_DEADLINE:
            source = NEARLY_GOES
        elif kind == START and hint == NO_HINT and limits.ttl_us[family] < np.inf:
            # A key that was there at the start ends within its family's time to live; any age of it is equally likely.
            source = BY_AGE
            began, ttl = limits.began_us[window], limits.ttl_us[family]
            before = _left(reads.t_us[at] if at >= 0 else began, began, ttl)
            chains.fade[held] = min(max(1 - _left(reads.t_us[i], began, ttl) / before, 0.0), 0.9999)
        elif kind != ABSENT and (at >= 0 or kind != START):
            # What is unknown at the start is unknown by `present`; it does not fade before its first read.
            source = BY_FAMILY
        number[i] = held
        before_it = number[at] if at >= 0 else -1
        if before_it >= 0:
            chains.is_last[before_it] = 0
        chains.before[held], chains.family[held], chains.kind[held] = before_it, family, kind
        chains.answered[held], chains.is_last[held], chains.source[held] = answered, 1, source
        held += 1
    return held


@njit(inline="always")
def _at_least(chance):
    return chance if chance > _LEAST else _LEAST


@njit(inline="always")
def _fade_of(chains, i, fades, factor):
    """Return the chance that the key of a read went before it, after its family's odds were shifted."""
    family, source = chains.family[i], chains.source[i]
    if source == BY_AGE:
        fade = chains.fade[i]
        return fade / (fade + (1 - fade) * factor[family])
    return fades[BY_AGE * family + source]


def posterior(
    chains_at: int, begins_at: int, weighs_at: int, fades_at: int, factor_at: int, state_at: int, share_at: int,
    counts_at: int, count: int, fading: int,
) -> int:  # fmt: skip
    """Forward and backward through the chains, see :meth:`coldcache.replay.chains.Follower.posterior`; return how many reads.

    Parameters
    ----------
    chains_at : int
        Address of the addresses of the columns of ``Chains``.
    begins_at, weighs_at, fades_at, factor_at : int
        Addresses of what is known of each family: the three states at the start of a chain of each kind; how an answer
        weighs them; the chance to go, by where it is from; by how much its odds are shifted.
    state_at, share_at : int
        Addresses of three numbers a read, scratch; `state` becomes the posterior. One `share` more is 1.
    counts_at : int
        Address of eight numbers a family, added to: chains begun, present; absent chains, never filled; misses,
        answered; chances to go, gone.
    count : int
        How many reads there are.
    fading : int
        Whether the last two are counted.
    """
    chains, weighs, begins = _columns_of(chains_at), float64s(weighs_at), float64s(begins_at)
    fades, factor = float64s(fades_at), float64s(factor_at)
    state, share, counts = float64s(state_at), float64s(share_at), float64s(counts_at)
    for i in range(count):
        family, at, kind = np.int64(chains.family[i]), np.int64(chains.before[i]), np.int64(chains.kind[i])
        start = float64s(state_at + _TRIPLE * at if at >= 0 else begins_at + _TRIPLE * (KINDS * family + kind))
        fade = _fade_of(chains, i, fades, factor)
        weigh = STATES * (ANSWERS * family + chains.answered[i])
        here = start[0] * (1 - fade) * weighs[weigh]
        gone = (start[1] + start[0] * fade) * weighs[weigh + 1]
        null = start[2] * weighs[weigh + 2]
        total = here + gone + null
        state[STATES * i] = _at_least(here / total)
        state[STATES * i + 1] = _at_least(gone / total)
        state[STATES * i + 2] = _at_least(null / total)
    for i in range(count - 1, -1, -1):
        family, at, kind, answered = np.int64(chains.family[i]), chains.before[i], chains.kind[i], chains.answered[i]
        # What the reads after it say, times this one's own answer: handed to the read before.
        said = STATES * (count if chains.is_last[i] != 0 else i)
        here, gone, null = share[said], share[said + 1], share[said + 2]
        a, b, c = state[STATES * i] * here, state[STATES * i + 1] * gone, state[STATES * i + 2] * null
        total = a + b + c
        a, b, c = a / total, b / total, c / total
        state[STATES * i], state[STATES * i + 1], state[STATES * i + 2] = a, b, c
        counted = STATISTICS * family
        counts[counted + 4] += 0.0 if answered == NOT_TOLD else b
        counts[counted + 5] += b if answered == ANSWERED else 0.0
        if at >= 0:
            weigh = STATES * (ANSWERS * family + answered)
            here, gone, null = here * weighs[weigh], gone * weighs[weigh + 1], null * weighs[weigh + 2]
            top = max(here, gone, null)
            fade = _fade_of(chains, i, fades, factor)
            share[STATES * at] = _at_least(((1 - fade) * here + fade * gone) / top)
            share[STATES * at + 1], share[STATES * at + 2] = _at_least(gone / top), _at_least(null / top)
        elif kind == START:
            counts[counted] += 1
            begin = STATES * (KINDS * family + START)
            lost = begins[begin] * _fade_of(chains, i, fades, factor)
            counts[counted + 1] += a + b * lost / (lost + begins[begin + 1])
        elif kind == ABSENT:
            counts[counted + 2] += 1
            counts[counted + 3] += c
        counts[counted + 6] += 0.0 if kind == ABSENT else a
    for i in range(count if fading else 0):
        at, kind = chains.before[i], chains.kind[i]
        if at >= 0 and kind != ABSENT:
            # Between two reads that are there and not, it went.
            counts[STATISTICS * chains.family[i] + 7] += max(state[STATES * at] - state[STATES * i], 0.0)
        elif kind == PRESENT:
            counts[STATISTICS * chains.family[i] + 7] += 1 - state[STATES * i]
    return count


# What Python calls, and how many integers it gives.
ENTRIES = {"chained": (chained, 6), "posterior": (posterior, 10)}
