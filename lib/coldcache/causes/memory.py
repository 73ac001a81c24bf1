"""Memory of the process."""

from __future__ import annotations

import math

from coldcache.causes.outcomes import CONFIRMED, Evidence, Finding, Fix, Investigation, NotTestable, Outcome, RuledOut
from coldcache.memory.survivors import GrowthSite

_NEEDS = (
    "a heap profile of the process: start it under memray with trace_python_allocators, "
    "as `coldcache demo` does with its analyzer"
)


def check_heap_leak(investigation: Investigation) -> list[Outcome]:
    """Look for a line whose allocations are never freed, all through the recording."""
    survivors = investigation.survivors
    if not survivors.recorded:
        return [NotTestable("heap_leak", _NEEDS)]
    leaks = survivors.leaks()
    if not leaks:
        kept = f"{survivors.size_bytes:,} bytes of {survivors.seconds:.0f} s survive in all"
        return [RuledOut("heap_leak", f"no line keeps allocating bytes that live on ({kept})")]
    return [_finding(investigation, leaks)]


def _finding(investigation: Investigation, leaks: list[GrowthSite]) -> Finding:
    first = leaks[0]
    file, function, line = first.site.rsplit(":", 2)
    judged = [share for share in first.survival if not math.isnan(share)]
    per_miss = f", about {first.bytes_per_miss:,.0f} bytes for each miss (associated in time)" if first.bytes_per_miss else ""
    evidence = [
        Evidence("least survival share over the tenths of the recording; control: 0, a bounded cache's", min(judged), 0.0),
        Evidence("surviving bytes per second, after the warm-up", round(first.rate)),
        Evidence("share of all surviving bytes", first.share),
    ]
    if first.bytes_per_miss and first.p is not None:
        evidence.append(
            Evidence("bytes per miss; p of circularly shifted misses stands as control", first.bytes_per_miss, first.p)
        )
    return Finding(
        cause="heap_leak",
        verdict=CONFIRMED,
        confidence=min(judged),
        memory_bytes=sum(site.size_bytes for site in leaks),
        summary=(
            f"The process keeps what {function} allocates ({file}, line {line}): {first.size_bytes / 1e6:.1f} MB in "
            f"{investigation.survivors.seconds:.0f} s, {first.rate * 3600 / 1e6:,.0f} MB an hour{per_miss}."
        ),
        evidence=tuple(evidence),
        fix=Fix(
            "heap_leak",
            f"Find what holds the objects that {function} makes, and drop or bound it. The call path is in memory.growth.",
            f"# {file}, line {line}: whatever keeps these objects needs a bound\n"
            "kept = collections.deque(maxlen=100)   # instead of a list\n",
        ),
    )
