"""From evidence to verdict, on small literal incidents."""

from __future__ import annotations

import json
from pathlib import Path

import coldcache
import jsonschema
import numpy as np
import pandas as pd
import pytest
from coldcache.case import Case, open_case, write_table
from coldcache.causes.baseline import BASELINE
from coldcache.causes.diagnosis import attribute, diagnose
from coldcache.causes.key_states import Unclaimed
from coldcache.causes.keys import cause_of
from coldcache.causes.outcomes import CONFIRMED, Investigation
from coldcache.verdict import verdict_html
from conftest import START_US, Stretch, case_of, case_of_stretches, event, heard, line

JSON = '{\\"labels\\": [1]}'
SCHEMA = json.loads((Path(coldcache.__file__).parent / "diagnosis.schema.json").read_text("utf-8"))
AFTER = line(20_000, "PING")  # the recording goes on: a fill that has not come is no longer coming


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


@pytest.mark.parametrize(
    ("edit", "leading", "cause"),
    [
        ("dev_cache -> prod_cache", True, "key_prefix"),
        ("(none) -> tenant7", True, "key_prefix"),
        ("imageID -> image_id", True, "key_naming"),
        ("UserProfile -> user-profiles", True, "key_naming"),
        ("categories -> category", True, "key_naming"),
        ("images%2Flarge -> images/large", True, "key_naming"),
        (r"\xac\xed\x00\x05t\x00.crates -> crates", True, "key_naming"),
        ("(none) -> s", True, "key_prefix"),
        ("thumb -> full", False, "key_naming"),
        ("v1 -> v2", True, "key_version"),
        ("2 -> 3", False, "key_version"),
        ("img_v1 -> img_v2", True, "key_version"),
        ("img1 -> img2", True, "key_prefix"),
    ],
)
def test_an_edit_is_of_a_prefix_a_spelling_or_a_version(edit: str, leading: bool, cause: str):
    assert cause_of(edit, leading=leading) == cause


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
    diagnosis = diagnose(case_of(tmp_path / "c", [*items, AFTER]))
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


def test_overlapping_repairs_share_a_miss_and_the_counts_still_sum():
    # GIVEN three misses that the first repair claims, the last two of which the second claims, too, and a cold one
    table = np.zeros((1, len(BASELINE)), np.int64)
    table[0, BASELINE.index("cold_start")] = 1
    shared = {frozenset([0]): 1, frozenset([0, 1]): 2}
    counts = attribute(["ttl_unit", "eviction"], shared, Unclaimed(table, table))
    assert counts == {"ttl_unit": 2, "eviction": 1, "cold_start": 1}


def test_findings_are_ordered_by_the_reads_they_win(tmp_path: Path):
    # GIVEN a prefix mismatch beside a larger family that nobody fills
    unfilled = [item for n in range(400) for item in (event("keymiss", f"null:{n % 20}"), line(n * 6, "GET", f"null:{n % 20}"))]
    diagnosis = diagnose(case_of(tmp_path / "c", [*unfilled, *cache_aside(write="app2:img"), AFTER]))
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
    assert not any(finding.cause == "key_prefix" and finding.claimed for finding in flushed.findings)


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


def why(diagnosis, cause: str) -> str:
    """What a check that found nothing says of a cause."""
    return diagnosis.checks().set_index("cause").loc[cause, "why"]


def warm_then(gap_reads: int, *, hits: int = 300) -> list[Stretch]:
    """Keys read and written, a gap of 2 s, then `gap_reads` of them missing, unfilled, for a reason that the gap hides."""
    keys = [f"img:{n}" for n in range(100)]
    cold = [item for n, key in enumerate(keys) for item in (event("keymiss", key), line(n, "GET", key), event("set", key),
            line(n + 0.5, "SET", key, "v"))]  # fmt: skip
    warm = [line(10 + n, "GET", keys[n % 100]) for n in range(200, 200 + hits)]
    lost = [item for n, key in enumerate(keys[:gap_reads]) for item in (event("keymiss", key), line(9000 + n, "GET", key))]
    return [
        Stretch(items=[*cold, *warm], start_ms=-1, end_ms=6000),
        Stretch(items=[*lost, line(20_000, "PING")], start_ms=8000, end_ms=20_001),
    ]


GAP = [(6000, 8000, "the connection was lost")]


