"""Payloads: what was stored cannot be read."""

from __future__ import annotations

import numpy as np
import pandas as pd

from coldcache.causes.outcomes import (
    CONFIRMED,
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
from coldcache.payloads import is_unreadable

_LEAST_HITS = 20
_MOSTLY = 0.5

_WAYS_OUT = {
    "python_repr": (
        "Store the encoded bytes themselves; str(), repr() or an f-string around bytes stores their picture.",
        "cache.set(key, json.dumps(result).encode(), ex=ttl)   # not str(json.dumps(result).encode())\n",
    ),
    "object_object": (
        "Encode the object before storing it.",
        "await client.set(key, JSON.stringify(result), { EX: ttl })\n",
    ),
    "node_buffer": (
        "Store the Buffer itself, or its JSON; JSON.stringify of a Buffer stores its byte numbers.",
        "await client.set(key, JSON.stringify(result), { EX: ttl })\n",
    ),
    "mojibake": (
        "Hand the bytes themselves to the client; a string made of them is encoded once more.",
        "await client.set(key, buffer, { EX: ttl })   // not buffer.toString('binary')\n",
    ),
}


def check_unused_hits(investigation: Investigation) -> list[Outcome]:
    """Look for hits that are followed by a rewrite of the same key: the value did not help."""
    if not investigation.exact:
        needs = f"single hits and the values written. Record {RECORD_EXACT}"
        return [NotTestable("serialization", needs), NotTestable("hit_unused", needs)]
    tally = investigation.ledger.tally
    hits, used = int(tally.hits.sum()), int(tally.useful.sum())
    if hits < _LEAST_HITS:
        needs = f"at least {_LEAST_HITS} hits: record longer, or after the other causes are mended"
        return [NotTestable("serialization", needs), NotTestable("hit_unused", needs)]
    families = investigation.by_family(hits=tally.hits, used=tally.useful)
    families = families[families["hits"] > 0]
    families["wasted"] = 1 - families["used"] / families["hits"]
    broken = families[(families["wasted"] >= _MOSTLY) & (families["hits"] >= _LEAST_HITS)]
    if broken.empty:
        why = f"{percent(used / hits)} of the hits were used: {hits - used:,} of {hits:,} were followed by a rewrite"
        return [RuledOut("serialization", why), RuledOut("hit_unused", why)]
    intact = families[~families.index.isin(broken.index)]
    control = float(1 - intact["used"].sum() / intact["hits"].sum()) if len(intact) else None
    formats = _formats_by_family(investigation)
    unreadable = [name for name in broken.index if is_unreadable(str(formats.get(name, "")))]
    repeated = _repeated_share(investigation)
    outcomes: list[Outcome] = []
    if unreadable:
        outcomes.append(_finding(investigation, broken.loc[unreadable], formats, control, repeated))
    else:
        outcomes.append(RuledOut("serialization", "the values of the families with rewritten hits can be read"))
    # A changed value is an update, such as a session's; the same value again is work done twice.
    if others := [name for name in broken.index if name not in unreadable and repeated.get(name, 0.0) >= _MOSTLY]:
        outcomes.append(_unused(broken.loc[others], formats, control))
    else:
        outcomes.append(RuledOut("hit_unused", "no family with readable values is rewritten with the same values"))
    return outcomes


def _repeated_share(investigation: Investigation) -> pd.Series:
    """Return, by family, the share of the rewrites after a hit that stored the same bytes again."""
    tally = investigation.ledger.tally
    rewrites = investigation.by_family(same=tally.rewrites_same, known=tally.rewrites)
    rewrites = rewrites[rewrites["known"] > 0]  # the first write of a key in the recording has nothing to compare with
    return rewrites["same"] / rewrites["known"]


def _formats_by_family(investigation: Investigation) -> pd.Series:
    """Return the commonest class of the values written, by family."""
    counts, names = investigation.ledger.tally.formats_written, investigation.ledger.replays.shards.vocabulary.value_format
    known = np.flatnonzero(counts.sum(axis=1))
    commonest = [names[int(np.argmax(counts[family]))] for family in known]
    return pd.Series(commonest, index=[investigation.ledger.families[family] for family in known], dtype="str")


def _finding(
    investigation: Investigation, broken: pd.DataFrame, formats: pd.Series, control: float | None, repeated: pd.Series
) -> Finding:
    stored = str(formats[broken.index[0]])
    kind, _, inside = stored.partition(":")
    meant = inside or "json"
    wasted = int((broken["hits"] - broken["used"]).sum())
    text, code = _WAYS_OUT.get(kind, ("Store what the reader reads: one encoder, one decoder, in one place.", ""))
    ours = [family for family, name in enumerate(investigation.ledger.families) if name in broken.index]
    written = investigation.ledger.tally.formats[ours].sum(axis=0)
    unreadable = [is_unreadable(name) for name in investigation.ledger.replays.shards.vocabulary.value_format]
    share = float(written[np.array(unreadable, bool)].sum() / written.sum())
    wasted_share = wasted / int(broken["hits"].sum())
    return Finding(
        cause="serialization",
        # The same bytes again and again: the work is repeated. Changing ones may be updates by design.
        verdict=CONFIRMED if repeated.reindex(broken.index).fillna(0.0).min() >= _MOSTLY else SUSPECTED,
        confidence=wasted_share - (control or 0.0),
        useless_hits=wasted,
        families=tuple({"reads": str(name), "writes": str(name)} for name in broken.index),
        edit=f"{kind} -> {meant}",
        summary=(
            f"{percent(wasted_share)} of the hits of {' and '.join(map(str, broken.index[:3]))} are useless: the stored "
            f"value is {_described(kind, inside)}, the reader cannot use it, and the work is done again."
        ),
        evidence=(
            Evidence("share of hits followed by a rewrite of the same key; control: the other families", wasted_share, control),
            Evidence(f"share of stored values of the class {stored}", share),
            Evidence("hits that did not help", wasted),
        ),
        fix=Fix("serialization", text, code),
    )


def _described(kind: str, inside: str) -> str:
    what = {
        "python_repr": "the Python repr of bytes, b'…'" if inside else "a Python repr",
        "object_object": "the text [object Object]",
        "node_buffer": "a Node.js Buffer as JSON",
        "json_truncated": "JSON that breaks off",
        "json_double": "JSON encoded twice",
        "utf8_mangled": "binary data mangled by a UTF-8 conversion",
        "mojibake": "bytes taken for Latin-1 characters and written as UTF-8",
        "literal_nothing": "a word for nothing (undefined, None, NaN)",
    }[kind]
    return f"{what} around {inside}" if inside else what


def _unused(broken: pd.DataFrame, formats: pd.Series, control: float | None) -> Finding:
    wasted = int((broken["hits"] - broken["used"]).sum())
    names = " and ".join(map(str, broken.index[:3]))
    return Finding(
        cause="hit_unused",
        verdict=SUSPECTED,
        confidence=wasted / int(broken["hits"].sum()) - (control or 0.0),
        useless_hits=wasted,
        families=tuple({"reads": str(name), "writes": str(name)} for name in broken.index),
        summary=(
            f"Most hits of {names} are followed by a rewrite of the same key, though the values "
            f"({', '.join(sorted({str(formats.get(name, 'unknown')) for name in broken.index}))}) look readable: either the "
            "application recomputes all the same, or it writes on every access by design."
        ),
        evidence=(
            Evidence(
                "share of hits followed by a rewrite of the same key; control: the other families",
                wasted / int(broken["hits"].sum()),
                control,
            ),
        ),
        fix=Fix("hit_unused", "Look at what the reader does after a hit: a sentinel taken for a miss, or a forced refresh.", ""),
    )
