"""Keys: the read and the write do not meet."""

from __future__ import annotations

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
from coldcache.keys.families import VARIABLE, variable_parts
from coldcache.keys.mismatch import MismatchedPair, mismatched_pairs
from coldcache.replay.lifetimes import alive

_LEAST_READS = 20  # fewer reads of a family prove nothing
_LEAST_AGREEMENT = 0.5  # (joined - control) / (1 - control); a true pair gives ~1, a wrong one ~0
_VERSION = re.compile(r"v?\d+([._-]\d+)*")


def check_key_mismatch(investigation: Investigation) -> list[Outcome]:
    """Look for families that are read under one name and written under another."""
    ledger = investigation.ledger
    written = ledger.writes[ledger.writes["outcome"].eq("written")]
    pairs = [
        pair
        for pair in mismatched_pairs(ledger.reads, written)
        if agreement(pair) >= _LEAST_AGREEMENT and ledger.reads["family"].eq(pair.reads).sum() >= _LEAST_READS
    ]
    by_edit: dict[tuple[str, str], list[MismatchedPair]] = defaultdict(list)
    for pair in pairs:
        by_edit[_cause(pair), pair.edit].append(pair)
    outcomes: list[Outcome] = [_finding(investigation, cause, edit, group) for (cause, edit), group in by_edit.items()]
    found = {cause for cause, _ in by_edit}
    why = "no family is read under one name and written under another"
    outcomes += [RuledOut(cause, why) for cause in ("key_prefix", "key_naming") if cause not in found]
    return outcomes


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


def _finding(investigation: Investigation, cause: str, edit: str, pairs: list[MismatchedPair]) -> Finding:
    reads = investigation.ledger.reads
    claims = np.zeros(len(reads), dtype=bool)
    for pair in pairs:
        claims |= _would_have_hit(investigation, pair)
    in_families = reads["family"].isin([pair.reads for pair in pairs]).to_numpy()
    misses = int((in_families & investigation.is_miss).sum())
    written, read = edit.split(" -> ")
    weakest = min(pairs, key=agreement)
    return Finding(
        cause=cause,
        # A leading token is the lab's ground truth; elsewhere a rename or a version can look alike.
        verdict=CONFIRMED if cause == "key_prefix" else SUSPECTED,
        confidence=agreement(weakest),
        claims=claims,
        families=tuple({"reads": pair.reads, "writes": pair.writes} for pair in pairs),
        edit=edit,
        summary=(
            f"The cache is written under {written} and read under {read}: "
            f"{percent(misses / max(1, int(in_families.sum())))} of the reads of {_names(pairs)} miss, "
            f"and {int(claims.sum()):,} of these {misses:,} misses would have found their value under the other name."
        ),
        evidence=(
            Evidence(
                "share of written ids read under the other name just before; control: writes shifted in time",
                weakest.joined_share,
                weakest.control_share,
            ),
            Evidence("misses whose value was alive under the other name", int(claims.sum())),
            Evidence("reads of these families that hit", int(in_families.sum()) - misses),
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


def _would_have_hit(investigation: Investigation, pair: MismatchedPair) -> np.ndarray:
    """Find the misses of the read family whose counterpart under the written name was alive."""
    ledger = investigation.ledger
    chosen = ledger.reads["family"].eq(pair.reads).to_numpy() & investigation.is_miss
    asked = ledger.reads.loc[chosen, ["db", "key", "seq", "t"]]
    asked = asked.assign(key=asked["key"].map(lambda key: _counterpart(key, pair)).astype("str"))
    claims = np.zeros(len(ledger.reads), dtype=bool)
    claims[np.flatnonzero(chosen)] = alive(ledger.writes, investigation.key_events, asked).to_numpy()
    return claims


def _counterpart(key: str, pair: MismatchedPair) -> str:
    parts = iter(variable_parts(key, pair.reads))
    return "".join(next(parts, "") if piece == VARIABLE else piece for piece in re.split(r"(\*)", pair.writes))


def _key_builder(template: str) -> str:
    names = iter(f"part_{number}" for number in range(1, 1 + template.count(VARIABLE)))
    arguments = ", ".join(f"part_{number}" for number in range(1, 1 + template.count(VARIABLE)))
    body = "".join(f"{{{next(names)}}}" if piece == VARIABLE else piece for piece in re.split(r"(\*)", template))
    return (
        f'def cache_key({arguments}):\n    """The one place where this key is built, for GET and SET."""\n    return f"{body}"\n'
    )


def check_wrong_db(investigation: Investigation) -> list[Outcome]:
    """Rule out that reader and writer use different databases, where only one is used."""
    databases = pd.unique(pd.concat([investigation.ledger.reads["db"], investigation.ledger.writes["db"]]))
    if len(databases) <= 1:
        return [RuledOut("wrong_db", f"only database {int(databases[0]) if len(databases) else 0} is used")]
    return []
