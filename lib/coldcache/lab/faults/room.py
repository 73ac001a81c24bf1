"""Room: the values do not fit, or Redis refuses them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from coldcache.lab import proofs
from coldcache.lab.actors import (
    dashboards,
    failed_background_save,
    idle_catalogue,
    no_write_permission,
    noisy_neighbour,
    once,
    stalled_monitor,
)
from coldcache.lab.caching import DEPLOY_AFTER_S, TTL, Connections, Request, Value, encoded, set_with_ttl
from coldcache.lab.faults.fault import IMG, THUMB, Fault, same

_USUAL = IMG + THUMB


def _with_embedding(request: Request, result: Any) -> Value | None:
    """Encode a result with a description of the image of 16,000 digits."""
    description = hashlib.shake_128(request.url.encode()).hexdigest(8000)
    return result + description.encode() if isinstance(result, bytes) else json.dumps({**result, "embedding": description})


def _swollen(request: Request, result: Any) -> Value | None:
    return _with_embedding(request, result) if request.deployed else encoded(request, result)


def _memory(size: str, policy: str) -> tuple[str, ...]:
    return ("--maxmemory", size, "--maxmemory-policy", policy)


def _with_raw_pixels(cache: Connections, request: Request, key: str, value: Value) -> None:
    """Keep the decoded picture as well, which nobody ever asks for."""
    cache.writes.set(f"prod_cache:debug:{request.digest}", bytes(20_000), ex=TTL)


_LARGE = {"encode": _with_embedding}

FAULTS = (
    Fault(
        id="eviction_lru", cause="eviction", title="the working set is several times the memory: allkeys-lru",
        setting=_LARGE, server=_memory("3mb", "allkeys-lru"), proof=proofs.missed("evicted"),
    ),
    Fault(
        id="eviction_volatile", cause="eviction", title="volatile-lru, and all but the cache has no time to live",
        setting=_LARGE, actors=(idle_catalogue,), server=_memory("6mb", "volatile-lru"), proof=proofs.missed("evicted"),
    ),
    Fault(
        id="eviction_neighbour", cause="eviction", title="another team's exports on the same server push the cache out",
        actors=(noisy_neighbour,), server=_memory("3mb", "allkeys-lru"), proof=proofs.missed("evicted"),
    ),
    Fault(
        id="write_rejected_oom", cause="write_rejected", title="the memory is full and the policy noeviction: OOM",
        setting=_LARGE, server=_memory("3mb", "noeviction"), proof=proofs.errors("OOM"),
    ),
    Fault(
        id="write_rejected_acl", cause="write_rejected", title="the user may no longer SET: NOPERM",
        actors=(no_write_permission,), proof=proofs.errors("NOPERM"),
    ),
    Fault(
        id="write_rejected_replica", cause="write_rejected", title="the server becomes a replica in a failover: READONLY",
        actors=(once(2.0, "REPLICAOF", "127.0.0.1", "1"),), proof=proofs.errors("READONLY"),
    ),
    Fault(
        id="write_rejected_misconf", cause="write_rejected", title="the background save fails: MISCONF",
        actors=(failed_background_save,), server=("--save", "3600 100000", "--stop-writes-on-bgsave-error", "yes"),
        proof=proofs.errors("MISCONF"),
    ),
    Fault(
        id="monitor_backlog", cause="monitor_backlog", title="a MONITOR that nobody reads fills the memory",
        setting=_LARGE, actors=(stalled_monitor, dashboards), proof=proofs.rose("evicted_keys"),
        server=(*_memory("11500kb", "allkeys-lru"), "--client-output-buffer-limit", "normal 9mb 0 0"),
    ),
    Fault(
        id="fat_values_debug", cause="fat_values", title="20 KB of pixels beside each result, never read",
        families=same("prod_cache:debug:*"), changes={"after_store": _with_raw_pixels},
        proof=proofs.bytes_of("prod_cache:debug:"), least=80,
    ),
    Fault(
        id="fat_values_swollen", cause="fat_values", title=f"after {DEPLOY_AFTER_S:.0f} s a deploy adds 17 KB to every value",
        families=_USUAL, changes={"encode": _swollen}, proof=proofs.swelling, least=5,
    ),
)  # fmt: skip


def _to_primary(cache: Connections, request: Request, key: str, value: Value) -> None:
    set_with_ttl(cache, request, key, value)
    cache.writes.wait(1, 100)


LOOK_ALIKES = (
    Fault(
        id="healthy_replica", cause="healthy", title="reads go to a read-only replica, writes to its primary",
        replica=True, setting={"store": _to_primary},
    ),
)  # fmt: skip
