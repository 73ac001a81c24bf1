"""Cache logs that applications write in their own words: ``[CACHE][GET] Key:…, Result:HIT``, JSON lines, any pattern."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, BinaryIO

import pandas as pd

from coldcache import schema
from coldcache.errors import UsageError
from coldcache.sources.app_log import app_log_table
from coldcache.sources.jsonl import stamped_table, whole
from coldcache.sources.monitor import escape
from coldcache.sources.text import TIME_FORMS, TOO_LONG, bounded_lines, states_zone, time_of, zone_of

_READS = "get mget hget getex read fetch lookup hit miss"
_WRITES = "set setex psetex setnx mset hset put write store add"
_DELETES = "del delete unlink remove rem invalidate forget"
_OPS = {word: op for words, op in ((_READS, "read"), (_WRITES, "write"), (_DELETES, "delete")) for word in words.split()}
_RESULTS = dict.fromkeys(("hit", "true", "1", "yes"), "hit") | dict.fromkeys(("miss", "false", "0", "no"), "miss")
_NOTHING = frozenset(("", "null", "none", "undefined", "nan", "-", "-1"))  # what a template prints for what is not there
_CALL = re.compile(r"\[CACHE\]\s?\[([A-Za-z]{2,12})\]\s*Key:(.*)", re.IGNORECASE | re.DOTALL)
_NAMED = re.compile(r"(Result|Size|TTL|TTL_?ms|Bytes)\s*[:=](.*)", re.IGNORECASE | re.DOTALL)
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?(ms|s|sec|seconds|b|bytes)?", re.IGNORECASE)
_PID = re.compile(r"\w\[(\d{1,9})\]: ")  # syslog: `app[712]: `
_MONTH = re.compile("Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec")
_PREFIX_CHARS = 512  # a time further into the line is not the line's
_GROUPS = ("time", "op", "key", "result", "size", "ttl")
_NAMES = {  # what JSON logs call the fields, the likeliest first
    "time": ("ts", "time", "timestamp", "@timestamp", "t", "date", "datetime"),
    "op": ("op", "operation", "action", "command", "cmd", "event"),
    "key": ("key", "cacheKey", "cache_key"),
    "result": ("result", "hit", "outcome", "cache"),
    "size": ("size", "bytes", "value_bytes", "length"),
    "ttl": ("ttl", "ttl_s", "ttlSeconds", "ex"),
    "ttl_ms": ("ttl_ms", "ttlMs", "px"),
}
_TEXTS = ("log", "message", "msg", "MESSAGE")  # where a JSON log keeps the line that the application wrote
_BYTES = ("b", "bytes")
_NO_TIME = "without a time"
_Row = tuple[object, ...]


@dataclass(frozen=True, slots=True, eq=False)
class AppLogFile:
    """What an application's log tells of its cache calls; ``lines == len(table) + sum(skipped.values())``.

    Attributes
    ----------
    table : pandas.DataFrame
        See ``schema.APP_LOG``, oldest first; ``pid`` is null where the log does not state it.
    lines : int
        Lines of the file.
    skipped : dict
        How many lines did not become a row, by reason.
    assumed_zone : str
        The zone taken for times that state none.
    assumed : int
        How many rows have such a time: if they are off by whole hours, the zone was another.
    """

    table: pd.DataFrame
    lines: int
    skipped: dict[str, int]
    assumed_zone: str
    assumed: int


class _NotUnderstoodError(Exception):
    """Why a line gives no row."""


def read_app_log(
    stream: BinaryIO, *, pattern: str | None = None, zone: str | None = None, year: int | None = None, ttl_unit: str = "s"
) -> AppLogFile:
    """Return the cache calls that an application logged.

    Parameters
    ----------
    stream : BinaryIO
    pattern : str or None
        Regular expression searched in each line, with named groups: `key`, at least one of `op` and `result`, and
        any of `time`, `size`, `ttl`. By default the lines are ``[CACHE][OP] Key:…`` or JSON objects, each recognised.
    zone : str or None
        Zone of times that state none; UTC by default.
    year : int or None
        Of times without one, as syslog writes them; lines with such times are left out by default.
    ttl_unit : str
        ``s`` or ``ms``: what a time to live without a unit is counted in.

    Raises
    ------
    UsageError
        The pattern, the zone or the unit cannot be used, or the log has cache calls and no times.
    """
    reader = _Reader(_compiled(pattern), zone, year, ttl_unit)
    for line in bounded_lines(stream):
        reader.feed(line)
    return reader.finish(zone or "UTC")


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        form = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"The pattern of the application's log is no regular expression: {error}.") from error
    named = f"Name groups as (?P<key>…); known are {', '.join(_GROUPS)}."
    if "key" not in form.groupindex:
        raise UsageError(f"The pattern of the application's log has no group named key. {named}")
    if not {"op", "result"} & set(form.groupindex):
        raise UsageError(f"The pattern of the application's log tells no operation: it has neither op nor result. {named}")
    return form


class _Reader:
    def __init__(self, pattern: re.Pattern[str] | None, zone: str | None, year: int | None, ttl_unit: str) -> None:
        if ttl_unit not in ("s", "ms"):
            raise UsageError(f"A time to live is counted in s or ms, not in {ttl_unit!r}.")
        self._pattern = pattern
        self._zone, self._year, self._ttl_unit = zone_of(zone) if zone else None, year, ttl_unit
        self._lines = 0
        self._rows: list[_Row] = []
        self._own: list[dict[str, Any]] = []
        self._skipped: Counter[str] = Counter()
        self._assumed = 0

    def feed(self, line: bytes | None) -> None:
        self._lines += 1
        if line is None:
            self._skipped[TOO_LONG] += 1
            return
        try:
            self._read(line.decode("utf-8", "surrogateescape"))
        except _NotUnderstoodError as reason:
            self._skipped[str(reason)] += 1

    def finish(self, zone: str) -> AppLogFile:
        timeless = self._skipped[_NO_TIME]
        if timeless and not self._rows and not self._own:
            raise UsageError(
                f"None of the log's {timeless} cache calls has a time that is understood, and without times they cannot be "
                "matched with what Redis saw. Log with time stamps (ISO 8601 with a zone), or name the time in a pattern."
            )
        own = app_log_table(self._own)
        if rejected := len(self._own) - len(own):
            self._skipped["damaged record of coldcache.instrument"] += rejected
        table = stamped_table(self._rows, schema.APP_LOG)
        if len(own):
            both = pd.concat([table, own], ignore_index=True) if len(table) else own
            table = schema.to_arrow(both, schema.APP_LOG).to_pandas()
        return AppLogFile(
            table=table.sort_values("t", kind="stable", ignore_index=True),
            lines=self._lines,
            skipped={reason: count for reason, count in self._skipped.items() if count},
            assumed_zone=zone,
            assumed=self._assumed,
        )

    def _read(self, text: str) -> None:
        if not text.strip():
            raise _NotUnderstoodError("empty")
        if self._pattern is not None:
            found = self._pattern.search(text)
            if found is None:
                raise _NotUnderstoodError("not of the pattern's form")
            fields = found.groupdict()
            self._add(fields, fields["time"] if "time" in fields else text[:_PREFIX_CHARS])
        elif text.lstrip().startswith("{"):
            self._read_json(text)
        else:
            fields = _call(text)
            self._add(fields, fields["prefix"])

    def _read_json(self, text: str) -> None:
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            raise _NotUnderstoodError("not a whole JSON object") from None
        if "t_us" in record and "ttl_ms" in record:
            self._own.append(record)
            return
        fields = {name: next((record[alias] for alias in aliases if alias in record), None) for name, aliases in _NAMES.items()}
        if not isinstance(fields["key"], str):
            inner = next((record[name] for name in _TEXTS if isinstance(record.get(name), str)), "")
            time = fields["time"]
            fields = _call(inner)
            if time is None:
                time = fields["prefix"]
        else:
            time = fields["time"]
        pid = record.get("pid")
        self._add(fields | {"pid": pid}, "" if time is None else str(time))

    def _add(self, fields: dict[str, Any], time_text: str | None) -> None:
        """Make a row of fields by the names of the pattern's groups, or say why not."""
        op, result = _operation(fields)
        key = fields["key"]
        if not key:
            raise _NotUnderstoodError("without a key")
        size = _amount(fields.get("size"), "b", "size")
        ttl_ms = _amount(fields.get("ttl_ms"), "ms", "ttl")
        if ttl_ms is None:
            ttl_ms = _amount(fields.get("ttl"), self._ttl_unit, "ttl")
        found = _time_in(time_text or "")
        t_us = time_of(found, self._zone, self._year) if found else None
        if found is None or t_us is None:
            raise _NotUnderstoodError(_NO_TIME)
        self._assumed += not states_zone(found)
        printable = escape(key.encode("utf-8", "surrogateescape" if _is_encodable(key) else "backslashreplace"))
        pid = fields.get("pid")
        self._rows.append((t_us, pid if whole(pid, bits=32) else None, op, printable, size, ttl_ms, result))


