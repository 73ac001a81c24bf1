"""What importing a MONITOR log costs: ratios to grep and to a regex loop, side by side in one run on one warm file.

    python benchmarks/import_log.py                    # 5 million lines, ~750 MB
    LINES=50000000 python benchmarks/import_log.py     # once, for the peak of memory

The log is made by a fixed seed: traffic over two times 400,000 keys by Zipf's law, GET, SET with JSON values, MGET and DEL.
Absolute figures are this machine's; only ratios of one run are claimed.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

LINES = int(os.environ.get("LINES", "5000000"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
KEYS = 400_000
# What a quick script does: one compiled regex a line, nothing stored.
LINE = re.compile(r'^\+?(\d+)\.(\d{6}) \[(\d+) (.*?)\] "((?:[^"\\]|\\.)*)"(?: "((?:[^"\\]|\\.)*)")?')


def make_log(path: Path, lines: int) -> None:
    """Write a log of so many lines, always the same."""
    chance = random.Random(7)
    clients = [f"10.0.3.{host}:{40000 + port}" for host in range(1, 9) for port in range(6)]
    notes = ["x" * length for length in range(20, 150)]
    stamp_us = 1_763_800_000_000_000
    with path.open("w", encoding="ascii") as file:
        block: list[str] = []
        for number in range(lines):
            stamp_us += chance.randrange(20, 400)
            key = f"img:thumb:{int(KEYS ** chance.random()):07x}"
            draw = chance.random()
            if draw < 0.45:
                call = f'"GET" "{key}"'
            elif draw < 0.77:
                labels = {"cat": round(chance.random(), 6), "dog": round(chance.random(), 6)}
                note = notes[number % len(notes)]
                value = json.dumps({"id": number, "url": f"https://cdn.example.org/{key}.jpg", "labels": labels, "note": note})
                escaped = value.replace('"', '\\"')
                call = f'"SET" "{key}" "{escaped}" "EX" "300"'
            elif draw < 0.94:
                metas = (f"img:meta:{int(KEYS ** chance.random())}" for _ in range(3))
                call = '"MGET" "' + '" "'.join(metas) + '"'
            else:
                call = f'"DEL" "{key}"'
            block.append(f"{stamp_us // 1_000_000}.{stamp_us % 1_000_000:06d} [0 {chance.choice(clients)}] {call}\n")
            if len(block) == 20_000:
                file.writelines(block)
                block.clear()
        file.writelines(block)


def regex_loop(path: str) -> int:
    """Match every line, store nothing."""
    found = 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if LINE.match(line):
                found += 1
    return found


def timed(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds and the peak of its memory in GiB."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out:  # into /dev/null grep would stop at the first match
        process = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status) not in (0, 2):
        raise SystemExit(f"{command[0]} failed")
    return took, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("FOLDER")) as scratch:
        log, case = Path(scratch) / "monitor.log", Path(scratch) / "case"
        if "LOG" in os.environ:
            log = Path(os.environ["LOG"])
        if not log.exists():
            make_log(log, LINES)
        print(f"{LINES:,} lines, {log.stat().st_size / 1e6:,.0f} MB", flush=True)
        coldcache = [sys.executable, "-m", "coldcache"]
        ways: dict[str, Callable[[], list[str]]] = {
            "grep": lambda: ["grep", "-c", '"SET"', str(log)],
            "import": lambda: [*coldcache, "import", "-q", str(log), "--out", str(case)],
            "diagnose": lambda: [*coldcache, "diagnose", str(case), "--json"],
            "regex": lambda: [sys.executable, __file__, "regex", str(log)],
        }
        only = sys.argv[1:] or list(ways)
        timed(ways["grep"]())  # the file is warm from here on
        first = Path(scratch) / "first.log"
        make_log(first, 100)
        timed([*coldcache, "import", "-q", str(first), "--out", str(Path(scratch) / "first")])  # and the kernels are compiled
        seconds: dict[str, list[float]] = {name: [] for name in only}
        peaks = dict.fromkeys(only, 0.0)
        for _ in range(ROUNDS):
            if "import" in only:
                shutil.rmtree(case, ignore_errors=True)
            for name in only:
                took, peak = timed(ways[name]())
                seconds[name].append(took)
                peaks[name] = max(peaks[name], peak)
        for name in only:
            middle = statistics.median(seconds[name])
            spread = f"{min(seconds[name]):.2f} to {max(seconds[name]):.2f}"
            print(f"{name}: median {middle:.2f} s ({spread}), {LINES / middle:,.0f} lines/s, peak {peaks[name]:.2f} GiB")
        for name, control in (("import", "grep"), ("regex", "import"), ("diagnose", "import")):
            if name in only and control in only:
                ratios = [a / b for a, b in zip(seconds[name], seconds[control], strict=True)]
                middle, spread = statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"
                print(f"{name} / {control}: median ratio {middle:.2f} ({spread})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["regex"]:
        print(regex_loop(sys.argv[2]))
    elif sys.argv[1:2] == ["make"]:
        make_log(Path(sys.argv[2]), LINES)
    else:
        main()
