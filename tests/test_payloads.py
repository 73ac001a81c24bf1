"""What a value is, from its bytes."""

from __future__ import annotations

import json
import pickle
import zlib

import pytest
from coldcache.payloads import is_unreadable, payload_format
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
        (pickle.dumps({"a": 1}), "pickle"),
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


def test_only_broken_classes_are_unreadable():
    assert is_unreadable("python_repr:json")
    assert not is_unreadable("json")


@given(st.binary(max_size=200))
def test_every_value_has_a_class(value: bytes):
    assert payload_format(value)
