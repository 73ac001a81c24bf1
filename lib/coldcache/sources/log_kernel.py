"""One pass over the bytes of a MONITOR log, compiled by numba: lines, arguments, keys, values.

The grammar is Redis's: ``sdscatrepr`` in ``src/sds.c`` and ``replicationFeedMonitors`` in
``src/replication.c``. An argument ends at the first quote without a backslash before it; what
then stands where a space or the line's end must be damages the line. A damaged line is never
half taken: it is rejected whole, with a reason.

Keys, clients and unknown commands are numbered in order of appearance (`Names`), so that a row is
numbers alone. Nothing here allocates: the caller gives arrays and is told when they are full.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from coldcache.commands import Form

_U = np.uint64
_LOW, _HIGH = _U(0x0101010101010101), _U(0x8080808080808080)
_ODD = _U(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: Fibonacci hashing, Knuth, vol. 3, 6.4
_NEW_LINE, _RETURN, _SPACE, _QUOTE, _PLUS, _MINUS, _DOT = 10, 13, 32, 34, 43, 45, 46
_OPENING, _BACKSLASH, _CLOSING, _PARENTHESIS, _X = 91, 92, 93, 40, 120

# Reasons for a rejected line.
REASONS = (
    "", "no time stamp", "no database and client", "no arguments", "cut off", "text behind an argument",
    "more arguments than one line may have", "empty", "a reply, not a command",
)  # fmt: skip
(OK, NO_STAMP, NO_HEADER, NO_ARGUMENTS, CUT_OFF, GLUED, TOO_MANY, EMPTY, REPLY) = range(9)
# What a call ends with.
DONE, ROWS_FULL, NAMES_FULL, ARGUMENTS_FULL = range(4)
# Where the keys of a command stand.
KEYLESS, RANGE, STREAMS, COUNTED, SOURCES, SET, PAIR = (int(form) for form in Form)
NULL_INT = np.iinfo(np.int64).min
MOST_DIGITS = 18


class Names(NamedTuple):
    """Names seen so far: open addressing from their hash to a number, and for each number what it stands for."""

    slots: np.ndarray  # int32, -1 where free; a power of two of them
    seen: np.ndarray  # int64, a row each: hash and its second half, where it first stood in the buffer, size


_HASH, _CHECK, _AT, _SIZE = range(4)


class Commands(NamedTuple):
    """The command table: its names, their text one after the other, and a row of integers for each, see `RULE`."""

    names: Names
    text: np.ndarray  # uint8
    rules: np.ndarray  # int64


# Columns of a rule, as in `coldcache.commands.Rule`; a container's name goes on with the next argument.
RULE = (
    "container", "form", "first", "last", "step", "target", "op", "lookups", "target_op", "target_lookups",
    "value", "ttl_at", "ttl_form", "options_at",
)  # fmt: skip
(
    _CONTAINER, _FORM, _FIRST, _LAST, _STEP, _TARGET, _OP, _LOOKUPS, _TARGET_OP, _TARGET_LOOKUPS,
    _VALUE, _TTL_AT, _TTL_FORM, _OPTIONS_AT,
) = range(len(RULE))  # fmt: skip


class Rows(NamedTuple):
    """One row per key access; the columns of ``schema.ACCESSES`` as numbers."""

    stamp_us: np.ndarray  # int64
    line: np.ndarray  # int64, from 0 in this buffer
    db: np.ndarray  # int32, -1 unknown
    client: np.ndarray  # int32, -1 unknown
    command: np.ndarray  # int32; unknown ones from the table's size on
    arg: np.ndarray  # int32, -1 without a key
    key: np.ndarray  # int32, -1 without: filled by `number_keys`
    key_at: np.ndarray  # int64, -1 without
    key_size: np.ndarray  # int32
    key_hash: np.ndarray  # int64
    key_check: np.ndarray  # int64: the hash's second half
    op: np.ndarray  # uint8
    lookups: np.ndarray  # uint8
    ttl_ms: np.ndarray  # int64, NULL_INT without
    ttl_form: np.ndarray  # uint8, 0 without
    condition: np.ndarray  # uint8, a bit each
    value_bytes: np.ndarray  # int64, -1 without
    value_at: np.ndarray  # int64
    value_size: np.ndarray  # int64, as printed
    digest: np.ndarray  # uint64


class Rejected(NamedTuple):
    """Lines that were not understood: number, place, size and reason."""

    line: np.ndarray
    at: np.ndarray
    size: np.ndarray
    reason: np.ndarray


@njit(inline="always")
def _load8(buf: Any, i: int) -> Any:
    # Unsigned places: a signed one may count from the end, and eight such look-ups are not made one load.
    u = _U(i)
    return (
        _U(buf[u]) | (_U(buf[u + _U(1)]) << _U(8)) | (_U(buf[u + _U(2)]) << _U(16)) | (_U(buf[u + _U(3)]) << _U(24))
        | (_U(buf[u + _U(4)]) << _U(32)) | (_U(buf[u + _U(5)]) << _U(40))
        | (_U(buf[u + _U(6)]) << _U(48)) | (_U(buf[u + _U(7)]) << _U(56))
    )  # fmt: skip


@njit(inline="always")
def _load_part(buf: Any, i: int, size: int) -> Any:
    """Load fewer than eight bytes; the others are 0."""
    if i + 8 <= len(buf):
        return _load8(buf, i) & ((_U(1) << _U(8 * size)) - _U(1))
    word = _U(0)
    for j in range(size):
        word |= _U(buf[i + j]) << _U(8 * j)
    return word


@njit(inline="always")
def _rotated(x: Any, bits: int) -> Any:
    return (x << _U(bits)) | (x >> _U(64 - bits))


@njit(inline="always")
def _sip_round(v0: Any, v1: Any, v2: Any, v3: Any) -> Any:
    v0 += v1
    v2 += v3
    v1 = _rotated(v1, 13) ^ v0
    v3 = _rotated(v3, 16) ^ v2
    v0 = _rotated(v0, 32)
    v2 += v1
    v0 += v3
    v1 = _rotated(v1, 17) ^ v2
    v3 = _rotated(v3, 21) ^ v0
    return v0, v1, _rotated(v2, 32), v3


@njit(nogil=True, cache=True)
def siphash128(buf: Any, at: int, size: int, k0: Any, k1: Any) -> tuple[Any, Any]:
    """SipHash-1-3 of a stretch in 128 bits (Aumasson, Bernstein, INDOCRYPT 2012).

    With a secret key no log can be built to collide, and of a billion names none collide by chance.
    """
    v0, v1 = k0 ^ _U(0x736F6D6570736575), k1 ^ _U(0x646F72616E646F6D) ^ _U(0xEE)
    v2, v3 = k0 ^ _U(0x6C7967656E657261), k1 ^ _U(0x7465646279746573)
    end = at + (size & ~7)
    for place in range(at, end, 8):
        m = _load8(buf, place)
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3 ^ m)
        v0 ^= m
    m = (_U(size & 0xFF) << _U(56)) | _load_part(buf, end, size & 7)
    v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3 ^ m)
    v0 ^= m
    v2 ^= _U(0xEE)
    for _ in range(3):
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    first = v0 ^ v1 ^ v2 ^ v3
    v1 ^= _U(0xDD)
    for _ in range(3):
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    return first, v0 ^ v1 ^ v2 ^ v3


@njit(nogil=True, cache=True)
def siphash(buf: Any, at: int, size: int, k0: Any, k1: Any) -> Any:
    """Return the first 64 bits of :func:`siphash128`."""
    return siphash128(buf, at, size, k0, k1)[0]


# Arrays go into functions one by one: each look-up in a named tuple of them counts references, which
# cost more than all else here.
@njit(nogil=True, cache=True)
def _number_of(at: int, size: int, hashed: int, check: int, slots: Any, seen: Any, known: int) -> int:
    """Return the number of a name, a new one where it was not seen before; -1 where there is no room.

    A name is its 128 bits of hash: looking at the name itself would cost a miss of the processor's cache.
    """
    mask = len(slots) - 1
    slot = hashed & mask
    while True:
        found = slots[slot]
        if found < 0:
            if known >= len(seen):
                return -1
            slots[slot] = known
            seen[known, _HASH] = hashed
            seen[known, _CHECK] = check
            seen[known, _AT] = at
            seen[known, _SIZE] = size
            return known
        if seen[found, _HASH] == hashed and seen[found, _CHECK] == check:
            return found
        slot = (slot + 1) & mask


@njit(nogil=True, cache=True)
def number_keys(rows: Rows, count: int, keys: Names) -> int:
    """Give the keys of so many rows numbers in order of appearance; return how many there are.

    Apart from the parsing, for look-ups that do not wait for each other overlap.
    """
    key, at, size, hashed, check = rows.key, rows.key_at, rows.key_size, rows.key_hash, rows.key_check
    slots, seen = keys.slots, keys.seen
    known = 0
    for row in range(count):
        if at[row] < 0:
            key[row] = -1
            continue
        found = _number_of(at[row], size[row], hashed[row], check[row], slots, seen, known)
        key[row] = found
        known = max(known, found + 1)
    return known


@njit(inline="always")
def _upper(c: int) -> int:
    return c - 32 if 97 <= c <= 122 else c


@njit(inline="always")
def _upper8(word: Any) -> Any:
    """Return eight letters in upper case, at once."""
    seven = word & _U(0x7F7F7F7F7F7F7F7F)
    from_a, behind_z = seven + _U(0x1F1F1F1F1F1F1F1F), seven + _U(0x0505050505050505)
    return word ^ (((from_a ^ behind_z) & ~word & _HIGH) >> _U(2))


@njit(nogil=True, cache=True)
def _folded_hash(buf: Any, at: int, size: int, h: Any) -> Any:
    """Hash a name in upper case, going on from `h`; of up to eight letters no two have the same."""
    for j in range(at, at + size, 8):
        word = _load8(buf, j) if at + size - j >= 8 else _load_part(buf, j, at + size - j)
        h = (h ^ _upper8(word)) * _ODD
        h ^= h >> _U(32)
    return h


@njit(nogil=True, cache=True)
def number_commands(buf: Any, at: Any, size: Any, sub_at: Any, names: Names) -> None:
    """Fill the empty `names` with the commands of these names, which differ, in their order; `sub_at`: 0 without a subcommand."""
    for number in range(len(at)):
        end = at[number] + size[number]
        own = size[number] if sub_at[number] == 0 else sub_at[number] - 1 - at[number]
        hashed = _folded_hash(buf, at[number], own, _U(0))
        if sub_at[number] > 0:
            hashed = _folded_hash(buf, sub_at[number], end - sub_at[number], hashed)
        _number_of(at[number], size[number], np.int64(hashed), number, names.slots, names.seen, number)


@njit(nogil=True, cache=True)
def _command(buf: Any, at: int, size: int, sub_at: int, sub_size: int, hashed: Any, slots: Any, seen: Any, text: Any) -> int:
    """Return a command's place in the table, -1 where it is not there; `sub_size` < 0: without a subcommand."""
    mask = len(slots) - 1
    slot = np.int64(hashed) & mask
    whole = size if sub_size < 0 else size + 1 + sub_size
    while slots[slot] >= 0:
        found = slots[slot]
        if seen[found, _HASH] == np.int64(hashed) and seen[found, _SIZE] == whole:
            if sub_size < 0 and size <= 8:
                return found
            start = seen[found, _AT]
            same = True
            for j in range(size):
                same = same and _upper(buf[at + j]) == text[start + j]
            for j in range(sub_size):
                same = same and _upper(buf[sub_at + j]) == text[start + size + 1 + j]
            if same:
                return found
        slot = (slot + 1) & mask
    return -1


