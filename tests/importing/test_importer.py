"""Logs become cases: every line is a command or has a reason, whatever is in the file."""

from __future__ import annotations

import gzip
import stat
from pathlib import Path

import coldcache
import pandas as pd
import pytest
from coldcache import schema
from coldcache.case import Case
from coldcache.cli import run
from coldcache.errors import CaseExistsError, NotALogError, UnknownNameError
from coldcache.importing import blocks, importer
from coldcache.importing.importer import Progress, import_logs
from coldcache.importing.options import ImportOptions
from hypothesis import given, settings
from hypothesis import strategies as st

STAMP_US = 1_763_800_000_000_000
CALLS = ['"GET" "img:1"', '"SET" "img:1" "{\\"a\\": 1}" "EX" "60"', '"MGET" "img:1" "img:2"', '"DEL" "img:1"', '"PING"']


def log_of(*calls: str, start_us: int = STAMP_US, step_us: int = 1000, client: str = "10.0.0.1:5000") -> bytes:
    """A log with these calls, one a millisecond."""
    stamps = (start_us + at * step_us for at in range(len(calls)))
    lines = (f"{t // 10**6}.{t % 10**6:06d} [0 {client}] {call}\n" for t, call in zip(stamps, calls, strict=True))
    return "".join(lines).encode()


def cut_small(patch: pytest.MonkeyPatch, block_bytes: int) -> None:
    """Have logs read in small blocks."""
    patch.setattr(importer, "LogFile", lambda path: blocks.LogFile(path, block_bytes))
    patch.setattr(importer, "SAMPLE_BYTES", 400)


def imported(folder: Path, *contents: bytes, names: tuple[str, ...] = (), dialect: str | None = None) -> Case:
    """The case of logs with these contents."""
    paths = []
    for number, content in enumerate(contents):
        path = folder / (names[number] if names else f"node{number}.log")
        path.write_bytes(content)
        paths.append(str(path))
    return import_logs(ImportOptions(logs=tuple(paths), out=folder / "case", dialect=dialect))


def test_a_log_becomes_a_case_that_is_like_a_recorded_one(tmp_path: Path):
    case = imported(tmp_path, b"OK\n" + log_of(*CALLS))
    accesses = case.accesses
    assert list(accesses.columns) == [column.name for column in schema.ACCESSES.columns]
    assert accesses["command"].astype(str).tolist() == ["GET", "SET", "MGET", "MGET", "DEL", "PING"]
    assert accesses["seq"].tolist() == [1, 2, 3, 3, 4, 5]
    assert accesses["value_format"].astype(object).tolist()[1] == "json"
    assert accesses["ttl_ms"].tolist()[1] == 60_000
    assert accesses["outcome"].isna().all()
    assert case.epochs == [
        {"epoch": 0, "node": "node0.log", "mode": "monitor", "start": "2025-11-22T08:26:40.000000Z",
         "end": "2025-11-22T08:26:40.004000Z", "ended": "imported"}
    ]  # fmt: skip
    rejected = case.table("rejected")
    assert rejected[["line", "offset", "size_bytes", "reason"]].values.tolist() == [[1, 0, 2, "a reply, not a command"]]
    # Recorded and imported rows have the same types, and nobody else can read them.
    recorded = coldcache.open_case("sample-healthy").accesses
    same = accesses.dtypes.astype(str) == recorded.dtypes.astype(str)
    assert set(same.index[~same]) <= {"outcome", "outcome_basis", "key_state", "db", "arg"}
    files = [path for path in case.folder.rglob("*") if path.is_file()]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


def test_the_values_of_a_log_reach_no_file(tmp_path: Path):
    log = (
        log_of('"SET" "k" "hunter2-secret-value"', '"AUTH" "(redacted)"', '"SET" "broken" "hunter2-secret-value')
        + b"hunter2 noise\n"
    )
    case = imported(tmp_path, log)
    held = b"".join(path.read_bytes() for path in case.folder.rglob("*") if path.is_file())
    assert b"hunter2" not in held
    assert case.table("rejected")["shape"].tolist() == [
        '0000000000.000000 [0 00.0.0.0:0000] "aaa" "aaaaaa" "aaaaaa0-aaaaaa-aaaaa', "aaaaaa0 aaaaa",
    ]  # fmt: skip


