"""The stretches of a log between INFO samples, and what INFO counted in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from coldcache.replay import state_codes as codes
from coldcache.shards.cut import EpochSpan

_MOST_CELLS = 20_000  # windows × families: beyond that, windows are joined; a shard's sums are so large

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Windows:
    """The stretches of a log between INFO samples, and what INFO counted in each.

    Every epoch has one stretch before its first sample, one between any two, and one after its last; with no
    sample it is one stretch. In order of epoch and time.

    Attributes
    ----------
    epoch : int32
    after_seq : int64
        The stretch holds the rows of its epoch behind this position in the stream.
    start_us, end_us : int64
        Time of its samples, of the epoch's ends where there is none.
    hits, misses : int64
        By how much INFO's counters rose; -1 where they do not say.
    evicted : int64
        Evictions that may fall into it; ``UNBOUNDED`` where nobody counted.
    volatile_only : bool
        Only keys with a time to live are evicted.
    empty : bool
        The server held no key at its start.
    ends_us : int64
        End of its epoch.
    """

    epoch: npt.NDArray[np.int32]
    after_seq: Ints
    start_us: Ints
    end_us: Ints
    hits: Ints
    misses: Ints
    evicted: Ints
    volatile_only: Bools
    empty: Bools
    ends_us: Ints

    @property
    def anchored(self) -> Bools:
        """Which of them INFO's hits and misses are known of."""
        return (self.hits >= 0) & (self.misses >= 0)


def info_windows(
    epochs: Mapping[int, EpochSpan], info: pd.DataFrame | None = None, config: pd.DataFrame | None = None
) -> Windows:  # fmt: skip
    """Return the stretches between INFO samples.

    Parameters
    ----------
    epochs : mapping of epoch to EpochSpan
        What was recorded of each.
    info : pandas.DataFrame, optional
        ``schema.INFO``; two samples, before and after, do.
    config : pandas.DataFrame, optional
        ``schema.CONFIG``: with ``maxmemory`` 0 or the policy ``noeviction``, and no eviction counted, none took place.
    """
    samples = _samples(info)
    parts = []
    for epoch, span in sorted(epochs.items()):
        mine = samples[samples["epoch"].eq(epoch)]
        limit = _evictions_by_config(span.node, samples, config)
        parts.append(_stretches(epoch, span.start_us, span.end_us, span.first_seq, mine, limit))
    columns = [field.name for field in fields(Windows)]
    joined = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({name: np.empty(0, np.int64) for name in columns})
    types = {"epoch": np.int32, "volatile_only": np.bool_, "empty": np.bool_}
    return Windows(**{name: joined[name].to_numpy(types.get(name, np.int64)) for name in columns})


def _samples(info: pd.DataFrame | None) -> pd.DataFrame:
    """Return INFO's counters in order; -1 where a counter is missing."""
    names = ["keyspace_hits", "keyspace_misses", "evicted_keys", "keys", "maxmemory"]
    if info is None or info.empty:
        return pd.DataFrame(columns=["epoch", "seq", "us", "node", "maxmemory_policy", *names])
    numbers = {
        name: pd.to_numeric(info[name], errors="coerce").fillna(-1).astype("int64") if name in info else -1 for name in names
    }
    policy = info["maxmemory_policy"].astype("str") if "maxmemory_policy" in info else ""
    frame = pd.DataFrame({"epoch": info["epoch"], "seq": info["seq"], "us": info["t"].astype("int64")})
    frame = frame.assign(node=info["node"].astype("str"), maxmemory_policy=policy, **numbers)
    return frame.sort_values(["epoch", "seq"], ignore_index=True)


def _evictions_by_config(node: str, samples: pd.DataFrame, config: pd.DataFrame | None) -> str:
    """Return which keys a server may evict: ``none``, ``volatile`` or ``all``; what is not known counts as all."""
    mine = samples[samples["node"].eq(node)]
    memory = set(mine["maxmemory"].astype("int64")) - {-1}
    policies = set(mine["maxmemory_policy"]) - {"", "nan"}
    if config is not None and len(config):
        settings = config[config["node"].astype("str").eq(node)].set_index("parameter")["value"]
        memory |= {int(value) for name, value in settings.items() if name == "maxmemory" and str(value).isdigit()}
        policies |= {str(value) for name, value in settings.items() if name == "maxmemory-policy"}
    counted = mine.groupby("epoch")["evicted_keys"].agg(lambda values: values.max() - values.min()).sum() if len(mine) else 0
    if not counted and (memory == {0} or policies == {"noeviction"}):
        return "none"
    return "volatile" if policies and all(policy.startswith("volatile") for policy in policies) else "all"


