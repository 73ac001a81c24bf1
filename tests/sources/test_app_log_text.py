"""Cache logs in applications' own words."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest
from coldcache.errors import UsageError
from coldcache.schema import APP_LOG, to_arrow
from coldcache.sources.app_log_text import AppLogFile, read_app_log
from hypothesis import given
from hypothesis import strategies as st

MOMENT = pd.Timestamp("2026-11-22T18:40:00.123Z")
GET = "[CACHE][GET] Key:img:7, Result:HIT"


def read(text: str | bytes, **options: object) -> AppLogFile:
    return read_app_log(io.BytesIO(text.encode() if isinstance(text, str) else text), **options)


def rows(found: AppLogFile) -> list[tuple[object, ...]]:
    columns = [found.table[name] for name in ("op", "key", "value_bytes", "ttl_ms", "result")]
    return [tuple(None if pd.isna(value) else value for value in row) for row in zip(*columns, strict=True)]


@pytest.mark.parametrize(
    "prefix",
    [
        "2026-11-22T18:40:00.123Z ", "2026-11-22 18:40:00,123 INFO [app] ", "[2026-11-22T19:40:00.123+01:00] info: ",
        "1795372800.123 ", "1795372800123 ", "22/Nov/2026:18:40:00.123 +0000 ", "2026-11-22T18:40:00.123456789Z stdout F ",
        "web-1  | 2026-11-22T18:40:00.123Z ", "[pod/web-7/web] 2026-11-22 18:40:00.123 ", "Nov 22 18:40:00.123 host app[712]: ",
        "<34>1 2026-11-22T18:40:00.123Z host app 712 - - ", "2026-11-22T18:40:00.123Z 2026-11-22 12:40:00 ",
        "request 1234567890 at 2026-11-22 18:40:00.123 ", "\x1b[32m2026-11-22 18:40:00.123\x1b[39m ",
    ],
)  # fmt: skip
def test_times_in_the_usual_forms(prefix: str):
    """GIVEN a line with a time in a usual form WHEN read THEN the row has that time, to the millisecond."""
    found = read(prefix + GET, year=2026)
    assert abs(found.table["t"].iloc[0] - MOMENT) < pd.Timedelta("1ms")
    assert rows(found) == [("read", "img:7", None, None, "hit")]
    to_arrow(found.table, APP_LOG)


@pytest.mark.parametrize(
    ("call", "row"),
    [
        ("[CACHE][SET] Key: cache:1, TTL: 300", ("write", "cache:1", None, 300_000, None)),
        ("[CACHE][SET] Key:a,b, Size:10, TTL:undefined", ("write", "a,b", 10, None, None)),
        ("[CACHE][SET] Key:k, Size:10, TTL:500ms", ("write", "k", 10, 500, None)),
        ("[CACHE][SET] Key:k, TTL:0", ("write", "k", None, 0, None)),
        ("[CACHE][DEL] Key:Ω x", ("delete", r"\xce\xa9 x", None, None, None)),
        ("[CACHE][GET] Key:k, Size:3, Result: MISS", ("read", "k", 3, None, "miss")),
        ("[CACHE][HIT] Key:k", ("read", "k", None, None, "hit")),
    ],
)
def test_the_briefs_lines(call: str, row: tuple[object, ...]):
    assert rows(read(f"2026-11-22T18:40:00Z {call}\r\n")) == [row]


def test_a_key_that_is_no_text_stays_lossless():
    assert rows(read(b"2026-11-22T18:40:00Z [CACHE][DEL] Key:\xff\x00k"))[0][1] == r"\xff\x00k"


def test_json_lines_in_usual_names():
    """GIVEN JSON logs of pino, winston, docker and coldcache itself WHEN read together THEN each line is a row."""
    records = [
        {"ts": 1795372800123, "op": "get", "key": "a", "hit": True, "pid": 7},
        {"timestamp": "2026-11-22T18:40:01Z", "action": "SETEX", "key": "b", "bytes": 9, "ttl": 60},
        {"timestamp": "2026-11-22T18:40:02Z", "operation": "set", "cacheKey": "b", "ttl_ms": 60},
        {"level": "info", "time": 1795372803000, "msg": "[CACHE][GET] Key:c, Result:MISS"},
        {"log": "[CACHE][DEL] Key:d\n", "stream": "stdout", "time": "2026-11-22T18:40:04.123456789Z"},
        {"log": "2026-11-22 18:40:05 [CACHE][DEL] Key:e\n"},
        {"t_us": 1795372806000000, "pid": 3, "op": "get", "key": "\\x00", "size": 1, "ttl_ms": None, "result": "MISS"},
        {"ts": 1795372807, "op": "get", "key": "\ud800", "result": "miss"},
    ]
    found = read("\n".join(json.dumps(record) for record in records))
    assert rows(found) == [
        ("read", "a", None, None, "hit"), ("write", "b", 9, 60_000, None), ("write", "b", None, 60, None),
        ("read", "c", None, None, "miss"), ("delete", "d", None, None, None), ("delete", "e", None, None, None),
        ("read", r"\x00", 1, None, "miss"), ("read", r"\\ud800", None, None, "miss"),
    ]  # fmt: skip
    assert found.table["pid"].iloc[[0, 6]].tolist() == [7, 3]
    assert found.assumed == 1
    assert found.skipped == {}
    to_arrow(found.table, APP_LOG)


def test_lines_that_are_no_cache_call_are_counted_by_reason():
    lines = [
        "", "server started", GET, "2026-11-22T18:40:00Z " + GET, "{", '{"key": "k", "ts": 1}',
        "2026-11-22T18:40:00Z [CACHE][GET] Key:",
        "2026-11-22T18:40:00Z [CACHE][GET] Key:k, Result:PERHAPS", "2026-11-22T18:40:00Z [CACHE][SET] Key:k, TTL:soon",
        "2026-11-22T18:40:00Z [CACHE][FLUSH] Key:k", "x" * 200_000, "Nov 22 18:40:00 host app[1]: " + GET,
    ]  # fmt: skip
    found = read("\n".join(lines))
    assert len(found.table) == 1
    assert found.lines == 12 == 1 + sum(found.skipped.values())
    assert found.skipped["without a time"] == 2
    assert found.skipped["ttl is no number"] == 1
    assert "img:7" not in str(found.skipped)


@pytest.mark.parametrize("filler", [" ", ",", ", TTL:1", "[CACHE][GET]", "2026-11-22 ", "9", "\t:"])
def test_a_line_made_to_be_slow_is_not(filler: str):
    """GIVEN a line that would send a careless pattern back and forth WHEN read THEN it ends, here at all."""
    text = f"2026-11-22T18:40:00Z [CACHE][SET] Key:k, TTL:{filler * (60_000 // len(filler))}x\n"
    assert read(text + "2026-11-22T18:40:00Z " + GET).lines == 2


def test_the_zone_of_times_without_one_is_said():
    found = read("2026-11-22 18:40:00 " + GET)
    assert (found.assumed_zone, found.assumed) == ("UTC", 1)
    moved = read("2026-11-22 18:40:00 " + GET, zone="Europe/Madrid")
    assert (moved.assumed_zone, found.table["t"].iloc[0] - moved.table["t"].iloc[0]) == ("Europe/Madrid", pd.Timedelta("1h"))
    assert read("2026-11-22T18:40:00Z " + GET, zone="Europe/Madrid").assumed == 0


def test_a_pattern_reads_any_other_form():
    """GIVEN a pattern with named groups WHEN lines match it THEN groups become the row."""
    pattern = r"^(?P<time>\S+) cache (?P<op>\w+) <(?P<key>.*)> (?P<result>\w+)? ?size=(?P<size>\d+)? ttl=(?P<ttl>\d+)?"
    text = "2026-11-22T18:40:00Z cache lookup <k> hit size=5 ttl=\n2026-11-22T18:40:01Z cache put <k> size= ttl=250\nother\n"
    found = read(text, pattern=pattern, ttl_unit="ms")
    assert rows(found) == [("read", "k", 5, None, "hit"), ("write", "k", None, 250, None)]
    assert found.skipped == {"not of the pattern's form": 1}
    assert rows(read("2026-11-22T18:40:00Z k=x miss", pattern=r"k=(?P<key>\S+) (?P<result>hit|miss)")) == [
        ("read", "x", None, None, "miss")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "("}, "no regular expression"), ({"pattern": "(?P<op>x)"}, "no group named key"),
        ({"pattern": "(?P<key>x)"}, "neither op nor result"), ({"zone": "Nowhere"}, "no time zone"),
        ({"ttl_unit": "h"}, "in s or ms"), ({}, "has a time"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(options: dict[str, str], message: str):
    with pytest.raises(UsageError, match=message):
        read(GET, **options)


def test_a_log_without_cache_calls_is_empty_and_no_error():
    found = read("hello\n")
    assert found.table.dtypes.astype(str).tolist() == APP_LOG.empty().dtypes.astype(str).tolist()
    assert found.skipped == {"no cache call": 1}


PIECES = [
    "2026-11-22T18:40:00Z ",
    "[CACHE][SET] Key:",
    ", TTL:",
    ", Size:",
    "9" * 15,
    "\n",
    "{",
    '"key":',
    "1795372800",
    "99:99:99",
    "-99:99",
]


@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from(PIECES).map(str.encode))), st.booleans())
def test_no_bytes_crash_it_and_the_counts_add_up(pieces: list[bytes], patterned: bool):
    text = b"2026-11-22T18:40:00Z [CACHE][DEL] Key:k\n" + b"".join(pieces)
    found = read(text, pattern="(?P<op>SET|DEL)(?P<key>.*)" if patterned else None)
    assert found.lines == len(found.table) + sum(found.skipped.values())
    to_arrow(found.table, APP_LOG)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=2)
)
JSON_NAMES = st.sampled_from(["t_us", "ttl_ms", "ts", "time", "op", "key", "hit", "result", "size", "ttl", "pid", "msg", "log"])


@given(st.lists(st.dictionaries(JSON_NAMES, JSON_VALUES | st.sampled_from(["get", "set", "1795372800"]))))
def test_no_json_crashes_it(records: list[dict[str, object]]):
    text = f"2026-11-22T18:40:00Z {GET}\n" + "\n".join(json.dumps(record) for record in records)
    found = read(text)
    assert found.lines == len(found.table) + sum(found.skipped.values())
