"""What a value is, told from its bytes alone.

A payload is never deserialised with anything that could run code: pickles, PHP and Java
serialisations are recognised by their first bytes only.
"""

from __future__ import annotations

import ast
import json
import re

# Leading bytes, longest first. Sources: the formats' own specifications.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\xac\xed\x00\x05", "java"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x1f\x8b", "gzip"),
)
_ZLIB_SECOND_BYTES = b"\x01\x5e\x9c\xda"  # RFC 1950: check bits of the four usual levels
_PICKLE = re.compile(rb"\x80[\x02-\x05]")  # protocol opcode and number, Lib/pickle.py
_PYTHON_BYTES_REPR = re.compile(rb"""b(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\Z""", re.DOTALL)
_PYTHON_REPR = re.compile(rb"""[\[{(]\s*'|<[\w.]+ object at 0x""")
_NUMBER = re.compile(rb"-?\d+(\.\d+)?\Z")
_REPLACEMENT = "�".encode()

# Classes by number, as the compiled twin of this module counts them; what stands first is for a value that only this one decides.
FORMATS = (
    "", "empty", "number", "json", "json_double", "json_truncated", "node_buffer", "object_object", "literal_nothing",
    "python_repr", "pickle", "java", "gzip", "zlib", "zstd", "lz4", "jpeg", "png", "webp", "utf8_mangled", "text", "binary",
)  # fmt: skip
# Formats that no reader can turn back into what was meant.
UNREADABLE = frozenset(
    {"python_repr", "object_object", "json_truncated", "json_double", "utf8_mangled", "literal_nothing", "node_buffer"}
)


def is_unreadable(value_format: str) -> bool:
    """Whether values of that class cannot be turned back into what was meant."""
    return value_format.split(":", maxsplit=1)[0] in UNREADABLE


def payload_format(value: bytes, *, depth: int = 1) -> str:
    """Return the class of a value.

    Parameters
    ----------
    value : bytes
        The whole value, unescaped.
    depth : int
        How many wrappings to look into.

    Returns
    -------
    str
        One of: ``empty``, ``number``, ``json``, ``json_double`` (a JSON string that holds JSON),
        ``json_truncated``, ``node_buffer`` (``{"type":"Buffer"…``), ``object_object``,
        ``literal_nothing`` (undefined, NaN, None, null), ``python_repr`` (of
        bytes: with what they hold, as ``python_repr:json``), ``pickle``, ``java``,
        ``gzip``, ``zlib``, ``zstd``, ``lz4``, ``jpeg``, ``png``, ``webp``, ``utf8_mangled``,
        ``text``, ``binary``.
    """
    if not value:
        return "empty"
    for magic, name in _MAGIC:
        if value.startswith(magic):
            return name
    if value.startswith(b"RIFF") and value[8:12] == b"WEBP":
        return "webp"
    if _PICKLE.match(value) and value.endswith(b"."):
        return "pickle"
    if value[0] == 0x78 and len(value) > 2 and value[1] in _ZLIB_SECOND_BYTES:
        return "zlib"
    if _REPLACEMENT in value[:256]:
        return "utf8_mangled"
    if b"[object Object]" in value[:64]:
        return "object_object"
    if value in (b"undefined", b"NaN", b"None", b"null", b"nil"):
        return "literal_nothing"
    if _NUMBER.match(value):
        return "number"
    if _PYTHON_BYTES_REPR.match(value):
        # A flat bytes literal, which ast reads without running anything.
        try:
            inner = ast.literal_eval(value.decode("ascii", "backslashreplace"))
        except (SyntaxError, ValueError):
            return "python_repr"  # it looks like one, with an escape that Python would not print
        return f"python_repr:{payload_format(inner, depth=0)}" if depth else "python_repr"
    return _text_format(value)


def _text_format(value: bytes) -> str:
    if value.lstrip()[:1] in (b"{", b"[", b'"'):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            if _PYTHON_REPR.match(value):
                return "python_repr"
            return "json_truncated" if _breaks_off(value) else _plain(value)
        if isinstance(parsed, dict) and parsed.get("type") == "Buffer" and "data" in parsed:
            return "node_buffer"
        if isinstance(parsed, str) and parsed.lstrip()[:1] in ("{", "["):
            return "json_double"
        return "json"
    return "python_repr" if _PYTHON_REPR.match(value) else _plain(value)


def _breaks_off(value: bytes) -> bool:
    """Whether the value starts as JSON and ends before its closing bracket."""
    closing = {b"{": b"}", b"[": b"]", b'"': b'"'}[value.lstrip()[:1]]
    return value[:1] in b'{["' and not value.rstrip().endswith(closing)


def _plain(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return "binary"
    head = text[:256].replace("\n", "").replace("\r", "").replace("\t", "")
    return "text" if head.isprintable() else "binary"
