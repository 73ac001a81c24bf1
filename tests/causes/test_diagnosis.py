"""From evidence to verdict, on small literal incidents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from coldcache.causes.diagnosis import attribute, diagnose
from coldcache.causes.outcomes import CONFIRMED, Evidence, Finding, Fix
from conftest import START_US, case_of, event, line

JSON = '{\\"labels\\": [1]}'


def cache_aside(
    *, write: str = "app:img", ttl: tuple[str, ...] = ("EX", "300"), value: str = JSON, rounds: int = 5, every_ms: float = 500.0
):
    """Read 30 ids every `every_ms`; on a miss (as the server would see it) write."""
    items, known = [], {}
    for round_ in range(rounds):
        for number in range(30):
            at = round_ * every_ms * 30 / 30 + number
            read, written = f"app:img:{number:08x}0", f"{write}:{number:08x}0"
            expires = known.get(read)
            if expires is not None and expires > at:
                items.append(line(at, "GET", read))
                continue
            if expires is not None:
                items.append(event("expired", read))
            items += [event("keymiss", read), line(at, "GET", read)]
            items += [event("set", written), line(at + 0.5, "SET", written, value, *ttl)]
            known[written] = at + int(ttl[1]) * {"EX": 1000, "PX": 1}[ttl[0]]
    return items


def test_a_healthy_cache_gives_no_finding(tmp_path: Path):
    diagnosis = diagnose(case_of(tmp_path / "c", cache_aside()))
    assert diagnosis.verdict == "healthy"
    assert diagnosis.findings == ()
    assert diagnosis.misses.to_dict("records") == [{"cause": "cold_start", "count": 30, "share": 1.0}]


def test_a_prefix_mismatch_is_named_with_its_edit_and_counts_only_what_the_repair_wins(tmp_path: Path):
    diagnosis = diagnose(case_of(tmp_path / "c", cache_aside(write="app2:img")))
    finding = diagnosis.findings[0]
    assert (finding.cause, finding.verdict, finding.edit) == ("key_prefix", CONFIRMED, "app2 -> app")
    # 30 first reads stay cold; the other 120 would have hit.
    assert diagnosis.misses.set_index("cause")["count"].to_dict() == {"key_prefix": 120, "cold_start": 30}
    assert diagnosis.predicted_hit_rate(finding) == pytest.approx(120 / 150)


def test_seconds_given_as_milliseconds(tmp_path: Path):
    items = cache_aside(ttl=("PX", "300"), every_ms=1500)
    diagnosis = diagnose(case_of(tmp_path / "c", items))
    finding = diagnosis.findings[0]
    assert (finding.cause, finding.edit) == ("ttl_unit", "PX 300 -> EX 300")
    assert diagnosis.misses.set_index("cause")["count"].to_dict() == {"ttl_unit": 120, "cold_start": 30}


@pytest.mark.parametrize("ttl", [("PX", "1000"), ("PX", "250"), ("EX", "1")])
def test_a_short_time_to_live_in_the_right_unit_is_only_suspected_to_be_short(tmp_path: Path, ttl: tuple[str, str]):
    diagnosis = diagnose(case_of(tmp_path / "c", cache_aside(ttl=ttl, every_ms=4000)))
    assert [(finding.cause, finding.verdict) for finding in diagnosis.findings] == [("ttl_short", "suspected")]
    assert diagnosis.verdict == "insufficient_evidence"


def rewriting(value: str):
    """Every hit is followed by a rewrite."""
    items = []
    for number in range(60):
        key = f"app:img:{number % 15:08x}1"
        items += [] if number >= 15 else [event("keymiss", key)]
        items += [line(number * 20, "GET", key), event("set", key), line(number * 20 + 5, "SET", key, value)]
    return items


def test_a_repr_of_bytes_is_a_serialization_failure(tmp_path: Path):
    diagnosis = diagnose(case_of(tmp_path / "c", rewriting("b'{\\\"a\\\": 1}'")))
    finding = diagnosis.findings[0]
    assert (finding.cause, finding.edit, finding.useless_hits) == ("serialization", "python_repr -> json", 45)
    assert diagnosis.ledger.hit_rate == pytest.approx(0.75)
    assert diagnosis.ledger.effective_hit_rate == 0


def test_readable_values_that_are_rewritten_are_another_cause(tmp_path: Path):
    diagnosis = diagnose(case_of(tmp_path / "c", rewriting(JSON)))
    assert [(finding.cause, finding.verdict) for finding in diagnosis.findings] == [("hit_unused", "suspected")]


def test_reads_that_nobody_fills_are_suspected_to_be_skipped(tmp_path: Path):
    items = [item for n in range(100) for item in (event("keymiss", f"img:{n % 20}"), line(n * 10, "GET", f"img:{n % 20}"))]
    diagnosis = diagnose(case_of(tmp_path / "c", items))
    assert diagnosis.misses.set_index("cause")["count"].to_dict() == {"set_skipped": 80, "cold_start": 20}
    assert diagnosis.verdict == "insufficient_evidence"


def test_an_empty_recording_is_insufficient_evidence(tmp_path: Path):
    diagnosis = diagnose(case_of(tmp_path / "c", [line(0, "PING")]))
    assert diagnosis.verdict == "insufficient_evidence"
    assert diagnosis.to_dict()["reads"]["hit_rate"] is None


def test_what_was_not_recorded_is_not_testable_and_says_how_to_record_it(tmp_path: Path):
    diagnosis = diagnose(case_of(tmp_path / "c", cache_aside()))
    needs = {outcome.cause: outcome.needs for outcome in diagnosis.not_testable}
    assert "memray" in needs["heap_leak"]
    assert diagnosis.to_dict()["memory"]["rss_bytes"]["start"] is None


def finding(cause: str, claims: list[bool]) -> Finding:
    return Finding(
        cause=cause,
        verdict=CONFIRMED,
        confidence=1.0,
        summary="s",
        evidence=(Evidence("e", 1),),
        fix=Fix(cause, "t", ""),
        claims=np.array(claims),
    )


def test_overlapping_repairs_share_a_miss_and_the_counts_still_sum():
    reads = pd.DataFrame({"lookups": [1, 1, 1, 1, 1]})
    misses = np.array([True, True, True, True, False])
    found = [finding("ttl_unit", [True, True, True, False, False]), finding("eviction", [False, True, True, False, False])]
    counts = attribute(reads, misses, found, np.array(["cold_start"] * 5, dtype=object))
    assert counts == {"ttl_unit": 2, "eviction": 1, "cold_start": 1}
    assert sum(counts.values()) == misses.sum()


def test_findings_are_ordered_by_the_reads_they_win(tmp_path: Path):
    # GIVEN a prefix mismatch beside a larger family that nobody fills
    unfilled = [item for n in range(400) for item in (event("keymiss", f"null:{n % 20}"), line(n * 6, "GET", f"null:{n % 20}"))]
    diagnosis = diagnose(case_of(tmp_path / "c", [*unfilled, *cache_aside(write="app2:img")]))
    assert [(finding.cause, count) for finding, count in zip(diagnosis.findings, diagnosis.attributed, strict=True)] == [
        ("set_skipped", 380),
        ("key_prefix", 120),
    ]
    assert diagnosis.verdict == "faulty"


def test_key_states_behind_few_reads_are_ruled_out_with_their_count(tmp_path: Path):
    diagnosis = diagnose(case_of(tmp_path / "c", cache_aside()))
    why = {outcome.cause: outcome.why for outcome in diagnosis.ruled_out}
    assert why["invalidation_storm"].startswith("0 of 150 reads")


def pairs_of(read: str, write: str, *, hits: bool, write_value: str = "1"):
    """Read one family and write another for the same ids, as two things an application does by design."""
    items = []
    for n in range(200):
        key, other = (family.replace("*", str(n % 30)) for family in (read, write))
        items += [] if hits else [event("keymiss", key)]
        items += [line(n * 40, "GET", key), event("set", other), line(n * 40 + 3, "SET", other, write_value, "EX", "3600")]
    return items


@pytest.mark.parametrize(
    ("items", "causes"),
    [
        (pairs_of("profile:*", "lastseen:*", hits=True), set()),
        (pairs_of("ban:*", "lastseen:*", hits=False), {("key_prefix", "suspected"), ("set_skipped", "suspected")}),
        (pairs_of("worker:stop", "worker:heartbeat", hits=False), {("set_skipped", "suspected")}),
    ],
)
def test_unlike_families_are_never_confirmed_to_be_one(tmp_path: Path, items: list, causes: set):
    found = {(finding.cause, finding.verdict) for finding in diagnose(case_of(tmp_path / "c", items)).findings}
    assert found <= causes


def hit_then(write, rounds: int = 200):
    return [item for n in range(rounds) for item in (line(n * 40, "GET", f"k:{n % 20}"), *write(n * 40 + 3, f"k:{n % 20}", n))]


@pytest.mark.parametrize(
    "write",
    [
        lambda at, key, n: [event("incrby", key), line(at, "INCR", key)],
        lambda at, key, n: [event("set", key), line(at, "SET", key, f'{{\\"seen\\": {n}}}')],
        lambda at, key, n: [line(at, "SET", key, "token", "NX")],
    ],
    ids=["counter", "session", "lock"],
)
def test_counters_sessions_and_refused_locks_are_no_useless_hits(tmp_path: Path, write):
    diagnosis = diagnose(case_of(tmp_path / "c", hit_then(write)))
    assert diagnosis.verdict == "healthy"
    assert diagnosis.findings == ()


def test_a_flush_of_a_warm_cache_is_seen(tmp_path: Path):
    # GIVEN keys that were there before, read, flushed, read again and refilled
    items = [line(n, "GET", f"k:{n}") for n in range(40)] + [line(100, "FLUSHALL")]
    for n in range(40):
        items += [
            event("keymiss", f"k:{n}"),
            line(200 + n, "GET", f"k:{n}"),
            event("set", f"k:{n}"),
            line(201 + n, "SET", f"k:{n}", "v"),
        ]
    diagnosis = diagnose(case_of(tmp_path / "c", items))
    assert diagnosis.misses.to_dict("records") == [{"cause": "flush", "count": 40, "share": 1.0}]


def test_what_a_flush_removed_is_not_claimed_by_a_key_mismatch(tmp_path: Path):
    first = cache_aside(write="app2:img", rounds=1)
    second = [
        item for n in range(30) for item in (event("keymiss", f"app:img:{n:08x}0"), line(900 + n, "GET", f"app:img:{n:08x}0"))
    ]
    flushed = diagnose(case_of(tmp_path / "c", [*first, line(800, "FLUSHALL"), *second]))
    assert not any(finding.cause == "key_prefix" and finding.claims.any() for finding in flushed.findings)


def test_two_mismatches_are_two_findings_each_with_its_edit(tmp_path: Path):
    items = cache_aside(write="app2:img")

    def moved(item):
        """The same traffic for another application."""
        if hasattr(item, "event"):
            return event(item.event, item.key.replace("app", "web"))
        return line((item.stamp_us - START_US) / 1000, *(part.replace("app", "web") for part in item.args))

    diagnosis = diagnose(case_of(tmp_path / "c", [*items, *map(moved, items)]))
    assert {finding.edit for finding in diagnosis.findings} <= {"app2 -> app", "web2 -> web"}
    assert sum(diagnosis.attributed) + int(diagnosis.misses.set_index("cause")["count"]["cold_start"]) == diagnosis.ledger.misses


def test_a_cache_that_never_hits_is_not_called_working(tmp_path: Path):
    items = [item for n in range(100) for item in (event("keymiss", f"u:{n}"), line(n * 10, "GET", f"u:{n}"))]
    assert diagnose(case_of(tmp_path / "c", items)).verdict == "insufficient_evidence"


def test_keys_with_braces_do_not_become_code(tmp_path: Path):
    evil = "{__import__('os')}"
    items = [
        type(item)(item.db, item.event, evil + item.key) if hasattr(item, "event")
        else line((item.stamp_us % 10**9) / 1000, item.args[0], evil + item.args[1], *item.args[2:])
        for item in cache_aside(write="app2:img")
    ]  # fmt: skip
    for finding in diagnose(case_of(tmp_path / "c", items)).findings:
        assert "{__import__" not in finding.fix.code.replace("{{__import__", "")
