"""PHP: the session handler of phpredis, Laravel's cache, WordPress's object cache, Magento's cache backend."""

from __future__ import annotations

import hashlib
import random
import time
import zlib
from collections.abc import Iterable
from typing import Any, ClassVar

from foreign.application import Application, Command, Fault, Wire, counted, elsewhere, missing, prose, refused, same, zipf


def serialize(value: Any) -> str:
    """Return what PHP's serialize() gives; text is ASCII here, so characters are bytes."""
    if isinstance(value, dict):
        return f"a:{len(value)}:{{{''.join(serialize(key) + serialize(item) for key, item in value.items())}}}"
    if isinstance(value, bool):
        return f"b:{value:d};"
    if isinstance(value, int):
        return f"i:{value};"
    return f's:{len(value)}:"{value}";'


def igbinary(value: dict[str, Any]) -> bytes:
    """Return igbinary's form, version 2: an array of up to 255 entries, its strings and numbers."""
    parts = [b"\x00\x00\x00\x02\x14", bytes([len(value)])]
    for key, item in value.items():
        parts += [b"\x11", bytes([len(key)]), key.encode()]
        text = str(item).encode()
        parts += [b"\x0a", item.to_bytes(4, "big")] if isinstance(item, int) else [b"\x12", len(text).to_bytes(2, "big"), text]
    return b"".join(parts)


class PhpSessions(Application):
    """A shop on PHP-FPM whose sessions phpredis keeps, with session locking on.

    A session is read and written back, changed, by every page: hits that are followed by a rewrite, by design.
    """

    name = "phpredis-sessions"
    connections = 6
    rate = 180
    faults: ClassVar = {
        "no_persistent_connections": Fault(
            cause="connection_churn",
            what="every page opens a connection of its own: pconnect was given up",
            symptom=counted("connections", 300),
        ),
        "lifetime_zero": Fault(
            cause="ttl_zero",
            what="session.gc_maxlifetime is 0, so SETEX … 0 is refused and no session is ever kept",
            symptom=counted("refused", 100),
            families=same("PHPREDIS_SESSION:*"),
        ),
    }
    _UNLOCK = 'if redis.call("get",KEYS[1]) == ARGV[1] then return redis.call("del",KEYS[1]) else return 0 end'
    _VISITORS = 150

    @staticmethod
    def _key(visitor: int) -> str:
        return f"PHPREDIS_SESSION:{hashlib.md5(b'visitor %d' % visitor).hexdigest()[:26]}"

    def handshake(self, number: int) -> Iterable[Command]:
        return [("SELECT", 0)]

    def prepare(self, wire: Wire) -> None:
        if self.fault != "lifetime_zero":
            for visitor in range(self._VISITORS):
                wire.ask("SETEX", self._key(visitor), 1440, self._session(visitor, 0))

    @staticmethod
    def _session(visitor: int, pages: int) -> str:
        basket = {"sku": f"lamp-{visitor % 40}", "quantity": visitor % 3}
        return f"basket|{serialize(basket)}pages|{serialize(pages)}seen|{serialize(prose(visitor, 120))}at|i:{time.time_ns()};"

    def request(self, wire: Wire, rng: random.Random) -> None:
        if self.fault != "no_persistent_connections":
            self._page(wire, rng)
            return
        own = self.connect(wire.number)
        self.count("connections")
        self._page(own, rng)
        own.close()

    def _page(self, wire: Wire, rng: random.Random) -> None:
        visitor = zipf(rng, self._VISITORS, 0.8)
        key, secret = self._key(visitor), f"web-{wire.number}|{rng.getrandbits(40)}"
        lock = f"{key}_LOCK"
        while wire.ask("SET", lock, secret, "NX", "PX", 30_000) is None:
            self.compute()
        self.looked_up(hit=wire.ask("GET", key) is not None)
        self.compute()
        lifetime = 0 if self.fault == "lifetime_zero" else 1440
        self.stored(wire.ask("SETEX", key, lifetime, self._session(visitor, rng.randrange(100))))
        wire.ask("EVAL", self._UNLOCK, 1, lock, secret)


