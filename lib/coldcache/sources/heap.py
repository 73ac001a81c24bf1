"""memray captures to tables, at full time resolution.

An allocation has no time stamp; time exists as memray's periodic memory records, so the
bucket between two of them is the best resolution there is. The temporal records are the only
call of memray used for that, and this is the only module that makes it: it is undocumented
upstream.
"""

from __future__ import annotations

import shutil
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

# memray's default of 10,000 silently decimates: an hour at 10 ms becomes buckets of 360 ms.
_ALL_MEMORY_RECORDS = 10**7
_LZ4_MAGIC = b"\x04\x22\x4d\x18"  # a cleanly closed, compressed capture


@dataclass(frozen=True, slots=True, eq=False)
class HeapTables:
    """The three heap tables of one capture, see ``schema``; `pid` and memray's `total_allocations`."""

    snapshots: pd.DataFrame
    intervals: pd.DataFrame
    stacks: pd.DataFrame
    pid: int


def _frame_names() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(sorted({paths["purelib"], paths["platlib"], paths["stdlib"]}, key=len, reverse=True))


def _is_application(file: str, roots: tuple[str, ...]) -> bool:
    """Whether a source file is the application's own: neither an installed package nor Python itself."""
    if file.startswith("<") or any(file.startswith(root + "/") for root in roots):
        return False
    return not any(marker in file for marker in ("/site-packages/", "/dist-packages/", "/lib/python3"))


def _short(file: str, roots: tuple[str, ...]) -> str:
    """Return a source path without what differs between machines: the part below the library folder."""
    for root in roots:
        if file.startswith(root + "/"):
            return file[len(root) + 1 :]
    for marker in ("/site-packages/", "/dist-packages/", "/lib/"):
        if marker in file:
            tail = file.rsplit(marker, 1)[1]
            # …/lib/python3.11/json/decoder.py: the standard library of another interpreter
            return tail.split("/", 1)[1] if tail.startswith("python3") and "/" in tail else tail
    return file if file.startswith("<") else "/".join(file.split("/")[-2:])


def _readable_copy(capture: Path, folder: str) -> Path:
    """Copy the capture, without the zero bytes an unclean end leaves: memray walks them one by one."""
    copy = Path(folder) / "capture.bin"
    shutil.copyfile(capture, copy)
    with copy.open("rb+") as file:
        if file.read(4) == _LZ4_MAGIC:
            return copy
        size = end = file.seek(0, 2)
        while end > 0:
            start = max(0, end - (1 << 20))
            file.seek(start)
            kept = len(file.read(end - start).rstrip(b"\0"))
            end = start + kept
            if kept:
                break
        if end < size:
            file.truncate(end)
    return copy


def read_heap(capture: Path) -> HeapTables:
    """Read a memray capture (ALL_ALLOCATIONS) into tables.

    Raises
    ------
    OSError
        memray cannot read the file: not a capture, or written by another version of memray.
    """
    from memray import FileReader

    roots = _frame_names()
    with (
        tempfile.TemporaryDirectory() as folder,
        FileReader(_readable_copy(capture, folder), max_memory_records=_ALL_MEMORY_RECORDS) as reader,
    ):
        snapshots = [(point.time * 1000, point.rss, point.heap) for point in reader.get_memory_snapshots()]
        ids: dict[int, int] = {}
        stacks: list[tuple[str, str | None]] = []
        rows: list[tuple[int, int, int | None, int, int]] = []
        for record in reader.get_temporal_allocation_records(merge_threads=True):
            stack = ids.setdefault(record.stack_id, len(ids))
            if stack == len(stacks):
                stacks.append(_described(record.stack_trace(), roots))
            rows += [
                (stack, i.allocated_before_snapshot, i.deallocated_before_snapshot, i.n_allocations, i.n_bytes)
                for i in record.intervals
            ]
        pid = reader.metadata.pid
    points = pd.DataFrame(snapshots, columns=["t", "rss_bytes", "heap_bytes"])
    points["t"] = pd.to_datetime(points["t"].astype("int64"), unit="us", utc=True).dt.as_unit("us")
    intervals = pd.DataFrame(rows, columns=["stack_id", "born", "died", "allocations", "size_bytes"])
    intervals["died"] = intervals["died"].astype("Int32")
    merged, renumbered = _merge_equal_stacks(stacks)
    intervals["stack_id"] = intervals["stack_id"].map(renumbered)
    intervals = (
        intervals.groupby(["stack_id", "born", "died"], dropna=False, as_index=False)[["allocations", "size_bytes"]]
        .sum()
        .sort_values(["born", "stack_id"], ignore_index=True)
    )
    return HeapTables(points, intervals, merged, pid)


def _described(trace: list[tuple[str, str, int]], roots: tuple[str, ...]) -> tuple[str, str | None]:
    """Return a stack's frames as text, and its innermost frame of the application's own code."""
    frames = [f"{_short(file, roots)}:{function}:{line}" for function, file, line in trace]
    own = (frame for frame, (_, file, _) in zip(frames, trace, strict=True) if _is_application(file, roots))
    return "\n".join(frames), next(own, None)


def _merge_equal_stacks(stacks: list[tuple[str, str | None]]) -> tuple[pd.DataFrame, dict[int, int]]:
    """Give stacks of equal text one id: memray numbers them anew per thread."""
    ids: dict[tuple[str, str | None], int] = {}
    renumbered = {old: ids.setdefault(stack, len(ids)) for old, stack in enumerate(stacks)}
    frames = pd.Series([frames for frames, _ in ids], dtype="str")
    application = pd.Series([own for _, own in ids], dtype="str")
    return pd.DataFrame({"stack_id": range(len(ids)), "frames": frames, "application": application}), renumbered
