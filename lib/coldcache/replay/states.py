"""What the state of the keys says of every read, by their commands, times to live and flushes alone.

Two steps: :func:`coldcache.replay.rows.access_rows` says of each row what it does to its key, :func:`trace_reads` follows
the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from coldcache.replay import state_codes as codes
from coldcache.replay.fills import FILL_WINDOW_S
from coldcache.replay.rows import SLACK_MS, AccessRows
from coldcache.replay.windows import Windows

_LEAST_SHARE_WITH_TTL = 0.95  # of a family's writes, for its keys to be taken to expire

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reads:
    """What the state of the keys says of every look-up; one element a row that counts one.

    Attributes
    ----------
    row : int32
        Position in the shard.
    family, window : int32
    lookups : uint8
        Its weight: how many look-ups INFO counts.
    seen : uint8
        ``CERTAIN_MISS``, ``CERTAIN_HIT``, ``AT_RISK`` (there, unless it was evicted) or ``OPEN``.
    kind : uint8
        What its chain began with.
    before : int32
        The read before it in its chain, -1 at the first.
    state : uint8
        What had become of the key if it was missed, see `KEY_STATES`.
    """

    row: npt.NDArray[np.int32]
    family: npt.NDArray[np.int32]
    window: npt.NDArray[np.int32]
    lookups: npt.NDArray[np.uint8]
    seen: npt.NDArray[np.uint8]
    kind: npt.NDArray[np.uint8]
    before: npt.NDArray[np.int32]
    state: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimedReads(Reads):
    """The same, with what only an estimate of their chances asks for.

    Attributes
    ----------
    t_us : int64
    hint : uint8
        Where it stands to the key's deadline.
    gap_us : int32
        Until the write that answers it, -1 without.
    """

    t_us: Ints
    hint: npt.NDArray[np.uint8]
    gap_us: npt.NDArray[np.int32]


def trace_reads(
    rows: AccessRows, windows: Windows, *, census: npt.NDArray[np.uint8] | None = None, slack_ms: float = SLACK_MS
) -> tuple[TimedReads, npt.NDArray[np.int32]]:
    """Follow every key through its commands and say what that tells of each look-up.

    Parameters
    ----------
    rows, windows
        Of :func:`coldcache.replay.rows.access_rows` and :func:`coldcache.replay.windows.info_windows`.
    census : array of uint8, one element a key, optional
        What is known of each key at the start of the log: ``NO_CENSUS``, ``CENSUS_ABSENT`` or ``CENSUS_PRESENT``.
    slack_ms : float
        How near to its deadline a key's presence stays open, milliseconds.

    Returns
    -------
    (reads, life)
        `life` : int32, one element a read: which life of a key may have ended by a counted eviction; -1 without.
    """
    count = int(np.count_nonzero((rows.lookups > 0) & (rows.key >= 0)))
    after = np.cumsum(windows.evicted)
    out = codes.trace(
        codes.Rows(**{name: getattr(rows, name) for name in codes.Rows._fields}),
        codes.Evictions(after - windows.evicted, after, windows.volatile_only),
        census, reads=count, keys=rows.keys, scopes=rows.scopes, nodes=rows.nodes,
        slack_us=round(slack_ms * 1000), fill_window_us=round(FILL_WINDOW_S * 1e6),
    )  # fmt: skip
    columns = out._asdict()
    life = columns.pop("life")
    return TimedReads(**columns), life


def family_ttl_us(longest: Floats, writes: Ints, with_ttl: Ints) -> Floats:
    """Return the longest time to live of each family, µs; infinite where part of it is written without.

    The arguments are what :func:`coldcache.replay.rows.longest_times_to_live` says of all shards: the most of the first, the
    sums of the others.
    """
    return np.where((with_ttl > 0) & (with_ttl >= _LEAST_SHARE_WITH_TTL * writes), longest, np.inf)


def join_reads(parts: Sequence[TimedReads]) -> TimedReads:
    """Return the reads of several shards as one; their rows no longer tell which shard they are in."""
    columns: dict[str, Array] = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(TimedReads)
    }
    offsets = np.cumsum([0, *(len(part.t_us) for part in parts)])
    shifted = [np.where(part.before < 0, -1, part.before + at) for part, at in zip(parts, offsets, strict=False)]
    columns["before"] = np.concatenate(shifted).astype(np.int32)
    return TimedReads(**columns)  # type: ignore[arg-type]
