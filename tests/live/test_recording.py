"""The recorder against real servers: exact, and nothing left behind."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
import redis
from coldcache.case import open_case
from coldcache.errors import CaseExistsError, ColdcacheError, ProcessNotFoundError, ServerRefusedError, ServerUnreachableError
from coldcache.lab.server import lab_server
from coldcache.record import node
from coldcache.record.recorder import Progress, RecordOptions, record
from coldcache.record.server import ACL_LINE
from coldcache.replay.ledger import miss_ledger

pytestmark = pytest.mark.live


def mixed_traffic(url: str, stop: threading.Event, seed: int) -> None:
    """Reads, writes with every form of expiry, Lua, MULTI, pipelines, hashes, deletes, failing commands."""
    rng = random.Random(seed)
    client = redis.Redis.from_url(url, protocol=2)
    script = client.register_script(
        "local v = redis.call('GET', KEYS[1]); if not v then redis.call('SET', KEYS[1], '1') end; return v"
    )
    while not stop.is_set():
        key, other = (f"k:{rng.randrange(60)}" for _ in range(2))
        match rng.randrange(14):
            case 0:
                client.set(key, "v", px=rng.choice([1, 20, 500]))
            case 1:
                client.set(key, "v", ex=5, nx=True)
            case 2:
                client.execute_command("SETEX", key, 1, "v")
            case 3:
                client.mget([key, other, key])
            case 4:
                client.delete(key, other)
            case 5:
                client.expire(key, rng.choice([-1, 1, 100]))
            case 6:
                script(keys=[key])
            case 7:
                with client.pipeline(transaction=True) as pipe:
                    pipe.get(key).set(other, "x").get(other).execute()
            case 8:
                with client.pipeline(transaction=False) as pipe:
                    [pipe.get(f"k:{n}") for n in range(20)]
                    pipe.execute()
            case 9:
                client.hset(f"h:{key}", "f", "1")
                client.hget(f"h:{other}", "f")
            case 10:
                client.execute_command("SET", key, "v", "PXAT", int(time.time() * 1000) + 30)
            case 11:
                client.exists(key, other)
                client.ttl(key)
            case 12:
                with contextlib.suppress(redis.ResponseError):
                    client.execute_command("SET", key, "v", "EX", "0")
            case _:
                client.get(b'bin\x00\xff\r\n"\\' + key.encode())
    client.close()


def test_every_lookup_of_mixed_traffic_equals_info(server_url: str, tmp_path: Path):
    # GIVEN four clients of mixed traffic
    stop = threading.Event()
    workers = [threading.Thread(target=mixed_traffic, args=(server_url, stop, seed)) for seed in range(4)]
    for worker in workers:
        worker.start()
    # WHEN recorded
    try:
        case = record(RecordOptions(url=server_url, out=tmp_path / "case", seconds=4))
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    # THEN hits and misses are INFO's, every miss has its key state, and no event is left over
    ledger = miss_ledger(case)
    assert ledger.total > 2000
    assert (ledger.hits, ledger.misses) == (ledger.info_hits, ledger.info_misses)
    assert ledger.residual == 0
    misses = ledger.reads[ledger.reads["outcome"].eq("miss")]
    assert misses["key_state"].notna().all()
    assert {"expired", "deleted", "never written"} <= set(misses["key_state"].astype("str"))
    assert case.meta["stream"]["orphan_keymisses"] == 0
    assert case.meta["stream"]["damaged"] == 0
    assert case.gaps == []


def test_more_misses_than_a_server_can_tell_cheaply_are_sampled(server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # GIVEN more misses a second than are worth their cost, of keys that are deleted again and again
    monkeypatch.setattr(node, "_MOST_MISSES_PER_S", 200)
    monkeypatch.setattr(node, "_SAMPLE_S", 0.8)
    monkeypatch.setattr(node, "_MOST_PAUSE", 1.0)
    over = threading.Event()

    def work() -> None:
        client = redis.Redis.from_url(server_url, protocol=2)
        while not over.is_set():
            pipe = client.pipeline(transaction=False)
            for number in range(20):
                pipe.set(f"k:{number}", "v").delete(f"k:{number}").get(f"k:{number}").get("absent").set("kept", "v").get("kept")
            pipe.execute()
            time.sleep(0.01)
        client.close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        case = record(RecordOptions(url=server_url, out=tmp_path / "case", seconds=6, mode="events"))
    finally:
        over.set()
        worker.join()
    # THEN misses are heard for a part of the time, and everything else all of it
    modes = [epoch["mode"] for epoch in case.epochs]
    assert modes[:3] == ["events", "changes", "events"]
    assert case.gaps == []
    misses = case.accesses[case.accesses["outcome"] == "miss"]
    assert set(misses["epoch"]) <= set(case.epochs_of("events"))
    writes = case.accesses[case.accesses["outcome"] == "written"]
    assert set(writes["epoch"]) == {epoch["epoch"] for epoch in case.epochs}
    # AND those that were heard are exactly what INFO counted meanwhile, each with its state
    ledger = miss_ledger(case)
    assert ledger.residual == 0
    assert ledger.misses > 200
    assert ledger.uncounted > 200
    assert "not recorded in full" in str(ledger)
    states = misses["key_state"].astype("str")[misses["epoch"] > 0]
    assert set(states[misses["key"].str.startswith("k:")]) == {"deleted"}
    assert set(states[misses["key"] == "absent"]) == {"never written"}


def test_the_server_is_left_as_it_was(server_url: str, tmp_path: Path):
    # GIVEN a server with a setting of its own
    client = redis.Redis.from_url(server_url, protocol=2)
    client.config_set("notify-keyspace-events", "Kx")
    before = client.config_get("notify-keyspace-events")
    # WHEN a recording runs
    seen = {}
    record(
        RecordOptions(url=server_url, out=tmp_path / "case", seconds=2),
        lambda progress: seen.setdefault("during", client.config_get("notify-keyspace-events")),
    )
    # THEN the setting was extended meanwhile and is back, and no connection of ours is left
    assert seen["during"] != before
    assert client.config_get("notify-keyspace-events") == before
    names = {entry["name"] for entry in client.client_list()}
    assert not any(name.startswith("coldcache") for name in names)
    client.config_set("notify-keyspace-events", "")
    client.close()


def test_values_and_secrets_reach_no_file(server_url: str, tmp_path: Path):
    client = redis.Redis.from_url(server_url, protocol=2)
    client.config_set("masterauth", "hunter2-secret")
    try:
        case = record(
            RecordOptions(url=server_url, out=tmp_path / "case", seconds=2),
            lambda progress: client.set("user:1", "a very private value"),
        )
    finally:
        client.config_set("masterauth", "")
        client.close()
    for path in case.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"very private" not in content, path
            assert b"hunter2" not in content, path
    config = case.table("config").set_index("parameter")["value"]
    assert config["masterauth"] == "(redacted)"
    assert "very private" not in case.accesses.to_string()
    assert not (case.folder / "raw").exists()


def test_a_server_that_is_down_is_one_sentence_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(ServerUnreachableError, match=r"No Redis answers at 127\.0\.0\.1:1 ") as caught:
        record(RecordOptions(url="redis://:swordfish@127.0.0.1:1/0", out=tmp_path / "case", seconds=2))
    assert "swordfish" not in str(caught.value)
    assert not (tmp_path / "case").exists()


def test_an_existing_case_is_refused_and_kept(server_url: str, tmp_path: Path):
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "precious").write_text("x")
    with pytest.raises(CaseExistsError):
        record(RecordOptions(url=server_url, out=tmp_path / "case", seconds=2))
    assert (tmp_path / "case" / "precious").exists()


def test_a_process_that_is_not_there_is_refused(server_url: str, tmp_path: Path):
    with pytest.raises(ProcessNotFoundError):
        record(RecordOptions(url=server_url, out=tmp_path / "case", seconds=2, pid=2**22 + 1))
    assert not (tmp_path / "case").exists()


def test_the_rights_the_readme_grants_are_enough_and_fewer_are_refused_with_the_line_to_paste(server_url: str, tmp_path: Path):
    # GIVEN a user with exactly the rights that the README grants
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    granted = next(entry for entry in readme.splitlines() if entry.startswith("ACL SETUSER coldcache"))
    assert granted == ACL_LINE
    client = redis.Redis.from_url(server_url, protocol=2)
    words = granted.split()
    if client.info("server")["redis_version"].startswith("6."):
        words.insert(3, "resetchannels")  # as the README says: a new user may use all channels there
    client.execute_command(*words, "on", ">sesame")
    url = server_url.replace("redis://", "redis://coldcache:sesame@")
    try:
        # WHEN it records THEN that is enough
        case = record(RecordOptions(url=url, out=tmp_path / "case", seconds=2))
        assert miss_ledger(case).residual == 0
        assert not any(b"sesame" in path.read_bytes() for path in case.folder.rglob("*") if path.is_file())
        # AND without MONITOR the refusal says what to grant
        client.execute_command("ACL", "SETUSER", "coldcache", "-monitor")
        with pytest.raises(ColdcacheError, match=r"\+monitor") as caught:
            record(RecordOptions(url=url, out=tmp_path / "refused", seconds=2))
        assert "sesame" not in str(caught.value)
        assert client.config_get("notify-keyspace-events")["notify-keyspace-events"] == ""
        # AND a wrong password is said to be that
        with pytest.raises(ServerRefusedError, match="user or password"):
            record(RecordOptions(url=url.replace("sesame", "wrong"), out=tmp_path / "refused", seconds=2))
    finally:
        client.execute_command("ACL", "DELUSER", "coldcache")
        client.close()


def test_an_interrupted_recording_is_complete(server_url: str, tmp_path: Path):
    # GIVEN a recording without an end, as its own process
    command = [sys.executable, "-m", "coldcache", "record", "--out", str(tmp_path / "case"), "--pid", str(os.getpid())]
    process = subprocess.Popen(command, env={**os.environ, "REDIS_URL": server_url}, stdout=subprocess.DEVNULL)
    client = redis.Redis.from_url(server_url, protocol=2)
    deadline = time.monotonic() + 20
    while not any(entry["name"] == "coldcache-capture" for entry in client.client_list()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for number in range(30):
        client.get(f"k:{number}")
        time.sleep(0.1)
    # WHEN interrupted THEN it ends with 0 and a case that reconciles, and the server is as before
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    case = open_case(tmp_path / "case")
    assert case.meta["ended"] == "interrupted"
    assert miss_ledger(case).residual == 0
    assert case.table("process")["rss_bytes"].gt(0).all()
    assert client.config_get("notify-keyspace-events")["notify-keyspace-events"] == ""
    client.close()


def test_a_server_that_dies_leaves_what_was_recorded_and_a_gap(tmp_path: Path):
    # GIVEN a server that is killed in the middle of a recording
    with lab_server() as url:
        client = redis.Redis.from_url(url, protocol=2)
        pid = client.info("server")["process_id"]

        def watch(progress: Progress) -> None:
            if progress.elapsed_s < 2.5:
                client.get("k")
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        case = record(RecordOptions(url=url, out=tmp_path / "case", seconds=5), watch)
        client.close()
    # THEN the case is readable, reconciles up to the last sample, and says what happened
    assert case.gaps
    assert "server" in case.gaps[0]["reason"]
    ledger = miss_ledger(case)
    assert ledger.total >= 2
    assert ledger.residual == 0


def test_a_capture_that_memray_cannot_read_is_kept_and_said(server_url: str, tmp_path: Path):
    broken = tmp_path / "memray.bin"
    broken.write_bytes(b"not a capture")
    case = record(RecordOptions(url=server_url, out=tmp_path / "case", seconds=2, heap_files=lambda: [broken]))
    assert (case.folder / "heap" / "memray.bin").read_bytes() == b"not a capture"
    assert "cannot be read" in str(case)
    assert case.missing("heap_intervals") == ["heap profile"]


def test_slow_commands_are_kept_without_their_arguments(server_url: str, tmp_path: Path):
    client = redis.Redis.from_url(server_url, protocol=2)
    client.config_set("slowlog-log-slower-than", 1000)
    script = "local t = 0 for i = 1, 2000000 do t = t + i end return redis.call('GET', KEYS[1])"
    try:
        case = record(
            RecordOptions(url=server_url, out=tmp_path / "case", seconds=2),
            lambda progress: client.eval(script, 1, "a-very-secret-key"),
        )
    finally:
        client.config_set("slowlog-log-slower-than", 10000)
        client.close()
    slow = case.table("slowlog")
    assert set(slow["command"].astype("str")) >= {"EVAL"}
    assert slow["duration_us"].gt(1000).all()
    assert "secret" not in slow.to_string()
    assert not slow["command"].astype("str").str.startswith(("INFO", "CONFIG")).any()


def test_connections_and_users_are_kept_without_passwords(server_url: str, tmp_path: Path):
    # GIVEN a user with a password, and a monitor
    client = redis.Redis.from_url(server_url, protocol=2, client_name="shop")
    client.acl_setuser("app", enabled=True, passwords=["+a-very-secret-password"], keys=["cache:*"], commands=["+get"])
    try:
        with client.monitor():
            case = record(RecordOptions(url=server_url, out=tmp_path / "case", seconds=2), lambda progress: client.get("k"))
    finally:
        client.acl_deluser("app")
        client.close()
    # THEN both are in the case, each with what it costs or may do, and nobody's secret is
    clients, users = case.table("clients"), case.table("users").set_index("user")
    assert set(clients.loc[clients["flags"].astype("str").eq("O"), "command"].astype("str")) >= {"monitor"}
    shop = clients[clients["name"].astype("str").eq("shop")]
    assert shop["memory_bytes"].gt(0).all()
    assert len(shop["t"].unique()) == 2  # at the start and at the end
    assert not clients["name"].astype("str").str.startswith("coldcache").any()
    assert bool(users.loc["app", "needs_password"])
    assert not bool(users.loc["default", "needs_password"])
    assert "~cache:*" in users.loc["app", "rules"]
    secrets = b"a-very-secret-password", hashlib.sha256(b"a-very-secret-password").hexdigest().encode()
    written = b"".join(path.read_bytes() for path in case.folder.rglob("*") if path.is_file())
    assert not any(secret in written or secret.decode() in users.to_string() for secret in secrets)


def test_the_raw_stream_is_kept_compressed_only_when_asked_for(server_url: str, tmp_path: Path):
    client = redis.Redis.from_url(server_url, protocol=2)
    options = RecordOptions(url=server_url, out=tmp_path / "case", seconds=2, keep_raw=True)
    case = record(options, lambda progress: client.set("k", "kept on purpose"))
    client.close()
    raw = case.folder / "raw"
    assert not (raw / "stream-0000.resp").exists()
    with pa.input_stream(raw / "stream-0000.resp.zst", compression="zstd") as stream:
        assert b'"SET" "k" "kept on purpose"' in stream.read()
    assert case.meta["policy"]["raw"] == "kept"
