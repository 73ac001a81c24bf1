r"""Key families: the template a person recognises behind many keys, such as ``prod_cache:img:*:v*``.

Two stages. A token that is an identifier by its looks becomes ``*``; then keys are grouped by
their separators and first token, and a position with more than 30 distinct tokens becomes ``*``
too. Measured on 5 M keys: exactly the 11 true families (``benchmarks/families.py``). The work on
bytes is :mod:`coldcache.keys.tokens`'s.

What tells an identifier: UUID, also inside a longer token; 8 hex digits and more, one of them a
digit, so that ``deadbeef`` and ``facade`` stay words (MD5, SHA, ObjectId, hidden keys); ULID;
integers, with a minus if they have one (epochs, language hashes); base64 and base64url of 16
characters and more with both cases and a digit (KSUID), but not ``ProductImageThumbnail2``;
percent-encoding and escaped bytes. What stays legible: Java's serialisation prefix, its length
byte printed ``.``; a framework's version infix at the start, ``:1:img:*``; a doubled prefix.

A version, ``v2`` or ``v3fa9120c``, stays as it is while there are 30 or fewer at its position, so
that a namespace changed at a deploy shows; where there are more, all of them are ``v*``.

The family of a key does not depend on the order of keys. It depends on other keys in these ways
only, which are the limits of its stability between runs and cases:

- a position is counted among keys with the same separators and first token, and is fixed while
  30 tokens or fewer were seen there, where versions too many count as one;
- a first token is fixed while 30 others or fewer have the same rest after it, 300 where that rest
  has an identifier: fifty tables ``orders:*`` are fifty families, fifty users ``bob:profile`` one.
  300 first tokens with nothing but words after them are identifiers, too.

Limits: a base64 text is cut at its slashes. Of random base64url texts without padding, one in twenty
with 22 characters and one in fifty with 43 has dashes or underscores and looks too much like words
that these join (measured). ``v2.1`` is two tokens, of which the number is an identifier, as is a
version without its letter. A star in a key is taken for a variable token.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from coldcache.keys import tokens as cut
from coldcache.keys.numbering import different_of, numbers_and_first, numbers_of
from coldcache.sources.monitor import escape

VARIABLE = "*"
VERSIONS = ("v*", "V*")
_JAVA_PREFIX = cut.JAVA_PREFIX.decode()
_JAVA_STRING = b"\xac\xed\x00\x05t"  # the prefix but for the length's higher byte
_PRINTED_BYTE = re.compile(r"\\(?:x[0-9a-f]{2}|.)")
_SEPARATING = re.escape(cut.SEPARATORS.decode())
#: Splits a family's template: tokens at even places, separators at odd ones.
SEPARATORS = re.compile(rf"(\A{re.escape(_JAVA_PREFIX)}\.|[{_SEPARATING}])")

_MOST_LITERALS = 30  # distinct tokens at one position before it counts as variable
_MOST_NAMESPACES = 300  # distinct first tokens before identifiers: tables of an application are many
_CHUNK_KEYS = 1 << 16  # the arrays of a chunk are some twenty times its bytes
_PLACE = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads small numbers over all bits (Knuth, TAOCP 6.4)
# Odd, so that products differ where hashes do; secret, so that no keys can be made whose hashes share a slot and take forever.
_UNFORESEEN = np.uint64(secrets.randbits(64) | 1)

_Bytes = npt.NDArray[np.uint8]
_Hashes = npt.NDArray[np.uint64]
_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]


def split_key(key: str) -> list[str]:
    """Return a key's tokens and separators in turn: tokens at even places, separators at odd ones.

    A UUID, a negative number and a base64url text are one token each, whatever separators they hold;
    every such token is variable in the key's family. Java's prefix with the length behind it is a separator.
    """
    return next(split_keys([key]))


def split_keys(keys: Sequence[str]) -> Iterator[list[str]]:
    """Yield what :func:`split_key` returns for each key; many at once take a tenth of the time."""
    for at in range(0, len(keys), _CHUNK_KEYS):
        texts = [key.encode() for key in keys[at : at + _CHUNK_KEYS]]
        tokens = _Tokenised.of(pa.array(texts, pa.large_binary())).tokens
        joined = b"".join(texts)
        bounds = np.column_stack([tokens.start, tokens.end]).ravel().tolist()
        for first, last in pairwise((2 * tokens.first).tolist()):
            yield [joined[start:end].decode() for start, end in pairwise(bounds[first:last])]


def variable_parts(key: str, family: str) -> tuple[str, ...]:
    """Return what stands for the stars of a key's family: of ``v12`` in ``v*``, the ``12``.

    Two keys of families that differ in their fixed tokens alone name the same thing when this is
    equal.
    """
    return variable_parts_of([key], family)[key]


def variable_parts_of(keys: Iterable[str], family: str) -> dict[str, tuple[str, ...]]:
    """Return the :func:`variable_parts` of every distinct key, all of one family."""
    # A version's star stands behind its letter; a star behind anything else is a character of a word.
    stars = [(2 * at, len(fixed) - 1) for at, fixed in enumerate(SEPARATORS.split(family)[::2]) if fixed in (VARIABLE, *VERSIONS)]
    distinct = list(dict.fromkeys(keys))
    return {
        key: tuple(parts[at][letters:] for at, letters in stars if at < len(parts))
        for key, parts in zip(distinct, split_keys(distinct), strict=True)
    }


def key_of(family: str, parts: Iterable[str]) -> str:
    """Return the key of a family with these parts in place of its stars: the inverse of :func:`variable_parts`.

    A part too few leaves its star. Behind Java's prefix the length is the key's own.
    """
    rest = iter(parts)
    pieces = SEPARATORS.split(family)
    for at in range(0, len(pieces), 2):
        if pieces[at] in (VARIABLE, *VERSIONS):
            pieces[at] = pieces[at][:-1] + next(rest, VARIABLE)
    if len(pieces) > 1 and pieces[1].startswith(_JAVA_PREFIX):
        size = len(_PRINTED_BYTE.sub("?", "".join(pieces[2:])).encode()) % 2**16
        pieces[1] = escape(_JAVA_STRING + size.to_bytes(2, "big"))
    return "".join(pieces)


def key_families(keys: pd.Series) -> pd.Series:
    """Return the family of every distinct key.

    Parameters
    ----------
    keys : pandas.Series of str
        Keys in Redis's printable escape; nulls are left out.

    Returns
    -------
    pandas.Series of str, indexed by distinct key
        The family's template; a variable position is ``*``. Joined tokens such as
        ``dev_cache`` keep their separator, so the template reads like a key.
    """
    texts = pa.array(keys.dropna().astype("str"), type=pa.large_string())
    distinct = _distinct_texts(texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts)
    codes, templates = families_of(distinct)
    families = pa.array(templates, type=pa.large_string()).take(pa.array(codes))
    index = pd.Index(pd.array(distinct, dtype="str"), name="key")
    return pd.Series(pd.array(families, dtype="str"), index=index, name="family")


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """What keys look like, one element each, uint64; see :func:`looks_of`.

    key : the hash of the key itself
    template : of the key with a star for each identifier
    ids : of its identifiers in their order, 0 where it has none
    """

    key: _Hashes
    template: _Hashes
    ids: _Hashes


def looks_of(keys: pa.Array, secret: _Hashes) -> Looks:
    """Return what each key looks like; a null is taken as the empty key.

    Parameters
    ----------
    keys : pyarrow.Array of string or large_string
        Keys in Redis's printable escape.
    secret : two uint64
        Key of the hashes. The same keys give the same hashes wherever it is the same.
    """
    return Looks(*cut.look_up(*_bytes_of(keys.cast(pa.large_string())), secret))


def templates_of(keys: pa.Array, looks: Looks) -> tuple[npt.NDArray[np.int32], _Hashes, pa.Array]:
    """Return the different templates of some keys by looks, in order of first appearance.

    Returns
    -------
    (numbers, hashes, templates)
        `numbers` : of each key, the place of its template in the other two; `hashes` : uint64; `templates` : their texts.
    """
    numbers, hashes, first = numbers_and_first(looks.template)
    return numbers, hashes, _stars_for_identifiers(keys.take(pa.array(first)).fill_null(""))


@dataclass(frozen=True, slots=True, eq=False)
class Families:
    """The families of all keys of a case, and how to tell a key's.

    Attributes
    ----------
    names : tuple of str, sorted
        The families' templates.
    template : uint64
        Hashes of the templates by looks, each once.
    code : int32, one a template
        Its family: index in `names`.
    further : uint64, one a template
        Hash of those of its tokens that are stars in the family, though not by their looks; 0 without.
    """

    names: tuple[str, ...]
    template: _Hashes
    code: npt.NDArray[np.int32]
    further: _Hashes

    @classmethod
    def of_templates(cls, hashes: _Hashes, templates: pa.Array, secret: _Hashes) -> Families:
        """Return the families of templates by looks; all those of a case at once, for they depend on each other."""
        if not len(hashes):
            return cls((), hashes, np.empty(0, np.int32), np.empty(0, np.uint64))
        text = _Tokenised.of(templates.cast(pa.large_string()))
        written = _written_for_many(text)
        families = text.rendered(written).dictionary_encode()
        found = families.dictionary.to_pylist()
        # In their order, so that the families are numbered alike wherever their keys were found first.
        names = sorted(found)
        number = np.array([bisect_left(names, name) for name in found], np.int32)
        only_further = np.where(text.tokens.look == cut.IDENTIFIER, cut.LITERAL, written).astype(np.uint8)
        further = cut.ids_at_stars(text.data, text.tokens, only_further, secret)
        return cls(tuple(names), hashes, number[families.indices.to_numpy()], further)

    def of(self, template: _Hashes) -> tuple[npt.NDArray[np.int32], _Hashes]:
        """Return the family of each template, and the hash of its further stars; -1 and 0 where it is none of these."""
        own = len(self.template)
        number = numbers_of(np.concatenate([self.template, template]))[0][own:]
        place = np.where(number < own, number, own)
        return np.append(self.code, np.int32(-1))[place], np.append(self.further, np.uint64(0))[place]


def families_of(keys: pa.Array) -> tuple[npt.NDArray[np.int32], list[str]]:
    """Return the family of every key, as codes.

    Parameters
    ----------
    keys : pyarrow.Array of string or large_string
        Keys in Redis's printable escape, without nulls. Repeated ones change nothing, but take time.

    Returns
    -------
    (codes, templates)
        `codes` : int32, one for each key, its family's place in `templates`.
        `templates` : the families, in the order in which they first appear.
    """
    if not len(keys):
        return np.empty(0, np.int32), []
    secret = np.frombuffer(secrets.token_bytes(16), np.uint64)
    looks = looks_of(keys, secret)
    numbers, hashes, templates = templates_of(keys, looks)
    families = Families.of_templates(hashes, templates, secret)
    codes, names = pd.factorize(families.code[numbers])
    return codes.astype(np.int32), [families.names[name] for name in names]


def bytes_of(texts: pa.Array) -> tuple[_Ints, _Bytes]:
    """Return where each of some large strings begins among their bytes, and where the last one ends; and the bytes."""
    data, bounds = _bytes_of(texts)
    return bounds, data[: bounds[-1]]


def texts_of(bounds: _Ints, data: _Bytes) -> pa.Array:
    """Return the texts of :func:`bytes_of`."""
    return pa.Array.from_buffers(pa.large_string(), len(bounds) - 1, [None, pa.py_buffer(bounds), pa.py_buffer(data)])


def _distinct_texts(texts: pa.Array) -> pa.Array:
    """Return the different ones, in order.

    `pyarrow.compute.unique` does the same with copies of them all: 0.8 GB for 5 M keys, against 0.1 GB measured.
    """
    rows = cut.first_rows(*_bytes_of(texts))
    return texts if len(rows) == len(texts) else texts.take(pa.array(rows))


def _bytes_of(texts: pa.Array) -> tuple[_Bytes, _Ints]:
    """Return the bytes of all texts, and the bounds of each among them."""
    if not len(texts):
        return np.empty(0, np.uint8), np.zeros(1, np.int64)  # Arrow may leave out the bounds of nothing
    _, offsets, content = texts.buffers()
    bounds = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(content or b"", np.uint8), bounds


@dataclass(frozen=True, slots=True)
class _Tokenised:
    """The bytes of many texts and their tokens."""

    data: _Bytes
    tokens: cut.Tokens

    @classmethod
    def of(cls, texts: pa.Array) -> _Tokenised:
        data, bounds = _bytes_of(texts)
        return cls(data, cut.tokenise(data, bounds))

    def rendered(self, written: _Bytes) -> pa.Array:
        """Return the texts with `written` of each token, see :func:`coldcache.keys.tokens.render`."""
        out, bounds = cut.render(self.data, self.tokens, written)
        return pa.Array.from_buffers(pa.large_string(), len(bounds) - 1, [None, pa.py_buffer(bounds), pa.py_buffer(out)])


def _stars_for_identifiers(keys: pa.Array) -> pa.Array:
    """Return the keys with a star for each token that is an identifier by its looks."""
    text = _Tokenised.of(keys.cast(pa.large_string()))
    is_identifier = text.tokens.look == cut.IDENTIFIER
    return text.rendered(np.where(is_identifier, cut.STAR, cut.LITERAL).astype(np.uint8))


def _written_for_many(text: _Tokenised) -> _Bytes:
    """Return what is written of each token of all templates: too many at one position become stars."""
    tokens = text.tokens
    counts = np.diff(tokens.first)
    rows = np.repeat(np.arange(len(counts)), counts)
    places = (np.arange(len(rows)) - tokens.first[rows]).astype(np.uint64) * _PLACE
    words, leads, shapes = cut.describe(text.data, tokens)

    written = np.where(tokens.look == cut.IDENTIFIER, cut.STAR, cut.LITERAL).astype(np.uint8)
    written = _starred(written, tokens.look, words, within=(shapes * _PLACE + words[leads])[rows] + places)
    many = _many_leads(text, written, rows, words, leads, shapes)
    if many.any():
        written[leads[many]] = cut.STAR
        inside = (written[leads] == cut.STAR)[rows]  # with those that were stars already: they are one group now
        slots = shapes[rows[inside]] + places[inside]
        written[inside] = _starred(written[inside], tokens.look[inside], words[inside], within=slots)
    return written


def _starred(written: _Bytes, look: _Bytes, words: _Hashes, *, within: _Hashes) -> _Bytes:
    """Return `written` with stars where too many different words, or versions, stand `within` the same position."""
    written = written.copy()
    version = (look == cut.VERSION) & (written != cut.STAR)
    written[version] = np.where(_too_many(within[version], words[version]), cut.VERSION_STAR, cut.LITERAL)
    seen = np.where(written == cut.LITERAL, words, written)
    return np.where(_too_many(within, seen), np.uint8(cut.STAR), written)


def _many_leads(text: _Tokenised, written: _Bytes, rows: _Ints, words: _Hashes, leads: _Ints, shapes: _Hashes) -> _Bools:
    """Tell templates whose first token is an identifier, for so many others stand in its place."""
    names = words[leads] * _UNFORESEEN
    others = written.copy()
    others[leads] = cut.STAR
    rests = text.rendered(others).dictionary_encode().indices.to_numpy()
    others[leads] = cut.LITERAL
    varied = np.bincount(rows[others != cut.LITERAL], minlength=len(leads)) > 0
    many = different_of(rests, names, _MOST_NAMESPACES) > np.where(varied, _MOST_NAMESPACES, _MOST_LITERALS)
    plain = ~varied & ~many
    many[plain] = different_of(numbers_of(shapes[plain] * _UNFORESEEN)[0], names[plain], _MOST_NAMESPACES) > _MOST_NAMESPACES
    return many


def _too_many(within: _Hashes, what: _Hashes) -> _Bools:
    """Tell of each whether more than a few different `what` have the same `within`."""
    return different_of(numbers_of(within * _UNFORESEEN)[0], what * _UNFORESEEN, _MOST_LITERALS) > _MOST_LITERALS
