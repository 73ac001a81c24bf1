"""Keys cut into tokens, and what a token looks like, compiled by numba: hundreds of MB/s on one core.

A key is bytes of UTF-8 between two bounds of one long array. Its tokens stand between separators;
a UUID, a negative number and a base64url text are one token each, whatever separators they hold,
and always an identifier. A printed Java prefix at the start stands for a separator, too.

Everything is an address or a number, and nothing allocates: see :func:`coldcache.sources.arrays.compiled`, and
:mod:`coldcache.keys.tokens` for what Python calls. Where an address is said to be of `bounds`, bytes begin and end
there, counted from the address of `data`; one more stands there than there are rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from coldcache.keys.tokens import IDENTIFIER, INFIX, JAVA_PREFIX, LITERAL, SEPARATORS, STAR, VERSION, VERSION_STAR, WORD
from coldcache.payload_kernel import eight_bytes
from coldcache.sources.log_kernel import int32s, int64s, last_bytes, siphash, uint8s, uint64s

_JAVA = np.frombuffer(JAVA_PREFIX, np.uint8)
_ZERO, _BACKSLASH, _COLON, _DASH, _DOT, _EQUALS, _STAR, _UNDERSCORE, _LOWER_V, _UPPER_V, _LOWER_X = b"0\\:-.=*_vVx"
_LEAST_HEX = 8  # with a digit among them: `deadbeef` and `facade` are words
_ULID = 26  # Crockford's base32, upper case: ULID specification
_LEAST_BASE64 = 16
_LEAST_PADDED = 32  # a text so long may have no digit by chance (0.4 % of random ones)
_BEHIND_DASH = 28  # bytes of a UUID from its first dash on
_LONGEST_INFIX = 2
_WORD_LETTERS, _NUMBER_DIGITS = 3, 5  # a piece of that many may stand beside base64url rather than in it
_FNV_START, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)

# Kinds of a byte, as bits.
_DIGIT, _HEX_LOWER, _LOWER, _HEX_UPPER, _CROCKFORD, _UPPER, _PLUS, _ESCAPE, _SEPARATOR, _OTHER = (1 << bit for bit in range(10))
_HEX = _DIGIT | _HEX_LOWER | _HEX_UPPER
_LOWERS, _UPPERS = _HEX_LOWER | _LOWER, _HEX_UPPER | _CROCKFORD | _UPPER
_BASE64 = _DIGIT | _LOWERS | _UPPERS | _PLUS


def _kinds_of_bytes() -> np.ndarray:
    table = np.full(256, _OTHER, np.uint16)
    for characters, kind in (
        (b"0123456789", _DIGIT),
        (b"abcdef", _HEX_LOWER),
        (b"ghijklmnopqrstuvwxyz", _LOWER),
        (b"ABCDEF", _HEX_UPPER),
        (b"GHJKMNPQRSTVWXYZ", _CROCKFORD),
        (b"ILOU", _UPPER),
        (b"+", _PLUS),
        (b"%\\", _ESCAPE),
        (SEPARATORS, _SEPARATOR),
    ):
        table[list(characters)] = kind
    return table


_KIND = _kinds_of_bytes()
# Separators have numbers from 1 on, in four bits; what stands behind Java's prefix has one of its own.
_SEPARATOR_NUMBER = np.array([SEPARATORS.find(byte) + 1 for byte in range(256)], np.uint8)
_JAVA_NUMBER = len(SEPARATORS) + 1


@njit(error_model="numpy")
def _is_soft(c: int) -> bool:
    return c in (_DASH, _UNDERSCORE)


@njit(error_model="numpy")
def _is_hard(c: int) -> bool:
    return _KIND[c] == _SEPARATOR and not _is_soft(c)


@njit(error_model="numpy")
def _kinds(data: Any, start: int, end: int) -> int:
    """Return the kinds of all bytes of a stretch."""
    kinds = 0
    for p in range(start, end):
        kinds |= _KIND[data[p]]
    return kinds


@njit(error_model="numpy")
def _is_hex(kinds: int, size: int) -> bool:
    return size >= _LEAST_HEX and kinds & _DIGIT != 0 and kinds & ~_HEX == 0


@njit(error_model="numpy")
def _may_be_base64(kinds: int, size: int) -> bool:
    return size >= _LEAST_BASE64 and kinds & _LOWERS != 0 and kinds & _UPPERS != 0 and kinds & ~(_BASE64 | _SEPARATOR) == 0


@njit(error_model="numpy")
def _is_random(data: Any, start: int, end: int) -> bool:
    """Tell base64 from words in camel case and words that dashes join: random text changes its kind often.

    Between letters and digits and from lower case to upper; `Aa` begins a word and does not count.
    """
    size = end - start
    kinds, changes, back, before = 0, 0, False, 0
    for p in range(start, end):
        kind = _KIND[data[p]]
        kinds |= kind
        if before == _DIGIT and kind & (_LOWERS | _UPPERS):
            back = True
            changes += 1
        elif (before & _LOWERS and kind & (_UPPERS | _DIGIT)) or (before & _UPPERS and kind == _DIGIT):
            changes += 1
        before = kind
    return _may_be_base64(kinds, size) and kinds & _DIGIT != 0 and ((back and 5 * changes >= size) or 4 * changes >= size)


@njit(error_model="numpy")
def _stands_beside(data: Any, start: int, end: int) -> bool:
    """Tell a piece that stands beside base64url rather than in it: a word, or an identifier of its own."""
    size = end - start
    kinds = _kinds(data, start, end)
    if kinds == _DIGIT:
        return size >= _NUMBER_DIGITS
    if kinds & ~(_LOWERS | _UPPERS):
        return _is_hex(kinds, size)
    capital = size > 0 and _KIND[data[start]] & _UPPERS and not _kinds(data, start + 1, end) & _UPPERS
    return size >= _WORD_LETTERS and (not kinds & _UPPERS or not kinds & _LOWERS or capital)


@njit(error_model="numpy")
def _base64url(data: Any, run: int, run_end: int, end: int, kinds: int) -> tuple[int, int]:
    """Return where base64url begins and ends among pieces that dashes and underscores join; -1 where there is none.

    Its padding belongs to it: one or two `=` before another separator or the key's end.
    """
    size, padding = run_end - run, 0
    while run_end + padding < end and data[run_end + padding] == _EQUALS:
        padding += 1
    if padding > 2 or (run_end + padding < end and not _is_hard(data[run_end + padding])):
        padding = 0
    # Padding to a full length is proof enough: words do not end so.
    if padding and (size + padding) % 4 == 0 and (size >= _LEAST_PADDED or kinds & _DIGIT):
        return run, run_end + padding
    start, stop, name_since, p = -1, -1, False, run
    while p <= run_end:
        piece = p
        while p < run_end and not _is_soft(data[p]):
            p += 1
        if _stands_beside(data, piece, p):
            name_since |= start >= 0 and _is_hex(_kinds(data, piece, p), p - piece)
        elif name_since:
            return -1, -1  # a hash between two pieces is an identifier of its own
        else:
            start, stop = piece if start < 0 else start, p
        p += 1
    if start < 0 or not _is_random(data, start, stop):
        return -1, -1
    return start, stop + padding if stop == run_end else stop


@njit(error_model="numpy")
def _java_end(data: Any, at: int, end: int) -> int:
    """Return where Java's prefix and the printed length behind it end; `at` where there is none."""
    p = at + len(_JAVA)
    if p >= end:
        return at
    for j in range(len(_JAVA)):
        if data[at + j] != _JAVA[j]:
            return at
    if data[p] != _BACKSLASH:
        return p + 1 if 32 <= data[p] < 127 else at
    size = 4 if p + 1 < end and data[p + 1] == _LOWER_X else 2
    return p + size if p + size <= end else at


