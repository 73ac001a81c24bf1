"""INFO texts to tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from coldcache import schema

_LEFT_OUT = frozenset({"executable", "config_file"})  # paths of the server's machine
_PLACE = ("t", "seq", "epoch", "node")
_KEYED_SECTIONS = ("commandstats", "latencystats", "errorstats", "keyspace", "keysizes")


@dataclass(frozen=True, slots=True)
class InfoSample:
    """One INFO reply with its exact place in the stream."""

    stamp_us: int
    seq: int
    text: str
    epoch: int = 0
    node: str = ""


def parse_info(text: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Split an INFO reply into flat fields and, by section, the fields that hold ``a=1,b=2``."""
    flat: dict[str, str] = {}
    keyed: dict[str, dict[str, str]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("#"):
            section = line[1:].strip().lower()
        elif ":" in line:
            name, value = line.split(":", 1)
            if section in _KEYED_SECTIONS:
                keyed.setdefault(section, {})[name] = value
            elif name not in _LEFT_OUT:
                flat[name] = value
    return flat, keyed


def _fields(text: str) -> dict[str, int]:
    pairs = (part.split("=", 1) for part in text.split(",") if "=" in part)
    return {name: int(float(value)) for name, value in pairs if value.replace(".", "", 1).isdigit()}


def _typed(column: pd.Series) -> pd.Series:
    """Whole numbers, then decimals, then text: as narrow as every value of the column allows."""
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().eq(column.notna()).all():
        return numbers.astype("Int64") if numbers.hasnans and (numbers.dropna() % 1 == 0).all() else numbers
    return column.astype("str")


def info_table(samples: list[InfoSample]) -> pd.DataFrame:
    """Return one row per sample: declared columns first, null where INFO lacks them, then every flat field INFO printed,
    plus ``keys``, ``expires`` summed over the databases: null where no sample has its section Keyspace.
    """
    rows = []
    for sample in samples:
        flat, keyed = parse_info(sample.text)
        if "# keyspace" in sample.text.lower():
            databases = [_fields(value) for value in keyed.get("keyspace", {}).values()]
            flat["keys"] = str(sum(db.get("keys", 0) for db in databases))
            flat["expires"] = str(sum(db.get("expires", 0) for db in databases))
        rows.append({"t": sample.stamp_us, "seq": sample.seq, "epoch": sample.epoch, "node": sample.node, **flat})
    frame = pd.DataFrame(rows)
    first = [column.name for column in schema.INFO.columns]
    frame = frame.reindex(columns=first + sorted(set(frame.columns) - set(first)))
    typed = {name: _typed(frame[name]) for name in frame.columns if name not in _PLACE}
    frame = frame.assign(**typed)
    frame["t"] = pd.to_datetime(frame["t"], unit="us", utc=True).dt.as_unit("us")
    return frame


def commandstats_table(samples: list[InfoSample]) -> pd.DataFrame:
    """Return commandstats of every epoch's first and last sample, one row per command and sample."""
    rows = []
    for sample in _ends(samples):
        for name, value in parse_info(sample.text)[1].get("commandstats", {}).items():
            numbers = _fields(value)
            counts = (numbers.get(field) for field in ("calls", "usec", "rejected_calls", "failed_calls"))
            rows.append((sample.stamp_us, sample.epoch, sample.node, name.removeprefix("cmdstat_"), *counts))
    return _stamped(rows, schema.COMMANDSTATS)


def errorstats_table(samples: list[InfoSample]) -> pd.DataFrame:
    """Return errorstats of every epoch's first and last sample, one row per error and sample."""
    rows = []
    for sample in _ends(samples):
        for name, value in parse_info(sample.text)[1].get("errorstats", {}).items():
            count = _fields(value).get("count")
            rows.append((sample.stamp_us, sample.epoch, sample.node, name.removeprefix("errorstat_"), count))
    return _stamped(rows, schema.ERRORSTATS)


def _ends(samples: list[InfoSample]) -> list[InfoSample]:
    """Return the first and the last sample of every epoch: counters do not compare across two."""
    by_epoch: dict[int, list[InfoSample]] = {}
    for sample in samples:
        by_epoch.setdefault(sample.epoch, []).append(sample)
    return [end for group in by_epoch.values() for end in (group[0], *group[1:][-1:])]


def _stamped(rows: Sequence[tuple[object, ...]], table: schema.Table) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[column.name for column in table.columns])
    frame["t"] = pd.to_datetime(frame["t"].astype("int64"), unit="us", utc=True).dt.as_unit("us")
    return frame
