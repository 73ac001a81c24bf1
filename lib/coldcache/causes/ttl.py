"""Time to live: right value, wrong unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from coldcache.causes.outcomes import (
    CONFIRMED,
    RECORD_EXACT,
    Evidence,
    Finding,
    Fix,
    Investigation,
    NotTestable,
    Outcome,
    RuledOut,
    percent,
)
from coldcache.replay.lifetimes import last_writes

_IN_MILLISECONDS = {"PX": "EX", "PSETEX": "SETEX", "PEXPIRE": "EXPIRE"}
_LEAST_MISSES = 20
_DOMINANT = 0.8  # share of a family's writes that carry the same time to live
_FAR_LATER = 3.0  # median age at the miss over the time to live; a TTL merely too short is near 1
_ROUND_SECONDS = 60
_ROUND_MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class _Suspect:
    family: str
    form: str
    number: int
    misses: int
    age_ratio: float


def check_ttl_unit(investigation: Investigation) -> list[Outcome]:
    """Look for times to live in milliseconds that are round in seconds, and expire far too early."""
    if not investigation.exact:
        return [NotTestable("ttl_unit", f"the times to live that were asked for. Record {RECORD_EXACT}")]
    reads = investigation.ledger.reads
    expired = reads["key_state"].astype("str").eq("expired").to_numpy() & investigation.is_miss
    if not expired.any():
        return [RuledOut("ttl_unit", "no read missed because its key had expired"), _short_ruled_out()]
    asked = reads.loc[expired, ["db", "key", "epoch", "seq", "t", "family"]]
    before = last_writes(investigation.ledger.writes, asked)
    # Of a key written before a gap, neither the age nor the time to live is known.
    before = before.mask(before["write_epoch"].ne(asked["epoch"]))
    age_ms = (asked["t"] - before["write_t"]) / pd.Timedelta(1, "ms")
    suspects = [
        suspect
        for family, rows in asked.groupby("family", observed=True)
        if (suspect := _suspect(investigation, str(family), age_ms.loc[rows.index].dropna())) is not None
    ]
    if not suspects:
        return [RuledOut("ttl_unit", "no time to live that reads expired under is round in the other unit")]
    # The repaired value would have lived a thousand times as long.
    caught = (age_ms < before["ttl_ms"] * 1000) & asked["family"].isin([suspect.family for suspect in suspects])
    claims = investigation.no_claims()
    claims[np.flatnonzero(expired)] = caught.to_numpy()
    return [_finding(investigation, suspects, claims)]


def _short_ruled_out() -> RuledOut:
    return RuledOut("ttl_short", "no read missed because its key had expired")


def _suspect(investigation: Investigation, family: str, age_ms: pd.Series) -> _Suspect | None:
    writes = investigation.ledger.writes
    writes = writes[writes["family"].eq(family) & writes["outcome"].eq("written")]
    forms = writes["ttl_form"].astype("str").value_counts()
    if forms.empty or forms.index[0] not in _IN_MILLISECONDS or len(age_ms) < _LEAST_MISSES:
        return None
    form = forms.index[0]
    numbers = writes.loc[writes["ttl_form"].eq(form), "ttl_ms"].value_counts()
    number, times = int(numbers.index[0]), int(numbers.iloc[0])
    looks_like_seconds = number % _ROUND_SECONDS == 0 and number % _ROUND_MILLISECONDS != 0
    # A lock or a debounce is meant to be short: it is written with NX.
    conditional = writes["condition"].astype("str").str.contains("NX").mean() > 0.5
    ratio = float((age_ms / number).median())
    if times / len(writes) < _DOMINANT or not looks_like_seconds or conditional or ratio < _FAR_LATER:
        return None
    return _Suspect(family, form, number, len(age_ms), ratio)


def _finding(investigation: Investigation, suspects: list[_Suspect], claims: np.ndarray) -> Finding:
    suspects = sorted(suspects, key=lambda suspect: (-suspect.misses, suspect.family))
    first = suspects[0]
    meant = _IN_MILLISECONDS[first.form]
    reads = investigation.ledger.reads
    in_families = reads["family"].isin([suspect.family for suspect in suspects]).to_numpy()
    expired = int((in_families & reads["key_state"].astype("str").eq("expired").to_numpy()).sum())
    names = " and ".join(suspect.family for suspect in suspects[:3])
    return Finding(
        cause="ttl_unit",
        verdict=CONFIRMED,
        confidence=float(claims.sum() / expired) if expired else 0.0,
        claims=claims,
        families=tuple({"reads": suspect.family, "writes": suspect.family} for suspect in suspects),
        edit=f"{first.form} {first.number} -> {meant} {first.number}",
        summary=(
            f"{names} are stored for {first.number} milliseconds where {first.number} seconds were meant: "
            f"{percent(claims.sum() / max(1, investigation.is_miss.sum()))} of all misses are reads of a value that "
            f"had just expired."
        ),
        evidence=(
            Evidence(
                f"median age of the value at the miss over its time to live ({first.number} ms); "
                "control: 1, where a time to live is merely a little short",
                first.age_ratio,
                1.0,
            ),
            Evidence("misses of a key that had expired", expired),
            Evidence(f"of these, a time to live of {first.number} s would have kept", int(claims.sum())),
        ),
        fix=Fix(
            "ttl_unit",
            f"Give the time to live in seconds: {meant} {first.number} instead of {first.form} {first.number}.",
            f"cache.set(key, value, ex={first.number})      # not px={first.number}\n"
            f"// Node.js: await client.set(key, value, {{ EX: {first.number} }})\n",
        ),
    )