class LaravelBookstall(Application):
    """A bookshop on Laravel with predis: Cache::remember(), a lock, tags as sorted sets, counters. Its cache is in database 1."""

    name = "laravel-bookstall"
    connections = 6
    faults: ClassVar = {
        "doubled_prefix": Fault(
            cause="key_prefix",
            what="the writer takes a key that already has its prefix, and puts it there again",
            symptom=missing(0.9),
            families=elsewhere(
                ("bookstall_database_bookstall_cache_:title.*", "bookstall_database_bookstall_database_bookstall_cache_:title.*")
            ),
            edits=("bookstall_database_bookstall_database_bookstall_cache_ -> bookstall_database_bookstall_cache_",),
        ),
        "igbinary_on_half_of_the_fleet": Fault(
            cause="serialization",
            what="half of the servers were given igbinary: neither half reads what the other has stored",
            symptom=counted("unusable", 200),
            families=same("bookstall_database_bookstall_cache_:title.*"),
            edits=("igbinary -> php", "php -> igbinary"),
        ),
        "memory_full": Fault(
            cause="write_rejected",
            what="failed jobs have filled Redis, whose policy is noeviction: what is new is refused",
            symptom=counted("refused", 100),
            families=same("bookstall_database_bookstall_cache_:title.*"),
            server=("--maxmemory", "6mb", "--maxmemory-policy", "noeviction"),
        ),
    }
    _CONNECTION = "bookstall_database_"
    _STORE = "bookstall_cache_:"
    _TITLES = 220

    def handshake(self, number: int) -> Iterable[Command]:
        return [("SELECT", 1)]

    def prepare(self, wire: Wire) -> None:
        if self.fault == "memory_full":
            for title in range(20):
                wire.ask("SETEX", f"{self._CONNECTION}{self._STORE}title.{title}", 3600, self._encoded(title, wire))
            number = 0
            while not refused(wire.ask("RPUSH", f"{self._CONNECTION}queues:failed", prose(number % 50, 4000))):
                number += 1

    def _encoded(self, title: int, wire: Wire) -> str | bytes:
        row = {"id": title, "name": prose(title, 60), "blurb": prose(title + 1, 400), "stock": title % 17}
        modern = self.fault == "igbinary_on_half_of_the_fleet" and wire.number % 2
        return igbinary(row) if modern else serialize(row)

    def _readable(self, value: bytes, wire: Wire) -> bool:
        return value[:2] == (b"\0\0" if self.fault == "igbinary_on_half_of_the_fleet" and wire.number % 2 else b"a:")

    def request(self, wire: Wire, rng: random.Random) -> None:
        title = zipf(rng, self._TITLES, 0.9)
        key = f"{self._CONNECTION}{self._STORE}title.{title}"
        found = wire.ask("GET", key)
        if self.looked_up(hit=found is not None) and self._readable(found, wire):
            return
        if found is not None:
            self.count("unusable")
        self.compute()
        written = f"{self._CONNECTION}{key}" if self.fault == "doubled_prefix" else key
        self.stored(wire.ask("SETEX", written, 3600, self._encoded(title, wire)))
        wire.ask("ZADD", f"{self._CONNECTION}{self._STORE}tag:titles:entries", int(time.time()) + 3600, f"title.{title}")
        if rng.random() < 0.05:
            self._reindexed(wire, rng)

    def _reindexed(self, wire: Wire, rng: random.Random) -> None:
        lock, owner = f"{self._CONNECTION}{self._STORE}reindex", f"{rng.getrandbits(64):016x}"
        if wire.ask("SET", lock, owner, "EX", 10, "NX") is not None:
            wire.ask("INCRBY", f"{self._CONNECTION}{self._STORE}reindexed", 1)
            script = 'if redis.call("get",KEYS[1]) == ARGV[1] then return redis.call("del",KEYS[1]) else return 0 end'
            wire.ask("EVAL", script, 1, lock, owner)


