"""The command table against INFO of real servers: what it says is looked up is what is counted."""

from __future__ import annotations

import contextlib

import pytest
import redis
from coldcache.commands import key_uses

pytestmark = pytest.mark.live

SETUP = ("SET s v", "HSET h f 1", "RPUSH l a b", "SADD t a b", "ZADD z 1 a", "XADD x 1-1 f v", "PFADD p a", "GEOADD g 1 1 a")
# {k} is each of a present and an absent key.
CASES = {
    "s": (
        "GET|GETRANGE {k} 0 1|STRLEN|TTL|PTTL|TYPE|DUMP|GETEX|GETBIT {k} 0|BITCOUNT|BITPOS {k} 1|EXISTS {k} {k}|"
        "TOUCH|MGET {k} {k} s|SET {k} v|SET {k} v NX|SETNX {k} v|SETEX {k} 9 v|APPEND {k} v|EXPIRE {k} 9|PERSIST|"
        "RENAME {k} {k}9|DEL|UNLINK|MSET {k} 1 m 2|GETSET {k} v|SET {k} v GET|GETDEL|COPY {k} c REPLACE|"
        "OBJECT ENCODING {k}|MEMORY USAGE {k}|WATCH|BITOP NOT d {k}"
    ),
    "h": (
        "HGET {k} f|HMGET {k} f g|HGETALL|HKEYS|HLEN|HEXISTS {k} f|HSTRLEN {k} f|HSCAN {k} 0|HSET {k} f 2|"
        "HINCRBY {k} f 1|HDEL {k} f"
    ),
    "l": ("LRANGE {k} 0 -1|LLEN|LINDEX {k} 0|LPOS {k} a|RPUSH {k} c|LPOP|LTRIM {k} 0 9"),
    "t": (
        "SMEMBERS|SISMEMBER {k} a|SMISMEMBER {k} a b|SCARD|SRANDMEMBER|SINTER {k} t|SUNION {k} t|SADD {k} c|"
        "SREM {k} c|SSCAN {k} 0"
    ),
    "z": (
        "ZRANGE {k} 0 -1|ZSCORE {k} a|ZCARD|ZRANK {k} a|ZCOUNT {k} 0 9|ZADD {k} 2 b|ZINCRBY {k} 1 a|ZINTER 2 {k} z|ZSCAN {k} 0"
    ),
    "x": ("XRANGE {k} - +|XLEN|XREAD STREAMS {k} 0|XADD {k} * f v|XACK {k} g 1-1"),
    "g": ("GEOPOS {k} a|GEODIST {k} a a|GEOHASH {k} a"),
    "p": ("PFCOUNT"),
}


def counted(client: redis.Redis) -> int:
    stats = client.info("stats")
    return int(stats["keyspace_hits"]) + int(stats["keyspace_misses"])


def test_expected_lookups_are_what_info_counts(server_url: str):
    client = redis.Redis.from_url(server_url, protocol=2, single_connection_client=True)
    before_7 = str(client.info("server")["redis_version"]).startswith("6.")
    wrong = []
    for present, forms in CASES.items():
        for form in forms.split("|"):
            for key in (present, "absent"):
                client.flushall()
                for command in SETUP:
                    client.execute_command(*command.split())
                args = (form if "{k}" in form else f"{form} {{k}}").replace("{k}", key).split()
                before = counted(client)
                with contextlib.suppress(redis.ResponseError):  # a wrong type still looks the key up
                    client.execute_command(*args)
                expected = sum(use.lookups for use in key_uses(args, before_7=before_7))
                if counted(client) - before != expected:
                    wrong.append((args, counted(client) - before, expected))
                client.execute_command("UNWATCH")
    client.flushall()
    client.close()
    assert wrong == []
