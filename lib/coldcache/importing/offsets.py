"""How far two clocks are apart, told by what both saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from coldcache import schema

# Fewer common calls tell nothing; more would make it no better.
LEAST_PAIRS = 20
_MOST_CALLS = 200_000


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """The server's clock minus the application's, µs.

    pairs : how many calls it rests on
    spread_us : within so much of it lie half of them; it contains the network and the time to log
    """

    server_minus_app_us: int
    pairs: int
    spread_us: int


def clock_offset(app_log: pd.DataFrame, folder: Path) -> ClockOffset | None:
    """Return how far the server's clock is ahead of the application's; None where too few calls are in both logs.

    A call of the application and a line of the server are one event where the key was used equally often in both, by
    the same operation: then the n-th is the n-th. The median over all such pairs stands a lost or foreign line or two,
    and needs no guess of how far apart the clocks may be.

    Parameters
    ----------
    app_log : pandas.DataFrame
        See ``schema.APP_LOG``.
    folder : Path
        Of a case whose ``accesses`` are written.
    """
    calls = app_log[["t", "op", "key"]].head(_MOST_CALLS)
    keys = calls["key"].unique()
    lines = pq.read_table(
        folder / schema.ACCESSES.path, columns=["t", "seq", "op", "key"], filters=[("key", "in", list(keys))]
    ).to_pandas()
    lines = lines[lines["op"].isin(["read", "write", "delete"])].sort_values("seq")
    sides = [frame.assign(op=frame["op"].astype("str")) for frame in (calls, lines)]
    counts = [side.groupby(["op", "key"]).size() for side in sides]
    both = pd.concat(counts, axis=1, join="inner")
    equal = both[both[0] == both[1]].index
    ranked = []
    for side in sides:
        frame = side.assign(nth=side.groupby(["op", "key"]).cumcount()).set_index(["op", "key"])
        ranked.append(frame.loc[frame.index.isin(equal), ["nth", "t"]].set_index("nth", append=True)["t"])
    pairs = pd.concat(ranked, axis=1, join="inner", keys=["app", "server"])
    if len(pairs) < LEAST_PAIRS:
        return None
    apart = (pairs["server"] - pairs["app"]).dt.total_seconds().to_numpy() * 1e6
    middle = float(np.median(apart))
    return ClockOffset(round(middle), len(pairs), round(float(np.median(np.abs(apart - middle)))))
