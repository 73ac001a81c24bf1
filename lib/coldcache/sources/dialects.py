r"""Dialects of MONITOR logs: which one a log is written in, and how it becomes what :mod:`coldcache.sources.log` reads.

A dialect rewrites whole lines into the form of ``redis-cli MONITOR``, one for one, so that line numbers stay true.
What it does not understand it leaves as it is, for the parser to reject with a reason; it drops and invents nothing.

Where the forms were read, and in which version:

========================  ==================================================================================
Valkey 8.1.0 and 8.1.1    valkey-io/valkey #1342 and #2036; the server's source of that version was not seen
Kvrocks                   apache/kvrocks ``src/server/server.cc`` (``FeedMonitorConns``), ``src/common/string_util.cc``
RedisInsight              RedisInsight/RedisInsight ``profiler/emitters/file.logs-emitter.ts``
BetterDB                  BetterDB-inc/monitor ``monitor.controller.ts`` (``exportSession``), ``monitor-line.parser.ts``
both of these             valkey-io/iovalkey ``lib/DataHandler.ts`` (``handleMonitorReply``), the same in ioredis
docker                    docs.docker.com, "JSON File logging driver"; lines cut at 16 KB: moby/moby #32923, #34855
========================  ==================================================================================

RedisInsight and BetterDB get their arguments from ioredis or iovalkey, which split a line at each ``" "`` and turn
``\"`` into ``"``, and nothing else: the other escapes of the server stay. Both steps can be taken back exactly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Literal

from coldcache.errors import UnknownNameError, did_you_mean

_PIECE_BYTES = 16 * 1024  # docker cuts lines into pieces of this size
_MOST_NAMED = 20
_REDACTED = b"<redacted>"  # what BetterDB puts in place of values, if told to

# A stamp of ten digits or so, so that an IP address before a bracket is none. Kvrocks prints no leading zeros of the µs.
_STAMPED = rb'\d{9,12}\.\d{1,6}\[? (?:"|\(db \d|\[)'
_PREFIX = re.compile(rb'\n(?:[^" \t\n]*+[ \t]++)*?\+?(?=' + _STAMPED + rb")")  # word by word: half as fast by letters
# What is taken here is never given back (?>, ++), so that a damaged line of any length is read only once.
HEADER = rb'(?>\+?\d{1,12}\.\d{6}\[? (?:\[\d{1,9}(?: [^\n]*?)?\] |\(db \d{1,9}\) )?(?="))'
ARGUMENT = rb'"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*"'
# A line whose arguments hold quotes or backslashes, printed raw or not.
_RAW_LINE = re.compile(rb"^(" + HEADER + rb')(?!"[^"\\\n]*+(?:" "[^"\\\n]*+)*+"\r?$)"([^\n]*)"(?=\r?$)', re.MULTILINE)
ANY_HEADER = re.compile(rb'^\+?\d{9,12}\.\d{1,6}\[? (?:\[[^\n]*?\] |\(db \d{1,9}\) )?"', re.MULTILINE)

Confidence = Literal["exact", "low"]


class Dialect:
    """The form of ``redis-cli MONITOR``, and of what others write in lines that the parser reads as they are.

    Other dialects derive from it. An object reads one log, from its beginning; where `ordered` is set, it has a memory.

    Attributes
    ----------
    name : str
        What it is called on the command line.
    about : str
        One line for help texts and error messages.
    confidence : str
        "exact", or "low" where different commands look the same in it.
    why : str
        The reason of a low confidence, as a sentence.
    ordered : bool
        Whether the blocks of a log must be rewritten one after the other, by one object.
    """

    name: str = "redis-cli"
    about: str = "redis-cli MONITOR, the raw socket, Redis since 2.4, Valkey, Redict, Alibaba"
    confidence: Confidence = "exact"
    why: str = ""
    ordered: bool = False

    @property
    def namespaces(self) -> dict[str, int]:
        """The namespaces of Kvrocks seen so far, and the databases that they have become; empty in other dialects."""
        return {}

    def rewrite(self, block: bytes) -> bytes:
        """Return a block of whole lines in the form of ``redis-cli MONITOR``: as many lines, in the same order.

        Parameters
        ----------
        block : bytes
            The last line may lack its end only at the end of the log.
        """
        return block

    def notes(self) -> tuple[str, ...]:
        """Return sentences for the notes of a case, about what was rewritten so far."""
        return (f"The log was read as {self.name}, with low confidence. {self.why}",) if self.confidence == "low" else ()


class Prefixed(Dialect):
    r"""Lines behind a prefix: docker's, compose's, kubectl's, stern's, journald's, syslog's.

    The prefix is the words, none with a double quote, before the first time stamp that a header follows: the text of an
    argument cannot look like that, because the server prints its quotes as ``\"``.
    """

    name = "prefixed"
    about = "lines behind a prefix, as docker logs -t, docker compose, kubectl, stern, journalctl and syslog write them"

    def rewrite(self, block: bytes) -> bytes:
        """Take the prefixes away."""
        return _PREFIX.sub(b"\n", b"\n" + block)[1:]


class _JsonLines(Dialect):
    """A JSON object a line, the log's line in one of its fields."""

    field: str

    def rewrite(self, block: bytes) -> bytes:
        """Take the lines out of their objects."""
        return b"\n".join(map(self._line, block.split(b"\n")))

    def _line(self, line: bytes) -> bytes:
        record = _json_object(line)
        text = self._bytes(record.get(self.field))
        return line if text is None else self._told(line, text, record)

    def _bytes(self, text: object) -> bytes | None:
        return _encoded(text)

    def _told(self, line: bytes, text: bytes, record: dict[str, object]) -> bytes:
        """Return what becomes of a line whose object tells `text`."""
        text = text.removesuffix(b"\n")
        return line if b"\n" in text else text


