"""What the shards of a ledger add up to, by key family."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from coldcache.replay.inference import HIT, KEY_STATES
from coldcache.replay.replayed import Bools, Ints, Replayed, by_family, family_table

MISS_KINDS = 4 * len(KEY_STATES)
_MOST_TTLS = 16  # of a family and shard: one that most writes carry is among them
# Answered misses to take a median of, of all shards and of one at least: more make no difference that shows.
_MOST_FILLS, _LEAST_FILLS = 1_000_000, 5_000


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
    read_keys, written_keys : distinct ones; only writes that were done
    read_keys_written, written_keys_read : of these, the ones that the other side has, too
    miss_rows, miss_kind_lookups : (families, ``MISS_KINDS``)
        Misses by what is known of their keys, see :func:`miss_kinds`, as rows and as look-ups.
    formats, formats_written : (families, value formats)
        Values written, of a known class; only of writes that were stored.
    rewrites, rewrites_same : writes after a hit of which it is known whether they stored the same bytes again, and those that did
    stored, stored_nx : writes that were stored; those with the condition NX
    forms : (families, forms of a time to live)
        Writes that were stored.
    refused_with_ttl : int
        Writes with a time to live and no condition that the server refused.
    ttls : (n, 4)
        Family, form, time to live in ms, and how many stored writes ask for it; the commonest of each family.
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
    read_keys_written: Ints
    written_keys_read: Ints
    miss_rows: Ints
    miss_kind_lookups: Ints
    formats: Ints
    formats_written: Ints
    rewrites: Ints
    rewrites_same: Ints
    stored: Ints
    stored_nx: Ints
    forms: Ints
    refused_with_ttl: int
    ttls: Ints
    databases: frozenset[int]
    fill_family: npt.NDArray[np.int32]
    fill_ms: npt.NDArray[np.float64]

    @classmethod
    def of(cls, replayed: Replayed) -> Tally:
        """Count one shard."""
        shard, pairs = replayed.shard, replayed.pairs
        read, hit, miss, done = replayed.is_read, replayed.is_hit, replayed.is_miss, replayed.is_done
        useful, filled = replayed.is_useful, miss & (pairs.fill_us >= 0)
        answered = np.flatnonzero(filled)
        most = max(_LEAST_FILLS, _MOST_FILLS // replayed.shards.count)
        answered = answered[:: max(1, -(-len(answered) // most))]

        def count(chosen: Bools, *, lookups: bool = False) -> Ints:
            return by_family(shard, chosen, shard.lookups if lookups else None)

        return cls(
            reads=count(read),
            hits=count(hit),
            misses=count(miss),
            lookups=count(read, lookups=True),
            hit_lookups=count(hit, lookups=True),
            miss_lookups=count(miss, lookups=True),
            useful_lookups=count(useful, lookups=True),
            useful=count(useful),
            judged=count(miss & replayed.fill_known),
            filled=count(filled),
            writes=count(replayed.is_write),
            done_writes=count(done),
            **_keys(replayed),
            **_misses(replayed),
            **_values(replayed),
            databases=frozenset(pd.unique(shard.db[read | replayed.is_write]).tolist()),
            fill_family=shard.family[answered],
            fill_ms=pairs.fill_us[answered] / 1000,
        )

    def __add__(self, other: Tally) -> Tally:
        added: dict[str, Any] = {}
        for field in fields(Tally):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name in ("fill_family", "fill_ms", "ttls"):
                added[field.name] = np.concatenate([mine, theirs])
            else:
                added[field.name] = mine | theirs if field.name == "databases" else mine + theirs
        return Tally(**added)


def miss_kinds(replayed: Replayed) -> npt.NDArray[np.int8]:
    """Return for each row what is known of the key of a miss, as one number; -1 for what is none.

    Four times the state of the key (``KEY_STATES``), and 2 if it is known whether a write answered the miss, and 1 if no
    earlier read could have had the value cached: the key's first, or one while the first was still being answered.
    """
    pairs = replayed.pairs
    cold = pairs.first_touch | (pairs.in_flight & (pairs.fill_us >= 0))
    kind = 4 * replayed.state + 2 * replayed.fill_known + cold
    return np.where(replayed.is_miss, kind, -1).astype(np.int8)


def _misses(replayed: Replayed) -> dict[str, Any]:
    """Count the misses of each family and kind."""
    kind = miss_kinds(replayed)
    rows = np.flatnonzero(kind >= 0)
    shard = replayed.shard
    return {
        "miss_rows": family_table(shard, rows, kind[rows], MISS_KINDS),
        "miss_kind_lookups": family_table(shard, rows, kind[rows], MISS_KINDS, shard.lookups[rows]),
    }


def _values(replayed: Replayed) -> dict[str, Any]:
    """Count what is written."""
    shard, pairs, words = replayed.shard, replayed.pairs, replayed.shard.vocabulary

    def table(chosen: Bools, label: npt.NDArray[np.int16], names: tuple[str, ...]) -> Ints:
        rows = np.flatnonzero(chosen & (label >= 0))
        return family_table(shard, rows, label[rows], len(names))

    stored = replayed.is_write & shard.is_("outcome", "written")
    rewrite = replayed.is_write & (pairs.follows >= 0)
    rewrite[rewrite] = replayed.outcome[pairs.follows[rewrite]] == HIT
    known = rewrite & (pairs.rewritten | pairs.same_value)
    nx = words.told("condition", lambda text: "NX" in text)[shard.condition].astype(bool)
    refused = replayed.is_write & shard.is_("outcome", "refused") & (shard.ttl_form >= 0) & (shard.condition < 0)
    return {
        "formats": table(replayed.is_write, shard.value_format, words.value_format),
        "formats_written": table(stored, shard.value_format, words.value_format),
        "rewrites": by_family(shard, known),
        "rewrites_same": by_family(shard, known & pairs.same_value),
        "stored": by_family(shard, stored),
        "stored_nx": by_family(shard, stored & nx),
        "forms": table(stored, shard.ttl_form, words.ttl_form),
        "refused_with_ttl": int(refused.sum()),
        "ttls": _ttls(replayed, stored),
    }


def _ttls(replayed: Replayed, stored: Bools) -> Ints:
    """Return family, form, time to live and number of the commonest of each family, a row each."""
    shard = replayed.shard
    rows = np.flatnonzero(stored & (shard.ttl_form >= 0))
    if not len(rows):
        return np.empty((0, 4), np.int64)
    order = rows[np.lexsort((shard.ttl_ms[rows], shard.ttl_form[rows], shard.family[rows]))]
    columns = np.column_stack([shard.family[order], shard.ttl_form[order], shard.ttl_ms[order]]).astype(np.int64)
    first = np.flatnonzero(np.r_[True, (np.diff(columns, axis=0) != 0).any(axis=1)])
    found = np.column_stack([columns[first], np.diff(np.r_[first, len(order)])])
    found = found[np.lexsort((-found[:, 3], found[:, 0]))]
    rank = np.arange(len(found)) - np.searchsorted(found[:, 0], found[:, 0])
    return found[rank < _MOST_TTLS]


def _keys(replayed: Replayed) -> dict[str, Any]:
    """Count the keys of each family."""
    return {name: by_family(replayed.shard, chosen) for name, chosen in _distinct_keys(replayed).items()}


def _distinct_keys(replayed: Replayed) -> dict[str, Bools]:
    """Return rows that stand for the keys read and written, each once, whatever the database."""
    shard, read, written = replayed.shard, replayed.is_read, replayed.is_done
    key, count = shard.names
    rows = np.arange(len(shard))
    first: dict[str, Ints] = {}
    for name, chosen in (("read", read), ("written", written)):
        first[name] = np.full(count, -1, np.int64)
        first[name][key[chosen][::-1]] = rows[chosen][::-1]
    both = (first["read"] >= 0) & (first["written"] >= 0)
    marked = {}
    for name, places in (
        ("read_keys", first["read"]),
        ("written_keys", first["written"]),
        ("read_keys_written", np.where(both, first["read"], -1)),
        ("written_keys_read", np.where(both, first["written"], -1)),
    ):
        marked[name] = np.zeros(len(shard), np.bool_)
        marked[name][places[places >= 0]] = True
    return marked
