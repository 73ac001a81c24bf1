"""The verdict as a notebook shows it: a card for people, JSON for programs.

The last cell of ``90_root_cause`` displays it. Its MIME type is what ``coldcache report`` reads:
an alert is a verdict, not an exception, so that the report is complete when it alerts.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from coldcache.causes.diagnosis import HEALTHY, Diagnosis
from coldcache.causes.outcomes import Advice, Evidence, Finding, percent

MIME = "application/vnd.coldcache.verdict+json"
_TITLES = {
    "key_prefix": "The cache is read under one prefix and written under another",
    "key_naming": "The cache is read under one name and written under another",
    "key_version": "Reader and writer use different versions of the key",
    "ttl_unit": "The time to live is in the wrong unit",
    "ttl_short": "Values expire before they are read again",
    "serialization": "What is stored cannot be read",
    "hit_unused": "Hits are not used",
    "heap_leak": "The process keeps memory for ever",
    "incomplete_capture": "The recording is incomplete",
    "eviction": "Redis evicts values before they are read again",
    "invalidation_storm": "Values are deleted before they are read again",
    "flush": "The cache was flushed",
    "set_skipped": "Misses are never filled",
}
_BADGES = {"healthy": "Healthy", "faulty": "Faulty", "insufficient_evidence": "Insufficient evidence"}
_STYLE = f"<style>\n{files('coldcache').joinpath('verdict.css').read_text('utf-8')}</style>"
_COLOURS = {"healthy": "#1a7f4b", "faulty": "#c0362c", "insufficient_evidence": "#9a6700"}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RootCause:
    """A diagnosis as the page one takes into a post-mortem."""

    diagnosis: Diagnosis

    def __str__(self) -> str:
        return str(self.diagnosis)

    def __repr__(self) -> str:
        return f"<RootCause {self.diagnosis.verdict}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {
            MIME: {"alert": self.diagnosis.alert, "diagnosis": self.diagnosis.to_dict()},
            "text/html": verdict_html(self.diagnosis),
            "text/plain": str(self.diagnosis),
        }


def root_cause(diagnosis: Diagnosis) -> RootCause:
    """Return the diagnosis as an object that shows itself and carries its JSON."""
    return RootCause(diagnosis)


def title_of(diagnosis: Diagnosis) -> str:
    """Return the answer as a headline of a few words."""
    if diagnosis.findings:
        first = diagnosis.findings[0]
        return _TITLES.get(first.cause, first.cause)
    return "Nothing is wrong with this cache" if diagnosis.verdict == HEALTHY else "There is too little evidence"


def verdict_html(diagnosis: Diagnosis) -> str:
    """Return the verdict as HTML: the answer, its numbers, then each finding with evidence and fix."""
    colour = _COLOURS[diagnosis.verdict]
    parts = [_STYLE, f'<div class="cc-verdict" style="--cc:{colour}">', '<div class="cc-card">']
    badge = f'<span class="cc-badge">{_BADGES[diagnosis.verdict]}</span>'
    cause = f'<span class="cc-muted">{html.escape(diagnosis.findings[0].cause)}</span>' if diagnosis.findings else ""
    parts.append(f"<p>{badge}{cause}</p><h3>{html.escape(title_of(diagnosis))}</h3>")
    parts.append(f"<p>{html.escape(diagnosis.headline)}</p>")
    parts.append(_rates(diagnosis))
    if diagnosis.findings:
        first = diagnosis.findings[0]
        if first.edit:
            parts.append(f'<p><span class="cc-edit">{html.escape(first.edit.replace(" -> ", " → "))}</span></p>')
        parts.append(f"<p><b>Do this:</b> {html.escape(first.fix.text)}</p>")
        if first.fix.code:
            parts.append(f"<pre>{html.escape(first.fix.code.rstrip())}</pre>")
    parts.append("</div>")
    for rank, (finding, count) in enumerate(zip(diagnosis.findings, diagnosis.attributed, strict=True), start=1):
        parts.append(_finding_html(diagnosis, rank, finding, count))
    parts += [_advice_html(advice) for advice in diagnosis.advice]
    parts.append("</div>")
    return "\n".join(parts)


def _rates(diagnosis: Diagnosis) -> str:
    ledger = diagnosis.ledger
    if ledger.hit_rate is None:
        return ""
    boxes = [("hit rate now" if ledger.basis != "inferred" else "hit rate now, inferred", f"{ledger.hit_rate:.1%}")]
    low, high = ledger.hit_rate_bounds
    if ledger.basis == "inferred" and low is not None and high is not None:
        boxes.append(("within these bounds", f"{low:.0%} – {high:.0%}"))
    if ledger.effective_hit_rate is not None and ledger.effective_hit_rate != ledger.hit_rate:
        boxes.append(("of that really used", f"{ledger.effective_hit_rate:.1%}"))
    if diagnosis.findings:
        first = diagnosis.findings[0]
        predicted = diagnosis.predicted_hit_rate(first)
        if predicted is not None and (first.claimed or first.useless_hits):
            boxes.append(
                ("used after the fix, predicted" if first.useless_hits else "predicted after the fix", f"{predicted:.1%}")
            )
        if first.memory_bytes:
            boxes.append(("memory kept in the recording", f"{first.memory_bytes / 1e6:.1f} MB"))
    reads = {"exact": "reads, each accounted for", "info": "reads, outcomes as INFO counts them"}
    boxes.append((reads.get(ledger.basis, "reads, outcomes inferred"), f"{ledger.total:,}"))
    boxes.append(("differ from INFO's count", "unknown" if ledger.residual is None else f"{ledger.residual:,}"))
    cells = "".join(f'<div class="cc-rate"><b>{value}</b><span class="cc-muted">{name}</span></div>' for name, value in boxes)
    return f'<div class="cc-rates">{cells}</div>'


def _finding_html(diagnosis: Diagnosis, rank: int, finding: Finding, count: int) -> str:
    misses, share_of_misses = diagnosis.ledger.misses, diagnosis.share_of_misses(count)
    if share_of_misses is None:
        share = "misses unknown"
    else:
        share = f"{count:,} of {misses:,} misses ({percent(share_of_misses)})" if count else "no misses"
    families = "".join(
        f"<li><code>{html.escape(pair['reads'])}</code>"
        + (f" is written as <code>{html.escape(pair['writes'])}</code>" if pair["reads"] != pair["writes"] else "")
        + "</li>"
        for pair in finding.families
    )
    return (
        f'<div class="cc-card"><p><b>{rank}. {html.escape(finding.cause)}</b> '
        f'<span class="cc-muted">{finding.verdict}, confidence {finding.confidence:.2f}, {share}</span></p>'
        # The first finding's summary is the headline above.
        + (f"<p>{html.escape(finding.summary)}</p>" if rank > 1 else "")
        + (f"<ul>{families}</ul>" if families else "")
        + f"{_evidence_html(finding.evidence)}</div>"
    )


def _advice_html(advice: Advice) -> str:
    code = f"<pre>{html.escape(advice.fix.code.rstrip())}</pre>" if advice.fix.code else ""
    return (
        f'<div class="cc-card"><p><b>Advice</b> <span class="cc-muted">of the audit; no miss is due to it</span></p>'
        f"<p>{html.escape(advice.summary)}</p><p><b>Do this:</b> {html.escape(advice.fix.text)}</p>{code}"
        f"{_evidence_html(advice.evidence)}</div>"
    )


def _evidence_html(evidence: tuple[Evidence, ...]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(one.what)}</td><td class='cc-n'>{_number(one.value)}</td>"
        f"<td class='cc-n'>{_number(one.control)}</td></tr>"
        for one in evidence
    )
    return f"<table><tr><th>Evidence</th><th class='cc-n'>value</th><th class='cc-n'>control</th></tr>{rows}</table>"


def _number(value: float | int | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
