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
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coldcache import schema
from coldcache.commands import FLUSHES, SWEEPING
from coldcache.keys.families import Families, Looks, bytes_of, looks_of, templates_of, texts_of
from coldcache.keys.numbering import numbers_and_first
from coldcache.shards.scratch import Columns, Scratch, constant, is_constant, joined
from coldcache.shards.shard import LABELS, NONE, NULL, SPREAD, Removals, Shard, Vocabulary
from coldcache.shards.workers import Workers
from coldcache.sources.arrays import numbers

ROWS_IN_SHARD = 500_000  # some 90 bytes each, and as much again while it is followed
SILENCE_US = 2_000_000  # what is said to be silence: no access for so long
_COLUMNS = [
    "t", "seq", "epoch", "node", "db", "client", "command", "arg", "op", "lookups", "ttl_ms", "ttl_form", "condition",
    "value_bytes", "value_digest", "value_format", "outcome", "key_state",
]  # fmt: skip
_REMOVALS = ["t", "seq", "epoch", "db"]
# As narrow as what they hold allows, for all of them are written and read again.
_MOSTLY_CONSTANT = frozenset({"epoch", "db"})
_KINDS: dict[str, Any] = {"client": np.int32, "lookups": np.int8, "value_bytes": np.int32}

_Ints = npt.NDArray[np.int64]
_Hashes = npt.NDArray[np.uint64]
Spans = dict[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class EpochSpan:
    """What was recorded of one epoch: its node, the first and last place in the stream, the earliest and latest time, µs."""

    node: str
    first_seq: int
    last_seq: int
    start_us: int
    end_us: int

    def __or__(self, other: EpochSpan) -> EpochSpan:
        return EpochSpan(
            self.node, min(self.first_seq, other.first_seq), max(self.last_seq, other.last_seq),
            min(self.start_us, other.start_us), max(self.end_us, other.end_us),
        )  # fmt: skip


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
    _labels: tuple[dict[str, npt.NDArray[np.int32]], ...] = field(repr=False)  # of each part's own numbers, those of all
    _held: dict[int, Shard] = field(default_factory=dict, repr=False)

    def shard(self, number: int) -> Shard:
        """Return one of the shards."""
        if number not in self._held:
            shard = self._gathered(number)
            if self.scratch.folder is not None:
                return shard
            self._held[number] = shard
        return self._held[number]

    def _gathered(self, number: int) -> Shard:
        """Put a shard together from what each part has of it."""
        columns, bounds = self.scratch.gather([f"rows-{part}" for part in range(self.parts)], number)
        for label in LABELS:
            if any(_renumbers(own[label]) for own in self._labels):
                slices = [
                    own[label][columns[label][start:end]]
                    for own, (start, end) in zip(self._labels, pairwise(bounds), strict=True)
                ]
                columns[label] = np.concatenate(slices)
        shard = Shard(**columns, vocabulary=self.vocabulary, families=self.families)
        if not _disordered(shard):
            return shard
        order = np.lexsort((shard.seq, shard.epoch))
        columns = {name: values[order] for name, values in columns.items()}
        return Shard(**columns, vocabulary=self.vocabulary, families=self.families)

    def removals(self, number: int) -> Removals:
        """Return the keys of one shard that went away."""
        return Removals(**self.scratch.take("removals", number))


def _renumbers(own: npt.NDArray[np.int32]) -> bool:
    """Whether a part's numbers of a label are others than those of all parts."""
    return bool((own[:-1] != np.arange(len(own) - 1)).any())


def _disordered(shard: Shard) -> bool:
    """Whether the rows are not in the order of epochs and of the stream."""
    later = np.diff(shard.epoch)
    return bool(((later < 0) | ((later == 0) & (np.diff(shard.seq) < 0))).any())


def secret_of(case: Source) -> _Hashes:
    """Return the key of a case's hashes: the same each time, so that a diagnosis is, and not known while the log was made."""
    text = f"{case.meta.get('created')} {case.meta['span']} {case.meta['rows']}"
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), np.uint64)


