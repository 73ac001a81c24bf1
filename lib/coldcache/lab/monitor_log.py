"""What somebody without coldcache saves of an incident: ``redis-cli MONITOR`` in a file, INFO before and after."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

_CONNECT_S = 5.0
_AGAIN_AFTER_S = 1.0  # as a shell loop around redis-cli has it
_LAST = b"the log ends here"


@dataclass(frozen=True, slots=True)
class SavedLog:
    """A log and its INFO dumps.

    log, before, after : the files, as ``redis-cli`` prints them
    """

    log: Path
    before: Path
    after: Path
    _address: tuple[str, int] = field(repr=False)
    _over: threading.Event = field(default_factory=threading.Event, repr=False)

    def finish(self) -> None:
        """Save INFO once more; the log goes on until a line after it, so that it holds what INFO counted.

        Where MONITOR was cut off just then, that line never comes, and the log ends as it is.
        """
        self.after.write_bytes(_asked(self._address, b"INFO everything"))
        _asked(self._address, b'ECHO "%b"' % _LAST)
        self._over.wait(_CONNECT_S)
        self._over.set()


def saved_files(folder: Path) -> tuple[Path, Path, Path]:
    """Return the log and INFO before and after, in the folder where they are saved."""
    return folder / "ops.log", folder / "before.txt", folder / "after.txt"


@contextlib.contextmanager
def monitor_log(url: str, folder: Path) -> Iterator[SavedLog]:
    """Save a MONITOR log into a new folder until :meth:`SavedLog.finish`; it begins before INFO's first dump.

    A server that cuts MONITOR off, or restarts, is connected to again after a second; the lines between are lost.
    """
    folder.mkdir(parents=True)
    parts = urlsplit(url)
    address = (str(parts.hostname), int(parts.port or 6379))
    saved = SavedLog(*saved_files(folder), address)
    begun = threading.Event()
    writer = threading.Thread(target=_write, args=(saved, address, begun), name="monitor-log")
    writer.start()
    try:
        begun.wait(_CONNECT_S)
        saved.before.write_bytes(_asked(address, b"INFO everything"))
        yield saved
    finally:
        saved._over.set()
        writer.join()


def _write(saved: SavedLog, address: tuple[str, int], begun: threading.Event) -> None:
    with saved.log.open("wb") as file:
        while not saved._over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(address, _CONNECT_S) as connection:
                connection.sendall(b"MONITOR\r\n")
                connection.settimeout(0.1)
                _copy_lines(connection, saved._over, file, begun)
            saved._over.wait(_AGAIN_AFTER_S)


def _copy_lines(connection: socket.socket, over: threading.Event, file: BinaryIO, begun: threading.Event) -> None:
    """Copy a MONITOR stream as redis-cli prints it, without the plus and with a plain end of line, until it ends or is over.

    Each line of the stream ends with CR LF, and what is inside is escaped.
    """
    rest = b""
    while not over.is_set():
        try:
            read = connection.recv(1 << 16)
        except TimeoutError:
            continue
        if not read:
            return
        begun.set()
        *lines, rest = (rest + read).split(b"\r\n")
        file.writelines(line.removeprefix(b"+") + b"\n" for line in lines)
        if any(_LAST in line for line in lines):
            over.set()


def _asked(address: tuple[str, int], command: bytes) -> bytes:
    """Return the bytes of a command's reply, as redis-cli prints them."""
    with socket.create_connection(address, _CONNECT_S) as connection, connection.makefile("rb") as reply:
        connection.sendall(command + b"\r\n")
        return reply.read(int(reply.readline()[1:]))