@njit(error_model="numpy")
def _is_uuid(data: Any, start: int, dash: int, end: int) -> bool:
    """Tell whether a UUID has its first dash here; the token may be longer than the UUID."""
    if dash - start < 8 or dash + _BEHIND_DASH > end:
        return False
    for p in range(dash - 8, dash + _BEHIND_DASH):
        place = p - dash
        if place in (0, 5, 10, 15):
            if data[p] != _DASH:
                return False
        elif not _KIND[data[p]] & _HEX:
            return False
    return True


@njit(error_model="numpy")
def _is_negative(data: Any, run: int, dash: int, end: int) -> bool:
    """Tell whether a dash is the sign of a whole token of digits."""
    if dash > run and data[dash - 1] != _UNDERSCORE:
        return False
    p = dash + 1
    while p < end and _KIND[data[p]] == _DIGIT:
        p += 1
    return p > dash + 1 and (p == end or _KIND[data[p]] == _SEPARATOR)


@njit(error_model="numpy")
def _look(data: Any, start: int, end: int, kinds: int) -> int:
    """Return what a token looks like, of these kinds of bytes."""
    size = end - start
    if size == 0:
        return WORD
    joined_or_escaped = kinds & (_SEPARATOR | _ESCAPE) != 0
    ulid = size == _ULID and kinds & _DIGIT != 0 and kinds & ~(_DIGIT | _HEX_UPPER | _CROCKFORD) == 0
    star = size == 1 and data[start] == _STAR  # of a template, or of a key: nothing tells them apart
    if joined_or_escaped or kinds == _DIGIT or _is_hex(kinds, size) or ulid or star:
        return IDENTIFIER
    if _may_be_base64(kinds, size) and _is_random(data, start, end):
        return IDENTIFIER
    if size > 1 and (data[start] == _LOWER_V or data[start] == _UPPER_V):
        number = _kinds(data, start + 1, end)
        if number == _DIGIT or _is_hex(number, size - 1):
            return VERSION
    return WORD


