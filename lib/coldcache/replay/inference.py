"""What each read of a log of commands got, hit or miss, where no key events tell: inferred, never exact.

Four kinds of evidence, in this order. **State**: every key is followed through its commands, times to
live and flushes (`coldcache.replay.states`); many reads are certain from that alone. **Fills**: a
write soon after a read of its key speaks for a miss, as far as the key family's certain misses are
written again (p(fill)) and its certain hits are not. **Order**: between two writes that could create a key, hits
come first and misses after (`coldcache.replay.estimates`). **INFO**: between two samples, hits and misses
are known in sum. One shift of the odds makes the estimates agree with it over the whole log, a small least
squares within the families' bounds (Deville & Särndal, JASA 87, 1992) in every window.

The bounds rest on state and INFO alone. Two passes over the shards, with what they tell of the whole log between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from coldcache import schema
from coldcache.replay import state_codes as codes
from coldcache.replay.estimates import Model, Whole, chances_of, estimate, projected, sums
from coldcache.replay.reads import Counts, counted, ended, weighed
from coldcache.replay.rows import SLACK_MS, AccessRows, access_rows, longest_times_to_live
from coldcache.replay.states import Reads, TimedReads, family_ttl_us, join_reads, trace_reads
from coldcache.replay.windows import Windows, info_windows, joined_windows
from coldcache.shards.cut import Shards, cut_frame
from coldcache.shards.scratch import constant
from coldcache.shards.shard import Shard
from coldcache.shards.workers import Workers
from coldcache.showing import SelfShowing

BASIS = "inferred"
HIT, MISS, NO_READ = 1, 0, -1
# What `key_state` numbers; the first is for what is not known, and for hits.
KEY_STATES = ("", "expired", "evicted", "deleted", "flushed", "never written")
_SAMPLE = 300_000  # reads from which parameters are estimated, all those of some keys
_BINS = 1024  # of chances, where the reads of several shards are put in order

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Census = Mapping[tuple[str, int], set[str]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Inference(SelfShowing):
    """What the reads of a log got, as far as it can be inferred. Never exact: see `basis`.

    Attributes
    ----------
    families : pandas.DataFrame, one row per family with reads, most reads first
        ``family``; ``reads``: look-ups; ``hits``: estimate; ``hits_low``, ``hits_high``: bounds that hold, evictions
        included; ``hits_low_unevicted``: lower bound if no key was evicted that INFO did not count;
        ``p_fill``: share of its certain misses that a write answered, NaN without any.
    windows : pandas.DataFrame, one row per stretch between INFO samples that holds look-ups
        ``epoch``, ``start``, ``end`` (UTC); ``expected`` look-ups from the command table; ``counted`` by INFO,
        ``info_hits``: null where INFO does not say; ``hits``: estimate.
    reads : int
        Look-ups in the log.
    hits : float
        Estimate; `hits_low`, `hits_high`, `hits_low_unevicted` as for a family.
    expected, counted : int, int or None
        Look-ups of the command table and of INFO over the stretches between INFO's samples; more than a few
        per cent apart, lines are missing. None without INFO.
    certain : int
        Look-ups whose outcome the state of the key alone decides.
    caveats : tuple of str
    """

    families: pd.DataFrame
    windows: pd.DataFrame
    reads: int
    hits: float
    hits_low: int
    hits_high: int
    hits_low_unevicted: int
    expected: int
    counted: int | None
    certain: int
    caveats: tuple[str, ...] = ()

    @property
    def basis(self) -> str:
        """Always ``inferred``."""
        return BASIS

    @property
    def hit_rate(self) -> float | None:
        """Estimated hits / reads, 0 to 1; None without reads."""
        return self.hits / self.reads if self.reads else None

    @property
    def certain_share(self) -> float | None:
        """Share of the reads whose outcome is certain, 0 to 1; None without reads."""
        return self.certain / self.reads if self.reads else None

    def __str__(self) -> str:
        if not self.reads:
            return "Inferred outcomes: no reads"
        counted = "unknown" if self.counted is None else f"{self.counted:,}"
        lines = [
            f"Inferred outcomes of {self.reads:,} reads",
            f"  hit rate  {self.hit_rate:7.2%}",
            f"  between   {self.hits_low / self.reads:7.2%} and {self.hits_high / self.reads:.2%}",
            f"  certain   {self.certain_share:7.1%} of the reads",
            f"  look-ups  {self.expected:,} expected, INFO counted {counted}",
        ]
        return "\n".join(lines + [f"  caveat    {text}" for text in self.caveats])

    def __repr__(self) -> str:
        return f"<Inference of {self.reads} reads: {self.hits_low} to {self.hits_high} hits>"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class InferredRows(Inference):
    """The same, with what each row of a frame got.

    Attributes
    ----------
    outcome : int8, one element a row of the frame
        1 hit, 0 miss, -1 no look-up. The likelier one, but so many of each as INFO counted.
    p_hit : float32, likewise
        Chance of a hit, 0 to 1; NaN without a look-up.
    sure : bool, likewise
        The state of the key alone decides it.
    key_state : int8, likewise
        What had become of the key of a miss: index in `KEY_STATES`, 0 where it is not known.
    """

    outcome: npt.NDArray[np.int8]
    p_hit: npt.NDArray[np.float32]
    sure: Bools
    key_state: npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Look-ups by window and family, float64 (windows, families)."""

    reads: Floats
    hits: Floats  # certain
    misses: Floats  # certain

    def __add__(self, other: _Cells) -> _Cells:
        return _Cells(self.reads + other.reads, self.hits + other.hits, self.misses + other.misses)

    @classmethod
    def of(cls, counts: Counts) -> _Cells:
        """Return a shard's."""
        return cls(*np.moveaxis(counts.cells, 2, 0).astype(np.float64))


