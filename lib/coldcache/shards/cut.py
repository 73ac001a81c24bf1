"""Cutting a case's accesses into shards by the hash of their keys, a part of the table at a time.

Two passes. The first looks at the keys alone, for the families depend on all of them. The second deals the rows out
by what stands for the stars of a key's family, or, where it has none, by the key: all rows of a key meet, and so do
``dev_cache:img:17`` and ``prod_cache:img:17``, of which one may be the other's value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coldcache import schema
from coldcache.shards.deal import KINDS, REMOVALS, SILENCE_US, EpochSpan, deal, deal_removals, rows_in
from coldcache.shards.scratch import Scratch, joined
from coldcache.shards.shard import LABELS, NONE, Removals, Shard, Vocabulary
from coldcache.shards.source import InMemory, Source
from coldcache.shards.survey import looks_in, survey
from coldcache.shards.workers import Workers

__all__ = ["EpochSpan", "Shards", "cut", "cut_frame", "secret_of"]

ROWS_IN_SHARD = 500_000  # some 90 bytes each, and as much again while it is followed
ROWS_IN_MEMORY = 8_000_000  # some 50 bytes each, packed; those of a larger case lie in files between two passes

_Ints = npt.NDArray[np.int64]
_Hashes = npt.NDArray[np.uint64]
# Of the labels that some part numbers otherwise than all do: what each part's own numbers become; the last, -1, stays.
_Renumbered = Mapping[str, Sequence[npt.NDArray[np.signedinteger[Any]]]]


@dataclass(frozen=True, slots=True, eq=False)
class Shards:
    """A case's accesses, cut.

    Attributes
    ----------
    scratch : Scratch
    count : int
        How many shards there are, at least one.
    families : tuple of str
        The key families of all of them, in the order of their texts.
    vocabulary : Vocabulary
    epochs : dict of int to EpochSpan
        What was recorded of every epoch, of the rows that were not left out.
    commands : int
        Commands in the case, those left out included.
    lookup_rows : int
        Rows that look a key up.
    flushes : dict of arrays
        All FLUSHALL and FLUSHDB: ``t_us``, ``seq``, ``epoch``, ``db``, ``everything`` (bool).
    busy : int64 (n, 2)
        Start and end of every stretch of reads and writes without a silence, µs, in order.
    """

    scratch: Scratch
    count: int
    families: tuple[str, ...]
    vocabulary: Vocabulary
    epochs: dict[int, EpochSpan]
    commands: int
    lookup_rows: int
    flushes: dict[str, npt.NDArray[Any]]
    busy: _Ints
    parts: int
    _renumbered: _Renumbered = field(repr=False)
    _held: dict[int, Shard] = field(default_factory=dict, repr=False)

    def shard(self, number: int) -> Shard:
        """Return one of the shards."""
        if number not in self._held:
            shard = self._gathered(number)
            if self.count > 1:
                return shard
            self._held[number] = shard
        return self._held[number]

    def _gathered(self, number: int) -> Shard:
        """Put a shard together from what each part has of it."""
        columns, bounds = self.scratch.gather([rows_in(part) for part in range(self.parts)], number)
        for label, of_parts in self._renumbered.items():
            slices = [own[columns[label][start:end]] for own, (start, end) in zip(of_parts, pairwise(bounds), strict=True)]
            columns[label] = np.concatenate(slices)
        shard = Shard(**columns, vocabulary=self.vocabulary, families=self.families)
        if not _disordered(shard):
            return shard
        order = np.lexsort((shard.seq, shard.epoch))
        columns = {name: values[order] for name, values in columns.items()}
        return Shard(**columns, vocabulary=self.vocabulary, families=self.families)

    def removals(self, number: int) -> Removals:
        """Return the keys of one shard that went away."""
        return Removals(**self.scratch.take(REMOVALS, number))


def _disordered(shard: Shard) -> bool:
    """Whether the rows are not in the order of epochs and of the stream."""
    earlier = shard.seq[1:] < shard.seq[:-1]
    if not len(shard) or shard.epoch.min() == shard.epoch.max():
        return bool(earlier.any())
    later = np.diff(shard.epoch)
    return bool(((later < 0) | ((later == 0) & earlier)).any())


def secret_of(case: Source) -> _Hashes:
    """Return the key of a case's hashes: the same each time, so that a diagnosis is, and not known while the log was made."""
    text = f"{case.meta.get('created')} {case.meta['span']} {case.meta['rows']}"
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), np.uint64)


