"""A case: one incident, one folder, self-describing, readable without coldcache.

``case.json`` says what the case holds, how it was made and how it ended; everything else is
Parquet (see :mod:`coldcache.schema`) and the memray files as recorded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from coldcache import schema
from coldcache.errors import (
    CaseExistsError,
    DamagedCaseError,
    NotACaseError,
    UnfinishedCaseError,
    did_you_mean,
)
from coldcache.showing import SelfShowing

if TYPE_CHECKING:
    import pandas as pd  # an import of a log starts without it

FORMAT_VERSION = 2
_Read = TypeVar("_Read")
HERE = type(Path())  # the kind of a path to a file of this machine
_NEEDED = frozenset({"span", "epochs", "servers", "rows", "gaps", "clock_offsets", "made_by"})
SAMPLE_PREFIX = "sample-"
# What a user calls the evidence, and the table that holds it.
EVIDENCE = {
    "accesses": "accesses",
    "key events": "key_events",
    "INFO series": "info",
    "configuration": "config",
    "process RSS": "process",
    "heap profile": "heap_intervals",
}


def samples_folder() -> Path:
    """Return the folder of the shipped samples: ``data/samples`` of the checkout, or $COLDCACHE_SAMPLES."""
    if configured := os.environ.get("COLDCACHE_SAMPLES"):
        return Path(configured)
    return Path(__file__).parents[2] / "data" / "samples"


def sample_names() -> list[str]:
    """Return the names under which :func:`open_case` knows the shipped samples, sorted."""
    return sorted(SAMPLE_PREFIX + path.parent.name for path in samples_folder().glob("*/case.json"))


def utc_now() -> datetime:
    """Return the time now, aware, in UTC."""
    return datetime.now(UTC)


def iso(moment: datetime | pd.Timestamp) -> str:
    """Return ISO 8601 with microseconds and ``Z``, as the contract writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _timestamp(text: str) -> pd.Timestamp:
    import pandas as pd

    return pd.Timestamp(text)


def iso_us(stamp_us: int) -> str:
    """Return µs since the epoch as :func:`iso` writes them."""
    return iso(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=stamp_us))


