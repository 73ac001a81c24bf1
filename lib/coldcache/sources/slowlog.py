"""``redis-cli SLOWLOG GET`` as text, in any of the forms that redis-cli prints, to a table without arguments.

Arguments hold keys, values and passwords. Of each command its name is kept, and how many arguments it had.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import pandas as pd

from coldcache import schema
from coldcache.commands import full_name
from coldcache.sources.jsonl import stamped_table, whole
from coldcache.sources.text import without_colours

_MAX_BYTES = 64 << 20  # 10,000 entries of 32 arguments of 128 bytes are 40 MB
_LOGGED_ARGUMENTS = 32  # SLOWLOG_ENTRY_MAX_ARGC
_END_OF_TIME_S = 253_402_300_800  # the year 10000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_CLIENT = re.compile(r"\[?[0-9A-Fa-f:.]{2,45}(?:%\w{1,16})?\]?:\d{1,5}|[/@][^\s\"]{0,107}:0")
_FIRST = re.compile(r"(\s*\d+\) +)1\) \(integer\) (\d{1,18})\s*")
_ITEM = re.compile(r"(\s*\d+)\) (.*)", re.DOTALL)
_CSV_START = re.compile(r'\d{1,18},\d{1,18},\d{1,18},"')
_CSV_CELL = re.compile(r'(?:"((?:[^"\\]|\\.)*)"|(\d{1,18}))(?:,|\s*\Z)', re.DOTALL)
_DIGITS = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True, eq=False)
class SlowlogFile:
    """What a slow log's text holds.

    Attributes
    ----------
    table : pandas.DataFrame
        See ``schema.SLOWLOG``, oldest first; an entry that the file shows twice is there once. In the `raw` form an
        argument with a line break counts as several.
    form : str or None
        ``numbered``, ``raw``, ``json``, ``csv``; None where the file holds no slow log.
    entries : int
        Entries found: those of the table and those `skipped`.
    skipped : dict
        How many entries did not become a row, by reason.
    problems : list of str
        What is wrong with the file as a whole.
    """

    table: pd.DataFrame
    form: str | None
    entries: int
    skipped: dict[str, int]
    problems: list[str]


@dataclass(slots=True)
class _Entry:
    """An entry being read: its arguments are forgotten as soon as its name is known."""

    number: int
    stamp_s: int = -1
    duration_us: int = -1
    words: list[str] = field(default_factory=list)
    client: str | None = None


def read_slowlog(stream: BinaryIO, *, node: str = "") -> SlowlogFile:
    """Return the entries of the text that ``SLOWLOG GET`` gave, of servers with (from 4.0) and without client names.

    Parameters
    ----------
    stream : BinaryIO
    node : str
        Which server it was, host:port; the slow log does not say.
    """
    data = stream.read(_MAX_BYTES + 1)
    problems = ["of more than 64 MiB only the beginning was read"] if len(data) > _MAX_BYTES else []
    text = without_colours(data[:_MAX_BYTES]).decode("utf-8", "replace").replace("\r\n", "\n")
    form, entries = _entries(text)
    if form is None:
        problems.append("holds no slow log: save the output of `redis-cli SLOWLOG GET 128`")
    skipped: Counter[str] = Counter()
    rows: dict[tuple[int, int], tuple[object, ...]] = {}
    for entry in entries:
        name = _name(entry.words)
        if name is None or not 0 <= entry.stamp_s < _END_OF_TIME_S or not whole(entry.duration_us) or entry.duration_us < 0:
            skipped["without a time, a duration or a command's name"] += 1
        elif (entry.number, entry.stamp_s) in rows:
            skipped["shown twice"] += 1
        else:
            count = min(len(entry.words), _LOGGED_ARGUMENTS)
            row = (entry.stamp_s * 1_000_000, node, name, entry.duration_us, count, entry.client)
            rows[entry.number, entry.stamp_s] = row
    return SlowlogFile(stamped_table(list(rows.values()), schema.SLOWLOG), form, len(entries), dict(skipped), problems)


def _entries(text: str) -> tuple[str | None, list[_Entry]]:
    if text.lstrip()[:1] == "[":
        return _of_json(text)
    lines = text.split("\n")
    if any(_FIRST.fullmatch(line) for line in lines):
        return "numbered", _of_numbered(lines)
    if start := next((line for line in lines if _CSV_START.match(line)), None):
        return "csv", _of_csv(start)
    entries = _of_raw(lines[:-1] if not lines[-1] else lines)
    return ("raw", entries) if entries else (None, [])


def _name(words: Sequence[str]) -> str | None:
    """Return the command's name; None for what cannot be one, which may be a piece of a value."""
    if not words or not _NAME.fullmatch(words[0]):
        return None
    return full_name(words[:2] if len(words) > 1 and _NAME.fullmatch(words[1]) else words[:1])


