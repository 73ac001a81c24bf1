"""Time to live: wrong unit, none, too short, or lost."""

from __future__ import annotations

import time

from coldcache.lab import proofs
from coldcache.lab.actors import cache_enricher, rewriter_with_getset
from coldcache.lab.caching import TTL, Connections, Request, Value
from coldcache.lab.faults.fault import IMG, THUMB, Fault

_USUAL = IMG + THUMB
_SHORT_S = 1
_DAY_MS = 86_400_000


def _milliseconds(cache: Connections, request: Request, key: str, value: Value) -> None:
    cache.writes.set(key, value, px=TTL)


def _pexpire(cache: Connections, request: Request, key: str, value: Value) -> None:
    cache.writes.set(key, value)
    cache.writes.pexpire(key, TTL)


def _milliseconds_as_seconds(cache: Connections, request: Request, key: str, value: Value) -> None:
    cache.writes.set(key, value, ex=TTL * 1000)


def _seconds_to_pxat(cache: Connections, request: Request, key: str, value: Value) -> None:
    cache.writes.set(key, value, pxat=int(time.time()) + TTL)


def _zero(cache: Connections, request: Request, key: str, value: Value) -> None:
    cache.writes.execute_command("SET", key, value, "EX", "0")


def _negative(cache: Connections, request: Request, key: str, value: Value) -> None:
    cache.writes.execute_command("SET", key, value, "EX", "-1")


def _swapped(cache: Connections, request: Request, key: str, value: Value) -> None:
    cache.writes.execute_command("SETEX", key, value, TTL)


def _past(cache: Connections, request: Request, key: str, value: Value) -> None:
    """End the value's life at a moment that had passed: local time taken for UTC."""
    cache.writes.set(key, value)
    cache.writes.expireat(key, int(time.time()) + TTL - 3600)


def _short(cache: Connections, request: Request, key: str, value: Value) -> None:
    cache.writes.set(key, value, ex=_SHORT_S)


def _short_expire(cache: Connections, request: Request, key: str, value: Value) -> None:
    cache.writes.set(key, value)
    cache.writes.expire(key, _SHORT_S)


def _none(cache: Connections, request: Request, key: str, value: Value) -> None:
    cache.writes.set(key, value)


def _touched_without_ttl(cache: Connections, request: Request, key: str, value: Value) -> None:
    """Put a hit back with a plain SET, as if that made it live longer."""
    cache.writes.set(key, value)


FAULTS = (
    Fault(
        id="ttl_unit", cause="ttl_unit", title="300 seconds given as milliseconds: SET … PX 300",
        families=_USUAL, edit="PX 300 -> EX 300", changes={"store": _milliseconds}, proof=proofs.missed("expired"),
    ),
    Fault(
        id="ttl_unit_pexpire", cause="ttl_unit", title="300 seconds given as milliseconds: PEXPIRE 300",
        families=_USUAL, edit="PEXPIRE 300 -> EXPIRE 300", changes={"store": _pexpire}, proof=proofs.missed("expired"),
    ),
    Fault(
        id="ttl_unit_too_long", cause="ttl_unit", title="300,000 milliseconds given as seconds: SET … EX 300000, 83 hours",
        families=_USUAL, edit="EX 300000 -> PX 300000", changes={"store": _milliseconds_as_seconds},
        proof=proofs.written("EX", least_ms=3 * _DAY_MS),
    ),
    Fault(
        id="ttl_unit_pxat", cause="ttl_unit", title="seconds since 1970 given to PXAT: a moment in January 1970",
        families=_USUAL, edit="PXAT -> EXAT", changes={"store": _seconds_to_pxat},
        proof=proofs.written("PXAT", most_ms=-_DAY_MS),
    ),
    Fault(
        id="ttl_zero", cause="ttl_zero", title="a time to live of zero: Redis refuses SET … EX 0",
        families=_USUAL, changes={"store": _zero}, proof=proofs.refused_writes,
    ),
    Fault(
        id="ttl_zero_negative", cause="ttl_zero", title="a time to live that ran out before it is given: SET … EX -1",
        families=_USUAL, changes={"store": _negative}, proof=proofs.refused_writes,
    ),
    Fault(
        id="ttl_zero_swapped", cause="ttl_zero", title="value and seconds of SETEX are swapped",
        families=_USUAL, edit="SETEX key value seconds -> SETEX key seconds value", changes={"store": _swapped},
        proof=proofs.refused_writes,
    ),
    Fault(
        id="ttl_zero_past", cause="ttl_zero", title="EXPIREAT with a moment an hour ago: the value goes at once",
        families=_USUAL, changes={"store": _past}, proof=proofs.written("EXPIREAT", most_ms=0),
    ),
    Fault(
        id="ttl_short", cause="ttl_short", title="one second, where values are asked for again after several",
        families=_USUAL, changes={"store": _short}, proof=proofs.missed("expired"),
    ),
    Fault(
        id="ttl_short_expire", cause="ttl_short", title="EXPIRE after one second, where values are asked for again after several",
        families=_USUAL, changes={"store": _short_expire}, proof=proofs.missed("expired"),
    ),
    Fault(
        id="ttl_lost_touch", cause="ttl_lost", title="every hit is put back with a plain SET, which drops the time to live",
        families=_USUAL, changes={"after_hit": _touched_without_ttl}, proof=proofs.lost_ttls,
    ),
    Fault(
        id="ttl_lost_enricher", cause="ttl_lost", title="another client adds a field with SET, which drops the time to live",
        families=IMG, actors=(cache_enricher,), proof=proofs.lost_ttls,
    ),
    Fault(
        id="ttl_lost_getset", cause="ttl_lost", title="another client refreshes with GETSET, which drops the time to live",
        families=IMG, actors=(rewriter_with_getset,), proof=proofs.lost_ttls,
    ),
    Fault(
        id="ttl_lost_never", cause="ttl_lost", title="values are stored without a time to live",
        families=_USUAL, changes={"store": _none}, proof=proofs.immortal,
    ),
)  # fmt: skip


def _by_customer(cache: Connections, request: Request, key: str, value: Value) -> None:
    cache.writes.set(key, value, ex=3600 if request.image % 3 == 0 else TTL)


LOOK_ALIKES = (
    Fault(
        id="healthy_two_ttls", cause="healthy", title="an hour for some customers, five minutes for the others",
        setting={"store": _by_customer},
        proof=proofs.written("EX", least_ms=3_600_000),
    ),
)  # fmt: skip
