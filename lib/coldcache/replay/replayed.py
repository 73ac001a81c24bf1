"""A shard replayed: what each of its reads got, which write answered it, and what had been written before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from coldcache.commands import STRING_WRITES
from coldcache.replay.fills import FILL_WINDOW_S, Pairs, Steps, pair
from coldcache.replay.inference import HIT, KEY_STATES, MISS, NO_READ, Verdicts
from coldcache.replay.order import forward
from coldcache.shards.cut import Shards
from coldcache.shards.shard import NULL, Removals, Shard
from coldcache.shards.workers import Workers

_WINDOW_US = round(FILL_WINDOW_S * 1e6)
_Result = TypeVar("_Result")

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How the reads of a case are counted.

    Attributes
    ----------
    counted : tuple of int
        The epochs that are counted.
    ends_us : mapping of epoch to int
        When each ended, µs.
    verdicts : Verdicts or None
        What decides the reads of commands alone; None where outcomes stand in the rows, or are not known.
    """

    counted: tuple[int, ...]
    ends_us: Mapping[int, int]
    verdicts: Verdicts | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """A shard and what is known of each of its rows.

    Attributes
    ----------
    shard : Shard
    is_read, is_write : bool
        Look-ups that INFO counts, and writes of keys, of the epochs that are counted.
    outcome : int8
        1 hit, 0 miss, -1 not known, or no look-up.
    state : int8
        What had become of the key of a miss: index in ``KEY_STATES``, 0 where that is not known.
    pairs : Pairs
    fill_known : bool
        Of a read: it was answered, or its epoch lasted long enough after it to tell.
    shards, plan, number
        Which shard it is of which, and how its reads are counted.
    """

    shard: Shard
    is_read: Bools
    is_write: Bools
    outcome: npt.NDArray[np.int8]
    state: npt.NDArray[np.int8]
    pairs: Pairs
    fill_known: Bools
    shards: Shards = field(repr=False)
    plan: Plan = field(repr=False)
    number: int

    @property
    def removals(self) -> Removals:
        """The keys of this shard that went away."""
        return self.shards.removals(self.number)

    @property
    def is_miss(self) -> Bools:
        """Which rows are reads that missed."""
        return self.is_read & (self.outcome == MISS)

    @property
    def is_hit(self) -> Bools:
        """Which rows are reads that hit."""
        return self.is_read & (self.outcome == HIT)

    @property
    def is_useful(self) -> Bools:
        """Which rows are hits that no rewrite of the same key followed."""
        return self.is_hit & (self.pairs.fill_us < 0)

    @property
    def is_done(self) -> Bools:
        """Which rows are writes that were not refused."""
        return self.is_write & ~self.shard.is_("outcome", "refused")


@dataclass(frozen=True, slots=True, eq=False)
class Replays:
    """All shards of a case, replayed, and who does the work on them."""

    shards: Shards
    plan: Plan
    workers: Workers = field(repr=False)

    def map(self, what: str, function: Callable[[Replayed], _Result]) -> list[_Result]:
        """Return what a function, which must be importable by name, makes of every shard, in order."""
        return self.workers.map(what, partial(_applied, self.shards, self.plan, function), range(self.shards.count))


def _applied(shards: Shards, plan: Plan, function: Callable[[Replayed], _Result], number: int) -> _Result:
    return function(replay(shards, plan, number))


def replay(shards: Shards, plan: Plan, number: int) -> Replayed:
    """Replay a shard: the same each time, and sooner done again than read from a file."""
    shard = shards.shard(number)
    outcome, state = _outcomes(shards, shard, plan, number)
    is_read, is_write = shard.is_read, shard.is_write
    pairs = _pairs(shard, is_read, is_write, outcome)
    counted = np.isin(shard.epoch, plan.counted)
    ends = np.full(int(shard.epoch.max(initial=-1)) + 1, np.iinfo(np.int64).min)
    for epoch, end_us in plan.ends_us.items():
        if epoch < len(ends):
            ends[epoch] = end_us
    watched_us = ends[shard.epoch] - shard.t_us if len(ends) else shard.t_us
    fill_known = (watched_us >= _WINDOW_US) | (pairs.fill_us >= 0)
    return Replayed(shard, counted & is_read, counted & is_write, outcome, state, pairs, fill_known, shards, plan, number)


