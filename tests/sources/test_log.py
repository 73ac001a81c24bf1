"""The compiled log parser against the plain one, line by line, for everything that Redis can print."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from coldcache.commands import Form, Rule, full_name, key_uses, rules
from coldcache.payloads import payload_format
from coldcache.sources.accesses import TtlAsked, ttl_asked
from coldcache.sources.log import CONDITIONS, LogParser, Stretch
from coldcache.sources.monitor import escape
from hypothesis import example, given, settings
from hypothesis import strategies as st

STAMP_US = 1_763_800_000_104_233
PARSER = LogParser(b"0123456789abcdef")
SMALL = LogParser(b"0123456789abcdef", rows=64)
OLD = LogParser(b"0123456789abcdef", before_7=True)

clients = st.one_of(
    st.sampled_from(["lua", "", "?:0", "10.0.3.7:51344", "[::1]:56746", "[fd00::a1]:40112", "unix:/run/redis.sock"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30).filter(lambda text: '] "' not in text),
)
words = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([
        b"k", b"", b"EX", b"px", b"EXAT", b"PXAT", b"NX", b"xx", b"KEEPTTL", b"GET", b"10", b"0", b"-5", b"1763800060",
        b"STREAMS", b'{"a": 1}', b"b'{}'", b"[object Object]",
        b"1763800060000", b"9" * 19, b"2", b"\\", b'"', b'" ', b"] \"", b"\r\n+1.0 [0 x]",
    ]),
)  # fmt: skip
names = st.one_of(st.sampled_from(sorted(rules())), st.sampled_from(["get", "Set", "mget", "foo.bar", "CLIENT", "object"]))
commands = st.builds(lambda name, rest: [*(word.encode() for word in name.split()), *rest], names, st.lists(words, max_size=9))
lines = st.lists(st.tuples(commands, clients, st.integers(0, 99)), min_size=1, max_size=30)


def printed(args: list[bytes], client: str, db: int, stamp_us: int) -> bytes:
    """A line as Redis prints it."""
    text = " ".join(f'"{escape(arg)}"' for arg in args)
    return f"{stamp_us // 10**6}.{stamp_us % 10**6:06d} [{db} {client}] {text}\n".encode("latin-1")


def asked(rule: Rule, behind: int, texts: list[str], stamp_us: int) -> TtlAsked:
    """The time to live by the plain parser, which knows it of fewer commands: told as one of those."""
    if rule.ttl_at:
        as_known = [rule.ttl_form, "k", *texts[rule.ttl_at : rule.ttl_at + 1]]
        return ttl_asked(rule.ttl_form, as_known, stamp_us)
    if rule.options_at:
        return ttl_asked("SET", ["SET", "k", "v", *texts[rule.options_at + behind :]], stamp_us)
    return TtlAsked(None, None)


def expected(
    args: list[bytes], client: str, db: int, stamp_us: int, line: int, *, before_7: bool = False
) -> list[tuple[object, ...]]:
    """The rows of a line by the plain parser."""
    texts = [escape(arg) for arg in args]
    name = full_name(texts)
    if name not in rules():
        name = texts[0].upper()
    rule = rules().get(name, Rule())
    counted = texts[rule.first - 1 : rule.first]
    behind = (
        int(counted[0]) * rule.step if rule.form == Form.COUNTED and counted and re.fullmatch("[0-9]{1,9}", counted[0]) else 0
    )
    options = {arg.upper() for arg in texts[rule.options_at + behind :]} if rule.options_at else set()
    ttl = asked(rule, behind, texts, stamp_us)
    conditions = " ".join(word for word in CONDITIONS if word in options) or None
    rows = []
    for position, use in enumerate(key_uses(texts, before_7=before_7)):
        size = len(args[use.value_index]) if use.value_index else None
        rows.append((stamp_us, line, db, client, name, position, texts[use.index], use.op, use.lookups, ttl.ms, ttl.form,
                     conditions, size, payload_format(args[use.value_index]) if use.value_index else None,
                     client == "lua"))  # fmt: skip
    return rows or [
        (stamp_us, line, db, client, name, None, None, None, 0, ttl.ms, ttl.form, conditions, None, None, client == "lua")
    ]


Columns = dict[str, list[Any]]


def parsed(log: bytes, parser: LogParser = PARSER) -> tuple[Columns, Columns, int]:
    """The columns of `accesses` and of `rejected`, and how many lines were read: lists, since 200,000 logs want no frames."""
    batches = list(parser.batches(np.frombuffer(log, np.uint8)))
    accesses, rejected = (
        pa.concat_tables(tables).to_pydict() if tables else defaultdict(list)
        for tables in ([batch.accesses for batch in batches], [batch.rejected for batch in batches])
    )
    return accesses, rejected, sum(batch.lines for batch in batches)


def rows_of(accesses: Columns) -> list[tuple[object, ...]]:
    names = ["seq", "db", "client", "command", "arg", "key", "op", "lookups", "ttl_ms", "ttl_form", "condition", "value_bytes",
             "value_format", "in_script"]  # fmt: skip
    stamps = pa.array(accesses["t"], pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
    rows = zip(stamps, *(accesses[name] for name in names), strict=True)
    # What a command without a key does is told by its name.
    return [(*row[:7], row[7] if row[5] is not None else None, *row[8:]) for row in rows]


def lines_of(rejected: Columns, *names: str) -> list[list[Any]]:
    return [list(row) for row in zip(*(rejected[name] for name in names), strict=True)]


@given(lines)
@example([([b"MGET", *([b"k"] * 500)], "lua", 0)])
@example([([b"PFCOUNT", b"a"], "a:1", 0), ([b"PFCOUNT", b"a", b"b"], "a:1", 0), ([b"COPY", b"a", b"b"], "a:1", 0)])
def test_what_redis_prints_is_read_back(batch: list[tuple[list[bytes], str, int]]):
    """In one batch, in many, and as Redis 6.2 counts look-ups: one example for the three, since making it takes longest."""
    log = b"".join(printed(args, client, db, STAMP_US + at) for at, (args, client, db) in enumerate(batch))
    for parser in (PARSER, SMALL, OLD):
        accesses, rejected, count = parsed(log, parser)
        assert not rejected["line"]
        assert count == len(batch)
        wanted = [
            row
            for at, (args, client, db) in enumerate(batch)
            for row in expected(args, client, db, STAMP_US + at, at, before_7=parser is OLD)
        ]
        assert rows_of(accesses) == wanted


@given(lines, st.data())
def test_damage_is_rejected_and_all_lines_are_accounted_for(batch: list[tuple[list[bytes], str, int]], data: st.DataObject):
    log = bytearray(b"".join(printed(args, client, db, STAMP_US + at) for at, (args, client, db) in enumerate(batch)))
    for _ in range(data.draw(st.integers(1, 5))):
        log[data.draw(st.integers(0, len(log) - 1))] = data.draw(st.integers(0, 255))
    log = bytes(log[: data.draw(st.integers(0, len(log)))])
    _, rejected, count = parsed(log)
    assert count + len(rejected["line"]) == log.count(b"\n") + (bool(log) and not log.endswith(b"\n"))


@given(st.binary(max_size=2000))
@settings(max_examples=300)
def test_no_bytes_crash_the_parser(log: bytes):
    _, rejected, count = parsed(log)
    assert count + len(rejected["line"]) == log.count(b"\n") + (bool(log) and not log.endswith(b"\n"))


def test_values_have_a_keyed_digest_and_nothing_else():
    line = printed([b"SET", b"k", b"secret"], "a:1", 0, STAMP_US)
    accesses, _, _ = parsed(line + line.replace(b"secret", b"Secret") + line)
    digests = accesses["value_digest"]
    assert digests[0] == digests[2] != digests[1]
    assert len(digests[0]) == 16
    others, _, _ = parsed(line, LogParser(b"another key 0123"))
    assert others["value_digest"][0] != digests[0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"OK", "a reply, not a command"), (b"+OK\r", "a reply, not a command"), (b"", "empty"), (b"hello", "no time stamp"),
        (b'1.000000 [0 a:1 "GET"', "no database and client"), (b"1.000000 [0 a:1] ", "no database and client"),
        (b'1.000000 [0 a:1] "GET" "k', "cut off"), (b'1.000000 [0 a:1] "GET""k"', "text behind an argument"),
        (b'1.000000 [0 a:1] "GET" "k"+1.000001 [0 a:1] "GET" "k"', "text behind an argument"),
    ],
)  # fmt: skip
def test_a_line_that_is_not_understood_is_kept_with_its_reason(line: bytes, reason: str):
    good = printed([b"GET", b"k"], "a:1", 0, STAMP_US)
    accesses, rejected, count = parsed(good + line + b"\n" + good)
    assert count == 2
    assert accesses["seq"] == [0, 2]
    assert lines_of(rejected, "line", "offset", "size_bytes", "reason") == [[1, len(good), len(line), reason]]


@pytest.mark.parametrize(
    ("line", "db", "client"),
    [
        (b'+1.000000 [3 a:1] "GET" "k"\r\n', 3, "a:1"), (b'1.000000 "GET" "k"\n', 0, None),
        (b'1.000000 (db 7) "GET" "k"\n', 7, None),
        (b'1.000000[ [2 a:1] "GET" "k"\n', 2, "a:1"), (b'1.000000 [0] "GET" "k"\n', 0, None),
        (b'1.000000 [0 unix:/x/a] b c.sock] "GET" "k"\n', 0, "unix:/x/a] b c.sock"),
    ],
)  # fmt: skip
def test_headers_of_other_servers_are_read(line: bytes, db: int, client: str | None):
    accesses, _, _ = parsed(line)
    assert accesses["db"] == [db]
    assert accesses["client"] == [client]
    assert accesses["key"] == ["k"]


def test_batches_stay_as_they_are_while_the_parser_goes_on():
    log = b"".join(printed([b"SET", b"key:%d" % at, b"v"], f"a:{at}", 0, STAMP_US + at) for at in range(1000))
    tables = [batch.accesses for batch in LogParser(rows=64).batches(np.frombuffer(log, np.uint8))]
    assert len(tables) > 5
    whole = pa.concat_tables(tables).to_pydict()
    assert whole["key"] == [f"key:{at}" for at in range(1000)]
    assert whole["seq"] == list(range(1000))
    assert set(whole["value_bytes"]) == {1}


shards = st.sampled_from([
    b'"', b'" "', b"\\", b"\\\\", b'\\"', b"\\x", b"\\x4", b"\\x41", b'\\x"', b"\\x\\", b"\\n", b"\r", b"\n", b" ",
    b"a" * 7, b"b" * 60, b"c", b"x", b"xx", b'SET" "k" "', b'" "EX" "60"',
])  # fmt: skip


@given(st.lists(st.lists(shards, max_size=12).map(b"".join), min_size=1, max_size=6), st.integers(0, 70))
def test_lines_of_the_usual_form_are_read_as_all_others_are(rests: list[bytes], before: int):
    # A stamp of nine digits is not usual: such a line is read byte by byte.
    first = b"#" * before + b"\n"
    found = []
    for stamp in (b"1763800000", b"176380000"):
        accesses, rejected, _ = parsed(first + b"".join(b'%b.000001 [0 a:1] "%b"\n' % (stamp, rest) for rest in rests))
        found.append((rows_of(accesses), lines_of(rejected, "line", "reason")))
    usual, other = found
    assert [row[1:] for row in usual[0]] == [row[1:] for row in other[0]]
    assert usual[1] == other[1]


@given(lines, st.integers(1, 200))
def test_lines_may_lie_across_the_pieces_that_are_read(batch: list[tuple[list[bytes], str, int]], piece: int):
    log = b"".join(printed(args, client, db, STAMP_US + at) for at, (args, client, db) in enumerate(batch)) + b"noise\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coldcache.sources.log._PIECE_BYTES", piece)
        small = LogParser(b"0123456789abcdef")
    for _ in range(2):  # a parser that has met long lines goes on
        (accesses, rejected, _), (whole, _, _) = parsed(log, small), parsed(log)
        assert rows_of(accesses) == rows_of(whole)
        assert accesses["value_digest"] == whole["value_digest"]
        assert lines_of(rejected, "line", "offset", "size_bytes") == [[len(batch), len(log) - 6, 5]]


def test_a_stretch_of_a_file_is_read_where_it_is(tmp_path: Path):
    log = b"".join(printed([b"SET", b"key:%d" % at, b"v" * at], f"a:{at}", 0, STAMP_US + at) for at in range(3000))
    path = tmp_path / "a.log"
    path.write_bytes(b"before\n" + log + b"behind")
    with path.open("rb") as file:
        (batch,) = PARSER.batches(Stretch(file.fileno(), 7, len(log)))
        assert batch.accesses.equals(next(PARSER.batches(np.frombuffer(log, np.uint8))).accesses)
        (cut,) = PARSER.batches(Stretch(file.fileno(), 7, len(log) + 100))  # the file was longer once
        assert (cut.lines, cut.rejected["size_bytes"].to_pylist()) == (3000, [6])
    with pytest.raises(OSError, match="Bad file descriptor"):
        list(PARSER.batches(Stretch(file.fileno() if not file.closed else 9999, 7, len(log))))


def test_memory_is_used_again_once_it_is_released():
    log = b"".join(printed([b"SET", b"key:%d" % at, b"v"], f"a:{at}", 0, STAMP_US + at) for at in range(100))
    parser = LogParser(b"0123456789abcdef", rows=64)
    held = []
    for batch in parser.batches(np.frombuffer(log, np.uint8)):
        held.append((batch.accesses["t"].chunk(0).buffers()[1].address, batch.accesses["key"].to_pylist()))
        batch.release()
    assert len({address for address, _ in held}) == 1
    assert [key for _, keys in held for key in keys] == [f"key:{at}" for at in range(100)]


@pytest.mark.parametrize("path", sorted(Path(__file__).with_name("logs").glob("*.log")), ids=lambda path: path.stem)
@given(data=st.data())
@settings(max_examples=60)
def test_real_logs_with_bytes_flipped_and_cut_are_accounted_for(path: Path, data: st.DataObject):
    log = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 6))):
        log[data.draw(st.integers(0, len(log) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    log = bytes(log[: data.draw(st.integers(1, len(log)))])
    accesses, rejected, count = parsed(log)
    ends = [at for at, byte in enumerate(log) if byte == 10] + ([] if log.endswith(b"\n") else [len(log)])
    assert count + len(rejected["line"]) == len(ends)
    # Each line is in one of the two, and what was rejected lies where it is said to lie.
    held = set(accesses["seq"])
    assert sorted([*held, *rejected["line"]]) == list(range(len(ends)))
    for line, offset, size in lines_of(rejected, "line", "offset", "size_bytes"):
        assert (offset, offset + size) == (ends[line - 1] + 1 if line else 0, ends[line])
