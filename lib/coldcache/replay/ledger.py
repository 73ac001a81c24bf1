"""The miss ledger: every read, its outcome, and the proof that the count is right.

Within an epoch, the reads between the first and the last INFO line in the stream must equal the
difference of ``keyspace_hits`` and ``keyspace_misses`` between these two samples. The residual is
always stated; a number that does not reconcile is itself a finding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from coldcache.case import Case
from coldcache.commands import STRING_WRITES
from coldcache.keys.families import key_families
from coldcache.replay.fill_kernel import FILL_WINDOW_S, answered_reads
from coldcache.replay.inference import KEY_STATES, Inference, infer
from coldcache.replay.order import positions
from coldcache.showing import SelfShowing

EXACT, EVENTS, MONITOR = "exact", "events", "monitor"
_COUNTERS = ["keyspace_hits", "keyspace_misses"]
# Inferred outcomes are counted where bounds, or INFO's count and ours, are so close together: "a few per cent".
_FEW = 0.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Ledger(SelfShowing):
    """Every counted read of a case.

    Attributes
    ----------
    mode : ``exact``, ``events`` or ``monitor``
        How the counted epochs were recorded: the exact ones where there are any, else those of key
        events, else those of commands. Only ``exact`` knows the outcome of every read; in ``events``
        the reads are the misses, hits are INFO's; in ``monitor`` outcomes are inferred.
    windows : pandas.DataFrame, one row per counted epoch, indexed by ``epoch``
        ``node``; ``first``, ``last`` (seq) and ``start``, ``end`` (UTC) of what is counted: from the
        epoch's first to its last INFO sample; of commands alone the whole epoch.
    reads : pandas.DataFrame, one row per look-up that INFO counts, in stream order
        ``t``, ``seq``, ``epoch``, ``node``, ``db``, ``client``, ``command``, ``key``, ``family``,
        ``lookups``; ``outcome`` hit or miss, null where it is not known; ``key_state`` of a miss; ``fill_ms`` time to the write
        that answered it, NaN without one; ``fill_known``: False where the epoch ended before a fill
        could be missed; ``effective`` for a hit: not followed by a rewrite; ``first_touch``: no
        earlier access of the key in the recording; ``in_flight``: a miss after the key's first read
        and before its first write, both in its epoch.
    writes : pandas.DataFrame, one row per write of a key
        ``t``, ``seq``, ``epoch``, ``node``, ``db``, ``key``, ``family``, ``outcome``, ``ttl_ms``,
        ``ttl_form``, ``value_bytes``, ``value_digest``, ``value_format``, ``follows``: outcome of the
        read it answers (``hit``, ``miss``), null where it answers none; ``same_value``: the key's
        write before it in the recording stored the same bytes.
    hits, misses : int or None
        Look-ups in the windows; None where the recording does not tell them. Inferred where `basis` says so.
    unknown : int
        Look-ups recorded whose outcome is not.
    info_hits, info_misses : int or None
        Differences of INFO's counters over the same windows; None without an INFO series.
    uncounted : int or None
        Look-ups that INFO counted outside the windows: in other epochs, and over gaps that the
        server's counters survived. None without an INFO series.
    inference : Inference or None
        Of commands alone: what can be inferred of outcomes, with its bounds.
    """

    shown_as: str
    mode: str
    windows: pd.DataFrame
    reads: pd.DataFrame
    writes: pd.DataFrame
    hits: int | None
    misses: int | None
    unknown: int
    info_hits: int | None
    info_misses: int | None
    uncounted: int | None
    inference: Inference | None = None

    @property
    def basis(self) -> str:
        """Where the hit rate comes from: ``exact``, from key events for every read; ``info``; or ``inferred``."""
        return {EXACT: "exact", EVENTS: "info"}.get(self.mode, "inferred")

    @property
    def knows_outcomes(self) -> bool:
        """Whether each read is known to be a hit or a miss, or inferred well enough to count them."""
        return self.mode == EXACT or (self.mode == MONITOR and self.hits is not None)

    @property
    def total(self) -> int | None:
        """All look-ups of the windows; None where hits are not known."""
        if self.hits is None and self.misses is not None:
            return None
        return (self.hits or 0) + (self.misses or 0) + self.unknown

    @property
    def hit_rate(self) -> float | None:
        """Hits / reads, 0 to 1; None without reads, and where outcomes are not known well enough."""
        return self.hits / self.total if self.total and self.hits is not None else None

    @property
    def hit_rate_bounds(self) -> tuple[float | None, float | None]:
        """The lowest and the highest hit rate that the recording allows, 0 to 1."""
        if not self.total:
            return None, None
        if self.inference is not None:
            return self.inference.hits_low / self.total, self.inference.hits_high / self.total
        if self.mode != EXACT or self.hits is None:
            return self.hit_rate, self.hit_rate
        return self.hit_rate, (self.hits + self.unknown) / self.total

    @property
    def expected(self) -> int | None:
        """Look-ups that the recorded commands make, between INFO's samples; None where commands were not recorded."""
        if self.inference is not None:
            return self.inference.expected
        return self.total if self.mode == EXACT else None

    @property
    def counted(self) -> int | None:
        """Look-ups that INFO counted in the same stretches; None without INFO."""
        if self.inference is not None:
            return self.inference.counted
        return None if self.info_hits is None or self.info_misses is None else self.info_hits + self.info_misses

    @property
    def effective_hit_rate(self) -> float | None:
        """Hits whose value was used / reads; None without reads, and where single hits are not seen."""
        if not self.total or self.hits is None or self.mode != EXACT:
            return None
        useless = self.reads.loc[self.reads["outcome"].eq("hit") & ~self.reads["effective"], "lookups"].sum()
        return (self.hits - int(useless)) / self.total

    @property
    def residual(self) -> int | None:
        """How many look-ups differ from INFO's count, None without INFO.

        Hits and misses together; in ``events`` the misses, in ``monitor`` the sum of the two.
        """
        if self.inference is not None:
            return None if self.inference.counted is None else abs(self.inference.expected - self.inference.counted)
        if self.info_hits is None or self.info_misses is None:
            return None
        return abs(self.info_hits - (self.hits or 0)) + abs(self.info_misses - (self.misses or 0))

    def __str__(self) -> str:
        if self.total == 0:
            lines = [f"Miss ledger of {self.shown_as}: no reads"]
        else:
            lines = [
                f"Miss ledger of {self.shown_as}: {_count(self.total)} reads, {self.basis} basis",
                f"  hits      {_count(self.hits):>10}   INFO {_count(self.info_hits)}",
                f"  misses    {_count(self.misses):>10}   INFO {_count(self.info_misses)}",
                f"  residual  {_count(self.residual):>10}",
                *(
                    [f"  look-ups  {_count(self.expected):>10} expected of the commands, INFO counted {_count(self.counted)}"]
                    if self.expected is not None
                    else []
                ),
                f"  hit rate            {_rate(self.hit_rate)}{self._between()}",
                f"  effective hit rate  {_rate(self.effective_hit_rate)}",
            ]
            if self.unknown and self.mode == EXACT:
                lines.append(f"  caveat    {self.unknown:,} look-ups of OBJECT, whose outcome no event tells")
            if self.mode == EVENTS:
                lines.append("  caveat    only misses were recorded: the hits are INFO's count")
            if self.inference is not None:
                lines.append(
                    "  caveat    only commands were recorded: outcomes are inferred, none is certain but by the key's state"
                )
                lines += [f"  caveat    {text}" for text in self.inference.caveats]
        if self.uncounted:
            lines.append(
                f"  caveat    {self.uncounted:,} look-ups fell into gaps or stretches that were not recorded in full: "
                "INFO counted them, the ledger does not hold them"
            )
        return "\n".join(lines)

    def _between(self) -> str:
        low, high = self.hit_rate_bounds
        return f", between {low:.1%} and {high:.1%}" if self.inference is not None and low is not None else ""

    def __repr__(self) -> str:
        return f"<Ledger {self.shown_as}: {_count(self.hits)} hits, {_count(self.misses)} misses, residual {self.residual}>"

    def by_family(self) -> pd.DataFrame:
        """Return one row per key family, most reads first: ``reads``, ``hit_rate``,
        ``effective_hit_rate``, ``filled_share`` of its misses, ``median_fill_ms``; of inferred
        outcomes also ``hit_rate_low`` and ``hit_rate_high``, which no family's truth lies outside of.

        ``reads`` are the recorded ones, in ``events`` mode the misses; the rates are NaN unless
        every read's outcome is known, or inferred. Single hits are seen to be used in ``exact`` only.
        Misses whose fill the recording may have missed do not count in ``filled_share``.
        """
        miss = self.reads["outcome"].eq("miss")
        reads = self.reads.assign(
            hit=self.reads["outcome"].eq("hit"),
            judged=miss & self.reads["fill_known"],
            useful=self.reads["outcome"].eq("hit") & self.reads["effective"],
            filled=miss & self.reads["fill_ms"].notna(),
        )
        sums = reads.groupby("family", observed=True)[["hit", "judged", "useful", "filled"]].sum()
        count = reads.groupby("family", observed=True).size()
        known = count if self.knows_outcomes else count * np.nan
        seen = count if self.mode == EXACT else count * np.nan
        table = pd.DataFrame(
            {
                "reads": count,
                "hit_rate": sums["hit"] / known,
                "effective_hit_rate": sums["useful"] / seen,
                "filled_share": (sums["filled"] / sums["judged"]).where(sums["judged"] > 0),
                "median_fill_ms": reads[reads["filled"]].groupby("family", observed=True)["fill_ms"].median(),
            }
        )
        if self.inference is not None:
            bounds = self.inference.families.set_index("family")
            for bound in ("low", "high"):
                table[f"hit_rate_{bound}"] = (bounds[f"hits_{bound}"] / bounds["reads"]).reindex(table.index)
        return table.sort_values(["reads", "family"], ascending=[False, True]).reset_index(names="family")


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _rate(share: float | None) -> str:
    return "unknown" if share is None else f"{share:7.1%}"


