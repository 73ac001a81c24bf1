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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coldcache.case import HERE
from coldcache.errors import SchedulerError

_Ints = npt.NDArray[np.int64]
_PREFIX, _OWNER = ".scratch-", "owner"
_LENGTH = 8  # bytes at a file's end: how long the index before them is


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A column of whole numbers in less room than they take.

    Attributes
    ----------
    values : uint8 or uint32
        What is to be added to `base`.
    kind : dtype
        Of the numbers.
    base : int
    null : int
        What 0 stands for.
    """

    values: npt.NDArray[np.unsignedinteger[Any]]
    kind: np.dtype[Any]
    base: int
    null: int

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> Packed:
        return replace(self, values=self.values[rows])

    def unpacked(self, room: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Return the numbers, in this room if one is given."""
        room = np.empty(len(self), self.kind) if room is None else room
        np.add(self.values, self.base, out=room, dtype=self.kind, casting="unsafe")
        if self.null != self.base:
            room[self.values == 0] = self.null
        return room


Column = npt.NDArray[Any] | Packed
Columns = Mapping[str, Column]
_Place = tuple[str, int, tuple[str, int, int] | None]  # of a column in a file: its type, where it is, and how it is packed


@dataclass(frozen=True, slots=True, eq=False)
class Scratch:
    """Columns of numbers under names, cut into pieces.

    A file is its columns, one after the other, each as numpy holds it, the bounds of its pieces, and an index. A piece is
    read without the others (Arrow's files take a third longer, for a piece of theirs is copied once more where many are put
    together).

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
        places: dict[str, _Place] = {}
        constants, at = {}, 0
        with unfinished.open("wb") as file:
            for column, values in columns.items():
                if isinstance(values, Packed):
                    stored = values.values
                    places[column] = (stored.dtype.str, at, (values.kind.str, values.base, values.null))
                elif is_constant(values):
                    constants[column] = (values.dtype.str, values[0].item())
                    continue
                else:
                    stored = values
                    places[column] = (stored.dtype.str, at, None)
                at += _write(file, stored)
            _write(file, bounds.astype(np.int64))
            index = json.dumps({"columns": places, "constants": constants, "bounds": (at, len(bounds))}).encode()
            file.write(index + len(index).to_bytes(_LENGTH, "little"))
        if unfinished is not path:
            unfinished.replace(path)

    def take(self, name: str, piece: int = 0) -> dict[str, npt.NDArray[Any]]:
        """Return one piece of what is under a name."""
        return self.gather([name], piece)[0]

    def whole(self, name: str) -> tuple[dict[str, npt.NDArray[Any]], _Ints]:
        """Return all pieces of what is under a name as one, and their bounds."""
        if self.folder is None:
            held, bounds = self._held[name]
            return {column: _plain(values) for column, values in held.items()}, bounds
        with (self.folder / name).open("rb") as file:
            stored = _Stored.of(file)
            rows = int(stored.bounds[-1])
            return {column: stored.read(column, 0, np.empty(rows, kind)) for column, kind in stored.kinds.items()}, stored.bounds

    def gather(self, names: Sequence[str], piece: int) -> tuple[dict[str, npt.NDArray[Any]], list[int]]:
        """Return one piece of what is under each of the names, one after the other, and the bounds of each.

        All have the same columns. What is in memory may be the very arrays that were put: they are not to be changed.
        """
        if self.folder is None:
            held = [
                {name: _plain(values[bounds[piece] : bounds[piece + 1]]) for name, values in columns.items()}
                for columns, bounds in (self._held[name] for name in names)
            ]
            sizes = [len(next(iter(columns.values()))) for columns in held]
            return joined(held), np.cumsum([0, *sizes]).tolist()
        with contextlib.ExitStack() as stack:
            files = [_Stored.of(stack.enter_context((self.folder / name).open("rb"))) for name in names]
            ends = np.cumsum([0, *(file.bounds[piece + 1] - file.bounds[piece] for file in files)]).tolist()
            taken = {column: np.empty(ends[-1], kind) for column, kind in files[0].kinds.items()}
            for file, start, end in zip(files, ends[:-1], ends[1:], strict=True):
                for column, values in taken.items():
                    file.read(column, int(file.bounds[piece]), values[start:end])
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


def is_constant(values: Column) -> bool:
    """Whether a column is one of :func:`constant`'s."""
    return isinstance(values, np.ndarray) and len(values) > 0 and values.strides == (0,)


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


def _plain(values: Column) -> npt.NDArray[Any]:
    return values.unpacked() if isinstance(values, Packed) else values


def _write(file: Any, values: npt.NDArray[Any]) -> int:
    """Write numbers, and return how many bytes they take."""
    return int(file.write(np.ascontiguousarray(values).data.cast("B"))) if len(values) else 0


@dataclass(frozen=True, slots=True, eq=False)
class _Stored:
    """A file that is open, and what its index says."""

    file: Any
    bounds: _Ints
    kinds: dict[str, np.dtype[Any]]
    columns: dict[str, _Place]
    constants: dict[str, tuple[str, Any]]

    @classmethod
    def of(cls, file: Any) -> _Stored:
        """Read the index of a file."""
        end = file.seek(-_LENGTH, os.SEEK_END)
        size = int.from_bytes(file.read(_LENGTH), "little")
        file.seek(end - size)
        index = json.loads(file.read(size))
        at, count = index["bounds"]
        bounds = np.empty(count, np.int64)
        file.seek(at)
        _fill(file, bounds)
        columns, constants = index["columns"], index["constants"]
        kinds = {name: np.dtype(packed[0] if packed else kind) for name, (kind, _, packed) in columns.items()}
        return cls(file, bounds, kinds | {name: np.dtype(kind) for name, (kind, _) in constants.items()}, columns, constants)

    def read(self, column: str, first: int, room: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Read as many numbers of a column as there is room for, from the first one on; return the room."""
        if column in self.constants:
            room[:] = self.constants[column][1]
        elif len(room):
            kind, at, packed = self.columns[column]
            stored = room if packed is None else np.empty(len(room), kind)
            self.file.seek(at + first * stored.itemsize)
            _fill(self.file, stored)
            if packed is not None:
                Packed(stored, room.dtype, *packed[1:]).unpacked(room)
        return room


def _fill(file: Any, values: npt.NDArray[Any]) -> None:
    """Read so many numbers; the system gives 2 GB at once at most."""
    room, done = values.data.cast("B"), 0
    while done < len(room):
        done += file.readinto(room[done:])


def joined(pieces: Sequence[Mapping[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    """Return pieces with the same columns as one."""
    if len(pieces) == 1:
        return dict(pieces[0])
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
