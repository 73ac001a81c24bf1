"""A recording shown live: the figure by its traces, the history by its rows, and real kernels that record."""

from __future__ import annotations

import os
import time
from pathlib import Path
from queue import Empty

import coldcache
import nbformat
import papermill
import pytest
import redis
from coldcache import figures
from coldcache.errors import CaseExistsError, UnknownNameError, UrlError, UsageError
from coldcache.lab.server import lab_server
from coldcache.live import MOST_TICKS, LiveView, RecordingHistory, line_of, record_live, title_of
from coldcache.record.recorder import Progress
from coldcache.report.parameters import notebook_names, notebook_path
from jupyter_client.manager import KernelManager
from traitlets.config import Config

PLOTLY = "application/vnd.plotly.v1+json"


def told(elapsed_s: float, reads: int, hits: int, *, state: str = "exact", gaps: int = 0, **more: object) -> Progress:
    return Progress(
        elapsed_s=elapsed_s,
        seconds=more.pop("seconds", 10.0),
        commands=2 * reads,
        reads=reads,
        hit_rate=hits / reads if reads else None,
        ops_per_s=more.pop("ops_per_s", 200.0),
        stream_bytes=1000 * reads,
        stream_bytes_per_s=100_000.0,
        buffer_bytes=more.pop("buffer_bytes", 0),
        misses_by_state=more.pop("misses", {}),
        nodes=1,
        gaps=gaps,
        state=state,
    )


# Six seconds: the rate falls in the third, and in the fifth the server is away.
SIX = [
    told(0, 0, 0),
    told(1, 100, 90, misses={"never written": 10}),
    told(2, 200, 180, misses={"never written": 20}),
    told(3, 300, 190, misses={"never written": 30, "expired": 80}, buffer_bytes=20_480),
    told(4, 300, 190, misses={"never written": 30, "expired": 80}, state="waiting: the server restarted", gaps=1),
    told(5, 400, 280, misses={"never written": 40, "expired": 80}, gaps=1),
]


def history(rows: list[Progress]) -> RecordingHistory:
    made = RecordingHistory()
    for row in rows:
        made.add(row)
    return made


def drawn(rows: list[Progress], title: str = "Recording", seconds: float | None = 10.0):
    made = history(rows)
    return figures.recording(made.ticks(), made.misses_per_s(), made.gaps(), title=title, seconds=seconds)


def test_the_history_tells_rates_of_each_second_from_what_was_counted_since_the_start():
    made = history(SIX)
    # THEN each row is about its own second, and one without reads has no rate
    rates = made.ticks()["hit_rate"].round(3).tolist()
    assert rates[:3] == [0.9, 0.9, 0.1]
    assert rates[3] != rates[3]  # NaN
    assert rates[4] == 0.9
    assert made.ticks()["hit_rate_so_far"].round(3).tolist()[-1] == 0.7
    assert made.misses_per_s().to_dict("list") == {
        "never written": [10.0, 10.0, 10.0, 0.0, 10.0],
        "expired": [0.0, 0.0, 80.0, 0.0, 0.0],
    }
    # AND the second in which the server was away is a gap
    assert made.gaps().to_dict("records") == [{"start_s": 3, "end_s": 5, "reason": "the server restarted"}]


def test_a_long_recording_keeps_its_whole_span_in_a_bounded_number_of_rows():
    # GIVEN ten hours, told once a second; 100 reads a second, of which 3 in 4 hit, and one moment of much waiting
    made = RecordingHistory()
    for second in range(36_000):
        made.add(
            told(second, 100 * second, 75 * second, buffer_bytes=9_999 if second == 10 else 0, misses={"expired": 25 * second})
        )
    ticks = made.ticks()
    # THEN the rows are few, span it all, and nothing is lost: neither a rate nor the largest buffer
    assert MOST_TICKS / 2 - 2 <= len(ticks) <= MOST_TICKS
    assert ticks.index[-1] == 35_999
    assert ticks["span_s"].sum() == 35_999
    assert ticks["hit_rate"].round(6).eq(0.75).all()
    assert ticks["ops_per_s"].round(6).eq(200).all()
    assert made.misses_per_s()["expired"].round(6).eq(25).all()
    assert ticks["buffer_bytes"].max() == 9_999