@dataclass(frozen=True, slots=True, eq=False)
class _Lives:
    """Lives of keys that an eviction may have ended, with the same family and as many reads, and how many there are of these."""

    family: Ints
    reads: Floats
    count: Ints

    @classmethod
    def of(cls, counts: Counts) -> _Lives:
        """Return a shard's."""
        return cls(counts.life_family, counts.life_reads.astype(np.float64), np.ones_like(counts.life_family)).alike()

    def alike(self) -> _Lives:
        """Return them with those that are alike counted together."""
        most = int(self.reads.max(initial=0)) + 1
        both, number = np.unique(self.family * most + self.reads.astype(np.int64), return_inverse=True)
        family, reads = np.divmod(both, most)
        return _Lives(family, reads.astype(np.float64), np.bincount(number, self.count, len(both)).astype(np.int64))

    def cost(self, evictions: int, families: int) -> tuple[Floats, float]:
        """Return the reads of so many lives, the ones with the most, for each family alone and for all together."""
        lost = np.zeros(families)
        order = np.lexsort((-self.reads, self.family))
        family, reads, count = self.family[order], self.reads[order], self.count[order]
        before = np.cumsum(count) - count
        before -= before[np.searchsorted(family, family)]
        np.add.at(lost, family, reads * np.clip(evictions - before, 0, count))
        order = np.argsort(-self.reads, kind="stable")
        reads, count = self.reads[order], self.count[order]
        return lost, float((reads * np.clip(evictions - (np.cumsum(count) - count), 0, count)).sum())


@dataclass(frozen=True, slots=True, eq=False)
class _Traced:
    """What following the keys of a shard told."""

    cells: _Cells
    lives: _Lives
    unbounded: Floats  # weight of the reads, by family, of keys that were there unless evicted, if nobody counted evictions
    unbounded_rows: int
    longest_ttl: Floats
    writes: Ints
    writes_with_ttl: Ints
    answered: Ints  # by family
    sample: TimedReads


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """What judging the reads of a shard told."""

    estimate: Floats  # hits by window and family
    doubt: Floats
    cell: Ints  # window and class of chance, the likeliest first, of the reads that are open
    weight: Floats  # of the reads of each of these
    filled: Ints  # certain misses that a write answered, by family
    missed: Ints  # certain misses of which it can be told


