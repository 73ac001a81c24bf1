"""One shard: rows of accesses as plain arrays, with every row of each of its keys, in the order of the stream."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from coldcache.keys.numbering import numbers_of

NULL = np.iinfo(np.int64).min  # of a time to live that was not asked for
NONE = -1  # of a number that counts from 0
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads small numbers over all bits (Knuth, TAOCP 6.4)

#: The columns with few distinct texts, as numbers into a `Vocabulary`.
LABELS = ("node", "client", "command", "op", "ttl_form", "condition", "value_format", "outcome", "key_state")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the numbers of a shard's labels stand for; one number past the end, or -1, is null."""

    node: tuple[str, ...] = ()
    client: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    op: tuple[str, ...] = ()
    ttl_form: tuple[str, ...] = ()
    condition: tuple[str, ...] = ()
    value_format: tuple[str, ...] = ()
    outcome: tuple[str, ...] = ()
    key_state: tuple[str, ...] = ()

    def told(self, label: str, function: Any, null: Any = False) -> npt.NDArray[Any]:
        """Return ``function(text)`` of each text of a label, and `null` at the end, where -1 points to."""
        names: tuple[str, ...] = getattr(self, label)
        return np.array([*(function(name) for name in names), null])


@dataclass(frozen=True, eq=False)
class Shard:
    """Rows of ``schema.ACCESSES``, one element each, in the order of epochs, and of the stream within one.

    Rows without a key are in every shard if they change what is known of keys (FLUSHALL), else in none.

    Attributes
    ----------
    place : uint32
        The row's place in the case's accesses.
    t_us, seq : int64
    epoch : int32
    node, command, op, ttl_form, condition, value_format, outcome, key_state : int16; client : int32
        Numbers into the `vocabulary`; -1 is null.
    db, arg : int32, -1 is null
    key, ids : uint64
        Hash of the key's name; of what stands for the stars of its family, 0 where it has none.
    family : int32
        Index in `families`; -1 without a key.
    lookups : int8
    ttl_ms : int64, `NULL` without
    value_bytes : int32, -1 is null
    value_digest : uint64, 0 is null
    """

    place: npt.NDArray[np.uint32]
    t_us: npt.NDArray[np.int64]
    seq: npt.NDArray[np.int64]
    epoch: npt.NDArray[np.int32]
    node: npt.NDArray[np.int16]
    client: npt.NDArray[np.int32]
    command: npt.NDArray[np.int16]
    op: npt.NDArray[np.int16]
    ttl_form: npt.NDArray[np.int16]
    condition: npt.NDArray[np.int16]
    value_format: npt.NDArray[np.int16]
    outcome: npt.NDArray[np.int16]
    key_state: npt.NDArray[np.int16]
    db: npt.NDArray[np.int32]
    arg: npt.NDArray[np.int32]
    key: npt.NDArray[np.uint64]
    ids: npt.NDArray[np.uint64]
    family: npt.NDArray[np.int32]
    lookups: npt.NDArray[np.int8]
    ttl_ms: npt.NDArray[np.int64]
    value_bytes: npt.NDArray[np.int32]
    value_digest: npt.NDArray[np.uint64]
    vocabulary: Vocabulary
    families: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.place)

    def is_(self, label: str, *texts: str) -> npt.NDArray[np.bool_]:
        """Return which rows have one of these texts as a label."""
        return self.vocabulary.told(label, lambda name: name in texts)[getattr(self, label)].astype(bool)

    @cached_property
    def names(self) -> tuple[npt.NDArray[np.int64], int]:
        """A number for the name of each row's key, whatever its database, and how many there are."""
        numbers, found = numbers_of(self.key)
        return numbers.astype(np.int64), len(found)

    @cached_property
    def is_read(self) -> npt.NDArray[np.bool_]:
        """Which rows are look-ups that INFO counts."""
        return (self.lookups > 0) & (self.family >= 0)

    @cached_property
    def is_write(self) -> npt.NDArray[np.bool_]:
        """Which rows write a key."""
        return self.is_("op", "write") & (self.family >= 0)


@dataclass(frozen=True, slots=True, eq=False)
class Removals:
    """Keys that went away, of those a shard holds; see ``schema.KEY_EVENTS``.

    t_us, seq : int64; epoch, db, family : int32; key, ids : uint64, as in a `Shard`.
    """

    t_us: npt.NDArray[np.int64]
    seq: npt.NDArray[np.int64]
    epoch: npt.NDArray[np.int32]
    db: npt.NDArray[np.int32]
    family: npt.NDArray[np.int32]
    key: npt.NDArray[np.uint64]
    ids: npt.NDArray[np.uint64]
