"""What is compiled of the inference gives what numpy gives."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import numpy.typing as npt
import pytest
from coldcache.commands import STRING_WRITES, Form, rules
from coldcache.replay import rows, windows
from coldcache.replay import state_codes as codes
from coldcache.replay.chains import ANSWERED, NOT_ANSWERED, NOT_TOLD, Chances, Follower, chained
from coldcache.replay.reads import counted, ended, weighed
from coldcache.replay.states import TimedReads
from coldcache.shards.shard import NULL, Shard, Vocabulary
from hypothesis import given
from hypothesis import strategies as st

FAMILIES = 3
COMMANDS = ("GET", "SET", "SETEX", "GETEX", "EXPIRE", "PEXPIREAT", "RENAME", "COPY", "BLPOP", "LPUSH", "SUNIONSTORE", "FLUSHALL")
SEEDS = st.integers(0, 2**32 - 1)


def stretches(*after_seq: int) -> windows.Windows:
    """Windows of one epoch, each behind a position in the stream."""
    count = len(after_seq) + 1
    bounds = np.linspace(0, 10_000_000, count + 1).astype(np.int64)
    return windows.Windows(
        epoch=np.zeros(count, np.int32), after_seq=np.array([-1, *after_seq]), start_us=bounds[:-1], end_us=bounds[1:],
        hits=np.full(count, -1), misses=np.full(count, -1), evicted=np.zeros(count, np.int64),
        volatile_only=np.zeros(count, bool), empty=np.zeros(count, bool), ends_us=np.full(count, 10_000_000),
    )  # fmt: skip


def some_shard(seed: int) -> Shard:
    """A shard of random rows."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 60))
    words = Vocabulary(
        node=("a", "b"), command=COMMANDS, op=("read", "write", "delete"), ttl_form=("EX", "PXAT", "EXPIRE", "PEXPIREAT"),
        condition=("NX", "XX GET", "KEEPTTL"),
    )  # fmt: skip

    def label(name: str) -> npt.NDArray[np.int16]:
        return rng.integers(-1, len(getattr(words, name)) + 1, count).astype(np.int16)

    family = rng.integers(-1 if seed % 2 else 0, FAMILIES, count).astype(np.int32)
    asked = rng.choice([NULL, 0, 1, -1, -49, -50, -51, -(10**9), 1 << 50, 1 << 61, -(1 << 61), 500], count)
    zero = {name: np.zeros(count, np.int16) for name in ("value_format", "outcome", "key_state")}
    return Shard(
        place=np.arange(count, dtype=np.uint32), t_us=np.sort(rng.integers(0, 10**10, count)),
        seq=np.arange(count, dtype=np.int64), epoch=np.zeros(count, np.int32), node=label("node"),
        client=np.zeros(count, np.int32), command=label("command"), op=label("op"), ttl_form=label("ttl_form"),
        condition=label("condition"), db=rng.integers(-1, 2, count).astype(np.int32),
        arg=rng.integers(-1, 3, count).astype(np.int32), key=rng.integers(0, 9, count).astype(np.uint64),
        ids=np.zeros(count, np.uint64), family=family, lookups=rng.integers(0, 3, count).astype(np.int8), ttl_ms=asked,
        value_bytes=np.full(count, -1), value_digest=np.zeros(count, np.uint64), vocabulary=words,
        families=("f",) * FAMILIES, **zero,
    )  # fmt: skip