def _stretches(epoch: int, start: int, end: int, first_seq: int, samples: pd.DataFrame, limit: str) -> pd.DataFrame:
    """Return the stretches of one epoch as a frame with the columns of `Windows`."""
    times = np.concatenate([[start], samples["us"].to_numpy(np.int64), [end]])
    count = len(times) - 1
    outside = 0 if limit == "none" else codes.UNBOUNDED
    rises = {}
    for name in ("keyspace_hits", "keyspace_misses", "evicted_keys"):
        values = samples[name].to_numpy(np.int64)
        inner = np.diff(values)
        # A counter that fell began again, one that is missing says nothing.
        inner[(inner < 0) | (values[1:] < 0) | (values[:-1] < 0)] = -1
        rises[name] = np.concatenate([[-1], inner, [-1]])[:count] if len(values) else np.array([-1])
    evicted = np.where(rises["evicted_keys"] >= 0, rises["evicted_keys"], outside)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "after_seq": np.concatenate([[first_seq - 1], samples["seq"].to_numpy(np.int64)]),
            "start_us": times[:-1],
            "end_us": times[1:],
            "hits": rises["keyspace_hits"],
            "misses": rises["keyspace_misses"],
            "evicted": evicted,
            "volatile_only": limit == "volatile",
            "empty": np.concatenate([[False], _without_keys(samples, rises["keyspace_hits"])]),
            "ends_us": end,
        }
    )


def _without_keys(samples: pd.DataFrame, rises: Ints) -> Bools:
    """Return at which samples the server held no key.

    A dump that leaves INFO's section of databases out says 0 throughout: hits then betray it.
    """
    keys = samples["keys"].to_numpy(np.int64)
    if not (keys > 0).any() and (rises > 0).any():
        return np.zeros(len(keys), np.bool_)
    return keys == 0


def joined_windows(windows: Windows, families: int) -> tuple[Windows, npt.NDArray[np.int32]]:
    """Return the windows, neighbours joined where there are too many for so many families, and the new number of each."""
    count = len(windows.epoch)
    step = -(-count * max(families, 1) // _MOST_CELLS)
    if step <= 1:
        return windows, np.arange(count, dtype=np.int32)
    # Neighbours of one epoch that INFO counted become one.
    group = np.cumsum(np.r_[True, (np.diff(windows.epoch) != 0) | np.diff(windows.anchored.astype(int)).astype(bool)])
    within = np.arange(count) - np.searchsorted(group, group)
    number = np.cumsum(np.r_[True, (np.diff(group) != 0) | (within[1:] % step == 0)]) - 1
    first, last = (
        np.searchsorted(number, np.arange(number[-1] + 1)),
        np.searchsorted(number, np.arange(number[-1] + 1), "right") - 1,
    )

    def summed(column: Ints) -> Ints:
        return np.add.reduceat(column, first)

    joined = replace(
        windows,
        epoch=windows.epoch[first], after_seq=windows.after_seq[first], start_us=windows.start_us[first],
        end_us=windows.end_us[last], hits=np.where(windows.anchored[first], summed(windows.hits), -1),
        misses=np.where(windows.anchored[first], summed(windows.misses), -1), evicted=summed(windows.evicted),
        volatile_only=windows.volatile_only[first], empty=windows.empty[first], ends_us=windows.ends_us[first],
    )  # fmt: skip
    return joined, number.astype(np.int32)


def window_of(epoch: npt.NDArray[np.int32], seq: Ints, windows: Windows) -> npt.NDArray[np.int32]:
    """Return the stretch of every row, by its epoch and position in the stream; rows are in order of both."""
    window = np.zeros(len(seq), np.int32)
    for number in np.unique(windows.epoch):
        start, end = np.searchsorted(epoch, [number, number + 1])
        first, last = np.searchsorted(windows.epoch, [number, number + 1])
        # A row stands behind the sample whose position is the last one below its own.
        begins = start + np.searchsorted(seq[start:end], windows.after_seq[first:last], side="right")
        begins[0] = start
        window[start:end] = np.repeat(np.arange(first, last, dtype=np.int32), np.diff(np.append(begins, end)))
    return window
