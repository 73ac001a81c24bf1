"""Everything on one clock: hit rate, misses by cause, Redis's memory, the process's memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, reduce
from operator import add

import numpy as np
import pandas as pd

from coldcache.case import Case
from coldcache.causes.diagnosis import Diagnosis, MissCauses
from coldcache.errors import ParameterTypeError
from coldcache.replay.ledger import EXACT
from coldcache.replay.replayed import Replayed
from coldcache.showing import SelfShowing

_MOST_BINS = 5_000  # a figure stays under 20,000 points
_SHIFTED = 199
_P_LIMIT = 0.01
_LEAST_BINS = 5  # a segment shorter than this is not a level
_HOLDS_S = 2.0  # how long a node's memory stands for what follows, where several are summed: INFO comes every second

SERIES = {
    "hit_rate": "hit rate",
    "redis_bytes": "Redis memory",
    "rss_bytes": "process RSS",
    "heap_bytes": "process heap",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Timeline(SelfShowing):
    """All series on a common grid of time.

    Attributes
    ----------
    bins : pandas.DataFrame, one row per bin, indexed by bin start ``t`` (UTC)
        ``reads``; ``hit_rate``, ``effective_hit_rate`` (0 to 1, NaN in a bin without reads);
        ``redis_bytes``, ``rss_bytes``, ``heap_bytes`` (mean of the samples in the bin, NaN without).
        ``redis_bytes`` is the sum over the nodes. Where not every read's outcome was recorded,
        ``reads`` and ``hit_rate`` are INFO's and ``effective_hit_rate`` is NaN.
    misses : pandas.DataFrame, same index, one column per cause, commonest first: misses in the bin
    changes : pandas.DataFrame, one row per change point: ``t``, ``series``, ``before``, ``after``
    gaps : pandas.DataFrame, one row per gap of the recording: ``start``, ``end`` (UTC), ``reason``
    bin_s : float
    missing : what the case lacks for a full picture
    """

    bins: pd.DataFrame
    misses: pd.DataFrame
    changes: pd.DataFrame
    gaps: pd.DataFrame
    bin_s: float
    missing: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"Timeline: {len(self.bins)} bins of {self.bin_s:g} s, {int(self.bins['reads'].sum()):,} reads"]
        for row in self.changes.to_dict("records"):
            lines.append(
                f"  {row['t']:%H:%M:%S}  {SERIES[row['series']]}: "
                f"{_level(row['series'], row['before'])} -> {_level(row['series'], row['after'])}"
            )
        if self.changes.empty:
            lines.append("  no change point: no series jumps from one level to another")
        lines += [
            f"  gap       {row['start']:%H:%M:%S} to {row['end']:%H:%M:%S}: {row['reason']}"
            for row in self.gaps.to_dict("records")
        ]
        lines += [f"  missing   {what}" for what in self.missing]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Timeline {len(self.bins)} bins of {self.bin_s:g} s>"


def _level(series: str, value: float) -> str:
    return f"{value:.1%}" if series == "hit_rate" else f"{value / 1e6:.1f} MB"


def joined_timeline(case: Case, diagnosis: Diagnosis, *, bin_s: float = 1.0) -> Timeline:
    """Join the case's series on time.

    Process samples are moved to the server's clock by the offset that the recording measured.

    Raises
    ------
    ParameterTypeError
        `bin_s` is not a number of at least 0.1.
    """
    if isinstance(bin_s, bool) or not isinstance(bin_s, int | float) or not bin_s >= 0.1:
        raise ParameterTypeError(f"bin_s should be a number of seconds, at least 0.1, but got {bin_s!r}.")
    span_s = (case.end - case.start).total_seconds()
    bin_s = max(float(bin_s), span_s / _MOST_BINS)
    # Whole bins: what is left over at the end joins the last one.
    count = max(1, round(span_s / bin_s))
    start = case.start
    index = pd.DatetimeIndex(start + pd.to_timedelta(np.arange(count) * bin_s, unit="s"), name="t").as_unit("us")
    grid = _Grid(start.value // 1000, bin_s, count)
    binned = reduce(add, diagnosis.ledger.replays.map("drawing the timeline", partial(_binned, grid, diagnosis.miss_causes)))
    info = case.table("info")
    useful = np.full(count, np.nan)  # but in exact recordings, single hits are not seen to be used
    if diagnosis.ledger.knows_outcomes:
        total, hits = binned[0], binned[1]
        if diagnosis.ledger.mode == EXACT:
            useful = binned[2]
    else:
        total, hits = _counted_by_info(info, start, bin_s, count)
    heap, process = case.table("heap_snapshots"), case.own_process
    heap = heap.assign(t=case.on_server_clock(heap["t"]))
    process = process.assign(t=case.on_server_clock(process["t"]))
    with np.errstate(invalid="ignore"):
        bins = pd.DataFrame(
            {
                "reads": total,
                "hit_rate": hits / total,
                "effective_hit_rate": useful / total,
                "redis_bytes": _redis_bytes(info, start, bin_s, count),
                "rss_bytes": _means(process, "rss_bytes", start, bin_s, count),
                "heap_bytes": _means(heap, "heap_bytes", start, bin_s, count),
            },
            index=index,
        )
    return Timeline(
        bins=bins,
        misses=_misses_by_cause(diagnosis, binned[3:], index),
        changes=_changes(bins),
        gaps=_gaps(case),
        bin_s=bin_s,
        missing=tuple(case.missing("info", "process", "heap_intervals")),
    )


@dataclass(frozen=True, slots=True)
class _Grid:
    """Bins of time: the start of the first one, µs; how long they are, s; and how many."""

    start_us: int
    bin_s: float
    count: int


def _binned(grid: _Grid, causes: MissCauses, replayed: Replayed) -> np.ndarray:
    """Return, of a shard, the reads of every bin, the hits, those used, and the misses of every cause; (rows, bins)."""
    rows = np.flatnonzero(replayed.is_read)
    seconds = (replayed.shard.t_us[rows] - grid.start_us) / 1e6
    place = np.clip((seconds / grid.bin_s).astype(int), 0, grid.count - 1)
    label = causes.of(replayed)[rows]

    def counted(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(place[chosen], minlength=grid.count)

    kinds = [np.ones(len(rows), bool), replayed.is_hit[rows], replayed.is_useful[rows]]
    return np.array([counted(chosen) for chosen in (*kinds, *(label == number for number in range(len(causes.names))))])


def _places(t: pd.Series, start: pd.Timestamp, bin_s: float, count: int) -> np.ndarray:
    seconds = ((t - start) / pd.Timedelta(1, "s")).to_numpy()
    return np.clip((seconds / bin_s).astype(int), 0, count - 1)


def _means(samples: pd.DataFrame, column: str, start: pd.Timestamp, bin_s: float, count: int) -> np.ndarray:
    end = start + pd.Timedelta(count * bin_s, "s")
    samples = samples[(samples["t"] >= start) & (samples["t"] < end)]
    if samples.empty:
        return np.full(count, np.nan)
    place = _places(samples["t"], start, bin_s, count)
    number = np.bincount(place, minlength=count)
    with np.errstate(invalid="ignore"):
        return np.bincount(place, weights=samples[column], minlength=count) / number


def _redis_bytes(info: pd.DataFrame, start: pd.Timestamp, bin_s: float, count: int) -> np.ndarray:
    """Return the memory of all nodes together; NaN in a bin where one of them is not known."""
    nodes = [_means(samples, "used_memory", start, bin_s, count) for _, samples in info.groupby("node", observed=True)]
    if len(nodes) > 1:
        # Samples of several nodes need not fall into the same bins.
        held = int(_HOLDS_S / bin_s)
        nodes = [pd.Series(node).ffill(limit=held).to_numpy() if held else node for node in nodes]
    return np.sum(nodes, axis=0) if nodes else np.full(count, np.nan)


def _counted_by_info(info: pd.DataFrame, start: pd.Timestamp, bin_s: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return reads and hits per bin from INFO: the difference of two samples of an epoch falls into the middle between."""
    info = info.sort_values("seq")
    epochs = info.groupby("epoch")
    steps = epochs[["keyspace_hits", "keyspace_misses"]].diff().assign(t=info["t"] - epochs["t"].diff() / 2)
    steps = steps[(steps[["keyspace_hits", "keyspace_misses"]] >= 0).all(axis=1)]
    place = _places(steps["t"], start, bin_s, count)
    hits, misses = (
        np.bincount(place, weights=steps[counter], minlength=count).astype(int)
        for counter in ("keyspace_hits", "keyspace_misses")
    )
    return hits + misses, hits