@njit(nogil=True, cache=True)
def _is_word(buf: Any, at: int, size: int, word: Any) -> bool:
    if size != len(word):
        return False
    for j in range(size):
        if _upper(buf[at + j]) != word[j]:
            return False
    return True


@njit(nogil=True, cache=True)
def _integer(buf: Any, at: int, size: int) -> int:
    """Return a printed integer; NULL_INT where it is none or too large for milliseconds."""
    negative = size > 0 and buf[at] == _MINUS
    start = at + 1 if negative else at
    digits = at + size - start
    if digits < 1 or digits > MOST_DIGITS:
        return NULL_INT
    value = 0
    for j in range(start, at + size):
        if buf[j] < 48 or buf[j] > 57:
            return NULL_INT
        value = value * 10 + (buf[j] - 48)
    return -value if negative else value


@njit(nogil=True, cache=True)
def _skip_plain(buf: Any, p: int, n: int) -> int:
    """Return the place of the next quote, backslash or line end from p on; n without one. Eight bytes at a time."""
    quotes, slashes, ends = _LOW * _U(_QUOTE), _LOW * _U(_BACKSLASH), _LOW * _U(_NEW_LINE)
    while p + 8 <= n:
        word = _load8(buf, p)
        a, b, c = word ^ quotes, word ^ slashes, word ^ ends
        found = (((a - _LOW) & ~a) | ((b - _LOW) & ~b) | ((c - _LOW) & ~c)) & _HIGH
        if found:
            # The lowest mark is exact; below it are ones in its own byte and those before.
            below = (found - _U(1)) & ~found
            return p + np.int64(((below & _LOW) * _LOW) >> _U(56)) - 1
        p += 8
    while p < n:
        c = buf[p]
        if c in (_QUOTE, _BACKSLASH, _NEW_LINE):
            return p
        p += 1
    return n