class JournaldJson(_JsonLines):
    """``journalctl -o json``, with ``--all``: without it a message of more than 4096 bytes is null."""

    name = "journald-json"
    about = "journalctl -o json --all"
    field = "MESSAGE"

    def _bytes(self, text: object) -> bytes | None:
        """Return a message's bytes; one with unprintable bytes is a list of numbers."""
        if not isinstance(text, list):
            return super()._bytes(text)
        try:
            return bytes(text)
        except (TypeError, ValueError):
            return None


class DockerJson(_JsonLines):
    r"""The files of docker's driver json-file: ``{"log":"…\n","stream":"stdout","time":"…"}``.

    docker cuts a line into pieces of 16 KB, an object each, and only the last of them ends in a line end. The joined
    line stands where its last piece stood; the places of the others are empty lines, which the parser rejects as such.
    """

    name = "docker-json"
    about = "files of docker's logging driver json-file: /var/lib/docker/containers/…-json.log"
    ordered = True
    field = "log"

    def __init__(self) -> None:
        self._open: dict[str, list[bytes]] = {}
        self._joined = 0
        self._lost = 0

    def _told(self, line: bytes, text: bytes, record: dict[str, object]) -> bytes:
        if not self._open and text.find(b"\n") == len(text) - 1:
            return text[:-1]
        if b"\n" in text.removesuffix(b"\n"):
            return line
        stream = str(record.get("stream"))
        pieces = self._open.setdefault(stream, [])
        if pieces and ANY_HEADER.match(text):
            self._lost += len(pieces)  # the rest of that line never came
            pieces.clear()
        pieces.append(text)
        if len(text) >= _PIECE_BYTES and not text.endswith(b"\n"):
            return b""
        self._joined += len(pieces) - 1
        del self._open[stream]
        return b"".join(pieces).removesuffix(b"\n")

    def notes(self) -> tuple[str, ...]:
        """Tell how many pieces were joined, and how many belong to lines that never ended."""
        found = []
        if self._joined:
            found.append(f"docker had cut long lines into pieces: {self._joined} of them were joined, and count as empty lines.")
        if lost := self._lost + sum(map(len, self._open.values())):
            found.append(f"{lost} pieces of lines that docker had cut were left out: the ends of these lines are not in the log.")
        return tuple(found)


