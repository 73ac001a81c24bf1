"""What changed between two recordings: a good and a bad one, or before and after a repair."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import pandas as pd

from coldcache.causes.diagnosis import Diagnosis
from coldcache.causes.outcomes import percent
from coldcache.keys.mismatch import template_edit
from coldcache.replay.usage import key_usage
from coldcache.showing import SelfShowing

_LEAST_READS = 50  # of a family in either recording: fewer say nothing of its hit rate
_POINTS = 0.05  # of a hit rate
_SIZES = 1.5  # times as large, or as small
_RATES = 2.0  # times as often, or as seldom
_MOST_FAMILIES = 300  # new ones, and vanished ones, that are matched with each other
# They differ between any two servers, or say where its files lie.
_OF_THE_PLACE = frozenset({"port", "tls-port", "bind", "dbfilename", "appendfilename", "appenddirname", "proc-title-template"})


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not as it was.

    Attributes
    ----------
    kind : ``family``, ``hit_rate``, ``ttl``, ``format``, ``size``, ``rate``, ``config``, ``server`` or ``clients``
    what : str
        Of what: a family, a parameter.
    before, after : str or None
        None where it was not there.
    per_s : float
        Reads or writes of the family, in the recording where it has more; what the changes are ordered by.
    """

    kind: str
    what: str
    before: str | None
    after: str | None
    per_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind:<9}{self.what}: {self.before or 'was not there'} -> {self.after or 'is gone'}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of ``diagnose --json --baseline``."""
        return {"kind": self.kind, "what": self.what, "before": self.before, "after": self.after}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Comparison(SelfShowing):
    """Two diagnoses side by side.

    Attributes
    ----------
    baseline, now : Diagnosis
    families : pandas.DataFrame, one row per family, the busiest first
        ``family``; ``status``: new, vanished, kept or edited; ``was``: its earlier name, of an edited one; then of each
        recording, ``_before`` and ``_after``: ``reads_per_s``, ``writes_per_s``, ``hit_rate``, ``value_bytes``, ``ttl``,
        ``format``. NaN or None where unknown.
    changes : tuple of Change
        What matters most first.
    """

    baseline: Diagnosis
    now: Diagnosis
    families: pd.DataFrame
    changes: tuple[Change, ...]

    @property
    def mended(self) -> tuple[str, ...]:
        """Causes that the baseline has and this recording has not."""
        return _without(self.baseline, self.now)

    @property
    def appeared(self) -> tuple[str, ...]:
        """Causes that this recording has and the baseline has not."""
        return _without(self.now, self.baseline)

    @property
    def headline(self) -> str:
        """The answer in a sentence or two."""
        before, after = self.baseline.ledger, self.now.ledger
        rates = f"The {_moved('hit rate', before.hit_rate, after.hit_rate)}"
        used = [None if ledger.effective_hit_rate == ledger.hit_rate else ledger.effective_hit_rate for ledger in (before, after)]
        if any(rate is not None for rate in used):
            rates += f", {_moved('share of reads that used a hit', before.effective_hit_rate, after.effective_hit_rate)}"
        causes = [f"{' and '.join(self.mended)} is gone"] if self.mended else []
        causes += [f"{' and '.join(self.appeared)} is new"] if self.appeared else []
        return f"{rates}{': ' if causes else '; the causes are the same'}{', '.join(causes)}."

    def __str__(self) -> str:
        lines = [f"Compared with {self.baseline.case.shown_as}: {self.headline}"]
        shown = self.changes[:20]
        lines += [f"  {change}" for change in shown]
        if len(self.changes) > len(shown):
            lines.append(f"  and {len(self.changes) - len(shown):,} further changes")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Comparison of {self.now.case.shown_as} with {self.baseline.case.shown_as}: {len(self.changes)} changes>"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of ``diagnose --json --baseline``: the member ``baseline`` beside those of the diagnosis."""
        ledgers = self.baseline.ledger, self.now.ledger
        rates, used = (
            dict(zip(("before", "after"), (None if rate is None else round(rate, 4) for rate in both), strict=True))
            for both in ([of.hit_rate for of in ledgers], [of.effective_hit_rate for of in ledgers])
        )
        return {
            "path": self.baseline.case.shown_as,
            "hit_rate": rates,
            "effective_hit_rate": used,
            "mended": list(self.mended),
            "appeared": list(self.appeared),
            "changes": [change.to_dict() for change in self.changes],
        }


