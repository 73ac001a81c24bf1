"""Joins the application's own log of its cache calls with what Redis saw: do the two tell the same story?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from coldcache.case import Case
from coldcache.showing import SelfShowing

_NEIGHBOURS = 8  # accesses of the key looked at on either side of a record
# EXAT, rounding to whole seconds and the call's own duration may move a TTL by this much.
_TTL_SLACK_MS = 1000
_US_PER_MS = 1000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class AppLogJoin(SelfShowing):
    """The application's cache log beside the recorded accesses.

    Attributes
    ----------
    pairs : pandas.DataFrame, one row per matched record, in order of the log
        ``t`` on the server's clock, ``pid``, ``op``, ``key``, ``result`` as the application saw it;
        ``seq`` and ``outcome`` of the access; ``lag_ms`` of the record behind it; ``value_bytes``,
        ``ttl_ms`` as the application logged them, ``redis_value_bytes``, ``redis_ttl_ms`` as asked for.
    matched, unmatched : int
        Records inside the recording with and without an access of the same key and operation.
    outside : int
        Records from before and after the recording, left out of both.
    agree : int
        Matched reads whose HIT or MISS is Redis's outcome.
    disagree : pandas.DataFrame
        The matched reads where it is not: ``t``, ``key``, ``app_result``, ``redis_outcome``, ``seq``.
    writes_differ : pandas.DataFrame
        Matched writes where size or TTL is not what the application believes: ``t``, ``key``, the
        four columns of `pairs`, ``seq``. A TTL that only one side states is no difference: SET and
        then EXPIRE is one call to the application, and two to Redis.
    """

    shown_as: str
    pairs: pd.DataFrame
    matched: int
    unmatched: int
    outside: int
    agree: int
    disagree: pd.DataFrame
    writes_differ: pd.DataFrame

    def __str__(self) -> str:
        if not self.matched + self.unmatched + self.outside:
            return "Application log: not testable, there is none. Log with: from coldcache.instrument import cache_log"
        lines = [
            f"Application log of {self.shown_as}: {self.matched:,} of {self.matched + self.unmatched:,} records matched",
            f"  agree       {self.agree:,} reads",
            f"  disagree    {len(self.disagree):,} reads",
            f"  writes      {len(self.writes_differ):,} with another size or TTL than the application believes",
        ]
        if self.matched:
            lines.append(f"  lag         {self.pairs['lag_ms'].median():.2f} ms from access to record, median")
        if self.outside:
            lines.append(f"  left out    {self.outside:,} records from outside the recording")
        for row in self.disagree.head(5).to_dict("records"):
            lines.append(f"  {row['t']:%H:%M:%S.%f}  {row['key']}: application {row['app_result']}, Redis {row['redis_outcome']}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<AppLogJoin {self.matched} matched, {self.unmatched} not, {len(self.disagree)} disagree>"


def join_app_log(case: Case, tolerance_ms: float = 50) -> AppLogJoin:
    """Match each record of the application's log with one access of the same key and operation.

    A record is written after the reply, so it lags the access by about a round trip. That lag is
    estimated from records with a single candidate; then the pairs nearest to it are taken first,
    each access once. Two reads of a hot key within the tolerance are so kept apart.

    Parameters
    ----------
    case : Case
    tolerance_ms : float
        How far apart, after moving the log to the server's clock, the two may lie.
    """
    log = case.table("app_log")
    log = log.assign(t=case.on_server_clock(log["t"])).sort_values("t", kind="stable", ignore_index=True)
    tolerance = pd.Timedelta(tolerance_ms, "ms")
    inside = _inside(case, log["t"], tolerance)
    outside = int((~inside).sum())
    log = log[inside].reset_index(drop=True)
    accesses = case.accesses
    accesses = accesses[accesses["key"].notna() & accesses["op"].isin(["read", "write", "delete"])]
    pairs = _pairs(log, accesses, round(tolerance_ms * _US_PER_MS))
    told = pairs[pairs["op"].eq("read") & pairs["result"].notna() & pairs["outcome"].isin(["hit", "miss"])]
    same = told["result"].eq(told["outcome"])
    disagree = told.loc[~same, ["t", "key", "result", "outcome", "seq"]]
    return AppLogJoin(
        shown_as=case.shown_as,
        pairs=pairs,
        matched=len(pairs),
        unmatched=len(log) - len(pairs),
        outside=outside,
        agree=int(same.sum()),
        disagree=disagree.rename(columns={"result": "app_result", "outcome": "redis_outcome"}).reset_index(drop=True),
        writes_differ=_writes_that_differ(pairs),
    )


def _inside(case: Case, t: pd.Series, tolerance: pd.Timedelta) -> pd.Series:
    """Return which times fall into a stretch that was recorded."""
    stretches = [(pd.Timestamp(epoch["start"]), pd.Timestamp(epoch["end"])) for epoch in case.epochs if epoch.get("end")]
    within = pd.Series(False, index=t.index)
    for start, end in stretches or [(case.start, case.end)]:
        within |= t.between(start - tolerance, end + tolerance)
    return within


def _pairs(log: pd.DataFrame, accesses: pd.DataFrame, tolerance_us: int) -> pd.DataFrame:
    record, access, lag_us = _matches(log, accesses, tolerance_us)
    ours, theirs = log.iloc[record].reset_index(drop=True), accesses.iloc[access].reset_index(drop=True)
    columns = {name: ours[name] for name in ("t", "pid", "op", "key", "result", "value_bytes", "ttl_ms")}
    columns |= {
        "seq": theirs["seq"],
        "outcome": theirs["outcome"],
        "lag_ms": pd.Series(lag_us / _US_PER_MS, dtype="float64"),
        "redis_value_bytes": theirs["value_bytes"],
        "redis_ttl_ms": theirs["ttl_ms"],
    }
    labels = {name: column.astype("str") for name, column in columns.items() if name in ("op", "result", "outcome")}
    return pd.DataFrame(columns | {name: text.where(columns[name].notna()) for name, text in labels.items()})


def _matches(log: pd.DataFrame, accesses: pd.DataFrame, tolerance_us: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return matched positions in `log` and `accesses`, in order of `log`, and the record's lag in µs."""
    nothing = np.empty(0, dtype=np.int64)
    if log.empty or accesses.empty:
        return nothing, nothing, nothing
    # Key, operation and time in one number: another key's access is always farther than the tolerance.
    names = pd.concat([frame["op"].astype("str") + " " + frame["key"].astype("str") for frame in (log, accesses)])
    codes = pd.factorize(names)[0].astype(np.int64)
    micros = np.concatenate([_micros(frame["t"]) for frame in (log, accesses)])
    micros -= micros.min()
    place = codes * (int(micros.max()) + 2 * tolerance_us + 1) + micros
    records, unsorted = place[: len(log)], place[len(log) :]
    order = np.argsort(unsorted, kind="stable")
    sorted_accesses = unsorted[order]
    near = np.searchsorted(sorted_accesses, records)[:, None] + np.arange(-_NEIGHBOURS, _NEIGHBOURS)
    exists = (near >= 0) & (near < len(sorted_accesses))
    lags = records[:, None] - sorted_accesses[np.clip(near, 0, len(sorted_accesses) - 1)]
    candidate = exists & (np.abs(lags) <= tolerance_us)
    alone = candidate.sum(axis=1) == 1
    typical = float(np.median(lags[alone][candidate[alone]])) if alone.any() else 0.0
    rows, columns = np.nonzero(candidate)
    found_lags, found = lags[rows, columns], near[rows, columns]
    taken: dict[int, tuple[int, int]] = {}
    used: set[int] = set()
    for at in np.argsort(np.abs(found_lags - typical), kind="stable"):
        row, access = int(rows[at]), int(found[at])
        if row not in taken and access not in used:
            taken[row] = (int(order[access]), int(found_lags[at]))
            used.add(access)
    matched = sorted(taken)
    both = np.array([taken[row] for row in matched], dtype=np.int64).reshape(-1, 2)
    return np.array(matched, dtype=np.int64), both[:, 0], both[:, 1]


def _micros(t: pd.Series) -> np.ndarray:
    return t.dt.as_unit("us").astype("int64").to_numpy()


def _writes_that_differ(pairs: pd.DataFrame) -> pd.DataFrame:
    writes = pairs[pairs["op"].eq("write")]
    size = _differ(writes["value_bytes"], writes["redis_value_bytes"], 0)
    ttl = _differ(writes["ttl_ms"], writes["redis_ttl_ms"], _TTL_SLACK_MS)
    names = ["t", "key", "value_bytes", "redis_value_bytes", "ttl_ms", "redis_ttl_ms", "seq"]
    return writes.loc[size | ttl, names].reset_index(drop=True)


def _differ(ours: pd.Series, theirs: pd.Series, slack: int) -> pd.Series:
    """Whether both are known and lie farther apart than `slack`."""
    return (ours.astype("float64") - theirs.astype("float64")).abs().gt(slack)
