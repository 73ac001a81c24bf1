"""JSON lines as the recorder and the instrumented application write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from coldcache import schema


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file, none without the file.

    A line that is no JSON object is left out: a kill or a full disk cuts off the last one, and
    where a recording was resumed that line stands in the middle.
    """
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def stamped_table(rows: Sequence[tuple[object, ...]], table: schema.Table) -> pd.DataFrame:
    """Return rows, whose first field is µs since the epoch, as a frame of that table's types, oldest first."""
    columns = zip(*rows, strict=True) if rows else ((),) * len(table.columns)
    arrays = [pa.array(list(values), column.type) for values, column in zip(columns, table.columns, strict=True)]
    frame = pa.table(arrays, schema=table.arrow()).to_pandas()
    return frame.sort_values("t", kind="stable", ignore_index=True)


def whole(value: object, *, bits: int = 64) -> bool:
    """Whether a field is a whole number that a signed column of that many bits holds."""
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << (bits - 1)) <= value < 1 << (bits - 1)
