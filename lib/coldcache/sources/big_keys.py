"""What ``redis-cli --bigkeys``, ``--memkeys`` and ``--hotkeys`` printed, to tables."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import BinaryIO

import pandas as pd

from coldcache.sources.monitor import escape, split_arguments
from coldcache.sources.text import TOO_LONG, bounded_lines

_SIZE = rb"(?P<size>\d{1,18}) (?P<unit>bytes|fields|items|members|entries|\?)\.?\s*"
_SO_FAR = re.compile(
    rb"\s*(?:\[\s*\d+\.\d+%\] )?Biggest +(?P<type>\S{1,64}) +found so far '(?P<key>.*)' with " + _SIZE, re.DOTALL
)
_BIGGEST = re.compile(rb"\s*Biggest +(?P<type>\S{1,64}) +found '(?P<key>.*)' has " + _SIZE, re.DOTALL)
_HOT_SO_FAR = re.compile(
    rb"\s*(?:\[\s*\d+\.\d+%\] )?Hot key '(?P<key>.*)' found so far with counter (?P<size>\d{1,18})\s*", re.DOTALL
)
_HOT = re.compile(rb"\s*hot key found with counter: +(?P<size>\d{1,18})\s+keyname: (?P<key>.*)", re.DOTALL)
_TOTAL = re.compile(rb"\s*(?P<keys>\d{1,18}) (?P<type>\S{1,64})s with " + _SIZE + rb"\([\d.]+% of keys, avg size [\d.]+\)\s*")
_SAMPLED = re.compile(rb"\s*(?:\[\s*\d+\.\d+%\] )?(?:Sampled (\d{1,18}) keys in the keyspace!|Keys sampled: (\d{1,18}))\s*")
# What else they print: headings, rules, progress bars, and keys that went away meanwhile.
_KNOWN = re.compile(rb"#|-{4,}|Total key length|\[\s*\d+\.\d+%\] Sampled |\[?\s*\d+\.\d+% ?[\]|=.#-]|Warning: ")


@dataclass(frozen=True, slots=True, eq=False)
class BigKeys:
    """The keys that a scan of the key space named.

    Attributes
    ----------
    keys : pandas.DataFrame
        ``key`` in Redis's printable escape, ``type`` (null for hot keys), ``size``, ``unit``: bytes, fields, items,
        members, entries, or ``hits`` for the counter of a hot key, which is the logarithmic one of LFU and no number
        of accesses. Largest first within a type; every key that was the biggest for a while is there, with its largest size.
    types : pandas.DataFrame
        ``type``, ``keys`` of it, ``size`` of them together, ``unit``. Empty for hot keys and where the scan was cut off.
    sampled : int or None
        How many keys were looked at; None where the scan was cut off.
    lines : int
        Lines of the file.
    skipped : dict
        How many lines were not understood, by reason.
    """

    keys: pd.DataFrame
    types: pd.DataFrame
    sampled: int | None
    lines: int
    skipped: dict[str, int]


def read_big_keys(stream: BinaryIO) -> BigKeys:
    """Return the keys and totals of a text file: `redis-cli` 6.2 and 7.0, older ones that print keys unquoted, `valkey-cli`."""
    sizes: dict[tuple[str, str | None, str | None], int] = {}
    totals: dict[tuple[str, str | None], tuple[int, int]] = {}
    skipped: Counter[str] = Counter()
    sampled: int | None = None
    lines = 0
    for line in bounded_lines(stream):
        lines += 1
        if line is None:
            skipped[TOO_LONG] += 1
        elif found := _match(line):
            key = _key(found["key"])
            is_hot = found.re in (_HOT, _HOT_SO_FAR)
            place = (key, None, "hits") if is_hot else (key, _label(found["type"]), _unit(found["unit"]))
            sizes[place] = max(sizes.get(place, 0), int(found["size"]))
        elif found := _TOTAL.fullmatch(line):
            totals[_label(found["type"]), _unit(found["unit"])] = (int(found["keys"]), int(found["size"]))
        elif found := _SAMPLED.fullmatch(line):
            sampled = int(found[1] or found[2])
        elif line.strip() and not _KNOWN.match(line.strip()):
            skipped["not of --bigkeys, --memkeys or --hotkeys"] += 1
    keys = pd.DataFrame([(*place, size) for place, size in sizes.items()], columns=["key", "type", "unit", "size"])
    keys = keys[["key", "type", "size", "unit"]].astype({"key": "str", "type": "str", "size": "int64", "unit": "str"})
    keys = keys.sort_values(["type", "size", "key"], ascending=[True, False, True], ignore_index=True)
    rows = [(kind, number, size, unit) for (kind, unit), (number, size) in totals.items()]
    types = pd.DataFrame(rows, columns=["type", "keys", "size", "unit"])
    types = types.astype({"type": "str", "keys": "int64", "size": "int64", "unit": "str"})
    return BigKeys(keys, types, sampled, lines, dict(skipped))


def _match(line: bytes) -> re.Match[bytes] | None:
    # Most lines of a long scan are progress bars: a search of bytes is cheaper than four patterns.
    if b"found" not in line:
        return None
    return next((found for form in (_SO_FAR, _BIGGEST, _HOT_SO_FAR, _HOT) if (found := form.fullmatch(line))), None)


def _key(printed: bytes) -> str:
    """Return the key in Redis's escape: old redis-cli printed it as it is."""
    if len(printed) > 1 and printed.startswith(b'"') and printed.endswith(b'"') and printed.isascii():
        parts = split_arguments(printed)
        if parts is not None and len(parts) == 1 and parts[0].isprintable():
            return parts[0]
    return escape(printed)


def _label(text: bytes) -> str:
    return escape(text)


def _unit(text: bytes) -> str | None:
    return None if text == b"?" else text.decode("ascii")  # of a module's type only MEMORY USAGE tells a size
