"""A recorder as its own process, which can be stopped and killed; and traffic for it."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis


def wait_for(what: Callable[[], object], timeout_s: float = 15, interval_s: float = 0.02) -> float:
    """Wait until something is true; return how long it took."""
    began = time.monotonic()
    while not what():
        if time.monotonic() - began > timeout_s:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(interval_s)
    return time.monotonic() - began


def client_of(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, protocol=2, decode_responses=True)


def captures(url: str) -> list[dict[str, str]]:
    """The capture connections that a server has just now."""
    with contextlib.closing(client_of(url)) as client:
        return [entry for entry in client.client_list() if entry["name"] == "coldcache-capture"]


def setting(url: str) -> str:
    with contextlib.closing(client_of(url)) as client:
        return str(client.config_get("notify-keyspace-events")["notify-keyspace-events"])


@contextlib.contextmanager
def recorder(url: str, out: Path, *options: str, stderr: int | None = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    """`coldcache record` as a process of its own, yielded once it captures."""
    where = ["--out", str(out)] if "--resume" not in options else []
    command = [sys.executable, "-m", "coldcache", "record", *where, "--mode", "exact", *options]
    process = subprocess.Popen(command, env={**os.environ, "REDIS_URL": url}, stdout=subprocess.DEVNULL, stderr=stderr)
    try:
        wait_for(lambda: process.poll() is not None or (captures(url) and setting(url)), 30)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextlib.contextmanager
def traffic(url: str, *, value_bytes: int = 100, keys: int = 2000, pause_s: float = 0.002, pipeline: int = 10) -> Iterator[None]:
    """Reads and overwrites in the background; a server that is away is waited for."""
    stop = threading.Event()

    def work() -> None:
        rng, value = random.Random(1), "v" * value_bytes
        client = client_of(url)
        while not stop.is_set():
            with contextlib.suppress(redis.RedisError, OSError), client.pipeline(transaction=False) as pipe:
                for _ in range(pipeline):
                    key = f"user:{rng.randrange(keys)}"
                    pipe.get(key)
                    pipe.set(key, value)
                pipe.execute(raise_on_error=False)
            stop.wait(pause_s)
        client.close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()
