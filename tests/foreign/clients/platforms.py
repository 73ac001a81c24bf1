"""Platforms beside the frameworks: an edge in Lua, a relay of feature flags, a store of features, a stream and its projection."""

from __future__ import annotations

import json
import random
import struct
import time
from collections.abc import Iterable
from typing import ClassVar

from foreign.application import (
    HEALTHY,
    Application,
    Command,
    Fault,
    Wire,
    counted,
    hitting,
    missing,
    prose,
    refused,
    same,
    zipf,
)


class OpenrestyEdge(Application):
    """An edge on OpenResty: a script reads an answer and notes that it was used, SETEX stores it, errors are not looked at."""

    name = "openresty-edge"
    connections = 6
    rate = 300
    faults: ClassVar = {
        "swapped_arguments": Fault(
            cause="ttl_zero",
            what="SETEX is given the value where its seconds belong, and refuses every time",
            symptom=counted("refused", 200),
            families=same("edge|GET|/tariffs/*"),
        ),
        "demoted_primary": Fault(
            cause="write_rejected",
            what="after a failover the edge still writes to the old primary, which only takes reads",
            symptom=counted("refused", 60),
            families=same("edge|GET|/tariffs/*"),
        ),
    }
    _TARIFFS = 300
    _READ = "local v = redis.call('GET', KEYS[1]); if v then redis.call('ZINCRBY', KEYS[2], 1, ARGV[1]) end; return v"

    def request(self, wire: Wire, rng: random.Random) -> None:
        tariff = zipf(rng, self._TARIFFS, 0.6)
        key = f"edge|GET|/tariffs/{tariff}"
        found = wire.ask("GET", key) if tariff % 2 else wire.ask("EVAL", self._READ, 2, key, "edge|used", tariff)
        if refused(found):
            self.count("refused")
            return
        if self.looked_up(hit=found is not None):
            return
        self.compute()
        answer = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n{prose(tariff, 380)}"
        arguments = (answer, 600) if self.fault == "swapped_arguments" else (600, answer)
        self.stored(wire.ask("SETEX", key, *arguments))

    def midway(self, wire: Wire) -> None:
        if self.fault == "demoted_primary":
            wire.ask("REPLICAOF", "127.0.0.1", 1)  # nobody answers there: it keeps its keys and takes no writes


class FlagRelay(Application):
    """A relay of feature flags: it writes all segments and a hash of flags again and again, four SDKs ask for them."""

    name = "flag-relay"
    connections = 5
    rate = 250
    faults: ClassVar = {
        "relay_in_another_database": Fault(
            cause="wrong_db",
            what="the relay writes to database 2, the SDKs read from database 0",
            symptom=missing(0.9),
            families=same("switchboard:segment:*"),
            edits=("db 2 -> 0",),
        ),
    }
    _SEGMENTS = 70

    def __init__(self, url: str, fault: str = HEALTHY) -> None:
        super().__init__(url, fault)
        self._version = 0

    def handshake(self, number: int) -> Iterable[Command]:
        is_relay = number <= 0
        return [("SELECT", 2 if is_relay and self.fault == "relay_in_another_database" else 0)]

    def prepare(self, wire: Wire) -> None:
        self._relay(wire, range(self._SEGMENTS))

    def request(self, wire: Wire, rng: random.Random) -> None:
        if wire.number == 0:
            self._relay(wire, rng.sample(range(self._SEGMENTS), 3))
            return
        segment = zipf(rng, self._SEGMENTS, 0.5)
        self.looked_up(hit=wire.ask("GET", f"switchboard:segment:{segment}") is not None)
        self.looked_up(hit=wire.ask("HGET", "switchboard:flags", f"flag-{rng.randrange(20)}") is not None)

    def _relay(self, wire: Wire, segments: Iterable[int]) -> None:
        self._version += 1
        flags = [field for flag in range(20) for field in (f"flag-{flag}", json.dumps({"on": True, "version": self._version}))]
        rules = [
            (
                "SET",
                f"switchboard:segment:{segment}",
                json.dumps({"version": self._version, "included": prose(segment, 150).split()}),
            )
            for segment in segments
        ]
        wire.transaction([("HSET", "switchboard:flags", *flags), *rules])