def _outcomes(
    shards: Shards, shard: Shard, plan: Plan, number: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:  # fmt: skip
    """Return what each row's read got, and what had become of its key."""
    words = shard.vocabulary
    if plan.verdicts is None:
        known = words.told("outcome", lambda name: {"hit": HIT, "miss": MISS}.get(name, NO_READ), NO_READ)
        outcome = np.where(shard.is_read, known[shard.outcome], NO_READ).astype(np.int8)
        states = words.told("key_state", lambda name: KEY_STATES.index(name) if name in KEY_STATES else 0, 0)
        return outcome, np.where(outcome == MISS, states[shard.key_state], 0).astype(np.int8)
    outcome, state = np.full(len(shard), NO_READ, np.int8), np.zeros(len(shard), np.int8)
    reads, got, _, become = plan.verdicts.of(shards, number)
    outcome[reads.row], state[reads.row] = got, become
    return outcome, state


def _pairs(shard: Shard, is_read: Bools, is_write: Bools, outcome: npt.NDArray[np.int8]) -> Pairs:
    """Pair every write with the latest unanswered miss of its key, else hit, within FILL_WINDOW_S and its epoch.

    By key and time, not by connection: a pooled or multiplexed client makes the connection mean
    nothing (measured accuracy 0.009). GETSET and SET … GET read and write in one command: they answer no read. A refused
    write changes nothing; only a write of the whole value makes the hit before it useless.
    """
    count = len(shard)
    named = np.flatnonzero(is_read | is_write)
    key = np.full(count, -1, np.int64)
    key[named], found = _numbers(shard, named)
    group, groups = key, found
    if count and shard.epoch[0] != shard.epoch[-1]:
        epochs = np.unique(shard.epoch)
        both = key * len(epochs) + np.searchsorted(epochs, shard.epoch)
        numbers, of_both = pd.factorize(np.where(key >= 0, both, -1))
        group, groups = numbers, len(of_both)
    done = ~shard.is_("outcome", "refused")
    steps = Steps(
        order=time_order(shard.epoch, shard.seq, shard.t_us), key=key, group=group, epoch=shard.epoch, t_us=shard.t_us,
        is_read=is_read, is_miss=is_read & (outcome == MISS), is_write=is_write,
        answers=is_write & (shard.lookups == 0) & done, overwrites=shard.is_("command", *STRING_WRITES), done=done,
        digest=shard.value_digest, ttl_ms=shard.ttl_ms,
    )  # fmt: skip
    return pair(steps, keys=found, groups=groups, window_us=_WINDOW_US, no_ttl=NULL)


def _numbers(shard: Shard, rows: Ints) -> tuple[Ints, int]:
    """Return a number for each key and database of some rows, and how many there are."""
    name, names = shard.names
    db = shard.db[rows]
    if not len(rows) or db.min() == db.max():
        return name[rows], names
    numbers, found = pd.factorize(name[rows] * (int(db.max()) + 2) + db)
    return numbers.astype(np.int64), len(found)


def time_order(epoch: npt.NDArray[np.int32], seq: Ints, t_us: Ints) -> Ints:
    """Return the places of rows, which are in the order of epochs and streams, in the order of time."""
    if not len(epoch) or epoch[0] == epoch[-1]:
        return np.arange(len(epoch))
    return np.lexsort((seq, forward(epoch, t_us)))


def by_family(shard: Shard, chosen: Bools, weights: npt.NDArray[Any] | None = None) -> Ints:
    """Count the chosen rows, or add up their weights, by family."""
    given = None if weights is None else weights[chosen]
    return np.bincount(shard.family[chosen], given, len(shard.families)).astype(np.int64)


def family_table(
    shard: Shard, rows: Ints, column: npt.NDArray[Any], width: int, weights: npt.NDArray[Any] | None = None
) -> Ints:  # fmt: skip
    """Count rows, or add up their weights, by family and by a number below `width` that each of them has."""
    families = len(shard.families)
    cell = shard.family[rows].astype(np.int64) * width + column
    return np.bincount(cell, weights, families * width).reshape(families, width).astype(np.int64)
