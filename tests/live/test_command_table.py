"""The command table against real servers: key positions, counted look-ups, and what is left of the key."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from coldcache.commands import Form, full_name, key_uses, rules
from coldcache.errors import ServerRefusedError
from coldcache.record.key_events import channels, merged_flags

pytestmark = pytest.mark.live

# Every command with a key, by the type of its key; {k} is the key, {d} the key of a target. The first sample of a
# command is its plain form, of which the effects are compared; all count for positions and look-ups.
SAMPLES = {
    "string": (
        "GET {k}|GETRANGE {k} 0 1|SUBSTR {k} 0 1|STRLEN {k}|GETDEL {k}|GETEX {k}|GETEX {k} EX 9|GETEX {k} PERSIST|GETSET {k} v|"
        "SET {k} v|SET {k} v EX 9|SET {k} v NX|SET {k} v XX|SET {k} v GET|SET {k} v KEEPTTL|SETNX {k} v|SETEX {k} 9 v|"
        "SET {k} v XX GET|SET {k} v EX 0|PSETEX {k} 9000 v|MGET {k}|MGET {k} {k} other|MSET {k} v|MSET {k} v m 2|MSETNX {k} v|"
        "MSETEX 1 {k} v|"
        "MSETEX 2 {k} v m 2 EX 9|SETRANGE {k} 1 x|APPEND {k} v|INCR {k}|INCRBY {k} 2|INCRBYFLOAT {k} 1.5|DECR {k}|DECRBY {k} 2|"
        "DELIFEQ {k} 10|LCS {k} {k}|STRALGO LCS KEYS {k} {k}|"
        "GETBIT {k} 0|SETBIT {k} 1 1|BITCOUNT {k}|BITPOS {k} 1|BITFIELD {k} SET u8 0 1|"
        "BITFIELD {k} INCRBY u8 0 1|BITFIELD {k} GET u8 0|BITFIELD_RO {k} GET u8 0|BITOP NOT {d} {k}|BITOP OR {d} {k} {k}|"
        "TTL {k}|PTTL {k}|EXPIRETIME {k}|PEXPIRETIME {k}|TYPE {k}|DUMP {k}|EXISTS {k}|EXISTS {k} {k}|TOUCH {k}|TOUCH {k} {k}|"
        "EXPIRE {k} 9|PEXPIRE {k} 9000|EXPIREAT {k} 4102444800|PEXPIREAT {k} 4102444800000|PERSIST {k}|"
        "DEL {k}|DEL {k} {k}|UNLINK {k}|RENAME {k} {d}|RENAMENX {k} {d}|MOVE {k} 1|COPY {k} {d} REPLACE|COPY {k} {d}|"
        "RESTORE {k} 0 {dump} REPLACE|RESTORE-ASKING {k} 0 {dump} REPLACE|WATCH {k}|WATCH {k} {k}|MEMORY USAGE {k}|"
        "OBJECT ENCODING {k}|OBJECT IDLETIME {k}|OBJECT REFCOUNT {k}|OBJECT FREQ {k}"
    ),
    "hyperloglog": "PFCOUNT {k}|PFCOUNT {k} {k}|PFADD {k} c|PFMERGE {d} {k}|PFMERGE {d} {k} {k}|PFDEBUG ENCODING {k}",
    "hash": (
        "HGET {k} f|HMGET {k} f g|HGETALL {k}|HKEYS {k}|HVALS {k}|HEXISTS {k} f|HEXISTS {k} absent|HLEN {k}|HSTRLEN {k} f|"
        "HRANDFIELD {k}|HSCAN {k} 0|HSET {k} f 2|HMSET {k} f 2|HSETNX {k} new 2|HINCRBY {k} f 1|HINCRBYFLOAT {k} f 1.5|"
        "HDEL {k} f|HTTL {k} FIELDS 1 f|HPTTL {k} FIELDS 1 f|HEXPIRETIME {k} FIELDS 1 f|HPEXPIRETIME {k} FIELDS 1 f|"
        "HEXPIRE {k} 0 FIELDS 1 f|HPEXPIRE {k} 0 FIELDS 1 f|HEXPIREAT {k} 1 FIELDS 1 f|HPEXPIREAT {k} 1 FIELDS 1 f|"
        "HPERSIST {k} FIELDS 1 f|HGETEX {k} EXAT 1 FIELDS 1 f|HGETEX {k} FIELDS 1 f|HSETEX {k} EX 9 FIELDS 1 f 2|"
        "HGETDEL {k} FIELDS 1 f"
    ),
    "list": (
        "LRANGE {k} 0 -1|LLEN {k}|LINDEX {k} 0|LPOS {k} a|RPUSH {k} c|LPUSH {k} c|RPUSHX {k} c|LPUSHX {k} c|LPOP {k}|RPOP {k}|"
        "LSET {k} 0 c|LREM {k} 0 a|LTRIM {k} 1 9|LTRIM {k} 0 9|LINSERT {k} BEFORE a b|LMOVE {k} {d} LEFT LEFT|RPOPLPUSH {k} {d}|"
        "BLMOVE {k} {d} LEFT LEFT 0.01|BRPOPLPUSH {k} {d} 0.01|BLPOP {k} 0.01|BLPOP {k} {k} 0.01|BRPOP {k} 0.01|LMPOP 1 {k} LEFT|"
        "LMPOP 2 {k} other LEFT|BLMPOP 0.01 1 {k} LEFT|BLMPOP 0.01 2 {k} other RIGHT COUNT 2|SORT {k} ALPHA|"
        "SORT {k} BY weight* ALPHA|SORT_RO {k} ALPHA"
    ),
    "set": (
        "SMEMBERS {k}|SISMEMBER {k} a|SISMEMBER {k} absent|SMISMEMBER {k} a b|SCARD {k}|SRANDMEMBER {k}|SSCAN {k} 0|SINTER {k}|"
        "SUNION {k} {k}|SDIFF {k} other|SINTER {k} {k}|SUNION {k}|SDIFF {k}|SINTERCARD 1 {k}|SINTERCARD 2 {k} {k} LIMIT 1|"
        "SADD {k} c|SREM {k} a|SPOP {k}|SMOVE {k} {d} a|SINTERSTORE {d} {k}|SUNIONSTORE {d} {k} {k}|SDIFFSTORE {d} {k}"
    ),
    "zset": (
        "ZRANGE {k} 0 -1|ZREVRANGE {k} 0 -1|ZRANGEBYSCORE {k} 0 9|ZREVRANGEBYSCORE {k} 9 0|ZRANGEBYLEX {k} - +|"
        "ZREVRANGEBYLEX {k} + -|ZCOUNT {k} 0 9|ZLEXCOUNT {k} - +|ZSCORE {k} a|ZSCORE {k} absent|ZMSCORE {k} a|ZCARD {k}|"
        "ZRANK {k} a|ZREVRANK {k} a|ZSCAN {k} 0|ZRANDMEMBER {k}|ZINTER 2 {k} {k}|ZUNION 2 {k} other WITHSCORES|ZDIFF 1 {k}|"
        "ZINTERCARD 1 {k}|ZADD {k} 2 c|ZINCRBY {k} 1 a|ZREM {k} a|ZPOPMIN {k}|ZPOPMAX {k}|ZREMRANGEBYRANK {k} 0 0|"
        "ZREMRANGEBYSCORE {k} 1 1|ZREMRANGEBYLEX {k} [a [a|BZPOPMIN {k} 0.01|BZPOPMAX {k} 0.01|BZPOPMAX {k} {k} 0.01|"
        "ZMPOP 1 {k} MIN|BZMPOP 0.01 1 {k} MIN|ZINTERSTORE {d} 1 {k}|ZUNIONSTORE {d} 2 {k} {k} WEIGHTS 1 2|ZDIFFSTORE {d} 1 {k}|"
        "ZRANGESTORE {d} {k} 0 -1"
    ),
    "geo": (
        "GEOPOS {k} a|GEODIST {k} a a|GEOHASH {k} a|GEOSEARCH {k} FROMLONLAT 1 1 BYRADIUS 9 km|GEORADIUS {k} 1 1 9 km|"
        "GEORADIUS_RO {k} 1 1 9 km|GEORADIUSBYMEMBER {k} a 9 km|GEORADIUSBYMEMBER_RO {k} a 9 km|GEOADD {k} 1 1 c|"
        "GEOSEARCHSTORE {d} {k} FROMLONLAT 1 1 BYRADIUS 9 km"
    ),
    "stream": (
        "XRANGE {k} - +|XREVRANGE {k} + -|XLEN {k}|XPENDING {k} g|XINFO STREAM {k}|XINFO GROUPS {k}|XINFO CONSUMERS {k} g|"
        "XREAD STREAMS {k} 0|XREAD COUNT 1 STREAMS {k} {k} 0 0|XREADGROUP GROUP g c STREAMS {k} >|XADD {k} * f v|XACK {k} g 1-1|"
        "XCLAIM {k} g c 0 1-1|XAUTOCLAIM {k} g c 0 0|XDEL {k} 1-1|XTRIM {k} MAXLEN 0|XSETID {k} 9-1|"
        "XGROUP CREATE {k} new 0 MKSTREAM|XGROUP CREATECONSUMER {k} g c|XGROUP DELCONSUMER {k} g c|XGROUP DESTROY {k} g|"
        "XGROUP SETID {k} g 0"
    ),
}
# What makes a key of one element, and one of two.
MAKING = {
    "string": ("SET {k} 10", ""),
    "hyperloglog": ("PFADD {k} a", "PFADD {k} b"),
    "hash": ("HSET {k} f 1", "HSET {k} g 1"),
    "list": ("RPUSH {k} a", "RPUSH {k} b"),
    "set": ("SADD {k} a", "SADD {k} b"),
    "zset": ("ZADD {k} 1 a", "ZADD {k} 2 b"),
    "geo": ("GEOADD {k} 1 1 a", "GEOADD {k} 1 1 b"),
    "stream": ("XGROUP CREATE {k} g 0 MKSTREAM|XADD {k} 1-1 f v", "XADD {k} 2-1 f v"),
}
# None of these looks a key up by itself, or has one.
WITHOUT_KEYS = (
    "PING|ECHO x|TIME|DBSIZE|SCAN 0|KEYS *|RANDOMKEY|WAIT 0 1|EVAL return(1) 1 {k}|INFO|SELECT 0|OBJECT HELP|XINFO HELP"
)
# Their keys follow from the commands inside.
SCRIPTS = frozenset({"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"})
# Keys that the table does not follow: the server's answer beside the table's.
NOT_FOLLOWED = {
    "SORT k STORE d": (["k", "d"], ["k"]),  # the word STORE may stand anywhere, and is rare
    "GEORADIUS k 1 1 9 km STORE d": (["k", "d"], ["k"]),
    "GEORADIUSBYMEMBER k a 9 km STOREDIST d": (["k", "d"], ["k"]),
}
# Looked up otherwise than the table says: it knows neither whether the key is there nor what it holds.
COUNTED_OTHERWISE = {
    ("XREADGROUP GROUP g c STREAMS {k} >", "absent"): 1,  # fails after the first look-up: NOGROUP, WRONGTYPE
    ("XREADGROUP GROUP g c STREAMS {k} >", "another type"): 1,
    ("XREAD STREAMS {k} 0", "another type"): 1,
    ("SORT {k} BY weight* ALPHA", "one element"): 2,  # the weights
    ("SORT {k} BY weight* ALPHA", "two elements"): 3,
}
COUNTED_OTHERWISE_BY_62 = {("SET {k} v XX GET", "absent"): 0}
# Until 6.2 an empty result left the target as it was.
LEFT_BY_62 = frozenset({"GEOSEARCHSTORE"})


class Bench:
    """A server on which samples run, with the key under test absent or of one or two elements."""

    def __init__(self, url: str):
        self.client = redis.Redis.from_url(url, protocol=2, single_connection_client=True)
        self.before_7 = str(self.client.info("server")["redis_version"]).startswith("6.")
        self.client.set("x", "10")
        self.dump = self.client.dump("x")
        known = self.raw("COMMAND")
        self.commands = {
            entry[0].decode().upper().replace("|", " "): entry
            for command in known
            for entry in [command, *(command[9] if len(command) > 9 else [])]
        }
        # Redis and Valkey hang up on a browser that speaks HTTP to them; these are no commands.
        self.commands = {name: entry for name, entry in self.commands.items() if name not in ("HOST:", "POST")}

    def raw(self, *args: Any) -> Any:
        """Run a command, its reply as the server sends it."""
        connection = self.client.connection
        connection.send_command(*args)
        return connection.read_response()

    def words(self, sample: str) -> list[Any]:
        """Return the arguments of a sample."""
        return [self.dump if word == "{dump}" else word.format(k="k", d="d") for word in sample.split()]

    def samples(self, kind: str) -> Iterator[tuple[str, str, bool]]:
        """Yield the samples that this server knows, with the command's name, and whether it is the first of its name."""
        seen = set()
        for sample in SAMPLES[kind].split("|"):
            name = full_name(sample.split())
            if name in self.commands or (name.split()[0] in self.commands and self.before_7):
                yield sample, name, name not in seen
                seen.add(name)

    def make(self, key: str, kind: str, elements: int) -> None:
        """Make a key of one or two elements."""
        for making in MAKING[kind][:elements]:
            for command in filter(None, making.split("|")):
                self.raw(*command.format(k=key).split())

    def run(self, sample: str) -> None:
        """Run a sample; many fail on an absent key or one of another type."""
        with contextlib.suppress(redis.ResponseError):
            self.raw(*self.words(sample))

    def counted(self) -> int:
        """Return how many look-ups INFO counts."""
        stats = self.client.info("stats")
        return int(stats["keyspace_hits"]) + int(stats["keyspace_misses"])

    def state(self, key: str) -> tuple[bool, str, bool]:
        """Return whether a key exists, its type, and whether it has the long expiry that the test gave it."""
        return bool(self.client.exists(key)), self.client.type(key).decode(), 900 < self.client.ttl(key) <= 1000


