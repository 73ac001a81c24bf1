"""Keys: the read and the write do not meet."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import uuid
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import redis
import xxhash

from coldcache.keys.mismatch import ABSENT
from coldcache.lab import proofs
from coldcache.lab.actors import warmer
from coldcache.lab.caching import TTL, Connections, Request, Value, cache_key, decoded, encoded, get
from coldcache.lab.faults.fault import IMG, THUMB, Fault, key, keys, met, only
from coldcache.lab.trace import popular_images

_USUAL = IMG + THUMB
_USUAL_KEY = "prod_cache:{0.kind}:{0.digest}"


def _family(template: str) -> str:
    """Return the family of the keys of a format, for any kind: what varies, or is a number, is a star."""
    return re.sub(r"=\d+", "=*", template.replace("{0.kind}", "{kind}").replace("{0.digest}", "*"))


def _renamed(name: str, cause: str, title: str, read: str, written: str, edit: str) -> Fault:
    """Return a fault that writes keys of one format and reads those of another."""
    return Fault(
        id=name, cause=cause, title=title, edit=edit,
        families=met(_family(read), _family(written)),
        setting=keys(read) if read != _USUAL_KEY else {}, changes={"write_key": key(written)}, proof=proofs.unread_writes,
    )  # fmt: skip


# --- key_naming -------------------------------------------------------------------------------------


def _percent_encoded(request: Request) -> str:
    return f"prod_cache:{request.kind}:{quote(f'images/{request.digest}', safe='')}"


_NAMING = (
    _renamed("key_naming_case", "key_naming", "written under imageID, read under imageid",
             "prod_cache:{0.kind}:imageid:{0.digest}", "prod_cache:{0.kind}:imageID:{0.digest}", "imageID -> imageid"),
    _renamed("key_naming_camel", "key_naming", "written under imageId, read under image_id",
             "prod_cache:{0.kind}:image_id:{0.digest}", "prod_cache:{0.kind}:imageId:{0.digest}", "imageId -> image_id"),
    _renamed("key_naming_plural", "key_naming", "written under images, read under image",
             "prod_cache:{0.kind}:image:{0.digest}", "prod_cache:{0.kind}:images:{0.digest}", "images -> image"),
    _renamed("key_naming_separator", "key_naming", "written with dashes, read with colons",
             "prod:{0.kind}:image:{0.digest}", "prod-{0.kind}-image-{0.digest}", "- -> :"),
    _renamed("key_naming_order", "key_naming", "parameters written as w, id and read as id, w",
             "prod_cache:{0.kind}?id={0.digest}&w=64", "prod_cache:{0.kind}?w=64&id={0.digest}", "w=*&id=* -> id=*&w=*"),
    _renamed("key_naming_slash", "key_naming", "written with a trailing slash, read without",
             "prod_cache:{0.kind}/{0.digest}", "prod_cache:{0.kind}/{0.digest}/", f"/ -> {ABSENT}"),
    Fault(
        id="key_naming_encoding", cause="key_naming", title="a path written percent-encoded, read plain",
        families=met("prod_cache:{kind}:images/*", "prod_cache:{kind}:*"), edit="%2F -> /",
        setting=keys("prod_cache:{0.kind}:images/{0.digest}"), changes={"write_key": _percent_encoded},
        proof=proofs.unread_writes,
    ),
)  # fmt: skip

# --- key_prefix -------------------------------------------------------------------------------------

_PREFIX = (
    _renamed("key_prefix", "key_prefix", "results are written under dev_cache:, read under prod_cache:",
             _USUAL_KEY, "dev_cache:{0.kind}:{0.digest}", "dev_cache -> prod_cache"),
    _renamed("key_prefix_doubled", "key_prefix", "the prefix is put before writes twice, by code and client",
             _USUAL_KEY, "prod_cache:prod_cache:{0.kind}:{0.digest}", f"prod_cache -> {ABSENT}"),
    _renamed("key_prefix_separator", "key_prefix", "the separator behind the prefix is missing in writes",
             "prod:cache:{0.kind}:{0.digest}", "prodcache:{0.kind}:{0.digest}", "prodcache -> prod:cache"),
    _renamed("key_prefix_tenant", "key_prefix", "written under the tenant acme, read under default",
             "default:{0.kind}:{0.digest}", "acme:{0.kind}:{0.digest}", "acme -> default"),
    _renamed("key_prefix_missing", "key_prefix", "written without the prefix that reads have",
             "prod_cache:dragon3:{0.kind}:{0.digest}", "dragon3:{0.kind}:{0.digest}", f"{ABSENT} -> prod_cache"),
)  # fmt: skip

# --- key_version ------------------------------------------------------------------------------------


def _version_after_deploy(request: Request) -> str:
    return f"prod_cache:{'v2' if request.deployed else 'v1'}:{request.kind}:{request.digest}"


def _version_of_fleet(request: Request) -> str:
    return f"prod_cache:v{1 + request.fleet}:{request.kind}:{request.digest}"


_V1 = keys("prod_cache:v1:{0.kind}:{0.digest}")
_V1_TO_V2 = met("prod_cache:v2:{kind}:*", "prod_cache:v1:{kind}:*")
_VERSION = (
    Fault(
        id="key_version_deploy", cause="key_version", title="a deploy moves the namespace from v1 to v2: all keys are stranded",
        families=_V1_TO_V2, edit="v1 -> v2",
        setting=_V1, changes={"read_key": _version_after_deploy, "write_key": _version_after_deploy},
        proof=proofs.values_under_another_key,
    ),
    Fault(
        id="key_version_fleets", cause="key_version", title="two fleets at once, one on v1 and one on v2, fill the cache twice",
        families=_V1_TO_V2, edit="v1 -> v2", fleets=2,
        setting=_V1, changes={"read_key": _version_of_fleet, "write_key": _version_of_fleet},
        proof=proofs.values_under_another_key,
    ),
    Fault(
        id="key_version_writer", cause="key_version", title="readers are on v2, the writer was not deployed and is on v1",
        families=_V1_TO_V2, edit="v1 -> v2",
        setting=keys("prod_cache:v2:{0.kind}:{0.digest}"), changes={"write_key": key("prod_cache:v1:{0.kind}:{0.digest}")},
        proof=proofs.unread_writes,
    ),
)  # fmt: skip

# --- key_hash ---------------------------------------------------------------------------------------


def _md5(request: Request) -> str:
    return f"prod_cache:{request.kind}:{hashlib.md5(request.url.encode(), usedforsecurity=False).hexdigest()}"


def _sha1(request: Request) -> str:
    return f"prod_cache:{request.kind}:{hashlib.sha1(request.url.encode(), usedforsecurity=False).hexdigest()}"


def _of_url_and_size(request: Request) -> str:
    return f"prod_cache:{request.kind}:{xxhash.xxh64_hexdigest(f'{request.url} 64'.encode())}"


def _seeded_by_process(request: Request) -> str:
    """Hash as Python's hash() does: with a seed of the process."""
    return f"prod_cache:{request.kind}:{xxhash.xxh64_hexdigest(request.url.encode(), seed=os.getpid())}"


