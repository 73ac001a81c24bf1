"""The misses that no repair claims: what the key events alone say of them.

First touches are ``cold_start``: no repair could have made them hits. The others take the cause
that their key's last state points to; where that is many of the reads, it is a *suspected*
finding, because a key state alone does not exclude that it is meant to be so.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from coldcache.causes.outcomes import SUSPECTED, Evidence, Finding, Fix, Investigation, RuledOut, percent

COLD_START = "cold_start"
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
    its value was not there yet either.
    """
    state = reads["key_state"].astype("str")
    cause = state.map(_BY_STATE).astype("object")
    cold = reads["first_touch"] | (reads["in_flight"] & reads["fill_ms"].notna()) | reads["family"].isin(filled_elsewhere)
    never = state.isna() | ~state.isin(_BY_STATE)
    cause = cause.mask(never, _NEVER_FILLED)
    return cause.mask(never & cold, COLD_START).to_numpy(dtype=object)


def suspects(investigation: Investigation, causes: np.ndarray, unclaimed: np.ndarray) -> list[Finding]:
    """Return a suspected finding for every key state behind a noticeable share of the reads."""
    reads = investigation.ledger.reads
    findings = []
    for cause, (what, advice) in _SAYINGS.items():
        claims = unclaimed & (causes == cause)
        count = int(claims.sum())
        if count < _LEAST_MISSES or count < _NOTICEABLE * len(reads):
            continue
        families = reads.loc[claims, "family"].value_counts().index[:5]
        findings.append(
            Finding(
                cause=cause,
                verdict=SUSPECTED,
                confidence=0.5,
                claims=claims,
                families=tuple({"reads": str(name), "writes": str(name)} for name in families),
                summary=f"{percent(count / len(reads))} of the reads are misses {what}, most in {families[0]}.",
                evidence=(Evidence(f"misses {what}", count),),
                fix=Fix(cause, advice, ""),
            )
        )
    return findings


def ruled_out(investigation: Investigation, causes: np.ndarray, unclaimed: np.ndarray, decided: set[str]) -> list[RuledOut]:
    """Return the key states behind so few reads that they explain nothing, but for causes decided already."""
    reads = len(investigation.ledger.reads)
    return [
        RuledOut(cause, f"{int((unclaimed & (causes == cause)).sum()):,} of {reads:,} reads were misses {what}")
        for cause, (what, _) in _SAYINGS.items()
        if cause not in decided and reads
    ]
