"""The diagnosis: every miss has one cause, every check an outcome, the whole a verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from coldcache.case import Case, iso
from coldcache.causes import integrity, key_states, keys, memory, payloads, ttl
from coldcache.causes.audit import audit
from coldcache.causes.baseline import BASELINE, COLD_START, UNJUDGED, baseline_causes, by_cause
from coldcache.causes.key_states import Unclaimed
from coldcache.causes.outcomes import (
    CAUSES,
    CONFIRMED,
    Advice,
    Check,
    Claim,
    Finding,
    Investigation,
    NotTestable,
    RuledOut,
    union,
)
from coldcache.memory.survivors import Survivors
from coldcache.memory.trends import Trend, trend, unexplained_growth
from coldcache.replay.ledger import Ledger
from coldcache.replay.replayed import Ints, Replayed, family_table
from coldcache.shards.workers import Workers
from coldcache.showing import SelfShowing

SCHEMA_VERSION = 1
HEALTHY, FAULTY, INSUFFICIENT = "healthy", "faulty", "insufficient_evidence"
_CHECKS: tuple[Check, ...] = (
    integrity.check_capture,
    integrity.check_server_counters,
    keys.check_key_mismatch,
    keys.check_wrong_db,
    ttl.check_ttl_unit,
    payloads.check_unused_hits,
    memory.check_heap_leak,
)
_NO_CHECK_YET = "a later version of coldcache: this one has no check for it"
# RSS minus heap may widen by so much before it is called unexplained.
_GAP_BYTES = 16 << 20
_COMMANDS_ONLY = (
    "This recording holds commands only, which tell too little of what missed: save INFO before and after such a log, or record "
    "with coldcache record --mode exact."
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Diagnosis(SelfShowing):
    """What is wrong with a cache, how that is known, and what would mend it.

    Attributes
    ----------
    verdict : ``healthy``, ``faulty`` or ``insufficient_evidence``
    findings : the causes, what matters most first
    advice : what the audit of the server's set-up found: nobody's miss
    misses : pandas.DataFrame, one row per cause: ``cause``, ``count``, ``share``; sums to all misses,
        empty where they are not known
    miss_causes : MissCauses
        Tells the cause of each miss, a shard at a time.
    """

    case: Case
    ledger: Ledger
    verdict: str
    findings: tuple[Finding, ...]
    attributed: tuple[int, ...]
    advice: tuple[Advice, ...]
    misses: pd.DataFrame
    miss_causes: MissCauses
    ruled_out: tuple[RuledOut, ...]
    not_testable: tuple[NotTestable, ...]
    survivors: Survivors
    redis_memory: Trend | None
    rss: Trend | None
    gap_bytes: int | None

    @property
    def headline(self) -> str:
        """The answer in one sentence."""
        if self.findings and self.ledger.misses is None:
            return f"{self.findings[0].summary} {_COMMANDS_ONLY}"
        if self.findings:
            return self.findings[0].summary
        if self.verdict == HEALTHY:
            inferred = ", inferred" if self.ledger.basis == "inferred" else ""
            cold = self._missed(COLD_START)
            return (
                f"The cache works: hit rate {self.ledger.hit_rate:.1%}{inferred}, and {cold:,} of the {self.ledger.misses:,} "
                "misses are first reads of a key, which no repair can avoid."
            )
        if self.ledger.total == 0:
            return "There are no reads in this recording, so nothing can be said about the cache."
        if self.ledger.misses is None:
            return _COMMANDS_ONLY
        if self.ledger.hits == 0:
            return "No read of this recording hit, and no cause stands out: record longer, or a busier hour."
        if self.ledger.hits is None:
            return "Only misses were recorded, without INFO, so the hit rate is not known: record with --mode exact."
        return (
            f"{self._missed(UNJUDGED):,} of the {self.ledger.misses:,} misses cannot be judged: a gap, or the end of "
            "the recording, hides what became of their keys. Record longer, without gaps."
        )

    def _missed(self, cause: str) -> int:
        return int(self.misses.loc[self.misses["cause"].eq(cause), "count"].sum())

    @property
    def alert(self) -> bool:
        """Whether something is wrong with the cache: exit status 2."""
        return bool(self.findings)

    def predicted_hit_rate(self, finding: Finding) -> float | None:
        """Return the hit rate were that finding alone repaired: its misses become hits."""
        if not self.ledger.total or self.ledger.hits is None or finding.memory_bytes:
            return None
        return (self.ledger.hits + finding.claimed_lookups) / self.ledger.total

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of the contract."""
        ledger, case = self.ledger, self.case
        return {
            "schema": SCHEMA_VERSION,
            "case": {
                "path": case.shown_as,
                "start": iso(case.start),
                "end": iso(case.end),
                "nodes": max(1, len({epoch["node"] for epoch in case.epochs})),
                "commands": ledger.replays.shards.commands,
                "gaps": case.gaps,
            },
            "verdict": self.verdict,
            "reads": {
                "total": ledger.total,
                "hits": ledger.hits,
                "misses": ledger.misses,
                "basis": ledger.basis,
                "hit_rate": _round(ledger.hit_rate),
                "hit_rate_low": _round(ledger.hit_rate_bounds[0]),
                "hit_rate_high": _round(ledger.hit_rate_bounds[1]),
                "effective_hit_rate": _round(ledger.effective_hit_rate),
                "info_hits": ledger.info_hits,
                "info_misses": ledger.info_misses,
                "residual": ledger.residual,
            },
            "misses": [
                {"cause": row["cause"], "count": int(row["count"]), "share": _round(row["share"])}
                for row in self.misses.to_dict("records")
            ],
            "findings": [
                self._finding_dict(rank, finding, count)
                for rank, (finding, count) in enumerate(zip(self.findings, self.attributed, strict=True), start=1)
            ]
            + [_advice_dict(rank, advice) for rank, advice in enumerate(self.advice, start=len(self.findings) + 1)],
            "ruled_out": [{"cause": outcome.cause, "why": outcome.why} for outcome in self.ruled_out],
            "not_testable": [{"cause": outcome.cause, "needs": outcome.needs} for outcome in self.not_testable],
            "memory": self._memory_dict(),
        }

    def _finding_dict(self, rank: int, finding: Finding, count: int) -> dict[str, Any]:
        return {
            "rank": rank,
            "cause": finding.cause,
            "verdict": finding.verdict,
            "confidence": _round(min(1.0, max(0.0, finding.confidence))),
            "share_of_misses": _round(self.share_of_misses(count)),
            "misses": None if self.ledger.misses is None else count,
            "families": list(finding.families),
            "edit": finding.edit,
            "summary": finding.summary,
            "evidence": [evidence.to_dict() for evidence in finding.evidence],
            "fix": finding.fix.to_dict(),
            "predicted": {
                "hit_rate": _round(self.predicted_hit_rate(finding)),
                "redis_memory_bytes": None,
                "p95_ms": None,
            },
        }

    def share_of_misses(self, count: int) -> float | None:
        """Return `count` misses as a share of all, 0 to 1; None where the misses are not known."""
        return None if self.ledger.misses is None else count / max(1, self.ledger.misses)

    def _memory_dict(self) -> dict[str, Any]:
        unknown = {"start": None, "end": None, "slope_per_s": None}
        return {
            "redis_bytes": self.redis_memory.to_dict() if self.redis_memory else unknown,
            "rss_bytes": self.rss.to_dict() if self.rss else unknown,
            "growth": [
                {
                    "stack": list(site.stack),
                    "family": None,
                    "bytes": site.size_bytes,
                    "bytes_per_event": _round(site.bytes_per_miss, 1),
                    "ci": [_round(edge, 1) for edge in site.interval] if site.interval else None,
                    "share": _round(site.share),
                    "kind": site.kind,
                }
                for site in self.survivors.sites
            ],
            "gap": self._gap_dict(),
        }

    def _gap_dict(self) -> dict[str, Any]:
        if self.gap_bytes is None:
            return {"kind": None, "bytes": None}
        # A capture alone shows the gap, not its kind: that needs allocator statistics.
        return {"kind": "none" if self.gap_bytes < _GAP_BYTES else None, "bytes": max(0, self.gap_bytes)}

    def __str__(self) -> str:
        lines = [f"Verdict: {self.verdict.replace('_', ' ')}", f"  {self.headline}"]
        for rank, (finding, count) in enumerate(zip(self.findings, self.attributed, strict=True), start=1):
            misses = "misses unknown" if self.ledger.misses is None else f"{count:,} of {self.ledger.misses:,} misses"
            lines.append(f"{rank}. {finding.cause} ({finding.verdict}), {misses}")
            if finding.edit:
                lines.append(f"     edit       {finding.edit}")
            lines.append(f"     fix        {finding.fix.text}")
            predicted = self.predicted_hit_rate(finding)
            if predicted is not None and self.ledger.hit_rate is not None and finding.claimed:
                lines.append(f"     predicted  hit rate {self.ledger.hit_rate:.1%} -> {predicted:.1%}")
        lines += [f"Advice: {advice.summary} {advice.fix.text}" for advice in self.advice]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Diagnosis {self.case.shown_as}: {self.verdict}, {len(self.findings)} findings>"

    def checks(self) -> pd.DataFrame:
        """Return one row per cause: ``cause``, ``outcome``, ``why``; causes without any check are left out."""
        rows = [(finding.cause, finding.verdict, finding.summary) for finding in self.findings]
        rows += [(outcome.cause, "ruled out", outcome.why) for outcome in self.ruled_out]
        rows += [
            (outcome.cause, "not testable", f"needs {outcome.needs}")
            for outcome in self.not_testable
            if outcome.needs != _NO_CHECK_YET
        ]
        return pd.DataFrame(rows, columns=["cause", "outcome", "why"])


