"""What each row of a shard does to its key: what a command stands for, and what Python calls of `rows_kernel`, without numba."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from coldcache.commands import STRING_WRITES, Form, Rule, rules
from coldcache.keys.numbering import numbers_of
from coldcache.replay import state_codes as codes
from coldcache.replay.windows import Windows, window_of
from coldcache.shards.shard import SPREAD, Shard, Vocabulary
from coldcache.sources.arrays import address, compiled, handed, place, places

# A command's time to live counts from its start, its line is stamped at its end: a key is judged only
# further than this from its deadline. Ten times a time slice of the scheduler, a thousand times a usual command.
SLACK_MS = 50.0
_TYPES = {name: number for number, name in enumerate(("", "string", "hash", "list", "set", "zset", "stream"))}
_FLAGS = {
    "NX": codes.NX, "XX": codes.XX, "GT": codes.GT, "LT": codes.LT,
    "KEEPTTL": codes.KEEPTTL, "GET": codes.GET, "PERSIST": codes.PERSISTS,
}  # fmt: skip
_ABSOLUTE = frozenset({"EXAT", "PXAT", "EXPIREAT", "PEXPIREAT"})
MS_FAR = 1 << 50  # milliseconds beyond which a time to live is as good as 35,000 years

# What commands do that their rule does not say; a target's effect stands behind the key's.
_EFFECTS = {
    "SET": codes.STORE, "SETEX": codes.STORE, "PSETEX": codes.STORE, "MSET": codes.STORE,
    "SETNX": codes.STORE, "GETSET": codes.STORE, "MSETNX": codes.MAYBE_ADD,
    "EXPIRE": codes.EXPIRE, "PEXPIRE": codes.EXPIRE, "EXPIREAT": codes.EXPIRE, "PEXPIREAT": codes.EXPIRE,
    "PERSIST": codes.PERSIST, "GETEX": codes.GETEX, "GETDEL": codes.GETDEL, "DEL": codes.REMOVE, "UNLINK": codes.REMOVE,
    "DELIFEQ": codes.MAYBE_REMOVE, "DELEX": codes.MAYBE_REMOVE, "MOVE": codes.MAYBE_REMOVE,
    # Their value, options or time to live are not in the table of accesses.
    "RESTORE": codes.FORGET, "RESTORE-ASKING": codes.FORGET, "MSETEX": codes.FORGET, "INCREX": codes.FORGET,
    "HSETEX": codes.FORGET,
    # Options may keep these from creating the key: ZADD XX, XADD NOMKSTREAM, BITFIELD GET, SETRANGE of "".
    "ZADD": codes.MAYBE_ADD, "GEOADD": codes.MAYBE_ADD, "XADD": codes.MAYBE_ADD, "BITFIELD": codes.MAYBE_ADD,
    "SETRANGE": codes.MAYBE_ADD, "XGROUP CREATE": codes.MAYBE_ADD,
    "FLUSHDB": codes.FLUSH_DB, "FLUSHALL": codes.FLUSH_NODE,
    "SWAPDB": codes.FORGET_NODE, "MIGRATE": codes.FORGET_NODE, "CLUSTER FLUSHSLOT": codes.FORGET_NODE,
}  # fmt: skip
_PAIRS = {
    "RENAME": (codes.RENAME_FROM, codes.RENAME_TO),
    "RENAMENX": (codes.RENAME_FROM, codes.RENAME_TO),
    "COPY": (codes.SOURCE, codes.COPY_TO),
    "LMOVE": (codes.TAKE, codes.GIVE),
    "RPOPLPUSH": (codes.TAKE, codes.GIVE),
    "SMOVE": (codes.TAKE, codes.GIVE),
    "PFMERGE": (codes.NOTHING, codes.MAYBE_ADD),
    "GEOSEARCHSTORE": (codes.NOTHING, codes.FORGET),  # until 6.2 an empty result left the target
}
_OTHER_DATABASES = frozenset({"MOVE", "COPY"})
_FIXED_FLAGS = {"SETNX": codes.NX, "GETSET": codes.GET, "RENAMENX": codes.ONLY_IF_NEW}

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Array = npt.NDArray[np.generic]
_Bytes = npt.NDArray[np.uint8]
_Narrow = npt.NDArray[np.int32]
_Short = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AccessRows:
    """The rows of a shard as arrays, one element a row, grouped by epoch and in stream order.

    Rows may be added that stand for what a line did to other keys than it names.

    Attributes
    ----------
    row : int32
        Position of the row in its shard; -1 of an added row.
    t_us, seq, epoch : int64, int64, int32
        As in the shard.
    node, scope : int32
        Which server, which database of which server, from 0.
    key : int32
        Which key of which database, from 0; -1 without a key.
    family : int32
        As in the shard; -1 without a key.
    effect, flags, type : uint8
        What the command does to the key, under which conditions, and of which type: see the codes.
    deadline_us : int64
        When the time to live asked for ends; ``FOREVER`` without, ``REFUSED`` or ``PAST``.
    lookups, arg : uint8, int32
        As in the shard.
    answers : uint8
        Whether it is a write that may answer a read.
    window : int32
        Index in the `Windows`.
    families, keys, scopes, nodes : int
        How many there are.
    """

    row: _Narrow
    t_us: Ints
    seq: Ints
    epoch: _Narrow
    node: _Narrow
    scope: _Narrow
    key: _Narrow
    family: _Narrow
    effect: _Bytes
    flags: _Bytes
    type: _Bytes
    deadline_us: Ints
    lookups: _Bytes
    arg: _Narrow
    answers: _Bytes
    window: _Narrow
    families: int
    keys: int
    scopes: int
    nodes: int


class Columns(NamedTuple):
    """What of a shard is looked at; see `coldcache.shards.shard.Shard`."""

    t_us: Ints
    node: _Short
    command: _Short
    op: _Short
    ttl_form: _Short
    condition: _Short
    arg: _Narrow
    lookups: npt.NDArray[np.int8]
    ttl_ms: Ints
    key: _Narrow  # its number, -1 without


_COLUMNS = (
    np.int64, np.int16, np.int16, np.int16, np.int16, np.int16, np.int32, np.int8, np.int64, np.int32,
)  # fmt: skip


class Meanings(NamedTuple):
    """What the numbers of a shard's labels mean, from -1 on, which is null, as is one past the end."""

    command: _Bytes  # (commands, `MEANINGS`)
    is_write: _Bytes  # of an op
    absolute: _Bytes  # of a form of a time to live
    flags: _Bytes  # of a condition