@njit(nogil=True, cache=True)
def _line_end(buf: Any, p: int, n: int) -> int:
    while p < n and buf[p] != _NEW_LINE:
        p += 1
    return p


@njit(nogil=True, cache=True)
def _stamp(buf: Any, p: int, n: int) -> tuple[int, int]:
    """Read ``seconds.micros``; return µs and the place behind it, -1 where there is none."""
    start, seconds, micros = p, 0, 0
    while p < n and 48 <= buf[p] <= 57 and p - start < 12:
        seconds = seconds * 10 + (buf[p] - 48)
        p += 1
    if p == start or p + 7 > n or buf[p] != _DOT:
        return 0, -1
    for j in range(p + 1, p + 7):
        if buf[j] < 48 or buf[j] > 57:
            return 0, -1
        micros = micros * 10 + (buf[j] - 48)
    return seconds * 1_000_000 + micros, p + 7


@njit(nogil=True, cache=True)
def _header(buf: Any, p: int, n: int) -> tuple[int, int, int, int]:
    """Read what stands between the time stamp and the first quote: database, client and its size, place of the quote.

    ``[0 10.0.0.1:5000]``, ``[0]`` without a client (Redict), a bracket before the space (Alibaba),
    ``(db 0)`` or nothing (Redis 2.6, 2.4). The place is -1 where it is none of these.
    """
    if p < n and buf[p] == _OPENING:
        p += 1
    if p + 1 >= n or buf[p] != _SPACE:
        return -1, 0, 0, -1
    p += 1
    if buf[p] == _QUOTE:
        return 0, 0, -1, p  # Redis 2.4: only database 0 is told apart
    bracket = buf[p] == _OPENING
    if not bracket and not (p + 5 < n and buf[p] == _PARENTHESIS and buf[p + 1] == 100 and buf[p + 2] == 98):
        return -1, 0, 0, -1
    p += 1 if bracket else 4
    db, start = 0, p
    while p < n and 48 <= buf[p] <= 57 and p - start < 9:
        db = db * 10 + (buf[p] - 48)
        p += 1
    if p == start or p + 2 >= n:
        return -1, 0, 0, -1
    if buf[p] != _SPACE:
        closed = buf[p] == (_CLOSING if bracket else _PARENTHESIS + 1) and buf[p + 1] == _SPACE and buf[p + 2] == _QUOTE
        return db, 0, -1, p + 2 if closed else -1
    client = p = p + 1
    while p + 2 < n and buf[p] != _NEW_LINE:
        if buf[p] == _CLOSING and buf[p + 1] == _SPACE and buf[p + 2] == _QUOTE:
            return db, client, p - client, p + 2
        p += 1
    return -1, 0, 0, -1


