"""The compiled answers are payload_format's, or none."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import string
import zlib

import msgpack
import numpy as np
import pytest
from coldcache.payload_kernel import UNDECIDED, classify
from coldcache.payloads import FORMATS, payload_format
from coldcache.sources.monitor import escape
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_payloads import EXAMPLES

MAGIC = (
    b"\x89PNG\r\n\x1a\n", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\xac\xed\x00\x05", b"\xff\xd8\xff", b"\x1f\x8b",
    b"\x00\x01\x00\x00\x00\xff\xff\xff\xff", b"\xff\x06\x00\x00sNaPpY", b"\x82SNAPPY\x00", b"\x04\x08", b"\x04\x080",
    b"\x04\x08[",
    b"\x04\x08o: ActiveSupport::Cache::Entry", b"\x00\x04\x08[", b"\x01x\x9c", b"\x00\x11\x01" + b"\x00" * 12,
    b"\x00\x00\x00\x02", b"\x00\x00\x00\x01\x14", b"!\x80\x04",
    b"RIFFabcdWEBP", b"RIFF\x00\xff\\\"WEBP", b"RIFFWEBP", b"\x80\x04", b"\x80\x06", b"x\x01", b"x^", b"x\x9c", b"x\xda",
)  # fmt: skip
# What values and JSON are made of, and what parsers stumble over.
SHARDS = (
    b"{", b"}", b"[", b"]", b'"', b",", b":", b" ", b"\n", b"\t", b"\r", b"\x0b", b"\x0c", b"\\", b"\\\\", b'\\"', b"\\/",
    b"\\u00e9", b"\\uD83D", b"\\ude00", b"\\u12g4", b"\\u", b"\\x", b"\\n", b"\\u0020", b"\\u2003", b"\\u0074ype",
    b'"type"', b'"Buffer"', b'"data"', b'"type":"Buffer"', b'"data":[1]', b'"\\u0074ype"', b'"B\\u0075ffer"', b'"d\\u0061ta"',
    b"true", b"false", b"null", b"NaN", b"Infinity", b"-Infinity", b"-", b"0", b"01", b"12", b"1.", b"1.5", b".5", b"1e5",
    b"1E+", b"-0", b"2e-3", b"'", b"('", b"b'", b'b"', b"<a.B object at 0x", b"<", b"[object Object]", b"[object ",
    b"undefined", b"None", b"nil", b"\x00", b"\x1f", b"\x7f", b"\x80", b"\xc3", b"\xa9", b"\xc0\x80", b"\xe0\x80\x80",
    b"\xed\xa0\x80", b"\xed\x9f\xbf", b"\xef\xbb\xbf", b"\xf4\x90\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf5", b"\xff\xfe",
    "\xa0".encode(), "\x85".encode(), "\u3000".encode(), "\u2028".encode(), "\u200b".encode(), "é漢😀".encode(),
    "\U00020000".encode(), "\U000e0001".encode(), b"\xef\xbf\xbd", b"\xef\xbf", b"abc", b"a" * 60, b"b" * 250, *MAGIC,
)  # fmt: skip

plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text(string.printable),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "data", "a", "é"]) | st.text(), inner),
)
buffers = st.fixed_dictionaries(
    {"type": st.sampled_from(["Buffer", "buffer", "Buffers", 1])},
    optional={"data": st.lists(st.integers(0, 255)), "x": plain_json},
)


@st.composite
def json_bytes(draw: st.DrawFn) -> bytes:
    value = draw(plain_json | buffers)
    for _ in range(draw(st.integers(0, 2))):
        value = draw(st.sampled_from([value, json.dumps(value), [value]]))
    text = json.dumps(
        value,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 0, 2, "\t", "\r\n"])),
        separators=draw(st.sampled_from([None, (",", ":"), (" , ", " : ")])),
    )
    return draw(st.sampled_from(["", " ", "\n", "\x0b"])).encode() + text.encode("utf-8", "surrogatepass")


def named(value: bytes, before: bytes = b"", behind: bytes = b'" "next"') -> str:
    """Return the class, of a value that stands amid other bytes."""
    text = escape(value).encode()
    buffer = np.frombuffer(before + text + behind, np.uint8)
    return FORMATS[classify(buffer, len(before), len(text))]


def agrees(value: bytes) -> None:
    got = named(value)
    assert got in ("", payload_format(value)), value
    # What stands around it makes no difference, and there may be nothing.
    assert named(value, b"\\x", b"") == named(value, b'"', b'}]\\"') == got


# At home in these: any bytes, any text, numbers, shards in any order.
values = st.one_of(
    st.binary(),
    st.text().map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.from_regex(rb"-?[0-9]{1,20}(\.[0-9]*)?"),
    st.lists(st.sampled_from(SHARDS), max_size=12).map(b"".join),
    st.lists(st.sampled_from(SHARDS), max_size=8).map(lambda parts: b"{" + b"".join(parts) + b"}"),
    st.lists(st.sampled_from(SHARDS), max_size=8).map(lambda parts: b'"' + b"".join(parts) + b'"'),
    st.builds(lambda magic, rest: magic + rest, st.sampled_from(MAGIC), st.binary()),
    plain_json.map(lambda value: repr(value).encode("utf-8", "surrogatepass")),
    st.binary().map(lambda data: repr(data).encode()),
    plain_json.map(pickle.dumps),
    json_bytes(),
    json_bytes().map(zlib.compress),
    json_bytes().map(lambda data: escape(data).encode()),
)

# What msgpack packs, with what it leaves when its texts are short.
packed = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=40) | st.binary(max_size=40),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
).map(msgpack.packb)
# Bytes that formats told by their structure are made of, in any order.
PARTS = (
    b"i:5;", b"b:1;", b"d:0.5;", b"d:INF;", b"N;", b's:3:"a\xffb";', b's:0:"";', b"a:1:{", b'O:1:"A":1:{', b'C:1:"A":2:{',
    b"}", b"R:1;",
    b'E:3:"A:B";', b"i:;", b"s:3:", b"uid|", b"a", b"(", b"dp0\n", b"lp1\n", b"Va\n", b"I1\n", b"S'a'\n", b"q\x00",
    b"X\x01\x00\x00\x00a",
    b"K\x05", b"]", b"}", b"cmod\nname\n", b"s", b"a", b".", b"\x08\x01", b"\n\x03abc", b"\x12\x03\xff\x00\x01",
    b"\x1d\x01\x02\x03\x04",
    b"\x21" + b"\x00" * 8, b"(\x80\x01", b"\x81\xa1a", b"\x92", b"\xcc\x80", b"\xd9\x01a", b"\xdc\x00\x02", b"\xc4\x01\xff",
    b"\x05",
    b"\xc7\x05\x63\xd2", b"\xc7\x01\x62", b"\x10a\x00\x01\x00\x00\x00", b"\x02a\x00\x02\x00\x00\x00b\x00",
    b"\x0c\x00\x00\x00", b"\x00",
    b"\x08\x04abc", b"\x0fabcd", b"\x05\x03", b"\x01\x01", b"\xc2\x80\x04", b"\x1f\xc2\x8b", b"\xc2\x89PNG", b"=", b"\r\n",
)  # fmt: skip
structured = st.one_of(
    packed,
    st.lists(st.sampled_from(PARTS), max_size=12).map(b"".join),
    st.sampled_from([value for _, value in EXAMPLES]),
    st.builds(pickle.dumps, plain_json, st.integers(0, 5)),
)
wrapped = st.one_of(
    structured,
    values.map(base64.b64encode),
    structured.map(base64.b64encode),
    structured.map(base64.encodebytes),
    structured.map(lambda value: base64.urlsafe_b64encode(value).rstrip(b"=")),
    structured.map(lambda value: value.decode("latin-1").encode()),
)


@settings(max_examples=600, deadline=None)
@given(values)
@example(b"")
@example(b"x^a")
@example(b"x^")
@example(b"\xed\xa0\x80")
@example(b'"\xed\xa0\x80"')
@example(b'{"type":"Buffer","data":1,"type":2}')
@example(b'{"a":{"type":"Buffer","data":1}}')
@example(b'{"type":"Buffer","a":{"data":1}}')
@example(b'[{"type":"Buffer","data":1}]')
@example(b'"\xc2\xa0{"')
def test_agrees_with_python(value: bytes) -> None:
    agrees(value)


@settings(max_examples=600, deadline=None)
@given(wrapped, st.data())
def test_agrees_about_structures_and_near_misses(value: bytes, data: st.DataObject) -> None:
    agrees(value)
    agrees(value[: data.draw(st.integers(0, len(value)))])
    agrees(value + data.draw(st.sampled_from([b"\x00", b"a", b".", b"\n", b"\xff", b"=="])))
    if value:
        place = data.draw(st.integers(0, len(value) - 1))
        agrees(value[:place] + data.draw(st.binary(min_size=1, max_size=1)) + value[place + 1 :])
        agrees(value[:place] + value[place + 1 :])


@pytest.mark.parametrize("value", [value for _, value in EXAMPLES])
def test_agrees_wherever_an_example_is_cut_off_or_changed(value: bytes) -> None:
    assert named(value) == payload_format(value)
    for place in range(len(value)):
        agrees(value[:place])
        for changed in (0, 1, 0x7F, 0x80, 0xFF, value[place] ^ 1, value[place] ^ 0x80):
            agrees(value[:place] + bytes([changed]) + value[place + 1 :])


@settings(max_examples=80, deadline=None)
@given(json_bytes())
def test_agrees_wherever_json_is_cut_off(value: bytes) -> None:
    for size in range(min(len(value), 60)):
        agrees(value[:size])
        agrees(value[: len(value) - size])


@settings(max_examples=400, deadline=None)
@given(json_bytes(), st.data())
def test_agrees_when_json_is_damaged(value: bytes, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(value)))
        shard = data.draw(st.sampled_from(SHARDS) | st.binary(max_size=2))
        value = value[:start] + shard + value[start + data.draw(st.integers(0, 3)) :]
    agrees(value)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 300), st.sampled_from(SHARDS), st.sampled_from([b"a", b" ", b"\n", "é".encode(), "😀".encode(), b"["]), values
)
def test_agrees_about_where_heads_end(size: int, shard: bytes, filler: bytes, rest: bytes) -> None:
    for head in (b"", b'"', b'{"'):
        agrees(head + filler * size + shard + rest)
        agrees(head + filler * size + shard + b'"')


@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"":', b"}"), (b'[{"a":[', b"]}]")])
@pytest.mark.parametrize("depth", [1, 63, 64, 65, 127, 128, 129, 191, 192, 500])
def test_agrees_about_nesting(brackets: tuple[bytes, bytes], depth: int) -> None:
    opening, closing = brackets[0].rstrip(b"]"), brackets[1]
    levels = max(1, depth // (opening.count(b"[") + opening.count(b"{")))
    whole = opening * levels + b"1" + closing * levels
    assert named(whole) == "json"
    mixed = b'[{"a":' * (levels // 2) + b"[]" + b"}]" * (levels // 2)
    for value in (whole, whole[:-1], whole + b"]", whole.replace(b"1]", b"1}", 1), mixed, mixed.replace(b"}]}]", b"}}]]", 1)):
        agrees(value)


def test_leaves_to_python_what_depends_on_python() -> None:
    for value in (
        b"[" * 10_000,
        b"[" * 800 + b"]" * 800,
        b"[" + b"1" * 641 + b"]",
        '{"a":1}'.encode("utf-16-le"),
        repr(b"{}").encode(),
    ):
        assert named(value) == FORMATS[UNDECIDED]
    assert named(b"[" + b"1" * 640 + b"]") == named(b"[" + b"1" * 5000 + b".5]") == "json"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"-12.50",
        b"1" * 5000,
        json.dumps({"id": 1, "name": "lamp", "tags": ["a", "b"], "price": 12.5e-3, "gone": None, "on": True}).encode(),
        json.dumps({"prénom": "Zoë 漢字 😀"}).encode(),
        json.dumps({"prénom": "Zoë 漢字 😀"}, ensure_ascii=False, indent=2).encode(),
        json.dumps({"type": "Buffer", "data": [1, 2]}).encode(),
        b'{"\\u0074ype":"B\\u0075ffer","d\\u0061ta":[]}',
        json.dumps({"type": "Buffer", "data": [1, 2]}).encode()[:-1],
        json.dumps(json.dumps({"a": ["é"]})).encode(),
        json.dumps("\u2003 [", ensure_ascii=False).encode(),
        json.dumps("漢字", ensure_ascii=False).encode(),
        json.dumps({"html": "<p>" + "word " * 2000})[:-1].encode(),
        b'{"a": [1, NaN, -Infinity]}',
        b'{"a": "[object Object]"}',
        b"[object Object]",
        b"undefined",
        b"Infinity",
        b"{'a': 1}",
        b"<app.models.User object at 0x7f00>",
        "plain text, ünïcode, 漢字 and 😀".encode(),
        b"\xef\xbb\xbf{}",
        b'a:3:{i:0;s:1:"x";}',
        b"d41d8cd98f00b204e9800998ecf8427e",
        base64.b64encode(bytes(range(100, 124))),
        base64.urlsafe_b64encode(bytes(range(100, 148))),
        b"users/12345/profile",
        msgpack.packb({"name": "é" * 3000, "data": bytes(range(256)) * 4}),
        b'O:8:"stdClass":0:{}',
        '{"a": "caf\N{REPLACEMENT CHARACTER}"}'.encode(),
        "\N{REPLACEMENT CHARACTER}PNG".encode(),
        pickle.dumps({"a": 1}),
        zlib.compress(b"hello"),
        gzip.compress(b"hello", mtime=0),
        bytes(range(256)),
        b'{"a":1}\x00',
        *MAGIC,
    ],
)
def test_decides_what_is_usual(value: bytes) -> None:
    assert named(value) == payload_format(value)


def test_names_only_classes_that_there_are() -> None:
    assert len(set(FORMATS)) == len(FORMATS)
    doc = payload_format.__doc__
    assert doc is not None
    assert all(f"``{name}``" in doc for name in FORMATS[1:])
