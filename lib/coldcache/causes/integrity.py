"""Integrity first: is the recording complete, and is the number itself true?"""

from __future__ import annotations

import pandas as pd

from coldcache.case import Case
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
from coldcache.replay.ledger import EVENTS, counter_rise

_FEW_PERCENT = 0.02
_MOSTLY_GAPS = 0.5


def check_capture(investigation: Investigation) -> list[Outcome]:
    """Compare the recorded look-ups with INFO's counters, and what was recorded with its gaps."""
    ledger, case = investigation.ledger, investigation.case
    if ledger.residual is None or ledger.info_hits is None or ledger.info_misses is None:
        return [NotTestable("incomplete_capture", "two INFO samples: coldcache record --seconds 10")]
    counted = ledger.info_misses if ledger.mode == EVENTS else ledger.info_hits + ledger.info_misses
    share = ledger.residual / max(1, counted)
    gap_s, gap_share = gap_seconds(case)
    reasons = "; ".join(dict.fromkeys(str(gap["reason"]) for gap in case.gaps))
    if share <= _FEW_PERCENT and gap_share <= _MOSTLY_GAPS:
        what = "misses" if ledger.mode == EVENTS else "look-ups"
        why = f"recorded {what} equal INFO's count (residual {ledger.residual} of {counted:,})"
        gaps = f"; {len(case.gaps)} gap{'s' * (len(case.gaps) > 1)}, {gap_s:.1f} s, left out ({reasons})" if case.gaps else ""
        return [RuledOut("incomplete_capture", why + gaps)]
    if share <= _FEW_PERCENT:
        return [_mostly_gaps(gap_s, gap_share, reasons)]
    return [
        Finding(
            cause="incomplete_capture",
            verdict=SUSPECTED,
            confidence=min(1.0, share),
            summary=(
                f"The recording does not hold all traffic: {percent(min(1.0, share))} of the look-ups that INFO counted are "
                f"missing or extra{f' ({reasons})' if reasons else ''}. Trust no other number of this case."
            ),
            evidence=(Evidence("look-ups that differ from INFO's count, share", share, 0.0),),
            fix=Fix("incomplete_capture", "Record again, for a shorter time or at a quieter hour.", ""),
        )
    ]


def gap_seconds(case: Case) -> tuple[float, float]:
    """Return how long the gaps are, summed over the nodes, and their share of what there was to record."""
    seconds = sum((pd.Timestamp(gap["end"]) - pd.Timestamp(gap["start"])).total_seconds() for gap in case.gaps)
    nodes = len({epoch["node"] for epoch in case.epochs} | {gap["node"] for gap in case.gaps if gap.get("node")})
    span = (case.end - case.start).total_seconds() * max(1, nodes)
    return seconds, min(1.0, seconds / span) if span > 0 else 0.0


def _mostly_gaps(gap_s: float, gap_share: float, reasons: str) -> Finding:
    return Finding(
        cause="incomplete_capture",
        verdict=SUSPECTED,
        confidence=gap_share,
        summary=(
            f"The recording has gaps for {percent(gap_share)} of its time ({gap_s:.1f} s: {reasons}). What was recorded is "
            "complete, but it may not stand for the rest."
        ),
        evidence=(Evidence("share of the time that fell into gaps", gap_share, 0.0),),
        fix=Fix("incomplete_capture", "Record again, for a shorter time or at a quieter hour.", ""),
    )


def check_server_counters(investigation: Investigation) -> list[Outcome]:
    """Rule out what INFO's counters exclude."""
    outcomes: list[Outcome] = []
    evicted = investigation.counter_delta("evicted_keys")
    if evicted == 0:
        outcomes.append(RuledOut("eviction", "evicted_keys did not move (0)"))
    if _restarted(investigation.info):
        outcomes.append(NotTestable("flush", "a recording that begins after the restart: what it did to the keys was not seen"))
    elif not investigation.flushed:
        if investigation.ledger.mode == EVENTS:
            outcomes.append(NotTestable("flush", f"the commands, for no event tells of a flush. Record {RECORD_EXACT}"))
        else:
            outcomes.append(RuledOut("flush", "no FLUSHALL or FLUSHDB in the recording, and the server did not restart"))
    if (rejected := _refused(investigation)) is not None:
        if rejected == 0:
            outcomes.append(RuledOut("write_rejected", "rejected_calls did not move for any write command"))
        else:
            outcomes.append(
                NotTestable("write_rejected", f"{rejected:,} calls were rejected; which, errorstats of the case may tell")
            )
    if not investigation.exact:
        outcomes.append(NotTestable("ttl_zero", f"writes and whether they were stored. Record {RECORD_EXACT}"))
    elif not investigation.ledger.tally.refused_with_ttl.any():
        outcomes.append(RuledOut("ttl_zero", "every SET with an expiry was stored"))
    return outcomes


def _refused(investigation: Investigation) -> int | None:
    """Return how many calls the server rejected in the recorded epochs; None without two samples of one."""
    stats = investigation.case.table("commandstats")
    samples = stats.groupby(["epoch", "t"], as_index=False, observed=True)["rejected_calls"].sum()
    return counter_rise(samples.assign(seq=range(len(samples))), "rejected_calls")


def _restarted(info: pd.DataFrame) -> bool:
    """Whether a node's run id changed."""
    return "run_id" in info and bool(info.groupby("node", observed=True)["run_id"].nunique().gt(1).any())
