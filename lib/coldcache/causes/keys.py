"""Keys: the read and the write do not meet."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from urllib.parse import unquote

import numpy as np

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
from coldcache.keys.families import VARIABLE
from coldcache.keys.mismatch import ABSENT, Lags, MismatchedPair, fit, lags_of, template_edit
from coldcache.keys.tokens import JAVA_PREFIX
from coldcache.replay.ledger import EXACT
from coldcache.replay.lifetimes import Named, alive
from coldcache.replay.order import Moments
from coldcache.replay.replayed import Bools, Ints, Replayed
from coldcache.shards.shard import SPREAD, Shard

_LEAST_READS = 20  # fewer reads of a family prove nothing
_LEAST_AGREEMENT = 0.5  # (joined - control) / (1 - control); a true pair gives ~1, a wrong one ~0
_MOSTLY_MISSES = 0.5
_SEEN_TOGETHER = 0.05  # a family counts as only read if at most this share of its keys is written
_MOST_FAMILIES = 1000  # on either side: every one is compared with every other
_MOST_JOINED = 200_000  # writes of a pair: more do not move a share
_NEARLY_EQUAL = 0.75  # of difflib's ratio: app and app1, not lastseen and ban
_ENVIRONMENTS = frozenset(
    {"dev", "development", "test", "testing", "qa", "stage", "staging",
     "uat", "preprod", "prod", "production", "live", "local", "ci"}
)  # fmt: skip
_VERSION = re.compile(r"v?\d+([._-]\d+)*")
_JAVA = f"{JAVA_PREFIX.decode()}."  # with the point that stands for a length
_VERSION_AT_END = re.compile(r"[._-]?v\d+([._-]\d+)*$")


@dataclass(frozen=True, slots=True)
class AliveElsewhere:
    """Claims the misses of a family whose value was alive under the name of another.

    Attributes
    ----------
    read, written : int
        The families.
    """

    read: int
    written: int

    def mask(self, replayed: Replayed) -> Bools:
        """Return them."""
        return self.among(replayed, replayed.is_miss)

    def among(self, replayed: Replayed, candidates: Bools) -> Bools:
        """Return the `candidates` whose counterpart under the written name was alive."""
        shard = replayed.shard
        asked = np.flatnonzero(candidates & (shard.family == self.read))
        written = np.flatnonzero(replayed.is_done & (shard.family == self.written))
        found = np.zeros(len(shard), bool)
        if not len(asked) or not len(written):
            return found
        gone = replayed.removals
        mine = gone.family == self.written
        removed = Moments(gone.epoch[mine], gone.seq[mine], gone.t_us[mine])
        removals = Named(removed, _in_database(gone.ids[mine], gone.db[mine]), gone.db[mine])
        writes, reads = _named(shard, written), _named(shard, asked)
        ends_us, flushes = replayed.plan.ends_us, replayed.shards.flushes
        found[asked] = alive(writes, shard.ttl_ms[written], removals, flushes, ends_us, reads)
        return found


def _named(shard: Shard, rows: np.ndarray) -> Named:
    moments = Moments(shard.epoch[rows], shard.seq[rows], shard.t_us[rows])
    return Named(moments, _in_database(shard.ids[rows], shard.db[rows]), shard.db[rows])


def _in_database(ids: np.ndarray, db: np.ndarray) -> np.ndarray:
    return ids ^ (db.astype(np.uint64) * SPREAD)


def check_key_mismatch(investigation: Investigation) -> list[Outcome]:
    """Look for families that are read under one name and written under another."""
    pairs = [pair for pair in mismatched_pairs(investigation) if agreement(pair) >= _LEAST_AGREEMENT]
    by_edit: dict[tuple[str, str], list[MismatchedPair]] = defaultdict(list)
    for pair in pairs:
        by_edit[cause_of(pair.edit, leading=pair.leading), pair.edit].append(pair)
    ledger = investigation.ledger
    repairs = tuple(
        tuple(AliveElsewhere(ledger.families.index(pair.reads), ledger.families.index(pair.writes)) for pair in group)
        for group in by_edit.values()
    )
    weigh = partial(_won, repairs, ledger.misses is not None)
    won = np.sum(ledger.replays.map("weighing a repair", weigh), axis=0) if repairs else np.zeros((0, 2), np.int64)
    # A repair that would win nothing explains no miss.
    outcomes: list[Outcome] = [
        _finding(investigation, cause, edit, group, claims, int(reads), int(lookups))
        for ((cause, edit), group), claims, (reads, lookups) in zip(by_edit.items(), repairs, won, strict=True)
        if reads
    ]
    found = {outcome.cause for outcome in outcomes}
    why = "no family is read under one name and written under another"
    outcomes += [RuledOut(cause, why) for cause in ("key_prefix", "key_naming", "key_version") if cause not in found]
    return outcomes


def mismatched_pairs(investigation: Investigation) -> list[MismatchedPair]:
    """Find families read under one name and written under another.

    Returns
    -------
    list of MismatchedPair
        Every read-only family that mostly misses with the write-only family that fits best, most reads first.
        Nothing is claimed yet: the shares say how good the fit is.
    """
    tally, names = investigation.ledger.tally, investigation.ledger.families
    missed = tally.reads if investigation.ledger.misses is None else tally.misses
    only_read = (tally.read_keys > 0) & (tally.read_and_written_keys <= _SEEN_TOGETHER * tally.read_keys)
    only_written = (tally.written_keys > 0) & (tally.read_and_written_keys <= _SEEN_TOGETHER * tally.written_keys)
    suspicious = only_read & (tally.reads >= _LEAST_READS) & (missed >= _MOSTLY_MISSES * tally.reads)
    edits: dict[tuple[int, int], tuple[str, bool]] = {}
    for read in _most(tally.reads, suspicious):
        for written in _most(tally.done_writes, only_written) if VARIABLE in names[read] else ():
            if (edit := template_edit(names[written], names[read])) is not None:
                edits[read, written] = edit
    if not edits:
        return []
    steps = [max(1, -(-int(tally.done_writes[written]) // _MOST_JOINED)) for _, written in edits]
    spans = [
        (
            int(min(tally.first_us[read, 0], tally.first_us[written, 1])),
            int(max(tally.last_us[read, 0], tally.last_us[written, 1])),
        )
        for read, written in edits
    ]
    joins = tuple(_Join(*pair, *span, step) for pair, span, step in zip(edits, spans, steps, strict=True))
    lags = [
        reduce(add, of_pair)
        for of_pair in zip(*investigation.ledger.replays.map("joining keys", partial(_lags, joins)), strict=True)
    ]
    best: dict[int, MismatchedPair] = {}
    for (read, written), edit, found in zip(edits, edits.values(), lags, strict=True):
        pair = MismatchedPair(names[read], names[written], *edit, *found.shares())
        best[read] = max(best.get(read, pair), pair, key=fit)
    return list(best.values())


def _most(counts: np.ndarray, chosen: np.ndarray) -> list[int]:
    """Return the chosen families with the highest counts, in this order."""
    found = np.flatnonzero(chosen)
    return [int(family) for family in found[np.argsort(-counts[found], kind="stable")][:_MOST_FAMILIES]]


@dataclass(frozen=True, slots=True)
class _Join:
    """Two families to join: where they are read and written in time, µs; of so many ids one is looked at."""

    read: int
    written: int
    start_us: int
    end_us: int
    step: int


def _lags(joins: tuple[_Join, ...], replayed: Replayed) -> list[Lags]:
    """Return the lags of every pair in one shard."""
    shard, is_done = replayed.shard, replayed.is_done
    found = []
    for join in joins:
        drawn = (shard.ids >> np.uint64(8)) % np.uint64(join.step) == 0
        read = np.flatnonzero(replayed.is_read & (shard.family == join.read) & drawn)
        written = np.flatnonzero(is_done & (shard.family == join.written) & drawn)
        span = (join.start_us, join.end_us)
        found.append(
            lags_of(shard.ids[read], shard.t_us[read], shard.ids[written], shard.t_us[written], span, replayed.shards.busy)
        )
    return found


def _alike(written: str, read: str) -> bool:
    """Whether two tokens are variants of one name: a part in common, nearly equal, spellings or versions of it, or one absent."""
    if ABSENT in (written, read) or _versions_of_one(written, read) or _spelt(written) == _spelt(read):
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


def cause_of(edit: str, *, leading: bool) -> str:
    """Return which cause an edit of one token is: another version, another spelling of one name, or another prefix.

    `leading` : whether the token stands before the first variable position.
    """
    written, read = edit.split(" -> ")
    if _versions_of_one(written, read):
        return "key_version"
    alike = ABSENT not in (written, read) and _spelt(written) == _spelt(read)
    return "key_prefix" if leading and not alike else "key_naming"


def _versions_of_one(written: str, read: str) -> bool:
    """Whether two tokens are two versions, or one name with two versions at its end."""
    stems = {_VERSION_AT_END.sub("", token) for token in (written, read)}
    return all(_VERSION.fullmatch(token) for token in (written, read)) or (len(stems) == 1 and "" not in stems)


def _spelt(token: str) -> str:
    """Return a name without what different spellings of it differ in: encoding, case, separators, a plural's ending."""
    plain = unquote(token.removeprefix(_JAVA))
    return re.sub(r"ies$", "y", re.sub(r"[^a-z0-9]", "", plain.lower())).removesuffix("s")


