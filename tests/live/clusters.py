"""A small Redis Cluster on loopback, started and stopped by a test."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import redis
from coldcache.lab.server import lab_server

_READY_S = 15
_SLOTS = 16384


@contextlib.contextmanager
def cluster(binary: str | None, primaries: int = 3, replicas: int = 0) -> Iterator[list[str]]:
    """Run a cluster; yield the URLs of its nodes: first the primaries in slot order, then the replicas.

    binary : the server program, Redis 6.2 or newer or Valkey; None for the lab's own
    replicas : for each primary; the replicas come in the order of their primaries, round after round
    """
    with contextlib.ExitStack() as stack:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0")
        options += ("--repl-diskless-sync-delay", "0")  # five seconds otherwise
        # The bus listens 10000 above the client port by default, which may be above 65535.
        urls: list[str] = []
        while len(urls) < primaries * (1 + replicas):
            urls.append(stack.enter_context(_node(binary, options)))
        clients = [stack.enter_context(contextlib.closing(redis.Redis.from_url(url, decode_responses=True))) for url in urls]
        _join(clients, primaries)
        yield urls


@contextlib.contextmanager
def _node(binary: str | None, options: tuple[str, ...]) -> Iterator[str]:
    from coldcache.lab import server

    bus = server._free_port()
    if _major(binary) >= 7:
        options = (*options, "--cluster-port", str(bus))
        with lab_server(binary, *options) as url:
            yield url
        return
    # Redis 6.2 has no cluster-port: the client port must leave room for the bus.
    found = server._free_port
    server._free_port = lambda: next(port for port in iter(found, None) if port <= 55535)
    try:
        context = lab_server(binary, *options)
        url = context.__enter__()
    finally:
        server._free_port = found
    try:
        yield url
    finally:
        context.__exit__(None, None, None)


def _major(binary: str | None) -> int:
    import re
    import subprocess

    from coldcache.lab.server import server_binary

    text = subprocess.run([binary or server_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\d+)", text)
    assert found
    return int(found[1])


def _join(clients: list[redis.Redis], primaries: int) -> None:
    ids = [str(client.execute_command("CLUSTER", "MYID")) for client in clients]
    ports = [client.connection_pool.connection_kwargs["port"] for client in clients]
    buses = [client.config_get("cluster-port").get("cluster-port", "0") for client in clients]
    for number, client in enumerate(clients[:primaries]):
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        first, last = (_SLOTS * edge // primaries for edge in (number, number + 1))
        # ADDSLOTSRANGE came with 7.0.
        client.execute_command("CLUSTER", "ADDSLOTS", *range(first, last))
    for port, bus in list(zip(ports, buses, strict=True))[1:]:
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port, *([bus] if int(bus) else []))
    _until(lambda: all(_known(client) == len(clients) for client in clients))
    for number, client in enumerate(clients[primaries:]):
        client.execute_command("CLUSTER", "REPLICATE", ids[number % primaries])
    _until(lambda: all(_state(client) == "ok" for client in clients))
    # A failover needs a replica that has been in touch with its primary.
    _until(lambda: all(client.info("replication").get("master_link_status") == "up" for client in clients[primaries:]))


def _state(client: redis.Redis) -> str:
    return str(client.cluster("INFO")["cluster_state"])


def _known(client: redis.Redis) -> int:
    return len(client.cluster("NODES"))


def _until(done: object) -> None:
    assert callable(done)
    deadline = time.monotonic() + _READY_S
    while not done():
        assert time.monotonic() < deadline, "the cluster did not come up"
        time.sleep(0.05)
