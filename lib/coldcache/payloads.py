"""What a value is, told from its bytes alone.

A payload is never deserialised with anything that could run code: pickles and the serialisations of Java, PHP, Ruby and .NET
are recognised by their first bytes, or by walking over them (:mod:`coldcache.payload_structures`).

Not told, for they have no mark: what Brotli, LZF and LZ4 without a frame make, gob, Kryo, and numbers alone in msgpack.
"""

from __future__ import annotations

import ast
import binascii
import json
import re

from coldcache.payload_structures import Reader, walks

# Leading bytes. Sources: PNG, RFC 8878, lz4_Frame_format.md, Java's Object Serialization Stream Protocol 6.4.2, JPEG (ITU T.81),
# RFC 1952, MS-NRBF 2.6.1, snappy's framing_format.txt and the older one of snappy-java's SnappyCodec.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\xac\xed\x00\x05", "java"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x1f\x8b", "gzip"),
    (b"\x00\x01\x00\x00\x00\xff\xff\xff\xff", "dotnet"),
    (b"\xff\x06\x00\x00sNaPpY", "snappy_framed"),
    (b"\x82SNAPPY\x00", "snappy_framed"),
)
_ZLIB = re.compile(rb"x[\x01\x5e\x9c\xda].", re.DOTALL)  # RFC 1950: check bits of the four usual levels
_PICKLE = re.compile(rb"!?\x80([\x02-\x05])")  # protocol opcode and number, Lib/pickle.py; Flask-Caching puts a ! before it
_LAST_VERSION = 4  # the greatest byte that values of Rails, Ruby and igbinary begin with
_SESSION = re.compile(rb"[\w./:-]+\|[aOCEsbidrRN]")  # the walk is slow here, and most texts are no session
_PYTHON_BYTES_REPR = re.compile(rb"""b(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\Z""", re.DOTALL)
_PYTHON_REPR = re.compile(rb"""[\[{(]\s*'|<[\w.]+ object at 0x""")
_NUMBER = re.compile(rb"-?\d+(\.\d+)?\Z")
_REPLACEMENT = "�".encode()
# RFC 4648, both alphabets, in lines as RFC 2045 breaks them, with or without padding.
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/\r\n]+|[A-Za-z0-9_\-\r\n]+)={0,2}[\r\n]*\Z")
_FROM_URLSAFE = bytes.maketrans(b"-_", b"+/")
LEAST_BASE64 = 16  # characters; shorter ones are words, ids and codes
# What has no mark is not looked for in less: a SHA-512, which is random, takes 88 characters.
LEAST_BASE64_UNMARKED = 96

# Classes by number, as the compiled twin of this module counts them; what stands first is for a value that only this one decides.
FORMATS = (
    "", "empty", "number", "json", "json_double", "json_truncated", "node_buffer", "object_object", "literal_nothing",
    "python_repr", "pickle:0", "pickle:1", "pickle:2", "pickle:3", "pickle:4", "pickle:5",
    "java", "php", "php_session", "igbinary", "ruby", "rails", "dotnet", "msgpack", "msgpack_lz4", "bson", "protobuf",
    "gzip", "zlib", "zstd", "lz4", "snappy", "snappy_framed", "jpeg", "png", "webp", "utf8_mangled", "text", "binary",
)  # fmt: skip
# Formats that no reader can turn back into what was meant.
UNREADABLE = frozenset(
    {
        "python_repr", "object_object", "json_truncated", "json_double", "utf8_mangled", "mojibake", "literal_nothing",
        "node_buffer",
    }
)  # fmt: skip
# Known by first bytes that are not all ASCII, and so still known when each byte has become a character.
_IN_MOJIBAKE = frozenset(
    {
        "pickle:2", "pickle:3", "pickle:4", "pickle:5", "java", "gzip", "zlib", "zstd", "snappy_framed", "jpeg", "png",
    }
)  # fmt: skip
_IN_BASE64 = _IN_MOJIBAKE | {
    "json", "json_double", "node_buffer", "python_repr", "php", "igbinary", "ruby", "rails", "dotnet", "lz4", "webp",
    "utf8_mangled",
}  # fmt: skip
_UNMARKED_IN_BASE64 = frozenset({"msgpack", "msgpack_lz4", "bson", "protobuf", "snappy"})


def _byte(value: bytes, p: int, end: int) -> tuple[int, int]:
    return (value[p], p + 1) if p < end else (-1, p)


def _skip(_value: bytes, p: int, end: int, count: int) -> int:
    return p + count if p + count <= end else -1


def _skip_text(value: bytes, p: int, end: int, count: int) -> int:
    if p + count > end:
        return -1
    try:
        value[p : p + count].decode()
    except UnicodeDecodeError:
        return -1
    return p + count


def _skip_line(value: bytes, p: int, end: int) -> int:
    return value.find(b"\n", p, end) + 1 or -1