_MEANINGS = (np.uint8,) * len(Meanings._fields)
# What is said of a command: its effect on its keys and on its target, and of what type; flags; what its writes answer;
# which of its rows are targets; what is past deletes its key; clients block on its keys.
MEANINGS = 8
ON_KEYS, ON_TARGET, TYPE, FLAGS, ANSWERS, TARGET, EXPIRES, BLOCKS = range(MEANINGS)
NO_TARGET, SECOND_KEY, WHAT_IS_WRITTEN = range(3)


class Effects(NamedTuple):
    """What is found of each row; see `AccessRows`."""

    node: _Narrow
    effect: _Bytes
    flags: _Bytes
    type: _Bytes
    answers: _Bytes
    deadline_us: Ints


_EFFECT_COLUMNS = np.int32, np.uint8, np.uint8, np.uint8, np.uint8, np.int64


class Written(NamedTuple):
    """What :func:`longest_times_to_live` looks at; see `AccessRows`."""

    t_us: Ints
    family: _Narrow
    effect: _Bytes
    deadline_us: Ints


_WRITTEN = np.int64, np.int32, np.uint8, np.int64


@cache
def _effects_of(name: str) -> tuple[int, int, int, int]:
    """Return a command's effect on its keys and on its target, its type and its fixed flags."""
    rule = rules().get(name) or rules().get(name.split(" ", 1)[0]) or Rule()
    known = name in rules() or name.split(" ", 1)[0] in rules()
    kind, flags = _TYPES.get(rule.type, 0), _FIXED_FLAGS.get(name, 0)
    if name in _PAIRS:
        return (*_PAIRS[name], kind, flags)
    if rule.target:
        # A write whose result nobody sees: empty, and then the target is gone, only if all sources are.
        return (codes.SOURCE if rule.op == "read" else codes.FORGET), (codes.RESULT if kind else codes.FORGET), kind, flags
    effect = _EFFECTS.get(name, codes.NOTHING if known else codes.FORGET)
    if name not in _EFFECTS and known:
        if rule.may_empty:
            effect = codes.MAYBE_REMOVE
        elif rule.creates:
            effect = codes.ADD
        elif rule.op in ("write", "delete") and not rule.type:
            effect = codes.FORGET  # of a module, or of a version that was never measured
    return effect, effect, kind, flags


