"""What the shards of a ledger add up to, by key family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import add, or_
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from coldcache.replay.inference import KEY_STATES
from coldcache.replay.replayed import Ints, Replayed
from coldcache.sources.arrays import address, compiled, handed, place, places

MISS_KINDS = 4 * len(KEY_STATES)
#: What is added up by family, but for tables.
SUMS = (
    "reads", "hits", "lookups", "hit_lookups", "useful", "useful_lookups", "filled", "writes", "done_writes", "read_keys",
    "written_keys", "read_and_written_keys", "rewrites", "rewrites_same", "stored", "stored_nx", "refused_with_ttl",
)  # fmt: skip
_LIMITS = np.iinfo(np.int64)
_MOST_TTLS = 16  # of a family and shard: one that most writes carry is among them
# Answered misses to take a median of, of all shards and of one at least: more make no difference that shows.
_MOST_FILLS, _LEAST_FILLS = 1_000_000, 5_000


_TOGETHER: dict[str, Callable[..., Any]] = {
    "first_us": np.minimum,
    "last_us": np.maximum,
    "databases": or_,
}  # of two shards; all else is added


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tally:
    """Sums over rows, each an int64 for every family; those of several shards are added.

    Attributes
    ----------
    reads, hits, misses : rows; a command that counts two look-ups of a key is one
    lookups, hit_lookups, miss_lookups, useful_lookups : as INFO counts
    useful : hits that no rewrite followed
    judged, filled : misses of which it can be told whether a write answered them, and those it did
    writes, done_writes : all, and those that were not refused
    read_keys, written_keys, read_and_written_keys : distinct ones, whatever the database; only writes that were done
    miss_rows, miss_kind_lookups : (families, ``MISS_KINDS``)
        Misses by what is known of their keys, as rows and as look-ups: four times the state of the key (``KEY_STATES``), and 2 if
        it is known whether a write answered the miss, and 1 if no earlier read could have had the value cached: the key's
        first, or one while the first was still being answered.
    formats, formats_written : (families, value formats)
        Values written, of a known class; only of writes that were stored.
    rewrites, rewrites_same : writes after a hit of which it is known whether they stored the same bytes again, and those that did
    stored, stored_nx : writes that were stored; those with the condition NX
    forms : (families, forms of a time to live)
        Writes that were stored.
    refused_with_ttl : writes with a time to live and no condition that the server refused.
    ttls : (n, 4)
        Family, form, time to live in ms, and how many stored writes ask for it; the commonest of each family.
    first_us, last_us : when it was first and last read, and written if not refused; int64 (families, 2)
    databases : frozenset of int
    fill_family, fill_ms : one element an answered miss, or one of some
    """

    reads: Ints
    hits: Ints
    misses: Ints
    lookups: Ints
    hit_lookups: Ints
    miss_lookups: Ints
    useful_lookups: Ints
    useful: Ints
    judged: Ints
    filled: Ints
    writes: Ints
    done_writes: Ints
    read_keys: Ints
    written_keys: Ints
    read_and_written_keys: Ints
    miss_rows: Ints
    miss_kind_lookups: Ints
    formats: Ints
    formats_written: Ints
    rewrites: Ints
    rewrites_same: Ints
    stored: Ints
    stored_nx: Ints
    forms: Ints
    refused_with_ttl: Ints
    ttls: Ints
    first_us: Ints
    last_us: Ints
    databases: frozenset[int]
    fill_family: npt.NDArray[np.int32]
    fill_ms: npt.NDArray[np.float64]

    @classmethod
    def of(cls, replayed: Replayed) -> Tally:
        """Count one shard."""
        shard, pairs = replayed.shard, replayed.pairs
        (name, names), words = shard.names, shard.vocabulary
        columns = Columns(
            marks=replayed.marks, found=pairs.found, partner=pairs.partner, kind=pairs.kind, family=shard.family,
            lookups=shard.lookups, t_us=shard.t_us, name=name, value_format=shard.value_format, ttl_form=shard.ttl_form,
            condition=shard.condition,
        )  # fmt: skip
        sums, kinds, kind_lookups, formats, formats_written, forms, times = add_up(
            columns, words.told("condition", lambda text: "NX" in text).astype(np.uint8), families=len(shard.families),
            names=names, formats=len(words.value_format), forms=len(words.ttl_form),
        )  # fmt: skip
        answered = np.flatnonzero(replayed.is_miss & (pairs.partner >= 0))
        most = max(_LEAST_FILLS, _MOST_FILLS // replayed.shards.count)
        answered = answered[:: max(1, -(-len(answered) // most))]
        return cls(
            **{name: sums[:, number] for number, name in enumerate(SUMS)},
            misses=kinds.sum(axis=1),
            miss_lookups=kind_lookups.sum(axis=1),
            judged=kinds[:, np.arange(MISS_KINDS) & 2 > 0].sum(axis=1),
            miss_rows=kinds,
            miss_kind_lookups=kind_lookups,
            formats=formats,
            formats_written=formats_written,
            forms=forms,
            ttls=_ttls(replayed),
            first_us=times[:, :2],
            last_us=times[:, 2:],
            databases=_databases(replayed),
            fill_family=shard.family[answered],
            fill_ms=replayed.age_us(pairs.partner[answered], answered) / 1000,
        )

    def __add__(self, other: Tally) -> Tally:
        added: dict[str, Any] = {}
        for field in fields(Tally):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name in ("fill_family", "fill_ms", "ttls"):
                added[field.name] = np.concatenate([mine, theirs])
            else:
                added[field.name] = _TOGETHER.get(field.name, add)(mine, theirs)
        return Tally(**added)


class Columns(NamedTuple):
    """What the kernel adds up, one element a row."""

    marks: npt.NDArray[np.uint8]
    found: npt.NDArray[np.uint8]
    partner: npt.NDArray[np.int32]
    kind: npt.NDArray[np.int8]
    family: npt.NDArray[np.int32]
    lookups: npt.NDArray[np.int8]
    t_us: Ints
    name: Ints
    value_format: npt.NDArray[np.int16]
    ttl_form: npt.NDArray[np.int16]
    condition: npt.NDArray[np.int16]


_COLUMNS = np.uint8, np.uint8, np.int32, np.int8, np.int32, np.int8, np.int64, np.int64, np.int16, np.int16, np.int16


def add_up(columns: Columns, is_nx: npt.NDArray[np.uint8], *, families: int, names: int, formats: int, forms: int) -> list[Ints]:
    """Add every row that is counted to the sums of its family.

    Parameters
    ----------
    columns : Columns
    is_nx : uint8
        Whether a condition is NX, for each.
    families, names, formats, forms : int
        How many there are: key families, names of keys, value formats, and forms of a time to live.

    Returns
    -------
    list of seven int64 tables, a row each family
        ``SUMS``; misses by kind, as rows and as look-ups; value formats of what is written, and of what was stored; forms of a
        time to live of what was stored; first time of the reads and of the writes that were done, and the last of both, µs.
    """
    rows = len(columns.marks)
    columns = Columns(*map(handed, columns, _COLUMNS))
    widths = [len(SUMS), MISS_KINDS, MISS_KINDS, formats, formats, forms]
    sums, seen = np.zeros((families, sum(widths)), np.int64), np.zeros(names, np.uint8)
    times = np.repeat(np.array([[_LIMITS.max, _LIMITS.max, _LIMITS.min, _LIMITS.min]]), families, axis=0)
    columns_at = places(columns, _COLUMNS, rows)
    beside = ("replay.tally", "replay.fills", "sources.log_kernel", "payload_kernel")
    kernel = compiled("coldcache.replay.tally_kernel", *(f"coldcache.{name}" for name in beside))
    tables = place(is_nx, np.uint8), place(seen, np.uint8), place(sums, np.int64), place(times, np.int64)
    kernel["add_up"](address(columns_at), rows, *tables, formats, forms)
    return [*np.split(sums, np.cumsum(widths)[:-1], axis=1), times]


def _databases(replayed: Replayed) -> frozenset[int]:
    """Return the databases that are read and written."""
    db, used = replayed.shard.db, replayed.is_read | replayed.is_write
    if used.any() and db.min() == db.max():
        return frozenset([int(db[0])])
    return frozenset(np.unique(db[used]).tolist())


def _ttls(replayed: Replayed) -> Ints:
    """Return family, form, time to live and number of the commonest of each family, a row each."""
    shard = replayed.shard
    rows = np.flatnonzero(replayed.is_stored & (shard.ttl_form >= 0))
    if not len(rows):
        return np.empty((0, 4), np.int64)
    order = rows[np.lexsort((shard.ttl_ms[rows], shard.ttl_form[rows], shard.family[rows]))]
    columns = np.column_stack([shard.family[order], shard.ttl_form[order], shard.ttl_ms[order]]).astype(np.int64)
    first = np.flatnonzero(np.r_[True, (np.diff(columns, axis=0) != 0).any(axis=1)])
    found = np.column_stack([columns[first], np.diff(np.r_[first, len(order)])])
    found = found[np.lexsort((-found[:, 3], found[:, 0]))]
    rank = np.arange(len(found)) - np.searchsorted(found[:, 0], found[:, 0])
    return found[rank < _MOST_TTLS]