@njit(nogil=True, cache=True)
def _arguments(buf: Any, p: int, n: int, at: Any, size: Any, plain: Any) -> tuple[int, int, int]:
    """Read the arguments from the first quote on.

    Returns how many, the place behind them, and OK or the reason why not. `plain` gets their size
    unescaped.
    """
    count = 0
    while True:
        if p >= n or buf[p] != _QUOTE:
            return count, p, GLUED
        if count >= len(at):
            return count, p, TOO_MANY
        start = p = p + 1
        extra = 0
        while True:
            p = _skip_plain(buf, p, n)
            if p >= n or buf[p] == _NEW_LINE:
                return count, p, CUT_OFF
            if buf[p] == _QUOTE:
                break
            if p + 1 >= n or buf[p + 1] == _NEW_LINE:
                return count, p + 1, CUT_OFF
            if buf[p + 1] == _X and p + 3 < n and buf[p + 2] != _NEW_LINE and buf[p + 3] != _NEW_LINE:
                extra += 3
                p += 4
            else:
                extra += 1
                p += 2
        at[count] = start
        size[count] = p - start
        plain[count] = p - start - extra
        count += 1
        p += 1
        if p < n and buf[p] == _RETURN:
            p += 1
            if p < n and buf[p] != _NEW_LINE:
                return count, p, GLUED
        if p >= n or buf[p] == _NEW_LINE:
            return count, p, OK
        if buf[p] != _SPACE:
            return count, p, GLUED
        p += 1