def test_misses_whose_reason_fell_into_a_gap_are_never_called_skipped(tmp_path: Path):
    # GIVEN 100 misses of keys that were there before the gap, never filled again
    diagnosis = diagnose(case_of_stretches(tmp_path / "c", warm_then(100), gaps=GAP))
    # THEN they are the recording's, and too many to call the cache healthy
    assert diagnosis.misses.set_index("cause")["count"].to_dict() == {"cold_start": 100, "incomplete_capture": 100}
    assert (diagnosis.verdict, diagnosis.findings, diagnosis.alert) == ("insufficient_evidence", (), False)
    assert "100 of the 200 misses cannot be judged" in diagnosis.headline
    assert "what became of the keys of 100 misses is not known" in why(diagnosis, "set_skipped")
    assert "what became" in why(diagnosis, "eviction") or "evicted_keys" in why(diagnosis, "eviction")


def test_a_gap_in_a_healthy_recording_is_named_and_no_finding(tmp_path: Path):
    diagnosis = diagnose(case_of_stretches(tmp_path / "c", warm_then(5), gaps=GAP))
    assert (diagnosis.verdict, diagnosis.findings) == ("healthy", ())
    assert why(diagnosis, "incomplete_capture") == (
        "recorded look-ups equal INFO's count (residual 0 of 405); 1 gap, 2.0 s, left out (the connection was lost)"
    )


def test_gaps_for_most_of_the_time_make_the_recording_suspect_but_not_its_numbers(tmp_path: Path):
    gaps = [(6000, 8000, "the connection was lost"), (9000, 20_000, "the server was too busy")]
    diagnosis = diagnose(case_of_stretches(tmp_path / "c", warm_then(5), gaps=gaps))
    first = diagnosis.findings[0]
    assert (first.cause, first.verdict, diagnosis.verdict) == ("incomplete_capture", "suspected", "insufficient_evidence")
    assert "65 % of its time" in first.summary
    assert "Trust no other number" not in first.summary


def test_what_does_not_reconcile_is_not_to_be_trusted_with_or_without_gaps(tmp_path: Path):
    first, second = warm_then(5)
    lossy = Stretch(items=first.items, start_ms=-1, end_ms=6000, rise=(500, 100))
    diagnosis = diagnose(case_of_stretches(tmp_path / "c", [lossy, second], gaps=GAP))
    assert "Trust no other number of this case" in diagnosis.headline


def test_a_read_in_the_last_seconds_is_not_called_unfilled(tmp_path: Path):
    items = [item for n in range(100) for item in (event("keymiss", f"img:{n % 20}"), line(n * 10, "GET", f"img:{n % 20}"))]
    diagnosis = diagnose(case_of(tmp_path / "c", [*items, line(1100, "GET", "there")]))
    assert diagnosis.misses.set_index("cause")["count"].to_dict() == {"incomplete_capture": 80, "cold_start": 20}
    assert diagnosis.verdict == "insufficient_evidence"


def test_counters_rise_within_epochs_and_never_fall_at_a_restart(tmp_path: Path):
    first, second = (
        Stretch(items=[line(at, "PING")], start_ms=at - 1, end_ms=at + 1, evicted=evicted, run_id=run_id)
        for at, evicted, run_id in ((1, 5, "x"), (1000, 2, "y"))
    )
    investigation = Investigation.of(case_of_stretches(tmp_path / "c", [first, second]))
    assert investigation.counter_delta("evicted_keys") == 7
    assert investigation.counter_delta("no_such_counter") is None


def test_nodes_have_run_ids_of_their_own_and_a_changed_one_is_a_restart(tmp_path: Path):
    def causes_ruled_out(*stretches: Stretch) -> set[str]:
        name = f"c{len(list(tmp_path.iterdir()))}"
        return {outcome.cause for outcome in diagnose(case_of_stretches(tmp_path / name, list(stretches))).ruled_out}

    one = Stretch(items=[line(1, "GET", "a")], start_ms=0, end_ms=2, node="one:1", run_id="x")
    two = Stretch(items=[line(1, "GET", "b")], start_ms=0, end_ms=2, node="two:1", run_id="y")
    one_again = Stretch(items=[line(11, "GET", "a")], start_ms=10, end_ms=12, node="one:1", run_id="z")
    assert "flush" in causes_ruled_out(one, two)
    assert "flush" not in causes_ruled_out(one, two, one_again)


def with_commandstats(case: Case, *rejected: tuple[int, int, int]) -> Case:
    """Add rows of epoch, milliseconds after the start, rejected calls."""
    frame = pd.DataFrame(rejected, columns=["epoch", "t", "rejected_calls"])
    frame["t"] = pd.to_datetime(START_US + frame["t"] * 1000, unit="us", utc=True)
    frame = frame.assign(node="test:6379", command="set", calls=1, usec=1, failed_calls=0)
    write_table(case.folder, "commandstats", frame)
    return open_case(case.folder)


