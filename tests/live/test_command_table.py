"""The command table against INFO of real servers: what it says is looked up is what is counted."""

from __future__ import annotations

import contextlib

import pytest
import redis
from coldcache.commands import key_uses
from coldcache.errors import ServerRefusedError
from coldcache.record.key_events import channels, merged_flags

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


# Every command that changes a key under the classes a recording switches on: strings, generic, new, the end of a key.
CHANGES = (
    "SET a 1|GET absent|SETRANGE s 1 x|APPEND s x|INCR a|DECRBY a 2|INCRBYFLOAT a 1.5|SETBIT b 1 1|BITFIELD b SET u8 0 1|"
    "BITOP NOT d b|PFADD p a|PFMERGE q p|MSET m 1 n 2|GETSET s x|SETEX s 9 x|SET s x PX 9000|EXPIRE a 9|PERSIST a|RENAME a c|"
    "MOVE c 1|COPY s t|DEL t|GETEX s EX 9|GETDEL s|HSET h f 1|RPUSH l b a|SORT l ALPHA STORE o|SADD u a|SPOP u|LPOP l 9|"
    "EXPIREAT m 1|UNLINK n|XADD x * f v|ZADD z 1 a|ZREM z a|GEOADD g 1 1 a|GETEX d PXAT 1|SET v 1 GET|SETNX w 1|PSETEX k 1 x"
)


def test_every_event_of_the_classes_switched_on_is_one_that_is_listened_to(server_url: str):
    # GIVEN a listener to everything, and the classes that a recording switches on
    client = redis.Redis.from_url(server_url, protocol=2, single_connection_client=True)
    try:
        client.config_set("notify-keyspace-events", merged_flags("", new_keys=True))
    except redis.ResponseError:  # 6.2
        client.config_set("notify-keyspace-events", merged_flags("", new_keys=False))
    hearing = redis.Redis.from_url(server_url, protocol=2).pubsub()
    hearing.psubscribe("__keyevent@*__:*")
    hearing.get_message(timeout=1)
    # WHEN keys are changed in every way
    client.flushall()
    for command in CHANGES.split("|"):
        client.execute_command(*command.split())
    client.restore("r", 0, client.dump("w"))
    client.config_set("notify-keyspace-events", "")
    heard = set()
    while message := hearing.get_message(timeout=0.5):
        heard.add(message["channel"].decode())
    hearing.close()
    client.flushall()
    client.close()
    # THEN each event is listened to, but one that changes no value
    listened = {name for names in channels({"databases": "16"}, "exact") for name in names}
    assert {name.split(":")[1] for name in heard - listened} == {"persist"}
    assert "__keyevent@1__:move_to" in heard
    assert {"keymiss", "del", "restore", "copy_to", "incrbyfloat"} <= {name.split(":")[1] for name in heard}


def test_every_database_is_listened_to_unless_there_are_far_too_many():
    assert len(channels({}, "events")) == 16
    assert len(channels({"databases": "3", "cluster-databases": "5"}, "events")) == 5
    assert "__keyevent@4__:expire" not in channels({"databases": "5"}, "events")[4]
    with pytest.raises(ServerRefusedError, match=r"2,000 databases.*--mode monitor"):
        channels({"databases": "2000"}, "exact")
