"""One order for rows of several streams: of time between them, of the stream within one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Moments of a recording, one element each: ``epoch`` int32; ``seq`` and ``t_us`` int64."""

    epoch: npt.NDArray[np.int32]
    seq: Ints
    t_us: Ints


def positions(*moments: Moments) -> list[Ints]:
    """Place moments in one order.

    Returns
    -------
    list of int64 arrays, one for each of `moments`
        The place of each. Those of one ``seq`` have one place. Within an epoch ``seq`` decides,
        for the server's clock may step back.
    """
    epoch, seq, t_us = (np.concatenate([getattr(one, name) for one in moments]) for name in ("epoch", "seq", "t_us"))
    order = np.lexsort((seq, epoch))
    clock = forward(epoch[order], t_us[order])
    order = order[np.lexsort((seq[order], clock))]
    place = np.empty(len(seq), np.int64)
    place[order] = np.cumsum(np.r_[True, np.diff(seq[order]) != 0])[: len(seq)]
    return np.split(place, np.cumsum([len(one.seq) for one in moments])[:-1])


def forward(epoch: npt.NDArray[np.int32], t_us: Ints) -> Ints:
    """Return times, grouped by epoch and in stream order, of a clock that never steps back within an epoch."""
    clock = t_us.astype(np.int64)
    for first, last in pairwise(np.flatnonzero(np.r_[True, np.diff(epoch) != 0, True])):
        clock[first:last] = np.maximum.accumulate(clock[first:last])
    return clock
