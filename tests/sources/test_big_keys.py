"""What redis-cli's scans of the key space print."""

from __future__ import annotations

import io
import shutil
import subprocess
from urllib.parse import urlsplit

import pytest
import redis
from coldcache.sources.big_keys import BigKeys, read_big_keys
from hypothesis import given
from hypothesis import strategies as st

BIG = r"""
# Scanning the entire keyspace to find biggest keys as well as

[00.00%] Biggest string found so far '"a\x00b\"q"' with 9 bytes
[10.00%] Biggest string found so far '"big"' with 14 bytes
[50.00%] Sampled 1000000 keys so far
[50.00%] Biggest zset   found so far '"it's"' with 1 members
Warning:  STRLEN on 'k' failed (may have changed type)

-------- summary -------

Sampled 9 keys in the keyspace!
Total key length in bytes is 34 (avg len 3.78)

Biggest string found '"big"' has 14 bytes
Biggest   zset found '"it's"' has 1 members

4 strings with 36 bytes (44.44% of keys, avg size 9.00)
0 lists with 0 items (00.00% of keys, avg size 0.00)
2 ReJSON-RLs with 0 ? (00.00% of keys, avg size 0.00)
"""
HOT = """[00.00%] Hot key '"k"' found so far with counter 6

Sampled 9 keys in the keyspace!
hot key found with counter: 7\tkeyname: "k"
"""


def read(text: str | bytes) -> BigKeys:
    return read_big_keys(io.BytesIO(text.encode() if isinstance(text, str) else text))


def test_biggest_keys_and_totals():
    """GIVEN a whole scan WHEN read THEN every key it named is there once, in the printable escape, with its unit."""
    for text in (BIG, BIG.replace("\n", "\r\n"), BIG.replace("summary -", "Summary --").replace("[00.00%]", "\x1b[2K[00.00%]")):
        found = read(text)
        assert found.keys.to_dict("list") == {
            "key": ["big", r"a\x00b\"q", "it's"],
            "type": ["string", "string", "zset"],
            "size": [14, 9, 1],
            "unit": ["bytes", "bytes", "members"],
        }
        assert found.types["type"].tolist() == ["string", "list", "ReJSON-RL"]
        assert found.types["size"].tolist() == [36, 0, 0]
        assert found.types["keys"].tolist() == [4, 0, 2]
        assert found.types["unit"].isna().tolist() == [False, False, True]
        assert (found.sampled, found.skipped) == (9, {})


def test_hot_keys_have_a_counter_and_no_type():
    found = read(HOT)
    assert found.keys.drop(columns="type").to_dict("records") == [{"key": "k", "size": 7, "unit": "hits"}]
    assert found.keys["type"].isna().all()
    assert found.types.empty


def test_keys_that_an_old_redis_cli_printed_as_they_are_get_escaped():
    found = read("[00.00%] Biggest hash   found so far 'a\tü' with 2 fields\n".encode())
    assert found.keys["key"].tolist() == [r"a\t\xc3\xbc"]
    assert found.sampled is None


def test_other_lines_are_counted():
    assert sum(read("hello\n\nBiggest thing\n" + "x" * 200_000).skipped.values()) == 3


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([*BIG.splitlines(), *HOT.splitlines()]).map(str.encode))))
def test_no_bytes_crash_it(pieces: list[bytes]):
    found = read(b"\n".join(pieces))
    assert sum(found.skipped.values()) <= found.lines
    assert found.keys["key"].is_unique or found.keys.duplicated(["key", "type", "unit"]).sum() == 0


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="needs redis-cli")
@pytest.mark.parametrize("option", ["--bigkeys", "--memkeys", "--hotkeys"])
def test_what_redis_cli_prints_is_understood(server_url: str, option: str):
    """GIVEN a server with keys of several types WHEN redis-cli scans it THEN no line of its output is left over."""
    with redis.Redis.from_url(server_url) as client:
        before = client.config_get("maxmemory-policy")["maxmemory-policy"]
        client.config_set("maxmemory-policy", "allkeys-lfu")
        client.flushall()
        client.set(b"a\x00\"'\n", "value")
        client.hset("h", mapping={"a": "1", "b": "2"})
        client.xadd("st", {"a": "b"})
        command = ["redis-cli", "-p", str(urlsplit(server_url).port), option]
        text = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
        client.config_set("maxmemory-policy", before)
        client.flushall()
    found = read(text)
    assert (found.skipped, found.sampled) == ({}, 3)
    assert set(found.keys["key"]) == {r"a\x00\"'\n", "h", "st"}
    assert found.types["keys"].sum() == (0 if option == "--hotkeys" else 3)
