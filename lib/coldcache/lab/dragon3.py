"""dragon3, the sample image analyzer: a process of its own with a cache-aside cache.

    python -m coldcache.lab.dragon3 --fault key_prefix --rate 120 --seed 1 --url-env LAB_URL

Worker threads take image requests, look the result up in Redis, and on a miss decode the image,
shrink it, find edges, compute a histogram and labels, and store the result. It starts when a
line arrives on standard input and stops when standard input closes; then it prints what it
counted itself, one JSON object, as ground truth.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import itertools
import json
import os
import queue
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import redis
from PIL import Image, ImageFilter

from coldcache.lab.caching import Behaviour, Connections, Request
from coldcache.lab.faults import fault

PHOTO_SIZE = (320, 240)
THUMBNAIL_SIZE = (64, 48)
_PHOTOS = 24


@dataclass
class Counts:
    """What the analyzer itself saw: the ground truth of a recording."""

    requests: int = 0
    hits: int = 0
    misses: int = 0
    unreadable: int = 0  # hits whose value could not be read, so the work was done again
    errors: int = 0  # requests that Redis did not answer
    kept: int = 0  # objects that faulty or bounded steps keep in the process at the end


def _photo(number: int) -> bytes:
    """Return a photograph-like JPEG: smooth shapes with some grain, the same for the same number."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize(PHOTO_SIZE, Image.Resampling.BICUBIC), dtype=np.int16)
    grainy = np.clip(picture + rng.integers(-12, 12, picture.shape), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(grainy).save(out, "JPEG", quality=80)
    return out.getvalue()


class Analyzer:
    """The analyzer with its cache; `behaviour` says which steps of its caching code are faulty."""

    def __init__(self, cache: Connections, behaviour: Behaviour) -> None:
        self.counts = Counts()
        self._cache = cache
        self._behaviour = behaviour
        self._lock = threading.Lock()
        self._photos = [_photo(number) for number in range(_PHOTOS)]
        self._kept_thumbnails: list[np.ndarray] = []

    def handle(self, request: Request) -> None:
        """Answer one request from the cache, or do the work and store its result."""
        steps, cache = self._behaviour, self._cache
        steps.before(cache, request)
        key = steps.read_key(request)
        cached = steps.look_up(cache, request, key)
        answer = None if cached is None else steps.decode(request, cached)
        if cached is not None and answer is not None and steps.use(request, answer):
            self._count(hit=True)
            steps.after_hit(cache, request, key, cached)
            return
        self._count(hit=cached is not None, unreadable=cached is not None)
        if steps.backend_s:
            time.sleep(steps.backend_s)
        photo = self._photos[request.image % _PHOTOS]
        result = self.make_thumbnail(photo) if request.kind == "thumb" else self.analyse(request.image, photo)
        self._store(request, result)

    def _store(self, request: Request, result: Any) -> None:
        steps, key = self._behaviour, self._behaviour.write_key(request)
        try:
            value = steps.encode(request, result)
            if value is not None:
                steps.store(self._cache, request, key, value)
                steps.after_store(self._cache, request, key, value)
        except redis.RedisError:
            raise
        except Exception as error:
            steps.after_error(error)

    def _count(self, *, hit: bool, unreadable: bool = False) -> None:
        with self._lock:
            self.counts.requests += 1
            self.counts.hits += hit
            self.counts.misses += not hit
            self.counts.unreadable += unreadable

    def count_error(self) -> None:
        """Count a request that failed because Redis did not answer."""
        with self._lock:
            self.counts.errors += 1

    def count_kept(self) -> None:
        """Count what is kept in this process."""
        collections = [kept for kept in self._cache.kept.values() if isinstance(kept, list | dict)]
        self.counts.kept = len(self._kept_thumbnails) + sum(map(len, collections))

    def analyse(self, image: int, photo: bytes) -> dict[str, Any]:
        """Decode, shrink, find edges, compute histogram and labels."""
        with Image.open(io.BytesIO(photo)) as source:
            small = source.convert("RGB").resize((160, 120), Image.Resampling.BILINEAR)
        edges = np.asarray(small.convert("L").filter(ImageFilter.FIND_EDGES))
        pixels = np.asarray(small)
        histogram, _ = np.histogram(pixels, bins=16, range=(0, 256))
        if self._behaviour.keep_thumbnails:
            self._keep_thumbnail(small)
        return {
            "image": image,
            "labels": self._labels(pixels, edges),
            "edge_density": round(float((edges > 40).mean()), 4),
            "histogram": histogram.tolist(),
        }

    def make_thumbnail(self, photo: bytes) -> bytes:
        """Return a small JPEG of the photo."""
        with Image.open(io.BytesIO(photo)) as source:
            thumbnail = source.convert("RGB").resize(THUMBNAIL_SIZE, Image.Resampling.BILINEAR)
        if self._behaviour.keep_thumbnails:
            self._keep_thumbnail(thumbnail)
        out = io.BytesIO()
        thumbnail.save(out, "JPEG", quality=75)
        return out.getvalue()

    def _keep_thumbnail(self, picture: Image.Image) -> None:
        thumbnail = picture.resize(THUMBNAIL_SIZE, Image.Resampling.BILINEAR)
        self._kept_thumbnails.append(np.array(thumbnail))

    @staticmethod
    def _labels(pixels: np.ndarray, edges: np.ndarray) -> list[str]:
        red, green, blue = pixels.reshape(-1, 3).mean(axis=0)
        warm = "warm" if red > blue else "cold"
        light = "bright" if (red + green + blue) / 3 > 127 else "dark"
        return [warm, light, "detailed" if edges.mean() > 20 else "smooth"]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Which of `size` processes this is, from 0: of all requests each takes every `size`-th."""

    number: int = 0
    size: int = 1


def serve(
    analyzer: Analyzer, behaviour: Behaviour, *, rate: float, seed: int, stop: threading.Event, fleet: Fleet = Fleet()
) -> None:
    """Take this process's share of `rate` requests per second until `stop` is set, on a few worker threads."""
    waiting: queue.Queue[Request | None] = queue.Queue(maxsize=64)

    failures: list[BaseException] = []

    def work() -> None:
        while (request := waiting.get()) is not None:
            try:
                analyzer.handle(request)
            except redis.RedisError:
                analyzer.count_error()
            except Exception as error:
                # A bug of the sample: go on taking requests, so that nobody waits, and say so at the end.
                failures.append(error)
                stop.set()

    workers = [threading.Thread(target=work, name=f"worker-{number}") for number in range(behaviour.workers)]
    for worker in workers:
        worker.start()
    begin = time.monotonic()
    for number, image in enumerate(itertools.islice(behaviour.requests(seed), fleet.number, None, fleet.size)):
        at_s = (number * fleet.size + fleet.number) / rate
        if stop.wait(max(0.0, begin + at_s - time.monotonic())):
            break
        waiting.put(Request.of(image, number=number, at_s=at_s, fleet=fleet.number))
    for _ in workers:
        waiting.put(None)
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dragon3", description="Sample image analyzer with a Redis cache.")
    parser.add_argument("--url-env", default="REDIS_URL", help="environment variable that holds the server's URL")
    parser.add_argument("--write-url-env", help="the same for writes, where reads go to a replica")
    parser.add_argument("--fault", default="healthy", help="fault to switch on")
    parser.add_argument("--repaired", action="store_true", help="switch the fault on, then apply its repair")
    parser.add_argument("--rate", type=float, default=120.0, help="requests per second")
    parser.add_argument("--seed", type=int, default=1, help="where in the access trace to begin")
    parser.add_argument("--fleet", default="0/1", metavar="K/N", help="this is process K, from 0, of N that share the requests")
    parser.add_argument("--heap", type=Path, help="write a memray capture of this process here")
    return parser.parse_args()


def _tracked(heap: Path | None) -> contextlib.AbstractContextManager[Any]:
    if heap is None:
        return contextlib.nullcontext()
    import memray

    destination = memray.FileDestination(heap, overwrite=True, compress_on_exit=True)
    return memray.Tracker(
        destination=destination,
        trace_python_allocators=True,
        memory_interval_ms=10,
        file_format=memray.FileFormat.ALL_ALLOCATIONS,
    )


def _stop_when_input_closes(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def main() -> None:
    """Run until standard input closes."""
    options = _arguments()
    chosen = fault(options.fault)
    behaviour = chosen.inject(chosen.setting_of(Behaviour()))
    if options.repaired:
        behaviour = chosen.repair(behaviour)
    number, size = map(int, options.fleet.split("/"))
    urls = [os.environ[name] for name in (options.url_env, options.write_url_env) if name]
    clients = [redis.Redis.from_url(url, protocol=2, client_name="dragon3") for url in urls]
    cache = Connections(clients[0], clients[-1])
    analyzer = Analyzer(cache, behaviour)
    for client in clients:
        client.ping()
    stop = threading.Event()
    with _tracked(options.heap):
        print("ready", flush=True)
        if sys.stdin.readline():
            threading.Thread(target=_stop_when_input_closes, args=(stop,), daemon=True).start()
            serve(analyzer, behaviour, rate=options.rate, seed=options.seed, stop=stop, fleet=Fleet(number, size))
        analyzer.count_kept()
        gc.collect()  # garbage in cycles must not look like survivors
    print(json.dumps(asdict(analyzer.counts)), flush=True)


if __name__ == "__main__":
    main()
