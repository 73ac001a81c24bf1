"""The Redis command table: where keys stand, what a command does to them, what INFO counts.

The look-up counts are measured facts (154 invocations on Redis 6.2.5, 7.0.15 and Valkey 9.1.2,
key present and absent); `tests/live/test_command_table.py` checks them against a live server.
Commands that are not listed are taken to have their first argument as key and op ``other``
without counted look-ups, unless they are known to have no key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache


@dataclass(frozen=True, slots=True)
class KeyUse:
    """One key of one command.

    index : position in the argument list, the command's name being 0
    op : ``read``, ``write``, ``delete``, ``expire`` or ``other``
    lookups : how many look-ups INFO counts for this key (0, 1 or 2)
    value_index : position of the value written to it, or None
    """

    index: int
    op: str
    lookups: int
    value_index: int | None = None


@dataclass(frozen=True, slots=True)
class _Rule:
    op: str
    first: int = 1
    last: int = 1  # negative counts from the end
    step: int = 1
    lookups: int = 0
    value: int | None = None  # offset of the value from its key


_RULES: dict[str, _Rule] = {}


def _declare(names: str, rule: _Rule) -> None:
    _RULES.update(dict.fromkeys(names.split(), rule))


# One look-up of the first argument: a hit if the key exists, whatever the field or the type.
_declare(
    "GET GETRANGE SUBSTR STRLEN TTL PTTL EXPIRETIME PEXPIRETIME TYPE DUMP "
    "HGET HMGET HGETALL HKEYS HVALS HEXISTS HLEN HSTRLEN HRANDFIELD HSCAN "
    "LRANGE LLEN LINDEX LPOS SMEMBERS SISMEMBER SMISMEMBER SCARD SRANDMEMBER SSCAN "
    "ZRANGE ZREVRANGE ZRANGEBYSCORE ZREVRANGEBYSCORE ZRANGEBYLEX ZREVRANGEBYLEX ZCOUNT ZLEXCOUNT "
    "ZSCORE ZMSCORE ZCARD ZRANK ZREVRANK ZSCAN ZRANDMEMBER "
    "XRANGE XREVRANGE XLEN XPENDING GETBIT BITCOUNT BITPOS BITFIELD_RO "
    "GEOPOS GEODIST GEOHASH GEOSEARCH GEORADIUS_RO GEORADIUSBYMEMBER_RO SORT_RO",
    _Rule("read", lookups=1),
)
_declare("GETDEL", _Rule("read", lookups=1))
_declare("GETEX", _Rule("read", lookups=1))
_declare("GETSET", _Rule("write", lookups=1, value=1))
_declare("BITFIELD GEORADIUS GEORADIUSBYMEMBER SORT", _Rule("read", lookups=1))
_declare("MGET EXISTS TOUCH SINTER SUNION SDIFF", _Rule("read", last=-1, lookups=1))
_declare("PFCOUNT", _Rule("read", last=-1, lookups=1))
_declare("LCS", _Rule("read", last=2, lookups=1))
# Container commands: the key stands after the subcommand. OBJECT counts, but sends no keymiss.
_declare("XINFO", _Rule("read", first=2, last=2, lookups=1))
_declare("OBJECT", _Rule("read", first=2, last=2, lookups=1))
_declare("MEMORY", _Rule("other", first=2, last=2))
# Writes: never counted.
_declare("SET SETNX", _Rule("write", value=1))
_declare("SETEX PSETEX", _Rule("write", value=2))
_declare("MSET MSETNX", _Rule("write", last=-1, step=2, value=1))
_declare("APPEND", _Rule("write", value=1))
_declare(
    "SETRANGE INCR INCRBY INCRBYFLOAT DECR DECRBY SETBIT PFADD RESTORE "
    "HSET HMSET HSETNX HINCRBY HINCRBYFLOAT HDEL RPUSH RPUSHX LPUSH LPUSHX LPOP RPOP LSET LREM LTRIM "
    "LINSERT SADD SREM SPOP ZADD ZINCRBY ZREM ZPOPMIN ZPOPMAX ZREMRANGEBYRANK ZREMRANGEBYSCORE "
    "ZREMRANGEBYLEX XADD XTRIM XDEL XSETID GEOADD",
    _Rule("write"),
)
_declare("XACK XCLAIM XAUTOCLAIM", _Rule("write", lookups=1))
_declare("HTTL HPTTL HEXPIRETIME HPEXPIRETIME HGETEX", _Rule("read", lookups=1))
_declare("RENAME RENAMENX LMOVE RPOPLPUSH BLMOVE BRPOPLPUSH SMOVE", _Rule("write", last=2))
_declare("XGROUP", _Rule("write", first=2, last=2))
_declare("DEL UNLINK", _Rule("delete", last=-1))
_declare("MOVE", _Rule("delete"))
_declare("EXPIRE PEXPIRE EXPIREAT PEXPIREAT PERSIST", _Rule("expire"))
_declare("WATCH", _Rule("other", last=-1))
_declare("BLPOP BRPOP BZPOPMIN BZPOPMAX", _Rule("write", last=-2))

_STORES = frozenset(["SINTERSTORE", "SUNIONSTORE", "SDIFFSTORE", "PFMERGE"])
_NUMKEYS_FIRST = frozenset(["ZINTER", "ZUNION", "ZDIFF", "SINTERCARD", "ZINTERCARD"])
_NUMKEYS_STORES = frozenset(["ZINTERSTORE", "ZUNIONSTORE", "ZDIFFSTORE"])
_STREAM_READS = frozenset({"XREAD", "XREADGROUP"})
_SCRIPTS = frozenset(["EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"])

KEYLESS = frozenset(
    [
        "ACL",
        "ASKING",
        "AUTH",
        "BGREWRITEAOF",
        "BGSAVE",
        "CLIENT",
        "CLUSTER",
        "COMMAND",
        "COMMANDLOG",
        "CONFIG",
        "DBSIZE",
        "DEBUG",
        "DISCARD",
        "ECHO",
        "EXEC",
        "FAILOVER",
        "FLUSHALL",
        "FLUSHDB",
        "FUNCTION",
        "HELLO",
        "INFO",
        "KEYS",
        "LASTSAVE",
        "LATENCY",
        "LOLWUT",
        "MODULE",
        "MONITOR",
        "MULTI",
        "PING",
        "PSUBSCRIBE",
        "PSYNC",
        "PUBLISH",
        "PUBSUB",
        "PUNSUBSCRIBE",
        "QUIT",
        "RANDOMKEY",
        "READONLY",
        "READWRITE",
        "REPLCONF",
        "REPLICAOF",
        "RESET",
        "ROLE",
        "SAVE",
        "SCAN",
        "SCRIPT",
        "SELECT",
        "SHUTDOWN",
        "SLAVEOF",
        "SLOWLOG",
        "SPUBLISH",
        "SSUBSCRIBE",
        "SUBSCRIBE",
        "SUNSUBSCRIBE",
        "SWAPDB",
        "SYNC",
        "TIME",
        "UNSUBSCRIBE",
        "UNWATCH",
        "WAIT",
        "WAITAOF",
    ]
)
CONTAINERS = frozenset(
    [
        "ACL",
        "CLIENT",
        "CLUSTER",
        "COMMAND",
        "COMMANDLOG",
        "CONFIG",
        "DEBUG",
        "FUNCTION",
        "LATENCY",
        "MEMORY",
        "MODULE",
        "OBJECT",
        "PUBSUB",
        "SCRIPT",
        "SLOWLOG",
        "XGROUP",
        "XINFO",
    ]
)
FLUSHES = frozenset({"FLUSHALL", "FLUSHDB"})
# OBJECT on an absent key counts a miss but sends no event: no verdict from events.
NO_KEYMISS_EVENT = frozenset({"OBJECT"})
# Commands whose success shows as a `set` key event (flag $).
STRING_WRITES = frozenset(["SET", "SETNX", "SETEX", "PSETEX", "MSET", "MSETNX", "GETSET"])


# Their sources' look-ups are counted, and missed with an event, from Redis 7 on; not by 6.2 (measured).
COUNTED_FROM_7 = frozenset(
    ["COPY", "PFCOUNT", "SINTERSTORE", "SUNIONSTORE", "SDIFFSTORE", "ZINTERSTORE", "ZUNIONSTORE", "ZDIFFSTORE", "ZRANGESTORE"]
)


def full_name(args: Sequence[str]) -> str:
    """Return the command's name in upper case, with the subcommand of a container command."""
    name = args[0].upper()
    if name in CONTAINERS and len(args) > 1:
        return f"{name} {args[1].upper()}"
    return name


