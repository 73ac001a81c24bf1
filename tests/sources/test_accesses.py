"""Outcomes from key events: which look-up hit, which missed, and what had become of the key."""

from __future__ import annotations

import pytest
from coldcache.sources.accesses import AccessBuilder, ttl_asked
from conftest import START_US, event, line


def built(*items):
    builder = AccessBuilder("n", ["own"], b"k")
    for item in items:
        builder.feed(item)
    return builder, builder.take_accesses()


def test_a_pending_keymiss_makes_the_next_lookup_of_that_key_a_miss():
    _, rows = built(event("keymiss", "a"), line(0, "GET", "a"), line(1, "GET", "b"))
    assert rows["outcome"].tolist() == ["miss", "hit"]
    assert rows["key_state"].tolist()[0] == "never written"


def test_mget_misses_are_claimed_key_by_key():
    _, rows = built(event("keymiss", "b"), event("keymiss", "b"), line(0, "MGET", "a", "b", "b"))
    assert rows["outcome"].tolist() == ["hit", "miss", "miss"]
    assert rows["arg"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("name", "state"), [("expired", "expired"), ("evicted", "evicted"), ("del", "deleted")])
def test_a_miss_knows_how_its_key_went(name: str, state: str):
    _, rows = built(event("set", "a"), line(0, "SET", "a", "v"), event(name, "a"), event("keymiss", "a"), line(1, "GET", "a"))
    assert rows["outcome"].tolist() == ["written", "miss"]
    assert rows["key_state"].tolist()[1] == state


def test_a_flush_is_remembered_for_every_key_of_its_database():
    _, rows = built(
        event("set", "a"), line(0, "SET", "a", "v"),
        event("set", "a", db=1), line(1, "SET", "a", "v", db=1),
        line(2, "FLUSHDB"),
        event("keymiss", "a"), line(3, "GET", "a"),
        line(4, "GET", "a", db=1),
    )  # fmt: skip
    reads = rows[rows["op"] == "read"]
    assert reads["outcome"].tolist() == ["miss", "hit"]
    assert reads["key_state"].tolist()[0] == "flushed"


def test_a_set_without_its_event_was_refused():
    _, rows = built(line(0, "SET", "a", "v", "EX", "0"))
    assert rows["outcome"].tolist() == ["refused"]


def test_own_lines_are_left_out_and_info_lines_mark_the_window():
    builder, rows = built(line(0, "INFO", client="own"), line(1, "PING"), line(2, "CONFIG", "GET", "*", client="own"))
    assert rows["command"].tolist() == ["PING"]
    assert rows["key"].isna().all()
    assert builder.info_marks == [(1, START_US, 0)]
    assert builder.counts.own_lines == 2


def test_an_event_that_belongs_to_no_line_claims_no_lookup():
    # GIVEN a background expiry before an unrelated read
    builder, rows = built(event("expired", "z"), line(0, "GET", "a"))
    assert rows["outcome"].tolist() == ["hit"]
    assert builder.take_key_events()["key"].tolist() == ["z"]


def test_values_leave_only_size_digest_and_format():
    _, rows = built(event("set", "a"), line(0, "SET", "a", '{\\"n\\": 1}'))
    assert rows["value_bytes"].tolist() == [8]
    assert rows["value_format"].tolist() == ["json"]
    assert "n" not in rows["value_digest"].tolist()[0].replace("n", "")


def test_script_and_transaction_lines_say_so():
    _, rows = built(line(0, "MULTI"), line(1, "GET", "a"), line(1, "EXEC"), line(2, "GET", "a", client="lua"))
    assert rows["in_multi"].tolist() == [False, True, False, False]
    assert rows["in_script"].tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("args", "ms", "form"),
    [
        (["SET", "k", "v", "EX", "300"], 300_000, "EX"),
        (["SET", "k", "v", "nx", "px", "60"], 60, "PX"),
        (["SET", "k", "v", "PXAT", str(START_US // 1000 + 5)], 5, "PXAT"),
        (["SETEX", "k", "10", "v"], 10_000, "SETEX"),
        (["EXPIRE", "k", "-1"], -1000, "EXPIRE"),
        (["GETEX", "k", "EX", "9"], 9000, "EX"),
        (["SET", "k", "EX", "KEEPTTL"], None, None),
        (["SET", "k", "v", "EX", "soon"], None, "EX"),
        (["SET", "k", "v", "EX", "9" * 30], None, "EX"),
        (["EXPIRE", "k", "--5"], None, "EXPIRE"),
        (["EXPIRE", "k", "9" * 5000], None, "EXPIRE"),
        (["GET", "k"], None, None),
    ],
)
def test_the_time_to_live_asked_for(args: list[str], ms: int | None, form: str | None):
    asked = ttl_asked(args[0], args, START_US)
    assert (asked.ms, asked.form) == (ms, form)
