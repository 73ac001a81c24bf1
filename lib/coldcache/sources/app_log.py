"""The application's own log of its cache calls, as :mod:`coldcache.instrument` writes it, to a table."""

from __future__ import annotations

from typing import Any

import pandas as pd

from coldcache import schema
from coldcache.sources.jsonl import stamped_table, whole

_OPS = {"get": "read", "set": "write", "delete": "delete"}
_RESULTS = {"HIT": "hit", "MISS": "miss", None: None}


def app_log_table(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the logged calls, see ``schema.APP_LOG``; records that are not of this form are left out.

    Operations and results come in the words of the ``accesses`` table, so that the two join.
    """
    return stamped_table([row for line in lines if (row := _row(line)) is not None], schema.APP_LOG)


def _row(line: dict[str, Any]) -> tuple[object, ...] | None:
    stamp_us, pid, op, key, size, ttl_ms, result = (
        line.get(name) for name in ("t_us", "pid", "op", "key", "size", "ttl_ms", "result")
    )
    if not (whole(stamp_us) and whole(pid, bits=32) and isinstance(key, str) and isinstance(op, str) and op in _OPS):
        return None
    if not all(value is None or whole(value) for value in (size, ttl_ms)):
        return None
    if not (result is None or isinstance(result, str)) or result not in _RESULTS:
        return None
    return stamp_us, pid, _OPS[op], key.encode("ascii", "backslashreplace").decode(), size, ttl_ms, _RESULTS[result]
