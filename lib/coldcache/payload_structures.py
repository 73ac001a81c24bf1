"""Formats told by walking from one length to the next: the last must end just where the value does.

Nothing is built of what is read, least of all objects. Each walk is written once and made twice: for bytes
(:mod:`coldcache.payloads`), and compiled, for bytes as a log prints them (:mod:`coldcache.payload_kernel`). So a walk is made
of integers, calls nothing but what it is given, and neither allocates nor raises. A place of -1 is none.

Random bytes may look like a format, too. What a walk meets is weighed, and the thresholds are such that of a million values of
random bytes, of 4 to 128 bytes each, some thirty at most pass for msgpack or protobuf, and none or one for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Walk = Callable[[Any, int, int], Any]  # from data, a place in it and its end
Made = Callable[[Callable[..., Any]], Callable[..., Any]]


class Reader(NamedTuple):
    """How a walk reads a value.

    Attributes
    ----------
    byte : callable
        From data, a place and the end to the byte there, -1 at the end, and the place behind it.
    skip : callable
        From data, a place, the end and a count to the place behind so many bytes; -1 where there are fewer.
    skip_text : callable
        The same, and -1 where the bytes are not UTF-8.
    skip_line : callable
        From data, a place and the end to the place behind the next line feed; -1 without one.
    table : callable
        From a tuple of integers to what they are looked up in: compiled, a tuple would raise where there is no such place.
    """

    byte: Callable[[Any, int, int], tuple[int, int]]
    skip: Callable[[Any, int, int, int], int]
    skip_text: Callable[[Any, int, int, int], int]
    skip_line: Callable[[Any, int, int], int]
    table: Callable[[tuple[int, ...]], Any]


class Walks(NamedTuple):
    """The walks over a whole value, from data, its place and its end.

    Attributes
    ----------
    is_msgpack, is_msgpack_lz4, is_bson, is_protobuf, is_snappy, is_php, is_php_session : callable
        Whether the value is one of that format.
    is_igbinary, is_ruby, is_rails : callable
        The same, told by how it begins.
    text_pickle : callable
        The protocol of a pickle, 0 or 1; -1 for anything else. Later ones begin with their number.
    """

    is_msgpack: Walk
    is_msgpack_lz4: Walk
    is_bson: Walk
    is_protobuf: Walk
    is_snappy: Walk
    is_php: Walk
    is_php_session: Walk
    is_igbinary: Walk
    is_ruby: Walk
    is_rails: Walk
    text_pickle: Walk


_QUOTE, _APOSTROPHE, _PLUS, _MINUS, _DOT, _SLASH, _ZERO, _NINE, _COLON, _SEMICOLON = b"\"'+-./09:;"
_OPENING_LIST, _UNDERSCORE, _OPENING, _BAR, _CLOSING = b"[_{|}"
_UPPER_A, _UPPER_C, _UPPER_E, _UPPER_F, _UPPER_I, _UPPER_N, _UPPER_O, _UPPER_R, _UPPER_Z = b"ACEFINORZ"
_LOWER_A, _LOWER_B, _LOWER_D, _LOWER_I, _LOWER_P, _LOWER_Q, _LOWER_R, _LOWER_S, _LOWER_Z = b"abdipqrsz"

_ENOUGH = 4  # what a walk has to weigh

# Of the types 0xC0 to 0xDF in msgpack's spec.md: how many bytes tell the length, and how many follow besides.
_MSGPACK_LENGTH = (0, 0, 0, 0, 1, 2, 4, 1, 2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 2, 4, 2, 4)
_MSGPACK_FIXED = (0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 2, 3, 5, 9, 17, 0, 0, 0, 0, 0, 0, 0)
# What MessagePack-CSharp puts LZ4 into, ThisLibraryExtensionTypeCodes; msgpack's type of the size that begins a block.
_LZ4_BLOCK_ARRAY, _LZ4_BLOCK, _INT32 = 98, 99, 0xD2

# By the types 0 to 19 of bsonspec.org: the bytes of an element, or those besides what an int32 before them tells; -1 for
# those that are deprecated, and for regular expressions and code with a scope, which no cache holds.
_BSON_IS_SIZED = (0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
_BSON_SIZE = (-1, 8, 0, -4, -4, 1, -1, 12, 1, 8, 0, -1, -1, 0, -1, -1, 4, 8, 8, 16)
_LEAST_BSON = 5  # an empty document: its size and the zero that ends it

_LEAST_PROTOBUF = 8
_MOST_FIELD = 1000  # higher ones are allowed and not used
_MOST_VARINT = 64  # bits

_LEAST_SNAPPY = 8

# By opcode of Lib/pickletools.py, those of the protocols 0 and 1 only: how many bytes follow it, or one of these.
_NO_OPCODE, _LINE, _TWO_LINES, _NUMBER_LINE, _QUOTED_LINE, _SIZED, _LONG_SIZED = range(-1, -8, -1)
_OPCODES = {
    0: b"(.0N12RabdlstueoQ]})", 1: b"Khq", 2: b"M", 4: b"Jjr", 8: b"G",
    _LINE: b"FLVP", _TWO_LINES: b"ci", _NUMBER_LINE: b"Igp", _QUOTED_LINE: b"S", _SIZED: b"U", _LONG_SIZED: b"TX",
}  # fmt: skip
_BEHIND_OPCODE = tuple(
    next((size for size, opcodes in _OPCODES.items() if code in opcodes), _NO_OPCODE) for code in range(128)
)  # fmt: skip
_OF_PROTOCOL_1 = tuple(int(code in b"]})eouQKhqMJjrGUTX") for code in range(128))

_MOST_SESSION_NAME = 64

# How many bytes follow the types 0x00 to 0x27 of igbinary.h at the top of a value; -1 for those that never stand there, and
# -2 for texts, arrays and objects, whose length is not followed.
_IGBINARY = (
    0, -1, -1, -1, 0, 0, 1, 1, 2, 2, 4, 4, 8, 0, -1, -1, -1, -2, -2, -2,
    -2, -2, -2, -2, -2, -2, -1, -1, -1, -1, -1, -1, 8, 8, -1, -1, -1, -2, -2, -2,
)  # fmt: skip

_RUBY_ENDS, _RUBY_GOES_ON = b"0TF", b'i:"/[{}flIceCmMoSuU'  # types of a value in marshal.c
_RUBY_TYPE = tuple(1 if code in _RUBY_ENDS else 2 if code in _RUBY_GOES_ON else 0 for code in range(128))
_RAILS_ENTRY = tuple(b"\x04\x08o: ActiveSupport::Cache::Entry")
_RAILS_HEAD = 12  # bytes of the time of expiry and of the version's length


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def walks(reader: Reader, made: Made = _as_it_is) -> Walks:
    """Return the walks over what a reader reads.

    Parameters
    ----------
    reader : Reader
        How a value is read.
    made : callable
        What is made of each function: the same, compiled. The reader's are already.
    """
    expect, decimal = _texts_of(reader, made)
    big_endian, little_endian, varint = _numbers_of(reader, made)
    msgpack_weight = _msgpack_weight(reader, big_endian, made)
    value = _php_value(reader, expect, decimal, made)

    def is_php(data: Any, p: int, end: int) -> bool:
        return value(data, p, end) == end

    return Walks(
        is_msgpack=_is_msgpack(reader, msgpack_weight, made),
        is_msgpack_lz4=_is_msgpack_lz4(reader, msgpack_weight, made),
        is_bson=_is_bson(reader, little_endian, made),
        is_protobuf=_is_protobuf(reader, varint, made),
        is_snappy=_is_snappy(reader, little_endian, varint, made),
        is_php=made(is_php),
        is_php_session=_is_php_session(reader, value, made),
        is_igbinary=_is_igbinary(reader, big_endian, made),
        is_ruby=_is_ruby(reader, made),
        is_rails=_is_rails(reader, made),
        text_pickle=_text_pickle(reader, little_endian, made),
    )


def _texts_of(reader: Reader, made: Made) -> tuple[Any, Any]:
    byte = reader.byte

    def expect(data: Any, p: int, end: int, wanted: int) -> int:
        """Return the place behind a byte that must stand there; -1 if it does not, or if there is no place."""
        if p < 0:
            return -1
        c, p = byte(data, p, end)
        return p if c == wanted else -1

    def decimal(data: Any, p: int, end: int) -> tuple[int, int]:
        """Return what digits stand for, and the place behind them: -1 without any, or with more than nine."""
        if p < 0:
            return 0, -1
        number, digits = 0, 0
        c, behind = byte(data, p, end)
        while _ZERO <= c <= _NINE:
            if digits < 10:
                number = number * 10 + c - _ZERO
            digits += 1
            p = behind
            c, behind = byte(data, p, end)
        return number, p if 0 < digits < 10 else -1

    return made(expect), made(decimal)


def _numbers_of(reader: Reader, made: Made) -> tuple[Any, Any, Any]:
    byte = reader.byte

    def big_endian(data: Any, p: int, end: int, width: int) -> tuple[int, int]:
        """Return a number of up to four bytes and the place behind it, which is -1 where they end before."""
        number = 0
        for _ in range(width):
            c, p = byte(data, p, end)
            if c < 0:
                return 0, -1
            number = number << 8 | c
        return number, p

    def little_endian(data: Any, p: int, end: int, width: int) -> tuple[int, int]:
        """Return the same of a number with its lowest byte first."""
        number = 0
        for place in range(width):
            c, p = byte(data, p, end)
            if c < 0:
                return 0, -1
            number |= c << 8 * place
        return number, p

    def varint(data: Any, p: int, end: int) -> tuple[int, int]:
        """Return a number in groups of seven bits, and the place behind it; of a large one the low bits only.

        As writers write it: in no more bytes than it needs, or the place is -1.
        """
        number = 0
        for shift in range(0, _MOST_VARINT, 7):
            c, p = byte(data, p, end)
            if c < 0 or (c == 0 and shift > 0):
                return 0, -1
            if shift < 35:
                number |= (c & 0x7F) << shift
            if c < 0x80:
                return number, p
        return 0, -1

    return made(big_endian), made(little_endian), made(varint)


def _msgpack_weight(reader: Reader, big_endian: Any, made: Made) -> Any:
    byte, skip, skip_text = reader.byte, reader.skip, reader.skip_text
    length, fixed = reader.table(_MSGPACK_LENGTH), reader.table(_MSGPACK_FIXED)

    def msgpack_weight(data: Any, p: int, end: int) -> int:
        """Return how much speaks for msgpack (github.com/msgpack/msgpack, spec.md): -1 where its lengths do not fit."""
        weight, left = 0, 1
        while left > 0:
            if left > end - p:
                return -1
            left -= 1
            c, p = byte(data, p, end)
            if c < 0x80 or c >= 0xE0:
                continue  # a small number; the end comes when all that is left is nothing
            if c < 0x90:
                left += 2 * (c & 0x0F)
            elif c < 0xA0:
                left += c & 0x0F
            elif c < 0xC0:
                p = skip_text(data, p, end, c & 0x1F)
                weight += _ENOUGH if c > 0xA0 else 0
            elif c == 0xC1:
                return -1
            else:
                size, p = big_endian(data, p, end, length[c - 0xC0])
                if p < 0:
                    return -1
                if c >= 0xDC:
                    left += size * 2 if c >= 0xDE else size
                    weight += _ENOUGH
                elif c >= 0xD9:
                    p = skip_text(data, p, end, size)
                    weight += _ENOUGH
                elif c >= 0xC4:
                    p = skip(data, p, end, size + fixed[c - 0xC0])
                    weight += 1
            if p < 0:
                return -1
        return weight if p == end else -1

    return made(msgpack_weight)


def _is_msgpack(reader: Reader, weight: Any, made: Made) -> Walk:
    byte = reader.byte

    def is_msgpack(data: Any, p: int, end: int) -> bool:
        """Whether it is a map or an array of msgpack that holds a text, many elements, or four numbers of several bytes."""
        first = byte(data, p, end)[0]
        if 0x80 < first < 0xA0 or 0xDC <= first <= 0xDF:
            return weight(data, p, end) >= _ENOUGH
        return False

    return made(is_msgpack)


def _is_msgpack_lz4(reader: Reader, weight: Any, made: Made) -> Walk:
    byte, skip, length = reader.byte, reader.skip, reader.table(_MSGPACK_LENGTH)

    def is_msgpack_lz4(data: Any, p: int, end: int) -> bool:
        """Whether it is an extension of MessagePack-CSharp that holds LZ4, or an array that begins with the other one."""
        start = p
        c, p = byte(data, p, end)
        wanted = _LZ4_BLOCK
        if 0x91 < c < 0xA0 or c == 0xDC:
            wanted = _LZ4_BLOCK_ARRAY
            if c == 0xDC:
                p = skip(data, p, end, 2)
            if p >= 0:
                c, p = byte(data, p, end)
        if p < 0 or not (0xC7 <= c <= 0xC9 or 0xD4 <= c <= 0xD8):
            return False
        p = skip(data, p, end, length[c - 0xC0])
        if p < 0:
            return False
        kind, p = byte(data, p, end)
        if kind != wanted or (kind == _LZ4_BLOCK and byte(data, p, end)[0] != _INT32):
            return False
        return weight(data, start, end) >= 0

    return made(is_msgpack_lz4)


def _is_bson(reader: Reader, little_endian: Any, made: Made) -> Walk:
    byte, skip = reader.byte, reader.skip
    is_sized, size_of = reader.table(_BSON_IS_SIZED), reader.table(_BSON_SIZE)

    def is_bson(data: Any, p: int, end: int) -> bool:
        """Whether it is a document of BSON (bsonspec.org) that is not empty."""
        size, behind = little_endian(data, p, end, 4)
        if size <= _LEAST_BSON or behind < 0 or size > end - p or skip(data, p, end, size) != end:
            return False
        p = behind
        while True:
            kind, p = byte(data, p, end)
            if kind <= 0:
                return kind == 0 and p == end
            c, p = byte(data, p, end)
            while c > 0:
                c, p = byte(data, p, end)
            if c < 0:
                return False
            if kind in (0x7F, 0xFF):
                continue  # the least and the greatest key have no value
            if kind > 19 or size_of[kind] == -1:
                return False
            size = 0
            if is_sized[kind]:
                size, p = little_endian(data, p, end, 4)
            size += size_of[kind]
            if p < 0 or size < 0:
                return False
            p = skip(data, p, end, size)
            if p < 0:
                return False

    return made(is_bson)


def _is_protobuf(reader: Reader, varint: Any, made: Made) -> Walk:
    byte, skip, skip_text = reader.byte, reader.skip, reader.skip_text

    def is_protobuf(data: Any, p: int, end: int) -> bool:
        """Whether it is like a message of protobuf (protobuf.dev, Encoding): fields as writers write them, in their order."""
        if end - p < _LEAST_PROTOBUF or skip(data, p, end, _LEAST_PROTOBUF) < 0 or byte(data, p, end)[0] >= 0x80:
            return False
        weight, last = 0, 1
        while p < end:
            tag, p = varint(data, p, end)
            field, kind = tag >> 3, tag & 7
            if p < 0 or not last <= field <= _MOST_FIELD:
                return False
            last = field
            weight += 1
            if kind == 0:
                p = varint(data, p, end)[1]
            elif kind == 1:
                p = skip(data, p, end, 8)
            elif kind == 5:
                p = skip(data, p, end, 4)
            elif kind == 2:
                size, p = varint(data, p, end)
                if p < 0:
                    return False
                behind = skip_text(data, p, end, size)
                if size > 0:
                    weight += 1 if behind < 0 else _ENOUGH
                p = skip(data, p, end, size) if behind < 0 else behind
            else:
                return False  # groups: nobody writes them any more
            if p < 0:
                return False
        return weight >= _ENOUGH

    return made(is_protobuf)


def _is_snappy(reader: Reader, little_endian: Any, varint: Any, made: Made) -> Walk:
    byte, skip = reader.byte, reader.skip

    def is_snappy(data: Any, p: int, end: int) -> bool:
        """Whether it is what snappy makes of a block (google/snappy, format_description.txt), with something repeated in it."""
        if end - p < _LEAST_SNAPPY or skip(data, p, end, _LEAST_SNAPPY) < 0:
            return False
        size, p = varint(data, p, end)
        if p < 0 or size >= 1 << 32:
            return False
        length, repeated = 0, False
        while p < end:
            tag, p = byte(data, p, end)
            kind, more = tag & 3, tag >> 2
            if kind == 0:
                if more >= 60:
                    more, p = little_endian(data, p, end, more - 59)
                if p >= 0:
                    p = skip(data, p, end, more + 1)
            else:
                offset, p = little_endian(data, p, end, 1 << (kind - 1))
                if kind == 1:
                    offset |= (more >> 3) << 8
                    more = 3 + (more & 7)
                if not 0 < offset <= length:
                    return False
                repeated = True
            length += more + 1
            if p < 0 or length > size:
                return False
        return repeated and length == size

    return made(is_snappy)


def _php_value(reader: Reader, expect: Any, decimal: Any, made: Made) -> Any:
    byte, skip = reader.byte, reader.skip

    def php_value(data: Any, p: int, end: int) -> int:
        """Return the place behind a value as PHP's ``serialize`` writes it (ext/standard/var.c); -1 without one.

        Lengths of texts and brackets are followed, not how many elements an array has.
        """
        depth = 0
        while True:
            kind, p = byte(data, p, end)
            if kind == _CLOSING:
                depth -= 1
                if depth < 0:
                    return -1
            elif kind == _UPPER_N:
                p = expect(data, p, end, _SEMICOLON)
            elif kind in (_LOWER_B, _LOWER_I, _LOWER_R, _UPPER_R, _LOWER_D):
                p = expect(data, p, end, _COLON)
                if p < 0:
                    return -1
                size = 0
                c, p = byte(data, p, end)
                while _ZERO <= c <= _NINE or c in (_MINUS, _PLUS) or (
                    kind == _LOWER_D and c in (_DOT, _UPPER_E, _UPPER_I, _UPPER_N, _UPPER_F, _UPPER_A)  # also INF, NAN
                ):  # fmt: skip
                    size += 1
                    c, p = byte(data, p, end)
                if c != _SEMICOLON or size == 0:
                    return -1
            elif kind in (_LOWER_S, _UPPER_O, _UPPER_E, _UPPER_C):
                size, p = decimal(data, expect(data, p, end, _COLON), end)
                p = expect(data, expect(data, p, end, _COLON), end, _QUOTE)
                if p >= 0:
                    p = expect(data, skip(data, p, end, size), end, _QUOTE)
                if kind in (_LOWER_S, _UPPER_E):
                    p = expect(data, p, end, _SEMICOLON)
                else:
                    size, p = decimal(data, expect(data, p, end, _COLON), end)
                    p = expect(data, expect(data, p, end, _COLON), end, _OPENING)
                    depth += 1
                    if kind == _UPPER_C and p >= 0:
                        p = skip(data, p, end, size)  # what the class itself wrote
            elif kind == _LOWER_A:
                size, p = decimal(data, expect(data, p, end, _COLON), end)
                p = expect(data, expect(data, p, end, _COLON), end, _OPENING)
                depth += 1
            else:
                return -1
            if p < 0 or depth == 0:
                return p

    return made(php_value)


def _is_php_session(reader: Reader, value: Any, made: Made) -> Walk:
    byte = reader.byte

    def is_php_session(data: Any, p: int, end: int) -> bool:
        """Whether it is a session of PHP's handler "php" (ext/session/session.c): names, each before a bar and a value."""
        while p < end:
            start = p
            c, p = byte(data, p, end)
            while _ZERO <= c <= _NINE or _UPPER_A <= c <= _UPPER_Z or _LOWER_A <= c <= _LOWER_Z or c in (
                _UNDERSCORE, _MINUS, _DOT, _SLASH, _COLON,
            ):  # fmt: skip
                if p - start > _MOST_SESSION_NAME:
                    return False
                c, p = byte(data, p, end)
            if c != _BAR or p - start == 1:
                return False
            p = value(data, p, end)
            if p < 0:
                return False
        return True

    return made(is_php_session)