def _gaps(case: Case) -> pd.DataFrame:
    gaps = pd.DataFrame(case.gaps, columns=["start", "end", "reason"])
    return gaps.assign(**{edge: pd.to_datetime(gaps[edge], utc=True).dt.as_unit("us") for edge in ("start", "end")})


def _misses_by_cause(diagnosis: Diagnosis, by_cause: np.ndarray, index: pd.DatetimeIndex) -> pd.DataFrame:
    names = diagnosis.miss_causes.names
    return pd.DataFrame({cause: by_cause[names.index(cause)] for cause in diagnosis.misses["cause"]}, index=index)


def _changes(bins: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for series in ("hit_rate", "rss_bytes", "redis_bytes"):
        values = bins[series].dropna()
        for at in change_points(values.to_numpy()):
            rows.append(
                (
                    values.index[at],
                    series,
                    float(values.iloc[:at].tail(_LEAST_BINS).mean()),
                    float(values.iloc[at : at + _LEAST_BINS].mean()),
                )
            )
    changes = pd.DataFrame(rows, columns=["t", "series", "before", "after"])
    return changes.sort_values(["t", "series"], ignore_index=True)


def change_points(values: np.ndarray, *, most: int = 3) -> list[int]:
    """Return where a series steps from one level to another, in order; a steady slope has none.

    CUSUM argmax with binary segmentation; a cut must beat 199 permutations of the residuals
    (p < 0.01), and the step must be larger than what a straight line explains. Measured
    elsewhere: at most one bin off in 60 cases, as good as PELT.
    """
    found: list[int] = []
    segments = [(0, len(values))]
    rng = np.random.default_rng(0)
    while segments and len(found) < most:
        low, high = segments.pop(0)
        cut = _cut(values[low:high], rng)
        if cut is not None:
            found.append(low + cut)
            segments += [(low, low + cut), (low + cut, high)]
    return sorted(found)


def _cut(values: np.ndarray, rng: np.random.Generator) -> int | None:
    count = len(values)
    if count < 2 * _LEAST_BINS or np.ptp(values) == 0:
        return None
    # Steps, not slopes: a step fit must leave half the error of the best straight line at most.
    x = np.arange(count)
    line = values - np.polyval(np.polyfit(x, values, 1), x)
    deviations = np.cumsum(values - values.mean())[:-1]
    inside = slice(_LEAST_BINS - 1, count - _LEAST_BINS)
    cut = int(np.argmax(np.abs(deviations[inside]))) + _LEAST_BINS
    step_error = values[:cut].var() * cut + values[cut:].var() * (count - cut)
    if step_error > 0.5 * (line**2).sum():
        return None
    strength = np.abs(deviations).max()
    shuffled = rng.permuted(np.tile(values - values.mean(), (_SHIFTED, 1)), axis=1)
    beaten = (np.abs(np.cumsum(shuffled, axis=1)).max(axis=1) >= strength).sum()
    return cut if (1 + beaten) / (1 + _SHIFTED) < _P_LIMIT else None
