"""Which dialect a MONITOR log is written in, told by its beginning; and what a file is that is no such log."""

from __future__ import annotations

import re

from coldcache.errors import NotALogError
from coldcache.sources.dialects import (
    ANY_HEADER,
    ARGUMENT,
    DIALECTS,
    HEADER,
    BetterDb,
    BetterDbJson,
    Dialect,
    DockerJson,
    JournaldJson,
    Kvrocks,
    Prefixed,
    RedisInsight,
    Valkey810,
    named,
)

SAMPLE_BYTES = 1 << 20
_HOW = "A MONITOR log is made with: redis-cli MONITOR > monitor.log"
_STRICT_LINE = re.compile(rb"^" + HEADER + ARGUMENT + rb"(?: " + ARGUMENT + rb")*+\r?$", re.MULTILINE)
# Text behind the quote that ends an argument: then it did not end it, or two lines were written over each other.
_RAW_QUOTE = re.compile(rb"^" + HEADER + ARGUMENT + rb"(?: " + ARGUMENT + rb')*+(?! "|\r?$)[^\n]*"\r?$')
_GLUED_LINE = re.compile(rb'[^\n]*[^\d\n+]\+?\d{9,12}\.\d{6}\[? \[[^\n]{0,200}?\] "')
_COMMAND_LINE = re.compile(rb"^(?!\+?OK\r?$)[^\n]*[^\s][^\n]*$", re.MULTILINE)


def sniff(sample: bytes) -> Dialect:
    r"""Return the dialect of a log, ready to read it from its beginning.

    Half of the lines must be MONITOR lines in it. A log of RedisInsight without any unprintable byte but line ends and
    tabs is taken for ``redis-cli``'s: these two then differ only in a value's own backslashes, line ends and tabs.

    Parameters
    ----------
    sample : bytes
        The beginning of the log; `SAMPLE_BYTES` of it are looked at.

    Raises
    ------
    NotALogError
        It is something else; the message says what it looks like and what to do.
    """
    _refuse_packed(sample)
    sample = sample[:SAMPLE_BYTES]
    whole = sample[: sample.rfind(b"\n") + 1] or sample
    outer, headers = Dialect.name, _headers(whole)
    count = len(_COMMAND_LINE.findall(whole))
    # Where nearly every line has its header already, none can be found by taking something away.
    for candidate in (Prefixed, DockerJson, JournaldJson, BetterDb, BetterDbJson) if count > headers + headers // 100 else ():
        found = _headers(candidate().rewrite(whole))
        # More by so much that it is not a damaged line or two.
        if found > headers + headers // 100:
            outer, headers = candidate.name, found
    lines = named(outer).rewrite(whole)
    if outer != Dialect.name:
        count = len(_COMMAND_LINE.findall(lines))
    only_replies = count == 0 and b"OK" in lines
    if 2 * headers < count or not (headers or only_replies):
        raise _not_a_log(sample, headers / count if count else 0.0, outer)
    inner = _within(lines) if not issubclass(DIALECTS[outer], (BetterDb, BetterDbJson)) else Dialect.name
    return named("+".join(part for part in (outer, inner) if part != Dialect.name) or Dialect.name)


def _headers(lines: bytes) -> int:
    return len(ANY_HEADER.findall(lines))


def _within(lines: bytes) -> str:
    """Return the dialect of lines that all have a stamp and no prefix."""
    strict = _strict(lines)
    are_all = strict == lines.count(b"\n") > 0  # then none of them can be better in another form
    if not are_all and _strict(Kvrocks().rewrite(lines)) > strict + strict // 100:
        return Kvrocks.name
    if _looks_like_json_strings(lines):
        return RedisInsight.name
    return Valkey810.name if not are_all and _has_raw_quotes(lines) else Dialect.name


def _strict(lines: bytes) -> int:
    return sum(1 for _ in _STRICT_LINE.finditer(lines))


# How backslashes stand in front of a character in a log of RedisInsight: the server's \\ as four, its \x… as two, \" alone.
_BACKSLASHES = re.compile(rb"(\\+)(x(?:0[0-6bcef]|1[0-9a-f]|7f|[89a-f][0-9a-f])|[^\\]|$)")
_BYTES_AS_TEXT = re.compile(rb'"b\'[^"\n]*"')  # Python's bytes, stored as str() shows them, have such escapes too
_ESCAPED = frozenset((b"n", b"r", b"t", b"a", b"b"))


