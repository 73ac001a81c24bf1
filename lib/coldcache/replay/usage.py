"""How keys are used: how many there are, how large, how often one is read again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from coldcache.replay.ledger import Ledger
from coldcache.showing import SelfShowing

_POINTS = 101  # of the curve: whole per cents


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class KeyUsage(SelfShowing):
    """The keys of a case.

    Attributes
    ----------
    families : pandas.DataFrame, one row per family, most keys first
        ``family``; ``keys``: distinct ones in the recording; ``reads``; ``writes``; ``reads_per_key``: of the keys that
        were read; ``one_hit_share``: of these, how many were read only once; ``unread_share``: of the keys written, how
        many were never read; ``value_bytes``: median size of a value written; ``stored_bytes``: the last written size of
        each key, summed, before expiry and overhead; ``ttl_s``: median time to live asked for;
        ``no_ttl_share``: of the writes, how many asked for none. NaN where nothing was written or read.
    concentration : pandas.DataFrame
        ``keys_share``, ``reads_share``: the most-read so much of the read keys get so much of the reads, each 0 to 1.
    """

    shown_as: str
    families: pd.DataFrame
    concentration: pd.DataFrame

    def __str__(self) -> str:
        families = self.families
        if families.empty:
            return f"Keys of {self.shown_as}: none"
        lines = [
            f"Keys of {self.shown_as}: {families['keys'].sum():,} in {len(families):,} famil{'ies' if len(families) > 1 else 'y'}"
        ]
        if len(self.concentration):
            tenth = np.interp(0.1, self.concentration["keys_share"], self.concentration["reads_share"])
            lines.append(f"  reuse     the most-read tenth of the keys gets {tenth:.0%} of the reads")
        if families["stored_bytes"].notna().any():
            lines.append(f"  stored    {families['stored_bytes'].sum() / 1e6:,.1f} MB of values, each key's last one")
        worst = families[families["one_hit_share"].eq(families["one_hit_share"].max()) & families["reads"].gt(0)]
        if len(worst):
            first = worst.iloc[0]
            lines.append(f"  one read  {first['one_hit_share']:.0%} of the keys of {first['family']} were read only once")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<KeyUsage {self.shown_as}: {len(self.families)} families>"


def key_usage(ledger: Ledger) -> KeyUsage:
    """Count how the keys of a ledger are used.

    What was read before the recording began is not known: a key read once in a short recording may be read again after it.
    """
    reads, writes = ledger.reads, ledger.writes[ledger.writes["outcome"].ne("refused")]
    numbers, _ = pd.factorize(pd.concat([reads["key"], writes["key"]], ignore_index=True))
    key = np.split(numbers, [len(reads)])
    by_read = _per_key(reads, key[0])
    by_write = _per_key(writes, key[1])
    written = writes.assign(number=key[1], no_ttl=writes["ttl_ms"].isna())
    last = written.drop_duplicates("number", keep="last").groupby("family", observed=True)["value_bytes"].sum(min_count=1)
    grouped = written.groupby("family", observed=True)
    read_keys, written_keys = (side.groupby("family", observed=True)["count"] for side in (by_read, by_write))
    unread = by_write.assign(unread=~by_write["number"].isin(by_read["number"]))
    all_keys = pd.concat([by_read, by_write]).drop_duplicates("number").groupby("family", observed=True).size()
    table = pd.DataFrame(
        {
            "keys": all_keys,
            "reads": read_keys.sum(),
            "writes": written_keys.sum(),
            "reads_per_key": read_keys.mean(),
            "one_hit_share": by_read.assign(once=by_read["count"].eq(1)).groupby("family", observed=True)["once"].mean(),
            "unread_share": unread.groupby("family", observed=True)["unread"].mean(),
            "value_bytes": grouped["value_bytes"].median(),
            "stored_bytes": last,
            "ttl_s": grouped["ttl_ms"].median() / 1000,
            "no_ttl_share": grouped["no_ttl"].mean(),
        }
    )
    table = table.fillna({"reads": 0, "writes": 0}).astype({"keys": "int64", "reads": "int64", "writes": "int64"})
    table = table.rename_axis("family").reset_index().sort_values(["keys", "family"], ascending=[False, True], ignore_index=True)
    return KeyUsage(shown_as=ledger.shown_as, families=table, concentration=_concentration(by_read["count"].to_numpy()))


def _per_key(rows: pd.DataFrame, number: np.ndarray) -> pd.DataFrame:
    """Return one row per key: ``number``, ``family``, ``count`` of its rows."""
    counts = np.bincount(number) if len(number) else np.zeros(0, np.int64)
    found, first = np.unique(number, return_index=True)
    return pd.DataFrame({"number": found, "family": rows["family"].to_numpy()[first], "count": counts[found]})


def _concentration(counts: np.ndarray) -> pd.DataFrame:
    """Return the Lorenz curve of reads over keys, the most-read first (Lorenz, 1905)."""
    if not len(counts):
        return pd.DataFrame({"keys_share": [], "reads_share": []})
    most = np.concatenate([[0], np.cumsum(np.sort(counts)[::-1])]) / counts.sum()
    keys_share = np.linspace(0, 1, _POINTS)
    return pd.DataFrame({"keys_share": keys_share, "reads_share": np.interp(keys_share, np.linspace(0, 1, len(most)), most)})
