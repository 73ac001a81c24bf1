"""The miss ledger: totals, fills, effective hits, lifetimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from coldcache.keys.families import looks_of
from coldcache.replay.ledger import Ledger, counter_rise, miss_ledger
from coldcache.replay.lifetimes import Named, alive
from coldcache.replay.order import Moments, positions
from coldcache.shards.cut import secret_of
from conftest import START_US, Stretch, case_of, case_of_stretches, event, heard, line


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
    # WHEN asked at the end THEN only the kept one is alive
    found = [ask(ledger, key, 0, ping["seq"], 500) for key in ("short", "gone", "kept", "never")]
    assert found == [False, False, True, False]


def test_a_command_that_reads_and_writes_answers_no_read(tmp_path: Path):
    items = [*stored(0, "a"), event("set", "a"), line(5, "GETSET", "a", "w"), event("set", "a"), line(9, "SET", "a", "x", "GET")]
    ledger = miss_ledger(case_of(tmp_path / "c", items))
    assert ledger.hits == 2
    assert ledger.reads["effective"].all()


def test_two_epochs_are_counted_each_against_its_own_counters(tmp_path: Path):
    # GIVEN a gap in which the server counted 5 hits and 2 misses
    first = Stretch(items=[*missed(0, "a"), *stored(5, "a")], start_ms=-1, end_ms=100)
    second = Stretch(items=[line(1000, "GET", "a")], start_ms=900, end_ms=1100, before=(5, 2))
    ledger = miss_ledger(case_of_stretches(tmp_path / "c", [first, second], gaps=[(100, 900, "connection lost")]))
    # THEN the windows reconcile, and what the gap held is stated
    assert (ledger.hits, ledger.misses, ledger.info_hits, ledger.info_misses, ledger.residual) == (1, 1, 1, 1, 0)
    assert (ledger.basis, ledger.uncounted) == ("exact", 7)
    assert "7 look-ups fell into gaps or stretches that were not recorded in full" in str(ledger)


def test_counters_are_not_compared_across_a_restart(tmp_path: Path):
    first = Stretch(items=[line(n, "GET", "a") for n in range(3)], start_ms=-1, end_ms=100, before=(10, 10))
    second = Stretch(items=[line(1000, "GET", "a")], start_ms=900, end_ms=1100, before=(40, 40), run_id="y")
    ledger = miss_ledger(case_of_stretches(tmp_path / "c", [first, second]))
    assert (ledger.hits, ledger.info_hits, ledger.residual, ledger.uncounted) == (4, 4, 0, 0)
    assert "caveat" not in str(ledger)


def test_a_write_after_the_gap_answers_no_miss_before_it(tmp_path: Path):
    first = Stretch(items=missed(90, "a"), start_ms=-1, end_ms=100)
    second = Stretch(items=stored(950, "a"), start_ms=900, end_ms=1100)
    ledger = miss_ledger(case_of_stretches(tmp_path / "c", [first, second]))
    assert ledger.reads["fill_ms"].isna().tolist() == [True]
    assert ledger.writes["follows"].isna().tolist() == [True]


def test_whether_a_miss_was_filled_is_known_only_when_the_window_passed_within_its_epoch(tmp_path: Path):
    # GIVEN a filled miss, one unfilled for more than 5 s, and one just before the gap
    items = [*missed(0, "img:1"), *stored(5, "img:1"), *missed(10, "img:2"), *missed(6000, "img:3")]
    first = Stretch(items=items, start_ms=-1, end_ms=6100)
    second = Stretch(items=[line(20_000, "PING")], start_ms=19_000, end_ms=30_000)
    ledger = miss_ledger(case_of_stretches(tmp_path / "c", [first, second]))
    assert ledger.reads["fill_known"].tolist() == [True, True, False]
    # THEN the share filled is of the two that are known
    assert ledger.by_family()["filled_share"].tolist() == [0.5]


def test_a_key_seen_before_the_gap_is_no_first_touch_after_it_nor_in_flight(tmp_path: Path):
    first = Stretch(items=missed(0, "a"), start_ms=-1, end_ms=100)
    second = Stretch(items=[*missed(1000, "a"), *missed(1001, "b"), *missed(1002, "b")], start_ms=900, end_ms=1100)
    reads = miss_ledger(case_of_stretches(tmp_path / "c", [first, second])).reads
    assert reads["key"].tolist() == ["a", "a", "b", "b"]
    assert reads["first_touch"].tolist() == [True, False, True, False]
    assert reads["in_flight"].tolist() == [False, False, False, True]


def test_of_key_events_alone_the_misses_are_counted_and_the_hits_are_infos(tmp_path: Path):
    items = [heard(0, "keymiss", "img:1"), heard(5, "set", "img:1"), heard(20, "keymiss", "img:2")]
    case = case_of_stretches(tmp_path / "c", [Stretch(items=items, start_ms=-1, end_ms=9000, mode="events", rise=(7, 3))])
    ledger = miss_ledger(case)
    assert (ledger.basis, ledger.hits, ledger.misses, ledger.total, ledger.residual) == ("info", 7, 2, 9, 1)
    assert ledger.hit_rate == pytest.approx(7 / 9)
    assert ledger.effective_hit_rate is None
    families = ledger.by_family()
    assert families["hit_rate"].isna().all()
    assert families["filled_share"].tolist() == [0.5]
    assert "effective hit rate  unknown" in str(ledger)


def test_of_commands_alone_hits_and_misses_are_not_known_where_info_counts_others(tmp_path: Path):
    items = [line(0, "GET", "a"), line(1, "GET", "b"), line(2, "SET", "b", "v")]
    ledger = miss_ledger(
        case_of_stretches(tmp_path / "c", [Stretch(items=items, start_ms=-1, end_ms=100, mode="monitor", rise=(3, 1))])
    )
    assert (ledger.basis, ledger.hits, ledger.misses, ledger.total, ledger.residual) == ("inferred", None, None, 2, 2)
    assert (ledger.expected, ledger.counted) == (2, 4)
    assert (ledger.hit_rate, ledger.effective_hit_rate) == (None, None)
    assert not ledger.knows_outcomes
    families = ledger.by_family()
    assert families["hit_rate"].isna().all()
    assert (families["hit_rate_low"] <= families["hit_rate_high"]).all()
    assert "hits         unknown   INFO 3" in str(ledger)
    assert "look-ups           2 expected of the commands, INFO counted 4" in str(ledger)


def test_of_commands_and_info_outcomes_are_inferred_and_add_up_to_infos(tmp_path: Path):
    items = [line(0, "GET", "a"), line(1, "GET", "b"), line(2, "SET", "b", "v"), line(3, "GET", "b"), line(4, "GET", "a")]
    ledger = miss_ledger(
        case_of_stretches(tmp_path / "c", [Stretch(items=items, start_ms=-1, end_ms=100, mode="monitor", rise=(3, 1))])
    )
    assert (ledger.basis, ledger.hits, ledger.misses, ledger.residual) == ("inferred", 3, 1, 0)
    # The one miss is the read that a write answered.
    assert ledger.reads.set_index("seq")["outcome"].astype("object").tolist() == ["hit", "miss", "hit", "hit"]
    assert ledger.reads["fill_ms"].notna().tolist() == [False, True, False, False]
    low, high = ledger.hit_rate_bounds
    assert low <= ledger.hit_rate <= high
    assert ledger.effective_hit_rate is None


def test_exact_epochs_are_counted_alone_but_the_others_tell_what_was_touched(tmp_path: Path):
    # GIVEN events, then a burst of commands and events
    events = Stretch(items=[heard(0, "keymiss", "a")], start_ms=-1, end_ms=900, mode="events", rise=(4, 1))
    burst = Stretch(items=[*missed(1000, "a"), line(1001, "GET", "b")], start_ms=950, end_ms=1100, before=(2, 0))
    ledger = miss_ledger(case_of_stretches(tmp_path / "c", [events, burst]))
    assert (ledger.mode, ledger.hits, ledger.misses, ledger.residual, ledger.uncounted) == ("exact", 1, 1, 0, 7)
    assert ledger.windows.index.tolist() == [1]
    assert ledger.reads["first_touch"].tolist() == [False, True]


def test_without_info_everything_recorded_is_counted_and_nothing_is_compared(tmp_path: Path):
    case = case_of(tmp_path / "c", [line(0, "GET", "a")])
    (case.folder / "server" / "info.parquet").unlink()
    ledger = miss_ledger(case)
    assert (ledger.hits, ledger.residual, ledger.uncounted) == (1, None, None)


def test_nodes_are_put_in_order_by_time_and_not_by_seq(tmp_path: Path):
    # GIVEN two nodes whose streams have numbers of their own, one key moving from the second to the first
    one = Stretch(items=[line(50, "GET", "a")], start_ms=-1, end_ms=100, node="one:1")
    two = Stretch(items=[line(10, "GET", "a")], start_ms=-1, end_ms=100, node="two:1")
    reads = miss_ledger(case_of_stretches(tmp_path / "c", [one, two])).reads
    assert reads["node"].tolist() == ["two:1", "one:1"]
    assert reads["first_touch"].tolist() == [True, False]
    swapped = miss_ledger(case_of_stretches(tmp_path / "d", [two, one])).reads
    assert swapped["first_touch"].tolist() == [True, False]


def ask(ledger: Ledger, key: str, epoch: int, seq: int, at_ms: float) -> bool:
    """Whether a key of database 0 was alive."""
    shards = ledger.replays.shards
    (shard,) = (shards.shard(number) for number in range(shards.count))
    name = looks_of(pa.array([key]), secret_of(ledger.case)).key
    writes, gone = np.flatnonzero(shard.is_write & ~shard.is_("outcome", "refused")), shards.removals(0)
    return bool(
        alive(
            Named(Moments(shard.epoch[writes], shard.seq[writes], shard.t_us[writes]), shard.key[writes], shard.db[writes]),
            shard.ttl_ms[writes],
            Named(Moments(gone.epoch, gone.seq, gone.t_us), gone.key, gone.db),
            shards.flushes,
            ledger.replays.plan.ends_us,
            Named(
                Moments(np.array([epoch], np.int32), np.array([seq]), np.array([START_US + round(at_ms * 1000)])),
                name,
                np.zeros(1, np.int32),
            ),
        )[0]
    )


def test_what_was_written_before_a_gap_is_not_known_to_be_alive_after_it(tmp_path: Path):
    first = Stretch(items=stored(0, "a"), start_ms=-1, end_ms=100)
    second = Stretch(items=[line(1000, "PING")], start_ms=900, end_ms=1100)
    case = case_of_stretches(tmp_path / "c", [first, second])
    ledger = miss_ledger(case)
    assert ask(ledger, "a", 0, case.accesses["seq"].min() + 1, 50)
    assert not ask(ledger, "a", 1, case.accesses["seq"].max(), 1000)


@pytest.mark.parametrize("reader_first", [True, False])
def test_a_value_on_another_node_lives_on_through_the_flush_of_this_one(tmp_path: Path, reader_first: bool):
    items = [*stored(0, "a"), *stored(1, "b"), event("del", "b"), line(2, "DEL", "b")]
    writer = Stretch(items=items, start_ms=-1, end_ms=100, node="one:1")
    reader = Stretch(items=[line(10, "FLUSHALL"), line(50, "PING")], start_ms=-1, end_ms=300, node="two:1")
    case = case_of_stretches(tmp_path / "c", [reader, writer] if reader_first else [writer, reader])
    ledger, ping = miss_ledger(case), case.accesses.iloc[-1]
    assert ask(ledger, "a", ping["epoch"], ping["seq"], 50)
    assert not ask(ledger, "b", ping["epoch"], ping["seq"], 50)
    assert not ask(ledger, "a", ping["epoch"], ping["seq"], 200)  # the writer's epoch is over


def test_a_counter_that_was_reset_began_again_at_zero():
    info = pd.DataFrame({"epoch": [0, 0, 0, 1, 1], "seq": range(5), "evicted_keys": [10, 12, 3, 100, 101]})
    assert counter_rise(info, "evicted_keys") == 2 + 3 + 1
    assert counter_rise(info.head(1), "evicted_keys") is None


def test_the_stream_decides_within_an_epoch_where_the_clock_stepped_back():
    moments = Moments(np.zeros(3, np.int32), np.array([1, 2, 3]), np.array([0, 10, 5]))
    assert positions(moments)[0].tolist() == [1, 2, 3]
