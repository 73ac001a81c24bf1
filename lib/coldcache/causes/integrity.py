"""Integrity first: is the recording complete, and is the number itself true?"""

from __future__ import annotations

from coldcache.causes.outcomes import SUSPECTED, Evidence, Finding, Fix, Investigation, NotTestable, Outcome, RuledOut, percent

_FEW_PERCENT = 0.02


def check_capture(investigation: Investigation) -> list[Outcome]:
    """Compare the recorded look-ups with INFO's counters."""
    ledger, case = investigation.ledger, investigation.case
    if ledger.residual is None:
        return [NotTestable("incomplete_capture", "two INFO samples: coldcache record --seconds 10")]
    counted = (ledger.info_hits or 0) + (ledger.info_misses or 0)
    share = ledger.residual / max(1, counted)
    if share <= _FEW_PERCENT and not case.gaps:
        return [
            RuledOut("incomplete_capture", f"recorded look-ups equal INFO's count (residual {ledger.residual} of {counted:,})")
        ]
    reasons = "; ".join(str(gap["reason"]) for gap in case.gaps)
    return [
        Finding(
            cause="incomplete_capture",
            verdict=SUSPECTED,
            confidence=min(1.0, share),
            claims=investigation.no_claims(),
            summary=(
                f"The recording does not hold all traffic: {percent(min(1.0, share))} of the look-ups that INFO counted are "
                f"missing or extra{f' ({reasons})' if reasons else ''}. Trust no other number of this case."
            ),
            evidence=(Evidence("look-ups that differ from INFO's count, share", share, 0.0),),
            fix=Fix("incomplete_capture", "Record again, for a shorter time or at a quieter hour.", ""),
        )
    ]


def check_server_counters(investigation: Investigation) -> list[Outcome]:
    """Rule out what INFO's counters exclude."""
    outcomes: list[Outcome] = []
    evicted = investigation.counter_delta("evicted_keys")
    if evicted == 0:
        outcomes.append(RuledOut("eviction", "evicted_keys did not move (0)"))
    restarted = "run_id" in investigation.info and investigation.info["run_id"].nunique() > 1
    if not restarted and investigation.flushes.empty:
        outcomes.append(RuledOut("flush", "no FLUSHALL or FLUSHDB in the recording, and the server did not restart"))
    if (rejected := _refused(investigation)) is not None:
        if rejected == 0:
            outcomes.append(RuledOut("write_rejected", "rejected_calls did not move for any write command"))
        else:
            outcomes.append(
                NotTestable("write_rejected", f"{rejected:,} calls were rejected; which, errorstats of the case may tell")
            )
    writes = investigation.ledger.writes
    if not (writes["outcome"].eq("refused") & writes["ttl_form"].notna() & writes["condition"].isna()).any():
        outcomes.append(RuledOut("ttl_zero", "every SET with an expiry was stored"))
    return outcomes


def _refused(investigation: Investigation) -> int | None:
    stats = investigation.case.table("commandstats")
    if stats["t"].nunique() < 2:
        return None
    ends = stats.sort_values("t").groupby("t", observed=True)["rejected_calls"].sum()
    return int(ends.iloc[-1] - ends.iloc[0])
