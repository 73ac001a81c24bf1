"""The journal of a recording: what happened, written at once, so that nothing depends on a good end.

``raw/journal.jsonl`` holds one JSON object a line, in order. With the files it names it is all
that :mod:`coldcache.record.build` needs, whether the recording ended well or was killed.

===========  ================================================================================
event        fields beside ``event`` and ``stamp_us`` (this machine's wall clock)
===========  ================================================================================
session      ``number``, ``mode``, ``seconds``, ``keys``, ``keep_raw``, ``pid``, ``first_epoch``
epoch        ``epoch``, ``mode``, ``joins``, ``own``, ``control``, ``mark``, ``channel``,
             ``clock_offset_us``, ``server`` (identity)
epoch_end    ``epoch``, ``reason``, ``asked``: whether we ended it ourselves
distrust     ``epoch``, ``samples``: how many INFO samples of it still count
config       ``node``, ``values``
slowlog      ``node``, ``entries``: time, command, duration, client
clients      ``node``, ``clients``: who is connected, see :mod:`coldcache.sources.clients`
users        ``node``, ``users``: likewise
note         ``text``: what a reader of the case should know
end          ``how``
===========  ================================================================================
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from coldcache.sources.jsonl import json_lines

JOURNAL = "journal.jsonl"


class AppendedLines:
    """A file of JSON lines, each handed to the system in one write: a killed process loses none."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._lock = threading.Lock()
        self._torn = False  # the line before was cut off by a full disk

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line.

        Raises
        ------
        OSError
            The disk is full, or the file was closed.
        """
        data = (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        with self._lock:
            if self._torn:
                os.write(self._file, b"\n")
            self._torn = True
            if os.write(self._file, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._torn = False

    def sync(self) -> None:
        """Have it reach the disk."""
        with contextlib.suppress(OSError):
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Journal:
    """Writes the journal of one session into a case's raw folder."""

    def __init__(self, raw: Path) -> None:
        self.raw = raw
        self._lines = AppendedLines(raw / JOURNAL)
        self._lock = threading.Lock()
        self._next_epoch = 0

    def session(self, *, first_epoch: int, **fields: Any) -> None:
        """Open the session; epochs are numbered from `first_epoch`."""
        self._next_epoch = first_epoch
        self._write("session", first_epoch=first_epoch, **fields)

    def new_epoch(self) -> int:
        """Return the number of the next epoch."""
        with self._lock:
            self._next_epoch += 1
            return self._next_epoch - 1

    def stream_path(self, epoch: int) -> Path:
        """Return where an epoch's stream lies."""
        return stream_path(self.raw, epoch)

    def epoch(self, epoch: int, **fields: Any) -> None:
        """Say that an epoch begins."""
        self._write("epoch", epoch=epoch, **fields)

    def epoch_end(self, epoch: int, reason: str, *, asked: bool) -> None:
        """Say that an epoch is over, or what had ended it."""
        self._write("epoch_end", epoch=epoch, reason=reason, asked=asked)

    def distrust(self, epoch: int, *, samples: int) -> None:
        """Trust of an epoch only what its first `samples` INFO samples bound."""
        self._write("distrust", epoch=epoch, samples=samples)

    def config(self, node: str, values: dict[str, str]) -> None:
        """Keep the configuration of a server."""
        self._write("config", node=node, values=values)

    def slow_commands(self, node: str, entries: list[dict[str, Any]]) -> None:
        """Keep the slow log of a server."""
        self._write("slowlog", node=node, entries=entries)

    def clients(self, node: str, clients: list[dict[str, Any]]) -> None:
        """Keep who is connected to a server."""
        self._write("clients", node=node, clients=clients)

    def users(self, node: str, users: list[dict[str, Any]]) -> None:
        """Keep which users a server knows."""
        self._write("users", node=node, users=users)

    def note(self, text: str) -> None:
        """Keep what a reader of the case should know."""
        self._write("note", text=text)

    def end(self, how: str) -> None:
        """Say that the session is over."""
        self._write("end", how=how)

    def sync(self) -> None:
        """Have it reach the disk."""
        self._lines.sync()

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def _write(self, event: str, **fields: Any) -> None:
        # On a full disk the journal is the last thing to fail: build takes a missing end for a cut.
        with contextlib.suppress(OSError):
            self._lines.append({"event": event, "stamp_us": time.time_ns() // 1000, **fields})


def stream_path(raw: Path, epoch: int) -> Path:
    """Return where an epoch's stream lies in a raw folder."""
    return raw / f"stream-{epoch:04d}.resp"


def read_journal(raw: Path) -> list[dict[str, Any]]:
    """Return the events of a raw folder, in order; a last line that was cut off is left out."""
    return json_lines(raw / JOURNAL)
