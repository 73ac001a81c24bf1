"""Go, Rust, C# and Elixir: what go-redis, rueidis, redis-rs, StackExchange.Redis and Redix send."""

from __future__ import annotations

import json
import random
import threading
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


class GoLedger(Application):
    """Accounts on go-redis: JSON, and a singleflight group that lets one goroutine of the process fetch an account."""

    name = "go-ledger"
    connections = 5
    rate = 280
    faults: ClassVar = {
        "camel_case_writer": Fault(
            cause="key_naming",
            what="the job that fills the cache spells a parameter accountId, the service account_id",
            symptom=missing(0.9),
            families=elsewhere(("ledger:account_id:*:balance", "ledger:accountId:*:balance")),
            edits=("accountId -> account_id",),
        ),
        "nanoseconds_in_the_key": Fault(
            cause="unique_key",
            what="the key holds the moment of the request in nanoseconds",
            symptom=missing(0.9),
            families=same("ledger:account_id:*:balance:*"),
        ),
        "errors_swallowed": Fault(
            cause="set_skipped",
            what="accounts in a third of the currencies cannot be marshalled; the error is dropped, and nothing stored",
            symptom=counted("skipped", 200),
            families=same("ledger:account_id:*:balance"),
        ),
    }
    _ACCOUNTS = 240

    def __init__(self, url: str, fault: str = HEALTHY) -> None:
        super().__init__(url, fault)
        self._flights = [threading.Lock() for _ in range(self._ACCOUNTS)]

    def handshake(self, number: int) -> Iterable[Command]:
        return [("HELLO", 3), ("CLIENT", "SETINFO", "LIB-NAME", "go-redis(,go1.22.5)"), ("CLIENT", "SETINFO", "LIB-VER", "9.6.1")]

    def request(self, wire: Wire, rng: random.Random) -> None:
        account = zipf(rng, self._ACCOUNTS, 0.9)
        with self._flights[account]:
            read = f"ledger:account_id:{account}:balance"
            if self.fault == "nanoseconds_in_the_key":
                read = f"{read}:{time.time_ns()}"
            if self.looked_up(hit=wire.ask("GET", read) is not None):
                return
            self.compute()
            if self.fault == "errors_swallowed" and account % 3 == 0:
                self.count("skipped")
                return
            written = read.replace("account_id", "accountId") if self.fault == "camel_case_writer" else read
            value = json.dumps({"ID": account, "Balance": f"{account * 17}.40", "Lines": prose(account, 240).split()})
            wire.ask("SET", written, value, "EX", 1200)


