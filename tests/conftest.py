"""What several tests need: frames from literal rows, a case from literal lines, real servers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from coldcache.case import Case, iso, new_case_folder, open_case, write_meta, write_table
from coldcache.sources.accesses import AccessBuilder
from coldcache.sources.info import InfoSample, info_table
from coldcache.sources.monitor import KeyEvent, MonitorLine

START_US = 1_763_800_000_000_000  # 2025-11-22 08:26:40 UTC


def line(at_ms: float, *args: str, client: str = "10.0.0.1:5000", db: int = 0) -> MonitorLine:
    """A MONITOR line `at_ms` after the start."""
    return MonitorLine(START_US + round(at_ms * 1000), db, client, list(args))


def event(name: str, key: str, db: int = 0) -> KeyEvent:
    """A key event; it belongs to what follows."""
    return KeyEvent(db, name, key)


def case_of(folder: Path, items: list[MonitorLine | KeyEvent]) -> Case:
    """Write a case whose stream is `items` between two INFO lines of our own, with true counters."""
    builder = AccessBuilder("test:6379", ["own"], b"secret")
    last_us = max((item.stamp_us for item in items if isinstance(item, MonitorLine)), default=START_US)
    opening = MonitorLine(START_US - 1000, 0, "own", ["INFO"])
    closing = MonitorLine(last_us + 1000, 0, "own", ["INFO"])
    for item in (opening, *items, closing):
        builder.feed(item)
    accesses = builder.take_accesses()
    counted = accesses[accesses["lookups"] > 0]
    hits, misses = (int(counted.loc[counted["outcome"] == kind, "lookups"].sum()) for kind in ("hit", "miss"))
    texts = [
        f"# Stats\r\nkeyspace_hits:{h}\r\nkeyspace_misses:{m}\r\nevicted_keys:0\r\nexpired_keys:0\r\n"
        "used_memory:1000000\r\ntotal_commands_processed:1\r\n"
        for h, m in ((100, 50), (100 + hits, 50 + misses))
    ]
    samples = [InfoSample(us, seq, text) for (seq, us), text in zip(builder.info_marks, texts, strict=True)]
    new_case_folder(folder)
    rows = {
        "accesses": write_table(folder, "accesses", accesses, part=0),
        "key_events": write_table(folder, "key_events", builder.take_key_events()),
        "info": write_table(folder, "info", info_table(samples)),
    }
    info = info_table(samples)
    write_meta(
        folder,
        {
            "made_by": "tests",
            "created": iso(info["t"].iloc[0]),
            "span": {"start": iso(info["t"].iloc[0]), "end": iso(info["t"].iloc[-1])},
            "basis": "exact",
            "ended": "completed",
            "servers": [{"node": "test:6379", "software": "Redis", "version": "7.0.15", "run_id": "x"}],
            "process": None,
            "rows": rows,
            "stream": {},
            "gaps": [],
            "clock_offsets": {"server_minus_recorder_us": 0},
            "policy": {},
            "notes": {},
        },
    )
    return open_case(folder)


def needed_on_ci(what: str) -> None:
    """Skip where a program is missing, but fail on CI, which installs it: a skip there would hide a hole."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is not installed here")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        needed_on_ci("chromium")
    return str(found)


@pytest.fixture(scope="session", params=["embedded", "redis-server"])
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a real server: the embedded Valkey, and Debian's Redis."""
    from coldcache.lab.server import lab_server, server_binary

    binary = server_binary() if request.param == "embedded" else shutil.which("redis-server")
    if binary is None:
        needed_on_ci("redis-server")
    with lab_server(binary) as url:
        yield url
