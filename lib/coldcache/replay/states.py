"""What the state of the keys says of every read, by their commands, times to live and flushes alone.

Two steps: :func:`access_rows` says of each row what it does to its key, :func:`trace_reads` follows the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from coldcache.commands import STRING_WRITES, Form, Rule, rules
from coldcache.keys.numbering import numbers_of
from coldcache.replay import state_codes as codes
from coldcache.replay.fills import FILL_WINDOW_S
from coldcache.replay.windows import Windows, window_of
from coldcache.shards.shard import NULL, SPREAD, Shard

# A command's time to live counts from its start, its line is stamped at its end: a key is judged only
# further than this from its deadline. Ten times a time slice of the scheduler, a thousand times a usual command.
SLACK_MS = 50.0
_LEAST_SHARE_WITH_TTL = 0.95  # of a family's writes, for its keys to be taken to expire
_TYPES = {name: number for number, name in enumerate(("", "string", "hash", "list", "set", "zset", "stream"))}
_FLAGS = {
    "NX": codes.NX, "XX": codes.XX, "GT": codes.GT, "LT": codes.LT,
    "KEEPTTL": codes.KEEPTTL, "GET": codes.GET, "PERSIST": codes.PERSISTS,
}  # fmt: skip
_ABSOLUTE = frozenset({"EXAT", "PXAT", "EXPIREAT", "PEXPIREAT"})
_MS_FAR = 1 << 50  # milliseconds beyond which a time to live is as good as 35,000 years

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
Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AccessRows:
    """The rows of a shard as arrays, one element a row, grouped by epoch and in stream order.

    Rows may be added that stand for what a line did to other keys than it names.

    Attributes
    ----------
    row : int64
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

    row: Ints
    t_us: Ints
    seq: Ints
    epoch: npt.NDArray[np.int32]
    node: npt.NDArray[np.int32]
    scope: npt.NDArray[np.int32]
    key: npt.NDArray[np.int32]
    family: npt.NDArray[np.int32]
    effect: npt.NDArray[np.uint8]
    flags: npt.NDArray[np.uint8]
    type: npt.NDArray[np.uint8]
    deadline_us: Ints
    lookups: npt.NDArray[np.uint8]
    arg: npt.NDArray[np.int32]
    answers: npt.NDArray[np.uint8]
    window: npt.NDArray[np.int32]
    families: int
    keys: int
    scopes: int
    nodes: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reads:
    """What the state of the keys says of every look-up; one element a row that counts one.

    Attributes
    ----------
    row : int32
        Position in the shard.
    t_us : int64
    family, window : int32
    lookups : uint8
        Its weight: how many look-ups INFO counts.
    seen : uint8
        ``CERTAIN_MISS``, ``CERTAIN_HIT``, ``AT_RISK`` (there, unless it was evicted) or ``OPEN``.
    kind, hint : uint8
        What its chain began with, and where it stands to the key's deadline.
    before : int32
        The read before it in its chain, -1 at the first.
    state : uint8
        What had become of the key if it was missed, see `KEY_STATES`.
    gap_us : int32
        Until the write that answers it, -1 without.
    """

    row: Ints
    t_us: Ints
    family: npt.NDArray[np.int32]
    window: npt.NDArray[np.int32]
    lookups: npt.NDArray[np.uint8]
    seen: npt.NDArray[np.uint8]
    kind: npt.NDArray[np.uint8]
    hint: npt.NDArray[np.uint8]
    before: npt.NDArray[np.int32]
    state: npt.NDArray[np.uint8]
    gap_us: Ints


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


