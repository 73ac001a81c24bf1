r"""The captured stream of one connection that both monitors and hears key events.

The stream is RESP: ``+`` lines from MONITOR, and push or array frames from SUBSCRIBE, which
carry key names as raw bytes. It is therefore cut into frames by length, never by ``\r\n``
alone: a key may hold ``\r\n+1.0 [0 x] "GET" "k"`` and would forge a line.
Line grammar and escapes: ``sdscatrepr`` in Redis's ``src/sds.c``, ``src/replication.c``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_LINE = re.compile(rb'(\d{1,12})\.(\d{6}) \[(\d{1,9}) (.*?)\] (".*)\Z', re.DOTALL)
_ARGUMENT = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"(?: |\Z)', re.DOTALL)
_PLAIN = re.compile(rb"[ !#-\[\]-~]*\Z")  # printable ASCII without the quote and the backslash
_CHANNEL = re.compile(rb"__keyevent@(\d{1,9})__:(.+)\Z", re.DOTALL)
# A key event as servers send it, up to its key: the fast path of what RESP would let be written otherwise.
_KEY_EVENT = re.compile(rb"[*>]3\r\n\$7\r\nmessage\r\n\$\d+\r\n__keyevent@(\d{1,9})__:([^\r]+)\r\n\$(\d{1,9})\r\n")
MARK_CHANNEL = "coldcache:"  # what the name of our own channel starts with
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)

_NAMED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}
_PRINTED = [
    {0x5C: "\\\\", 0x22: '\\"', 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x07: "\\a", 0x08: "\\b"}.get(
        byte, chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"
    )
    for byte in range(256)
]
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class MonitorLine:
    """One MONITOR line. ``args`` are in Redis's printable escape, the command's name first."""

    stamp_us: int
    db: int
    client: str
    args: list[str]


@dataclass(frozen=True, slots=True)
class KeyEvent:
    """One key event. ``key`` is in Redis's printable escape."""

    db: int
    event: str
    key: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A message that we published ourselves, to find its place in a stream without lines."""

    text: str


@dataclass(frozen=True, slots=True)
class Listening:
    """The server has confirmed the last subscription: key events are complete from here on."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """Bytes of the stream that are neither; kept so that nothing vanishes silently."""

    data: bytes


StreamItem = MonitorLine | KeyEvent | Mark | Listening | Damaged


def escape(data: bytes) -> str:
    """Return bytes as Redis prints them between the quotes of a MONITOR argument."""
    if _PLAIN.match(data):
        return data.decode("ascii")
    return "".join(_PRINTED[byte] for byte in data)


def unescape(text: str) -> bytes:
    """Return the bytes that Redis printed; the inverse of :func:`escape`."""
    data = text.encode("latin-1")
    if b"\\" not in data:
        return data
    return _ESCAPE.sub(_unescape_one, data)


def _unescape_one(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code[1:], 16)]) if len(code) == 3 else _NAMED.get(code, code)


def split_arguments(text: bytes) -> list[str] | None:
    """Split ``"GET" "k"`` into its arguments, still escaped; None if the line is damaged.

    Left to right: a backslash takes the next byte with it, the first bare quote closes, then a
    space or the end must follow. Without a backslash, splitting on ``" "`` is the same.
    """
    if b"\\" not in text:
        return text[1:-1].decode("latin-1").split('" "') if len(text) > 1 and text.endswith(b'"') else None
    args, at = [], 0
    while at < len(text):
        if (match := _ARGUMENT.match(text, at)) is None:
            return None
        args.append(match[1].decode("latin-1"))
        at = match.end()
    return args


def parse_line(line: bytes) -> MonitorLine | None:
    """Parse one MONITOR line without its ``+`` and line end; None if it is damaged."""
    if (match := _LINE.match(line)) is None or (args := split_arguments(match[5])) is None:
        return None
    return MonitorLine(int(match[1]) * 1_000_000 + int(match[2]), int(match[3]), match[4].decode("latin-1"), args)


class _FrameReader:
    """Cuts a byte stream into RESP frames; a frame cut off by the end is left out."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffer = b""
        self._at = 0
        self._dropped = 0

    @property
    def offset(self) -> int:
        """Bytes of the stream read so far, as far as frames go."""
        return self._dropped + self._at

    def _more(self) -> bool:
        chunk = self._file.read(_CHUNK_BYTES)
        self._dropped += self._at
        self._buffer = self._buffer[self._at :] + chunk
        self._at = 0
        return bool(chunk)

    def key_event(self) -> KeyEvent | None:
        """Return the next frame if it is a key event that has arrived whole; else None, and nothing is taken."""
        if (match := _KEY_EVENT.match(self._buffer, self._at)) is None:
            return None
        start = match.end()
        end = start + int(match[3])
        if len(self._buffer) < end + 2:
            return None
        self._at = end + 2
        return KeyEvent(int(match[1]), match[2].decode("latin-1"), escape(self._buffer[start:end]))

    def line(self) -> bytes | None:
        """Return the bytes up to the next line end, without it; None at the end of the stream."""
        while (end := self._buffer.find(b"\r\n", self._at)) < 0:
            if not self._more():
                return None
        line = self._buffer[self._at : end]
        self._at = end + 2
        return line

    def bulk(self, size: int) -> bytes | None:
        """Return the next `size` bytes and skip the line end behind them."""
        while len(self._buffer) - self._at < size + 2:
            if not self._more():
                return None
        data = self._buffer[self._at : self._at + size]
        self._at += size + 2
        return data


class StreamReader:
    """Iterates over what a captured stream holds, in stream order.

    MONITOR's own reply ``+OK`` is skipped; bytes that cannot be understood come as `Damaged`. A
    frame that the end cuts off is dropped.

    Attributes
    ----------
    offset : int
        Bytes of the stream up to the end of the item that came last.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._frames = _FrameReader(file)

    @property
    def offset(self) -> int:
        """Bytes of the stream up to the end of the item that came last."""
        return self._frames.offset

    def __iter__(self) -> Iterator[StreamItem]:
        frames = self._frames
        while True:
            while event := frames.key_event():
                yield event
            if (head := frames.line()) is None:
                return
            kind = head[:1]
            if kind == b"+":
                if head != b"+OK":
                    yield parse_line(head[1:]) or Damaged(head)
            elif kind in (b"*", b">") and head[1:].isdigit():
                parts = _elements(frames, int(head[1:]))
                if parts is None:
                    return
                if item := _message(parts):
                    yield item
            else:
                yield Damaged(head)


def _message(parts: list[bytes]) -> StreamItem | None:
    """Return what a pushed message says; None for a confirmation before the last one."""
    if len(parts) != 3:
        return Damaged(b" ".join(parts))
    kind, channel, text = parts
    ours = channel.startswith(MARK_CHANNEL.encode())
    if kind == b"message" and ours:
        return Mark(text.decode("latin-1"))
    if kind == b"message" and (match := _CHANNEL.match(channel)):
        return KeyEvent(int(match[1]), match[2].decode("latin-1"), escape(text))
    if kind == b"subscribe":
        return Listening() if ours else None
    return Damaged(b" ".join(parts))


def _elements(frames: _FrameReader, count: int) -> list[bytes] | None:
    parts = []
    for _ in range(count):
        if (head := frames.line()) is None:
            return None
        if head[:1] == b"$" and head[1:].isdigit():
            if (data := frames.bulk(int(head[1:]))) is None:
                return None
            parts.append(data)
        else:
            parts.append(head[1:])
    return parts
