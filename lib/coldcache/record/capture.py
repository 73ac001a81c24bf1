"""The capture thread: from the socket straight to disk, parsing nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import redis
from redis.connection import ConnectionInterface

from coldcache.case import private_file
from coldcache.errors import RecordingFailedError, ServerRefusedError
from coldcache.record.server import ACL_LINE

_RECEIVE_BUFFER_BYTES = 8 << 20  # room for a pause of the reader at tens of MB/s
_SO_RCVBUFFORCE = 33  # Linux, with CAP_NET_ADMIN: above net.core.rmem_max
_CHUNK_BYTES = 1 << 20
_HANDSHAKE_S = 10
_STAMP_INTERVAL_S = 0.005
# A server sends a line or two at a time, and waking for each costs both sides: let some gather. A
# full chunk says that there is more, and then there is no time to lose.
_GATHER_S = 0.01
_SMALL_BYTES = 128 << 10
_POLL_S = 0.5
MONITOR = ("MONITOR",)
STAMP = struct.Struct("<Qq")  # bytes of the stream until then, wall clock of this machine in µs


class StreamCapture:
    """Reads the monitoring connection and writes every byte to a file.

    It asks for MONITOR first: RESP2 refuses it once subscribed. Last in every mode comes our own
    channel: key events are complete from its confirmation on, and any subscription moves the
    connection to the server's ``pubsub`` class, whose output buffer is limited (a stalled plain
    MONITOR fills the server's memory, measured). ``asks`` are the commands before that.

    Beside the stream lies an index of `STAMP` records: when which byte had arrived, to 15 ms. It
    dates key events, which carry no time, and the end of a recording that was cut off.

    Attributes
    ----------
    stream_bytes : int
        Bytes written so far.
    lost : str or None
        Why the stream ended before it was asked to, if it did.
    disk_full : bool
        The stream ended because it could not be written.
    """

    def __init__(
        self, connection: ConnectionInterface, path: Path, *, asks: list[tuple[str, ...]], channel: str, end_mark: str
    ) -> None:
        self.stream_bytes = 0
        self.lost: str | None = None
        self.disk_full = False
        self.path = path
        self._asks = asks
        self._channel = channel
        self._connection = connection
        # redis-py offers no public way to the socket, and its own Monitor mis-splits arguments.
        self._sock: socket.socket = connection._sock  # type: ignore[attr-defined]
        self._file = private_file(path)
        self._index = private_file(path.with_suffix(".idx"))
        self._stamped = 0.0
        self._told_bytes = 0
        self._end_mark = end_mark.encode()
        self._ended = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="coldcache-capture", daemon=True)

    def start(self) -> None:
        """Ask for what the mode needs, wait until all is confirmed, then read in the background.

        Raises
        ------
        ServerRefusedError
            The server refuses; what to grant is said.
        RecordingFailedError
            It does not answer.
        """
        _widen(self._sock)
        self._sock.settimeout(_POLL_S)
        self._connection.send_packed_command(self._connection.pack_commands([*self._asks, ("SUBSCRIBE", self._channel)]))
        self._write(self._confirmed())
        self._thread.start()

    def _confirmed(self) -> bytes:
        """Read until the server has confirmed everything; return what was read."""
        seen, last = b"", b"\n" + self._channel.encode() + b"\r\n"
        deadline = time.monotonic() + _HANDSHAKE_S
        while True:
            # After MONITOR a refusal may stand behind lines of others; it starts a line with a minus.
            if (at := (b"\r\n" + seen).find(b"\r\n-")) >= 0 and b"\r\n" in seen[at:]:
                if self._asks == [MONITOR] and b"+OK\r\n" in seen[:at]:
                    return seen[:at] + seen[at:].split(b"\r\n", 1)[1]  # costs the server's own limit, nothing else
                refusal = seen[at:].split(b"\r\n")[0].decode("latin-1").lstrip("-")[:120]
                raise ServerRefusedError(f"The server lets nobody listen: {refusal}. This grants what is needed: {ACL_LINE}")
            if last in seen:
                return seen
            if time.monotonic() > deadline:
                raise RecordingFailedError(f"The server did not answer within {_HANDSHAKE_S} s. Try again.")
            try:
                chunk = self._sock.recv(_CHUNK_BYTES)
            except TimeoutError:
                continue
            if not chunk:
                raise redis.ConnectionError("closed by the server")
            seen += chunk

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.write(self._file, view)
            self.stream_bytes += written
            view = view[written:]
        now = time.monotonic()
        if now - self._stamped >= _STAMP_INTERVAL_S:
            self._stamped = now
            os.write(self._index, STAMP.pack(self.stream_bytes, time.time_ns() // 1000))

    def _read(self) -> None:
        tail = b""
        try:
            while not self._stop.is_set():
                try:
                    chunk = self._sock.recv(_CHUNK_BYTES)
                except TimeoutError:
                    self._stamped = 0.0  # the next bytes are news after a silence: date them exactly
                    continue
                if not chunk:
                    self.lost = "the server closed the connection"
                    break
                self._write(chunk)
                if self._end_mark in tail + chunk[: len(self._end_mark)] or self._end_mark in chunk:
                    break
                tail = (tail + chunk)[-len(self._end_mark) :]
                if len(chunk) < _SMALL_BYTES:
                    time.sleep(_GATHER_S)
        except OSError as error:
            self.disk_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            what = "the disk is full" if self.disk_full else f"the connection broke ({error.strerror or type(error).__name__})"
            self.lost = what
        with contextlib.suppress(OSError):
            os.write(self._index, STAMP.pack(self.stream_bytes, time.time_ns() // 1000))
        self._ended.set()

    @property
    def running(self) -> bool:
        """Whether bytes can still arrive."""
        return not self._ended.is_set()

    def take_new_bytes(self) -> int:
        """Return how many bytes have come since the last call."""
        told, self._told_bytes = self._told_bytes, self.stream_bytes
        return self._told_bytes - told

    def sync(self) -> None:
        """Have what was written reach the disk: a power cut then loses nothing before it."""
        with contextlib.suppress(OSError):
            os.fdatasync(self._file) if hasattr(os, "fdatasync") else os.fsync(self._file)

    def finish(self, timeout_s: float = 30) -> None:
        """Wait until the end mark has arrived, then close; after `timeout_s` close all the same."""
        if not self._ended.wait(timeout_s):
            self.lost = self.lost or f"the end of the stream did not arrive within {timeout_s:.0f} s"
        self.close()

    def close(self) -> None:
        """Stop reading and close the socket and the files; safe to call twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)
        with contextlib.suppress(redis.RedisError, OSError):
            self._connection.disconnect()
        if self._file >= 0:
            self.sync()
            os.close(self._file)
            os.close(self._index)
            self._file = self._index = -1


def _widen(sock: socket.socket) -> None:
    """Widen the kernel's receive buffer: a smaller one costs safety margin, not correctness.

    Setting it switches the kernel's own tuning off, which reaches 6 MB by default: so only where
    more than that is granted.
    """
    if sock.family == getattr(socket, "AF_UNIX", None):
        return
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
            return
        with contextlib.suppress(OSError, ValueError):
            if int(Path("/proc/sys/net/core/rmem_max").read_text("ascii")) < _RECEIVE_BUFFER_BYTES // 2:
                return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
