"""The miss ledger: every read, its outcome, and the proof that the count is right.

The reads between the first and the last INFO line in the stream must equal the difference of
``keyspace_hits`` and ``keyspace_misses`` between these two samples. The residual is always
stated; a number that does not reconcile is itself a finding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from coldcache.case import Case
from coldcache.commands import STRING_WRITES
from coldcache.keys.families import key_families
from coldcache.showing import SelfShowing

# A write that follows a read of the same key within this time is taken to answer it. Ten times
# the slowest backend of an image analyzer; the lab's takes 20 ms.
FILL_WINDOW_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Ledger(SelfShowing):
    """Every counted read of a case.

    Attributes
    ----------
    reads : pandas.DataFrame, one row per look-up that INFO counts, in stream order
        ``t``, ``seq``, ``db``, ``client``, ``command``, ``key``, ``family``, ``lookups``;
        ``outcome`` hit or miss; ``key_state`` of a miss; ``fill_ms`` time to the write that
        answered it, NaN without one; ``effective`` for a hit: not followed by a rewrite;
        ``first_touch``: no earlier read of the key in the recording; ``in_flight``: a miss after
        the key's first read and before its first write.
    writes : pandas.DataFrame, one row per write of a key
        ``t``, ``seq``, ``db``, ``key``, ``family``, ``outcome``, ``ttl_ms``, ``ttl_form``,
        ``value_bytes``, ``value_digest``, ``value_format``, ``follows``: outcome of the read it
        answers (``hit``, ``miss``), null where it answers none; ``same_value``: the key's write
        before it in the recording stored the same bytes.
    hits, misses : int
        Look-ups between the first and the last INFO sample.
    info_hits, info_misses : int or None
        Differences of INFO's counters between these samples; None without an INFO series.
    """

    shown_as: str
    basis: str
    reads: pd.DataFrame
    writes: pd.DataFrame
    hits: int
    misses: int
    unknown: int
    info_hits: int | None
    info_misses: int | None

    @property
    def total(self) -> int:
        """All look-ups of the window."""
        return self.hits + self.misses + self.unknown

    @property
    def hit_rate(self) -> float | None:
        """Hits / reads, 0 to 1; None without reads."""
        return self.hits / self.total if self.total else None

    @property
    def effective_hit_rate(self) -> float | None:
        """Hits whose value was used / reads; None without reads."""
        if not self.total:
            return None
        useless = self.reads.loc[self.reads["outcome"].eq("hit") & ~self.reads["effective"], "lookups"].sum()
        return (self.hits - int(useless)) / self.total

    @property
    def residual(self) -> int | None:
        """How many look-ups differ from INFO's count, hits and misses together; None without INFO."""
        if self.info_hits is None or self.info_misses is None:
            return None
        return abs(self.info_hits - self.hits) + abs(self.info_misses - self.misses)

    def __str__(self) -> str:
        if not self.total:
            return f"Miss ledger of {self.shown_as}: no reads"
        lines = [
            f"Miss ledger of {self.shown_as}: {self.total:,} reads, {self.basis} basis",
            f"  hits      {self.hits:>10,}   INFO {_count(self.info_hits)}",
            f"  misses    {self.misses:>10,}   INFO {_count(self.info_misses)}",
            f"  residual  {_count(self.residual):>10}",
            f"  hit rate            {self.hit_rate:7.1%}",
            f"  effective hit rate  {self.effective_hit_rate:7.1%}",
        ]
        if self.unknown:
            lines.append(f"  caveat    {self.unknown:,} look-ups of OBJECT, whose outcome no event tells")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Ledger {self.shown_as}: {self.hits} hits, {self.misses} misses, residual {self.residual}>"

    def by_family(self) -> pd.DataFrame:
        """Return one row per key family, most reads first: ``reads``, ``hit_rate``,
        ``effective_hit_rate``, ``filled_share`` of its misses, ``median_fill_ms``.
        """
        reads = self.reads.assign(
            hit=self.reads["outcome"].eq("hit"),
            miss=self.reads["outcome"].eq("miss"),
            useful=self.reads["outcome"].eq("hit") & self.reads["effective"],
            filled=self.reads["outcome"].eq("miss") & self.reads["fill_ms"].notna(),
        )
        sums = reads.groupby("family", observed=True)[["hit", "miss", "useful", "filled"]].sum()
        count = reads.groupby("family", observed=True).size()
        table = pd.DataFrame(
            {
                "reads": count,
                "hit_rate": sums["hit"] / count,
                "effective_hit_rate": sums["useful"] / count,
                "filled_share": (sums["filled"] / sums["miss"]).where(sums["miss"] > 0),
                "median_fill_ms": reads[reads["filled"]].groupby("family", observed=True)["fill_ms"].median(),
            }
        )
        return table.sort_values(["reads", "family"], ascending=[False, True]).reset_index(names="family")


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def miss_ledger(case: Case) -> Ledger:
    """Build the ledger of a case.

    A case without any read gives an empty ledger, whose rates are None.
    """
    accesses = case.accesses
    info = case.table("info")
    if len(info) >= 2:
        window = accesses["seq"].between(info["seq"].iloc[0], info["seq"].iloc[-1])
        accesses = accesses[window]
    keyed = accesses[accesses["key"].notna()]
    families = key_families(keyed["key"])
    keyed = keyed.assign(family=keyed["key"].map(families).astype("str"))

    reads = keyed[keyed["lookups"] > 0]
    writes = keyed[keyed["op"].eq("write")]
    reads, writes = _pair_reads_with_writes(reads, writes)
    weights = reads["lookups"].to_numpy()
    outcome = reads["outcome"].astype("str").fillna("unknown")
    return Ledger(
        shown_as=case.shown_as,
        basis=case.basis,
        reads=reads,
        writes=writes,
        hits=int(weights[outcome.eq("hit")].sum()),
        misses=int(weights[outcome.eq("miss")].sum()),
        unknown=int(weights[~outcome.isin(["hit", "miss"])].sum()),
        info_hits=_delta(info, "keyspace_hits"),
        info_misses=_delta(info, "keyspace_misses"),
    )


