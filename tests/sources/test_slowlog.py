"""Slow logs in every form that redis-cli prints, without what they say of keys and values."""

from __future__ import annotations

import io
import shutil
import subprocess
from urllib.parse import urlsplit

import pytest
import redis
from coldcache.schema import SLOWLOG, to_arrow
from coldcache.sources.slowlog import SlowlogFile, read_slowlog
from hypothesis import given
from hypothesis import strategies as st

NUMBERED = """127.0.0.1:6379> slowlog get 2
 1) 1) (integer) 14
    2) (integer) 1795400288
    3) (integer) 15000
    4)  1) "config"
        2) "set"
       10) "secret 1) 2) (integer) 3"
    5) "127.0.0.1:58217"
    6) "worker-123"
 2) 1) (integer) 13
    2) (integer) 1795400287
    3) (integer) 12
    4) 1) "GET"
       2) "a\\n5) \\"10.0.0.1:1\\""
"""
RAW = "14\n1795400288\n15000\nconfig\nset\nsecret\n127.0.0.1:58217\nweb\n13\n1795400287\n12\nGET\na\nb\n[::1]:5\n\n"
CSV = '14,1795400288,15000,"config","set","sec,\\"ret","127.0.0.1:58217","web",13,1795400287,12,"GET","a","[::1]:5",""\n'
JSON = (
    '[[14,1795400288,15000,["config","set","secret"],"127.0.0.1:58217","web"],\n [13,1795400287,12,["GET","a"],"[::1]:5",""]]\n'
)


def read(text: str | bytes) -> SlowlogFile:
    return read_slowlog(io.BytesIO(text.encode() if isinstance(text, str) else text), node="n:1")


@pytest.mark.parametrize(("form", "text"), [("numbered", NUMBERED), ("raw", RAW), ("csv", CSV), ("json", JSON)])
def test_every_form_gives_name_duration_and_client_and_no_argument(form: str, text: str):
    """GIVEN a slow log in one of the forms WHEN read THEN commands are named, and no argument is in the table."""
    for variant in (text, text.replace("\n", "\r\n"), text.replace("GET", "\x1b[1mGET\x1b[0m") if form == "numbered" else text):
        found = read(variant)
        assert (found.form, found.entries, found.skipped) == (form, 2, {})
        assert found.table["command"].tolist() == ["GET", "CONFIG SET"]
        assert found.table["duration_us"].tolist() == [12, 15000]
        assert found.table["client"].iloc[1] == "127.0.0.1:58217"
        assert found.table["node"].tolist() == ["n:1"] * 2
        assert str(found.table["t"].iloc[1]) == "2026-11-23 02:18:08+00:00"
        assert found.table["arguments"].iloc[1] == 3
        assert "sec" not in found.table.to_csv()
        to_arrow(found.table, SLOWLOG)


def test_servers_before_4_name_no_client():
    assert read("3\n1795400288\n5\nGET\nhost:80\n2\n1795400287\n5\nGET\nk\n").table["arguments"].tolist() == [2, 2]
    found = read('[[3,1795400288,5,["PING"]]]')
    assert found.table["client"].isna().tolist() == [True]


def test_an_entry_shown_by_two_files_in_one_is_there_once():
    found = read(NUMBERED + NUMBERED)
    assert (found.entries, len(found.table), found.skipped) == (4, 2, {"shown twice": 2})


@pytest.mark.parametrize(
    "text", ["", "\n", "hello\nworld\n", "[" * 100_000, "[1, 2", "[]", "(empty array)\n", "1\n2\n3\n", "[[1],2]"]
)
def test_other_files_hold_no_slow_log(text: str):
    found = read(text)
    assert found.table.empty
    assert found.form is None
    assert found.problems


def test_what_is_no_command_name_is_not_stored():
    found = read('[[3,1795400288,5,["my secret","x"]],[2,-5,1,["GET"]],[1,1795400287,2,["OBJECT","my secret"]]]')
    assert found.table["command"].tolist() == ["OBJECT"]
    assert sum(found.skipped.values()) == 2


@pytest.mark.parametrize("filler", [" ", "1) ", '"', "\\\\", "9,", "1\n"])
def test_a_text_made_to_be_slow_is_not(filler: str):
    for start in (NUMBERED + "\n   5) ", RAW, '14,1795400288,15000,"'):
        assert read(start + filler * 100_000 + "x").entries >= 0


PIECES = [*NUMBERED.splitlines(), *RAW.splitlines(), CSV, JSON, "99999999999999999", '["a"]', "4) 1) "]


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(PIECES).map(str.encode))))
def test_no_bytes_crash_it_and_the_entries_add_up(pieces: list[bytes]):
    found = read(b"\n".join(pieces))
    assert found.entries == len(found.table) + sum(found.skipped.values())


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="needs redis-cli")
@pytest.mark.parametrize("options", [["--no-raw"], ["--raw"], [], ["--json"], ["--csv"]])
def test_what_redis_cli_prints_is_understood(server_url: str, options: list[str]):
    """GIVEN a server's slow log WHEN redis-cli prints it in each of its forms THEN the same commands are read."""
    port = urlsplit(server_url).port
    with redis.Redis.from_url(server_url, client_name="web") as client:
        before = client.config_get("slowlog-log-slower-than")["slowlog-log-slower-than"]
        client.config_set("slowlog-log-slower-than", 0)
        client.slowlog_reset()
        client.set("key with space", "a value with \x00 and \xff")
        client.mset({f"k{n}": "v" for n in range(40)})
        client.config_set("slowlog-log-slower-than", before)
    command = ["redis-cli", "-p", str(port), *options, "SLOWLOG", "GET", "128"]
    found = read(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)
    assert found.skipped == {}
    rows = dict(zip(found.table["command"], found.table["arguments"], strict=True))
    assert rows["SET"] == 3
    assert rows["MSET"] == 32
    assert found.table["client"].notna().all()
