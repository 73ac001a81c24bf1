"""The Redis command table: where keys stand, what a command does to them, what INFO counts.

Two sources make one table. ``commands.csv`` is what servers say of their commands (Valkey 9.1, Redis 7.0
and 6.2; ``tools/make_commands.py`` writes it). What no server says is declared below: counted look-ups,
values, times to live and effects, each measured on the three servers with the key present and absent;
`tests/live/test_command_table.py` checks them against live servers. Commands of modules and of Redis 8
that none of the three has are declared from their documentation, without counted look-ups.
Of any other command the first argument is taken for a key, with op ``other``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any


class Form(IntEnum):
    """How a command's keys are found.

    KEYLESS : it has none; scripts are here, too: what they do follows as lines of client ``lua``
    RANGE : `first` to `last` by `step`; a negative `last` counts from the end
    STREAMS : after the word STREAMS, the first half of the rest
    COUNTED : argument `first` - 1 is their number; they begin at `first`, by `step`
    SOURCES : `first` to the end
    SET : as RANGE; the option GET makes it one counted look-up, without it is none
    PAIR : `first` alone, and the target
    """

    KEYLESS = 0
    RANGE = 1
    STREAMS = 2
    COUNTED = 3
    SOURCES = 4
    SET = 5
    PAIR = 6


@dataclass(frozen=True, slots=True)
class Rule:
    """What the table knows of one command.

    form : how its keys are found, a `Form`
    first, last, step : their positions, the command's name being 0
    target : position of the key that is written beside the keys read, 0 without
    op : ``read``, ``write``, ``delete``, ``expire`` or ``other``
    lookups : look-ups that INFO counts for each key (0, 1 or 2)
    target_op, target_lookups : the same of the target
    value : offset of the value behind its key, 0 without
    ttl_at, ttl_form : position of the argument that is the key's time to live (0 without), and its form
    options_at : where options like EX and NX begin, 0 without; with `Form.COUNTED` behind so many keys × `step`
    creates : after a success the key exists
    removes : after a success the key is gone
    type : what TYPE says of a key it makes or expects, "" for any
    keeps_ttl : unless an option says otherwise, the expiry the key had stays
    may_empty : it may take the last element, and the key with it

    `creates`, `type` and `keeps_ttl` are said of the target where there is one; `removes` of the keys;
    `may_empty` of the keys that are written, or of the target where they are only read: storing nothing deletes it.
    """

    form: int = Form.RANGE
    first: int = 1
    last: int = 1
    step: int = 1
    target: int = 0
    op: str = "other"
    lookups: int = 0
    target_op: str = ""
    target_lookups: int = 0
    value: int = 0
    ttl_at: int = 0
    ttl_form: str = ""
    options_at: int = 0
    creates: bool = False
    removes: bool = False
    type: str = ""
    keeps_ttl: bool = True
    may_empty: bool = False


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


_UNKNOWN = Rule()
_TYPES = {
    "string": "string",
    "bitmap": "string",
    "hyperloglog": "string",
    "hash": "hash",
    "list": "list",
    "set": "set",
    "sorted-set": "zset",
    "geo": "zset",
    "stream": "stream",
}


def _said_by_servers() -> dict[str, Rule]:
    """Return what servers say of their commands, by full name."""
    rules = {}
    with Path(__file__).with_name("commands.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            first, last, flags = int(row["first"]), int(row["last"]), row["flags"].split()
            # Without either, SWAPDB and its like "write" no key that could be named.
            has_keys = first > 0 or "movablekeys" in flags
            rules[row["name"]] = Rule(
                form=Form.RANGE if first else Form.KEYLESS,
                first=first,
                last=last,
                step=int(row["step"]) or 1,
                op="other" if not has_keys else "write" if "write" in flags else "read" if "readonly" in flags else "other",
                type=_TYPES.get(row["group"], "") if has_keys else "",
            )
    return rules


_RULES = _said_by_servers()
CONTAINERS = frozenset({name.split()[0] for name in _RULES if " " in name} | {"DEBUG", "HOTKEYS"})


def _declare(names: str, **changes: Any) -> None:
    """Change the rules of commands; one that no server says begins as the rule of an unknown command."""
    # "OBJECT/*" is the container and those of its subcommands that have a key.
    for name in names.split():
        container = name.removesuffix("/*")
        chosen = [container]
        if container != name:
            chosen += [full for full, rule in _RULES.items() if full.startswith(f"{container} ") and rule.first]
        for full in chosen:
            _RULES[full] = replace(_RULES.get(full, _UNKNOWN), **changes)


# --- Where keys stand, if not from a first to a last argument -------------------------------------

_declare("XREAD XREADGROUP", form=Form.STREAMS, first=0, last=0, op="read")
_declare("ZINTER ZUNION ZDIFF SINTERCARD ZINTERCARD LMPOP ZMPOP", form=Form.COUNTED, first=2, last=0)
_declare("SUNIONCARD SDIFFCARD", form=Form.COUNTED, first=2, last=0, op="read")
_declare("BLMPOP BZMPOP", form=Form.COUNTED, first=3, last=0)  # behind the timeout
_declare("MSETEX", form=Form.COUNTED, first=2, last=0, step=2)
_declare("ZINTERSTORE ZUNIONSTORE ZDIFFSTORE", form=Form.COUNTED, first=3, last=0, target=1, op="read", target_op="write")
_declare(
    "SINTERSTORE SUNIONSTORE SDIFFSTORE PFMERGE", form=Form.SOURCES, first=2, last=-1, target=1, op="read", target_op="write"
)
_declare("BITOP", form=Form.SOURCES, first=3, last=-1, target=2, op="read", target_op="write")
_declare("COPY", form=Form.PAIR, last=1, target=2, op="read", target_op="write")
_declare("ZRANGESTORE GEOSEARCHSTORE", form=Form.PAIR, first=2, last=2, target=1, op="read", target_op="write")
_declare(
    "RENAME RENAMENX LMOVE RPOPLPUSH BLMOVE BRPOPLPUSH LMOVEM BLMOVEM SMOVE",
    form=Form.PAIR,
    last=1,
    target=2,
    op="write",
    target_op="write",
)
_declare("SET BITFIELD", form=Form.SET)
_declare("EVAL EVALSHA EVAL_RO EVALSHA_RO FCALL FCALL_RO", form=Form.KEYLESS, op="other")
# The key stands after the subcommand; a subcommand unknown here is taken to have one, too.
_declare("OBJECT MEMORY XINFO XGROUP", form=Form.RANGE, first=2, last=2)
_declare("STRALGO", form=Form.RANGE, first=3, last=4)  # 6.2: STRALGO LCS KEYS a b
_declare("DEBUG HOTKEYS", form=Form.KEYLESS, first=0, last=0)

# --- What INFO counts ---------------------------------------------------------------------------

# One look-up for each key read: a hit if the key exists, whatever the field or the type.
_declare(
    "GET GETRANGE SUBSTR STRLEN TTL PTTL EXPIRETIME PEXPIRETIME TYPE DUMP MGET EXISTS TOUCH LCS "
    "HGET HMGET HGETALL HKEYS HVALS HEXISTS HLEN HSTRLEN HRANDFIELD HSCAN "
    "HTTL HPTTL HEXPIRETIME HPEXPIRETIME "
    "LRANGE LLEN LINDEX LPOS SMEMBERS SISMEMBER SMISMEMBER SCARD SRANDMEMBER SSCAN SINTER SUNION SDIFF SINTERCARD "
    "ZRANGE ZREVRANGE ZRANGEBYSCORE ZREVRANGEBYSCORE ZRANGEBYLEX ZREVRANGEBYLEX ZCOUNT ZLEXCOUNT "
    "ZSCORE ZMSCORE ZCARD ZRANK ZREVRANK ZSCAN ZRANDMEMBER ZINTER ZUNION ZDIFF ZINTERCARD "
    "XRANGE XREVRANGE XLEN XPENDING XINFO/* OBJECT/* PFCOUNT GETBIT BITCOUNT BITPOS BITFIELD_RO "
    "GEOPOS GEODIST GEOHASH GEOSEARCH GEORADIUS_RO GEORADIUSBYMEMBER_RO SORT_RO STRALGO",
    op="read",
    lookups=1,
)
# These write, too, but a cache reads through them.
_declare("GETDEL GETEX HGETEX GEORADIUS GEORADIUSBYMEMBER SORT", op="read", lookups=1)
_declare("BITFIELD", op="read")  # counted for its GET alone, not for SET and INCRBY
_declare("GETSET XACK XCLAIM XAUTOCLAIM", lookups=1)
_declare("XREAD XREADGROUP", lookups=2)
_declare(
    "BITOP COPY SINTERSTORE SUNIONSTORE SDIFFSTORE ZINTERSTORE ZUNIONSTORE ZDIFFSTORE ZRANGESTORE GEOSEARCHSTORE",
    lookups=1,
)
_declare("PFMERGE", lookups=1, target_lookups=1)

# --- What they do to the key, where the server's flags do not tell ------------------------------

_declare("DEL UNLINK MOVE MIGRATE DELIFEQ DELEX", op="delete", removes=True)
_declare("GETDEL RENAME RENAMENX", removes=True)
_declare("FLUSHALL FLUSHDB", op="delete", removes=True)  # every key
_declare("WATCH MEMORY/*", op="other")
_declare("XGROUP", op="write")
_declare(
    "SET SETEX PSETEX GETSET MSET MSETEX RESTORE RESTORE-ASKING "
    "BITOP SINTERSTORE SUNIONSTORE SDIFFSTORE ZINTERSTORE ZUNIONSTORE ZDIFFSTORE ZRANGESTORE GEOSEARCHSTORE "
    "COPY RENAME RENAMENX",
    creates=True,
    keeps_ttl=False,  # a new value without an expiry; COPY and RENAME bring the one of their source
)
_declare(
    "SETNX MSETNX APPEND INCR INCRBY INCRBYFLOAT INCREX DECR DECRBY SETRANGE SETBIT BITFIELD PFADD PFMERGE "
    "HSET HMSET HSETNX HSETEX HINCRBY HINCRBYFLOAT LPUSH RPUSH LMOVE BLMOVE LMOVEM BLMOVEM RPOPLPUSH BRPOPLPUSH "
    "SADD SMOVE ZADD ZINCRBY GEOADD XADD",
    creates=True,
)
_RULES["XGROUP CREATE"] = replace(_RULES["XGROUP CREATE"], creates=True)  # MKSTREAM, else it fails
# Storing nothing, taking the last element, or giving the last field a time to live that is past.
_declare(
    "BITOP SINTERSTORE SUNIONSTORE SDIFFSTORE ZINTERSTORE ZUNIONSTORE ZDIFFSTORE ZRANGESTORE GEOSEARCHSTORE "
    "HDEL HGETDEL HGETEX HEXPIRE HPEXPIRE HEXPIREAT HPEXPIREAT LPOP RPOP LMPOP BLPOP BRPOP BLMPOP LREM LTRIM "
    "LMOVE BLMOVE LMOVEM BLMOVEM RPOPLPUSH BRPOPLPUSH SREM SPOP SMOVE "
    "ZREM ZPOPMIN ZPOPMAX ZMPOP BZPOPMIN BZPOPMAX BZMPOP ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREMRANGEBYLEX",
    may_empty=True,
)
_declare("EXPIRE PEXPIRE EXPIREAT PEXPIREAT PERSIST", op="expire", keeps_ttl=False)

# --- Values and times to live -------------------------------------------------------------------

_declare("SET SETNX GETSET APPEND MSET MSETNX MSETEX", value=1)
_declare("SETEX PSETEX", value=2)
for _name in ("SETEX", "PSETEX", "EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT"):
    _declare(_name, ttl_at=2, ttl_form=_name)
# HEXPIRE, HSETEX and HGETEX give times to live to fields, not to the key.
_declare("SET EXPIRE PEXPIRE EXPIREAT PEXPIREAT", options_at=3)
_declare("GETEX BITFIELD DELEX INCREX MSETEX", options_at=2)

# --- Redis 8 and modules: from their documentation ----------------------------------------------

_declare("DIGEST ARCOUNT ARGET ARGETRANGE ARGREP ARINFO ARLASTITEMS ARLEN ARMGET ARNEXT AROP ARSCAN", op="read")
_declare("ARDEL ARDELRANGE ARINSERT ARMSET ARRING ARSEEK ARSET XACKDEL XDELEX XNACK XCFGSET", op="write")
_declare("VCARD VDIM VEMB VGETATTR VINFO VISMEMBER VLINKS VRANDMEMBER VRANGE VSIM", op="read")
_declare("VADD VREM VSETATTR", op="write")
_declare(
    "JSON.ARRINDEX JSON.ARRLEN JSON.GET JSON.OBJKEYS JSON.OBJLEN JSON.RESP JSON.STRLEN JSON.TYPE "
    "BF.CARD BF.EXISTS BF.INFO BF.MEXISTS BF.SCANDUMP "
    "CF.COUNT CF.EXISTS CF.INFO CF.MEXISTS CF.SCANDUMP CMS.INFO CMS.QUERY TOPK.COUNT TOPK.INFO TOPK.LIST TOPK.QUERY "
    "TDIGEST.BYRANK TDIGEST.BYREVRANK TDIGEST.CDF TDIGEST.INFO TDIGEST.MAX TDIGEST.MIN TDIGEST.QUANTILE TDIGEST.RANK "
    "TDIGEST.REVRANK TDIGEST.TRIMMED_MEAN TS.GET TS.INFO TS.RANGE TS.REVRANGE FT.SUGGET FT.SUGLEN",
    op="read",
)
_declare("JSON.MGET", last=-2, op="read")  # the path stands last
_declare("JSON.DEBUG", first=2, last=2, op="read")
_declare(
    "JSON.ARRAPPEND JSON.ARRINSERT JSON.ARRPOP JSON.ARRTRIM JSON.CLEAR JSON.DEL JSON.FORGET JSON.MERGE JSON.NUMINCRBY "
    "JSON.NUMMULTBY JSON.NUMPOWBY JSON.SET JSON.STRAPPEND JSON.TOGGLE "
    "BF.ADD BF.INSERT BF.LOAD BF.LOADCHUNK BF.MADD BF.RESERVE "
    "CF.ADD CF.ADDNX CF.DEL CF.INSERT CF.INSERTNX CF.LOADCHUNK CF.RESERVE CMS.INCRBY CMS.INITBYDIM CMS.INITBYPROB "
    "TOPK.ADD TOPK.INCRBY TOPK.RESERVE TDIGEST.ADD TDIGEST.CREATE TDIGEST.RESET "
    "TS.ADD TS.ALTER TS.CREATE TS.DECRBY TS.DEL TS.INCRBY FT.SUGADD FT.SUGDEL",
    op="write",
)
_declare("JSON.MSET TS.MADD", last=-1, step=3, op="write")
_declare("CMS.MERGE TDIGEST.MERGE", form=Form.COUNTED, first=3, last=0, target=1, op="read", target_op="write")
_declare("TS.CREATERULE TS.DELETERULE", form=Form.PAIR, target=2, op="write", target_op="write")
# They choose their series by label.
_declare("TS.MGET TS.MRANGE TS.MREVRANGE TS.QUERYINDEX TS.QUERYLABELS", form=Form.KEYLESS, first=0, last=0)
# An index, an alias or a dictionary is no key.
_declare(
    "FT._LIST FT.AGGREGATE FT.ALIASADD FT.ALIASDEL FT.ALIASLIST FT.ALIASUPDATE FT.ALTER FT.CONFIG FT.CREATE FT.CURSOR "
    "FT.DICTADD FT.DICTDEL FT.DICTDUMP FT.DROP FT.DROPINDEX FT.EXPLAIN FT.EXPLAINCLI FT.HYBRID FT.INFO FT.PROFILE "
    "FT.SEARCH FT.SPELLCHECK FT.SYNDUMP FT.SYNUPDATE FT.TAGVALS",
    form=Form.KEYLESS,
    first=0,
    last=0,
)

# Where the keys stand depends on what the arguments are, not only on how many.
_BY_ARGUMENTS = frozenset(name for name, rule in _RULES.items() if rule.form in (Form.SET, Form.STREAMS, Form.COUNTED))
KEYLESS = frozenset(name for name, rule in _RULES.items() if rule.form == Form.KEYLESS and " " not in name)
FLUSHES = frozenset({"FLUSHALL", "FLUSHDB"})
#: Commands without a key of their own that change what is known of all keys of a database or server.
SWEEPING = FLUSHES | {"SWAPDB", "MIGRATE", "CLUSTER FLUSHSLOT"}
# OBJECT on an absent key counts a miss but sends no event: no verdict from events.
NO_KEYMISS_EVENT = frozenset({"OBJECT"})
# Commands whose success shows as a `set` key event (flag $).
STRING_WRITES = frozenset(["SET", "SETNX", "SETEX", "PSETEX", "MSET", "MSETNX", "MSETEX", "GETSET"])
# Their sources' look-ups are counted, and missed with an event, from Redis 7 on; not by 6.2 (measured).
COUNTED_FROM_7 = frozenset(
    ["COPY", "PFCOUNT", "SINTERSTORE", "SUNIONSTORE", "SDIFFSTORE", "ZINTERSTORE", "ZUNIONSTORE", "ZDIFFSTORE", "ZRANGESTORE"]
)


def rules() -> Mapping[str, Rule]:
    """Return every command's rule, by upper-case full name.

    A container command is there with its subcommands (``OBJECT ENCODING``) and, for those unknown, alone.
    """
    return MappingProxyType(_RULES)


def full_name(args: Sequence[str]) -> str:
    """Return the command's name in upper case, with the subcommand of a container command."""
    name = args[0].upper()
    if name in CONTAINERS and len(args) > 1:
        return f"{name} {args[1].upper()}"
    return name


