"""Figures: traces, types and labels, from a few literal rows; nothing is drawn that is not there."""

from __future__ import annotations

import numpy as np
import pandas as pd
from coldcache import figures
from coldcache.memory.survivors import GrowthSite, Survivors
from coldcache.timeline import Timeline

NO_GAPS = pd.DataFrame({"start": [], "end": [], "reason": []})


def joined(*, process: bool = True, gaps: pd.DataFrame = NO_GAPS) -> Timeline:
    index = pd.date_range("2026-01-01", periods=4, freq="1s", tz="UTC", name="t")
    nothing = np.full(4, np.nan)
    bins = pd.DataFrame(
        {
            "reads": 10,
            "hit_rate": [0.9, 0.9, 0.1, np.nan],
            "effective_hit_rate": [0.9, 0.9, 0.1, np.nan],
            "redis_bytes": 1e6,
            "rss_bytes": 50e6 if process else nothing,
            "heap_bytes": 20e6 if process else nothing,
        },
        index=index,
    )
    misses = pd.DataFrame({"key_prefix": [0, 0, 9, 0], "cold_start": [1, 1, 0, 0]}, index=index)
    changes = pd.DataFrame({"t": [index[2]], "series": ["hit_rate"], "before": [0.9], "after": [0.1]})
    return Timeline(bins=bins, misses=misses, changes=changes, gaps=gaps, bin_s=1.0, missing=())


def test_the_timeline_has_every_series_on_one_axis_and_a_mark_for_each_change():
    figure = figures.timeline(joined())
    names = [trace.name for trace in figure.data]
    assert names == [
        "hit rate", "effective hit rate", "key_prefix", "cold_start", "Redis used memory", "process RSS", "process heap",
    ]  # fmt: skip
    assert {trace.xaxis for trace in figure.data} == {"x4"}
    assert [shape.x0 for shape in figure.layout.shapes] == [joined().changes["t"].iloc[0]]
    assert any("hit rate changes" in (annotation.text or "") for annotation in figure.layout.annotations)


def test_what_was_not_recorded_is_not_drawn_as_zero():
    names = [trace.name for trace in figures.timeline(joined(process=False)).data]
    assert "process RSS" not in names
    assert "process heap" not in names
    empty = figures.memory_gap(joined(process=False).bins)
    assert not empty.data
    assert "--pid" in empty.layout.annotations[0].text


def test_a_gap_is_a_labelled_band_behind_all_panels():
    # GIVEN a gap with a reason that looks like HTML
    gap = pd.DataFrame({"start": [pd.Timestamp("2026-01-01T00:00:01Z")], "end": [pd.Timestamp("2026-01-01T00:00:02Z")]})
    figure = figures.timeline(joined(gaps=gap.assign(reason="<b>restart</b>")))
    # WHEN drawn THEN one rectangle spans the paper on the shared axis, with its reason escaped
    bands = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert [(band.xref, band.yref, band.y0, band.y1, band.layer) for band in bands] == [("x4", "paper", 0, 1, "below")]
    assert (bands[0].x0, bands[0].x1) == (gap["start"][0], gap["end"][0])
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert "not recorded: &lt;b&gt;restart&lt;/b&gt;" in texts


def test_families_without_known_hits_show_their_reads_and_no_rate():
    nan = float("nan")
    figure = figures.families(pd.DataFrame({"family": ["img:*"], "reads": [3], "hit_rate": [nan], "effective_hit_rate": [nan]}))
    assert [(trace.name, tuple(trace.x)) for trace in figure.data] == [("recorded, hits not known", (3,))]
    assert "nan" not in "".join(annotation.text for annotation in figure.layout.annotations)


def test_families_of_inferred_outcomes_show_hits_misses_and_bounds():
    table = {"family": ["img:*"], "reads": [10], "hit_rate": [0.8], "effective_hit_rate": [float("nan")]}
    figure = figures.families(pd.DataFrame({**table, "hit_rate_low": [0.04], "hit_rate_high": [0.9]}))
    assert [(trace.name, round(trace.x[0], 6)) for trace in figure.data] == [("hit", 8), ("miss", 2)]
    assert figure.layout.annotations[0].text == " 80.0% hit, 4% to 90% possible"


def test_names_chosen_by_others_are_escaped():
    table = pd.DataFrame({"family": ["<b>x</b>:*"], "reads": [3], "hit_rate": [0.5], "effective_hit_rate": [0.5]})
    figure = figures.families(table)
    assert figure.data[0].y == ("&lt;b&gt;x&lt;/b&gt;:*",)


def test_misses_are_labelled_with_count_and_share():
    figure = figures.misses_by_cause(
        pd.DataFrame({"cause": ["ttl_unit", "cold_start"], "count": [75, 25], "share": [0.75, 0.25]})
    )
    assert figure.data[0].text == ("75 (75.0%)", "25 (25.0%)")
    assert (
        "no misses" in figures.misses_by_cause(pd.DataFrame({"cause": [], "count": [], "share": []})).layout.annotations[0].text
    )


def test_survivors_stack_by_line_over_ten_ages():
    site = GrowthSite(
        site="app.py:keep:3", stack=("app.py:keep:3",), size_bytes=10_000_000, rate=1e6, share=1.0, kind="leak",
        tenths=(1_000_000,) * 10, survival=(1.0,) * 10, bytes_per_miss=None, interval=None, p=None,
    )  # fmt: skip
    figure = figures.survivors_by_age(Survivors(recorded=True, sites=(site,), size_bytes=10_000_000, seconds=20.0))
    assert [trace.name for trace in figure.data] == ["app.py:keep:3"]
    assert len(figure.data[0].y) == 10
    missing = figures.survivors_by_age(Survivors(recorded=False, sites=(), size_bytes=0, seconds=0.0))
    assert "memray" in missing.layout.annotations[0].text


def test_no_figure_offers_to_upload_its_data():
    assert figures.PLOT_CONFIG["showSendToCloud"] is False