def test_rejected_calls_are_summed_over_epochs(tmp_path: Path):
    case = case_of_stretches(tmp_path / "c", warm_then(5))
    diagnosis = diagnose(with_commandstats(case, (0, 0, 100), (0, 10, 100), (1, 20, 0), (1, 30, 4)))
    assert "4 calls were rejected" in why(diagnosis, "write_rejected")


def commands_only(items: list) -> list:
    return [item for item in items if not hasattr(item, "event")]


def without_info(case: Case) -> Case:
    """The same case, as if nobody had asked the server."""
    (case.folder / "server" / "info.parquet").unlink()
    return open_case(case.folder)


def test_commands_alone_never_make_a_verdict_and_say_what_to_record(tmp_path: Path):
    items = commands_only(cache_aside())
    case = case_of_stretches(tmp_path / "c", [Stretch(items=items, start_ms=-1, end_ms=9000, mode="monitor", rise=(120, 30))])
    diagnosis = diagnose(without_info(case))
    assert (diagnosis.verdict, diagnosis.findings) == ("insufficient_evidence", ())
    assert "--mode exact" in diagnosis.headline
    # Nothing is ruled out that only outcomes could rule out.
    assert {"ttl_short", "set_skipped", "serialization", "ttl_unit"} <= {outcome.cause for outcome in diagnosis.not_testable}
    found = diagnosis.to_dict()
    jsonschema.validate(found, SCHEMA)
    assert found["misses"] == []
    assert {key: found["reads"][key] for key in ("total", "hits", "misses", "basis", "hit_rate", "residual")} == {
        "total": 150, "hits": None, "misses": None, "basis": "inferred", "hit_rate": None, "residual": None,
    }  # fmt: skip
    assert found["reads"]["effective_hit_rate"] is None
    assert found["reads"]["hit_rate_low"] <= 0.8 <= found["reads"]["hit_rate_high"]


def test_commands_and_info_are_inferred_well_enough_to_count(tmp_path: Path):
    items = commands_only(cache_aside())
    case = case_of_stretches(tmp_path / "c", [Stretch(items=items, start_ms=-1, end_ms=9000, mode="monitor", rise=(120, 30))])
    diagnosis = diagnose(case)
    found = diagnosis.to_dict()
    jsonschema.validate(found, SCHEMA)
    assert {key: found["reads"][key] for key in ("total", "hits", "misses", "basis", "hit_rate", "residual")} == {
        "total": 150, "hits": 120, "misses": 30, "basis": "inferred", "hit_rate": 0.8, "residual": 0,
    }  # fmt: skip
    assert sum(row["count"] for row in found["misses"]) == 30
    assert diagnosis.verdict == "healthy"
    assert "hit rate 80.0%, inferred" in diagnosis.headline
    assert "reads, outcomes inferred" in verdict_html(diagnosis)
    assert diagnosis.ledger.reads["outcome_basis"].eq("inferred").all()


def test_commands_alone_let_a_mismatch_be_suspected_without_counting_its_misses(tmp_path: Path):
    items = commands_only(cache_aside(write="app2:img"))
    case = case_of_stretches(tmp_path / "c", [Stretch(items=items, start_ms=-1, end_ms=9000, mode="monitor", rise=(0, 150))])
    # With INFO all reads missed, and that is known.
    assert [(found.cause, found.verdict) for found in diagnose(case).findings] == [("key_prefix", "confirmed")]
    diagnosis = diagnose(without_info(case))
    assert [(found.cause, found.verdict, found.edit) for found in diagnosis.findings] == [
        ("key_prefix", "suspected", "app2 -> app")
    ]
    assert diagnosis.headline.endswith("--mode exact.")
    found = diagnosis.to_dict()
    jsonschema.validate(found, SCHEMA)
    assert (found["findings"][0]["misses"], found["findings"][0]["share_of_misses"]) == (None, None)
    assert found["findings"][0]["predicted"]["hit_rate"] is None
    assert "misses unknown" in str(diagnosis)
    assert "misses unknown" in verdict_html(diagnosis)


def heard_only(items: list) -> list:
    """What of a stream key events alone tell: each at the time of its line."""
    found, waiting = [], []
    for item in items:
        if hasattr(item, "event"):
            waiting.append(item)
        else:
            found += [heard((item.stamp_us - START_US) / 1000, at.event, at.key) for at in waiting]
            waiting = []
    return found


