"""Recording a case on the exact basis.

Raw bytes go to disk first (``raw/``), and become tables when the recording is over. INFO is
sampled on the control connection; as its own line shows in the stream, every sample has an
exact position there: the look-ups between two samples must equal the difference of INFO's
counters, and :mod:`coldcache.replay.ledger` checks it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import redis

from coldcache import __version__
from coldcache.case import Case, iso, new_case_folder, open_case, private_file, utc_now, write_meta
from coldcache.errors import ColdcacheError, RecordingFailedError
from coldcache.record.build import RawEvidence, build_tables
from coldcache.record.capture import StreamCapture
from coldcache.record.samplers import ProcessSampler
from coldcache.record.server import Control, friendly
from coldcache.sources.info import parse_info

_INFO_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What a progress display shows while recording. `hit_rate` is None before the first read."""

    elapsed_s: float
    seconds: float | None
    commands: int
    reads: int
    hit_rate: float | None
    stream_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOptions:
    """How to record.

    url : where the server is; may hold a password and is written nowhere
    out : the case folder to create
    seconds : how long; None records until Ctrl-C or the end of the process
    pid : process whose memory is sampled too
    heap_files : memray captures of that process, taken into the case at the end
    keep_raw : keep the captured stream, **with all values**, in ``raw/``
    ended : asked once a second; a true answer ends the recording (the program has ended)
    before_build : called when recording is over and before the tables are made
    """

    url: str
    out: Path
    seconds: float | None = None
    pid: int | None = None
    heap_files: Callable[[], list[Path]] = list
    keep_raw: bool = False
    ended: Callable[[], bool] = lambda: False
    before_build: Callable[[], None] = lambda: None
    notes: dict[str, Any] | None = None


@contextlib.contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Make Ctrl-C and SIGTERM end the recording in good order instead of tearing it down."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: stop.set())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def record(options: RecordOptions, on_progress: Callable[[Progress], None] = lambda _: None) -> Case:
    """Record a case and return it.

    Raises
    ------
    ServerUnreachableError, ServerRefusedError
        The server is down, or refuses what an exact recording needs.
    CaseExistsError
        The folder to write exists.
    ProcessNotFoundError
        There is no such process.
    """
    control = Control(options.url)
    try:
        with friendly(control.node):
            identity = control.identity()
            folder = new_case_folder(options.out)
            try:
                return _record_into(folder, options, control, identity, on_progress)
            except ColdcacheError:
                # Nothing was recorded: leave no empty folder in the way of the next attempt.
                if not (folder / "case.json").exists():
                    shutil.rmtree(folder, ignore_errors=True)
                raise
    except OSError as error:
        raise RecordingFailedError(
            f"{options.out} cannot be written ({error.strerror or type(error).__name__}). "
            "What was recorded until then stays in its raw/ folder. Free some room, then record again."
        ) from None
    finally:
        control.close()


