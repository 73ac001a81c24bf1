"""Java: Spring's cache over Lettuce, RedisTemplate with JDK keys over Jedis, Redisson's buckets and locks."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterable
from typing import ClassVar

from foreign.application import HEALTHY, Application, Command, Fault, Wire, counted, elsewhere, missing, prose, same, zipf


def _utf(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


def jdk_string(text: str) -> bytes:
    """Return a String as ObjectOutputStream writes it."""
    return b"\xac\xed\x00\x05t" + _utf(text)


def jdk_object(name: str, number: int, text: str) -> bytes:
    """Return an object with a long and a String as ObjectOutputStream writes it."""
    fields = b"\x00\x02J" + _utf("id") + b"L" + _utf("text") + b"t" + _utf("Ljava/lang/String;")
    described = b"r" + _utf(name) + b"\x1a\x2b\x3c\x4d\x5e\x6f\x70\x01\x02" + fields + b"xp"
    return b"\xac\xed\x00\x05s" + described + number.to_bytes(8, "big") + b"t" + _utf(text)


class SpringCustomers(Application):
    """A service on Spring's cache: one connection of Lettuce, on which the requests of all threads are pipelined."""

    name = "spring-customers"
    connections = 1
    rate = 60
    faults: ClassVar = {
        "cached_null_taken_for_a_miss": Fault(
            cause="hit_unused",
            what="a wrapper takes every cached value for an absent one: the method runs, and its result is put again",
            symptom=counted("unusable", 200),
            families=same("patrons::*"),
        ),
        "two_methods_one_cache": Fault(
            cause="key_collision",
            what="two methods share a cache and its key, so each finds the other's class and puts its own",
            symptom=counted("foreign", 200),
            families=same("patrons::*"),
        ),
        "milliseconds_as_seconds": Fault(
            cause="ttl_unit",
            what="30 minutes in milliseconds are given as seconds, which is three weeks",
            symptom=counted("long_lived", 30),
            families=same("patrons::*"),
            edits=("EX 1800000 -> PX 1800000",),
        ),
    }
    _PATRONS = 180

    def handshake(self, number: int) -> Iterable[Command]:
        return [("HELLO", 3), ("CLIENT", "SETINFO", "lib-name", "Lettuce"), ("CLIENT", "SETINFO", "lib-ver", "6.3.2")]

    def request(self, wire: Wire, rng: random.Random) -> None:
        patrons = [zipf(rng, self._PATRONS) for _ in range(rng.randint(2, 9))]
        methods = [rng.choice(["Patron", "Invoice"]) for _ in patrons]
        found = wire.pipeline(("GET", f"patrons::{patron}") for patron in patrons)
        puts = []
        for patron, method, value in zip(patrons, methods, found, strict=True):
            name = f"org.library.{method if self.fault == 'two_methods_one_cache' else 'Patron'}"
            if self.looked_up(hit=value is not None) and self._usable(value, name):
                continue
            seconds = 1_800_000 if self.fault == "milliseconds_as_seconds" else 1800
            if self.fault == "milliseconds_as_seconds":
                self.count("long_lived")
            puts.append(("SET", f"patrons::{patron}", jdk_object(name, patron, prose(patron, 260)), "EX", seconds))
        if puts:
            self.compute()
            wire.pipeline(puts)

    def _usable(self, value: bytes, name: str) -> bool:
        if self.fault == "cached_null_taken_for_a_miss":
            self.count("unusable")
            return False
        if name.encode() not in value:
            self.count("foreign")
            return False
        return True


