"""Building a case from MONITOR logs that others made.

One thread cuts the log into blocks of whole lines; reading, parsing and writing them are the others': all three leave Python
alone. What depends on the lines before is done between parsing and writing, in order.
"""

from __future__ import annotations

import os
import queue
import re
import secrets
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from coldcache import __version__, schema
from coldcache.case import Case, count_rows, iso_us, new_case_folder, open_case, private_file, utc_now, write_meta
from coldcache.errors import ImportFailedError, NotALogError
from coldcache.importing.blocks import Block, LogFile
from coldcache.importing.options import ImportOptions
from coldcache.importing.order import MOST_CLOCK_STEPS, Epoch, LineOrder, Placed
from coldcache.importing.parquet import PartWriter
from coldcache.sources.arrays import column, labels, numbers, texts
from coldcache.sources.dialects import Dialect, named
from coldcache.sources.log import Batch, Columns, LogParser
from coldcache.sources.sniffing import SAMPLE_BYTES, sniff

TOO_LONG = "longer than 256 MB"
_SHAPE_BYTES = 80
# Letters and digits lose their identity, what is not printable its value.
_SHAPE = bytes(
    ord("?") if not 32 <= byte < 127 else ord("0") if chr(byte).isdigit() else ord("a") if chr(byte).isalpha() else byte
    for byte in range(256)
)
# What logrotate and its like put behind a name: the files are one log's.
_ROTATED = re.compile(r"(?:[.-]\d+)?(?:\.(?:gz|zst|bz2))?\Z")
_STAMP = re.compile(rb"^\+?(\d{1,12})\.(\d{6})", re.MULTILINE)
_Ints = npt.NDArray[np.int64]
_NEW_LINE = 10
_MOST_THREADS = 8
# Keys repeat, and digests do not.
_COMPRESSED = frozenset({"key"})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import has come: bytes of the files read, of all where that is known, and lines so far."""

    read_bytes: int
    size_bytes: int | None
    lines: int


def import_logs(options: ImportOptions, on_progress: Callable[[Progress], None] = lambda _: None) -> Case:
    """Make a case of MONITOR logs.

    Raises
    ------
    NotALogError
        A file cannot be read, is no MONITOR log, or holds no command.
    CaseExistsError
        The folder to write exists.
    UnknownNameError
        There is no such dialect.
    UsageError
        A file beside the logs cannot be read, or is none of its kind.
    ImportFailedError
        The case cannot be written. Like after every other error, no folder is left behind.
    """
    if options.dialect is not None:
        named(options.dialect)
    options.beside.check_readable()
    logs = sorted((_Log(path, options.dialect) for path in options.logs), key=lambda log: log.first_us)
    folder = new_case_folder(options.out)
    try:
        if options.beside.paths():
            from coldcache.importing import evidence  # with pandas, which takes its time to start

            info = evidence.read_info(options.beside)
            meta = _Importer(folder, logs, evidence.is_before_7(info), on_progress).run()
            evidence.add_evidence(folder, meta, options.beside, info)
        else:
            meta = _Importer(folder, logs, before_7=False, on_progress=on_progress).run()
        write_meta(folder, {**meta, "rows": count_rows(folder)})
    except OSError as error:
        raise ImportFailedError(
            f"{options.out} cannot be written ({error.strerror or type(error).__name__}). "
            "Free some room, or choose another --out."
        ) from None
    finally:
        if not (folder / "case.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
    return open_case(options.out)


class _Log:
    """One log: its file, its dialect, which node it is of, and when it begins."""

    def __init__(self, path: str, dialect: str | None) -> None:
        self.file = LogFile(path)
        sample = self.file.sample(SAMPLE_BYTES)
        try:
            self.dialect: Dialect = named(dialect) if dialect else sniff(sample)
        except NotALogError as error:
            raise NotALogError(f"{path}: {error}") from None
        found = _STAMP.search(named(self.dialect.name).rewrite(sample))
        self.first_us = int(found[1]) * 1_000_000 + int(found[2]) if found else 0
        self.problem = ""
        self.node = _ROTATED.sub("", self.file.name) or self.file.name


@dataclass(slots=True)
class _Parsed:
    """A block that was parsed: its rows, the lines that were not understood, and how many lines it has."""

    batches: list[Batch]
    rejected: pa.Table
    commands: int
    lines: int


@dataclass(slots=True)
class _Importer:
    folder: Path
    logs: list[_Log]
    before_7: bool
    on_progress: Callable[[Progress], None]
    _epochs: list[Epoch] = field(default_factory=list)
    _rejected: list[pa.Table] = field(default_factory=list)
    _commands: int = 0
    _lines: int = 0
    _parts: int = 0
    _writers: queue.SimpleQueue[PartWriter] = field(default_factory=queue.SimpleQueue)

    def run(self) -> dict[str, Any]:
        """Write the tables; return ``case.json`` but for the number of their rows."""
        digest_key = secrets.token_bytes(16)  # one for all logs, thrown away with this call
        threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        parsers: queue.SimpleQueue[LogParser] = queue.SimpleQueue()
        spare: list[Columns] = []
        for _ in range(threads):
            parsers.put(LogParser(digest_key, before_7=self.before_7, spare=spare))
            self._writers.put(PartWriter(_COMPRESSED))
        with ThreadPoolExecutor(threads) as pool:
            try:
                for log in self.logs:
                    self._import(log, pool, parsers, threads)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if not self._commands:
            raise NotALogError(self._nothing_found())
        return self._meta()

    def _import(self, log: _Log, pool: ThreadPoolExecutor, parsers: queue.SimpleQueue[LogParser], threads: int) -> None:
        order = LineOrder(log.node, len(self._epochs), self._lines)
        begins_at = self._lines
        parsing: deque[Future[_Parsed]] = deque()
        writing: deque[Future[None]] = deque()

        def take() -> None:
            parsed = parsing.popleft().result()
            for batch in parsed.batches:
                if len(writing) > threads:
                    writing.popleft().result()
                writing.append(pool.submit(self._write, batch, order.place(batch), self._parts))
                self._parts += 1
            self._keep_rejected(parsed.rejected, log, order.next_seq - begins_at)
            order.advance(parsed.lines)
            self._commands += parsed.commands
            self._lines += parsed.lines
            self.on_progress(self._progress())

        for block in log.file.blocks():
            # A dialect may remember lines: it sees them in order.
            data = None if type(log.dialect) is Dialect else _rewritten(block.data(), log.dialect)
            parsing.append(pool.submit(_parse, block, data, parsers))
            if len(parsing) > threads:
                take()
        while parsing:
            take()
        for written in writing:
            written.result()
        self._epochs += order.epochs
        if order.steps >= MOST_CLOCK_STEPS:
            log.problem = (
                f"{log.file.name}: its times go back by more than a second again and again, so its lines are out of order, "
                f"or several logs in one; from the {MOST_CLOCK_STEPS}th time on this was not followed"
            )

    def _keep_rejected(self, rejected: pa.Table, log: _Log, first_line: int) -> None:
        if not len(rejected):
            return
        name = labels(np.zeros(len(rejected), np.int32), texts([log.file.name]))
        line = column(numbers(rejected.column("line").chunk(0)) + first_line + 1)
        self._rejected.append(rejected.set_column(0, "line", line).add_column(0, "log", name))

    def _write(self, batch: Batch, placed: Placed, part: int) -> None:
        path = self.folder / schema.ACCESSES.path / f"part-{part:06d}.parquet"
        writer = self._writers.get()
        try:
            with os.fdopen(private_file(path), "wb") as file:
                writer.write(placed.complete(), file)
        finally:
            self._writers.put(writer)
        batch.release()

    def _progress(self) -> Progress:
        sizes = [log.file.size for log in self.logs]
        whole = None if None in sizes else sum(size or 0 for size in sizes)
        return Progress(sum(log.file.position for log in self.logs), whole, self._lines)

    def _nothing_found(self) -> str:
        reasons = Counter(reason for table in self._rejected for reason in table.column("reason").to_pylist())
        told = "; ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(3))
        names = ", ".join(log.file.name for log in self.logs)
        return (
            f"{names}: no line of {self._lines:,} is a command ({told}). "
            "A MONITOR log is made with: redis-cli MONITOR > monitor.log"
        )

    def _meta(self) -> dict[str, Any]:
        rejected = sum(len(table) for table in self._rejected)
        if self._rejected:
            whole = pa.concat_tables(self._rejected).combine_chunks()
            with os.fdopen(private_file(self.folder / schema.REJECTED.path), "wb") as file:
                pq.write_table(whole.cast(schema.REJECTED.arrow()), file, compression="zstd")
        nodes = list(dict.fromkeys(epoch.node for epoch in self._epochs))
        start = min(epoch.start_us for epoch in self._epochs)
        end = max(epoch.end_us for epoch in self._epochs)
        return {
            "made_by": f"coldcache {__version__}",
            "created": iso_us(int(utc_now().timestamp() * 1e6)),
            "span": {"start": iso_us(start), "end": iso_us(end)},
            "ended": "imported",
            "epochs": [
                {
                    "epoch": epoch.number,
                    "node": epoch.node,
                    "mode": "monitor",
                    "start": iso_us(epoch.start_us),
                    "end": iso_us(epoch.end_us),
                    "ended": "imported",
                }
                for epoch in self._epochs
            ],
            "gaps": list(_gaps(self._epochs)),
            "servers": [{"node": node, "software": "unknown", "version": ""} for node in nodes],
            "problems": [problem for log in self.logs for problem in (log.file.problem, log.problem) if problem],
            "recorder_notes": list(self._notes(rejected)),
            "process": None,
            "clock_offsets": {"server_minus_recorder_us": 0},
            "policy": {"keys": "plain", "values": "size, keyed digest and format only", "raw": "the log was read where it is"},
            "stream": {"lines": self._commands, "rejected": rejected},
            "imported": [{"log": log.file.name, "node": log.node, "dialect": log.dialect.name} for log in self.logs],
        }

    def _notes(self, rejected: int) -> Iterator[str]:
        if rejected:
            yield f"{rejected:,} of {self._lines:,} lines were not understood: see the table rejected"
        for log in self.logs:
            if log.dialect.name != Dialect.name:
                yield f"{log.file.name} was read as {log.dialect.name}: {log.dialect.about}"
            yield from log.dialect.notes()


def _rewritten(data: npt.NDArray[np.uint8], dialect: Dialect) -> npt.NDArray[np.uint8]:
    return np.frombuffer(dialect.rewrite(data.tobytes()), np.uint8)


def _parse(block: Block, data: npt.NDArray[np.uint8] | None, parsers: queue.SimpleQueue[LogParser]) -> _Parsed:
    """Parse a block; `data` are its lines in the form of ``redis-cli``, None where they have it already."""
    if block.too_long:
        line, offset, size = (np.array([value]) for value in (0, block.offset, block.too_long))
        return _Parsed([], _rejected_lines(line, offset, size, labels(np.zeros(1), texts([TOO_LONG])), [""]), 0, 1)
    parser = parsers.get()
    try:
        batches = list(parser.batches(block.lines() if data is None else data))
    except OSError as error:
        raise NotALogError(f"The log cannot be read ({error.strerror}).") from None
    finally:
        parsers.put(parser)
    rejected = pa.concat_tables([batch.rejected for batch in batches]).combine_chunks()
    lines = batches[-1].next_line
    if len(rejected):
        rejected = _located(rejected, block, rewritten=data is not None)
    return _Parsed([batch for batch in batches if len(batch.accesses)], rejected, sum(b.lines for b in batches), lines)


def _located(rejected: pa.Table, block: Block, *, rewritten: bool) -> pa.Table:
    """Return rejected lines with their places and shapes in the log itself, whatever its dialect."""
    lines, begins, sizes = (numbers(rejected.column(name).chunk(0)) for name in ("line", "offset", "size_bytes"))
    if rewritten:
        ends = np.flatnonzero(block.data() == _NEW_LINE)
        begins = np.concatenate(([0], ends + 1))[lines]
        sizes = np.append(ends, len(block.data()))[lines] - begins
    shapes = [
        block.part(begin, min(size, _SHAPE_BYTES)).translate(_SHAPE).decode()
        for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True)
    ]
    return _rejected_lines(lines, begins + block.offset, sizes, rejected.column("reason").chunk(0), shapes)


def _rejected_lines(lines: _Ints, offsets: _Ints, sizes: _Ints, reasons: pa.Array, shapes: list[str]) -> pa.Table:
    return pa.table(
        {
            "line": column(lines),
            "offset": column(offsets),
            "size_bytes": column(sizes),
            "reason": reasons,
            "shape": texts(shapes),
        }
    )


def _gaps(epochs: list[Epoch]) -> Iterator[dict[str, str]]:
    """Yield what lies between the epochs of a node."""
    last: dict[str, Epoch] = {}
    for epoch in epochs:
        if before := last.get(epoch.node):
            reason = f"the log's clock goes back by {-epoch.stepped_us / 1e6:.1f} s" if epoch.stepped_us else "between two logs"
            ends = sorted((before.end_us, epoch.start_us))
            yield {"start": iso_us(ends[0]), "end": iso_us(ends[-1]), "reason": reason, "node": epoch.node}
        last[epoch.node] = epoch