def _delta(info: pd.DataFrame, counter: str) -> int | None:
    return int(info[counter].iloc[-1] - info[counter].iloc[0]) if len(info) >= 2 else None


_READ_COLUMNS = ["t", "seq", "db", "client", "command", "key", "family", "lookups", "outcome", "outcome_basis", "key_state"]
_WRITE_COLUMNS = [
    "t", "seq", "db", "client", "command", "key", "family", "lookups", "outcome", "ttl_ms", "ttl_form", "condition",
    "value_bytes", "value_digest", "value_format",
]  # fmt: skip


def _pair_reads_with_writes(reads: pd.DataFrame, writes: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pair every write with the latest unanswered miss of its key, else hit, within FILL_WINDOW_S.

    By key and time, not by connection: a pooled or multiplexed client makes the connection mean
    nothing (measured accuracy 0.009).
    """
    reads = reads[_READ_COLUMNS].reset_index(drop=True)
    writes = writes[_WRITE_COLUMNS].reset_index(drop=True)
    count_reads = len(reads)
    both = pd.concat(
        [
            pd.DataFrame({"db": frame["db"], "key": frame["key"], "seq": frame["seq"], "t": frame["t"], "write": is_write})
            for frame, is_write in ((reads, False), (writes, True))
        ],
        ignore_index=True,
    )
    stamps = both["t"].astype("int64").to_numpy()  # µs
    # A read and a write of one command (GETSET, SET … GET): the look-up comes first.
    order = np.lexsort((both["write"], both["seq"]))
    groups = both[["db", "key"]].astype({"db": "int64"}).groupby(["db", "key"], sort=False).ngroup().to_numpy()
    is_write = both["write"].to_numpy()
    is_miss = reads["outcome"].eq("miss").to_numpy()
    # GETSET and SET … GET read and write in one command: they answer no read. A refused write
    # changes nothing; only a write of the whole value makes the hit before it useless.
    answers = (writes["lookups"].eq(0) & writes["outcome"].ne("refused")).to_numpy()
    overwrites = writes["command"].astype("str").isin(STRING_WRITES).to_numpy()

    fill_ms = np.full(count_reads, np.nan)
    first_touch = np.zeros(count_reads, dtype=bool)
    in_flight = np.zeros(count_reads, dtype=bool)
    follows: list[int] = [-1] * len(writes)
    # Reads that no write has answered yet, by key: misses and hits apart. A write answers a miss
    # first: of two workers that missed one key, the second's write may come after another's hit.
    waiting: dict[int, tuple[list[int], list[int]]] = {}
    written: set[int] = set()
    window_us = int(FILL_WINDOW_S * 1e6)
    for at in order:
        group = int(groups[at])
        if not is_write[at]:
            first_touch[at] = group not in waiting
            in_flight[at] = is_miss[at] and not first_touch[at] and group not in written
            waiting.setdefault(group, ([], []))[0 if is_miss[at] else 1].append(int(at))
            if not is_miss[at]:
                written.add(group)  # it was there: a later miss is no longer the first filling
            continue
        written.add(group)
        if not answers[at - count_reads]:
            continue
        stacks = waiting.setdefault(group, ([], []))
        for unanswered in stacks if overwrites[at - count_reads] else stacks[:1]:
            if unanswered and stamps[at] - stamps[unanswered[-1]] <= window_us:
                read = unanswered.pop()
                fill_ms[read] = (stamps[at] - stamps[read]) / 1000
                follows[at - count_reads] = read
                break
            unanswered.clear()
    outcomes = reads["outcome"].astype("object").to_numpy()
    reads = reads.assign(
        fill_ms=fill_ms,
        first_touch=first_touch,
        in_flight=in_flight,
        effective=reads["outcome"].eq("hit").to_numpy() & np.isnan(fill_ms),
    )
    digests = writes["value_digest"].astype("object")
    before = digests.groupby([writes["db"], writes["key"]]).shift()
    writes = writes.assign(same_value=(digests == before) & before.notna())
    writes = writes.assign(follows=pd.Series([outcomes[read] if read >= 0 else None for read in follows], dtype="str"))
    return reads, writes
