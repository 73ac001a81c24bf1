"""The miss ledger: every read, its outcome, and the proof that the count is right.

Within an epoch, the reads between the first and the last INFO line in the stream must equal the
difference of ``keyspace_hits`` and ``keyspace_misses`` between these two samples. The residual is
always stated; a number that does not reconcile is itself a finding.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import Any

import numpy as np
import pandas as pd

from coldcache.case import Case
from coldcache.replay.fills import FILL_KNOWN, FIRST_TOUCH, IN_FLIGHT, NONE, READ, SAME_VALUE
from coldcache.replay.inference import BASIS, KEY_STATES, Inference, infer_shards
from coldcache.replay.replayed import Plan, Replayed, Replays
from coldcache.replay.tally import Tally
from coldcache.shards.cut import EpochSpan, Shards, cut
from coldcache.shards.workers import Workers
from coldcache.showing import SelfShowing

EXACT, EVENTS, MONITOR = "exact", "events", "monitor"
_COUNTERS = ["keyspace_hits", "keyspace_misses"]
# Inferred outcomes are counted where bounds, or INFO's count and ours, are so close together: "a few per cent".
_FEW = 0.05


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
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
    tally : Tally
        What its reads and writes add up to, by family.
    replays : Replays
        All of it, a shard at a time: for what is more than can be held in memory.
    """

    case: Case
    mode: str
    windows: pd.DataFrame
    tally: Tally
    replays: Replays
    hits: int | None
    misses: int | None
    unknown: int
    info_hits: int | None
    info_misses: int | None
    uncounted: int | None
    inference: Inference | None = None

    @property
    def shown_as(self) -> str:
        """What the user calls the case."""
        return self.case.shown_as

    @property
    def families(self) -> tuple[str, ...]:
        """The key families, in the order of `tally`."""
        return self.replays.shards.families

    @cached_property
    def reads(self) -> pd.DataFrame:
        """Every look-up that INFO counts, one row each, in stream order. All of them in memory: half a kilobyte each.

        ``t``, ``seq``, ``epoch``, ``node``, ``db``, ``client``, ``command``, ``key``, ``family``,
        ``lookups``; ``outcome`` hit or miss, null where it is not known; ``key_state`` of a miss; ``fill_ms`` time to the write
        that answered it, NaN without one; ``fill_known``: False where the epoch ended before a fill
        could be missed; ``effective`` for a hit: not followed by a rewrite; ``first_touch``: no
        earlier access of the key in the recording; ``in_flight``: a miss after the key's first read
        and before its first write, both in its epoch.
        """
        return _frame(self, _read_columns, _READ_COLUMNS)

    @cached_property
    def writes(self) -> pd.DataFrame:
        """Every write of a key, one row each, in stream order; like `reads`.

        ``t``, ``seq``, ``epoch``, ``node``, ``db``, ``key``, ``family``, ``outcome``, ``ttl_ms``,
        ``ttl_form``, ``value_bytes``, ``value_digest``, ``value_format``, ``follows``: outcome of the
        read it answers (``hit``, ``miss``), null where it answers none; ``same_value``: the key's
        write before it in the recording stored the same bytes.
        """
        return _frame(self, _write_columns, _WRITE_COLUMNS)

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
        useless = int((self.tally.hit_lookups - self.tally.useful_lookups).sum())
        return (self.hits - useless) / self.total

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
        tally = self.tally
        count = tally.reads.astype(float)
        known = count if self.knows_outcomes else count * np.nan
        seen = count if self.mode == EXACT else count * np.nan
        names = pd.Index(self.families, dtype="str", name="family")
        fills = pd.Series(tally.fill_ms).groupby(tally.fill_family).median().reindex(range(len(names)))
        with np.errstate(invalid="ignore"):
            table = pd.DataFrame(
                {
                    "reads": tally.reads,
                    "hit_rate": tally.hits / known,
                    "effective_hit_rate": tally.useful / seen,
                    "filled_share": np.where(tally.judged > 0, tally.filled / tally.judged, np.nan),
                    "median_fill_ms": fills.to_numpy(),
                },
                index=names,
            )
        table = table[table["reads"] > 0]
        if self.inference is not None:
            bounds = self.inference.families.set_index("family")
            for bound in ("low", "high"):
                table[f"hit_rate_{bound}"] = (bounds[f"hits_{bound}"] / bounds["reads"]).reindex(table.index)
        return table.sort_values(["reads", "family"], ascending=[False, True]).reset_index(names="family")


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _rate(share: float | None) -> str:
    return "unknown" if share is None else f"{share:7.1%}"


