"""dragon3's caching code, cut into steps: what is written here is healthy, and a fault changes a step or two."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import redis
import xxhash

from coldcache.lab.trace import image_requests

TTL = 300  # seconds; what the fault ttl_unit gives as milliseconds
#: When a fault that comes with a deploy begins, seconds after the first request.
DEPLOY_AFTER_S = 5.0

Value = bytes | str


@dataclass(frozen=True, slots=True)
class Request:
    """One request: a third of the images are asked for as thumbnails, the rest analysed.

    number : counts the requests of this process, from 0
    at_s : seconds since the process began to take requests
    fleet : which of several processes with the same cache this is, from 0
    """

    image: int
    number: int
    at_s: float
    fleet: int
    url: str
    digest: str
    kind: str

    @classmethod
    def of(cls, image: int, *, number: int = 0, at_s: float = 0.0, fleet: int = 0) -> Request:
        """Return the request for an image."""
        url = f"https://images.dragon3.example/{image}.jpg"
        digest = xxhash.xxh64_hexdigest(url.encode())
        return cls(image, number, at_s, fleet, url, digest, "thumb" if int(digest[-1], 16) < 5 else "img")

    @property
    def deployed(self) -> bool:
        """Whether the new version is out by now."""
        return self.at_s >= DEPLOY_AFTER_S


@dataclass(slots=True)
class Connections:
    """What the caching code of one process has at hand.

    reads, writes : clients of the cache; different ones where reads go to a replica
    kept : whatever a faulty step keeps in the process
    lock : holds `kept` together, for several threads take requests
    """

    reads: redis.Redis
    writes: redis.Redis
    kept: dict[str, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def database(self, number: int) -> redis.Redis:
        """Return a client of another logical database of the same server."""
        with self.lock:
            name = f"client of database {number}"
            if name not in self.kept:
                settings = self.writes.connection_pool.connection_kwargs
                pool = redis.ConnectionPool(**{**settings, "db": number})
                self.kept[name] = redis.Redis(connection_pool=pool)
            client: redis.Redis = self.kept[name]
            return client


def cache_key(request: Request) -> str:
    """Return the key under which the answer is cached."""
    return f"prod_cache:{request.kind}:{request.digest}"


def get(cache: Connections, request: Request, key: str) -> bytes | None:
    """Ask the cache."""
    found = cache.reads.get(key)
    assert not isinstance(found, str)  # no client of the lab decodes
    return found


def decoded(request: Request, cached: bytes) -> Any:
    """Return the answer that a cached value holds; None if it cannot be read: the silent failure, nobody logs it."""
    if request.kind == "thumb":
        return cached if cached.startswith(b"\xff\xd8") else None
    try:
        result = json.loads(cached)
    except ValueError:
        return None
    return result if isinstance(result, dict) else None


def used(request: Request, result: Any) -> bool:
    """Whether a cached answer that could be read is used."""
    return True


def encoded(request: Request, result: Any) -> Value | None:
    """Return what is stored of an answer: JSON, or the thumbnail as it is. None would store nothing."""
    return result if isinstance(result, bytes) else json.dumps(result).encode()


def set_with_ttl(cache: Connections, request: Request, key: str, value: Value) -> None:
    """Store a value for five minutes."""
    cache.writes.set(key, value, ex=TTL)


def no_more(cache: Connections, request: Request) -> None:
    """Do nothing beside the caching."""


def no_more_with(cache: Connections, request: Request, key: str, value: Value) -> None:
    """Do nothing more with a value."""


def raised(error: Exception) -> None:
    """Let an error that kept an answer from being stored be seen."""
    raise error


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The steps of the analyzer's caching code, and how it is run. The defaults are healthy; a fault replaces a few.

    requests : which images are asked for, from a seed
    before : what happens before each look-up
    read_key, write_key : the key that GET and SET build
    look_up : asks the cache
    decode, use : reads what was cached (None: unreadable), and decides whether to take it
    after_hit : what follows a hit that was used
    encode, store : turns an answer into what is stored (None: nothing), and stores it
    after_store : what follows a write
    after_error : what an error while encoding or storing leads to
    keep_thumbnails : whether every analysed image's thumbnail stays in a list
    workers : threads that take requests
    backend_s : how much longer the work behind the cache takes, seconds
    """

    requests: Callable[[int], Iterator[int]] = image_requests
    before: Callable[[Connections, Request], None] = no_more
    read_key: Callable[[Request], str] = cache_key
    write_key: Callable[[Request], str] = cache_key
    look_up: Callable[[Connections, Request, str], bytes | None] = get
    decode: Callable[[Request, bytes], Any] = decoded
    use: Callable[[Request, Any], bool] = used
    after_hit: Callable[[Connections, Request, str, Value], None] = no_more_with
    encode: Callable[[Request, Any], Value | None] = encoded
    store: Callable[[Connections, Request, str, Value], None] = set_with_ttl
    after_store: Callable[[Connections, Request, str, Value], None] = no_more_with
    after_error: Callable[[Exception], None] = raised
    keep_thumbnails: bool = False
    workers: int = 4
    backend_s: float = 0.0