@njit(error_model="numpy")
def _add(data: Any, starts: Any, ends: Any, looks: Any, count: int, start: int, end: int, kinds: int) -> int:
    starts[count] = start
    ends[count] = end
    looks[count] = _look(data, start, end, kinds)
    return count + 1


@njit(error_model="numpy")
def _cut_run(
    data: Any, run: int, run_end: int, base64_start: int, base64_end: int, starts: Any, ends: Any, looks: Any, count: int
) -> int:
    """Add the tokens between two separators that are neither dash nor underscore."""
    start = p = run
    kinds = 0
    while True:
        if p == base64_start:
            p = base64_end
            kinds = _SEPARATOR
        if p < run_end:
            kind = _KIND[data[p]]
            if kind != _SEPARATOR:
                kinds |= kind
                p += 1
                continue
            if data[p] == _DASH and _is_uuid(data, start, p, run_end):
                kinds = _SEPARATOR
                p += _BEHIND_DASH
                continue
            if data[p] == _DASH and p == start and _is_negative(data, run, p, run_end):
                kinds = _SEPARATOR
                p += 1
                continue
        count = _add(data, starts, ends, looks, count, start, p, kinds)
        if p == run_end:
            return count
        start = p = p + 1
        kinds = 0


@njit(error_model="numpy")
def _tokenise_one(data: Any, at: int, end: int, starts: Any, ends: Any, looks: Any, count: int) -> int:
    run = _java_end(data, at, end)
    first = count
    if run > at:
        count = _add(data, starts, ends, looks, count, at, at, _kinds(data, at, at))
    while True:
        run_end, kinds = run, 0
        while run_end < end and not _is_hard(data[run_end]):
            kinds |= _KIND[data[run_end]]
            run_end += 1
        base64_start, base64_end = -1, -1
        if _may_be_base64(kinds, run_end - run):
            base64_start, base64_end = _base64url(data, run, run_end, end, kinds)
        if base64_start >= 0 or kinds & _SEPARATOR:
            run_end = max(run_end, base64_end)
            count = _cut_run(data, run, run_end, base64_start, base64_end, starts, ends, looks, count)
        else:
            count = _add(data, starts, ends, looks, count, run, run_end, kinds)
        if run_end == end:
            break
        run = run_end + 1
    # Django's `:1:img`, and no id: nothing stands before it.
    if count - first > 2 and ends[first] == at and data[at] == _COLON and data[ends[first + 1]] == _COLON:
        size = ends[first + 1] - starts[first + 1]
        digits = _kinds(data, starts[first + 1], ends[first + 1]) == _DIGIT
        if digits and size <= _LONGEST_INFIX and data[starts[first + 1]] != _ZERO:
            looks[first + 1] = INFIX
    return count


def tokenise(data: int, bounds: int, rows: int, starts: int, ends: int, looks: int, first: int) -> int:
    """Write the tokens of all keys; return how many. Each separator byte, and each key, makes one more at most.

    Parameters
    ----------
    data, bounds, rows : int
        Addresses of the keys' bytes and of where each begins, and how many there are.
    starts, ends, looks, first : int
        Addresses of room for :class:`coldcache.keys.tokens.Tokens`.
    """
    at, out = int64s(bounds), int64s(first)
    out[0] = 0
    for row in range(rows):
        out[row + 1] = _tokenise_one(uint8s(data), at[row], at[row + 1], int64s(starts), int64s(ends), uint8s(looks), out[row])
    return out[rows]


