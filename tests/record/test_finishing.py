"""From raw files to a case: what was recorded is in it, however the recording ended."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import coldcache
import pandas as pd
import pytest
from coldcache.case import Case, iso, new_case_folder, write_meta
from coldcache.errors import NotACaseError, RecordingFailedError, UnfinishedCaseError
from coldcache.record import build
from coldcache.record.build import build_tables
from coldcache.record.capture import STAMP
from coldcache.record.finish import FINISHING, RECORDING, finish_case, locked, open_case, read_meta
from coldcache.record.journal import JOURNAL, Journal, read_journal, stream_path
from coldcache.replay.ledger import miss_ledger
from conftest import START_US, moment
from hypothesis import given, settings
from hypothesis import strategies as st

OWN = "127.0.0.1:9000"
GUARDIAN = "127.0.0.1:9001"
MARK = "coldcache-5eed"


def said(at_ms: float, *args: str, client: str = "10.0.0.1:5000") -> bytes:
    """A MONITOR line as it stands in the stream."""
    stamp = START_US + round(at_ms * 1000)
    words = " ".join(f'"{arg}"' for arg in args)
    return f"+{stamp // 10**6}.{stamp % 10**6:06d} [0 {client}] {words}\r\n".encode()


def frame(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def heard(event: str, key: str) -> bytes:
    """A key event as it stands in the stream."""
    return frame(b"message", f"__keyevent@0__:{event}".encode(), key.encode())


def info(at_ms: float) -> bytes:
    """Our own INFO in the stream."""
    return said(at_ms, "INFO", "everything", client=OWN)


BEGIN = b"+OK\r\n*3\r\n$9\r\nsubscribe\r\n$14\r\ncoldcache:5eed\r\n:300\r\n"
PUBLISHED = frame(b"message", b"coldcache:5eed", MARK.encode())


def reads(start_ms: float, misses: int, hits: int) -> bytes:
    """Reads, 1 ms apart: misses first, each of a key of its own, then hits."""
    lines = [heard("keymiss", f"m{n}") + said(start_ms + n, "GET", f"m{n}") for n in range(misses)]
    return b"".join([*lines, *(said(start_ms + misses + n, "GET", "there") for n in range(hits))])


@dataclass
class Recording:
    """Writes the raw files of a case by hand; times in ms after the start."""

    folder: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.folder.exists():
            new_case_folder(self.folder)
            self.state()

    @property
    def raw(self) -> Path:
        return self.folder / "raw"

    def state(self, **changed: Any) -> Recording:
        """Write case.json as the recorder leaves it while it is at work."""
        now = iso(moment(0))
        before = read_meta(self.folder) if (self.folder / "case.json").exists() else {}
        meta = {
            "made_by": "tests", "created": now, "span": {"start": now, "end": now}, "epochs": [], "gaps": [], "servers": [],
            "rows": {}, "problems": [], "recorder_notes": [], "process": None, "notes": {},
            "clock_offsets": {"server_minus_recorder_us": 0},
            "policy": {"keys": "plain", "values": "", "raw": "removed after the tables were made"},
            **before, "ended_before": before.get("ended"), "ended": None, **changed,
        }  # fmt: skip
        write_meta(self.folder, meta)
        return self

    def say(self, event: str, at_ms: float, **fields: Any) -> Recording:
        self.events.append({"event": event, "stamp_us": START_US + round(at_ms * 1000), **fields})
        return self

    def session(self, at_ms: float = -5, number: int = 0, first_epoch: int = 0, first_seq: int = 0) -> Recording:
        return self.say("session", at_ms, number=number, first_epoch=first_epoch, first_seq=first_seq, mode="exact")

    def epoch(
        self,
        number: int,
        stream: bytes,
        samples: list[tuple[float, int, int]],
        *,
        at_ms: float = 0,
        mode: str = "exact",
        joins: bool = False,
        node: str = "n:1",
        run_id: str = "r1",
        arrivals: list[tuple[int, float]] | None = None,
        waited_ms: float = 0,
    ) -> Recording:
        """One epoch: its stream, and the INFO samples as (monotonic ms, hits, misses).

        The last of them came `waited_ms` after it was asked for.
        """
        self.raw.mkdir(mode=0o700, exist_ok=True)
        stream_path(self.raw, number).write_bytes(BEGIN + stream)
        index = [(size, START_US + round(ms * 1000)) for size, ms in arrivals or [(len(BEGIN + stream), at_ms)]]
        stream_path(self.raw, number).with_suffix(".idx").write_bytes(b"".join(STAMP.pack(*entry) for entry in index))
        for mono_ms, hits, misses in samples:
            text = (
                f"# Server\r\nrun_id:{run_id}\r\n# Stats\r\nkeyspace_hits:{hits}\r\nkeyspace_misses:{misses}\r\n"
                "evicted_keys:0\r\nexpired_keys:0\r\nused_memory:1\r\ntotal_commands_processed:1\r\n# Commandstats\r\n"
                f"cmdstat_get:calls={hits + misses},usec=9,rejected_calls=0,failed_calls=0\r\n"
            )
            mono_us = round(mono_ms * 1000)
            asked_us = mono_us - round(waited_ms * 1000) * (mono_ms == samples[-1][0])
            self.samples.append(
                {"epoch": number, "stamp_us": START_US + mono_us, "asked_us": asked_us, "mono_us": mono_us, "text": text}
            )
        server = {"node": node, "software": "Redis", "version": "7.0.15", "run_id": run_id, "role": "primary"}
        mark = MARK if mode == "events" else None
        return self.say(
            "epoch", at_ms, epoch=number, mode=mode, joins=joins, own=[OWN, GUARDIAN], control=OWN, mark=mark,
            clock_offset_us=0, server=server,
        )  # fmt: skip

    def epoch_end(self, number: int, reason: str = "completed", *, asked: bool = True, at_ms: float = 0) -> Recording:
        return self.say("epoch_end", at_ms, epoch=number, reason=reason, asked=asked)

    def end(self, at_ms: float, how: str = "completed") -> Recording:
        return self.say("end", at_ms, how=how)

    def write(self) -> Path:
        """Put it on disk; return the case folder."""
        self.raw.mkdir(mode=0o700, exist_ok=True)
        for name, lines in ((JOURNAL, self.events), ("info.jsonl", self.samples)):
            (self.raw / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return self.folder

    def finished(self) -> Case:
        finish_case(self.write())
        return open_case(self.folder)


SMALL = info(0) + reads(1, misses=2, hits=3) + info(10)
SMALL_SAMPLES = [(0.0, 0, 0), (10.0, 3, 2)]


def clean(folder: Path) -> Recording:
    return Recording(folder).session().epoch(0, SMALL, SMALL_SAMPLES).epoch_end(0).end(12)


def what_was_read(case: Case) -> list[tuple[str, str]]:
    table = case.accesses
    return list(zip(table["key"], table["outcome"].astype("str"), strict=True))


def at(stamp: str) -> float:
    """A time of case.json, in ms after the start."""
    return (pd.Timestamp(stamp) - moment(0)) / pd.Timedelta("1ms")


def gaps(case: Case) -> list[tuple[float, float, str]]:
    return [(at(gap["start"]), at(gap["end"]), gap["reason"]) for gap in case.gaps]


# -- a session that ended ------------------------------------------------------------------------


def test_a_clean_session_becomes_a_case_that_reconciles(tmp_path: Path):
    case = clean(tmp_path / "case").finished()
    assert what_was_read(case) == [("m0", "miss"), ("m1", "miss"), *[("there", "hit")] * 3]
    assert case.gaps == []
    assert case.meta["ended"] == "completed"
    assert [(at(epoch["start"]), at(epoch["end"]), epoch["ended"]) for epoch in case.epochs] == [(0, 10, "completed")]
    ledger = miss_ledger(case)
    assert (ledger.hits, ledger.misses, ledger.residual) == (3, 2, 0)
    assert case.meta["rows"] == {"accesses": 5, "key_events": 0, "info": 2, "commandstats": 2, "errorstats": 0}
    assert case.meta["stream"] == {"lines": 7, "own_lines": 2, "events": 2, "damaged": 0, "orphan_keymisses": 0}
    assert not (case.folder / "raw").exists()
    assert not (case.folder / ".lock").exists()


def test_finishing_twice_changes_nothing(tmp_path: Path):
    case = clean(tmp_path / "case").finished()
    before = coldcache.case.checksums(case.folder)
    finish_case(case.folder)
    assert coldcache.case.checksums(case.folder) | {".lock": ""} == before | {".lock": ""}


def test_notes_and_configuration_of_the_journal_are_in_the_case(tmp_path: Path):
    recording = clean(tmp_path / "case")
    recording.say("note", 3, text="stepped down: why").say("config", 0, node="n:1", values={"maxmemory": "1", "hz": "10"})
    case = recording.finished()
    assert case.meta["recorder_notes"] == ["stepped down: why"]
    assert case.table("config").to_numpy().tolist() == [["n:1", "hz", "10"], ["n:1", "maxmemory", "1"]]


def test_every_file_and_folder_is_its_owners_only(tmp_path: Path):
    before = os.umask(0)
    try:
        case = clean(tmp_path / "case").finished()
    finally:
        os.umask(before)
    modes = {path.relative_to(case.folder): stat.S_IMODE(path.stat().st_mode) for path in case.folder.rglob("*")}
    assert {mode for path, mode in modes.items() if (case.folder / path).is_file()} == {0o600}
    assert {mode for path, mode in modes.items() if (case.folder / path).is_dir()} == {0o700}


def test_a_kept_stream_is_compressed_and_can_be_built_from_again(tmp_path: Path):
    policy = {"keys": "plain", "values": "", "raw": "kept"}
    case = Recording(tmp_path / "case").state(policy=policy)
    case.session().epoch(0, SMALL, SMALL_SAMPLES).epoch_end(0).end(12).finished()
    assert sorted(path.name for path in case.raw.iterdir()) == ["info.jsonl", JOURNAL, "stream-0000.idx", "stream-0000.resp.zst"]
    before = what_was_read(open_case(case.folder))
    build_tables(case.folder, read_meta(case.folder))
    assert what_was_read(open_case(case.folder)) == before


def test_keys_that_are_to_be_hidden_stand_in_clear_in_no_file(tmp_path: Path):
    policy = {"keys": "hashed", "values": "", "raw": "removed after the tables were made"}
    stream = info(0) + b"".join(said(n, "GET", f"user:4711{n:04d}:photo") for n in range(1, 9))
    stream += heard("del", "user:47119999:photo") + said(9, "DEL", "user:47119999:photo") + info(10)
    recording = Recording(tmp_path / "case").state(policy=policy)
    case = recording.session().epoch(0, stream, [(0, 0, 0), (10, 8, 0)]).epoch_end(0).end(12).finished()
    assert len(case.accesses) == 9
    assert case.accesses["key"].str.startswith("user:").all()
    assert not case.accesses["key"].str.contains("4711").any()
    assert not case.table("key_events")["key"].str.contains("4711").any()
    assert not (case.folder / "raw").exists()


# -- sessions that did not end well --------------------------------------------------------------


def test_a_killed_session_ends_with_a_gap_that_says_so(tmp_path: Path):
    case = Recording(tmp_path / "case").session().epoch(0, SMALL + reads(11, 0, 2), SMALL_SAMPLES).finished()
    assert case.meta["ended"] == "the recorder was killed"
    assert gaps(case) == [(12, 12, "the recorder was killed")]
    assert case.epochs[0]["ended"] == "the recorder was killed"
    # reads after the last sample are there, and outside of the window that is checked
    assert len(case.accesses) == 7
    assert miss_ledger(case).residual == 0


def test_a_server_that_was_lost_leaves_a_gap_up_to_the_end(tmp_path: Path):
    recording = Recording(tmp_path / "case").session().epoch(0, SMALL, SMALL_SAMPLES)
    case = recording.epoch_end(0, "the server stopped answering", asked=False).end(500).finished()
    assert gaps(case) == [(10, 500, "the server stopped answering")]


def test_a_recorder_killed_before_its_first_epoch_leaves_a_case_that_opens(tmp_path: Path):
    case = Recording(tmp_path / "case").session().finished()
    assert len(case.accesses) == 0
    assert case.epochs == []
    assert case.meta["ended"] == "the recorder was killed"


def test_a_case_without_a_server_can_be_shown(tmp_path: Path):
    assert "case" in str(Recording(tmp_path / "case").session().finished())


CUT = [f"raw/{name}" for name in ("stream-0000.resp", "stream-0000.idx", "info.jsonl", JOURNAL)]
LIVELY = (
    info(0) + heard("keymiss", "a") + said(1, "GET", "a") + heard("set", "a") + said(2, "SET", "a", "value", "EX", "5")
    + frame(b"message", b"__keyevent@0__:keymiss", b'k\r\n+1.0 [0 x] "GET" "forged"\r\n')
    + said(3, "GET", 'k\\r\\n+1.0 [0 x] \\"GET\\" \\"forged\\"\\r\\n') + info(4) + said(5, "GET", "a")
    + heard("expired", "a") + heard("keymiss", "a") + said(6, "GET", "a") + said(7, "MGET", "b", "c") + info(8)
)  # fmt: skip
LIVELY_SAMPLES = [(0.0, 0, 0), (4.0, 0, 2), (8.0, 3, 3)]
WHOLE = [("a", "miss"), ("a", "written"), ('k\\r\\n+1.0 [0 x] \\"GET\\" \\"forged\\"\\r\\n', "miss"), ("a", "hit"), ("a", "miss"),
         ("b", "hit"), ("c", "hit")]  # fmt: skip


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one example of Hypothesis."""
    with tempfile.TemporaryDirectory(prefix="coldcache-test-") as folder:
        yield Path(folder)


