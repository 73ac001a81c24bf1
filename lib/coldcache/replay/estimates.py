"""How likely a read hit, where the state of its key leaves it open: chains of reads, and a model of each family.

Between two writes that could create a key, hits come first and misses after, for what is gone stays gone: its reads form
chains with one turning point each, estimated by the forward-backward algorithm (Rabiner, Proc. IEEE 77, 1989), its parameters
by expectation-maximisation, for each family, from a sample of the keys.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from coldcache.replay import state_codes as codes
from coldcache.replay.states import Reads
from coldcache.replay.windows import Windows

_ROUNDS = 12  # of expectation-maximisation; the estimates move by less than a thousandth after eight
# What is taken for granted before a family's own reads speak, as if from `_WEIGHT` observations.
_NEVER_FILLED = 0.002  # share of absent keys that nobody ever fills
_FADE = 0.001  # chance that a key is evicted between two reads
_WEIGHT = 20

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, eq=False)
class _Chains:
    """The reads that are not certain hits, as the estimate needs them, and what it found."""

    before: npt.NDArray[np.int32]
    kind: npt.NDArray[np.uint8]
    fade: Floats
    estimated: Bools  # the fade is one of the family's parameters
    family: npt.NDArray[np.int32]
    answered: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class _Parameters:
    """What is estimated of each family: chances, 0 to 1.

    present : a key that no line named is there at the start
    p_fill : a miss is answered by a write, if its key is ever filled
    p_rewrite : a hit is
    never : an absent key is of those that are never filled
    fade : a key goes between two reads
    """

    present: Floats
    p_fill: Floats
    p_rewrite: Floats
    never: Floats
    fade: Floats


def usual_gap_us(reads: Reads) -> float:
    """Return the time from a read to its answer that 95 % of the answers stay below, µs."""
    answered = reads.gap_us >= 0
    return float(np.quantile(reads.gap_us[answered], 0.95)) if answered.any() else 0.0


def answered_by(reads: Reads, windows: Windows, usual_us: float) -> npt.NDArray[np.uint8]:
    """Return 1 for a read that a write answered, 0 for one that none did, 2 where the log ended too soon to tell."""
    answered = reads.gap_us >= 0
    cut_off = ~answered & (reads.t_us > windows.ends_us[reads.window] - usual_us)
    return np.where(answered, 1, np.where(cut_off, 2, 0)).astype(np.uint8)


def sums(index: Array, weights: Floats, count: int) -> Floats:
    """Return the sum of the weights at each index below `count`."""
    return np.bincount(index, weights, count).astype(np.float64)


def _shares(part: Floats, whole: Floats, prior: float | Floats, weight: float) -> Floats:
    """Return part / whole by family, drawn towards `prior` as if by `weight` more observations."""
    return (part + prior * weight) / (whole + weight)


def _chains(
    reads: Reads, answered: npt.NDArray[np.uint8], windows: Windows, ttl_us: Floats, chosen: Bools
) -> _Chains:  # fmt: skip
    """Return the chains of the chosen reads."""
    index = np.cumsum(chosen) - 1
    before = reads.before[chosen]
    before = np.where(before >= 0, index[np.maximum(before, 0)], -1).astype(np.int32)
    kind, hint, t_us = reads.kind[chosen], reads.hint[chosen], reads.t_us[chosen].astype(float)
    family = reads.family[chosen]
    fade = np.zeros(len(before))
    fade[hint == codes.BEFORE_DEADLINE] = 0.02
    fade[hint == codes.AFTER_DEADLINE] = 0.98
    # A key that was there at the start ends within its family's time to live; any age of it is equally likely.
    ttl = ttl_us[family]
    ageing = (kind == codes.START) & (hint == codes.NO_HINT) & np.isfinite(ttl)
    began = _epoch_starts(windows)[reads.window[chosen]].astype(float)
    then = np.where(before >= 0, t_us[np.maximum(before, 0)], began)
    left, left_then = (np.clip(1 - (moment - began) / np.maximum(ttl, 1), 1e-4, 1) for moment in (t_us, then))
    fade = np.where(ageing, np.clip(1 - left / left_then, 0, 0.9999), fade)
    estimated = ~ageing & (hint != codes.BEFORE_DEADLINE) & (hint != codes.AFTER_DEADLINE) & (kind != codes.ABSENT)
    # What is unknown at the start is unknown by `present`; it does not fade before its first read.
    estimated &= (before >= 0) | (kind != codes.START)
    return _Chains(before, kind, fade, estimated, family, answered[chosen])


def _epoch_starts(windows: Windows) -> Ints:
    """Return the start of each window's epoch."""
    first = np.searchsorted(windows.epoch, windows.epoch)
    return windows.start_us[first]


