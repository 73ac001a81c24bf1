"""Cache-aside traffic of every kind, recorded exactly: what inference from commands alone is held against."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import hiredis
import numpy as np
import redis
from coldcache.case import Case
from coldcache.lab.server import lab_server
from coldcache.record.recorder import Progress, RecordOptions, record

BACKEND_S = 0.004
VALUE = b"v" * 120


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of keys and how the application caches it.

    share : of all reads
    keys, zipf : how many, and how unevenly they are read
    warm : share of its keys that are there before the recording
    ttl_ms : least and most; None stores without
    skipped : share of the misses after which nothing is written
    null : share of its keys that do not exist, and are never stored
    written_as : prefix under which misses are written
    """

    name: str
    share: float
    keys: int = 2000
    zipf: float = 0.9
    warm: float = 0.0
    ttl_ms: tuple[int, int] | None = None
    skipped: float = 0.0
    null: float = 0.0
    written_as: str = ""


def families(**changes: object) -> tuple[Family, ...]:
    """Return four families, the last with less than 500 reads."""
    shares = {"user": 0.5, "page": 0.3, "item": 0.182, "rare": 0.018}
    return tuple(Family(name=name, share=share, **changes) for name, share in shares.items())  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Traffic on a server.

    connections : over which requests go in turn; 1 is a multiplexed client
    single_flight : a key that is being fetched is not fetched again
    midway : called with a client when half of the reads are done
    right : least share of single outcomes that must be inferred right
    """

    name: str
    families: tuple[Family, ...]
    reads: int = 20_000
    reads_per_s: int = 14_000
    connections: int = 8
    single_flight: bool = False
    options: tuple[str, ...] = ()
    midway: Callable[[redis.Redis], object] | None = None
    right: float = 0.99
    seed: int = 1


class _Wire:
    """Connections on which commands are pipelined, in turn."""

    def __init__(self, url: str, count: int) -> None:
        pool = redis.ConnectionPool.from_url(url, protocol=2)
        self._connections = [pool.make_connection() for _ in range(count)]
        for connection in self._connections:
            connection.connect()
        self._readers = [hiredis.Reader(notEnoughData=Ellipsis) for _ in range(count)]

    def run(self, commands: list[tuple[object, ...]]) -> list[object]:
        """Send commands, spread over the connections; return the replies in the commands' order."""
        count = len(self._connections)
        for number, connection in enumerate(self._connections):
            if mine := commands[number::count]:
                connection._sock.sendall(b"".join(connection.pack_commands(mine)))
        replies: list[object] = [None] * len(commands)
        for number, (connection, reader) in enumerate(zip(self._connections, self._readers, strict=True)):
            for at in range(number, len(commands), count):
                while (reply := reader.gets()) is Ellipsis:
                    reader.feed(connection._sock.recv(1 << 20))
                replies[at] = reply
        return replies

    def close(self) -> None:
        for connection in self._connections:
            connection.disconnect()


def _written(family: Family, key: str, rng: random.Random) -> tuple[object, ...]:
    name = f"{family.written_as}{key}"
    if family.ttl_ms is None:
        return ("SET", name, VALUE)
    return ("SET", name, VALUE, "PX", rng.randint(*family.ttl_ms))


def _is_null(family: Family, number: int) -> bool:
    return (number * 2654435761 % 1000) < family.null * 1000


def warm_up(url: str, workload: Workload) -> None:
    """Store the keys that are there before the recording."""
    rng = random.Random(workload.seed)
    wire = _Wire(url, 1)
    for family in workload.families:
        numbers = [n for n in range(family.keys) if rng.random() < family.warm and not _is_null(family, n)]
        for at in range(0, len(numbers), 500):
            wire.run([_written(family, f"{family.name}:{number}", rng) for number in numbers[at : at + 500]])
    wire.close()