@given(
    damage=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    keep=st.integers(600, 10_000),  # of so many lines one is left whole
    block_bytes=st.integers(50, 3000),
)
@settings(max_examples=40, deadline=None)
def test_whatever_bytes_every_line_is_a_command_or_has_a_reason(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]], keep: int, block_bytes: int
):
    folder = tmp_path_factory.mktemp("import")
    log = bytearray(log_of(*(CALLS * 30)))
    for place, byte in damage:
        log[place % len(log)] = byte
    log = bytes(log[:keep])
    with pytest.MonkeyPatch.context() as patch:
        cut_small(patch, block_bytes)
        case = imported(folder, log, dialect="redis-cli")
    lines = log.count(b"\n") + (not log.endswith(b"\n"))
    rejected = case.table("rejected")
    held = case.accesses.drop_duplicates("seq")
    assert len(held) + len(rejected) == lines
    assert sorted([*(held["seq"] + 1), *rejected["line"]]) == list(range(1, lines + 1))
    for row in rejected.itertuples():
        text = log[row.offset : row.offset + row.size_bytes]
        assert b"\n" not in text
        assert log[: row.offset].count(b"\n") == row.line - 1
    assert case.meta["stream"] == {"lines": len(held), "rejected": len(rejected)}


def test_the_result_does_not_depend_on_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = [*(CALLS * 100), '"MULTI"', '"GET" "a"', '"GET" "b"', '"EXEC"', *(CALLS * 100)]
    whole = imported(tmp_path, log_of(*calls))
    cut_small(monkeypatch, 700)
    (tmp_path / "more").mkdir()
    cut = imported(tmp_path / "more", log_of(*calls))
    assert len(list((cut.folder / "accesses").iterdir())) > 10
    pd.testing.assert_frame_equal(
        whole.accesses.drop(columns="value_digest").astype(object), cut.accesses.drop(columns="value_digest").astype(object)
    )


def test_transactions_are_followed_client_by_client_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cut_small(monkeypatch, 100)
    stamps = iter(range(100))
    lines = [
        log_of(call, client=client, start_us=STAMP_US + next(stamps))
        for client, call in [
            ("a:1", '"MULTI"'), ("b:1", '"GET" "outside"'), ("a:1", '"GET" "inside"'), ("a:1", '"SET" "inside" "1"'),
            ("a:1", '"EXEC"'), ("a:1", '"GET" "after"'), ("b:1", '"multi"'), ("b:1", '"DISCARD"'), ("b:1", '"GET" "after"'),
            ("lua", '"GET" "script"'),
        ]
    ]  # fmt: skip
    accesses = imported(tmp_path, b"".join(lines)).accesses
    inside = accesses.loc[accesses["in_multi"], "key"].tolist()
    assert inside == ["inside", "inside"]
    assert accesses.loc[accesses["in_script"], "key"].tolist() == ["script"]


def test_logs_of_several_nodes_are_one_case_in_order_of_time(tmp_path: Path):
    case = imported(
        tmp_path, log_of(*CALLS, start_us=STAMP_US + 500), log_of(*CALLS), names=("east.log", "west.log"),
    )  # fmt: skip
    accesses = case.accesses
    assert accesses["t"].is_monotonic_increasing
    assert accesses["node"].astype(str).unique().tolist() == ["west.log", "east.log"]
    assert accesses["seq"].nunique() == 10
    assert case.gaps == []
    assert [server["node"] for server in case.meta["servers"]] == ["west.log", "east.log"]


def test_rotated_logs_are_one_node_with_a_gap_between(tmp_path: Path):
    older, newer = log_of(*CALLS), log_of(*CALLS, start_us=STAMP_US + 60_000_000)
    case = imported(tmp_path, newer, gzip.compress(older), names=("ops.log", "ops.log.1.gz"))
    assert case.accesses["node"].astype(str).unique().tolist() == ["ops.log"]
    assert [(gap["start"], gap["end"], gap["reason"]) for gap in case.gaps] == [
        ("2025-11-22T08:26:40.004000Z", "2025-11-22T08:27:40.000000Z", "between two logs")
    ]
    assert case.accesses.groupby("epoch")["t"].min().is_monotonic_increasing