def miss_ledger(case: Case) -> Ledger:
    """Build the ledger of a case.

    A case without any read gives an empty ledger, whose rates are None.
    """
    accesses = case.accesses
    info = case.table("info")
    mode, windows = _windows(case, info)
    # Reads of the other epochs are paired too: what they touched is no first touch later.
    counted = accesses["epoch"].isin(windows.index)
    inside = accesses["seq"].between(accesses["epoch"].map(windows["first"]), accesses["epoch"].map(windows["last"]))
    accesses = accesses[inside | ~counted]
    keyed = accesses[accesses["key"].notna()]
    families = key_families(keyed["key"])
    inference = infer(accesses, info=info, config=case.table("config"), families=families) if mode == MONITOR else None
    countable = inference is None or settled(inference)
    if inference is not None and countable:
        keyed = _with_inferred(accesses, inference)[accesses["key"].notna()]
    keyed = keyed.assign(family=keyed["key"].map(families).astype("str"))

    ends = accesses.groupby("epoch")["t"].max()
    ends.update(windows["end"])
    reads, writes = _pair_reads_with_writes(keyed[keyed["lookups"] > 0], keyed[keyed["op"].eq("write")], ends)
    reads, writes = (frame[frame["epoch"].isin(windows.index)].reset_index(drop=True) for frame in (reads, writes))
    weights = reads["lookups"].to_numpy()
    outcome = reads["outcome"].astype("str").fillna("unknown")
    counters = info[info["epoch"].isin(windows.index)]
    info_hits, info_misses = (counter_rise(counters, counter) for counter in _COUNTERS)
    seen_hits, misses = (int(weights[outcome.eq(kind)].sum()) for kind in ("hit", "miss"))
    return Ledger(
        shown_as=case.shown_as,
        mode=mode,
        windows=windows,
        reads=reads,
        writes=writes,
        hits=info_hits if mode == EVENTS else seen_hits if countable else None,
        misses=misses if countable else None,
        unknown=int(weights[~outcome.isin(["hit", "miss"])].sum()),
        info_hits=info_hits,
        info_misses=info_misses,
        uncounted=_uncounted(info, windows.index),
        inference=inference,
    )