def deadlines(shard: Shard) -> npt.NDArray[np.int64]:
    """When the times to live end that are asked for, or what else becomes of them."""
    words, far = shard.vocabulary, 1 << 50
    t_us, ms = shard.t_us, np.clip(shard.ttl_ms, -far, far)
    expires = words.told("command", lambda name: "EXPIRE" in name)[shard.command]
    absolute = words.told("ttl_form", lambda name: name in ("PXAT", "PEXPIREAT"))[shard.ttl_form]
    ends = np.where(ms >= far, codes.FAR, t_us + ms * 1000)
    ends = np.where(absolute & (ms * 1000 < -50_000), codes.PAST, ends)
    ends = np.where(~absolute & (ms <= 0), np.where(expires, codes.PAST, codes.REFUSED), ends)
    ends = np.where(absolute & ~expires & (ms + t_us // 1000 <= 0), codes.REFUSED, ends)
    return np.where(shard.ttl_form < 0, codes.FOREVER, np.where(shard.ttl_ms == NULL, codes.REFUSED, ends))


def effects(shard: Shard, key: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """What every row does to its key."""
    words = shard.vocabulary
    on_keys, on_target = np.array([rows._effects_of(name)[:2] for name in (*words.command, "")]).T
    pair = words.told("command", lambda name: name in rows._PAIRS and rules()[name].form == Form.PAIR)
    other = words.told("command", lambda name: name in rules() and rules()[name].target > 0) & ~pair
    target = (pair[shard.command] & (shard.arg == 1)) | (other[shard.command] & shard.is_("op", "write"))
    effect = np.where(target, on_target[shard.command], on_keys[shard.command])
    queues = set(key[shard.is_("command", "BLPOP") & (key >= 0)].tolist())
    hidden = np.array([number in queues for number in key.tolist()], bool) & (effect != codes.NOTHING)
    return np.where(hidden, codes.FORGET, effect)


@given(SEEDS)
def test_what_rows_do_to_their_keys(seed: int):
    shard = some_shard(seed)
    got = rows.access_rows(shard, stretches(7, 20, 40))
    own = got.row >= 0  # the others stand for what COPY may have done to keys of another database
    words = shard.vocabulary
    scope = list(zip(shard.node.tolist(), np.maximum(shard.db, 0).tolist(), strict=True))
    assert len(set(zip(scope, got.scope[own].tolist(), strict=True))) == len(set(scope)) == got.scopes
    named = [(*where, key) if family >= 0 else None for where, key, family in zip(scope, shard.key, shard.family, strict=True)]
    assert len(set(zip(named, got.key[own].tolist(), strict=True))) == len(set(named))
    assert [number >= 0 for number in got.key[own].tolist()] == (shard.family >= 0).tolist()
    answers = words.told("command", lambda name: 2 if name in STRING_WRITES else 1, 1)[shard.command]
    conditions = words.told("condition", lambda text: sum(rows._FLAGS[word] for word in text.split()), 0)[shard.condition]
    kinds, fixed = np.array([rows._effects_of(name)[2:] for name in (*words.command, "")]).T
    plain = {
        "effect": effects(shard, got.key[own]),
        "flags": fixed[shard.command] | conditions,
        "type": kinds[shard.command],
        "deadline_us": deadlines(shard),
        "answers": np.where(shard.is_("op", "write") & (shard.lookups == 0), answers, 0),
        "node": np.where(shard.node < 0, 2, shard.node),
        "window": np.searchsorted([7, 20, 40], shard.seq),
    }
    for name, values in plain.items():
        assert getattr(got, name)[own].tolist() == values.tolist(), name
    stores = (got.effect == codes.STORE) & (got.deadline_us != codes.REFUSED)
    with_ttl = (stores | (got.effect == codes.EXPIRE)) & (got.deadline_us > 0) & (got.deadline_us < codes.FAR)
    longest = rows.longest_times_to_live(got)
    for family in range(FAMILIES):
        mine = got.family == family
        most = (got.deadline_us - got.t_us)[mine & with_ttl].max(initial=0)
        assert [column[family] for column in longest] == [most, (mine & stores).sum(), (mine & with_ttl).sum()]


def some_reads(seed: int) -> TimedReads:
    """Random reads in chains; no chain goes on behind a certain hit."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 40))
    key, seen = rng.integers(0, 12, count), rng.integers(0, 4, count)
    before, kind, last = np.full(count, -1), rng.integers(0, 4, count), dict.fromkeys(range(12), -1)
    for read in range(count):
        at = last[key[read]]
        if at >= 0 and seen[read] != codes.CERTAIN_HIT and rng.random() < 0.7:
            before[read], kind[read] = at, kind[at]
        last[key[read]] = -1 if seen[read] == codes.CERTAIN_HIT else read
    columns = {
        "row": np.arange(count), "family": key % FAMILIES, "window": np.sort(rng.integers(0, 4, count)), "seen": seen,
        "lookups": rng.integers(1, 3, count), "kind": kind, "before": before, "state": rng.integers(0, 6, count),
        "t_us": np.sort(rng.integers(0, 10_000_000, count)), "hint": rng.choice([0, 0, 0, 1, 2, 3], count),
        "gap_us": np.where(rng.random(count) < 0.5, -1, 100),
    }  # fmt: skip
    kinds = {"t_us": np.int64, **dict.fromkeys(("row", "family", "window", "before", "gap_us"), np.int32)}
    return TimedReads(**{name: values.astype(kinds.get(name, np.uint8)) for name, values in columns.items()})


TTL_US = np.array([4e6, np.inf, 1e6])
CHANCES = Chances(
    present=np.array([0.5, 0.9, 0.2]), p_fill=np.array([0.9, 0.3, 0.6]), p_rewrite=np.array([0.1, 0.2, 0.01]),
    never=np.array([0.002, 0.3, 0.1]), fade=np.array([0.001, 0.2, 0.05]),
)  # fmt: skip
TILT = np.array([0.0, -1.5, 2.0])


def faded(reads: TimedReads, read: int) -> float:
    """The chance that the key of a read went before it, its family's odds shifted."""
    family, before, kind, hint = (int(getattr(reads, name)[read]) for name in ("family", "before", "kind", "hint"))
    fade = 0.0
    if hint in (codes.BEFORE_DEADLINE, codes.AFTER_DEADLINE):
        fade = 0.02 if hint == codes.BEFORE_DEADLINE else 0.98
    elif kind == codes.START and hint == codes.NO_HINT and np.isfinite(TTL_US[family]):
        then = reads.t_us[before] if before >= 0 else 0
        left, left_then = (np.clip(1 - moment / TTL_US[family], 1e-4, 1) for moment in (reads.t_us[read], then))
        fade = np.clip(1 - left / left_then, 0, 0.9999)
    elif kind != codes.ABSENT and (before >= 0 or kind != codes.START):
        fade = CHANCES.fade[family]
    return float(fade / (fade + (1 - fade) * np.exp(TILT[family])))


def chance_by_paths(reads: TimedReads, answered: npt.NDArray[np.int64], chain: list[int]) -> list[float]:
    """The chance of a hit of each read of a chain: the weight of all ways in which it may have gone, one by one."""
    family = int(reads.family[chain[0]])
    odds = CHANCES.present[family] * np.exp(TILT[family])
    present, never = odds / (odds + 1 - CHANCES.present[family]), CHANCES.never[family]
    begins = {
        codes.START: (present, (1 - present) * (1 - never), (1 - present) * never),
        codes.PRESENT: (1, 0, 0),
        codes.MAYBE: (0.7, 0.3, 0),
        codes.ABSENT: (0, 1 - never, never),
    }[int(reads.kind[chain[0]])]
    filled, rewritten = CHANCES.p_fill[family], CHANCES.p_rewrite[family]
    told = {
        ANSWERED: (rewritten, filled, 1e-4),
        NOT_ANSWERED: (1 - rewritten, 1 - filled, 1 - rewritten),
        NOT_TOLD: (1, 1, 1),
    }
    # A way is the read from which on the key is gone, or that it never was to be filled.
    ways = []
    for turn in range(len(chain) + 1):
        weight = begins[0] if turn else begins[1] + begins[0] * faded(reads, chain[0])
        for place, read in enumerate(chain):
            fade = faded(reads, read)
            if place < turn:
                weight *= (1 - fade) * told[answered[read]][0]
            else:
                weight *= (fade if place == turn and turn else 1) * told[answered[read]][1]
        ways.append(weight)
    null = begins[2] * np.prod([told[answered[read]][2] for read in chain])
    return [sum(ways[place + 1 :]) / (sum(ways) + null) for place in range(len(chain))]


@given(SEEDS)
def test_the_chances_of_a_chain_are_those_of_all_the_ways_it_may_have_gone(seed: int):
    reads, usual_us = some_reads(seed), 3e6
    chains, told = chained(reads, stretches(9, 19, 29), TTL_US, usual_us)
    answered = np.where(reads.gap_us >= 0, ANSWERED, np.where(reads.t_us > 10_000_000 - usual_us, NOT_TOLD, NOT_ANSWERED))
    open_reads = np.flatnonzero(reads.seen != codes.CERTAIN_HIT)
    chance, counts = Follower(chains).posterior(CHANCES, TILT, fading=True)
    assert chains.answered.tolist() == answered[open_reads].tolist()
    found = dict(zip(open_reads.tolist(), chance.tolist(), strict=True))
    follows = {int(reads.before[read]): read for read in open_reads.tolist() if reads.before[read] >= 0}
    for first in open_reads[reads.before[open_reads] < 0].tolist():
        chain = [first]
        while chain[-1] in follows:
            chain.append(follows[chain[-1]])
        assert [found[read] for read in chain] == pytest.approx(chance_by_paths(reads, answered, chain), abs=1e-9)
    for family in range(FAMILIES):
        mine = reads.family == family
        for seen, of_seen, of_answered in (
            (codes.CERTAIN_HIT, told.hits, told.rewritten),
            (codes.CERTAIN_MISS, told.misses, told.filled),
        ):
            chosen = mine & (reads.seen == seen)
            assert of_seen[family] == (chosen & (answered != NOT_TOLD)).sum()
            assert of_answered[family] == (chosen & (answered == ANSWERED)).sum()
        starts = mine & (reads.seen != codes.CERTAIN_HIT) & (reads.before < 0)
        assert counts[family, 0] == (starts & (reads.kind == codes.START)).sum()
        assert counts[family, 2] == (starts & (reads.kind == codes.ABSENT)).sum()


@given(SEEDS)
def test_reads_are_counted_and_their_chances_added_up(seed: int):
    reads = some_reads(seed)
    count, rng = len(reads.row), np.random.default_rng(seed + 1)
    life = np.where((reads.seen == codes.AT_RISK) & (rng.random(count) < 0.5), reads.family, -1).astype(np.int32)
    got = counted(reads, life, 4, FAMILIES)
    chance = rng.random(int((reads.seen != codes.CERTAIN_HIT).sum()))
    p_hit, estimate, doubt = weighed(reads, chance, 4, FAMILIES)
    plain = (reads.seen == codes.CERTAIN_HIT).astype(float)
    plain[reads.seen != codes.CERTAIN_HIT] = chance
    plain[reads.seen == codes.CERTAIN_MISS] = 0
    assert p_hit.tolist() == plain.tolist()
    cell, unsure = reads.window * FAMILIES + reads.family, reads.seen > codes.CERTAIN_HIT
    variance = np.where(unsure, plain * (1 - plain) + 1e-4, 0)
    for of_cells, weights in ((estimate, plain), (doubt, variance)):
        assert of_cells.ravel().tolist() == np.bincount(cell, reads.lookups * weights, 4 * FAMILIES).tolist()
    chosen = [np.full(count, True), reads.seen == codes.CERTAIN_HIT, reads.seen == codes.CERTAIN_MISS]
    for number, rows_of in enumerate(chosen):
        assert got.cells[:, :, number].ravel().tolist() == np.bincount(cell, reads.lookups * rows_of, 4 * FAMILIES).tolist()
    at_risk = (reads.seen == codes.AT_RISK) & (life < 0)
    assert got.unbounded.tolist() == np.bincount(reads.family, reads.lookups * at_risk, FAMILIES).tolist()
    assert got.unbounded_reads.tolist() == np.bincount(reads.family[at_risk], minlength=FAMILIES).tolist()
    assert got.answered.tolist() == np.bincount(reads.family[reads.gap_us >= 0], minlength=FAMILIES).tolist()
    assert got.life_reads.tolist() == np.bincount(life[life >= 0], reads.lookups[life >= 0]).tolist()


@given(SEEDS)
def test_what_had_become_of_keys_that_no_line_had_named(seed: int):
    reads = some_reads(seed)
    is_hit = np.random.default_rng(seed + 1).random(len(reads.row)) < 0.5
    got = ended(reads, is_hit, np.array([1, 2, 0], np.uint8), codes.NEVER_WRITTEN)
    for read, state in enumerate(got.tolist()):
        first = read
        while reads.before[first] >= 0:
            first = reads.before[first]
        unnamed = reads.kind[read] == codes.START and reads.seen[read] == codes.OPEN
        expected = ([1, 2, 0][reads.family[read]] if is_hit[first] else codes.NEVER_WRITTEN) if unnamed else reads.state[read]
        assert state == (codes.UNKNOWN if is_hit[read] else expected)


def test_the_columns_that_are_kept_are_all_there_are():
    assert {field.name for field in fields(TimedReads)} == set(codes.Seen._fields) - {"life"}
