"""What an import is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from coldcache.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceFiles:
    """Files beside the logs, each kind in the order in which they were named.

    info : dumps of INFO, one or several in a file
    slowlog : SLOWLOG GET as redis-cli prints it
    big_keys : output of redis-cli --bigkeys, --memkeys or --hotkeys
    app_log, app_log_pattern : the application's log of its cache calls, and what finds a call in a line
    heap : memray captures of the application
    gc_log : what ``coldcache.instrument.log_gc`` wrote
    start : when it all began, for times without a year or a zone
    """

    info: tuple[Path, ...] = ()
    slowlog: tuple[Path, ...] = ()
    big_keys: tuple[Path, ...] = ()
    app_log: tuple[Path, ...] = ()
    app_log_pattern: str | None = None
    heap: tuple[Path, ...] = ()
    gc_log: tuple[Path, ...] = ()
    start: datetime | None = None

    def paths(self) -> tuple[Path, ...]:
        """Return all of the files."""
        return (*self.info, *self.slowlog, *self.big_keys, *self.app_log, *self.heap, *self.gc_log)

    def check_readable(self) -> None:
        """Look at every file before a long import begins.

        Raises
        ------
        UsageError
            One of them is not there, or cannot be read.
        """
        for path in self.paths():
            try:
                with path.open("rb") as file:
                    file.read(1)
            except OSError as error:
                raise UsageError(f"{path} cannot be read ({error.strerror}).") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What to import.

    logs : paths of MONITOR logs; ``-`` is standard input
    out : case folder to create
    dialect : a name of :data:`coldcache.sources.dialects.DIALECTS`; None to find it by looking at each log
    beside : other evidence of the same time
    """

    logs: tuple[str, ...]
    out: Path
    dialect: str | None = None
    beside: EvidenceFiles = field(default_factory=EvidenceFiles)