def miss_ledger(case: Case, workers: Workers | None = None) -> Ledger:
    """Build the ledger of a case.

    A case without any read gives an empty ledger, whose rates are None.

    Parameters
    ----------
    case : Case
    workers : Workers, optional
        Who does the work; this machine's cores by default.

    Raises
    ------
    DamagedCaseError
        A table cannot be read.
    """
    workers = workers or Workers()
    info = case.table("info")
    mode, windows = _counted_windows(case, info)
    epochs = [int(epoch) for epoch in windows.index]
    keep = {epoch: (int(first), int(last)) for epoch, first, last in zip(epochs, windows["first"], windows["last"], strict=True)}
    shards = cut(case, workers, keep)
    try:
        if windows.empty:
            mode, windows = _whole_epochs(case, shards.epochs)
        ledger = _ledger(case, workers, shards, mode, windows, info)
    except BaseException:
        shards.scratch.remove()
        raise
    weakref.finalize(ledger, shards.scratch.remove)
    return ledger


def _ledger(case: Case, workers: Workers, shards: Shards, mode: str, windows: pd.DataFrame, info: pd.DataFrame) -> Ledger:
    """Count the reads of the shards."""
    inference, verdicts = None, None
    if mode == MONITOR:
        inference, verdicts = infer_shards(shards, workers, info, case.table("config"))
    countable = inference is None or settled(inference)
    ends = {epoch: span.end_us for epoch, span in shards.epochs.items()}
    counted = [int(epoch) for epoch in windows.index]
    ends |= {epoch: end.value // 1000 for epoch, end in zip(counted, windows["end"], strict=True)}
    # Reads of the other epochs are paired too: what they touched is no first touch later.
    plan = Plan(tuple(counted), ends, verdicts if countable else None)
    replays = Replays(shards, plan, workers)
    tally = reduce(add, replays.map("counting", Tally.of))
    counters = info[info["epoch"].isin(windows.index)]
    info_hits, info_misses = (counter_rise(counters, counter) for counter in _COUNTERS)
    seen_hits, misses = int(tally.hit_lookups.sum()), int(tally.miss_lookups.sum())
    return Ledger(
        case=case,
        mode=mode,
        windows=windows,
        tally=tally,
        replays=replays,
        hits=info_hits if mode == EVENTS else seen_hits if countable else None,
        misses=misses if countable else None,
        unknown=int(tally.lookups.sum()) - seen_hits - misses,
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


def _counted_windows(case: Case, info: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Return the best mode that was recorded between INFO samples and its windows, see ``Ledger.windows``; else none.

    An epoch with fewer than two INFO samples is not counted; if there is no other, it is, whole. Of commands alone, epochs
    are counted whole: where INFO's samples lie is the inference's to know.
    """
    groups = info.groupby("epoch")
    windows = groups.agg(first=("seq", "min"), last=("seq", "max"), start=("t", "min"), end=("t", "max"))
    windows = windows[groups.size() >= 2]
    windows = windows.assign(node=_nodes(case).reindex(windows.index))
    return _best(case, windows, EXACT, EVENTS)


def _whole_epochs(case: Case, epochs: dict[int, EpochSpan]) -> tuple[str, pd.DataFrame]:
    """Return the best mode of which rows were recorded, and its epochs as windows."""
    index = pd.Index(list(epochs), dtype="int32", name="epoch")
    spans = list(epochs.values())
    start, end = (
        pd.to_datetime([getattr(span, edge) for span in spans], unit="us", utc=True).as_unit("us")
        for edge in ("start_us", "end_us")
    )
    windows = pd.DataFrame(
        {
            "first": np.array([span.first_seq for span in spans], np.int64),
            "last": np.array([span.last_seq for span in spans], np.int64),
            "start": start,
            "end": end,
            "node": _nodes(case).reindex(index).to_numpy(),
        },
        index=index,
    )
    return _best(case, windows, EXACT, EVENTS, MONITOR)


def _best(case: Case, windows: pd.DataFrame, *modes: str) -> tuple[str, pd.DataFrame]:
    """Return the first of the modes that any window was recorded in, and its windows; none of them without."""
    for mode in modes:
        if (found := windows.index.isin(case.epochs_of(mode))).any():
            return mode, windows[found]
    return EXACT, windows.head(0)


def _nodes(case: Case) -> pd.Series:
    """Return the node of every epoch."""
    return pd.Series({int(epoch["epoch"]): str(epoch["node"]) for epoch in case.epochs}, dtype="str")


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


def _frame(ledger: Ledger, columns_of: Any, names: list[str]) -> pd.DataFrame:
    """Return rows of the case's accesses with what was found of them, in stream order; of several nodes, in order of time."""
    found = ledger.replays.map("writing the table", columns_of)
    order = np.argsort(np.concatenate([shard["place"] for shard in found]), kind="stable")
    joined = {name: np.concatenate([shard[name] for shard in found])[order] for name in found[0]}
    stored = [name for name in names if name != "family"]
    table = ledger.case.table("accesses", stored).iloc[joined.pop("place")].reset_index(drop=True)
    table.insert(
        names.index("family"), "family", pd.array(np.array(ledger.families, dtype=object)[joined.pop("family")], dtype="str")
    )
    if ledger.replays.plan.verdicts is not None and "outcome_basis" in names:
        table = table.assign(**_inferred_columns(joined["outcome"], joined["state"]))
    table = table.assign(**{name: values for name, values in joined.items() if name not in ("outcome", "state")})
    several = table["node"].nunique() > 1
    return table.sort_values(["t", "seq"], kind="stable", ignore_index=True) if several else table


def _inferred_columns(outcome: np.ndarray, state: np.ndarray) -> dict[str, pd.Series]:
    """Return inferred outcomes as the columns of a table."""
    words = np.array(["miss", "hit", None], dtype=object)  # -1, the last one, is not known
    columns = {
        "outcome": words[outcome],
        "outcome_basis": np.array([BASIS, None], dtype=object)[(outcome < 0).astype(int)],
        "key_state": np.array([None, *KEY_STATES[1:]], dtype=object)[state],
    }
    return {name: pd.Series(values, dtype="str").astype("category") for name, values in columns.items()}


def _read_columns(replayed: Replayed) -> dict[str, np.ndarray]:
    """Return what is known of the reads of a shard."""
    rows = np.flatnonzero(replayed.is_read)
    answer = replayed.pairs.partner[rows]
    return {
        "place": replayed.shard.place[rows],
        "family": replayed.shard.family[rows],
        "outcome": replayed.outcome[rows],
        "state": replayed.state[rows],
        "fill_ms": np.where(answer >= 0, replayed.age_us(np.maximum(answer, 0), rows) / 1000, np.nan),
        "fill_known": replayed.is_found(FILL_KNOWN)[rows],
        "first_touch": replayed.is_found(FIRST_TOUCH)[rows],
        "in_flight": replayed.is_found(IN_FLIGHT)[rows],
        "effective": replayed.is_useful[rows],
    }


def _write_columns(replayed: Replayed) -> dict[str, np.ndarray]:
    """Return what is known of the writes of a shard."""
    rows = np.flatnonzero(replayed.is_write)
    # A row that reads, too, answers no read.
    follows = np.where(replayed.marks[rows] & READ, NONE, replayed.pairs.partner[rows])
    answered = np.where(follows >= 0, replayed.outcome[np.maximum(follows, 0)], -1)
    return {
        "place": replayed.shard.place[rows],
        "family": replayed.shard.family[rows],
        "same_value": replayed.is_found(SAME_VALUE)[rows],
        "follows": np.array(["miss", "hit", None], dtype=object)[answered],
    }