def cut_case(folder: Path, shares: dict[str, float], *, mode: str = "exact") -> Case:
    """Write a lively session, cut its files there, finish it."""
    stream = LIVELY if mode == "exact" else EVENTS
    samples = LIVELY_SAMPLES if mode == "exact" else [(0.0, 0, 0), (8.0, 0, 2)]
    recording = Recording(folder / "case").session().say("config", 0, node="n:1", values={"hz": "10"})
    size = len(BEGIN + stream)
    recording.epoch(0, stream, samples, mode=mode, arrivals=[(size // 3, 1), (size // 2, 2), (size, 3)])
    recording.epoch_end(0).end(12).write()
    for name, share in shares.items():
        path = recording.folder / name
        path.write_bytes(path.read_bytes()[: round(path.stat().st_size * share)])
    finish_case(recording.folder)
    return coldcache.open_case(recording.folder)


EVENTS = b"".join([PUBLISHED, *(heard(event, "a") for event in ("keymiss", "new", "set", "expired", "keymiss")), PUBLISHED])
shares = st.fixed_dictionaries({}, optional={name: st.floats(0, 1) for name in CUT})


@settings(max_examples=60, deadline=None)
@given(shares)
def test_whatever_a_crash_cut_off_what_lies_before_it_is_in_the_case(cut: dict[str, float]):
    with scratch() as folder:
        case = cut_case(folder, cut)
        # THEN it opens, holds a prefix of what was recorded, and never disagrees with INFO
        seen = what_was_read(case)
        assert seen == WHOLE[: len(seen)]
        if not cut:
            assert seen == WHOLE
        assert not (case.folder / "raw").exists()
        assert not list(case.folder.glob(".*.new"))
        assert json.loads((case.folder / "case.json").read_text("utf-8"))["ended"]
        if case.has("info") and len(case.table("info")) > 1:
            assert miss_ledger(case).residual == 0
        if len(seen):
            assert case.accesses["t"].between(moment(0), moment(8)).all()


@settings(max_examples=20, deadline=None)
@given(shares)
def test_key_events_that_were_cut_off_are_a_prefix_too(cut: dict[str, float]):
    with scratch() as folder:
        case = cut_case(folder, cut, mode="events")
        seen = what_was_read(case)
        assert seen == [("a", "miss"), ("a", "written"), ("a", "miss")][: len(seen)]


@pytest.mark.parametrize(
    ("name", "keep"),
    [
        ("raw/stream-0000.resp", -3),  # in a RESP frame
        ("raw/info.jsonl", -9),  # in a sample
        (f"raw/{JOURNAL}", -4),  # in an event
        ("raw/stream-0000.idx", -5),  # in a record of the index
    ],
)
def test_a_cut_in_the_middle_of_a_record_loses_that_record_only(tmp_path: Path, name: str, keep: int):
    recording = Recording(tmp_path / "case").session().epoch(0, LIVELY, LIVELY_SAMPLES).epoch_end(0).end(12)
    path = recording.write() / name
    path.write_bytes(path.read_bytes()[:keep])
    finish_case(recording.folder)
    case = open_case(recording.folder)
    assert what_was_read(case) == WHOLE
    assert miss_ledger(case).residual == 0


def test_a_torn_line_in_the_middle_of_the_journal_is_left_out(tmp_path: Path):
    # GIVEN a session whose last line was torn, and one that went on in the same file
    folder = clean(tmp_path / "case").write()
    path = folder / "raw" / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"event": "note", "te\n' + b"".join(lines[1:]))
    finish_case(folder)
    assert len(open_case(folder).accesses) == 5


def test_events_without_an_index_are_not_dated_1970(tmp_path: Path):
    with_index = cut_case(tmp_path, {}, mode="events")
    assert with_index.accesses["t"].between(moment(0), moment(8)).all()


def test_events_whose_index_is_lost_are_dated_by_the_begin_of_their_epoch(tmp_path: Path):
    case = cut_case(tmp_path, {"raw/stream-0000.idx": 0}, mode="events")
    assert len(case.accesses) == 3
    assert case.accesses["t"].between(moment(0), moment(8)).all()


def test_a_full_disk_while_finishing_loses_nothing_and_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = clean(tmp_path / "case").write()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(build, "build_tables", full)
        with pytest.raises(RecordingFailedError, match="No space left"):
            finish_case(folder)
    assert read_meta(folder)["ended"] is None
    assert (folder / "raw" / JOURNAL).exists()
    assert len(open_case(folder).accesses) == 5


def test_a_death_between_tables_and_case_json_is_made_good(tmp_path: Path):
    # GIVEN tables that were written, but not the case.json that tells of them
    folder = clean(tmp_path / "case").write()
    build_tables(folder, read_meta(folder))
    # WHEN finished again THEN nothing is there twice
    case = open_case(folder)
    assert what_was_read(case) == [("m0", "miss"), ("m1", "miss"), *[("there", "hit")] * 3]
    assert len(case.table("info")) == 2


# -- several epochs and nodes --------------------------------------------------------------------


def two_epochs(folder: Path, *, joins: bool, asked: bool, reason: str) -> Case:
    first = info(0) + said(1, "GET", "a") + heard("evicted", "b") + said(2, "PING") + info(10)
    second = info(50) + heard("keymiss", "b") + said(51, "GET", "b") + info(60)
    recording = Recording(folder).session().epoch(0, first, [(0, 0, 0), (10, 1, 0)])
    recording.epoch_end(0, reason, asked=asked)
    recording.epoch(1, second, [(50, 1, 0), (60, 1, 1)], at_ms=50, joins=joins)
    return recording.epoch_end(1).end(62).finished()


def test_between_two_epochs_lies_a_gap_and_nothing_is_known_of_keys_after_it(tmp_path: Path):
    case = two_epochs(tmp_path / "case", joins=False, asked=False, reason="the server closed the connection")
    assert gaps(case) == [(10, 50, "the server closed the connection")]
    missed = case.accesses[case.accesses["outcome"].eq("miss")]
    assert missed["key_state"].isna().all()
    assert case.accesses["epoch"].tolist() == [0, 0, 1]
    assert case.accesses["seq"].is_monotonic_increasing
    assert miss_ledger(case).residual == 0


def test_an_epoch_that_joins_leaves_no_gap_and_keeps_what_is_known_of_keys(tmp_path: Path):
    case = two_epochs(tmp_path / "case", joins=True, asked=True, reason="duty cycle")
    assert case.gaps == []
    missed = case.accesses[case.accesses["outcome"].eq("miss")]
    assert missed["key_state"].tolist() == ["evicted"]


def test_a_counter_reset_is_told_as_a_gap_although_nothing_was_lost(tmp_path: Path):
    case = two_epochs(tmp_path / "case", joins=True, asked=False, reason="INFO's counters were reset (CONFIG RESETSTAT)")
    assert gaps(case) == [(10, 50, "INFO's counters were reset (CONFIG RESETSTAT)")]


def test_a_reason_found_later_replaces_the_first_one(tmp_path: Path):
    recording = Recording(tmp_path / "case").session().epoch(0, SMALL, SMALL_SAMPLES)
    recording.epoch_end(0, "the connection broke", asked=False).epoch_end(0, "the server restarted", asked=False)
    recording.epoch(1, info(50) + info(60), [(50, 0, 0), (60, 0, 0)], at_ms=50, run_id="r2")
    case = recording.epoch_end(1).end(62).finished()
    assert gaps(case) == [(10, 50, "the server restarted")]
    assert [server["run_id"] for server in case.meta["servers"]] == ["r1", "r2"]


def test_an_epoch_that_heard_nothing_is_dated_by_the_journal(tmp_path: Path):
    recording = Recording(tmp_path / "case").session().epoch(0, SMALL, SMALL_SAMPLES).epoch_end(0, "lost", asked=False)
    recording.epoch(1, b"", [], at_ms=70)
    stream_path(recording.raw, 1).with_suffix(".idx").write_bytes(b"")
    case = recording.finished()
    assert (at(case.epochs[1]["start"]), at(case.epochs[1]["end"])) == (70, 70)
    assert gaps(case) == [(10, 70, "lost"), (70, 70, "the recorder was killed")]


def test_two_nodes_have_gaps_of_their_own_and_their_rows_stand_in_order_of_time(tmp_path: Path):
    recording = Recording(tmp_path / "case").session()
    recording.epoch(0, info(0) + said(1, "GET", "a") + said(5, "GET", "a") + info(10), [(0, 0, 0), (10, 2, 0)], node="n:1")
    recording.epoch(1, info(0) + said(3, "GET", "b") + info(10), [(0, 0, 0), (10, 1, 0)], node="n:2", run_id="r2")
    recording.epoch_end(1, "the server stopped answering", asked=False).epoch_end(0)
    case = recording.end(30).finished()
    assert [(gap["node"], gap["reason"]) for gap in case.gaps] == [("n:2", "the server stopped answering")]
    assert gaps(case)[0][:2] == (10, 30)
    assert case.accesses["node"].tolist() == ["n:1", "n:2", "n:1"]
    assert case.accesses["seq"].is_unique
    assert miss_ledger(case).residual == 0


def test_our_connections_to_one_node_are_left_out_of_every_nodes_rows(tmp_path: Path):
    # Behind one address both nodes may see the same client
    recording = Recording(tmp_path / "case").session()
    recording.epoch(0, info(0) + said(1, "CLIENT", "LIST", client=GUARDIAN) + info(10), [(0, 0, 0), (10, 0, 0)])
    case = recording.epoch_end(0).end(12).finished()
    assert len(case.accesses) == 0
    assert case.meta["stream"]["own_lines"] == 3


@pytest.mark.parametrize(("step_ms", "told"), [(90_000.0, "+90.0 s"), (-90_000.0, "-90.0 s")])
def test_a_clock_that_was_set_splits_the_epoch(tmp_path: Path, step_ms: float, told: str):
    # GIVEN INFO samples a second apart, between which the server's clock jumps
    stream = info(0) + said(500, "GET", "a") + info(1000) + said(step_ms + 1500, "GET", "b") + info(step_ms + 2000)
    stream += said(step_ms + 2500, "GET", "c") + info(step_ms + 3000)
    samples = [(0.0, 0, 0), (1000.0, 1, 0), (2000.0, 2, 0), (3000.0, 3, 0)]
    case = Recording(tmp_path / "case").session().epoch(0, stream, samples).epoch_end(0).end(3100).finished()
    # THEN there are two epochs, a gap that tells it, and no sum across the step
    assert len(case.epochs) == 2
    assert [reason for _, _, reason in gaps(case)] == [f"the server's clock was set by {told}"]
    assert case.table("info")["epoch"].nunique() == 2
    assert case.accesses["key"].tolist() == ["a", "b", "c"]
    assert case.accesses["epoch"].nunique() == 2
    assert miss_ledger(case).residual == 0


def test_a_clock_that_is_slewed_splits_nothing(tmp_path: Path):
    stream = info(0) + said(500, "GET", "a") + info(1400)
    case = Recording(tmp_path / "case").session().epoch(0, stream, [(0, 0, 0), (1000, 1, 0)]).epoch_end(0).end(1500).finished()
    assert len(case.epochs) == 1
    assert case.gaps == []


def test_a_recorder_that_was_stopped_while_it_asked_splits_nothing(tmp_path: Path):
    # GIVEN a second INFO that the server stamped at once, and that was read 3 s later
    stream = info(0) + said(500, "GET", "a") + info(1000)
    recording = Recording(tmp_path / "case").session().epoch(0, stream, [(0, 0, 0), (4000, 1, 0)], waited_ms=3000)
    case = recording.epoch_end(0).end(4100).finished()
    assert len(case.epochs) == 1


def test_key_events_are_dated_by_when_they_arrived(tmp_path: Path):
    # GIVEN an epoch of key events only, in two chunks that arrived 100 ms apart
    first = PUBLISHED + heard("keymiss", "a")
    stream = first + heard("new", "a") + heard("set", "a") + heard("keymiss", "b") + PUBLISHED
    arrivals = [(len(BEGIN), 0.0), (len(BEGIN + first), 100.0), (len(BEGIN + stream), 200.0)]
    recording = Recording(tmp_path / "case").session()
    recording.epoch(0, stream, [(0, 0, 0), (200, 0, 2)], mode="events", arrivals=arrivals)
    case = recording.epoch_end(0).end(220).finished()
    # THEN each row has the time of its chunk, and says that only an event is known
    rows = case.accesses
    assert [at(str(t)) for t in rows["t"]] == [100, 200, 200]
    assert what_was_read(case) == [("a", "miss"), ("a", "written"), ("b", "miss")]
    assert rows["client"].isna().all()
    assert rows["command"].isna().all()
    assert [at(str(t)) for t in case.table("info")["t"]] == [100, 200]
    assert [(epoch["mode"], at(epoch["end"])) for epoch in case.epochs] == [("events", 200)]
    assert miss_ledger(case).residual == 0


def test_samples_that_are_distrusted_bound_nothing(tmp_path: Path):
    # GIVEN key events that somebody switched off after the second sample: reads without events, and INFO knows better
    stream = SMALL + said(11, "GET", "gone") + info(20) + said(21, "GET", "gone") + info(30)
    samples = [*SMALL_SAMPLES, (20.0, 3, 3), (30.0, 3, 4)]
    recording = Recording(tmp_path / "case").session().epoch(0, stream, samples).say("distrust", 30, epoch=0, samples=2)
    case = recording.epoch_end(0, "somebody else changed notify-keyspace-events", asked=False).end(40).finished()
    assert len(case.table("info")) == 2
    assert miss_ledger(case).residual == 0


def test_monitor_only_rows_have_no_outcome(tmp_path: Path):
    stream = info(0) + said(1, "GET", "a") + said(2, "SET", "a", "v") + info(10)
    recording = Recording(tmp_path / "case").session().epoch(0, stream, [(0, 0, 0), (10, 0, 1)], mode="monitor")
    case = recording.epoch_end(0).end(12).finished()
    assert len(case.accesses) == 2
    assert case.accesses["outcome"].isna().all()
    assert case.accesses["key_state"].isna().all()


# -- going on with a case ------------------------------------------------------------------------


def resumed(folder: Path) -> Recording:
    """A finished case with a second session's raw files beside it."""
    case = clean(folder).finished()
    recording = Recording(folder).state(sessions=1).session(990, number=1, first_epoch=1, first_seq=case.meta["next_seq"])
    stream = info(1000) + heard("keymiss", "m0") + said(1001, "GET", "m0") + info(1010)
    recording.epoch(1, stream, [(1000, 30, 20), (1010, 30, 21)], at_ms=1000)
    return recording.epoch_end(1).end(1012)


def test_a_resumed_case_keeps_what_it_held_and_tells_what_lies_between(tmp_path: Path):
    case = resumed(tmp_path / "case").finished()
    assert len(case.accesses) == 6
    assert case.accesses["seq"].is_unique
    assert case.accesses["epoch"].tolist() == [0] * 5 + [1]
    assert case.accesses["key_state"].isna().tolist()[-1]
    assert gaps(case) == [(10, 1000, "recorded later: the session before ended (completed)")]
    assert len(case.table("info")) == 4
    assert case.meta["rows"]["accesses"] == 6
    assert case.meta["stream"]["lines"] == 7 + 3
    assert (at(case.meta["span"]["start"]), at(case.meta["span"]["end"])) == (0, 1010)
    assert miss_ledger(case).residual == 0


def tables_of(folder: Path) -> dict[str, Any]:
    # The digest key is new each time, so no table here holds digests: keyless of values
    return {
        path.relative_to(folder).as_posix(): pd.read_parquet(path).drop(columns="value_digest", errors="ignore").to_csv()
        for path in sorted(folder.rglob("*.parquet"))
    }


def test_building_twice_gives_the_same_tables(tmp_path: Path):
    folder = resumed(tmp_path / "case").write()
    shutil.copytree(folder / "raw", tmp_path / "raw")
    meta = read_meta(folder)
    finish_case(folder)
    first, told = tables_of(folder), read_meta(folder)
    # WHEN its raw files are restored and it is built again THEN tables and case.json are the same
    shutil.copytree(tmp_path / "raw", folder / "raw")
    write_meta(folder, meta)
    finish_case(folder)
    assert tables_of(folder) == first
    assert read_meta(folder) == told


def test_an_interrupted_build_of_a_resumed_case_is_made_good(tmp_path: Path):
    folder = resumed(tmp_path / "case").write()
    build_tables(folder, read_meta(folder))
    case = open_case(folder)
    assert case.accesses["epoch"].tolist() == [0] * 5 + [1]
    assert len(case.table("info")) == 4


@pytest.mark.parametrize("left", [0, 20])
def test_a_resumed_session_whose_journal_was_lost_leaves_the_earlier_rows(tmp_path: Path, left: int):
    # GIVEN a power cut just after case.json was written: it has reached the disk, the journal has not
    folder = resumed(tmp_path / "case").write()
    path = folder / "raw" / JOURNAL
    path.write_bytes(path.read_bytes()[:left])
    finish_case(folder)
    case = open_case(folder)
    assert len(case.accesses) == 5
    assert miss_ledger(case).residual == 0


# -- the lock ------------------------------------------------------------------------------------

HOLD = """
import fcntl, os, sys, time
file = os.open(sys.argv[1] + "/.lock", os.O_CREAT | os.O_RDWR, 0o600)
fcntl.flock(file, fcntl.LOCK_EX)
os.pwrite(file, f"{sys.argv[2]} {os.getpid()}".encode(), 0)
print("held", flush=True)
time.sleep(float(sys.argv[3]))
"""


@contextlib.contextmanager
def held(folder: Path, purpose: str, seconds: float = 60) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the case."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), purpose, str(seconds)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_case_that_another_process_records_is_left_alone(tmp_path: Path):
    folder = clean(tmp_path / "case").write()
    with held(folder, RECORDING) as other:
        with pytest.raises(UnfinishedCaseError, match=f"still being recorded, by process {other.pid}"):
            finish_case(folder)
        with pytest.raises(UnfinishedCaseError):
            open_case(folder)
    assert read_meta(folder)["ended"] is None
    assert (folder / "raw" / JOURNAL).exists()


def test_the_lock_of_a_dead_process_is_no_obstacle(tmp_path: Path):
    folder = clean(tmp_path / "case").write()
    with held(folder, RECORDING):
        pass
    assert (folder / ".lock").read_text().startswith(RECORDING)
    assert len(open_case(folder).accesses) == 5


def test_who_finds_another_making_the_tables_waits_for_them(tmp_path: Path):
    folder = clean(tmp_path / "case").write()
    with held(folder, FINISHING, seconds=0.6):
        began = time.monotonic()
        finish_case(folder)
        assert time.monotonic() - began > 0.3
    assert len(open_case(folder).accesses) == 5


def test_a_case_is_locked_only_as_long_as_it_is_held(tmp_path: Path):
    folder = clean(tmp_path / "case").write()
    with locked(folder, RECORDING), pytest.raises(UnfinishedCaseError):
        finish_case(folder)
    finish_case(folder)


def test_a_folder_without_a_readable_case_json_is_no_case(tmp_path: Path):
    with pytest.raises(NotACaseError, match=r"no case\.json"):
        finish_case(tmp_path)
    for text in ("{", "[]", '{"format": 1}', "\udc80"):
        (tmp_path / "case.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(NotACaseError, match="cannot be read"):
            finish_case(tmp_path)


# -- the journal ---------------------------------------------------------------------------------


def test_a_journal_reads_back_as_it_was_written(tmp_path: Path):
    journal = Journal(tmp_path / "raw")
    journal.session(first_epoch=3, number=1, mode="exact")
    first, second = journal.new_epoch(), journal.new_epoch()
    journal.epoch(first, mode="exact", server={"node": "n:1"})
    journal.epoch_end(first, "duty cycle", asked=True)
    journal.distrust(second, samples=4)
    journal.config("n:1", {"maxmemory": "0"})
    journal.note("a name: \udcff ü")
    journal.end("completed")
    journal.sync()
    journal.close()
    journal.close()
    events = read_journal(tmp_path / "raw")
    assert [event["event"] for event in events] == ["session", "epoch", "epoch_end", "distrust", "config", "note", "end"]
    assert (first, second) == (3, 4)
    assert events[2]["asked"] is True
    assert all(abs(event["stamp_us"] / 1e6 - time.time()) < 60 for event in events)
    assert journal.stream_path(3).name == "stream-0003.resp"
    assert stat.S_IMODE((tmp_path / "raw" / JOURNAL).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "raw").stat().st_mode) == 0o700


def test_what_is_said_is_on_disk_at_once_and_a_closed_journal_swallows_the_rest(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.note("one")
    assert [event["text"] for event in read_journal(tmp_path)] == ["one"]
    journal.close()
    journal.note("two")
    assert len(read_journal(tmp_path)) == 1


def test_two_sessions_write_into_one_journal_one_after_the_other(tmp_path: Path):
    for number in range(2):
        journal = Journal(tmp_path)
        journal.session(first_epoch=number, number=number)
        journal.close()
    assert [event["number"] for event in read_journal(tmp_path)] == [0, 1]