def _name_of_rule(args: Sequence[str]) -> str:
    """Return the name under which the table has the command, "" where it has not."""
    name = args[0].upper()
    if name in CONTAINERS and (full := full_name(args)) in _RULES:
        return full
    return name if name in _RULES else ""


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _uses(name: str, positions: Iterable[int], count: int, before_7: bool, lookups: int | None = None) -> tuple[KeyUse, ...]:
    """Return the uses of the keys at `positions`, as far as there are so many arguments, and of the target."""
    rule = _RULES.get(name, _UNKNOWN)
    # Redis 6.2 does count a PFCOUNT of several keys (measured).
    counts = not before_7 or name not in COUNTED_FROM_7 or (name == "PFCOUNT" and count > 2)
    each = rule.lookups if lookups is None else lookups
    uses = [
        KeyUse(at, rule.op, each if counts else 0, at + rule.value if rule.value else None)
        for at in positions
        if at + rule.value < count
    ]
    if rule.target and rule.target < count:
        uses.append(KeyUse(rule.target, rule.target_op, rule.target_lookups if counts else 0))
    return tuple(uses)


@lru_cache(maxsize=4096)
def _fixed_uses(name: str, count: int, before_7: bool) -> tuple[KeyUse, ...]:
    """Key uses that depend only on the name and the number of arguments."""
    rule = _RULES.get(name, _UNKNOWN)
    if rule.form == Form.KEYLESS:
        return ()
    last = rule.last if rule.last >= 0 else count + rule.last
    return _uses(name, range(rule.first, min(last, count - 1) + 1, rule.step), count, before_7)


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
    name, count = _name_of_rule(args), len(args)
    if name not in _BY_ARGUMENTS:
        return _fixed_uses(name, count, before_7)
    rule = _RULES[name]
    if rule.form == Form.SET:
        # SET … GET looks the old value up, and INFO counts that look-up.
        looks_up = any(option.upper() == "GET" for option in args[rule.options_at :])
        return _uses(name, (rule.first,), count, before_7, int(looks_up))
    if rule.form == Form.STREAMS:
        at = next((i for i, arg in enumerate(args) if arg.upper() == "STREAMS"), count)
        return _uses(name, range(at + 1, at + 1 + (count - at - 1) // 2), count, before_7)
    keys = _number(args[rule.first - 1]) if count >= rule.first else 0
    return _uses(name, range(rule.first, min(rule.first + keys * rule.step, count), rule.step), count, before_7)