_STREAMS = np.frombuffer(b"STREAMS", np.uint8)
# Forms of a time to live, and for each its unit in ms and whether it is a point in time.
TTL_FORMS = ("", "EX", "PX", "EXAT", "PXAT", "SETEX", "PSETEX", "EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT")
_TTL_MS = np.array([0, 1000, 1, 1000, 1, 1000, 1, 1000, 1, 1000, 1])
_TTL_ABSOLUTE = np.array([False, False, False, True, True, False, False, False, False, True, True])
_MOST_MS = 2**62
_OTHER = 4  # place in the list of ops
_GET_BIT = 32
CONDITIONS = ("NX", "XX", "GT", "LT", "KEEPTTL", "GET")
# Words of up to eight letters as numbers: the options, by their place.
_TTL_WORDS = np.array([int.from_bytes(form.encode(), "big") for form in TTL_FORMS[1:5]], np.uint64)
_CONDITION_WORDS = np.array([int.from_bytes(name.encode(), "big") for name in CONDITIONS], np.uint64)


@njit(nogil=True, cache=True)
def _ttl_ms(buf: Any, at: int, size: int, form: int, stamp_us: int) -> int:
    """Return the time to live asked for, in ms from the stamp on; NULL_INT where there is no such number."""
    value = _integer(buf, at, size)
    if value == NULL_INT:
        return NULL_INT
    if abs(value) > _MOST_MS // _TTL_MS[form]:
        return NULL_INT  # beyond what the server takes
    value *= _TTL_MS[form]
    if _TTL_ABSOLUTE[form]:
        value -= stamp_us // 1000
    return value if abs(value) < _MOST_MS else NULL_INT


