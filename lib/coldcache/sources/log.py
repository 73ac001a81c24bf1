"""MONITOR logs that others made: from bytes to Arrow tables, a batch at a time.

The work on bytes is :mod:`coldcache.sources.log_kernel`'s. A batch is as large as a part of the
table ``accesses``; whatever the file's size, a few of them are in memory.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coldcache import schema
from coldcache.commands import CONTAINERS, COUNTED_FROM_7, Rule, rules
from coldcache.payload_kernel import FORMATS, UNDECIDED, classify_all
from coldcache.payloads import payload_format
from coldcache.sources import log_kernel as kernel
from coldcache.sources.arrays import column, labels, texts
from coldcache.sources.monitor import unescape

_ROWS = 1 << 19
_ARGUMENTS = 1 << 12
_REJECTED = 1 << 16
_OPS = ("read", "write", "delete", "expire", "other")
_UNKNOWN = Rule()  # its first argument is taken for a key


@dataclass(frozen=True, slots=True)
class Batch:
    """A stretch of a log, parsed.

    accesses : rows of ``schema.ACCESSES`` but for ``epoch``, ``node``, ``in_multi`` and what is inferred;
        ``seq`` is the line's number
    rejected : ``line`` from 0, ``offset`` in the buffer, ``size_bytes`` and ``reason`` of each line not understood
    lines : how many lines were parsed
    end, next_line : where to go on in the buffer, and the number of the line there
    """

    accesses: pa.Table
    rejected: pa.Table
    lines: int
    end: int
    next_line: int


@cache
def _command_names() -> tuple[str, ...]:
    return ("", *rules())


@cache
def _commands() -> kernel.Commands:
    """Return the command table as the kernel reads it; the first row is for commands that are not known."""
    table = [_UNKNOWN, *rules().values()]
    names = _command_names()
    size = np.array([len(name) for name in names], np.int64)
    text = np.frombuffer("".join(names).encode(), np.uint8)
    numbered = _names(len(names))
    at = np.cumsum(size) - size
    behind = np.array([name.find(" ") + 1 for name in names], np.int64)
    kernel.number_commands(text, at, size, np.where(behind > 0, at + behind, 0), numbered)

    rows = np.zeros((len(names), len(kernel.RULE)), np.int64)
    for number, (name, rule) in enumerate(zip(names, table, strict=True)):
        known = {**asdict(rule), "container": name in CONTAINERS}
        for field, words in (("op", _OPS), ("target_op", _OPS), ("ttl_form", kernel.TTL_FORMS)):
            known[field] = words.index(known[field] or words[0])
        rows[number] = [known[field] for field in kernel.RULE]
    return kernel.Commands(numbered, text, rows)


def _names(count: int) -> kernel.Names:
    return kernel.Names(np.full(1 << (2 * count - 1).bit_length(), -1, np.int32), np.empty((count, 4), np.int64))


class LogParser:
    """Parses buffers of whole lines; one for each thread, for its arrays are used again.

    Parameters
    ----------
    digest_key : bytes
        16 secret bytes for the digests of values; the same for all parsers of a case, never stored.
    rows : int
        Most rows in a batch.
    before_7 : bool
        The server was Redis 6.2, which does not count the look-ups of ``COUNTED_FROM_7``.
    """

    def __init__(self, digest_key: bytes | None = None, rows: int = _ROWS, *, before_7: bool = False) -> None:
        self._before_7 = before_7
        self._key = np.frombuffer(digest_key or secrets.token_bytes(16), np.uint64)
        self._scratch = [np.empty(_ARGUMENTS, np.int64) for _ in range(3)]
        self._rows = kernel.Rows(
            *(np.empty(rows, dtype) for dtype in (
                np.int64, np.int64, np.int32, np.int32, np.int32, np.int32, np.int32, np.int64, np.int32, np.int64, np.int64,
                np.uint8, np.uint8, np.int64, np.uint8, np.uint8, np.int64, np.int64, np.int64, np.uint64,
            ))
        )  # fmt: skip
        self._clients, self._keys, self._unknown = _names(rows), _names(rows), _names(1 << 12)
        self._rejected = kernel.Rejected(*(np.empty(_REJECTED, np.int64) for _ in range(4)))

    def batches(self, buffer: npt.NDArray[np.uint8], first_line: int = 0) -> Iterator[Batch]:
        """Yield what a buffer of whole lines holds.

        Parameters
        ----------
        buffer : array of uint8
            The last line may lack its end only at the end of the log.
        first_line : int
            Number of its first line, from 0.
        """
        at, line = 0, first_line
        while at < len(buffer):
            for names in (self._clients, self._keys, self._unknown):
                names.slots.fill(-1)
            counts = np.array([at, line, 0, 0, 0, 0, 0], np.int64)
            status = kernel.scan(
                buffer, at, len(buffer), line, self._key, _commands(), self._rows,
                self._clients, self._unknown, self._rejected, *self._scratch, counts,
            )  # fmt: skip
            if status != kernel.DONE and counts[0] == at:
                self._grow()  # the first line alone is too much
                continue
            at, line = int(counts[0]), int(counts[1])
            yield self._batch(buffer, counts, at, line)

    def _grow(self) -> None:
        """Make room for a line of more arguments than any before."""
        wanted = 4 * len(self._scratch[0])
        self._scratch = [np.empty(wanted, np.int64) for _ in range(3)]
        if wanted >= len(self._rows.line):
            self._rows = kernel.Rows(*(np.empty(2 * wanted, old.dtype) for old in self._rows))
            self._clients, self._keys = _names(2 * wanted), _names(2 * wanted)

    def _batch(self, buffer: npt.NDArray[np.uint8], counts: npt.NDArray[np.int64], end: int, next_line: int) -> Batch:
        rows, clients, unknown, rejected, parsed = (int(count) for count in counts[2:])
        keys = kernel.number_keys(self._rows, rows, self._keys)
        got = kernel.Rows(*(column[:rows] for column in self._rows))
        if self._before_7:
            _uncount(got)
        client_names = _texts(buffer, self._clients, clients)
        others = [name.upper() for name in _texts(buffer, self._unknown, unknown).to_pylist()]
        names = list(dict.fromkeys([*_command_names(), *others]))
        numbers = np.array([*range(len(_command_names())), *(names.index(name) for name in others)], np.int32)
        written = got.value_bytes >= 0
        columns = {
            "t": column(got.stamp_us.copy()).cast(pa.timestamp("us")).cast(schema.TIME),
            "seq": column(got.line.copy()),
            "db": column(got.db.copy(), got.db >= 0),
            "client": labels(got.client, client_names),
            "command": labels(numbers[got.command], texts(names)),
            "arg": column(got.arg.copy(), got.arg >= 0),
            "key": labels(got.key, _texts(buffer, self._keys, keys)),
            "op": labels(got.op, texts(_OPS)),
            "lookups": column(got.lookups.astype(np.int32)),
            "ttl_ms": column(got.ttl_ms.copy(), got.ttl_ms != kernel.NULL_INT),
            "ttl_form": labels(got.ttl_form, texts(kernel.TTL_FORMS[1:]), first=1),
            "condition": labels(got.condition, _conditions(), first=1),
            "value_bytes": column(got.value_bytes.copy(), written),
            "value_digest": _digests(got.digest, written),
            "value_format": _formats(buffer, got, written),
            "in_script": _is_script(got.client, client_names),
        }
        return Batch(pa.table(columns), self._rejected_table(rejected), parsed, end, next_line)

    def _rejected_table(self, count: int) -> pa.Table:
        got = kernel.Rejected(*(column[:count].copy() for column in self._rejected))  # Arrow takes arrays as they are
        return pa.table(
            {
                "line": column(got.line),
                "offset": column(got.at),
                "size_bytes": column(got.size),
                "reason": labels(got.reason, texts(kernel.REASONS)),
            }
        )


def _uncount(rows: kernel.Rows) -> None:
    """Take away the look-ups that Redis 6.2 does not count, see :func:`coldcache.commands.key_uses`."""
    names = _command_names()
    uncounted = np.isin(rows.command, [names.index(name) for name in COUNTED_FROM_7])
    beside = np.diff(rows.line, prepend=-1, append=-1) == 0
    several = rows.command == names.index("PFCOUNT")
    several &= beside[:-1] | beside[1:]
    rows.lookups[uncounted & ~several] = 0


@cache
def _conditions() -> pa.StringArray:
    """Return the text of every set of conditions, from 1 on."""
    return texts(" ".join(name for bit, name in enumerate(kernel.CONDITIONS) if held >> bit & 1) for held in range(1, 64))


def _texts(buffer: npt.NDArray[np.uint8], names: kernel.Names, count: int) -> pa.StringArray:
    """Return names as Arrow strings; a byte that is no ASCII, which Redis never prints, becomes its escape."""
    at, size = names.seen[:count, 2].copy(), names.seen[:count, 3].copy()
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(size, out=offsets[1:])
    data = np.empty(int(offsets[-1]), np.uint8)
    if kernel.gather(buffer, at, size, data):
        return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(data))
    whole = data.tobytes()
    return texts(whole[a:b].decode("ascii", "backslashreplace") for a, b in itertools.pairwise(offsets))


def _digests(digests: npt.NDArray[np.uint64], written: npt.NDArray[np.bool_]) -> pa.StringArray:
    """Return digests as 16 hex digits, null where nothing was written."""
    offsets = np.zeros(len(digests) + 1, np.int32)
    np.cumsum(written * np.int32(16), out=offsets[1:])
    data = np.empty(int(offsets[-1]), np.uint8)
    kernel.hex_digits(digests, written, data)
    valid = column(written).buffers()[1]
    return pa.StringArray.from_buffers(len(digests), pa.py_buffer(offsets), pa.py_buffer(data), valid)


def _formats(buffer: npt.NDArray[np.uint8], rows: kernel.Rows, written: npt.NDArray[np.bool_]) -> pa.DictionaryArray:
    """Return the class of each value written, null where nothing was."""
    codes = np.full(len(written), -1, np.int32)
    classify_all(buffer, rows.value_at, rows.value_size, written, codes)
    names = list(FORMATS)
    for row in np.flatnonzero(codes == UNDECIDED):
        at = int(rows.value_at[row])
        name = payload_format(unescape(buffer[at : at + int(rows.value_size[row])].tobytes().decode("latin-1")))
        if name not in names:
            names.append(name)
        codes[row] = names.index(name)
    return labels(codes, texts(names))


def _is_script(clients: npt.NDArray[np.int32], names: pa.StringArray) -> pa.Array:
    """Return which lines were printed for a script: their client is ``lua``."""
    scripts = np.append(np.array(names.to_pylist()) == "lua", False)  # the last one for -1
    return column(scripts[clients])