class Kvrocks(Dialect):
    r"""Apache Kvrocks: a namespace in place of the database, microseconds without leading zeros, escapes of its own.

    Namespaces are numbered as databases in order of appearance. An address has no blank unless it is a socket's path
    with one, so the namespace ends at the last blank. Some versions print ``\v`` and ``\f``; 2.5 to 2.9 print a byte from
    128 on as ``\xffffff`` and two digits (apache/kvrocks #2482), which is believed until one is seen without the f.
    """

    name = "kvrocks"
    about = "Apache Kvrocks: namespaces are numbered as databases in order of appearance"
    ordered = True
    _header = re.compile(rb'\n\+?(\d{1,12})\.(\d{1,6}) \[([^\n]*?) ([^\s]*)\] (?=")')
    _own_escape = re.compile(rb"(?<!\\)((?:\\\\)*)\\(v|f|xffffff(?=[89a-f][0-9a-f]))")
    _high_byte = re.compile(rb"(?<!\\)(?:\\\\)*\\x(?:[89a-e]|f(?!fffff))")

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._signed = True

    @property
    def namespaces(self) -> dict[str, int]:
        """The namespaces seen so far, and the databases that they have become."""
        return {name.decode("utf-8", "backslashreplace"): number for name, number in self._numbers.items()}

    def rewrite(self, block: bytes) -> bytes:
        """Give each namespace its number, complete the microseconds, and print escapes as Redis does."""
        block = self._header.sub(self._numbered, b"\n" + block)[1:]
        if b"\\xffffff" in block or b"\\v" in block or b"\\f" in block:
            self._signed = self._signed and not self._high_byte.search(block)
            block = self._own_escape.sub(self._as_redis, block)
        return block

    def _as_redis(self, found: re.Match[bytes]) -> bytes:
        before, escape = found.groups()
        if escape.startswith(b"x"):
            return before + b"\\x" if self._signed else found[0]
        return before + (b"\\x0b" if escape == b"v" else b"\\x0c")

    def _numbered(self, found: re.Match[bytes]) -> bytes:
        seconds, micros, namespace, address = found.groups()
        number = self._numbers.setdefault(namespace, len(self._numbers))
        return b"\n%b.%b [%d %b] " % (seconds, micros.rjust(6, b"0"), number, address)

    def notes(self) -> tuple[str, ...]:
        """Tell which namespace became which database."""
        named = [f"{number} is {name}" for name, number in self.namespaces.items()]
        more = f", and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
        return (f"Databases are namespaces of Kvrocks: {', '.join(named[:_MOST_NAMED])}{more}.",) if named else ()


class Valkey810(Dialect):
    """Valkey 8.1.0 and 8.1.1, which print quotes and backslashes of arguments as they are.

    Arguments are split at each ``" "``. A backslash before what the server prints for an unprintable byte (``n``, ``r``,
    ``t``, ``a``, ``b``, ``x`` and two digits) is taken for such an escape, any other for itself.
    """

    name = "valkey-8.1.0"
    about = "Valkey 8.1.0 and 8.1.1, which print quotes and backslashes raw"
    confidence = "low"
    why = (
        'Valkey 8.1.0 and 8.1.1 print quotes and backslashes as they are: an argument that holds " " or ends in a quote and a '
        "blank is split, and a backslash before n, r, t, a, b or x is taken for an escape. 8.1.2 has this mended."
    )
    _literal = re.compile(rb"\\(?![nrtab]|x(?:0[0-6bcef]|1[0-9a-f]|7f|[89a-f][0-9a-f]))")

    def rewrite(self, block: bytes) -> bytes:
        """Escape quotes and backslashes that are an argument's own."""
        return _RAW_LINE.sub(self._escaped, block)

    def _escaped(self, found: re.Match[bytes]) -> bytes:
        header, text = found.groups()
        if b"\\" in text:
            text = self._literal.sub(rb"\\\\", text)
        return header + _joined(text.split(b'" "'))


