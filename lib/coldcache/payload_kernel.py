"""The class of a value, told by compiled code from its bytes as a log prints them.

The same answers as :func:`coldcache.payloads.payload_format`, for millions of values that stand in
Redis's printable escape (``sdscatrepr`` in ``src/sds.c``) in one long array of bytes. The escapes
are undone on the fly and nothing is copied. What is rare and hard is left to Python: `UNDECIDED`.

Indices and characters are `np.int64` throughout: numba makes float64 of uint64 beside int64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from coldcache.payload_structures import Reader, walks
from coldcache.payloads import FORMATS, LEAST_BASE64, LEAST_BASE64_UNMARKED

# What `classify` returns is the place of the name in `FORMATS`.
(
    UNDECIDED, EMPTY, NUMBER, JSON, JSON_DOUBLE, JSON_TRUNCATED, NODE_BUFFER, OBJECT_OBJECT, LITERAL_NOTHING,
    PYTHON_REPR, PICKLE_0, PICKLE_1, PICKLE_2, PICKLE_3, PICKLE_4, PICKLE_5,
    JAVA, PHP, PHP_SESSION, IGBINARY, RUBY, RAILS, DOTNET, MSGPACK, MSGPACK_LZ4, BSON, PROTOBUF,
    GZIP, ZLIB, ZSTD, LZ4, SNAPPY, SNAPPY_FRAMED, JPEG, PNG, WEBP, UTF8_MANGLED, TEXT, BINARY,
) = range(len(FORMATS))  # fmt: skip

_INT = np.int64
_WORD = np.uint64
_TAB, _NEW_LINE, _RETURN, _SPACE, _EXCLAMATION = 9, 10, 13, 32, 33
_QUOTE, _APOSTROPHE, _PARENTHESIS, _PLUS, _COMMA, _MINUS, _DOT, _SLASH, _ZERO, _NINE = 34, 39, 40, 43, 44, 45, 46, 47, 48, 57
_COLON, _LESS, _OPENING, _BACKSLASH, _CLOSING, _OPENING_BRACE, _CLOSING_BRACE, _DELETE = 58, 60, 91, 92, 93, 123, 125, 127
_LOWER_A, _LOWER_B, _LOWER_E, _LOWER_F, _LOWER_N, _LOWER_O, _LOWER_R, _LOWER_T, _LOWER_U, _LOWER_X = (
    ord(letter) for letter in "abefnortux"
)
_SEMICOLON, _EQUALS, _UNDERSCORE = 59, 61, 95
_UPPER_E, _UPPER_I, _UPPER_N = (ord(letter) for letter in "EIN")


# Words that are looked for, told by their number: passing arrays about would count references.
_WORDS = (
    b"true", b"false", b"null", b"NaN", b"Infinity", b"None", b"nil", b"undefined", b"type", b"data", b"Buffer",
    b" object at 0x", b"[object Object]", b"\x89PNG\r\n\x1a\n", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18",
    b"\xac\xed\x00\x05", b"\xff\xd8\xff", b"\x1f\x8b", b"RIFF", b"WEBP",
    b"\x00\x01\x00\x00\x00\xff\xff\xff\xff", b"\xff\x06\x00\x00sNaPpY", b"\x82SNAPPY\x00",
)  # fmt: skip
(
    _TRUE, _FALSE, _NULL, _NAN, _INFINITY, _NONE, _NIL, _UNDEFINED, _TYPE, _DATA, _BUFFER,
    _OBJECT_AT, _OBJECT_OBJECT, _PNG, _ZSTD, _LZ4,
    _JAVA, _JPEG, _GZIP, _RIFF, _WEBP,
    _DOTNET, _SNAPPY_FRAMES, _SNAPPY_JAVA,
) = range(len(_WORDS))  # fmt: skip
_WORD_BYTES = np.frombuffer(b"".join(_WORDS), np.uint8)
_WORD_AT = np.cumsum([0, *(len(word) for word in _WORDS)])

# With what base64 of something known may begin besides JSON, in its first two bytes, and PHP in its first.
_HEADS_IN_BASE64 = (
    0x8950, 0x28B5, 0x0422, 0xACED, 0xFFD8, 0x1F8B, 0x5249, 0x0001, 0xFF06, 0x8253, 0x7801, 0x785E, 0x789C, 0x78DA,
    0x8002, 0x8003, 0x8004, 0x8005, 0x2180, 0x0408, 0x0011, 0x0004, 0x0178, 0x0000, 0x6222, 0x6227,
)  # fmt: skip
_PHP_LETTERS = tuple(b"aOCEsbidrRN")

# How far payload_format looks for what JavaScript and a lossy decoder leave, in bytes, and for unprintable characters.
_MANGLED_HEAD, _OBJECT_HEAD, _TEXT_HEAD = 256, 64, 256
# Every character below this one is looked up; above are rare ideographs only.
_LOOKED_UP = 0x20000
_PRINTABLE = np.packbits([chr(code).isprintable() for code in range(_LOOKED_UP)], bitorder="little")
# Python may be set to refuse integers from 641 digits on (sys.int_info.str_digits_check_threshold), and refuses 4301.
_MOST_DIGITS = 640
# Python gives up near a thousand levels less its own stack, which we cannot know here.
_MOST_LEVELS = 512
MOST_OUTER = _MOST_LEVELS >> 6

# What the JSON reader expects next.
_VALUE, _FIRST_VALUE, _KEY, _FIRST_KEY, _AFTER = range(5)
# What it says besides a class.
_INVALID = -1
# What it notes about a string: a JSON escape; bytes that need a look at the value's head.
_ESCAPED, _LOOK = 1, 2


def _load(context: Any, builder: Any, arguments: Any, bits: int) -> Any:
    place = builder.inttoptr(builder.add(*arguments), ir.IntType(bits).as_pointer())
    return builder.load(place, align=1)


@intrinsic  # type: ignore[untyped-decorator]
def byte_at(_typing: Any, base: Any, p: Any) -> Any:
    """Return the byte at an address, as int64: an array here would count references and test for negative places."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.zext(_load(context, builder, arguments, 8), ir.IntType(64))

    return types.int64(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def eight_bytes(_typing: Any, base: Any, p: Any) -> Any:
    """Return eight bytes at an address, the first one lowest."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _load(context, builder, arguments, 64)

    return types.uint64(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def store_eight_bytes(_typing: Any, base: Any, p: Any, word: Any) -> Any:
    """Write eight bytes to an address, the lowest first."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(builder.add(*arguments[:2]), ir.IntType(64).as_pointer())
        builder.store(arguments[2], place, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.uint64), generate


@njit(inline="always")
def _skip_plain(base: int, p: int, end: int) -> int:
    """Return the place of the next byte that is a backslash or not printable ASCII; `end` without one."""
    low, high = _WORD(0x0101010101010101), _WORD(0x8080808080808080)
    controls, backslashes = low * _WORD(_SPACE), low * _WORD(_BACKSLASH)
    while p + 8 <= end:
        word = eight_bytes(base, p)
        other = word ^ backslashes
        # The lowest bit that is set is right; a borrow may set wrong ones above it.
        stops = (((other - low) & ~other) | ((word - controls) & ~word) | word | (word + low)) & high
        if stops != _WORD(0):
            below = ((stops & (~stops + _WORD(1))) - _WORD(1)) & low
            return p + _INT((below * low) >> _WORD(56)) - 1
        p += 8
    while p < end and byte_at(base, p) != _BACKSLASH and _SPACE <= byte_at(base, p) < _DELETE:
        p += 1
    return p


@njit(inline="always")
def _hex_digit(c: int) -> int:
    """Return what a hexadecimal digit stands for; -1 for anything else."""
    if _ZERO <= c <= _NINE:
        return c - _ZERO
    c |= 0x20
    return c - _LOWER_A + 10 if _LOWER_A <= c <= _LOWER_F else -1


@njit(nogil=True, cache=True)
def _escaped(base: int, p: int, end: int) -> tuple[int, int]:
    """Return the byte that the backslash at `p` prints, and the place behind it."""
    if p + 1 >= end:
        return _INT(_BACKSLASH), p + 1
    c = byte_at(base, p + 1)
    if c == _LOWER_X and p + 3 < end:
        high, low = _hex_digit(byte_at(base, p + 2)), _hex_digit(byte_at(base, p + 3))
        if high >= 0 and low >= 0:
            return (high << 4) | low, p + 4
    if c == _LOWER_N:
        c = _INT(_NEW_LINE)
    elif c == _LOWER_R:
        c = _INT(_RETURN)
    elif c == _LOWER_T:
        c = _INT(_TAB)
    elif c == _LOWER_A:
        c = _INT(7)
    elif c == _LOWER_B:
        c = _INT(8)
    return c, p + 2


@njit(nogil=True, cache=True)
def _next(base: int, p: int, end: int) -> tuple[int, int]:
    """Return the value's byte at `p` and the place behind it; -1 at the end."""
    if p >= end:
        return _INT(-1), p
    c = byte_at(base, p)
    if c != _BACKSLASH:
        return c, p + 1
    if p + 1 < end and byte_at(base, p + 1) == _QUOTE:
        return _INT(_QUOTE), p + 2
    return _escaped(base, p, end)


@njit(nogil=True, cache=True)
def _behind(base: int, p: int, end: int, word: int) -> int:
    """Return the place behind a word that stands at `p`; -1 where it does not."""
    for j in range(_WORD_AT[word], _WORD_AT[word + 1]):
        c, p = _next(base, p, end)
        if c != _WORD_BYTES[j]:
            return _INT(-1)
    return p


@njit(inline="always")
def _is_digit(c: int) -> bool:
    return _ZERO <= c <= _NINE


@njit(inline="always")
def _is_byte_space(c: int) -> bool:
    r"""Whether ``bytes.strip`` and a pattern's ``\s`` take it for white space."""
    return c == _SPACE or _TAB <= c <= _RETURN


@njit(nogil=True, cache=True)
def _is_space(code: int) -> bool:
    """Whether ``str.strip`` takes it for white space."""
    if code < 0x80:
        return _is_byte_space(code) or 0x1C <= code <= 0x1F
    return (
        code in (0x85, 0xA0, 0x1680) or 0x2000 <= code <= 0x200A or code in (0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
    )  # fmt: skip


@njit(nogil=True, cache=True)
def _multibyte(base: int, lead: int, p: int, end: int, surrogates: bool) -> tuple[int, int]:
    """Return the character that a byte beyond ASCII starts, and the place behind it.

    Parameters
    ----------
    lead : int
        The first byte; `p` is the place behind it.
    surrogates : bool
        Whether they may stand alone, as ``json.loads`` lets them.

    Returns
    -------
    tuple of int
        The character is -1 where this is not UTF-8.
    """
    smallest, largest = 0x80, 0xBF  # the second byte
    if 0xC2 <= lead <= 0xDF:
        more, code = 1, lead & 0x1F
    elif 0xE0 <= lead <= 0xEF:
        more, code = 2, lead & 0x0F
        if lead == 0xE0:
            smallest = 0xA0
        elif lead == 0xED and not surrogates:
            largest = 0x9F
    elif 0xF0 <= lead <= 0xF4:
        more, code = 3, lead & 0x07
        if lead == 0xF0:
            smallest = 0x90
        elif lead == 0xF4:
            largest = 0x8F
    else:
        return _INT(-1), p
    for _ in range(more):
        c, p = _next(base, p, end)
        if c < smallest or c > largest:
            return _INT(-1), p
        code = (code << 6) | (c & 0x3F)
        smallest, largest = 0x80, 0xBF
    return code, p


@njit(nogil=True, cache=True)
def _json_escape(base: int, p: int, end: int) -> tuple[int, int]:
    """Return the character that a backslash of JSON before `p` stands for, -1 for none, and the place behind it."""
    c, p = _next(base, p, end)
    if c in (_QUOTE, _BACKSLASH, _SLASH):
        return c, p
    if c == _LOWER_N:
        return _INT(_NEW_LINE), p
    if c == _LOWER_R:
        return _INT(_RETURN), p
    if c == _LOWER_T:
        return _INT(_TAB), p
    if c == _LOWER_B:
        return _INT(8), p
    if c == _LOWER_F:
        return _INT(12), p
    if c != _LOWER_U:
        return _INT(-1), p
    code = _INT(0)
    for _ in range(4):
        c, p = _next(base, p, end)
        digit = _hex_digit(c)
        if digit < 0:
            return _INT(-1), p
        code = (code << 4) | digit
    return code, p


@njit(nogil=True, cache=True)
def _string_character(base: int, p: int, end: int) -> tuple[int, int]:
    """Return the character at `p` in a JSON string that is known to be valid, and the place behind it; -1 at its end."""
    c, p = _next(base, p, end)
    if c == _QUOTE:
        return _INT(-1), p
    if c == _BACKSLASH:
        return _json_escape(base, p, end)
    if c >= 0x80:
        return _multibyte(base, c, p, end, True)
    return c, p


@njit(nogil=True, cache=True)
def _is_string(base: int, p: int, end: int, notes: int, word: int) -> bool:
    """Whether the valid JSON string whose text starts at `p` says that word."""
    if notes == 0 and byte_at(base, p) != _WORD_BYTES[_WORD_AT[word]]:
        return False  # nearly always
    for j in range(_WORD_AT[word], _WORD_AT[word + 1]):
        c, p = _string_character(base, p, end)
        if c != _WORD_BYTES[j]:
            return False
    return _string_character(base, p, end)[0] == -1


@njit(nogil=True, cache=True)
def _holds_json(base: int, p: int, end: int) -> bool:
    """Whether the text of a valid JSON string starts as an object or an array, behind white space."""
    c, p = _string_character(base, p, end)
    while _is_space(c):
        c, p = _string_character(base, p, end)
    return c in (_OPENING_BRACE, _OPENING)


@njit(nogil=True, cache=True)
def _string(base: int, p: int, end: int) -> tuple[int, int]:
    """Return the place behind a JSON string whose text starts at `p`, -1 if it is not valid, and notes about it."""
    notes = _INT(0)
    while True:
        p = _skip_plain(base, p, end)
        c, p = _next(base, p, end)
        if c == _QUOTE:
            return p, notes
        if c == _BACKSLASH:
            notes |= _ESCAPED
            c, p = _json_escape(base, p, end)
            if c < 0:
                return _INT(-1), notes
        elif c < _SPACE:
            return _INT(-1), notes  # the end as well
        else:
            notes |= _LOOK  # beyond ASCII, or escaped without need
            if c >= 0x80:
                c, p = _multibyte(base, c, p, end, True)
                if c < 0:
                    return _INT(-1), notes


@njit(nogil=True, cache=True)
def _digits(base: int, p: int, end: int) -> tuple[int, int]:
    """Return how many digits stand at `p`, and the place behind them."""
    start = p
    while p < end and _is_digit(byte_at(base, p)):
        p += 1
    return p - start, p


@njit(nogil=True, cache=True)
def _json_number(base: int, p: int, end: int) -> tuple[int, int]:
    """Return the place behind a JSON number that starts at `p`, and the number of digits if it is an integer, else 0.

    The place is -1 where there is none. A point or an exponent without digits is left standing
    behind the number, where it is refused.
    """
    c, behind = _next(base, p, end)
    if c == _MINUS:
        p = behind
        c, behind = _next(base, p, end)
        if c == _UPPER_I:
            return _behind(base, p, end, _INFINITY), _INT(0)
    if c == _ZERO:
        digits, p = _INT(1), behind
    else:
        digits, p = _digits(base, p, end)
        if digits == 0:
            return _INT(-1), digits
    c, behind = _next(base, p, end)
    if c == _DOT:
        fraction, behind = _digits(base, behind, end)
        if fraction == 0:
            return p, digits
        digits, p = _INT(0), behind
        c, behind = _next(base, p, end)
    if c in (_LOWER_E, _UPPER_E):
        c, signed = _next(base, behind, end)
        if c in (_PLUS, _MINUS):
            behind = signed
        exponent, behind = _digits(base, behind, end)
        if exponent > 0:
            digits, p = _INT(0), behind
    return p, digits


@njit(nogil=True, cache=True)
def _json(base: int, p: int, end: int, outer: int) -> tuple[int, bool]:
    """Read a whole value as ``json.loads`` would.

    Parameters
    ----------
    outer : int
        Address of `MOST_OUTER` words: room for the brackets that are open beyond 64.

    Returns
    -------
    tuple of int and bool
        A class or `_INVALID`; and whether the value's head needs a look.
    """
    depth = _INT(0)
    kinds = _WORD(0)  # a bit per open bracket, the innermost lowest: 1 for an object
    expected = _VALUE
    look = False
    names_type, is_buffer, has_data, holds_json = False, False, False, False
    while True:
        c, behind = _next(base, p, end)
        if c in (_SPACE, _NEW_LINE, _RETURN, _TAB):
            p = behind
            continue
        if expected == _AFTER:
            if depth == 0:
                if c >= 0:
                    return _INT(_INVALID), look
                if is_buffer and has_data:
                    return _INT(NODE_BUFFER), look
                return _INT(JSON_DOUBLE if holds_json else JSON), look
            in_object = (kinds & _WORD(1)) != _WORD(0)
            if c == _COMMA:
                expected = _KEY if in_object else _VALUE
            elif c != (_CLOSING_BRACE if in_object else _CLOSING):
                return _INT(_INVALID), look
        elif expected in (_KEY, _FIRST_KEY):
            if c == _QUOTE:
                start = behind
                behind, notes = _string(base, start, end)
                if behind < 0:
                    return _INT(_INVALID), look
                look = look or (notes & _LOOK) != 0
                if depth == 1:
                    names_type = _is_string(base, start, end, notes, _TYPE)
                    has_data = has_data or _is_string(base, start, end, notes, _DATA)
                c, behind = _next(base, behind, end)
                while c in (_SPACE, _NEW_LINE, _RETURN, _TAB):
                    c, behind = _next(base, behind, end)
                if c != _COLON:
                    return _INT(_INVALID), look
                expected = _VALUE
            elif c != _CLOSING_BRACE or expected == _KEY:
                return _INT(_INVALID), look
        elif c == _CLOSING and expected == _FIRST_VALUE:
            pass  # closed below
        else:
            if depth == 1 and names_type:
                is_buffer = False  # the last of several counts
            expected = _AFTER
            if c == _QUOTE:
                start = behind
                behind, notes = _string(base, start, end)
                if behind < 0:
                    return _INT(_INVALID), look
                look = look or (notes & _LOOK) != 0
                if depth == 1 and names_type:
                    is_buffer = _is_string(base, start, end, notes, _BUFFER)
                elif depth == 0:
                    holds_json = _holds_json(base, start, end)
            elif c in (_OPENING_BRACE, _OPENING):
                if depth > 0 and depth & 63 == 0:
                    if depth == _MOST_LEVELS:
                        return _INT(UNDECIDED), look
                    store_eight_bytes(outer, (depth >> 3) - 8, kinds)
                depth += 1
                kinds = (kinds << _WORD(1)) | _WORD(c == _OPENING_BRACE)
                expected = _FIRST_KEY if c == _OPENING_BRACE else _FIRST_VALUE
            elif _is_digit(c) or c == _MINUS:
                behind, digits = _json_number(base, p, end)
                if digits > _MOST_DIGITS:
                    return _INT(UNDECIDED), look
            elif c == _LOWER_T:
                behind = _behind(base, p, end, _TRUE)
            elif c == _LOWER_F:
                behind = _behind(base, p, end, _FALSE)
            elif c == _LOWER_N:
                behind = _behind(base, p, end, _NULL)
            elif c == _UPPER_N:
                behind = _behind(base, p, end, _NAN)
            elif c == _UPPER_I:
                behind = _behind(base, p, end, _INFINITY)
            else:
                return _INT(_INVALID), look
            if behind < 0:
                return _INT(_INVALID), look
            p = behind
            continue
        if c in (_CLOSING_BRACE, _CLOSING):
            depth -= 1
            kinds >>= _WORD(1)
            if depth > 0 and depth & 63 == 0:
                kinds = eight_bytes(outer, (depth >> 3) - 8)
            expected = _AFTER
        p = behind


@njit(nogil=True, cache=True)
def _may_hold_object(base: int, p: int, end: int) -> bool:
    """Whether ``[o`` stands in the first bytes: without a branch, so that it is compiled to vectors."""
    found = False
    for j in range(p, min(p + 4 * _OBJECT_HEAD, end - 1)):
        found |= (byte_at(base, j) == _OPENING) & (byte_at(base, j + 1) == _LOWER_O)
    return found


@njit(nogil=True, cache=True)
def _head_class(base: int, p: int, end: int) -> int:
    """Return UTF8_MANGLED or OBJECT_OBJECT if the value's head shows it, else UNDECIDED."""
    matched, before, last = _INT(0), _INT(0), _INT(0)
    length = _WORD_AT[_OBJECT_OBJECT + 1] - _WORD_AT[_OBJECT_OBJECT]
    for place in range(_MANGLED_HEAD):
        c, p = _next(base, p, end)
        if c < 0:
            break
        if before == 0xEF and last == 0xBF and c == 0xBD:
            return _INT(UTF8_MANGLED)
        before, last = last, c
        if place < _OBJECT_HEAD and matched < length:
            # Only its first character is a bracket: where it fails, it can begin nowhere earlier.
            matched = matched + 1 if c == _WORD_BYTES[_WORD_AT[_OBJECT_OBJECT] + matched] else _INT(c == _OPENING)
    return _INT(OBJECT_OBJECT) if matched == length else _INT(UNDECIDED)


@njit(nogil=True, cache=True)
def _magic_class(base: int, at: int, end: int) -> int:
    """Return the class that the first bytes give away, else UNDECIDED."""
    first, second_at = _next(base, at, end)
    second, third_at = _next(base, second_at, end)
    if _behind(base, at, end, _PNG) >= 0:
        return _INT(PNG)
    if _behind(base, at, end, _ZSTD) >= 0:
        return _INT(ZSTD)
    if _behind(base, at, end, _LZ4) >= 0:
        return _INT(LZ4)
    if _behind(base, at, end, _JAVA) >= 0:
        return _INT(JAVA)
    if _behind(base, at, end, _JPEG) >= 0:
        return _INT(JPEG)
    if _behind(base, at, end, _GZIP) >= 0:
        return _INT(GZIP)
    p = _behind(base, at, end, _RIFF)
    if p >= 0:
        for _ in range(4):
            p = _next(base, p, end)[1]
        if _behind(base, p, end, _WEBP) >= 0:
            return _INT(WEBP)
    if _behind(base, at, end, _DOTNET) >= 0:
        return _INT(DOTNET)
    if _behind(base, at, end, _SNAPPY_FRAMES) >= 0 or _behind(base, at, end, _SNAPPY_JAVA) >= 0:
        return _INT(SNAPPY_FRAMED)
    third = _next(base, third_at, end)[0]
    opcode, protocol = (second, third) if first == _EXCLAMATION else (first, second)
    if opcode == 0x80 and 2 <= protocol <= 5 and byte_at(base, end - 1) == _DOT:
        return PICKLE_0 + protocol
    # Two of the four are printable or not as they like: 0x5E is a caret.
    if first == 0x78 and second in (0x01, 0x5E, 0x9C, 0xDA) and third_at < end:
        return _INT(ZLIB)
    if first <= 4:
        if _is_rails(base, at, end):
            return _INT(RAILS)
        if _is_ruby(base, at, end):
            return _INT(RUBY)
        if _is_igbinary(base, at, end):
            return _INT(IGBINARY)
    return _INT(UNDECIDED)


@njit(nogil=True, cache=True)
def _is_number(base: int, p: int, end: int) -> bool:
    """Whether the whole value is a decimal number."""
    c, behind = _next(base, p, end)
    digits, p = _digits(base, behind if c == _MINUS else p, end)
    if digits == 0 or p >= end:
        return digits > 0
    c, p = _next(base, p, end)
    digits, p = _digits(base, p, end)
    return c == _DOT and digits > 0 and p >= end


@njit(nogil=True, cache=True)
def _is_python_repr(base: int, p: int, end: int) -> bool:
    """Whether the value starts as a container or an object does that Python printed."""
    c, p = _next(base, p, end)
    if c in (_OPENING, _OPENING_BRACE, _PARENTHESIS):
        c, p = _next(base, p, end)
        while _is_byte_space(c):
            c, p = _next(base, p, end)
        return c == _APOSTROPHE
    if c != _LESS:
        return False
    start = p
    while True:
        c, behind = _next(base, p, end)
        lower = c | 0x20
        if not (_is_digit(c) or (_LOWER_A <= lower <= 122 and c < 0x80) or c in (95, _DOT)):
            return p > start and _behind(base, p, end, _OBJECT_AT) >= 0
        p = behind


@njit(nogil=True, cache=True)
def _last_visible(base: int, p: int, end: int) -> int:
    """Return the value's last byte that is not white space."""
    last = _INT(0)
    while p < end:
        stop = _skip_plain(base, p, end)
        for place in range(stop - 1, p - 1, -1):
            if byte_at(base, place) != _SPACE:
                last = byte_at(base, place)
                break
        c, p = _next(base, stop, end)
        if c >= 0 and not _is_byte_space(c):
            last = c
    return last


@njit(nogil=True, cache=True)
def _skip(base: int, p: int, end: int, count: int) -> int:
    """Return the place behind so many bytes; -1 where there are fewer."""
    while 0 < count <= end - p:
        stop = _skip_plain(base, p, p + count)
        count -= stop - p
        p = stop
        if count > 0:
            p = _next(base, p, end)[1]
            count -= 1
    return p if count == 0 else _INT(-1)


@njit(nogil=True, cache=True)
def _skip_text(base: int, p: int, end: int, count: int) -> int:
    """Return the place behind so many bytes of UTF-8; -1 where there are none."""
    while 0 < count <= end - p:
        stop = _skip_plain(base, p, p + count)
        count -= stop - p
        p = stop
        if count > 0:
            c, p = _next(base, p, end)
            if c >= 0x80:
                code, p = _multibyte(base, c, p, end, False)
                if code < 0:
                    return _INT(-1)
                count -= 1 + (code >= 0x800) + (code >= 0x10000)
            count -= 1
    return p if count == 0 else _INT(-1)


@njit(nogil=True, cache=True)
def _skip_line(base: int, p: int, end: int) -> int:
    """Return the place behind the next line feed; -1 without one."""
    while p < end:
        c, p = _next(base, _skip_plain(base, p, end), end)
        if c == _NEW_LINE:
            return p
    return _INT(-1)


def _table(numbers: tuple[int, ...]) -> npt.NDArray[np.int64]:
    return np.array(numbers, np.int64)


_WALKS = walks(Reader(_next, _skip, _skip_text, _skip_line, _table), njit(nogil=True, cache=True))
_is_msgpack, _is_msgpack_lz4, _is_bson, _is_protobuf, _is_snappy = _WALKS[:5]
_is_php, _is_php_session, _is_igbinary, _is_ruby, _is_rails, _text_pickle = _WALKS[5:]


@njit(nogil=True, cache=True)
def _may_be_mojibake(base: int, at: int, end: int) -> bool:
    """Whether it may begin as bytes with a mark do, of which each has become a character: Python looks."""
    first, p = _next(base, at, end)
    second = _next(base, p, end)[0]
    if second in (0xC2, 0xC3):  # gzip, zlib, zstd, and a pickle behind an exclamation mark
        return first in (0x1F, 0x78, 0x28, _EXCLAMATION)
    if first == 0xC2:  # png, pickle, java, snappy
        return second in (0x89, 0x80, 0xAC, 0x82)
    return first == 0xC3 and second == 0xBF  # jpeg, snappy


@njit(nogil=True, cache=True)
def _sextet(c: int) -> int:
    """Return what a character of base64 stands for, in either alphabet; -1 for any other."""
    if 65 <= c <= 90:
        return c - 65
    if 97 <= c <= 122:
        return c - 71
    if _is_digit(c):
        return c + 4
    if c in (_PLUS, _MINUS):
        return _INT(62)
    return _INT(63) if c in (_SLASH, _UNDERSCORE) else _INT(-1)


@njit(nogil=True, cache=True)
def _may_be_base64(base: int, p: int, end: int) -> bool:
    """Whether a text may be base64 of something that is known: Python looks. Ids, hashes and words are nearly never."""
    count, bits, head = _INT(0), _INT(0), _INT(0)
    mangled = False
    while p < end:
        c, p = _next(base, p, end)
        if c in (_EQUALS, _NEW_LINE, _RETURN):
            continue
        sextet = _sextet(c)
        if sextet < 0:
            return False
        bits = (bits << 6 | sextet) & 0xFFFFFFFF
        count += 1
        if count == 3:
            head = bits >> 2
        # A whole byte more, or none, according to the place: the last three of them.
        extra = (6 * count) & 7
        mangled = mangled or ((bits >> extra) & 0xFFFFFF) == 0xEFBFBD
    if count < LEAST_BASE64 or count & 3 == 1:
        return False
    if mangled or count >= LEAST_BASE64_UNMARKED:
        return True
    first, second = head >> 8, head & 0xFF
    if second in (_COLON, _SEMICOLON) and first in _PHP_LETTERS:
        return True
    if first in (_OPENING_BRACE, _OPENING, _QUOTE, _PARENTHESIS, _LESS) or _is_byte_space(first):
        return True  # JSON or of Python
    return head in _HEADS_IN_BASE64


@njit(nogil=True, cache=True)
def _walked_class(base: int, at: int, end: int) -> int:
    """Return the class of bytes that only their structure tells."""
    if _may_be_mojibake(base, at, end):
        return _INT(UNDECIDED)
    if _is_msgpack_lz4(base, at, end):
        return _INT(MSGPACK_LZ4)
    if _is_msgpack(base, at, end):
        return _INT(MSGPACK)
    if _is_bson(base, at, end):
        return _INT(BSON)
    if _is_protobuf(base, at, end):
        return _INT(PROTOBUF)
    return _INT(SNAPPY) if _is_snappy(base, at, end) else _INT(BINARY)


@njit(nogil=True, cache=True)
def _plain_class(base: int, at: int, end: int) -> int:
    """Return TEXT or what bytes are; UNDECIDED where a character of the head is not looked up."""
    result, p = _INT(TEXT), at
    characters = _INT(0)
    while p < end:
        stop = _skip_plain(base, p, end)
        characters += stop - p
        c, p = _next(base, stop, end)
        if c >= 0x80:
            c, p = _multibyte(base, c, p, end, False)
            if c < 0:
                return _walked_class(base, at, end)
        if 0 <= c < _LOOKED_UP:
            printable = _PRINTABLE[c >> 3] >> (c & 7) & 1 or c in (_NEW_LINE, _RETURN, _TAB)
            if not printable and characters < _TEXT_HEAD:
                return _walked_class(base, at, end)
        elif c >= 0 and characters < _TEXT_HEAD:
            result = _INT(UNDECIDED)
        characters += 1
    return result


@njit(nogil=True, cache=True)
def _other_class(base: int, at: int, end: int) -> int:
    """Return the class of a value that starts as nothing JSON would."""
    found = _magic_class(base, at, end)
    if found == UNDECIDED:
        found = _head_class(base, at, end)
    if found != UNDECIDED:
        return found
    if (
        _behind(base, at, end, _UNDEFINED) == end or _behind(base, at, end, _NAN) == end or _behind(base, at, end, _NONE) == end
        or _behind(base, at, end, _NULL) == end or _behind(base, at, end, _NIL) == end
    ):  # fmt: skip
        return _INT(LITERAL_NOTHING)
    if _is_number(base, at, end):
        return _INT(NUMBER)
    first, p = _next(base, at, end)
    second = _next(base, p, end)[0]
    if first == _LOWER_B and second in (_APOSTROPHE, _QUOTE):
        return _INT(UNDECIDED)  # what Python's bytes hold is told by Python
    if _is_python_repr(base, at, end):
        return _INT(PYTHON_REPR)
    if _is_php(base, at, end):
        return _INT(PHP)
    if _is_php_session(base, at, end):
        return _INT(PHP_SESSION)
    if byte_at(base, end - 1) == _DOT:
        protocol = _text_pickle(base, at, end)
        if protocol >= 0:
            return PICKLE_0 + protocol
    found = _plain_class(base, at, end)
    return _INT(UNDECIDED) if found == TEXT and _may_be_base64(base, at, end) else found


@njit(nogil=True, cache=True)
def classify_at(base: int, at: int, size: int, outer: int) -> int:
    """Return the class of a value, as :func:`coldcache.payloads.payload_format` tells it.

    Parameters
    ----------
    base : int
        Address of a text.
    at, size : int
        Where the value stands in it, as Redis prints it: a quote never without a backslash before
        it, nothing escaped without need.
    outer : int
        Address of `MOST_OUTER` words that may be written to.

    Returns
    -------
    int
        Place in `FORMATS`; `UNDECIDED` for a value that payload_format itself has to see.
    """
    end = at + size
    if size <= 0:
        return _INT(EMPTY)
    first, second_at = _next(base, at, end)
    c, p = first, second_at
    while _is_byte_space(c):
        c, p = _next(base, p, end)
    if c not in (_OPENING_BRACE, _OPENING, _QUOTE):
        return _other_class(base, at, end)
    if _next(base, second_at, end)[0] == 0:
        return _INT(UNDECIDED)  # UTF-16 or UTF-32, which json.loads reads
    found, look = _json(base, at, end, outer)
    if found == UNDECIDED:
        return found
    if found == _INVALID or look or _may_hold_object(base, at, end):
        head = _head_class(base, at, end)
        if head != UNDECIDED:
            return head
    if found != _INVALID:
        return found
    if _is_python_repr(base, at, end):
        return _INT(PYTHON_REPR)
    found = _plain_class(base, at, end)
    if first == c and found in (TEXT, BINARY):
        closing = first if first == _QUOTE else first + 2
        if _last_visible(base, at, end) != closing:
            return _INT(JSON_TRUNCATED)
    return found


@njit(nogil=True, cache=True)
def classify(buf: Any, at: int, size: int) -> int:
    """Return what :func:`classify_at` says of a value in an array of bytes, which is contiguous and holds it wholly."""
    outer = np.empty(MOST_OUTER, np.uint64)
    return classify_at(_INT(buf.ctypes.data), at, size, _INT(outer.ctypes.data))
