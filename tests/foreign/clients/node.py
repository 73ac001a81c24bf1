"""Node.js: NestJS's cache over keyv, Express with sessions, pages of Next.js, Apollo's persisted queries."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
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
    elsewhere,
    hitting,
    missing,
    prose,
    same,
    zipf,
)


class NestRooms(Application):
    """A hotel on NestJS: cache-manager over keyv, which wraps each value with its end; one connection that pipelines."""

    name = "nest-rooms"
    connections = 1
    rate = 80
    faults: ClassVar = {
        "seconds_since_version_5": Fault(
            cause="ttl_unit",
            what="cache-manager counts in milliseconds since version 5, and the code still says 60",
            symptom=missing(0.3),
            families=same("keyv::hotelroom:*"),
            edits=("PX 60 -> EX 60",),
        ),
        "stringified_twice": Fault(
            cause="serialization",
            what="a serialiser was added that stringifies what keyv has stringified: reading finds a text without a value",
            symptom=counted("unusable", 150),
            families=same("keyv::hotelroom:*"),
            edits=("json_double -> json",),
        ),
    }
    _ROOMS = 140

    def handshake(self, number: int) -> Iterable[Command]:
        return [("CLIENT", "SETINFO", "LIB-NAME", "node-redis"), ("CLIENT", "SETINFO", "LIB-VER", "4.7.0")]

    def request(self, wire: Wire, rng: random.Random) -> None:
        rooms = list(dict.fromkeys(zipf(rng, self._ROOMS, 0.8) for _ in range(rng.randint(1, 8))))
        found = wire.pipeline(("GET", f"keyv::hotelroom:{room}") for room in rooms)
        lost = [room for room, value in zip(rooms, found, strict=True) if not self._usable(value)]
        if not lost:
            return
        self.compute()
        ttl = 60 if self.fault == "seconds_since_version_5" else 60_000
        wire.pipeline(("SET", f"keyv::hotelroom:{room}", self._encoded(room, ttl), "PX", ttl) for room in lost)

    def _usable(self, value: bytes | None) -> bool:
        if not self.looked_up(hit=value is not None) or value is None:
            return False
        if isinstance(json.loads(value), dict):
            return True
        self.count("unusable")
        return False

    def _encoded(self, room: int, ttl: int) -> str:
        content = {"id": room, "beds": room % 3 + 1, "notes": prose(room, 200)}
        text = json.dumps({"value": content, "expires": time.time_ns() // 1_000_000 + ttl}, separators=(",", ":"))
        return json.dumps(text) if self.fault == "stringified_twice" else text


class ExpressDesks(Application):
    """An office on Express: sessions of connect-redis, and answers cached by their query. Four processes of a cluster."""

    name = "express-desks"
    rate = 200
    faults: ClassVar = {
        "object_object": Fault(
            cause="serialization",
            what="answers are stored without JSON.stringify",
            symptom=counted("unusable", 150),
            families=same("desks:/free?floor=*&seats=*"),
            edits=("object_object -> json",),
        ),
        "parameters_sorted_by_the_reader": Fault(
            cause="key_naming",
            what="the reader sorts the parameters of a query, the writer takes them as they came",
            symptom=missing(0.4),
            families=elsewhere(("desks:/free?floor=*&seats=*", "desks:/free?seats=*&floor=*")),
            edits=("seats=*&floor=* -> floor=*&seats=*",),
        ),
        "plain_set": Fault(
            cause="ttl_lost",
            what="a middleware saves the session with a plain SET, which takes its expiry away",
            symptom=counted("plain", 200),
            families=same("sess:*"),
        ),
        "may_not_write": Fault(
            cause="write_rejected",
            what="the application's user may read, and no longer write",
            symptom=counted("refused", 150),
        ),
    }
    _PEOPLE = 100

    def handshake(self, number: int) -> Iterable[Command]:
        login = [("AUTH", "desks", "pass")] if self.fault == "may_not_write" and number >= 0 else []
        return [*login, ("INFO",), ("CLIENT", "SETNAME", f"desks-{number}")]

    def prepare(self, wire: Wire) -> None:
        for person in range(self._PEOPLE):
            wire.ask("SET", f"sess:{self._sid(person)}", self._session(person), "EX", 86_400)
        if self.fault == "may_not_write":
            rights = ("+@read", "+@connection", "+info", "~*", "&*")
            wire.ask("ACL", "SETUSER", "desks", "on", ">pass", *rights)

    @staticmethod
    def _sid(person: int) -> str:
        return hashlib.sha256(b"desk %d" % person).hexdigest()[:32]

    @staticmethod
    def _session(person: int) -> str:
        cookie = {"originalMaxAge": 86_400_000, "expires": time.strftime("%Y-%m-%dT%H:%M:%S.000Z"), "path": "/"}
        return json.dumps({"cookie": cookie, "passport": {"user": person}, "seen": time.time_ns()})

    def request(self, wire: Wire, rng: random.Random) -> None:
        person = zipf(rng, self._PEOPLE, 0.6)
        key = f"sess:{self._sid(person)}"
        if self.looked_up(hit=wire.ask("GET", key) is not None):
            if self.fault == "plain_set" and rng.random() < 0.6:
                wire.ask("SET", key, self._session(person))
                self.count("plain")
            elif rng.random() < 0.2:
                self.stored(wire.ask("SET", key, self._session(person), "EX", 86_400))
            elif self.fault != "plain_set":
                self.stored(wire.ask("EXPIRE", key, 86_400))
        self._free_desks(wire, rng)

    def _free_desks(self, wire: Wire, rng: random.Random) -> None:
        floor, seats = zipf(rng, 25, 0.6), rng.randint(1, 4)
        read = written = f"desks:/free?floor={floor}&seats={seats}"
        if self.fault == "parameters_sorted_by_the_reader":
            written = f"desks:/free?seats={seats}&floor={floor}"
        found = wire.ask("GET", read)
        if self.looked_up(hit=found is not None) and found[:1] == b"{":
            return
        if found is not None:
            self.count("unusable")
        self.compute()
        answer = json.dumps({"floor": floor, "free": prose(floor + seats, 180).split()})
        self.stored(wire.ask("SET", written, "[object Object]" if self.fault == "object_object" else answer, "EX", 900))


class NextMagazine(Application):
    """A magazine on Next.js: pages made once and kept, with the moment of their end (EXAT), and a hash of tags.

    Its faults are those of a deploy, and two that are none: a server just started, and a crawler that reads everything once.
    """

    name = "next-magazine"
    rate = 260
    faults: ClassVar = {
        "path_encoded_by_the_writer": Fault(
            cause="key_naming",
            what="the writer passes the path through encodeURIComponent, the reader does not",
            symptom=missing(0.9),
            families=elsewhere(("isr:Xk29mQ:/essays/*", "isr:Xk29mQ:*")),
            edits=("%2F -> /",),
        ),
        "new_build": Fault(
            cause="key_version",
            what="a deploy brings a new build id, under which nothing is cached yet",
            symptom=counted("after_deploy_missed", 60),
            families=elsewhere(("isr:Zp81aT:/essays/*", "isr:Xk29mQ:/essays/*")),
            edits=("Xk29mQ -> Zp81aT",),
            verdicts=frozenset({"faulty", "insufficient_evidence"}),
        ),
        "just_started": Fault(
            cause="cold_start",
            what="none: nothing was cached before, and a page is read twice or three times at first",
            symptom=missing(0.3),
            verdicts=frozenset({"healthy"}),
            log_verdicts=frozenset({"healthy"}),
        ),
        "crawler": Fault(
            cause="low_reuse",
            what="none: a crawler goes through the whole archive, and reads each page once",
            symptom=missing(0.6),
            verdicts=frozenset({"healthy"}),
            log_verdicts=frozenset({"healthy"}),
        ),
    }
    _ESSAYS = 200

    def __init__(self, url: str, fault: str = HEALTHY) -> None:
        super().__init__(url, fault)
        self._build = "Xk29mQ"
        self._crawled = 100_000

    def handshake(self, number: int) -> Iterable[Command]:
        return [("HELLO", 3), ("CLIENT", "SETINFO", "LIB-NAME", "node-redis")]

    def prepare(self, wire: Wire) -> None:
        if self.fault not in ("just_started", "path_encoded_by_the_writer"):
            for essay in range(self._ESSAYS):
                self._store(wire, essay)

    def request(self, wire: Wire, rng: random.Random) -> None:
        if self.fault == "crawler" and rng.random() < 0.85:
            with self._lock:
                self._crawled += 1
                essay = self._crawled
        else:
            essay = rng.randrange(600) if self.fault == "just_started" else zipf(rng, self._ESSAYS, 0.5)
        if not self.looked_up(hit=wire.ask("GET", f"isr:{self._build}:/essays/{essay}") is not None):
            if self._build != "Xk29mQ":
                self.count("after_deploy_missed")
            self.compute()
            self._store(wire, essay)

    def _store(self, wire: Wire, essay: int) -> None:
        path = f"/essays/{essay}"
        page = {"kind": "APP_PAGE", "html": f"<main>{prose(essay, 1000)}</main>", "headers": {"x-next-cache-tags": path}}
        value = json.dumps({"lastModified": time.time_ns() // 1_000_000, "value": page, "tags": [path]})
        stored_as = path.replace("/", "%2F") if self.fault == "path_encoded_by_the_writer" else path
        wire.transaction(
            [
                ("SET", f"isr:{self._build}:{stored_as}", value, "EXAT", int(time.time()) + 3600),
                ("HSET", "isr:__sharedTags__", path, json.dumps([path])),
            ]
        )

    def midway(self, wire: Wire) -> None:
        if self.fault == "new_build":
            self._build = "Zp81aT"


class ApolloGateway(Application):
    """A gateway on Apollo: queries by the SHA-256 of their text, and compressed answers by that of query and variables.

    Requests come in bursts, as those of a page that asks for all of its parts at once.
    """

    name = "apollo-gateway"
    connections = 2
    rate = 220
    burst_s = 0.25
    faults: ClassVar = {
        "registered_by_md5": Fault(
            cause="key_hash",
            what="queries are registered under the MD5 of their text, and asked for under its SHA-256",
            symptom=missing(0.4),
            families=same("apq:*"),
            edits=("md5 -> sha256",),
        ),
        "buffer_to_string": Fault(
            cause="serialization",
            what="compressed answers go through toString(), which no byte above 127 survives",
            symptom=counted("unusable", 150),
            families=same("fqc:*"),
            edits=("utf8_mangled -> gzip",),
        ),
    }
    healthy = staticmethod(hitting(0.7))
    _QUERIES = 70

    def handshake(self, number: int) -> Iterable[Command]:
        return [("INFO",)]

    def request(self, wire: Wire, rng: random.Random) -> None:
        number = zipf(rng, self._QUERIES)
        text = f"query Trip{number} {{ trip(id: {number}) {{ {prose(number, 160)} }} }}"
        sha = hashlib.sha256(text.encode()).hexdigest()
        if not self.looked_up(hit=wire.ask("GET", f"apq:{sha}") is not None):
            name = hashlib.md5(text.encode()).hexdigest() if self.fault == "registered_by_md5" else sha
            wire.ask("SET", f"apq:{name}", text, "EX", 86_400)
        answer = f"fqc:{hashlib.sha256(f'{sha} {rng.randrange(2)}'.encode()).hexdigest()}"
        found = wire.ask("GET", answer)
        if self.looked_up(hit=found is not None) and found[:2] == b"\x1f\x8b" and b"\xef\xbf\xbd" not in found:
            return
        if found is not None:
            self.count("unusable")
        self.compute()
        packed = gzip.compress(json.dumps({"data": {"trip": prose(number, 700)}}).encode(), mtime=0)
        mangled = packed.decode("utf-8", "replace").encode()
        wire.ask("SET", answer, mangled if self.fault == "buffer_to_string" else packed, "EX", 240)


CLIENTS = (NestRooms, ExpressDesks, NextMagazine, ApolloGateway)
