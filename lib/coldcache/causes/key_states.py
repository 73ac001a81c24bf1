"""The misses that no repair claims: what the key events alone say of them.

First touches are ``cold_start``: no repair could have made them hits. The others take the cause
that their key's last state points to; where that is many of the reads, it is a *suspected*
finding, because a key state alone does not exclude that it is meant to be so.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

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

COLD_START = "cold_start"
# A miss whose reason fell into a gap, or whose fill may have come after the end.
UNJUDGED = "incomplete_capture"
_BY_STATE = {"expired": "ttl_short", "evicted": "eviction", "deleted": "invalidation_storm", "flushed": "flush"}
_NEVER_FILLED = "set_skipped"
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


def baseline_causes(reads: pd.DataFrame, *, filled_elsewhere: set[str]) -> np.ndarray:
    """Return the cause that each read's key state points to, were it an unclaimed miss.

    A miss of a family whose values were found under another name is cold when it is unclaimed:
    its value was not there yet either. A miss of a key whose state is not known, or that ends too
    late in its epoch to tell whether a fill came, is the recording's fault, not the application's.
    """
    state = reads["key_state"].astype("str")
    cause = state.map(_BY_STATE).astype("object")
    cold = reads["first_touch"] | (reads["in_flight"] & reads["fill_ms"].notna()) | reads["family"].isin(filled_elsewhere)
    never = state.isna() | ~state.isin(_BY_STATE)
    cause = cause.mask(never, _NEVER_FILLED)
    cause = cause.mask(never & (state.isna() | ~reads["fill_known"]), UNJUDGED)
    return cause.mask(never & cold, COLD_START).to_numpy(dtype=object)


def reads_known(ledger: Ledger) -> int:
    """Return the reads that a count of misses is a share of: in ``events`` mode INFO's hits belong to them."""
    return len(ledger.reads) if ledger.knows_outcomes else ledger.total or len(ledger.reads)


def noticeable(misses: int, reads: int) -> bool:
    """Whether so many misses of all reads matter."""
    return misses >= _LEAST_MISSES and misses >= _NOTICEABLE * reads


def suspects(investigation: Investigation, causes: np.ndarray, unclaimed: np.ndarray) -> list[Finding]:
    """Return a suspected finding for every key state behind a noticeable share of the reads."""
    reads, total = investigation.ledger.reads, reads_known(investigation.ledger)
    findings = []
    for cause, (what, advice) in _SAYINGS.items():
        claims = unclaimed & (causes == cause)
        count = int(claims.sum())
        if not noticeable(count, total):
            continue
        families = reads.loc[claims, "family"].value_counts().index[:5]
        findings.append(
            Finding(
                cause=cause,
                verdict=SUSPECTED,
                confidence=0.5,
                claims=claims,
                families=tuple({"reads": str(name), "writes": str(name)} for name in families),
                summary=f"{percent(count / total)} of the reads are misses {what}, most in {families[0]}.",
                evidence=(Evidence(f"misses {what}", count),),
                fix=Fix(cause, advice, ""),
            )
        )
    return findings


def ruled_out(investigation: Investigation, causes: np.ndarray, unclaimed: np.ndarray, decided: set[str]) -> list[Outcome]:
    """Return the key states behind so few reads that they explain nothing, but for causes decided already.

    Where many misses have no known reason, or no read has a known outcome, nothing is ruled out.
    """
    reads = reads_known(investigation.ledger)
    left = [(cause, what) for cause, (what, _) in _SAYINGS.items() if cause not in decided and reads]
    if investigation.ledger.misses is None:
        return [NotTestable(cause, f"the outcome of each read. Record {RECORD_EXACT}") for cause, _ in left]
    if noticeable(unjudged := int((unclaimed & (causes == UNJUDGED)).sum()), reads):
        needs = f"a longer recording without gaps: what became of the keys of {unjudged:,} misses is not known"
        return [NotTestable(cause, needs) for cause, _ in left]
    return [
        RuledOut(cause, f"{int((unclaimed & (causes == cause)).sum()):,} of {reads:,} reads were misses {what}")
        for cause, what in left
    ]
