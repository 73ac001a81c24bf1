"""Ruby: fragments in Rails' cache store, jobs of Sidekiq."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable
from typing import ClassVar

from foreign.application import Application, Command, Fault, Wire, elsewhere, missing, prose, same, zipf


def marshal_string(text: str) -> bytes:
    """Return what Marshal writes of a UTF-8 string, of 123 to 65,535 bytes."""
    content = text.encode()
    return b'I"\x02' + len(content).to_bytes(2, "little") + content + b"\x06:\x06ET"


def cache_entry(text: str) -> bytes:
    """Return an ActiveSupport::Cache::Entry as Rails 6 stores it."""
    created = f"{time.time():.7f}".encode()
    return (
        b"\x04\bo: ActiveSupport::Cache::Entry\t:\v@value" + marshal_string(text) + b":\r@version0:\x10@created_atf"
        + bytes([len(created) + 5]) + created + b":\x10@expires_inf\x08180"
    )  # fmt: skip


class RailsFerns(Application):
    """A nursery on Rails: eight fragments by MGET, those that miss are written in one pipeline, expiry in milliseconds."""

    name = "rails-ferns"
    rate = 60
    faults: ClassVar = {
        "expires_in_as_milliseconds": Fault(
            cause="ttl_unit",
            what="expires_in: 180, three minutes, goes out as PX 180",
            symptom=missing(0.3),
            families=same("ferns-production:views/plants/*/card"),
            edits=("PX 180 -> EX 180",),
        ),
        "singular_writer": Fault(
            cause="key_naming",
            what="a renamed model writes plant where readers say plants",
            symptom=missing(0.9),
            families=elsewhere(("ferns-production:views/plants/*/card", "ferns-production:views/plant/*/card")),
            edits=("plant -> plants",),
        ),
        "touched_by_every_view": Fault(
            cause="unique_key",
            what="the key holds updated_at, which a counter of views touches each time",
            symptom=missing(0.7),
            families=same("ferns-production:views/plants/*-*/card"),
        ),
    }
    _PLANTS = 300

    def handshake(self, number: int) -> Iterable[Command]:
        return [("HELLO", 3), ("CLIENT", "SETINFO", "LIB-NAME", "redis-client(redis-rb)")]

    def _key(self, plant: int, model: str = "plants") -> str:
        version = f"-{time.time_ns() // 1000:020d}" if self.fault == "touched_by_every_view" else ""
        return f"ferns-production:views/{model}/{plant}{version}/card"

    def request(self, wire: Wire, rng: random.Random) -> None:
        plants = list(dict.fromkeys(zipf(rng, self._PLANTS, 0.7) for _ in range(8)))
        keys = [self._key(plant) for plant in plants]
        found = wire.ask("MGET", *keys)
        lost = [
            (plant, key)
            for plant, key, value in zip(plants, keys, found, strict=True)
            if not self.looked_up(hit=value is not None)
        ]
        if not lost:
            return
        self.compute()
        expiry = 180 if self.fault == "expires_in_as_milliseconds" else 180_000
        if self.fault == "singular_writer":
            lost = [(plant, self._key(plant, "plant")) for plant, _ in lost]
        wire.pipeline(("SET", key, cache_entry(prose(plant, 500)), "PX", expiry) for plant, key in lost)


class SidekiqLetters(Application):
    """Letters that Sidekiq sends: lists, counters, a schedule, heartbeats; letter templates are cached for a customer."""

    name = "sidekiq-letters"
    rate = 200
    faults: ClassVar = {
        "seen_checks": Fault(
            cause="metric_distortion",
            what="none: every job asks whether it was seen and whether its queue is paused, which is nearly never so",
            symptom=missing(0.5),
            verdicts=frozenset({"faulty", "healthy"}),
            log_verdicts=frozenset({"faulty", "healthy", "insufficient_evidence"}),
        ),
        "tenant_lost_in_the_job": Fault(
            cause="key_prefix",
            what="jobs have lost their tenant and warm the templates of the default one",
            symptom=missing(0.6),
            families=elsewhere(("t-lindgren:lettertemplate:*", "t-default:lettertemplate:*")),
            edits=("t-default -> t-lindgren",),
        ),
    }
    _POLL = "return redis.call('zrange', KEYS[1], '-inf', ARGV[1], 'byscore', 'limit', 0, 1)"

    def handshake(self, number: int) -> Iterable[Command]:
        return [("HELLO", 3), ("CLIENT", "SETNAME", f"Sidekiq-7-{number}")]

    def request(self, wire: Wire, rng: random.Random) -> None:
        job = f"{rng.getrandbits(96):024x}"
        payload = {"class": "LetterJob", "jid": job, "args": [rng.randrange(5000)], "retry": True, "created_at": time.time()}
        wire.pipeline([("SADD", "queues", "letters"), ("LPUSH", "queue:letters", json.dumps(payload))])
        fetched = wire.ask("BRPOP", "queue:urgent", "queue:letters", 1)
        if self.fault == "seen_checks":
            for _ in range(2):
                self.looked_up(hit=bool(wire.ask("EXISTS", f"letters:seen:{job}")))
            self.looked_up(hit=wire.ask("GET", "letters:paused") is not None)
        if fetched is not None:
            self._template(wire, zipf(rng, 60))
        wire.pipeline([("INCR", "stat:processed"), ("INCR", f"stat:processed:{time.strftime('%Y-%m-%d')}")])
        if rng.random() < 0.02:
            self._heartbeat(wire)

    def _template(self, wire: Wire, number: int) -> None:
        if self.looked_up(hit=wire.ask("GET", f"t-lindgren:lettertemplate:{number}") is not None):
            return
        self.compute()
        tenant = "default" if self.fault == "tenant_lost_in_the_job" else "lindgren"
        wire.ask("SET", f"t-{tenant}:lettertemplate:{number}", b"\x04\b" + marshal_string(prose(number, 800)), "EX", 3600)

    def _heartbeat(self, wire: Wire) -> None:
        process = f"letters-7f9c:{wire.number}:5ad1"
        wire.transaction(
            [("SADD", "processes", process), ("HSET", process, "beat", time.time(), "busy", 3), ("EXPIRE", process, 60)]
        )
        wire.ask("EVAL", self._POLL, 1, "schedule", time.time())


CLIENTS = (RailsFerns, SidekiqLetters)
