"""A real incident, start to end: server, analyzer with a fault, recording."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coldcache.case import Case
from coldcache.errors import RecordingFailedError, UsageError
from coldcache.lab.actors import acting
from coldcache.lab.faults import fault
from coldcache.lab.faults.fault import Fault
from coldcache.lab.monitor_log import monitor_log
from coldcache.lab.server import lab_server, replica_of
from coldcache.record.recorder import Progress, RecordOptions, record

DEFAULT_RATE = 120.0
_URL_VARIABLE, _WRITE_URL_VARIABLE = "COLDCACHE_LAB_URL", "COLDCACHE_LAB_WRITE_URL"


@dataclass(frozen=True, slots=True)
class Incident:
    """A recorded incident.

    analyzer_counts : what the analyzer counted itself (requests, hits, misses, unreadable …), all its processes together
    """

    case: Case
    analyzer_counts: dict[str, int]


class RunningAnalyzer:
    """dragon3 as its own process."""

    def __init__(
        self,
        url: str,
        fault_id: str,
        *,
        rate: float,
        seed: int,
        heap: Path | None,
        repaired: bool = False,
        fleet: str = "0/1",
        write_url: str | None = None,
    ) -> None:
        command = [sys.executable, "-m", "coldcache.lab.dragon3", "--url-env", _URL_VARIABLE, "--fault", fault_id]
        command += ["--rate", str(rate), "--seed", str(seed), "--fleet", fleet]
        command += ["--repaired"] if repaired else []
        command += ["--heap", str(heap)] if heap else []
        command += ["--write-url-env", _WRITE_URL_VARIABLE] if write_url else []
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, _URL_VARIABLE: url, _WRITE_URL_VARIABLE: write_url or url},
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
    with_heap: bool = True,
    log: Path | None = None,
    stopped: Callable[[], bool] = lambda: False,
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
    with_heap : bool
        Whether the analyzer runs under memray.
    log : Path, optional
        Folder to create for what somebody without coldcache would save: a MONITOR log, INFO before and after.
    stopped : callable
        Asked a few times a second; a true answer ends the recording.
    before_build : callable
        Called when the analyzer has ended, before the tables are made.

    Raises
    ------
    UsageError
        The fault needs a server of its own, and `url` names another.
    """
    chosen = fault(fault_id)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coldcache-lab-")))
        heap = scratch / "memray.bin" if with_heap else None
        with _deaf_to_interrupts():
            url, write_url = _servers(stack, chosen, url, repaired=repaired)
            fleets = [
                stack.enter_context(
                    analyzer(
                        url,
                        fault_id,
                        rate=rate,
                        seed=seed,
                        heap=heap if number == 0 else None,
                        repaired=repaired,
                        fleet=f"{number}/{chosen.fleets}",
                        write_url=write_url,
                    )
                )
                for number in range(chosen.fleets)
            ]
        saved = stack.enter_context(monitor_log(url, log)) if log else None
        end_actors: Callable[[], None] = lambda: None  # noqa: E731 (there are none yet)
        started = False

        def start_with_the_recording(progress: Progress) -> None:
            nonlocal started, end_actors
            if not started:
                started = True
                end_actors = stack.enter_context(acting(url, () if repaired else chosen.actors))
                for running in fleets:
                    running.go()
            on_progress(progress)

        def finish() -> None:
            for running in fleets:
                running.finish()
            end_actors()
            if saved:
                saved.finish()
            before_build()

        options = RecordOptions(
            url=url,
            out=out,
            seconds=seconds,
            mode=mode,
            pid=fleets[0].pid,
            heap_files=lambda: [heap] if heap else [],
            ended=lambda: stopped() or any(running.ended() for running in fleets),
            before_build=finish,
            notes={"lab": {"analyzer": "dragon3", "fault": fault_id, "seed": seed, "rate": rate, "seconds": seconds}},
        )
        case = record(options, start_with_the_recording)
        counts = sum((Counter(running.counts) for running in fleets), Counter())
        return Incident(case, {name: counts[name] for name in fleets[0].counts})


def _servers(stack: contextlib.ExitStack, chosen: Fault, url: str | None, *, repaired: bool) -> tuple[str, str | None]:
    """Start what a fault needs; return the server to read from and record, and that to write to where it is another."""
    if url is not None:
        if chosen.server or chosen.replica:
            raise UsageError(f"The fault {chosen.id} sets up a server of its own: leave out --url-env.")
        return url, None
    primary = stack.enter_context(lab_server(None, *(() if repaired else chosen.server)))
    return (stack.enter_context(replica_of(primary)), primary) if chosen.replica else (primary, None)