def render(
    data: int, starts: int, ends: int, first: int, rows: int, written: int, out_at: int, out_bounds: int
) -> int:  # fmt: skip
    """Write every key with `written` of each token; return how many bytes that takes.

    A key grows by a byte for each token at most. The length behind Java's prefix becomes a point.

    Parameters
    ----------
    data : int
        Address of the keys' bytes.
    starts, ends, first, rows : int
        Addresses of their tokens, and how many keys there are.
    written : int
        Address of a byte for each token: ``LITERAL``, ``STAR`` or ``VERSION_STAR``.
    out_at, out_bounds : int
        Addresses of room for the texts and for where they begin and end.
    """
    text, start_of, end_of, first_of, how = uint8s(data), int64s(starts), int64s(ends), int64s(first), uint8s(written)
    out, bounds = uint8s(out_at), int64s(out_bounds)
    p = 0
    for row in range(rows):
        bounds[row] = p
        for token in range(first_of[row], first_of[row + 1]):
            start, end = start_of[token], end_of[token]
            if token > first_of[row]:
                separator = end_of[token - 1]
                if start - separator > 1:
                    for j in range(len(_JAVA)):
                        out[p + j] = _JAVA[j]
                    p += len(_JAVA)
                    out[p] = _DOT
                else:
                    out[p] = text[separator]
                p += 1
            if how[token] == VERSION_STAR:
                end = start + 1
            elif how[token] == STAR:
                end = start
            for j in range(start, end):
                out[p] = text[j]
                p += 1
            if how[token] != LITERAL:
                out[p] = _STAR
                p += 1
    bounds[rows] = p
    return p