@njit(nogil=True, cache=True)
def _word_among(buf: Any, at: int, size: int, words: Any) -> int:
    """Return which of some words this is, in any case, from 1 on; 0 for none."""
    word = _U(0)
    for j in range(at, at + size):
        word = (word << _U(8)) | _U(_upper(buf[j]))
    for number in range(len(words)):
        if words[number] == word:
            return number + 1
    return 0


@njit(nogil=True, cache=True)
def _options(buf: Any, first: int, count: int, at: Any, size: Any, stamp_us: int) -> tuple[int, int, int]:
    """Return form and ms of the time to live, and the conditions, among a command's options."""
    form, ms, conditions = 0, NULL_INT, 0
    j = first
    while j < count:
        a, s = at[j], size[j]
        if s in (2, 3, 4, 7):
            found = _word_among(buf, a, s, _TTL_WORDS)
            if found > 0 and j + 1 < count:
                if form == 0:
                    form = found
                    ms = _ttl_ms(buf, at[j + 1], size[j + 1], form, stamp_us)
            elif found == 0:
                condition = _word_among(buf, a, s, _CONDITION_WORDS)
                if condition > 0:
                    conditions |= 1 << (condition - 1)
        j += 1
    return form, ms, conditions


@njit(nogil=True, cache=True)
def _line(buf: Any, p: int, n: int, at: Any, size: Any, plain: Any) -> tuple[int, int, int, int, int, int, int]:
    """Read one line.

    Returns the reason why not, the place of its end, stamp, database, place and size of the client,
    and how many arguments it has.
    """
    begin = p
    if buf[p] == _PLUS:
        p += 1
    stamp_us, behind = _stamp(buf, p, n)
    if behind < 0:
        end = _line_end(buf, begin, n)
        shown = end - 1 if end > begin and buf[end - 1] == _RETURN else end
        if shown == begin:
            return EMPTY, end, 0, -1, 0, -1, 0
        is_reply = shown - p == 2 and buf[p] == 79 and buf[p + 1] == 75  # OK
        return REPLY if is_reply else NO_STAMP, end, 0, -1, 0, -1, 0
    db, client, client_size, behind = _header(buf, behind, n)
    if behind < 0:
        return NO_HEADER, _line_end(buf, begin, n), 0, -1, 0, -1, 0
    count, p, reason = _arguments(buf, behind, n, at, size, plain)
    return reason, p if reason == OK else _line_end(buf, p, n), stamp_us, db, client, client_size, count


@njit(nogil=True, cache=True)
def _known_command(buf: Any, count: int, at: Any, size: Any, slots: Any, seen: Any, text: Any, rules: Any) -> int:
    """Return the command's place in the table, with its subcommand where that is known; -1 where it is not there."""
    hashed = _folded_hash(buf, at[0], size[0], _U(0))
    command = _command(buf, at[0], size[0], 0, -1, hashed, slots, seen, text)
    if command >= 0 and count > 1 and rules[command, _CONTAINER]:
        both = _folded_hash(buf, at[1], size[1], hashed)
        whole = _command(buf, at[0], size[0], at[1], size[1], both, slots, seen, text)
        if whole >= 0:
            return whole
    return command


@njit(nogil=True, cache=True)
def _counted(buf: Any, rule: int, count: int, at: Any, size: Any, rules: Any) -> int:
    """Return how many arguments are the keys, and what belongs to them, that a number before them announces."""
    place = rules[rule, _FIRST] - 1
    if place >= count or size[place] > 9:
        return 0
    return max(_integer(buf, at[place], size[place]), 0) * rules[rule, _STEP]


