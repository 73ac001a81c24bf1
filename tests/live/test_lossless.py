"""Nothing is lost under load: every command that the server ran is in the case."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import coldcache
import pytest
from coldcache.lab.server import lab_server
from conftest import needed_on_ci
from live.recorders import client_of, recorder

pytestmark = [pytest.mark.live, pytest.mark.alone]
SECONDS = float(os.environ.get("COLDCACHE_LOSSLESS_SECONDS", "2"))


def test_every_command_of_a_benchmark_at_full_speed_is_recorded(server_binary_path: str, tmp_path: Path):
    # GIVEN a recorder and redis-benchmark, pipelined, as fast as the machine goes
    program = shutil.which("redis-benchmark")
    if program is None:
        needed_on_ci("redis-benchmark")
    with lab_server(server_binary_path) as url, recorder(url, tmp_path / "case") as process:
        port = url.rsplit(":", 1)[1].split("/")[0]
        command = [str(program), "-p", port, "-n", "20000", "-P", "16", "-c", "20", "-r", "10000", "-d", "100", "-t", "set,get"]
        began = time.monotonic()
        while time.monotonic() - began < SECONDS:
            subprocess.run(command, check=True, capture_output=True)
        took = time.monotonic() - began
        with contextlib.closing(client_of(url)) as client:
            stats = client.info("commandstats")
        process.send_signal(signal.SIGINT)
        assert process.wait(1200) == 0
    # THEN the case holds each of them
    case = coldcache.open_case(tmp_path / "case")
    recorded = case.accesses["command"].value_counts()
    calls = {name: stats[f"cmdstat_{name.lower()}"]["calls"] for name in ("GET", "SET")}
    print(f"{sum(calls.values()):,} commands, {sum(calls.values()) / took:,.0f}/s")
    assert {name: recorded[name] for name in calls} == calls
    assert case.gaps == []
    assert case.meta["stream"]["damaged"] == 0
