"""Rows dealt out and columns packed by compiled code: what numpy makes of them, whatever Arrow's memory looks like."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from coldcache.shards.columns import EVERYWHERE, IN_ITS_SHARD, NOWHERE, Column, Rows, dealing_of, digests_of, hashes_dealt, sift
from coldcache.shards.scratch import Packed
from coldcache.shards.shard import NONE, NULL, SPREAD
from hypothesis import given
from hypothesis import strategies as st

HASHES = st.integers(0, 2**64 - 1)
FATES = st.sampled_from([NOWHERE, IN_ITS_SHARD, IN_ITS_SHARD, EVERYWHERE])
# Numbers that take a byte, four and eight, far from 0, too.
NUMBERS = st.one_of(
    st.integers(-3, 9), st.integers(10**15, 10**15 + 300), st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63) + 1, 2**63 - 1)
)


def plain(column: np.ndarray | Packed) -> np.ndarray:
    return column.unpacked() if isinstance(column, Packed) else column


def rows_of_shards(key: np.ndarray, ids: np.ndarray, fate: np.ndarray, count: int) -> list[list[int]]:
    hashed = np.where(ids != 0, ids, key) * SPREAD
    shard = ((hashed >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)
    return [np.flatnonzero((fate == EVERYWHERE) | ((fate == IN_ITS_SHARD) & (shard == one))).tolist() for one in range(count)]


@given(st.lists(st.tuples(HASHES, HASHES | st.just(0), FATES), max_size=40), st.integers(1, 9))
def test_every_row_goes_where_its_hash_says_and_stays_in_order(rows: list[tuple[int, int, int]], count: int):
    key, ids = (np.array([row[at] for row in rows], np.uint64) for at in range(2))
    fate = np.array([row[2] for row in rows], np.uint8)
    dealing = dealing_of(key, ids, fate, count)
    expected = rows_of_shards(key, ids, fate, count)
    assert dealing.bounds.tolist() == np.cumsum([0, *map(len, expected)]).tolist()
    assert (np.diff(dealing.row) >= 0).all()
    found = np.empty(len(dealing.row), np.int64)
    found[dealing.place] = dealing.row
    assert found.tolist() == [row for rows in expected for row in rows]
    assert hashes_dealt(key, dealing).tolist() == key[found].tolist()


@given(st.data(), st.sampled_from([NONE, NULL]), st.integers(0, 9), st.booleans(), st.booleans())
def test_a_column_is_what_it_was_in_another_order(data: st.DataObject, null: int, skipped: int, nulls: bool, narrow: bool):
    low = data.draw(NUMBERS)
    numbers = st.integers(low, min(low + data.draw(st.sampled_from([0, 200, 255, 70_000, 2**32, 2**62])), 2**63 - 1))
    numbers, null = (st.integers(-(2**31), 2**31 - 1), NONE) if narrow else (numbers, null)
    values = data.draw(st.lists(numbers | st.none() if nulls else numbers, min_size=skipped, max_size=60))
    column = Column.of(pa.array(values, pa.int32() if narrow else pa.int64())[skipped:], np.int64, null)
    expected = [null if value is None else value for value in values[skipped:]]
    assert column.filled().tolist() == expected
    fate = np.array(data.draw(st.lists(FATES, min_size=len(expected), max_size=len(expected))), np.uint8)
    key = np.arange(len(expected), dtype=np.uint64) * SPREAD
    dealing = dealing_of(key, key, fate, 3)
    dealt = column.dealt(dealing)
    assert plain(dealt).dtype == np.int64
    assert plain(dealt).tolist() == [expected[row] for rows in rows_of_shards(key, key, fate, 3) for row in rows]
    # A piece of it is a piece of them.
    assert plain(dealt[1:3]).tolist() == plain(dealt)[1:3].tolist()


@given(st.lists(st.integers(0, 4) | st.none(), max_size=40), st.integers(1, 400))
def test_labels_stand_for_others_and_none_for_none(labels: list[int | None], far: int):
    table = np.array([3, 0, far, 1, 2], np.int32)
    column = Column.of(pa.array(labels, pa.int32()), np.int16, NONE, table)
    fate = np.full(len(labels), IN_ITS_SHARD, np.uint8)
    hashes = np.arange(len(labels), dtype=np.uint64)
    found = plain(column.dealt(dealing_of(hashes, hashes, fate, 1)))
    assert found.dtype == np.int16
    assert found.tolist() == [NONE if label is None else table[label] for label in labels]
    # A number below 0 is none, too.
    assert plain(
        Column(column.filled(), np.int16, NONE, table=table).dealt(dealing_of(hashes, hashes, fate, 1))
    ).tolist() == found.tolist()  # fmt: skip


def test_small_numbers_take_a_byte_and_one_number_none():
    hashes = np.arange(4, dtype=np.uint64)
    dealing = dealing_of(hashes, hashes, np.full(4, IN_ITS_SHARD, np.uint8), 1)
    times = Column.of(pa.array([10**15, 10**15 + 254, None, 10**15 + 3]), np.int64, NULL).dealt(dealing)
    assert times.values.dtype == np.uint8
    assert times.unpacked().tolist() == [10**15, 10**15 + 254, NULL, 10**15 + 3]
    assert Column.of(pa.array([7, 7, 7, 7]), np.int32, NONE).dealt(dealing).strides == (0,)
    assert Column.of(pa.array([None] * 4, pa.int64()), np.int32, NONE).dealt(dealing).tolist() == [NONE] * 4


DIGEST = st.text("0123456789abcdef", min_size=16, max_size=16)


@given(st.lists(DIGEST | st.none() | st.text("0123456789ABCDEF", min_size=16, max_size=16), max_size=20), st.integers(0, 3))
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_digests_are_the_numbers_they_write(kind: pa.DataType, digests: list[str | None], skipped: int):
    expected = [0 if digest is None else int(digest, 16) for digest in digests[skipped:]]
    assert digests_of(pa.array(digests, kind)[skipped:]).tolist() == expected


@given(st.lists(st.text(max_size=20) | DIGEST | st.none(), max_size=20))
def test_digests_of_another_length_stay_equal_where_they_are(digests: list[str | None]):
    expected = [0 if text is None else int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) for text in digests]
    if any(digest is not None and len(digest.encode()) != 16 for digest in digests):
        assert digests_of(pa.array(digests, pa.string())).tolist() == expected


ROW = st.tuples(
    st.integers(-1, 2), HASHES, st.integers(-1, 2), st.integers(-1, 1), st.integers(0, 2), st.integers(-1, 2), st.booleans()
)


@given(st.lists(ROW, max_size=30), st.booleans())
def test_rows_are_sifted_as_numpy_would(rows: list[tuple[int, ...]], all_kept: bool):
    template, ids, command, op, lookups, arg, kept = (
        np.array([row[at] for row in rows], kind)
        for at, kind in enumerate((np.int32, np.uint64, np.int32, np.int32, np.int32, np.int32, np.bool_))
    )
    further, sweeps, writes = np.array([5, 0, 9], np.uint64), np.array([False, True, False]), np.array([False, True])
    t_us = np.arange(len(rows)) * 10
    kept |= all_kept
    found = sift(Rows(template, ids, further, command, sweeps, op, writes, lookups, arg, t_us, kept[: 0 if all_kept else None]))
    keyed, sweeping = template >= 0, np.append(sweeps, False)[command]
    fate = np.where(kept & sweeping, EVERYWHERE, np.where(kept & keyed, IN_ITS_SHARD, NOWHERE))
    assert found.fate.tolist() == fate.tolist()
    assert found.ids.tolist() == (ids ^ np.append(further, np.uint64(0))[template] * SPREAD).tolist()
    used = kept & keyed & ((lookups > 0) | np.append(writes, False)[op])
    assert found.used_us.tolist() == t_us[used].tolist()
    assert found.counts.tolist() == [((arg <= 0) & (command >= 0)).sum(), (kept & keyed & (lookups > 0)).sum()]


def test_columns_of_different_lengths_are_refused():
    none = [
        np.empty(0, kind) for kind in (np.uint64, np.uint64, np.int32, bool, np.int32, bool, np.int32, np.int32, np.int64, bool)
    ]
    with pytest.raises(ValueError, match="different lengths"):
        sift(Rows(np.zeros(1, np.int32), *none))
