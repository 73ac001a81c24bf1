"""The misses that no repair claims: what the key events alone say of them.

First touches are ``cold_start``: no repair could have made them hits. The others take the cause
that their key's last state points to; where that is many of the reads, it is a *suspected*
finding, because a key state alone does not exclude that it is meant to be so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coldcache.causes.baseline import BASELINE, UNJUDGED
from coldcache.causes.outcomes import (
    RECORD_EXACT,
    SUSPECTED,
    Evidence,
    Finding,
    Fix,
    Investigation,
    NotTestable,
    Outcome,
    RuledOut,
    percent,
)
from coldcache.replay.ledger import Ledger
from coldcache.replay.replayed import Ints

_NOTICEABLE = 0.05  # share of all reads
_LEAST_MISSES = 20

_SAYINGS = {
    "ttl_short": (
        "read again after their time to live had ended",
        "Compare the reuse interval with the time to live; a longer one may catch these reads.",
    ),
    "eviction": (
        "of keys that Redis had evicted for lack of memory",
        "Compare maxmemory and maxmemory-policy with the working set.",
    ),
    "invalidation_storm": ("of keys that the application had deleted", "Look at which client deletes them, and whether it must."),
    "flush": ("of keys that a FLUSHALL or FLUSHDB had removed", "Find the client that flushes."),
    "set_skipped": (
        "of keys that were read before and never written",
        "Look at the path after a miss: an exception swallowed, a branch skipped, a null never stored. "
        "Keys that are never cached by design (locks, existence checks) look the same.",
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Unclaimed:
    """Misses that no check claims, by family and cause, int64 (families, ``BASELINE``): as reads and as look-ups."""

    reads: Ints
    lookups: Ints

    def count(self, cause: str) -> int:
        """Return how many reads are put down to a cause."""
        return int(self.reads[:, BASELINE.index(cause)].sum())


def reads_known(ledger: Ledger) -> int:
    """Return the reads that a count of misses is a share of: in ``events`` mode INFO's hits belong to them."""
    recorded = int(ledger.tally.reads.sum())
    return recorded if ledger.knows_outcomes else ledger.total or recorded


def noticeable(misses: int, reads: int) -> bool:
    """Whether so many misses of all reads matter."""
    return misses >= _LEAST_MISSES and misses >= _NOTICEABLE * reads


def suspects(investigation: Investigation, unclaimed: Unclaimed) -> list[Finding]:
    """Return a suspected finding for every key state behind a noticeable share of the reads."""
    total = reads_known(investigation.ledger)
    findings = []
    for cause, (what, advice) in _SAYINGS.items():
        count, column = unclaimed.count(cause), BASELINE.index(cause)
        if not noticeable(count, total):
            continue
        of_family = unclaimed.reads[:, column]
        most = [name for name in np.argsort(-of_family, kind="stable")[:5] if of_family[name]]
        families = [investigation.ledger.families[name] for name in most]
        findings.append(
            Finding(
                cause=cause,
                verdict=SUSPECTED,
                confidence=0.5,
                claimed=count,
                claimed_lookups=int(unclaimed.lookups[:, column].sum()),
                families=tuple({"reads": name, "writes": name} for name in families),
                summary=f"{percent(count / total)} of the reads are misses {what}, most in {families[0]}.",
                evidence=(Evidence(f"misses {what}", count),),
                fix=Fix(cause, advice, ""),
            )
        )
    return findings


def ruled_out(investigation: Investigation, unclaimed: Unclaimed, decided: set[str]) -> list[Outcome]:
    """Return the key states behind so few reads that they explain nothing, but for causes decided already.

    Where many misses have no known reason, or no read has a known outcome, nothing is ruled out.
    """
    reads = reads_known(investigation.ledger)
    left = [(cause, what) for cause, (what, _) in _SAYINGS.items() if cause not in decided and reads]
    if investigation.ledger.misses is None:
        return [NotTestable(cause, f"the outcome of each read. Record {RECORD_EXACT}") for cause, _ in left]
    if noticeable(unjudged := unclaimed.count(UNJUDGED), reads):
        needs = f"a longer recording without gaps: what became of the keys of {unjudged:,} misses is not known"
        return [NotTestable(cause, needs) for cause, _ in left]
    return [RuledOut(cause, f"{unclaimed.count(cause):,} of {reads:,} reads were misses {what}") for cause, what in left]