def compare(baseline: Diagnosis, now: Diagnosis) -> Comparison:
    """Say what changed from one recording to another.

    Parameters
    ----------
    baseline : Diagnosis
        Of the recording that is compared with: the good one of an incident, or the bad one of a repair.
    now : Diagnosis
    """
    before, after = _families(baseline), _families(now)
    stopped = after.index[after["writes_per_s"].eq(0)].intersection(before.index[before["writes_per_s"].gt(0)])
    vanished = before.index.difference(after.index)
    edits = dict(_edited([*vanished, *stopped], after.index.difference(before.index), before, after))
    table = _side_by_side(before, after, edits)
    changes = [*_family_changes(table), *_server_changes(baseline, now)]
    changes.sort(key=lambda change: -change.per_s)
    return Comparison(baseline=baseline, now=now, families=table, changes=tuple(changes))


def _without(diagnosis: Diagnosis, other: Diagnosis) -> tuple[str, ...]:
    theirs = {finding.cause for finding in other.findings}
    return tuple(dict.fromkeys(finding.cause for finding in diagnosis.findings if finding.cause not in theirs))


def _moved(what: str, before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return f"{what} is not known of both"
    if abs(after - before) < _POINTS / 10:
        return f"{what} stayed at {after:.1%}"
    return f"{what} {'rose' if after > before else 'fell'} from {before:.1%} to {after:.1%}"


def _seconds(diagnosis: Diagnosis) -> float:
    return max((diagnosis.case.end - diagnosis.case.start).total_seconds(), 1e-6)


def _families(diagnosis: Diagnosis) -> pd.DataFrame:
    """Return what a recording says of each family, by its name."""
    ledger = diagnosis.ledger
    tally, words = ledger.tally, ledger.replays.shards.vocabulary
    names = pd.Index(ledger.families, dtype="str", name="family")
    known = ledger.knows_outcomes
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(tally.reads >= _LEAST_READS, tally.hits / tally.reads, np.nan) if known else np.full(len(names), np.nan)
    frame = pd.DataFrame(
        {
            "reads_per_s": tally.reads / _seconds(diagnosis),
            "writes_per_s": tally.done_writes / _seconds(diagnosis),
            "hit_rate": rate,
            "ttl": [_commonest_ttl(tally.ttls[tally.ttls[:, 0] == family], words.ttl_form) for family in range(len(names))],
            "format": [words.value_format[int(np.argmax(row))] if row.any() else None for row in tally.formats],
        },
        index=names,
    )
    sizes = key_usage(ledger).families.set_index("family")["value_bytes"]
    frame["value_bytes"] = sizes.reindex(names).to_numpy(float)
    return frame[(frame["reads_per_s"] > 0) | (frame["writes_per_s"] > 0)]


def _commonest_ttl(ttls: np.ndarray, forms: tuple[str, ...]) -> str | None:
    """Return the time to live that most writes of a family ask for, as the command says it."""
    if not len(ttls):
        return None
    _, form, ttl_ms, _ = ttls[np.argmax(ttls[:, 3])]
    return _as_asked(forms[int(form)], int(ttl_ms))


def _as_asked(form: str, ttl_ms: int) -> str:
    if form in ("EXAT", "PXAT", "EXPIREAT", "PEXPIREAT"):
        return f"{form}, {ttl_ms / 1000:g} s ahead"
    return f"{form} {ttl_ms}" if form.startswith("P") else f"{form} {ttl_ms // 1000}"


def _edited(
    vanished: Iterable[str], new: Iterable[str], before: pd.DataFrame, after: pd.DataFrame
) -> Iterator[tuple[str, str]]:  # fmt: skip
    """Yield new families that are vanished ones under another name, each with its old name; the busiest first.

    One that is still read, but no longer written, may be written under another name now.
    """
    left = _busiest(before, vanished)
    for name in _busiest(after, new):
        candidates = [old for old in left if template_edit(old, name) is not None]
        if candidates:
            old = max(candidates, key=lambda old: SequenceMatcher(None, old, name).ratio())
            left.remove(old)
            yield name, old


def _busiest(side: pd.DataFrame, names: Iterable[str]) -> list[str]:
    """Return the names with the most reads and writes, in this order."""
    rates = (side["reads_per_s"] + side["writes_per_s"]).reindex(list(names))
    return [str(name) for name in rates.sort_values(ascending=False, kind="stable").index[:_MOST_FAMILIES]]


def _side_by_side(before: pd.DataFrame, after: pd.DataFrame, edits: dict[str, str]) -> pd.DataFrame:
    """Return the families of both, an edited one in one row."""
    # Of a family that is still read under its old name the reads stay there.
    renamed = before.rename(index={old: new for new, old in edits.items() if old not in after.index})
    table = renamed.merge(after, how="outer", left_index=True, right_index=True, suffixes=("_before", "_after"))
    there_before, there_after = table.index.isin(renamed.index), table.index.isin(after.index)
    status = np.select([table.index.isin(list(edits)), ~there_before, ~there_after], ["edited", "new", "vanished"], "kept")
    table.insert(0, "status", status)
    table.insert(1, "was", [edits.get(name) for name in table.index])
    sums = [f"{what}_per_s_{side}" for what in ("reads", "writes") for side in ("before", "after")]
    table[sums] = table[sums].fillna(0.0)
    most = table[sums].max(axis=1)
    order = most.reset_index(name="most").sort_values(["most", "family"], ascending=[False, True])["family"]
    return table.loc[order].reset_index()


def _family_changes(table: pd.DataFrame) -> Iterator[Change]:
    for row in table.to_dict("records"):
        name: str = row["family"]
        most = max(row[f"{what}_per_s_{side}"] for what in ("reads", "writes") for side in ("before", "after"))
        if row["status"] in ("new", "vanished"):
            yield Change("family", name, _rates(row, "before") or None, _rates(row, "after") or None, most)
            continue
        if row["status"] == "edited":
            yield Change("family", name, row["was"], name, most)
        for what in ("reads", "writes"):
            was, now = row[f"{what}_per_s_before"], row[f"{what}_per_s_after"]
            if row["status"] == "kept" and (_times(was, now) >= _RATES or (was > 0) != (now > 0)):
                yield Change("rate", name, f"{was:.1f} {what}/s", f"{now:.1f} {what}/s", most)
        rates = row["hit_rate_before"], row["hit_rate_after"]
        if abs(rates[1] - rates[0]) >= _POINTS:
            yield Change("hit_rate", name, percent(rates[0]), percent(rates[1]), most)
        for kind in ("ttl", "format"):
            was, now = (None if pd.isna(row[f"{kind}_{side}"]) else row[f"{kind}_{side}"] for side in ("before", "after"))
            # A family that was not written in one of the two says nothing of it there.
            if was != now and _written(row):
                yield Change(kind, name, was or "none", now or "none", most)
        sizes = row["value_bytes_before"], row["value_bytes_after"]
        if _times(*sizes) >= _SIZES:
            yield Change("size", name, f"{sizes[0]:,.0f} bytes", f"{sizes[1]:,.0f} bytes", most)


def _rates(row: dict[Any, Any], side: str) -> str:
    """Return how often a family is read and written, in one of the recordings."""
    rates = ((row[f"{what}_per_s_{side}"], what) for what in ("reads", "writes"))
    return ", ".join(f"{rate:.1f} {what}/s" for rate, what in rates if rate > 0)


def _written(row: dict[Any, Any]) -> bool:
    return row["writes_per_s_before"] > 0 and row["writes_per_s_after"] > 0


def _times(before: float, after: float) -> float:
    """Return how many times as much the larger of two is; 1 where either is unknown or nothing."""
    if not (before > 0 and after > 0):
        return 1.0
    return max(before, after) / min(before, after)


def _server_changes(baseline: Diagnosis, now: Diagnosis) -> Iterator[Change]:
    """Yield what the servers, their configuration and those connected say; before the families, for it moves them all."""
    first = float("inf")
    versions = [_told({f"{server['software']} {server['version']}".strip() for server in case.meta.get("servers", [])})
                for case in (baseline.case, now.case)]  # fmt: skip
    if versions[0] != versions[1]:
        yield Change("server", "version", versions[0], versions[1], first)
    settings = [_settings(diagnosis) for diagnosis in (baseline, now)]
    if all(settings):  # of a recording without CONFIG nothing is known
        for name in sorted((settings[0].keys() | settings[1].keys()) - _OF_THE_PLACE):
            before, after = (side.get(name) for side in settings)
            if before != after:
                yield Change("config", name, before, after, first)
    for name, unit in (("user", "users"), ("library", "client libraries")):
        told = [_told(set(diagnosis.case.table("clients")[name].dropna().astype("str"))) for diagnosis in (baseline, now)]
        if all(told) and told[0] != told[1]:
            yield Change("clients", unit, told[0], told[1], first)
    opened = [_connections_per_s(diagnosis) for diagnosis in (baseline, now)]
    if _times(*opened) >= _RATES and max(opened) >= 1:
        yield Change("clients", "new connections", f"{opened[0]:.1f}/s", f"{opened[1]:.1f}/s", first)


def _settings(diagnosis: Diagnosis) -> dict[str, str]:
    config = diagnosis.case.table("config")
    values = config["value"].astype("str").groupby(config["parameter"].astype("str"))
    return {str(name): _told(set(found)) or "" for name, found in values}


def _told(values: set[str]) -> str | None:
    return ", ".join(sorted(values)) or None


def _connections_per_s(diagnosis: Diagnosis) -> float:
    info = diagnosis.case.table("info")
    if "total_connections_received" not in info or info.empty:
        return float("nan")
    rises = info.groupby(["node", "epoch"], observed=True)["total_connections_received"].agg(lambda of: of.iloc[-1] - of.iloc[0])
    return float(rises.sum()) / _seconds(diagnosis)
