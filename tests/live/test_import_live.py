"""A log that redis-cli took from a live server, with INFO before and after: every look-up that INFO counts is in the case."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from coldcache.importing.importer import import_logs
from coldcache.importing.options import EvidenceFiles, ImportOptions
from coldcache.lab.server import lab_server
from coldcache.replay.ledger import miss_ledger

pytestmark = pytest.mark.live
SCRIPT = Path(__file__).with_name("mixed_traffic.py")
REDIS_CLI = shutil.which("redis-cli") or shutil.which("valkey-cli")


@pytest.mark.skipif(REDIS_CLI is None, reason="needs redis-cli: apt install redis-tools")
def test_expected_look_ups_of_a_log_are_those_that_info_counts(server_binary_path: str, tmp_path: Path):
    with lab_server(server_binary_path, "--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru") as url:
        cli = [str(REDIS_CLI), "-u", url]

        def saved_info(name: str) -> Path:
            path = tmp_path / name
            path.write_bytes(subprocess.run([*cli, "INFO", "all"], check=True, capture_output=True).stdout)
            return path

        # GIVEN a log of mixed traffic, as people take it
        log = tmp_path / "ops.log"
        with log.open("wb") as file:
            monitor = subprocess.Popen([*cli, "MONITOR"], stdout=file)
            deadline = time.monotonic() + 20
            while not log.stat().st_size:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            before = saved_info("before.txt")
            subprocess.run([sys.executable, str(SCRIPT), url, "2", "6000", "7", "a,b"], check=True, stdout=subprocess.DEVNULL)
            after = saved_info("after.txt")
            time.sleep(0.3)
            monitor.terminate()
            monitor.wait()
    beside = EvidenceFiles(info=(before, after))
    case = import_logs(ImportOptions(logs=(str(log),), out=tmp_path / "case", beside=beside))
    ledger = miss_ledger(case)
    # THEN the look-ups expected from the commands are those that the server counted
    assert ledger.info_hits is not None
    assert ledger.info_misses is not None
    assert (ledger.total or 0) > 3000
    assert ledger.residual == 0
    assert {"line": 1, "reason": "a reply, not a command"} in case.table("rejected")[["line", "reason"]].to_dict("records")
