"""Did it happen? What an exact recording shows of a fault, counted apart from any diagnosis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from coldcache.case import Case


@dataclass(frozen=True)
class Recorded:
    """A recording of the lab and what the analyzer counted itself."""

    case: Case
    counts: dict[str, int]

    @cached_property
    def accesses(self) -> pd.DataFrame:
        """The accesses, with plain columns and each key with its database as ``name``."""
        table = self.case.accesses
        labels = {name: table[name].astype("str") for name in ("command", "op", "outcome", "key_state", "ttl_form", "client")}
        return table.assign(**labels, name=table["db"].astype("str") + " " + table["key"].astype("str"))

    @cached_property
    def hits(self) -> pd.DataFrame:
        """Reads that hit."""
        return self.accesses[self.accesses["outcome"].eq("hit")]

    @cached_property
    def misses(self) -> pd.DataFrame:
        """Reads that missed."""
        return self.accesses[self.accesses["outcome"].eq("miss")]

    @cached_property
    def writes(self) -> pd.DataFrame:
        """Writes that were stored."""
        return self.accesses[self.accesses["outcome"].eq("written")]


Proof = Callable[[Recorded], int]


def reads(recorded: Recorded) -> int:
    """Count reads."""
    return len(recorded.hits) + len(recorded.misses)


def misses(recorded: Recorded) -> int:
    """Count misses."""
    return len(recorded.misses)


def unread_writes(recorded: Recorded) -> int:
    """Count keys that were written and never read under the same name."""
    read = pd.concat([recorded.hits["name"], recorded.misses["name"]])
    return int((~recorded.writes["name"].drop_duplicates().isin(read)).sum())


def values_under_another_key(recorded: Recorded) -> int:
    """Count writes of a value that had been written before under another key."""
    digests = recorded.writes.drop_duplicates(["value_digest", "name"])["value_digest"].dropna()
    return int(digests.duplicated().sum())


def changed_values(recorded: Recorded) -> int:
    """Count writes that put another value into a key."""
    written = recorded.writes.dropna(subset=["value_digest"])
    before = written.groupby("name")["value_digest"].shift()
    return int((before.notna() & before.ne(written["value_digest"])).sum())


def repeated_values(recorded: Recorded) -> int:
    """Count writes of a key that held the same value."""
    return int(recorded.writes.dropna(subset=["value_digest"]).duplicated(["name", "value_digest"]).sum())


def refused_writes(recorded: Recorded) -> int:
    """Count writes that the recording shows and that were not stored."""
    return int((recorded.accesses["op"].eq("write") & recorded.accesses["outcome"].eq("refused")).sum())


def missed(key_state: str) -> Proof:
    """Return what counts misses of keys that were in a state: expired, evicted, deleted or flushed."""
    return lambda recorded: int(recorded.misses["key_state"].eq(key_state).sum())


def written(form: str, *, least_ms: int | None = None, most_ms: int | None = None) -> Proof:
    """Return what counts writes with a form of time to live, such as ``EX``, of a length."""

    def count(recorded: Recorded) -> int:
        asked = recorded.accesses[recorded.accesses["ttl_form"].eq(form)]["ttl_ms"]
        return int(asked.between(least_ms if least_ms is not None else asked.min(), most_ms or asked.max()).sum())

    return count


def lost_ttls(recorded: Recorded) -> int:
    """Count writes that left a key without the time to live it had."""
    stored = recorded.accesses["outcome"].eq("written") | recorded.accesses["command"].eq("GETSET")
    mine = recorded.accesses[stored & recorded.accesses["command"].isin(["SET", "GETSET"])]
    had = mine.groupby("name")["ttl_ms"].shift().notna()
    return int((had & mine["ttl_ms"].isna()).sum())


def immortal(recorded: Recorded) -> int:
    """Count plain SETs without a time to live."""
    return int((recorded.writes["command"].eq("SET") & recorded.writes["ttl_ms"].isna()).sum())


def rose(counter: str) -> Proof:
    """Return what tells by how much one of INFO's counters rose between the first and the last sample."""

    def rise(recorded: Recorded) -> int:
        samples = recorded.case.table("info")[counter].astype("int64")
        return int(samples.iloc[-1] - samples.iloc[0])

    return rise


def most(gauge: str) -> Proof:
    """Return what tells the highest value of one of INFO's gauges."""
    return lambda recorded: int(recorded.case.table("info")[gauge].astype("int64").max())


def errors(prefix: str) -> Proof:
    """Return what counts replies with an error, such as ``OOM``."""

    def count(recorded: Recorded) -> int:
        samples = recorded.case.table("errorstats")
        mine = samples[samples["error"].astype("str").eq(prefix)]
        before = mine[mine["t"].eq(recorded.case.table("info")["t"].min())]  # none, if it had not happened yet
        return int(mine["count"].max() - before["count"].sum()) if len(mine) else 0

    return count


def commands(*names: str) -> Proof:
    """Return what counts calls of commands."""
    return lambda recorded: int(recorded.accesses["command"].isin(names).sum())


def values(value_format: str) -> Proof:
    """Return what counts written values of a class, see :mod:`coldcache.payloads`."""
    return lambda recorded: int(recorded.accesses["value_format"].astype("str").str.startswith(value_format).sum())


def bytes_of(prefix: str) -> Proof:
    """Return what tells how many per cent of the bytes written went to keys that begin so."""

    def share(recorded: Recorded) -> int:
        sizes = recorded.writes["value_bytes"].fillna(0)
        return int(100 * sizes[recorded.writes["key"].str.startswith(prefix)].sum() / max(1, sizes.sum()))

    return share


def swelling(recorded: Recorded) -> int:
    """Tell how many times as large the values of the last third are as those of the first."""
    sizes = recorded.writes["value_bytes"].dropna()
    third = max(1, len(sizes) // 3)
    return int(sizes.iloc[-third:].mean() / sizes.iloc[:third].mean())


def unfilled_misses(recorded: Recorded) -> int:
    """Count misses of keys that nobody ever writes, beyond the first of each key."""
    missed_keys = recorded.misses["name"]
    never = ~missed_keys.isin(recorded.writes["name"])
    return int((never & missed_keys.duplicated()).sum())


def recomputed_at_once(recorded: Recorded) -> int:
    """Count writes of a key within half a second of another write of it."""
    stamps = recorded.writes.groupby("name")["t"].diff()
    return int(stamps.lt(pd.Timedelta("500ms")).sum())


def writes_without_read(recorded: Recorded) -> int:
    """Count rewrites of keys that are never read."""
    read = pd.concat([recorded.hits["name"], recorded.misses["name"]])
    mine = recorded.writes[~recorded.writes["name"].isin(read)]
    return int(mine["name"].duplicated().sum())


def restarts(recorded: Recorded) -> int:
    """Count restarts of the server."""
    return int(recorded.case.table("info")["run_id"].nunique()) - 1


def gaps(recorded: Recorded) -> int:
    """Count the recording's gaps."""
    return len(recorded.case.gaps)


def single_reads(recorded: Recorded) -> int:
    """Tell how many per cent of the keys that are read are read once."""
    read = pd.concat([recorded.hits["name"], recorded.misses["name"]])
    return int(100 * read.value_counts().eq(1).mean())


def kept(recorded: Recorded) -> int:
    """Count what the analyzer itself says it keeps."""
    return recorded.counts["kept"]


def steady(recorded: Recorded) -> int:
    """Tell the share of reads that hit, in per cent."""
    return int(100 * len(recorded.hits) / max(1, reads(recorded)))
