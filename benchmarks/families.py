"""How fast key families are found, at what memory, and whether they are the true ones: ratios to a loop, in one run.

    python benchmarks/families.py                 # 500,000 keys against the loop, then 5 million keys
    KEYS=10000000 python benchmarks/families.py

The keys are made by a fixed seed, all different, of eleven families in random order. The loop is
what a short script does: Python's ``re`` on every key, a set for every position. Times are
processor time, so that a busy machine counts less; absolute figures are this machine's.
"""

from __future__ import annotations

import base64
import os
import re
import string
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from coldcache.keys.families import families_of, key_families

KEYS = int(os.environ.get("KEYS", "5000000"))
COMPARED = int(os.environ.get("COMPARED", "500000"))
SMALL = 100
TRUE = frozenset(
    {"prod_cache:img:*:v*", "user:*:profile", "page:*:views", "session:*", "token:*", "etag:*", "doc:*:meta", "tag:*:count",
     "{cart:*}:items", "rate/*/*", "app:app:hash:*"}
)  # fmt: skip
SEPARATORS = re.compile(r"([:/_.?&=|\-{} ])")
UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
IDENTIFIER = re.compile(
    r"\d+"
    r"|[0-9a-fA-F]{8}(\0[0-9a-fA-F]{4}){3}\0[0-9a-fA-F]{12}"
    r"|(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{8,}"
    r"|(?=[A-Z0-9]*\d)[0-9A-HJKMNP-TV-Z]{26}"
    r"|(?=[\w+/-]*\d)(?=[\w+/-]*[A-Z])(?=[\w+/-]*[a-z])[\w+/-]{16,}=*"
    r"|.*\\x.*"
)


def made(count: int) -> pd.Series:
    """Return as many different keys, of eleven families, in random order."""
    chance = np.random.default_rng(7)
    share = -(-count // len(TRUE))
    numbers = chance.permutation(20 * share)[:share].tolist()
    digests = [chance.bytes(32) for _ in range(share)]
    hexes = [digest.hex() for digest in digests]
    letters = np.array(list(string.ascii_lowercase))
    words = ["".join(letters[(number // 26 ** np.arange(6)) % 26]) for number in range(26**5, 26**5 + share)]
    by_family = [
        [f"prod_cache:img:{n}:v{n % 50 + 1}" for n in numbers],
        [f"user:{n}:profile" for n in numbers],
        [f"page:{n}:views" for n in numbers],
        [f"session:{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:32]}" for h in hexes],
        [f"token:{base64.urlsafe_b64encode(digest).decode()}" for digest in digests],
        [f"etag:{h}" for h in hexes],
        [f"doc:{h[:24]}:meta" for h in hexes],
        [f"tag:{word}:count" for word in words],
        [f"{{cart:{n}}}:items" for n in numbers],
        [f"rate/{n}/{1_700_000_000 + n}" for n in numbers],
        [f"app:app:hash:{(10**18 + n) * (-1) ** (n % 2)}" for n in numbers],
    ]
    keys = np.array([key for family in by_family for key in family], dtype=object)
    return pd.Series(chance.permutation(keys)[:count], dtype="str")


def loop(keys: pd.Series) -> pd.Series:
    """Find families key by key."""
    templates: dict[str, list[str]] = {}
    groups: dict[tuple[str, ...], list[list[str]]] = defaultdict(list)
    for key in pd.unique(keys):
        parts = SEPARATORS.split(UUID.sub(lambda match: match[0].replace("-", "\0"), key))
        for at in range(0, len(parts), 2):
            if IDENTIFIER.fullmatch(parts[at]):
                parts[at] = "*"
        templates[key] = parts
        groups[parts[0], *parts[1::2]].append(parts)
    for group in groups.values():
        for at in range(0, len(group[0]), 2):
            if len({parts[at] for parts in group}) > 30:
                for parts in group:
                    parts[at] = "*"
    return pd.Series({key: "".join(parts) for key, parts in templates.items()}, dtype="str")


def coded(keys: pd.Series) -> pd.Series:
    """Find families as codes; the names are put in their place after all."""
    codes, templates = families_of(pa.array(keys, type=pa.large_string()))
    return pd.Series(pd.Categorical.from_codes(codes, templates))


def memory(field: str) -> float:
    """Return a field of this process's status, ``VmRSS`` or its peak ``VmHWM``, in MB."""
    return int(re.search(rf"{field}:\s*(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6  # type: ignore[index]


def measured(find: Callable[[pd.Series], pd.Series], keys: pd.Series) -> float:
    """Print how fast families are found, at what memory, and which; return processor seconds."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = memory("VmRSS"), time.process_time()
    families = find(keys)
    took = time.process_time() - began
    grown, size = memory("VmHWM") - before, keys.str.len().sum() / 1e6
    counts = families.value_counts()
    others = counts[~counts.index.isin(TRUE)].sum()
    print(
        f"{find.__name__:<13}{len(keys):>10,} keys, {size:.0f} MB: {took:.2f} s, {len(keys) / took / 1e6:.2f} M keys/s, "
        f"memory +{grown:.0f} MB ({grown / size:.1f} times the keys); {len(counts)} families, "
        f"{len(TRUE & set(counts.index))} of the {len(TRUE)} true ones, {others / len(keys):.2%} of the keys in others",
        flush=True,
    )
    return took


def main() -> None:
    """Compare with the loop, then take all keys, then few."""
    keys = made(KEYS)
    key_families(keys.head(SMALL))  # compiled, or loaded
    some = keys.head(COMPARED)
    print(f"ratio {measured(loop, some) / measured(key_families, some):.0f}")
    measured(key_families, keys)
    measured(coded, keys)
    began = time.process_time()
    for _ in range(20):
        key_families(keys.head(SMALL))
    print(f"{SMALL} keys: {(time.process_time() - began) / 20 * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