def _advice_dict(rank: int, advice: Advice) -> dict[str, Any]:
    """Return advice in the form of a finding: it costs no misses, and mending it wins none."""
    return {
        "rank": rank,
        "kind": "advice",
        "cause": advice.cause,
        "verdict": CONFIRMED,
        "confidence": 1.0,
        "share_of_misses": 0.0,
        "misses": 0,
        "families": [],
        "edit": None,
        "summary": advice.summary,
        "evidence": [evidence.to_dict() for evidence in advice.evidence],
        "fix": advice.fix.to_dict(),
        "predicted": {"hit_rate": None, "redis_memory_bytes": None, "p95_ms": None},
    }


def _round(number: float | None, digits: int = 4) -> float | None:
    return None if number is None else round(float(number), digits)


def diagnose(case: Case, workers: Workers | None = None) -> Diagnosis:
    """Run every check on a case and attribute every miss.

    Parameters
    ----------
    case : Case
    workers : Workers, optional
        Who does the work; this machine's cores by default.

    Raises
    ------
    DamagedCaseError
        A table of the case cannot be read.
    SchedulerError
        The workers of a cluster did not finish.
    """
    investigation = Investigation.of(case, workers)
    ledger = investigation.ledger
    outcomes = [outcome for check in _CHECKS for outcome in check(investigation)]
    findings = [outcome for outcome in outcomes if isinstance(outcome, Finding)]
    elsewhere = {pair["reads"] for finding in findings for pair in finding.families if pair["reads"] != pair["writes"]}
    claimed = _claimed(ledger, findings, tuple(ledger.families.index(name) for name in sorted(elsewhere)))
    unclaimed = _unclaimed(ledger, claimed)
    findings += key_states.suspects(investigation, unclaimed)
    decided = {outcome.cause for outcome in outcomes} | {finding.cause for finding in findings}
    outcomes += key_states.ruled_out(investigation, unclaimed, decided)
    counts = attribute([finding.cause for finding in findings], claimed.shared, unclaimed)
    findings = sorted(_one_per_cause(findings), key=_importance, reverse=True)
    info, process = investigation.info, case.own_process
    found = {finding.cause for finding in findings}
    return Diagnosis(
        case=case,
        ledger=ledger,
        verdict=_verdict(ledger, findings, counts),
        findings=tuple(findings),
        attributed=tuple(_attributed(finding, findings, counts) for finding in findings),
        advice=tuple(audit(case)),
        misses=_miss_table(counts, ledger.misses or 0),
        miss_causes=MissCauses(tuple((finding.cause, finding.claims) for finding in findings), claimed.elsewhere),
        ruled_out=tuple(outcome for outcome in outcomes if isinstance(outcome, RuledOut)),
        not_testable=(
            *(outcome for outcome in outcomes if isinstance(outcome, NotTestable) and outcome.cause not in found),
            *_unchecked(outcomes, findings),
        ),
        survivors=investigation.survivors,
        redis_memory=_redis_trend(info),
        rss=trend(process["t"], process["rss_bytes"]),
        gap_bytes=unexplained_growth(case.table("heap_snapshots")),
    )


