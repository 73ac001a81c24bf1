"""The capture thread: from the socket straight to disk, parsing nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path

from redis.connection import ConnectionInterface

from coldcache.case import private_file
from coldcache.errors import RecordingFailedError

_RECEIVE_BUFFER_BYTES = 8 << 20  # room for a pause of the reader at tens of MB/s
_CHUNK_BYTES = 1 << 20
_HANDSHAKE_S = 10


class StreamCapture:
    """Reads the monitoring connection and writes every byte to a file.

    Attributes
    ----------
    stream_bytes : int
        Bytes written so far.
    lost : str or None
        Why the stream ended before it was asked to, if it did.
    """

    def __init__(self, connection: ConnectionInterface, sock: socket.socket, path: Path, end_mark: str) -> None:
        self.stream_bytes = 0
        self.lost: str | None = None
        self._connection = connection
        self._sock = sock
        self._file = os.fdopen(private_file(path), "wb", buffering=0)
        self._end_mark = end_mark.encode()
        self._ended = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="coldcache-capture", daemon=True)

    def start(self) -> None:
        """Send MONITOR and PSUBSCRIBE, wait until both are confirmed, then read in the background."""
        with contextlib.suppress(OSError):  # a smaller buffer costs safety margin, not correctness
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        self._connection.send_command("MONITOR")
        self._connection.send_command("PSUBSCRIBE", "__keyevent@*__:*")
        self._sock.settimeout(1.0)
        seen = b""
        deadline = time.monotonic() + _HANDSHAKE_S
        while b"+OK\r\n" not in seen or b"psubscribe\r\n" not in seen:
            if time.monotonic() > deadline or b"\r\n-" in b"\r\n" + seen[:200]:
                refusal = seen[:120].decode("latin-1").split("\r\n")[0].lstrip("-")
                raise RecordingFailedError(
                    f"The server did not start MONITOR with key events: {refusal or 'no answer'}. "
                    "The user needs: +monitor +psubscribe &__keyevent@*__:*"
                )
            try:
                chunk = self._sock.recv(_CHUNK_BYTES)
            except TimeoutError:
                continue
            if not chunk:
                raise RecordingFailedError("The server closed the monitoring connection at once.")
            seen += chunk
        self._write(seen)
        self._thread.start()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]
        self.stream_bytes += len(data)

    def _read(self) -> None:
        tail = b""
        try:
            while not self._stop.is_set():
                try:
                    chunk = self._sock.recv(_CHUNK_BYTES)
                except TimeoutError:
                    continue
                if not chunk:
                    self.lost = "the server closed the monitoring connection"
                    break
                self._write(chunk)
                if self._end_mark in tail + chunk:
                    break
                tail = (tail + chunk)[-len(self._end_mark) :]
        except OSError as error:
            self.lost = f"the stream broke: {error.strerror or type(error).__name__}"
        self._ended.set()

    @property
    def running(self) -> bool:
        """Whether bytes can still arrive."""
        return not self._ended.is_set()

    def finish(self, timeout_s: float = 30) -> None:
        """Wait until the end mark has arrived, then close; after `timeout_s` close all the same."""
        if not self._ended.wait(timeout_s if self.lost is None else _HANDSHAKE_S):
            self.lost = self.lost or f"the end of the stream did not arrive within {timeout_s:.0f} s"
        self.close()

    def close(self) -> None:
        """Stop reading and close the socket and the file; safe to call twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)
        self._connection.disconnect()
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()
