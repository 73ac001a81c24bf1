"""What every reader of other people's text files needs: lines of bounded length, and times in the forms people log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import BinaryIO
from zoneinfo import ZoneInfo

from coldcache.errors import UsageError

LINE_BYTES = 64 << 10  # more of a line is never held: a binary file may be one line of a gigabyte
TOO_LONG = "line of more than 64 KiB"
_ANSI = re.compile(rb"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-Z\\-_])")
_MONTHS = dict(
    zip(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], range(1, 13), strict=True)
)
# Abbreviations that mean one offset; CST, IST and BST mean several.
_HOURS = {"Z": 0, "UTC": 0, "GMT": 0, "WET": 0, "WEST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3}
_HOURS |= {"EST": -5, "EDT": -4, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7}
_CLOCK = r"(?P<H>\d{1,2}):(?P<M>\d\d):(?P<S>\d\d)(?:[.,](?P<f>\d{1,9}))?(?: (?P<half>[AP]M))?"
# Only known names, for `18:40:00 INFO` states no zone; of what `date` prints any, to tell it from a time without one.
_ZONE = rf"(?P<zone>[+-]\d\d:?\d\d(?!\d)|(?:{'|'.join(sorted(_HOURS))})\b)"
_ANY_ZONE = r"(?P<zone>[A-Z]{3,5}|[+-]\d\d(?:\d\d)?)"
_DAY_NAME = r"(?:[A-Z][a-z]{2},? +)?"
# ISO 8601 first, seconds since the epoch last; what is between them names its month.
TIME_FORMS = tuple(
    re.compile(form)
    for form in (
        rf"(?P<Y>\d{{4}})[-/](?P<m>\d\d)[-/](?P<d>\d\d)[T _]{_CLOCK}(?: ?{_ZONE})?",
        rf"(?P<d>\d{{1,2}})[ /-](?P<b>[A-Z][a-z]{{2}})[ /-](?P<Y>\d{{4}})[ :]{_CLOCK}(?: ?{_ZONE})?",
        rf"{_DAY_NAME}(?P<d>\d{{1,2}}) (?P<b>[A-Z][a-z]{{2}}) (?P<Y>\d{{4}}) {_CLOCK}(?: ?{_ANY_ZONE}\b)?",
        rf"{_DAY_NAME}(?P<b>[A-Z][a-z]{{2}}) +(?P<d>\d{{1,2}}) {_CLOCK} (?:{_ANY_ZONE} )?(?P<Y>\d{{4}})(?!\d|:)",
        rf"(?P<b>[A-Z][a-z]{{2}}) +(?P<d>\d{{1,2}}) {_CLOCK}",
        r"(?<![\d.])(?P<epoch>1\d{9}(?:\d{3}|\d{6}|\d{9})?)(?:\.(?P<f>\d{1,9}))?(?!\d)",
    )
)


def bounded_lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yield a file's lines without their ends and terminal colour codes; None for one longer than `LINE_BYTES`."""
    while raw := stream.readline(LINE_BYTES + 1):
        too_long = len(raw) > LINE_BYTES and not raw.endswith(b"\n")
        while len(raw) > LINE_BYTES and not raw.endswith(b"\n"):
            raw = stream.readline(LINE_BYTES + 1)
        yield None if too_long else without_colours(raw).rstrip(b"\r\n")


def without_colours(data: bytes) -> bytes:
    """Return what a terminal was sent without its colour and cursor codes."""
    return _ANSI.sub(b"", data) if b"\x1b" in data else data


def zone_of(name: str | None) -> tzinfo:
    """Return the zone of that name (``Europe/Madrid``, ``+02:00``), UTC for None.

    Raises
    ------
    UsageError
        There is no such zone.
    """
    if name is None or name.upper() in ("UTC", "Z"):
        return UTC
    if re.fullmatch(r"[+-]([01]\d|2[0-3]):?[0-5]\d", name):
        return _offset(name)
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:  # a folder's name, a path out of the folder, no such zone
        raise UsageError(f"There is no time zone {name!r}. Name it as Europe/Madrid, UTC or +02:00.") from error


def _offset(text: str) -> timezone:
    minutes = int(text[1:3]) * 60 + (int(text[-2:]) if len(text) > 3 else 0)
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))


def time_of(match: re.Match[str], zone: tzinfo | None = None, year: int | None = None) -> int | None:
    """Return the time that one of `TIME_FORMS` matched, µs since the epoch; None where it is no time.

    Parameters
    ----------
    match : re.Match
        Of one of `TIME_FORMS`.
    zone : tzinfo or None
        Of times that state none, or one that means several (CST, IST). None: UTC for the former, the latter are refused.
    year : int or None
        Of times without a year, as syslog writes them; None to refuse those.
    """
    found = match.groupdict()
    fraction = int(((found.get("f") or "") + "000000")[:6])
    if epoch := found.get("epoch"):
        return int((epoch + "000000")[:16]) + (fraction if len(epoch) == 10 else 0)
    stated = found.get("zone")
    try:
        if stated and stated[0] in "+-":
            zone = _offset(stated)
        elif stated in _HOURS:
            zone = timezone(timedelta(hours=_HOURS[stated]))
        elif zone is None and not stated:
            zone = UTC
        full_year = int(found["Y"]) if found.get("Y") else year
        month = int(found["m"]) if found.get("m") else _MONTHS.get(str(found.get("b")).lower())
        if zone is None or full_year is None or month is None:
            return None
        hour = int(found["H"]) % 12 + 12 * (found["half"] == "PM") if found.get("half") else int(found["H"])
        moment = datetime(full_year, month, int(found["d"]), hour, int(found["M"]), int(found["S"]), fraction, zone)
        return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    except (ValueError, OverflowError):  # the 31st of February, an offset of 99 hours, the year 1 east of Greenwich
        return None


def states_zone(match: re.Match[str]) -> bool:
    """Whether the time that one of `TIME_FORMS` matched means one moment wherever it was written."""
    found = match.groupdict()
    stated = found.get("zone") or ""
    return bool(found.get("epoch")) or stated[:1] in ("+", "-") or stated in _HOURS