def access_rows(shard: Shard, windows: Windows) -> AccessRows:
    """Return a shard as the arrays that are followed.

    The keys of one RENAME or COPY may be in two shards: what it leaves of them is unknown then.
    """
    words = shard.vocabulary
    table = np.array([*(_effects_of(name) for name in words.command), _effects_of("")], np.uint8)
    on_keys, on_target, kinds, fixed_flags = np.ascontiguousarray(table.T)  # a byte a row to be taken, and not eight
    scope = numbered(shard.node.astype(np.int64) * (1 << 20) + np.maximum(shard.db, 0))
    keyed = shard.family >= 0
    # The database spoils the hash a little: keys of one name in two databases are two.
    numbers, found = numbers_of(shard.key[keyed] ^ (scope[keyed].astype(np.uint64) * SPREAD))
    key = np.full(len(shard), -1, np.int32)
    key[keyed] = numbers
    effect = on_keys[shard.command]
    target = _targets(shard)
    effect[target] = on_target[shard.command[target]]
    rows = AccessRows(
        row=np.arange(len(shard), dtype=np.int64),
        t_us=shard.t_us,
        seq=shard.seq,
        epoch=shard.epoch,
        node=np.where(shard.node < 0, len(words.node), shard.node).astype(np.int32),
        scope=scope.astype(np.int32),
        key=key,
        family=shard.family,
        effect=effect,
        flags=fixed_flags[shard.command] | _conditions(shard),
        type=kinds[shard.command],
        deadline_us=_deadlines(shard),
        lookups=shard.lookups.astype(np.uint8),
        arg=shard.arg,
        answers=_answers(shard),
        window=window_of(shard.epoch, shard.seq, windows),
        families=len(shard.families),
        keys=len(found),
        scopes=int(scope.max(initial=-1)) + 1,
        nodes=len(words.node) + 1,
    )
    blocks = words.told("command", lambda name: name.startswith(("BL", "BR", "BZ")))[shard.command]
    crosses = words.told("command", lambda name: name in _OTHER_DATABASES)[shard.command]
    return _with_added(_without_queues(rows, blocks), crosses, shard.key, windows)


def numbered(values: Ints) -> Ints:
    """Return each value's number among the different ones, in order of first appearance."""
    if len(values) and values.min() == values.max():  # as a server and its database mostly are
        return np.zeros(len(values), np.int64)
    return pd.factorize(values)[0].astype(np.int64)


def _targets(shard: Shard) -> Ints:
    """Return the rows that are what a command writes beside the keys that it reads or takes."""
    words = shard.vocabulary
    pair = words.told("command", lambda name: name in _PAIRS and rules()[name].form == Form.PAIR)
    other = words.told("command", lambda name: name in rules() and rules()[name].target > 0) & ~pair
    rows = np.flatnonzero((pair | other)[shard.command]) if (pair | other).any() else np.empty(0, np.int64)
    command, is_write = shard.command[rows], words.told("op", lambda name: name == "write")[shard.op[rows]]
    return rows[(pair[command] & (shard.arg[rows] == 1)) | (other[command] & is_write)]


def _conditions(shard: Shard) -> npt.NDArray[np.uint8]:
    """Return the conditions of every row as flags."""
    flags = shard.vocabulary.told("condition", lambda text: sum(_FLAGS.get(word, 0) for word in set(text.split())), 0)
    return flags.astype(np.uint8)[shard.condition]


