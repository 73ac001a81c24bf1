"""What a check returns: a finding, ruled out with its reason, or not testable with what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from coldcache.case import Case
from coldcache.commands import FLUSHES
from coldcache.memory.survivors import Survivors, heap_survivors
from coldcache.replay.ledger import EXACT, Ledger, counter_rise, miss_ledger

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finding:
    """A cause that the evidence shows.

    Attributes
    ----------
    verdict : ``confirmed`` or ``suspected``
    confidence : float, 0 to 1
        How far the decisive measure lies above its control, 1 being as far as it can; not a
        probability.
    claims : boolean array over the ledger's reads
        The misses that this repair alone would have turned into hits.
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
    claims: np.ndarray
    families: tuple[dict[str, str], ...] = ()
    edit: str | None = None
    useless_hits: int = 0
    memory_bytes: int = 0


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
    def of(cls, case: Case) -> Investigation:
        """Return the investigation of a case."""
        return cls(case, miss_ledger(case))

    @cached_property
    def info(self) -> pd.DataFrame:
        """INFO's series."""
        return self.case.table("info")

    @cached_property
    def key_events(self) -> pd.DataFrame:
        """Removals of keys."""
        return self.case.table("key_events")

    @cached_property
    def flushes(self) -> pd.DataFrame:
        """FLUSHALL and FLUSHDB lines: ``epoch``, ``seq``, ``t``, ``db``, ``command``."""
        accesses = self.case.accesses[["epoch", "seq", "t", "db", "command"]]
        return accesses[accesses["command"].astype("str").isin(FLUSHES)]

    @cached_property
    def survivors(self) -> Survivors:
        """Bytes of the process that were never freed."""
        return heap_survivors(self.case, self.ledger)

    @property
    def exact(self) -> bool:
        """Whether the outcome of every counted read is known."""
        return self.ledger.mode == EXACT

    @cached_property
    def is_miss(self) -> np.ndarray:
        """Boolean over the ledger's reads."""
        return self.ledger.reads["outcome"].eq("miss").to_numpy()

    def no_claims(self) -> np.ndarray:
        """Return a claim on no miss."""
        return np.zeros(len(self.ledger.reads), dtype=bool)

    def counter_delta(self, counter: str) -> int | None:
        """Return by how much one of INFO's counters rose while it was recorded; None where INFO lacks it."""
        return counter_rise(self.info, counter)


Check = Callable[[Investigation], list[Outcome]]


def percent(share: float) -> str:
    """Return a share as a percentage for a sentence: ``41 %``, ``99.7 %`` near the ends, never a false 100 %."""
    if share in (0.0, 1.0) or 0.01 <= share <= 0.99:
        return f"{share * 100:.0f} %"
    return f"{min(share, 0.999) * 100:.1f} %" if share > 0.99 else f"{max(share, 0.001) * 100:.1f} %"
