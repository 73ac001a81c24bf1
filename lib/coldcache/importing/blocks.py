"""A log file as blocks of whole lines, whatever its size and however it is packed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coldcache.errors import NotALogError
from coldcache.sources.log import Stretch

STDIN = "-"
BLOCK_BYTES = 32 << 20
# Beyond the 512 MB of one string no server prints more in a line than four times that; most machines have less to spare.
MOST_LINE_BYTES = 256 << 20
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
_NEW_LINE = 10
_LOOK_BACK_BYTES = 64 << 10


@dataclass(slots=True, eq=False)
class Block:
    """Some whole lines of a log, which may still be in their file: whoever parses them reads them.

    offset : where the first line begins in the log, unpacked
    too_long : size of the one line that was left out, 0 otherwise
    held : array of uint8, where the lines were read already; of a line that is too long, nothing
    file, size : descriptor of the file, which is closed with the block, and number of bytes, where they were not
    """

    offset: int
    too_long: int = 0
    held: npt.NDArray[np.uint8] | None = None
    file: int = -1
    size: int = 0

    def __del__(self) -> None:
        if self.file >= 0:
            os.close(self.file)

    def lines(self) -> npt.NDArray[np.uint8] | Stretch:
        """Return what a parser reads."""
        return Stretch(self.file, self.offset, self.size) if self.held is None else self.held

    def data(self) -> npt.NDArray[np.uint8]:
        """Return all bytes."""
        if self.held is None:
            self.held = np.frombuffer(self.part(0, self.size), np.uint8)
        return self.held

    def part(self, at: int, size: int) -> bytes:
        """Return some of the bytes."""
        if self.held is not None:
            return self.held[at : at + size].tobytes()
        found = bytearray()
        while len(found) < size and (more := os.pread(self.file, size - len(found), self.offset + at + len(found))):
            found += more
        return bytes(found)


class LogFile:
    """A log to be read once, from its beginning to its end.

    Attributes
    ----------
    name : str
        Its file name, ``standard input`` for ``-``.
    size : int or None
        Bytes of the file as it lies there; None where it is a pipe.
    problem : str
        What ended the log before its time, empty otherwise.
    """

    def __init__(self, path: str, block_bytes: int = BLOCK_BYTES) -> None:
        """Open a file, gzip, zstd or bzip2 unpacked on the way; ``-`` is standard input.

        Raises
        ------
        NotALogError
            It is not there, or no file.
        """
        self._block_bytes = block_bytes
        self.problem = ""
        self.size: int | None = None
        try:
            if path == STDIN:
                self.name = "standard input"
                self._file: BinaryIO = sys.stdin.buffer
            else:
                self.name = Path(path).name
                self._file = Path(path).open("rb")  # noqa: SIM115 - open as long as the log is read
                self.size = os.fstat(self._file.fileno()).st_size or None
            begin = self._file.peek(4)[:4]  # type: ignore[attr-defined]
        except OSError as error:
            raise NotALogError(
                f"{path} cannot be read ({error.strerror}). Name a MONITOR log, or - for standard input."
            ) from None
        packing = next((name for magic, name in _PACKED.items() if begin.startswith(magic)), None)
        # Whatever can be read anywhere is read by those who parse it.
        self._anywhere = packing is None and path != STDIN and bool(self.size) and self._file.seekable()
        self._stream = pa.CompressedInputStream(pa.PythonFile(self._file, "r"), packing) if packing else self._file
        # An error in packed data loses all that was asked for.
        self._at_once = 64 << 10 if packing else block_bytes
        self._carried = np.empty(0, np.uint8)
        self._offset = 0

    @property
    def position(self) -> int:
        """How many bytes of the file were read, packed ones where it is packed; 0 where it is a pipe."""
        if not self.size:
            return 0
        if self._anywhere:
            return min(self._offset, self.size)
        return self.size if self._file.closed else self._file.tell()

    def sample(self, size: int) -> bytes:
        """Return so many bytes of the beginning, which `blocks` will yield all the same; fewer where there are no more."""
        self._carried, _ = self._filled(size)
        found = self._carried.tobytes()
        self._return()
        return found

    def blocks(self) -> Iterator[Block]:
        """Yield the log's blocks; each line is in one of them, or counted as too long."""
        with self._file:
            ended = False
            while not ended:
                if not len(self._carried) and (size := self._lines_ahead()):
                    yield Block(self._offset, file=os.dup(self._file.fileno()), size=size)
                    self._offset += size
                    self._return()
                    continue
                buffer, ended = self._filled(max(self._block_bytes, len(self._carried)))
                cut = len(buffer) if ended else _behind_last_line(buffer)
                self._carried = buffer[cut:]
                if cut:
                    yield self._block(buffer[:cut])
                    self._return()
                elif len(buffer) >= MOST_LINE_BYTES:
                    too_long, ended = self._skip_line()
                    yield too_long
                    self._return()

    def _return(self) -> None:
        """Carry nothing over that can be read again."""
        if self._anywhere:
            self._carried = self._carried[:0]
            self._file.seek(self._offset)

    def _lines_ahead(self) -> int:
        """Return the size of the next whole lines, without reading them; 0 where that cannot be told."""
        if not self._anywhere:
            return 0
        size = min(self._block_bytes, os.fstat(self._file.fileno()).st_size - self._offset)
        if size <= 0:
            return 0
        before = max(0, size - _LOOK_BACK_BYTES)
        cut = os.pread(self._file.fileno(), size - before, self._offset + before).rfind(b"\n") + 1
        return before + cut if cut else 0

    def _filled(self, more: int) -> tuple[npt.NDArray[np.uint8], bool]:
        """Return what was carried over and so many bytes more, and whether the log ends there."""
        carried = self._carried
        buffer = np.empty(len(carried) + more, np.uint8)
        buffer[: len(carried)] = carried
        filled = len(carried)
        while filled < len(buffer):
            count = self._read(buffer.data[filled : filled + self._at_once])
            if not count:
                return buffer[:filled], True
            filled += count
        return buffer, False

    def _read(self, into: memoryview) -> int:
        try:
            return int(self._stream.readinto(into) or 0)  # type: ignore[union-attr]
        except (OSError, pa.ArrowException) as error:
            # A packed file that was cut: what could be unpacked is worth having.
            self.problem = f"{self.name} ends within its packed data: {error}"
            return 0

    def _block(self, data: npt.NDArray[np.uint8]) -> Block:
        block = Block(self._offset, held=data)
        self._offset += len(data)
        return block

    def _skip_line(self) -> tuple[Block, bool]:
        size = len(self._carried)
        chunk = np.empty(1 << 20, np.uint8)
        while True:
            count = self._read(chunk.data)
            ends = np.flatnonzero(chunk[:count] == _NEW_LINE)
            if count and not len(ends):
                size += count
                continue
            size += int(ends[0]) if count else 0
            self._carried = chunk[int(ends[0]) + 1 : count].copy() if count else chunk[:0]
            block = Block(self._offset, too_long=size, held=chunk[:0])
            self._offset += size + (1 if count else 0)
            return block, not count


def _behind_last_line(buffer: npt.NDArray[np.uint8]) -> int:
    """Return the place behind the last line end, 0 without one."""
    end = len(buffer)
    while end > 0:
        start = max(0, end - 4096)
        found = np.flatnonzero(buffer[start:end] == _NEW_LINE)
        if len(found):
            return start + int(found[-1]) + 1
        end = start
    return 0