def _client(text: object) -> str | None:
    return text if isinstance(text, str) and _CLIENT.fullmatch(text) else None


def _of_json(text: str) -> tuple[str | None, list[_Entry]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # cut off, or thousands of brackets
        return None, []
    entries = []
    for item in found:
        match item:
            case [int(number), int(stamp), int(duration), [*words], *more] if all(isinstance(word, str) for word in words):
                entries.append(_Entry(number, stamp, duration, words, _client(more[0]) if more else None))
            case _:
                entries.append(_Entry(-1))
    return ("json", entries) if any(entry.words for entry in entries) else (None, [])


def _of_numbered(lines: list[str]) -> list[_Entry]:
    r"""Read ``1) 1) (integer) 14`` and what is indented below it: an entry's fields all have their bracket in one column."""
    entries: list[_Entry] = []
    column = 0
    for line in lines:
        if first := _FIRST.fullmatch(line):
            entries.append(_Entry(int(first[2])))
            column = len(first[1]) + 1
        elif entries and (item := _ITEM.fullmatch(line.rstrip())) and item.end(1) >= column:
            if item.end(1) > column:
                entries[-1].words.append(_unquoted(item[2].strip()))
            else:
                _set_field(entries[-1], item[1].strip(), item[2].strip())
    return entries


def _set_field(entry: _Entry, number: str, value: str) -> None:
    digits = value.removeprefix("(integer) ")
    if number in ("2", "3") and _DIGITS.fullmatch(digits):
        if number == "2":
            entry.stamp_s = int(digits)
        else:
            entry.duration_us = int(digits)
    elif number == "4" and (argument := _ITEM.fullmatch(value)):
        entry.words.append(_unquoted(argument[2]))
    elif number == "5":
        entry.client = _client(_unquoted(value))


def _unquoted(text: str) -> str:
    return text.removeprefix('"').removesuffix('"')


def _of_csv(line: str) -> list[_Entry]:
    """Read numbers and quoted texts in one line: three bare numbers begin an entry."""
    entries: list[_Entry] = []
    numbers: list[int] = []
    at = 0
    while cell := _CSV_CELL.match(line, at):
        at = cell.end()
        if cell[2] is not None:
            numbers.append(int(cell[2]))
            continue
        if len(numbers) == 3:
            entries.append(_Entry(numbers[0], numbers[1], numbers[2]))
        numbers = []
        if entries:
            entries[-1].words.append(cell[1])
    return _with_clients(entries)


def _of_raw(lines: list[str]) -> list[_Entry]:
    """Read one value a line. Only the numbers tell where an entry begins: each is one less than that before it."""
    entries: list[_Entry] = []
    at = 0
    while at < len(lines):
        head = lines[at : at + 3]
        begins = len(head) == 3 and all(_DIGITS.fullmatch(line) for line in head) and 10**9 <= int(head[1]) < _END_OF_TIME_S
        if begins and (not entries or int(head[0]) == entries[-1].number - 1):
            entries.append(_Entry(int(head[0]), int(head[1]), int(head[2])))
            at += 3
        else:
            if entries:
                entries[-1].words.append(lines[at])
            at += 1
    return _with_clients(entries)


def _with_clients(entries: list[_Entry]) -> list[_Entry]:
    """Take address and name off the arguments, if every entry ends in them: an old server's do not, or by chance."""
    complete = entries[:-1] or entries
    if not all(len(entry.words) > 2 and _client(entry.words[-2]) for entry in complete):
        return entries
    for entry in entries:
        for from_end in (2, 1):  # the last entry's empty name may have been lost with the file's last line
            if len(entry.words) > from_end and (client := _client(entry.words[-from_end])):
                entry.client = client
                del entry.words[-from_end:]
                break
    return entries
