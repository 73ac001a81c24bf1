"""Integrity: is the number itself true? And the healthy look-alikes that no check may accuse."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from coldcache.lab import proofs
from coldcache.lab.actors import killer_of_monitors, one_time_codes, poller, sessions, stock_counters, write_through
from coldcache.lab.caching import TTL, Connections, Request, Value
from coldcache.lab.faults.fault import Fault
from coldcache.lab.trace import popular_images

_STORED_IN_LUA = "return redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])"


def _ever_new_images(seed: int) -> Iterator[int]:
    """Yield images that are hardly ever asked for again: a crawler."""
    rng = random.Random(seed)
    return (number if rng.random() < 0.97 else number - 20 for number in itertools.count(1_000_000 * seed))


def _locks_looked_at(cache: Connections, request: Request) -> None:
    """Look whether maintenance, an export or the owner locks the image: hardly ever."""
    cache.reads.exists(f"lock:maintenance:{request.image}", f"lock:export:{request.image}", f"lock:owner:{request.image}")


def _lock_taken(cache: Connections, request: Request) -> None:
    """Take the lock of an image for as long as it takes; one that is not free is left alone."""
    lock = f"lock:image:{request.digest}"
    if cache.writes.set(lock, "worker", nx=True, px=2000):
        cache.writes.delete(lock)


def _generation_asked(cache: Connections, request: Request) -> None:
    """Ask for the generation of an image, which is there only for those that were ever changed."""
    cache.reads.get(f"generation:{request.image}")
    if request.number % 40 == 0:
        cache.writes.incr(f"generation:{request.image}")


def _blocked_list_asked(cache: Connections, request: Request) -> None:
    """Ask whether the image is blocked: nearly none is, and that is not cached by design."""
    cache.reads.get(f"blocked:{request.image}")


def _rate_limited(cache: Connections, request: Request) -> None:
    """Count the requests of an address in a window of two seconds."""
    window = f"rate:10.0.0.{request.image % 30}:{int(request.at_s) // 2}"
    if cache.reads.get(window) is None:
        cache.writes.set(window, 0, ex=10, nx=True)
    cache.writes.incr(window)


def _stored_once(cache: Connections, request: Request) -> None:
    """Remember for a minute that a message was seen; the second time it is left out."""
    cache.writes.set(f"seen:{request.digest}", 1, nx=True, ex=60)


def _stored_by_lua(cache: Connections, request: Request, key: str, value: Value) -> None:
    cache.writes.eval(_STORED_IN_LUA, 1, key, value, str(TTL))


FAULTS = (
    Fault(
        id="metric_distortion_locks", cause="metric_distortion", title="three locks that hardly exist are looked at each time",
        setting={"requests": popular_images}, changes={"before": _locks_looked_at}, proof=proofs.commands("EXISTS"), least=100,
    ),
    Fault(
        id="metric_distortion_polling", cause="metric_distortion", title="a monitoring job asks for the TTL of absent keys",
        setting={"requests": popular_images}, actors=(poller(30, 0.1),), proof=proofs.commands("TTL"), least=100,
    ),
    Fault(
        id="incomplete_capture", cause="incomplete_capture", title="a script cuts MONITORs off for most of the time",
        actors=(killer_of_monitors,), proof=proofs.gaps, least=1,
    ),
)  # fmt: skip

_MISSES_BY_DESIGN = ("metric_distortion",)
LOOK_ALIKES = (
    Fault(
        id="healthy", cause="healthy", title="nothing is wrong: a cold cache that fills", heap=True,
        tolerated=("cold_start",),
    ),
    Fault(
        id="healthy_busy", cause="healthy", title="nothing is wrong, and most reads hit", setting={"requests": popular_images},
        proof=proofs.steady, least=70,
    ),
    Fault(
        id="healthy_low_reuse", cause="healthy", title="a crawler: hardly an image is asked for twice",
        setting={"requests": _ever_new_images}, tolerated=("low_reuse", "cold_start"), proof=proofs.single_reads, least=80,
    ),
    Fault(
        id="healthy_locks", cause="healthy", title="locks with NX and a short time to live around every request",
        setting={"before": _lock_taken}, tolerated=_MISSES_BY_DESIGN, proof=proofs.commands("DEL"),
    ),
    Fault(
        id="healthy_counters", cause="healthy", title="generation counters, absent for nearly all images",
        setting={"before": _generation_asked}, tolerated=_MISSES_BY_DESIGN, proof=proofs.unfilled_misses,
    ),
    Fault(
        id="healthy_views", cause="healthy", title="view counters beside the cache", actors=(stock_counters,),
        tolerated=_MISSES_BY_DESIGN, proof=proofs.commands("INCR", "INCRBY"),
    ),
    Fault(
        id="healthy_negative_lookups", cause="healthy", title="a block list in which nearly nothing is, by design",
        setting={"before": _blocked_list_asked}, tolerated=_MISSES_BY_DESIGN, proof=proofs.unfilled_misses,
    ),
    Fault(
        id="healthy_lua", cause="healthy", title="values are stored by a Lua script", setting={"store": _stored_by_lua},
        proof=proofs.commands("EVAL"),
    ),
    Fault(
        id="healthy_write_through", cause="healthy", title="profiles are written when they change, and only read otherwise",
        actors=(write_through,), proof=proofs.changed_values,
    ),
    Fault(
        id="healthy_sessions", cause="healthy", title="sessions that every request reads and rewrites", actors=(sessions,),
        proof=proofs.changed_values,
    ),
    Fault(
        id="healthy_rate_limiter", cause="healthy", title="a rate limiter whose windows begin with a miss",
        setting={"before": _rate_limited}, tolerated=_MISSES_BY_DESIGN, proof=proofs.commands("INCR", "INCRBY"),
    ),
    Fault(
        id="healthy_deduplication", cause="healthy", title="messages that were seen are marked with SET … NX",
        setting={"before": _stored_once}, proof=proofs.refused_writes,
    ),
    Fault(
        id="healthy_one_time_codes", cause="healthy", title="codes that live for two seconds and are read once, by design",
        actors=(one_time_codes,), tolerated=_MISSES_BY_DESIGN, proof=proofs.commands("GETDEL"),
    ),
)  # fmt: skip
