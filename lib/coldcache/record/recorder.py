"""Recording a case: every server of it, the process beside it, and a good end whatever happens.

Raw bytes and a journal go to disk first (``raw/``); tables are made from them when the recording
is over, by :mod:`coldcache.record.finish`, or by whoever opens a case whose recorder was killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coldcache import __version__
from coldcache.case import Case, iso, new_case_folder, utc_now, write_meta
from coldcache.errors import ColdcacheError, RecordingFailedError, UsageError
from coldcache.process.program import Program, attach, detach
from coldcache.process.sampler import ProcessSampler
from coldcache.record.build import keep_heap_files
from coldcache.record.finish import KEPT, RECORDING, finish_case, locked, open_case, read_meta
from coldcache.record.guardian import Guardian
from coldcache.record.journal import AppendedLines, Journal
from coldcache.record.live import LiveMisses
from coldcache.record.node import NodeOptions, NodeRecorder
from coldcache.record.server import node_name, url_of_node
from coldcache.record.topology import primaries

# Most informative first: of those that are possible and harmless, the first is the best.
MODES = ("exact", "burst", "events", "monitor")
_TICK_S = 0.25
_TELL_EVERY_S = 1.0
# Room that is left on the disk: tables take about a tenth of the stream, measured. The least of it
# is held by a file, for a fast stream fills a small disk between two looks.
_LEAST_FREE_BYTES = 4 << 20
_FREE_SHARE_OF_DISK = 0.02
_MOST_RESERVE_BYTES = 256 << 20
_FREE_SHARE_OF_STREAM = 0.3


@dataclass(frozen=True, slots=True)
class Progress:
    """What a progress display shows while recording.

    elapsed_s, seconds : how long it has run, how long it is to run (None: until it is ended)
    commands, reads : counted by INFO since the start, over all nodes
    hit_rate : 0 to 1; None before the first read
    ops_per_s : commands per second just now
    stream_bytes : recorded so far; `stream_bytes_per_s` just now
    buffer_bytes : what waits for us in the server: our cost on its memory
    misses_by_state : keymiss events so far by what had become of the key; a sample on busy servers
    nodes, gaps : how many
    state : ``exact``, ``events`` …, or what is being waited for
    """

    elapsed_s: float
    seconds: float | None
    commands: int
    reads: int
    hit_rate: float | None
    ops_per_s: float
    stream_bytes: int
    stream_bytes_per_s: float
    buffer_bytes: int
    misses_by_state: dict[str, int]
    nodes: int
    gaps: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOptions:
    """How to record.

    url : where the server is; may hold a password and is written nowhere
    out : the case folder to create, or with `resume` the one to go on with
    seconds : how long; None records until Ctrl-C or the end of the process
    mode, duty : one of `MODES`; the share of the time that ``burst`` records exactly
    pid : process whose memory is sampled too; with `attach_memray` its heap is profiled as well
    run : command line of a Python program to start under memray; recording ends with it
    app_log : file that the application writes with :mod:`coldcache.instrument`
    heap_files : memray captures of that process, taken into the case at the end
    keep_raw : keep the captured stream, **with all values**, in ``raw/``
    keys : ``plain``, or ``hashed`` to hide their variable parts
    watched : step down or stop when the server suffers
    ops_before : commands per second before the recording, where known
    ended : asked four times a second; a true answer ends the recording (the program has ended)
    before_build : called as soon as the servers are recorded, and before the tables are made
    stop : set it to end the recording from another thread
    """

    url: str = field(repr=False)
    out: Path
    seconds: float | None = None
    mode: str = "exact"
    duty: float = 0.05
    pid: int | None = None
    attach_memray: bool = False
    run: str | None = None
    app_log: Path | None = None
    heap_files: Callable[[], list[Path]] = list
    keep_raw: bool = False
    keys: str = "plain"
    resume: bool = False
    watched: bool = True
    ops_before: float | None = None
    ended: Callable[[], bool] = lambda: False
    before_build: Callable[[], None] = lambda: None
    notes: dict[str, Any] | None = None
    stop: threading.Event = field(default_factory=threading.Event)


def record(options: RecordOptions, on_progress: Callable[[Progress], None] = lambda _: None) -> Case:
    """Record a case and return it.

    Raises
    ------
    ServerUnreachableError, ServerRefusedError
        The server is down, or refuses what the mode needs.
    CaseExistsError
        The folder to write exists.
    ProcessNotFoundError, UsageError
        There is no such process, or the command to run is wrong.
    RecordingFailedError
        The disk is full before anything was recorded, or the tables could not be made: what was
        recorded stays.
    """
    if options.keep_raw and options.keys != "plain":
        raise UsageError("--keep-raw keeps every key and value in clear, which --keys hashed is to hide. Choose one.")
    folder, meta = _resumed(options) if options.resume else _created(options)
    try:
        with locked(folder, RECORDING):
            _Session(folder, meta, options, on_progress).run()
            finish_case(folder, already_locked=True)
    except ColdcacheError:
        if not _sampled(folder):
            # Nothing was recorded: leave no empty folder in the way of the next attempt.
            if options.resume:
                write_meta(folder, meta)
                if meta["policy"]["raw"] != KEPT:
                    shutil.rmtree(folder / "raw", ignore_errors=True)
            else:
                shutil.rmtree(folder, ignore_errors=True)
        raise
    except OSError as error:
        raise RecordingFailedError(
            f"{options.out} cannot be written ({error.strerror or type(error).__name__}). "
            f"What was recorded until then stays in it. Free some room, then: coldcache diagnose {options.out}"
        ) from None
    return open_case(options.out)


def _sampled(folder: Path) -> bool:
    """Whether a session has seen its server at least once."""
    samples = folder / "raw" / "info.jsonl"
    return samples.exists() and samples.stat().st_size > 0


def _created(options: RecordOptions) -> tuple[Path, dict[str, Any]]:
    """Create the case with its ``case.json`` in one step, so that whoever sees it can open it."""
    folder = new_case_folder(options.out)
    now = iso(utc_now())
    meta: dict[str, Any] = {
        "made_by": f"coldcache {__version__}",
        "created": now,
        "span": {"start": now, "end": now},
        "ended": None,
        "epochs": [],
        "gaps": [],
        "servers": [],
        "rows": {},
        "problems": [],
        "recorder_notes": [],
        "process": None,
        "clock_offsets": {"server_minus_recorder_us": 0},
        "policy": {
            "keys": options.keys,
            "values": "size, keyed digest and format only",
            "raw": KEPT if options.keep_raw else "removed after the tables were made",
        },
        "notes": options.notes or {},
    }
    scratch = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    write_meta(scratch, meta)
    scratch.replace(folder)  # over the empty folder that new_case_folder made
    return folder, meta


def _resumed(options: RecordOptions) -> tuple[Path, dict[str, Any]]:
    """Open a case to go on with; finish it first where it was cut off."""
    case = open_case(options.out)
    meta = read_meta(case.folder)
    if meta["policy"]["keys"] != "plain" or options.keys != "plain":
        raise UsageError(
            f"{options.out} hides its keys, under a secret that is gone: a key recorded now could not be told to be one of "
            "them. Record a new case instead."
        )
    return case.folder, meta


@contextlib.contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Make Ctrl-C, SIGTERM and a closed terminal end the recording in good order instead of tearing it down."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, lambda *_: stop.set())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Session:
    """One run of the recorder on one case."""

    def __init__(self, folder: Path, meta: dict[str, Any], options: RecordOptions, tell: Callable[[Progress], None]) -> None:
        self.folder, self.raw = folder, folder / "raw"
        self.meta = meta
        self.options = options
        self.tell = tell
        self.stop = options.stop
        self.live = LiveMisses()
        self.nodes: dict[str, NodeRecorder] = {}
        self.left: list[NodeRecorder] = []  # nodes of a cluster that are no primaries any more
        self.node_options = NodeOptions(
            mode=options.mode, duty=options.duty, ops_before=options.ops_before, watched=options.watched
        )
        self.program: Program | None = None
        self.process: ProcessSampler | None = None
        self.attached: Path | None = None
        self._topology: str | None = None
        self._app_log_from = 0
        self._captures: list[Path] = []
        self._stream_seen: tuple[float, int] = (time.monotonic(), 0)

    def run(self) -> None:
        """Record until something ends it; everything changed on the server is put back on every way out."""
        options = self.options
        first_epoch = max((epoch["epoch"] for epoch in self.meta["epochs"]), default=-1) + 1
        with contextlib.ExitStack() as undo, _stop_on_signals(self.stop):
            guardian = Guardian(self.folder)
            undo.callback(guardian.close)
            if options.pid is not None:
                self.process = ProcessSampler(options.pid, self.raw)
                undo.callback(self.process.close)
            if options.run is not None:
                self.program = Program(options.run, self.folder / "heap", self.raw / "gc.jsonl", self.raw / "app.jsonl")
                undo.callback(self.program.stop)
            _drop_stale(self.raw, first_epoch)
            self.journal = Journal(self.raw)
            undo.callback(self.journal.close)
            self.info_lines = AppendedLines(self.raw / "info.jsonl")
            undo.callback(self.info_lines.close)
            self._write_ballast()
            self.guardian = guardian
            self.journal.session(
                first_epoch=first_epoch,
                number=self.meta.get("sessions", 0),
                first_seq=self.meta.get("next_seq", 0),
                mode=options.mode,
                seconds=options.seconds,
                keys=options.keys,
            )
            undo.callback(self._end_nodes)
            self._start_nodes()
            self._mark_unfinished()
            self._start_process(undo)
            began = time.monotonic()
            how = self._watch(began)
            self._end_process()
            self._end_nodes()
            options.before_build()
            keep_heap_files(self.folder, [*self._captures, *options.heap_files()])
            self.tell(self._progress(time.monotonic() - began))
            failed = [node.failed for node in self.nodes.values() if node.failed]
            self.journal.end(failed[0] if failed and len(failed) == len(self.nodes) else how)

    def _mark_unfinished(self) -> None:
        """Say in ``case.json`` that tables are to be made: whoever opens it after our death makes them."""
        pid = self.process.pid if self.process else None
        write_meta(
            self.folder,
            {
                **self.meta,
                "ended_before": self.meta["ended"],
                "ended": None,
                "process": {"pid": pid} if pid is not None else self.meta["process"],
                "sessions": self.meta.get("sessions", 0) + 1,
            },
        )

    def _start_nodes(self) -> None:
        seed = NodeRecorder(
            self.options.url, self.node_options, self.journal, self.info_lines, self.guardian, self._hear_topology
        )
        seed.start()
        self.nodes[seed.node] = seed
        if seed.topology:
            self._follow_topology(seed.topology, first=True)

    def _hear_topology(self, text: str) -> None:
        self._topology = text

    def _follow_topology(self, text: str, *, first: bool = False) -> None:
        """Record every primary that there is; let go of those that are none any more."""
        found = primaries(text, node_name(self.options.url).rpartition(":")[0])
        if not found:
            return
        wanted = {}
        for primary in found:
            url = url_of_node(self.options.url, primary.host, primary.port)
            wanted[node_name(url)] = url
        myself = next((line.split()[1].partition("@")[0] for line in text.splitlines() if "myself" in line.split()[2]), "")
        for name, node in list(self.nodes.items()):
            same = name in wanted or (name == node_name(self.options.url) and myself in wanted)
            if same and name not in wanted:
                wanted.pop(myself, None)  # the seed under another name
            elif not same and node.running and node.answers:
                node.stop("failover: it is no primary of the cluster any more")
                self.left.append(self.nodes.pop(name))
        for name, url in wanted.items():
            if name in self.nodes and self.nodes[name].running:
                continue
            node = NodeRecorder(url, self.node_options, self.journal, self.info_lines, self.guardian, self._hear_topology)
            try:
                node.start()
            except ColdcacheError as error:
                if first:
                    raise
                self.journal.note(f"{name}: {error}")
                continue
            if name in self.nodes:
                self.left.append(self.nodes[name])
            self.nodes[name] = node
            if not first:
                self.journal.note(f"the cluster has a new primary, recorded from now on: {name}")

    def _start_process(self, undo: contextlib.ExitStack) -> None:
        if self.program:
            self.process = ProcessSampler(self.program.start(), self.raw)
            undo.callback(self.process.close)
            self._mark_unfinished()
            if self.program.note:
                self.journal.note(self.program.note)
        elif self.options.attach_memray and self.options.pid is not None:
            attached = attach(self.options.pid, self.folder / "heap")
            self.attached = attached.path
            if attached.why_not:
                self.journal.note(f"no heap profile: {attached.why_not}")
        if self.process:
            self.process.start()
        if self.options.app_log is not None:
            with contextlib.suppress(OSError):
                self._app_log_from = self.options.app_log.stat().st_size

    def _end_process(self) -> None:
        """Stop what we started in the process, and take its captures."""
        if self.program:
            self.program.stop()
            self._captures += self.program.heap_files()
        if self.attached is not None and self.options.pid is not None:
            if why := detach(self.options.pid):
                self.journal.note(f"memray could not be detached from process {self.options.pid}: {why}")
            self._captures.append(self.attached)
        if self.options.app_log is not None:
            self._take_app_log(self.options.app_log)

    def _take_app_log(self, path: Path) -> None:
        """Copy what the application logged during the recording."""
        try:
            with path.open("rb") as source:
                source.seek(self._app_log_from)
                text = source.read()
        except OSError as error:
            self.journal.note(f"the application's log {path.name} cannot be read: {error.strerror}")
            return
        file = os.open(self.raw / "app.jsonl", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        with os.fdopen(file, "wb") as target:
            target.write(text)

    def _end_nodes(self) -> None:
        for node in self.nodes.values():
            node.stop()
        for node in [*self.nodes.values(), *self.left]:
            if node.running:
                node.join()

    def _watch(self, begin: float) -> str:
        """Tell the progress until something ends the recording; return what."""
        told = 0.0
        while True:
            elapsed = time.monotonic() - begin
            if elapsed - told >= _TELL_EVERY_S or not told:
                told = elapsed or 1e-9
                self.tell(self._progress(elapsed))
                self.journal.sync()
            if self.options.seconds is not None and elapsed >= self.options.seconds:
                return "completed"
            if self.stop.is_set():
                return "interrupted"
            if (self.program and self.program.ended()) or self.options.ended():
                return "the program ended"
            if not any(node.running for node in self.nodes.values()):
                if any(node.disk_full for node in self.nodes.values()):
                    self._drop_ballast()
                return next((node.failed for node in self.nodes.values() if node.failed), "no server is left to record")
            if not self.guardian.alive:
                return "the guardian process died, and without it nobody would put the server's setting back after us"
            if full := self._disk_nearly_full():
                self._drop_ballast()
                return full
            if self._topology is not None:
                topology, self._topology = self._topology, None
                self._follow_topology(topology)
            remaining = _TICK_S
            if self.options.seconds is not None:
                remaining = min(remaining, max(0.0, self.options.seconds - elapsed))
            self.stop.wait(remaining)

    def _progress(self, elapsed_s: float) -> Progress:
        nodes = [node.progress for node in [*self.nodes.values(), *self.left]]
        for node in self.nodes.values():
            if stream := node.current_stream:
                self.live.look(stream.path)
        hits, misses = sum(node.hits for node in nodes), sum(node.misses for node in nodes)
        stream_bytes = sum(node.stream_bytes for node in nodes)
        (then, bytes_then), now = self._stream_seen, time.monotonic()
        self._stream_seen = (now, stream_bytes)
        states = dict.fromkeys(node.progress.state for node in self.nodes.values())
        return Progress(
            elapsed_s=elapsed_s,
            seconds=self.options.seconds,
            commands=sum(node.commands for node in nodes),
            reads=hits + misses,
            hit_rate=hits / (hits + misses) if hits + misses else None,
            ops_per_s=sum(node.ops_per_s for node in nodes),
            stream_bytes=stream_bytes,
            stream_bytes_per_s=(stream_bytes - bytes_then) / max(1e-3, now - then),
            buffer_bytes=max((node.buffer_bytes for node in nodes), default=0),
            misses_by_state=dict(self.live.by_state.most_common()),
            nodes=len(self.nodes),
            gaps=sum(node.gaps for node in nodes),
            state=", ".join(states),
        )

    def _write_ballast(self) -> None:
        """Hold room for the tables, so that a recording ends well on a disk that is suddenly full."""
        with contextlib.suppress(OSError):
            file = os.open(self.raw / ".ballast", os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                os.write(file, b"\0" * _LEAST_FREE_BYTES)
            finally:
                os.close(file)

    def _drop_ballast(self) -> None:
        (self.raw / ".ballast").unlink(missing_ok=True)

    def _disk_nearly_full(self) -> str | None:
        usage = shutil.disk_usage(self.raw)
        recorded = sum(node.progress.stream_bytes for node in [*self.nodes.values(), *self.left])
        reserve = min(_MOST_RESERVE_BYTES, max(_LEAST_FREE_BYTES, usage.total * _FREE_SHARE_OF_DISK))
        if usage.free + _LEAST_FREE_BYTES >= reserve + recorded * _FREE_SHARE_OF_STREAM:
            return None
        return f"the disk is nearly full ({usage.free >> 20:,} MB left, needed to make the tables)"


def _drop_stale(raw: Path, first_epoch: int) -> None:
    """Remove streams of a session that was killed before it had begun."""
    for path in raw.glob("stream-*"):
        if int(path.name[7:11]) >= first_epoch:
            path.unlink()