def drive(url: str, workload: Workload) -> None:
    """Read through the cache: a miss is fetched, which takes a while, and written, or not."""
    rng = random.Random(workload.seed + 1)
    draws = np.random.default_rng(workload.seed)
    which = draws.choice(len(workload.families), size=workload.reads, p=[family.share for family in workload.families])
    numbers = np.zeros(workload.reads, np.int64)
    for at, family in enumerate(workload.families):
        weights = np.arange(1, family.keys + 1) ** -family.zipf
        order = draws.permutation(family.keys)
        mine = which == at
        numbers[mine] = order[draws.choice(family.keys, size=int(mine.sum()), p=weights / weights.sum())]
    wire = _Wire(url, workload.connections)
    fetched: list[tuple[float, int, Family, str]] = []
    under_way: set[str] = set()
    began, sent, midway = time.monotonic(), 0, workload.midway
    ticket = itertools.count()
    while sent < workload.reads or fetched:
        now = time.monotonic() - began
        due: list[tuple[object, ...]] = []
        while fetched and fetched[0][0] <= now:
            _, _, family, key = heapq.heappop(fetched)
            under_way.discard(key)
            due.append(_written(family, key, rng))
        batch = range(sent, min(sent + 60, workload.reads, int(now * workload.reads_per_s) + 1))
        asked = [(workload.families[which[at]], int(numbers[at])) for at in batch]
        names = [f"{family.name}:{number}" for family, number in asked]
        replies = wire.run([*(("GET", name) for name in names), *due])
        sent += len(names)
        now = time.monotonic() - began
        for (family, number), name, reply in zip(asked, names, replies, strict=False):
            if reply is None and not _is_null(family, number) and rng.random() >= family.skipped:
                if workload.single_flight and name in under_way:
                    continue
                under_way.add(name)
                heapq.heappush(fetched, (now + BACKEND_S * rng.uniform(0.5, 2), next(ticket), family, name))
        if midway is not None and sent >= workload.reads // 2:
            with contextlib.closing(redis.Redis.from_url(url, protocol=2)) as client:
                midway(client)
            midway = None
        time.sleep(max(0.0, min(0.004, sent / workload.reads_per_s - (time.monotonic() - began))))
    wire.close()


def recorded(binary: str, workload: Workload, out: Path, traffic: Callable[[str], None] | None = None) -> Case:
    """Record a workload exactly, on a server of its own."""
    with lab_server(binary, *workload.options) as url:
        warm_up(url, workload)
        stop = threading.Event()
        failed: list[BaseException] = []

        def work() -> None:
            try:
                (traffic or (lambda at: drive(at, workload)))(url)
            except BaseException as error:
                failed.append(error)
            finally:
                stop.set()

        worker = threading.Thread(target=work)

        def start(_: Progress) -> None:
            if worker.ident is None:
                worker.start()

        case = record(RecordOptions(url=url, out=out, watched=False, stop=stop), start)
        worker.join()
        if failed:
            raise failed[0]
        return case


def _with(name: str, **changes: object) -> tuple[Family, ...]:
    """Return the usual families, warm, with one of them changed."""
    return tuple(replace(family, **changes) if family.name == name else family for family in families(warm=0.6))  # type: ignore[arg-type]


def _policy(policy: str) -> tuple[str, ...]:
    return ("--maxmemory", "2600kb", "--maxmemory-policy", policy)


# Where a key that was never named is read once or twice and never written, nothing tells a hit from a miss:
# there the totals must be right, and most of the reads.
WORKLOADS = (
    Workload(name="healthy, cold", families=families()),
    Workload(name="healthy, warm", families=families(warm=0.6), seed=2),
    Workload(name="SET skipped, cold", families=families(skipped=0.3), seed=3),
    Workload(name="SET skipped, warm", families=families(warm=0.6, skipped=0.3), right=0.96, seed=4),
    Workload(name="SET skipped in one family", families=_with("item", skipped=1.0), right=0.85, seed=5),
    Workload(name="nulls never stored, cold", families=families(null=0.2), seed=6),
    Workload(name="nulls never stored, TTL", families=families(null=0.2, warm=0.6, ttl_ms=(150, 600)), right=0.95, seed=7),
    Workload(name="TTL", families=families(warm=0.6, ttl_ms=(150, 1000)), seed=8),
    Workload(name="eviction", families=families(warm=0.8, keys=4000), options=_policy("allkeys-lru"), seed=9),
    Workload(
        name="eviction and TTL",
        families=families(warm=0.6, keys=5000, ttl_ms=(300, 3000)),
        options=_policy("volatile-lru"),
        seed=10,
    ),
    Workload(name="flush", families=families(warm=0.6), midway=lambda client: client.flushall(), seed=11),
    Workload(name="multiplexed", families=families(warm=0.6, ttl_ms=(400, 400)), connections=1, single_flight=True, seed=12),
    Workload(name="written under another name", families=_with("page", written_as="dev_", warm=0.0), seed=13),
)
