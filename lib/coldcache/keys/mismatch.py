"""Families that are only read against families that are only written: one cache under two names.

A pair is proposed by a small edit between the templates and proved by time: the same ids are
written shortly after they were read, far above what the same comparison gives when the writes
are shifted in time (popular ids coincide by chance: measured 0.6 to 0.77 between unrelated
families that share small ids).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from coldcache.keys.families import SEPARATORS, VARIABLE, variable_parts_of

_LONGEST_JOIN_S = 2.0  # a slower backend than this is not a cache's
_SHORTEST_JOIN_S = 0.05
_LAGS = 5  # the window, in median lags from the read to the write: wider only lets chance in
_SHIFTS_S = (7.3, 13.1, 29.7)  # circular, incommensurable with round periods
ABSENT = "(none)"  # an edit that adds or drops a token
_SEEN_TOGETHER = 0.05  # a family counts as only read if at most this share of its keys is written


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


def mismatched_pairs(reads: pd.DataFrame, writes: pd.DataFrame) -> list[MismatchedPair]:
    """Find families read under one name and written under another.

    Parameters
    ----------
    reads, writes : pandas.DataFrame
        One row per access, with ``t``, ``key`` and ``family``.

    Returns
    -------
    list of MismatchedPair
        Every read-only family with the write-only family that fits best, most reads first.
        Nothing is claimed yet: the shares say how good the fit is.
    """
    clock = np.sort(np.concatenate([_seconds(reads["t"]), _seconds(writes["t"])]))
    read_families = reads["family"].value_counts()
    write_families = writes["family"].value_counts()
    shared_reads, shared_writes = _sharing_keys(reads, writes)
    only_read = [name for name in read_families.index if name not in shared_reads]
    only_written = [name for name in write_families.index if name not in shared_writes]
    pairs = []
    for read_family in only_read:
        candidates = []
        for write_family in only_written:
            if (edit := template_edit(write_family, read_family)) is not None:
                joined, control = _joined_shares(reads, writes, read_family, write_family, clock)
                candidates.append(MismatchedPair(read_family, write_family, edit[0], edit[1], joined, control))
        if candidates:
            pairs.append(max(candidates, key=_fit))
    return pairs


def _fit(pair: MismatchedPair) -> tuple[float, float]:
    """Order candidates by how far they beat their control; where time does not tell, by likeness of the names."""
    likeness = difflib.SequenceMatcher(None, pair.reads, pair.writes).ratio()
    return round(pair.joined_share - pair.control_share, 2), likeness


def _sharing_keys(reads: pd.DataFrame, writes: pd.DataFrame) -> tuple[set[str], set[str]]:
    """Return the families read, and those written, of which enough keys occur on the other side, too."""
    # By numbers: a look-up of texts among texts costs seconds for a million of them.
    numbers, _ = pd.factorize(pd.concat([reads["key"], writes["key"]], ignore_index=True))
    read, written = numbers[: len(reads)], numbers[len(reads) :]
    found = []
    for frame, mine, others in ((reads, read, written), (writes, written, read)):
        keys = pd.DataFrame({"family": frame["family"].to_numpy(), "key": mine}).drop_duplicates("key")
        met = np.isin(keys["key"], others)
        share = pd.Series(met).groupby(keys["family"].to_numpy()).mean()
        found.append(set(share.index[share > _SEEN_TOGETHER]))
    return found[0], found[1]


def template_edit(written: str, read: str) -> tuple[str, bool] | None:
    """Return the one-place edit that turns one template into the other, or None.

    Returns
    -------
    (edit, leading)
        `edit` as ``dev_cache -> prod_cache``, an absent token as ``(none)``; `leading` when it
        stands before the first variable position.
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
    return f"{out[0] if out else ABSENT} -> {into[0] if into else ABSENT}", leading


def _levels(template: str) -> list[str]:
    levels = [""]
    for part in SEPARATORS.split(template):
        if part in (":", "/"):
            levels.append("")
        else:
            levels[-1] += part
    return levels


def _joined_shares(reads: pd.DataFrame, writes: pd.DataFrame, read: str, written: str, clock: np.ndarray) -> tuple[float, float]:
    """Return the share of writes joined to a read, and its control; `clock`: times of all accesses, sorted."""
    r, w = reads[reads["family"] == read], writes[writes["family"] == written]
    read_ids, write_ids = (
        frame["key"].map({key: "\0".join(parts) for key, parts in variable_parts_of(frame["key"], family).items()})
        for frame, family in ((r, read), (w, written))
    )
    read_s = _seconds(r["t"])
    write_s = _seconds(w["t"])
    origin = min(read_s.min(), write_s.min())
    span = max(read_s.max(), write_s.max()) - origin
    times = {name: np.sort(group.to_numpy()) for name, group in pd.Series(read_s - origin).groupby(read_ids.to_numpy())}

    def lags(ids: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return the time since the id's last read, for every write; infinite where there was none."""
        found = np.full(len(at), np.inf)
        for number, (name, when) in enumerate(zip(ids, at, strict=True)):
            seen = times.get(name)
            if seen is not None and (last := np.searchsorted(seen, when, side="right") - 1) >= 0:
                found[number] = when - seen[last]
        return found

    write_at = write_s - origin
    joined = lags(write_ids.to_numpy(), write_at)
    near = joined[joined <= _LONGEST_JOIN_S]
    window = np.clip(_LAGS * np.median(near), _SHORTEST_JOIN_S, _LONGEST_JOIN_S) if len(near) else _LONGEST_JOIN_S
    controls = []
    for shift in _SHIFTS_S if span > 0 else ():
        shifted = (write_at + shift) % span
        # A write shifted into a gap or a silent night meets no read: it says nothing of chance.
        heard = ~_in_silence(origin + shifted, clock)
        if heard.any():
            controls.append((lags(write_ids.to_numpy()[heard], shifted[heard]) <= window).mean())
    return float((joined <= window).mean()), float(np.mean(controls)) if controls else 0.0


def _in_silence(at: np.ndarray, clock: np.ndarray) -> np.ndarray:
    """Return which moments fall between two accesses that lie further apart than a join may reach."""
    after = np.clip(np.searchsorted(clock, at, side="right"), 1, len(clock) - 1)
    return clock[after] - clock[after - 1] > _LONGEST_JOIN_S


def _seconds(t: pd.Series) -> np.ndarray:
    return ((t - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(1, "s")).to_numpy()