class Source(Protocol):
    """Where accesses come from: a case, or a table in memory."""

    @property
    def folder(self) -> Path:
        """Where scratch files may lie."""

    @property
    def meta(self) -> dict[str, Any]:
        """What ``case.json`` holds."""

    def parts(self, name: str) -> dict[str, int]:
        """Return the parts of a table, each with its rows."""

    def part(self, part: str, columns: list[str]) -> pa.Table:
        """Return columns of one part."""

    def arrow(self, name: str, columns: list[str]) -> pa.Table:
        """Return columns of a table that is not partitioned."""


@dataclass(frozen=True, slots=True, eq=False)
class _InMemory:
    """A table of accesses in memory, and no key events."""

    accesses: pa.Table
    folder: Path = field(default_factory=Path)
    meta: dict[str, Any] = field(default_factory=lambda: {"span": "", "rows": ""})

    def parts(self, name: str) -> dict[str, int]:
        return {name: len(self.accesses)}

    def part(self, part: str, columns: list[str]) -> pa.Table:
        return self.accesses.select(columns)

    def arrow(self, name: str, columns: list[str]) -> pa.Table:
        return schema.table(name).arrow().empty_table().select(columns)


def cut_frame(accesses: pa.Table, workers: Workers) -> Shards:
    """Cut accesses that are in memory into shards in memory."""
    return cut(_InMemory(accesses), workers)


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
    in_files = workers.apart or (count > 1 and not isinstance(case, _InMemory))
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
    surveyed = workers.map("reading the keys", partial(_survey, case, scratch, secret), list(enumerate(parts)))
    families = _families(scratch, workers, surveyed, secret)
    tasks = [(number, part, int(places[number])) for number, part in enumerate(parts)]
    dealt = workers.map("sorting by key", partial(_deal, case, scratch, families, keep, count), tasks)
    scratch.drop(*(f"{name}-{number}" for name in ("looks", "templates", "texts") for number in range(len(parts))))
    workers.map("sorting by key", partial(_deal_removals, case, scratch, families, secret), [count])
    vocabulary, labels = _merged([part.labels for part in dealt])
    epochs: dict[int, EpochSpan] = {}
    for part in dealt:
        for epoch, span in part.epochs.items():
            epochs[epoch] = epochs[epoch] | span if epoch in epochs else span
    none = {"t_us": np.int64, "seq": np.int64, "epoch": np.int32, "db": np.int32, "everything": np.bool_}
    return Shards(
        scratch, count, families.names, vocabulary, dict(sorted(epochs.items())), sum(part.commands for part in dealt),
        sum(part.lookup_rows for part in dealt),
        joined([{name: np.empty(0, kind) for name, kind in none.items()}, *(part.flushes for part in dealt)]),
        _united([part.busy for part in dealt]), len(parts), labels,
    )  # fmt: skip


def _survey(case: Source, scratch: Scratch, secret: _Hashes, item: tuple[int, str]) -> _Hashes:
    """Look at the keys of a part; return the hashes of their templates, whose texts are put beside."""
    number, part = item
    keys = case.part(part, ["key"])["key"].combine_chunks()
    looks = looks_of(keys, secret)
    template = np.full(len(keys), NONE, np.int32)
    named = np.flatnonzero(_valid(keys))
    if len(named) < len(keys):
        looks_named = Looks(looks.key[named], looks.template[named], looks.ids[named])
        template[named], hashes, templates = templates_of(keys.drop_null(), looks_named)
    else:
        template[:], hashes, templates = templates_of(keys, looks)
    scratch.put(f"looks-{number}", {"key": looks.key, "ids": looks.ids, "template": template})
    scratch.put(f"templates-{number}", {"template": hashes})
    bounds, content = bytes_of(templates)
    scratch.put(f"texts-{number}", {"byte": content}, bounds)
    return hashes


