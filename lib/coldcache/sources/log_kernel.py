r"""One pass over the bytes of a MONITOR log, compiled by numba: lines, arguments, keys, values.

The grammar is Redis's: ``sdscatrepr`` in ``src/sds.c`` and ``replicationFeedMonitors`` in
``src/replication.c``. An argument ends at the first quote without a backslash before it; what
then stands where a space or the line's end must be damages the line. A damaged line is never
half taken: it is rejected whole, with a reason.

First quotes and line ends are marked, 64 bytes at a time and without a branch per byte (Langdale,
Lemire, "Parsing gigabytes of JSON per second", VLDB Journal 2019). Lines of the usual form are read
along these marks. All others, and those where ``\x`` is followed by what the server never prints
there, are read byte by byte (`_line`).

Clients and unknown commands are numbered in order of appearance, so that a row is numbers and the
text of its key. Nothing here allocates or knows an array: numbers and addresses stand in one array
of integers (`coldcache.sources.log.STATE`), and the caller is told when something is full. So the
compiled form needs nothing of numba's, see :func:`coldcache.sources.arrays.compiled`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from coldcache.commands import Form
from coldcache.payload_kernel import UNDECIDED, byte_at, classify_at, eight_bytes, store_eight_bytes
from coldcache.sources.log import (
    ARGUMENTS_FULL,
    CONDITIONS,
    DONE,
    NULL_INT,
    READ_FAILED,
    REASONS,
    ROWS_FULL,
    RULE,
    STATE,
    TEXT_FULL,
    TTL_FORMS,
    UNDECIDED_FULL,
)

_U, _INT = np.uint64, np.int64
_LOW, _HIGH = _U(0x0101010101010101), _U(0x8080808080808080)
_ODD_BITS = _U(0xAAAAAAAAAAAAAAAA)
_ODD = _U(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: Fibonacci hashing, Knuth, vol. 3, 6.4
_NEW_LINE, _RETURN, _SPACE, _QUOTE, _PLUS, _MINUS, _DOT = 10, 13, 32, 34, 43, 45, 46
_OPENING, _BACKSLASH, _CLOSING, _PARENTHESIS, _X = 91, 92, 93, 40, 120
(OK, NO_STAMP, NO_HEADER, NO_ARGUMENTS, CUT_OFF, GLUED, TOO_MANY, EMPTY, REPLY) = range(len(REASONS))
# Where the keys of a command stand.
KEYLESS, RANGE, STREAMS, COUNTED, SOURCES, SET, PAIR = (int(form) for form in Form)
MOST_DIGITS = 18

(
    _FILE, _MEMORY, _SOURCE_AT, _SOURCE_END,
    _TEXT, _HEAD, _PIECE, _AT, _END, _FILLED, _OFFSET, _LINE, _PARSED, _K0, _K1,
    _MARKS, _EXTRAS, _STRANGE, _TAIL, _ARG_AT, _ARG_SIZE, _ARG_PLAIN, _MOST_ARGS, _OUTER,
    _COMMAND_SLOTS, _COMMAND_SEEN, _COMMAND_MASK, _COMMAND_TEXT, _RULES, _KNOWN, _LABEL_OF, _LABELS, _N_LABELS,
    _CLIENT_SLOTS, _CLIENT_SEEN, _CLIENT_MASK, _MOST_CLIENTS, _N_CLIENTS, _SCRIPT,
    _UNKNOWN_SLOTS, _UNKNOWN_SEEN, _UNKNOWN_MASK, _MOST_UNKNOWN, _N_UNKNOWN,
    _NAME_DATA, _MOST_NAME_BYTES, _NAME_BYTES,
    _T, _SEQ, _DB, _CLIENT, _COMMAND, _ARG, _KEY_ENDS, _KEY_DATA, _OP, _LOOKUPS, _TTL_MS, _TTL_FORM, _CONDITION,
    _VALUE_BYTES, _DIGEST_ENDS, _DIGEST_DATA, _FORMAT, _IN_SCRIPT,
    _MOST_ROWS, _N_ROWS, _MOST_KEY_BYTES, _KEY_BYTES, _DIGEST_BYTES, _NOT_ASCII,
    _REJECTED_LINE, _REJECTED_AT, _REJECTED_SIZE, _REJECTED_REASON, _MOST_REJECTED, _N_REJECTED,
    _UNDECIDED_ROW, _UNDECIDED_AT, _UNDECIDED_SIZE, _MOST_UNDECIDED, _N_UNDECIDED,
    _LEAST_US, _MOST_US, _BACK_US,
) = range(len(STATE))  # fmt: skip
# Columns of a rule; a container's name goes on with the next argument.
(
    _CONTAINER, _FORM, _FIRST, _LAST, _STEP, _TARGET, _RULE_OP, _RULE_LOOKUPS, _TARGET_OP, _TARGET_LOOKUPS,
    _VALUE, _TTL_AT, _RULE_TTL_FORM, _OPTIONS_AT,
) = range(len(RULE))  # fmt: skip
_RULE_SIZE = len(RULE)
# What is known of a name: its hash, in two halves, and where its text stands.
_HASH, _CHECK, _NAME_AT, _NAME_SIZE = range(4)


def _numbers_at(kind: Any) -> Any:
    """Return what gives the numbers of a kind that an address holds, to be indexed without any test."""

    @intrinsic  # type: ignore[untyped-decorator]
    def numbers(_typing: Any, address: Any) -> Any:
        return types.CPointer(kind)(types.int64), _as_pointer

    return numbers


def _as_pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))


uint8s, int8s, int16s, int32s, int64s, uint64s, float64s = (
    _numbers_at(kind) for kind in (types.uint8, types.int8, types.int16, types.int32, types.int64, types.uint64, types.float64)
)


@intrinsic  # type: ignore[untyped-decorator]
def _equal64(_typing: Any, base: Any, p: Any, byte: Any) -> Any:
    """Return which of the 64 bytes at an address are that one, a bit each."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.IntType(8), 64)
        loaded = builder.load(builder.inttoptr(builder.add(*arguments[:2]), vector.as_pointer()), align=1)
        wanted = builder.insert_element(
            ir.Constant(vector, ir.Undefined), builder.trunc(arguments[2], ir.IntType(8)), ir.IntType(32)(0)
        )
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
        splat = builder.shuffle_vector(wanted, ir.Constant(vector, ir.Undefined), lanes)
        return builder.bitcast(builder.icmp_unsigned("==", loaded, splat), ir.IntType(64))

    return types.uint64(types.int64, types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def lowest_bit(_typing: Any, word: Any) -> Any:
    """Return the place of the lowest bit that is set; one must be."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def highest_bit(_typing: Any, word: Any) -> Any:
    """Return the place of the highest bit that is set, from 1 on; 0 without one."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.sub(ir.IntType(64)(64), builder.ctlz(arguments[0], ir.IntType(1)(0)))

    return types.int64(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _count_bits(_typing: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _bytes_reversed(_typing: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bswap(arguments[0])

    return types.uint64(types.uint64), generate


# Of the C library: descriptor, address, how much, from where.
_pread = types.ExternalFunction("pread", types.int64(types.int32, types.int64, types.int64, types.int64))


@njit(inline="always")
def _part(base: int, at: int, size: int) -> Any:
    """Return fewer than eight bytes, the others 0; behind the text there is room to read."""
    return eight_bytes(base, at) & ((_U(1) << _U(8 * size)) - _U(1))


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


@njit(inline="always")
def _sip(base: int, at: int, size: int, rest: Any, k0: Any, k1: Any) -> Any:
    """SipHash-1-3 for 128 bits, before its end; `rest` are the last bytes, fewer than eight."""
    v0, v1 = k0 ^ _U(0x736F6D6570736575), k1 ^ _U(0x646F72616E646F6D) ^ _U(0xEE)
    v2, v3 = k0 ^ _U(0x6C7967656E657261), k1 ^ _U(0x7465646279746573)
    for place in range(at, at + (size & ~7), 8):
        m = eight_bytes(base, place)
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3 ^ m)
        v0 ^= m
    m = (_U(size & 0xFF) << _U(56)) | rest
    v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3 ^ m)
    v0 ^= m
    v2 ^= _U(0xEE)
    for _ in range(3):
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    return v0, v1, v2, v3


@njit(nogil=True, error_model="numpy")
def _siphash_at(base: int, at: int, size: int, k0: Any, k1: Any) -> Any:
    """Return the first 64 bits of :func:`siphash128`."""
    v0, v1, v2, v3 = _sip(base, at, size, _part(base, at + (size & ~7), size & 7), k0, k1)
    return v0 ^ v1 ^ v2 ^ v3


@njit(nogil=True, error_model="numpy")
def _siphash128_at(base: int, at: int, size: int, k0: Any, k1: Any) -> tuple[Any, Any]:
    """SipHash-1-3 of a stretch in 128 bits (Aumasson, Bernstein, INDOCRYPT 2012).

    With a secret key no log can be built to collide, and of a billion names none collide by chance.
    """
    v0, v1, v2, v3 = _sip(base, at, size, _part(base, at + (size & ~7), size & 7), k0, k1)
    first = v0 ^ v1 ^ v2 ^ v3
    v1 ^= _U(0xDD)
    for _ in range(3):
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    return first, v0 ^ v1 ^ v2 ^ v3


@njit(inline="always")
def last_bytes(base: int, end: int, size: int) -> Any:
    """Return the bytes before `end`, fewer than eight, the others 0; nothing is read before `base` or behind `end`."""
    if size == 0:
        return _U(0)
    if end >= 8:
        return eight_bytes(base, end - 8) >> _U(64 - 8 * size)
    word = _U(0)
    for j in range(size):
        word |= _U(byte_at(base, end - size + j)) << _U(8 * j)
    return word


@njit(error_model="numpy")
def siphash(base: int, at: int, size: int, k0: Any, k1: Any) -> Any:
    """Return 64 bits of SipHash-1-3 of a stretch of the bytes that begin at `base`; none behind it are read."""
    v0, v1, v2, v3 = _sip(base, at, size, last_bytes(base, at + size, size & 7), k0, k1)
    return v0 ^ v1 ^ v2 ^ v3


@njit(error_model="numpy")
def _number_of(hashed: int, check: int, slots: Any, mask: int, seen: Any, known: int) -> int:
    """Return the number of a name, `known` where it was not seen before.

    A name is its 128 bits of hash: looking at the name itself would cost a miss of the processor's cache.
    """
    slot = hashed & mask
    while True:
        found = _INT(slots[slot])
        if found < 0:
            slots[slot] = known
            seen[4 * known + _HASH] = hashed
            seen[4 * known + _CHECK] = check
            return _INT(known)
        if seen[4 * found + _HASH] == hashed and seen[4 * found + _CHECK] == check:
            return found
        slot = (slot + 1) & mask


@njit(inline="always")
def _upper(c: int) -> int:
    return c - 32 if 97 <= c <= 122 else c


@njit(inline="always")
def _upper8(word: Any) -> Any:
    """Return eight letters in upper case, at once."""
    seven = word & _U(0x7F7F7F7F7F7F7F7F)
    from_a, behind_z = seven + _U(0x1F1F1F1F1F1F1F1F), seven + _U(0x0505050505050505)
    return word ^ (((from_a ^ behind_z) & ~word & _HIGH) >> _U(2))


@njit(error_model="numpy")
def _folded_hash(base: int, at: int, size: int, h: Any) -> Any:
    """Hash a name in upper case, going on from `h`; of up to eight letters no two have the same."""
    for j in range(at, at + size, 8):
        word = eight_bytes(base, j) if at + size - j >= 8 else _part(base, j, at + size - j)
        h = (h ^ _upper8(word)) * _ODD
        h ^= h >> _U(32)
    return h


def number_commands(text: int, at: int, size: int, sub_at: int, count: int, slots_at: int, mask: int, seen_at: int) -> int:
    """Give the commands of these names, which differ, numbers in their order; return how many there are.

    Parameters
    ----------
    text : int
        Address of their text, one after the other.
    at, size, sub_at : int
        Addresses of a number for each: where it begins, how long it is, where its subcommand begins (0 without).
    count : int
        How many there are.
    slots_at, mask, seen_at : int
        Addresses of what is filled, see :func:`_number_of`.
    """
    slots, seen = int32s(slots_at), int64s(seen_at)
    for number in range(count):
        start, whole, sub = int64s(at)[number], int64s(size)[number], int64s(sub_at)[number]
        hashed = _folded_hash(text, start, whole if sub == 0 else sub - 1 - start, _U(0))
        if sub > 0:
            hashed = _folded_hash(text, sub, start + whole - sub, hashed)
        _number_of(_INT(hashed), number, slots, mask, seen, number)
        seen[4 * number + _NAME_AT] = start
        seen[4 * number + _NAME_SIZE] = whole
    return count


@njit(error_model="numpy")
def _command(base: int, at: int, size: int, sub_at: int, sub_size: int, hashed: Any, state: Any) -> int:
    """Return a command's place in the table, -1 where it is not there; `sub_size` < 0: without a subcommand."""
    slots, seen, mask, text = (
        int32s(state[_COMMAND_SLOTS]),
        int64s(state[_COMMAND_SEEN]),
        state[_COMMAND_MASK],
        state[_COMMAND_TEXT],
    )
    slot = _INT(hashed) & mask
    whole = size if sub_size < 0 else size + 1 + sub_size
    while slots[slot] >= 0:
        found = _INT(slots[slot])
        if seen[4 * found + _HASH] == _INT(hashed) and seen[4 * found + _NAME_SIZE] == whole:
            if sub_size < 0 and size <= 8:
                return found
            start = seen[4 * found + _NAME_AT]
            same = True
            for j in range(size):
                same = same and _upper(byte_at(base, at + j)) == byte_at(text, start + j)
            for j in range(sub_size):
                same = same and _upper(byte_at(base, sub_at + j)) == byte_at(text, start + size + 1 + j)
            if same:
                return found
        slot = (slot + 1) & mask
    return _INT(-1)


@njit(error_model="numpy")
def _integer(base: int, at: int, size: int) -> int:
    """Return a printed integer; NULL_INT where it is none or too large for milliseconds."""
    negative = size > 0 and byte_at(base, at) == _MINUS
    start = at + 1 if negative else at
    digits = at + size - start
    if digits < 1 or digits > MOST_DIGITS:
        return _INT(NULL_INT)
    value = _INT(0)
    for j in range(start, at + size):
        c = byte_at(base, j)
        if c < 48 or c > 57:
            return _INT(NULL_INT)
        value = value * 10 + (c - 48)
    return -value if negative else value


@njit(error_model="numpy")
def _skip_plain(base: int, p: int, n: int) -> int:
    """Return the place of the next quote, backslash or line end from p on; n without one."""
    while p < n:
        c = byte_at(base, p)
        if c in (_QUOTE, _BACKSLASH, _NEW_LINE):
            return p
        p += 1
    return n


@njit(error_model="numpy")
def _line_end(base: int, p: int, n: int) -> int:
    while p < n and byte_at(base, p) != _NEW_LINE:
        p += 1
    return p


@njit(error_model="numpy")
def _stamp(base: int, p: int, n: int) -> tuple[int, int]:
    """Read ``seconds.micros``; return µs and the place behind it, -1 where there is none."""
    start, seconds, micros = p, _INT(0), _INT(0)
    while p < n and 48 <= byte_at(base, p) <= 57 and p - start < 12:
        seconds = seconds * 10 + (byte_at(base, p) - 48)
        p += 1
    if p == start or p + 7 > n or byte_at(base, p) != _DOT:
        return _INT(0), _INT(-1)
    for j in range(p + 1, p + 7):
        c = byte_at(base, j)
        if c < 48 or c > 57:
            return _INT(0), _INT(-1)
        micros = micros * 10 + (c - 48)
    return seconds * 1_000_000 + micros, p + 7


@njit(error_model="numpy")
def _header(base: int, p: int, n: int) -> tuple[int, int, int, int]:
    """Read what stands between the time stamp and the first quote: database, client and its size, place of the quote.

    ``[0 10.0.0.1:5000]``, ``[0]`` without a client (Redict), a bracket before the space (Alibaba),
    ``(db 0)`` or nothing (Redis 2.6, 2.4). The place is -1 where it is none of these.
    """
    none = _INT(-1), _INT(0), _INT(0), _INT(-1)
    if p < n and byte_at(base, p) == _OPENING:
        p += 1
    if p + 1 >= n or byte_at(base, p) != _SPACE:
        return none
    p += 1
    if byte_at(base, p) == _QUOTE:
        return _INT(0), _INT(0), _INT(-1), p  # Redis 2.4: only database 0 is told apart
    bracket = byte_at(base, p) == _OPENING
    if not bracket and not (
        p + 5 < n and byte_at(base, p) == _PARENTHESIS and byte_at(base, p + 1) == 100 and byte_at(base, p + 2) == 98
    ):
        return none
    p += 1 if bracket else 4
    db, start = _INT(0), p
    while p < n and 48 <= byte_at(base, p) <= 57 and p - start < 9:
        db = db * 10 + (byte_at(base, p) - 48)
        p += 1
    if p == start or p + 2 >= n:
        return none
    if byte_at(base, p) != _SPACE:
        closing = _CLOSING if bracket else _PARENTHESIS + 1
        closed = byte_at(base, p) == closing and byte_at(base, p + 1) == _SPACE and byte_at(base, p + 2) == _QUOTE
        return db, _INT(0), _INT(-1), p + 2 if closed else _INT(-1)
    p += 1
    client = p
    while p + 2 < n and byte_at(base, p) != _NEW_LINE:
        if byte_at(base, p) == _CLOSING and byte_at(base, p + 1) == _SPACE and byte_at(base, p + 2) == _QUOTE:
            return db, client, p - client, p + 2
        p += 1
    return none


@njit(error_model="numpy")
def _arguments(base: int, p: int, n: int, state: Any) -> tuple[int, int, int]:
    """Read the arguments from the first quote on, byte by byte.

    Returns how many, the place behind them, and OK or the reason why not.
    """
    at, size, plain = int64s(state[_ARG_AT]), int64s(state[_ARG_SIZE]), int64s(state[_ARG_PLAIN])
    count = _INT(0)
    while True:
        if p >= n or byte_at(base, p) != _QUOTE:
            return count, p, _INT(GLUED)
        if count >= state[_MOST_ARGS]:
            return count, p, _INT(TOO_MANY)
        p += 1
        start = p
        extra = _INT(0)
        while True:
            p = _skip_plain(base, p, n)
            if p >= n or byte_at(base, p) == _NEW_LINE:
                return count, p, _INT(CUT_OFF)
            if byte_at(base, p) == _QUOTE:
                break
            if p + 1 >= n or byte_at(base, p + 1) == _NEW_LINE:
                return count, p + 1, _INT(CUT_OFF)
            if (
                byte_at(base, p + 1) == _X and p + 3 < n
                and byte_at(base, p + 2) != _NEW_LINE and byte_at(base, p + 3) != _NEW_LINE
            ):  # fmt: skip
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
        if p < n and byte_at(base, p) == _RETURN:
            p += 1
            if p < n and byte_at(base, p) != _NEW_LINE:
                return count, p, _INT(GLUED)
        if p >= n or byte_at(base, p) == _NEW_LINE:
            return count, p, _INT(OK)
        if byte_at(base, p) != _SPACE:
            return count, p, _INT(GLUED)
        p += 1


# Forms of a time to live: their unit in ms, and whether it is a point in time.
_TTL_UNITS = np.array([0, 1000, 1, 1000, 1, 1000, 1, 1000, 1, 1000, 1])
_TTL_ABSOLUTE = np.array([False, False, False, True, True, False, False, False, False, True, True])
_MOST_MS = 2**62
_OTHER = 4  # place in the list of ops
_GET_BIT = 32
# Words of up to eight letters as numbers: the options, by their place.
_TTL_WORDS = np.array([int.from_bytes(form.encode(), "little") for form in TTL_FORMS[1:5]], np.uint64)
_CONDITION_WORDS = np.array([int.from_bytes(name.encode(), "little") for name in CONDITIONS], np.uint64)
_STREAMS_WORD = _U(int.from_bytes(b"STREAMS", "little"))


@njit(error_model="numpy")
def _ttl_ms(base: int, at: int, size: int, form: int, stamp_us: int) -> int:
    """Return the time to live asked for, in ms from the stamp on; NULL_INT where there is no such number."""
    value = _integer(base, at, size)
    if value == NULL_INT:
        return _INT(NULL_INT)
    if abs(value) > _MOST_MS // _TTL_UNITS[form]:
        return _INT(NULL_INT)  # beyond what the server takes
    value *= _TTL_UNITS[form]
    if _TTL_ABSOLUTE[form]:
        value -= stamp_us // 1000
    return value if abs(value) < _MOST_MS else _INT(NULL_INT)


@njit(error_model="numpy")
def _options(base: int, first: int, count: int, at: Any, size: Any, stamp_us: int) -> tuple[int, int, int]:
    """Return form and ms of the time to live, and the conditions, among a command's options."""
    form, ms, conditions = _INT(0), _INT(NULL_INT), _INT(0)
    for j in range(first, count):
        if size[j] not in (2, 3, 4, 7):
            continue
        word = _upper8(_part(base, at[j], size[j]))
        for number in range(len(_TTL_WORDS)):
            if _TTL_WORDS[number] == word and j + 1 < count and form == 0:
                form = _INT(number + 1)
                ms = _ttl_ms(base, at[j + 1], size[j + 1], form, stamp_us)
        for number in range(len(_CONDITION_WORDS)):
            if _CONDITION_WORDS[number] == word:
                conditions |= _INT(1) << number
    return form, ms, conditions


@njit(error_model="numpy")
def _line(base: int, p: int, n: int, state: Any) -> tuple[int, int, int, int, int, int, int]:
    """Read one line byte by byte.

    Returns the reason why not, the place of its end, stamp, database, place and size of the client,
    and how many arguments it has.
    """
    begin = p
    if byte_at(base, p) == _PLUS:
        p += 1
    stamp_us, behind = _stamp(base, p, n)
    if behind < 0:
        end = _line_end(base, begin, n)
        shown = end - 1 if end > begin and byte_at(base, end - 1) == _RETURN else end
        reason = _INT(NO_STAMP)
        if shown == begin:
            reason = _INT(EMPTY)
        elif shown - p == 2 and byte_at(base, p) == 79 and byte_at(base, p + 1) == 75:  # OK
            reason = _INT(REPLY)
        return reason, end, _INT(0), _INT(-1), _INT(0), _INT(-1), _INT(0)
    db, client, client_size, behind = _header(base, behind, n)
    if behind < 0:
        return _INT(NO_HEADER), _line_end(base, begin, n), _INT(0), _INT(-1), _INT(0), _INT(-1), _INT(0)
    count, p, reason = _arguments(base, behind, n, state)
    return reason, p if reason == OK else _line_end(base, p, n), stamp_us, db, client, client_size, count


@njit(error_model="numpy")
def _mark(base: int, start: int, end: int, state: Any) -> int:
    r"""Mark the quotes without a backslash, and the line ends, from `start` to `end`; return how many stretches are strange.

    With each mark stands how many bytes escapes have added up to there. Strange is a stretch with ``\x`` before
    something that is no hexadecimal digit for sure: where it begins is written to `_STRANGE`.
    """
    marks, extras, strange = int32s(state[_MARKS]), int32s(state[_EXTRAS]), int32s(state[_STRANGE])
    tail = state[_TAIL]
    n_marks, n_strange, extra = _INT(0), _INT(0), _INT(0)
    carried, near = _U(0), _U(0)
    for p in range(start, end, 64):
        text, at = base, p
        if p + 64 > end:  # what is behind the end must not be seen
            for j in range(0, 64, 8):
                store_eight_bytes(tail, j, _U(0))
            for j in range(end - p):
                uint8s(tail)[j] = byte_at(base, p + j)
            text, at = tail, _INT(0)
        quotes, slashes, ends = _equal64(text, at, _QUOTE), _equal64(text, at, _BACKSLASH), _equal64(text, at, _NEW_LINE)
        escapes, hexes = _U(0), _U(0)
        stops = quotes
        if (slashes | carried | near) != _U(0):
            # Of a run of backslashes every other one escapes; a subtraction follows all runs at once.
            open_now = slashes & ~carried
            every_other = (((open_now << _U(1)) | _ODD_BITS) - open_now) ^ _ODD_BITS
            escaped = every_other ^ (slashes | carried)
            escapes = every_other & slashes
            carried = escapes >> _U(63)
            stops = quotes & ~escaped
            hexes = escaped & _equal64(text, at, _X)
            if (((hexes << _U(1)) | (hexes << _U(2)) | near) & (quotes | slashes | ends)) != _U(0):
                strange[n_strange] = p
                n_strange += 1
            near = (hexes >> _U(63)) | (hexes >> _U(62))
        stops |= ends
        while stops != _U(0):
            bit = stops & (~stops + _U(1))
            marks[n_marks] = p + lowest_bit(stops)
            extras[n_marks] = extra + _count_bits(escapes & (bit - _U(1))) + 2 * _count_bits(hexes & (bit - _U(1)))
            n_marks += 1
            stops ^= bit
        extra += _count_bits(escapes) + 2 * _count_bits(hexes)
    marks[n_marks] = end
    marks[n_marks + 1] = end
    return n_strange


@njit(inline="always")
def _two_digits(word: Any) -> Any:
    """Return the numbers of two digits that four pairs of digits stand for, the first lowest, 16 bits each."""
    return ((word & _U(0x000F000F000F000F)) * _U(10)) + ((word >> _U(8)) & _U(0x000F000F000F000F))


@njit(inline="always")
def _eight_digits(word: Any) -> int:
    """Return the number that eight digits stand for."""
    pairs = _two_digits(word)
    fours = (pairs & _U(0x0000FFFF0000FFFF)) * _U(100) + ((pairs >> _U(16)) & _U(0x0000FFFF0000FFFF))
    return _INT((fours & _U(0xFFFFFFFF)) * _U(10000) + (fours >> _U(32)))


@njit(inline="always")
def _are_digits(word: Any) -> bool:
    """Whether eight bytes are digits."""
    three = word & _U(0xF0F0F0F0F0F0F0F0)
    return (three | (((word + _U(0x0606060606060606)) & _U(0xF0F0F0F0F0F0F0F0)) >> _U(4))) == _U(0x3333333333333333)


@njit(error_model="numpy")
def _usual_line(base: int, p: int, k: int, state: Any) -> tuple[int, int, int, int, int, int, int]:
    """Read a line of the usual form along the marks; `k` is its first.

    Returns how many arguments it has, place of its end, stamp, database, place and size of the client, and the mark
    of its end. No argument: it is no such line.
    """
    marks, extras = int32s(state[_MARKS]), int32s(state[_EXTRAS])
    at, size, plain = int64s(state[_ARG_AT]), int64s(state[_ARG_SIZE]), int64s(state[_ARG_PLAIN])
    other = _INT(0), _INT(0), _INT(0), _INT(0), _INT(0), _INT(0), _INT(0)
    if byte_at(base, p) == _PLUS:
        p += 1
    first = _INT(marks[k])
    # 1763800000.000185 [0 10.0.3.1:40003] "
    if first - p < 22 or byte_at(base, p + 10) != _DOT or byte_at(base, p + 17) != _SPACE or byte_at(base, p + 18) != _OPENING:
        return other
    # The ninth and tenth digit of the seconds, and six of the µs, without the point between.
    head, middle = eight_bytes(base, p), eight_bytes(base, p + 9)
    rest = _U(byte_at(base, p + 8)) | ((middle & _U(0xFF)) << _U(8)) | (middle & ~_U(0xFFFF))
    if not (_are_digits(head) and _are_digits(rest)):
        return other
    behind = _eight_digits(rest)
    stamp_us = (_eight_digits(head) * 100 + behind // 1_000_000) * 1_000_000 + behind % 1_000_000
    db = byte_at(base, p + 19) - 48
    q = p + 20
    if not 0 <= db <= 9:
        return other
    while q < p + 28 and 48 <= byte_at(base, q) <= 57:
        db = db * 10 + (byte_at(base, q) - 48)
        q += 1
    client = q + 1
    if (
        byte_at(base, q) != _SPACE
        or first - 2 < client
        or byte_at(base, first - 2) != _CLOSING
        or byte_at(base, first - 1) != _SPACE
    ):
        return other
    if byte_at(base, first) != _QUOTE:
        return other
    count = _INT(0)
    opening = first
    while True:
        closing = _INT(marks[k + 1])
        if byte_at(base, closing) != _QUOTE or count >= state[_MOST_ARGS]:
            return other
        at[count] = opening + 1
        size[count] = closing - opening - 1
        plain[count] = closing - opening - 1 - (_INT(extras[k + 1]) - _INT(extras[k]))
        count += 1
        k += 2
        opening = _INT(marks[k])
        c = byte_at(base, closing + 1)
        if opening == closing + 2 and c == _SPACE and byte_at(base, opening) == _QUOTE:
            continue
        if c == _NEW_LINE or (c == _RETURN and opening == closing + 2 and byte_at(base, opening) == _NEW_LINE):
            return count, opening, stamp_us, db, client, first - 2 - client, k
        return other


@njit(error_model="numpy")
def _known_command(base: int, count: int, at: Any, size: Any, state: Any) -> int:
    """Return the command's place in the table, with its subcommand where that is known; -1 where it is not there."""
    hashed = _folded_hash(base, at[0], size[0], _U(0))
    command = _command(base, at[0], size[0], _INT(0), _INT(-1), hashed, state)
    if command >= 0 and count > 1 and int64s(state[_RULES])[command * _RULE_SIZE + _CONTAINER] != 0:
        both = _folded_hash(base, at[1], size[1], hashed)
        whole = _command(base, at[0], size[0], at[1], size[1], both, state)
        if whole >= 0:
            return whole
    return command


@njit(error_model="numpy")
def _counted(base: int, rules: Any, rule: int, count: int, at: Any, size: Any) -> int:
    """Return how many arguments are the keys, and what belongs to them, that a number before them announces."""
    place = rules[rule + _FIRST] - 1
    if place >= count or size[place] > 9:
        return _INT(0)
    return max(_integer(base, at[place], size[place]), _INT(0)) * rules[rule + _STEP]


@njit(error_model="numpy")
def _keys_of(base: int, rules: Any, rule: int, count: int, at: Any, size: Any) -> tuple[int, int, int]:
    """Return the first and last argument that are keys, and the target's, 0 without; first > last: no keys."""
    form = rules[rule + _FORM]
    first, last, target = rules[rule + _FIRST], rules[rule + _LAST], rules[rule + _TARGET]
    if form == KEYLESS:
        return _INT(1), _INT(0), _INT(0)
    if form == COUNTED:
        last = first - 1 + _counted(base, rules, rule, count, at, size)
    elif form == STREAMS:
        word = _INT(1)
        while word < count and not (size[word] == 7 and _upper8(_part(base, at[word], 7)) == _STREAMS_WORD):
            word += 1
        first, last = word + 1, word + (count - word - 1) // 2
    elif last < 0:
        last += count
    return first, min(last, count - 1), target if target < count else _INT(0)


@njit(error_model="numpy")
def _keep_name(base: int, at: int, size: int, number: int, seen: Any, state: Any) -> None:
    """Keep the text of a name that is new; there is room for it."""
    start = state[_NAME_BYTES]
    data = state[_NAME_DATA]
    for j in range(0, size, 8):
        store_eight_bytes(data, start + j, eight_bytes(base, at + j))
    seen[4 * number + _NAME_AT] = start
    seen[4 * number + _NAME_SIZE] = size
    state[_NAME_BYTES] = start + size


@njit(inline="always")
def _hex8(word: Any) -> Any:
    """Return four bytes as eight lower-case hex digits, the lowest byte first."""
    word = (word | (word << _U(16))) & _U(0x0000FFFF0000FFFF)
    word = (word | (word << _U(8))) & _U(0x00FF00FF00FF00FF)
    digits = ((word >> _U(4)) & _U(0x000F000F000F000F)) | ((word & _U(0x000F000F000F000F)) << _U(8))
    letters = ((digits + _U(0x0606060606060606)) >> _U(4)) & _LOW
    return digits + _U(0x3030303030303030) + letters * _U(39)


@njit(error_model="numpy")
def _read(state: Any) -> int:
    """Read the next whole lines behind what was left of the last ones; return DONE, TEXT_FULL or READ_FAILED.

    What is read begins where the text's address is a multiple of a page: elsewhere the system copies at a fifth of the speed.
    """
    base, head, end, filled = state[_TEXT], state[_HEAD], state[_END], state[_FILLED]
    left = filled - end
    if left > head:
        return _INT(TEXT_FULL)
    begin = head - left
    for j in range(left):
        uint8s(base)[begin + j] = byte_at(base, end + j)
    wanted = min(state[_PIECE], state[_SOURCE_END] - state[_SOURCE_AT])
    count = wanted
    if state[_FILE] >= 0:
        count = _pread(np.int32(state[_FILE]), base + head, wanted, state[_SOURCE_AT])
        if count < 0:
            return _INT(READ_FAILED)
    else:
        memory, at = state[_MEMORY], state[_SOURCE_AT]
        for j in range(0, wanted & ~7, 8):
            store_eight_bytes(base, head + j, eight_bytes(memory, at + j))
        for j in range(wanted & ~7, wanted):
            uint8s(base)[head + j] = byte_at(memory, at + j)
    state[_SOURCE_AT] += count
    filled = head + count
    if count == 0 or state[_SOURCE_AT] == state[_SOURCE_END]:
        state[_SOURCE_END] = state[_SOURCE_AT]
        if filled > begin and byte_at(base, filled - 1) != _NEW_LINE:
            uint8s(base)[filled] = _NEW_LINE
            filled += 1
    end = filled
    while end > begin and byte_at(base, end - 1) != _NEW_LINE:
        end -= 1
    state[_OFFSET] += state[_END] - begin
    # Places in the text are told from where it begins now.
    state[_AT], state[_END], state[_FILLED] = begin, end, filled
    return _INT(DONE)


def scan(address: int) -> int:
    """Read and parse; return DONE at the end, or what is full: nothing of the line at hand is kept then.

    Parameters
    ----------
    address : int
        Of an integer for each of ``STATE``. Behind the text 64 bytes may be read.
    """
    state = int64s(address)
    status = _INT(DONE)
    while status == DONE:
        if state[_AT] < state[_END]:
            status = _parse(state)
        elif state[_N_UNDECIDED] > 0:
            status = _INT(UNDECIDED_FULL)  # their text is about to go
        elif state[_SOURCE_AT] < state[_SOURCE_END]:
            status = _read(state)
        else:
            break
    return status


@njit(error_model="numpy")
def _parse(state: Any) -> int:
    """Parse the whole lines from `_AT` to `_END` in the text, each of which has its end."""
    base, end = state[_TEXT], state[_END]
    p, line, k = state[_AT], state[_LINE], _INT(0)
    n_strange = _mark(base, p, end, state)
    marks, strange = int32s(state[_MARKS]), int32s(state[_STRANGE])
    next_strange = _INT(0)
    at, size, plain = int64s(state[_ARG_AT]), int64s(state[_ARG_SIZE]), int64s(state[_ARG_PLAIN])
    k0, k1 = _U(state[_K0]), _U(state[_K1])
    rules = int64s(state[_RULES])
    known = state[_KNOWN]
    label_of, labels = int32s(state[_LABEL_OF]), int32s(state[_LABELS])
    client_slots, clients_seen, client_mask = int32s(state[_CLIENT_SLOTS]), int64s(state[_CLIENT_SEEN]), state[_CLIENT_MASK]
    t, seq = int64s(state[_T]), int64s(state[_SEQ])
    dbs, clients, commands, args = int32s(state[_DB]), int32s(state[_CLIENT]), int32s(state[_COMMAND]), int32s(state[_ARG])
    key_ends, key_data = int32s(state[_KEY_ENDS]), state[_KEY_DATA]
    ops, lookups, in_script = int32s(state[_OP]), int32s(state[_LOOKUPS]), uint8s(state[_IN_SCRIPT])
    ttls, ttl_forms, held = int64s(state[_TTL_MS]), int32s(state[_TTL_FORM]), int32s(state[_CONDITION])
    value_bytes, formats = int64s(state[_VALUE_BYTES]), int32s(state[_FORMAT])
    digest_ends, digest_data = int32s(state[_DIGEST_ENDS]), state[_DIGEST_DATA]
    row, key_bytes, digest_bytes = state[_N_ROWS], state[_KEY_BYTES], state[_DIGEST_BYTES]
    n_clients, parsed = state[_N_CLIENTS], state[_PARSED]
    least_us, most_us, back_us = state[_LEAST_US], state[_MOST_US], state[_BACK_US]
    not_ascii = _U(state[_NOT_ASCII])
    status = _INT(DONE)
    while p < end:
        begin = p
        while next_strange < n_strange and _INT(strange[next_strange]) + 67 < begin:
            next_strange += 1
        count, p, stamp_us, db, client_at, client_size, behind = _usual_line(base, begin, k, state)
        # What is strange may begin in the stretch before and end in the next.
        if count > 0 and (next_strange >= n_strange or _INT(strange[next_strange]) > p):
            k = behind + 1
        else:
            reason, p, stamp_us, db, client_at, client_size, count = _line(base, begin, end, state)
            if reason == TOO_MANY:
                status, p = _INT(ARGUMENTS_FULL), begin
                break
            while _INT(marks[k]) < p:
                k += 1
            if reason != OK:
                rejected = state[_N_REJECTED]
                if rejected >= state[_MOST_REJECTED]:
                    status, p = _INT(ROWS_FULL), begin
                    break
                int64s(state[_REJECTED_LINE])[rejected] = line
                int64s(state[_REJECTED_AT])[rejected] = begin + state[_OFFSET]
                int64s(state[_REJECTED_SIZE])[rejected] = p - begin
                int64s(state[_REJECTED_REASON])[rejected] = reason
                state[_N_REJECTED] = rejected + 1
                line += 1
                p += 1
                k += 1
                continue
            k += 1
        # Everything is understood; now its rows, all or none of them.
        if (
            row + count >= state[_MOST_ROWS] or key_bytes + (p - begin) > state[_MOST_KEY_BYTES]
            or n_clients >= state[_MOST_CLIENTS] or state[_N_UNKNOWN] >= state[_MOST_UNKNOWN]
            or state[_NAME_BYTES] + (p - begin) > state[_MOST_NAME_BYTES]
        ):  # fmt: skip
            status, p = _INT(ROWS_FULL), begin
            break
        if state[_N_UNDECIDED] + count > state[_MOST_UNDECIDED]:
            status, p = _INT(UNDECIDED_FULL), begin
            break
        command = _known_command(base, count, at, size, state)
        rule = command * _RULE_SIZE
        if command < 0:
            # By its bytes as printed: upper and lower case become one when it is named.
            hashed, check = _siphash128_at(base, at[0], size[0], k0, k1)
            seen, n_unknown = int64s(state[_UNKNOWN_SEEN]), state[_N_UNKNOWN]
            slots = int32s(state[_UNKNOWN_SLOTS])
            number = _number_of(_INT(hashed), _INT(check), slots, state[_UNKNOWN_MASK], seen, n_unknown)
            if number == n_unknown:
                _keep_name(base, at[0], size[0], number, seen, state)
                state[_N_UNKNOWN] = number + 1
            command, rule = known + number, _INT(0)
        label = _INT(label_of[command])
        if label < 0:
            label = state[_N_LABELS]
            label_of[command] = label
            labels[label] = command
            state[_N_LABELS] = label + 1
        client = _INT(-1)
        if client_size >= 0:
            hashed, check = _siphash128_at(base, client_at, client_size, k0, k1)
            client = _number_of(_INT(hashed), _INT(check), client_slots, client_mask, clients_seen, n_clients)
            if client == n_clients:
                _keep_name(base, client_at, client_size, client, clients_seen, state)
                n_clients += 1
                if client_size == 3 and _part(base, client_at, 3) == _U(0x61756C):  # lua
                    state[_SCRIPT] = client
        ttl_form, ttl_ms, conditions = _INT(0), _INT(NULL_INT), _INT(0)
        form, options_at, ttl_at = rules[rule + _FORM], rules[rule + _OPTIONS_AT], rules[rule + _TTL_AT]
        if options_at > 0:
            if form == COUNTED:
                options_at += _counted(base, rules, rule, count, at, size)
            ttl_form, ttl_ms, conditions = _options(base, options_at, count, at, size, stamp_us)
        if ttl_at > 0:
            ttl_form = rules[rule + _RULE_TTL_FORM]
            ttl_ms = _ttl_ms(base, at[ttl_at], size[ttl_at], ttl_form, stamp_us) if ttl_at < count else _INT(NULL_INT)
        least_us, most_us = min(least_us, stamp_us), max(most_us, stamp_us)
        back_us = max(back_us, most_us - stamp_us)
        i, last, target = _keys_of(base, rules, rule, count, at, size)
        value, step = rules[rule + _VALUE], rules[rule + _STEP]
        position = _INT(0)
        while True:
            is_target = i > last
            if is_target:
                i = target
            has_key = i > 0 if is_target else i + value < count
            if not has_key and position > 0:
                break
            t[row] = stamp_us
            seq[row] = line
            dbs[row] = db
            clients[row] = client
            commands[row] = label
            ttls[row] = ttl_ms
            ttl_forms[row] = ttl_form - 1
            held[row] = conditions - 1
            in_script[row] = client >= 0 and client == state[_SCRIPT]
            value_bytes[row] = -1
            formats[row] = -1
            if not has_key:
                args[row] = -1
                ops[row] = rules[rule + _RULE_OP] if form == KEYLESS else _OTHER
                lookups[row] = 0
            else:
                args[row] = position
                key_at, key_size = at[i], size[i]
                for j in range(0, key_size & ~7, 8):
                    word = eight_bytes(base, key_at + j)
                    not_ascii |= word
                    store_eight_bytes(key_data, key_bytes + j, word)
                j = key_size & ~7
                word = _part(base, key_at + j, key_size & 7)
                not_ascii |= word
                store_eight_bytes(key_data, key_bytes + j, word)
                key_bytes += key_size
                if is_target:
                    ops[row] = rules[rule + _TARGET_OP]
                    lookups[row] = rules[rule + _TARGET_LOOKUPS]
                else:
                    ops[row] = rules[rule + _RULE_OP]
                    lookups[row] = rules[rule + _RULE_LOOKUPS]
                    if form == SET:
                        lookups[row] = 1 if conditions & _GET_BIT else 0
                if value > 0 and not is_target:
                    value_at, value_size = at[i + value], size[i + value]
                    value_bytes[row] = plain[i + value]
                    hashed = _bytes_reversed(_siphash_at(base, value_at, value_size, k0, k1))
                    store_eight_bytes(digest_data, digest_bytes, _hex8(hashed & _U(0xFFFFFFFF)))
                    store_eight_bytes(digest_data, digest_bytes + 8, _hex8(hashed >> _U(32)))
                    digest_bytes += 16
                    found = classify_at(base, value_at, value_size, state[_OUTER])
                    formats[row] = found
                    if found == UNDECIDED:
                        undecided = state[_N_UNDECIDED]
                        int64s(state[_UNDECIDED_ROW])[undecided] = row
                        int64s(state[_UNDECIDED_AT])[undecided] = value_at
                        int64s(state[_UNDECIDED_SIZE])[undecided] = value_size
                        state[_N_UNDECIDED] = undecided + 1
            row += 1
            key_ends[row] = key_bytes
            digest_ends[row] = digest_bytes
            position += 1
            if is_target or not has_key:
                break
            i += step
        parsed += 1
        line += 1
        p += 1
    state[_AT], state[_LINE], state[_PARSED] = p, line, parsed
    state[_N_ROWS], state[_KEY_BYTES], state[_DIGEST_BYTES], state[_N_CLIENTS] = row, key_bytes, digest_bytes, n_clients
    state[_LEAST_US], state[_MOST_US], state[_BACK_US] = least_us, most_us, back_us
    state[_NOT_ASCII] = _INT(not_ascii & _HIGH)
    return status


def in_transactions(clients_at: int, verbs_at: int, rows: int, open_at: int, out_at: int) -> int:
    """Tell which rows ran between MULTI and EXEC of their client, in order.

    Parameters
    ----------
    clients_at : int
        Address of each row's client, int32, negative without one.
    verbs_at : int
        Address of a byte for each row: 1 for MULTI, 2 for EXEC and DISCARD, else 0.
    rows : int
        How many there are.
    open_at : int
        Address of a byte for each client, in and out: who has begun a transaction.
    out_at : int
        Address of a byte for each row: the answer.
    """
    clients, verbs, open_now, out = int32s(clients_at), uint8s(verbs_at), uint8s(open_at), uint8s(out_at)
    for row in range(rows):
        client = clients[row]
        if client < 0:
            out[row] = 0
        elif verbs[row] > 0:
            out[row] = 0
            open_now[client] = verbs[row] == 1
        else:
            out[row] = open_now[client]
    return rows


# What Python calls, and how many integers it gives.
ENTRIES = {"number_commands": (number_commands, 8), "scan": (scan, 1), "in_transactions": (in_transactions, 5)}
