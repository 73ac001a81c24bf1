"""From the raw files of a recording to the tables of the case.

What is built rests on the journal alone, so a recording that was killed is built as well as one
that ended. Building again gives the same result: rows of the session's own epochs are replaced,
rows of earlier sessions kept.
"""

from __future__ import annotations

import secrets
import shutil
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from coldcache import schema
from coldcache.case import iso, read_table, write_table
from coldcache.record.capture import STAMP
from coldcache.record.journal import read_journal, stream_path
from coldcache.sources.accesses import WITHOUT_LINES, AccessBuilder, EpochStart
from coldcache.sources.app_log import app_log_table
from coldcache.sources.clients import client_rows, user_rows
from coldcache.sources.heap import read_heap
from coldcache.sources.info import InfoSample, commandstats_table, errorstats_table, info_table
from coldcache.sources.jsonl import json_lines, stamped_table
from coldcache.sources.monitor import StreamReader
from coldcache.sources.process import cgroup_table, gc_table, process_table

if TYPE_CHECKING:
    from coldcache.keys.hiding import HiddenKeys

_PART_ROWS = 500_000
# A wall clock that moves against the monotonic one by more than that, between two samples, was set.
_CLOCK_STEP_US = 500_000
_PROCESS_TABLES = {
    "process": ("process.jsonl", process_table),
    "cgroup": ("cgroup.jsonl", cgroup_table),
    "gc": ("gc.jsonl", gc_table),
    "app_log": ("app.jsonl", app_log_table),
}


@dataclass
class Built:
    """What was built of one session: what goes into ``case.json``."""

    epochs: list[dict[str, Any]] = field(default_factory=list)
    gaps: list[dict[str, Any]] = field(default_factory=list)
    servers: list[dict[str, Any]] = field(default_factory=list)
    stream: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ended: str = "the recorder was killed"
    clock_offset_us: int = 0
    next_seq: int = 0


@dataclass(frozen=True, slots=True)
class _Stretch:
    """One epoch as built: its first and last moment by the server's clock, in µs."""

    start_us: int
    end_us: int


