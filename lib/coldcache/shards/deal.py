"""The second pass: the rows of every part dealt out to the shards, and the key events to those that hold their keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coldcache.commands import FLUSHES, SWEEPING
from coldcache.keys.families import Families, looks_of
from coldcache.shards.columns import IN_ITS_SHARD, NOWHERE, Column, Rows, dealing_of, digests_of, hashes_dealt, sift
from coldcache.shards.scratch import Packed, Scratch
from coldcache.shards.shard import LABELS, NONE, NULL, SPREAD
from coldcache.shards.source import Source, whole
from coldcache.shards.survey import FamiliesOfPart, looks_in

SILENCE_US = 2_000_000  # what is said to be silence: no access for so long
REMOVALS = "removals"  # under which name the key events lie in the scratch
_COLUMNS = [
    "t", "seq", "epoch", "node", "db", "client", "command", "arg", "op", "lookups", "ttl_ms", "ttl_form", "condition",
    "value_bytes", "value_digest", "value_format", "outcome", "key_state",
]  # fmt: skip
#: Of what the columns of a `Shard` are, but for hashes.
KINDS: dict[str, Any] = dict.fromkeys(LABELS, np.int16) | {
    "t": np.int64, "seq": np.int64, "epoch": np.int32, "db": np.int32, "client": np.int32, "arg": np.int32, "lookups": np.int8,
    "ttl_ms": np.int64, "value_bytes": np.int32,
}  # fmt: skip

_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]
_Hashes = npt.NDArray[np.uint64]


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


@dataclass(frozen=True, slots=True)
class Dealt:
    """What dealing out a part told; see `Shards`.

    `labels` are the texts that the numbers of each label stand for in this part, sorted.
    """

    labels: dict[str, list[str]]
    epochs: dict[int, EpochSpan]
    commands: int
    lookup_rows: int
    flushes: dict[str, npt.NDArray[Any]]
    busy: _Ints


def rows_in(part: int) -> str:
    """Return under which name the rows of a part lie in the scratch, a piece a shard."""
    return f"rows-{part}"


def deal(
    case: Source, scratch: Scratch, keep: Mapping[int, tuple[int, int]], count: int, item: tuple[int, str, int, FamiliesOfPart]
) -> Dealt:  # fmt: skip
    """Deal the rows of a part out to the shards.

    `item` : the part's number, its name, the place of its first row in the case, and the families of its templates.
    """
    number, part, first_place, families = item
    looks = scratch.take(looks_in(number))
    table = case.part(part, _COLUMNS)
    labelled = {label: _labelled(table[label], KINDS[label]) for label in LABELS}
    columns = {label: column for label, (column, _) in labelled.items()}
    labels = {label: names for label, (_, names) in labelled.items()}
    for name in (name for name in KINDS if name not in LABELS):
        columns[name] = Column.of(whole(table[name]), KINDS[name], NULL if name == "ttl_ms" else NONE)
    columns["place"] = Column(np.arange(first_place, first_place + len(table)), np.uint32, 0)
    columns["family"] = Column(looks["template"], np.int32, NONE, table=families.code)
    filled = {name: columns[name].filled() for name in ("t", "seq", "epoch", "node", "db", "command", "op", "lookups", "arg")}

    def told(label: str, tells: Callable[[str], bool]) -> _Bools:
        """Return what is told of each label by the number that Arrow gives it."""
        numbers = columns[label].table
        return np.array([tells(labels[label][number]) for number in ([] if numbers is None else numbers)], np.bool_)

    kept = _kept(filled["epoch"], filled["seq"], keep)
    rows = Rows(
        looks["template"], looks["ids"], families.further, filled["command"], told("command", SWEEPING.__contains__),
        filled["op"], told("op", "write".__eq__), filled["lookups"], filled["arg"], filled["t"], kept,
    )  # fmt: skip
    sifted = sift(rows)
    dealing = dealing_of(looks["key"], sifted.ids, sifted.fate, count)
    dealt: dict[str, npt.NDArray[Any] | Packed] = {
        "t_us" if name == "t" else name: column.dealt(dealing) for name, column in columns.items()
    }
    hashes = {"key": looks["key"], "ids": sifted.ids, "value_digest": digests_of(whole(table["value_digest"]))}
    dealt |= {name: hashes_dealt(values, dealing) for name, values in hashes.items()}
    scratch.put(rows_in(number), dealt, dealing.bounds)

    flushes = _where(filled["command"], told("command", FLUSHES.__contains__))
    everything = told("command", "FLUSHALL".__eq__)[filled["command"][flushes]]
    return Dealt(
        labels,
        _spans(filled, columns["node"], labels["node"], kept),
        int(sifted.counts[0]),
        int(sifted.counts[1]),
        {"t_us" if name == "t" else name: filled[name][flushes] for name in ("t", "seq", "epoch", "db")}
        | {"everything": everything},
        _busy(sifted.used_us),
    )


def _labelled(column: pa.ChunkedArray, kind: npt.DTypeLike) -> tuple[Column, list[str]]:
    """Return a column of labels as numbers, and what these stand for, sorted."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    labels = whole(column.unify_dictionaries())
    names = [] if labels.null_count == len(labels) else labels.dictionary.to_pylist()
    number = np.empty(len(names), np.int32)
    number[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
    return Column.of(labels.indices.cast(pa.int32()), kind, NONE, number), sorted(names)


def _kept(epoch: npt.NDArray[np.int32], seq: _Ints, keep: Mapping[int, tuple[int, int]]) -> _Bools:
    """Return which rows are not left out; nothing if all are kept."""
    kept = np.ones(len(seq), np.bool_)
    for number, (first, last) in keep.items():
        kept &= (epoch != number) | ((seq >= first) & (seq <= last))
    return kept[:0] if kept.all() else kept


def _where(numbers: npt.NDArray[np.int32], wanted: _Bools) -> _Ints:
    """Return the rows whose number is wanted."""
    return np.flatnonzero(np.append(wanted, False)[numbers]) if wanted.any() else np.empty(0, np.int64)


def _spans(
    filled: Mapping[str, npt.NDArray[Any]], node: Column, nodes: Sequence[str], kept: _Bools
) -> dict[int, EpochSpan]:  # fmt: skip
    """Return what a part holds of each epoch, of the rows that are kept."""
    number, seq, t_us, epoch = (
        values[kept] if len(kept) else values for values in (filled[name] for name in ("node", "seq", "t", "epoch"))
    )
    if not len(epoch):
        return {}
    one = epoch.min() == epoch.max()
    spans = {}
    for this in epoch[:1] if one else np.unique(epoch):
        mine = slice(None) if one else epoch == this
        first = int(number[mine][0])
        name = nodes[node.table[first]] if node.table is not None and first >= 0 else ""
        spans[int(this)] = EpochSpan(
            name, int(seq[mine].min()), int(seq[mine].max()), int(t_us[mine].min()), int(t_us[mine].max())
        )  # fmt: skip
    return spans


def _busy(t_us: _Ints) -> _Ints:
    """Return start and end of every stretch without a silence."""
    if not len(t_us):
        return np.empty((0, 2), np.int64)
    pauses = np.diff(t_us)
    if pauses.min(initial=0) < 0:
        t_us = np.sort(t_us)
        pauses = np.diff(t_us)
    ends = np.flatnonzero(pauses > SILENCE_US)
    return np.column_stack([t_us[np.r_[0, ends + 1]], t_us[np.r_[ends, len(t_us) - 1]]])


def deal_removals(case: Source, scratch: Scratch, families: Families, secret: _Hashes, count: int) -> None:
    """Deal the key events out to the shards that hold their keys; of names that no access has, none is kept."""
    table = case.arrow("key_events", ["t", "seq", "epoch", "db", "key"])
    looks = looks_of(whole(table["key"]), secret)
    code, further = families.of(looks.template)
    fate = np.where(code >= 0, np.uint8(IN_ITS_SHARD), np.uint8(NOWHERE))
    columns = {
        "t_us" if name == "t" else name: Column.of(whole(table[name]), KINDS[name], NONE) for name in table.column_names[:-1]
    }
    hashes = {"key": looks.key, "ids": looks.ids ^ (further * SPREAD)}
    dealing = dealing_of(hashes["key"], hashes["ids"], fate, count)
    columns["family"] = Column(code, np.int32, NONE)
    dealt = {name: column.dealt(dealing) for name, column in columns.items()}
    dealt |= {name: hashes_dealt(values, dealing) for name, values in hashes.items()}
    scratch.put(REMOVALS, dealt, dealing.bounds)
