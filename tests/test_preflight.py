"""The judgement before a recording: what was seen, and what follows from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from coldcache.doctor import preflight as preflight_module
from coldcache.doctor.preflight import MODES, Check, Preflight, grant_line, judge, refuse_harm, stream_rate
from coldcache.doctor.probe import Room, Seen, room_of
from coldcache.errors import ServerRefusedError

ROOMY = Room("/data", 100 * 10**9)
WORDS = (
    "info time client|info client|setname client|list client|kill echo publish multi exec config|get config|set "
    "subscribe monitor &__keyevent@*__:* &coldcache:*"
)
RIGHTS = dict.fromkeys(WORDS.split(), "ok")
INFO = {
    "instantaneous_ops_per_sec": "1000",
    "instantaneous_input_kbps": "100.0",
    "used_memory": "100000000",
    "maxmemory": "1000000000",
    "maxmemory_policy": "allkeys-lru",
    "role": "master",
}


def seen(*, rights: dict[str, str] | None = None, info: dict[str, str] | None = None, **other: object) -> Seen:
    """A quiet Redis 7.0.15 that lets us do everything, but for what is given."""
    base = Seen(
        node="cache:6379", host="cache", version="7.0.15", setting="", cpu_share=0.1, clients=(), info_bytes=5000, info=INFO
    )
    return replace(base, rights=RIGHTS | (rights or {}), info=INFO | (info or {}), **other)  # type: ignore[arg-type]


def found_check(found: Preflight, name: str) -> Check:
    [check] = [check for check in found.checks if check.name == name]
    return check


def possible(found: Preflight) -> set[str]:
    return {choice.mode for choice in found.modes if choice.possible}


def test_a_quiet_server_with_all_rights_is_recorded_exactly():
    found = judge(seen(), ROOMY, seconds=60)
    assert found.fine
    assert found.best == "exact"
    assert possible(found) == set(MODES)
    assert found.harm == {}
    assert refuse_harm(found, None, force=False) == "exact"
    assert refuse_harm(found, "events", force=False) == "events"


@pytest.mark.parametrize(
    ("lacking", "left"),
    [
        (["monitor"], {"events"}),
        (["echo"], {"events"}),
        (["config|set"], {"monitor"}),
        (["config|get"], {"monitor"}),
        (["publish"], {"exact", "monitor"}),
        (["subscribe"], {"monitor"}),
        (["multi"], {"exact", "monitor"}),
        (["time"], set()),
        (["monitor", "subscribe"], set()),
    ],
)
def test_a_missing_right_costs_only_the_modes_that_need_it(lacking: list[str], left: set[str]):
    found = judge(seen(rights=dict.fromkeys(lacking, "denied")), ROOMY)
    assert possible(found) == left
    rights = found_check(found, "rights")
    assert rights.state == ("warning" if left else "problem")
    assert all(f"+{word}" in rights.what for word in lacking)
    assert "ACL SETUSER coldcache +monitor" in rights.do
    assert found.fine is bool(left)


def test_a_buffer_that_nobody_could_limit_is_harm():
    found = judge(seen(rights={"client|kill": "denied"}), ROOMY)
    assert "CLIENT KILL" in found_check(found, "guardian").what
    assert found.harm == {}
    found = judge(seen(rights={"client|kill": "denied", "subscribe": "denied"}), ROOMY)
    assert set(found.harm) == {"monitor"}


def test_events_that_are_on_already_need_no_right_to_set_them():
    found = judge(seen(rights={"config|set": "denied"}, setting="AKEm"), ROOMY)
    assert found.best == "exact"
    assert "nothing is changed" in found_check(found, "key events").what


def test_a_channel_that_is_closed_is_named():
    found = judge(seen(rights={"&__keyevent@*__:*": "channel"}), ROOMY)
    assert possible(found) == {"monitor"}
    assert "&__keyevent@*__:*" in found_check(found, "rights").what


def test_a_hidden_flag_is_told():
    assert "hidden n" in found_check(judge(seen(setting="AKE"), ROOMY), "key events").what


def test_the_line_to_grant_is_one_the_server_knows():
    assert "&coldcache:*" in grant_line("Redis", (7, 0, 15))
    assert "&" not in grant_line("Redis", (6, 2, 5))
    assert "&coldcache:*" in grant_line("Redis", (6, 2, 5), channels_refused=True)


@pytest.mark.parametrize(
    ("software", "version", "left", "words"),
    [
        ("Redis", "6.2.3", {"monitor", "events"}, "before its command"),
        ("Redis", "5.0.14", {"monitor"}, "no keymiss"),
        ("Redis", "6.2.5", set(MODES), "new key"),
        ("Valkey", "8.1.1", set(MODES), "quotes"),
        ("Valkey", "8.1.2", set(MODES), "exact recording works"),
        ("Garnet", "1.0.0", {"events"}, "no MONITOR"),
        ("Dragonfly", "1.2.3", set(MODES), "never measured"),
    ],
)
def test_what_a_version_implies(software: str, version: str, left: set[str], words: str):
    found = judge(seen(software=software, version=version), ROOMY)
    assert possible(found) == left
    assert words in found_check(found, "server").what


def test_keydb_is_not_monitored_unasked():
    found = judge(seen(software="KeyDB", version="6.3.4"), ROOMY)
    assert found.best == "events"
    with pytest.raises(ServerRefusedError, match=r"deadlock.*--force"):
        refuse_harm(found, "exact", force=False)
    assert refuse_harm(found, "exact", force=True) == "exact"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("x.abc.0001.euw1.cache.amazonaws.com", "ElastiCache:"),
        ("x.serverless.euw1.cache.amazonaws.com", "ElastiCache Serverless:"),
        ("x.redis.cache.windows.net", "Azure"),
        ("x.upstash.io", "Upstash"),
    ],
)
def test_a_provider_is_known_by_its_host_name(host: str, name: str):
    found = judge(seen(host=host, rights={"config|get": "absent", "config|set": "absent"}, setting=None), ROOMY)
    provider = found_check(found, "provider")
    assert provider.what.startswith(name)
    assert provider.do
    assert found.best == "monitor"


def test_a_server_without_monitor_and_config_looks_managed():
    absent = dict.fromkeys(["monitor", "config|get", "config|set"], "absent")
    found = judge(seen(rights=absent, setting=None), ROOMY)
    assert "Memorystore" in found_check(found, "provider").what
    assert found.best is None
    assert not found.fine
    with pytest.raises(ServerRefusedError, match="any mode"):
        refuse_harm(found, None, force=True)


def test_a_saturated_server_gets_bursts():
    found = judge(seen(cpu_share=0.95), ROOMY)
    assert found.best == "burst"
    assert set(found.harm) == {"exact", "monitor"}
    assert "54%" in found.mode("exact").cost
    with pytest.raises(ServerRefusedError, match=r"saturated.*--mode burst is possible.*--force"):
        refuse_harm(found, "exact", force=False)


def test_memory_that_is_full_without_eviction_is_harm_and_with_eviction_a_warning():
    full = {"used_memory": "980000000", "maxmemory_policy": "noeviction"}
    found = judge(seen(info=full), ROOMY)
    assert found_check(found, "memory").state == "problem"
    assert found.best == "events"
    found = judge(seen(info={"used_memory": "1000000000"}), ROOMY)
    assert "2,000,000 bytes" in found_check(found, "memory").what
    assert found.best == "exact"


def test_without_maxmemory_the_machine_is_the_limit():
    info = {"maxmemory": "0", "used_memory_rss": "990", "used_memory": "900", "total_system_memory": "1000"}
    assert found_check(judge(seen(info=info), ROOMY), "memory").state == "problem"


def test_other_monitors_are_counted_and_a_stalled_one_stops_us():
    live = {"id": "7", "flags": "O", "omem": "0", "addr": "10.0.0.1:5"}
    stalled = {"id": "8", "flags": "OP", "omem": "5000000", "addr": "10.0.0.1:6"}
    found = judge(seen(clients=(live, {"id": "9", "flags": "N", "omem": "0"})), ROOMY)
    assert found_check(found, "monitors").what.startswith("1 other MONITOR client is there")
    assert found.best == "exact"
    found = judge(seen(clients=(stalled,)), ROOMY)
    assert found_check(found, "monitors").do == "CLIENT KILL ID 8"
    assert found.best == "events"
    assert not found.fine


def test_a_short_disk_stops_every_mode_and_one_that_is_too_short_for_exact_only_that():
    found = judge(seen(), Room("/data", 10**8))
    assert set(found.harm) == set(MODES)
    assert found.best == "events"
    with pytest.raises(ServerRefusedError, match=r"disk may fill.*--force"):
        refuse_harm(found, None, force=False)
    assert refuse_harm(found, None, force=True) == "events"
    busy = seen(info={"instantaneous_input_kbps": "100000", "instantaneous_ops_per_sec": "10"})
    found = judge(busy, Room("/data", 10**10), seconds=600)
    assert "exact" in found.harm
    assert "events" not in found.harm
    assert not judge(seen(), Room("/data", 10**10, writable=False)).fine


def test_the_primaries_of_a_cluster_share_the_disk():
    one = judge(seen(), Room("/data", 10**9), seconds=600)
    many = judge(seen(), Room("/data", 10**9), seconds=600, others=[seen()] * 5)
    assert one.harm == {}
    assert "exact" in many.harm


def test_the_expected_stream_is_lines_and_events():
    assert stream_rate(seen(), "monitor") == 100 * 1024 * 1.5 + 60 * 1000 + 2 * 5000
    assert stream_rate(seen(), "events") < stream_rate(seen(), "burst") < stream_rate(seen(), "exact")


def test_a_loading_server_and_a_replica_are_told():
    found = judge(seen(info={"loading": "1"}), ROOMY)
    assert found_check(found, "state").state == "problem"
    assert set(found.harm) == set(MODES)
    found = judge(seen(info={"role": "slave", "master_link_status": "down"}), ROOMY)
    assert "link to the primary is down" in found_check(found, "role").what
    assert found.fine


def test_the_report_is_short_and_ends_with_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight_module, "_check_process", lambda found: None)
    found = judge(seen(rights={"monitor": "denied"}), ROOMY, seconds=60)
    text = str(found)
    assert text.splitlines()[0] == "Can cache:6379 be recorded, 1,000 commands/s?"
    assert "\n* events   yes " in text
    assert "\n  exact    no     The user lacks +monitor.\n" in text
    assert text.splitlines()[-2] == "What to do"
    assert "<pre>" in found._repr_html_()
    assert json.loads(json.dumps(found.to_dict()))["best"] == "events"


def test_the_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: Path):
    assert room_of(tmp_path / "a" / "b").folder == str(tmp_path)
