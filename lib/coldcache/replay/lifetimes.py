"""Was a key alive at a moment? Counterfactuals ask this of keys that nobody read."""

from __future__ import annotations

import numpy as np
import pandas as pd


def last_writes(writes: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """Return, for each (db, key, seq) asked about, the last successful write before it.

    Parameters
    ----------
    writes : pandas.DataFrame
        A ledger's writes: ``db``, ``key``, ``seq``, ``t``, ``outcome``, ``ttl_ms``.
    asked : pandas.DataFrame
        ``db``, ``key``, ``seq``; any index.

    Returns
    -------
    pandas.DataFrame, same index and order as `asked`
        ``write_seq`` (null without a write), ``write_t``, ``ttl_ms``.
    """
    done = writes.loc[writes["outcome"].ne("refused"), ["db", "key", "seq", "t", "ttl_ms"]]
    right = done.rename(columns={"t": "write_t"}).assign(write_seq=done["seq"].astype("float64"))
    left = asked[["db", "key", "seq"]].assign(row=np.arange(len(asked)))
    merged = pd.merge_asof(
        left.sort_values("seq"), right.sort_values("seq"), on="seq", by=["db", "key"], allow_exact_matches=False
    )
    found = merged.sort_values("row")[["write_seq", "write_t", "ttl_ms"]]
    return found.set_index(asked.index)


def alive(writes: pd.DataFrame, removals: pd.DataFrame, flushes: pd.DataFrame, asked: pd.DataFrame) -> pd.Series:
    """Return whether each (db, key) was present at its ``seq`` and ``t``.

    Parameters
    ----------
    writes, asked :
        As for :func:`last_writes`; `asked` also has ``t``.
    removals : pandas.DataFrame
        The case's ``key_events``: a removal with seq s came before the line of seq s.
    flushes : pandas.DataFrame
        ``seq``, ``db``, ``command``: the FLUSHALL and FLUSHDB lines.

    Returns
    -------
    pandas.Series of bool, same index as `asked`
    """
    found = last_writes(writes, asked)
    gone = removals[["db", "key", "seq"]].assign(removed_seq=removals["seq"].astype("float64"))
    left = asked[["db", "key", "seq"]].assign(row=np.arange(len(asked)))
    merged = pd.merge_asof(left.sort_values("seq"), gone.sort_values("seq"), on="seq", by=["db", "key"])
    removed = merged.sort_values("row")["removed_seq"].set_axis(asked.index)
    age_ms = (asked["t"] - found["write_t"]).dt.total_seconds() * 1000
    kept = removed.isna() | (removed <= found["write_seq"])
    unexpired = found["ttl_ms"].isna() | (age_ms < found["ttl_ms"])
    flushed = pd.Series(-1.0, index=asked.index)
    for db in asked["db"].unique():
        seqs = np.sort(flushes.loc[flushes["command"].eq("FLUSHALL") | flushes["db"].eq(db), "seq"].to_numpy())
        mine = asked["db"].eq(db)
        last = np.searchsorted(seqs, asked.loc[mine, "seq"].to_numpy()) - 1
        flushed.loc[mine] = np.where(last >= 0, np.append(seqs, 0)[last], -1)
    return found["write_seq"].notna() & kept & unexpired & (flushed < found["write_seq"])
