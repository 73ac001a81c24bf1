"""What recording costs the server, and whether anything is lost: ratios, side by side in one run.

    python benchmarks/record.py cost        # throughput with and without, paired, medians
    python benchmarks/record.py lossless    # 30 s at full speed: recorded commands against commandstats

``redis-benchmark`` drives the embedded server; ``redis-cli monitor > file`` is what people use
today. Absolute figures are this machine's; only ratios of one run are claimed.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis
from coldcache.lab.server import lab_server
from coldcache.record.finish import open_case

ROUNDS = int(os.environ.get("ROUNDS", "9"))
COMMANDS = int(os.environ.get("COMMANDS", "120000"))  # at one a round trip; more when pipelined, so that a run takes seconds
LOSSLESS_S = float(os.environ.get("LOSSLESS_S", "30"))
KEYS = 10_000
MIXED = ("-t", "set,get", "-r", str(KEYS), "-d", "200")
HITS_90 = ("-r", str(KEYS), "GET", "key:__rand_int__")


def port_of(url: str) -> str:
    return url.rsplit(":", 1)[1].split("/", maxsplit=1)[0]


def benchmark(url: str, *what: str, pipeline: int, commands: int) -> float:
    """Run redis-benchmark; return commands per second over all its tests."""
    command = ["redis-benchmark", "-p", port_of(url), "-n", str(commands), "-P", str(pipeline), "-c", "20", "--csv", *what]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rates = [float(row["rps"]) for row in csv.DictReader(io.StringIO(out))]
    return len(rates) / sum(1 / rate for rate in rates)


@contextlib.contextmanager
def nothing(url: str, folder: Path) -> Iterator[None]:
    """No recorder: the server as it is."""
    yield


@contextlib.contextmanager
def redis_cli(url: str, folder: Path) -> Iterator[None]:
    """``redis-cli monitor > file``."""
    with (folder / "monitor.log").open("wb") as file:
        process = subprocess.Popen(["redis-cli", "-p", port_of(url), "monitor"], stdout=file)
        time.sleep(1)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def recorder(mode: str) -> Callable[[str, Path], contextlib.AbstractContextManager[None]]:
    """``coldcache record --mode …`` as its own process; its tables are made after the measurement."""

    @contextlib.contextmanager
    def run(url: str, folder: Path) -> Iterator[None]:
        command = [sys.executable, "-m", "coldcache", "record", "-q", "--force", "--mode", mode, "--out", str(folder / "case")]
        process = subprocess.Popen(command, env={**os.environ, "REDIS_URL": url}, stdout=subprocess.DEVNULL)
        client = redis.Redis.from_url(url, protocol=2)
        while not any(entry["name"] == "coldcache-capture" for entry in client.client_list()):
            if process.poll() is not None:
                raise SystemExit("the recorder did not start")
            time.sleep(0.1)
        client.close()
        time.sleep(1)
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()

    return run


def paired(
    name: str,
    control: Callable[..., object],
    what: tuple[str, ...],
    pipeline: int,
    times: int = 1,
    **modes: Callable[..., object],
) -> None:
    """Alternate a control and the modes, on one server; print the median ratio of each to the control."""
    commands = COMMANDS * times
    ratios: dict[str, list[float]] = {mode: [] for mode in modes}
    with lab_server() as url:
        client = redis.Redis.from_url(url, protocol=2)
        for key in range(KEYS * 9 // 10):
            client.set(f"key:{key:012d}", "v" * 200)
        client.close()
        benchmark(url, *what, pipeline=pipeline, commands=commands // 4)
        for turn in range(ROUNDS):
            rates = {}
            ways = list({"control": control, **modes}.items())
            for label, way in ways if turn % 2 else reversed(ways):  # who goes first has an advantage
                with tempfile.TemporaryDirectory() as folder, way(url, Path(folder)):  # type: ignore[attr-defined]
                    rates[label] = benchmark(url, *what, pipeline=pipeline, commands=commands)
            for mode in modes:
                ratios[mode].append(rates[mode] / rates["control"])
            print("  " + ", ".join(f"{label} {rates[label]:,.0f}/s" for label, _ in ways), flush=True)
    for mode, found in ratios.items():
        middle, span = statistics.median(found), f"{min(found):.2f} to {max(found):.2f}"
        print(f"{name}, pipeline {pipeline}, {mode}: median ratio {middle:.2f} ({span})")


def cost() -> None:
    """Measure what each mode costs."""
    which = sys.argv[2:] or ["monitor", "events"]
    for pipeline, times in ((1, 1), (16, 4)):
        if "monitor" in which:
            modes = {"monitor": recorder("monitor"), "exact": recorder("exact")}
            paired("against redis-cli monitor > file", redis_cli, MIXED, pipeline, times, **modes)
    for pipeline, times in ((1, 1), (16, 12)):
        if "events" in which:
            paired("90 % hits, against no recorder", nothing, HITS_90, pipeline, times, events=recorder("events"))


def lossless(out: Path | None = None) -> None:
    """Record redis-benchmark at full speed; compare what was recorded with commandstats."""
    with lab_server() as url, tempfile.TemporaryDirectory() as scratch:
        folder = out or Path(scratch)
        with recorder("exact")(url, folder):
            client = redis.Redis.from_url(url, protocol=2)
            began, commands = time.monotonic(), 0
            while time.monotonic() - began < LOSSLESS_S:
                benchmark(url, *MIXED, pipeline=16, commands=200_000)
                commands += 400_000
            took = time.monotonic() - began
            stats = client.info("commandstats")
            client.close()
            print(f"{commands:,} commands in {took:.1f} s, {commands / took:,.0f}/s; making tables", flush=True)
            built = time.monotonic()
        case = open_case(folder / "case")
        recorded = case.table("accesses", ["command"])["command"].value_counts()
        lines = case.meta["stream"]["lines"]
        print(f"tables in {time.monotonic() - built:.0f} s, {lines / (time.monotonic() - built):,.0f} lines/s")
        for name in ("get", "set"):
            calls, held = stats[f"cmdstat_{name}"]["calls"], recorded[name.upper()]
            print(f"{name}: commandstats {calls:,}, recorded {held:,}, difference {calls - held}")
        print(f"gaps: {case.gaps}; damaged {case.meta['stream']['damaged']}")


if __name__ == "__main__":
    if shutil.which("redis-benchmark") is None:
        raise SystemExit("redis-benchmark is missing. Install it: apt install redis-tools")
    {"cost": cost, "lossless": lossless}[sys.argv[1] if len(sys.argv) > 1 else "cost"]()
