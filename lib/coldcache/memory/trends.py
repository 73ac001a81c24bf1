"""Trends of a memory series that a warm-up or one spike cannot fake."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

_MOST_POINTS = 600  # Theil–Sen takes 3.3 s at 6,000 points, measured


@dataclass(frozen=True, slots=True)
class Trend:
    """First and last value of a series in bytes, and its Theil–Sen slope over the second half, B/s."""

    start: int
    end: int
    slope_per_s: float

    def to_dict(self) -> dict[str, float]:
        """Return the JSON form of the contract."""
        return {"start": self.start, "end": self.end, "slope_per_s": round(self.slope_per_s, 1)}


def trend(t: pd.Series, size_bytes: pd.Series) -> Trend | None:
    """Return the trend of a series of bytes, or None with fewer than four points."""
    if len(t) < 4:
        return None
    from scipy.stats import theilslopes  # half a second that a case without memory samples does not need

    every = -(-len(t) // _MOST_POINTS)
    seconds = ((t - t.iloc[0]) / pd.Timedelta(1, "s")).to_numpy()
    values = size_bytes.to_numpy(dtype=float)
    half = len(t) // 2
    slope = theilslopes(values[half::every], seconds[half::every]).slope if seconds[-1] > seconds[half] else 0.0
    return Trend(int(values[0]), int(values[-1]), float(slope))


def unexplained_growth(snapshots: pd.DataFrame) -> int | None:
    """Return by how many bytes RSS minus heap widened over the second half of a heap profile.

    Floors (window minima) are compared, so that a peak at either end does not count. None
    without enough snapshots.
    """
    if len(snapshots) < 40:
        return None
    gap = (snapshots["rss_bytes"] - snapshots["heap_bytes"]).to_numpy(dtype=float)
    second = gap[len(gap) // 2 :]
    window = max(1, len(second) // 10)
    return int(np.min(second[-window:]) - np.min(second[:window]))
