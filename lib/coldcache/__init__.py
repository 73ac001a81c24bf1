"""Why did the cache go cold, and what did it do to memory?

The names below are what a notebook needs; each is documented where it is defined.

>>> import coldcache
>>> case = coldcache.open_case("sample-key_prefix")
>>> diagnosis = coldcache.diagnose(case)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Loaded on first use: the sample analyzer and the command line must start fast.
_HOMES = {
    "diagnose": "coldcache.causes.diagnosis",
    "figures": "coldcache.figures",
    "heap_survivors": "coldcache.memory.survivors",
    "joined_timeline": "coldcache.timeline",
    "key_usage": "coldcache.replay.usage",
    "miss_ledger": "coldcache.replay.ledger",
    "open_case": "coldcache.record.finish",
    "preflight_of": "coldcache.live",
    "record_live": "coldcache.live",
    "root_cause": "coldcache.verdict",
    "shown": "coldcache.showing",
}
__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'coldcache' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    return home if _HOMES[name].endswith(f".{name}") else getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
