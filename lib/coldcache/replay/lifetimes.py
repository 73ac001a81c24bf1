"""Was a key alive at a moment? Counterfactuals ask this of keys that nobody read."""

from __future__ import annotations

import numpy as np
import pandas as pd

from coldcache.replay.ledger import Ledger
from coldcache.replay.order import positions


def last_writes(writes: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """Return, for each (db, key) asked about, the last successful write before that place of the recording.

    Parameters
    ----------
    writes : pandas.DataFrame
        A ledger's writes: ``db``, ``key``, ``epoch``, ``seq``, ``t``, ``outcome``, ``ttl_ms``.
    asked : pandas.DataFrame
        ``db``, ``key``, ``epoch``, ``seq``, ``t``; any index.

    Returns
    -------
    pandas.DataFrame, same index and order as `asked`
        ``write_epoch``, ``write_seq`` (null without a write), ``write_t``, ``ttl_ms``. A write of an
        earlier epoch may have been undone in the gap between.
    """
    done = writes[writes["outcome"].ne("refused")]
    written_at, asked_at = positions(done, asked)
    right = pd.DataFrame(
        {
            "db": done["db"], "key": done["key"], "place": written_at, "write_epoch": done["epoch"].astype("float64"),
            "write_seq": done["seq"].astype("float64"), "write_t": done["t"], "ttl_ms": done["ttl_ms"],
        }
    )  # fmt: skip
    found = _last(right, asked, ["db", "key"], asked_at, before=True)
    return found[["write_epoch", "write_seq", "write_t", "ttl_ms"]]


def _last(events: pd.DataFrame, asked: pd.DataFrame, by: list[str], place: np.ndarray, *, before: bool = False) -> pd.DataFrame:
    """Return the last of `events` (with ``place``) at or, with `before`, before each place asked about."""
    left = asked[by].assign(place=place, row=np.arange(len(asked)))
    merged = pd.merge_asof(
        left.sort_values("place"), events.sort_values("place"), on="place", by=by, allow_exact_matches=not before
    )
    return merged.sort_values("row").set_index(asked.index)


def alive(ledger: Ledger, removals: pd.DataFrame, flushes: pd.DataFrame, asked: pd.DataFrame) -> pd.Series:
    """Return whether each (db, key) is known to have been present at its ``seq`` and ``t``.

    A value counts as alive while the epoch that saw it written lasts: what became of it in a gap
    is not known. Its key may live on another node than the key that was read instead.

    Parameters
    ----------
    ledger : Ledger
        Its writes and windows.
    asked : pandas.DataFrame
        As for :func:`last_writes`.
    removals : pandas.DataFrame
        The case's ``key_events``: a removal with seq s came before the line of seq s.
    flushes : pandas.DataFrame
        ``epoch``, ``seq``, ``t``, ``db``, ``command``: the FLUSHALL and FLUSHDB lines.

    Returns
    -------
    pandas.Series of bool, same index as `asked`
    """
    found = last_writes(ledger.writes, asked)
    asked_at, gone_at, flushed_at = positions(asked, removals, flushes)
    there = asked[["db", "key"]].assign(epoch=found["write_epoch"].fillna(-1).astype("int64"))

    gone = removals[["db", "key", "epoch"]].astype({"epoch": "int64"}).assign(place=gone_at, removed_seq=removals["seq"])
    removed = _last(gone, there, ["db", "key", "epoch"], asked_at)["removed_seq"]
    kept = removed.isna() | (removed <= found["write_seq"])

    age_ms = (asked["t"] - found["write_t"]).dt.total_seconds() * 1000
    unexpired = found["ttl_ms"].isna() | (age_ms < found["ttl_ms"])
    recorded = there["epoch"].eq(asked["epoch"]) | (asked["t"] <= there["epoch"].map(ledger.windows["end"]))

    unflushed = pd.Series(data=True, index=asked.index)
    for flush, place in zip(flushes.to_dict("records"), flushed_at, strict=True):
        hit = there["epoch"].eq(flush["epoch"]) & (flush["command"] == "FLUSHALL" or asked["db"].eq(flush["db"]))
        unflushed &= ~(hit & (place < asked_at) & (flush["seq"] > found["write_seq"]))
    return found["write_seq"].notna() & recorded & kept & unexpired & unflushed