def _target_of(name: str) -> int:
    """Return which rows of a command are what it writes beside the keys that it reads or takes."""
    if name in _PAIRS and rules()[name].form == Form.PAIR:
        return SECOND_KEY
    return WHAT_IS_WRITTEN if name in rules() and rules()[name].target > 0 else NO_TARGET


def _meaning_of(name: str) -> tuple[int, ...]:
    """Return what is said of a command; GETSET answers no read, as in the ledger, for it is one."""
    on_keys, on_target, kind, flags = _effects_of(name)
    answers = codes.ANSWERS_ALL if name in STRING_WRITES else codes.ANSWERS_MISSES
    return on_keys, on_target, kind, flags, answers, _target_of(name), "EXPIRE" in name, name.startswith(("BL", "BR", "BZ"))


def _meanings(words: Vocabulary) -> Meanings:
    """Return what the numbers of the labels mean."""
    told = (
        np.array([_meaning_of(name) for name in (*words.command, "")]),
        words.told("op", lambda name: name == "write"),
        words.told("ttl_form", lambda name: name in _ABSOLUTE),
        words.told("condition", lambda text: sum(_FLAGS.get(word, 0) for word in set(text.split())), 0),
    )
    return Meanings(*(np.concatenate([table[-1:], table]).astype(np.uint8) for table in told))


def _kernel() -> Mapping[str, Callable[..., int]]:
    beside = ("replay.rows", "replay.state_codes", "sources.log_kernel", "payload_kernel")
    return compiled("coldcache.replay.rows_kernel", *(f"coldcache.{name}" for name in beside))


def access_rows(shard: Shard, windows: Windows) -> AccessRows:
    """Return a shard as the arrays that are followed.

    The keys of one RENAME or COPY may be in two shards: what it leaves of them is unknown then.
    """
    count, words = len(shard), shard.vocabulary
    scope = _scopes(shard)
    key, keys = _keys(shard, scope)
    columns = Columns(key=key, **{name: getattr(shard, name) for name in Columns._fields if name != "key"})
    effects = _effects(columns, _meanings(words), nodes=len(words.node) + 1, keys=keys)
    rows = AccessRows(
        row=np.arange(count, dtype=np.int32),
        t_us=shard.t_us,
        seq=shard.seq,
        epoch=shard.epoch,
        scope=scope,
        key=key,
        family=shard.family,
        lookups=shard.lookups.view(np.uint8),
        arg=shard.arg,
        window=window_of(shard.epoch, shard.seq, windows),
        families=len(shard.families),
        keys=keys,
        scopes=int(scope.max(initial=-1)) + 1,
        nodes=len(words.node) + 1,
        **effects._asdict(),
    )
    return _with_added(rows, _crossing(shard, rows), shard.key, windows)


def _scopes(shard: Shard) -> _Narrow:
    """Return the number of the database of each row, among all servers'."""
    if not len(shard) or all(column.min() == column.max() for column in (shard.node, shard.db)):
        return np.zeros(len(shard), np.int32)
    return pd.factorize(shard.node.astype(np.int64) * (1 << 20) + np.maximum(shard.db, 0))[0].astype(np.int32)


def _keys(shard: Shard, scope: _Narrow) -> tuple[_Narrow, int]:
    """Return the number of the key of each row, -1 without, and how many keys there are."""
    keyed = shard.family >= 0
    # The database spoils the hash a little: keys of one name in two databases are two.
    named = shard.key ^ (scope.astype(np.uint64) * SPREAD) if scope.any() else shard.key
    if keyed.all():
        key, found = numbers_of(named)
        return key, len(found)
    key = np.full(len(shard), -1, np.int32)
    key[keyed], found = numbers_of(named[keyed])
    return key, len(found)


