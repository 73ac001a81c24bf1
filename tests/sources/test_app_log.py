"""Lines that a program wrote, well or badly, to tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coldcache.schema import APP_LOG, CGROUP, GC, PROCESS, to_arrow
from coldcache.sources.app_log import app_log_table
from coldcache.sources.jsonl import json_lines
from coldcache.sources.process import cgroup_table, gc_table, process_table

GOOD = {"t_us": 1_763_800_000_000_000, "pid": 7, "op": "set", "key": "k", "size": 10, "ttl_ms": 500, "result": None}


def test_records_speak_the_words_of_accesses():
    table = app_log_table([GOOD, GOOD | {"op": "get", "result": "HIT", "ttl_ms": None}, GOOD | {"op": "delete", "size": None}])
    assert table["op"].tolist() == ["write", "read", "delete"]
    assert table["result"].astype("object").where(table["result"].notna(), None).tolist() == [None, "hit", None]
    assert str(table["t"].iloc[0]) == "2025-11-22 08:26:40+00:00"
    to_arrow(table, APP_LOG)


@pytest.mark.parametrize(
    "change",
    [
        {"op": "drop"}, {"op": ["get"]}, {"key": 7}, {"key": None}, {"t_us": "now"}, {"t_us": 1 << 70},
        {"pid": True}, {"pid": 1 << 40},
        {"size": 1.5}, {"ttl_ms": "1"}, {"result": "MAYBE"}, {"result": {}},
    ],
)  # fmt: skip
def test_a_record_of_another_form_is_left_out(change: dict[str, object]):
    assert app_log_table([GOOD | change, {}]).empty
    assert len(app_log_table([GOOD | change, GOOD])) == 1


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \xff}\n[1]\n{"a": "\xe2\x80\xa8"}\n{"a"')
    assert json_lines(path) == [{"a": 1}, {"a": "\u2028"}]
    assert json_lines(tmp_path / "none") == []


def test_samples_become_frames_of_the_schema_even_when_there_are_none():
    sample = {"stamp_us": 1, "pid": 7, "child": True, "rss_bytes": 100, "uss_bytes": None, "pss_bytes": 60}
    table = process_table([sample, sample | {"stamp_us": 0, "uss_bytes": 50}])
    assert table["rss_bytes"].tolist() == [100, 100]
    assert table["uss_bytes"].isna().tolist() == [False, True]
    cgroup = cgroup_table([{"stamp_us": 1, "usage_bytes": 5, "limit_bytes": None, "oom_kills": 0}])
    pause = {"stamp_us": 1, "pid": 7, "generation": 2, "pause_us": 1500, "collected": 3}
    collections = gc_table([pause, {"stamp_us": 1}, pause | {"generation": 9}, pause | {"pid": "x"}])
    assert collections["pause_us"].tolist() == [1500]
    for frame, declared in ((table, PROCESS), (cgroup, CGROUP), (collections, GC)):
        assert to_arrow(frame, declared).schema.names == declared.arrow().names
    for empty, declared in (
        (process_table([]), PROCESS),
        (cgroup_table([]), CGROUP),
        (gc_table([]), GC),
        (app_log_table([]), APP_LOG),
    ):
        assert empty.dtypes.astype(str).tolist() == declared.empty().dtypes.astype(str).tolist()
        assert json.dumps(empty.to_dict("list"))
