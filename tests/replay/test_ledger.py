"""The miss ledger: totals, fills, effective hits, lifetimes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from coldcache.replay.ledger import miss_ledger
from coldcache.replay.lifetimes import alive
from conftest import case_of, event, line


def stored(at_ms: float, key: str, *options: str, value: str = "v"):
    return [event("set", key), line(at_ms, "SET", key, value, *options)]


def missed(at_ms: float, key: str, *before: str):
    return [*(event(name, key) for name in before), event("keymiss", key), line(at_ms, "GET", key)]


def test_totals_equal_info_and_the_residual_is_zero(tmp_path: Path):
    case = case_of(tmp_path / "c", [*missed(0, "a"), *stored(5, "a"), line(10, "GET", "a"), line(11, "MGET", "a", "a")])
    ledger = miss_ledger(case)
    assert (ledger.hits, ledger.misses, ledger.residual) == (3, 1, 0)
    assert ledger.hit_rate == 0.75


def test_a_miss_is_filled_by_the_write_that_follows_it(tmp_path: Path):
    ledger = miss_ledger(case_of(tmp_path / "c", [*missed(0, "a"), *stored(7, "a")]))
    assert ledger.reads["fill_ms"].tolist() == [7.0]
    assert ledger.writes["follows"].tolist() == ["miss"]


def test_a_hit_followed_by_a_rewrite_was_useless(tmp_path: Path):
    items = [*missed(0, "a"), *stored(5, "a"), line(10, "GET", "a"), *stored(15, "a"), line(20, "GET", "a")]
    ledger = miss_ledger(case_of(tmp_path / "c", items))
    assert ledger.reads["effective"].tolist() == [False, False, True]
    assert ledger.hit_rate == pytest.approx(2 / 3)
    assert ledger.effective_hit_rate == pytest.approx(1 / 3)


def test_two_readers_of_one_cold_key_each_get_their_fill(tmp_path: Path):
    items = [*missed(0, "a"), *missed(1, "a"), *stored(6, "a"), *stored(7, "a"), line(9, "GET", "a")]
    ledger = miss_ledger(case_of(tmp_path / "c", items))
    assert ledger.reads["fill_ms"].notna().tolist() == [True, True, False]
    assert ledger.reads["in_flight"].tolist() == [False, True, False]
    assert ledger.reads["effective"].tolist() == [False, False, True]


def test_a_late_fill_answers_its_miss_and_not_a_hit_in_between(tmp_path: Path):
    items = [*missed(0, "a"), *missed(1, "a"), *stored(6, "a"), line(7, "GET", "a"), *stored(9, "a")]
    ledger = miss_ledger(case_of(tmp_path / "c", items))
    assert ledger.reads["effective"].tolist() == [False, False, True]


def test_a_write_long_after_the_read_answers_nothing(tmp_path: Path):
    ledger = miss_ledger(case_of(tmp_path / "c", [*stored(0, "a"), line(10, "GET", "a"), *stored(60_000, "a")]))
    assert ledger.reads["effective"].tolist() == [True]


def test_a_case_without_reads_has_no_rate(tmp_path: Path):
    ledger = miss_ledger(case_of(tmp_path / "c", [*stored(0, "a")]))
    assert ledger.total == 0
    assert ledger.hit_rate is None
    assert "no reads" in str(ledger)


def test_alive_respects_writes_removals_and_expiry(tmp_path: Path):
    # GIVEN a key with 100 ms to live, one deleted, one kept
    items = [
        *stored(0, "short", "PX", "100"), *stored(0, "gone"), *stored(0, "kept"),
        event("del", "gone"), line(10, "DEL", "gone"), line(500, "PING"),
    ]  # fmt: skip
    case = case_of(tmp_path / "c", items)
    ledger = miss_ledger(case)
    ping = case.accesses.loc[case.accesses["command"] == "PING"].iloc[0]
    asked = pd.DataFrame({"db": 0, "key": ["short", "gone", "kept", "never"], "seq": ping["seq"], "t": ping["t"]})
    asked = asked.astype({"db": "int32", "key": "str"})
    # WHEN asked at the end THEN only the kept one is alive
    assert alive(ledger.writes, case.table("key_events"), case.accesses.head(0), asked).tolist() == [False, False, True, False]


def test_a_command_that_reads_and_writes_answers_no_read(tmp_path: Path):
    items = [*stored(0, "a"), event("set", "a"), line(5, "GETSET", "a", "w"), event("set", "a"), line(9, "SET", "a", "x", "GET")]
    ledger = miss_ledger(case_of(tmp_path / "c", items))
    assert ledger.hits == 2
    assert ledger.reads["effective"].all()