def test_the_figure_shows_rate_commands_misses_and_cost():
    figure = drawn(SIX)
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces) == [
        "hit rate", "since the start", "commands/s", "missed: never written", "missed: expired", "stream", "waiting",
    ]  # fmt: skip
    assert list(traces["missed: expired"].y) == [0, 0, 80, 0, 0]
    assert list(traces["waiting"].y) == [0, 0, 20_480, 0, 0]
    # AND all share one axis from 0 to the length to be, for the hover box
    assert {trace.xaxis for trace in figure.data} == {"x4"}
    assert figure.layout.xaxis4.range == (0, 10.1)
    # AND the gap is shaded, with its reason
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(3, 5)]
    assert "not recorded: the server restarted" in [annotation.text for annotation in figure.layout.annotations]


def test_texts_of_the_server_cannot_be_markup():
    evil = "<b>evil</b>"
    rows = [told(0, 0, 0), told(1, 5, 0, misses={evil: 5}), told(2, 5, 0, misses={evil: 5}, state=f"waiting: {evil}", gaps=1)]
    text = drawn(rows, title=title_of(rows[-1])).to_json()
    assert "<b>" not in text
    assert "\\u003cb" not in text
    assert text.count("&lt;b&gt;evil") >= 2


@pytest.mark.parametrize("rows", [[], [told(0, 0, 0)], [told(0, 0, 0), told(1, 0, 0)]])
def test_without_reads_the_figure_says_so(rows: list[Progress]):
    figure = drawn(rows, seconds=None)
    words = [annotation.text for annotation in figure.layout.annotations]
    assert {"no reads yet", "no misses seen yet"} <= set(words)


def test_title_and_line_say_what_is_going_on():
    assert title_of(SIX[3]) == "Recording in exact mode: 3 of 10 s"
    assert title_of(told(3, 1, 1, seconds=None)) == "Recording in exact mode: 3 s, until interrupted"
    assert title_of(SIX[4]) == "Not recording, waiting: the server restarted"
    assert line_of(SIX[5]) == "5.0 s · 800 commands · 400 reads · hit rate 70.0% · 0.4 MB recorded · 1 gap"


def test_a_drawing_that_fails_does_not_end_the_recording(monkeypatch: pytest.MonkeyPatch):
    view = LiveView()
    view._shown = True
    monkeypatch.setattr("coldcache.live.recording", lambda *_, **__: 1 / 0)
    with pytest.warns(UserWarning, match="the recording goes on"):
        view.update(SIX[0])
    view.update(SIX[1])
    assert len(view.history.ticks()) == 1


def test_the_notebook_that_records_is_no_part_of_a_report():
    assert "01_record" not in notebook_names()
    with pytest.raises(UsageError, match="01_record is no part of a report: it would record"):
        notebook_path("01_record")


def test_wrong_arguments_are_met_before_anything_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UnknownNameError, match="Did you mean 'exact'"):
        record_live("", tmp_path / "case", seconds=2, mode="exct")
    monkeypatch.delenv("MY_URL", raising=False)
    with pytest.raises(UrlError, match="MY_URL is empty"):
        record_live("MY_URL", tmp_path / "case", seconds=2)
    assert not (tmp_path / "case").exists()


@pytest.mark.live
def test_in_plain_python_it_records_and_shows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    with lab_server() as url:
        monkeypatch.setenv("MY_URL", url)
        case = record_live("MY_URL", tmp_path / "case", seconds=2, mode="events")
        with pytest.raises(CaseExistsError):
            record_live("MY_URL", tmp_path / "case", seconds=2)
    assert case.folder == tmp_path / "case"
    assert {epoch["mode"] for epoch in case.epochs} == {"events"}
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