@pytest.fixture(scope="module")
def bench(server_url: str) -> Iterator[Bench]:
    made = Bench(server_url)
    yield made
    made.client.flushall()
    made.client.close()


def test_every_command_of_the_server_is_in_the_table(bench: Bench):
    assert set(bench.commands) - set(rules()) == set()
    assert len(bench.commands) > 200


def test_every_command_with_a_key_has_a_sample(bench: Bench):
    sampled = {full_name(sample.split()) for forms in SAMPLES.values() for sample in forms.split("|")}
    with_keys = {name for name in bench.commands if rules()[name].form != Form.KEYLESS}
    containers = {"OBJECT", "MEMORY", "XINFO", "XGROUP"}  # alone they stand for subcommands that are not known
    assert with_keys - containers - sampled == {"MIGRATE"}  # needs a second server


def test_keys_stand_where_the_server_finds_them(bench: Bench):
    wrong = []
    for kind in SAMPLES:
        for sample, _, _ in bench.samples(kind):
            args = bench.words(sample)
            found = [key.decode() for key in bench.raw("COMMAND", "GETKEYS", *args)]
            texts = [str(arg) for arg in args]
            expected = [texts[use.index] for use in key_uses(texts)]
            if sorted(found) != sorted(expected):
                wrong.append((sample, found, expected))
    assert wrong == []
    for sample, (found, expected) in NOT_FOLLOWED.items():
        assert [key.decode() for key in bench.raw("COMMAND", "GETKEYS", *sample.split())] == found
        assert [sample.split()[use.index] for use in key_uses(sample.split())] == expected