def cut_frame(accesses: pa.Table, workers: Workers) -> Shards:
    """Cut accesses that are in memory into shards in memory."""
    return cut(InMemory(accesses), workers)


def cut(case: Source, workers: Workers, keep: Mapping[int, tuple[int, int]] | None = None) -> Shards:
    """Cut the accesses and the key events of a case into shards.

    Parameters
    ----------
    case : Case
    workers : Workers
        Who does it. Their files are removed by ``Shards.scratch.remove()``.
    keep : dict of epoch to (first, last), optional
        Of these epochs only the rows with such a ``seq`` are kept.

    Raises
    ------
    DamagedCaseError
        A table cannot be read.
    """
    parts = case.parts("accesses")
    if not parts:
        return cut_frame(schema.ACCESSES.arrow().empty_table(), workers)
    rows = sum(parts.values())
    count = max(1, -(-rows // ROWS_IN_SHARD))
    in_files = workers.apart or (rows > ROWS_IN_MEMORY and not isinstance(case, InMemory))
    scratch = Scratch.beside(case.folder, shared=workers.apart) if in_files else Scratch.in_memory()
    try:
        return _cut(case, workers, keep or {}, scratch, list(parts), np.cumsum([0, *parts.values()]), count)
    except BaseException:
        scratch.remove()
        raise


def _cut(
    case: Source, workers: Workers, keep: Mapping[int, tuple[int, int]], scratch: Scratch, parts: Sequence[str], places: _Ints,
    count: int,
) -> Shards:  # fmt: skip
    secret = secret_of(case)
    families, of_parts = survey(case, scratch, workers, secret, parts)
    tasks = [(number, part, int(places[number]), of_parts[number]) for number, part in enumerate(parts)]
    dealt = workers.map("sorting by key", partial(deal, case, scratch, keep, count), tasks)
    scratch.drop(*map(looks_in, range(len(parts))))
    workers.map("sorting by key", partial(deal_removals, case, scratch, families, secret), [count])
    vocabulary, renumbered = _merged([part.labels for part in dealt])
    epochs: dict[int, EpochSpan] = {}
    for part in dealt:
        for epoch, span in part.epochs.items():
            epochs[epoch] = epochs[epoch] | span if epoch in epochs else span
    none = {"t_us": np.int64, "seq": np.int64, "epoch": np.int32, "db": np.int32, "everything": np.bool_}
    return Shards(
        scratch, count, families.names, vocabulary, dict(sorted(epochs.items())), sum(part.commands for part in dealt),
        sum(part.lookup_rows for part in dealt),
        joined([{name: np.empty(0, kind) for name, kind in none.items()}, *(part.flushes for part in dealt)]),
        _united([part.busy for part in dealt]), len(parts), renumbered,
    )  # fmt: skip


def _united(parts: Sequence[_Ints]) -> _Ints:
    """Return the busy stretches of all parts, those joined that no silence parts."""
    stretches = np.concatenate([np.empty((0, 2), np.int64), *parts])
    if not len(stretches):
        return stretches
    stretches = stretches[np.argsort(stretches[:, 0], kind="stable")]
    until = np.maximum.accumulate(stretches[:, 1])
    first = np.flatnonzero(np.r_[True, stretches[1:, 0] - until[:-1] > SILENCE_US])
    return np.column_stack([stretches[first, 0], until[np.r_[first[1:] - 1, len(until) - 1]]])


def _merged(parts: Sequence[dict[str, list[str]]]) -> tuple[Vocabulary, _Renumbered]:
    """Return one vocabulary for all parts, and what it makes of their own numbers."""
    names = {label: sorted({name for part in parts for name in part[label]}) for label in LABELS}
    renumbered = {}
    for label, found in names.items():
        if any(part[label] != found[: len(part[label])] for part in parts):
            number = {name: number for number, name in enumerate(found)}
            renumbered[label] = [np.array([*(number[name] for name in part[label]), NONE], KINDS[label]) for part in parts]
    return Vocabulary(**{label: tuple(found) for label, found in names.items()}), renumbered
