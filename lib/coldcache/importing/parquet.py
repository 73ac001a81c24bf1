"""Parts of a table as Parquet files, written at the speed at which a log is read.

Arrow's own writer takes longer for a part than parsing does. This one knows only what the tables of a case need: flat columns,
one row group, a page a column, no statistics. Numbers are written as differences, labels by their numbers in as few bits as
there are labels, texts with their lengths before them; the format is that of apache/parquet-format (``parquet.thrift``,
``Encodings.md``), and any reader of Parquet reads it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coldcache import __version__
from coldcache.sources.arrays import address, compiled

# How many differences share a least one, and how many parts of them have a width of their own.
BLOCK, MINIBLOCKS = 1024, 4
_MAGIC = b"PAR1"
# parquet.thrift: types, encodings, codecs, kinds of pages.
_BOOLEAN, _INT32, _INT64, _BYTE_ARRAY = 0, 1, 2, 6
_PLAIN, _RLE, _DELTA_BINARY_PACKED, _DELTA_LENGTH_BYTE_ARRAY, _RLE_DICTIONARY = 0, 3, 5, 6, 8
_UNCOMPRESSED, _LZ4_RAW = 0, 7
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_OPTIONAL, _UTF8, _TIMESTAMP_MICROS = 1, 0, 10
# Thrift's compact protocol: types of fields.
_I32, _I64, _BINARY, _LIST, _STRUCT, _TRUE = 5, 6, 8, 9, 12, 1
_Bytes = bytes | memoryview


class _Column(NamedTuple):
    """One column of a file: its pages, and what the footer says of it."""

    kind: int
    encoding: int
    codec: int
    dictionary: list[_Bytes]
    page: list[_Bytes]
    raw_size: int  # of the page, before it was compressed


class PartWriter:
    """Writes tables, one after the other; one for each thread, for its arrays are used again.

    Parameters
    ----------
    compressed : set of str
        The columns of text that are worth compressing.
    """

    def __init__(self, compressed: frozenset[str] = frozenset()) -> None:
        self._compressed = compressed
        self._lz4 = pa.Codec("lz4_raw")
        modules = ("importing.pages_kernel", "importing.parquet", "sources.log_kernel", "sources.log", "payload_kernel")
        self._kernel = compiled(*(f"coldcache.{name}" for name in modules))
        self._numbers = np.empty(0, np.int64)
        self._out = np.empty(0, np.uint8)

    def write(self, table: pa.Table, file: BinaryIO) -> None:
        """Write a table; its columns are one chunk each, from the beginning of their memory, and a text that is null is empty."""
        rows = len(table)
        if len(self._numbers) < rows:
            self._numbers = np.empty(rows, np.int64)
            self._out = np.empty(10 * rows + 16 * BLOCK, np.uint8)
        place = file.write(_MAGIC)
        chunks = []
        for name, column in zip(table.column_names, table.columns, strict=True):
            begin, made = place, self._column(name, column.chunk(0), rows)
            page_at, raw_size = begin, 0
            if made.dictionary:
                size = sum(map(len, made.dictionary))
                head = _page_head(_DICTIONARY_PAGE, size, size, len(column.chunk(0).dictionary), _PLAIN)
                page_at += _put(file, [head, *made.dictionary])
                raw_size += size + len(head)
            size = sum(map(len, made.page))
            head = _page_head(_DATA_PAGE, made.raw_size, size, rows, made.encoding)
            place = page_at + _put(file, [head, *made.page])
            raw_size += made.raw_size + len(head)
            chunks.append(_chunk(name, made, rows, (begin, page_at, place), raw_size))
        footer = _footer(table.schema, rows, chunks, place - len(_MAGIC))
        _put(file, [footer, len(footer).to_bytes(4, "little"), _MAGIC])

    def _column(self, name: str, values: pa.Array, rows: int) -> _Column:
        """Encode a column; what it returns holds until the next one."""
        levels, valid = _levels(values, rows)
        kind = values.type
        dictionary: list[_Bytes] = []
        if pa.types.is_dictionary(kind):
            dictionary = [_plain(values.dictionary)]
            physical, encoding, page = _BYTE_ARRAY, _RLE_DICTIONARY, [levels, *self._packed(values.indices, valid, rows)]
        elif pa.types.is_boolean(kind):
            physical, encoding, page = _BOOLEAN, _PLAIN, [levels, _flags(values, rows)]
        elif pa.types.is_string(kind):
            ends, data = values.buffers()[1:]
            last = int(np.frombuffer(ends, np.int32)[rows])
            lengths = self._deltas(ends.address, 0, valid, rows)
            physical, encoding, page = _BYTE_ARRAY, _DELTA_LENGTH_BYTE_ARRAY, [levels, lengths, memoryview(data)[:last]]
        else:
            size = kind.bit_width // 8
            physical, encoding = _INT32 if size == 4 else _INT64, _DELTA_BINARY_PACKED
            page = [levels, self._deltas(values.buffers()[1].address, size, valid, rows)]
        raw_size = sum(map(len, page))
        if name in self._compressed:
            # A slice knows its size; the buffer itself still tells the room that was made for it.
            page = [memoryview(self._lz4.compress(b"".join(page)).slice())]
        return _Column(physical, encoding, _LZ4_RAW if name in self._compressed else _UNCOMPRESSED, dictionary, page, raw_size)

    def _compacted(self, values_at: int, size: int, valid: int, rows: int) -> npt.NDArray[np.int64]:
        count = self._kernel["compact"](values_at, size, valid, rows, address(self._numbers))
        return self._numbers[:count]

    def _deltas(self, values_at: int, size: int, valid: int, rows: int) -> _Bytes:
        values = self._compacted(values_at, size, valid, rows)
        return self._out[: self._kernel["delta_packed"](address(values), len(values), address(self._out))].data

    def _packed(self, indices: pa.Array, valid: int, rows: int) -> Iterator[_Bytes]:
        """Yield the numbers of labels: their width, and one run of them."""
        values = self._compacted(indices.buffers()[1].address, 4, valid, rows)
        most = int(values.max()) if len(values) else 0
        width = max(most.bit_length(), 1)
        if most == 0:
            yield bytes([width]) + _varint(len(values) << 1) + b"\x00"
            return
        size = self._kernel["packed"](address(values), len(values), width, address(self._out))
        yield bytes([width]) + _varint(((len(values) + 7) // 8 << 1) | 1)
        yield self._out[:size].data


def _put(file: BinaryIO, parts: list[_Bytes]) -> int:
    file.writelines(parts)
    return sum(map(len, parts))


def _levels(values: pa.Array, rows: int) -> tuple[bytes, int]:
    """Return which rows are null, as the page says it, and the address of their bits, 0 without any null."""
    bits = values.buffers()[0]
    if bits is None or not values.null_count:
        levels = _varint(rows << 1) + b"\x01"
    elif values.null_count == rows:
        levels = _varint(rows << 1) + b"\x00"
    else:
        groups = (rows + 7) // 8
        levels = _varint(groups << 1 | 1) + memoryview(bits)[:groups].tobytes()
    valid = bits.address if bits is not None and values.null_count else 0
    return len(levels).to_bytes(4, "little") + levels, valid


def _flags(values: pa.Array, rows: int) -> bytes:
    """Return a bit for each value that is not null."""
    present, flags = (None if bits is None else np.frombuffer(bits, np.uint8) for bits in values.buffers())
    assert flags is not None
    if present is None:
        return flags[: (rows + 7) // 8].tobytes()
    bits, there = (np.unpackbits(packed, count=rows, bitorder="little") for packed in (flags, present))
    return np.packbits(bits[there.astype(np.bool_)], bitorder="little").tobytes()


def _plain(names: pa.StringArray) -> bytes:
    """Return texts, each with its length before it."""
    _, ends, data = names.buffers()
    edges, whole = np.frombuffer(ends, np.int32)[: len(names) + 1].tolist(), bytes(data) if data else b""
    words = (whole[edges[at] : edges[at + 1]] for at in range(len(names)))
    return b"".join(len(word).to_bytes(4, "little") + word for word in words)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def _integer(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _text(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return _varint(len(data)) + data


def _list(kind: int, items: list[bytes]) -> bytes:
    head = bytes([len(items) << 4 | kind]) if len(items) < 15 else bytes([0xF0 | kind]) + _varint(len(items))
    return head + b"".join(items)


def _struct(*fields: tuple[int, int, bytes]) -> bytes:
    """Return a struct; its fields are numbers in rising order, types and values."""
    found, last = b"", 0
    for number, kind, value in fields:
        found += bytes([(number - last) << 4 | kind]) + value
        last = number
    return found + b"\x00"


def _page_head(page: int, raw_size: int, size: int, values: int, encoding: int) -> bytes:
    counted = [(1, _I32, _integer(values)), (2, _I32, _integer(encoding))]
    if page == _DATA_PAGE:
        counted += [(3, _I32, _integer(_RLE)), (4, _I32, _integer(_RLE))]
    sizes = [(2, _I32, _integer(raw_size)), (3, _I32, _integer(size))]
    return _struct((1, _I32, _integer(page)), *sizes, (5 if page == _DATA_PAGE else 7, _STRUCT, _struct(*counted)))


def _chunk(name: str, made: _Column, rows: int, places: tuple[int, int, int], raw_size: int) -> bytes:
    """Return what the footer says of a column; `places` are where it begins, where its data page begins, and where it ends."""
    begin, page_at, end = places
    encodings = dict.fromkeys((_RLE, made.encoding, *([_PLAIN] if made.dictionary else [])))
    fields = [
        (1, _I32, _integer(made.kind)),
        (2, _LIST, _list(_I32, [_integer(encoding) for encoding in encodings])),
        (3, _LIST, _list(_BINARY, [_text(name)])),
        (4, _I32, _integer(made.codec)),
        (5, _I64, _integer(rows)),
        (6, _I64, _integer(raw_size)),
        (7, _I64, _integer(end - begin)),
        (9, _I64, _integer(page_at)),
    ]
    if made.dictionary:
        fields.append((11, _I64, _integer(begin)))
    return _struct((2, _I64, _integer(begin)), (3, _STRUCT, _struct(*fields)))


def _footer(schema: pa.Schema, rows: int, chunks: list[bytes], size: int) -> bytes:
    elements = [_struct((4, _BINARY, _text("schema")), (5, _I32, _integer(len(schema))))]
    elements += [_element(field) for field in schema]
    group = _struct((1, _LIST, _list(_STRUCT, chunks)), (2, _I64, _integer(size)), (3, _I64, _integer(rows)))
    told = _struct((1, _BINARY, _text("ARROW:schema")), (2, _BINARY, _text(base64.b64encode(schema.serialize()))))
    return _struct(
        (1, _I32, _integer(2)),
        (2, _LIST, _list(_STRUCT, elements)),
        (3, _I64, _integer(rows)),
        (4, _LIST, _list(_STRUCT, [group])),
        (5, _LIST, _list(_STRUCT, [told])),
        (6, _BINARY, _text(f"coldcache version {__version__}")),
    )


def _element(field: pa.Field) -> bytes:
    """Return what the schema says of a column."""
    kind = field.type
    meant: list[tuple[int, int, bytes]] = []
    if pa.types.is_timestamp(kind):
        in_utc_micros = _struct((1, _TRUE, b""), (2, _STRUCT, _struct((2, _STRUCT, _struct()))))
        meant = [(6, _I32, _integer(_TIMESTAMP_MICROS)), (10, _STRUCT, _struct((8, _STRUCT, in_utc_micros)))]
    elif pa.types.is_dictionary(kind) or pa.types.is_string(kind):
        meant = [(6, _I32, _integer(_UTF8)), (10, _STRUCT, _struct((1, _STRUCT, _struct())))]
        return _struct((1, _I32, _integer(_BYTE_ARRAY)), (3, _I32, _integer(_OPTIONAL)), (4, _BINARY, _text(field.name)), *meant)
    physical = _BOOLEAN if pa.types.is_boolean(kind) else _INT32 if kind.bit_width == 32 else _INT64
    return _struct((1, _I32, _integer(physical)), (3, _I32, _integer(_OPTIONAL)), (4, _BINARY, _text(field.name)), *meant)