@dataclass(frozen=True, eq=False, repr=False)
class Case(SelfShowing):
    """One recorded incident.

    Attributes
    ----------
    folder : Path
        Of a case that lies elsewhere, its address as a `upath.UPath`, which does what a path does.
    shown_as : str
        What the user called it, without secrets; the only form of the path that goes into reports.
    meta : dict
        The content of ``case.json``.
    """

    folder: Path
    shown_as: str
    meta: dict[str, Any]

    @property
    def start(self) -> pd.Timestamp:
        """Start of the recording, UTC."""
        return _timestamp(self.meta["span"]["start"])

    @property
    def end(self) -> pd.Timestamp:
        """End of the recording, UTC."""
        return _timestamp(self.meta["span"]["end"])

    @property
    def gaps(self) -> list[dict[str, Any]]:
        """Interruptions of the recording, each with start, end and reason."""
        return list(self.meta["gaps"])

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The uninterrupted stretches of recording, each with epoch, node, mode, start, end and ended.

        ``mode`` is ``exact`` (commands and key events), ``monitor`` (commands only), ``events``
        (key events only) or ``changes`` (of those, all but the misses). Nothing is known of a node between two of its epochs.
        """
        return list(self.meta["epochs"])

    def epochs_of(self, mode: str) -> list[int]:
        """Return the numbers of the epochs recorded in that mode."""
        return [int(epoch["epoch"]) for epoch in self.epochs if epoch["mode"] == mode]

    def has(self, table: str) -> bool:
        """Whether the case holds that table."""
        path = self._path(schema.table(table))
        return any(path.glob("part-*.parquet")) if path.is_dir() else path.exists()

    def missing(self, *tables: str) -> list[str]:
        """Return those of the named tables that the case lacks, in the user's words."""
        words = {table: evidence for evidence, table in EVIDENCE.items()}
        return [words.get(table, table) for table in tables if not self.has(table)]

    def table(self, name: str, columns: list[str] | None = None) -> pd.DataFrame:
        """Return one table of the case, with no rows where the case lacks it.

        Raises
        ------
        UnknownNameError
            There is no such table.
        DamagedCaseError
            The file cannot be read.
        """
        declared = schema.table(name)
        path = self._path(declared)
        if not self.has(name):
            return declared.empty()[columns or [column.name for column in declared.columns]]
        return self._read(path, lambda path: _arrow(path, columns).to_pandas())

    def parts(self, name: str) -> dict[str, int]:
        """Return the parts of a partitioned table in their order, each with its rows; none where the case lacks it.

        Raises
        ------
        DamagedCaseError
            A part cannot be read.
        """
        declared = schema.table(name)
        path = self._path(declared)
        return {
            f"{declared.path}/{file.name}": self._read(file, lambda file: _with_file(file, pq.read_metadata).num_rows)
            for file in sorted(path.glob("part-*.parquet"))
        }

    def part(self, part: str, columns: list[str]) -> pa.Table:
        """Return columns of one part, as Arrow.

        Raises
        ------
        DamagedCaseError
            It cannot be read.
        """
        return self._read(self.folder / part, lambda file: _with_file(file, partial(_part, columns)))

    def arrow(self, name: str, columns: list[str]) -> pa.Table:
        """Return columns of a table that is not partitioned, as Arrow, with no rows where the case lacks it.

        Raises
        ------
        DamagedCaseError
            The file cannot be read.
        """
        declared = schema.table(name)
        if not self.has(name):
            return declared.arrow().empty_table().select(columns)
        return self._read(self._path(declared), lambda file: _arrow(file, columns))

    def _read(self, file: Path, reading: Callable[[Path], _Read]) -> _Read:
        """Return what `reading` gives, or say what is damaged."""
        try:
            return reading(file)
        except (pa.ArrowException, OSError) as error:
            raise DamagedCaseError(
                f"{self.shown_as}: {file.name} cannot be read ({error}). Restore it from a copy of the case, or record again."
            ) from None

    @cached_property
    def accesses(self) -> pd.DataFrame:
        """Every key access, see ``schema.ACCESSES``; read once. In stream order; of several nodes, in order of time."""
        accesses = self.table("accesses")
        return accesses.sort_values(["t", "seq"], ignore_index=True) if accesses["node"].nunique() > 1 else accesses

    @property
    def own_process(self) -> pd.DataFrame:
        """Memory samples of the process itself, without its children's."""
        process = self.table("process")
        return process[~process["child"].astype("bool")]

    def on_server_clock(self, t: pd.Series) -> pd.Series:
        """Move times of the recording machine's clock to the server's, by the offset measured at the start."""
        return t + timedelta(microseconds=self.meta["clock_offsets"]["server_minus_recorder_us"])

    @property
    def modes(self) -> str:
        """How it was recorded, in words: ``exact``, ``exact and events`` …"""
        return " and ".join(dict.fromkeys(epoch["mode"] for epoch in self.epochs)) or "no"

    @property
    def server(self) -> dict[str, Any]:
        """The first server recorded; of a recording that was killed before it saw one, only that nothing is known."""
        servers = self.meta["servers"]
        return dict(servers[0]) if servers else {"node": "none seen", "software": "unknown", "version": ""}

    def _path(self, table: schema.Table) -> Path:
        return self.folder / table.path

    def __str__(self) -> str:
        # Not by way of pandas, whose start takes longer than telling this.
        start, end = (datetime.fromisoformat(self.meta["span"][edge]) for edge in ("start", "end"))
        seconds = (end - start).total_seconds()
        server = self.server
        nodes = f", {len(self.meta['servers'])} nodes" if len(self.meta["servers"]) > 1 else ""
        lines = [
            f"Case {self.shown_as}: {start:%Y-%m-%d %H:%M:%S} UTC, {seconds:.0f} s, {self.modes} recording",
            f"  server    {server['software']} {server['version']}".rstrip() + nodes,
        ]
        rows = self.meta["rows"]
        for evidence, table in EVIDENCE.items():
            held = f"{rows[table]:,} rows" if table in rows else "missing"
            lines.append(f"  {evidence:<14}{held}")
        lines += [f"  problem   {problem}" for problem in self.meta.get("problems", ())]
        lines += [f"  note      {note}" for note in self.meta.get("recorder_notes", ())]
        lines += [f"  gap       {gap['start']} to {gap['end']}: {gap['reason']}" for gap in self.gaps]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Case {self.shown_as}>"


def _with_file(path: Path, reading: Callable[[Any], _Read]) -> _Read:
    """Return what `reading` makes of a file, wherever it lies."""
    if isinstance(path, HERE):
        return reading(path)
    with path.open("rb") as file:
        return reading(file)


def _part(columns: list[str], file: Any) -> pa.Table:
    return pq.ParquetFile(file).read(columns, use_threads=False)


def _arrow(path: Path, columns: list[str] | None) -> pa.Table:
    """Return a table, or all parts of one."""
    if isinstance(path, HERE) or not path.is_dir():
        return _with_file(path, partial(pq.read_table, columns=columns))
    parts = sorted(path.glob("part-*.parquet"))
    return pa.concat_tables([_with_file(part, partial(pq.read_table, columns=columns)) for part in parts])


