"""Was a key alive at a moment? Counterfactuals ask this of keys that nobody read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from coldcache.keys.numbering import numbers_of
from coldcache.replay.order import Moments, positions
from coldcache.shards.shard import NULL

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """Something that happened to keys, or is asked of them, one element each.

    at : Moments
    key : uint64, whatever tells the keys of all databases apart
    db : int32
    """

    at: Moments
    key: npt.NDArray[np.uint64]
    db: npt.NDArray[np.int32]


def alive(
    writes: Named, ttl_ms: Ints, removals: Named, flushes: Mapping[str, npt.NDArray[Any]], ends_us: Mapping[int, int],
    asked: Named,
) -> Bools:  # fmt: skip
    """Return whether each key asked about is known to have been present at that moment.

    A value counts as alive while the epoch that saw it written lasts: what became of it in a gap
    is not known. Its key may live on another node than the key that was read instead.

    Parameters
    ----------
    writes : Named
        The writes that were done, and their times to live, `NULL` without.
    removals : Named
        Key events: a removal with seq s came before the line of seq s.
    flushes : mapping of arrays
        Of ``coldcache.shards.cut.Shards``.
    ends_us : mapping of epoch to int
        End of what was recorded of each.
    asked : Named
        What is asked.
    """
    swept = Moments(flushes["epoch"], flushes["seq"], flushes["t_us"])
    written_at, asked_at, gone_at, flushed_at = positions(writes.at, asked.at, removals.at, swept)
    write_of, asked_of, gone_of = _numbers(writes.key, asked.key, removals.key)
    last = _last(write_of, written_at, asked_of, asked_at, before=True)
    found = np.flatnonzero(last >= 0)
    write = last[found]
    epoch, seq = writes.at.epoch[write], writes.at.seq[write]

    # Of one key, what happened in each epoch is told apart.
    epochs = int(max(epoch.max(initial=0), removals.at.epoch.max(initial=0))) + 1
    gone = _last(gone_of * epochs + removals.at.epoch, gone_at, asked_of[found] * epochs + epoch, asked_at[found], before=False)
    kept = (gone < 0) | (removals.at.seq[gone] <= seq) if len(removals.key) else np.ones(len(found), bool)
    ttl = ttl_ms[write]
    age_us = asked.at.t_us[found] - writes.at.t_us[write]
    unexpired = (ttl == NULL) | (age_us / 1000 < ttl)
    ends = np.array([ends_us.get(number, 0) for number in range(epochs)])
    recorded = (epoch == asked.at.epoch[found]) | (asked.at.t_us[found] <= ends[epoch])
    there = kept & unexpired & recorded
    for number, place in enumerate(flushed_at):
        mine = (epoch == flushes["epoch"][number]) & (flushes["everything"][number] | (asked.db[found] == flushes["db"][number]))
        there &= ~(mine & (place < asked_at[found]) & (flushes["seq"][number] > seq))
    whole = np.zeros(len(asked.key), bool)
    whole[found] = there
    return whole


def _numbers(*keys: npt.NDArray[np.uint64]) -> list[Ints]:
    """Return keys as numbers from 0, the same for the same key in all of the arrays."""
    numbers, _ = numbers_of(np.concatenate(keys))
    return np.split(numbers.astype(np.int64), np.cumsum([len(part) for part in keys])[:-1])


def _last(event_of: Ints, event_at: Ints, asked_of: Ints, asked_at: Ints, *, before: bool) -> Ints:
    """Return the last event of each key asked about, at or `before` its place; -1 without one."""
    width = int(max(event_at.max(initial=0), asked_at.max(initial=0))) + 2
    events = event_of * width + event_at
    order = np.argsort(events, kind="stable")
    found = np.searchsorted(events[order], asked_of * width + asked_at, "left" if before else "right") - 1
    if not len(events):
        return np.full(len(asked_of), -1, np.int64)
    last = order[np.maximum(found, 0)]
    return np.where((found >= 0) & (event_of[last] == asked_of), last, -1)