def _redis_trend(info: pd.DataFrame) -> Trend | None:
    """Return the trend of the memory of all nodes together, from the moment each was sampled."""
    by_node = info.pivot_table(index="t", columns="node", values="used_memory", observed=True).ffill().dropna()
    whole = by_node.sum(axis=1)
    return trend(whole.index.to_series(), whole)


def _one_per_cause(findings: list[Finding]) -> list[Finding]:
    """Let a key state's suspicion join the finding of the same cause, if a check made one."""
    first: dict[str, Finding] = {}
    for finding in findings:
        if finding.cause in first and finding.edit is not None:
            # Another edit is another repair.
            first[f"{finding.cause}: {finding.edit}"] = finding
        elif finding.cause in first:
            kept = first[finding.cause]
            first[finding.cause] = replace(
                kept,
                claims=kept.claims + finding.claims,
                claimed=kept.claimed + finding.claimed,
                claimed_lookups=kept.claimed_lookups + finding.claimed_lookups,
                families=kept.families + finding.families,
            )
        else:
            first[finding.cause] = finding
    return list(first.values())


def _importance(finding: Finding) -> tuple[bool, int, int]:
    """Rank by the reads that a repair wins, then by the memory; a recording not to be trusted goes first."""
    won = finding.claimed + finding.useless_hits
    return finding.cause == "incomplete_capture", won, finding.memory_bytes


