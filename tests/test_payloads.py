"""What a value is, from its bytes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import pickle
import random
import string
import uuid
import zlib

import msgpack
import pytest
from coldcache.payloads import FORMATS, is_unreadable, payload_format
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"", "empty"),
        (b"42", "number"),
        (b'{"labels": ["cat"]}', "json"),
        (json.dumps(json.dumps({"a": 1})).encode(), "json_double"),
        (b'{"labels": ["cat"', "json_truncated"),
        (b'{"type":"Buffer","data":[1,2]}', "node_buffer"),
        (b"[object Object]", "object_object"),
        (b"undefined", "literal_nothing"),
        (str(b'{"a": 1}').encode(), "python_repr:json"),
        (str(b"\xff\xd8\xff\xe0").encode(), "python_repr:jpeg"),
        (b"{'a': 1}", "python_repr"),
        (b"b'one\ntwo'", "python_repr"),
        (b"b'\\xZZ'", "python_repr"),
        (b"b'\x00'", "python_repr"),
        (zlib.compress(b"hello"), "zlib"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "jpeg"),
        ("�PNG".encode(), "utf8_mangled"),
        ("plain text, ünïcode".encode(), "text"),
        (b"\x00\x01\x02\xfe", "binary"),
        (b"[" * 100_000, "json_truncated"),
    ],
)
def test_classes(value: bytes, name: str):
    assert payload_format(value) == name


# What the real tools wrote.
EXAMPLES: tuple[tuple[str, bytes], ...] = (
    # PHP 8.2: serialize, of a class with public, protected and private properties, of a list, an ArrayObject, an enum and
    # numbers, references, a Serializable, and session_encode.
    (
        "php",
        b'O:4:"User":3:{s:4:"name";s:4:"Zo\xc3\xab";s:6:"\x00*\x00age";i:3;s:10:"\x00User\x00tags";'
        b'a:2:{i:0;s:1:"a";i:1;s:1:"b";}}',
    ),
    ("php", b'a:6:{i:0;s:5:"first";i:1;b:1;i:2;N;i:3;d:1.5;i:4;i:-7;i:5;a:1:{s:1:"k";s:1:"v";}}'),
    ("php", b'O:11:"ArrayObject":4:{i:0;i:0;i:1;a:2:{i:0;i:1;i:1;i:2;}i:2;a:0:{}i:3;N;}'),
    ("php", b'a:5:{i:0;E:11:"Suit:Hearts";i:1;d:INF;i:2;d:NAN;i:3;d:1.0E+100;i:4;d:-0;}'),
    ("php", b'a:3:{i:0;a:2:{i:0;i:1;s:4:"self";R:3;}i:1;O:8:"stdClass":1:{s:2:"me";r:4;}i:2;r:4;}'),
    ("php", b'C:1:"S":5:{a;b"}}'),
    ("php", b'O:8:"stdClass":0:{}'),
    ("php", b's:5:"hello";'),
    ("php", b"b:1;"),
    ("php", b"i:5;"),
    ("php", b"N;"),
    ("php_session", b'uid|i:5;_sf2_attributes|a:1:{s:4:"csrf";s:3:"abc";}n|N;'),
    # php-igbinary 3.2: a list, an object, a text, null, 300, 1.5, a Serializable and an enum.
    ("igbinary", bytes.fromhex("00000002140606001105666972737406010506020006030c3ff8000000000000060407070605140111016b110176")),
    (
        "igbinary",
        bytes.fromhex(
            "00000002170455736572140311046e616d6511045a6fc3ab1106002a006167650603110a00557365720074616773140206001101610601110162"
        ),
    ),
    ("igbinary", bytes.fromhex("00000002110568656c6c6f")),
    ("igbinary", bytes.fromhex("0000000200")),
    ("igbinary", bytes.fromhex("0000000208012c")),
    ("igbinary", bytes.fromhex("000000020c3ff8000000000000")),
    ("igbinary", bytes.fromhex("000000021701531d05613b62227d")),
    ("igbinary", bytes.fromhex("00000002170453756974271106486561727473")),
    # php-msgpack 2.1, then msgpack 1.2 of Python.
    ("msgpack", bytes.fromhex("96a56669727374c3c0cb3ff8000000000000f981a16ba176")),
    ("msgpack", bytes.fromhex("82a2696407a46e616d65a46c616d70")),
    ("msgpack", b"\x81\xa1a\x01"),
    # Put together by hand from MessagePack-CSharp's MessagePackSerializer.cs: an extension 99, an array with an extension 98.
    ("msgpack_lz4", b"\xc7\x0d\x63\xd2\x00\x00\x01\x00\x1fa\x01\x00\xff\x00Pa"),
    ("msgpack_lz4", b"\x92\xc7\x02\x62\xcc\xc8\xc4\x07\x1fa\x01\x00\xb0aa"),
    # Ruby 3.1: Marshal.dump of a hash, a text, nil, 5, a Struct and a symbol.
    (
        "ruby",
        b'\x04\x08{\x08I"\x07id\x06:\x06ETi\x0c:\tnameI"\tlamp\x06;\x00T:\tlist[\ni\x060Tf\x082.5l+\n\x00\x00\x10c-^\xc7k\x05\x00',
    ),
    ("ruby", b'\x04\x08I"\nhello\x06:\x06ET'),
    ("ruby", b"\x04\x080"),
    ("ruby", b"\x04\x08i\n"),
    ("ruby", b"\x04\x08S:\x0eStruct::P\x06:\x06ai\x06"),
    ("ruby", b"\x04\x08:\x08sym"),
    # ActiveSupport 6.1: an Entry.
    (
        "rails",
        b'\x04\x08o: ActiveSupport::Cache::Entry\t:\x0b@valueI"\nhello\x06:\x06ET:\r@version0:\x10@created_at'
        b"f\x171795437375.0695524:\x10@expires_inf\x083e2",
    ),
    # Ruby 3.1, packed as in serializer_with_fallback.rb of 7.0 and coder.rb of 7.1.
    ("rails", b'\x00\x04\x08[\x07I"\nvalue\x06:\x06ETf\x111763800300.5'),
    ("rails", b"\x01x\x9cc\xe1\x88f\xf3T\xaa-K\xcc)MU\xa0?\xc9f\xc5\xe6\x1a\x02\x001\x96.\xf9"),
    ("rails", b'\x00\x11\x01\x00\x00 ;]H\xdaA\xff\xff\xff\xff\x04\x08{\x06I"\x07id\x06:\x06ETi\x0c'),
    ("rails", b"\x00\x11\x82\x00\x00\x00\x00\x00\x00\xf0\xbf\xff\xff\xff\xffx\x9c\xcbH\xcd\xc9\xc9W\xc8\xa0;\t\x00w\xba,\x11"),
    # Java 17: ObjectOutputStream of an ArrayList.
    (
        "java",
        bytes.fromhex(
            "aced0005737200136a6176612e7574696c2e41727261794c6973747881d21d99c7619d03000149000473697a6578700000000277040000000274"
            "0001617371007e000078"
        ),
    ),
    # The header of MS-NRBF 2.6.1 and the first record of a text.
    ("dotnet", b"\x00\x01\x00\x00\x00\xff\xff\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00\x06\x01\x00\x00\x00\x05hello\x0b"),
    # python-protobuf 7.36: google.protobuf.Struct and FieldDescriptorProto.
    (
        "protobuf",
        b"\n\x14\n\x04tags\x12\x0c2\n\n\x03\x1a\x01a\n\x03\x1a\x01b\n\x0e\n\x04name\x12\x06\x1a\x04lamp"
        b"\n\x0f\n\x02id\x12\t\x11\x00\x00\x00\x00\x00\x00\x1c@",
    ),
    ("protobuf", b"\n\x05price\x18\xac\x02(\x01:\x010R\x05price"),
    # bson of pymongo 4.20.
    (
        "bson",
        b"t\x00\x00\x00\x10id\x00\x07\x00\x00\x00\x02name\x00\x05\x00\x00\x00lamp\x00\x04tags\x00\x17\x00\x00\x00\x020\x00\x02\x00"
        b"\x00\x00a\x00\x021\x00\x02\x00\x00\x00b\x00\x00\x01x\x00\x00\x00\x00\x00\x00\x00\xf8?\nn\x00\x08on\x00\x01\x07oid\x00"
        b"0123456789ab\x05b\x00\x02\x00\x00\x00\x00\x01\x02\x12big\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00",
    ),
    # python-snappy 0.7 on cramjam 2.14: compress and StreamCompressor; lz4 4.4: frame.compress; zstandard 0.25.
    ("snappy", b"\x1d\x14hello Z\x06\x00"),
    ("snappy_framed", b"\xff\x06\x00\x00sNaPpY\x01\x15\x00\x00\xab\x04\xb5\x1dhello hello hello"),
    ("lz4", b'\x04"M\x18h@\x0b\x00\x00\x00\x00\x00\x00\x00X\x0b\x00\x00\x80hello hello\x00\x00\x00\x00'),
    ("zstd", b"(\xb5/\xfd \x0bY\x00\x00hello hello"),
    ("gzip", gzip.compress(b"hello", mtime=0)),
    *((f"pickle:{protocol}", pickle.dumps({"a": [1, 2.5, None]}, protocol)) for protocol in range(6)),
)


@pytest.mark.parametrize(("name", "value"), EXAMPLES)
def test_what_real_tools_wrote(name: str, value: bytes):
    assert payload_format(value) == name


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("thing", ["hé\n", b"\xff", ("x", 1), {2, 3}, ValueError("x"), [b"a", {}, None, True, 10**30]])
def test_pickles_by_protocol(thing: object, protocol: int):
    assert payload_format(pickle.dumps(thing, protocol)) == f"pickle:{protocol}"
    # Flask-Caching puts a mark before those it writes, which are of protocol 2 at least.
    if protocol >= 2:
        assert payload_format(b"!" + pickle.dumps(thing, protocol)) == f"pickle:{protocol}"


things = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 9), inner),
)


@given(st.dictionaries(st.text(string.ascii_lowercase, min_size=1), things, min_size=1))
def test_msgpack_of_named_things(thing: dict[str, object]):
    packed = msgpack.packb(thing)
    assert payload_format(packed) == "msgpack"
    assert payload_format(packed[:-1]) != "msgpack"
    assert payload_format(packed + b"\x00") != "msgpack"


@pytest.mark.parametrize("value", [[1, 2, 3], 5, "hello", {}, []])
def test_msgpack_with_nothing_to_tell_it_by_is_not_claimed(value: object):
    assert payload_format(msgpack.packb(value)) != "msgpack"


def test_base64_of_what_is_known():
    for name, value in (
        ("json", json.dumps({"id": 7, "n": "é?>"}, ensure_ascii=False).encode()),
        ("gzip", gzip.compress(b"hello")),
        ("pickle:4", pickle.dumps(["hello", 1], 4)),
        ("php", b's:5:"hello";'),
        ("msgpack", msgpack.packb({"name": "lamp" * 20})),
    ):
        for text in (base64.b64encode(value), base64.urlsafe_b64encode(value).rstrip(b"="), base64.encodebytes(value)):
            assert payload_format(text) == f"base64:{name}"


def test_ids_hashes_and_words_are_not_base64():
    generator = random.Random(1)
    for _ in range(2000):
        data = generator.randbytes(generator.choice([12, 16, 20, 32, 48, 64]))
        for text in (data.hex().encode(), base64.b64encode(data), base64.urlsafe_b64encode(data).rstrip(b"=")):
            assert payload_format(text) == "text"
        assert payload_format(str(uuid.UUID(bytes=(data * 2)[:16])).encode()) == "text"
    for word in (b"everythingisfine", b"users/12345/profile", b"SOME_CONSTANT_NAME_2", base64.b64encode(b"{}"), b"eyJhIjoxfQ=="):
        assert payload_format(word) == "text"


@pytest.mark.parametrize("size", [4, 8, 16, 20, 32, 64, 128])
def test_random_bytes_are_binary(size: int):
    generator = random.Random(size)
    found = [payload_format(generator.randbytes(size)) for _ in range(5000)]
    assert sum(name not in ("binary", "text", "json_truncated", "zlib", "gzip") for name in found) <= 3


def test_sha512_is_text():
    for number in range(200):
        digest = hashlib.sha512(str(number).encode())
        assert payload_format(digest.hexdigest().encode()) == "text"
        assert payload_format(base64.b64encode(digest.digest())) == "text"


def test_mojibake_is_told_from_what_it_was():
    for name, value in (("gzip", gzip.compress(b"x")), ("pickle:4", pickle.dumps(["é"], 4)), ("png", b"\x89PNG\r\n\x1a\n\x00")):
        assert payload_format(value.decode("latin-1").encode()) == f"mojibake:{name}"
    assert is_unreadable("mojibake:gzip")


@pytest.mark.parametrize(
    "text",
    [
        b"a: 1; b: 2;", b"N", b"i:x;", b's:5:"hell";', b"a:1:{", b"I am here.", b"Very\nwell.", b"see (a) and (b).", b"uid|5",
        b"s:99999999999:\"a\";", b"p0\n.", b"name|value", b"N.", b"I5\n.",
    ],
)  # fmt: skip
def test_near_misses_stay_text(text: bytes):
    assert payload_format(text) == "text"


def test_examples_show_every_format():
    shown = {payload_format(value).split(":")[0] for _, value in EXAMPLES}
    assert {"msgpack", "php", "snappy", "rails"} <= shown
    assert shown <= {name.split(":")[0] for name in FORMATS}


def test_only_broken_classes_are_unreadable():
    assert is_unreadable("python_repr:json")
    assert not is_unreadable("json")


@given(st.binary(max_size=200))
def test_every_value_has_a_class(value: bytes):
    assert payload_format(value)
