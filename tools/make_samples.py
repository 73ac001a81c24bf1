"""Record the shipped sample cases anew: one per fault of the lab.

    make samples

Each is a real recording of the sample analyzer. The memray capture itself is left out (several
MB, and memray reads only files of its own version); its interval tables stay. Checksums go to
``data/samples/SHA256SUMS``. Afterwards run ``make refresh``: the notebooks show these cases.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from coldcache.case import checksums
from coldcache.lab.faults import SAMPLED
from coldcache.lab.incident import record_incident

SAMPLES = Path(__file__).parents[1] / "data" / "samples"
SECONDS, SEED, RATE = 20.0, 1, 120.0
_LARGEST_BYTES = 2_000_000


def make_sample(fault: str) -> int:
    """Record one sample and return its size in bytes."""
    folder = SAMPLES / fault
    shutil.rmtree(folder, ignore_errors=True)
    record_incident(fault, folder, seconds=SECONDS, seed=SEED, rate=RATE)
    (folder / "heap" / "memray.bin").unlink()
    meta = json.loads((folder / "case.json").read_text("utf-8"))
    meta["policy"]["heap"] = "interval tables only; the memray capture was left out"
    meta["notes"]["lab"]["command"] = f"coldcache demo --fault {fault} --seconds {SECONDS:g} --seed {SEED} --rate {RATE:g}"
    (folder / "case.json").write_text(json.dumps(meta, indent=2) + "\n", "utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > _LARGEST_BYTES:
        raise SystemExit(f"{fault}: {size:,} bytes, more than {_LARGEST_BYTES:,}")
    return size


def main() -> None:
    """Record every sample and write the checksums."""
    for fault in SAMPLED:
        print(f"{fault}: {make_sample(fault) / 1024:.0f} KB")
    sums = [f"{digest}  {path}" for path, digest in checksums(SAMPLES).items() if path.count("/")]
    (SAMPLES / "SHA256SUMS").write_text("\n".join(sums) + "\n", "utf-8")


if __name__ == "__main__":
    main()
