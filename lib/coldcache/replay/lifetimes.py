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
    done = writes.loc[writes["outcome"].eq("written"), ["db", "key", "seq", "t", "ttl_ms"]]
    right = done.rename(columns={"t": "write_t"}).assign(write_seq=done["seq"].astype("float64"))
    left = asked[["db", "key", "seq"]].assign(row=np.arange(len(asked)))
    merged = pd.merge_asof(
        left.sort_values("seq"), right.sort_values("seq"), on="seq", by=["db", "key"], allow_exact_matches=False
    )
    found = merged.sort_values("row")[["write_seq", "write_t", "ttl_ms"]]
    return found.set_index(asked.index)


def alive(writes: pd.DataFrame, removals: pd.DataFrame, asked: pd.DataFrame) -> pd.Series:
    """Return whether each (db, key) was present at its ``seq`` and ``t``.

    Parameters
    ----------
    writes, asked :
        As for :func:`last_writes`; `asked` also has ``t``.
    removals : pandas.DataFrame
        The case's ``key_events``: a removal with seq s came before the line of seq s.

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
    return found["write_seq"].notna() & kept & unexpired
