"""The safety watch: does the server suffer while we record?

The guardian watches our output buffer, ten times a second and more. This watch looks at what
INFO says each half second, and asks to step down from MONITOR to key events, or to stop,
when the server suffers since we began. It draws no conclusion about whose fault it is: when the
server is in trouble, we leave.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

# Five samples of half a second: a single spike is no reason to leave.
_IN_A_ROW = 5
_SLOW_FACTOR = 10.0
_SLOW_AT_LEAST_S = 0.1
_BUSY_CPU = 0.9  # of one core: Redis runs commands on one thread
_OPS_FALL_TO = 0.5
_BASELINE_SAMPLES = 4
# What a healthy capture leaves waiting for a moment on a busy machine; measured, 41 KB was seen.
_USUAL_BUFFER_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Vitals:
    """What one look at the server tells.

    reply_s : how long INFO took
    ops_per_s : commands per second since the look before
    cpu_share : CPU seconds per second since the look before; 1.0 is one busy core
    evicted : keys evicted since the look before
    buffer_bytes : what waits in the server for our capture
    """

    reply_s: float
    ops_per_s: float
    cpu_share: float
    evicted: int
    buffer_bytes: int


@dataclass
class SafetyWatch:
    """Judges a series of looks at one server.

    Parameters
    ----------
    ops_before : float or None
        Commands per second before MONITOR was on, where preflight measured it.
    """

    ops_before: float | None = None
    _first: list[float] = field(default_factory=list)
    _slow: deque[bool] = field(default_factory=lambda: deque(maxlen=_IN_A_ROW))
    _starved: deque[bool] = field(default_factory=lambda: deque(maxlen=_IN_A_ROW))
    _crowded: deque[bool] = field(default_factory=lambda: deque(maxlen=_IN_A_ROW))

    def harm(self, now: Vitals, limit_bytes: int) -> str | None:
        """Return why to leave, or None.

        Latency: INFO took ten times its usual time, and at least 0.1 s, five times in a row.
        Throughput: the server is saturated and does less than half of what it did before us.
        Eviction: keys are being evicted while half of the allowed buffer, and at least 256 KB, is in use.
        """
        if len(self._first) < _BASELINE_SAMPLES:
            self._first.append(now.reply_s)
            return None
        usual = sorted(self._first)[len(self._first) // 2]
        self._slow.append(now.reply_s > max(_SLOW_AT_LEAST_S, _SLOW_FACTOR * usual))
        saturated = now.cpu_share >= _BUSY_CPU
        self._starved.append(self.ops_before is not None and saturated and now.ops_per_s < _OPS_FALL_TO * self.ops_before)
        self._crowded.append(now.evicted > 0 and now.buffer_bytes > max(_USUAL_BUFFER_BYTES, limit_bytes // 2))
        if _all(self._slow):
            return f"INFO takes {now.reply_s * 1000:.0f} ms instead of {usual * 1000:.1f} ms: the server answers slowly"
        if _all(self._starved):
            return (
                f"the server is saturated and runs {now.ops_per_s:,.0f} commands/s instead of "
                f"{self.ops_before:,.0f} before the recording"
            )
        if _all(self._crowded):
            return f"keys are evicted while {now.buffer_bytes:,} bytes wait in the server for us"
        return None


def _all(flags: deque[bool]) -> bool:
    return len(flags) == flags.maxlen and all(flags)
