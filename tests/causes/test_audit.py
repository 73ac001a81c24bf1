"""The audit speaks up where a server's set-up will cost something, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pyarrow as pa
import pytest
import redis
from coldcache import schema
from coldcache.case import Case, write_table
from coldcache.causes.audit import audit
from coldcache.causes.diagnosis import diagnose
from coldcache.lab.server import lab_server
from coldcache.record.finish import open_case
from coldcache.record.recorder import RecordOptions, record
from coldcache.verdict import verdict_html
from conftest import START_US, case_of, event, line
from test_diagnosis import SCHEMA

GIB = 1 << 30
SOUND: dict[str, Any] = {
    "total_system_memory": 8 * GIB, "used_memory": GIB, "maxmemory": 4 * GIB, "maxmemory_policy": "allkeys-lru",
    "keys": 1000, "expires": 1000, "connected_clients": 20, "maxclients": 10_000, "rdb_last_bgsave_status": "ok",
    "aof_last_write_status": "ok", "rdb_last_save_time": START_US // 1_000_000 - 60, "server_time_usec": START_US,
    "rdb_changes_since_last_save": 5, "mem_fragmentation_ratio": 1.1,
}  # fmt: skip
SETTINGS = {"maxmemory-policy": "allkeys-lru", "timeout": "0", "save": "3600 1 300 100"}
CLIENT = {"t": pd.Timestamp(START_US, unit="us", tz="UTC"), "client": "10.0.0.1:50", "user": "app", "flags": "N", "idle_s": 1}
OPEN = {"user": "default", "enabled": True, "needs_password": False, "rules": "~* &* +@all"}
CLOSED = OPEN | {"needs_password": True}
APP = {"user": "app", "enabled": True, "needs_password": True, "rules": "~cache:* -@all +@read +@write"}


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Write a table, null where a row says nothing."""
    write_table(folder, name, pa.Table.from_pylist(rows, schema.table(name).arrow()).to_pandas())


def setup(
    folder: Path, *, settings: dict[str, str] | None = None, clients: list[dict[str, Any]] | None = None,
    users: list[dict[str, Any]] | None = None, **info: Any,
) -> Case:  # fmt: skip
    """A healthy case of a server that is set up like that."""
    case = case_of(folder, [event("set", "k"), line(1, "SET", "k", "v"), line(2, "GET", "k")])
    write_table(folder, "info", case.table("info").assign(**(SOUND | info)))
    chosen = SETTINGS | {"maxmemory-policy": info.get("maxmemory_policy", "allkeys-lru")} | (settings or {})
    rows = [{"parameter": parameter, "value": value} for parameter, value in chosen.items()]
    for name, told in (("config", rows), ("clients", clients or [CLIENT]), ("users", users or [CLOSED, APP])):
        write(folder, name, [row | {"node": "test:6379"} for row in told])
    return open_case(folder)


def test_a_server_in_good_order_is_not_talked_at(tmp_path: Path):
    assert audit(setup(tmp_path / "case")) == []


@pytest.mark.parametrize(
    ("settings", "fix", "says"),
    [
        ({"maxmemory": 0, "used_memory": 3 * GIB}, "maxmemory", "no maxmemory and holds 38 %"),
        ({"maxmemory": 7 * GIB}, "maxmemory", "88 % of the machine"),
        ({"maxmemory_policy": "noeviction", "used_memory": 39 * GIB // 10}, "maxmemory-policy", "97 % full under noeviction"),
        ({"maxmemory_policy": "volatile-lru", "expires": 100}, "maxmemory-policy", "90 % of the keys"),
        ({"connected_clients": 9_000}, "maxclients", "9,000 of 10,000 connections"),
        ({"clients": [CLIENT | {"idle_s": 900}] * 60}, "timeout", "60 of 60 connections"),
        ({"rdb_last_bgsave_status": "err"}, "persistence", "rdb_last_bgsave_status"),
        ({"rdb_last_save_time": START_US // 1_000_000 - 100 * 3600}, "persistence", "100.0 hours ago"),
        ({"users": [OPEN, APP]}, "default_user", "without a password"),
        ({"users": [CLOSED, APP | {"rules": "~* &* +@all"}]}, "acl", "app may run every command"),
        ({"mem_fragmentation_ratio": 2.0}, "activedefrag", "2.0 times the memory"),
    ],
)
def test_what_will_cost_something_is_told_with_its_number(settings: dict[str, Any], fix: str, says: str, tmp_path: Path):
    case = setup(tmp_path / "case", **settings)
    found = audit(case)
    assert [advice.fix.id for advice in found] == [fix]
    assert says in found[0].summary
    # Advice is in the JSON and on the page, but it is no cause, and no alert.
    diagnosis = diagnose(case)
    told = diagnosis.to_dict()
    jsonschema.validate(told, SCHEMA)
    assert [(row["kind"], row["rank"], row["misses"]) for row in told["findings"]] == [("advice", 1, 0)]
    assert (diagnosis.verdict, diagnosis.alert) == ("healthy", False)
    assert "Do this:" in verdict_html(diagnosis)


@pytest.mark.parametrize(
    "settings",
    [
        {"users": [OPEN], "clients": [CLIENT | {"client": "127.0.0.1:50", "user": "default"}]},  # nobody else reaches it
        {"clients": [CLIENT | {"idle_s": 900, "flags": "P"}] * 60},  # subscribers wait by trade
        {"rdb_last_save_time": 0, "settings": {"save": ""}},  # nothing is to be saved
        {"mem_fragmentation_ratio": 4.0, "used_memory": 2_000_000},  # of an empty server it says nothing
        {"rdb_last_save_time": 0, "rdb_changes_since_last_save": 0},
    ],
)
def test_what_looks_like_it_and_is_not_stays_silent(settings: dict[str, Any], tmp_path: Path):
    assert audit(setup(tmp_path / "case", **settings)) == []


def test_slow_commands_and_big_keys(tmp_path: Path):
    case = setup(tmp_path / "case")
    slow = {"t": CLIENT["t"], "node": "n", "command": "KEYS", "duration_us": 48_000, "arguments": 2, "client": "10.0.0.1:50"}
    big = {"node": "n", "key": "session:<i>", "type": "hash", "size": 50_000, "unit": "fields"}
    write(case.folder, "slowlog", [slow, slow | {"command": "GET", "duration_us": 900}])
    write(case.folder, "big_keys", [big, big | {"size": 10}, big | {"unit": "hits"}])
    commands, keys = audit(open_case(case.folder))
    assert commands.summary.startswith("1 commands took longer than 10 ms")
    assert "KEYS 48 ms" in commands.summary
    assert "session:<i> (50,000 fields)" in keys.summary
    assert "<i>" not in verdict_html(diagnose(open_case(case.folder)))


def test_a_real_server_that_is_nearly_full(tmp_path: Path):
    with lab_server(None, "--maxmemory", "8mb", "--maxmemory-policy", "noeviction") as url:
        client = redis.Redis.from_url(url, protocol=2)

        def fill(_: object) -> None:
            while client.info("memory")["used_memory"] < 7 << 20:
                client.set(f"blob:{client.dbsize():08x}9", b"x" * 50_000)

        case = record(RecordOptions(url=url, out=tmp_path / "case", seconds=2), fill)
        client.close()
    assert "maxmemory-policy" in [advice.fix.id for advice in audit(case)]
