"""What the checks want to know of every shard, by key family; those of several shards are added."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from coldcache.replay.inference import KEY_STATES
from coldcache.replay.replayed import Bools, Ints, Replayed, by_family

COLD_START = "cold_start"
# A miss whose reason fell into a gap, or whose fill may have come after the end.
UNJUDGED = "incomplete_capture"
NEVER_FILLED = "set_skipped"
_BY_STATE = {"expired": "ttl_short", "evicted": "eviction", "deleted": "invalidation_storm", "flushed": "flush"}
#: What an unclaimed miss is put down to, by the state of its key.
BASELINE = (*_BY_STATE.values(), NEVER_FILLED, UNJUDGED, COLD_START)
_OF_STATE = np.array([BASELINE.index(_BY_STATE.get(state, NEVER_FILLED)) for state in KEY_STATES], np.int8)
_MOST_TTLS = 64  # of a family and shard: one that most writes carry is among them


def baseline_causes(replayed: Replayed, filled_elsewhere: tuple[int, ...] = ()) -> npt.NDArray[np.int8]:
    """Return for each row the cause in `BASELINE` that the state of the key of a miss points to; -1 for what is none.

    A miss of a family whose values were found under another name (`filled_elsewhere`) is cold when it is unclaimed:
    its value was not there yet either. A miss of a key whose state is not known, or that ends too
    late in its epoch to tell whether a fill came, is the recording's fault, not the application's.
    """
    pairs, state, family = replayed.pairs, replayed.state, replayed.shard.family
    cause = _OF_STATE[state]
    never = cause == BASELINE.index(NEVER_FILLED)
    cause = np.where(never & ((state == 0) | ~replayed.fill_known), np.int8(BASELINE.index(UNJUDGED)), cause)
    cold = pairs.first_touch | (pairs.in_flight & (pairs.fill_us >= 0))
    if filled_elsewhere:
        cold = cold | np.isin(family, filled_elsewhere)
    cause = np.where(never & cold, np.int8(BASELINE.index(COLD_START)), cause)
    return np.where(replayed.is_miss, cause, np.int8(-1))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Facts:
    """Sums of a shard, int64; the first axis is the family.

    Attributes
    ----------
    causes, cause_lookups : (families, ``BASELINE``)
        Misses by :func:`baseline_causes`, as reads and as look-ups.
    expired : (families,)
        Misses of a key that had expired.
    formats, formats_written : (families, value formats)
        Values written, of a known class; only of writes that were stored.
    rewrites, rewrites_same : (families,)
        Writes after a hit of which it is known whether they stored the same bytes again, and those that did.
    written, written_nx : (families,)
        Writes that were stored; those with the condition NX.
    forms : (families, forms of a time to live)
        Writes that were stored.
    refused_with_ttl : int
        Writes with a time to live and no condition that the server refused.
    ttl_family, ttl_form, ttl_ms, ttl_count : one element each
        How many stored writes of a family ask for the same time to live; the commonest.
    """

    causes: Ints
    cause_lookups: Ints
    expired: Ints
    formats: Ints
    formats_written: Ints
    rewrites: Ints
    rewrites_same: Ints
    written: Ints
    written_nx: Ints
    forms: Ints
    refused_with_ttl: int
    ttl_family: Ints
    ttl_form: Ints
    ttl_ms: Ints
    ttl_count: Ints

    @classmethod
    def of(cls, replayed: Replayed) -> Facts:
        """Count one shard."""
        shard, pairs, words = replayed.shard, replayed.pairs, replayed.shard.vocabulary
        families = len(shard.families)
        cause = baseline_causes(replayed)
        miss = np.flatnonzero(cause >= 0)
        cell = shard.family[miss].astype(np.int64) * len(BASELINE) + cause[miss]
        shape = (families, len(BASELINE))

        def table(chosen: Bools, label: npt.NDArray[np.int32], names: tuple[str, ...]) -> Ints:
            rows = np.flatnonzero(chosen & (label >= 0))
            cells = shard.family[rows].astype(np.int64) * len(names) + label[rows]
            return np.bincount(cells, minlength=families * len(names)).reshape(families, len(names)).astype(np.int64)

        stored = replayed.is_write & shard.is_("outcome", "written")
        follows = pairs.follows
        rewrite = replayed.is_write & (follows >= 0) & (replayed.outcome[np.maximum(follows, 0)] == 1)
        known = rewrite & (pairs.rewritten | pairs.same_value)
        nx = words.told("condition", lambda text: "NX" in text)[shard.condition].astype(bool)
        refused = replayed.is_write & shard.is_("outcome", "refused") & (shard.ttl_form >= 0) & (shard.condition < 0)
        ttls = _ttls(replayed, stored)
        return cls(
            causes=np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64),
            cause_lookups=np.bincount(cell, shard.lookups[miss], shape[0] * shape[1]).reshape(shape).astype(np.int64),
            expired=by_family(shard, replayed.is_miss & (replayed.state == KEY_STATES.index("expired"))),
            formats=table(replayed.is_write, shard.value_format, words.value_format),
            formats_written=table(stored, shard.value_format, words.value_format),
            rewrites=by_family(shard, known),
            rewrites_same=by_family(shard, known & pairs.same_value),
            written=by_family(shard, stored),
            written_nx=by_family(shard, stored & nx),
            forms=table(stored, shard.ttl_form, words.ttl_form),
            refused_with_ttl=int(refused.sum()),
            ttl_family=ttls[:, 0], ttl_form=ttls[:, 1], ttl_ms=ttls[:, 2], ttl_count=ttls[:, 3],
        )  # fmt: skip

    def __add__(self, other: Facts) -> Facts:
        added = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in fields(Facts)
            if field.name[:4] != "ttl_"
        }
        for field in fields(Facts):
            if field.name.startswith("ttl_"):
                added[field.name] = np.concatenate([getattr(self, field.name), getattr(other, field.name)])
        return Facts(**added)


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