class _Arrivals:
    """When which byte of a stream had arrived, by the server's clock."""

    def __init__(self, path: Path, offset_us: int, began_us: int) -> None:
        data = path.read_bytes() if path.exists() else b""
        stamps = list(STAMP.iter_unpack(data[: len(data) // STAMP.size * STAMP.size]))
        self._bytes = [count for count, _ in stamps]
        self._times = [at + offset_us for _, at in stamps]
        self._began_us = began_us

    def at(self, offset: int) -> int:
        """Return when the byte before `offset` had arrived at the latest; the epoch's begin where nothing tells."""
        place = bisect_left(self._bytes, offset)
        return self._times[min(place, len(self._times) - 1)] if self._times else self._began_us

    def span(self) -> tuple[int, int]:
        """Return the first and the last moment; zeros without any."""
        return (self._times[0], self._times[-1]) if self._times else (0, 0)


def build_tables(folder: Path, meta: dict[str, Any]) -> Built:
    """Write the tables of the session that ``raw/journal.jsonl`` tells of.

    Parameters
    ----------
    folder : Path
        The case.
    meta : dict
        Its ``case.json`` as it stands: epochs of earlier sessions are kept.
    """
    raw = folder / "raw"
    events = read_journal(raw)
    begins = [at for at, event in enumerate(events) if event["event"] == "session"]
    built = Built(next_seq=int(meta.get("next_seq", 0)))
    if not begins:
        return built  # killed before it had begun: there is nothing to build, and nothing may be dropped
    events = events[begins[-1] :]
    session = events[0]
    _drop_parts(folder, int(session["number"]))
    samples_by_epoch: dict[int, list[dict[str, Any]]] = {}
    for line in json_lines(raw / "info.jsonl"):
        samples_by_epoch.setdefault(int(line["epoch"]), []).append(line)
    for event in events:
        if event["event"] == "distrust":
            del samples_by_epoch.setdefault(int(event["epoch"]), [])[int(event["samples"]) :]
    hides_keys = meta["policy"]["keys"] != "plain"
    streams = _Streams(folder, session, events, samples_by_epoch, hides_keys=hides_keys)
    streams.build(built)
    ends = [event for event in events if event["event"] == "end"]
    if ends:
        built.ended = str(ends[-1]["how"])
    built.notes = [str(event["text"]) for event in events if event["event"] == "note"]
    _gaps(built, events, streams.stretches, complete=bool(ends))
    _server_tables(folder, session, events, streams)
    _process_tables(folder, session, built, streams.hidden)
    return built


class _Streams:
    """Builds accesses and key events, epoch by epoch.

    With `hides_keys`, what is a variable part of a key is known only when all keys are: accesses
    are put aside in ``raw/plain`` until then. `hidden` is set once they are.
    """

    def __init__(
        self,
        folder: Path,
        session: dict[str, Any],
        events: list[dict[str, Any]],
        samples: dict[int, list[dict[str, Any]]],
        *,
        hides_keys: bool,
    ) -> None:
        self.hidden: HiddenKeys | None = None
        self._hides_keys = hides_keys
        self._keys: set[str] = set()
        self.folder, self.raw = folder, folder / "raw"
        self.session = session
        self.epochs = [event for event in events if event["event"] == "epoch"]
        self.ends = {event["epoch"]: event for event in events if event["event"] == "epoch_end"}
        self.lines = samples
        self.samples: list[InfoSample] = []
        self.stretches: dict[int, _Stretch] = {}
        self._next_epoch = max([event["epoch"] for event in self.epochs], default=-1) + 1
        self._part = 0
        self._seq = int(session.get("first_seq", 0))
        self._builders: dict[str, AccessBuilder] = {}
        self._digest_key = secrets.token_bytes(16)

    def build(self, built: Built) -> None:
        """Build every epoch, one node after the other."""
        own = frozenset(address for event in self.epochs for address in event["own"] if not address.startswith("/"))
        events: list[pd.DataFrame] = []
        nodes = list(dict.fromkeys(event["server"]["node"] for event in self.epochs))
        for node in nodes:
            builder = self._builders[node] = AccessBuilder(node, digest_key=self._digest_key)
            for event in (event for event in self.epochs if event["server"]["node"] == node):
                builder.seq = max(builder.seq, self._seq)
                self._epoch(built, builder, event, own)
                self._seq = builder.seq
            events.append(builder.take_key_events())
            for name, count in _counts(builder).items():
                built.stream[name] = built.stream.get(name, 0) + count
        built.next_seq = self._seq
        removals = pd.concat(events) if events else None
        if self._hides_keys:
            self.hidden = self._hide_keys(removals)
        _replace_rows(self.folder, "key_events", removals, self._first())

    def _hide_keys(self, removals: pd.DataFrame | None) -> HiddenKeys:
        """Write the accesses that were put aside, and change `removals`, with the variable parts of keys hidden."""
        self._keys.update(app_log_table(json_lines(self.raw / _PROCESS_TABLES["app_log"][0]))["key"])
        if removals is not None:
            self._keys.update(removals["key"])
        from coldcache.keys.hiding import HiddenKeys  # compiled: no other recording should wait for it

        hidden = HiddenKeys(self._keys)
        for part in sorted((_plain(self.folder) / schema.ACCESSES.path).glob("part-*.parquet")):
            frame = pq.read_table(part).to_pandas()
            frame["key"] = hidden.of(frame["key"])
            write_table(self.folder, "accesses", frame, part=part.stem.removeprefix("part-"))
            part.unlink()
        if removals is not None:
            removals["key"] = hidden.of(removals["key"])
        return hidden

    def _first(self) -> int:
        return int(self.session["first_epoch"])

    def _epoch(self, built: Built, builder: AccessBuilder, event: dict[str, Any], own: frozenset[str]) -> None:
        number, offset_us = int(event["epoch"]), int(event["clock_offset_us"])
        built.clock_offset_us = offset_us
        path = stream_path(self.raw, number)
        began_us = int(event["stamp_us"]) + offset_us
        arrivals = _Arrivals(path.with_suffix(".idx"), offset_us, began_us)
        known = bool(self.session["number"]) or builder.counts.lines + builder.counts.events > 0
        builder.begin(
            EpochStart(
                epoch=number,
                mode=event["mode"],
                after_gap=known and not event["joins"],
                own=own,
                control=event["control"],
                mark=event["mark"],
                before_7=event["server"]["software"] == "Redis" and event["server"]["version"].startswith("6."),
            )
        )
        marks_before = len(builder.info_marks)
        lines = self.lines.get(number, [])
        last_us = first_us = 0
        marked = 1  # a step shows between two marks
        with _opened(path) as stream:
            for stamp_us in _feed(StreamReader(stream), builder, arrivals, event["mode"]):
                first_us, last_us = first_us or stamp_us, stamp_us or last_us
                if (now_marked := len(builder.info_marks) - marks_before) > marked:
                    marked = now_marked
                    self._notice_clock_step(built, builder, event, lines[:marked])
                if builder.rows_waiting() >= _PART_ROWS:
                    self._write_part(builder)
        if builder.rows_waiting():
            self._write_part(builder)
        # The k-th INFO of our control connection in the stream is the k-th sample.
        marks = builder.info_marks[marks_before:]
        for (seq, stamp_us, epoch), line in zip(marks, lines, strict=False):
            self.samples.append(InfoSample(stamp_us, seq, line["text"], epoch, event["server"]["node"]))
        first, last = arrivals.span()
        self._add_epochs(built, event, marks, (first_us or first or began_us, last_us or last or began_us))

    def _notice_clock_step(
        self, built: Built, builder: AccessBuilder, event: dict[str, Any], lines: list[dict[str, Any]]
    ) -> None:
        """Begin another epoch where the server's clock was set: times before and after do not compare."""
        (_, before_us, epoch), (seq, now_us, _) = builder.info_marks[-2:]
        if epoch != builder.epoch or len(lines) < 2:
            return
        earlier, later = lines[-2:]
        if event["mode"] in WITHOUT_LINES:  # dated by this machine's clock
            passed_us = later["stamp_us"] - earlier["stamp_us"]
            least_us = most_us = later["mono_us"] - earlier["mono_us"]
        else:
            # The server stamped INFO somewhere between our asking and its reply, which a machine without
            # time to spare, or a stopped recorder, draws apart.
            passed_us = now_us - before_us
            least_us = later["asked_us"] - earlier["mono_us"]
            most_us = later["mono_us"] - earlier["asked_us"]
        step_us = passed_us - min(max(passed_us, least_us), most_us)
        if abs(step_us) < _CLOCK_STEP_US:
            return
        builder.epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1
        builder.info_marks[-1] = (seq, now_us, builder.epoch)
        built.gaps.append(
            {
                "start": _iso(before_us),
                "end": _iso(now_us),
                "reason": f"the server's clock was set by {step_us / 1e6:+.1f} s",
                "node": event["server"]["node"],
            }
        )

    def _add_epochs(
        self, built: Built, event: dict[str, Any], marks: list[tuple[int, int, int]], span_us: tuple[int, int]
    ) -> None:
        first_us, last_us = span_us
        end = self.ends.get(event["epoch"])
        self.stretches[int(event["epoch"])] = _Stretch(first_us, last_us)
        numbers = list(dict.fromkeys([int(event["epoch"]), *(epoch for _, _, epoch in marks)]))
        for number in numbers:
            stamps = [stamp for _, stamp, epoch in marks if epoch == number]
            built.epochs.append(
                {
                    "epoch": number,
                    "node": event["server"]["node"],
                    "mode": event["mode"],
                    "start": _iso(first_us if number == numbers[0] else stamps[0]),
                    "end": _iso(last_us if number == numbers[-1] else stamps[-1]),
                    "ended": str(end["reason"]) if end else "the recorder was killed",
                }
            )
        server = event["server"]
        if all(known["run_id"] != server["run_id"] for known in built.servers):
            built.servers.append(server)

    def _write_part(self, builder: AccessBuilder) -> None:
        name = f"{int(self.session['number']):02d}-{self._part:05d}"
        frame = builder.take_accesses()
        if self._hides_keys:
            self._keys.update(frame["key"].dropna().unique())
        write_table(_plain(self.folder) if self._hides_keys else self.folder, "accesses", frame, part=name)
        self._part += 1


def _feed(reader: StreamReader, builder: AccessBuilder, arrivals: _Arrivals, mode: str) -> Iterator[int]:
    """Feed a stream to the builder and yield the time of every item that has one, by the server's clock."""
    for item in reader:
        arrival_us = arrivals.at(reader.offset) if mode in WITHOUT_LINES else 0
        builder.feed(item, arrival_us)
        yield arrival_us or getattr(item, "stamp_us", 0)


def _opened(path: Path) -> BinaryIO:
    """Open a stream, or the form it is kept in."""
    packed = path.with_name(path.name + ".zst")
    if packed.exists() and not path.exists():
        return pa.input_stream(packed, compression="zstd")
    return path.open("rb")


def _counts(builder: AccessBuilder) -> dict[str, int]:
    counts = builder.counts
    return {
        "lines": counts.lines,
        "own_lines": counts.own_lines,
        "events": counts.events,
        "damaged": counts.damaged,
        "orphan_keymisses": counts.orphan_keymisses,
    }


def _gaps(built: Built, events: list[dict[str, Any]], stretches: dict[int, _Stretch], *, complete: bool) -> None:
    """Add what lies between the epochs of every node, and after its last one."""
    ends = {event["epoch"]: event for event in events if event["event"] == "epoch_end"}
    session_end = next((event for event in reversed(events) if event["event"] == "end"), None)
    by_node: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["event"] == "epoch":
            by_node.setdefault(event["server"]["node"], []).append(event)
    for node, epochs in by_node.items():
        for event, following in zip(epochs, [*epochs[1:], None], strict=True):
            end = ends.get(event["epoch"])
            if end is not None and end["asked"]:
                continue
            start_us = stretches[event["epoch"]].end_us
            if following is not None:
                end_us = stretches[following["epoch"]].start_us
            else:
                end_us = session_end["stamp_us"] + event["clock_offset_us"] if session_end and complete else start_us
            reason = str(end["reason"]) if end else "the recorder was killed"
            built.gaps.append({"start": _iso(start_us), "end": _iso(max(start_us, end_us)), "reason": reason, "node": node})
    built.gaps.sort(key=lambda gap: str(gap["start"]))


def _server_tables(folder: Path, session: dict[str, Any], events: list[dict[str, Any]], streams: _Streams) -> None:
    first = int(session["first_epoch"])
    samples = streams.samples
    _replace_rows(folder, "info", info_table(samples) if samples else None, first)
    _replace_rows(folder, "commandstats", commandstats_table(samples) if samples else None, first)
    _replace_rows(folder, "errorstats", errorstats_table(samples) if samples else None, first)
    configs = {event["node"]: event["values"] for event in events if event["event"] == "config"}
    if configs:
        rows = [(node, name, value) for node, values in configs.items() for name, value in sorted(values.items())]
        frame = pd.DataFrame(rows, columns=[column.name for column in schema.CONFIG.columns])
        write_table(folder, "config", frame)
    _slow_commands(folder, session, events)
    _connections(folder, session, events)


def _slow_commands(folder: Path, session: dict[str, Any], events: list[dict[str, Any]]) -> None:
    """Write the slow log; our own commands are left out of it, as of everything."""
    logs = [event for event in events if event["event"] == "slowlog"]
    own = _own(events)
    rows = [
        (entry["stamp_us"], event["node"], entry["command"], entry["duration_us"], entry["arguments"], entry["client"])
        for event in logs
        for entry in event["entries"]
        if entry["client"] not in own
    ]
    if logs:
        # Its times are whole seconds.
        began = pd.Timestamp(int(session["stamp_us"]) // 1_000_000, unit="s", tz="UTC").as_unit("us")
        _add_rows(folder, "slowlog", stamped_table(rows, schema.SLOWLOG), began)


def _connections(folder: Path, session: dict[str, Any], events: list[dict[str, Any]]) -> None:
    """Write who was connected, but for us, and which users there are."""
    if samples := [event for event in events if event["event"] == "clients"]:
        rows = client_rows(samples, _own(events))
        _add_rows(folder, "clients", stamped_table(rows, schema.CLIENTS), _began(session))
    if users := {event["node"]: event["users"] for event in events if event["event"] == "users"}:
        frame = pd.DataFrame(user_rows(users), columns=[column.name for column in schema.USERS.columns])
        write_table(folder, "users", frame)


def _own(events: list[dict[str, Any]]) -> frozenset[str]:
    """Return the addresses of our connections."""
    return frozenset(address for event in events if event["event"] == "epoch" for address in event["own"])


def _began(session: dict[str, Any]) -> pd.Timestamp:
    """Return when the session began, by this machine's clock."""
    return pd.Timestamp(int(session["stamp_us"]), unit="us", tz="UTC").as_unit("us")


def _replace_rows(folder: Path, name: str, frame: pd.DataFrame | None, first_epoch: int) -> None:
    """Write a table: rows of earlier sessions as they are, then these."""
    earlier = read_table(folder, name)
    if earlier is not None:
        earlier = earlier[earlier["epoch"] < first_epoch]
    frames = [part for part in (earlier, frame) if part is not None and len(part)]
    if frames:
        write_table(folder, name, pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0])
    elif frame is not None:
        write_table(folder, name, frame)


def _process_tables(folder: Path, session: dict[str, Any], built: Built, hidden: HiddenKeys | None) -> None:
    """Write what is known of the process, with keys as `hidden` has them."""
    began = _began(session)
    for name, (file, table_of) in _PROCESS_TABLES.items():
        lines = json_lines(folder / "raw" / file)
        if not lines:
            continue
        frame = table_of(lines)
        if hidden is not None and "key" in frame:
            frame["key"] = hidden.of(frame["key"])
        _add_rows(folder, name, frame, began)
    _heap_tables(folder, built)


def _add_rows(folder: Path, name: str, frame: pd.DataFrame, began: pd.Timestamp) -> None:
    """Write a table without epochs: rows from before the session as they are, then these."""
    earlier = read_table(folder, name)
    if earlier is not None and len(earlier := earlier[earlier["t"] < began]):
        frame = pd.concat([earlier, frame], ignore_index=True)
    write_table(folder, name, frame)


def _heap_tables(folder: Path, built: Built) -> None:
    """Read the capture of the main process; those of its children lie beside it as recorded."""
    captures = sorted(path for path in (folder / "heap").glob("memray*.bin*") if path.is_file() and path.stat().st_size)
    if not captures or read_table(folder, "heap_snapshots") is not None:
        return
    capture = min(captures, key=lambda path: len(path.name))
    try:
        heap = read_heap(capture)
    except OSError as error:
        built.problems.append(f"heap/{capture.name} cannot be read: {error}")
        return
    write_table(folder, "heap_intervals", heap.intervals)
    write_table(folder, "heap_stacks", heap.stacks)
    write_table(folder, "heap_snapshots", heap.snapshots)


def keep_heap_files(folder: Path, captures: Iterable[Path]) -> None:
    """Move memray captures into the case, the main process's first."""
    target = folder / "heap"
    for number, capture in enumerate(path for path in captures if path.exists() and path.stat().st_size):
        target.mkdir(mode=0o700, exist_ok=True)
        kept = target / ("memray.bin" if number == 0 else f"memray.bin.{capture.suffix.lstrip('.') or number}")
        if kept == capture:
            continue
        if kept.exists():
            kept = target / f"{kept.name}-{secrets.token_hex(3)}"
        shutil.move(capture, kept)
        kept.chmod(0o600)


def _plain(folder: Path) -> Path:
    """Return where tables with keys in clear are put aside: removed with the rest of ``raw``."""
    return folder / "raw" / "plain"


def _drop_parts(folder: Path, session: int) -> None:
    shutil.rmtree(_plain(folder), ignore_errors=True)
    for part in (folder / schema.ACCESSES.path).glob(f"part-{session:02d}-*.parquet"):
        part.unlink()


def _iso(stamp_us: int) -> str:
    return iso(pd.Timestamp(stamp_us, unit="us", tz="UTC"))
