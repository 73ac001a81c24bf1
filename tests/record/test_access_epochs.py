"""Outcomes in the modes of recording, on unix sockets, across gaps, and where a command removes what it reads."""

from __future__ import annotations

import pandas as pd
import pytest
from coldcache import schema
from coldcache.sources.accesses import AccessBuilder, EpochStart
from coldcache.sources.monitor import KeyEvent, Listening, Mark, MonitorLine
from conftest import START_US, event, heard, line, moment

Item = MonitorLine | KeyEvent | Mark | Listening | tuple[int, KeyEvent]
UNIX = "unix:/run/redis.sock"
MARK = "coldcache-5eed"


def fed(builder: AccessBuilder, *items: Item) -> pd.DataFrame:
    for item in items:
        arrival_us, content = item if isinstance(item, tuple) else (0, item)
        builder.feed(content, arrival_us)
    return builder.take_accesses()


def begun(mode: str = "exact", *, after_gap: bool = False, mark: str | None = None, epoch: int = 0) -> AccessBuilder:
    builder = AccessBuilder("n", digest_key=b"k")
    builder.begin(
        EpochStart(epoch=epoch, mode=mode, after_gap=after_gap, own=frozenset({"own", "guard"}), control="own", mark=mark)
    )
    return builder


def outcomes(rows: pd.DataFrame) -> list[tuple[str, str | None]]:
    states = rows["key_state"].astype("object").where(rows["key_state"].notna(), None)
    return list(zip(rows["outcome"], states, strict=True))


def test_getdel_is_a_hit_that_removes_so_the_next_miss_is_deleted():
    rows = fed(begun(), Listening(), event("del", "a"), line(0, "GETDEL", "a"), event("keymiss", "a"), line(1, "GET", "a"))
    assert outcomes(rows) == [("hit", None), ("miss", "deleted")]


def test_getex_with_a_time_that_is_past_removes_too():
    rows = fed(
        begun(), Listening(), event("del", "a"), line(0, "GETEX", "a", "PXAT", "1"), event("keymiss", "a"), line(1, "GET", "a")
    )
    assert outcomes(rows) == [("hit", None), ("miss", "deleted")]


def test_a_missed_getdel_removes_nothing():
    rows = fed(begun(), Listening(), event("keymiss", "a"), line(0, "GETDEL", "a"))
    assert outcomes(rows) == [("miss", "never written")]


def test_set_get_of_an_absent_key_misses_with_the_state_before_it_writes():
    # GIVEN keymiss, new and set before one line
    rows = fed(
        begun(), Listening(),
        event("keymiss", "a"), event("new", "a"), event("set", "a"), line(0, "SET", "a", "v", "GET"),
        line(1, "GET", "a"),
    )  # fmt: skip
    # THEN its own write does not make the miss one of a present key, and the key is there afterwards
    assert rows["lookups"].tolist() == [1, 1]
    assert outcomes(rows) == [("miss", "never written"), ("hit", None)]


def test_set_get_of_an_expired_key_says_expired():
    rows = fed(
        begun(), Listening(),
        event("set", "a"), line(0, "SET", "a", "v"),
        event("expired", "a"), event("keymiss", "a"), event("set", "a"), line(1, "SET", "a", "w", "GET"),
    )  # fmt: skip
    assert outcomes(rows)[1] == ("miss", "expired")


def test_a_key_that_vanished_without_an_event_has_no_state():
    # A hit proves it present; then something removed it that tells nothing
    rows = fed(begun(), Listening(), line(0, "GET", "a"), event("keymiss", "a"), line(1, "GET", "a"))
    assert outcomes(rows) == [("hit", None), ("miss", None)]


def test_lines_before_the_server_confirms_key_events_are_left_out():
    # GIVEN reads between MONITOR's and the last subscription's confirmation: without events a miss would pass for a hit
    builder = begun()
    rows = fed(builder, line(0, "GET", "a"), line(1, "GET", "b"), Listening(), line(2, "GET", "c"))
    assert rows["key"].tolist() == ["c"]
    assert builder.counts.lines == 1


def test_after_a_gap_nothing_is_known_of_any_key():
    builder = begun()
    fed(builder, Listening(), event("evicted", "a"), line(0, "PING"))
    builder.begin(EpochStart(epoch=1, after_gap=True, own=frozenset({"own"}), control="own"))
    rows = fed(builder, Listening(), event("keymiss", "a"), line(9, "GET", "a"), event("keymiss", "b"), line(9, "GET", "b"))
    assert outcomes(rows) == [("miss", None), ("miss", None)]
    assert rows["epoch"].tolist() == [1, 1]


def test_what_happens_after_a_gap_is_known_again():
    builder = begun(after_gap=True)
    rows = fed(builder, Listening(), event("del", "a"), line(0, "DEL", "a"), event("keymiss", "a"), line(1, "GET", "a"))
    assert outcomes(rows) == [("deleted", None), ("miss", "deleted")]


def test_an_epoch_that_joins_keeps_what_was_known():
    builder = begun()
    fed(builder, Listening(), event("evicted", "a"), line(0, "PING"))
    builder.begin(EpochStart(epoch=1, own=frozenset({"own"}), control="own"))
    rows = fed(builder, Listening(), event("keymiss", "a"), line(9, "GET", "a"), event("keymiss", "b"), line(9, "GET", "b"))
    assert outcomes(rows) == [("miss", "evicted"), ("miss", "never written")]
    assert rows["seq"].tolist() == [2, 3]


def test_a_transaction_that_a_gap_cut_is_forgotten():
    builder = begun()
    fed(builder, Listening(), line(0, "MULTI"))
    builder.begin(EpochStart(epoch=1, after_gap=True))
    assert fed(builder, Listening(), line(9, "GET", "a"))["in_multi"].tolist() == [False]


