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
from coldcache.replay.chains import ANSWERED, Chains, Chances, Follower, Told, chained
from coldcache.replay.states import TimedReads
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


def usual_gap_us(reads: TimedReads) -> float:
    """Return the time from a read to its answer that 95 % of the answers stay below, µs."""
    answered = reads.gap_us >= 0
    return float(np.quantile(reads.gap_us[answered], 0.95)) if answered.any() else 0.0


def sums(index: Array, weights: Floats, count: int) -> Floats:
    """Return the sum of the weights at each index below `count`."""
    return np.bincount(index, weights, count).astype(np.float64)


def _shares(part: Ints | Floats, whole: Ints | Floats, prior: float | Floats, weight: float) -> Floats:
    """Return part / whole by family, drawn towards `prior` as if by `weight` more observations."""
    return (part + prior * weight) / (whole + weight)


def _estimate(follower: Follower, told: Told, unwritten: Bools, *, evicting: bool) -> Chances:
    """Return the chances of every family by expectation-maximisation; `unwritten`: no write ever answered one of its reads."""
    count = len(unwritten)
    all_filled = float((told.filled.sum() + 4.5) / (told.misses.sum() + 5))
    all_rewritten = float((told.rewritten.sum() + 0.05) / (told.hits.sum() + 5))
    # Of reads that no write of their family ever answers, silence says nothing.
    never = np.where(unwritten, 0.99, _NEVER_FILLED)
    # Without evictions and times to live nothing goes of itself.
    fade = _FADE if evicting else 1e-6
    chances = Chances(
        present=np.full(count, 0.5),
        p_fill=_shares(told.filled, told.misses, all_filled, _WEIGHT),
        p_rewrite=np.clip(_shares(told.rewritten, told.hits, all_rewritten, _WEIGHT), 1e-4, 0.999),
        never=never,
        fade=np.full(count, fade),
    )
    for _ in range(_ROUNDS):
        _, counts = follower.posterior(chances, fading=evicting)
        chances = chances._replace(
            present=np.where(unwritten, 0.5, np.clip(_shares(counts[:, 1], counts[:, 0], 0.5, 2), 1e-4, 1 - 1e-4)),
            p_fill=np.clip(_shares(counts[:, 5], counts[:, 4], all_filled, _WEIGHT), 1e-4, 0.999),
            never=np.clip(_shares(counts[:, 3], counts[:, 2], never, _WEIGHT), 1e-4, 0.999),
            fade=np.clip(_shares(counts[:, 7], counts[:, 6], _FADE, 50), 1e-6, 0.5) if evicting else chances.fade,
        )
    return chances


def _tilts(follower: Follower, chances: Chances, weights: Floats, target: Floats) -> Floats:
    """Return by how much each family's odds must be shifted for its weighted sum of chances to be its target."""
    count = len(target)
    low, high = np.full(count, -25.0), np.full(count, 25.0)
    for _ in range(24):
        middle = (low + high) / 2
        chance, _ = follower.posterior(chances, middle)
        short = sums(follower.chains.family, weights * chance, count) < target
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return (low + high) / 2


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What is estimated of a log, so that each shard's reads can be judged apart.

    Attributes
    ----------
    chances : Chances
    tilt : float64, one a family
        By how much its log-odds of a key to be there are shifted, so that all hits are as many as INFO counted.
    ttl_us : float64, one a family
        The longest time to live it is written with, see :func:`coldcache.replay.states.family_ttl_us`.
    usual_us : float
        See :func:`usual_gap_us`.
    """

    chances: Chances
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


def estimate(sample: TimedReads, windows: Windows, anchored: Bools, whole: Whole) -> Model:
    """Estimate the parameters of the families from a sample of the keys, all reads of each.

    Parameters
    ----------
    sample : TimedReads
    windows : Windows
    anchored : bool, one a window
        Which windows INFO's hits are known of.
    whole : Whole
    """
    families = len(whole.unwritten)
    usual_us = usual_gap_us(sample)
    chains, told = chained(sample, windows, whole.ttl_us, usual_us)
    follower = Follower(chains)
    chances = _estimate(follower, told, whole.unwritten, evicting=whole.evicting)
    model = Model(chances, np.zeros(families), whole.ttl_us, usual_us)
    if whole.open_hits is None:
        return model
    chance = follower.posterior(chances)[0].copy()
    is_open = anchored[sample.window] & (sample.seen > codes.CERTAIN_HIT)
    weights = np.where(is_open, sample.lookups.astype(float), 0.0)[sample.seen != codes.CERTAIN_HIT]
    sampled = sums(chains.family, weights, families)
    scale = np.divide(whole.open_reads, sampled, out=np.ones(families), where=sampled > 0)
    target = _family_targets(chains, chance, weights, whole, scale)
    return replace(model, tilt=_tilts(follower, chances, weights, target / scale))


def chances_of(reads: TimedReads, windows: Windows, model: Model) -> tuple[Floats, Told]:
    """Return the chance of a hit, 0 to 1, of each read that is not a certain hit; and how many certain reads were answered."""
    chains, told = chained(reads, windows, model.ttl_us, model.usual_us)
    return Follower(chains).posterior(model.chances, model.tilt)[0], told


def _family_targets(chains: Chains, chance: Floats, weights: Floats, whole: Whole, scale: Floats) -> Floats:
    """Return how many of the open reads of each family are hits, if all of them are as many as INFO says.

    A family may be wrong by what is in doubt of its single reads, and by its reads that nothing answered: misses of
    keys that nobody ever fills are a small share of them, or half where no write of the family answered any.
    """
    count = len(scale)
    found = scale * sums(chains.family, weights * chance, count)
    silent = scale * sums(chains.family, weights * ((chains.answered != ANSWERED) & (chains.kind != codes.ABSENT)), count)
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