_WALKS = walks(Reader(_byte, _skip, _skip_text, _skip_line, tuple))


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
        The format; behind a colon what it holds, as far as `depth` allows.

        - ``empty``, ``number``, ``text``, and ``binary``, which is all that is not told;
        - ``json``, ``json_double`` (a JSON string that holds JSON), ``json_truncated``, ``node_buffer``
          (``{"type":"Buffer"…``), ``object_object``, ``literal_nothing`` (undefined, NaN, None, null);
        - ``python_repr``, of bytes with what they hold, as ``python_repr:json``;
        - ``pickle:0``, ``pickle:1``, ``pickle:2``, ``pickle:3``, ``pickle:4``, ``pickle:5`` by protocol;
        - ``java``, ``php`` and its ``php_session``, ``igbinary``, ``ruby`` (Marshal), ``rails`` (an entry of
          ActiveSupport::Cache), ``dotnet`` (BinaryFormatter);
        - ``msgpack``, ``msgpack_lz4`` (of MessagePack-CSharp), ``bson``, ``protobuf`` (or like it);
        - ``gzip``, ``zlib``, ``zstd``, ``lz4`` (a frame), ``snappy`` (a block), ``snappy_framed``;
        - ``jpeg``, ``png``, ``webp``;
        - ``base64`` with what it holds, as ``base64:gzip``: text in which nothing is found stays ``text``;
        - ``utf8_mangled`` (bytes were replaced by U+FFFD), and ``mojibake`` with what it was: bytes taken for Latin-1
          and written as UTF-8, as ``mojibake:gzip``.
    """
    if not value:
        return "empty"
    marked = _marked(value)
    if marked:
        return marked
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
    return _text_format(value, depth)


def _marked(value: bytes) -> str | None:
    """Return the format that the first bytes of a value give away."""
    for magic, name in _MAGIC:
        if value.startswith(magic):
            return name
    if value.startswith(b"RIFF") and value[8:12] == b"WEBP":
        return "webp"
    if (pickle := _PICKLE.match(value)) and value.endswith(b"."):
        return f"pickle:{pickle[1][0]}"
    if _ZLIB.match(value):
        return "zlib"
    if value[0] > _LAST_VERSION:
        return None
    for is_one, name in ((_WALKS.is_rails, "rails"), (_WALKS.is_ruby, "ruby"), (_WALKS.is_igbinary, "igbinary")):
        if is_one(value, 0, len(value)):
            return name
    return None


def _text_format(value: bytes, depth: int) -> str:
    if value.lstrip()[:1] in (b"{", b"[", b'"'):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            if _PYTHON_REPR.match(value):
                return "python_repr"
            plain = _plain(value, depth)
            return "json_truncated" if plain in ("text", "binary") and _breaks_off(value) else plain
        if isinstance(parsed, dict) and parsed.get("type") == "Buffer" and "data" in parsed:
            return "node_buffer"
        if isinstance(parsed, str) and parsed.lstrip()[:1] in ("{", "["):
            return "json_double"
        return "json"
    if _PYTHON_REPR.match(value):
        return "python_repr"
    if value[1:2] in (b":", b";") and _WALKS.is_php(value, 0, len(value)):
        return "php"
    if _SESSION.match(value) and _WALKS.is_php_session(value, 0, len(value)):
        return "php_session"
    protocol = _WALKS.text_pickle(value, 0, len(value)) if value.endswith(b".") else -1
    return f"pickle:{protocol}" if protocol >= 0 else _plain(value, depth)


def _breaks_off(value: bytes) -> bool:
    """Whether the value starts as JSON and ends before its closing bracket."""
    closing = {b"{": b"}", b"[": b"]", b'"': b'"'}[value.lstrip()[:1]]
    return value[:1] in b'{["' and not value.rstrip().endswith(closing)


def _plain(value: bytes, depth: int) -> str:
    """Return the format of what is neither marked nor JSON."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return _walked(value)
    head = text[:256].replace("\n", "").replace("\r", "").replace("\t", "")
    if head.isprintable():
        return (_in_base64(value) if depth else None) or "text"
    return (_in_mojibake(text) if depth else None) or _walked(value)


def _walked(value: bytes) -> str:
    """Return the format of bytes that only their structure tells."""
    end = len(value)
    for is_one, name in (
        (_WALKS.is_msgpack_lz4, "msgpack_lz4"), (_WALKS.is_msgpack, "msgpack"), (_WALKS.is_bson, "bson"),
        (_WALKS.is_protobuf, "protobuf"), (_WALKS.is_snappy, "snappy"),
    ):  # fmt: skip
        if is_one(value, 0, end):
            return name
    return "binary"


def _in_base64(value: bytes) -> str | None:
    """Return ``base64`` with the format of what a text holds, where it holds something."""
    if not _BASE64.match(value):
        return None
    text = value.translate(_FROM_URLSAFE, b"\r\n=")
    if len(text) < LEAST_BASE64 or len(text) % 4 == 1:
        return None
    inner = payload_format(binascii.a2b_base64(text + b"=" * (-len(text) % 4)), depth=0)
    known = inner in _IN_BASE64 or (inner in _UNMARKED_IN_BASE64 and len(text) >= LEAST_BASE64_UNMARKED)
    return f"base64:{inner}" if known else None


def _in_mojibake(text: str) -> str | None:
    """Return ``mojibake`` with what the bytes were that became the characters of a text."""
    if text.isascii() or max(text) > "\xff":
        return None
    inner = payload_format(text.encode("latin-1"), depth=0)
    return f"mojibake:{inner}" if inner in _IN_MOJIBAKE else None