def test_events_pending_at_the_end_of_an_epoch_claim_nothing_of_the_next():
    builder = begun()
    fed(builder, Listening(), event("keymiss", "a"))
    builder.begin(EpochStart(epoch=1))
    assert outcomes(fed(builder, Listening(), line(0, "GET", "a"))) == [("hit", None)]


def test_without_key_events_no_outcome_is_claimed():
    rows = fed(
        begun("monitor"),
        line(0, "GET", "a"), line(1, "SET", "a", "v", "EX", "5"), line(2, "DEL", "a"), line(3, "EXPIRE", "a", "1"),
    )  # fmt: skip
    assert rows["outcome"].isna().all()
    assert rows["outcome_basis"].isna().all()
    assert rows["key_state"].isna().all()
    assert rows["op"].tolist() == ["read", "write", "delete", "expire"]
    assert rows["ttl_ms"].tolist()[1] == 5000


def test_events_alone_tell_misses_writes_and_ends():
    builder = begun("events", mark=MARK)
    rows = fed(
        builder,
        heard(0, "keymiss", "early"), Listening(),  # before all is confirmed: may be without its removal
        Mark(MARK),
        heard(1, "keymiss", "a"), heard(2, "new", "a"), heard(3, "set", "a"),
        heard(5, "expired", "a"), heard(6, "keymiss", "a"),
        heard(7, "evicted", "b", db=2), heard(8, "keymiss", "b", db=2), heard(9, "keymiss", "b"),
        Mark(MARK),
    )  # fmt: skip
    assert rows["op"].tolist() == ["read", "write", "read", "read", "read"]
    assert outcomes(rows) == [
        ("miss", "never written"), ("written", None), ("miss", "expired"), ("miss", "evicted"), ("miss", "never written"),
    ]  # fmt: skip
    assert rows["lookups"].tolist() == [1, 0, 1, 1, 1]
    assert rows["t"].tolist() == [moment(1), moment(3), moment(6), moment(8), moment(9)]
    assert rows[["client", "command", "value_bytes", "ttl_ms"]].isna().all(axis=None)
    assert len(builder.info_marks) == 2
    removals = builder.take_key_events()
    assert removals["event"].tolist() == ["expired", "evicted"]
    assert removals["t"].tolist() == [moment(5), moment(7)]


def test_our_marks_are_the_places_of_info_in_a_stream_of_events():
    builder = begun("events", mark=MARK)
    fed(builder, Listening(), Mark(MARK), heard(1, "keymiss", "a"))
    builder.feed(Mark(MARK), START_US + 2000)
    assert [(seq, epoch) for seq, _, epoch in builder.info_marks] == [(1, 0), (3, 0)]
    assert builder.info_marks[-1][1] == START_US + 2000


def own_block(at_ms: float) -> list[MonitorLine]:
    """What our marked INFO looks like on a unix socket, where all clients print alike."""
    lines = (("MULTI",), ("ECHO", MARK), ("INFO", "everything"), ("EXEC",))
    return [line(at_ms, *args, client=UNIX) for args in lines]


def test_on_a_unix_socket_our_own_block_is_left_out_and_all_others_stay():
    builder = begun(mark=MARK)
    rows = fed(
        builder, Listening(),
        line(0, "CONFIG", "SET", "notify-keyspace-events", "Exemn$g", client=UNIX),  # before the first mark: may be ours
        *own_block(1),
        line(2, "GET", "a", client=UNIX),
        line(3, "MULTI", client=UNIX), line(3, "GET", "b", client=UNIX), line(3, "EXEC", client=UNIX),
        line(4, "INFO", client=UNIX), line(5, "ECHO", "hello", client=UNIX),
        *own_block(6),
        line(7, "ECHO", "coldcache-end-5eed", client=UNIX),
    )  # fmt: skip
    assert rows["command"].tolist() == ["GET", "MULTI", "GET", "EXEC", "INFO", "ECHO"]
    assert len(builder.info_marks) == 2
    assert builder.counts.own_lines == 8  # the first MULTI came before anything was known
    # AND what stands behind our EXEC is in no transaction of ours
    assert rows["in_multi"].tolist()[0] is False


def test_somebody_elses_transaction_right_before_our_block_keeps_its_lines():
    builder = begun(mark=MARK)
    rows = fed(
        builder, Listening(), *own_block(0),
        line(1, "MULTI", client="10.0.0.1:5"), line(1, "ECHO", "x", client="10.0.0.1:5"), *own_block(2),
    )  # fmt: skip
    assert rows["command"].tolist() == ["MULTI", "ECHO"]


def test_the_guardians_lines_and_our_marks_over_tcp_are_left_out():
    builder = begun()
    rows = fed(
        builder, Listening(), line(0, "INFO", client="own"), line(1, "CLIENT", "LIST", client="guard"),
        line(2, "INFO", client="guard"), line(3, "INFO", client="own"), line(3, "INFO", client="10.0.0.1:5000"),
    )  # fmt: skip
    # AND the guardian's INFO is no sample of ours
    assert [seq for seq, _, _ in builder.info_marks] == [1, 4]
    assert rows["command"].tolist() == ["INFO"]


@pytest.mark.parametrize("mode", ["exact", "monitor", "events"])
def test_every_mode_writes_rows_of_one_and_the_same_table(mode: str):
    content = heard(1, "keymiss", "a") if mode == "events" else line(1, "GET", "a")
    rows = fed(begun(mode), Listening(), content)
    assert schema.to_arrow(rows, schema.ACCESSES).num_rows == 1
