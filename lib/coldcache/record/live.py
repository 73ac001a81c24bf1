"""Misses by what had become of their key, counted while the stream is being written: for show only.

A scan of the bytes for key events, not a parse: it must cost little, and a key may forge a line.
The tables of the case are made from the whole stream afterwards.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from pathlib import Path

_EVENT = re.compile(
    rb"__keyevent@(\d+)__:(keymiss|expired|evicted|del|rename_from)\r\n\$\d+\r\n([^\r]*)\r\n",
)
_STATES = {b"expired": "expired", b"evicted": "evicted", b"del": "deleted", b"rename_from": "deleted"}
# What one look may read, some 5 ms of work a second that the server may want; on a busier stream the
# rest is passed over, and the shares are a sample.
_MOST_BYTES = 256 << 10
_MOST_KEYS = 500_000
_OVERLAP = 512  # an event may lie across two reads


class LiveMisses:
    """Counts keymiss events by the last thing that happened to their key.

    Attributes
    ----------
    by_state : Counter of ``never written``, ``expired``, ``evicted``, ``deleted``
    sampled : bool
        Part of a stream was passed over, so the counts are a sample.
    """

    def __init__(self) -> None:
        self.by_state: Counter[str] = Counter()
        self.sampled = False
        self._gone: OrderedDict[bytes, str] = OrderedDict()
        self._at: dict[Path, int] = {}

    def look(self, path: Path) -> None:
        """Read what has been added to a stream since the last look."""
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                at = self._at.get(path, 0)
                if size - at > _MOST_BYTES:
                    self.sampled, at = True, size - _MOST_BYTES
                file.seek(at)
                data = file.read(_MOST_BYTES)
        except OSError:
            return
        end = 0
        for match in _EVENT.finditer(data):
            end = match.end()
            key, event = match[1] + b":" + match[3], match[2]
            if event == b"keymiss":
                self.by_state[self._gone.get(key, "never written")] += 1
            else:
                self._gone[key] = _STATES[event]
                self._gone.move_to_end(key)
                if len(self._gone) > _MOST_KEYS:
                    self._gone.popitem(last=False)
        self._at[path] = at + max(end, len(data) - _OVERLAP)