def test_where_the_table_has_no_key_the_server_finds_none(bench: Bench):
    wrong = []
    for name, entry in bench.commands.items():
        if rules()[name].form == Form.KEYLESS and name not in SCRIPTS:
            args = name.split()
            args += ["1"] * (abs(entry[1]) - len(args))
            with contextlib.suppress(redis.ResponseError):
                wrong.append((name, bench.raw("COMMAND", "GETKEYS", *args)))
    assert wrong == []


@pytest.mark.parametrize("key", ["absent", "one element", "two elements", "another type"])
def test_expected_lookups_are_what_info_counts(bench: Bench, key: str):
    otherwise = COUNTED_OTHERWISE | (COUNTED_OTHERWISE_BY_62 if bench.before_7 else {})
    wrong = []
    for kind in SAMPLES:
        for sample, _, _ in bench.samples(kind):
            uses = key_uses([str(word) for word in bench.words(sample)], before_7=bench.before_7)
            if key == "another type" and len(uses) > 1:
                continue  # fails at the first of them
            bench.client.flushall()
            if key == "another type":
                bench.make("k", "string" if kind != "string" else "list", 1)
            else:
                bench.make("k", kind, {"absent": 0, "one element": 1, "two elements": 2}[key])
            before = bench.counted()
            bench.run(sample)
            risen = bench.counted() - before
            if risen != otherwise.get((sample, key), sum(use.lookups for use in uses)):
                wrong.append((sample, risen, [use.lookups for use in uses]))
            bench.raw("UNWATCH")
    assert wrong == []


