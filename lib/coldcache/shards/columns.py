"""Where each row goes, and columns put in that order: what Python calls of `deal_kernel`, without numba."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coldcache.shards.scratch import Packed, constant, is_constant
from coldcache.sources.arrays import address, compiled, handed, numbers, place, places

NOWHERE, IN_ITS_SHARD, EVERYWHERE = range(3)
DIGEST_DIGITS = 16

_Bytes = npt.NDArray[np.uint8]
_Hashes = npt.NDArray[np.uint64]
_Ints = npt.NDArray[np.int64]
_Narrow = npt.NDArray[np.int32]


def _kernel() -> Mapping[str, Callable[..., int]]:
    beside = ("shards.columns", "shards.shard", "sources.log_kernel", "payload_kernel")
    return compiled("coldcache.shards.deal_kernel", *(f"coldcache.{name}" for name in beside))


class Rows(NamedTuple):
    """What is looked at of rows to tell where they go."""

    template: _Narrow  # number of the key's template, -1 without a key
    ids: _Hashes  # hash of the key's identifiers
    further: _Hashes  # by template
    command: _Narrow  # its number, -1 without
    sweeps: npt.NDArray[np.bool_]  # by command: it changes what is known of all keys
    op: _Narrow  # its number, -1 without
    writes: npt.NDArray[np.bool_]  # by op
    lookups: _Narrow
    arg: _Narrow  # which key of its command, -1 without one
    t_us: _Ints
    kept: npt.NDArray[np.bool_]  # which rows are not left out; empty if all are kept


_ROWS = np.int32, np.uint64, np.uint64, np.int32, np.bool_, np.int32, np.bool_, np.int32, np.int32, np.int64, np.bool_


class Sifted(NamedTuple):
    """What is found of rows."""

    fate: _Bytes  # `NOWHERE`, `IN_ITS_SHARD` or `EVERYWHERE`
    ids: _Hashes  # with those of the further stars
    used_us: _Ints  # when a key was looked up or written
    counts: _Ints  # of commands, with what is left out; of rows that look a key up


_SIFTED = np.uint8, np.uint64, np.int64, np.int64


def sift(rows: Rows) -> Sifted:
    """Tell where each row goes, and count."""
    count = len(rows.template)
    rows = Rows(*map(handed, rows, _ROWS))
    found = Sifted(np.empty(count, np.uint8), np.empty(count, np.uint64), np.empty(count, np.int64), np.empty(2, np.int64))
    by_row = (rows.template, rows.ids, rows.command, rows.op, rows.lookups, rows.arg, rows.t_us)
    if any(len(values) != count for values in by_row) or len(rows.kept) not in (0, count):
        raise ValueError("columns of one table have different lengths")
    tables = places(rows, _ROWS), places(found, _SIFTED)  # alive until the kernel has run
    used = _kernel()["sift"](*map(address, tables), count, not len(rows.kept))
    return found._replace(used_us=found.used_us[:used])


class Dealing(NamedTuple):
    """Which rows go where."""

    row: _Narrow  # in order; one that goes everywhere stands here once a shard
    place: _Narrow  # among the rows of all shards, which stand one shard after the other, each in their order
    bounds: _Ints  # where each shard begins there, and where the last one ends


def dealing_of(key: _Hashes, ids: _Hashes, fate: _Bytes, count: int) -> Dealing:
    """Return which rows go where, of `count` shards: each to the shard of its `ids`, or, if they are 0, of its `key`."""
    rows = len(fate)
    key, ids = handed(key, np.uint64), handed(ids, np.uint64)
    shard, sizes = np.empty(rows, np.int32), np.zeros(count, np.int64)
    hashes, fates = (place(key, np.uint64, rows), place(ids, np.uint64, rows)), place(fate, np.uint8)
    everywhere = _kernel()["choose"](*hashes, fates, rows, count, place(shard, np.int32), place(sizes, np.int64))
    bounds = np.concatenate([[0], np.cumsum(sizes + everywhere)])
    found, following = Dealing(np.empty(bounds[-1], np.int32), np.empty(bounds[-1], np.int32), bounds), bounds[:-1].copy()
    room = place(found.row, np.int32), place(found.place, np.int32)
    _kernel()["deal"](place(shard, np.int32), fates, rows, count, place(following, np.int64), *room)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """A column of whole numbers in Arrow's memory.

    Attributes
    ----------
    values : int32, int64 or uint64
        What stands where it is null is undefined.
    kind : dtype
        Of what they become.
    null : int
        What a null becomes.
    valid : uint8, optional
        Bits that tell which are not null; None if all are.
    offset : int
        Which of the bits is the first row's.
    table : int32, optional
        What the numbers stand for: one that is less than 0 for null.
    """

    values: npt.NDArray[Any]
    kind: npt.DTypeLike
    null: int
    valid: _Bytes | None = None
    offset: int = 0
    table: _Narrow | None = None

    @classmethod
    def of(cls, whole: pa.Array, kind: npt.DTypeLike, null: int, table: _Narrow | None = None) -> Column:
        """Return the column of an array of int32, int64 or times."""
        if not len(whole):  # Arrow may leave out the memory of nothing
            return cls(np.empty(0, np.int32 if pa.types.is_int32(whole.type) else np.int64), kind, null, table=table)
        bits, offset = _validity(whole)
        values = numbers(whole)
        return cls(handed(values, values.dtype), kind, null, bits, offset, table)

    def filled(self) -> npt.NDArray[Any]:
        """Return the values, with `null` where they are null; of a `table`, the numbers, with -1."""
        if self.valid is None:
            return self.values
        valid = np.unpackbits(self.valid, count=self.offset + len(self.values), bitorder="little")[self.offset :]
        null = self.null if self.table is None else -1
        return np.where(valid, self.values, self.values.dtype.type(null))

    def dealt(self, dealing: Dealing) -> npt.NDArray[Any] | Packed:
        """Return the column as it is dealt, in as few bytes as its numbers take."""
        kind = np.dtype(self.kind)
        least, greatest = self._extent()
        if least > greatest or not len(dealing.row):
            return constant(kind.type(self.null), len(dealing.row))
        nullable = self.valid is not None or (self.table is not None and bool(self.values.min() < 0))
        if not nullable and least == greatest:
            return constant(kind.type(least), len(dealing.row))
        # A null is 0: if it is just below the others anyway, nothing needs to be said of it.
        base = min(least - 1, self.null) if self.null == -1 and nullable else least - nullable
        if greatest - base >= 1 << 32 or base < np.iinfo(np.int64).min:
            return self._moved(dealing, np.int64, 0, self.null).astype(kind, copy=False)
        narrow = np.uint8 if greatest - base < 1 << 8 else np.uint32
        return Packed(self._moved(dealing, narrow, base, base), kind, base, self.null if nullable else base)

    def _extent(self) -> tuple[int, int]:
        """Return the least and the greatest number; the other way round if there is none."""
        if self.table is not None:
            return (int(self.table.min()), int(self.table.max())) if len(self.table) else (0, -1)
        found = np.array([np.iinfo(np.int64).max, np.iinfo(np.int64).min])
        _kernel()["extent"](*self._places(), len(self.values), address(found))
        return int(found[0]), int(found[1])

    def _places(self) -> tuple[int, int, int, int]:
        bits = 0 if self.valid is None else place(self.valid, np.uint8, -(-(self.offset + len(self.values)) // 8))
        return place(self.values, self.values.dtype), self.values.itemsize, bits, self.offset

    def _moved(self, dealing: Dealing, kind: npt.DTypeLike, base: int, null: int) -> npt.NDArray[Any]:
        out = np.empty(len(dealing.row), kind)
        table = None if self.table is None else np.concatenate([[np.int32(self.null)], self.table])
        rows = place(dealing.row, np.int32), place(dealing.place, np.int32), len(dealing.row)
        known = (0, null) if table is None else (place(table, np.int32), -1)
        _kernel()["move"](*self._places(), known[0], *rows, base, known[1], place(out, kind), out.itemsize)
        return out


def hashes_dealt(hashes: _Hashes, dealing: Dealing) -> _Hashes:
    """Return hashes as they are dealt."""
    if is_constant(hashes):
        return constant(hashes[0], len(dealing.row))
    return Column(handed(hashes, np.uint64), np.uint64, 0)._moved(dealing, np.uint64, 0, 0)


def _validity(whole: pa.Array) -> tuple[_Bytes | None, int]:
    """Return the bits that tell which rows are not null, None if all are, and which of them is the first row's."""
    return (np.frombuffer(whole.buffers()[0], np.uint8), whole.offset) if whole.null_count else (None, 0)


def digests_of(whole: pa.Array) -> _Hashes:
    """Return digests of 16 hex digits, string or large_string, as numbers, 0 where they are null."""
    rows = len(whole)
    if whole.null_count == rows:
        return constant(np.uint64(0), rows)
    wide = pa.types.is_large_string(whole.type)
    _, offsets, content = whole.buffers()
    bounds = np.frombuffer(offsets, np.int64 if wide else np.int32)[whole.offset : whole.offset + rows + 1]
    data, (valid, offset) = np.frombuffer(content or b"", np.uint8), _validity(whole)
    bits = 0 if valid is None else place(valid, np.uint8, -(-(offset + rows) // 8))
    found = np.empty(rows, np.uint64)
    texts = place(data, np.uint8, int(bounds[-1])), place(bounds, bounds.dtype, rows + 1), bounds.itemsize
    if _kernel()["digests"](*texts, bits, offset, rows, place(found, np.uint64)):
        # Of another coldcache: equal ones are still equal.
        found = np.array([0 if text is None else _hash_of(text) for text in whole.to_pylist()], np.uint64)
    return found


def _hash_of(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
