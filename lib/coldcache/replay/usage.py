"""How keys are used: how many there are, how large, how often one is read again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from coldcache.replay.ledger import Ledger
from coldcache.replay.replayed import Replayed
from coldcache.shards.shard import NULL
from coldcache.showing import SelfShowing

_POINTS = 101  # of the curve: whole per cents
_MOST_DRAWN = 200_000  # writes of a shard, to take medians of
_SUMS = ["keys", "reads", "writes", "read_keys", "once", "written_keys", "unread", "sized_keys", "stored_bytes", "no_ttl"]


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
    shards = ledger.replays.map("counting keys", _used)
    sums = sum(shard.sums for shard in shards)
    names = pd.Index(ledger.families, dtype="str", name="family")
    by_family = pd.DataFrame(sums, index=names, columns=_SUMS)
    whole = by_family[by_family["keys"] > 0]
    drawn = pd.DataFrame(np.concatenate([shard.drawn for shard in shards]), columns=["family", "value_bytes", "ttl_ms"])
    medians = drawn.groupby("family").median().reindex(range(len(names))).set_axis(names).loc[whole.index]

    def share(part: str, of: str) -> pd.Series:
        return (whole[part] / whole[of]).where(whole[of] > 0)

    table = pd.DataFrame(
        {
            "keys": whole["keys"].astype("int64"),
            "reads": whole["reads"].astype("int64"),
            "writes": whole["writes"].astype("int64"),
            "reads_per_key": share("reads", "read_keys"),
            "one_hit_share": share("once", "read_keys"),
            "unread_share": share("unread", "written_keys"),
            "value_bytes": medians["value_bytes"],
            "stored_bytes": whole["stored_bytes"].where(whole["sized_keys"] > 0),
            "ttl_s": medians["ttl_ms"] / 1000,
            "no_ttl_share": share("no_ttl", "writes"),
        }
    )
    table = table.reset_index().sort_values(["keys", "family"], ascending=[False, True], ignore_index=True)
    counts = np.concatenate([shard.read_counts for shard in shards])
    often = np.bincount(counts[:, 0], counts[:, 1]) if len(counts) else np.zeros(0)
    return KeyUsage(shown_as=ledger.shown_as, families=table, concentration=_concentration(often))


@dataclass(frozen=True, slots=True, eq=False)
class _Used:
    """How the keys of a shard are used: sums by family; pairs of how often a key is read, and how many are; some writes."""

    sums: np.ndarray
    read_counts: np.ndarray
    drawn: np.ndarray


def _used(replayed: Replayed) -> _Used:
    shard, count = replayed.shard, len(replayed.shard.families)
    read, written = replayed.is_read, replayed.is_done
    name, names = shard.names
    reads, writes = (np.bincount(name[chosen], minlength=names) for chosen in (read, written))
    family, last = np.zeros(names, np.int64), np.full(names, -1, np.int64)
    used = np.flatnonzero(read | written)
    family[name[used]] = shard.family[used]
    # Of a key's writes the last one stays: they are in the order of the stream.
    last[name[written]] = shard.value_bytes[written]
    sized = last >= 0
    no_ttl = shard.ttl_ms == NULL

    def keys(chosen: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(family[chosen], None if weights is None else weights[chosen], count)

    sums = {
        "keys": keys(reads + writes > 0), "reads": keys(reads > 0, reads), "writes": keys(writes > 0, writes),
        "read_keys": keys(reads > 0), "once": keys(reads == 1), "written_keys": keys(writes > 0),
        "unread": keys((writes > 0) & (reads == 0)), "sized_keys": keys(sized), "stored_bytes": keys(sized, last),
        "no_ttl": np.bincount(shard.family[written & no_ttl], minlength=count),
    }  # fmt: skip
    drawn = np.flatnonzero(written)
    drawn = drawn[:: max(1, -(-len(drawn) // _MOST_DRAWN))]
    value_bytes = np.where(shard.value_bytes[drawn] < 0, np.nan, shard.value_bytes[drawn].astype(float))
    ttl_ms = np.where(no_ttl[drawn], np.nan, shard.ttl_ms[drawn].astype(float))
    often, how_many = np.unique(reads[reads > 0], return_counts=True)
    return _Used(
        np.column_stack([sums[name] for name in _SUMS]).astype(float),
        np.column_stack([often, how_many]),
        np.column_stack([shard.family[drawn].astype(float), value_bytes, ttl_ms]),
    )


def _concentration(often: np.ndarray) -> pd.DataFrame:
    """Return the Lorenz curve of reads over keys, the most-read first (Lorenz, 1905); `often`: keys by their number of reads."""
    if not often.sum():
        return pd.DataFrame({"keys_share": [], "reads_share": []})
    number = np.flatnonzero(often)[::-1]
    keys, reads = (np.r_[0, np.cumsum(column)] for column in (often[number], often[number] * number))
    keys_share = np.linspace(0, 1, _POINTS)
    return pd.DataFrame({"keys_share": keys_share, "reads_share": np.interp(keys_share, keys / keys[-1], reads / reads[-1])})
