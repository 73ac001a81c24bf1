"""The chains of the reads of a log, followed forward and backward: what Python calls of `chain_kernel`, without numba."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from coldcache.replay import state_codes as codes
from coldcache.replay.states import TimedReads
from coldcache.replay.windows import Windows
from coldcache.sources.arrays import address, compiled, handed, place, places

NOT_ANSWERED, ANSWERED, NOT_TOLD = range(3)
KINDS, ANSWERS, STATES = 4, 3, 3  # what chains begin with; what is known of an answer; there, absent, absent for ever
# Where the chance that a key goes before a read is from.
STAYS, BY_FAMILY, NEARLY_STAYS, NEARLY_GOES, BY_AGE = range(5)
_NEAR_DEADLINE = 0.02  # chance that a key goes before its deadline, or stays behind it
STATISTICS = 8  # numbers that `posterior` counts of each family
TOLD = 4  # numbers that `chained` counts of each family

_Bytes = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_Narrow = npt.NDArray[np.int32]


class Linked(NamedTuple):
    """What of reads their chains are made of; see `coldcache.replay.states.TimedReads`."""

    t_us: _Ints
    family: _Narrow
    window: _Narrow
    seen: _Bytes
    kind: _Bytes
    hint: _Bytes
    before: _Narrow
    gap_us: _Narrow


_LINKED = np.int64, np.int32, np.int32, np.uint8, np.uint8, np.uint8, np.int32, np.int32


class Limits(NamedTuple):
    """What is known of windows and families when reads are chained."""

    began_us: _Ints  # a window's epoch
    late_us: _Floats  # a read of a window after that may be answered when the log has ended
    ttl_us: _Floats  # a family's longest time to live, infinite where part of it has none


_LIMITS = np.int64, np.float64, np.float64


class Chains(NamedTuple):
    """The reads that are not certain hits: one element a read, in their order."""

    before: _Narrow  # the read before it in its chain, -1 at the first
    family: _Narrow
    kind: _Bytes  # what the chain began with: ``START`` …
    answered: _Bytes  # by a write: ``ANSWERED`` …
    is_last: _Bytes  # no read stands behind it in its chain
    source: _Bytes  # of the chance that the key went between the read before and this one: ``STAYS`` …
    fade: _Floats  # this chance, where it is ``BY_AGE``


_CHAINS = np.int32, np.int32, np.uint8, np.uint8, np.uint8, np.uint8, np.float64


class Told(NamedTuple):
    """Reads of which it is known whether a write answered them, and those that one did; by family."""

    hits: _Ints  # certain ones
    rewritten: _Ints
    misses: _Ints  # certain ones
    filled: _Ints


class Chances(NamedTuple):
    """What is taken for granted of each family, 0 to 1; see `coldcache.replay.estimates`."""

    present: _Floats
    p_fill: _Floats
    p_rewrite: _Floats
    never: _Floats
    fade: _Floats


def _kernel() -> Mapping[str, Callable[..., int]]:
    beside = ("replay.chains", "replay.state_codes", "sources.log_kernel", "payload_kernel")
    return compiled("coldcache.replay.chain_kernel", *(f"coldcache.{name}" for name in beside))


def chained(reads: TimedReads, windows: Windows, ttl_us: _Floats, usual_us: float) -> tuple[Chains, Told]:
    """Return the chains of the reads, and how many of the certain ones were answered.

    Parameters
    ----------
    reads, windows
    ttl_us : float64, one a family
        Its longest time to live, see :func:`coldcache.replay.states.family_ttl_us`.
    usual_us : float
        The usual time from a read to its answer: a read so near to the end of its epoch may be answered after it.
    """
    linked = Linked(*(handed(getattr(reads, name), kind) for name, kind in zip(Linked._fields, _LINKED, strict=True)))
    began_us = windows.start_us[np.searchsorted(windows.epoch, windows.epoch)]
    limits = Limits(*map(handed, (began_us, windows.ends_us - usual_us, ttl_us), _LIMITS))
    count, families = len(linked.t_us), len(ttl_us)
    chains = Chains(*codes.unfilled(int(np.count_nonzero(linked.seen != codes.CERTAIN_HIT)), _CHAINS))
    number, told = np.empty(count, np.int32), np.zeros((families, TOLD), np.int64)
    tables = places(linked, _LINKED, count), places(limits, _LIMITS), places(chains, _CHAINS)
    room = place(number, np.int32), place(told, np.int64)
    _kernel()["chained"](*map(address, tables), *room, count)
    return chains, Told(*told.T)


class Follower:
    """Goes through chains, forward and backward, as often as it is asked to.

    A chain is the reads of a key between two writes that could create it: hits first, then misses, for
    what is gone stays gone. Three states: there, absent, and absent without ever being filled.
    """

    def __init__(self, chains: Chains) -> None:
        self.chains = chains
        self._columns = places(chains, _CHAINS, len(chains.before))
        # The last of these stays what the reads behind a chain's last one say: nothing.
        self._share = np.ones((len(chains.before) + 1, STATES))
        self._state = np.empty((len(chains.before), STATES))

    def posterior(self, chances: Chances, tilt: _Floats | None = None, *, fading: bool = False) -> tuple[_Floats, _Floats]:
        """Return each read's chance of a hit, and the counts for the next estimate of the chances.

        Parameters
        ----------
        chances : Chances
        tilt : float64, one a family, optional
            Shifts its log-odds of a key to be there.
        fading : bool
            Whether the chances to go are counted, too; else they stay 0.

        Returns
        -------
        (chance, counts)
            `chance` is valid until the next call. `counts` : float64 (families, 8). Chains begun, present; absent chains,
            never filled; misses, answered; chances to go, gone.
        """
        families = len(chances.present)
        factor = np.exp(np.zeros(families) if tilt is None else tilt)
        present = np.clip(chances.present * factor / (chances.present * factor + 1 - chances.present), 1e-12, 1 - 1e-12)
        begins = np.zeros((families, KINDS, STATES))
        begins[:, codes.START] = np.column_stack([present, (1 - present) * (1 - chances.never), (1 - present) * chances.never])
        begins[:, codes.PRESENT] = 1, 0, 0
        begins[:, codes.MAYBE] = 0.7, 0.3, 0
        begins[:, codes.ABSENT] = np.column_stack([np.zeros(families), 1 - chances.never, chances.never])
        weighs = np.ones((families, ANSWERS, STATES))
        # Absent for ever as what is there: from silence alone the two cannot be told.
        weighs[:, NOT_ANSWERED] = np.column_stack([1 - chances.p_rewrite, 1 - chances.p_fill, 1 - chances.p_rewrite])
        weighs[:, ANSWERED] = np.column_stack([chances.p_rewrite, chances.p_fill, np.full(families, 1e-4)])
        fades = np.zeros((families, BY_AGE))
        for source, fade in ((BY_FAMILY, chances.fade), (NEARLY_STAYS, _NEAR_DEADLINE), (NEARLY_GOES, 1 - _NEAR_DEADLINE)):
            fades[:, source] = fade / (fade + (1 - fade) * factor)
        counts = np.zeros((families, STATISTICS))
        tables = [place(table, np.float64, families) for table in (begins, weighs, fades, factor)]
        room = [place(table, np.float64) for table in (self._state, self._share, counts)]
        _kernel()["posterior"](address(self._columns), *tables, *room, len(self.chains.before), int(fading))
        return self._state[:, 0], counts
