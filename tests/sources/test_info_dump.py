"""Files of INFO replies, with whatever people put between them."""

from __future__ import annotations

import io
import shutil
import subprocess
from urllib.parse import urlsplit

import pytest
from coldcache.errors import UsageError
from coldcache.sources.info import InfoSample, commandstats_table, info_table
from coldcache.sources.info_dump import InfoFile, read_info_dumps
from coldcache.sources.text import LINE_BYTES, bounded_lines, zone_of
from hypothesis import given
from hypothesis import strategies as st

MOMENT_US = 1_795_400_288_000_000  # 2026-11-23 02:18:08 UTC
FIELDS = (
    "# Server\nredis_version:7.0.15\nrun_id:abc\ntcp_port:6380\nserver_time_usec:{server}\n\n# Memory\nused_memory:100\n\n"
    "# Stats\nkeyspace_hits:{hits}\nkeyspace_misses:2\nevicted_keys:0\nexpired_keys:0\ntotal_commands_processed:9\n\n"
    "# Commandstats\ncmdstat_get:calls=3,usec=9,usec_per_call=3.00,rejected_calls=0,failed_calls=0\n\n"
    "# Keyspace\ndb0:keys=3,expires=1,avg_ttl=0\n"
)


def dump(hits: int = 5, server: int | str = MOMENT_US) -> str:
    return FIELDS.format(hits=hits, server=server)


def read(text: str | bytes, **options: object) -> InfoFile:
    return read_info_dumps(io.BytesIO(text.encode() if isinstance(text, str) else text), **options)


def test_dumps_that_follow_each_other_are_told_apart_by_their_headers():
    """GIVEN two dumps in one file WHEN it is read THEN each has its fields, and the server's clock dates it."""
    found = read(dump(5) + dump(6, MOMENT_US + 60_000_000))
    assert [one.t_us for one in found.dumps] == [MOMENT_US, MOMENT_US + 60_000_000]
    assert [(one.basis, one.run_id, one.tcp_port, one.lacks) for one in found.dumps] == [("server", "abc", "6380", ())] * 2
    samples = [InfoSample(one.t_us or 0, number, one.text) for number, one in enumerate(found.dumps)]
    assert info_table(samples)["keyspace_hits"].tolist() == [5, 6]
    assert found.problems == []


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-23T02:18:08Z", "2026-11-23T03:18:08+01:00", "2026-11-23 02:18:08", "1795400288", "1795400288000",
        "Mon Nov 23 02:18:08 UTC 2026", "Mon Nov 23 03:18:08 CET 2026", "Mon 23 Nov 2026 02:18:08 AM UTC",
        "Mon, 23 Nov 2026 02:18:08 +0000", "=== Mon Nov 23 02:18:08 UTC 2026 ===", "Mon Nov 23 02:18:08 2026",
        "2026/11/23 02:18:08,000", "1795400288.000",
    ],
)  # fmt: skip
def test_a_time_line_dates_the_dump_below_it(line: str):
    """GIVEN a time line as `date` prints it WHEN INFO follows THEN that is its time, and the server's clock is kept beside it."""
    (found,) = read(f"{line}\r\n" + dump(server=MOMENT_US + 7).replace("\n", "\r\n")).dumps
    assert (found.t_us, found.basis, found.server_us) == (MOMENT_US, "file", MOMENT_US + 7)


def test_a_zone_that_means_several_is_not_guessed():
    text = "Mon Nov 23 10:18:08 CST 2026\n" + dump(server="x")
    guessed = read(text)
    assert guessed.dumps[0].t_us is None
    assert any("no time that is understood" in problem for problem in guessed.problems)
    assert read(text, zone="Asia/Shanghai").dumps[0].t_us == MOMENT_US
    assert read(text, zone="+08:00").dumps[0].t_us == MOMENT_US
    with pytest.raises(UsageError, match="no time zone"):
        zone_of("Mars/Olympus")
    with pytest.raises(UsageError):
        zone_of("../../etc/passwd")


def test_the_files_own_time_dates_only_its_last_dump_and_only_if_asked_for():
    text = dump(server="") * 2
    assert [one.basis for one in read(text).dumps] == [None, None]
    assert "2 of 2 dumps have no time" in read(text).problems
    assert [(one.t_us, one.basis) for one in read(text, mtime_us=9).dumps] == [(None, None), (9, "mtime")]


def test_lines_picked_by_grep_are_a_series_without_headers():
    """GIVEN `info | grep keyspace` again and again WHEN read THEN a field that repeats begins a dump, and says what it lacks."""
    found = read("keyspace_hits:1\nkeyspace_misses:2\nkeyspace_hits:3\nkeyspace_misses:4\n")
    assert [one.text.splitlines()[1] for one in found.dumps] == ["keyspace_hits:1", "keyspace_hits:3"]
    assert "used_memory" in found.dumps[0].lacks
    assert "keyspace_hits" not in found.dumps[0].lacks


def test_commandstats_without_headers_still_find_their_section():
    text = "\n".join(line for line in dump().splitlines() if not line.startswith("#"))
    (found,) = read(text).dumps
    assert commandstats_table([InfoSample(1, 0, found.text)])["calls"].tolist() == [3]


def test_colours_and_prompts_are_taken_off():
    text = (
        "\x1b[1m127.0.0.1:6379> info everything\x1b[0m\n" + dump(1) + "localhost:6379[2]> INFO\n" + dump(2) + "localhost:6379>\n"
    )
    found = read(text)
    assert len(found.dumps) == 2
    assert found.skipped == {}


def test_a_dump_that_was_cut_off_is_named():
    text = dump(1) + dump(2).split("# Commandstats")[0] + "# Comm"
    assert any("lacks" in problem and "cut off?" in problem for problem in read(text).problems)
    assert any("last line" in problem for problem in read(dump() + "keyspace_mis").problems)


@pytest.mark.parametrize("text", ["", "hello\n", "name:value\nother:thing\n", "\0\1\2\n", "Could not connect to Redis\n"])
def test_other_files_are_no_info(text: str):
    found = read(text)
    assert found.dumps == []
    assert "holds no INFO" in found.problems[0]


def test_a_line_of_any_length_is_read_in_pieces():
    """GIVEN a line longer than the bound WHEN read THEN it is counted once, and what follows is read."""
    found = read("x" * (3 * LINE_BYTES) + "\n" + dump())
    assert sum(found.skipped.values()) == 1
    assert len(found.dumps) == 1
    assert [line is None for line in bounded_lines(io.BytesIO(b"a" * LINE_BYTES + b"\n" + b"b" * (LINE_BYTES + 1)))] == [
        False,
        True,
    ]


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([line.encode() for line in dump().splitlines()]))))
def test_no_bytes_crash_it(pieces: list[bytes]):
    found = read(b"\n".join(pieces), mtime_us=1)
    assert sum(found.skipped.values()) <= found.lines
    assert [one.line for one in found.dumps] == sorted(one.line for one in found.dumps)


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="needs redis-cli")
def test_what_redis_cli_prints_is_understood(server_url: str):
    """GIVEN a real server WHEN redis-cli prints INFO twice THEN nothing of it is skipped and the counters are there."""
    port = str(urlsplit(server_url).port)
    text = b"".join(
        subprocess.run(["redis-cli", "-p", port, "info", "everything"], capture_output=True, check=True, timeout=30).stdout
        for _ in range(2)
    )
    found = read(text)
    assert (len(found.dumps), found.skipped, found.problems) == (2, {}, [])
    assert {(one.basis, one.tcp_port, one.lacks) for one in found.dumps} == {("server", port, ())}
