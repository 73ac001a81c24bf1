"""Time to live: right value, wrong unit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

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
from coldcache.replay.inference import KEY_STATES
from coldcache.replay.replayed import Bools, Ints, Replayed
from coldcache.shards.shard import NULL

_IN_MILLISECONDS = {"PX": "EX", "PSETEX": "SETEX", "PEXPIRE": "EXPIRE"}
_LEAST_MISSES = 20
_MOST_AGES = 200_000  # of a shard: more do not move a median
_DOMINANT = 0.8  # share of a family's writes that carry the same time to live
_FAR_LATER = 3.0  # median age at the miss over the time to live; a TTL merely too short is near 1
_ROUND_SECONDS = 60
_ROUND_MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class _Suspect:
    family: str
    number: int
    form: str
    ttl: int
    misses: int
    age_ratio: float
    claimed: int
    claimed_lookups: int


@dataclass(frozen=True, slots=True)
class Outlived:
    """Claims the misses of expired keys whose time to live, a thousand times as long, would have kept them."""

    families: tuple[int, ...]

    def mask(self, replayed: Replayed) -> Bools:
        """Return them."""
        rows, _, kept = _expired(replayed, self.families)
        mask = np.zeros(len(replayed.shard), bool)
        mask[rows[kept]] = True
        return mask


def _expired_misses(investigation: Investigation) -> np.ndarray:
    """Return how many misses of each family were of a key that had expired."""
    kinds = 4 * KEY_STATES.index("expired")
    return investigation.ledger.tally.miss_rows[:, kinds : kinds + 4].sum(axis=1)


def _expired(replayed: Replayed, families: tuple[int, ...]) -> tuple[Ints, Ints, Bools]:
    """Return misses of expired keys of some families.

    Returns
    -------
    (rows, age_us, kept)
        Those whose values were written in the same epoch; how long before; and whether a time to live a thousand times as long
        would have kept them.
    """
    expired = replayed.is_miss & (replayed.state == KEY_STATES.index("expired")) & (replayed.pairs.written >= 0)
    rows = np.flatnonzero(expired & np.isin(replayed.shard.family, families))
    written = replayed.pairs.written[rows]
    age_us, ttl_ms = replayed.age_us(rows, written), replayed.shard.ttl_ms[written]
    return rows, age_us, (ttl_ms != NULL) & (age_us < ttl_ms * 1_000_000)


def _ages(families: tuple[int, ...], replayed: Replayed) -> tuple[Ints, npt.NDArray[np.float64], Ints]:
    """Return of the misses of expired keys of some families what tells whether their times to live have the wrong unit.

    Returns
    -------
    (family, age_ms, kept)
        The place of each in `families`, or of some of them; the age of the value at the miss; and how many reads, and look-ups, a
        time to live a thousand times as long would have kept, a row each of `families`.
    """
    shard = replayed.shard
    rows, age_us, kept = _expired(replayed, families)
    family = np.searchsorted(families, shard.family[rows])
    won = [np.bincount(family[kept], weights, len(families)) for weights in (None, shard.lookups[rows[kept]])]
    drawn = slice(None, None, max(1, -(-len(rows) // _MOST_AGES)))
    return family[drawn], age_us[drawn] / 1000, np.column_stack(won).astype(np.int64)


def check_ttl_unit(investigation: Investigation) -> list[Outcome]:
    """Look for times to live in milliseconds that are round in seconds, and expire far too early."""
    if not investigation.exact:
        return [NotTestable("ttl_unit", f"the times to live that were asked for. Record {RECORD_EXACT}")]
    expired = _expired_misses(investigation)
    if not expired.any():
        return [RuledOut("ttl_unit", "no read missed because its key had expired"), _short_ruled_out()]
    candidates = {
        family: asked
        for family in np.flatnonzero(expired).tolist()
        if (asked := _in_other_unit(investigation, family)) is not None
    }
    suspects = _suspects(investigation, candidates) if candidates else []
    if not suspects:
        return [RuledOut("ttl_unit", "no time to live that reads expired under is round in the other unit")]
    # The repaired value would have lived a thousand times as long.
    return [_finding(investigation, suspects, Outlived(tuple(suspect.number for suspect in suspects)))]


def _short_ruled_out() -> RuledOut:
    return RuledOut("ttl_short", "no read missed because its key had expired")


def _in_other_unit(investigation: Investigation, family: int) -> tuple[str, int] | None:
    """Return form and number of a family's times to live, if most of them look like seconds given as milliseconds."""
    tally, words = investigation.ledger.tally, investigation.ledger.replays.shards.vocabulary
    forms = tally.forms[family]
    if not forms.any() or (form := words.ttl_form[int(np.argmax(forms))]) not in _IN_MILLISECONDS:
        return None
    mine = tally.ttls[(tally.ttls[:, 0] == family) & (tally.ttls[:, 1] == words.ttl_form.index(form))]
    numbers, which = np.unique(mine[:, 2], return_inverse=True)
    times = np.bincount(which, mine[:, 3])
    number = int(numbers[np.argmax(times)])
    looks_like_seconds = number % _ROUND_SECONDS == 0 and number % _ROUND_MILLISECONDS != 0
    # A lock or a debounce is meant to be short: it is written with NX.
    conditional = tally.stored_nx[family] > 0.5 * tally.stored[family]
    dominant = times.max() >= _DOMINANT * tally.stored[family]
    return (form, number) if dominant and looks_like_seconds and not conditional else None


