"""Survivors by age, change points, trends."""

from __future__ import annotations

import os
import time

import memray
import numpy as np
import pandas as pd
import pytest
from coldcache.causes.diagnosis import diagnose
from coldcache.memory.survivors import _bytes_per_miss, _edges, growth_kind
from coldcache.memory.trends import trend
from coldcache.sources.heap import read_heap
from coldcache.timeline import change_points, joined_timeline
from conftest import Stretch, case_of_stretches, event, heard, line, moment

ONES = np.ones(10)


@pytest.mark.parametrize(
    ("kept", "survival", "kind"),
    [
        ([1e6] * 10, [0.98] * 10, "leak"),
        # A program without time for a tenth leaks all the same; without time for three, nobody knows.
        ([1e6] * 5 + [0] + [1e6] * 4, [0.98] * 5 + [np.nan] + [0.98] * 4, "leak"),
        ([1e6] * 4 + [0] * 3 + [1e6] * 3, [0.98] * 4 + [np.nan] * 3 + [0.98] * 3, None),
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
        kept = [bytearray(50_000) for _ in range(400)]
        time.sleep(0.05)
    whole = capture.read_bytes()
    capture.write_bytes(whole.rstrip(b"\0")[:-1000] + b"\0" * 5_000_000)
    # WHEN read THEN there are survivors
    heap = read_heap(capture)
    assert heap.intervals["size_bytes"].sum() >= 200 * 50_000
    assert len(kept) == 400


def test_bytes_per_miss_are_fitted_where_misses_were_recorded():
    # GIVEN 1,000 bytes kept per miss over 80 s, and 20 s in the middle whose misses were not recorded
    rng = np.random.default_rng(2)
    miss_s = np.sort(rng.uniform(0, 80, 4000) ** 1.2 % 80)
    alive = pd.DataFrame({"born_s": miss_s, "size_bytes": 1000.0})
    seen = miss_s[(miss_s < 40) | (miss_s > 60)]
    # WHEN fitted on the recorded stretches, THEN the slope is the true one
    misses, _ = np.histogram(seen, bins=_edges(80.0))
    fit = _bytes_per_miss(alive, _edges(80.0), misses, [np.array([[0.0, 40.0], [60.0, 80.0]])])
    assert fit is not None
    assert fit.slope == pytest.approx(1000, rel=0.01)
    blind = _bytes_per_miss(alive, _edges(80.0), misses, [np.array([[0.0, 80.0]])])
    assert blind is None or abs(blind.slope - 1000) > 50


def test_redis_memory_is_the_sum_of_the_nodes(tmp_path):
    nodes = [
        Stretch(items=[line(100, "GET", "a")], start_ms=0, end_ms=9900, node="one:1", used_memory=1_000_000),
        Stretch(items=[line(100, "GET", "b")], start_ms=300, end_ms=9800, node="two:1", used_memory=2_000_000),
    ]
    case = case_of_stretches(tmp_path / "c", nodes)
    joined = joined_timeline(case, diagnose(case), bin_s=5)
    assert joined.bins["redis_bytes"].tolist() == [3_000_000, 3_000_000]


def test_the_trend_of_redis_memory_is_that_of_all_nodes_together(tmp_path):
    stretches = [
        Stretch(items=[], start_ms=start, end_ms=start + 900, node=node, used_memory=size)
        for start in (0, 1000)
        for node, size in (("one:1", 1_000_000), ("two:1", 2_000_000))
    ]
    found = diagnose(case_of_stretches(tmp_path / "c", stretches)).redis_memory
    assert found is not None
    assert (found.start, found.end) == (3_000_000, 3_000_000)


def test_a_gap_is_on_the_timeline_with_its_reason(tmp_path):
    first = Stretch(items=[line(10, "GET", "a")], start_ms=0, end_ms=2000)
    second = Stretch(items=[line(8000, "GET", "a")], start_ms=7000, end_ms=10_000)
    case = case_of_stretches(tmp_path / "c", [first, second], gaps=[(2000, 7000, "the connection was lost")])
    joined = joined_timeline(case, diagnose(case))
    assert joined.gaps.to_dict("records") == [{"start": moment(2000), "end": moment(7000), "reason": "the connection was lost"}]
    assert joined.gaps["start"].dtype == "datetime64[us, UTC]"
    assert "gap       08:26:42 to 08:26:47: the connection was lost" in str(joined)


@pytest.mark.parametrize(("mode", "items"), [("events", [heard(500, "keymiss", "a")]), ("monitor", [line(500, "GET", "a")])])
def test_without_outcomes_the_hit_rate_over_time_is_infos_and_not_compared_across_epochs(tmp_path, mode, items):
    # GIVEN 3 hits and 1 miss in the first second, 100 hits in a gap, 1 hit and 1 miss in the third
    stretches = [
        Stretch(items=items, start_ms=0, end_ms=1000, mode=mode, rise=(3, 1)),
        Stretch(items=[], start_ms=2000, end_ms=3000, mode=mode, before=(100, 0), rise=(1, 1)),
    ]
    case = case_of_stretches(tmp_path / "c", stretches)
    bins = joined_timeline(case, diagnose(case)).bins
    assert bins["reads"].tolist() == [4, 0, 2]
    assert bins["hit_rate"].tolist() == pytest.approx([0.75, np.nan, 0.5], nan_ok=True)
    assert bins["effective_hit_rate"].isna().all()


def test_an_exact_timeline_counts_the_reads_themselves(tmp_path):
    items = [event("keymiss", "a"), line(500, "GET", "a"), line(1500, "GET", "b")]
    case = case_of_stretches(tmp_path / "c", [Stretch(items=items, start_ms=0, end_ms=2000)])
    assert joined_timeline(case, diagnose(case)).bins["hit_rate"].tolist() == [0.0, 1.0]
