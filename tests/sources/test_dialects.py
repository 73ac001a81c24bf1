"""Each dialect as its program writes it, by small writers of their own, and back to what the server printed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable

import numpy as np
import pytest
from coldcache.errors import NotALogError, UnknownNameError
from coldcache.sources.dialects import DIALECTS, Dialect, named
from coldcache.sources.log import LogParser
from coldcache.sources.monitor import escape
from coldcache.sources.sniffing import sniff
from hypothesis import example, given, settings
from hypothesis import strategies as st

STAMP_US = 1_763_800_000_000_042
PARSER = LogParser(b"0123456789abcdef")

clients = st.sampled_from(["lua", "10.0.3.7:51344", "[::1]:56746", "unix:/run/redis.sock"])
words = st.one_of(
    st.binary(max_size=12),
    st.text("abc :{}", max_size=9).map(str.encode),
    st.sampled_from([
        b"k", b"", b"EX", b"10", b"\\", b'"', b'" ', b' "', b'" "', b'a" ', b'\\" ', b'{"a":"x\\ny"}', b'] "', b"\r\n+1.0 [0 x]",
        b"\\xff", b"\xff", b"\x0b\x0c", b"a,b", b'1763800000.000000 [0 a:1] "GET" "k"',
    ]),
)  # fmt: skip
commands = st.builds(lambda name, rest: [name, *rest], st.sampled_from([b"GET", b"SET", b"MGET"]), st.lists(words, max_size=6))
lines = st.lists(st.tuples(commands, clients, st.integers(0, 15)), min_size=1, max_size=20)
Line = tuple[list[bytes], str, int]


def stamp(at: int) -> str:
    return f"{(STAMP_US + at) // 10**6}.{(STAMP_US + at) % 10**6:06d}"


def redis_cli(batch: list[Line]) -> list[str]:
    """Lines as redis-cli prints them."""
    return [f"{stamp(at)} [{db} {client}] {quoted(args)}" for at, (args, client, db) in enumerate(batch)]


def quoted(args: list[bytes]) -> str:
    return " ".join(f'"{escape(arg)}"' for arg in args)


def ioredis(args: list[bytes]) -> list[str]:
    """Arguments as ioredis and iovalkey tell them of a line: cut between quotes, quotes without their backslash."""
    return [part.replace('\\"', '"') for part in quoted(args)[1:-1].split('" "')]


def redisinsight(batch: list[Line]) -> list[str]:
    return [
        f"{stamp(at)} [{db} {client}] {' '.join(json.dumps(part) for part in ioredis(args))}"
        for at, (args, client, db) in enumerate(batch)
    ]


def betterdb_rows(batch: list[Line]) -> list[dict[str, object]]:
    rows = []
    for at, (args, client, db) in enumerate(batch):
        command, *rest = ioredis(args)
        text = {"tsRaw": stamp(at), "db": db, "addr": client, "cmd": command, "args": rest, "key": rest[0] if rest else None}
        rows.append({"ts": (STAMP_US + at) // 1000, **text})
    return rows


def betterdb_json(batch: list[Line]) -> list[str]:
    return [json.dumps(row, separators=(",", ":"), ensure_ascii=False) for row in betterdb_rows(batch)]


def betterdb_csv(batch: list[Line]) -> list[str]:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in betterdb_rows(batch):
        writer.writerow([row["ts"], row["tsRaw"], row["db"], row["addr"], row["cmd"], " ".join(row["args"]), row["key"] or ""])
    return out.getvalue().splitlines()


def valkey_810(batch: list[Line]) -> list[str]:
    """Printable bytes as they are, quotes and backslashes too."""

    def raw(arg: bytes) -> str:
        return "".join(chr(byte) if 32 <= byte < 127 else escape(bytes([byte])) for byte in arg)

    return [
        f"{stamp(at)} [{db} {client}] " + " ".join(f'"{raw(arg)}"' for arg in args) for at, (args, client, db) in enumerate(batch)
    ]


def kvrocks(batch: list[Line], *, byte: str = "\\x{:02x}") -> list[str]:
    def escaped(arg: bytes) -> str:
        own = {11: "\\v", 12: "\\f"} | {value: byte.format(value) for value in range(128, 256)}
        return "".join(own.get(value, escape(bytes([value]))) for value in arg)

    return [
        f"{STAMP_US // 10**6}.{STAMP_US % 10**6 + at} [ns-{db} {client}] " + " ".join(f'"{escaped(arg)}"' for arg in args)
        for at, (args, client, db) in enumerate(batch)
    ]


def docker_json(batch: list[Line]) -> list[str]:
    """docker cuts at 16 KB."""
    out = []
    for line in redis_cli(batch):
        text = line + "\n"
        cut = [text[i : i + 16384] for i in range(0, len(text), 16384)]
        out += [json.dumps({"log": part, "stream": "stdout", "time": "2026-11-22T10:00:00.123456789Z"}) for part in cut]
    return out


def journald_json(batch: list[Line]) -> list[str]:
    return [json.dumps({"_PID": "12", "MESSAGE": line, "_HOSTNAME": "cache-1"}) for line in redis_cli(batch)]


PREFIXES = [
    "2026-11-22T10:00:00.123456789Z ", "redis-monitor-1  | ", "cache-1  | 2026-11-22T10:00:00.123456789Z ",
    "[pod/cache-0/redis] ", "[pod/cache-0/redis] 2026-11-22T10:00:00.123456789Z ", "cache-0 redis ",
    "Nov 22 10:00:00 host redis-cli[123]: ",
    "2026-11-22T10:00:00+0000 10.0.0.1 redis-cli[123]: ", "1763800000.104233 host redis-cli[123]: ",
    "\x1b[36mcache-1  |\x1b[0m +",
    "2026-11-22T10:00:00.123456789Z stdout F ",
]  # fmt: skip


def encoded(texts: list[str]) -> bytes:
    return "".join(text + "\n" for text in texts).encode()


def parsed(log: bytes) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    batches = list(PARSER.batches(np.frombuffer(log, np.uint8)))
    rows, rejected = ([row for table in tables for row in table.to_pylist()] for tables in
                      ([batch.accesses for batch in batches], [batch.rejected for batch in batches]))  # fmt: skip
    return rows, rejected


def assert_is_what_the_server_printed(rewritten: bytes, batch: list[Line]):
    """Byte by byte, so every argument of every line; and the parser has nothing to complain of."""
    wanted = encoded(redis_cli(batch))
    assert rewritten == wanted
    assert parsed(rewritten)[1] == []


@given(lines)
@example([([b"SET", b'a" ', b"v"], "lua", 0), ([b"SET", b'\\" ', b' "', b'" "', b""], "lua", 0)])
def test_redisinsight_is_read_back(batch: list[Line]):
    assert_is_what_the_server_printed(named("redisinsight").rewrite(encoded(redisinsight(batch))), batch)


@given(lines)
@example([([b"SET", b'a" ', b"v"], "lua", 0), ([b"SET", b'\\" ', b' "', b'" "', b""], "lua", 0)])
def test_betterdb_json_is_read_back(batch: list[Line]):
    assert_is_what_the_server_printed(named("betterdb-json").rewrite(encoded(betterdb_json(batch))), batch)


@given(lines)
def test_betterdb_csv_is_read_back_where_blanks_tell_arguments_apart(batch: list[Line]):
    # GIVEN no blank behind the first argument, no quote and blank anywhere, and not one empty argument alone
    batch = [
        (args, client, db)
        for args, client, db in batch
        if not any(b" " in arg for arg in args[2:]) and not any(b'" ' in arg for arg in args) and args[1:] != [b""]
    ]
    rewritten = named("betterdb").rewrite(b"ts,ts_raw,db,addr,cmd,args,key\n" + encoded(betterdb_csv(batch)))
    assert_is_what_the_server_printed(rewritten.split(b"\n", 1)[1], batch)


UNCERTAIN = re.compile(rb'" "|" \Z|\\(?:[nrtab]|x(?:0[0-6bcef]|1[0-9a-f]|7f|[89a-f][0-9a-f]))')


@given(lines)
def test_valkey_810_is_read_back_where_arguments_can_be_told_apart(batch: list[Line]):
    batch = [(args, client, db) for args, client, db in batch if not any(map(UNCERTAIN.search, args))]
    assert_is_what_the_server_printed(named("valkey-8.1.0").rewrite(encoded(valkey_810(batch))), batch)


@given(lines)
def test_kvrocks_is_read_back_and_its_namespaces_are_numbered(batch: list[Line]):
    # GIVEN a byte that tells the version, or \xff and the text ffff80 were read as one byte of an older one
    batch = [([b"GET", b"\x80"], "lua", 0), *batch]
    dialect = named("kvrocks")
    rewritten = b"".join(dialect.rewrite((line + "\n").encode()) for line in kvrocks(batch))
    order = list(dict.fromkeys(db for _, _, db in batch))
    assert dialect.namespaces == {f"ns-{db}": number for number, db in enumerate(order)}
    assert_is_what_the_server_printed(rewritten, [(args, client, order.index(db)) for args, client, db in batch])
    assert "0 is ns-" in dialect.notes()[0]


def test_kvrocks_before_2_10_printed_signed_bytes():
    batch: list[Line] = [([b"SET", b"k", b"\xff\x8a\\xffffff8a"], "10.0.0.1:5", 0)]
    log = encoded(kvrocks(batch, byte="\\xffffff{:02x}"))
    assert b"\\xffffffff\\xffffff8a" in log
    assert_is_what_the_server_printed(named("kvrocks").rewrite(log), batch)


def test_kvrocks_from_2_10_on_is_known_by_any_other_byte():
    batch: list[Line] = [([b"SET", b"\x80", b"\xffffff8a"], "10.0.0.1:5", 0), ([b"GET", b"\xffffff8a"], "10.0.0.1:5", 0)]
    first, second = kvrocks(batch)
    dialect = named("kvrocks")
    assert_is_what_the_server_printed(dialect.rewrite(encoded([first])) + dialect.rewrite(encoded([second])), batch)


@pytest.mark.parametrize("prefix", PREFIXES)
@given(lines)
@settings(max_examples=20)
def test_prefixes_are_taken_away(prefix: str, batch: list[Line]):
    log = encoded([prefix + line for line in redis_cli(batch)])
    assert_is_what_the_server_printed(named("docker").rewrite(log), batch)
    assert named("prefixed").rewrite(encoded(redis_cli(batch))) == encoded(redis_cli(batch))
    assert sniff(log).name in ("prefixed", "prefixed+redisinsight")  # a value may be RedisInsight's escapes as text


@given(lines)
def test_objects_of_docker_and_journald_are_opened(batch: list[Line]):
    assert_is_what_the_server_printed(named("docker-json").rewrite(encoded(docker_json(batch))), batch)
    assert_is_what_the_server_printed(named("journald-json").rewrite(encoded(journald_json(batch))), batch)


def test_journald_writes_unprintable_messages_as_numbers():
    line = f'{stamp(0)} [0 unix:/run/é.sock] "GET" "k"'.encode()
    assert named("journald-json").rewrite(json.dumps({"MESSAGE": list(line)}).encode()) == line


def test_lines_that_docker_cut_are_joined_where_they_end():
    # GIVEN one long line in three pieces between two short ones, read in two blocks
    batch: list[Line] = [([b"GET", b"a"], "a:1", 0), ([b"SET", b"k", b"v" * 40_000], "a:1", 0), ([b"GET", b"b"], "a:1", 0)]
    written = docker_json(batch)
    assert len(written) == 5
    dialect = named("docker-json")
    # WHEN rewritten
    rewritten = dialect.rewrite(encoded(written[:2])) + dialect.rewrite(encoded(written[2:]))
    # THEN the lines keep their numbers, and the places of the pieces are empty
    rows, rejected = parsed(rewritten)
    assert [(row["seq"], row["key"], row["value_bytes"]) for row in rows] == [(0, "a", None), (3, "k", 40_000), (4, "b", None)]
    assert [(line["line"], line["reason"]) for line in rejected] == [(1, "empty"), (2, "empty")]
    assert dialect.notes() == ("docker had cut long lines into pieces: 2 of them were joined, and count as empty lines.",)


def test_pieces_without_an_end_are_left_out_and_told():
    batch: list[Line] = [([b"SET", b"k", b"v" * 40_000], "a:1", 0), ([b"GET", b"b"], "a:1", 0)]
    first, _, _, short = docker_json(batch)
    dialect = named("docker-json")
    rows, _ = parsed(dialect.rewrite(encoded([first, short, first])))
    assert [row["key"] for row in rows] == ["b"]
    assert dialect.notes() == (
        "2 pieces of lines that docker had cut were left out: the ends of these lines are not in the log.",
    )


def test_a_short_record_without_a_line_end_is_a_line():
    log = b'{"log":"1763800000.000000 [0 a:1] \\"GET\\" \\"k\\""}\n'
    assert named("docker-json").rewrite(log * 2) == b'1763800000.000000 [0 a:1] "GET" "k"\n' * 2


def test_redacted_values_are_told():
    dialect = named("betterdb-json")
    dialect.rewrite(encoded(betterdb_json([([b"SET", b"k", b"<redacted>"], "a:1", 0)])))
    assert "<redacted>" in dialect.notes()[0]


FRAGMENTS = [
    b"1763800000.1 [", b"0 ", b"a:1] ", b'"', b'" "', b"\\", b"\n", b"\r", b"x", b"{", b'{"log":', b'{"MESSAGE":', b'{"args":["',
    b"}",
    b",", b'"db":1,"tsRaw":"1.000000","addr":"', b"\xff", b"\\ud800", b"1763800000.000001 [0 a:1] ", b"[[[[", b"9" * 5000, b"\\n",
    b"1,1.000001,",
]  # fmt: skip


@pytest.mark.parametrize("name", [*DIALECTS, "prefixed+kvrocks", "docker-json+valkey-8.1.0"])
@given(st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(FRAGMENTS), max_size=25).map(b"".join)))
def test_no_bytes_break_a_dialect_and_lines_keep_their_number(name: str, block: bytes):
    dialect = named(name)
    assert dialect.rewrite(block).count(b"\n") == block.count(b"\n")
    assert isinstance(dialect.notes(), tuple)


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("unit", ["] ", '] "', "\\", '""', '" "', " ", "a ", "1763800000.000001 [", '\\"', ',"', "[0 "])
def test_a_long_damaged_line_is_read_only_once(name: str, unit: str):
    # Expressions that try a line again from each place in it would need hours.
    long = (unit * 300_000)[:300_000].encode()
    block = b"".join(
        start + long + b"x\n" for start in (b"", b'1763800000.000001 [0 a:1] "GET" "', b"1763800000.1 [", b'1,1.000001,0,"')
    )
    assert named(name).rewrite(block).count(b"\n") == 4
    assert sniff(b'1763800000.000001 [0 a:1] "GET" "k"\n' * 9 + block).name == "redis-cli"


@pytest.mark.parametrize("name", DIALECTS)
def test_what_is_not_understood_stays(name: str):
    block = (
        b'hello\n\n{"log":1}\n{"MESSAGE":null}\n{"args":[1],"db":0,"tsRaw":"1.000000"}\n{"log":"\\ud800"}\n{[\n1,2,3\n\x00\xff'
    )
    assert named(name).rewrite(block) == block


WRITERS = {
    "redis-cli": (redis_cli, "redis-cli"),
    "RedisInsight": (redisinsight, "redisinsight"),
    "BetterDB, JSON": (betterdb_json, "betterdb-json"),
    "BetterDB, CSV": (betterdb_csv, "betterdb"),
    "Valkey 8.1.0": (valkey_810, "valkey-8.1.0"),
    "Kvrocks": (kvrocks, "kvrocks"),
    "docker's files": (docker_json, "docker-json"),
    "journalctl -o json": (journald_json, "journald-json"),
    "compose, Kvrocks": (lambda batch: [PREFIXES[1] + line for line in kvrocks(batch)], "prefixed+kvrocks"),
    "journal, Valkey 8.1.0": (lambda batch: [PREFIXES[6] + line for line in valkey_810(batch)], "prefixed+valkey-8.1.0"),
    "replies around": (lambda batch: ["OK", *redis_cli(batch), "Error: Server closed the connection"], "redis-cli"),
    "raw socket": (lambda batch: ["+" + line + "\r" for line in redis_cli(batch)], "redis-cli"),
    "Redis 2.6": (lambda batch: [re.sub(r"\[(\d+) .*?\] ", r"(db \1) ", line) for line in redis_cli(batch)], "redis-cli"),
    "Redis 2.4": (lambda batch: [re.sub(r"\[.*?\] ", "", line) for line in redis_cli(batch)], "redis-cli"),
    "Alibaba": (lambda batch: [line.replace(" [", "[ [", 1) for line in redis_cli(batch)], "redis-cli"),
    "Redict": (lambda batch: [re.sub(r" [^ ]*\] ", "] ", line, count=1) for line in redis_cli(batch)], "redis-cli"),
}


@pytest.mark.parametrize(("write", "name"), WRITERS.values(), ids=WRITERS)
def test_dialects_are_found(write: Callable[[list[Line]], list[str]], name: str):
    batch: list[Line] = [
        ([b"GET", b"user:1"], "10.0.3.7:51344", 0), ([b"SET", b"user:1", b'{"id":1}', b"EX", b"60"], "10.0.3.7:51344", 0),
        ([b"SET", b"img:1", b"\xff\xd8\x00"], "10.0.3.7:51344", 3), ([b"GET", b"user:2"], "10.0.3.8:51344", 0),
    ]  # fmt: skip
    dialect = sniff(encoded(write(batch * 3)))
    assert dialect.name == name
    assert dialect.confidence == ("low" if name.endswith(("valkey-8.1.0", "betterdb")) else "exact")
    assert bool(dialect.why) == (dialect.confidence == "low")
    assert sniff(encoded(write(batch * 3))).name == name  # again, the same


@pytest.mark.parametrize(
    "value",
    [
        b'{"class":"App\\\\User"}',
        b"b'\\x80\\x04'",
        b'{"text":"a\\nb"}',
        b'O:8:"App\\User":0:{}',
        b"\\u0041",
        b'{"a":"{\\"b\\":1}"}',
    ],
)
def test_backslashes_of_values_do_not_mislead(value: bytes):
    batch: list[Line] = [([b"SET", b"k", value], "a:1", 0)] * 5
    assert sniff(encoded(redis_cli(batch))).name == "redis-cli"


def test_damaged_lines_do_not_mislead():
    batch: list[Line] = [([b"SET", b"k", b"v"], "a:1", 0)] * 200
    texts = redis_cli(batch)
    texts[7] = texts[7][:-9] + texts[8]
    texts[9] = texts[9][3:]
    texts[11] = "x" + texts[11]
    texts[13] = texts[13].replace("[0 ", "[z ")
    texts[15] = texts[15][:-1] + '\\"'
    assert sniff(encoded(texts)).name == "redis-cli"


def test_a_log_with_replies_only_is_a_log():
    assert sniff(b"OK\n").name == "redis-cli"


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (b"", "is empty"), (b"\n \n", "is empty"), (gzip.compress(b"x", mtime=0), "gunzip"),
        (b"REDIS0011\xfa\tredis-ver", "RDB snapshot"),
        (b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n", "append-only file"), ("OK\n".encode("utf-16"), "UTF-16"),
        (b"# Server\r\nredis_version:7.0.15\r\n", "a dump of INFO"), (bytes(range(256)) * 9, "binary data"),
        (b'10.0.0.1 - - [22/Nov/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 123 "-" "curl"\n', "access log"),
        (b'{"level":"info","msg":"started"}\n' * 3, "looks like JSON"), (b"hello\nworld\n", "text"),
        (b"712:M 22 Nov 2026 10:00:00.000 * Ready to accept connections\n", "the server's own log"),
        (b"[CACHE][GET] Key:a, Result:HIT\n", "cache log of an application"), (b"<html>\n", "HTML"),
        (b'1) "pmessage"\n2) "__key*"\n', "SUBSCRIBE"), (b" 1) 1) (integer) 14\n    2) (integer) 1763800000\n", "SLOWLOG"),
        (b'{"sessionId":"s","count":1,"lines":[{"ts":1}]}\n', "jq -c '.lines[]'"),
    ],
)  # fmt: skip
def test_what_is_no_log_is_named(sample: bytes, said: str):
    with pytest.raises(NotALogError, match=re.escape(said)) as caught:
        sniff(sample)
    assert caught.value.exit_code == 64


def test_a_log_among_other_lines_is_asked_about():
    texts = [f"cache-1  | {line}" for line in redis_cli([([b"GET", b"k"], "a:1", 0)] * 3)] + ["web-1  | started"] * 7
    with pytest.raises(NotALogError, match=re.escape("Only 30.0% of the lines")) as caught:
        sniff(encoded(texts))
    assert "--dialect prefixed" in str(caught.value)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_log_or_named(sample: bytes):
    try:
        dialect = sniff(sample)
    except NotALogError:
        return
    assert isinstance(dialect, Dialect)


def test_names_that_do_not_exist_are_answered_with_those_that_do():
    with pytest.raises(UnknownNameError, match="Did you mean 'kvrocks'") as caught:
        named("kvrock")
    assert all(name in str(caught.value) for name in DIALECTS)
    with pytest.raises(UnknownNameError, match="is no dialect within another"):
        named("kvrocks+prefixed")
    assert named("docker+redis-cli").name == "prefixed"


def test_low_confidence_is_told_and_explained():
    assert named("valkey-8.1.0").notes()[0].startswith("The log was read as valkey-8.1.0, with low confidence.")
    assert named("redis-cli").notes() == ()
    wrapped = named("journald+kvrocks")
    wrapped.rewrite(b'Nov 22 10:00:00 h r[1]: 1763800000.1 [__namespace a:1] "GET" "k"\n')
    assert wrapped.notes() == ("Databases are namespaces of Kvrocks: 0 is __namespace.",)
    assert wrapped.ordered