def _record_into(
    folder: Path, options: RecordOptions, control: Control, identity: Any, on_progress: Callable[[Progress], None]
) -> Case:
    raw = folder / "raw"
    end_mark = f"coldcache-end-{secrets.token_hex(8)}"
    stop = threading.Event()
    process = ProcessSampler(options.pid, raw / "process.jsonl") if options.pid is not None else None
    own_clients = [control.address()]
    config = control.config()
    clock_offset_us = control.clock_offset_us()
    connection, sock, address = control.capture_connection()
    own_clients.append(address)
    capture = StreamCapture(connection, sock, raw / "stream.resp", end_mark)
    started = utc_now()
    with contextlib.ExitStack() as undo, _stop_on_signals(stop):
        undo.callback(capture.close)
        undo.callback(_quietly(control.restore_key_events))
        control.enable_key_events()
        capture.start()
        if process:
            undo.callback(process.close)
            process.start()
        with os.fdopen(private_file(raw / "info.jsonl"), "w", encoding="utf-8") as info_file:
            ended = _sample_until_the_end(options, control, capture, stop, info_file, on_progress)
        _quietly(control.restore_key_events)()
        _quietly(lambda: control.mark(end_mark))()
        capture.finish()
    finished = utc_now()
    options.before_build()
    evidence = RawEvidence(
        folder=folder, node=identity.node, own_clients=own_clients, config=config, heap_files=options.heap_files()
    )
    built = build_tables(evidence)
    if built.info_samples < 2:
        raise RecordingFailedError(
            f"{control.node}: the recording ended before two INFO samples, so nothing can be reconciled. "
            "Record for at least 2 seconds."
        )
    if options.keep_raw:
        _compress(raw / "stream.resp")
    else:
        shutil.rmtree(raw)
    gaps = [{"start": iso(finished), "end": iso(finished), "reason": capture.lost}] if capture.lost else []
    write_meta(
        folder,
        {
            "made_by": f"coldcache {__version__}",
            "created": iso(started),
            "span": {"start": iso(built.start), "end": iso(built.end)},
            "basis": "exact",
            "ended": ended,
            "servers": [
                {
                    "node": identity.node,
                    "software": identity.software,
                    "version": identity.version,
                    "run_id": identity.run_id,
                }
            ],
            "process": {"pid": options.pid} if options.pid is not None else None,
            "rows": built.rows,
            "stream": built.stream,
            "gaps": gaps,
            "problems": built.problems,
            "clock_offsets": {"server_minus_recorder_us": clock_offset_us},
            "policy": {
                "keys": "plain",
                "values": "size, keyed digest and format only",
                "raw": "kept" if options.keep_raw else "removed after the tables were made",
            },
            "notes": options.notes or {},
        },
    )
    return open_case(folder)


def _compress(path: Path) -> None:
    """Replace a file by its zstd form, ``.zst``."""
    with (
        path.open("rb") as plain,
        os.fdopen(private_file(path.with_name(path.name + ".zst")), "wb") as target,
        pa.CompressedOutputStream(target, "zstd") as packed,
    ):
        shutil.copyfileobj(plain, packed)
    path.unlink()


def _quietly(action: Callable[[], None]) -> Callable[[], None]:
    def attempt() -> None:
        with contextlib.suppress(redis.RedisError, OSError):
            action()

    return attempt


def _sample_until_the_end(
    options: RecordOptions,
    control: Control,
    capture: StreamCapture,
    stop: threading.Event,
    info_file: IO[str],
    on_progress: Callable[[Progress], None],
) -> str:
    """Sample INFO every second; return how the recording ended."""
    begin = due = time.monotonic()
    first: dict[str, str] | None = None
    while True:
        try:
            text = control.info()
        except (redis.ConnectionError, redis.TimeoutError):
            # What was recorded until now is kept; the gap says why there is no more.
            capture.lost = capture.lost or "the server stopped answering"
            return capture.lost
        info_file.write(json.dumps({"stamp_us": time.time_ns() // 1000, "text": text}) + "\n")
        flat, _ = parse_info(text)
        first = first or flat
        elapsed = time.monotonic() - begin
        on_progress(_progress(elapsed, options.seconds, first, flat, capture.stream_bytes))
        if options.seconds is not None and elapsed >= options.seconds:
            return "completed"
        if stop.is_set():
            return "interrupted"
        if options.ended():
            return "the program ended"
        if not capture.running:
            return capture.lost or "the stream ended"
        due += _INFO_INTERVAL_S
        remaining = max(0.0, due - time.monotonic())
        if options.seconds is not None:
            remaining = min(remaining, max(0.0, options.seconds - elapsed))
        stop.wait(remaining)


def _progress(elapsed_s: float, seconds: float | None, first: dict[str, str], now: dict[str, str], stream_bytes: int) -> Progress:
    def delta(name: str) -> int:
        return int(now.get(name, 0)) - int(first.get(name, 0))

    hits, misses = delta("keyspace_hits"), delta("keyspace_misses")
    reads = hits + misses
    return Progress(elapsed_s, seconds, delta("total_commands_processed"), reads, hits / reads if reads else None, stream_bytes)
