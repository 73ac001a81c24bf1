"""Where shards lie between two passes: in memory where a case is small, else in files beside the case."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coldcache.sources.arrays import column

Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Scratch:
    """Pieces of numbered columns, each under a name.

    Attributes
    ----------
    folder : Path or None
        Where the files are; None if all is in memory, which only this process sees.
    """

    folder: Path | None
    _held: dict[str, list[Columns]] = field(default_factory=dict, repr=False)

    @classmethod
    def in_memory(cls) -> Scratch:
        """Return a scratch for one process."""
        return cls(None)

    @classmethod
    def beside(cls, case: Path) -> Scratch:
        """Return a new scratch in files: in the case's folder, or, if that cannot be written, where temporary files are.

        It holds numbers and hashes only, no key and no value, and only its owner can read it.
        """
        folder = case / f".scratch-{uuid.uuid4().hex[:12]}"
        try:
            folder.mkdir(mode=0o700)
        except OSError:
            folder = Path(tempfile.mkdtemp(prefix="coldcache-"))
        return cls(folder)

    def put(self, name: str, pieces: Sequence[Columns]) -> None:
        """Keep pieces under a name, all with the same columns, in one step."""
        if self.folder is None:
            self._held[name] = list(pieces)
            return
        batches = [pa.RecordBatch.from_arrays([column(values) for values in piece.values()], list(piece)) for piece in pieces]
        path = self.folder / f"{name}.arrow"
        unfinished = path.with_name(f"{name}.{uuid.uuid4().hex[:8]}.part")
        with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_file(file, batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        os.replace(unfinished, path)

    def take(self, name: str, piece: int = 0) -> dict[str, npt.NDArray[Any]]:
        """Return a piece of those under a name."""
        if self.folder is None:
            return dict(self._held[name][piece])
        with pa.OSFile(str(self.folder / f"{name}.arrow")) as file, pa.ipc.open_file(file) as reader:
            batch = reader.get_batch(piece)
        return {
            name: values.to_numpy(zero_copy_only=False) for name, values in zip(batch.schema.names, batch.columns, strict=True)
        }

    def drop(self, *names: str) -> None:
        """Forget what is under these names."""
        for name in names:
            if self.folder is None:
                self._held.pop(name, None)
            else:
                (self.folder / f"{name}.arrow").unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget everything."""
        self._held.clear()
        if self.folder is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(self.folder)


def joined(pieces: Sequence[Columns]) -> dict[str, npt.NDArray[Any]]:
    """Return pieces with the same columns as one."""
    if len(pieces) == 1:
        return dict(pieces[0])
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