@intrinsic  # type: ignore[untyped-decorator]
def _folded_product(_typing: Any, a: Any, b: Any) -> Any:
    """Return the two halves of a product of 128 bits, exclusive or: every bit of either factor moves about half of them."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        wide, narrow = ir.IntType(128), ir.IntType(64)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        return builder.xor(builder.trunc(product, narrow), builder.trunc(builder.lshr(product, wide(64)), narrow))

    return types.uint64(types.uint64, types.uint64), generate


@njit(error_model="numpy")
def _template_hash(data_at: int, starts: Any, ends: Any, looks: Any, count: int, k0: Any, k1: Any) -> Any:
    """Return a hash of a key with a star for each identifier: equal for what :func:`render` writes alike.

    Eight bytes at a time are multiplied by a secret number (as in wyhash, Wang Yi 2019): by one where more of the token
    follow; by the other its last ones, fewer than eight, with their number and the separator before the token in their
    highest byte. So what is hashed tells where each token ends.
    """
    data = uint8s(data_at)
    h = k0
    for token in range(count):
        start, end = starts[token], ends[token]
        before = np.int64(0)
        if token > 0:
            separator = ends[token - 1]
            before = np.int64(_JAVA_NUMBER if start - separator > 1 else _SEPARATOR_NUMBER[data[separator]])
        if looks[token] == IDENTIFIER:
            h = _folded_product(h ^ (np.uint64(before << 4 | 8) << np.uint64(56)), k1)
            continue
        while end - start >= 8:
            h = _folded_product(h ^ eight_bytes(data_at, start), k0)
            start += 8
        size = end - start
        h = _folded_product(h ^ last_bytes(data_at, end, size) ^ (np.uint64(before << 4 | size) << np.uint64(56)), k1)
    return h


def look_up(
    data_at: int, bounds_at: int, rows: int, secret_at: int, starts_at: int, ends_at: int, looks_at: int,
    key_at: int, template_at: int, ids_at: int,
) -> int:  # fmt: skip
    """Write the hash of each key, of its template and of its identifiers; return how many there are.

    The template has a star for each token that is an identifier by its looks. `ids` is the hash of these
    tokens in their order, 0 where there is none: two names of one thing have the same.

    Parameters
    ----------
    data_at, bounds_at, rows : int
        Addresses of the keys' bytes and of where each begins, and how many there are.
    secret_at : int
        Address of two uint64, so that no keys can be made that share a hash.
    starts_at, ends_at, looks_at : int
        Addresses of room for the tokens of the longest key.
    key_at, template_at, ids_at : int
        Addresses of room for the hashes, uint64.
    """
    data, bounds, k0, k1 = uint8s(data_at), int64s(bounds_at), uint64s(secret_at)[0], uint64s(secret_at)[1]
    starts, ends, looks = int64s(starts_at), int64s(ends_at), uint8s(looks_at)
    # Factors: of any secret, about half of their bits are set.
    factor, last_factor = siphash(data_at, 0, 0, k0, k1) | np.uint64(1), siphash(data_at, 0, 0, k1, ~k0) | np.uint64(1)
    for row in range(rows):
        at, end = bounds[row], bounds[row + 1]
        uint64s(key_at)[row] = siphash(data_at, at, end - at, k0, k1)
        count = _tokenise_one(data, at, end, starts, ends, looks, 0)
        named = np.uint64(0)
        for token in range(count):
            if looks[token] == IDENTIFIER:
                named = (named ^ siphash(data_at, starts[token], ends[token] - starts[token], k0, k1)) * _FNV_PRIME
        uint64s(ids_at)[row] = named
        uint64s(template_at)[row] = _template_hash(data_at, starts, ends, looks, count, factor, last_factor)
    return rows


def ids_at_stars(data: int, starts: int, ends: int, first: int, rows: int, written: int, secret: int, ids: int) -> int:
    """Write the hash of the tokens of each key that are stars; return how many keys there are.

    Of a version, it is of what stands behind its letter.

    Parameters
    ----------
    data, starts, ends, first, rows, written : int
        As of :func:`render`.
    secret : int
        Address of two uint64.
    ids : int
        Address of room for the hashes, uint64.
    """
    start_of, end_of, first_of, how = int64s(starts), int64s(ends), int64s(first), uint8s(written)
    k0, k1 = uint64s(secret)[0], uint64s(secret)[1]
    for row in range(rows):
        named = np.uint64(0)
        for token in range(first_of[row], first_of[row + 1]):
            if how[token] != LITERAL:
                start = start_of[token] + (how[token] == VERSION_STAR)
                named = (named ^ siphash(data, start, end_of[token] - start, k0, k1)) * _FNV_PRIME
        uint64s(ids)[row] = named
    return rows


@njit(error_model="numpy")
def _hashed(data: Any, start: int, end: int, h: Any) -> Any:
    """FNV-1a of a stretch, going on from `h`."""
    for p in range(start, end):
        h = (h ^ np.uint64(data[p])) * _FNV_PRIME
    return h


def describe(
    data: int, starts: int, ends: int, looks: int, first: int, rows: int, words: int, leads: int, shapes: int
) -> int:  # fmt: skip
    """Write the hash of each token, the token that leads each key, and the hash of its separators and of that place.

    The lead is the first token that says something: not the empty one of `{user:*}`, nor a version.

    Parameters
    ----------
    data, starts, ends, looks, first, rows : int
        Addresses of the keys' bytes and of their tokens, and how many keys there are.
    words, leads, shapes : int
        Addresses of room: uint64, one a token; int64 and uint64, one a key.
    """
    text, start_of, end_of, look_of, first_of = uint8s(data), int64s(starts), int64s(ends), uint8s(looks), int64s(first)
    for row in range(rows):
        begin, last = first_of[row], first_of[row + 1] - 1
        lead, shape, led = begin, _FNV_START, False
        for token in range(begin, last + 1):
            start, end = start_of[token], end_of[token]
            uint64s(words)[token] = _hashed(text, start, end, _FNV_START)
            if not led and end > start and look_of[token] <= IDENTIFIER:
                led = True
                lead = token
            if token < last:
                shape = _hashed(text, end, start_of[token + 1], shape)
        int64s(leads)[row] = lead
        uint64s(shapes)[row] = (shape ^ np.uint64(lead - begin)) * _FNV_PRIME
    return rows


def first_rows(data_at: int, bounds_at: int, rows: int, slots_at: int, mask: int, secret: int, out_at: int) -> int:
    """Write where each different text first stands; return how many there are.

    Parameters
    ----------
    data_at, bounds_at, rows : int
        Addresses of the texts' bytes and of where each begins, and how many there are.
    slots_at, mask : int
        Address of a power of two of int32, more than there are texts, all -1; and that power less one.
    secret : int
        Address of two random uint64, so that no keys can be made that share a slot and take forever.
    out_at : int
        Address of room for the rows, int64.
    """
    data, bounds, slots, out = uint8s(data_at), int64s(bounds_at), int32s(slots_at), int64s(out_at)
    k0, k1 = uint64s(secret)[0], uint64s(secret)[1]
    count = 0
    for row in range(rows):
        at, size = bounds[row], bounds[row + 1] - bounds[row]
        slot = np.int64(siphash(data_at, at, size, k0, k1)) & mask
        while slots[slot] >= 0:
            other = bounds[slots[slot]]
            same = 0 if bounds[slots[slot] + 1] - other == size else -1
            while 0 <= same < size and data[other + same] == data[at + same]:
                same += 1
            if same == size:
                break
            slot = (slot + 1) & mask
        if slots[slot] < 0:
            slots[slot] = row
            out[count] = row
            count += 1
    return count


# What Python calls, and how many integers it gives.
ENTRIES = {
    "tokenise": (tokenise, 7), "render": (render, 8), "look_up": (look_up, 10), "ids_at_stars": (ids_at_stars, 8),
    "describe": (describe, 9), "first_rows": (first_rows, 7),
}  # fmt: skip
