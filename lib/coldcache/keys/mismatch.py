"""Families that are only read against families that are only written: one cache under two names.

A pair is proposed by a small edit between the templates and proved by time: the same ids are
written shortly after they were read, far above what the same comparison gives when the writes
are shifted in time (popular ids coincide by chance: measured 0.6 to 0.77 between unrelated
families that share small ids).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coldcache.keys.families import SEPARATORS, VARIABLE
from coldcache.keys.numbering import numbers_of

_LONGEST_JOIN_US = 2_000_000  # a slower backend than this is not a cache's
_SHORTEST_JOIN_US = 50_000
_LAGS = 5  # the window, in median lags from the read to the write: wider only lets chance in
_SHIFTS_US = (7_300_000, 13_100_000, 29_700_000)  # circular, incommensurable with round periods
_WITHOUT_A_WORD = re.compile("^[:/]|[:/](?=[:/])|[:/]$")  # a separator that leads, is doubled, or trails
ABSENT = "(none)"  # an edit that adds or drops a token


@dataclass(frozen=True, slots=True)
class MismatchedPair:
    """A family that is read, the family its values are written under, and the proof.

    edit : ``written token -> read token``
    leading : whether the edit is in a leading token, before any variable position
    joined_share : share of writes whose id was read in the other family just before
    control_share : the same with the writes shifted in time, mean over three shifts
    """

    reads: str
    writes: str
    edit: str
    leading: bool
    joined_share: float
    control_share: float


def fit(pair: MismatchedPair) -> tuple[float, float]:
    """Order candidates by how far they beat their control; where time does not tell, by likeness of the names."""
    likeness = difflib.SequenceMatcher(None, pair.reads, pair.writes).ratio()
    return round(pair.joined_share - pair.control_share, 2), likeness


def template_edit(written: str, read: str) -> tuple[str, bool] | None:
    """Return the one-place edit that turns one template into the other, or None.

    Returns
    -------
    (edit, leading)
        `edit` as ``dev_cache -> prod_cache``, an absent token as ``(none)``, an empty one as the separator that it adds;
        `leading` when it stands before the first variable position.
    """
    if written == read or written.count(VARIABLE) != read.count(VARIABLE):
        return None
    # ':' and '/' set tokens apart; what '_', '-' or '.' joins stays one token: dev_cache.
    a, b = _levels(written), _levels(read)
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    out, into = a[start : len(a) - end], b[start : len(b) - end]
    if len(out) > 1 or len(into) > 1 or any(VARIABLE in level for level in out + into):
        return None
    leading = not any(VARIABLE in level for level in b[:start])
    return f"{_shown(out, written)} -> {_shown(into, read)}", leading


def _shown(levels: list[str], template: str) -> str:
    """Return a level, or none, of a template as an edit shows it."""
    if not levels:
        return ABSENT
    return levels[0] or _WITHOUT_A_WORD.findall(template)[0]


def _levels(template: str) -> list[str]:
    levels = [""]
    for part in SEPARATORS.split(template):
        if part in (":", "/"):
            levels.append("")
        else:
            levels[-1] += part
    return levels


@dataclass(frozen=True, slots=True, eq=False)
class Lags:
    """From each write of one family back to the last read of its id in another; µs, up to the longest that is joined.

    joined : of the writes as they were
    writes : how many there are
    shifted : the same of the writes shifted in time, for every shift
    heard : how many of the shifted fell into a time of which anything was recorded, for every shift
    """

    joined: npt.NDArray[np.int64]
    writes: int
    shifted: tuple[npt.NDArray[np.int64], ...]
    heard: tuple[int, ...]

    def __add__(self, other: Lags) -> Lags:
        return Lags(
            np.concatenate([self.joined, other.joined]),
            self.writes + other.writes,
            tuple(np.concatenate(both) for both in zip(self.shifted, other.shifted, strict=True)),
            tuple(mine + theirs for mine, theirs in zip(self.heard, other.heard, strict=True)),
        )

    def shares(self) -> tuple[float, float]:
        """Return the share of writes joined to a read within some median lags, and its control, 0 to 1."""
        longest, shortest = _LONGEST_JOIN_US, _SHORTEST_JOIN_US
        window = np.clip(_LAGS * np.median(self.joined), shortest, longest) if len(self.joined) else longest
        controls = [
            np.count_nonzero(lags <= window) / heard for lags, heard in zip(self.shifted, self.heard, strict=True) if heard
        ]
        joined = np.count_nonzero(self.joined <= window) / self.writes if self.writes else 0.0
        return float(joined), float(np.mean(controls)) if controls else 0.0


def lags_of(
    read_ids: npt.NDArray[np.uint64], read_us: npt.NDArray[np.int64], write_ids: npt.NDArray[np.uint64],
    write_us: npt.NDArray[np.int64], span: tuple[int, int], busy: npt.NDArray[np.int64],
) -> Lags:  # fmt: skip
    """Join writes with the reads of the same ids just before.

    Parameters
    ----------
    read_ids, write_ids : uint64
        What stands for the stars of each key, hashed.
    read_us, write_us : int64
        When, µs.
    span : (int, int)
        First and last moment of all reads and writes of the two families, of other shards, too; shifts go round in it.
    busy : int64 (n, 2)
        Start and end of every stretch of time without a silence.
    """
    origin, length = span[0], span[1] - span[0]
    numbers, _ = numbers_of(np.concatenate([read_ids, write_ids]))
    read_of, write_of = numbers[: len(read_ids)].astype(np.int64), numbers[len(read_ids) :].astype(np.int64)
    width = length + 1
    reads = np.sort(read_of * width + (read_us - origin))

    def lags(of: npt.NDArray[np.int64], at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if not len(reads):
            return np.empty(0, np.int64)
        last = reads[np.maximum(np.searchsorted(reads, of * width + at, "right") - 1, 0)]
        lag = of * width + at - last
        return lag[(lag >= 0) & (lag <= _LONGEST_JOIN_US) & (last // width == of)]

    at = write_us - origin
    shifted, heard = [], []
    for shift in _SHIFTS_US if length > 0 else ():
        moved = (at + shift) % length
        # A write shifted into a gap or a silent night meets no read: it says nothing of chance.
        told = ~_in_silence(origin + moved, busy)
        shifted.append(lags(write_of[told], moved[told]))
        heard.append(int(told.sum()))
    return Lags(lags(write_of, at), len(write_us), tuple(shifted), tuple(heard))


def _in_silence(at: npt.NDArray[np.int64], busy: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which moments fall between two accesses that lie further apart than a join may reach."""
    if not len(busy):
        return np.zeros(len(at), bool)
    stretch = np.maximum(np.searchsorted(busy[:, 0], at, "right") - 1, 0)
    return at > busy[stretch, 1]
