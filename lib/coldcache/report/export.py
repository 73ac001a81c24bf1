"""One offline HTML file from executed notebooks: verdict first, code folded away.

nbconvert drops plotly's figures silently, so they are put in at export; plotly.js is included
once. A content security policy forbids the page every request.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.io as pio
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.preprocessors import Preprocessor
from nbformat import NotebookNode
from plotly.offline import get_plotlyjs

from coldcache.case import Case
from coldcache.figures.theme import PLOT_CONFIG

_PLOTLY_MIME = "application/vnd.plotly.v1+json"
_TEMPLATES = Path(__file__).parent / "templates"
_VERDICT_SECTION = "90_root_cause"
# papermill puts its own banner where a cell failed; the page says it in its own words.
_HIDDEN = frozenset({"parameters", "injected-parameters", "report-hide", "papermill-error-cell-tag"})
_LAST = "report-last"


@dataclass(frozen=True, slots=True)
class Section:
    """One executed notebook; `failure` says why it did not run to its end, if it did not."""

    name: str
    notebook: NotebookNode
    failure: str | None

    @property
    def label(self) -> str:
        """A short name for the navigation: ``90_root_cause`` is "Root cause"."""
        return self.name.split("_", 1)[-1].replace("_", " ").capitalize()

    @property
    def title(self) -> str:
        """The notebook's first heading, which is its question."""
        for cell in self.notebook.cells:
            if cell.cell_type == "markdown" and cell.source.startswith("# "):
                return str(cell.source.splitlines()[0][2:])
        return self.name


class InlineFigures(Preprocessor):
    """Turn plotly's JSON outputs into HTML, with stable ids so that two reports can be compared."""

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        """Replace each figure's data by a div and the script that draws it."""
        for cell in nb.cells:
            for number, output in enumerate(cell.get("outputs", ())):
                if spec := output.get("data", {}).pop(_PLOTLY_MIME, None):
                    output["data"]["text/html"] = pio.to_html(
                        {"data": spec["data"], "layout": spec["layout"]},
                        config=PLOT_CONFIG,
                        full_html=False,
                        include_plotlyjs=False,
                        include_mathjax=False,
                        validate=False,
                        div_id=f"fig-{cell.id}-{number}",
                    )
        return nb, resources


class Arrange(Preprocessor):
    """Fit a notebook into the page: no heading of its own, bookkeeping cells away or at the end."""

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        """Drop the first heading and the cells tagged as hidden; move those tagged for the end."""
        cells = [cell for cell in nb.cells if not _HIDDEN & set(cell.metadata.get("tags", ()))]
        nb.cells = sorted(cells, key=lambda cell: _LAST in cell.metadata.get("tags", ()))
        for cell in nb.cells:
            if cell.cell_type == "markdown" and cell.source.startswith("# "):
                cell.source = "\n".join(cell.source.splitlines()[1:]).strip()
                break
        return nb, resources


def _body(notebook: NotebookNode) -> str:
    exporter = HTMLExporter(
        extra_template_basedirs=[str(_TEMPLATES)],
        template_name="coldcache",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        mathjax_url="",
        require_js_url="",
        mermaid_js_url="",
    )
    exporter.register_preprocessor(Arrange, enabled=True)
    exporter.register_preprocessor(InlineFigures, enabled=True)
    body, _ = exporter.from_notebook_node(notebook)
    return str(body)


def write_report(path: Path, case: Case, sections: list[Section], diagnosis: dict[str, Any] | None) -> Path:
    """Write the report and return its path.

    Parameters
    ----------
    path : Path
        The HTML file.
    sections : list of Section
        In reading order; the verdict's is moved to the top.
    diagnosis : dict or None
        The verdict, for the page's title; None when there is none.
    """
    ordered = sorted(sections, key=lambda section: (section.name != _VERDICT_SECTION, section.name))
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=select_autoescape(default=True), undefined=StrictUndefined
    )
    page = environment.get_template("page.html").render(
        case=case,
        seconds=(case.end - case.start).total_seconds(),
        server=case.server,
        verdict=diagnosis["verdict"] if diagnosis else None,
        sections=[
            {
                "id": section.name,
                "label": section.label,
                "title": section.title,
                "failure": section.failure,
                "body": Markup(_body(section.notebook)),  # noqa: S704 (nbconvert's HTML; outputs escape themselves)
            }
            for section in ordered
        ],
        plotly_js=Markup(get_plotlyjs()),  # noqa: S704 (plotly's own source)
    )
    path.write_text(page, "utf-8")
    return path