def test_key_events_alone_show_a_prefix_mismatch(tmp_path: Path):
    stretch = Stretch(items=heard_only(cache_aside(write="app2:img")), start_ms=-1, end_ms=9000, mode="events", rise=(50, 150))
    diagnosis = diagnose(case_of_stretches(tmp_path / "c", [stretch]))
    assert [(found.cause, found.edit) for found in diagnosis.findings] == [("key_prefix", "app2 -> app")]
    assert diagnosis.misses.set_index("cause")["count"].to_dict() == {"key_prefix": 120, "cold_start": 30}
    assert diagnosis.predicted_hit_rate(diagnosis.findings[0]) == pytest.approx(170 / 200)
    # No sentence and no evidence speaks of hits that were not seen.
    assert "of the reads of" not in diagnosis.findings[0].summary
    assert not any("that hit" in evidence.what for evidence in diagnosis.findings[0].evidence)
    found = diagnosis.to_dict()
    jsonschema.validate(found, SCHEMA)
    assert (found["reads"]["basis"], found["reads"]["hits"], found["reads"]["misses"]) == ("info", 50, 150)
    assert found["case"]["commands"] == 0
    assert "commands" in why(diagnosis, "flush")
    assert {"ttl_unit", "ttl_zero", "hit_unused"} <= {outcome.cause for outcome in diagnosis.not_testable}


def test_key_events_alone_measure_misses_against_all_reads_that_info_counted(tmp_path: Path):
    # GIVEN 100 misses of expired keys among 10,000 reads
    items = [
        item
        for n in range(100)
        for item in (heard(n, "set", f"k:{n}"), heard(1000 + n, "expired", f"k:{n}"), heard(2000 + n, "keymiss", f"k:{n}"))
    ]
    case = case_of_stretches(tmp_path / "c", [Stretch(items=items, start_ms=-1, end_ms=9000, mode="events", rise=(9900, 100))])
    diagnosis = diagnose(case)
    assert diagnosis.verdict == "healthy"
    assert why(diagnosis, "ttl_short").startswith("100 of 10,000 reads")


def test_misses_lost_by_key_events_are_measured_against_misses(tmp_path: Path):
    items = [heard(n, "keymiss", f"k:{n}") for n in range(50)]
    case = case_of_stretches(tmp_path / "c", [Stretch(items=items, start_ms=-1, end_ms=9000, mode="events", rise=(9900, 100))])
    assert diagnose(case).findings[0].cause == "incomplete_capture"


def test_a_mismatch_across_the_nodes_of_a_cluster_is_claimed(tmp_path: Path):
    # GIVEN a reader's keys on one node and the writer's on another
    items = cache_aside(write="app2:img")
    at_reader = [item for item in items if (item.key if hasattr(item, "event") else item.args[1]).startswith("app:")]
    at_writer = [item for item in items if item not in at_reader]
    nodes = [
        Stretch(items=at_reader, start_ms=-1, end_ms=9000, node="one:1"),
        Stretch(items=at_writer, start_ms=-1, end_ms=9000, node="two:1"),
    ]
    diagnosis = diagnose(case_of_stretches(tmp_path / "c", nodes))
    assert diagnosis.misses.set_index("cause")["count"].to_dict() == {"key_prefix": 120, "cold_start": 30}
    assert diagnosis.to_dict()["case"]["nodes"] == 2


def test_gaps_are_in_the_json(tmp_path: Path):
    found = diagnose(case_of_stretches(tmp_path / "c", warm_then(5), gaps=GAP)).to_dict()
    jsonschema.validate(found, SCHEMA)
    assert [gap["reason"] for gap in found["case"]["gaps"]] == ["the connection was lost"]


def test_the_age_of_a_value_written_before_a_gap_is_not_judged(tmp_path: Path):
    # GIVEN values of 300 ms before a gap, whose expiry is heard after it, far later
    keys = [f"img:{n}" for n in range(40)]
    written = [item for n, key in enumerate(keys) for item in (event("set", key), line(n, "SET", key, "v", "PX", "300"))]
    gone = [
        item for n, key in enumerate(keys) for item in (event("expired", key), event("keymiss", key), line(9000 + n, "GET", key))
    ]
    stretches = [Stretch(items=written, start_ms=-1, end_ms=100), Stretch(items=gone, start_ms=8000, end_ms=20_000)]
    diagnosis = diagnose(case_of_stretches(tmp_path / "c", stretches, gaps=[(100, 8000, "lost")]))
    assert "ttl_unit" not in {finding.cause for finding in diagnosis.findings}
