"""The application's log beside Redis's: every record finds its own access, or says that it has none."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import pytest
from coldcache.case import Case
from coldcache.replay.app_log import join_app_log
from coldcache.schema import ACCESSES
from coldcache.sources.app_log import app_log_table

START_US = 1_763_800_000_000_000
OPS = {"read": "get", "write": "set", "delete": "delete"}


def the_case(
    accesses: list[tuple[float, str, str, str | None]],
    log: list[tuple[float, str, str, str | None]],
    offset_us: int = 0,
    sizes: dict[float, tuple[int, int]] | None = None,
) -> Case:
    """A case of literal rows: (ms, op, key, outcome) of Redis; (ms, op, key, result) of the application."""
    stamps = [START_US + round(ms * 1000) for ms, *_ in accesses]
    frame = pd.DataFrame(
        {
            "t": pd.to_datetime(pd.Series(stamps, dtype="int64"), unit="us", utc=True).dt.as_unit("us"),
            "seq": range(len(accesses)),
            "node": "test:6379",
            "op": [op for _, op, _, _ in accesses],
            "key": [key for _, _, key, _ in accesses],
            "outcome": [outcome for *_, outcome in accesses],
            "value_bytes": [(sizes or {}).get(ms, (None, None))[0] for ms, *_ in accesses],
            "ttl_ms": [(sizes or {}).get(ms, (None, None))[1] for ms, *_ in accesses],
        }
    )
    assert set(frame) <= {column.name for column in ACCESSES.columns}
    lines = [
        {
            "t_us": START_US + round(ms * 1000) - offset_us, "pid": 1, "op": OPS[op], "key": key,
            "size": 10 if op == "write" else None, "ttl_ms": 5000 if op == "write" else None, "result": result,
        }
        for ms, op, key, result in log
    ]  # fmt: skip
    tables = {"accesses": frame, "app_log": app_log_table(lines)}

    class LiteralCase(Case):
        def table(self, name: str, columns: list[str] | None = None) -> pd.DataFrame:
            return tables[name]

    end = pd.Timestamp(START_US, unit="us", tz="UTC") + pd.Timedelta(10, "s")
    span = {"start": str(pd.Timestamp(START_US, unit="us", tz="UTC")), "end": str(end)}
    meta = {"span": span, "epochs": [], "clock_offsets": {"server_minus_recorder_us": offset_us}}
    return LiteralCase(Path("none"), "literal", meta)


def test_hits_and_misses_are_compared_on_the_servers_clock():
    # GIVEN an application whose clock is 3 s behind, and which takes one miss for a hit
    case = the_case(
        [(0, "read", "a", "miss"), (1, "write", "a", "written"), (9, "read", "a", "hit"), (20, "read", "b", "miss")],
        [(0.5, "read", "a", "MISS"), (1.5, "write", "a", None), (9.5, "read", "a", "HIT"), (20.5, "read", "b", "HIT")],
        offset_us=3_000_000,
    )
    # WHEN joined
    joined = join_app_log(case)
    # THEN all match, and the one is named
    assert (joined.matched, joined.unmatched, joined.outside, joined.agree) == (4, 0, 0, 2)
    assert joined.disagree[["key", "app_result", "redis_outcome", "seq"]].values.tolist() == [["b", "hit", "miss", 3]]
    assert joined.pairs["lag_ms"].tolist() == [0.5] * 4
    assert "b: application hit, Redis miss" in str(joined)
    assert "<pre>" in joined._repr_html_()


def test_records_without_an_access_and_from_outside_are_counted_apart():
    case = the_case(
        [(0, "read", "a", "miss")],
        [(60, "read", "a", "MISS"), (0, "delete", "a", None), (5, "read", "other", "MISS"), (-9000, "read", "a", "MISS")],
    )
    joined = join_app_log(case)
    assert (joined.matched, joined.unmatched, joined.outside) == (0, 3, 1)
    assert join_app_log(case, tolerance_ms=61).matched == 1


def test_each_access_is_taken_once():
    joined = join_app_log(the_case([(0, "read", "a", "miss")], [(1, "read", "a", "MISS"), (2, "read", "a", "MISS")]))
    assert (joined.matched, joined.unmatched) == (1, 1)


@pytest.mark.parametrize("gap_ms", [1.0, 3.0, 20.0])
def test_a_hot_key_whose_records_lag_is_matched_to_the_right_accesses(gap_ms: float):
    # GIVEN reads closer together than the lag, with outcomes at random
    rng = random.Random(1)
    reads = [(n * gap_ms, rng.choice(["hit", "miss"])) for n in range(300)]
    others = [(6200 + n * 180, "hit") for n in range(20)]  # apart: they tell the lag
    accesses = [(at, "read", "hot", outcome) for at, outcome in reads + others]
    log = [(at + 4 + rng.uniform(-0.2, 0.2), "read", "hot", outcome.upper()) for at, outcome in reads + others]
    # WHEN joined, THEN none is taken for its neighbour
    joined = join_app_log(the_case(accesses, log))
    assert (joined.matched, joined.agree) == (320, 320)
    assert joined.pairs["seq"].tolist() == list(range(320))


def test_a_write_with_another_size_or_ttl_is_shown():
    case = the_case(
        [
            (0, "write", "a", "written"),
            (100, "write", "b", "written"),
            (200, "write", "c", "written"),
            (300, "write", "d", "written"),
        ],
        [(0, "write", "a", None), (100, "write", "b", None), (200, "write", "c", None), (300, "write", "d", None)],
        sizes={0: (10, 5000), 100: (10, 5), 200: (99, 5500)},
    )
    joined = join_app_log(case)
    assert joined.writes_differ[["key", "redis_value_bytes", "redis_ttl_ms"]].values.tolist() == [["b", 10, 5], ["c", 99, 5500]]


def test_without_a_log_it_is_not_testable():
    joined = join_app_log(the_case([(0, "read", "a", "miss")], []))
    assert "not testable" in str(joined)
    assert "cache_log" in str(joined)