def _won(repairs: tuple[tuple[AliveElsewhere, ...], ...], known: bool, replayed: Replayed) -> Ints:
    """Return how many reads, and look-ups, the claims of each repair tell among all of a shard that may have missed."""
    candidates = replayed.is_miss if known else replayed.is_read
    won = []
    for claims in repairs:
        mask = np.logical_or.reduce([claim.among(replayed, candidates) for claim in claims])
        won.append((mask.sum(), replayed.shard.lookups[mask].sum()))
    return np.array(won, np.int64)


def _finding(
    investigation: Investigation, cause: str, edit: str, pairs: list[MismatchedPair], claims: tuple[AliveElsewhere, ...],
    won: int, lookups: int,
) -> Finding:  # fmt: skip
    """Return the finding of one edit, whose repair would win so many reads, and look-ups."""
    ledger = investigation.ledger
    mode, knows, tally = ledger.mode, ledger.misses is not None, ledger.tally
    families = sorted({claim.read for claim in claims})
    reads = int(tally.reads[families].sum())
    asked = int(tally.misses[families].sum()) if knows else reads
    written, read = edit.split(" -> ")
    weakest = min(pairs, key=agreement)
    what = "misses" if knows else "reads"
    counted = f"{won:,} of the {asked:,} recorded {what} of {_names(pairs)} would have found their value under the other name."
    if mode == EXACT:
        counted = (
            f"{percent(asked / max(1, reads))} of the reads of {_names(pairs)} miss, "
            f"and {won:,} of these {asked:,} misses would have found their value under the other name."
        )
    hits = (Evidence("reads of these families that hit", reads - asked),) if mode == EXACT else ()
    return Finding(
        cause=cause,
        # Two families of unlike names may be two things that an application reads and writes by design;
        # and where no read is known to miss, nothing may be wrong at all.
        verdict=CONFIRMED if knows and _alike(written, read) else SUSPECTED,
        confidence=agreement(weakest),
        claims=claims if knows else (),
        claimed=won if knows else 0,
        claimed_lookups=lookups if knows else 0,
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
    databases = sorted(investigation.ledger.tally.databases)
    if len(databases) <= 1:
        return [RuledOut("wrong_db", f"only database {databases[0] if databases else 0} is used")]
    return []