def _posterior(
    chains: _Chains, parameters: _Parameters, scratch: tuple[Floats, Floats], tilt: Floats | None = None
) -> tuple[Floats, Floats]:
    """Return each read's chance of a hit and the counts by family; `tilt` shifts a family's log-odds of a key to be there."""
    state, share = scratch
    factor = np.exp(np.zeros(len(parameters.present)) if tilt is None else tilt)
    fade = np.where(chains.estimated, parameters.fade[chains.family], chains.fade)
    fade = fade / (fade + (1 - fade) * factor[chains.family])
    present = parameters.present * factor / (parameters.present * factor + 1 - parameters.present)
    chained = codes.Chained(chains.before, chains.kind, fade, chains.family, chains.answered)
    chances = codes.Chances(np.clip(present, 1e-12, 1 - 1e-12), parameters.p_fill, parameters.p_rewrite, parameters.never)
    stats = codes.posterior(chained, chances, state, share)
    return state[:, 0], stats


def _estimate(
    reads: Reads, answered: npt.NDArray[np.uint8], chains: _Chains, unwritten: Bools, scratch: tuple[Floats, Floats],
    *, evicting: bool,
) -> _Parameters:  # fmt: skip
    """Return the parameters of every family by expectation-maximisation; `unwritten`: no write ever answered one of its reads."""
    count = len(unwritten)
    told = answered != 2

    def by_family(chosen: Bools) -> Floats:
        return np.bincount(reads.family[chosen], minlength=count).astype(float)

    hits, misses = (told & (reads.seen == seen) for seen in (codes.CERTAIN_HIT, codes.CERTAIN_MISS))
    filled, rewritten = by_family(misses & (answered == 1)), by_family(hits & (answered == 1))
    all_filled = float((filled.sum() + 4.5) / (misses.sum() + 5))
    all_rewritten = float((rewritten.sum() + 0.05) / (hits.sum() + 5))
    # Of reads that no write of their family ever answers, silence says nothing.
    never = np.where(unwritten, 0.99, _NEVER_FILLED)
    # Without evictions and times to live nothing goes of itself.
    fade = _FADE if evicting else 1e-6
    parameters = _Parameters(
        present=np.full(count, 0.5),
        p_fill=_shares(filled, by_family(misses), all_filled, _WEIGHT),
        p_rewrite=np.clip(_shares(rewritten, by_family(hits), all_rewritten, _WEIGHT), 1e-4, 0.999),
        never=never,
        fade=np.full(count, fade),
    )
    for _ in range(_ROUNDS):
        _, stats = _posterior(chains, parameters, scratch)
        parameters = replace(
            parameters,
            present=np.where(unwritten, 0.5, np.clip(_shares(stats[:, 1], stats[:, 0], 0.5, 2), 1e-4, 1 - 1e-4)),
            p_fill=np.clip(_shares(stats[:, 5], stats[:, 4], all_filled, _WEIGHT), 1e-4, 0.999),
            never=np.clip(_shares(stats[:, 3], stats[:, 2], never, _WEIGHT), 1e-4, 0.999),
            fade=np.clip(_shares(stats[:, 7], stats[:, 6], _FADE, 50), 1e-6, 0.5) if evicting else parameters.fade,
        )
    return parameters


