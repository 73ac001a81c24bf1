"""From the raw files of a recording to the tables of the case."""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from coldcache.case import write_table
from coldcache.sources.accesses import AccessBuilder, iterate_parts
from coldcache.sources.heap import read_heap
from coldcache.sources.info import InfoSample, commandstats_table, errorstats_table, info_table
from coldcache.sources.monitor import read_stream


@dataclass(frozen=True, slots=True, kw_only=True)
class RawEvidence:
    """What a recording left: ``raw/stream.resp``, ``raw/info.jsonl``, ``raw/process.jsonl`` and captures."""

    folder: Path
    node: str
    own_clients: list[str]
    config: dict[str, str]
    heap_files: list[Path]


@dataclass(frozen=True, slots=True)
class Built:
    """What was built: rows by table, the stream's counts, the span, the INFO samples, and what could not be read."""

    rows: dict[str, int]
    stream: dict[str, int]
    start: pd.Timestamp
    end: pd.Timestamp
    info_samples: int
    problems: list[str]


def build_tables(evidence: RawEvidence) -> Built:
    """Write every table of the case from its raw files."""
    folder = evidence.folder
    rows: dict[str, int] = {}
    builder = AccessBuilder(evidence.node, evidence.own_clients, secrets.token_bytes(16))
    rows["accesses"] = 0
    with (folder / "raw" / "stream.resp").open("rb") as stream:
        for number, part in enumerate(iterate_parts(read_stream(stream), builder)):
            rows["accesses"] += write_table(folder, "accesses", part, part=number)
    rows["key_events"] = write_table(folder, "key_events", builder.take_key_events())

    # The k-th INFO line of our control connection in the stream is the k-th sample.
    texts = [entry["text"] for entry in _json_lines(folder / "raw" / "info.jsonl")]
    samples = [InfoSample(stamp, seq, text) for (seq, stamp), text in zip(builder.info_marks, texts, strict=False)]
    counts = builder.counts
    stream_counts = {
        "lines": counts.lines,
        "own_lines": counts.own_lines,
        "events": counts.events,
        "damaged": counts.damaged,
        "orphan_keymisses": counts.orphan_keymisses,
    }
    if not samples:
        now = pd.Timestamp.now("UTC")
        return Built(rows, stream_counts, now, now, 0, [])
    rows["info"] = write_table(folder, "info", info_table(samples))
    rows["commandstats"] = write_table(folder, "commandstats", commandstats_table(samples))
    rows["errorstats"] = write_table(folder, "errorstats", errorstats_table(samples))
    config = pd.DataFrame(sorted(evidence.config.items()), columns=["parameter", "value"])
    rows["config"] = write_table(folder, "config", config)
    process_rows, problems = _process_tables(evidence)
    rows |= process_rows
    start, end = (pd.Timestamp(samples[at].stamp_us, unit="us", tz="UTC") for at in (0, -1))
    return Built(rows, stream_counts, start, end, len(samples), problems)


def _process_tables(evidence: RawEvidence) -> tuple[dict[str, int], list[str]]:
    """Write what is known of the process; return rows by table, and what could not be read."""
    folder, rows = evidence.folder, {}
    sampled = _json_lines(folder / "raw" / "process.jsonl")
    if sampled:
        process = pd.DataFrame(sampled).rename(columns={"stamp_us": "t"})
        process["t"] = pd.to_datetime(process["t"], unit="us", utc=True).dt.as_unit("us")
        rows["process"] = write_table(folder, "process", process)
    capture = next((path for path in evidence.heap_files if path.exists() and path.stat().st_size), None)
    if capture is None:
        return rows, []
    kept = folder / "heap" / "memray.bin"
    kept.parent.mkdir(mode=0o700, exist_ok=True)
    shutil.move(capture, kept)
    kept.chmod(0o600)
    try:
        heap = read_heap(kept)
    except OSError as error:
        return rows, [f"heap/memray.bin cannot be read: {error}"]
    rows["heap_snapshots"] = write_table(folder, "heap_snapshots", heap.snapshots)
    rows["heap_intervals"] = write_table(folder, "heap_intervals", heap.intervals)
    rows["heap_stacks"] = write_table(folder, "heap_stacks", heap.stacks)
    return rows, []


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file; a last line that was cut off is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text("utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