def _looks_like_json_strings(lines: bytes) -> bool:
    """Whether the server's escapes were escaped again: at least one of a byte, and no backslash that says otherwise."""
    if lines.startswith((b"OK", b"+")) or b"\r\n" in lines or rb"\\" not in lines:
        return False  # a server's replies, which ioredis keeps for itself; or no escape that was escaped again
    seen = False
    for backslashes, behind in _BACKSLASHES.findall(_BYTES_AS_TEXT.sub(b"", lines)):
        size = len(backslashes) % 4
        is_byte = len(behind) == 3
        if size == 3 or (size == 1 and behind != b'"') or (size == 2 and not is_byte and behind not in _ESCAPED):
            return False
        seen = seen or (size == 2 and is_byte)
    return seen


def _has_raw_quotes(lines: bytes) -> bool:
    r"""Whether more lines have a quote within an argument than have one as ``\"``."""
    raw = escaped = 0
    for line in lines.split(b"\n"):
        if _STRICT_LINE.match(line):
            escaped += b'\\"' in line
        elif _RAW_QUOTE.match(line) and not _GLUED_LINE.match(line):
            raw += 1
    return raw > escaped


_MAGIC = (
    (b"\x1f\x8b", "a file packed by gzip", "Unpack it first: gunzip FILE."),
    (b"\x28\xb5\x2f\xfd", "a file packed by zstd", "Unpack it first: unzstd FILE."),
    (b"\xfd7zXZ\x00", "a file packed by xz", "Unpack it first: unxz FILE."),
    (b"BZh", "a file packed by bzip2", "Unpack it first: bunzip2 FILE."),
    (b"PK\x03\x04", "a zip archive", "Unpack it first: unzip FILE."),
    (b"\xff\xfe", "text in UTF-16, as PowerShell writes it", "Make it UTF-8: Get-Content FILE | Set-Content -Encoding utf8 NEW."),
    (b"\xfe\xff", "text in UTF-16", "Make it UTF-8: iconv -f UTF-16 -t UTF-8 FILE."),
    (b"REDIS0", "an RDB snapshot", f"A snapshot has keys, and no commands. {_HOW}"),
    (b"VALKEY0", "an RDB snapshot", f"A snapshot has keys, and no commands. {_HOW}"),
)
_JQ = "It is one line: make one of each record with jq -c '.lines[]' FILE > NEW."
_FORMS = (
    (rb"\A(?:#TS:\d+\r?\n)?\*\d+\r?\n\$\d+\r?\n", "an append-only file", f"It has writes only, and no times. {_HOW}"),
    (rb'\A\s*\{"sessionId":"[^"]*","count":\d+,"lines":\[', "BetterDB's JSON export", _JQ),
    (rb"(?m)^(?:redis_version:|valkey_version:|# (?:Server|Stats|Memory|Keyspace)\r?$)", "a dump of INFO", _HOW),
    (rb'(?m)^ *(?:\d+\) )+"p?message"', "the output of SUBSCRIBE", _HOW),
    (rb"(?m)^ *\d+\) +(?:1\) )?\(integer\)", "the reply to SLOWLOG GET or another command", _HOW),
    (rb"(?m)^\d+:[XCSM] \d{2} \w{3} (?:\d{4} )?\d{2}:\d{2}:\d{2}", "the server's own log", _HOW),
    (rb'(?m)^\S+ \S+ [^\[\n]*\[[^\]\n]+\] "[A-Z]+ [^"\n]*" \d{3} ', "the access log of a web server", _HOW),
    (rb"\[CACHE\]", "a cache log of an application", f"It is read beside a MONITOR log, not in its place. {_HOW}"),
    (rb"(?i)\A\s*<(?:!doctype|html|\?xml)", "a page of HTML or XML", _HOW),
    (rb"\A\s*[\[{]", "JSON", f"MONITOR lines in JSON are looked for in the fields log and MESSAGE of one object a line. {_HOW}"),
)


def _refuse_packed(sample: bytes) -> None:
    for magic, what, advice in _MAGIC:
        if sample.startswith(magic):
            raise NotALogError(f"This is no MONITOR log but {what}. {advice}")


def _not_a_log(sample: bytes, share: float, dialect: str) -> NotALogError:
    """Return the error that says what a sample looks like."""
    if not sample.strip():
        return NotALogError(f"This MONITOR log is empty. {_HOW}")
    if share:
        return NotALogError(
            f"Only {share:.1%} of the lines look like a MONITOR log. If these are meant, name the dialect: --dialect {dialect}"
        )
    for form, what, advice in _FORMS:
        if re.search(form, sample):
            return NotALogError(f"This is no MONITOR log, it looks like {what}. {advice}")
    unprintable = len(sample.translate(None, bytes([*range(9, 14), *range(32, 127), *range(128, 256)])))
    kind = "binary data" if unprintable * 20 > len(sample) else "text, none of it with a MONITOR time stamp"
    return NotALogError(f"This is no MONITOR log, it looks like {kind}. {_HOW}")
