"""Files that our own writer makes, read by Arrow: each value and each null as it was."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from coldcache import schema
from coldcache.importing.parquet import BLOCK, PartWriter
from hypothesis import given
from hypothesis import strategies as st

LABEL = pa.dictionary(pa.int32(), pa.string())
WRITER = PartWriter(frozenset({"text"}))
KINDS = {
    "t": (schema.TIME, st.integers(0, 2 * 10**17)),
    "wide": (pa.int64(), st.integers(-(2**61), 2**61)),
    "near": (pa.int64(), st.integers(0, 3)),
    "narrow": (pa.int32(), st.integers(0, 2**31 - 1)),
    "text": (pa.string(), st.text(max_size=20)),
    "plain": (pa.string(), st.text("ab", max_size=3)),
    "label": (LABEL, st.sampled_from(["read", "write", "é", "", *map(str, range(40))])),
    "flag": (pa.bool_(), st.booleans()),
}


def written(table: pa.Table, writer: PartWriter = WRITER) -> pa.Table:
    file = io.BytesIO()
    writer.write(table, file)
    return pq.read_table(io.BytesIO(file.getvalue()))


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(1, 70))
    columns = {}
    for name, (kind, values) in KINDS.items():
        some = draw(st.sampled_from([values, values | st.none(), st.none()]))
        held = draw(st.lists(some, min_size=rows, max_size=rows))
        columns[name] = pa.array(held, pa.int64()).cast(kind) if name == "t" else pa.array(held, kind)
    return pa.table(columns)


@given(tables())
def test_what_is_written_is_read(table: pa.Table):
    found = written(table)
    assert found.schema == table.schema
    assert found.to_pydict() == table.to_pydict()


@pytest.mark.parametrize("rows", [1, 2, 255, 256, 257, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 2, 3 * BLOCK + 300])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0], ids=["no nulls", "some", "only nulls"])
def test_blocks_of_differences_end_anywhere(rows: int, share: float):
    chance = np.random.default_rng(rows)
    missing = chance.random(rows) < share
    stamps = np.cumsum(chance.integers(0, 400, rows)) + 1_763_800_000_000_000
    table = pa.table(
        {
            "t": pa.array(stamps, mask=missing),
            "any": pa.array(chance.integers(-(2**62), 2**62, rows), mask=missing),
            "arg": pa.array(chance.integers(0, 3, rows).astype(np.int32), mask=missing),
            "label": pa.array([f"a{at % 300}" for at in range(rows)], mask=missing).dictionary_encode().cast(LABEL),
            "same": pa.array(np.full(rows, 7), mask=missing),
        }
    )
    assert written(table).to_pydict() == table.to_pydict()


def test_one_writer_writes_large_and_small_tables_in_turn():
    writer = PartWriter()
    for rows in (10, 5000, 3):
        table = pa.table({"n": pa.array(np.arange(rows) ** 3), "s": pa.array([str(at) for at in range(rows)])})
        assert written(table, writer).to_pydict() == table.to_pydict()


def test_readers_find_types_and_sizes_in_the_footer():
    file = io.BytesIO()
    PartWriter(frozenset({"key"})).write(pa.table({"key": ["img:1"] * 1000, "t": pa.array(range(1000)).cast(schema.TIME)}), file)
    said = pq.read_metadata(io.BytesIO(file.getvalue()))
    assert (said.num_rows, said.num_columns, said.num_row_groups) == (1000, 2, 1)
    assert said.created_by.startswith("coldcache")
    key = said.row_group(0).column(0)
    assert key.compression == "LZ4"
    assert key.total_compressed_size < key.total_uncompressed_size / 20
    assert [str(said.schema.column(at).logical_type).split("(")[0] for at in range(2)] == ["String", "Timestamp"]