@dataclass(frozen=True, slots=True, eq=False)
class Claimed:
    """What findings claim of all misses.

    Attributes
    ----------
    shared : dict of a set of findings to int
        Look-ups that the findings of these numbers claim together, and no other does.
    reads, lookups : int64 (families, ``BASELINE``)
        What is claimed, by family and by what it would be put down to otherwise.
    elsewhere : tuple of int
        Families whose values were found under another name.
    """

    shared: dict[frozenset[int], int]
    reads: Ints
    lookups: Ints
    elsewhere: tuple[int, ...]


def _claimed(ledger: Ledger, findings: list[Finding], elsewhere: tuple[int, ...]) -> Claimed:
    """Count the misses that findings claim, of all shards."""
    empty = np.zeros((len(ledger.families), len(BASELINE)), np.int64)
    claimed = Claimed({}, empty, empty, elsewhere)
    claims = tuple(finding.claims for finding in findings)
    if not any(claims):
        return claimed
    for shard in ledger.replays.map("sharing the misses out", partial(_claimed_in, claims, elsewhere)):
        for those, count in shard.shared.items():
            claimed.shared[those] = claimed.shared.get(those, 0) + count
        claimed = replace(claimed, reads=claimed.reads + shard.reads, lookups=claimed.lookups + shard.lookups)
    return claimed


def _claimed_in(claims: tuple[tuple[Claim, ...], ...], elsewhere: tuple[int, ...], replayed: Replayed) -> Claimed:
    """Count the misses that findings claim in a shard."""
    shard = replayed.shard
    masks = np.array([union(of_finding, replayed) & replayed.is_miss for of_finding in claims])
    rows = np.flatnonzero(masks.any(axis=0))
    patterns, which = np.unique(masks[:, rows], axis=1, return_inverse=True)
    counts = np.bincount(which.ravel(), shard.lookups[rows], patterns.shape[1])
    shared = {frozenset(np.flatnonzero(pattern).tolist()): int(count) for pattern, count in zip(patterns.T, counts, strict=True)}
    cause = baseline_causes(replayed, elsewhere)[rows]
    reads, lookups = (family_table(shard, rows, cause, len(BASELINE), weights) for weights in (None, shard.lookups[rows]))
    return Claimed(shared, reads, lookups, elsewhere)