@njit(nogil=True, cache=True)
def _keys_of(buf: Any, rule: int, count: int, at: Any, size: Any, rules: Any) -> tuple[int, int, int]:
    """Return the first and last argument that are keys, and the target's, 0 without; first > last: no keys."""
    form = rules[rule, _FORM]
    first, last, target = rules[rule, _FIRST], rules[rule, _LAST], rules[rule, _TARGET]
    if form == KEYLESS:
        return 1, 0, 0
    if form == COUNTED:
        last = first - 1 + _counted(buf, rule, count, at, size, rules)
    elif form == STREAMS:
        word = 1
        while word < count and not _is_word(buf, at[word], size[word], _STREAMS):
            word += 1
        first, last = word + 1, word + (count - word - 1) // 2
    elif last < 0:
        last += count
    return first, min(last, count - 1), target if target < count else 0


@njit(nogil=True, cache=True)
def scan(
    buf: Any, start: int, end: int, first_line: int, key: Any,
    table: Commands, rows: Rows, clients: Names, unknown: Names, rejected: Rejected,
    at: Any, size: Any, plain: Any, counts: Any,
) -> int:  # fmt: skip
    """Parse whole lines of `buf`; return DONE, or what is full: nothing of the line at hand is kept then.

    Parameters
    ----------
    buf : uint8 array
        `start` to `end` hold whole lines; the last one may lack its line end.
    first_line : int
        Number of the line at `start`.
    key : two uint64
        Of the hash.
    at, size, plain : int64 arrays
        Scratch, as long as a line may have arguments.
    counts : int64 array of 7
        In and out: place to go on, line to go on, rows, clients, unknown commands, rejected lines, lines parsed.
    """
    p, line = start, first_line
    row, n_clients, n_unknown, n_rejected, parsed = counts[2], counts[3], counts[4], counts[5], counts[6]
    k0, k1 = key[0], key[1]
    slots, seen, text, rules = table.names.slots, table.names.seen, table.text, table.rules
    client_slots, clients_seen = clients.slots, clients.seen
    known = len(seen)
    status = DONE
    while p < end:
        begin = p
        reason, p, stamp_us, db, client_at, client_size, count = _line(buf, begin, end, at, size, plain)
        if reason == TOO_MANY:
            status, p = ARGUMENTS_FULL, begin
            break
        if reason != OK:
            if n_rejected >= len(rejected.line):
                status, p = ROWS_FULL, begin
                break
            rejected.line[n_rejected] = line
            rejected.at[n_rejected] = begin
            rejected.size[n_rejected] = p - begin
            rejected.reason[n_rejected] = reason
            n_rejected += 1
            line += 1
            p += 1
            continue
        # Everything is understood; now its rows, all or none of them.
        if row + count >= len(rows.line) or n_clients + 1 >= len(clients_seen):
            status, p = ROWS_FULL, begin
            break
        command = _known_command(buf, count, at, size, slots, seen, text, rules)
        rule = command
        if command < 0:
            # By its bytes as printed: upper and lower case become one when it is named.
            if n_unknown >= len(unknown.seen):
                status, p = NAMES_FULL, begin
                break
            hashed, check = siphash128(buf, at[0], size[0], k0, k1)
            number = _number_of(at[0], size[0], np.int64(hashed), np.int64(check), unknown.slots, unknown.seen, n_unknown)
            n_unknown = max(n_unknown, number + 1)
            command, rule = known + number, 0
        client = -1
        if client_size >= 0:
            hashed, check = siphash128(buf, client_at, client_size, k0, k1)
            client = _number_of(client_at, client_size, np.int64(hashed), np.int64(check), client_slots, clients_seen, n_clients)
            n_clients = max(n_clients, client + 1)
        ttl_form, ttl_ms, conditions = 0, NULL_INT, 0
        form, options_at, ttl_at = rules[rule, _FORM], rules[rule, _OPTIONS_AT], rules[rule, _TTL_AT]
        if options_at > 0:
            if form == COUNTED:
                options_at += _counted(buf, rule, count, at, size, rules)
            ttl_form, ttl_ms, conditions = _options(buf, options_at, count, at, size, stamp_us)
        if ttl_at > 0:
            ttl_form = rules[rule, _TTL_FORM]
            ttl_ms = _ttl_ms(buf, at[ttl_at], size[ttl_at], ttl_form, stamp_us) if ttl_at < count else NULL_INT
        i, last, target = _keys_of(buf, rule, count, at, size, rules)
        value = rules[rule, _VALUE]
        position = 0
        while True:
            is_target = i > last
            if is_target:
                i = target
            has_key = i > 0 if is_target else i + value < count
            if not has_key and position > 0:
                break
            rows.stamp_us[row] = stamp_us
            rows.line[row] = line
            rows.db[row] = db
            rows.client[row] = client
            rows.command[row] = command
            rows.ttl_ms[row] = ttl_ms
            rows.ttl_form[row] = ttl_form
            rows.condition[row] = conditions
            rows.value_bytes[row] = -1
            if not has_key:
                rows.arg[row] = -1
                rows.key_at[row] = -1
                rows.op[row] = rules[rule, _OP] if form == KEYLESS else _OTHER
                rows.lookups[row] = 0
                row += 1
                break
            hashed, check = siphash128(buf, at[i], size[i], k0, k1)
            rows.arg[row] = position
            rows.key_at[row] = at[i]
            rows.key_size[row] = size[i]
            rows.key_hash[row] = np.int64(hashed)
            rows.key_check[row] = np.int64(check)
            if is_target:
                rows.op[row], rows.lookups[row] = rules[rule, _TARGET_OP], rules[rule, _TARGET_LOOKUPS]
            elif form == SET:
                rows.op[row], rows.lookups[row] = rules[rule, _OP], 1 if conditions & _GET_BIT else 0
            else:
                rows.op[row], rows.lookups[row] = rules[rule, _OP], rules[rule, _LOOKUPS]
            if value > 0 and not is_target:
                rows.value_bytes[row] = plain[i + value]
                rows.value_at[row] = at[i + value]
                rows.value_size[row] = size[i + value]
                rows.digest[row] = siphash(buf, at[i + value], size[i + value], k0, k1)
            row += 1
            position += 1
            if is_target:
                break
            i += rules[rule, _STEP]
        parsed += 1
        line += 1
        p += 1
    counts[0], counts[1], counts[2], counts[3] = p, line, row, n_clients
    counts[4], counts[5], counts[6] = n_unknown, n_rejected, parsed
    return status


