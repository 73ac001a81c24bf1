"""What people save beside a log: INFO, slow logs, scans for big keys, the application's own logs and profiles."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from coldcache import schema
from coldcache.case import private_file, write_table
from coldcache.errors import UsageError
from coldcache.importing.offsets import ClockOffset, clock_offset
from coldcache.importing.options import EvidenceFiles
from coldcache.sources.app_log_text import read_app_log
from coldcache.sources.big_keys import read_big_keys
from coldcache.sources.heap import read_heap
from coldcache.sources.info import InfoSample, commandstats_table, errorstats_table, info_table, parse_info
from coldcache.sources.info_dump import InfoDump, InfoFile, read_info_dumps
from coldcache.sources.jsonl import json_lines
from coldcache.sources.process import gc_table
from coldcache.sources.slowlog import read_slowlog

_COUNTERS = ("keyspace_hits", "keyspace_misses")
# A dump whose only date is the file's, and that so lies outside the log by more than this, was copied since.
_COPIED_US = 3_600_000_000
_SECOND_US = 1_000_000
_OWN_LINE_US = 100_000  # INFO's own line in the log follows its clock by its run time


def read_info(files: EvidenceFiles) -> list[tuple[Path, InfoFile]]:
    """Return what each file of INFO holds.

    Raises
    ------
    UsageError
        One holds none.
    """
    found = []
    for path in files.info:
        with path.open("rb") as file:
            found.append((path, read_info_dumps(file, mtime_us=path.stat().st_mtime_ns // 1000)))
        if not found[-1][1].dumps:
            raise UsageError(f"{path} holds no INFO. Save it with: redis-cli INFO everything > {path.name}")
    return found


def is_before_7(info: list[tuple[Path, InfoFile]]) -> bool:
    """Whether an INFO says that the server was Redis 6, which counts fewer look-ups."""
    servers = [parse_info(dump.text)[0] for _, held in info for dump in held.dumps]
    return any(flat.get("redis_version", "").startswith("6.") and "valkey_version" not in flat for flat in servers)


def add_evidence(folder: Path, meta: dict[str, Any], files: EvidenceFiles, info: list[tuple[Path, InfoFile]]) -> None:
    """Write the tables of what lies beside the logs, and add to ``case.json`` what is known by them.

    Raises
    ------
    UsageError
        A file is none of its kind.
    """
    evidence = _Evidence(folder, meta, files)
    evidence.add_info(info)
    evidence.add_slowlogs()
    evidence.add_big_keys()
    evidence.add_app_logs()
    evidence.add_heap()
    evidence.add_gc_logs()


@dataclass(slots=True)
class _Evidence:
    folder: Path
    meta: dict[str, Any]
    files: EvidenceFiles
    _places: pd.DataFrame | None = field(default=None)

    def add_info(self, info: list[tuple[Path, InfoFile]]) -> None:
        for path, held in info:
            for problem in held.problems:
                self._problem(f"{path.name}: {problem}")
        dumps = [(path, dump) for path, held in info for dump in held.dumps]
        usable = [(path, dump) for path, dump in dumps if not set(_COUNTERS) & set(dump.lacks)]
        for path, dump in dumps:
            if set(_COUNTERS) & set(dump.lacks):
                self._problem(f"{path.name}: the INFO at line {dump.line} has no keyspace_hits and keyspace_misses")
        if not usable:
            return
        samples = sorted((self._placed(path, dump, usable) for path, dump in usable), key=lambda sample: sample.stamp_us)
        write_table(self.folder, "info", info_table(samples))
        for name, table in (("commandstats", commandstats_table(samples)), ("errorstats", errorstats_table(samples))):
            if len(table):
                write_table(self.folder, name, table)
        self._name_servers(samples)

    def _placed(self, path: Path, dump: InfoDump, all_dumps: list[tuple[Path, InfoDump]]) -> InfoSample:
        """Return a dump with its place in the log: its epoch, and the line it was taken at."""
        node = self._node_of(path)
        places = self._lines()
        of_node = places[places["node"].eq(node)]
        start_us, end_us = int(of_node["t_us"].iloc[0]), int(of_node["t_us"].iloc[-1])
        stamp_us = dump.server_us or dump.t_us
        if dump.server_us is None and dump.basis == "mtime" and stamp_us is not None:
            copied = not start_us - _COPIED_US <= stamp_us <= end_us + _COPIED_US
            stamp_us = None if copied else stamp_us
        if stamp_us is None:
            is_first = dump is all_dumps[0][1]
            stamp_us = start_us if is_first else end_us + 1
            self._problem(
                f"{path.name}: nothing tells when INFO was taken; it is taken for the "
                f"{'beginning' if is_first else 'end'} of the log"
            )
        for early, what in ((start_us - stamp_us, "before the log begins"), (stamp_us - end_us, "after the log ends")):
            if early > _SECOND_US:
                self._problem(
                    f"{path.name}: INFO was taken {early / 1e6:,.1f} s {what}; it counts look-ups in between "
                    "that the log does not hold"
                )
        # Behind the last line before it; that may be the one before the log's first.
        row = int(np.searchsorted(np.maximum.accumulate(of_node["t_us"].to_numpy()), stamp_us)) - 1
        epoch = int(of_node["epoch"].iloc[max(row, 0)])
        seq = int(of_node["seq"].iloc[row]) if row >= 0 else int(of_node["seq"].iloc[0]) - 1
        own = of_node[of_node["info"] & of_node["t_us"].between(stamp_us, stamp_us + _OWN_LINE_US)]
        if len(own):
            seq, epoch = int(own["seq"].iloc[0]), int(own["epoch"].iloc[0])
        return InfoSample(stamp_us, seq, dump.text, epoch, node)

    def _lines(self) -> pd.DataFrame:
        """Return where and when each line stands: ``t_us``, ``seq``, ``epoch``, ``node``, and whether it is an INFO."""
        if self._places is None:
            names = ["t", "seq", "epoch", "node", "command"]
            found = pq.read_table(self.folder / schema.ACCESSES.path, columns=names)
            frame = found.select(["seq", "epoch"]).to_pandas()
            frame["t_us"] = found.column("t").cast(pa.int64()).to_numpy()
            frame["node"] = found.column("node").to_pandas()
            frame["info"] = found.column("command").to_pandas().eq("INFO")
            self._places = frame
        return self._places

    def _node_of(self, path: Path) -> str:
        """Return whose INFO a file holds: of several nodes, the one whose log's name is in the file's, or the other way."""
        nodes = list(dict.fromkeys(str(epoch["node"]) for epoch in self.meta["epochs"]))
        stems = {node: Path(node).stem for node in nodes}
        named = [node for node in nodes if stems[node] in path.name or path.stem in node]
        if len(nodes) == 1:
            return nodes[0]
        if len(named) == 1:
            return named[0]
        raise UsageError(
            f"{path} could be of any of these nodes: {', '.join(nodes)}. "
            f"Name it after the log of its node, like {stems[nodes[0]]}-info.txt."
        )

    def _name_servers(self, samples: list[InfoSample]) -> None:
        servers: dict[str, dict[str, Any]] = {}
        for sample in samples:
            flat, _ = parse_info(sample.text)
            valkey = flat.get("valkey_version")
            servers[sample.node] = {
                "node": sample.node,
                "software": "Valkey" if valkey else "Redis" if "redis_version" in flat else "unknown",
                "version": valkey or flat.get("redis_version", ""),
                "run_id": flat.get("run_id", ""),
                "role": flat.get("role", ""),
            }
        self.meta["servers"] = [servers.get(server["node"], server) for server in self.meta["servers"]]

    def add_slowlogs(self) -> None:
        tables = []
        for path in self.files.slowlog:
            with path.open("rb") as file:
                found = read_slowlog(file, node=self._node_of(path))
            if found.form is None:
                raise UsageError(f"{path} holds no slow log. Save it with: redis-cli SLOWLOG GET 1000 > {path.name}")
            for problem in found.problems:
                self._problem(f"{path.name}: {problem}")
            self._skipped(path, found.skipped)
            tables.append(found.table)
        self._write("slowlog", tables)

    def add_big_keys(self) -> None:
        tables = []
        for path in self.files.big_keys:
            with path.open("rb") as file:
                found = read_big_keys(file)
            if found.keys.empty and found.types.empty:
                raise UsageError(f"{path} names no keys. Save it with: redis-cli --memkeys > {path.name}")
            self._skipped(path, found.skipped)
            tables.append(found.keys.assign(node=self._node_of(path)))
        self._write("big_keys", tables)

    def add_app_logs(self) -> None:
        tables = []
        year = self.files.start.year if self.files.start else None
        for path in self.files.app_log:
            with _opened(path) as file:
                found = read_app_log(file, pattern=self.files.app_log_pattern, year=year)
            if found.table.empty:
                raise UsageError(
                    f"{path} holds no cache call that is understood. Log with coldcache.instrument.cache_log, in the form "
                    "[CACHE][GET] Key: …, Result: HIT, or say how with --app-log-pattern."
                )
            self._skipped(path, found.skipped)
            if found.assumed:
                self._note(f"{path.name}: {found.assumed:,} times state no zone and were taken for {found.assumed_zone}")
            tables.append(found.table)
        if not tables:
            return
        log = pd.concat(tables, ignore_index=True).sort_values("t", kind="stable", ignore_index=True)
        self._set_offset(clock_offset(log, self.folder))
        write_table(self.folder, "app_log", log)

    def _set_offset(self, offset: ClockOffset | None) -> None:
        if offset is None:
            self._note(
                "how far the application's clock is from the server's cannot be told: too few of its calls stand in the log"
            )
            return
        self.meta["clock_offsets"] = {
            "server_minus_recorder_us": offset.server_minus_app_us,
            "basis": f"median over {offset.pairs:,} calls that the application and the server both logged",
            "half_of_them_within_us": offset.spread_us,
        }
        if abs(offset.server_minus_app_us) > _SECOND_US:
            behind = "behind" if offset.server_minus_app_us > 0 else "ahead of"
            self._note(f"the application's clock is {abs(offset.server_minus_app_us) / 1e6:,.3f} s {behind} the server's")

    def add_heap(self) -> None:
        for number, path in enumerate(self.files.heap):
            kept = self.folder / "heap" / ("memray.bin" if number == 0 else f"memray.bin.{number}")
            with path.open("rb") as source, open(private_file(kept), "wb") as target:
                shutil.copyfileobj(source, target)
            if number:
                continue
            try:
                heap = read_heap(kept)
            except OSError as error:
                raise UsageError(f"{path} cannot be read as a memray capture: {error}") from None
            write_table(self.folder, "heap_intervals", heap.intervals)
            write_table(self.folder, "heap_stacks", heap.stacks)
            write_table(self.folder, "heap_snapshots", heap.snapshots)
            self.meta["process"] = {"pid": heap.pid}

    def add_gc_logs(self) -> None:
        tables = []
        for path in self.files.gc_log:
            table = gc_table(json_lines(path))
            if table.empty:
                raise UsageError(f"{path} holds no collection as coldcache.instrument.log_gc writes them.")
            tables.append(table)
        self._write("gc", tables)

    def _write(self, name: str, tables: list[pd.DataFrame]) -> None:
        if tables:
            write_table(self.folder, name, pd.concat(tables, ignore_index=True))

    def _skipped(self, path: Path, skipped: dict[str, int]) -> None:
        if skipped:
            told = "; ".join(f"{count:,} {reason}" for reason, count in skipped.items())
            self._note(f"{path.name}: lines left out: {told}")

    def _problem(self, text: str) -> None:
        self.meta["problems"].append(text)

    def _note(self, text: str) -> None:
        self.meta["recorder_notes"].append(text)


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]