def _unclaimed(ledger: Ledger, claimed: Claimed) -> Unclaimed:
    """Return the misses that nothing claims, by what the states of their keys point to."""
    tally = ledger.tally
    reads, lookups = (by_cause(table, claimed.elsewhere) for table in (tally.miss_rows, tally.miss_kind_lookups))
    return Unclaimed(reads - claimed.reads, lookups - claimed.lookups)


def attribute(causes: list[str], shared: dict[frozenset[int], int], unclaimed: Unclaimed) -> dict[str, int]:
    """Give every miss one cause; a miss that several repairs would mend is shared equally.

    Parameters
    ----------
    causes : list of str
        Of the findings, by number.
    shared : dict of a set of findings to int
        Look-ups that these findings claim together.
    unclaimed : Unclaimed

    Returns
    -------
    dict of cause to whole number of look-ups
        Sums exactly to the misses: the fractions that sharing leaves go to the largest remainders.
    """
    shares: dict[str, float] = {}
    for those, count in sorted(shared.items(), key=lambda item: sorted(item[0])):
        for number in sorted(those):
            shares[causes[number]] = shares.get(causes[number], 0.0) + count / len(those)
    for number, cause in enumerate(BASELINE):
        if count := int(unclaimed.lookups[:, number].sum()):
            shares[cause] = shares.get(cause, 0.0) + count
    whole = {cause: int(share) for cause, share in shares.items()}
    left = round(sum(shares.values())) - sum(whole.values())
    for cause in sorted(shares, key=lambda name: shares[name] - whole[name], reverse=True)[:left]:
        whole[cause] += 1
    return whole


def _attributed(finding: Finding, findings: list[Finding], counts: dict[str, int]) -> int:
    """Return a finding's misses; findings of one cause with different edits have their own claims."""
    if sum(other.cause == finding.cause for other in findings) == 1:
        return counts.get(finding.cause, 0)
    return finding.claimed_lookups


@dataclass(frozen=True, slots=True)
class MissCauses:
    """Tells the cause of each miss.

    Attributes
    ----------
    claims : tuple of (cause, claims)
        Of the findings, what matters most first.
    elsewhere : tuple of int
        Families whose values were found under another name.
    """

    claims: tuple[tuple[str, tuple[Claim, ...]], ...]
    elsewhere: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The causes that there may be."""
        return tuple(dict.fromkeys([*BASELINE, *(cause for cause, _ in self.claims)]))

    def of(self, replayed: Replayed) -> npt.NDArray[np.int8]:
        """Return for each row of a shard the cause of its miss as an index in `names`; -1 for what is none."""
        labels = baseline_causes(replayed, self.elsewhere)
        for cause, claims in reversed(self.claims):
            if claims:
                labels[union(claims, replayed) & replayed.is_miss] = self.names.index(cause)
        return labels


def _miss_table(counts: dict[str, int], misses: int) -> pd.DataFrame:
    rows = sorted(((cause, count) for cause, count in counts.items() if count), key=lambda row: (-row[1], row[0]))
    table = pd.DataFrame(rows, columns=["cause", "count"])
    return table.assign(share=table["count"] / misses if misses else 0.0)


def _verdict(ledger: Ledger, findings: list[Finding], counts: dict[str, int]) -> str:
    incomplete = any(finding.cause == "incomplete_capture" for finding in findings)
    if incomplete or not ledger.total:
        return FAULTY if any(finding.memory_bytes for finding in findings) else INSUFFICIENT
    if any(finding.verdict == CONFIRMED for finding in findings):
        return FAULTY
    unjudged = key_states.noticeable(counts.get(UNJUDGED, 0), key_states.reads_known(ledger))
    return INSUFFICIENT if findings or unjudged or not ledger.hits else HEALTHY


def _unchecked(outcomes: list[Any], findings: list[Finding]) -> list[NotTestable]:
    decided = {outcome.cause for outcome in outcomes} | {finding.cause for finding in findings}
    return [NotTestable(cause, _NO_CHECK_YET) for cause in CAUSES if cause not in decided and cause != COLD_START]