def test_a_clock_that_jumps_back_begins_another_epoch(tmp_path: Path):
    log = log_of(*CALLS, start_us=STAMP_US + 3_600_000_000) + log_of(*CALLS)
    case = imported(tmp_path, log)
    assert case.accesses.groupby("epoch").size().tolist() == [6, 6]
    assert [gap["reason"] for gap in case.gaps] == ["the log's clock goes back by 3600.0 s"]
    # Pipelined lines may be some microseconds out of order: that is no step.
    (tmp_path / "jitter").mkdir()
    jitter = log_of('"GET" "a"', '"GET" "b"') + log_of('"GET" "c"', start_us=STAMP_US + 990)
    assert len(imported(tmp_path / "jitter", jitter).epochs) == 1


def test_times_that_mean_nothing_end_in_one_clear_note(tmp_path: Path):
    log = b"".join(log_of('"GET" "k"', start_us=STAMP_US - at * 5_000_000) for at in range(500))
    case = imported(tmp_path, log)
    assert len(case.epochs) == 101
    assert any("out of order" in problem for problem in case.meta["problems"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (bytes(range(256)) * 40, "binary"),
        (b"# Server\r\nredis_version:7.0.15\r\n# Stats\r\nkeyspace_hits:1\r\n", "a dump of INFO"),
        (b"REDIS0011\xfa\tredis-ver\x057.0.15", "RDB"),
        (b'10.0.0.1 - - [22/Nov/2025:08:26:40 +0000] "GET / HTTP/1.1" 200 5\n' * 9, "access log"),
        (b"OK\n", "no line of 1 is a command"),
    ],
    ids=["empty", "binary", "INFO", "RDB", "access log", "only OK"],
)
def test_what_is_no_log_is_named_and_leaves_nothing_behind(tmp_path: Path, content: bytes, said: str):
    with pytest.raises(NotALogError, match=said):
        imported(tmp_path, content)
    assert not (tmp_path / "case").exists()


def test_a_log_without_reads_is_a_case_that_says_so(tmp_path: Path):
    imported(tmp_path, log_of('"SET" "a" "1"', '"PING"'))
    diagnosis = coldcache.diagnose(coldcache.open_case(tmp_path / "case"))
    assert diagnosis.verdict == "insufficient_evidence"
    assert "There are no reads in this recording" in diagnosis.headline


def test_a_dialect_is_found_or_named_and_noted(tmp_path: Path):
    lines = log_of(*CALLS).splitlines(keepends=True)
    case = imported(tmp_path, b"OK\n" + b"".join(b"cache-1  | " + line for line in lines) + b"cache-1  | broken\n")
    assert len(case.accesses) == 6
    assert any("read as prefixed" in note for note in case.meta["recorder_notes"])
    rejected = case.table("rejected")
    assert rejected["line"].tolist() == [1, 7]
    assert rejected["size_bytes"].tolist() == [2, len("cache-1  | broken")]
    with pytest.raises(UnknownNameError, match="Did you mean"):
        imported(tmp_path, b"", dialect="prefixd")


def test_a_case_is_never_overwritten(tmp_path: Path):
    imported(tmp_path, log_of(*CALLS))
    with pytest.raises(CaseExistsError):
        imported(tmp_path, log_of(*CALLS))


def test_progress_ends_at_the_whole(tmp_path: Path):
    path = tmp_path / "a.log"
    path.write_bytes(log_of(*(CALLS * 50)))
    told: list[Progress] = []
    import_logs(ImportOptions(logs=(str(path),), out=tmp_path / "case"), told.append)
    assert told[-1] == Progress(path.stat().st_size, path.stat().st_size, 250)


def test_the_command_line_imports_and_says_what_is_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "a.log"
    path.write_bytes(log_of(*CALLS))
    assert run(["import", str(path), "--out", str(tmp_path / "case")]) == 0
    assert f"coldcache diagnose {tmp_path / 'case'}" in capsys.readouterr().out
    assert run(["import", str(tmp_path / "absent.log"), "--out", str(tmp_path / "other")]) == 64
    assert "cannot be read" in capsys.readouterr().err