class FeastFeatures(Application):
    """Features of a model on Feast: binary keys, hash fields named by murmur hashes, twenty entities in one pipeline."""

    name = "feast-features"
    connections = 2
    rate = 30
    faults: ClassVar = {
        "memory_too_small": Fault(
            cause="eviction",
            what="the features of all riders need three times the memory that Redis was given",
            symptom=missing(0.2),
            server=("--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru"),
        ),
    }
    _RIDERS = 1500

    @staticmethod
    def _key(rider: int) -> bytes:
        return struct.pack("<I8sIII", 2, b"rider_id", 4, 4, rider) + b"fleet"

    @staticmethod
    def _row(rider: int) -> list[bytes]:
        trips = struct.pack("<BBf", 0x35, rider % 200, rider / 7)
        return [
            b"\x9b\x1c\x4f\xe2",
            trips + prose(rider % 97, 4000).encode(),
            b"_ts:trips",
            struct.pack("<BQ", 8, time.time_ns()),
        ]

    def prepare(self, wire: Wire) -> None:
        for first in range(0, self._RIDERS, 100):
            wire.pipeline(("HSET", self._key(rider), *self._row(rider)) for rider in range(first, first + 100))

    def request(self, wire: Wire, rng: random.Random) -> None:
        riders = rng.sample(range(self._RIDERS), 20)
        found = wire.pipeline(("HMGET", self._key(rider), b"\x9b\x1c\x4f\xe2", b"_ts:trips") for rider in riders)
        lost = [rider for rider, row in zip(riders, found, strict=True) if not self.looked_up(hit=row[0] is not None)]
        if lost:
            self.compute()
            wire.pipeline(("HSET", self._key(rider), *self._row(rider)) for rider in lost)


class StreamProjector(Application):
    """Events of a harbour in a stream, a group of consumers, and the state of each berth as a cached projection."""

    name = "stream-projector"
    connections = 4
    rate = 160
    faults: ClassVar = {
        "never_acknowledged": Fault(
            cause="stream_backlog",
            what="consumers do not acknowledge, and nobody trims the stream",
            symptom=counted("unacknowledged", 120),
            families=same("harbour:events"),
        ),
        "noack": Fault(
            cause=HEALTHY,
            what="none: consumers read with NOACK, so nothing waits to be acknowledged, and the stream is trimmed",
            symptom=hitting(0.6),
            verdicts=frozenset({HEALTHY}),
            log_verdicts=frozenset({HEALTHY}),
        ),
    }
    _BERTHS = 110

    def prepare(self, wire: Wire) -> None:
        wire.ask("XGROUP", "CREATE", "harbour:events", "projectors", "$", "MKSTREAM")
        if self.fault != "noack":
            for berth in range(self._BERTHS):
                wire.ask("SET", f"harbour:berth:{berth}", self._state(berth), "EX", 600)

    def request(self, wire: Wire, rng: random.Random) -> None:
        berth = zipf(rng, self._BERTHS, 0.5)
        if wire.number == 0:
            self._consume(wire)
        elif wire.number == 1:
            self._publish(wire, berth, rng)
        elif not self.looked_up(hit=wire.ask("GET", f"harbour:berth:{berth}") is not None):
            self.compute()
            wire.ask("SET", f"harbour:berth:{berth}", self._state(berth), "EX", 600)

    @staticmethod
    def _state(berth: int) -> str:
        return json.dumps({"berth": berth, "vessel": prose(berth, 120)})

    def _publish(self, wire: Wire, berth: int, rng: random.Random) -> None:
        event = ("type", "VesselMoved", "berth", berth, "body", json.dumps({"vessel": rng.randrange(10**6)}))
        trimmed = () if self.fault == "never_acknowledged" else ("MAXLEN", "~", 100)
        wire.ask("XADD", "harbour:events", *trimmed, "*", *event)

    def _consume(self, wire: Wire) -> None:
        mode = ("NOACK",) if self.fault == "noack" else ()
        read = ("XREADGROUP", "GROUP", "projectors", "projector-1", "COUNT", 10, *mode, "STREAMS", "harbour:events", ">")
        entries = [entry for _, stream in wire.ask(*read) or () for entry in stream]
        for identifier, _ in entries:
            if self.fault == HEALTHY:
                wire.ask("XACK", "harbour:events", "projectors", identifier)
            elif self.fault == "never_acknowledged":
                self.count("unacknowledged")


CLIENTS = (OpenrestyEdge, FlagRelay, FeastFeatures, StreamProjector)