class RedisInsight(Dialect):
    r"""The file that RedisInsight's profiler saves: arguments as ioredis gives them, as JSON strings.

    A backslash of the server's escapes is two here, and ``\"`` is as it was.
    """

    name = "redisinsight"
    about = "the log that the profiler of RedisInsight saves"

    def rewrite(self, block: bytes) -> bytes:
        """Take back the JSON and what ioredis did."""
        return _mended(block.replace(rb"\\", b"\\")) if b"\\" in block else block


class _BetterDb(Dialect):
    """What both exports of BetterDB have in common: values may be redacted."""

    def __init__(self) -> None:
        self._redacted = False

    def notes(self) -> tuple[str, ...]:
        """Tell of a low confidence, and whether values are missing."""
        redacted = "BetterDB had put <redacted> in place of values: sizes and digests of values are those of this word."
        return (*super().notes(), *((redacted,) if self._redacted else ()))


class BetterDb(_BetterDb):
    """BetterDB's CSV export: ``ts,ts_raw,db,addr,cmd,args,key``, the arguments joined with blanks."""

    name = "betterdb"
    about = "BetterDB's CSV export"
    confidence = "low"
    why = (
        "BetterDB's CSV export joins the arguments with blanks: one with a blank in it is read as several, unless it is the "
        "first. The JSON export keeps them apart."
    )
    _cell = rb'("[^"\n]*(?:""[^"\n]*)*"|[^",\r\n]*)'
    _line = re.compile(
        rb"^\d+,(\d{1,12}\.\d{6}),(\d{1,9})," + _cell + rb',([^" ,\r\n]+),' + _cell + rb"," + _cell + rb"(?=\r?$)",
        re.MULTILINE,
    )

    def rewrite(self, block: bytes) -> bytes:
        """Make commands of the rows."""
        return _mended(self._line.sub(self._command, block))

    def _command(self, found: re.Match[bytes]) -> bytes:
        stamp, db, address, command, joined, key = found.groups()
        if b'"' in found[0]:
            address, joined, key = map(_cell_text, (address, joined, key))
        if not joined.startswith(key):
            return found[0]
        behind = joined[len(key) :]
        if behind[:1] not in (b"", b" "):
            return found[0]
        arguments = [command, *([key] if joined else []), *behind.split(b" ")[1:]]
        if b"\\" in joined and any(map(_is_cut, arguments)):
            return found[0]  # a quote and a blank within an argument: where it ended is not told
        self._redacted = self._redacted or _REDACTED in arguments
        return b"%b [%b %b] %b" % (stamp, db, address, _joined(arguments))


class BetterDbJson(_BetterDb):
    """BetterDB's JSON export after ``jq -c '.lines[]'``, which makes a line of each of its records."""

    name = "betterdb-json"
    about = "BetterDB's JSON export, one record a line: jq -c '.lines[]' session.json"
    _stamp = re.compile(r"[0-9]{1,12}\.[0-9]{6}")

    def rewrite(self, block: bytes) -> bytes:
        """Make commands of the records."""
        return _mended(b"\n".join(map(self._command, block.split(b"\n"))))

    def _command(self, line: bytes) -> bytes:
        record = _json_object(line)
        stamp, db, arguments = record.get("tsRaw"), record.get("db"), record.get("args")
        if not (isinstance(stamp, str) and isinstance(db, int) and isinstance(arguments, list) and self._stamp.fullmatch(stamp)):
            return line
        texts = [record.get("addr"), record.get("cmd"), *arguments]
        told = _encoded("\n".join(texts)) if set(map(type, texts)) == {str} else None
        if told is None or told.count(b"\n") != len(texts) - 1:
            return line
        address, *command = told.split(b"\n")
        self._redacted = self._redacted or _REDACTED in command
        return b"%b [%d %b] %b" % (stamp.encode(), db, address, _joined(command))


