"""Every table of a case: column, type, unit and meaning.

The tables are plain Parquet files, readable without coldcache. Times are UTC, in whole
microseconds; units stand in the column names; unknown is null, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from coldcache.errors import UnknownNameError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

TIME = pa.timestamp("us", tz="UTC")
_TEXT = pa.string()
# Columns with few distinct values: dictionary encoding keeps them small in memory too.
_LABEL = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its name, Arrow type and meaning (with the unit, if it has one)."""

    name: str
    type: pa.DataType
    meaning: str


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a case.

    ``folder`` is its place inside the case folder; a `partitioned` table is a folder of
    ``part-*.parquet`` files, any other is one file.
    """

    name: str
    path: str
    meaning: str
    columns: tuple[Column, ...]
    partitioned: bool = False
    open_ended: bool = False  # further columns allowed: INFO's fields differ between versions

    def arrow(self) -> pa.Schema:
        """Return the Arrow schema of the declared columns."""
        return pa.schema([(column.name, column.type) for column in self.columns])

    def empty(self) -> pd.DataFrame:
        """Return a frame with no rows and the right column types."""
        return self.arrow().empty_table().to_pandas()


def _columns(*rows: tuple[str, pa.DataType, str]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in rows)


ACCESSES = Table(
    "accesses",
    "accesses",
    "one row per key access, in stream order; a command without keys has one row with a null key",
    _columns(
        ("t", TIME, "server wall clock: completion of the command; of an event: its arrival"),
        ("seq", pa.int64(), "position in the recorded stream; orders equal times; never repeats in a case"),
        ("epoch", pa.int32(), "which uninterrupted stretch of recording, see `epochs` in case.json"),
        ("node", _LABEL, "which server, host:port"),
        ("db", pa.int32(), "logical database"),
        ("client", _LABEL, "client address as the server prints it; 'lua' inside a script; null where only events were heard"),
        ("command", _LABEL, "upper case; container commands with their subcommand; null where only events were heard"),
        ("arg", pa.int32(), "which key of the command this row is, from 0; null without a key"),
        ("key", _TEXT, "Redis's own printable escape of the key's bytes: ASCII, lossless"),
        ("op", _LABEL, "read, write, delete, expire or other"),
        ("lookups", pa.int32(), "how many look-ups INFO counts for this row (0, 1 or 2)"),
        ("ttl_ms", pa.int64(), "time to live asked for, milliseconds relative to t"),
        ("ttl_form", _LABEL, "the argument's form: EX, PX, EXAT, PXAT, SETEX, EXPIRE …"),
        ("condition", _LABEL, "NX, XX, GT, LT, KEEPTTL, GET; joined by a space"),
        ("value_bytes", pa.int64(), "size of the value written, bytes after unescaping"),
        ("value_digest", _TEXT, "keyed BLAKE2b of the value, 16 hex digits; the key is never stored"),
        ("value_format", _LABEL, "class of the value, see coldcache.payloads"),
        ("in_script", pa.bool_(), "ran inside EVAL, EVALSHA or FCALL"),
        ("in_multi", pa.bool_(), "ran inside MULTI … EXEC"),
        ("outcome", _LABEL, "hit, miss, written, refused, deleted, absent; null where not known"),
        ("outcome_basis", _LABEL, "exact: a key event proves it; null until inferred"),
        ("key_state", _LABEL, "of a miss: expired, evicted, deleted, flushed or never written"),
    ),
    partitioned=True,
)

REJECTED = Table(
    "rejected",
    "rejected.parquet",
    "lines of an imported log that were not understood, one row each: with the parsed ones they are all its lines",
    _columns(
        ("log", _LABEL, "name of the file"),
        ("line", pa.int64(), "number of the line, from 1"),
        ("offset", pa.int64(), "where it begins in the file, bytes, unpacked"),
        ("size_bytes", pa.int64(), "its length without its end"),
        ("reason", _LABEL, "why it was not understood"),
        ("shape", _TEXT, "its beginning, every letter an a, every digit a 0, every byte that is no ASCII a ?"),
    ),
)

KEY_EVENTS = Table(
    "key_events",
    "server/key_events.parquet",
    "keys that went away: the end of each value's life, which no command line shows",
    _columns(
        ("seq", pa.int64(), "the event came just before the stream line of this seq"),
        ("epoch", pa.int32(), "which uninterrupted stretch of recording"),
        ("t", TIME, "time of that line, for the event has none of its own; its arrival where there are no lines"),
        ("db", pa.int32(), "logical database"),
        ("event", _LABEL, "expired, evicted, del or rename_from"),
        ("key", _TEXT, "Redis's printable escape"),
    ),
)

INFO = Table(
    "info",
    "server/info.parquet",
    "INFO once a second; one column per field, under Redis's own name",
    _columns(
        ("t", TIME, "server wall clock of the INFO command"),
        ("seq", pa.int64(), "its position in the recorded stream: exact window edges"),
        ("epoch", pa.int32(), "which uninterrupted stretch of recording: counters are compared within one only"),
        ("node", _LABEL, "which server, host:port"),
        ("keyspace_hits", pa.int64(), "look-ups that found the key, since start or CONFIG RESETSTAT"),
        ("keyspace_misses", pa.int64(), "look-ups that did not"),
        ("evicted_keys", pa.int64(), "keys removed for lack of memory"),
        ("expired_keys", pa.int64(), "keys removed because their time to live ended"),
        ("used_memory", pa.int64(), "bytes allocated by the server"),
        ("total_commands_processed", pa.int64(), "commands since start"),
    ),
    open_ended=True,
)

COMMANDSTATS = Table(
    "commandstats",
    "server/commandstats.parquet",
    "INFO commandstats at the first and last sample of every epoch",
    _columns(
        ("t", TIME, "time of the sample"),
        ("epoch", pa.int32(), "which uninterrupted stretch of recording"),
        ("node", _LABEL, "which server, host:port"),
        ("command", _LABEL, "lower case, as INFO prints it"),
        ("calls", pa.int64(), "calls since start"),
        ("usec", pa.int64(), "microseconds spent since start"),
        ("rejected_calls", pa.int64(), "refused before execution: no MONITOR line"),
        ("failed_calls", pa.int64(), "failed while executing: the MONITOR line looks normal"),
    ),
)

ERRORSTATS = Table(
    "errorstats",
    "server/errorstats.parquet",
    "INFO errorstats at the first and last sample of every epoch",
    _columns(
        ("t", TIME, "time of the sample"),
        ("epoch", pa.int32(), "which uninterrupted stretch of recording"),
        ("node", _LABEL, "which server, host:port"),
        ("error", _LABEL, "error prefix: OOM, WRONGTYPE, ERR …"),
        ("count", pa.int64(), "replies with it since start"),
    ),
)

CONFIG = Table(
    "config",
    "server/config.parquet",
    "CONFIG GET * once; secrets are replaced by (redacted)",
    _columns(("node", _LABEL, "which server, host:port"), ("parameter", _TEXT, "name"), ("value", _TEXT, "value")),
)

SLOWLOG = Table(
    "slowlog",
    "server/slowlog.parquet",
    "slow commands of the recorded time, as SLOWLOG GET had them at the end; their arguments are left out",
    _columns(
        ("t", TIME, "when it ran, whole seconds"),
        ("node", _LABEL, "which server, host:port"),
        ("command", _LABEL, "upper case; container commands with their subcommand"),
        ("duration_us", pa.int64(), "time it took to execute, microseconds"),
        ("arguments", pa.int32(), "how many it had, its name included, as far as the log keeps them (32)"),
        ("client", _TEXT, "address of its client"),
    ),
)

CLIENTS = Table(
    "clients",
    "server/clients.parquet",
    "who was connected: CLIENT LIST at the start, every ten seconds and at the end, where there were a thousand or fewer",
    _columns(
        ("t", TIME, "when it was asked for, clock of the machine that recorded"),
        ("node", _LABEL, "which server, host:port"),
        ("client", _LABEL, "address of the connection"),
        ("name", _LABEL, "its name, CLIENT SETNAME"),
        ("user", _LABEL, "the ACL user that it is"),
        ("library", _LABEL, "its client library, CLIENT SETINFO"),
        ("flags", _LABEL, "O monitor, P subscriber, S replica, b blocked, N none … as CLIENT LIST prints them"),
        ("db", pa.int32(), "logical database"),
        ("age_s", pa.int64(), "seconds since it connected"),
        ("idle_s", pa.int64(), "seconds since its last command"),
        ("output_bytes", pa.int64(), "replies that wait for it to read, bytes"),
        ("memory_bytes", pa.int64(), "all that the server keeps for it, bytes"),
        ("command", _LABEL, "its last command, lower case"),
    ),
)

USERS = Table(
    "users",
    "server/users.parquet",
    "the ACL users of each server, without passwords and their hashes; known to the default user only",
    _columns(
        ("node", _LABEL, "which server, host:port"),
        ("user", _TEXT, "name"),
        ("enabled", pa.bool_(), "may log in"),
        ("needs_password", pa.bool_(), "false: anybody who reaches the server is that user"),
        ("rules", _TEXT, "what it may do: commands, keys and channels as ACL LIST prints them"),
    ),
)

BIG_KEYS = Table(
    "big_keys",
    "server/big_keys.parquet",
    "the largest or hottest keys of a scan, as redis-cli --bigkeys, --memkeys or --hotkeys named them",
    _columns(
        ("node", _LABEL, "which server, host:port"),
        ("key", _TEXT, "Redis's printable escape"),
        ("type", _LABEL, "string, hash, list …; null for hot keys"),
        ("size", pa.int64(), "how much of the unit"),
        ("unit", _LABEL, "bytes, fields, items, members, entries; hits for the logarithmic counter of a hot key"),
    ),
)

PROCESS = Table(
    "process",
    "process/rss.parquet",
    "memory of the analyzer's process, ten times a second, and of its descendants, twice a second",
    _columns(
        ("t", TIME, "wall clock of the machine that recorded"),
        ("pid", pa.int32(), "process id"),
        ("child", pa.bool_(), "a descendant of the recorded process; forked ones share pages, so RSS does not add up"),
        ("rss_bytes", pa.int64(), "resident set size"),
        ("uss_bytes", pa.int64(), "of that, what no other process shares; every 10 s at most, null between and where refused"),
        ("pss_bytes", pa.int64(), "shared pages divided among those who share them; likewise, and null on macOS"),
    ),
)

CGROUP = Table(
    "cgroup",
    "process/cgroup.parquet",
    "the memory controller of the process's cgroup, once a second: what an OOM kill goes by",
    _columns(
        ("t", TIME, "wall clock of the machine that recorded"),
        ("usage_bytes", pa.int64(), "charged to the cgroup, page cache included"),
        ("limit_bytes", pa.int64(), "the lowest limit of the cgroup and those above it; null without one"),
        ("oom_kills", pa.int64(), "processes of the cgroup killed for lack of memory since it exists; null where not told"),
    ),
)

GC = Table(
    "gc",
    "process/gc.parquet",
    "Python's garbage collections: every full one, and any that took 1 ms or more",
    _columns(
        ("t", TIME, "end of the collection, wall clock of the program's machine"),
        ("pid", pa.int32(), "process id"),
        ("generation", pa.int32(), "0, 1 or 2; 2 is a full collection"),
        ("pause_us", pa.int64(), "how long it took, microseconds of wall time"),
        ("collected", pa.int64(), "objects freed"),
    ),
)

APP_LOG = Table(
    "app_log",
    "app/cache_log.parquet",
    "the cache calls as the application itself logged them, see coldcache.instrument.cache_log",
    _columns(
        ("t", TIME, "when the call had returned, wall clock of the application's machine"),
        ("pid", pa.int32(), "process id"),
        ("op", _LABEL, "read, write or delete"),
        ("key", _TEXT, "Redis's printable escape"),
        ("value_bytes", pa.int64(), "size of the value as the application has it; null where it did not say"),
        ("ttl_ms", pa.int64(), "time to live that the application believes it asked for"),
        ("result", _LABEL, "of a read: hit or miss, as the application saw it"),
    ),
)

HEAP_SNAPSHOTS = Table(
    "heap_snapshots",
    "heap/snapshots.parquet",
    "memray's memory records: the edges of its time buckets",
    _columns(
        ("t", TIME, "wall clock, millisecond resolution"),
        ("rss_bytes", pa.int64(), "resident set size as memray saw it"),
        ("heap_bytes", pa.int64(), "bytes allocated and not freed"),
    ),
)

HEAP_INTERVALS = Table(
    "heap_intervals",
    "heap/intervals.parquet",
    "bytes by call stack, bucket of birth and bucket of death; born and freed in one bucket is left out",
    _columns(
        ("stack_id", pa.int32(), "row in heap_stacks"),
        ("born", pa.int32(), "bucket k: born in (t[k-1], t[k]] of heap_snapshots"),
        ("died", pa.int32(), "bucket of death; null when alive at the end"),
        ("allocations", pa.int64(), "how many"),
        ("size_bytes", pa.int64(), "how many bytes"),
    ),
)

HEAP_STACKS = Table(
    "heap_stacks",
    "heap/stacks.parquet",
    "call stacks, innermost frame first",
    _columns(
        ("stack_id", pa.int32(), "referred to by heap_intervals"),
        ("frames", _TEXT, "one frame a line: file:function:line, below the library folder"),
        ("application", _TEXT, "innermost frame of the application's own code; null without one"),
    ),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        ACCESSES, REJECTED, KEY_EVENTS, INFO, COMMANDSTATS, ERRORSTATS, CONFIG, SLOWLOG, CLIENTS, USERS, BIG_KEYS,
        PROCESS, CGROUP, GC, APP_LOG, HEAP_SNAPSHOTS, HEAP_INTERVALS, HEAP_STACKS,
    )
}  # fmt: skip


def table(name: str) -> Table:
    """Return the table of that name.

    Raises
    ------
    UnknownNameError
        There is no such table.
    """
    if name not in TABLES:
        raise UnknownNameError(f"A case has no table {name!r}.{did_you_mean(name, TABLES)} It has: {', '.join(TABLES)}.")
    return TABLES[name]


def to_arrow(frame: pd.DataFrame, declared: Table) -> pa.Table:
    """Return `frame` as an Arrow table with the declared columns first and of the declared types.

    Raises
    ------
    ValueError
        A declared column is missing, a time column is naive, or a column was not declared in a
        table that is not open-ended. All three are bugs of the writer, not of the user.
    """
    names = [column.name for column in declared.columns]
    extra = [name for name in frame.columns if name not in names]
    missing = [name for name in names if name not in frame.columns]
    if missing or (extra and not declared.open_ended):
        raise ValueError(f"table {declared.name}: missing {missing}, undeclared {extra}")
    for column in declared.columns:
        if column.type == TIME and frame[column.name].dt.tz is None:
            raise ValueError(f"table {declared.name}: column {column.name} is naive, UTC expected")
    rest = pa.Schema.from_pandas(frame[extra], preserve_index=False) if extra else []
    schema = pa.schema([*declared.arrow(), *rest])
    return pa.Table.from_pandas(frame[names + extra], schema=schema, preserve_index=False)