class WordPressGazette(Application):
    """A magazine on WordPress with an object cache: alloptions with every page, posts and their meta by MGET."""

    name = "wordpress-gazette"
    connections = 5
    rate = 120
    faults: ClassVar = {
        "plugin_updates_options": Fault(
            cause="invalidation_storm",
            what="a plugin counts views in an option and in the post's meta, which deletes what was just cached",
            symptom=missing(0.3),
            families=same("gazette_wp:options:alloptions", "gazette_wp:post_meta:*"),
        ),
        "whole_pages_kept": Fault(
            cause="fat_values",
            what="a plugin keeps a copy of every page as it was sent, which hardly anybody asks for",
            symptom=counted("copies", 100),
            families=same("gazette_wp:pagecopies:*"),
        ),
    }
    _POSTS = 120

    def request(self, wire: Wire, rng: random.Random) -> None:
        options = "gazette_wp:options:alloptions"
        self._through(wire, options, {"siteurl": "https://gazette.example", "plugins": prose(3, 3000)})
        self._through(wire, "gazette_wp:options:notoptions", {"theme_mods": True})
        post = zipf(rng, self._POSTS)
        row = {"ID": post, "post_title": prose(post, 40), "post_content": prose(post, 900)}
        meta = {"_edit_last": "1", "_thumbnail_id": post + 1000}
        names = [f"gazette_wp:posts:{post}", f"gazette_wp:post_meta:{post}"]
        for name, found, value in zip(names, wire.ask("MGET", *names), (row, meta), strict=True):
            if not self.looked_up(hit=found is not None):
                self._add(wire, name, value)
        if self.fault == "plugin_updates_options" and rng.random() < 0.8:
            wire.ask("DEL", options)
            wire.ask("DEL", names[1])
        if self.fault == "whole_pages_kept" and rng.random() < 0.4:
            copy = hashlib.md5(f"/{post}?{rng.randrange(3000)}".encode()).hexdigest()
            self._through(wire, f"gazette_wp:pagecopies:{copy}", {"html": prose(post, 900) * 60})
            self.count("copies")

    def _through(self, wire: Wire, key: str, value: dict[str, Any]) -> None:
        if not self.looked_up(hit=wire.ask("GET", key) is not None):
            self._add(wire, key, value)

    def _add(self, wire: Wire, key: str, value: dict[str, Any]) -> None:
        self.compute()
        wire.ask("SETEX", key, 86_400, serialize(value))


class MagentoHardware(Application):
    """A hardware store on Magento: records are hashes with compressed data, written in a transaction with their tags."""

    name = "magento-hardware"
    rate = 260
    faults: ClassVar = {
        "deploys_flush": Fault(
            cause="flush",
            what="a deploy empties the whole cache in the middle of the day",
            symptom=counted("flushes", 1),
            verdicts=frozenset({"faulty", "insufficient_evidence"}),
        ),
        "lifetime_null": Fault(
            cause="ttl_lost",
            what="a module saves its records without a lifetime, which takes the expiry from those that had one",
            symptom=counted("persisted", 100),
            families=same("zc:k:8c1_BLOCK_*"),
        ),
    }
    _BLOCKS = 250

    def handshake(self, number: int) -> Iterable[Command]:
        return [("SELECT", 0)]

    @staticmethod
    def _name(block: int) -> str:
        return f"8c1_BLOCK_{hashlib.sha1(b'block %d' % block).hexdigest().upper()}"

    def _save(self, wire: Wire, block: int, *, lifetime: bool) -> None:
        name = self._name(block)
        data = b"gz:\x1f\x8b" + zlib.compress(prose(block, 700).encode(), 1)
        tags = [f"8c1_BLOCK_HTML,8c1_CAT_P_{block % 30}"]
        key = f"zc:k:{name}"
        expiry: Command = ("EXPIRE", key, 7200) if lifetime else ("PERSIST", key)
        wire.transaction(
            [
                ("HMSET", key, "d", data, "t", *tags, "m", int(time.time()), "i", 0 if lifetime else 1),
                expiry,
                ("SADD", "zc:tags", "8c1_BLOCK_HTML", f"8c1_CAT_P_{block % 30}"),
                ("SADD", "zc:ti:8c1_BLOCK_HTML", name),
                ("SADD", f"zc:ti:8c1_CAT_P_{block % 30}", name),
            ]
        )
        if not lifetime:
            self.count("persisted")

    def prepare(self, wire: Wire) -> None:
        for block in range(self._BLOCKS):
            self._save(wire, block, lifetime=True)

    def request(self, wire: Wire, rng: random.Random) -> None:
        block = zipf(rng, self._BLOCKS, 0.5)
        found = wire.ask("HGET", f"zc:k:{self._name(block)}", "d")
        lifetime = self.fault != "lifetime_null"
        if not self.looked_up(hit=found is not None):
            self.compute()
            self._save(wire, block, lifetime=lifetime)
        elif rng.random() < (0.02 if lifetime else 0.2):
            self._save(wire, rng.randrange(self._BLOCKS), lifetime=lifetime)  # the indexer changed a product

    def midway(self, wire: Wire) -> None:
        if self.fault == "deploys_flush":
            wire.ask("FLUSHDB")
            self.count("flushes")


CLIENTS = (PhpSessions, LaravelBookstall, WordPressGazette, MagentoHardware)