def settled(inference: Inference) -> bool:
    """Whether so much is known of inferred outcomes that they may be counted: by INFO, or because little is left to infer."""
    if not inference.reads:
        return True
    if inference.counted:
        return abs(inference.expected - inference.counted) <= _FEW * inference.counted
    return inference.hits_high - inference.hits_low <= _FEW * inference.reads


def _with_inferred(accesses: pd.DataFrame, inference: Inference) -> pd.DataFrame:
    """Return the rows with their inferred outcomes."""
    words = np.array(["miss", "hit", None], dtype=object)  # -1, the last one, is no look-up
    missed = (inference.outcome == 0) & (inference.key_state > 0)
    columns = {
        "outcome": words[inference.outcome],
        "outcome_basis": np.array([inference.basis, None], dtype=object)[(inference.outcome < 0).astype(int)],
        "key_state": np.array(KEY_STATES, dtype=object)[np.where(missed, inference.key_state, 0)],
    }
    columns["key_state"][~missed] = None
    return accesses.assign(
        **{name: pd.Series(values, accesses.index, "str").astype("category") for name, values in columns.items()}
    )


def _windows(case: Case, info: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Return the best mode that was recorded and its windows: see ``Ledger.windows``.

    An epoch with fewer than two INFO samples is not counted; if there is no other, it is, whole. Of commands alone, epochs
    are counted whole: where INFO's samples lie is the inference's to know.
    """
    nodes = pd.Series({int(epoch["epoch"]): str(epoch["node"]) for epoch in case.epochs}, dtype="str")
    for marks, least in ((info, 2), (case.accesses, 1)):
        groups = marks.groupby("epoch")
        windows = groups.agg(first=("seq", "min"), last=("seq", "max"), start=("t", "min"), end=("t", "max"))
        windows = windows[groups.size() >= least]
        windows = windows.assign(node=nodes.reindex(windows.index))
        for mode in (EXACT, EVENTS, MONITOR):
            if (found := windows.index.isin(case.epochs_of(mode))).any():
                if mode == MONITOR and marks is info:
                    break
                return mode, windows[found]
    return EXACT, windows.head(0)


def counter_rise(info: pd.DataFrame, counter: str) -> int | None:
    """Return by how much one of INFO's counters rose within epochs, summed over them.

    None where no epoch has two samples of it. A counter that fell (CONFIG RESETSTAT) began again at 0.
    """
    if counter not in info:
        return None
    values = info.sort_values("seq")[["epoch", counter]].dropna()
    steps = values.groupby("epoch")[counter].diff()
    if steps.notna().sum() == 0:
        return None
    return int(steps.where(~steps.lt(0), values[counter]).sum())


def _uncounted(info: pd.DataFrame, counted: pd.Index) -> int | None:
    """Return the look-ups between consecutive samples of a node that no counted epoch holds."""
    if len(info) < 2:
        return None
    info = info.sort_values(["t", "seq"])
    nodes = info.groupby("node", observed=True)
    steps = nodes[_COUNTERS].diff()
    within = info["epoch"].eq(nodes["epoch"].shift()) & info["epoch"].isin(counted)
    continued = (steps >= 0).all(axis=1)
    if "run_id" in info:
        continued &= info["run_id"].eq(nodes["run_id"].shift())
    return int(steps[continued & ~within].sum().sum())


_READ_COLUMNS = [
    "t", "seq", "epoch", "node", "db", "client", "command", "key", "family", "lookups", "outcome", "outcome_basis", "key_state",
]  # fmt: skip
_WRITE_COLUMNS = [
    "t", "seq", "epoch", "node", "db", "client", "command", "key", "family", "lookups", "outcome", "ttl_ms", "ttl_form",
    "condition", "value_bytes", "value_digest", "value_format",
]  # fmt: skip


def _pair_reads_with_writes(reads: pd.DataFrame, writes: pd.DataFrame, ends: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pair every write with the latest unanswered miss of its key, else hit, within FILL_WINDOW_S and its epoch.

    By key and time, not by connection: a pooled or multiplexed client makes the connection mean
    nothing (measured accuracy 0.009). `ends`: time of each epoch's end.
    """
    reads = reads[_READ_COLUMNS].reset_index(drop=True)
    writes = writes[_WRITE_COLUMNS].reset_index(drop=True)
    count_reads = len(reads)
    both = pd.concat([frame[["epoch", "db", "key", "t"]] for frame in (reads, writes)], ignore_index=True)
    stamps = both["t"].astype("int64").to_numpy()  # µs
    is_write = np.arange(len(both)) >= count_reads
    # A read and a write of one command (GETSET, SET … GET): the look-up comes first.
    order = np.lexsort((is_write, np.concatenate(positions(reads, writes))))
    keys = both.astype({"db": "int64"}).groupby(["db", "key"], sort=False).ngroup().to_numpy()
    epochs = both["epoch"].to_numpy()
    groups = pd.DataFrame({"key": keys, "epoch": epochs}).groupby(["key", "epoch"], sort=False).ngroup().to_numpy()
    # GETSET and SET … GET read and write in one command: they answer no read. A refused write
    # changes nothing; only a write of the whole value makes the hit before it useless.
    window_us = int(FILL_WINDOW_S * 1e6)
    first_touch, in_flight = np.zeros(count_reads, dtype=bool), np.zeros(count_reads, dtype=bool)
    follows = np.full(len(writes), -1)
    answered_reads(
        order, keys, groups, epochs.astype("int64"), stamps, reads["outcome"].eq("miss").to_numpy(dtype=bool),
        (writes["lookups"].eq(0) & writes["outcome"].ne("refused")).to_numpy(dtype=bool),
        writes["command"].astype("str").isin(STRING_WRITES).to_numpy(dtype=bool),
        window_us, first_touch, in_flight, follows,
    )  # fmt: skip
    fill_ms = np.full(count_reads, np.nan)
    answering = np.flatnonzero(follows >= 0)
    fill_ms[follows[answering]] = (stamps[count_reads + answering] - stamps[follows[answering]]) / 1000
    outcomes = reads["outcome"].astype("object").to_numpy()
    watched_us = reads["epoch"].map(ends.astype("int64")).to_numpy() - stamps[:count_reads]
    reads = reads.assign(
        fill_ms=fill_ms,
        fill_known=(watched_us >= window_us) | ~np.isnan(fill_ms),
        first_touch=first_touch,
        in_flight=in_flight,
        effective=reads["outcome"].eq("hit").to_numpy() & np.isnan(fill_ms),
    )
    digests = writes["value_digest"].astype("object")
    before = digests.groupby([writes["db"], writes["key"]]).shift()
    writes = writes.assign(same_value=(digests == before) & before.notna())
    writes = writes.assign(follows=pd.Series([outcomes[read] if read >= 0 else None for read in follows], dtype="str"))
    return reads, writes
