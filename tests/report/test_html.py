"""The report in a real browser: offline, quiet, every figure drawn, the answer in the first screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from coldcache.errors import NotebookFailedError
from coldcache.report.runner import ReportOptions, run_report
from conftest import case_of, event, line
from playwright.sync_api import Browser, Page, sync_playwright

pytestmark = [pytest.mark.browser, pytest.mark.live]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield launched
        launched.close()


@pytest.fixture(scope="module", params=["sample-key_prefix", "sample-heap_leak"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_report(request.param, ReportOptions(out=tmp_path_factory.mktemp("report") / "out")).html


class Watched:
    """A page together with all that it said and asked for."""

    def __init__(self, browser: Browser, path: Path, width: int) -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function(
            "[...document.querySelectorAll('.plotly-graph-div')].every(d => d.querySelector('.main-svg'))"
        )


@pytest.mark.parametrize("width", [1400, 800])
def test_the_page_is_offline_quiet_and_drawn(browser: Browser, report: Path, width: int):
    watched = Watched(browser, report, width)
    # THEN the console is silent and nothing but the file itself was asked for
    assert watched.complaints == []
    assert watched.requests == [report.as_uri()]
    assert "exact recording" in (watched.page.locator("header .case").text_content() or "")
    # AND every figure of the notebooks is there, drawn with marks or a note, and not empty
    figures = watched.page.evaluate(
        """[...document.querySelectorAll('.plotly-graph-div')].map(d => ({
            id: d.id, width: d.getBoundingClientRect().width, height: d.getBoundingClientRect().height,
            marks: d.querySelectorAll('.bars .point path, .scatterlayer .js-line, .annotation').length }))"""
    )
    stored = sum(
        "application/vnd.plotly.v1+json" in output.get("data", {})
        for path in report.parent.glob("*.ipynb")
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", ())
    )
    assert len(figures) == stored >= 6
    assert all(figure["marks"] > 0 and figure["width"] > 300 and figure["height"] > 60 for figure in figures), figures
    # AND the page is no wider than the screen
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1400, 800])
def test_the_answer_is_in_the_first_screen_and_the_code_is_folded(browser: Browser, report: Path, width: int):
    page = Watched(browser, report, width).page
    for selector in (".cc-verdict h3", ".cc-badge", ".cc-rates", "text=Do this:"):
        box = page.locator(selector).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 900, selector
    assert page.locator("details.code[open]").count() == 0
    assert page.locator("details.code").count() > 5


def test_zoom_and_hover_are_linked_over_all_panels_of_the_timeline(browser: Browser, report: Path):
    page = Watched(browser, report, 1400).page
    figure = page.locator("#fig-10-07-0")
    figure.scroll_into_view_if_needed()
    box = figure.bounding_box()
    assert box is not None
    # WHEN the pointer stands in the second panel THEN the box lists the series of every panel
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 260)
    page.wait_for_selector("#fig-10-07-0 .hoverlayer .legend")
    listed = page.locator("#fig-10-07-0 .hoverlayer").text_content() or ""
    assert all(name in listed for name in ("hit rate", "cold_start", "Redis used memory", "process RSS", "process heap")), listed
    # AND there is one time axis, so that one zoom moves all
    axes = page.evaluate("[...new Set(document.getElementById('fig-10-07-0').data.map(trace => trace.xaxis))]")
    assert axes == ["x4"]


def test_a_hostile_key_name_is_shown_and_not_run(browser: Browser, tmp_path: Path):
    # GIVEN keys that are HTML, with a script and an image that would call home
    evil = "<img src=https://evil.example/x onerror=window.hacked=1><script>window.hacked=1</script>"
    items = [
        item
        for number in range(120)
        for item in (event("keymiss", f"{evil}:{number % 30}"), line(number * 10, "GET", f"{evil}:{number % 30}"))
    ]
    case = case_of(tmp_path / "case", items)
    # WHEN reported
    made = run_report(str(case.folder), ReportOptions(out=tmp_path / "out"))
    watched = Watched(browser, made.html, 1400)
    # THEN nothing ran, nothing was asked for, and the key can be read
    assert watched.page.evaluate("window.hacked") is None
    assert watched.requests == [made.html.as_uri()]
    assert watched.complaints == []
    assert "onerror=window.hacked" in watched.page.inner_text("body")
    assert watched.page.locator("img[src*=evil]").count() == 0


def test_a_notebook_that_fails_still_leaves_a_report(tmp_path: Path):
    # GIVEN a case that opens, but whose accesses are damaged
    case = case_of(tmp_path / "case", [line(0, "GET", "a")])
    (case.folder / "accesses" / "part-00000.parquet").write_bytes(b"PAR1 not really")
    # WHEN reported THEN coldcache says it failed, and the page says where
    with pytest.raises(NotebookFailedError, match=r"90_root_cause did not run|did not run to its end"):
        run_report(str(case.folder), ReportOptions(out=tmp_path / "out", notebooks=("90_root_cause",)))
    assert "did not run to its end" in (tmp_path / "out" / "index.html").read_text("utf-8")
