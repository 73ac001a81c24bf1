"""Other clients of the server: what acts on a cache beside the analyzer.

An actor is a function that runs in a thread of its own while the recording runs, until its stage says that it is over.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import redis

from coldcache.errors import RecordingFailedError


@dataclass(frozen=True, slots=True)
class Stage:
    """Where an actor acts.

    url : the server
    over : set when the recording ends
    """

    url: str = field(repr=False)
    over: threading.Event

    @contextlib.contextmanager
    def client(self, name: str) -> Iterator[redis.Redis]:
        """Yield a client with a name of its own."""
        client = redis.Redis.from_url(self.url, protocol=2, client_name=name)
        with contextlib.closing(client):
            yield client

    def turns(self, every_s: float) -> Iterator[int]:
        """Yield 0, 1, 2 … at a steady pace until it is over; the first after one pause."""
        begun, number = time.monotonic(), 0
        while not self.over.wait(max(0.0, begun + (number + 1) * every_s - time.monotonic())):
            yield number
            number += 1


Actor = Callable[[Stage], None]
# What XREADGROUP returns: of each stream its name, and the id and the fields of its entries.
Entries = list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]


@contextlib.contextmanager
def acting(url: str, actors: tuple[Actor, ...]) -> Iterator[Callable[[], None]]:
    """Let actors act; yield what ends them, which is also called on the way out.

    Raises
    ------
    RecordingFailedError
        By that function: an actor failed, so that the recording is not of what it was to be.
    """
    stage = Stage(url, threading.Event())
    failures: list[str] = []

    def act(actor: Actor) -> None:
        try:
            actor(stage)
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=act, args=(actor,), name=f"actor-{number}") for number, actor in enumerate(actors)]
    for thread in threads:
        thread.start()

    def end() -> None:
        stage.over.set()
        for thread in threads:
            thread.join()
        if failures:
            raise RecordingFailedError(f"An actor of the lab failed: {failures[0]}")

    try:
        yield end
    finally:
        stage.over.set()
        for thread in threads:
            thread.join()


def once(after_s: float, command: str, *arguments: str) -> Actor:
    """Return an actor that sends one command, some seconds after the start."""

    def act(stage: Stage) -> None:
        if not stage.over.wait(after_s):
            with stage.client("operator") as client:
                client.execute_command(command, *arguments)

    return act


def again_and_again(every_s: float, command: str, *arguments: str) -> Actor:
    """Return an actor that sends one command in a steady rhythm."""

    def act(stage: Stage) -> None:
        with stage.client("job") as client:
            for _ in stage.turns(every_s):
                client.execute_command(command, *arguments)

    return act


def restart(stage: Stage) -> None:
    """Restart the server once, as an upgrade does; what it held is lost. Needs ``--enable-debug-command local``."""
    if stage.over.wait(5.0):
        return
    with stage.client("operator") as client, contextlib.suppress(redis.ConnectionError):
        client.connection_pool.connection_kwargs["retry"] = None
        client.execute_command("DEBUG", "RESTART")


def invalidator(pattern: str, every_s: float) -> Actor:
    """Return an actor that deletes whatever matches a pattern: an eager invalidation by another client."""

    def act(stage: Stage) -> None:
        with stage.client("invalidator") as client:
            for _ in stage.turns(every_s):
                doomed = list(client.scan_iter(match=pattern, count=1000))
                if doomed:
                    client.delete(*doomed)

    return act


def noisy_neighbour(stage: Stage) -> None:
    """Fill the memory that the cache should have: another team's exports, 20 KB each."""
    with stage.client("exports") as client:
        for number in stage.turns(0.02):
            client.set(f"export:report:{number}", random.Random(number).randbytes(20_000), ex=3600)


def idle_catalogue(stage: Stage) -> None:
    """Hold 3 MB that never expire and that nobody reads."""
    with stage.client("catalogue") as client:
        for number in range(150):
            client.set(f"catalogue:{number}", random.Random(number).randbytes(20_000))


def dashboards(stage: Stage) -> None:
    """Rewrite ten large values again and again: traffic without growth."""
    with stage.client("dashboards") as client:
        for turn in stage.turns(0.02):
            client.set(f"dashboard:{turn % 10}", f"{turn:08d}" + "x" * 30_000, ex=3600)


def stalled_monitor(stage: Stage) -> None:
    """Ask for MONITOR and never read: what waits for this client fills the server's memory."""
    address = redis.ConnectionPool.from_url(stage.url).connection_kwargs
    with socket.socket() as sleeper:
        sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sleeper.connect((address["host"], address["port"]))
        sleeper.sendall(b"MONITOR\r\n")
        stage.over.wait()


def killer_of_monitors(stage: Stage) -> None:
    """Cut every MONITOR off for a while, as a script against forgotten ones does."""
    with stage.client("cron") as client:
        for turn in stage.turns(0.25):
            if 8 <= turn < 40:
                for other in client.client_list():
                    if "O" in other["flags"]:
                        with contextlib.suppress(redis.ResponseError):
                            client.client_kill_filter(_id=other["id"])


def no_write_permission(stage: Stage) -> None:
    """Take SET from the analyzer's user, as a tightened ACL does."""
    with stage.client("operator") as client:
        client.execute_command("ACL", "SETUSER", "default", "-set")


def failed_background_save(stage: Stage) -> None:
    """Let the background save fail, so that the server refuses writes. Needs ``--save``."""
    with stage.client("operator") as client:
        in_the_way = Path(str(client.config_get("dir")["dir"])) / "dump.rdb"
        in_the_way.mkdir()
        (in_the_way / "not empty").touch()
        client.bgsave()
        stage.over.wait()