def _is_igbinary(reader: Reader, big_endian: Any, made: Made) -> Walk:
    byte, skip, size_of = reader.byte, reader.skip, reader.table(_IGBINARY)

    def is_igbinary(data: Any, p: int, end: int) -> bool:
        """Whether it begins with the version of igbinary, 1 or 2, and with a type."""
        version, p = big_endian(data, p, end, 4)
        if p < 0 or not 1 <= version <= 2:
            return False
        kind, p = byte(data, p, end)
        if not 0 <= kind < len(_IGBINARY) or size_of[kind] == -1:
            return False
        return p < end if size_of[kind] == -2 else skip(data, p, end, size_of[kind]) == end

    return made(is_igbinary)


def _is_ruby(reader: Reader, made: Made) -> Walk:
    byte, type_of = reader.byte, reader.table(_RUBY_TYPE)

    def is_ruby(data: Any, p: int, end: int) -> bool:
        """Whether it begins with the version of Ruby's Marshal, 4.8 for twenty years, and with a type."""
        major, p = byte(data, p, end)
        minor, p = byte(data, p, end)
        kind, p = byte(data, p, end)
        if major != 4 or minor != 8 or not 0 <= kind < 128:
            return False
        return (type_of[kind] == 1 and p == end) or (type_of[kind] == 2 and p < end)

    return made(is_ruby)