@dataclass(frozen=True, slots=True, eq=False)
class Verdicts:
    """How the reads of every shard are decided: see :meth:`of`.

    Attributes
    ----------
    windows : Windows
    anchored : bool, one a window
        Of which INFO's hits are known.
    model : Model
    quotas : for each shard, its classes of chance and how many reads of each hit
    """

    windows: Windows
    anchored: Bools
    model: Model
    quotas: tuple[tuple[Ints, Floats], ...]

    def of(self, shards: Shards, number: int) -> tuple[Reads, npt.NDArray[np.int8], Floats, npt.NDArray[np.uint8]]:
        """Return the reads of a shard, and of each its outcome, its chance of a hit, and what had become of the key of a miss."""
        reads = Reads(**shards.scratch.take(f"reads-{number}"))
        p_hit = shards.scratch.take(f"chances-{number}")["p_hit"].copy()
        outcome = (p_hit > 0.5).astype(np.int8)
        if self.anchored.any():
            self._agree_with_info(reads, number, outcome, p_hit)
        return reads, outcome, p_hit, ended(reads, outcome == HIT, *self._unnamed())

    def _agree_with_info(self, reads: Reads, number: int, outcome: npt.NDArray[np.int8], p_hit: Floats) -> None:
        """Make the likeliest of each window its hits, as many as INFO says: those in most doubt give way."""
        chosen = np.flatnonzero((reads.seen > codes.CERTAIN_HIT) & self.anchored[reads.window])
        order = chosen[np.lexsort((-p_hit[chosen], reads.window[chosen]))]
        weights = reads.lookups[order].astype(float)
        cell = _class_of(reads.window[order], p_hit[order])
        taken = np.cumsum(weights)
        taken -= (taken - weights)[np.searchsorted(cell, cell)]
        cells, quota = self.quotas[number]
        outcome[order] = taken - weights / 2 < quota[np.searchsorted(cells, cell)]
        p_hit[order] = np.where(outcome[order] == HIT, np.maximum(p_hit[order], 0.5), np.minimum(p_hit[order], 0.5))

    def _unnamed(self) -> tuple[npt.NDArray[np.uint8], int]:
        """Return what became of keys that no line had named: by family, those that a read had found; and the others."""
        evicting = bool((self.windows.evicted % codes.UNBOUNDED).any())
        mortal = np.isfinite(self.model.ttl_us)
        gone = np.where(mortal, codes.EXPIRED, codes.EVICTED if evicting else codes.UNKNOWN).astype(np.uint8)
        return gone, codes.UNKNOWN if evicting else codes.NEVER_WRITTEN


def _class_of(window: npt.NDArray[np.int32], p_hit: Floats) -> Ints:
    """Return window and class of chance as one number, the likeliest first."""
    return window.astype(np.int64) * _BINS + (_BINS - 1 - np.minimum((p_hit * _BINS).astype(np.int64), _BINS - 1))


