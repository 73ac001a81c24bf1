"""What a miss is put down to that no repair claims: what is known of its key."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coldcache.replay.inference import KEY_STATES
from coldcache.replay.replayed import Ints, Replayed
from coldcache.replay.tally import MISS_KINDS

COLD_START = "cold_start"
# A miss whose reason fell into a gap, or whose fill may have come after the end.
UNJUDGED = "incomplete_capture"
NEVER_FILLED = "set_skipped"
_BY_STATE = {"expired": "ttl_short", "evicted": "eviction", "deleted": "invalidation_storm", "flushed": "flush"}
#: The causes that there may be.
BASELINE = (*_BY_STATE.values(), NEVER_FILLED, UNJUDGED, COLD_START)


def _of_kind(kind: int, *, filled_elsewhere: bool) -> int:
    """Return the cause of a kind of misses, see ``Tally.miss_rows``, as an index in `BASELINE`."""
    state, fill_known, cold = KEY_STATES[kind // 4], bool(kind & 2), bool(kind & 1)
    if state in _BY_STATE:
        return BASELINE.index(_BY_STATE[state])
    if cold or filled_elsewhere:
        return BASELINE.index(COLD_START)
    return BASELINE.index(NEVER_FILLED if state and fill_known else UNJUDGED)


_OF_KIND = np.array(
    [[_of_kind(kind, filled_elsewhere=elsewhere) for kind in range(MISS_KINDS)] + [-1] for elsewhere in (False, True)], np.int8
)


def baseline_causes(replayed: Replayed, filled_elsewhere: tuple[int, ...] = ()) -> npt.NDArray[np.int8]:
    """Return for each row the cause in `BASELINE` that the state of the key of a miss points to; -1 for what is none.

    A miss of a family whose values were found under another name (`filled_elsewhere`) is cold when it is unclaimed:
    its value was not there yet either. A miss of a key whose state is not known, or that ends too
    late in its epoch to tell whether a fill came, is the recording's fault, not the application's.
    """
    kinds = replayed.pairs.kind
    if not filled_elsewhere:
        return _OF_KIND[0][kinds]
    return _OF_KIND[np.isin(replayed.shard.family, filled_elsewhere).astype(np.int8), kinds]


def by_cause(by_kind: Ints, filled_elsewhere: tuple[int, ...] = ()) -> Ints:
    """Return misses by family and cause, (families, ``BASELINE``), of those by family and kind."""
    table = np.zeros((len(by_kind), len(BASELINE)), np.int64)
    for kind, cause in enumerate(_OF_KIND[0][:-1]):
        table[:, cause] += by_kind[:, kind]
    for family in filled_elsewhere:
        table[family] = np.bincount(_OF_KIND[1][:-1], by_kind[family], len(BASELINE))
    return table
