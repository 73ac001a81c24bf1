"""The request stream: a real access trace, cut at a place that the seed chooses."""

from __future__ import annotations

import lzma
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from coldcache.errors import ColdcacheError


def trace_file() -> Path:
    """Return the shipped trace: ``data/traces`` of the checkout, or $COLDCACHE_TRACES."""
    folder = Path(os.environ.get("COLDCACHE_TRACES") or Path(__file__).parents[3] / "data" / "traces")
    return folder / "web12.trace.xz"


def image_requests(seed: int) -> Iterator[int]:
    """Yield image numbers for ever, in the trace's order, from a place that `seed` chooses.

    Source of the trace: cache2k benchmarks, web12, CC BY 4.0, see ``data/traces/README.md``.

    Raises
    ------
    ColdcacheError
        The trace is missing: the lab needs a checkout of the project.
    """
    path = trace_file()
    try:
        data = lzma.decompress(path.read_bytes())
    except OSError:
        raise ColdcacheError(
            f"The access trace {path.name} is missing. The lab runs from a checkout of coldcache; "
            "elsewhere, point COLDCACHE_TRACES at its data/traces folder."
        ) from None
    images = np.frombuffer(data, dtype=">u4").astype(np.int64) & ((1 << 27) - 1)
    at = random.Random(seed).randrange(len(images))
    while True:
        yield int(images[at])
        at = (at + 1) % len(images)


def popular_images(seed: int) -> Iterator[int]:
    """Yield image numbers of which few are asked for again and again, so that a cache hits well."""
    rng = random.Random(seed)
    while True:
        yield int(rng.paretovariate(1.0)) % 80