def _families(scratch: Scratch, workers: Workers, surveyed: Sequence[_Hashes], secret: _Hashes) -> Families:
    """Return the families of all keys. Of templates that many parts have, one gives the text."""
    _, hashes, first = numbers_and_first(np.concatenate(surveyed))
    starts = np.cumsum([0, *map(len, surveyed)])
    by_part = np.split(first, np.searchsorted(first, starts[1:-1]))  # they are in order
    wanted = [(part, places - start) for part, (places, start) in enumerate(zip(by_part, starts, strict=False)) if len(places)]
    texts = workers.map("reading the keys", partial(_texts, scratch), wanted)
    return Families.of_templates(hashes, pa.concat_arrays([pa.array([], pa.large_string()), *texts]), secret)


def _texts(scratch: Scratch, item: tuple[int, _Ints]) -> pa.Array:
    """Return the texts of some templates of a part."""
    part, places = item
    columns, bounds = scratch.whole(f"texts-{part}")
    return texts_of(bounds, columns["byte"]).take(pa.array(places))


@dataclass(frozen=True, slots=True)
class _Dealt:
    """What dealing out a part told."""

    labels: dict[str, list[str]]
    epochs: dict[int, EpochSpan]
    commands: int
    lookup_rows: int
    flushes: Columns
    busy: _Ints


def _deal(
    case: Source, scratch: Scratch, families: Families, keep: Mapping[int, tuple[int, int]], count: int,
    item: tuple[int, str, int],
) -> _Dealt:  # fmt: skip
    """Deal the rows of a part out to the shards."""
    number, part, first_place = item
    looks, templates = scratch.take(f"looks-{number}"), scratch.take(f"templates-{number}")["template"]
    table = case.part(part, _COLUMNS)
    columns, labels = rows_of(table)
    columns["place"] = np.arange(first_place, first_place + len(table), dtype=np.uint32)
    code, further = families.of(templates)
    keyed = looks["template"] >= 0
    columns["key"] = looks["key"]
    columns["ids"] = looks["ids"] ^ (np.append(further, np.uint64(0))[looks["template"]] * SPREAD)
    columns["family"] = np.append(code, np.int32(NONE))[looks["template"]]
    commands = int(((columns["arg"] <= 0) & (columns["command"] >= 0)).sum())

    kept = np.ones(len(table), bool)
    for epoch, (first, last) in keep.items():
        kept &= (columns["epoch"] != epoch) | ((columns["seq"] >= first) & (columns["seq"] <= last))
    names = labels["command"]
    sweeps = np.array([*(name in SWEEPING for name in names), False])[columns["command"]]
    flushes = np.flatnonzero(np.array([*(name in FLUSHES for name in names), False])[columns["command"]])
    everything = np.array([*(name == "FLUSHALL" for name in names), False])[columns["command"][flushes]]
    rows, bounds = _dealt_rows(shard_of(columns["key"], columns["ids"], count), kept & keyed & ~sweeps, kept & sweeps, count)
    dealt = {name: constant(values[0], len(rows)) if is_constant(values) else values[rows] for name, values in columns.items()}
    scratch.put(f"rows-{number}", dealt, bounds)
    is_write = np.array([*(name == "write" for name in labels["op"]), False])[columns["op"]]
    used = kept & keyed & ((columns["lookups"] > 0) | is_write)
    return _Dealt(
        labels,
        _spans(columns, labels["node"], kept),
        commands,
        int((kept & keyed & (columns["lookups"] > 0)).sum()),
        {name: columns[name][flushes] for name in ("t_us", "seq", "epoch", "db")} | {"everything": everything},
        _busy(columns["t_us"][used]),
    )


def _dealt_rows(
    shard: npt.NDArray[np.int16], keyed: npt.NDArray[np.bool_], sweeps: npt.NDArray[np.bool_], count: int
) -> tuple[_Ints, _Ints]:  # fmt: skip
    """Return the rows of every shard, one shard after the other, each in the order of the stream, and the bounds of each."""
    places = np.flatnonzero(keyed)
    if count == 1:
        places = np.flatnonzero(keyed | sweeps)
        return places, np.array([0, len(places)])
    order = places[np.argsort(shard[places], kind="stable")]
    bounds = np.cumsum([0, *np.bincount(shard[places], minlength=count)])
    everywhere = np.flatnonzero(sweeps)
    if not len(everywhere):
        return order, bounds
    pieces = [np.sort(np.concatenate([order[start:end], everywhere])) for start, end in pairwise(bounds)]
    return np.concatenate(pieces), bounds + len(everywhere) * np.arange(count + 1)


