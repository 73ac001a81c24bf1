"""Keys cut into tokens, and what a token looks like, compiled by numba: hundreds of MB/s on one core.

A key is bytes of UTF-8 between two bounds of one long array. Its tokens stand between separators;
a UUID, a negative number and a base64url text are one token each, whatever separators they hold,
and always an identifier. A printed Java prefix at the start stands for a separator, too.

Nothing here allocates: the caller gives the arrays. See :mod:`coldcache.keys.families` for what
the looks are for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from coldcache.sources.log_kernel import siphash

# What stands before a string that Java serialised, as Redis prints it; the string's length follows (Object
# Serialization Stream Protocol: STREAM_MAGIC, STREAM_VERSION, TC_STRING, two bytes of length, the higher one mostly 0).
JAVA_PREFIX = rb"\xac\xed\x00\x05t\x00"
SEPARATORS = b":/_.?&=|-{} "

# What a token looks like. An infix is a framework's version number before all else, the 1 of Django's `:1:img`.
WORD, IDENTIFIER, VERSION, INFIX = range(4)
# What is written of a token: itself, a star, or its first letter and a star.
LITERAL, STAR, VERSION_STAR = range(3)

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
    table = np.full(256, _OTHER, np.int64)
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


class Tokens(NamedTuple):
    """The tokens of many keys, one after the other."""

    start: np.ndarray  # int64, in the array of bytes
    end: np.ndarray  # int64
    look: np.ndarray  # uint8
    first: np.ndarray  # int64, one more than there are keys: where the tokens of each begin


@njit(nogil=True, cache=True)
def _is_soft(c: int) -> bool:
    return c in (_DASH, _UNDERSCORE)


@njit(nogil=True, cache=True)
def _is_hard(c: int) -> bool:
    return _KIND[c] == _SEPARATOR and not _is_soft(c)


@njit(nogil=True, cache=True)
def _kinds(data: Any, start: int, end: int) -> int:
    """Return the kinds of all bytes of a stretch."""
    kinds = 0
    for p in range(start, end):
        kinds |= _KIND[data[p]]
    return kinds


@njit(nogil=True, cache=True)
def _is_hex(kinds: int, size: int) -> bool:
    return size >= _LEAST_HEX and kinds & _DIGIT != 0 and kinds & ~_HEX == 0


@njit(nogil=True, cache=True)
def _may_be_base64(kinds: int, size: int) -> bool:
    return size >= _LEAST_BASE64 and kinds & _LOWERS != 0 and kinds & _UPPERS != 0 and kinds & ~(_BASE64 | _SEPARATOR) == 0


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def _is_negative(data: Any, run: int, dash: int, end: int) -> bool:
    """Tell whether a dash is the sign of a whole token of digits."""
    if dash > run and data[dash - 1] != _UNDERSCORE:
        return False
    p = dash + 1
    while p < end and _KIND[data[p]] == _DIGIT:
        p += 1
    return p > dash + 1 and (p == end or _KIND[data[p]] == _SEPARATOR)


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def _add(data: Any, starts: Any, ends: Any, looks: Any, count: int, start: int, end: int, kinds: int) -> int:
    starts[count] = start
    ends[count] = end
    looks[count] = _look(data, start, end, kinds)
    return count + 1


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def tokenise(data: Any, bounds: Any, tokens: Tokens) -> None:
    """Fill in the tokens of all keys. Each separator byte, and each key, makes one more at most."""
    starts, ends, looks, first = tokens.start, tokens.end, tokens.look, tokens.first
    first[0] = 0
    for row in range(len(bounds) - 1):
        first[row + 1] = _tokenise_one(data, bounds[row], bounds[row + 1], starts, ends, looks, first[row])


@njit(nogil=True, cache=True)
def render(data: Any, tokens: Tokens, written: Any, out: Any, out_bounds: Any) -> None:
    """Write every key with `written` of each token: `LITERAL`, `STAR`, `VERSION_STAR`.

    A key grows by a byte for each token at most. The length behind Java's prefix becomes a point.
    """
    p = 0
    for row in range(len(tokens.first) - 1):
        out_bounds[row] = p
        for token in range(tokens.first[row], tokens.first[row + 1]):
            start, end = tokens.start[token], tokens.end[token]
            if token > tokens.first[row]:
                separator = tokens.end[token - 1]
                if start - separator > 1:
                    for j in range(len(_JAVA)):
                        out[p + j] = _JAVA[j]
                    p += len(_JAVA)
                    out[p] = _DOT
                else:
                    out[p] = data[separator]
                p += 1
            if written[token] == VERSION_STAR:
                end = start + 1
            elif written[token] == STAR:
                end = start
            for j in range(start, end):
                out[p] = data[j]
                p += 1
            if written[token] != LITERAL:
                out[p] = _STAR
                p += 1
    out_bounds[len(tokens.first) - 1] = p


@njit(nogil=True, cache=True)
def _template_hash(data: Any, starts: Any, ends: Any, looks: Any, count: int, text: Any, k0: Any, k1: Any) -> Any:
    """Return the hash of a key with a star for each identifier, written to `text` as :func:`render` would."""
    p = 0
    for token in range(count):
        start, end = starts[token], ends[token]
        if token:
            separator = ends[token - 1]
            if start - separator > 1:
                for j in range(len(_JAVA)):
                    text[p + j] = _JAVA[j]
                p += len(_JAVA)
                text[p] = _DOT
            else:
                text[p] = data[separator]
            p += 1
        if looks[token] == IDENTIFIER:
            text[p] = _STAR
            p += 1
        else:
            for j in range(start, end):
                text[p] = data[j]
                p += 1
    return siphash(text, 0, p, k0, k1)


@njit(nogil=True, cache=True)
def look_up(data: Any, bounds: Any, secret: Any, tokens: Tokens, text: Any, key: Any, template: Any, ids: Any) -> None:
    """Fill in the hash of each key, of its template and of its identifiers.

    The template has a star for each token that is an identifier by its looks. `ids` is the hash of these
    tokens in their order, 0 where there is none: two names of one thing have the same.

    `secret` : two uint64, so that no keys can be made that share a hash.
    `tokens`, `text` : room for the longest key and its template.
    """
    # Arrays go into functions one by one: a named tuple of them counts references at each call.
    starts, ends, looks = tokens.start, tokens.end, tokens.look
    k0, k1 = secret[0], secret[1]
    for row in range(len(bounds) - 1):
        at, end = bounds[row], bounds[row + 1]
        key[row] = siphash(data, at, end - at, k0, k1)
        count = _tokenise_one(data, at, end, starts, ends, looks, 0)
        named = np.uint64(0)
        for token in range(count):
            if looks[token] == IDENTIFIER:
                named = (named ^ siphash(data, starts[token], ends[token] - starts[token], k0, k1)) * _FNV_PRIME
        ids[row] = named
        template[row] = _template_hash(data, starts, ends, looks, count, text, k0, k1)


@njit(nogil=True, cache=True)
def ids_at_stars(data: Any, tokens: Tokens, written: Any, secret: Any, ids: Any) -> None:
    """Fill in the hash of the tokens of each key that are `written` as stars; of a version, what stands behind its letter."""
    for row in range(len(tokens.first) - 1):
        named = np.uint64(0)
        for token in range(tokens.first[row], tokens.first[row + 1]):
            if written[token] != LITERAL:
                start = tokens.start[token] + (written[token] == VERSION_STAR)
                named = (named ^ siphash(data, start, tokens.end[token] - start, secret[0], secret[1])) * _FNV_PRIME
        ids[row] = named


@njit(nogil=True, cache=True)
def _hashed(data: Any, start: int, end: int, h: Any) -> Any:
    """FNV-1a of a stretch, going on from `h`."""
    for p in range(start, end):
        h = (h ^ np.uint64(data[p])) * _FNV_PRIME
    return h


@njit(nogil=True, cache=True)
def describe(data: Any, tokens: Tokens, words: Any, leads: Any, shapes: Any) -> None:
    """Fill in the hash of each token, the token that leads each key, and the hash of its separators and of that place.

    The lead is the first token that says something: not the empty one of `{user:*}`, nor a version.
    """
    for row in range(len(tokens.first) - 1):
        first, last = tokens.first[row], tokens.first[row + 1] - 1
        leads[row] = first
        shape, led = _FNV_START, False
        for token in range(first, last + 1):
            start, end = tokens.start[token], tokens.end[token]
            words[token] = _hashed(data, start, end, _FNV_START)
            if not led and end > start and tokens.look[token] <= IDENTIFIER:
                led = True
                leads[row] = token
            if token < last:
                shape = _hashed(data, end, tokens.start[token + 1], shape)
        shapes[row] = (shape ^ np.uint64(leads[row] - first)) * _FNV_PRIME


@njit(nogil=True, cache=True)
def first_rows(data: Any, bounds: Any, slots: Any, secret: Any, rows: Any) -> int:
    """Fill `rows` with where each different text first stands; return how many there are.

    `slots` : a power of two of them, more than there are texts; all -1.
    `secret` : two random uint64, so that no keys can be made that share a slot and take forever.
    """
    mask = len(slots) - 1
    count = 0
    for row in range(len(bounds) - 1):
        at, size = bounds[row], bounds[row + 1] - bounds[row]
        slot = np.int64(siphash(data, at, size, secret[0], secret[1]) & np.uint64(mask))
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
            rows[count] = row
            count += 1
    return count
