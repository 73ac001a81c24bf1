"""Where accesses come from: a case, or a table in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from coldcache import schema


class Source(Protocol):
    """What is asked of a case."""

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
class InMemory:
    """A table of accesses in memory, and no key events."""

    accesses: pa.Table
    folder: Path = field(default_factory=Path)
    meta: dict[str, Any] = field(default_factory=lambda: {"span": "", "rows": ""})

    def parts(self, name: str) -> dict[str, int]:
        """Return the table as one part."""
        return {name: len(self.accesses)}

    def part(self, part: str, columns: list[str]) -> pa.Table:
        """Return columns of the table."""
        return self.accesses.select(columns)

    def arrow(self, name: str, columns: list[str]) -> pa.Table:
        """Return columns without a row."""
        return schema.table(name).arrow().empty_table().select(columns)


def whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column in one piece; one that is in one piece is not copied."""
    if column.num_chunks == 1:
        return column.chunk(0)
    column = column.combine_chunks()
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