def _deadlines(shard: Shard) -> Ints:
    """Return when the times to live end that are asked for, or what else becomes of them."""
    asked = shard.ttl_form >= 0
    deadline = np.full(len(shard), codes.FOREVER, np.int64)
    rows = np.flatnonzero(asked)
    t_us = shard.t_us[rows]
    expires = shard.vocabulary.told("command", lambda name: "EXPIRE" in name)[shard.command[rows]]
    ms = np.clip(shard.ttl_ms[rows], -_MS_FAR, _MS_FAR)
    unknown = shard.ttl_ms[rows] == NULL
    absolute = shard.vocabulary.told("ttl_form", lambda name: name in _ABSOLUTE)[shard.ttl_form[rows]]
    ends = np.where(ms >= _MS_FAR, codes.FAR, t_us + ms * 1000)
    # EXPIRE takes what is past and deletes; SET and GETEX refuse what is not positive.
    ends = np.where(absolute & (ms * 1000 < -int(SLACK_MS * 1000)), codes.PAST, ends)
    ends = np.where(~absolute & (ms <= 0), np.where(expires, codes.PAST, codes.REFUSED), ends)
    not_positive = absolute & ~expires & (ms + t_us // 1000 <= 0)
    deadline[rows] = np.where(unknown | not_positive, codes.REFUSED, ends)
    return deadline


def _answers(shard: Shard) -> npt.NDArray[np.uint8]:
    """Return which rows are writes that may answer a read, as in the ledger: GETSET answers none."""
    answers = shard.vocabulary.told(
        "command", lambda name: codes.ANSWERS_ALL if name in STRING_WRITES else codes.ANSWERS_MISSES, codes.ANSWERS_MISSES
    ).astype(np.uint8)[shard.command]
    return np.where(shard.is_("op", "write") & (shard.lookups == 0), answers, np.uint8(codes.ANSWERS_NOTHING))


def _without_queues(rows: AccessRows, blocks: Bools) -> AccessRows:
    """Return the rows with nothing said of keys on which clients block.

    What serves a blocked client has no line of its own: a list that was pushed to may be empty at once.
    """
    waits = blocks & (rows.key >= 0)
    if not waits.any():
        return rows
    queue = np.zeros(rows.keys, bool)
    queue[rows.key[waits]] = True
    hidden = (rows.key >= 0) & queue[rows.key] & (rows.effect != codes.NOTHING)
    return replace(rows, effect=np.where(hidden, codes.FORGET, rows.effect).astype(np.uint8))


def _with_added(rows: AccessRows, crosses: Bools, named: npt.NDArray[np.uint64], windows: Windows) -> AccessRows:
    """Return the rows with those added that stand for what a line, or an INFO sample, did to other keys.

    MOVE and COPY may go to any database: the key of that name there becomes unknown. A server without keys
    at a sample has none of any name.
    """
    at: list[int] = []
    scopes = np.zeros(0, np.int64)
    added: list[tuple[int, int, int]] = []  # key, effect, row to copy the rest from
    crossing = np.flatnonzero(crosses & (rows.effect != codes.SOURCE) & (rows.key >= 0))
    if crossing.size and rows.scopes > 1:
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


def trace_reads(
    rows: AccessRows, windows: Windows, *, census: npt.NDArray[np.uint8] | None = None, slack_ms: float = SLACK_MS
) -> tuple[Reads, npt.NDArray[np.int32]]:
    """Follow every key through its commands and say what that tells of each look-up.

    Parameters
    ----------
    rows, windows
        Of :func:`access_rows` and :func:`info_windows`.
    census : array of uint8, one element a key, optional
        What is known of each key at the start of the log: ``NO_CENSUS``, ``CENSUS_ABSENT`` or ``CENSUS_PRESENT``.
    slack_ms : float
        How near to its deadline a key's presence stays open, milliseconds.

    Returns
    -------
    (reads, life)
        `life` : int32, one element a read: which life of a key may have ended by a counted eviction; -1 without.
    """
    count = int(np.count_nonzero((rows.lookups > 0) & (rows.key >= 0)))
    after = np.cumsum(windows.evicted)
    out = codes.trace(
        codes.Rows(**{name: getattr(rows, name) for name in codes.Rows._fields}),
        codes.Evictions(after - windows.evicted, after, windows.volatile_only),
        census, reads=count, keys=rows.keys, scopes=rows.scopes, nodes=rows.nodes,
        slack_us=round(slack_ms * 1000), fill_window_us=round(FILL_WINDOW_S * 1e6),
    )  # fmt: skip
    reads = Reads(
        row=rows.row[out.row].astype(np.int32),
        t_us=rows.t_us[out.row],
        family=rows.family[out.row],
        window=rows.window[out.row],
        lookups=rows.lookups[out.row],
        gap_us=out.gap_us.astype(np.int32),  # of five seconds at most
        **{name: getattr(out, name) for name in ("seen", "kind", "hint", "before", "state")},
    )
    return reads, out.life


def longest_times_to_live(rows: AccessRows) -> tuple[Floats, Ints, Ints]:
    """Return of each family the longest time to live it is written with, µs; its writes; and those that set a time to live."""
    count = rows.families
    # INCR and EXPIRE make one write with a time to live.
    stores = (rows.effect == codes.STORE) & (rows.deadline_us != codes.REFUSED) & (rows.family >= 0)
    sets_ttl = (stores | ((rows.effect == codes.EXPIRE) & (rows.family >= 0))) & (rows.deadline_us > 0)
    sets_ttl &= rows.deadline_us < codes.FAR
    longest = np.zeros(count)
    np.maximum.at(longest, rows.family[sets_ttl], (rows.deadline_us - rows.t_us)[sets_ttl].astype(float))
    writes = np.bincount(rows.family[stores], minlength=count)
    return longest, writes, np.bincount(rows.family[sets_ttl], minlength=count)


def family_ttl_us(longest: Floats, writes: Ints, with_ttl: Ints) -> Floats:
    """Return the longest time to live of each family, µs; infinite where part of it is written without.

    The arguments are those of :func:`longest_times_to_live`, of all shards: the most of the first, the sums of the others.
    """
    return np.where((with_ttl > 0) & (with_ttl >= _LEAST_SHARE_WITH_TTL * writes), longest, np.inf)


def join_reads(parts: Sequence[Reads]) -> Reads:
    """Return the reads of several shards as one; their rows no longer tell which shard they are in."""
    columns: dict[str, Array] = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Reads)
    }
    offsets = np.cumsum([0, *(len(part.t_us) for part in parts)])
    shifted = [np.where(part.before < 0, -1, part.before + at) for part, at in zip(parts, offsets, strict=False)]
    columns["before"] = np.concatenate(shifted).astype(np.int32)
    return Reads(**columns)  # type: ignore[arg-type]
