"""What an application imports: light, silent, never in the way, and exact."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import stat
import subprocess
import sys
import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import memray
import pytest
from coldcache.instrument import cache_log, log_gc, tag
from coldcache.sources.app_log import app_log_table
from coldcache.sources.jsonl import json_lines
from coldcache.sources.monitor import unescape
from hypothesis import given
from hypothesis import strategies as st


def test_importing_it_loads_nothing_heavy():
    code = "import coldcache.instrument as i, sys; i.cache_log('x'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    packages = {name.split(".")[0] for name in loaded}
    assert "coldcache" in packages
    assert not packages & {"pandas", "numpy", "pyarrow", "redis", "memray", "psutil", "asyncio"}
    assert len(loaded) < 150  # 85 with the interpreter's own: some ten milliseconds


def test_calls_become_private_records_without_values(tmp_path: Path):
    path = tmp_path / "app.jsonl"
    log = cache_log(str(path))
    log.get("thumb:1", hit=False)
    log.set(b"thumb:1", size=5120, ttl_s=1.5)
    log.get("thumb:1", True, 5120)
    log.delete("thumb:1")
    log.set("no-ttl", 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    records = json_lines(path)
    assert [(r["op"], r["key"], r["size"], r["ttl_ms"], r["result"]) for r in records] == [
        ("get", "thumb:1", None, None, "MISS"),
        ("set", "thumb:1", 5120, 1500, None),
        ("get", "thumb:1", 5120, None, "HIT"),
        ("delete", "thumb:1", None, None, None),
        ("set", "no-ttl", 1, None, None),
    ]
    assert {r["pid"] for r in records} == {os.getpid()}


def test_without_a_path_it_does_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("COLDCACHE_APP_LOG", raising=False)
    monkeypatch.chdir(tmp_path)
    log = cache_log()
    log.get("k", hit=True)
    log.set("k", size=1, ttl_s=1)
    log.delete("k")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("COLDCACHE_APP_LOG", str(tmp_path / "named.jsonl"))
    cache_log().delete("k")
    assert len(json_lines(tmp_path / "named.jsonl")) == 1


def test_a_full_disk_ends_the_log_with_one_warning(caplog: pytest.LogCaptureFixture):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    log = cache_log("/dev/full")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            log.get("k", hit=True)
    assert len(caplog.records) == 1


def test_a_wrong_argument_costs_its_record_only(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    log = cache_log(str(tmp_path / "log"))
    log.set("k", size="large")  # type: ignore[arg-type]
    log.set("k", size=1, ttl_s=float("nan"))
    log.set("k", size=2)
    assert [record["size"] for record in json_lines(tmp_path / "log")] == [2]
    assert len(caplog.records) == 1


@given(st.lists(st.one_of(st.text(), st.binary(), st.text(st.characters(categories=["Cs", "Cc", "Zl"]))), max_size=8))
def test_any_key_survives_the_round_trip(keys: list[str | bytes]):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        log = cache_log(path)
        for key in keys:
            log.get(key, hit=True)
        table = app_log_table(json_lines(path))
    sent = [key if isinstance(key, bytes) else key.encode("utf-8", "backslashreplace") for key in keys]
    assert sorted(unescape(key) for key in table["key"]) == sorted(sent)
    assert all(key.isascii() and key.isprintable() for key in table["key"])


def test_threads_and_forks_share_one_file_without_mixing_lines(tmp_path: Path):
    program = """
import os, sys, threading
from coldcache.instrument import cache_log
log = cache_log(sys.argv[1])
children = []
for _ in range(3):
    if (pid := os.fork()) == 0:
        workers = [threading.Thread(target=lambda: [log.get("k" * 200, hit=True) for _ in range(200)]) for _ in range(3)]
        [w.start() for w in workers]; [w.join() for w in workers]
        os._exit(0)
    children.append(pid)
[os.waitpid(pid, 0) for pid in children]
"""
    path = tmp_path / "log"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    lines = path.read_text().splitlines()
    assert len(lines) == 3 * 3 * 200
    assert len({json.loads(line)["pid"] for line in lines}) == 3


def families_seen(capture: Path, at_least: int = 100_000) -> dict[str, int]:
    """Bytes alive at the end by the tag in their stack, '' without one."""
    with memray.FileReader(capture) as reader:
        seen: dict[str, int] = {}
        for record in reader.get_leaked_allocation_records(merge_threads=True):
            names = [function for function, _, _ in record.stack_trace() if function.startswith("redis:")]
            seen[names[0] if names else ""] = seen.get(names[0] if names else "", 0) + record.size
    return {name: size for name, size in seen.items() if size >= at_least}


def test_memray_sees_the_family_in_every_kind_of_code(tmp_path: Path):
    kept: list[bytearray] = []

    @tag("sync")
    def make(size: int, *, copies: int = 1) -> str:
        """Keep bytes."""
        kept.extend(bytearray(size) for _ in range(copies))
        return "made"

    @tag("async")
    async def make_later(size: int) -> str:
        await asyncio.sleep(0)
        kept.append(bytearray(size))
        return "made later"

    def plain(size: int) -> None:
        kept.append(bytearray(size))

    async def in_a_task() -> str:
        return await asyncio.create_task(make_later(200_000))

    with memray.Tracker(tmp_path / "capture.bin", trace_python_allocators=True):
        assert make(150_000, copies=2) == "made"
        assert asyncio.run(make_later(200_000)) == "made later"
        assert asyncio.run(in_a_task()) == "made later"
        with ThreadPoolExecutor(1) as pool:
            pool.submit(tag("pool")(plain), 500_000).result()
            pool.submit(plain, 600_000).result()
    seen = families_seen(tmp_path / "capture.bin")
    assert {name: round(size, -5) for name, size in seen.items() if name} == {
        "redis:sync": 300_000,
        "redis:async": 400_000,
        "redis:pool": 500_000,
    }
    assert seen[""] >= 600_000
    assert (make.__name__, make.__doc__) == ("make", "Keep bytes.")


def test_tracemalloc_sees_the_family_as_a_file():
    make = tag("thumb")(lambda: bytearray(300_000))
    tracemalloc.start(5)
    try:
        kept = make()
        found = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "<redis:thumb>", all_frames=True)])
    finally:
        tracemalloc.stop()
    assert sum(trace.size for trace in found.traces) >= len(kept)


def test_a_tag_passes_errors_on_and_makes_one_code_object_however_often_used():
    def fail() -> None:
        raise KeyError("k")

    with pytest.raises(KeyError):
        tag("f")(fail)()
    codes = {id(tag("thumb")(lambda: None).__code__) for _ in range(100)}
    assert len(codes) == 1


def test_a_generator_cannot_be_tagged():
    def numbers():
        yield 1

    with pytest.raises(TypeError, match="tag the function that consumes it"):
        tag("f")(numbers)


def test_collections_are_logged_from_inside(tmp_path: Path):
    path = tmp_path / "gc.jsonl"
    before = list(gc.callbacks)
    try:
        log_gc(path)
        log_gc(path)  # no second time
        gc.collect()
    finally:
        added = [callback for callback in gc.callbacks if callback not in before]
        gc.callbacks[:] = before
    assert len(added) == 1
    records = json_lines(path)
    assert records[0]["generation"] == 2
    assert records[0]["pause_us"] > 0
    assert records[0]["pid"] == os.getpid()