@cache
def _fixed_uses(name: str, count: int) -> tuple[KeyUse, ...]:
    """Key uses that depend only on the name and the number of arguments."""
    if name in KEYLESS:
        return ()
    rule = _RULES.get(name, _Rule("other"))
    last = rule.last if rule.last >= 0 else count + rule.last
    return tuple(
        KeyUse(i, rule.op, rule.lookups, None if rule.value is None else i + rule.value)
        for i in range(rule.first, min(last, count - 1) + 1, rule.step)
        if rule.value is None or i + rule.value < count
    )


def _sources(first: int, last: int, count: int) -> list[KeyUse]:
    return [KeyUse(i, "read", 1) for i in range(first, min(last, count - 1) + 1)]


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def key_uses(args: Sequence[str], *, before_7: bool = False) -> tuple[KeyUse, ...]:
    """Return the keys of a command, in the order in which the server looks them up.

    Parameters
    ----------
    args : sequence of str
        The arguments in Redis's printable escape, the command's name first, in any case.
    before_7 : bool
        The server is Redis 6.2, which does not count the look-ups of `COUNTED_FROM_7`.

    Returns
    -------
    tuple of KeyUse
        Empty for a command without keys, and for arguments too few to tell.
    """
    uses = _key_uses(args)
    if before_7 and args[0].upper() in COUNTED_FROM_7:
        return tuple(replace(use, lookups=0) for use in uses)
    return uses