def cache_enricher(stage: Stage) -> None:
    """Add a field to cached results with a plain SET, which drops their time to live."""
    with stage.client("enricher") as client:
        done: set[bytes] = set()
        for _ in stage.turns(0.25):
            for key in client.scan_iter(match="prod_cache:img:*", count=1000):
                value = None if key in done else client.get(key)
                done.add(key)
                if value is not None:
                    client.set(key, json.dumps({**json.loads(value), "enriched": True}))


def rewriter_with_getset(stage: Stage) -> None:
    """Exchange cached results with GETSET, which drops their time to live."""
    with stage.client("refresher") as client:
        done: set[bytes] = set()
        for turn in stage.turns(0.25):
            for key in client.scan_iter(match="prod_cache:img:*", count=1000):
                if key not in done:
                    done.add(key)
                    client.execute_command("GETSET", key, json.dumps({"refreshed": turn, "of": key.decode()}))


def poller(keys: int, every_s: float) -> Actor:
    """Return an actor that asks for the times to live of keys that are not there: a monitoring job."""

    def act(stage: Stage) -> None:
        with stage.client("monitoring") as client:
            for turn in stage.turns(every_s):
                for number in range(keys):
                    client.ttl(f"probe:{(turn * keys + number) % 50}")

    return act


def sessions(stage: Stage) -> None:
    """Read and rewrite sessions, each time with another content: a sliding time to live."""
    rng = random.Random(1)
    with stage.client("web") as client:
        for number in range(40):
            client.set(f"session:{number:08x}9", json.dumps({"seen": 0}), ex=1800)
        for turn in stage.turns(0.02):
            key = f"session:{rng.randrange(40):08x}9"
            client.get(key)
            client.set(key, json.dumps({"seen": turn}), ex=1800)


def stock_counters(stage: Stage) -> None:
    """Count views, and read the counts."""
    rng = random.Random(2)
    with stage.client("web") as client:
        for turn in stage.turns(0.02):
            key = f"views:{rng.randrange(100)}"
            client.incr(key)
            if turn % 2:
                client.get(key)


def write_through(stage: Stage) -> None:
    """Write profiles whenever they change, and read them from the cache alone."""
    rng = random.Random(3)
    with stage.client("profiles") as client:
        for number in range(200):
            client.set(f"profile:{number}", json.dumps({"name": number, "version": 0}), ex=3600)
        for turn in stage.turns(0.02):
            number = rng.randrange(200)
            if turn % 5 == 0:
                client.set(f"profile:{number}", json.dumps({"name": number, "version": turn}), ex=3600)
            else:
                client.get(f"profile:{number}")


def queue_in_good_order(stage: Stage) -> None:
    """Publish, and pass jobs through a list and a capped stream whose group acknowledges them."""
    with stage.client("jobs") as client:
        client.xgroup_create("jobs:stream", "workers", mkstream=True)
        for turn in stage.turns(0.03):
            client.publish("images", str(turn))
            client.lpush("jobs:list", turn)
            client.rpop("jobs:list")
            client.xadd("jobs:stream", {"image": turn}, maxlen=100)
            ((_, entries),) = cast("Entries", client.xreadgroup("workers", "one", {"jobs:stream": ">"}, count=10))
            client.xack("jobs:stream", "workers", *(entry for entry, _ in entries))


def untrimmed_stream(stage: Stage) -> None:
    """Add to a stream that nobody trims."""
    with stage.client("jobs") as client:
        for turn in stage.turns(0.01):
            client.xadd("events:images", {"image": turn, "detail": "x" * 200})


def unacknowledged_stream(stage: Stage) -> None:
    """Read from a group and never acknowledge, so that its pending list grows."""
    with stage.client("jobs") as client:
        client.xgroup_create("events:images", "workers", mkstream=True)
        for turn in stage.turns(0.01):
            client.xadd("events:images", {"image": turn, "detail": "x" * 200}, maxlen=10_000)
            client.xreadgroup("workers", "one", {"events:images": ">"}, count=10)


def growing_structures(stage: Stage) -> None:
    """Remember every event in a list and a set that are never cut."""
    with stage.client("audit") as client:
        for turn in stage.turns(0.01):
            client.rpush("audit:events", f"{turn}:{'x' * 200}")
            client.sadd("audit:images", turn)


def keys_without_ttl(stage: Stage) -> None:
    """Write one key an event, none of which ever expires."""
    with stage.client("audit") as client:
        for turn in stage.turns(0.01):
            client.set(f"audit:event:{turn}", f"{turn}:{'x' * 200}")


def one_time_codes(stage: Stage) -> None:
    """Store codes for two seconds, and take most of them out once."""
    with stage.client("login") as client:
        for turn in stage.turns(0.05):
            client.set(f"otp:{turn}", f"{turn * 7919 % 1_000_000:06d}", ex=2)
            if turn % 4:
                client.getdel(f"otp:{turn}")


def warmer(version: str) -> Actor:
    """Return an actor that keeps a namespace warm before the deploy: copies of what the version before has."""

    def act(stage: Stage) -> None:
        with stage.client("warmer") as client:
            for _ in stage.turns(0.2):
                for key in client.scan_iter(match="prod_cache:v1:*", count=1000):
                    client.copy(key, key.replace(b":v1:", f":{version}:".encode()))

    return act
