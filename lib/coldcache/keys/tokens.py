"""Keys cut into tokens, and their hashes: what Python calls of :mod:`coldcache.keys.families_kernel`, without numba.

Texts are an array of bytes and the bounds of each among them, int64, one more than there are texts.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from coldcache.sources.arrays import compiled, handed, place

# What stands before a string that Java serialised, as Redis prints it; the string's length follows (Object
# Serialization Stream Protocol: STREAM_MAGIC, STREAM_VERSION, TC_STRING, two bytes of length, the higher one mostly 0).
JAVA_PREFIX = rb"\xac\xed\x00\x05t\x00"
SEPARATORS = b":/_.?&=|-{} "

# What a token looks like. An infix is a framework's version number before all else, the 1 of Django's `:1:img`.
WORD, IDENTIFIER, VERSION, INFIX = range(4)
# What is written of a token: itself, a star, or its first letter and a star.
LITERAL, STAR, VERSION_STAR = range(3)

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


class Tokens(NamedTuple):
    """The tokens of many keys, one after the other."""

    start: Ints  # in the array of bytes
    end: Ints
    look: Bytes  # ``WORD``, ``IDENTIFIER``, ``VERSION`` or ``INFIX``
    first: Ints  # one more than there are keys: where the tokens of each begin


def _kernel() -> Mapping[str, Callable[..., int]]:
    beside = ("keys.tokens", "sources.log_kernel", "payload_kernel")
    return compiled("coldcache.keys.families_kernel", *(f"coldcache.{name}" for name in beside))


def _texts(data: Bytes, bounds: Ints) -> tuple[int, int, int]:
    """Return the addresses of texts, which stand within the bytes, and how many they are."""
    if not 0 <= bounds[0] <= bounds[-1] <= len(data):
        raise ValueError("texts end where there are no bytes")
    return place(data, np.uint8), place(bounds, np.int64), len(bounds) - 1


def tokenise(data: Bytes, bounds: Ints) -> Tokens:
    """Return the tokens of all texts."""
    bounds = handed(bounds, np.int64)
    most = int(bounds[-1] - bounds[0]) + len(bounds) - 1  # room that is not used takes no memory
    start, end, look = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.uint8)
    first = np.empty(len(bounds), np.int64)
    room = place(start, np.int64), place(end, np.int64), place(look, np.uint8), place(first, np.int64)
    count = _kernel()["tokenise"](*_texts(data, bounds), *room)
    return Tokens(start[:count], end[:count], look[:count], first)


def render(data: Bytes, tokens: Tokens, written: Bytes) -> tuple[Bytes, Ints]:
    """Return the texts, and their bounds, with `written` of each token: ``LITERAL``, ``STAR`` or ``VERSION_STAR``.

    The length behind Java's prefix becomes a point.
    """
    bounds, count = np.empty(len(tokens.first), np.int64), len(tokens.start)
    out = np.empty(int(tokens.end[-1] - tokens.start[0]) + count if count else 0, np.uint8)
    room = place(out, np.uint8), place(bounds, np.int64)
    _kernel()["render"](place(data, np.uint8), *_spans(tokens), place(written, np.uint8, count), *room)
    return out, bounds


def look_up(data: Bytes, bounds: Ints, secret: Hashes) -> tuple[Hashes, Hashes, Hashes]:
    """Return of each text the hash of itself, of its template by looks, and of its identifiers, 0 where it has none.

    `secret` : two numbers, so that no keys can be made that share a hash.
    """
    most = int(np.diff(bounds).max(initial=0)) + 2
    start, end, look = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.uint8)
    key, template, ids = (np.empty(len(bounds) - 1, np.uint64) for _ in range(3))
    bounds, secret = handed(bounds, np.int64), handed(secret, np.uint64)
    _kernel()["look_up"](
        *_texts(data, bounds), place(secret, np.uint64, 2), place(start, np.int64), place(end, np.int64), place(look, np.uint8),
        place(key, np.uint64), place(template, np.uint64), place(ids, np.uint64),
    )  # fmt: skip
    return key, template, ids


def ids_at_stars(data: Bytes, tokens: Tokens, written: Bytes, secret: Hashes) -> Hashes:
    """Return the hash of the tokens of each text that are `written` as stars; of a version, what stands behind its letter."""
    ids, secret = np.empty(len(tokens.first) - 1, np.uint64), handed(secret, np.uint64)
    given = place(written, np.uint8, len(tokens.start)), place(secret, np.uint64, 2)
    _kernel()["ids_at_stars"](place(data, np.uint8), *_spans(tokens), *given, place(ids, np.uint64))
    return ids


def describe(data: Bytes, tokens: Tokens) -> tuple[Hashes, Ints, Hashes]:
    """Return the hash of each token, the token that leads each text, and the hash of its separators and of that place.

    The lead is the first token that says something: not the empty one of ``{user:*}``, nor a version.
    """
    words, rows = np.empty(len(tokens.start), np.uint64), len(tokens.first) - 1
    leads, shapes = np.empty(rows, np.int64), np.empty(rows, np.uint64)
    starts, ends, first, _ = _spans(tokens)
    room = place(words, np.uint64), place(leads, np.int64), place(shapes, np.uint64)
    _kernel()["describe"](place(data, np.uint8), starts, ends, place(tokens.look, np.uint8), first, rows, *room)
    return words, leads, shapes


def _spans(tokens: Tokens) -> tuple[int, int, int, int]:
    """Return the addresses of where tokens begin and end, of the first of each text, and how many texts there are."""
    return place(tokens.start, np.int64), place(tokens.end, np.int64), place(tokens.first, np.int64), len(tokens.first) - 1


def first_rows(data: Bytes, bounds: Ints) -> Ints:
    """Return where each different text first stands, in order."""
    bounds = handed(bounds, np.int64)
    texts = _texts(data, bounds)
    rows = np.empty(texts[2], np.int64)
    slots = np.full(1 << (2 * texts[2]).bit_length(), -1, np.int32)
    secret = np.frombuffer(secrets.token_bytes(16), np.uint64)
    table = place(slots, np.int32), len(slots) - 1
    return rows[: _kernel()["first_rows"](*texts, *table, place(secret, np.uint64), place(rows, np.int64))]