@njit(nogil=True, cache=True)
def gather(buf: Any, at: Any, size: Any, out: Any) -> bool:
    """Copy stretches of `buf` one after the other; return whether all bytes are ASCII."""
    place = 0
    seen = 0
    for number in range(len(at)):
        start = at[number]
        for j in range(size[number]):
            byte = buf[start + j]
            seen |= byte
            out[place] = byte
            place += 1
    return seen < 128


@njit(nogil=True, cache=True)
def hex_digits(numbers: Any, wanted: Any, out: Any) -> None:
    """Write the wanted numbers as 16 lower-case hex digits each."""
    place = 0
    for i in range(len(numbers)):
        if wanted[i]:
            for j in range(16):
                digit = np.int64((numbers[i] >> _U(60 - 4 * j)) & _U(15))
                out[place] = digit + (48 if digit < 10 else 87)
                place += 1


@njit(nogil=True, cache=True)
def in_transactions(clients: Any, verbs: Any, open_now: Any, out: Any) -> None:
    """Tell which rows ran between MULTI and EXEC of their client, in order.

    Parameters
    ----------
    clients : int32 array
        Number of each row's client, negative without one.
    verbs : uint8 array
        1 for MULTI, 2 for EXEC and DISCARD, else 0.
    open_now : bool array, by client
        In and out: who has begun a transaction.
    out : bool array
        The answer.
    """
    for row in range(len(clients)):
        client = clients[row]
        if client < 0:
            out[row] = False
        elif verbs[row] > 0:
            out[row] = False
            open_now[client] = verbs[row] == 1
        else:
            out[row] = open_now[client]
