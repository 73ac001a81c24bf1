"""Recording from a notebook, shown live: a line of text and a figure, drawn anew once a second."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from coldcache.case import Case
from coldcache.doctor.preflight import Preflight, preflight, refuse_harm
from coldcache.errors import UnknownNameError, did_you_mean
from coldcache.figures.recording import recording
from coldcache.record.recorder import MODES, Progress, RecordOptions, record
from coldcache.record.server import url_from

# Rows of the figure: with more, it would take longer to send than to wait for the next one.
MOST_TICKS = 400
_TEMPORARY = "temporary"


def preflight_of(url_env: str | None, out: str | Path = "", *, seconds: float) -> Preflight:
    """Return whether a server can be recorded, in which mode and at what cost; change nothing.

    Parameters
    ----------
    url_env : str or None
        Environment variable that holds the server's URL. Empty: a sample server is started, looked at and ended.
    out : str or Path
        The case folder to be, for the room on its disk; empty means a temporary one.
    seconds : float
        Length of the recording to be; 0 where it is not known.
    """
    folder = Path(out) if str(out) else Path(tempfile.gettempdir()) / "case"
    if url_env:
        return preflight(url_from(url_env, None), out=folder, seconds=seconds or None)
    from coldcache.lab.server import lab_server

    with lab_server() as url:
        return preflight(url, out=folder, seconds=seconds or None)


def record_live(url_env: str | None, out: str | Path = "", *, seconds: float, mode: str = "", fault: str = "key_prefix") -> Case:
    """Record a case and show how it goes in the running cell; return the case.

    Interrupting the kernel ends the recording in good order, and what was recorded until then is
    the case. Outside of a Jupyter kernel nothing is shown.

    Parameters
    ----------
    url_env : str or None
        Environment variable that holds the server's URL. Empty: a sample server is recorded, used by the sample analyzer.
    out : str or Path
        Case folder to create. Empty: a temporary one, removed when this process ends.
    seconds : float
        How long; 0 records until the kernel is interrupted.
    mode : str
        One of ``exact``, ``burst``, ``events``, ``monitor``; empty means the best that server and user allow.
    fault : str
        Fault of the sample analyzer, see ``coldcache lab list``; unused with `url_env`.

    Raises
    ------
    UrlError, ServerUnreachableError, ServerRefusedError
        There is no URL, the server is down, or the recording is impossible there or would do harm.
    CaseExistsError, UnknownNameError
        The folder exists, or there is no such mode or fault.
    """
    if mode and mode not in MODES:
        raise UnknownNameError(f"There is no mode {mode!r}.{did_you_mean(mode, MODES)} Modes: {', '.join(MODES)}.")
    found = preflight_of(url_env, out, seconds=seconds)
    chosen = refuse_harm(found, mode or None, force=False)
    folder = Path(out) if str(out) else _temporary_folder() / "case"
    length = seconds or None
    view = LiveView()
    if url_env:
        case = record(
            RecordOptions(
                url=url_from(url_env, None),
                out=folder,
                seconds=length,
                mode=chosen,
                ops_before=found.ops_per_s,
                before_build=view.building,
            ),
            view.update,
        )
    else:
        from coldcache.lab.incident import record_incident

        case = record_incident(
            fault, folder, seconds=length, mode=chosen, on_progress=view.update, before_build=view.building
        ).case
    view.done(case)
    # The path of a temporary folder says nothing, and outputs travel.
    return case if str(out) else replace(case, shown_as=_TEMPORARY)


def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="coldcache-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class RecordingHistory:
    """What a recording has told so far, as tables of at most `MOST_TICKS` rows however long it runs.

    When they are full, two neighbours become one, and from then on a row stands for twice the time.
    """

    def __init__(self) -> None:
        self._told: list[Progress] = []
        self._each = 1  # how often was told what one row stands for
        self._in_last = 1

    def add(self, now: Progress) -> None:
        """Add what was told just now."""
        if len(self._told) > 1 and self._in_last < self._each:
            self._told[-1] = _merged(self._told[-1], self._in_last, now, 1)
            self._in_last += 1
            return
        self._told.append(now)
        self._in_last = 1
        if len(self._told) > MOST_TICKS:
            first, rest = self._told[:1], self._told[1:]
            pairs = zip(rest[::2], rest[1::2], strict=False)
            odd = rest[-1:] if len(rest) % 2 else []
            self._told = first + [_merged(early, 1, late, 1) for early, late in pairs] + odd
            self._in_last = self._each if odd else 2 * self._each
            self._each *= 2

    def ticks(self) -> pd.DataFrame:
        """Return the series, one row per moment, as :func:`coldcache.figures.recording` draws them."""
        told = pd.DataFrame(
            {
                "elapsed_s": [now.elapsed_s for now in self._told],
                "reads": [float(now.reads) for now in self._told],
                "hits": [now.reads * (now.hit_rate or 0.0) for now in self._told],
                "ops_per_s": [now.ops_per_s for now in self._told],
                "stream_bytes_per_s": [now.stream_bytes_per_s for now in self._told],
                "buffer_bytes": [now.buffer_bytes for now in self._told],
            }
        )
        ticks = told[["elapsed_s", "ops_per_s", "stream_bytes_per_s", "buffer_bytes"]].assign(
            span_s=told["elapsed_s"].diff(),
            hit_rate=(told["hits"].diff() / told["reads"].diff().where(lambda reads: reads > 0)).clip(0, 1),
            hit_rate_so_far=told["hits"] / told["reads"].where(told["reads"] > 0),
        )
        return ticks.iloc[1:].set_index("elapsed_s")

    def misses_per_s(self) -> pd.DataFrame:
        """Return the misses per second by key state, with the index of :meth:`ticks`."""
        so_far = pd.DataFrame(
            [now.misses_by_state for now in self._told], index=pd.Index([now.elapsed_s for now in self._told], name="elapsed_s")
        ).fillna(0.0)
        return so_far.diff().div(so_far.index.to_series().diff(), axis=0).iloc[1:]

    def gaps(self) -> pd.DataFrame:
        """Return the stretches that were not recorded: ``start_s``, ``end_s``, ``reason``; true to one row."""
        found: list[dict[str, Any]] = []
        waiting = False
        for before, now in zip(self._told, self._told[1:], strict=False):
            if now.gaps > before.gaps or waiting:
                if not waiting:
                    found.append({"start_s": before.elapsed_s, "reason": ""})
                waiting = now.state.startswith("waiting")
                found[-1] |= {"end_s": now.elapsed_s, "reason": found[-1]["reason"] or _reason(now)}
        return pd.DataFrame(found, columns=["start_s", "end_s", "reason"])


def _merged(early: Progress, early_weight: int, late: Progress, late_weight: int) -> Progress:
    """Return two neighbours as one: counters as they were at its end, rates averaged, the largest buffer."""

    def mean(first: float, second: float) -> float:
        return (first * early_weight + second * late_weight) / (early_weight + late_weight)

    return replace(
        late,
        ops_per_s=mean(early.ops_per_s, late.ops_per_s),
        stream_bytes_per_s=mean(early.stream_bytes_per_s, late.stream_bytes_per_s),
        buffer_bytes=max(early.buffer_bytes, late.buffer_bytes),
    )


def _reason(now: Progress) -> str:
    return now.state.partition(": ")[2] if now.state.startswith("waiting") else "interrupted"


class LiveView:
    """The progress of a recording in the cell that is running; shows nothing outside of a Jupyter kernel.

    The cell's output is cleared and drawn anew: plotly's renderer in JupyterLab ignores an update of a
    figure that it has drawn, and a FigureWidget would put five megabytes into the notebook and
    vanish from its HTML. So the last state is what the notebook stores.
    """

    def __init__(self) -> None:
        self.history = RecordingHistory()
        self._last: Progress | None = None
        self._shown = _in_a_kernel()

    def update(self, now: Progress) -> None:
        """Show what the recorder tells."""
        self.history.add(now)
        self._last = now
        self._show(title_of(now))

    def building(self) -> None:
        """Say that the recording is over and its tables are being made."""
        self._show("Recorded. Making the tables …")

    def done(self, case: Case) -> None:
        """Say how it ended."""
        self._show(f"Recorded {(case.end - case.start).total_seconds():.0f} s: {case.meta['ended']}")

    def _show(self, title: str) -> None:
        if not self._shown or self._last is None:
            return
        try:
            figure = recording(
                self.history.ticks(),
                self.history.misses_per_s(),
                self.history.gaps(),
                title=title,
                seconds=self._last.seconds,
            )
            _redraw({"text/plain": line_of(self._last)}, figure._repr_mimebundle_())
        except Exception as error:
            self._shown = False
            # A drawing that fails must not cost the recording.
            warnings.warn(f"The live view ended, the recording goes on ({type(error).__name__}: {error}).", stacklevel=2)


def _redraw(*bundles: dict[str, Any]) -> None:
    """Put these in the place of what the running cell shows."""
    from IPython.display import clear_output, display

    clear_output(wait=True)  # not before the first of the new ones is there: nothing jumps
    for bundle in bundles:
        display(bundle, raw=True)


def _in_a_kernel() -> bool:
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def title_of(now: Progress) -> str:
    """Return what is going on, as the figure's title."""
    if now.state.startswith("waiting"):
        return f"Not recording, {now.state}"
    length = f"{now.elapsed_s:.0f} of {now.seconds:.0f} s" if now.seconds else f"{now.elapsed_s:.0f} s, until interrupted"
    return f"Recording in {now.state} mode: {length}"


def line_of(now: Progress) -> str:
    """Return the totals of a recording on one line."""
    parts = [
        f"{now.elapsed_s:.1f} s",
        f"{now.commands:,} commands",
        f"{now.reads:,} reads",
        "" if now.hit_rate is None else f"hit rate {now.hit_rate:.1%}",
        f"{now.stream_bytes / 1e6:,.1f} MB recorded",
        f"{now.nodes} nodes" if now.nodes > 1 else "",
        f"{now.gaps} gap{'s' * (now.gaps > 1)}" if now.gaps else "no gaps",
    ]
    return " · ".join(filter(None, parts))
