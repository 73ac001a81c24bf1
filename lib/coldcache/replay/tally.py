"""What the shards of a ledger add up to, by key family."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import pandas as pd

from coldcache.replay.replayed import Bools, Ints, Replayed, by_family

_MOST_FILLS = 200_000  # of a shard, to take a median of: more make no difference that shows


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
    read_from_us, read_until_us, written_from_us, written_until_us : time of the first and last read and done write, µs
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
    read_from_us: Ints
    read_until_us: Ints
    written_from_us: Ints
    written_until_us: Ints
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
        answered = answered[:: max(1, -(-len(answered) // _MOST_FILLS))]

        def count(chosen: Bools, *, lookups: bool = False) -> Ints:
            return by_family(shard, chosen, shard.lookups if lookups else None)

        keys = _distinct_keys(replayed)
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
            **{name: by_family(shard, chosen) for name, chosen in keys.items()},
            **_edges("read", replayed, read),
            **_edges("written", replayed, done),
            databases=frozenset(int(db) for db in np.unique(shard.db[read | replayed.is_write])),
            fill_family=shard.family[answered],
            fill_ms=pairs.fill_us[answered] / 1000,
        )

    def __add__(self, other: Tally) -> Tally:
        both = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(Tally)}
        added = {name: mine | theirs if name == "databases" else mine + theirs for name, (mine, theirs) in both.items()}
        for name in ("fill_family", "fill_ms"):
            added[name] = np.concatenate(both[name])
        for side in ("read", "written"):
            added[f"{side}_from_us"] = np.minimum(*both[f"{side}_from_us"])
            added[f"{side}_until_us"] = np.maximum(*both[f"{side}_until_us"])
        return Tally(**added)


def _edges(side: str, replayed: Replayed, chosen: Bools) -> dict[str, Ints]:
    """Return the first and last time of the chosen rows of each family; where it has none, the first is after the last."""
    shard = replayed.shard
    limits = np.iinfo(np.int64)
    first, last = np.full(len(shard.families), limits.max), np.full(len(shard.families), limits.min)
    np.minimum.at(first, shard.family[chosen], shard.t_us[chosen])
    np.maximum.at(last, shard.family[chosen], shard.t_us[chosen])
    return {f"{side}_from_us": first, f"{side}_until_us": last}


def _distinct_keys(replayed: Replayed) -> dict[str, Bools]:
    """Return rows that stand for the keys read and written, each once, whatever the database."""
    shard, read, written = replayed.shard, replayed.is_read, replayed.is_done
    key = np.full(len(shard), -1, np.int64)
    numbers, found = pd.factorize(shard.key[read | written])
    key[read | written] = numbers
    count = len(found)
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
