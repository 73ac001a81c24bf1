"""The faults that the sample analyzer can be given, each with its ground truth and its cure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from coldcache.errors import UnknownNameError, did_you_mean


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What of the analyzer's caching code a fault can change. The defaults are the healthy code.

    read_prefix, write_prefix : environment prefix of the key that GET and SET build
    ttl_option : keyword of redis-py's ``set`` under which the TTL of 300 goes: ``ex`` or ``px``
    stored_as : ``json`` bytes, or ``repr``: the text ``b'{…}'`` that ``str(bytes)`` gives
    keep_thumbnails : whether every analysed image's thumbnail stays in a list
    """

    read_prefix: str = "prod_cache"
    write_prefix: str = "prod_cache"
    ttl_option: str = "ex"
    stored_as: str = "json"
    keep_thumbnails: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: how to inject it, the truth a diagnosis must find, and the repair that cures it.

    cause : id from the vocabulary of causes, or ``healthy``
    families : key families it touches, as the diagnosis names them
    edit : the exact edit that mends it, or None
    repair_id : id of the fix that a finding must name, or None
    """

    id: str
    cause: str
    title: str
    families: tuple[dict[str, str], ...]
    edit: str | None
    repair_id: str | None
    inject: Callable[[Behaviour], Behaviour]
    repair: Callable[[Behaviour], Behaviour]


def _same(behaviour: Behaviour) -> Behaviour:
    return behaviour


_IMG = {"reads": "prod_cache:img:*", "writes": "prod_cache:img:*"}
_THUMB = {"reads": "prod_cache:thumb:*", "writes": "prod_cache:thumb:*"}

FAULTS: dict[str, Fault] = {
    fault.id: fault
    for fault in (
        Fault(
            "healthy", "healthy", "nothing is wrong: a cold cache that fills", (), None, None, _same, _same
        ),
        Fault(
            "key_prefix", "key_prefix", "results are written under dev_cache:, read under prod_cache:",
            (
                {"reads": "prod_cache:img:*", "writes": "dev_cache:img:*"},
                {"reads": "prod_cache:thumb:*", "writes": "dev_cache:thumb:*"},
            ),
            "dev_cache -> prod_cache", "key_prefix",
            lambda b: replace(b, write_prefix="dev_cache"),
            lambda b: replace(b, write_prefix=b.read_prefix),
        ),
        Fault(
            "ttl_unit", "ttl_unit", "300 seconds given as milliseconds: SET … PX 300",
            (_IMG, _THUMB), "PX 300 -> EX 300", "ttl_unit",
            lambda b: replace(b, ttl_option="px"),
            lambda b: replace(b, ttl_option="ex"),
        ),
        Fault(
            "serialization", "serialization", "the repr of bytes is stored where JSON is read",
            (_IMG,), "python_repr -> json", "serialization",
            lambda b: replace(b, stored_as="repr"),
            lambda b: replace(b, stored_as="json"),
        ),
        Fault(
            "heap_leak", "heap_leak", "the thumbnail of every missed image is kept in a list",
            (), None, "heap_leak",
            lambda b: replace(b, keep_thumbnails=True),
            lambda b: replace(b, keep_thumbnails=False),
        ),
    )
}  # fmt: skip


def fault(name: str) -> Fault:
    """Return the fault of that id.

    Raises
    ------
    UnknownNameError
        There is no such fault.
    """
    if name not in FAULTS:
        raise UnknownNameError(f"There is no fault {name!r}.{did_you_mean(name, FAULTS)} Faults: {', '.join(FAULTS)}.")
    return FAULTS[name]