class SpringCrates(Application):
    """A warehouse on RedisTemplate and Jedis: keys, hash fields and values are all serialised by the JDK."""

    name = "spring-crates"
    connections = 5
    rate = 200
    faults: ClassVar = {
        "string_serializer_for_reads": Fault(
            cause="key_naming",
            what="readers were given a StringRedisSerializer, writers kept the JDK's keys",
            symptom=missing(0.9),
            families=elsewhere(("crate:*", "\\xac\\xed\\x00\\x05t\\x00.crate:*")),
            edits=("\\xac\\xed\\x00\\x05t\\x00. -> (none)", "\\xac\\xed\\x00\\x05t\\x00.crate -> crate"),
        ),
    }
    _CRATES = 130

    def handshake(self, number: int) -> Iterable[Command]:
        return [("CLIENT", "SETINFO", "LIB-NAME", "jedis"), ("CLIENT", "SETINFO", "LIB-VER", "5.1.3")]

    def request(self, wire: Wire, rng: random.Random) -> None:
        number = zipf(rng, self._CRATES, 0.8)
        written = jdk_string(f"crate:{number:05d}")
        read = f"crate:{number:05d}" if self.fault == "string_serializer_for_reads" else written
        if self.looked_up(hit=bool(wire.ask("HGETALL", read))):
            return
        self.compute()
        contents = jdk_object("com.depot.Crate", number, prose(number, 300))
        wire.ask("HSET", written, jdk_string("contents"), contents, jdk_string("shelf"), jdk_string(f"R{number % 12}"))
        wire.ask("EXPIRE", written, 900)
        if rng.random() < 0.1:
            wire.ask("PING")


class RedissonQuotes(Application):
    """Prices on Redisson: hot buckets that live for two seconds, recomputed by whoever holds the lock while the others wait."""

    name = "redisson-quotes"
    connections = 12
    rate = 480
    faults: ClassVar = {
        "lock_removed": Fault(
            cause="stampede",
            what="the lock is gone: when a price ends, every thread that finds it missing computes it",
            symptom=counted("together", 20),
            families=same("quote:{*}"),
        ),
    }
    _QUOTES = 4
    _COMPUTING_S = 0.12
    _LOCK = (
        "if ((redis.call('exists', KEYS[1]) == 0) or (redis.call('hexists', KEYS[1], ARGV[2]) == 1)) then "
        "redis.call('hincrby', KEYS[1], ARGV[2], 1); redis.call('pexpire', KEYS[1], ARGV[1]); return nil; end; "
        "return redis.call('pttl', KEYS[1]);"
    )
    _UNLOCK = (
        "if (redis.call('hexists', KEYS[1], ARGV[3]) == 0) then return nil; end; "
        "redis.call('del', KEYS[1]); redis.call('publish', KEYS[2], ARGV[1]); return 1;"
    )

    def __init__(self, url: str, fault: str = HEALTHY) -> None:
        super().__init__(url, fault)
        self._computing: Counter[int] = Counter()
        # Redisson's threads wait for a message, not by asking again: here for each other.
        self._locks = [threading.Lock() for _ in range(self._QUOTES)]

    def handshake(self, number: int) -> Iterable[Command]:
        return [("CLIENT", "SETNAME", f"quotes-{number}"), ("PING",)]

    def request(self, wire: Wire, rng: random.Random) -> None:
        quote = rng.randrange(self._QUOTES)
        key = f"quote:{{{quote}}}"
        if self.looked_up(hit=wire.ask("GET", key) is not None):
            return
        if self.fault == "lock_removed":
            self._recompute(wire, key, quote)
            return
        lock, owner = f"quotelock:{{{quote}}}", f"285475da-9152-4c83-822a-67ee2f116a79:{wire.number}"
        with self._locks[quote]:
            wire.ask("EVAL", self._LOCK, 1, lock, 30_000, owner)
            if not self.looked_up(hit=wire.ask("GET", key) is not None):
                self._recompute(wire, key, quote)
            wire.ask("EVAL", self._UNLOCK, 2, lock, f"redisson_lock__channel:{{{lock}}}", 0, 30_000, owner)

    def _recompute(self, wire: Wire, key: str, quote: int) -> None:
        with self._lock:
            self._computing[quote] += 1
            self.counts["together"] += self._computing[quote] > 1
        self.compute(self._COMPUTING_S)
        wire.ask("PSETEX", key, 2200, b"\x01\x00com.market.Quot\xe5" + prose(quote, 150).encode())
        with self._lock:
            self._computing[quote] -= 1


CLIENTS = (SpringCustomers, SpringCrates, RedissonQuotes)
