"""A real incident, start to end: server, analyzer with a fault, recording."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coldcache.case import Case
from coldcache.errors import RecordingFailedError
from coldcache.lab.faults import fault
from coldcache.lab.server import lab_server
from coldcache.record.recorder import Progress, RecordOptions, record

DEFAULT_RATE = 120.0
_URL_VARIABLE = "COLDCACHE_LAB_URL"


@dataclass(frozen=True, slots=True)
class Incident:
    """A recorded incident and what the analyzer counted itself (requests, hits, misses, unreadable)."""

    case: Case
    analyzer_counts: dict[str, int]


class RunningAnalyzer:
    """dragon3 as its own process."""

    def __init__(self, url: str, fault_id: str, *, rate: float, seed: int, heap: Path | None, repaired: bool = False) -> None:
        command = [sys.executable, "-m", "coldcache.lab.dragon3", "--url-env", _URL_VARIABLE, "--fault", fault_id]
        command += ["--rate", str(rate), "--seed", str(seed)]
        command += ["--repaired"] if repaired else []
        command += ["--heap", str(heap)] if heap else []
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, _URL_VARIABLE: url},
        )
        self.counts: dict[str, int] = {}
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise RecordingFailedError(f"The sample analyzer did not start: {self._last_error()}")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ended(self) -> bool:
        """Whether it has ended by itself, which it never should."""
        return self._process.poll() is not None

    def go(self) -> None:
        """Let it take requests."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write("go\n")
            self._process.stdin.flush()

    def finish(self) -> None:
        """Stop it in good order and read what it counted."""
        if self._process.stdout is None or self._process.stdout.closed:
            return
        try:
            output, _ = self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RecordingFailedError("The sample analyzer did not stop within 60 s.") from None
        if self._process.returncode != 0:
            raise RecordingFailedError(f"The sample analyzer failed: {self._last_error()}")
        self.counts = json.loads(output)

    def kill(self) -> None:
        """End it at once; safe to call twice."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream and not stream.closed:
                with contextlib.suppress(OSError):
                    stream.close()
        self._errors.close()

    def _last_error(self) -> str:
        self._process.wait(10)
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else "it printed nothing"


@contextlib.contextmanager
def analyzer(url: str, fault_id: str, **settings: Any) -> Iterator[RunningAnalyzer]:
    """Run dragon3 against a server; it is killed on the way out if it still runs."""
    running = RunningAnalyzer(url, fault_id, **settings)
    try:
        yield running
    finally:
        running.kill()


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let no process that is started meanwhile hear of Ctrl-C.

    A terminal and Jupyter alike send it to the whole group. The recording ends on it, and only
    after that may server and analyzer. They stay in the group, so that its end is theirs, but a
    blocked signal stays blocked in the program that is started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def record_incident(
    fault_id: str,
    out: Path,
    *,
    seconds: float | None,
    mode: str = "exact",
    seed: int = 1,
    rate: float = DEFAULT_RATE,
    url: str | None = None,
    repaired: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    before_build: Callable[[], None] = lambda: None,
) -> Incident:
    """Record dragon3 with a fault and return the case.

    Parameters
    ----------
    fault_id : str
        Id of the registry in :mod:`coldcache.lab.faults`.
    out : Path
        Case folder to create.
    seconds, seed, rate :
        Length of the recording (None: until Ctrl-C), place in the access trace, requests per second.
    mode : str
        How to record, see :class:`coldcache.record.recorder.RecordOptions`.
    url : str, optional
        A running server; by default an embedded one is started.
    repaired : bool
        Run the analyzer after the fault's repair.
    before_build : callable
        Called when the analyzer has ended, before the tables are made.
    """
    fault(fault_id)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coldcache-lab-")))
        heap = scratch / "memray.bin"
        with _deaf_to_interrupts():
            if url is None:
                url = stack.enter_context(lab_server())
            running = stack.enter_context(analyzer(url, fault_id, rate=rate, seed=seed, heap=heap, repaired=repaired))
        started = False

        def start_with_the_recording(progress: Progress) -> None:
            nonlocal started
            if not started:
                started = True
                running.go()
            on_progress(progress)

        def finish() -> None:
            running.finish()
            before_build()

        options = RecordOptions(
            url=url,
            out=out,
            seconds=seconds,
            mode=mode,
            pid=running.pid,
            heap_files=lambda: [heap],
            ended=running.ended,
            before_build=finish,
            notes={"lab": {"analyzer": "dragon3", "seed": seed, "rate": rate, "seconds": seconds}},
        )
        case = record(options, start_with_the_recording)
        return Incident(case, running.counts)