def _place(folder: str | Path) -> tuple[Path, str]:
    """Return a folder, which may be the address of one elsewhere, and what it is called, without secrets."""
    shown = str(folder)
    if "://" not in shown:
        return Path(folder).expanduser(), shown
    from upath import UPath

    # What stands before an @ may be a password.
    shown = re.sub(r"://[^/@]*@", "://", shown)
    try:
        return cast(Path, UPath(str(folder))), shown
    except (ValueError, ImportError) as error:
        raise NotACaseError(
            f"{shown} cannot be opened: {error}. Install what fsspec needs for it, or copy the case here."
        ) from None


def open_case(folder: str | Path) -> Case:
    """Open a case folder, a shipped sample by name (``sample-key_prefix``), or a folder elsewhere (``s3://bucket/case``).

    Raises
    ------
    NotACaseError
        There is no such folder, or it holds no readable ``case.json``.
    UnfinishedCaseError
        Its tables were never made; :func:`coldcache.open_case` makes them.
    """
    path, shown = _place(folder)
    if not path.exists() and shown.startswith(SAMPLE_PREFIX):
        if shown not in (known := sample_names()):
            raise NotACaseError(f"There is no sample {shown!r}.{did_you_mean(shown, known)} Samples: {', '.join(known)}.")
        path = samples_folder() / shown.removeprefix(SAMPLE_PREFIX)
    if not path.is_dir():
        raise NotACaseError(f"{shown} is not a folder. Record a case with: coldcache record --out {shown}")
    try:
        meta = json.loads((path / "case.json").read_text("utf-8"))
        version = meta["format"]
    except FileNotFoundError:
        raise NotACaseError(
            f"{shown} holds no case.json, so it is no case. Give the folder that `coldcache record --out` wrote."
        ) from None
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise NotACaseError(f"{shown}/case.json cannot be read ({type(error).__name__}).") from None
    if version == FORMAT_VERSION and meta.get("ended", "") is None:
        raise UnfinishedCaseError(f"{shown} was not finished: its recorder was killed, or is still at work.")
    if version == FORMAT_VERSION and (absent := _NEEDED - meta.keys()):
        raise NotACaseError(f"{shown}/case.json lacks {', '.join(sorted(absent))}: it was not written by coldcache.")
    if version != FORMAT_VERSION:
        raise NotACaseError(
            f"{shown} is a case of format {version}; this coldcache reads {FORMAT_VERSION}. "
            "Read it with the coldcache that wrote it, or record again."
        )
    return Case(path, shown, meta)


def new_case_folder(folder: str | Path) -> Path:
    """Create the folder of a new case, readable by its owner only.

    Raises
    ------
    CaseExistsError
        The folder exists: nothing recorded is ever overwritten.
    """
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        raise CaseExistsError(
            f"{folder} already exists, and a recording is never overwritten. Choose another --out, or move it away."
        ) from None
    except OSError as error:
        raise CaseExistsError(f"{folder} cannot be created ({error.strerror}). Choose another --out.") from None
    return path


def private_file(path: Path) -> int:
    """Open a new file that only its owner can read, for writing; return its descriptor."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)


def write_table(folder: Path, name: str, frame: pd.DataFrame, *, part: int | str | None = None) -> int:
    """Write a frame as a table of the case (Parquet, zstd), in one step, and return its number of rows.

    `part` names the part of a partitioned table; a number is padded. What was there is replaced.
    """
    declared = schema.table(name)
    path = folder / declared.path
    if declared.partitioned:
        path /= f"part-{part if isinstance(part, str) else f'{part or 0:05d}'}.parquet"
    with _replacing(path) as file:
        pq.write_table(schema.to_arrow(frame, declared), file, compression="zstd")
    return len(frame)


def read_table(folder: Path, name: str) -> pd.DataFrame | None:
    """Return a table of a case folder, None where it is not there or cannot be read."""
    path = folder / schema.table(name).path
    if not path.exists():
        return None
    try:
        return pq.read_table(path).to_pandas()
    except (pa.ArrowException, OSError):
        return None


def count_rows(folder: Path) -> dict[str, int]:
    """Return the rows of every table that a case folder holds."""
    rows = {}
    for name, declared in schema.TABLES.items():
        path = folder / declared.path
        files = sorted(path.glob("part-*.parquet")) if declared.partitioned else [path] * path.exists()
        if files:
            rows[name] = sum(pq.read_metadata(file).num_rows for file in files)
    return rows


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write ``case.json`` in one step: a reader sees the old one or the new one, never half of it."""
    text = json.dumps({"format": FORMAT_VERSION, **meta}, indent=2, ensure_ascii=False) + "\n"
    with _replacing(folder / "case.json") as file:
        file.write(text.encode("utf-8"))


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside its place, have it reach the disk, then put it there; only its owner can read it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    try:
        with os.fdopen(private_file(scratch), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below `folder`, by its path relative to it, sorted."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
