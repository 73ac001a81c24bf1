"""Memory, of the process and of Redis."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import redis

from coldcache.lab import proofs
from coldcache.lab.actors import (
    growing_structures,
    keys_without_ttl,
    queue_in_good_order,
    unacknowledged_stream,
    untrimmed_stream,
)
from coldcache.lab.caching import Connections, Request, Value, get
from coldcache.lab.faults.fault import Fault, same

_PICTURE = (48, 64, 3)
_BOUND = 20


def _cached_in_process(cache: Connections, request: Request, key: str, value: Value) -> None:
    """Put a picture of every stored result into a cache in the process, from which nothing is ever taken."""
    cache.kept.setdefault("pictures", {})[key] = np.zeros(_PICTURE, np.uint8)


def _bounded_in_process(cache: Connections, request: Request, key: str, value: Value) -> None:
    """Do the same, and take the oldest out when there are more than a few."""
    with cache.lock:
        pictures = cache.kept.setdefault("pictures", {})
        pictures[key] = np.zeros(_PICTURE, np.uint8)
        if len(pictures) > _BOUND:
            del pictures[next(iter(pictures))]


def _every_answer_remembered(cache: Connections, request: Request, key: str, value: Value) -> None:
    """Keep the value of every hit in a list: it grows with the hits, not with the misses."""
    cache.kept.setdefault("answers", []).append(bytearray(4096))


def _new_connection(cache: Connections, request: Request, key: str) -> bytes | None:
    """Connect for every request."""
    settings = {**cache.reads.connection_pool.connection_kwargs, "client_name": None}
    with contextlib.closing(redis.Redis(connection_pool=redis.ConnectionPool(**settings))) as client:
        found = get(replace(cache, reads=client), request, key)
        client.connection_pool.disconnect()
        return found


FAULTS = (
    Fault(
        id="heap_leak", cause="heap_leak", title="the thumbnail of every missed image is kept in a list",
        changes={"keep_thumbnails": True}, heap=True, proof=proofs.kept,
    ),
    Fault(
        id="heap_leak_hits", cause="heap_leak", title="4 KB of every hit are kept in a list",
        changes={"after_hit": _every_answer_remembered}, heap=True, proof=proofs.kept,
    ),
    Fault(
        id="unbounded_cache", cause="unbounded_cache", title="a cache in the process, fed by every miss, has no bound",
        changes={"after_store": _cached_in_process}, heap=True, proof=proofs.kept,
    ),
    Fault(
        id="key_growth_structures", cause="key_growth", title="a list and a set take every event and are never cut",
        families=same("audit:events", "audit:images"), actors=(growing_structures,), proof=proofs.commands("RPUSH"), least=100,
    ),
    Fault(
        id="key_growth_keys", cause="key_growth", title="one key an event, without a time to live",
        families=same("audit:event:*"), actors=(keys_without_ttl,), proof=proofs.immortal, least=100,
    ),
    Fault(
        id="stream_backlog_untrimmed", cause="stream_backlog", title="a stream is never trimmed: XADD without MAXLEN",
        families=same("events:images"), actors=(untrimmed_stream,), proof=proofs.commands("XADD"), least=100,
    ),
    Fault(
        id="stream_backlog_unacknowledged", cause="stream_backlog", title="a group reads and never acknowledges",
        families=same("events:images"), actors=(unacknowledged_stream,), proof=proofs.commands("XREADGROUP"), least=100,
    ),
    Fault(
        id="connection_churn", cause="connection_churn", title="a connection for every request",
        changes={"look_up": _new_connection}, proof=proofs.rose("total_connections_received"), least=100,
    ),
)  # fmt: skip

LOOK_ALIKES = (
    Fault(
        id="healthy_bounded_cache", cause="healthy", title="a cache of 20 pictures in the process",
        setting={"after_store": _bounded_in_process}, heap=True, proof=proofs.kept,
    ),
    Fault(
        id="healthy_queues", cause="healthy", title="publish and subscribe, a list and a capped stream whose group acknowledges",
        actors=(queue_in_good_order,), proof=proofs.commands("XACK"), least=100,
    ),
)  # fmt: skip
