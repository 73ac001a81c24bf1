"""Logic: the miss is not filled, the value is taken away, or many fill it at once."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from typing import Any

from coldcache.lab import proofs
from coldcache.lab.actors import again_and_again, invalidator, once, restart
from coldcache.lab.caching import TTL, Connections, Request, Value, encoded, get, no_more_with
from coldcache.lab.faults.fault import IMG, THUMB, Fault, only

_USUAL = IMG + THUMB


def _fails_on_detail(request: Request, result: Any) -> Value | None:
    """Encode a type that JSON does not know, for some images."""
    return encoded(request, {**result, "palette": {1, 2}} if request.image % 4 else result)


def _swallowed(error: Exception) -> None:
    """Catch everything and log nothing."""


def _only_small(cache: Connections, request: Request, key: str, value: Value) -> None:
    """Store only where a branch, meant for large images, does not return early."""
    if request.kind == "thumb":
        cache.writes.set(key, value, ex=TTL)


def _unless_nothing_found(request: Request, result: Any) -> Value | None:
    """Leave out the images in which nothing was found, half of all, though they are asked for again."""
    return None if request.image % 2 else encoded(request, result)


def _clears_all(cache: Connections, request: Request, key: str, value: Value) -> None:
    """Delete what was stored lately, whenever something new is stored: a tag that fits everything."""
    with cache.lock:
        recent = cache.kept.setdefault("recent", [])
        doomed, recent[:] = list(recent), [key]
    if doomed:
        cache.writes.delete(*doomed)


def _front_page(seed: int) -> Iterator[int]:
    """Yield three images in no order."""
    rng = random.Random(seed)
    return (rng.randrange(3) for _ in itertools.count())


def _two_seconds(cache: Connections, request: Request, key: str, value: Value) -> None:
    cache.writes.set(key, value, ex=2)


def _one_recomputes(cache: Connections, request: Request, key: str) -> bytes | None:
    """Let the first thread that misses recompute, and the others wait for it."""
    found = get(cache, request, key)
    if found is not None:
        return found
    with cache.lock:
        mine = key not in cache.kept
        done = cache.kept.setdefault(key, threading.Event())
    if mine:
        return None
    done.wait(1.0)
    return get(cache, request, key)


def _recomputed(cache: Connections, request: Request, key: str, value: Value) -> None:
    """Let those go on who wait for a value."""
    with cache.lock:
        done = cache.kept.pop(key, None)
    if done:
        done.set()


FAULTS = (
    Fault(
        id="set_skipped_exception", cause="set_skipped", title="encoding fails for some results, and the exception is swallowed",
        families=IMG, changes={"encode": only("img", _fails_on_detail, encoded), "after_error": _swallowed},
        proof=proofs.unfilled_misses,
    ),
    Fault(
        id="set_skipped_branch", cause="set_skipped", title="a branch returns before the SET for all analysed images",
        families=IMG, changes={"store": _only_small}, proof=proofs.unfilled_misses,
    ),
    Fault(
        id="set_skipped_null", cause="set_skipped", title="that nothing was found is never stored, and asked for again",
        families=IMG, changes={"encode": only("img", _unless_nothing_found, encoded)}, proof=proofs.unfilled_misses,
    ),
    Fault(
        id="invalidation_storm_client", cause="invalidation_storm", title="another client deletes all results twice a second",
        families=_USUAL, actors=(invalidator("prod_cache:*", 0.5),), proof=proofs.missed("deleted"),
    ),
    Fault(
        id="invalidation_storm_own", cause="invalidation_storm", title="every write deletes what was written before it",
        families=_USUAL, changes={"after_store": _clears_all}, proof=proofs.missed("deleted"),
    ),
    Fault(
        id="flush_job", cause="flush", title="a job sends FLUSHDB every two seconds",
        actors=(again_and_again(2.0, "FLUSHDB"),), proof=proofs.missed("flushed"),
    ),
    Fault(
        id="flush_once", cause="flush", title="an operator sends FLUSHALL once",
        actors=(once(6.0, "FLUSHALL", "ASYNC"),), proof=proofs.missed("flushed"),
    ),
    Fault(
        id="flush_restart", cause="flush", title="the server restarts, and keeps nothing on disk",
        actors=(restart,), server=("--enable-debug-command", "local"), proof=proofs.restarts, least=1,
    ),
    Fault(
        id="stampede", cause="stampede", title="three hot values expire every two seconds, and all threads recompute them",
        setting={
            "requests": _front_page, "store": _two_seconds, "look_up": _one_recomputes, "after_store": _recomputed,
            "backend_s": 0.15, "workers": 16,
        },
        changes={"look_up": get, "after_store": no_more_with},
        proof=proofs.recomputed_at_once,
    ),
)  # fmt: skip