def _tilts(chains: _Chains, parameters: _Parameters, weights: Floats, target: Floats, scratch: tuple[Floats, Floats]) -> Floats:
    """Return by how much each family's odds must be shifted for its weighted sum of chances to be its target."""
    count = len(target)
    low, high = np.full(count, -25.0), np.full(count, 25.0)
    for _ in range(24):
        middle = (low + high) / 2
        chance, _ = _posterior(chains, parameters, scratch, middle)
        short = sums(chains.family, weights * chance, count) < target
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return (low + high) / 2


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What is estimated of a log, so that each shard's reads can be judged apart.

    Attributes
    ----------
    parameters : of every family
    tilt : float64, one a family
        By how much its log-odds of a key to be there are shifted, so that all hits are as many as INFO counted.
    ttl_us : float64, one a family
        The longest time to live it is written with, see :func:`coldcache.replay.states.family_ttl_us`.
    usual_us : float
        See :func:`usual_gap_us`.
    """

    parameters: _Parameters
    tilt: Floats
    ttl_us: Floats
    usual_us: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Whole:
    """What is known of all reads of a log when a sample of them is looked at.

    Attributes
    ----------
    open_reads : float64, one a family
        Weight of the reads that are not certain, in windows of which INFO knows the hits.
    open_hits : float or None
        How many of these hit, by INFO; None where it does not say.
    unwritten : bool, one a family
        No write ever answered one of its reads.
    ttl_us : float64, one a family
    evicting : bool
        Whether keys may have been evicted.
    """

    open_reads: Floats
    open_hits: float | None
    unwritten: Bools
    ttl_us: Floats
    evicting: bool


def estimate(sample: Reads, windows: Windows, anchored: Bools, whole: Whole) -> Model:
    """Estimate the parameters of the families from a sample of the keys, all reads of each.

    Parameters
    ----------
    sample : Reads
    windows : Windows
    anchored : bool, one a window
        Which windows INFO's hits are known of.
    whole : Whole
    """
    families = len(whole.unwritten)
    usual_us = usual_gap_us(sample)
    answered = answered_by(sample, windows, usual_us)
    chosen = sample.seen != codes.CERTAIN_HIT
    chains = _chains(sample, answered, windows, whole.ttl_us, chosen)
    scratch = (np.empty((len(chains.before), 3)), np.empty((len(chains.before), 3)))
    parameters = _estimate(sample, answered, chains, whole.unwritten, scratch, evicting=whole.evicting)
    model = Model(parameters, np.zeros(families), whole.ttl_us, usual_us)
    if whole.open_hits is None:
        return model
    chance = _posterior(chains, parameters, scratch)[0].copy()
    is_open = anchored[sample.window] & (sample.seen > codes.CERTAIN_HIT)
    weights = np.where(is_open, sample.lookups.astype(float), 0.0)[chosen]
    sampled = sums(chains.family, weights, families)
    scale = np.divide(whole.open_reads, sampled, out=np.ones(families), where=sampled > 0)
    target = _family_targets(chains, chance, weights, whole, scale)
    return replace(model, tilt=_tilts(chains, parameters, weights, target / scale, scratch))


def chances(reads: Reads, windows: Windows, model: Model) -> Floats:
    """Return each read's chance of a hit, 0 to 1, by the state of its key and by the model."""
    p_hit = (reads.seen == codes.CERTAIN_HIT).astype(float)
    chosen = reads.seen != codes.CERTAIN_HIT
    if not (reads.seen > codes.CERTAIN_HIT).any():
        return p_hit
    chains = _chains(reads, answered_by(reads, windows, model.usual_us), windows, model.ttl_us, chosen)
    scratch = (np.empty((len(chains.before), 3)), np.empty((len(chains.before), 3)))
    chance = _posterior(chains, model.parameters, scratch, model.tilt)[0]
    p_hit[chosen] = np.where(reads.seen[chosen] == codes.CERTAIN_MISS, 0.0, chance)
    return p_hit


def _family_targets(chains: _Chains, chance: Floats, weights: Floats, whole: Whole, scale: Floats) -> Floats:
    """Return how many of the open reads of each family are hits, if all of them are as many as INFO says.

    A family may be wrong by what is in doubt of its single reads, and by its reads that nothing answered: misses of
    keys that nobody ever fills are a small share of them, or half where no write of the family answered any.
    """
    count = len(scale)
    found = scale * sums(chains.family, weights * chance, count)
    silent = scale * sums(chains.family, weights * ((chains.answered != 1) & (chains.kind != codes.ABSENT)), count)
    doubt = scale * sums(chains.family, weights * chance * (1 - chance), count)
    doubt = doubt + np.where(whole.unwritten, 0.5, _NEVER_FILLED) * silent
    high = scale * sums(chains.family, weights, count)
    row = [column[None, :] for column in (found, doubt, np.zeros(count), high)]
    return projected(row[0], row[1], row[2], row[3], np.array([whole.open_hits]))[0]


def projected(estimate: Floats, doubt: Floats, low: Floats, high: Floats, total: Floats) -> Floats:
    """Return the estimates of the families nearest to those given, by doubt, within bounds and with the right sum.

    Rows are windows, columns families. Minimises Σ (x - estimate)² / doubt: x = estimate + λ·doubt, clipped; λ by bisection.
    """
    total = np.clip(total, low.sum(axis=1), high.sum(axis=1))
    reach = (np.abs(high - low) + 1).sum(axis=1) / np.maximum(np.where(doubt > 0, doubt, np.inf).min(axis=1), 1e-9)
    left, right = -reach, reach
    for _ in range(80):
        middle = (left + right) / 2
        short = np.clip(estimate + middle[:, None] * doubt, low, high).sum(axis=1) < total
        left, right = np.where(short, middle, left), np.where(short, right, middle)
    return np.clip(estimate + right[:, None] * doubt, low, high)