@pytest.mark.live
def test_the_notebook_records_a_real_server_and_shows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # GIVEN a server and a user with a password, the URL in a variable
    with lab_server() as url:
        with redis.Redis.from_url(url) as client:
            client.execute_command("ACL", "SETUSER", "watcher", "on", ">swordfish", "~*", "&*", "+@all")
        monkeypatch.setenv("MY_URL", url.replace("redis://", "redis://watcher:swordfish@"))
        # WHEN the notebook runs on it for three seconds
        config = Config()
        config.KernelManager.transport_encryption = "auto"
        papermill.execute_notebook(
            str(Path(__file__).parents[1] / "notebooks" / "01_record.ipynb"),
            str(tmp_path / "out.ipynb"),
            parameters={"url_env": "MY_URL", "out": "incident", "seconds": 3.0, "mode": "exact"},
            cwd=str(tmp_path),
            kernel_name="python3",
            progress_bar=False,
            config=config,
            extra_arguments=["--log-level=CRITICAL"],
        )
    # THEN there is a case
    case = coldcache.open_case(tmp_path / "incident")
    assert case.meta["ended"] == "completed"
    # AND one line and one figure, in their last state: updates replace and pile up nothing
    text = (tmp_path / "out.ipynb").read_text("utf-8")
    assert "swordfish" not in text
    outputs = [out.data for cell in nbformat.reads(text, 4).cells for out in cell.get("outputs", ()) if "data" in out]
    shown = [data[PLOTLY]["layout"]["title"]["text"] for data in outputs if PLOTLY in data]
    assert len(shown) == 1
    assert shown[0].startswith("Recorded ")
    assert shown[0].endswith("s: completed")
    assert sum("commands ·" in data.get("text/plain", "") for data in outputs) == 1


CODE = """
import coldcache
case = coldcache.record_live({url_env!r}, {out!r}, seconds=60, fault="key_prefix")
print("ended", case.meta["ended"], len(case.accesses), case.meta["problems"])
"""


@pytest.mark.live
@pytest.mark.parametrize("which", ["own", "sample"])
def test_interrupting_the_kernel_ends_the_recording_well(which: str, tmp_path: Path):
    # GIVEN a kernel that records for a minute, of a server of ours or of the sample
    with lab_server() as url:
        code = CODE.format(url_env="MY_URL" if which == "own" else "", out=str(tmp_path / "case"))
        config = Config()
        config.KernelManager.transport_encryption = "auto"
        manager = KernelManager(kernel_name="python3", config=config)
        manager.start_kernel(env={**os.environ, "MY_URL": url})
        client = manager.blocking_client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            client.execute(code)
            titles, printed, errors = [], "", []
            interrupted, deadline = False, time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    message = client.get_iopub_msg(timeout=5)
                except Empty:
                    continue
                kind, content = message["msg_type"], message["content"]
                if kind in ("display_data", "update_display_data") and PLOTLY in content["data"]:
                    titles.append(content["data"][PLOTLY]["layout"]["title"]["text"])
                printed += content["text"] if kind == "stream" else ""
                errors += [content] if kind == "error" else []
                # WHEN it is interrupted as the stop button does it, after the third drawing
                if len(titles) == 3 and not interrupted:
                    manager.interrupt_kernel()
                    interrupted = True
                if kind == "status" and content["execution_state"] == "idle" and titles:
                    break
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=False)
            manager.cleanup_resources()
    # THEN the cell goes on with the case, which was ended well and says so
    assert errors == []
    assert printed.startswith("ended interrupted")
    assert printed.rstrip().endswith("[]")
    assert titles[-1].endswith("s: interrupted")
    case = coldcache.open_case(tmp_path / "case")
    assert not case.gaps
    if which == "sample":
        assert coldcache.diagnose(case).findings[0].cause == "key_prefix"
