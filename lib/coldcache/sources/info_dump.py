"""INFO as ``redis-cli`` prints it, one dump or a series of them in one file, and the times written between them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import BinaryIO

from coldcache import schema
from coldcache.sources.text import TIME_FORMS, TOO_LONG, bounded_lines, time_of, zone_of

_PROMPT = re.compile(r"(?:redis |valkey )?[\w.\[\]:-]{0,255}:\d+(?:\[\d+\])?(?:\(TX\))?> ?|not connected> ")
_FIELD = re.compile(r"([A-Za-z][^\s:]{0,199}):(\S.*)?")
_KEYED = (
    (re.compile(r"cmdstat_"), "Commandstats"),
    (re.compile(r"errorstat_"), "Errorstats"),
    (re.compile(r"latency_percentiles_usec_"), "Latencystats"),
    (re.compile(r"db\d+\Z"), "Keyspace"),
)
_REPEATED = frozenset({"module"})  # one line for each module, all of that name
# Without at least one of these, lines of `name:value` are some other program's.
_TELLING = frozenset(
    ["redis_version", "valkey_version", "run_id", "role", "connected_clients", "uptime_in_seconds"]
    + [column.name for column in schema.INFO.columns]
)
_COUNTERS = [column.name for column in schema.INFO.columns if column.name not in ("t", "seq", "epoch", "node")]


@dataclass(frozen=True, slots=True)
class InfoDump:
    """One INFO reply found in a file.

    Attributes
    ----------
    t_us : int or None
        When it was taken, µs since the epoch; None where nothing tells.
    basis : str or None
        What `t_us` rests on: ``file`` (a line before the dump), ``server`` (INFO's own clock),
        ``mtime`` (when the file was last written) or None.
    server_us : int or None
        INFO's own ``server_time_usec``, whatever the basis is: it tells how far the two clocks are apart.
    text : str
        The fields, under section headers even where the file left them out, for :func:`coldcache.sources.info.parse_info`.
    run_id, tcp_port : str or None
        Which server it was, and which start of it.
    line : int
        Where in the file its first field stands, from 1.
    lacks : tuple of str
        The counters of ``schema.INFO`` that it does not state: ``INFO stats`` knows no memory.
    """

    t_us: int | None
    basis: str | None
    server_us: int | None
    text: str
    run_id: str | None
    tcp_port: str | None
    line: int
    lacks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InfoFile:
    """What a file of INFO dumps holds: the `dumps` in order, how many `lines`, how many were `skipped` and why, `problems`."""

    dumps: list[InfoDump]
    lines: int
    skipped: dict[str, int]
    problems: list[str]


@dataclass(slots=True)
class _Open:
    """The dump that is being read."""

    line: int
    time: str | None
    t_us: int | None
    sections: dict[str, list[str]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    values: dict[str, str] = field(default_factory=dict)
    headers: set[str] = field(default_factory=set)
    section: str = ""


def read_info_dumps(stream: BinaryIO, *, mtime_us: int | None = None, zone: str | None = None) -> InfoFile:
    """Return every INFO reply of a text file.

    A new one begins at a time line, a prompt, a section header that the present one has already, or without
    headers at a field that it has already.

    Parameters
    ----------
    stream : BinaryIO
    mtime_us : int or None
        When the file was last written: the time of its last dump if nothing better tells. None to leave that unknown.
    zone : str or None
        Zone of times that state none; UTC by default.
    """
    reader = _Reader(zone_of(zone) if zone else None)
    lines = 0
    for lines, line in enumerate(bounded_lines(stream), 1):
        reader.feed(line, lines)
    return reader.finish(lines, mtime_us)


class _Reader:
    def __init__(self, zone: tzinfo | None) -> None:
        self._zone = zone
        self._dump: _Open | None = None
        self._done: list[_Open] = []
        self._time: tuple[str | None, int | None] = (None, None)
        self._skipped: Counter[str] = Counter()
        self._last_skipped = 0

    def feed(self, line: bytes | None, number: int) -> None:
        if line is None:
            self._skip(TOO_LONG, number)
            return
        text = line.decode("utf-8", "replace").strip()
        if prompt := _PROMPT.match(text):
            text = text[prompt.end() :]
            self._close()
        if not text:
            return
        if not text.isprintable():
            self._skip("binary", number)
        elif found := _FIELD.fullmatch(text):
            self._add(found[1], text, number)
        elif (time := _whole_time(text)) is not None:
            self._close()
            self._time = (text, time_of(time, self._zone))
        elif text.startswith("# "):
            self._header(text[2:].strip(), number)
        elif not (prompt and text.lower().split()[0] == "info"):
            self._skip("not INFO", number)

    def _skip(self, reason: str, number: int) -> None:
        self._skipped[reason] += 1
        self._last_skipped = number

    def _close(self) -> None:
        if self._dump is not None and self._dump.names:
            self._done.append(self._dump)
        self._dump = None

    def _opened(self, number: int) -> _Open:
        if self._dump is None:
            self._dump = _Open(number, *self._time)
            self._time = (None, None)
        return self._dump

    def _header(self, name: str, number: int) -> None:
        if self._dump is not None and name in self._dump.headers:
            self._close()
        dump = self._opened(number)
        dump.headers.add(name)
        dump.section = name

    def _add(self, name: str, text: str, number: int) -> None:
        dump = self._dump
        if dump is not None and not dump.headers and name in dump.names and name not in _REPEATED:
            self._close()
        dump = self._opened(number)
        section = next((title for form, title in _KEYED if form.match(name)), dump.section)
        dump.sections.setdefault(section, []).append(text)
        dump.names.add(name)
        if name in ("run_id", "tcp_port", "server_time_usec"):
            dump.values[name] = text.split(":", 1)[1]

    def finish(self, lines: int, mtime_us: int | None) -> InfoFile:
        self._close()
        found = [dump for dump in self._done if dump.names & _TELLING or any(title in dump.sections for _, title in _KEYED)]
        problems = [] if found else ["holds no INFO: save the output of `redis-cli INFO everything`"]
        everything = set().union(*(dump.headers for dump in found))
        dumps = []
        for number, dump in enumerate(found):
            if missing := sorted(everything - dump.headers):
                problems.append(f"the dump in line {dump.line} lacks {', '.join(missing)}: cut off?")
            if dump.time and dump.t_us is None:
                problems.append(f"the time before the dump in line {dump.line} is no time that is understood")
            dumps.append(_finished(dump, mtime_us if number == len(found) - 1 else None))
        if found and self._last_skipped == lines:
            problems.append("the last line is no field of INFO: cut off?")
        if others := len(self._done) - len(found):
            problems.append(f"{others} passages of `name:value` lines are no INFO")
        if untimed := sum(dump.t_us is None for dump in dumps):
            problems.append(f"{untimed} of {len(dumps)} dumps have no time")
        return InfoFile(dumps, lines, dict(self._skipped), problems)


def _whole_time(text: str) -> re.Match[str] | None:
    """Return the time that a line consists of, decoration like ``=== … ===`` aside."""
    text = text.strip("=#*-[]() ") if len(text) < 100 else ""
    return next((match for form in TIME_FORMS if (match := form.fullmatch(text))), None)


def _finished(dump: _Open, mtime_us: int | None) -> InfoDump:
    stated = dump.values.get("server_time_usec", "")
    server_us = int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 18 else None
    times = ((dump.t_us, "file"), (server_us, "server"), (mtime_us, "mtime"))
    t_us, basis = next(((time, basis) for time, basis in times if time is not None), (None, None))
    text = "\n".join(line for title, fields in dump.sections.items() for line in (f"# {title}", *fields))
    return InfoDump(
        t_us=t_us,
        basis=basis,
        server_us=server_us,
        text=text,
        run_id=dump.values.get("run_id"),
        tcp_port=dump.values.get("tcp_port"),
        line=dump.line,
        lacks=tuple(name for name in _COUNTERS if name not in dump.names),
    )
