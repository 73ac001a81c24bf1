"""Survivors by age, change points, trends."""

from __future__ import annotations

import os
import time

import memray
import numpy as np
import pandas as pd
import pytest
from coldcache.memory.survivors import growth_kind
from coldcache.memory.trends import trend
from coldcache.sources.heap import read_heap
from coldcache.timeline import change_points

ONES = np.ones(10)


@pytest.mark.parametrize(
    ("kept", "survival", "kind"),
    [
        ([1e6] * 10, [0.98] * 10, "leak"),
        ([0] * 8 + [1e5, 1e6], [0.0] * 8 + [0.1, 1.0], "bounded_cache"),
        ([1e6] * 4 + [0] * 6, [1.0] * 4 + [np.nan] * 6, "warm_up"),
        ([1e6, 0, 1e6, 0, 1e6, 0, 1e6, 0, 1e6, 0], [1.0] * 10, None),
    ],
)
def test_the_shape_of_survival_tells_the_kind(kept: list[float], survival: list[float], kind: str | None):
    kept_array = np.array(kept)
    assert growth_kind(kept_array, np.array(survival), rate=kept_array.sum() / 10) == kind


def test_a_slow_trickle_is_no_leak():
    assert growth_kind(ONES * 100, ONES, rate=10.0) is None


def test_a_trend_ignores_the_warm_up():
    seconds = np.arange(100)
    t = pd.Series(pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(seconds, unit="s"))
    found = trend(t, pd.Series(np.where(seconds < 40, seconds * 1000.0, 40_000.0)))
    assert found is not None
    assert (found.start, found.end, found.slope_per_s) == (0, 40_000, 0.0)


def test_a_step_is_a_change_point_and_a_slope_or_noise_is_not():
    noise = np.random.default_rng(3).normal(0, 0.02, 60)
    assert change_points(np.r_[np.full(25, 0.9), np.full(35, 0.1)] + noise) == [25]
    assert change_points(np.linspace(0, 1, 60) + noise) == []
    assert change_points(0.5 + noise) == []
    assert change_points(np.full(60, 3.0)) == []


def test_a_real_capture_becomes_tables_that_add_up(tmp_path):
    # GIVEN a process that keeps 2 MB of bytearrays and frees as many, under memray
    capture = tmp_path / "memray.bin"
    kept: list[bytearray] = []
    with memray.Tracker(destination=memray.FileDestination(capture), trace_python_allocators=True):
        for _ in range(20):
            kept.append(bytearray(100_000))
            temporary = bytearray(100_000)
            time.sleep(0.02)
            del temporary
    # WHEN read
    heap = read_heap(capture)
    # THEN the survivors are what is kept, charged to this test's line
    alive = heap.intervals[heap.intervals["died"].isna()]
    sites = alive.groupby(alive["stack_id"].map(heap.stacks.set_index("stack_id")["application"]))["size_bytes"].sum()
    line = sites.sort_values().index[-1]
    assert "test_a_real_capture_becomes_tables_that_add_up" in line
    assert sites[line] == pytest.approx(2_000_000, rel=0.01)
    assert heap.snapshots["t"].is_monotonic_increasing
    assert heap.pid == os.getpid()


def test_a_capture_cut_off_and_padded_with_zeros_still_opens(tmp_path):
    # GIVEN a capture without its end, as a killed process leaves it: uncompressed, zero-padded
    capture = tmp_path / "memray.bin"
    with memray.Tracker(destination=memray.FileDestination(capture, compress_on_exit=False), trace_python_allocators=True):
        kept = [bytearray(50_000) for _ in range(40)]
        time.sleep(0.05)
    whole = capture.read_bytes()
    capture.write_bytes(whole[: int(len(whole) * 0.9)] + b"\0" * 5_000_000)
    # WHEN read THEN there are survivors
    heap = read_heap(capture)
    assert heap.intervals["size_bytes"].sum() >= 40 * 50_000
    assert len(kept) == 40
