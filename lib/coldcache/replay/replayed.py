"""A shard replayed: what each of its reads got, which write answered it, and what had been written before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from coldcache.commands import STRING_WRITES
from coldcache.keys.numbering import numbers_of
from coldcache.replay import fills
from coldcache.replay.fills import FILL_WINDOW_S, Pairs, pair
from coldcache.replay.inference import HIT, KEY_STATES, MISS, NO_READ, Verdicts
from coldcache.replay.order import forward
from coldcache.shards.cut import Shards
from coldcache.shards.shard import SPREAD, Removals, Shard
from coldcache.shards.workers import Workers

_WINDOW_US = round(FILL_WINDOW_S * 1e6)
_Result = TypeVar("_Result")

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

# Of every mark that a row may have.
_OUTCOMES = np.array([HIT if mark & fills.HIT else MISS if mark & fills.MISS else NO_READ for mark in range(256)], np.int8)


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
    marks : uint8
        What each row is, a bit each: see :mod:`coldcache.replay.fills`.
    state : uint8
        What had become of the key of a miss: index in ``KEY_STATES``, 0 where that is not known.
    pairs : Pairs
    shards, plan, number
        Which shard it is of which, and how its reads are counted.
    """

    shard: Shard
    marks: npt.NDArray[np.uint8]
    state: npt.NDArray[np.uint8]
    pairs: Pairs
    shards: Shards = field(repr=False)
    plan: Plan = field(repr=False)
    number: int

    @property
    def removals(self) -> Removals:
        """The keys of this shard that went away."""
        return self.shards.removals(self.number)

    @property
    def outcome(self) -> npt.NDArray[np.int8]:
        """What each row's read got: 1 hit, 0 miss, -1 not known, or no look-up."""
        return _OUTCOMES[self.marks]

    @property
    def is_read(self) -> Bools:
        """Which rows are look-ups that INFO counts, of the epochs that are counted."""
        return self._are(fills.READ)

    @property
    def is_write(self) -> Bools:
        """Which rows are writes of keys, of the epochs that are counted."""
        return self._are(fills.WRITE)

    @property
    def is_miss(self) -> Bools:
        """Which rows are reads that missed."""
        return self._are(fills.MISS)

    @property
    def is_hit(self) -> Bools:
        """Which rows are reads that hit."""
        return self._are(fills.HIT)

    @property
    def is_useful(self) -> Bools:
        """Which rows are hits that no rewrite of the same key followed."""
        return self.is_hit & (self.pairs.partner < 0)

    @property
    def is_done(self) -> Bools:
        """Which rows are writes that were not refused."""
        return self._are(fills.WRITE | fills.DONE)

    @property
    def is_stored(self) -> Bools:
        """Which rows are writes that are known to have been stored."""
        return self._are(fills.WRITE | fills.STORED)

    def _are(self, mark: int) -> Bools:
        every = np.uint8(mark | fills.COUNTED)
        return (self.marks & every) == every

    def is_found(self, what: int) -> Bools:
        """Return of which rows something was found (``FIRST_TOUCH`` and so on of :mod:`coldcache.replay.fills`)."""
        return (self.pairs.found & np.uint8(what)) > 0

    def age_us(self, rows: npt.NDArray[np.integer[Any]], since: npt.NDArray[np.integer[Any]]) -> Ints:
        """Return how long before each of some rows another row was, µs; not below 0, where a clock stepped back."""
        t_us = self.shard.t_us
        return np.maximum(t_us[rows] - t_us[since], 0)


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
    marks, state = _marks(shards, shard, plan, number)
    return Replayed(shard, marks, state, _pairs(shard, plan, marks, state), shards, plan, number)


