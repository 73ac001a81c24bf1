"""Keys: the read and the write do not meet."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict

import numpy as np
import pandas as pd

from coldcache.causes.outcomes import (
    CONFIRMED,
    SUSPECTED,
    Evidence,
    Finding,
    Fix,
    Investigation,
    Outcome,
    RuledOut,
    percent,
)
from coldcache.keys.families import VARIABLE, key_of, variable_parts_of
from coldcache.keys.mismatch import ABSENT, MismatchedPair, mismatched_pairs
from coldcache.replay.ledger import EXACT
from coldcache.replay.lifetimes import alive

_LEAST_READS = 20  # fewer reads of a family prove nothing
_LEAST_AGREEMENT = 0.5  # (joined - control) / (1 - control); a true pair gives ~1, a wrong one ~0
_MOSTLY_MISSES = 0.5
_NEARLY_EQUAL = 0.75  # of difflib's ratio: app and app1, not lastseen and ban
_ENVIRONMENTS = frozenset(
    {"dev", "development", "test", "testing", "qa", "stage", "staging",
     "uat", "preprod", "prod", "production", "live", "local", "ci"}
)  # fmt: skip
_VERSION = re.compile(r"v?\d+([._-]\d+)*")


def check_key_mismatch(investigation: Investigation) -> list[Outcome]:
    """Look for families that are read under one name and written under another."""
    ledger = investigation.ledger
    written = ledger.writes[ledger.writes["outcome"].ne("refused")]
    candidates = _may_have_missed(investigation)
    miss_rate = pd.Series(candidates.astype(float)).groupby(ledger.reads["family"].to_numpy()).mean()
    pairs = [
        pair
        for pair in mismatched_pairs(ledger.reads, written)
        if VARIABLE in pair.reads
        and agreement(pair) >= _LEAST_AGREEMENT
        and ledger.reads["family"].eq(pair.reads).sum() >= _LEAST_READS
        and miss_rate[pair.reads] >= _MOSTLY_MISSES
    ]
    by_edit: dict[tuple[str, str], list[MismatchedPair]] = defaultdict(list)
    for pair in pairs:
        by_edit[_cause(pair), pair.edit].append(pair)
    found_all = [_finding(investigation, cause, edit, group, candidates) for (cause, edit), group in by_edit.items()]
    outcomes: list[Outcome] = [finding for finding in found_all if finding is not None]
    found = {outcome.cause for outcome in outcomes}
    why = "no family is read under one name and written under another"
    outcomes += [RuledOut(cause, why) for cause in ("key_prefix", "key_naming", "key_version") if cause not in found]
    return outcomes


def _may_have_missed(investigation: Investigation) -> np.ndarray:
    """Return the reads that missed; where that is not known, all of them may have."""
    return investigation.is_miss | (investigation.ledger.misses is None)


def _alike(written: str, read: str) -> bool:
    """Whether two tokens are variants of one name: a part in common, nearly equal, or one of them absent."""
    if ABSENT in (written, read):
        return True
    parts = [set(re.split(r"[_.\-]", token.lower())) - {""} for token in (written, read)]
    if parts[0] & parts[1] or (parts[0] <= _ENVIRONMENTS and parts[1] <= _ENVIRONMENTS):
        return True
    return difflib.SequenceMatcher(None, written.lower(), read.lower()).ratio() >= _NEARLY_EQUAL


def agreement(pair: MismatchedPair) -> float:
    """Return the share of ids joined beyond chance: 0 is what the shifted control gives, 1 is all."""
    if pair.control_share >= 1:
        return 0.0
    return (pair.joined_share - pair.control_share) / (1 - pair.control_share)


def _cause(pair: MismatchedPair) -> str:
    tokens = pair.edit.split(" -> ")
    if all(_VERSION.fullmatch(token) for token in tokens):
        return "key_version"
    return "key_prefix" if pair.leading else "key_naming"


def _finding(
    investigation: Investigation, cause: str, edit: str, pairs: list[MismatchedPair], candidates: np.ndarray
) -> Finding | None:
    """Return the finding of one edit, None where its repair would win nothing and so explains no miss."""
    reads, mode, knows = investigation.ledger.reads, investigation.ledger.mode, investigation.ledger.misses is not None
    found = np.zeros(len(reads), dtype=bool)
    for pair in pairs:
        found |= _would_have_hit(investigation, pair, candidates)
    if not found.any():
        return None
    in_families = reads["family"].isin([pair.reads for pair in pairs]).to_numpy()
    asked, won = int((in_families & candidates).sum()), int(found.sum())
    written, read = edit.split(" -> ")
    weakest = min(pairs, key=agreement)
    what = "misses" if knows else "reads"
    counted = f"{won:,} of the {asked:,} recorded {what} of {_names(pairs)} would have found their value under the other name."
    if mode == EXACT:
        counted = (
            f"{percent(asked / max(1, int(in_families.sum())))} of the reads of {_names(pairs)} miss, "
            f"and {won:,} of these {asked:,} misses would have found their value under the other name."
        )
    hits = (Evidence("reads of these families that hit", int(in_families.sum()) - asked),) if mode == EXACT else ()
    return Finding(
        cause=cause,
        # Two families of unlike names may be two things that an application reads and writes by design;
        # and where no read is known to miss, nothing may be wrong at all.
        verdict=CONFIRMED if cause == "key_prefix" and knows and _alike(written, read) else SUSPECTED,
        confidence=agreement(weakest),
        claims=found & investigation.is_miss,
        families=tuple({"reads": pair.reads, "writes": pair.writes} for pair in pairs),
        edit=edit,
        summary=f"The cache is written under {written} and read under {read}: {counted}",
        evidence=(
            Evidence(
                "share of written ids read under the other name just before; control: writes shifted in time",
                weakest.joined_share,
                weakest.control_share,
            ),
            Evidence(f"{what} whose value was alive under the other name", won),
            *hits,
        ),
        fix=Fix(
            cause,
            f"Build the key in one place, for reads and writes alike, so that {written} becomes {read}. "
            "Check which environment or configuration the writer takes its prefix from.",
            _key_builder(pairs[0].reads),
        ),
    )


def _names(pairs: list[MismatchedPair]) -> str:
    return " and ".join(pair.reads for pair in pairs[:3]) + (" and others" if len(pairs) > 3 else "")


def _would_have_hit(investigation: Investigation, pair: MismatchedPair, candidates: np.ndarray) -> np.ndarray:
    """Find the `candidates` of the read family whose counterpart under the written name was alive."""
    ledger = investigation.ledger
    chosen = ledger.reads["family"].eq(pair.reads).to_numpy() & candidates
    asked = ledger.reads.loc[chosen, ["db", "key", "epoch", "seq", "t"]]
    counterparts = {key: key_of(pair.writes, parts) for key, parts in variable_parts_of(asked["key"], pair.reads).items()}
    asked = asked.assign(key=asked["key"].map(counterparts).astype("str"))
    found = np.zeros(len(ledger.reads), dtype=bool)
    found[np.flatnonzero(chosen)] = alive(ledger, investigation.key_events, investigation.flushes, asked).to_numpy()
    return found


def _key_builder(template: str) -> str:
    names = iter(f"part_{number}" for number in range(1, 1 + template.count(VARIABLE)))
    arguments = ", ".join(f"part_{number}" for number in range(1, 1 + template.count(VARIABLE)))
    # Keys are text that others chose: their braces must not become code.
    body = "".join(
        f"{{{next(names)}}}" if piece == VARIABLE else piece.replace("{", "{{").replace("}", "}}")
        for piece in re.split(r"(\*)", template)
    )
    return (
        f'def cache_key({arguments}):\n    """The one place where this key is built, for GET and SET."""\n    return f"{body}"\n'
    )


def check_wrong_db(investigation: Investigation) -> list[Outcome]:
    """Rule out that reader and writer use different databases, where only one is used."""
    databases = pd.unique(pd.concat([investigation.ledger.reads["db"], investigation.ledger.writes["db"]]))
    if len(databases) <= 1:
        return [RuledOut("wrong_db", f"only database {int(databases[0]) if len(databases) else 0} is used")]
    return []