_HASH = (
    Fault(
        id="key_hash_algorithm", cause="key_hash", title="written under the MD5 of the URL, read under its SHA-1",
        families=_USUAL, edit="32 hex -> 40 hex",
        setting={"read_key": _sha1, "write_key": _sha1}, changes={"write_key": _md5}, proof=proofs.unread_writes,
    ),
    Fault(
        id="key_hash_input", cause="key_hash", title="written under the hash of URL and size, read under that of the URL",
        families=_USUAL, changes={"write_key": _of_url_and_size}, proof=proofs.unread_writes,
    ),
    Fault(
        id="key_hash_seed", cause="key_hash", title="three processes, each with a hash seed of its own",
        families=_USUAL, fleets=3,
        changes={"read_key": _seeded_by_process, "write_key": _seeded_by_process}, proof=proofs.values_under_another_key,
    ),
)  # fmt: skip

# --- wrong_db ---------------------------------------------------------------------------------------


def _store_in_database_1(cache: Connections, request: Request, key: str, value: Value) -> None:
    cache.database(1).set(key, value, ex=TTL)


def _get_in_own_database(cache: Connections, request: Request, key: str) -> bytes | None:
    return get(replace(cache, reads=cache.database(request.fleet)), request, key)


def _store_in_own_database(cache: Connections, request: Request, key: str, value: Value) -> None:
    cache.database(request.fleet).set(key, value, ex=TTL)


_DATABASE = (
    Fault(
        id="wrong_db", cause="wrong_db", title="written to database 1, read from database 0",
        families=_USUAL, edit="db 1 -> db 0", changes={"store": _store_in_database_1}, proof=proofs.unread_writes,
    ),
    Fault(
        id="wrong_db_fleets", cause="wrong_db", title="two fleets with one cache each, in databases 0 and 1",
        families=_USUAL, edit="db 1 -> db 0", fleets=2,
        changes={"look_up": _get_in_own_database, "store": _store_in_own_database}, proof=proofs.values_under_another_key,
    ),
)  # fmt: skip

# --- unique_key -------------------------------------------------------------------------------------


def _stamped(request: Request) -> str:
    return f"{cache_key(request)}:{1_763_800_000_000 + round(request.at_s * 1000)}"


def _with_request_id(request: Request) -> str:
    return f"{cache_key(request)}:{uuid.uuid5(uuid.NAMESPACE_URL, str(request.number))}"


def _with_float_noise(request: Request) -> str:
    return f"{cache_key(request)}:{0.8 + request.number * 1e-9:.12f}"


