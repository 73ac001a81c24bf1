"""Inference of outcomes: the state of the keys, command by command; fills; INFO; bounds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from coldcache import schema
from coldcache.replay import inference, windows
from coldcache.replay.inference import HIT, KEY_STATES, MISS, infer
from coldcache.replay.rows import access_rows
from coldcache.replay.states import trace_reads
from coldcache.shards import cut
from coldcache.shards.workers import Workers
from coldcache.sources.accesses import AccessBuilder, EpochStart
from coldcache.sources.monitor import Listening, MonitorLine
from conftest import line, moment

NO_EVICTION = pd.DataFrame({"node": ["test:6379"], "parameter": ["maxmemory"], "value": ["0"]})


def accesses(*epochs: list[MonitorLine]) -> pd.DataFrame:
    """The rows of a log of commands, in one or more epochs."""
    builder = AccessBuilder("test:6379", ["own"])
    for number, lines in enumerate(epochs):
        builder.begin(EpochStart(epoch=number, mode="monitor", after_gap=number > 0, own=frozenset({"own"})))
        builder.feed(Listening())
        for item in lines:
            builder.feed(item)
    return builder.take_accesses()


def info(*samples: tuple[float, int, int, int, int], evicted: tuple[int, ...] | None = None) -> pd.DataFrame:
    """INFO samples (at_ms, seq, keyspace_hits, keyspace_misses, keys) of the first epoch."""
    at_ms, seq, hits, misses, keys = zip(*samples, strict=True)
    return pd.DataFrame(
        {
            "t": [moment(at) for at in at_ms],
            "seq": seq,
            "epoch": 0,
            "node": "test:6379",
            "keyspace_hits": hits,
            "keyspace_misses": misses,
            "keys": keys,
            "evicted_keys": evicted or (0,) * len(seq),
        }
    )


def told(*lines: MonitorLine, config: pd.DataFrame | None = NO_EVICTION) -> str:
    """What is certain of each look-up: h hit, m miss, ? open."""
    got = infer(accesses(list(lines)), config=config)
    reads = np.flatnonzero(got.outcome >= 0)
    return "".join("?" if not got.sure[at] else "h" if got.outcome[at] == HIT else "m" for at in reads)


def after(*commands: str, at_ms: float = 1000) -> str:
    """What is certain of a GET of k at `at_ms`, after commands one ms apart."""
    lines = [line(number, *("" if word == "''" else word for word in text.split())) for number, text in enumerate(commands)]
    return told(*lines, line(at_ms, "GET", "k"))[-1]


@pytest.mark.parametrize(
    ("commands", "outcome"),
    [
        ("", "?"),
        ("SET k v", "h"),
        ("SET k v|DEL k", "m"),
        ("DEL k", "m"),
        ("FLUSHALL", "m"),
        ("SET k v|FLUSHDB", "m"),
        # Times to live, and those that are refused.
        ("SET k v PX 100", "m"),
        ("SET k v PX 100|SET k v", "h"),
        ("SET k v PX 100|SET k v KEEPTTL", "m"),
        ("SET k v PX 100|APPEND k v", "m"),
        ("SET k v PX 100|INCR k", "m"),
        ("SET k v PX 990", "?"),
        ("SET k v PX 1100", "h"),
        ("DEL k|SET k v EX 0", "m"),
        ("SET k v|SET k v EX 0", "h"),
        ("DEL k|SET k v EX abc", "m"),
        ("DEL k|SETEX k -1 v", "m"),
        ("SET k v PXAT 1000", "m"),
        ("SET k v|SET k v PXAT -1", "h"),
        ("SET k v|SET k v EX 10 KEEPTTL", "h"),
        # Conditions.
        ("DEL k|SET k v XX", "m"),
        ("DEL k|SET k v NX", "h"),
        ("SET k v PX 100|SET k v NX", "m"),
        ("SET k v NX", "?"),  # it may have been there, with a time to live
        ("SET k v PX 900|SET k v NX", "m"),
        ("SET k v XX", "?"),
        ("DEL k|SET k v NX XX", "m"),
        ("DEL k|SET k v NX GET", "?"),
        ("DEL k|SETNX k v", "h"),
        ("SET k v PX 100|SETNX k v", "m"),
        ("DEL k|MSETNX k v j v", "?"),
        # EXPIRE and its kin.
        ("SET k v|EXPIRE k 0", "m"),
        ("EXPIRE k 0", "m"),
        ("PEXPIRE k 100", "m"),
        ("SET k v|PEXPIRE k 100 XX", "h"),
        ("SET k v EX 9|PEXPIRE k 100 NX", "h"),
        ("SET k v EX 9|PEXPIRE k 100 GT", "h"),
        ("SET k v EX 9|PEXPIRE k 100 LT", "m"),
        ("SET k v|PEXPIRE k 100 GT", "h"),
        ("SET k v|PEXPIRE k 100 LT", "m"),
        ("SET k v EX 9|EXPIRE k abc", "h"),
        ("SET k v PX 100|PERSIST k", "h"),
        ("DEL k|PERSIST k", "m"),
        ("SET k v|GETEX k PX 100", "m"),
        ("SET k v PX 100|GETEX k", "?"),
        ("SET k v|GETEX k EX 0", "h"),
        ("SET k v|GETEX k PXAT 1000", "m"),
        ("SET k v|GETDEL k", "m"),
        # Types: what fails changes nothing.
        ("DEL k|RPUSH k a|GETDEL k", "h"),
        ("DEL k|RPUSH k a|GETSET k v", "h"),
        ("DEL k|SADD k a|PEXPIRE k 100|SET k v GET", "m"),
        ("GETDEL k", "?"),
        ("SET k v PX 100|RPUSH k a", "m"),
        ("SET k v|LPOP k", "h"),
        # What may leave nothing, or not create.
        ("RPUSH k a|LPOP k", "?"),
        ("HSET k f v|HDEL k f", "?"),
        ("HSET k f v|HDEL k f|HSET k g v", "?"),
        ("DEL k|ZADD k XX 1 a", "?"),
        ("DEL k|SETRANGE k 0 ''", "?"),
        ("DEL k|LPUSHX k a", "m"),
        ("DEL k|RESTORE k 0 x", "?"),
        ("SET k v|JSON.SET k $ 1", "?"),
        ("SET k v|NOSUCH k", "?"),
        ("RPUSH k a|BLPOP k 1", "?"),
        # From key to key.
        ("SET j v|RENAME j k", "h"),
        ("SET j v PX 100|RENAME j k", "m"),
        ("SET k v|RENAME k j", "m"),
        ("SET k v|RENAME k k", "h"),
        ("DEL j|DEL k|RENAME j k", "m"),
        ("SET k v|SET j v|RENAMENX k j", "?"),
        ("SET k v|DEL j|RENAMENX k j", "m"),
        ("SET j v|DEL k|RENAMENX j k", "h"),
        ("SET k v|RENAME j k", "?"),
        ("SET j v|DEL k|COPY j k", "?"),
        ("SET j v|SET k v|COPY j k REPLACE", "h"),
        ("DEL j|DEL k|COPY j k", "m"),
        ("SET k v|MOVE k 1", "?"),
        ("DEL k|MOVE k 1", "m"),
        ("DEL j|SET k v|SUNIONSTORE k j", "m"),
        ("SADD j a|SUNIONSTORE k j", "?"),
        ("DEL j|SET k v|SMOVE j k a", "h"),
        ("SET k v|SWAPDB 0 1", "?"),
        ("SET k v|CLUSTER FLUSHSLOT 1", "?"),
        ("SET k v|MIGRATE h 1 '' 0 5000 KEYS k", "?"),
    ],
)
def test_the_state_of_a_key_after_commands(commands: str, outcome: str):
    assert after(*filter(None, commands.split("|"))) == outcome


def test_the_databases_of_a_server_are_apart():
    lines = [line(0, "SET", "k", "v"), line(1, "SET", "k", "v", db=1), line(2, "FLUSHDB", db=1)]
    reads = [line(9, "GET", "k"), line(10, "GET", "k", db=1)]
    assert told(*lines, *reads) == "hm"
    assert told(*lines, line(5, "MOVE", "k", "1"), *reads) == "??"


def test_scripts_and_transactions_are_lines_like_others():
    lines = [
        line(0, "EVAL", "x", "1", "k"),
        line(1, "SET", "k", "v", client="lua"),
        line(2, "MULTI"),
        line(3, "DEL", "k"),
        line(4, "EXEC"),
    ]
    assert told(*lines, line(5, "GET", "k")) == "m"


def test_a_replica_shows_the_expiry_of_its_primary_as_a_deletion():
    # GIVEN writes as they are replicated, with a deadline in ms, and the primary's word that a key is gone
    at = 1_763_800_000_000 + 60_000
    lines = [line(0, "SET", "k", "v", "PXAT", str(at)), line(1, "SET", "j", "v", "PXAT", str(at)), line(9, "UNLINK", "j")]
    assert told(*lines, line(20, "GET", "k"), line(21, "GET", "j"), line(61_000, "GET", "k")) == "hmm"


def test_a_gap_leaves_nothing_known_and_nothing_absent():
    frame = accesses([line(0, "SET", "k", "v"), line(1, "DEL", "j")], [line(9, "GET", "k"), line(10, "GET", "j")])
    got = infer(frame, config=NO_EVICTION)
    assert not got.sure.any()


def test_what_had_become_of_a_missed_key():
    lines = [line(0, "SET", "a", "v", "PX", "5"), line(1, "SET", "b", "v"), line(2, "DEL", "b"), line(3, "SET", "c", "v")]
    lines += [line(400, "FLUSHALL"), line(401, "SET", "d", "v", "PX", "5")]
    lines += [line(500, "GET", key) for key in "abcde"]
    got = infer(accesses(lines), config=NO_EVICTION)
    states = [KEY_STATES[number] for number in got.key_state[got.outcome == MISS]]
    assert states == ["expired", "deleted", "flushed", "expired", "never written"]


def test_keys_are_certain_only_where_nothing_was_evicted():
    lines = [line(0, "SET", "k", "v"), line(1, "GET", "k")]
    assert told(*lines) == "h"
    assert told(*lines, config=None) == "?"
    limited = NO_EVICTION.assign(value="1000000")
    policy = pd.DataFrame({"node": ["test:6379"], "parameter": ["maxmemory-policy"], "value": ["volatile-lru"]})
    assert told(*lines, config=limited) == "?"
    # THEN under volatile-* a key without a time to live stays
    assert told(*lines, config=pd.concat([limited, policy])) == "h"
    assert told(line(0, "SET", "k", "v", "EX", "9"), line(1, "PERSIST", "k"), line(2, "GET", "k"),
                config=pd.concat([limited, policy])) == "?"  # fmt: skip


def test_an_eviction_costs_at_most_the_reads_of_one_life():
    # GIVEN two keys, one read three times and one twice, and one eviction between the samples
    lines = [line(0, "SET", "a", "v"), line(1, "SET", "b", "v")]
    lines += [line(2 + number, "GET", key) for number, key in enumerate("aaabb")]
    frame = accesses(lines)
    first, last = int(frame["seq"].min()) - 1, int(frame["seq"].max()) + 1
    samples = info((-1, first, 0, 0, 5), (50, last, 0, 0, 5), evicted=(0, 1)).drop(columns=["keyspace_hits", "keyspace_misses"])
    got = infer(frame, info=samples)
    # THEN three hits may be lost, not five
    assert (got.hits_low, got.hits_high) == (2, 5)
    assert not got.sure.any()


def test_a_server_without_keys_has_none_of_any_name():
    frame = accesses([line(0, "GET", "k"), line(5, "GET", "k")])
    samples = info((-1, 0, 10, 10, 0), (9, 3, 10, 12, 0))
    got = infer(frame, info=samples, config=NO_EVICTION)
    assert got.sure.all()
    assert got.outcome.tolist() == [MISS, MISS]
    assert [KEY_STATES[number] for number in got.key_state] == ["never written"] * 2


def test_info_decides_how_many_hits_and_the_most_doubtful_reads_give_way():
    # GIVEN a family that is filled, and reads of two keys of which nothing is known, one far more often read
    lines = []
    for number in range(60):
        lines += [line(10 * number, "GET", f"user:{number}"), line(10 * number + 3, "SET", f"user:{number}", "v")]
    lines += [line(700, "GET", "other:1")] + [line(701 + number, "GET", "other:2") for number in range(9)]
    frame = accesses(lines)
    # WHEN INFO says that 8 of all were hits
    samples = info((-1, 0, 0, 0, 5), (999, int(frame["seq"].max()) + 1, 8, 62, 5))
    got = infer(frame, info=samples, config=NO_EVICTION)
    # THEN the total is INFO's, and the filled reads stay misses
    assert (got.hits, got.hits_low, got.hits_high) == (8, 8, 8)
    assert int((got.outcome == HIT).sum()) == 8
    assert (got.expected, got.counted) == (70, 70)
    assert got.outcome[frame["key"].str.startswith("user").to_numpy() & frame["op"].eq("read").to_numpy()].sum() == 0
    assert got.families.set_index("family").loc["other:*", "hits"] == pytest.approx(8, abs=0.5)
    assert got.windows["counted"].tolist() == [70]


def test_misses_that_are_not_filled_are_counted_by_the_share_of_certain_ones_that_are():
    # GIVEN certain misses of which every second is filled, and unknown keys of which half of the reads are
    lines = []
    for number in range(40):
        lines.append(line(20 * number, "DEL", f"user:{number}"))
        lines.append(line(20 * number + 1, "GET", f"user:{number}"))
        if number % 2:
            lines.append(line(20 * number + 5, "SET", f"user:{number}", "v"))
    got = infer(accesses(lines), config=NO_EVICTION)
    assert got.families["p_fill"].tolist() == [0.5]


def gaps_us(lines: list[MonitorLine]) -> list[int]:
    """The time from each read to the write that answers it."""
    shards = cut.cut_frame(schema.to_arrow(accesses(lines), schema.ACCESSES), Workers())
    stretches = windows.info_windows(shards.epochs)
    return trace_reads(access_rows(shards.shard(0), stretches), stretches)[0].gap_us.tolist()


def test_a_write_answers_the_latest_unanswered_read_of_its_key_not_of_its_connection():
    lines = [line(0, "GET", "k", client="a:1"), line(1, "GET", "j", client="a:1")]
    lines += [line(8, "SET", "k", "v", client="b:2"), line(9000, "SET", "j", "v", client="a:1")]
    assert gaps_us(lines) == [8000, -1]
    # THEN a write that the server refuses answers nothing
    assert gaps_us([line(0, "GET", "k"), line(8, "SET", "k", "v", "EX", "0")]) == [-1]


def test_missing_lines_are_said_and_widen_the_bounds():
    frame = accesses([line(number, "GET", "k") for number in range(10)])
    got = infer(frame, info=info((-1, 0, 0, 0, 5), (99, 11, 15, 5, 5)), config=NO_EVICTION)
    assert (got.expected, got.counted) == (10, 20)
    assert (got.hits_low, got.hits_high) == (5, 10)
    assert "20 look-ups" in str(got)


def test_counters_that_began_again_anchor_nothing():
    frame = accesses([line(0, "SET", "k", "v"), line(1, "GET", "k"), line(2, "GET", "j")])
    got = infer(frame, info=info((-1, 0, 100, 100, 5), (9, 4, 1, 1, 5)), config=NO_EVICTION)
    assert got.counted is None
    assert (got.hits_low, got.hits_high) == (1, 2)


def test_a_census_says_what_is_there_at_the_start():
    frame = accesses([line(0, "GET", "a"), line(1, "GET", "b"), line(2, "GET", "b", db=1)])
    got = infer(frame, config=NO_EVICTION, census={("test:6379", 0): {"a"}})
    # THEN a listed key may expire any time, one that is not listed is absent, and another database is not known
    assert got.sure.tolist() == [False, True, False]
    assert got.outcome[1] == MISS
    assert got.p_hit[0] > 0.9


def test_a_log_followed_in_shards_gives_what_it_gives_as_a_whole(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(3)
    lines = []
    for number in range(3000):
        key = f"{'ab'[number % 2]}:{rng.integers(60)}"
        lines.append(line(number, *(["SET", key, "v", "PX", "90"] if rng.random() < 0.3 else ["GET", key])))
        if number % 1000 == 500:
            lines.append(line(number, "FLUSHALL"))
    frame = accesses(lines)
    samples = info((-1, 0, 0, 0, 5), (9999, 5000, 700, int(frame["lookups"].sum()) - 700, 5))
    whole = infer(frame, info=samples)
    monkeypatch.setattr(cut, "ROWS_IN_SHARD", 500)
    got = infer(frame, info=samples)
    assert got.sure.tolist() == whole.sure.tolist()
    assert (got.hits_low, got.hits_high) == (whole.hits_low, whole.hits_high)
    assert np.nanmax(np.abs(got.p_hit - whole.p_hit)) < 0.01
    assert int((got.outcome == HIT).sum()) == int((whole.outcome == HIT).sum()) == 700


def test_too_many_windows_are_joined(monkeypatch: pytest.MonkeyPatch):
    frame = accesses([line(number, "GET", f"k:{number % 50}") for number in range(400)])
    samples = info(*((4 * number - 0.5, 4 * number, number, 3 * number, 5) for number in range(101)))
    fine = infer(frame, info=samples, config=NO_EVICTION)
    monkeypatch.setattr(windows, "_MOST_CELLS", 10)
    coarse = infer(frame, info=samples, config=NO_EVICTION)
    assert len(coarse.windows) < len(fine.windows)
    assert coarse.hits == pytest.approx(fine.hits, abs=1)
    assert coarse.counted == fine.counted


def test_estimates_from_a_sample_of_the_chains_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch):
    lines = []
    for number in range(2000):
        lines.append(line(2 * number, "GET", f"k:{number % 700}"))
        if number % 3 == 0 and number < 700:
            lines.append(line(2 * number + 1, "SET", f"k:{number % 700}", "v"))
    frame = accesses(lines)
    samples = info((-1, 0, 0, 0, 5), (9999, 5000, 1700, 300, 5))
    whole = infer(frame, info=samples, config=NO_EVICTION)
    monkeypatch.setattr(inference, "_SAMPLE", 500)
    sampled = infer(frame, info=samples, config=NO_EVICTION)
    assert sampled.hits == whole.hits == 1700
    assert np.mean(sampled.outcome == whole.outcome) > 0.95


def test_the_result_shows_itself_and_never_says_exact():
    got = infer(accesses([line(0, "SET", "k", "v"), line(1, "GET", "k"), line(2, "GET", "j")]))
    assert got.basis == "inferred"
    assert "no INFO" in str(got)
    assert "<pre>" in got._repr_html_()
    assert repr(got) == "<Inference of 2 reads: 0 to 2 hits>"
    assert got.certain_share == 0


def test_a_log_without_reads_has_no_rate():
    got = infer(accesses([line(0, "SET", "k", "v")]))
    assert got.hit_rate is None
    assert got.certain_share is None
    assert "no reads" in str(got)
    for frame in (accesses([line(0, "PING")]), accesses([])):
        assert infer(frame).families.empty