class _Wrapped(Dialect):
    """One dialect within another: a log of Kvrocks in the journal."""

    def __init__(self, outer: Dialect, inner: Dialect) -> None:
        self._parts = (outer, inner)
        self.name = f"{outer.name}+{inner.name}"
        self.about = f"{inner.about}; in {outer.about}"
        self.confidence = "low" if "low" in (outer.confidence, inner.confidence) else "exact"
        self.why = outer.why or inner.why
        self.ordered = outer.ordered or inner.ordered

    @property
    def namespaces(self) -> dict[str, int]:
        """The namespaces of the inner dialect."""
        return self._parts[1].namespaces

    def rewrite(self, block: bytes) -> bytes:
        """Rewrite the outer dialect's form first."""
        outer, inner = self._parts
        return inner.rewrite(outer.rewrite(block))

    def notes(self) -> tuple[str, ...]:
        """Return the notes of both."""
        return tuple(note for part in self._parts for note in part.notes())


DIALECTS: Mapping[str, type[Dialect]] = {
    known.name: known
    for known in (Dialect, Prefixed, DockerJson, JournaldJson, Valkey810, Kvrocks, RedisInsight, BetterDb, BetterDbJson)
}
_ALIASES = dict.fromkeys(("docker", "compose", "kubectl", "stern", "journald", "syslog"), Prefixed.name)
_WRAPPING = (Prefixed, DockerJson, JournaldJson)


def named(name: str) -> Dialect:
    """Return the dialect of a name, ready for a log.

    Parameters
    ----------
    name : str
        One of `DIALECTS`; ``docker``, ``compose``, ``kubectl``, ``stern``, ``journald`` and ``syslog`` mean ``prefixed``.
        Two names with a plus stand for one dialect within another: ``prefixed+kvrocks``.

    Raises
    ------
    UnknownNameError
        There is no such dialect, or the first of two holds no lines of another.
    """
    parts = [_ALIASES.get(part, part) for part in name.split("+")]
    for part in parts:
        if part not in DIALECTS:
            known = "; ".join(f"{one.name} ({one.about})" for one in DIALECTS.values())
            near = did_you_mean(part, [*DIALECTS, *_ALIASES])
            raise UnknownNameError(f"There is no dialect {part!r}.{near} Known are: {known}.")
    dialects = [DIALECTS[part]() for part in parts]
    if len(dialects) == 1:
        return dialects[0]
    if len(dialects) > 2 or not isinstance(dialects[0], _WRAPPING):
        outer = ", ".join(one.name for one in _WRAPPING)
        raise UnknownNameError(f"{name!r} is no dialect within another: of two names the first is one of {outer}.")
    return dialects[0] if type(dialects[1]) is Dialect else _Wrapped(dialects[0], dialects[1])


def _json_object(line: bytes) -> dict[str, object]:
    """Return the object that a line is; an empty one where it is none."""
    if line[:1] != b"{":
        return {}
    try:
        record = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _encoded(text: object) -> bytes | None:
    """Return a JSON string's bytes; None where it is none."""
    try:
        return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else None
    except UnicodeEncodeError:
        return None  # half of a surrogate pair: no program that writes MONITOR lines makes such


def _cell_text(cell: bytes) -> bytes:
    return cell[1:-1].replace(b'""', b'"') if cell.startswith(b'"') else cell


def _joined(arguments: list[bytes]) -> bytes:
    r"""Return arguments as a server prints them, whose quotes had lost their backslashes; none holds a line end."""
    joined = b"\n".join(arguments)
    if b'"' in joined:
        joined = joined.replace(b'"', b'\\"')
    return b'"' + joined.replace(b"\n", b'" "') + b'"'


def _is_cut(argument: bytes) -> bool:
    """Whether an argument ends in a backslash that belonged to a quote."""
    return (len(argument) - len(argument.rstrip(b"\\"))) % 2 == 1


_CUT = re.compile(rb'(?<!\\)((?:\\\\)*\\" " )\\"')


def _mended(lines: bytes) -> bytes:
    r"""Put together again what ioredis cut at a quote and a blank within an argument.

    It split ``"a\" " "v"``, one argument ``a" `` and one ``v``, at the first ``" "``: the first part ends in a backslash,
    and the next begins with a blank and a quote that had none. No line that a server prints has ``\" " \"``.
    """
    return _CUT.sub(rb'\1"', lines) if b'" " \\"' in lines else lines
