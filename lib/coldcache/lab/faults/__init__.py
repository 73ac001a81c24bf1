"""The faults that the sample analyzer can be given, each with its ground truth and its cure; and its healthy look-alikes."""

from __future__ import annotations

from coldcache.errors import UnknownNameError, did_you_mean
from coldcache.lab.faults import integrity, keys, logic, memory, pairs, payloads, room, ttl
from coldcache.lab.faults.fault import Fault, by_id

_FAMILIES = (integrity, keys, ttl, room, payloads, logic, memory)
#: All there is, by id: look-alikes first, then faults by family of causes, then pairs.
FAULTS: dict[str, Fault] = by_id(
    (
        *(fault for family in (integrity, keys, ttl, room, memory) for fault in family.LOOK_ALIKES),
        *(fault for family in _FAMILIES for fault in family.FAULTS),
        *pairs.PAIRS,
    )
)
#: Those of which a sample case is shipped.
SAMPLED = ("healthy", "key_prefix", "ttl_unit", "serialization", "heap_leak")


def fault(name: str) -> Fault:
    """Return the fault of that id.

    Raises
    ------
    UnknownNameError
        There is no such fault.
    """
    if name not in FAULTS:
        raise UnknownNameError(f"There is no fault {name!r}.{did_you_mean(name, FAULTS)} See: coldcache lab list")
    return FAULTS[name]
