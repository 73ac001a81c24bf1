"""What a check returns: a finding, ruled out with its reason, or not testable with what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd

from coldcache.case import Case
from coldcache.memory.survivors import Survivors, heap_survivors
from coldcache.replay.ledger import EXACT, Ledger, counter_rise, miss_ledger
from coldcache.replay.replayed import Bools, Replayed
from coldcache.shards.workers import Workers

CONFIRMED, SUSPECTED = "confirmed", "suspected"
RECORD_EXACT = "commands and key events together: coldcache record --mode exact"

# The vocabulary of causes: fixed ids.
CAUSES = (
    "metric_distortion", "incomplete_capture", "cold_start", "low_reuse",
    "key_naming", "key_prefix", "key_version", "key_hash", "wrong_db", "unique_key", "key_collision",
    "ttl_unit", "ttl_zero", "ttl_short", "ttl_lost",
    "eviction", "write_rejected", "monitor_backlog", "fat_values",
    "serialization", "hit_unused",
    "set_skipped", "invalidation_storm", "flush", "stampede",
    "heap_leak", "unbounded_cache", "fragmentation", "gc_pressure", "key_growth", "stream_backlog", "connection_churn",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evidence:
    """One measured fact. `control`: the same measure where the cause cannot act; None without one."""

    what: str
    value: float | int
    control: float | int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of the contract."""
        return {"what": self.what, "value": _rounded(self.value), "control": _rounded(self.control)}


def _rounded(number: float | int | None) -> float | int | None:
    return round(float(number), 4) if isinstance(number, float | np.floating) else number


@dataclass(frozen=True, slots=True)
class Fix:
    """A repair: its id, what to do in words, and code or configuration to paste."""

    id: str
    text: str
    code: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form of the contract."""
        return {"id": self.id, "text": self.text, "code": self.code}


class Claim(Protocol):
    """Tells the misses that a repair alone would have turned into hits, a shard at a time."""

    def mask(self, replayed: Replayed) -> Bools:
        """Return them, as one element a row of the shard."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finding:
    """A cause that the evidence shows.

    Attributes
    ----------
    verdict : ``confirmed`` or ``suspected``
    confidence : float, 0 to 1
        How far the decisive measure lies above its control, 1 being as far as it can; not a
        probability.
    claims : tuple of Claim
        Together they tell the misses that this repair alone would have turned into hits.
    claimed, claimed_lookups : int
        How many reads these are, and how many look-ups of INFO's.
    useless_hits : int
        Hits whose value could not be used.
    memory_bytes : int
        Growth of the process that it explains.
    """

    cause: str
    verdict: str
    confidence: float
    summary: str
    evidence: tuple[Evidence, ...]
    fix: Fix
    claims: tuple[Claim, ...] = ()
    claimed: int = 0
    claimed_lookups: int = 0
    families: tuple[dict[str, str], ...] = ()
    edit: str | None = None
    useless_hits: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Advice:
    """What the audit found: no cause of a miss, and no alert.

    cause : the one that it may lead to, of the vocabulary
    """

    cause: str
    summary: str
    evidence: tuple[Evidence, ...]
    fix: Fix


@dataclass(frozen=True, slots=True)
class RuledOut:
    """A cause that the evidence excludes, and why."""

    cause: str
    why: str


@dataclass(frozen=True, slots=True)
class NotTestable:
    """A cause that this case cannot decide, and what would."""

    cause: str
    needs: str


Outcome = Finding | RuledOut | NotTestable


@dataclass(frozen=True, eq=False)
class Investigation:
    """What every check may look at: the case and what follows from it, computed once."""

    case: Case
    ledger: Ledger = field(repr=False)

    @classmethod
    def of(cls, case: Case, workers: Workers | None = None) -> Investigation:
        """Return the investigation of a case."""
        return cls(case, miss_ledger(case, workers))

    @cached_property
    def info(self) -> pd.DataFrame:
        """INFO's series."""
        return self.case.table("info")

    @property
    def flushed(self) -> bool:
        """Whether a FLUSHALL or FLUSHDB was recorded."""
        return bool(len(self.ledger.replays.shards.flushes["seq"]))

    @cached_property
    def survivors(self) -> Survivors:
        """Bytes of the process that were never freed."""
        return heap_survivors(self.case, self.ledger)

    @property
    def exact(self) -> bool:
        """Whether the outcome of every counted read is known."""
        return self.ledger.mode == EXACT

    def by_family(self, **columns: np.ndarray) -> pd.DataFrame:
        """Return columns with one element a family as a frame indexed by its name, sorted."""
        index = pd.Index(self.ledger.families, dtype="str", name="family")
        return pd.DataFrame(columns, index=index).sort_index()

    def counter_delta(self, counter: str) -> int | None:
        """Return by how much one of INFO's counters rose while it was recorded; None where INFO lacks it."""
        return counter_rise(self.info, counter)


def union(claims: tuple[Claim, ...], replayed: Replayed) -> Bools:
    """Return the rows of a shard that any of the claims tells."""
    mask = np.zeros(len(replayed.shard), bool)
    for claim in claims:
        mask |= claim.mask(replayed)
    return mask


Check = Callable[[Investigation], list[Outcome]]


def percent(share: float) -> str:
    """Return a share as a percentage for a sentence: ``41 %``, ``99.7 %`` near the ends, never a false 100 %."""
    if share in (0.0, 1.0) or 0.01 <= share <= 0.99:
        return f"{share * 100:.0f} %"
    return f"{min(share, 0.999) * 100:.1f} %" if share > 0.99 else f"{max(share, 0.001) * 100:.1f} %"