def _marks(
    shards: Shards, shard: Shard, plan: Plan, number: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:  # fmt: skip
    """Return what each row is, and what had become of the key of each miss."""
    words = shard.vocabulary
    if plan.verdicts is None:
        got, state = shard.outcome, shard.key_state
        of_got = words.told("outcome", lambda name: {"hit": fills.HIT, "miss": fills.MISS}.get(name, 0), 0)
        of_state = words.told("key_state", lambda name: KEY_STATES.index(name) if name in KEY_STATES else 0, 0)
    else:
        got, state = np.full(len(shard), NO_READ, np.int16), np.zeros(len(shard), np.int16)
        reads, outcome, _, become = plan.verdicts.of(shards, number)
        got[reads.row], state[reads.row] = outcome, become
        of_got, of_state = np.array([fills.MISS, fills.HIT, 0]), np.arange(len(KEY_STATES))
    done = {"written": fills.DONE | fills.STORED, "refused": 0}
    epochs = int(shard.epoch.max(initial=-1)) + 1
    columns = fills.Labels(
        family=shard.family, lookups=shard.lookups, op=shard.op, outcome=shard.outcome, command=shard.command, got=got,
        state=state, epoch=shard.epoch,
    )  # fmt: skip
    tables = (
        words.told("op", lambda name: fills.WRITE if name == "write" else 0, 0),
        words.told("outcome", lambda name: done.get(name, fills.DONE), fills.DONE),
        words.told("command", lambda name: fills.OVERWRITES if name in STRING_WRITES else 0, 0),
        of_got,
        of_state,
        np.isin([*range(epochs), -1], plan.counted) * fills.COUNTED,
    )
    return fills.mark(columns, fills.Meanings(*(np.r_[table[-1], table].astype(np.uint8) for table in tables)))


def _pairs(shard: Shard, plan: Plan, marks: npt.NDArray[np.uint8], state: npt.NDArray[np.uint8]) -> Pairs:
    """Pair every write with the latest unanswered miss of its key, else hit, within FILL_WINDOW_S and its epoch.

    By key and time, not by connection: a pooled or multiplexed client makes the connection mean
    nothing (measured accuracy 0.009). GETSET and SET … GET read and write in one command: they answer no read. A refused
    write changes nothing; only a write of the whole value makes the hit before it useless.
    """
    key, keys = shard.names
    several = len(shard) and shard.db.min() < shard.db.max()
    place = shard.db.astype(np.int64) if several else np.zeros(1, np.int64)
    if several:
        key, keys = _numbers(shard.key, place)
    group, groups, order = key, keys, None
    ends_us = np.zeros(int(shard.epoch.max(initial=-1)) + 1, np.int64)
    for epoch, end_us in plan.ends_us.items():
        if epoch < len(ends_us):
            ends_us[epoch] = end_us
    if len(ends_us) and shard.epoch[0] != shard.epoch[-1]:
        group, groups = _numbers(shard.key, place * len(ends_us) + shard.epoch)
        order = time_order(shard.epoch, shard.seq, shard.t_us)
    steps = fills.Steps(
        marks=marks, key=key, group=group, epoch=shard.epoch, t_us=shard.t_us, digest=shard.value_digest, state=state
    )  # fmt: skip
    return pair(steps, order, keys=keys, groups=groups, window_us=_WINDOW_US, ends_us=ends_us)


def _numbers(key: npt.NDArray[np.uint64], place: Ints) -> tuple[Ints, int]:
    """Return a number for each key in each of several places, and how many there are."""
    numbers, found = numbers_of(key ^ (place.astype(np.uint64) * SPREAD))
    return numbers.astype(np.int64), len(found)


def time_order(epoch: npt.NDArray[np.int32], seq: Ints, t_us: Ints) -> Ints:
    """Return the places of rows, which are in the order of epochs and streams, in the order of time."""
    return np.lexsort((seq, forward(epoch, t_us)))


def family_table(
    shard: Shard, rows: Ints, column: npt.NDArray[Any], width: int, weights: npt.NDArray[Any] | None = None
) -> Ints:  # fmt: skip
    """Count rows, or add up their weights, by family and by a number below `width` that each of them has."""
    families = len(shard.families)
    cell = shard.family[rows].astype(np.int64) * width + column
    return np.bincount(cell, weights, families * width).reshape(families, width).astype(np.int64)