def _is_encodable(text: str) -> bool:
    """Whether every half of a surrogate pair in it stands for a byte that is no UTF-8; JSON may hold others."""
    return text.isascii() or not any(0xD800 <= ord(char) <= 0xDC7F or 0xDD00 <= ord(char) <= 0xDFFF for char in text)


def _call(text: str) -> dict[str, Any]:
    """Return the fields of ``[CACHE][OP] Key:…, Name:…``; the key may hold commas, so they are taken off from the right."""
    found = _CALL.search(text)
    if found is None:
        raise _NotUnderstoodError("no cache call")
    fields: dict[str, Any] = {"op": found[1], "prefix": text[: found.start()][:_PREFIX_CHARS]}
    rest = found[2]
    for _ in range(len(_GROUPS)):
        before, comma, last = rest.rpartition(",")
        named = _NAMED.fullmatch(last.strip()) if comma else None
        if named is None:
            break
        name = named[1].lower().replace("bytes", "size").replace("ttlms", "ttl_ms")
        fields[name] = named[2].strip()
        rest = before
    fields["key"] = rest.strip()
    pid = _PID.search(fields["prefix"])
    fields["pid"] = int(pid[1]) if pid else None
    return fields


def _operation(fields: dict[str, Any]) -> tuple[str, str | None]:
    """Return operation and result in the words of the ``accesses`` table."""
    word, said = (str(value).strip().lower() if value is not None else "" for value in (fields.get("op"), fields.get("result")))
    op = _OPS.get(word) if word else ("read" if said else None)
    if op is None:
        raise _NotUnderstoodError("another operation")
    if op != "read":
        return op, None
    result = _RESULTS.get(said or word)
    if result is None and said not in _NOTHING:
        raise _NotUnderstoodError("neither HIT nor MISS")
    return op, result


def _amount(value: object, unit: str, what: str) -> int | None:
    """Return bytes or milliseconds; None for nothing."""
    text = "" if value is None else str(value).strip()
    if text.lower() in _NOTHING:
        return None
    found = _AMOUNT.fullmatch(text)
    stated = (found[2] or unit).lower() if found else unit
    if found is None or (stated in _BYTES) != (unit in _BYTES):
        raise _NotUnderstoodError(f"{what} is no number")
    return round(float(found[1]) * (1000 if stated.startswith("s") else 1))


def _time_in(text: str) -> re.Match[str] | None:
    """Return the line's time: the first that states its zone, else the first. docker and kubectl put theirs before."""
    text = text[:_PREFIX_CHARS]
    # Forms with a month's name cost most of the reading, and few logs have them.
    forms = TIME_FORMS[:-1] if _MONTH.search(text) else TIME_FORMS[:1]
    found = [match for form in forms for match in form.finditer(text)]
    if not found:
        return TIME_FORMS[-1].search(text)  # last: a number of ten digits may as well name a request
    # Of two that begin together the longer one: `Nov 22 18:40:00 2026` is also a time without a year.
    return min(found, key=lambda match: (not states_zone(match), match.start(), -match.end()))
