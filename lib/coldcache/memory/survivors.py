"""Survivors: bytes allocated in a time bucket and never freed, by the line that allocated them.

RSS and total heap follow caches, arenas and the collector; survivors do not. Measured with four
threads and eight key families: survivors give R² .995 and the right suspect, RSS .08 to .56 and
the wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from coldcache.case import Case
from coldcache.replay.ledger import Ledger
from coldcache.replay.replayed import Replayed
from coldcache.showing import SelfShowing

TENTHS = 10
_WARM_UP = 0.25  # share of the recording that is not judged
_TAIL = 0.05  # work in flight at the end looks like survivors
_LEAST_BYTES = 256 * 1024  # smaller survivors are noise: connection buffers, imports
_LEAST_RATE = 1024.0  # bytes per second after the warm-up
_FLAT = 0.9  # a leak's survival share in every tenth; measured .98
_MOSTLY = 2 / 3  # of the tenths: a leak that was seen in fewer may have been one batch
_GONE = 0.1  # what a bounded cache keeps of its old tenths, a warm-up of its second half; measured 0
_WINDOWS = (20, 60)  # fewest and most of the fit; 20 still allow p = 0.05
_LEAST_WINDOW_S = 0.25  # several times the processing lag
_SLACK_S = 0.5  # between the first or last INFO sample and the edge of the profile
_BOOTSTRAPS = 300
_P_LIMIT = 0.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GrowthSite:
    """One line of the application whose allocations outlive the recording.

    site : innermost frame of the application's code
    stack : the largest stack through it, innermost first
    size_bytes : surviving bytes born in the recording
    rate : surviving bytes per second, after the warm-up and before the tail
    share : of all surviving bytes
    kind : ``leak``, ``bounded_cache`` or ``warm_up``; None when it is none of these
    tenths : surviving bytes by tenth of the recording in which they were born
    survival : share of the bytes born in each tenth that live to the end, NaN where none were born
    bytes_per_miss : fitted on the misses of the same time; None where the fit does not beat shifted controls
    interval : its 95 % bootstrap interval
    p : share of circularly shifted controls that explain as much
    """

    site: str
    stack: tuple[str, ...]
    size_bytes: int
    rate: float
    share: float
    kind: str | None
    tenths: tuple[int, ...]
    survival: tuple[float, ...]
    bytes_per_miss: float | None
    interval: tuple[float, float] | None
    p: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Survivors(SelfShowing):
    """What a heap profile says about growth; `sites` largest first. ``recorded`` is False without a profile."""

    recorded: bool
    sites: tuple[GrowthSite, ...]
    size_bytes: int
    seconds: float

    def leaks(self) -> list[GrowthSite]:
        """Return the sites that keep bytes for ever, fastest first."""
        return sorted((site for site in self.sites if site.kind == "leak"), key=lambda site: -site.rate)

    def table(self) -> pd.DataFrame:
        """Return one row per site: ``line``, ``kind``, ``surviving_bytes``, ``share``, ``bytes_per_s``, ``bytes_per_miss``."""
        return pd.DataFrame(
            {
                "line": pd.Series([site.site for site in self.sites], dtype="str"),
                "kind": pd.Series([site.kind or "unclear" for site in self.sites], dtype="str"),
                "surviving_bytes": [site.size_bytes for site in self.sites],
                "share": [site.share for site in self.sites],
                "bytes_per_s": [site.rate for site in self.sites],
                "bytes_per_miss": pd.Series([site.bytes_per_miss for site in self.sites], dtype="float64"),
            }
        )

    def __str__(self) -> str:
        if not self.recorded:
            return "Survivors: not testable, no heap profile in this case. Record the process under memray."
        if not self.sites:
            return (
                f"Survivors: {self.size_bytes / 1024:.0f} KiB of {self.seconds:.0f} s live on, "
                "none of them from a line that keeps growing"
            )
        lines = [f"Survivors: {self.size_bytes / 1e6:.1f} MB born in {self.seconds:.0f} s were never freed"]
        for site in self.sites:
            per_miss = f", {site.bytes_per_miss:,.0f} B per miss" if site.bytes_per_miss else ""
            lines.append(
                f"  {site.kind or 'unclear':<14}{site.size_bytes / 1e6:6.1f} MB  {site.share:5.1%}  {site.site}{per_miss}"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Survivors {len(self.sites)} sites, {self.size_bytes} bytes>"


def heap_survivors(case: Case, ledger: Ledger) -> Survivors:
    """Explain what the process kept: surviving bytes by line, their kind, and what they follow.

    Parameters
    ----------
    case : Case
        With the heap tables; without them the result says so.
    ledger : Ledger
        Its misses are what growth is compared with. Correlation is stated, never called cause.
    """
    snapshots = case.table("heap_snapshots")
    if len(snapshots) < TENTHS:
        return Survivors(recorded=False, sites=(), size_bytes=0, seconds=0.0)
    intervals, stacks = case.table("heap_intervals"), case.table("heap_stacks")
    seconds = ((snapshots["t"] - snapshots["t"].iloc[0]) / pd.Timedelta(1, "s")).to_numpy()
    # Bucket k ends at snapshot k; k = number of snapshots is after the last one.
    born_s = np.append(seconds, seconds[-1])[np.clip(intervals["born"].to_numpy(), 0, len(seconds))]
    site_of = stacks["application"].where(stacks["application"].notna(), stacks["frames"].str.split("\n").str[0])
    intervals = intervals.assign(
        born_s=born_s,
        site=intervals["stack_id"].map(site_of.set_axis(stacks["stack_id"])),
        alive=intervals["died"].isna(),
    )
    alive = intervals[intervals["alive"]]
    total = int(alive["size_bytes"].sum())
    sums = alive.groupby("site")["size_bytes"].sum()
    large = sums[sums >= _LEAST_BYTES].sort_values(ascending=False).index
    began = case.on_server_clock(snapshots["t"].iloc[:1]).iloc[0]
    edges = _edges(float(seconds[-1]))
    counted = ledger.replays.map("counting misses in time", partial(_misses_in_time, began.value // 1000, edges))
    misses = np.sum(counted, axis=0)
    recorded = [
        ((ledger.windows.loc[rows.index, ["start", "end"]] - began) / pd.Timedelta(1, "s")).to_numpy()
        for _, rows in ledger.windows.groupby("node")
    ]
    frames = stacks.set_index("stack_id")["frames"]
    sites = tuple(
        _growth_site(name, intervals[intervals["site"].eq(name)], frames, float(seconds[-1]), total, edges, misses, recorded)
        for name in large
    )
    return Survivors(recorded=True, sites=sites, size_bytes=total, seconds=float(seconds[-1]))


def _growth_site(
    name: str,
    rows: pd.DataFrame,
    frames: pd.Series,
    span_s: float,
    total: int,
    windows: np.ndarray,
    misses: np.ndarray,
    recorded: list[np.ndarray],
) -> GrowthSite:
    edges = np.linspace(0, span_s, TENTHS + 1)
    alive = rows[rows["alive"]]
    kept, _ = np.histogram(alive["born_s"], bins=edges, weights=alive["size_bytes"])
    born, _ = np.histogram(rows["born_s"], bins=edges, weights=rows["size_bytes"])
    survival = np.divide(kept, born, out=np.full(TENTHS, np.nan), where=born > 0)
    judged = alive[alive["born_s"].between(_WARM_UP * span_s, (1 - _TAIL) * span_s)]
    rate = float(judged["size_bytes"].sum() / ((1 - _TAIL - _WARM_UP) * span_s))
    fit = _bytes_per_miss(alive, windows, misses, recorded)
    by_stack = alive.groupby("stack_id")["size_bytes"].sum()
    largest = by_stack.sort_values(ascending=False, kind="stable").index[0]
    return GrowthSite(
        site=name,
        stack=tuple(frames[largest].split("\n")),
        size_bytes=int(kept.sum()),
        rate=rate,
        share=float(kept.sum() / total),
        kind=growth_kind(kept, survival, rate),
        tenths=tuple(int(value) for value in kept),
        survival=tuple(float(value) for value in survival),
        bytes_per_miss=fit.slope if fit else None,
        interval=fit.interval if fit else None,
        p=fit.p if fit else None,
    )


def growth_kind(kept: np.ndarray, survival: np.ndarray, rate: float) -> str | None:
    """Tell a leak from a bounded cache and from a warm-up, by survival over age.

    Parameters
    ----------
    kept : array of 10
        Surviving bytes by tenth of birth.
    survival : array of 10
        Share of the bytes born in each tenth that survive; NaN where none were born.
    rate : float
        Surviving bytes per second after the warm-up.

    Notes
    -----
    Measured shapes: a leak .98 in every tenth with volume in all of them; a bounded cache 0 in
    the old tenths and 1 in the last; a warm-up 1 at the start and nothing born later.
    """
    settled = slice(int(_WARM_UP * TENTHS) + 1, TENTHS - 1)  # tenths 4 to 9
    at_work = ~np.isnan(survival[settled])  # a tenth in which nothing was born, for the program had no time, tells nothing
    if kept[TENTHS // 2 :].sum() < _GONE * kept.sum():
        return "warm_up"
    grows_throughout = (kept[settled] > 0)[at_work].all() and at_work.mean() >= _MOSTLY
    if grows_throughout and rate >= _LEAST_RATE and np.nanmin(survival[settled]) >= _FLAT:
        return "leak"
    if np.nanmax(survival[:5], initial=0.0) <= _GONE and survival[-1] > _GONE:
        return "bounded_cache"
    return None


@dataclass(frozen=True, slots=True)
class _Fit:
    slope: float
    interval: tuple[float, float]
    p: float


def _edges(span_s: float) -> np.ndarray:
    """Return the edges of the windows of the fit, in seconds; one more window stands before the first."""
    judged_s = (1 - _TAIL - _WARM_UP) * span_s
    windows = int(np.clip(judged_s / _LEAST_WINDOW_S, *_WINDOWS))
    return _WARM_UP * span_s + np.arange(-1, windows + 1) * judged_s / windows


def _misses_in_time(began_us: int, edges: np.ndarray, replayed: Replayed) -> np.ndarray:
    """Count the misses of a shard between edges, which are in seconds."""
    counts, _ = np.histogram((replayed.shard.t_us[replayed.is_miss] - began_us) / 1e6, bins=edges)
    return counts


def _bytes_per_miss(alive: pd.DataFrame, edges: np.ndarray, misses: np.ndarray, recorded: list[np.ndarray]) -> _Fit | None:
    """Fit surviving bytes per window on misses; None where it does not beat shifted misses.

    NNLS on the misses of the same window, those of the window before, and an intercept: work
    that ends after its window's edge would otherwise pull the slope down. Moving-block bootstrap for the
    interval, circular shifts of the misses for p: both keep each series' autocorrelation. A window
    whose misses were not all recorded is left out.

    edges : of the windows, see `_edges`
    misses : in every window
    recorded : for every node, rows of start and end of what was recorded, in seconds
    """
    grown, _ = np.histogram(alive["born_s"], bins=edges[1:], weights=alive["size_bytes"])
    whole = _recorded_throughout(edges[:-2], edges[2:], recorded)
    grown, now, before = grown[whole], misses[1:][whole].astype(float), misses[:-1][whole].astype(float)
    windows = len(now)
    if windows < _WINDOWS[0] or now.sum() < 2 * windows or now.std() == 0:
        return None

    from scipy.optimize import nnls  # half a second that a case without a heap profile does not need

    def slope(rows: np.ndarray, shift: int = 0) -> float:
        columns = [np.roll(now, shift)[rows], np.roll(before, shift)[rows], np.ones(len(rows))]
        return float(nnls(np.column_stack(columns), grown[rows])[0][:2].sum())

    every = np.arange(windows)
    fitted = slope(every)
    beaten = sum(slope(every, shift) >= fitted for shift in range(1, windows))
    p = (1 + beaten) / windows
    if fitted <= 0 or p > _P_LIMIT:
        return None
    rng = np.random.default_rng(0)
    block = max(3, windows // 6)
    starts = rng.integers(0, windows - block + 1, size=(_BOOTSTRAPS, -(-windows // block)))
    slopes = [slope((draw[:, None] + np.arange(block)).ravel()) for draw in starts]
    low, high = np.percentile(slopes, [2.5, 97.5])
    return _Fit(fitted, (float(low), float(high)), float(p))


def _recorded_throughout(starts: np.ndarray, ends: np.ndarray, recorded: list[np.ndarray]) -> np.ndarray:
    """Return which spans lie within one recorded stretch of every node; all of them where there is no stretch."""
    held = np.ones(len(starts), dtype=bool)
    for stretches in recorded:
        inside = (stretches[:, 0][:, None] <= starts + _SLACK_S) & (ends - _SLACK_S <= stretches[:, 1][:, None])
        held &= inside.any(axis=0)
    return held