def test_commands_without_keys_count_nothing(bench: Bench):
    before = bench.counted()
    for sample in WITHOUT_KEYS.split("|"):
        bench.run(sample)
        assert key_uses(bench.words(sample)) == ()
    assert bench.counted() == before


def test_a_script_counts_what_the_commands_inside_count(bench: Bench):
    before = bench.counted()
    bench.raw("EVAL", "redis.call('GET', KEYS[1]) return redis.call('SET', KEYS[1], 1)", "1", "k")
    assert bench.counted() - before == 1


def test_what_a_command_leaves_of_its_key(bench: Bench):
    wrong = []
    for kind in SAMPLES:
        for sample, name, plain in bench.samples(kind):
            rule = rules()[name]
            for elements in (0, 1, 2) if plain and not rule.target else ():
                bench.client.flushall()
                bench.make("k", kind, elements)
                bench.client.expire("k", 1000)
                bench.run(sample)
                exists, made, lasting = bench.state("k")
                gone = rule.removes or (elements == 1 and rule.may_empty)
                if exists != (not gone if elements else rule.creates):
                    wrong.append((sample, elements, "exists", exists))
                if exists and rule.type not in ("", made):
                    wrong.append((sample, elements, "type", made))
                if exists and elements and lasting != rule.keeps_ttl:
                    wrong.append((sample, elements, "keeps its expiry", lasting))
            bench.raw("UNWATCH")
    assert wrong == []


