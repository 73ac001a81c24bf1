"""The stream parser: every byte comes back, nothing forges a line."""

from __future__ import annotations

import io

import pytest
from coldcache.sources.monitor import Damaged, KeyEvent, MonitorLine, StreamReader, escape, parse_line, split_arguments, unescape
from hypothesis import given
from hypothesis import strategies as st


@given(st.binary())
def test_escaping_is_undone_by_unescaping(data: bytes):
    assert unescape(escape(data)) == data


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
def test_arguments_come_back_whatever_their_bytes(args: list[bytes]):
    # GIVEN arguments printed as sdscatrepr prints them
    printed = " ".join(f'"{escape(arg)}"' for arg in args).encode("ascii")
    # WHEN split THEN the same arguments, in number and content
    assert [unescape(text) for text in split_arguments(printed)] == args


@pytest.mark.parametrize(
    ("text", "client", "args"),
    [
        (b'1763800000.104233 [0 10.0.3.7:51344] "GET" "img:1"', "10.0.3.7:51344", ["GET", "img:1"]),
        (b'1763800000.104233 [0 [::1]:56746] "GET" "six"', "[::1]:56746", ["GET", "six"]),
        (b'1763800000.104233 [0 lua] "GET" "k"', "lua", ["GET", "k"]),
        (
            b'1763800000.104233 [0 unix:/run/redis.sock] "HGET" "cart:17" "total"',
            "unix:/run/redis.sock",
            ["HGET", "cart:17", "total"],
        ),
        (b'1763800000.104233 [0 1.2.3.4:5] "SET" "k] " "v"', "1.2.3.4:5", ["SET", "k] ", "v"]),
        (b'1763800000.104233 [0 1.2.3.4:5] "SET" "v\\\\" "EX"', "1.2.3.4:5", ["SET", "v\\\\", "EX"]),
        (b'1763800000.104233 [0 1.2.3.4:5] "SET" "a\\" " "v" ""', "1.2.3.4:5", ["SET", 'a\\" ', "v", ""]),
    ],
)
def test_header_forms_and_traps(text: bytes, client: str, args: list[str]):
    parsed = parse_line(text)
    assert parsed == MonitorLine(1_763_800_000_104_233, 0, client, args)


@pytest.mark.parametrize("text", [b"", b"OK", b'1.000000 [0 x] "GET', b"1.000000 [0 x] GET", b'x.000000 [0 x] "GET"'])
def test_a_damaged_line_is_no_line(text: bytes):
    assert parse_line(text) is None


def bulk(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def test_a_key_with_line_ends_cannot_forge_a_line():
    # GIVEN a key event whose key looks like the end of a frame and a line
    evil = b'x\r\n+1.000000 [0 9.9.9.9:9] "FLUSHALL"\r\n'
    stream = b"+OK\r\n" + bulk(b"message", b"__keyevent@3__:expired", evil) + b'+2.000000 [0 a:1] "GET" "k"\r\n'
    # WHEN read
    items = list(StreamReader(io.BytesIO(stream)))
    # THEN there is one event and one line
    assert items == [KeyEvent(3, "expired", escape(evil)), MonitorLine(2_000_000, 0, "a:1", ["GET", "k"])]


def test_what_the_end_cuts_off_is_left_out_and_what_is_damaged_is_kept():
    stream = b'+1.000000 [0 a:1] "GET" "k"\r\n+garbage\r\n+2.000000 [0 a:1] "GE'
    assert list(StreamReader(io.BytesIO(stream))) == [MonitorLine(1_000_000, 0, "a:1", ["GET", "k"]), Damaged(b"+garbage")]


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader(data: bytes):
    for item in StreamReader(io.BytesIO(data)):
        assert isinstance(item, MonitorLine | KeyEvent | Damaged)
