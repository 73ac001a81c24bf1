"""Where shards lie between two passes: in memory where a case is small, else in files beside the case."""

from __future__ import annotations

import contextlib
import fcntl
import json
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

from coldcache.case import HERE
from coldcache.errors import SchedulerError

Columns = Mapping[str, npt.NDArray[Any]]
_Ints = npt.NDArray[np.int64]
_PREFIX, _OWNER = ".scratch-", "owner"
_LENGTH = 8  # bytes at a file's end: how long the index before them is


@dataclass(frozen=True, slots=True, eq=False)
class Scratch:
    """Columns of numbers under names, cut into pieces.

    A file is its columns, one after the other, each as numpy holds it, and an index. A piece is read without the others
    (Arrow's files take a third longer, for a piece of theirs is copied once more where many are put together).

    Attributes
    ----------
    folder : Path or None
        Where the files are; None if all is in memory, which only this process sees.
    """

    folder: Path | None
    _held: dict[str, tuple[Columns, _Ints]] = field(default_factory=dict, repr=False)
    _owner: int = field(default=-1, repr=False)  # descriptor of a file whose lock ends with this process

    @classmethod
    def in_memory(cls) -> Scratch:
        """Return a scratch for one process."""
        return cls(None)

    @classmethod
    def beside(cls, case: Path, *, shared: bool = False) -> Scratch:
        """Return a new scratch in files: in the case's folder, or, if that cannot be written, where temporary files are.

        It holds numbers and hashes only, no key and no value, and only its owner can read it.

        Parameters
        ----------
        case : Path
            The case's folder, here or elsewhere.
        shared : bool
            Processes on other machines read and write it, too.

        Raises
        ------
        SchedulerError
            It is shared, and the case's folder cannot be written.
        """
        folder = case / f"{_PREFIX}{uuid.uuid4().hex[:12]}"
        try:
            folder.mkdir(mode=0o700)
            if isinstance(folder, HERE):
                _remove_abandoned(case)
                return cls(folder, _owner=_owned(folder))
        except (OSError, NotImplementedError):
            if shared:
                raise SchedulerError(
                    f"Nothing can be written to {case.name}, where the workers of a cluster put what they hand on. "
                    "Make it writable, or copy the case, or leave --scheduler out."
                ) from None
            folder = Path(tempfile.mkdtemp(prefix="coldcache-"))
        return cls(folder)

    def put(self, name: str, columns: Columns, bounds: _Ints | None = None) -> None:
        """Keep columns under a name, in one step.

        `bounds` : where each piece begins, and where the last one ends; all is one piece without.
        A column of one number (:func:`constant`) is kept as that.
        """
        if bounds is None:
            bounds = np.array([0, max((len(values) for values in columns.values()), default=0)])
        if self.folder is None:
            self._held[name] = (dict(columns), bounds)
            return
        path = self.folder / name
        # Elsewhere a file is there once it is whole.
        unfinished = path.with_name(f"{name}.{uuid.uuid4().hex[:8]}.part") if isinstance(path, HERE) else path
        places, constants, at = {}, {}, 0
        with unfinished.open("wb") as file:
            for column, values in columns.items():
                if is_constant(values):
                    constants[column] = (values.dtype.str, values[0].item())
                    continue
                places[column] = (values.dtype.str, at)
                at += file.write(np.ascontiguousarray(values).data.cast("B")) if len(values) else 0
            index = json.dumps({"columns": places, "constants": constants, "bounds": bounds.tolist()}).encode()
            file.write(index + len(index).to_bytes(_LENGTH, "little"))
        if unfinished is not path:
            unfinished.replace(path)

    def take(self, name: str, piece: int = 0) -> dict[str, npt.NDArray[Any]]:
        """Return one piece of what is under a name."""
        return self.gather([name], piece)[0]

    def whole(self, name: str) -> tuple[dict[str, npt.NDArray[Any]], _Ints]:
        """Return all pieces of what is under a name as one, and their bounds."""
        if self.folder is None:
            columns, bounds = self._held[name]
            return dict(columns), bounds
        with (self.folder / name).open("rb") as file:
            index = _index_of(file)
            bounds = np.array(index["bounds"])
            taken = {}
            for column, (kind, at) in index["columns"].items():
                taken[column] = np.empty(bounds[-1], np.dtype(kind))
                file.seek(at)
                _fill(file, taken[column].data.cast("B"))
        return taken, bounds

    def gather(self, names: Sequence[str], piece: int) -> tuple[dict[str, npt.NDArray[Any]], list[int]]:
        """Return one piece of what is under each of the names, one after the other, and the bounds of each.

        All have the same columns. What is in memory may be the very arrays that were put: they are not to be changed.
        """
        if self.folder is None:
            held = [
                {name: values[bounds[piece] : bounds[piece + 1]] for name, values in columns.items()}
                for columns, bounds in (self._held[name] for name in names)
            ]
            sizes = [len(next(iter(columns.values()))) for columns in held]
            return joined(held), np.cumsum([0, *sizes]).tolist()
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context((self.folder / name).open("rb")) for name in names]
            indices = [_index_of(file) for file in files]
            sizes = [index["bounds"][piece + 1] - index["bounds"][piece] for index in indices]
            ends = np.cumsum([0, *sizes]).tolist()
            kinds = {name: np.dtype(kind) for name, (kind, _) in (indices[0]["columns"] | indices[0]["constants"]).items()}
            taken = {name: np.empty(ends[-1], kind) for name, kind in kinds.items()}
            for file, index, start, end in zip(files, indices, ends[:-1], ends[1:], strict=True):
                for name, (_, value) in index["constants"].items():
                    taken[name][start:end] = value
                for name, (_, at) in index["columns"].items():
                    if end > start:
                        file.seek(at + index["bounds"][piece] * taken[name].itemsize)
                        _fill(file, taken[name][start:end].data.cast("B"))
        return taken, ends

    def drop(self, *names: str) -> None:
        """Forget what is under these names."""
        for name in names:
            if self.folder is None:
                self._held.pop(name, None)
            else:
                (self.folder / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget everything."""
        self._held.clear()
        if self._owner >= 0:
            with contextlib.suppress(OSError):
                os.close(self._owner)
        if isinstance(self.folder, HERE):
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self.folder is not None:
            with contextlib.suppress(OSError):
                self.folder.rmdir(recursive=True)  # type: ignore[call-arg]


def constant(value: Any, rows: int) -> npt.NDArray[Any]:
    """Return a column of so many rows that takes no room, for all of them are one number of numpy's."""
    return np.broadcast_to(value, rows)


def is_constant(values: npt.NDArray[Any]) -> bool:
    """Whether a column is one of :func:`constant`'s."""
    return len(values) > 0 and values.strides == (0,)


def _owned(folder: Path) -> int:
    """Mark a folder as in use for as long as this process lives, which the system knows even if it is killed."""
    owner = os.open(folder / _OWNER, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return owner


def _remove_abandoned(case: Path) -> None:
    """Remove what processes left that were killed."""
    for folder in case.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            owner = os.open(folder / _OWNER, os.O_RDWR)
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(owner)


def _index_of(file: Any) -> dict[str, Any]:
    """Return the index of a file."""
    end = file.seek(-_LENGTH, os.SEEK_END)
    size = int.from_bytes(file.read(_LENGTH), "little")
    file.seek(end - size)
    index: dict[str, Any] = json.loads(file.read(size))
    return index


def _fill(file: Any, room: memoryview) -> None:
    """Read so many bytes; the system gives 2 GB at once at most."""
    done = 0
    while done < len(room):
        done += file.readinto(room[done:])


def joined(pieces: Sequence[Columns]) -> dict[str, npt.NDArray[Any]]:
    """Return pieces with the same columns as one."""
    if len(pieces) == 1:
        return dict(pieces[0])
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
