"""What recording costs the server, and what tables cost to build: ratios, side by side in one run.

    make bench

A client reads and writes as fast as one connection goes, in turn without and with a recording
(A B A B …), on the embedded server. Prints the median ratio; absolute figures are this machine's.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from pathlib import Path

import redis
from coldcache.lab.server import lab_server
from coldcache.record.recorder import RecordOptions, record

ROUNDS = 5
SECONDS = 4.0


def commands_per_second(url: str, seconds: float, *, pipeline: int) -> float:
    """Alternate SET and GET of 200-byte values for some seconds; return commands per second."""
    client = redis.Redis.from_url(url, protocol=2)
    value, done, begin = "v" * 200, 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        with client.pipeline(transaction=False) as pipe:
            for number in range(pipeline // 2):
                pipe.set(f"bench:{(done + number) % 5000}", value)
                pipe.get(f"bench:{(done + number) % 5000}")
            pipe.execute()
        done += pipeline
    client.close()
    return done / (time.perf_counter() - begin)


def recorded(url: str, folder: Path, *, pipeline: int) -> tuple[float, float, int]:
    """Return commands per second while recording, the seconds from its end to the tables, and stream lines."""
    speed: list[float] = []
    started = threading.Event()

    def load() -> None:
        started.wait()
        speed.append(commands_per_second(url, SECONDS, pipeline=pipeline))

    worker = threading.Thread(target=load)
    worker.start()
    over: list[float] = []
    options = RecordOptions(
        url=url, out=folder, seconds=SECONDS + 0.5, before_build=lambda: (worker.join(), over.append(time.perf_counter()))[0]
    )
    case = record(options, lambda _: started.set())
    return speed[0], time.perf_counter() - over[0], case.meta["stream"]["lines"]


def main() -> None:
    """Measure and print."""
    for pipeline in (2, 100):
        ratios, builds = [], []
        with lab_server() as url, tempfile.TemporaryDirectory() as folder:
            commands_per_second(url, 1.0, pipeline=pipeline)  # warm-up
            for number in range(ROUNDS):
                plain = commands_per_second(url, SECONDS, pipeline=pipeline)
                watched, build_s, lines = recorded(url, Path(folder) / f"case-{pipeline}-{number}", pipeline=pipeline)
                ratios.append(watched / plain)
                builds.append(lines / build_s)
                print(f"  pipeline {pipeline:>3}: {plain:>9,.0f}/s alone, {watched:>9,.0f}/s recorded, ratio {ratios[-1]:.2f}")
        print(
            f"pipeline {pipeline}: median ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}); tables built at {statistics.median(builds):,.0f} lines/s"
        )


if __name__ == "__main__":
    main()
