"""Payloads: what was stored cannot be read, or is not used."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

from coldcache.lab import proofs
from coldcache.lab.caching import Connections, Request, Value, decoded, encoded, get, used
from coldcache.lab.faults.fault import IMG, THUMB, Fault, only


def _repr(request: Request, result: Any) -> Value:
    return str(json.dumps(result).encode())


def _object_object(request: Request, result: Any) -> Value:
    """Store what JavaScript makes of an object that is put where text is wanted."""
    return "[object Object]"


def _node_buffer(request: Request, result: Any) -> Value:
    """Store what JSON.stringify makes of a Buffer."""
    return json.dumps({"type": "Buffer", "data": list(json.dumps(result).encode())}, separators=(",", ":"))


def _json_twice(request: Request, result: Any) -> Value:
    return json.dumps(json.dumps(result))


def _truncated(request: Request, result: Any) -> Value:
    """Cut the value where a column of the job table ends."""
    return json.dumps(result)[:64]


def _mangled(request: Request, result: Any) -> Value:
    """Take a JPEG for text, as a client that decodes every response does."""
    return bytes(result).decode("utf-8", "replace")


def _decoded_unless_buffer(request: Request, cached: bytes) -> Any:
    result = decoded(request, cached)
    return None if result is None or result.get("type") == "Buffer" else result


def _unreadable(what: str, title: str, faulty: Callable[[Request, Any], Value], value_format: str, **more: Any) -> Fault:
    return Fault(
        id=what, cause="serialization", title=title, families=IMG, edit=f"{value_format} -> json",
        changes={"encode": only("img", faulty, encoded)}, proof=proofs.values(value_format), **more,
    )  # fmt: skip


def _by_fleet(request: Request, result: Any) -> Value | None:
    """Pack results in the fleet that has the new version."""
    plain = encoded(request, result)
    return zlib.compress(plain) if request.fleet and isinstance(plain, bytes) else plain


def _unpacked_by_fleet(request: Request, cached: bytes) -> Any:
    if not request.fleet:
        return decoded(request, cached)
    try:
        return decoded(request, zlib.decompress(cached))
    except zlib.error:
        return None


def _with_faces(request: Request, result: Any) -> Value | None:
    """Encode how many faces were found: in two thirds of the images none."""
    return encoded(request, {**result, "faces": max(0, request.image % 3 - 1)})


def _if_truthy(request: Request, result: Any) -> bool:
    """Take a count of zero for nothing cached."""
    return bool(result["faces"])


def _unless_refresh(request: Request, result: Any) -> bool:
    """Evaluate a flag that came as text: every text but the empty one is true."""
    force_refresh = bool("false")
    return not force_refresh


def _not_asked(cache: Connections, request: Request, key: str) -> bytes | None:
    return None


FAULTS = (
    _unreadable("serialization", "the repr of bytes is stored where JSON is read", _repr, "python_repr"),
    _unreadable("serialization_object", "an object is stored as the text [object Object]", _object_object, "object_object"),
    _unreadable(
        "serialization_buffer", "a Buffer is stored as JSON of its byte numbers", _node_buffer, "node_buffer",
        setting={"decode": only("img", _decoded_unless_buffer, decoded)},
    ),
    _unreadable("serialization_double", "JSON is encoded twice, and the reader gets a text", _json_twice, "json_double"),
    _unreadable("serialization_truncated", "values are cut after 64 characters", _truncated, "json_truncated"),
    Fault(
        id="serialization_utf8", cause="serialization", title="JPEGs go through a UTF-8 conversion, which mangles them",
        families=THUMB, edit="utf8_mangled -> jpeg", changes={"encode": only("thumb", _mangled, encoded)},
        proof=proofs.values("utf8_mangled"),
    ),
    Fault(
        id="serialization_versions", cause="serialization", title="one fleet stores JSON, the other packs it: none reads both",
        families=IMG, edit="zlib -> json", fleets=2,
        changes={"encode": only("img", _by_fleet, encoded), "decode": only("img", _unpacked_by_fleet, decoded)},
        proof=proofs.changed_values,
    ),
    Fault(
        id="hit_unused_sentinel", cause="hit_unused", title="a cached count of zero is taken for a miss",
        families=IMG, setting={"encode": only("img", _with_faces, encoded)}, changes={"use": only("img", _if_truthy, used)},
        proof=proofs.repeated_values,
    ),
    Fault(
        id="hit_unused_refresh", cause="hit_unused", title="the flag force_refresh is the text 'false', which is true",
        families=IMG + THUMB, changes={"use": _unless_refresh}, proof=proofs.repeated_values,
    ),
    Fault(
        id="hit_unused_unasked", cause="hit_unused", title="results are written, and the cache is never asked for them",
        families=IMG, changes={"look_up": only("img", _not_asked, get)}, proof=proofs.writes_without_read,
    ),
)  # fmt: skip
