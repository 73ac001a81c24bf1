"""What is sampled beside the stream: the process's memory, its descendants', and its cgroup's."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from coldcache.case import private_file
from coldcache.errors import ProcessNotFoundError

# memory_info costs 12 µs at any size, the list of all processes some milliseconds; measured.
_RSS_INTERVAL_S = 0.1
_CHILDREN_EVERY = 5  # every 5th sample: twice a second
_SLOW_EVERY = 10  # every 10th sample: once a second, look for children and at the cgroup
# smaps_rollup holds the process's mmap lock, 17 ms at 1 GB of RSS, measured: at most every 10 s,
# and never for more than one part in 200 of the time.
_FULL_INTERVAL_S = 10.0
_FULL_SHARE = 200
_UNLIMITED = 1 << 60  # cgroup v1 prints "no limit" as the largest page-aligned number


class ProcessSampler:
    """Samples a process's memory into JSON lines until it ends.

    ``process.jsonl`` has RSS ten times a second, of descendants twice, and USS and PSS every 10 s
    where the system lets us; ``cgroup.jsonl`` has usage and limit once a second where Linux tells.
    Every line is one write, so a killed recorder loses nothing; files that exist are continued.

    Attributes
    ----------
    pid : int
    ended : bool
        The process is gone, or a zombie.
    lost : str or None
        Why sampling broke off before that: the disk is full.

    Raises
    ------
    ProcessNotFoundError
        No process has that PID, or it belongs to someone else and cannot be seen.
    """

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid = pid
        self.ended = False
        self.lost: str | None = None
        try:
            self._process = psutil.Process(pid)
            self._process.memory_info()
        except (psutil.NoSuchProcess, ValueError, OverflowError):
            raise ProcessNotFoundError(f"There is no process {pid}. List them with: ps -e") from None
        except psutil.AccessDenied:
            raise ProcessNotFoundError(f"Process {pid} belongs to another user. Run coldcache as that user or as root.") from None
        self._full_due: dict[int, float] = {}
        self._cgroup = cgroup_folders(pid)
        self._files = {"process": appending(folder / "process.jsonl")}
        if self._cgroup:
            self._files["cgroup"] = appending(folder / "cgroup.jsonl")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="coldcache-process", daemon=True)

    def start(self) -> None:
        """Sample in the background until stopped or until the process ends."""
        self._thread.start()

    def _sample(self) -> None:
        due, number = time.monotonic(), 0
        children: list[psutil.Process] = []
        try:
            while not self._stop.is_set():
                if number % _SLOW_EVERY == 0:
                    if not self._process.is_running():  # its pid may be another's by now
                        self.ended = True
                        return
                    children = self._children()
                    self._write_cgroup()
                if not self._write_process(self._process):
                    self.ended = True
                    return
                if number % _CHILDREN_EVERY == 0:
                    for child in children:
                        self._write_process(child)
                number += 1
                due = max(due + _RSS_INTERVAL_S, time.monotonic())
                self._stop.wait(due - time.monotonic())
        except OSError as error:
            self.lost = f"the process's memory could not be written: {error.strerror}"

    def _children(self) -> list[psutil.Process]:
        try:
            return self._process.children(recursive=True)
        except psutil.Error:
            return []

    def _write_process(self, process: psutil.Process) -> bool:
        """Write one sample; return whether the process still runs."""
        try:
            with process.oneshot():
                if process.status() == psutil.STATUS_ZOMBIE:
                    return False
                rss = process.memory_info().rss
        except psutil.AccessDenied:
            return True
        except psutil.Error:
            return False
        stamp_us = time.time_ns() // 1000
        own = {"stamp_us": stamp_us, "pid": process.pid, "child": process.pid != self.pid, "rss_bytes": rss}
        self._write("process", {**own, **self._shares(process)})
        return True

    def _shares(self, process: psutil.Process) -> dict[str, int | None]:
        """Return USS and PSS where they are due and the system lets us; nulls otherwise."""
        uss: int | None = None
        pss: int | None = None
        if (began := time.monotonic()) >= self._full_due.get(process.pid, 0.0):
            try:
                full = process.memory_full_info()
                uss, pss = full.uss, getattr(full, "pss", None)
            except (psutil.Error, OSError):
                pass
            now = time.monotonic()
            self._full_due[process.pid] = now + max(_FULL_INTERVAL_S, _FULL_SHARE * (now - began))
        return {"uss_bytes": uss, "pss_bytes": pss}

    def _write_cgroup(self) -> None:
        if "cgroup" in self._files and (record := cgroup_sample(self._cgroup)) is not None:
            self._write("cgroup", {"stamp_us": time.time_ns() // 1000, **record})

    def _write(self, file: str, record: Mapping[str, int | None]) -> None:
        os.write(self._files[file], (json.dumps(record) + "\n").encode())

    def close(self) -> None:
        """Stop and close the files; safe to call twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)
        while self._files:
            os.close(self._files.popitem()[1])


def appending(path: Path) -> int:
    """Open a private file at its end, new or not, and end a line that a kill cut off; return its descriptor."""
    try:
        return private_file(path)
    except FileExistsError:
        file = os.open(path, os.O_RDWR | os.O_APPEND)
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        os.write(file, b"\n")
    return file


def cgroup_folders(pid: int, proc: Path = Path("/proc"), mount: Path = Path("/sys/fs/cgroup")) -> list[Path]:
    """Return the folders of the process's memory cgroup, itself first, then those above it; none where not readable.

    Inside a container the path that /proc names may not be visible; its own cgroup is then the
    mount itself, provided that the process is in the same one as we are.
    """
    try:
        entries = [line.split(":", 2) for line in (proc / str(pid) / "cgroup").read_text().splitlines()]
        own = (proc / "self" / "cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return []
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        if controllers == "" or "memory" in controllers.split(","):
            root = mount / "memory" if controllers else mount
            folder = root / path.strip("/")
            ours = any(line.split(":", 2)[1:] == [controllers, path] for line in own)
            found = next((place for place in (folder, *((root,) if ours else ())) if _usage_of(place) is not None), None)
            if found is not None:
                return [found, *(above for above in found.parents if above.is_relative_to(root))]
    return []


def cgroup_sample(folders: list[Path]) -> dict[str, int | None] | None:
    """Return usage, lowest limit and OOM kills of a cgroup (version 2 or 1); None when it is gone."""
    if not folders or (usage := _usage_of(folders[0])) is None:
        return None
    limits = [_number(folder / name) for folder in folders for name in ("memory.max", "memory.limit_in_bytes")]
    kills = [_oom_kills(folders[0] / name) for name in ("memory.events", "memory.oom_control")]
    return {
        "usage_bytes": usage,
        "limit_bytes": min((limit for limit in limits if limit is not None and limit < _UNLIMITED), default=None),
        "oom_kills": next((count for count in kills if count is not None), None),
    }


def _usage_of(folder: Path) -> int | None:
    current = _number(folder / "memory.current")
    return _number(folder / "memory.usage_in_bytes") if current is None else current


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def _oom_kills(path: Path) -> int | None:
    try:
        fields = dict(line.split(None, 1) for line in path.read_text().splitlines())
        return int(fields["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None
