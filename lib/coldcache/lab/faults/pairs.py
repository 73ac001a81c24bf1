"""Two faults at once: both must be found."""

from __future__ import annotations

from coldcache.lab.faults import integrity, keys, logic, memory, payloads, room, ttl
from coldcache.lab.faults.fault import FaultPair, by_id, pair

_SINGLE = by_id(tuple(fault for family in (integrity, keys, ttl, room, payloads, logic, memory) for fault in family.FAULTS))

# The first where images are analysed, the second where thumbnails are made.
_TOGETHER = (
    ("key_prefix", "ttl_unit"),
    ("serialization", "key_prefix"),
    ("serialization_buffer", "ttl_short"),
    ("ttl_unit", "key_naming_case"),
    ("key_version_writer", "ttl_zero"),
    ("set_skipped_null", "key_prefix_doubled"),
    ("unique_key_timestamp", "serialization_utf8"),
    ("hit_unused_refresh", "key_naming_plural"),
    ("key_collision_hash", "ttl_unit"),
    ("wrong_db", "unique_key_uuid"),
    ("heap_leak", "key_prefix"),
    ("flush_job", "serialization_utf8"),
)

PAIRS: tuple[FaultPair, ...] = tuple(pair(_SINGLE[first], _SINGLE[second]) for first, second in _TOGETHER)