def _effects(columns: Columns, meanings: Meanings, *, nodes: int, keys: int) -> Effects:
    """Return what each row does to its key, of so many; rows without a server are of the last."""
    count = len(columns.t_us)
    columns = Columns(*map(handed, columns, _COLUMNS))
    effects = Effects(*codes.unfilled(count, _EFFECT_COLUMNS))
    # What serves a blocked client has no line of its own: a list that was pushed to may be empty at once.
    queues = np.zeros(keys if meanings.command[:, BLOCKS].any() else 0, np.bool_)
    tables = places(columns, _COLUMNS, count), places(meanings, _MEANINGS), places(effects, _EFFECT_COLUMNS, count)
    _kernel()["effects"](*map(address, tables), place(queues, np.bool_), count, nodes, len(queues))
    return effects


def _crossing(shard: Shard, rows: AccessRows) -> Ints:
    """Return the rows that may write a key of the same name in another database."""
    crosses = shard.vocabulary.told("command", lambda name: name in _OTHER_DATABASES)
    if rows.scopes < 2 or not crosses.any():
        return np.empty(0, np.int64)
    return np.flatnonzero(crosses[shard.command] & (rows.effect != codes.SOURCE) & (rows.key >= 0))


def _with_added(rows: AccessRows, crossing: Ints, named: npt.NDArray[np.uint64], windows: Windows) -> AccessRows:
    """Return the rows with those added that stand for what a line, or an INFO sample, did to other keys.

    MOVE and COPY may go to any database: the key of that name there becomes unknown. A server without keys
    at a sample has none of any name.
    """
    at: list[int] = []
    scopes = np.zeros(0, np.int64)
    added: list[tuple[int, int, int]] = []  # key, effect, row to copy the rest from
    if crossing.size:
        # Keys of one name on one server stand together in `alike`.
        name = named ^ (rows.node.astype(np.uint64) * SPREAD)
        name_of, scopes = np.zeros(rows.keys, np.uint64), np.zeros(rows.keys, np.int64)
        with_key = rows.key >= 0
        name_of[rows.key[with_key]], scopes[rows.key[with_key]] = name[with_key], rows.scope[with_key]
        alike = np.argsort(name_of, kind="stable")
        first, last = (np.searchsorted(name_of[alike], name[crossing], side) for side in ("left", "right"))
        for row, start, end in zip(crossing.tolist(), first, last, strict=True):
            others = [int(other) for other in alike[start:end] if other != rows.key[row]]
            at += [row + 1] * len(others)
            added += [(other, codes.FORGET, row) for other in others]
    for window in np.flatnonzero(windows.empty):
        row = int(np.searchsorted(rows.window, window))
        if row < len(rows.t_us) and rows.epoch[row] == windows.epoch[window]:
            at.append(row)
            added.append((-1, codes.EMPTY_NODE, row))
    if not added:
        return rows
    place, source = np.array(at), np.array([row for _, _, row in added])
    new: dict[str, Array] = {}
    for field in fields(AccessRows):
        column = getattr(rows, field.name)
        if isinstance(column, np.ndarray):
            new[field.name] = column[source].copy()
    new["row"][:] = -1
    new["key"][:] = [key for key, _, _ in added]
    new["effect"][:] = [effect for _, effect, _ in added]
    new["lookups"][:] = 0
    new["answers"][:] = 0
    other_keys = np.array([key for key, _, _ in added])
    if scopes.size:
        new["scope"][other_keys >= 0] = scopes[other_keys[other_keys >= 0]]
    return replace(rows, **{name: np.insert(getattr(rows, name), place, column) for name, column in new.items()})  # type: ignore[arg-type]


def longest_times_to_live(rows: AccessRows) -> tuple[Floats, Ints, Ints]:
    """Return of each family the longest time to live it is written with, µs; its writes; and those that set a time to live."""
    found = np.zeros(rows.families, np.int64), np.zeros(rows.families, np.int64), np.zeros(rows.families, np.int64)
    columns = Written(*(handed(getattr(rows, name), kind) for name, kind in zip(Written._fields, _WRITTEN, strict=True)))
    count = len(columns.t_us)
    table, room = places(columns, _WRITTEN, count), places(found, [np.int64] * len(found), rows.families)
    _kernel()["longest"](address(table), count, *room.tolist())
    longest, writes, with_ttl = found
    return longest.astype(np.float64), writes, with_ttl