def infer_shards(
    shards: Shards, workers: Workers, info: pd.DataFrame | None = None, config: pd.DataFrame | None = None,
    census: Callable[[int, AccessRows], npt.NDArray[np.uint8]] | None = None, slack_ms: float = SLACK_MS,
) -> tuple[Inference, Verdicts]:  # fmt: skip
    """Infer what the reads of all shards got.

    Parameters
    ----------
    shards, workers
        The log, and who does the work.
    info, config : pandas.DataFrame, optional
        As for :func:`coldcache.replay.windows.info_windows`.
    census : callable, optional
        Says what is known of each key at the start, see :func:`coldcache.replay.states.trace_reads`.
    slack_ms : float
        As for :func:`coldcache.replay.states.trace_reads`.

    Returns
    -------
    (inference, verdicts)
        Of the log; and what decides each read of a shard.
    """
    raw = info_windows(shards.epochs, info, config)
    windows, joined = joined_windows(raw, len(shards.families))
    step = max(1, -(-shards.lookup_rows // _SAMPLE))
    numbers = range(shards.count)
    traced = workers.map("following the keys", partial(_trace, shards, raw, joined, windows, step, census, slack_ms), numbers)
    cells = traced[0].cells
    for shard in traced[1:]:
        cells = cells + shard.cells
    info_hits = _info_hits(windows, cells)
    anchored = ~np.isnan(info_hits)
    is_open = (cells.reads - cells.hits - cells.misses)[anchored].sum(axis=0)
    ttl_us = family_ttl_us(
        np.max([shard.longest_ttl for shard in traced], axis=0),
        np.sum([shard.writes for shard in traced], axis=0),
        np.sum([shard.writes_with_ttl for shard in traced], axis=0),
    )
    whole = Whole(
        open_reads=is_open,
        open_hits=float((info_hits - cells.hits.sum(axis=1))[anchored].sum()) if anchored.any() else None,
        unwritten=np.sum([shard.answered for shard in traced], axis=0) == 0,
        ttl_us=ttl_us,
        evicting=bool(windows.evicted.any()),
    )
    model = estimate(join_reads([shard.sample for shard in traced]), windows, anchored, whole)
    found = workers.map("judging the reads", partial(_judge, shards, windows, anchored, model), numbers)
    hits = np.sum([shard.estimate for shard in found], axis=0)
    if anchored.any():
        doubt = np.sum([shard.doubt for shard in found], axis=0)
        high = (cells.reads - cells.misses)[anchored]
        hits[anchored] = projected(hits[anchored], doubt[anchored], cells.hits[anchored], high, info_hits[anchored])
    verdicts = Verdicts(windows, anchored, model, _quotas(found, np.nan_to_num(info_hits) - cells.hits.sum(axis=1)))
    return _result(shards.families, windows, cells, hits, traced, found), verdicts


def _trace(
    shards: Shards, raw: Windows, joined: npt.NDArray[np.int32], windows: Windows, step: int,
    census: Callable[[int, AccessRows], npt.NDArray[np.uint8]] | None, slack_ms: float, number: int,
) -> _Traced:  # fmt: skip
    """Follow the keys of a shard."""
    shard = shards.shard(number)
    rows = access_rows(shard, raw)
    reads, life = trace_reads(rows, raw, census=census(number, rows) if census else None, slack_ms=slack_ms)
    if len(windows.epoch) < len(raw.epoch):
        reads = replace(reads, window=joined[reads.window])
    _put_reads(shards, number, reads)
    counts = counted(reads, life, len(windows.epoch), len(shards.families))
    return _Traced(
        _Cells.of(counts),
        _Lives.of(counts),
        counts.unbounded.astype(np.float64),
        int(counts.unbounded_reads.sum()),
        *longest_times_to_live(rows),
        counts.answered,
        _sampled(shard, reads, step),
    )


def _sampled(shard: Shard, reads: TimedReads, step: int) -> TimedReads:
    """Return all reads of one key in `step`."""
    if step == 1:
        return reads
    key = shard.key[reads.row] >> np.uint64(20)
    chosen = np.flatnonzero(key // np.uint64(step) * np.uint64(step) == key)  # numpy divides three times as fast as it takes %
    columns = {field.name: getattr(reads, field.name)[chosen] for field in fields(TimedReads)}
    # The read before one of them is one of them, for it is of the same key.
    number = np.searchsorted(chosen, columns["before"]).astype(np.int32)
    columns["before"] = np.where(columns["before"] >= 0, number, -1).astype(np.int32)
    return TimedReads(**columns)


def _put_reads(shards: Shards, number: int, reads: TimedReads) -> None:
    """Keep what is known of the reads of a shard: what is asked for again, and, apart, what they are judged by."""
    columns = {field.name: getattr(reads, field.name) for field in fields(TimedReads)}
    for name in ("window", "lookups"):
        values = columns[name]
        if len(values) and values.min() == values.max():
            columns[name] = constant(values[0], len(values))
    kept = {field.name for field in fields(Reads)}
    shards.scratch.put(f"reads-{number}", {name: values for name, values in columns.items() if name in kept})
    shards.scratch.put(f"times-{number}", {name: values for name, values in columns.items() if name not in kept})


def _judge(shards: Shards, windows: Windows, anchored: Bools, model: Model, number: int) -> _Judged:
    """Say how likely each read of a shard hit."""
    times = shards.scratch.take(f"times-{number}")
    reads = TimedReads(**shards.scratch.take(f"reads-{number}"), **times)
    chance, told = chances_of(reads, windows, model)
    p_hit, hits, doubt = weighed(reads, chance, len(windows.epoch), len(shards.families))
    shards.scratch.put(f"chances-{number}", {"p_hit": p_hit})
    classes, weight = _classes(reads, p_hit, anchored)
    return _Judged(hits, doubt, classes, weight, told.filled, told.misses)


def _classes(reads: Reads, p_hit: Floats, anchored: Bools) -> tuple[Ints, Floats]:
    """Return the classes of chance of the reads that INFO decides, and the weight of each."""
    if not anchored.any():
        return np.empty(0, np.int64), np.empty(0)
    chosen = (reads.seen > codes.CERTAIN_HIT) & anchored[reads.window]
    weight_of = sums(_class_of(reads.window[chosen], p_hit[chosen]), reads.lookups[chosen].astype(float), 0)
    classes = np.flatnonzero(weight_of)
    return classes, weight_of[classes]


def _quotas(judged: Sequence[_Judged], hits: Floats) -> tuple[tuple[Ints, Floats], ...]:
    """Return how many reads of each class of chance of each shard hit, if each window has so many open hits."""
    cell = np.concatenate([shard.cell for shard in judged])
    weight = np.concatenate([shard.weight for shard in judged])
    order = np.argsort(cell, kind="stable")  # of one class, the first shard's come first
    window = cell[order] // _BINS
    before = np.cumsum(weight[order]) - weight[order]
    before -= before[np.searchsorted(window, window)]
    quota = np.empty(len(cell))
    quota[order] = np.clip(hits[window] - before, 0, weight[order])
    bounds = np.cumsum([len(shard.cell) for shard in judged])[:-1]
    return tuple(zip((shard.cell for shard in judged), np.split(quota, bounds), strict=True))


def _info_hits(windows: Windows, cells: _Cells) -> Floats:
    """Return INFO's hits among the look-ups of each window, within what is certain; NaN where INFO does not say.

    Where INFO counted more or fewer look-ups than the lines make, its hit rate is taken.
    """
    expected = cells.reads.sum(axis=1)
    counted = windows.hits + windows.misses
    told = windows.anchored & (counted > 0) & (expected > 0)
    rate = np.divide(windows.hits, counted, out=np.full(len(counted), np.nan), where=told)
    hits = np.where(counted == expected, windows.hits, np.rint(rate * expected))
    return np.where(told, np.clip(hits, cells.hits.sum(axis=1), expected - cells.misses.sum(axis=1)), np.nan)


def _result(
    names: Sequence[str], windows: Windows, cells: _Cells, hits: Floats, traced: Sequence[_Traced], judged: Sequence[_Judged]
) -> Inference:  # fmt: skip
    """Put the result together."""
    low, high, low_unevicted, totals = _bounds(windows, cells, traced)
    filled, missed = (np.sum([getattr(shard, name) for shard in judged], axis=0) for name in ("filled", "missed"))
    table = pd.DataFrame(
        {
            "family": pd.array(list(names), dtype="str"),
            "reads": cells.reads.sum(axis=0).astype(np.int64),
            "hits": np.clip(hits.sum(axis=0), low, high),
            "hits_low": low,
            "hits_high": high,
            "hits_low_unevicted": low_unevicted,
            "p_fill": np.divide(filled, missed, out=np.full(len(names), np.nan), where=missed > 0),
        }
    )
    table = table[table["reads"] > 0].sort_values(["reads", "family"], ascending=[False, True], ignore_index=True)
    shown = _windows_table(windows, cells, hits)
    told = shown["counted"].notna()
    expected, counted = int(shown.loc[told, "expected"].sum()), int(shown.loc[told, "counted"].sum())
    reads = int(cells.reads.sum())
    return Inference(
        families=table,
        windows=shown,
        reads=reads,
        hits=float(np.clip(hits.sum(), totals[0], totals[1])),
        hits_low=totals[0],
        hits_high=totals[1],
        hits_low_unevicted=totals[2],
        expected=expected if told.any() else reads,
        counted=counted if told.any() else None,
        certain=int((cells.hits + cells.misses).sum()),
        caveats=_caveats(sum(shard.unbounded_rows for shard in traced), expected, counted, informed=bool(told.any())),
    )


def _windows_table(windows: Windows, cells: _Cells, hits: Floats) -> pd.DataFrame:
    """Return the table of the stretches, see `Inference.windows`."""
    start, end = (pd.to_datetime(stamps, unit="us", utc=True).as_unit("us") for stamps in (windows.start_us, windows.end_us))
    anchored = windows.anchored
    table = pd.DataFrame(
        {
            "epoch": windows.epoch,
            "start": start,
            "end": end,
            "expected": cells.reads.sum(axis=1).astype(np.int64),
            "counted": pd.array(np.where(anchored, windows.hits + windows.misses, 0), dtype="Int64"),
            "info_hits": pd.array(np.where(anchored, windows.hits, 0), dtype="Int64"),
            "hits": hits.sum(axis=1),
        }
    )
    table.loc[~anchored, ["counted", "info_hits"]] = pd.NA
    return table[table["expected"].gt(0) | table["counted"].fillna(0).gt(0)].reset_index(drop=True)


def _bounds(
    windows: Windows, cells: _Cells, traced: Sequence[_Traced]
) -> tuple[Ints, Ints, Ints, tuple[int, int, int]]:  # fmt: skip
    """Return each family's least and most hits, the least if nothing uncounted was evicted, and the same in all.

    An eviction ends one life of a key: the misses it makes are reads of that life. So many evictions as INFO
    counted cost at most the reads of so many lives, the ones with the most reads.
    """
    count = cells.reads.shape[1]
    columns = [np.concatenate([getattr(shard.lives, field.name) for shard in traced]) for field in fields(_Lives)]
    lives = _Lives(*columns).alike()
    evictions = int(windows.evicted[windows.evicted < codes.UNBOUNDED].sum())
    kept = sums(lives.family, lives.reads * lives.count, count)
    lost, all_lost = lives.cost(evictions, count)
    certain = cells.hits.sum(axis=0)
    low = certain + kept - lost
    unevicted = low + np.sum([shard.unbounded for shard in traced], axis=0)
    high = (cells.reads - cells.misses).sum(axis=0)
    least, most = float(certain.sum() + kept.sum() - all_lost), float(high.sum())
    info_low, info_high, info_least, info_most = _bounds_by_info(windows, cells)
    low, high = np.maximum(low, info_low), np.minimum(high, info_high)
    least, most = max(least, info_least, low.sum()), min(most, info_most, high.sum())
    unevicted = np.minimum(np.maximum(unevicted, low), high)
    low_all = int(min(max(least, unevicted.sum()), most))
    whole = [column.astype(np.int64) for column in (low, high, unevicted)]
    return whole[0], whole[1], whole[2], (int(least), int(most), low_all)


def _bounds_by_info(windows: Windows, cells: _Cells) -> tuple[Floats, Floats, float, float]:
    """Return each family's least and most hits by what INFO leaves to it in every window, and the same in all."""
    low, high = cells.hits, cells.reads - cells.misses
    expected, counted = cells.reads.sum(axis=1), windows.hits + windows.misses
    apart = np.abs(expected - counted)
    told = windows.anchored
    least = np.where(told, np.maximum(windows.hits - apart, low.sum(axis=1)), low.sum(axis=1))
    most = np.where(told, np.minimum(windows.hits + apart, high.sum(axis=1)), high.sum(axis=1))
    others_low, others_high = low.sum(axis=1)[:, None] - low, high.sum(axis=1)[:, None] - high
    family_low = np.maximum(low, least[:, None] - others_high).sum(axis=0)
    family_high = np.minimum(high, most[:, None] - others_low).sum(axis=0)
    return family_low, family_high, float(least.sum()), float(most.sum())


def _caveats(risk: int, expected: int, counted: int, *, informed: bool) -> tuple[str, ...]:
    texts = []
    if informed and abs(expected - counted) > 0.02 * max(counted, 1):
        texts.append(f"INFO counted {counted:,} look-ups, the lines make {expected:,}: lines or servers are missing")
    if not informed:
        texts.append("no INFO: misses that nothing fills, and evictions, cannot be told from hits")
    if risk:
        texts.append(
            f"{risk:,} reads of keys that were there unless evicted, and nobody counted evictions: no part of the lower bound"
        )
    return tuple(texts)


def infer(
    accesses: pd.DataFrame,
    *,
    info: pd.DataFrame | None = None,
    config: pd.DataFrame | None = None,
    census: Census | None = None,
    slack_ms: float = SLACK_MS,
) -> InferredRows:
    """Infer what every read of a log of commands got.

    Parameters
    ----------
    accesses : pandas.DataFrame
        ``schema.ACCESSES`` in stream order; its outcomes, if it has any, are not looked at.
    info, config : pandas.DataFrame, optional
        As for :func:`coldcache.replay.windows.info_windows`.
    census : mapping of (node, db) to set of keys, optional
        All keys that were there when the log began, for each database that was listed.
    slack_ms : float
        As for :func:`coldcache.replay.states.trace_reads`.

    Returns
    -------
    InferredRows
        Its arrays have one element for each row of `accesses`, in the same order.
    """
    workers = Workers()
    shards = cut_frame(schema.to_arrow(accesses, schema.ACCESSES), workers)
    known = partial(_census_of, shards, accesses, census) if census is not None else None
    try:
        inference, verdicts = infer_shards(shards, workers, info, config, known, slack_ms)
        found = InferredRows(
            **{field.name: getattr(inference, field.name) for field in fields(Inference)},
            outcome=np.full(len(accesses), NO_READ, np.int8),
            p_hit=np.full(len(accesses), np.nan, np.float32),
            sure=np.zeros(len(accesses), np.bool_),
            key_state=np.zeros(len(accesses), np.int8),
        )
        for number in range(shards.count):
            reads, outcome, p_hit, state = verdicts.of(shards, number)
            place = shards.shard(number).place[reads.row]
            found.outcome[place], found.p_hit[place], found.key_state[place] = outcome, p_hit, state
            found.sure[place] = reads.seen <= codes.CERTAIN_HIT
        return found
    finally:
        shards.scratch.remove()


def _census_of(shards: Shards, accesses: pd.DataFrame, census: Census, number: int, rows: AccessRows) -> npt.NDArray[np.uint8]:
    """Return what a census says of every key of a shard's rows."""
    known = np.full(rows.keys, codes.NO_CENSUS, np.uint8)
    own = (rows.row >= 0) & (rows.key >= 0)
    numbers, first = np.unique(rows.key[own], return_index=True)
    named = accesses.iloc[shards.shard(number).place[rows.row[own][first]]]
    for key, node, db, name in zip(numbers, named["node"].astype("str"), named["db"], named["key"], strict=True):
        if (node, int(db)) in census:
            known[key] = codes.CENSUS_PRESENT if name in census[node, int(db)] else codes.CENSUS_ABSENT
    return known