def test_what_a_command_leaves_of_its_source_and_its_target(bench: Bench):
    wrong = []
    for kind in SAMPLES:
        for sample, name, plain in bench.samples(kind):
            rule = rules()[name]
            for elements in (0, 1, 2) if plain and rule.target else ():
                bench.client.flushall()
                bench.make("k", kind, elements)
                if name != "RENAMENX":  # does nothing where there is a target
                    bench.make("d", kind, 1)
                    bench.client.expire("d", 1000)
                had_target = bench.state("d")[0]
                bench.run(sample)
                source, (target, made, lasting) = bench.state("k")[0], bench.state("d")
                taken = rule.removes or (elements == 1 and rule.may_empty and rule.op == "write")
                if source != (elements > 0 and not taken):
                    wrong.append((sample, elements, "the source exists", source))
                stored_nothing = not elements and rule.may_empty and rule.op == "read"
                kept = had_target and (not stored_nothing or (bench.before_7 and name in LEFT_BY_62))
                if target != (rule.creates if elements else kept):
                    wrong.append((sample, elements, "the target exists", target))
                if elements and rule.type not in ("", made):
                    wrong.append((sample, elements, "type", made))
                if elements and had_target and lasting != rule.keeps_ttl:
                    wrong.append((sample, elements, "keeps its expiry", lasting))
    assert wrong == []


@pytest.mark.parametrize("sample", ["RENAME {k} {d}", "RENAMENX {k} {d}", "COPY {k} {d}"])
def test_an_expiry_moves_with_the_value(bench: Bench, sample: str):
    bench.client.flushall()
    bench.make("k", "string", 1)
    bench.client.expire("k", 1000)
    bench.run(sample)
    assert bench.state("d") == (True, "string", True)


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
