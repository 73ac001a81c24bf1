"""MONITOR logs that others made: from bytes to Arrow tables, a batch at a time.

The work on bytes is :mod:`coldcache.sources.log_kernel`'s, on pieces that fit into the processor's cache. A batch is as
large as a part of the table ``accesses``; whatever the file's size, a few of them are in memory.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coldcache import schema
from coldcache.commands import CONTAINERS, COUNTED_FROM_7, Rule, rules
from coldcache.payloads import FORMATS, payload_format
from coldcache.sources.arrays import address, column, compiled, labels, stretches, texts
from coldcache.sources.monitor import unescape

# What the kernel is told and tells, an integer each; what names no number is an address.
STATE = (
    "file", "memory", "source_at", "source_end",
    "text", "head", "piece", "at", "end", "filled", "offset", "line", "parsed", "k0", "k1",
    "marks", "extras", "strange", "tail", "arg_at", "arg_size", "arg_plain", "most_args", "outer",
    "command_slots", "command_seen", "command_mask", "command_text", "rules", "known", "label_of", "labels", "n_labels",
    "client_slots", "client_seen", "client_mask", "most_clients", "n_clients", "script",
    "unknown_slots", "unknown_seen", "unknown_mask", "most_unknown", "n_unknown",
    "name_data", "most_name_bytes", "name_bytes",
    "t", "seq", "db", "client", "command", "arg", "key_ends", "key_data", "op", "lookups", "ttl_ms", "ttl_form", "condition",
    "value_bytes", "digest_ends", "digest_data", "format", "in_script",
    "most_rows", "n_rows", "most_key_bytes", "key_bytes", "digest_bytes", "not_ascii",
    "rejected_line", "rejected_at", "rejected_size", "rejected_reason", "most_rejected", "n_rejected",
    "undecided_row", "undecided_at", "undecided_size", "most_undecided", "n_undecided",
    "least_us", "most_us", "back_us",
)  # fmt: skip
# What a call ends with.
DONE, ROWS_FULL, ARGUMENTS_FULL, UNDECIDED_FULL, TEXT_FULL, READ_FAILED = range(6)
# Columns of a rule, as in `coldcache.commands.Rule`; a container's name goes on with the next argument.
RULE = (
    "container", "form", "first", "last", "step", "target", "op", "lookups", "target_op", "target_lookups",
    "value", "ttl_at", "ttl_form", "options_at",
)  # fmt: skip
# Reasons for a rejected line.
REASONS = (
    "", "no time stamp", "no database and client", "no arguments", "cut off", "text behind an argument",
    "more arguments than one line may have", "empty", "a reply, not a command",
)  # fmt: skip
TTL_FORMS = ("", "EX", "PX", "EXAT", "PXAT", "SETEX", "PSETEX", "EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT")
CONDITIONS = ("NX", "XX", "GT", "LT", "KEEPTTL", "GET")
NULL_INT = np.iinfo(np.int64).min

_ROWS = 1 << 19
_ARGUMENTS = 1 << 12
_REJECTED = 1 << 16
_UNKNOWN_NAMES = 1 << 12
_NAME_BYTES = 1 << 20
_PIECE_BYTES = 256 << 10  # with its marks and its rows it fits into the second-level cache
_PAGE_BYTES = 4096
_BEHIND = 64  # so many bytes behind a text may be read
_OPS = ("read", "write", "delete", "expire", "other")
_UNKNOWN = Rule()  # its first argument is taken for a key


class Stretch(NamedTuple):
    """A part of a file: its descriptor, where the part begins, and its size. It may end earlier, if the file was cut."""

    file: int
    offset: int
    size: int


class Columns:
    """Room for the rows of a batch: the columns of ``schema.ACCESSES`` as numbers, keys and digests as text.

    Unknown is -1; of ``ttl_ms``, `NULL_INT`.
    """

    def __init__(self, rows: int) -> None:
        wide, narrow = ((lambda size, kind=kind: np.empty(size, kind)) for kind in (np.int64, np.int32))
        self.t, self.seq, self.ttl_ms, self.value_bytes = (wide(rows) for _ in range(4))
        self.db, self.client, self.command, self.arg, self.op, self.lookups = (narrow(rows) for _ in range(6))
        self.ttl_form, self.condition, self.format = (narrow(rows) for _ in range(3))
        self.key_ends, self.digest_ends = np.zeros(rows + 1, np.int32), np.zeros(rows + 1, np.int32)
        self.key_data = np.empty(max(64 * rows, 1 << 12), np.uint8)
        self.digest_data = np.empty(16 * rows + _BEHIND, np.uint8)
        self.in_script = np.empty(rows, np.bool_)


@dataclass(frozen=True, slots=True)
class Batch:
    """A stretch of a log, parsed.

    accesses : rows of ``schema.ACCESSES`` but for ``epoch``, ``node``, ``in_multi`` and what is inferred;
        ``seq`` is the line's number
    rejected : ``line`` from 0, ``offset`` in the log, ``size_bytes`` and ``reason`` of each line not understood
    lines : how many lines were parsed
    next_line : the number of the line behind it
    least_us, most_us, back_us : the first and last of the rows' times, and by how much one of them lies at most behind
        another one before it
    """

    accesses: pa.Table
    rejected: pa.Table
    lines: int
    next_line: int
    least_us: int
    most_us: int
    back_us: int
    _columns: Columns = field(repr=False)
    _spare: list[Columns] = field(repr=False)

    def release(self) -> None:
        """Let its memory be used again: neither it nor what was made of `accesses` is looked at any more."""
        self._spare.append(self._columns)


class _Names:
    """Names seen so far: open addressing from their hash to a number, and for each number what it stands for."""

    def __init__(self, count: int) -> None:
        self.slots = np.full(1 << (2 * count - 1).bit_length(), -1, np.int32)
        self.seen = np.empty((count, 4), np.int64)  # two halves of the hash, place and size of the text


class _Commands(NamedTuple):
    """The command table as the kernel reads it; the first row is for commands that are not known."""

    names: _Names
    text: npt.NDArray[np.uint8]
    rules: npt.NDArray[np.int64]


def kernel() -> Mapping[str, Callable[..., int]]:
    """Return the compiled functions of :mod:`coldcache.sources.log_kernel`."""
    beside = ("payload_kernel", "payload_structures", "payloads", "sources.log", "commands")
    return compiled("coldcache.sources.log_kernel", *(f"coldcache.{name}" for name in beside))


@cache
def _command_names() -> tuple[str, ...]:
    return ("", *rules())


@cache
def _commands() -> _Commands:
    table = [_UNKNOWN, *rules().values()]
    names = _command_names()
    size = np.array([len(name) for name in names], np.int64)
    text = np.frombuffer("".join(names).encode() + b" " * _BEHIND, np.uint8)
    numbered = _Names(len(names))
    at = np.cumsum(size) - size
    behind = np.array([name.find(" ") + 1 for name in names], np.int64)
    sub_at = np.where(behind > 0, at + behind, 0)
    given = (address(array) for array in (text, at, size, sub_at))
    kernel()["number_commands"](*given, len(names), address(numbered.slots), len(numbered.slots) - 1, address(numbered.seen))
    rows = np.zeros((len(names), len(RULE)), np.int64)
    for number, (name, rule) in enumerate(zip(names, table, strict=True)):
        known = [name in CONTAINERS, *(getattr(rule, part) for part in RULE[1:])]
        for part, words in (("op", _OPS), ("target_op", _OPS), ("ttl_form", TTL_FORMS)):
            known[RULE.index(part)] = words.index(getattr(rule, part) or words[0])
        rows[number] = known
    return _Commands(numbered, text, rows)


class LogParser:
    """Parses logs, one after the other; one for each thread, for its arrays are used again.

    Parameters
    ----------
    digest_key : bytes
        16 secret bytes for the digests of values; the same for all parsers of a case, never stored.
    rows : int
        Most rows in a batch.
    before_7 : bool
        The server was Redis 6.2, which does not count the look-ups of ``COUNTED_FROM_7``.
    spare : list of Columns
        Where released memory waits to be used again, of several parsers.
    """

    def __init__(
        self, digest_key: bytes | None = None, rows: int = _ROWS, *, before_7: bool = False, spare: list[Columns] | None = None
    ) -> None:
        self._before_7 = before_7
        self._most_rows = rows
        self._spare = [] if spare is None else spare
        self._formats = list(FORMATS)  # and whatever else is met
        self._held: dict[str, npt.NDArray[Any]] = {}  # the kernel's arrays, which must live as long as their addresses
        self._state = np.zeros((), [(name, np.int64) for name in STATE])
        self._state["k0"], self._state["k1"] = np.frombuffer(digest_key or secrets.token_bytes(16), np.int64)
        commands = _commands()
        self._give(
            command_slots=commands.names.slots, command_seen=commands.names.seen, command_text=commands.text,
            rules=commands.rules, tail=np.zeros(8, np.int64), outer=np.zeros(64, np.int64),
        )  # fmt: skip
        self._state["command_mask"] = len(commands.names.slots) - 1
        self._state["known"] = len(commands.rules)
        self._unknown = _Names(_UNKNOWN_NAMES)
        self._give_names("unknown", self._unknown)
        labelled = len(commands.rules) + _UNKNOWN_NAMES
        self._give(label_of=np.empty(labelled, np.int32), labels=np.empty(labelled, np.int32))
        self._give(**{f"rejected_{name}": np.empty(_REJECTED, np.int64) for name in ("line", "at", "size", "reason")})
        self._state["most_rejected"] = _REJECTED
        self._make_text(_PIECE_BYTES)
        self._make_arguments(_ARGUMENTS)
        self._make_names(rows)

    def batches(self, log: npt.NDArray[np.uint8] | Stretch) -> Iterator[Batch]:
        """Yield what whole lines hold.

        Parameters
        ----------
        log : array of uint8, or a stretch of a file
            The last line may lack its end only at the end of the log.

        Raises
        ------
        OSError
            The file cannot be read.
        """
        state = self._state
        if isinstance(log, np.ndarray):
            state["file"], state["memory"], state["source_at"], state["source_end"] = -1, address(log), 0, len(log)
        else:
            state["file"], state["source_at"], state["source_end"] = log.file, log.offset, log.offset + log.size
        state["at"] = state["end"] = state["filled"] = state["head"]
        state["offset"] = -state["head"]
        state["line"] = 0
        self._begin()
        status = None
        while status != DONE:
            before = int(state["at"])
            status = kernel()["scan"](address(state))
            if state["n_undecided"]:
                self._decide()
            if status == READ_FAILED:
                os.pread(int(state["file"]), 1, int(state["source_at"]))  # says why
            elif status == TEXT_FULL:
                self._make_text(2 * int(state["piece"]))
            elif status == ROWS_FULL and (state["n_rows"] or state["n_rejected"]):
                yield self._batch()
                self._begin()
            elif status == ROWS_FULL:
                self._make_names(2 * self._most_rows)  # the first line alone is too much
                self._begin()
            elif status == ARGUMENTS_FULL and before == state["at"]:
                self._make_arguments(4 * int(state["most_args"]))
        if state["n_rows"] or state["n_rejected"]:
            yield self._batch()

    def _give(self, **arrays: npt.NDArray[Any]) -> None:
        """Hand arrays over to the kernel."""
        self._held |= arrays
        for name, array in arrays.items():
            self._state[name] = address(array)

    def _give_names(self, kind: str, names: _Names) -> None:
        arrays: dict[str, npt.NDArray[Any]] = {f"{kind}_slots": names.slots, f"{kind}_seen": names.seen}
        self._give(**arrays)
        self._state[f"{kind}_mask"] = len(names.slots) - 1
        self._state["most_" + {"client": "clients"}.get(kind, kind)] = len(names.seen)

    def _make_text(self, piece: int) -> None:
        """Make room for pieces of so many bytes, and as much before them of a line that is longer."""
        room = np.empty(2 * piece + _PAGE_BYTES + 1 + _BEHIND, np.uint8)
        text = room[-address(room) % _PAGE_BYTES :]
        if filled := int(self._state["filled"]):
            text[:filled] = self._text[:filled]
        self._text: npt.NDArray[np.uint8] = text
        self._give(text=text, **{name: np.empty(2 * piece + 3, np.int32) for name in ("marks", "extras", "strange")})
        self._state["head"] = self._state["piece"] = piece

    def _make_arguments(self, count: int) -> None:
        """Make room for a line of so many arguments."""
        names = ("arg_at", "arg_size", "arg_plain", "undecided_row", "undecided_at", "undecided_size")
        self._give(**{name: np.empty(count, np.int64) for name in names})
        self._state["most_args"] = self._state["most_undecided"] = count

    def _make_names(self, rows: int) -> None:
        """Make room for so many rows, and the names in them."""
        self._most_rows = rows
        self._clients = _Names(max(rows >> 3, 64))
        self._give_names("client", self._clients)
        self._give(name_data=np.empty(max(_NAME_BYTES, rows) + _BEHIND, np.uint8))
        self._state["most_name_bytes"] = max(_NAME_BYTES, rows)

    def _begin(self) -> None:
        """Begin a batch."""
        try:
            self._columns = self._spare.pop()
        except IndexError:
            self._columns = Columns(self._most_rows)
        if len(self._columns.t) < self._most_rows:  # of a parser that has met no line as long as this one has
            self._columns = Columns(self._most_rows)
        self._give(**vars(self._columns))
        self._state["most_rows"] = len(self._columns.t)
        self._state["most_key_bytes"] = len(self._columns.key_data) - _BEHIND
        for name in (
            "parsed", "n_labels", "n_clients", "n_unknown", "name_bytes", "n_rows", "key_bytes", "digest_bytes", "not_ascii",
            "n_rejected", "n_undecided", "back_us",
        ):  # fmt: skip
            self._state[name] = 0
        self._state["script"] = -2
        self._state["least_us"], self._state["most_us"] = np.iinfo(np.int64).max, 0
        for slots in (self._clients.slots, self._unknown.slots, self._held["label_of"]):
            slots.fill(-1)

    def _decide(self) -> None:
        """Classify the values that are too hard for the kernel."""
        count = int(self._state["n_undecided"])
        rows, at, size = (self._held[f"undecided_{name}"][:count].tolist() for name in ("row", "at", "size"))
        names = self._formats
        for row, start, length in zip(rows, at, size, strict=True):
            text = self._text[start : start + length].tobytes().decode("latin-1")
            name = payload_format(unescape(text))
            if name not in names:
                names.append(name)
            self._columns.format[row] = names.index(name)
        self._state["n_undecided"] = 0

    def _batch(self) -> Batch:
        rows, known = int(self._state["n_rows"]), int(self._state["known"])
        got, text = self._columns, self._held["name_data"][: int(self._state["name_bytes"])]
        if self._before_7:
            self._uncount(rows)
        others = [name.upper() for name in _texts(self._unknown, int(self._state["n_unknown"]), text).to_pylist()]
        used = self._held["labels"][: int(self._state["n_labels"])].tolist()
        names = [_command_names()[number] if number < known else others[number - known] for number in used]
        distinct = list(dict.fromkeys(names))
        commands = got.command[:rows]
        if len(distinct) < len(names):  # one in upper case and in lower case
            commands = np.array([distinct.index(name) for name in names], np.int32)[commands]
        arg, written = got.arg[:rows], got.value_bytes[:rows] >= 0
        keys = stretches(got.key_ends[: rows + 1], got.key_data, arg >= 0)
        columns = {
            "t": column(got.t[:rows], kind=schema.TIME),
            "seq": column(got.seq[:rows]),
            "db": column(got.db[:rows], got.db[:rows] >= 0),
            "client": labels(got.client[:rows], _texts(self._clients, int(self._state["n_clients"]), text)),
            "command": labels(commands, texts(distinct)),
            "arg": column(arg, arg >= 0),
            "key": _printable(keys) if self._state["not_ascii"] else keys,
            "op": labels(got.op[:rows], texts(_OPS)),
            "lookups": column(got.lookups[:rows]),
            "ttl_ms": column(got.ttl_ms[:rows], got.ttl_ms[:rows] != NULL_INT),
            "ttl_form": labels(got.ttl_form[:rows], texts(TTL_FORMS[1:])),
            "condition": labels(got.condition[:rows], _conditions()),
            "value_bytes": column(got.value_bytes[:rows], written),
            "value_digest": stretches(got.digest_ends[: rows + 1], got.digest_data, written),
            "value_format": labels(got.format[:rows], texts(self._formats)),
            "in_script": column(got.in_script[:rows]),
        }
        state = self._state
        return Batch(
            pa.table(columns), self._rejected_table(), int(state["parsed"]), int(state["line"]),
            int(state["least_us"]), int(state["most_us"]), int(state["back_us"]), got, self._spare,
        )  # fmt: skip

    def _uncount(self, rows: int) -> None:
        """Take away the look-ups that Redis 6.2 does not count, see :func:`coldcache.commands.key_uses`."""
        names = _command_names()
        labelled, line = self._held["labels"][self._columns.command[:rows]], self._columns.seq[:rows]
        uncounted = np.isin(labelled, [names.index(name) for name in COUNTED_FROM_7])
        beside = np.diff(line, prepend=-1, append=-1) == 0
        several = labelled == names.index("PFCOUNT")
        several &= beside[:-1] | beside[1:]
        self._columns.lookups[:rows][uncounted & ~several] = 0

    def _rejected_table(self) -> pa.Table:
        count = int(self._state["n_rejected"])
        line, at, size, reason = (self._held[f"rejected_{name}"][:count].copy() for name in ("line", "at", "size", "reason"))
        reasons = labels(reason, texts(REASONS))
        return pa.table({"line": column(line), "offset": column(at), "size_bytes": column(size), "reason": reasons})


@cache
def _conditions() -> pa.StringArray:
    """Return the text of every set of conditions, from 1 on."""
    return texts(" ".join(name for bit, name in enumerate(CONDITIONS) if held >> bit & 1) for held in range(1, 64))


def _texts(names: _Names, count: int, text: npt.NDArray[np.uint8]) -> pa.StringArray:
    """Return names as a column."""
    whole = text.tobytes()
    return texts(whole[at : at + size].decode("ascii", "backslashreplace") for at, size in names.seen[:count, 2:].tolist())


def _printable(keys: pa.StringArray) -> pa.StringArray:
    """Return keys with their escape in place of a byte that is no ASCII, which Redis never prints."""
    offsets, data = (np.frombuffer(buffer, kind) for buffer, kind in zip(keys.buffers()[1:], (np.int32, np.uint8), strict=True))
    whole = data.tobytes()
    found = [whole[a:b].decode("ascii", "backslashreplace").encode() for a, b in itertools.pairwise(offsets[: len(keys) + 1])]
    ends = np.zeros(len(found) + 1, np.int32)
    np.cumsum([len(text) for text in found], out=ends[1:])
    valid = keys.buffers()[0]
    return pa.StringArray.from_buffers(len(found), pa.py_buffer(ends), pa.py_buffer(b"".join(found)), valid)