def _suspects(investigation: Investigation, candidates: dict[int, tuple[str, int]]) -> list[_Suspect]:
    """Return the families whose values had expired long before they were read again."""
    families = tuple(sorted(candidates))
    found = investigation.ledger.replays.map("looking at ages", partial(_ages, families))
    of, ages = (np.concatenate(columns) for columns in list(zip(*found, strict=True))[:2])
    won = np.sum([kept for _, _, kept in found], axis=0)
    suspects = []
    for place, family in enumerate(families):
        (form, number), age_ms = candidates[family], ages[of == place]
        if len(age_ms) >= _LEAST_MISSES and (ratio := float(np.median(age_ms / number))) >= _FAR_LATER:
            name = investigation.ledger.families[family]
            suspects.append(_Suspect(name, family, form, number, len(age_ms), ratio, *won[place].tolist()))
    return suspects


def _finding(investigation: Investigation, suspects: list[_Suspect], claim: Outlived) -> Finding:
    suspects = sorted(suspects, key=lambda suspect: (-suspect.misses, suspect.family))
    first = suspects[0]
    meant = _IN_MILLISECONDS[first.form]
    expired = int(_expired_misses(investigation)[[suspect.number for suspect in suspects]].sum())
    claimed = sum(suspect.claimed for suspect in suspects)
    misses = int(investigation.ledger.tally.misses.sum())
    names = " and ".join(suspect.family for suspect in suspects[:3])
    return Finding(
        cause="ttl_unit",
        verdict=CONFIRMED,
        confidence=claimed / expired if expired else 0.0,
        claims=(claim,),
        claimed=claimed,
        claimed_lookups=sum(suspect.claimed_lookups for suspect in suspects),
        families=tuple({"reads": suspect.family, "writes": suspect.family} for suspect in suspects),
        edit=f"{first.form} {first.ttl} -> {meant} {first.ttl}",
        summary=(
            f"{names} are stored for {first.ttl} milliseconds where {first.ttl} seconds were meant: "
            f"{percent(claimed / max(1, misses))} of all misses are reads of a value that "
            f"had just expired."
        ),
        evidence=(
            Evidence(
                f"median age of the value at the miss over its time to live ({first.ttl} ms); "
                "control: 1, where a time to live is merely a little short",
                first.age_ratio,
                1.0,
            ),
            Evidence("misses of a key that had expired", expired),
            Evidence(f"of these, a time to live of {first.ttl} s would have kept", claimed),
        ),
        fix=Fix(
            "ttl_unit",
            f"Give the time to live in seconds: {meant} {first.ttl} instead of {first.form} {first.ttl}.",
            f"cache.set(key, value, ex={first.ttl})      # not px={first.ttl}\n"
            f"// Node.js: await client.set(key, value, {{ EX: {first.ttl} }})\n",
        ),
    )
