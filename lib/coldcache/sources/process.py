"""What was sampled of the process to tables: its memory, its cgroup's, its collector's pauses."""

from __future__ import annotations

from typing import Any

import pandas as pd

from coldcache import schema
from coldcache.sources.jsonl import stamped_table, whole


def process_table(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the memory samples of the process and its descendants, see ``schema.PROCESS``."""
    rows = [
        (line["stamp_us"], line["pid"], bool(line.get("child")), line["rss_bytes"], line.get("uss_bytes"), line.get("pss_bytes"))
        for line in lines
    ]
    return stamped_table(rows, schema.PROCESS)


def cgroup_table(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the samples of the cgroup, see ``schema.CGROUP``."""
    names = ("stamp_us", "usage_bytes", "limit_bytes", "oom_kills")
    return stamped_table([tuple(line[name] for name in names) for line in lines], schema.CGROUP)


def gc_table(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the collections, see ``schema.GC``; records that are no collection's are left out.

    The program writes this file, not the recorder, so its content is checked.
    """
    names = ("stamp_us", "pid", "generation", "pause_us", "collected")
    rows = [tuple(line.get(name) for name in names) for line in lines]
    sound = [row for row in rows if all(map(whole, row)) and whole(row[1], bits=32) and row[2] in (0, 1, 2)]
    return stamped_table(sound, schema.GC)
