"""Finishing a case: its tables made, its raw stream removed, whether the recorder ended well or was killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from coldcache import case as cases
from coldcache.case import Case, count_rows, iso, private_file, write_meta
from coldcache.errors import NotACaseError, RecordingFailedError, UnfinishedCaseError

if TYPE_CHECKING:
    from coldcache.record.build import Built

_LOCK = ".lock"
_WAIT_FOR_ANOTHER_S = 1800.0
RECORDING, FINISHING = "recording", "finishing"
KEPT = "kept"  # the policy of a case whose raw stream stays


def open_case(folder: str | Path) -> Case:
    """Open a case, or a shipped sample by name; finish it first where its recorder was killed.

    Raises
    ------
    NotACaseError
        There is no such folder, or it holds no readable ``case.json``.
    UnfinishedCaseError
        It is still being recorded.
    """
    try:
        case = cases.open_case(folder)
    except UnfinishedCaseError:
        if "://" in str(folder):
            raise  # its tables are made where it was recorded
        finish_case(Path(folder).expanduser())
        return cases.open_case(folder)
    if "://" not in str(folder) and (case.folder / "raw").exists() and case.meta["policy"].get("raw") != KEPT:
        # Its finisher was killed between the last two steps, or somebody has just begun to resume it.
        with contextlib.suppress(UnfinishedCaseError, OSError), locked(case.folder, FINISHING):
            if read_meta(case.folder)["ended"] is not None:
                _tidy_raw(case.folder, keep=False)
    return case


def read_meta(folder: Path) -> dict[str, Any]:
    """Return ``case.json`` of a case in any state.

    Raises
    ------
    NotACaseError
        It is not there, or not of this format.
    """
    try:
        meta = json.loads((folder / "case.json").read_text("utf-8"))
        if meta.pop("format") != cases.FORMAT_VERSION:
            raise ValueError
    except FileNotFoundError:
        raise NotACaseError(f"{folder} holds no case.json, so it is no case.") from None
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        raise NotACaseError(f"{folder}/case.json cannot be read, or is of another format.") from None
    return dict(meta)


@contextlib.contextmanager
def locked(folder: Path, purpose: str) -> Iterator[None]:
    """Hold a case for recording or finishing; the system lets go of it when we die.

    Raises
    ------
    UnfinishedCaseError
        Another process records it.
    """
    file = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        deadline = time.monotonic() + _WAIT_FOR_ANOTHER_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(file, 100, 0).decode("ascii", "replace")
                if holder.startswith(RECORDING) or time.monotonic() > deadline:
                    raise UnfinishedCaseError(
                        f"{folder} is still being recorded, by process {holder.rpartition(' ')[2]}. "
                        "End that with Ctrl-C first, or wait for it."
                    ) from None
                time.sleep(0.2)  # another process is making the tables: they will be ours too
        os.ftruncate(file, 0)
        os.pwrite(file, f"{purpose} {os.getpid()}".encode(), 0)
        yield
    finally:
        os.close(file)


def finish_case(folder: Path, *, already_locked: bool = False) -> None:
    """Make the tables of a case from its raw files, write its ``case.json`` and remove the raw stream.

    Does nothing to a case that is finished. When it fails, the raw files stay, and it can be
    tried again.

    Raises
    ------
    UnfinishedCaseError
        It is still being recorded.
    RecordingFailedError
        The tables cannot be written.
    """
    with contextlib.nullcontext() if already_locked else locked(folder, FINISHING):
        meta = read_meta(folder)
        if meta.get("ended", "") is not None:
            return
        from coldcache.record.build import build_tables  # and what records, which takes 0.1 s that a finished case can do without

        try:
            built = build_tables(folder, meta)
            write_meta(folder, _finished(folder, meta, built))
            _tidy_raw(folder, keep=meta["policy"]["raw"] == KEPT)
        except OSError as error:
            raise RecordingFailedError(
                f"{folder} cannot be finished ({error.strerror or type(error).__name__}). Nothing recorded is lost: it is "
                f"in {folder}/raw. Free some room, then: coldcache diagnose {folder}"
            ) from None
    (folder / _LOCK).unlink(missing_ok=True)


def _finished(folder: Path, meta: dict[str, Any], built: Built) -> dict[str, Any]:
    first = min((epoch["epoch"] for epoch in built.epochs), default=None)
    epochs = [epoch for epoch in meta["epochs"] if first is None or epoch["epoch"] < first] + built.epochs
    earlier = [gap for gap in meta["gaps"] if not built.epochs or gap["start"] < built.epochs[0]["start"]]
    gaps = earlier + _between_sessions(meta, built) + built.gaps
    info = cases.read_table(folder, "info")
    stamps = [epoch[end] for epoch in epochs for end in ("start", "end")]
    if info is not None and len(info):
        stamps += [iso(info["t"].min()), iso(info["t"].max())]
    servers = {server["run_id"]: server for server in [*meta["servers"], *built.servers]}
    streams = [*meta.get("streams", []), built.stream]
    return {
        **meta,
        "span": {"start": min(stamps), "end": max(stamps)} if stamps else meta["span"],
        "epochs": epochs,
        "gaps": gaps,
        "servers": list(servers.values()),
        "rows": count_rows(folder),
        "streams": streams,
        "stream": {name: sum(part.get(name, 0) for part in streams) for name in built.stream},
        "problems": [*meta["problems"], *built.problems],
        "recorder_notes": [*meta["recorder_notes"], *built.notes],
        "clock_offsets": {"server_minus_recorder_us": built.clock_offset_us},
        "next_seq": built.next_seq,
        "ended": built.ended,
    }


def _between_sessions(meta: dict[str, Any], built: Built) -> list[dict[str, Any]]:
    """Return the gap between what the case held and a session that went on with it."""
    if not meta["epochs"] or not built.epochs:
        return []
    end = max(epoch["end"] for epoch in meta["epochs"])
    start = min(epoch["start"] for epoch in built.epochs)
    if any(gap["end"] == start for gap in meta["gaps"]):
        return []
    reason = f"recorded later: the session before ended ({meta.get('ended_before') or 'unknown'})"
    return [{"start": end, "end": max(start, end), "reason": reason, "node": node} for node in _nodes(built)]


def _nodes(built: Built) -> list[str]:
    return list(dict.fromkeys(epoch["node"] for epoch in built.epochs))


def _tidy_raw(folder: Path, *, keep: bool) -> None:
    raw = folder / "raw"
    if not keep:
        if raw.exists():
            shutil.rmtree(raw)  # it holds values in clear: a failure must be heard of
        return
    for path in raw.glob("stream-*.resp"):
        _compress(path)


def _compress(path: Path) -> None:
    """Replace a file by its zstd form, ``.zst``."""
    packed = path.with_name(path.name + ".zst")
    packed.unlink(missing_ok=True)
    with (
        path.open("rb") as plain,
        os.fdopen(private_file(packed), "wb") as target,
        pa.CompressedOutputStream(target, "zstd") as stream,
    ):
        shutil.copyfileobj(plain, stream)
    path.unlink()