def shard_of(key: _Hashes, ids: _Hashes, count: int) -> npt.NDArray[np.int16]:
    """Return in which of so many shards each key is."""
    hashed = np.where(ids != 0, ids, key) * SPREAD
    # As good as a remainder, and faster.
    return (((hashed >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)).astype(np.int16)


def rows_of(table: pa.Table) -> tuple[dict[str, npt.NDArray[Any]], dict[str, list[str]]]:
    """Return columns of accesses as arrays of a `Shard`, and the texts that the numbers of its labels stand for, sorted."""
    labels: dict[str, list[str]] = {}
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in table.column_names:
        whole = table[name]
        if name in LABELS:
            columns[name], labels[name] = _numbered(whole, _KINDS.get(name, np.int16))
        elif name == "value_digest":
            columns[name] = _digests(whole.combine_chunks())
        else:
            values = _filled(whole.combine_chunks(), NULL if name == "ttl_ms" else NONE)
            values = values.astype(_KINDS.get(name, values.dtype), copy=False)
            if name in _MOSTLY_CONSTANT and len(values) and values.min() == values.max():
                values = constant(values[0], len(values))
            columns["t_us" if name == "t" else name] = values
    return columns, labels


def _filled(whole: pa.Array, null: int) -> npt.NDArray[Any]:
    """Return a column of numbers or times with `null` where it is null."""
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.combine_chunks()
    if not len(whole):
        return np.empty(0, np.int64 if pa.types.is_timestamp(whole.type) else whole.type.to_pandas_dtype())
    values = numbers(whole)
    return np.where(_valid(whole), values, values.dtype.type(null)) if whole.null_count else values


def _valid(whole: pa.Array) -> npt.NDArray[np.bool_]:
    return whole.is_valid().to_numpy(zero_copy_only=False)


def _numbered(whole: pa.ChunkedArray, kind: type[np.signedinteger[Any]]) -> tuple[npt.NDArray[Any], list[str]]:
    """Return a column of labels as numbers, -1 where it is null, and the labels, sorted."""
    if not pa.types.is_dictionary(whole.type):
        whole = whole.dictionary_encode()
    whole = whole.unify_dictionaries().combine_chunks()
    whole = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    names = whole.dictionary.to_pylist()
    if len(whole) and (whole.null_count == len(whole) or (len(names) == 1 and not whole.null_count)):
        return constant(kind(NONE if whole.null_count else 0), len(whole)), names[: 0 if whole.null_count else 1]
    order = sorted(range(len(names)), key=names.__getitem__)
    place = np.full(len(names) + 1, NONE, kind)
    place[order] = np.arange(len(names))
    return place[_filled(whole.indices, NONE)], [names[number] for number in order]


def _digests(whole: pa.Array) -> _Hashes:
    """Return digests of 16 hex digits as numbers, 0 where they are null."""
    digests = np.zeros(len(whole), np.uint64)
    if whole.null_count == len(whole):
        return digests
    valid = _valid(whole)
    texts = whole.drop_null()
    _, offsets, content = texts.buffers()
    kind = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    bounds = np.frombuffer(offsets, kind)[texts.offset : texts.offset + len(texts) + 1]
    if (np.diff(bounds) == 16).all():
        digits = np.frombuffer(content, np.uint8)[bounds[0] : bounds[-1]].reshape(-1, 16)
        halves = (digits & 15) + 9 * (digits >> 6)
        found = np.ascontiguousarray((halves[:, ::2] << 4) | halves[:, 1::2]).view(">u8").ravel().astype(np.uint64)
    else:  # of another coldcache: equal ones are still equal
        found = np.array(
            [int.from_bytes(hashlib.blake2b(text.as_buffer(), digest_size=8).digest(), "big") for text in texts], np.uint64
        )
    digests[valid] = found
    return digests


def _spans(columns: Columns, nodes: Sequence[str], kept: npt.NDArray[np.bool_]) -> dict[int, EpochSpan]:
    """Return what a part holds of each epoch."""
    spans = {}
    epochs = columns["epoch"][kept]
    one = len(epochs) > 0 and epochs.min() == epochs.max()
    for epoch in epochs[:1] if one else np.unique(epochs):
        mine = kept & (columns["epoch"] == epoch)
        seq, t_us = columns["seq"][mine], columns["t_us"][mine]
        node = nodes[columns["node"][mine][0]] if columns["node"][mine][0] >= 0 else ""
        spans[int(epoch)] = EpochSpan(node, int(seq.min()), int(seq.max()), int(t_us.min()), int(t_us.max()))
    return spans


def _busy(t_us: _Ints) -> _Ints:
    """Return start and end of every stretch without a silence."""
    if not len(t_us):
        return np.empty((0, 2), np.int64)
    t_us = np.sort(t_us)
    ends = np.flatnonzero(np.diff(t_us) > SILENCE_US)
    return np.column_stack([t_us[np.r_[0, ends + 1]], t_us[np.r_[ends, len(t_us) - 1]]])


def _united(parts: Sequence[_Ints]) -> _Ints:
    """Return the busy stretches of all parts, those joined that no silence parts."""
    stretches = np.concatenate([np.empty((0, 2), np.int64), *parts])
    if not len(stretches):
        return stretches
    stretches = stretches[np.argsort(stretches[:, 0], kind="stable")]
    until = np.maximum.accumulate(stretches[:, 1])
    first = np.flatnonzero(np.r_[True, stretches[1:, 0] - until[:-1] > SILENCE_US])
    return np.column_stack([stretches[first, 0], until[np.r_[first[1:] - 1, len(until) - 1]]])


def _merged(parts: Sequence[dict[str, list[str]]]) -> tuple[Vocabulary, tuple[dict[str, npt.NDArray[np.int32]], ...]]:
    """Return one vocabulary for all parts, and for each what its own numbers become; the last, -1, stays."""
    names = {label: sorted({name for part in parts for name in part[label]}) for label in LABELS}
    of_all = {label: {name: number for number, name in enumerate(found)} for label, found in names.items()}
    translated = tuple(
        {label: np.array([*(of_all[label][name] for name in part[label]), NONE], _KINDS.get(label, np.int16)) for label in LABELS}
        for part in parts
    )
    return Vocabulary(**{label: tuple(found) for label, found in names.items()}), translated


def _deal_removals(case: Source, scratch: Scratch, families: Families, secret: _Hashes, count: int) -> None:
    """Deal the key events out to the shards that hold their keys; of names that no access has, none is kept."""
    keys, columns = _removed(case)
    looks = looks_of(keys, secret)
    known = np.isin(looks.template, families.template)
    code, further = families.of(looks.template[known])
    columns = {name: values[known] for name, values in columns.items()}
    columns |= {"family": code, "key": looks.key[known], "ids": looks.ids[known] ^ (further * SPREAD)}
    every = np.ones(int(known.sum()), np.bool_)
    rows, bounds = _dealt_rows(shard_of(columns["key"], columns["ids"], count), every, ~every, count)
    scratch.put("removals", {name: values[rows] for name, values in columns.items()}, bounds)


def _removed(case: Source) -> tuple[pa.Array, dict[str, npt.NDArray[Any]]]:
    """Return the keys of a case's key events, and the other columns of `Removals`."""
    table = case.arrow("key_events", [*_REMOVALS, "key"])
    columns = {"t_us" if name == "t" else name: _filled(table[name].combine_chunks(), NONE) for name in _REMOVALS}
    keys = table["key"].combine_chunks()
    return (keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys), columns