_SEEN_APART = met("prod_cache:{kind}:*:*", "prod_cache:{kind}:*:*")
_UNIQUE = tuple(
    Fault(
        id=f"unique_key_{what}", cause="unique_key", title=f"the key carries {title}, which never repeats",
        families=_SEEN_APART if what != "float" else met("prod_cache:{kind}:*:*.*", "prod_cache:{kind}:*:*.*"),
        edit=f"{what} -> {ABSENT}", changes={"read_key": built, "write_key": built}, proof=proofs.values_under_another_key,
    )
    for what, title, built in (
        ("timestamp", "the time of the request", _stamped),
        ("uuid", "the id of the request", _with_request_id),
        ("float", "a quality with noise in its last digits", _with_float_noise),
    )
)  # fmt: skip

# --- key_collision ----------------------------------------------------------------------------------


def _truncated_hash(request: Request) -> str:
    return f"prod_cache:{request.kind}:{request.digest[:2]}"


def _decoded_if_of_this_image(request: Request, cached: bytes) -> Any:
    result = decoded(request, cached)
    return result if result is not None and result["image"] == request.image else None


def _with_view(request: Request, result: Any) -> Value | None:
    """Encode what the caller asked for: one fleet wants labels, the other the histogram."""
    if request.kind == "thumb":
        return encoded(request, result)
    view = _view(request)
    return json.dumps({"view": view, view: result[view]}).encode()


def _view(request: Request) -> str:
    return ("labels", "histogram")[request.fleet % 2]


def _decoded_if_of_this_view(request: Request, cached: bytes) -> Any:
    result = decoded(request, cached)
    return result if request.kind == "thumb" or (result is not None and result["view"] == _view(request)) else None


def _key_with_view(request: Request) -> str:
    return cache_key(request) if request.kind == "thumb" else f"prod_cache:img:{_view(request)}:{request.digest}"


def _get_as_string_or_hash(cache: Connections, request: Request, key: str) -> bytes | None:
    """Ask as this fleet stores; a wrong type is taken for a miss."""
    with contextlib.suppress(redis.ResponseError):
        return cache.reads.hget(key, "result") if request.fleet else get(cache, request, key)  # type: ignore[return-value]
    return None


def _store_as_string_or_hash(cache: Connections, request: Request, key: str, value: Value) -> None:
    if not request.fleet:
        cache.writes.set(key, value, ex=TTL)
        return
    with contextlib.suppress(redis.ResponseError):
        cache.writes.hset(key, "result", value)
        cache.writes.expire(key, TTL)


_COLLISION = (
    Fault(
        id="key_collision_hash", cause="key_collision", title="two characters are left of the hash, so images share keys",
        families=IMG, setting={"decode": only("img", _decoded_if_of_this_image, decoded)},
        changes=dict.fromkeys(("read_key", "write_key"), only("img", _truncated_hash, cache_key)),
        proof=proofs.changed_values,
    ),
    Fault(
        id="key_collision_argument", cause="key_collision", title="two callers want two views, which the key leaves out",
        families=IMG, fleets=2,
        setting={
            "requests": popular_images, "encode": _with_view, "decode": _decoded_if_of_this_view,
            "read_key": _key_with_view, "write_key": _key_with_view,
        },
        changes={"read_key": cache_key, "write_key": cache_key}, proof=proofs.changed_values,
    ),
    Fault(
        id="key_collision_type", cause="key_collision", title="one fleet uses string commands, the other hash commands",
        families=_USUAL, fleets=2, changes={"look_up": _get_as_string_or_hash, "store": _store_as_string_or_hash},
        proof=proofs.errors("WRONGTYPE"),
    ),
)  # fmt: skip

# --- healthy ----------------------------------------------------------------------------------------


def _both_versions(cache: Connections, request: Request, key: str, value: Value) -> None:
    """Fill the coming namespace too, until it is in use."""
    if not request.deployed:
        cache.writes.set(key.replace(":v1:", ":v2:"), value, ex=TTL)


LOOK_ALIKES = (
    Fault(
        id="healthy_blue_green", cause="healthy", title="a deploy in good order: v2 is filled before it is read",
        setting={**dict.fromkeys(("read_key", "write_key"), _version_after_deploy), "after_store": _both_versions},
        proof=proofs.values_under_another_key,
    ),
    Fault(
        id="healthy_warmed_up", cause="healthy", title="a job copies v1 to v2 before the deploy",
        setting=dict.fromkeys(("read_key", "write_key"), _version_after_deploy), actors=(warmer("v2"),),
        proof=proofs.commands("COPY"),
    ),
)  # fmt: skip

FAULTS = (*_NAMING, *_PREFIX, *_VERSION, *_HASH, *_DATABASE, *_UNIQUE, *_COLLISION)