def _is_rails(reader: Reader, made: Made) -> Walk:
    byte, skip, entry = reader.byte, reader.skip, reader.table(_RAILS_ENTRY)

    def is_rails(data: Any, p: int, end: int) -> bool:
        """Whether it begins as an entry of ActiveSupport::Cache does.

        Since 7.1 with a signature and the type of the value (cache/coder.rb); in 7.0 with a mark before Ruby's Marshal of an
        array, or before what zlib makes of that (cache/serializer_with_fallback.rb); earlier with the name of its class.
        """
        start = p
        first, p = byte(data, p, end)
        second, p = byte(data, p, end)
        third, p = byte(data, p, end)
        if first == 0 and second == 0x11:
            return (1 <= third <= 4 or 0x81 <= third <= 0x84) and skip(data, p, end, _RAILS_HEAD) >= 0
        if first == 0 and second == 4 and third == 8:
            return byte(data, p, end)[0] == _OPENING_LIST
        if first == 1 and second == 0x78:
            return third in (0x01, 0x5E, 0x9C, 0xDA)
        p = start
        for place in range(len(entry)):
            c, p = byte(data, p, end)
            if c != entry[place]:
                return False
        return True

    return made(is_rails)


def _text_pickle(reader: Reader, little_endian: Any, made: Made) -> Walk:
    byte, skip, skip_line = reader.byte, reader.skip, reader.skip_line
    behind_opcode, of_protocol_1 = reader.table(_BEHIND_OPCODE), reader.table(_OF_PROTOCOL_1)

    def text_pickle(data: Any, p: int, end: int) -> int:
        """Return the protocol, 0 or 1, of a pickle that keeps something in its memo, as all but numbers are; else -1."""
        protocol, kept, start = 0, False, p
        while True:
            is_first = p == start
            c, p = byte(data, p, end)
            if c < 0 or c >= 128:
                return -1
            if c == _DOT:
                return protocol if kept and p == end else -1
            behind = behind_opcode[c]
            if of_protocol_1[c]:
                protocol = 1
            kept = kept or (c in (_LOWER_P, _LOWER_Q, _LOWER_R) and not is_first)
            size = behind
            if behind in (_SIZED, _LONG_SIZED):
                size, p = little_endian(data, p, end, 1 if behind == _SIZED else 4)
            if size >= 0:
                if p >= 0:
                    p = skip(data, p, end, size)
            elif behind == _NO_OPCODE:
                return -1
            else:
                first, second_at = byte(data, p, end)
                if behind == _QUOTED_LINE and first not in (_APOSTROPHE, _QUOTE):
                    return -1
                if behind == _NUMBER_LINE:
                    if first == _MINUS:
                        first = byte(data, second_at, end)[0]
                    if not _ZERO <= first <= _NINE:
                        return -1
                p = skip_line(data, p, end)
                if behind == _TWO_LINES and p >= 0:
                    p = skip_line(data, p, end)
            if p < 0:
                return -1

    return made(text_pickle)