def _key_uses(args: Sequence[str]) -> tuple[KeyUse, ...]:
    name, count = args[0].upper(), len(args)
    if name == "SET":
        # SET … GET looks the old value up, and INFO counts that look-up.
        looks_up = any(option.upper() == "GET" for option in args[3:])
        return (KeyUse(1, "write", int(looks_up), 2),) if count > 2 else ()
    if name in _STREAM_READS:
        at = next((i for i, arg in enumerate(args) if arg.upper() == "STREAMS"), count)
        keys = (count - at - 1) // 2
        return tuple(KeyUse(at + 1 + i, "read", 2) for i in range(keys))
    if name in _NUMKEYS_FIRST:
        return tuple(_sources(2, 1 + _number(args[1]), count)) if count > 2 else ()
    if name in _NUMKEYS_STORES and count > 3:
        return (*_sources(3, 2 + _number(args[2]), count), KeyUse(1, "write", 0))
    if name in _STORES and count > 2:
        destination = KeyUse(1, "write", 1 if name == "PFMERGE" else 0)
        return (*_sources(2, count - 1, count), destination)
    if name == "BITOP" and count > 3:
        return (*_sources(3, count - 1, count), KeyUse(2, "write", 0))
    if name in ("COPY", "ZRANGESTORE", "GEOSEARCHSTORE") and count > 2:
        source, target = (1, 2) if name == "COPY" else (2, 1)
        return (KeyUse(source, "read", 1), KeyUse(target, "write", 0))
    if name in _SCRIPTS:
        # The script's own commands follow as lines of client 'lua'; the call itself counts nothing.
        return ()
    return _fixed_uses(name, count)