class RueidisFeed(Application):
    """A feed on rueidis: reads over client-side caching, each one a transaction of PTTL and GET; values are gob."""

    name = "rueidis-feed"
    connections = 2
    rate = 180
    faults: ClassVar = {
        "unix_seconds_to_pxat": Fault(
            cause="ttl_unit",
            what="the end is given in seconds to PXAT, which takes milliseconds: it lies in 1970",
            symptom=missing(0.9),
            families=same("wire|story|*"),
            edits=("PXAT -> EXAT",),
        ),
    }
    _STORIES = 160
    _TYPE = b"\x2c\xff\x81\x03\x01\x01\x05Story\x01\xff\x82\x00\x01\x02\x01\x02ID\x01\x06\x00\x01\x04Body\x01\x0c\x00\x00\x00"

    def handshake(self, number: int) -> Iterable[Command]:
        return [
            ("HELLO", 3, "SETNAME", "feed"),
            ("CLIENT", "TRACKING", "ON", "OPTIN"),
            ("CLIENT", "NO-TOUCH", "ON"),
            ("CLIENT", "SETINFO", "LIB-NAME", "rueidis"),
        ]

    def request(self, wire: Wire, rng: random.Random) -> None:
        story = zipf(rng, self._STORIES, 0.7)
        key = f"wire|story|{story}"
        asked = [("CLIENT", "CACHING", "YES"), ("MULTI",), ("PTTL", key), ("GET", key), ("EXEC",)]
        if self.looked_up(hit=wire.pipeline(asked)[-1][1] is not None):
            return
        self.compute()
        body = prose(story, 300).encode()
        value = self._TYPE + b"\xfe\x01\x38\xff\x82\x01" + bytes([story % 127]) + b"\x01\xfe\x01\x2c" + body + b"\x00"
        if self.fault == "unix_seconds_to_pxat":
            wire.ask("SET", key, value, "PXAT", int(time.time()) + 600)
        else:
            wire.ask("SET", key, value, "PXAT", time.time_ns() // 1_000_000 + 600_000)


class RustGate(Application):
    """A gateway in Rust: tokens in bincode by MGET, a counter for each address and window, a sliding window in a sorted set.

    The counters of a window are new with each window, and never read but by INCR.
    """

    name = "rust-gate"
    connections = 2
    rate = 240
    faults: ClassVar = {
        "window_never_trimmed": Fault(
            cause="key_growth",
            what="the sliding windows are added to, and neither trimmed nor given an end",
            symptom=counted("added", 600),
            families=same("gate:slide:*.*.*.*"),
        ),
        "ban_checks": Fault(
            cause="metric_distortion",
            what="none: each request asks three lists of bans for its address, which is on none of them",
            symptom=missing(0.6),
            verdicts=frozenset({"faulty", "healthy"}),
            log_verdicts=frozenset({"faulty", "healthy", "insufficient_evidence"}),
        ),
    }
    _TOKENS = 110

    def handshake(self, number: int) -> Iterable[Command]:
        return [("CLIENT", "SETINFO", "LIB-NAME", "redis-rs"), ("CLIENT", "SETINFO", "LIB-VER", "0.27.2")]

    def request(self, wire: Wire, rng: random.Random) -> None:
        address = f"198.51.{rng.randrange(3)}.{zipf(rng, 60)}"
        if self.fault == "ban_checks":
            asked = (("EXISTS", f"gate:ban:{kind}:{address}") for kind in ("manual", "abuse", "country"))
            for found in wire.pipeline(asked):
                self.looked_up(hit=bool(found))
        window = f"gate:fixed:{address}:{int(time.time()) // 2}"
        wire.transaction([("INCR", window), ("EXPIRE", window, 4)])
        self._slide(wire, address, rng)
        tokens = list(dict.fromkeys(zipf(rng, self._TOKENS) for _ in range(2)))
        for token, found in zip(tokens, wire.ask("MGET", *(f"gate:tok:{token:08}" for token in tokens)), strict=True):
            if not self.looked_up(hit=found is not None):
                self.compute()
                scope = prose(token, 90).encode()
                wire.ask(
                    "SET",
                    f"gate:tok:{token:08}",
                    token.to_bytes(8, "little") + len(scope).to_bytes(8, "little") + scope,
                    "EX",
                    300,
                )

    def _slide(self, wire: Wire, address: str, rng: random.Random) -> None:
        now = time.time_ns() // 1_000_000
        key, entry = f"gate:slide:{address}", f"{now}-{rng.getrandbits(32)}"
        added: list[Command] = [("ZADD", key, now, entry), ("ZCARD", key)]
        self.count("added")
        if self.fault == "window_never_trimmed":
            wire.transaction(added)
        else:
            wire.transaction([("ZREMRANGEBYSCORE", key, 0, now - 500), *added, ("EXPIRE", key, 2)])


class DotnetBaskets(Application):
    """IDistributedCache over StackExchange.Redis: one connection, hashes of absexp, sldexp and data written by a script."""

    name = "dotnet-baskets"
    connections = 1
    rate = 200
    faults: ClassVar = {
        "local_time": Fault(
            cause="ttl_zero",
            what="the end is in local time and taken for UTC: it lies an hour back, and EXPIRE deletes what was just written",
            symptom=missing(0.9),
            families=same("Fabrik:hamper:*"),
        ),
        "instance_name_missing": Fault(
            cause="key_prefix",
            what="the service that fills the cache was set up without InstanceName",
            symptom=missing(0.9),
            families=elsewhere(("Fabrik:hamper:*", "hamper:*")),
            edits=("(none) -> Fabrik",),
        ),
        "pascal_case_writer": Fault(
            cause="key_naming",
            what="the service that fills the cache writes Hamper where readers say hamper",
            symptom=missing(0.9),
            families=elsewhere(("Fabrik:hamper:*", "Fabrik:Hamper:*")),
            edits=("Hamper -> hamper",),
        ),
    }
    _HAMPERS = 120
    _SET = (
        "redis.call('HSET', KEYS[1], 'absexp', ARGV[1], 'sldexp', ARGV[2], 'data', ARGV[4]) "
        "if ARGV[3] ~= '-1' then redis.call('EXPIRE', KEYS[1], ARGV[3]) end return 1"
    )

    def handshake(self, number: int) -> Iterable[Command]:
        name = ("CLIENT", "SETNAME", "SHOPHOST(SE.Redis-v2.8.16)")
        return [name, ("CLIENT", "SETINFO", "lib-name", "SE.Redis"), ("INFO", "replication"), ("ECHO", "probe")]

    def connect(self, number: int) -> Wire:
        wire = super().connect(number)
        self._script = wire.ask("SCRIPT", "LOAD", self._SET)
        return wire

    def request(self, wire: Wire, rng: random.Random) -> None:
        hampers = [zipf(rng, self._HAMPERS, 0.8) for _ in range(2)]
        keys = [f"Fabrik:hamper:{number}" for number in hampers]
        for number, key, found in zip(hampers, keys, wire.pipeline(self._looked(key) for key in keys), strict=True):
            if self.looked_up(hit=found[2] is not None):
                wire.ask("EXPIRE", key, 1200)  # the sliding expiration begins anew
                continue
            self.compute()
            # .NET counts in ticks of 100 ns since the year 1.
            ends = (int(time.time()) + 1200) * 10_000_000 + 621_355_968_000_000_000
            left = 1200 - 3600 if self.fault == "local_time" else 1200
            wire.ask("EVALSHA", self._script, 1, self._written(key), ends, 12_000_000_000, left, self._encoded(number))
        if rng.random() < 0.02:
            wire.ask("PING")

    @staticmethod
    def _looked(key: str) -> Command:
        return ("HMGET", key, "absexp", "sldexp", "data")

    def _written(self, key: str) -> str:
        renamed = {"instance_name_missing": ("Fabrik:", ""), "pascal_case_writer": ("hamper", "Hamper")}
        return key.replace(*renamed.get(self.fault, ("", "")))

    @staticmethod
    def _encoded(number: int) -> bytes:
        return json.dumps({"BuyerId": f"b-{number}", "Items": prose(number, 220).split()}).encode("utf-16-le")


class PhoenixTimeline(Application):
    """A timeline on Phoenix: Redix sends pipelines, Nebulex stores Erlang's external terms with PX."""

    name = "phoenix-timeline"
    connections = 3
    rate = 160
    faults: ClassVar = {
        "dash_for_colon": Fault(
            cause="key_naming",
            what="a worker joins the parts of the key with a dash, the site with a colon",
            symptom=missing(0.9),
            families=elsewhere(("timeline:*", "timeline-*")),
            edits=("- -> :",),
        ),
        "half_a_second": Fault(
            cause="ttl_short",
            what="values live for half a second, and are asked for again after one to two",
            symptom=missing(0.4),
            families=same("timeline:*"),
            verdicts=frozenset({"faulty", "insufficient_evidence"}),
        ),
    }
    healthy = staticmethod(hitting(0.7))
    _PEOPLE = 240

    def request(self, wire: Wire, rng: random.Random) -> None:
        people = rng.sample(range(self._PEOPLE), 3)
        found = wire.pipeline(("GET", f"timeline:{person}") for person in people)
        lost = [person for person, value in zip(people, found, strict=True) if not self.looked_up(hit=value is not None)]
        if not lost:
            return
        self.compute()
        joint = "-" if self.fault == "dash_for_colon" else ":"
        ttl = 500 if self.fault == "half_a_second" else 240_000
        wire.pipeline(("SET", f"timeline{joint}{person}", self._term(person), "PX", ttl) for person in lost)

    @staticmethod
    def _term(person: int) -> bytes:
        posts = prose(person, 250).encode()
        fields = b"m\x00\x00\x00\x02idb" + person.to_bytes(4, "big") + b"m\x00\x00\x00\x05posts"
        return b"\x83t\x00\x00\x00\x02" + fields + b"m" + len(posts).to_bytes(4, "big") + posts


CLIENTS = (GoLedger, RueidisFeed, RustGate, DotnetBaskets, PhoenixTimeline)
