"""The papermill runner: notebooks in, executed notebooks and the verdict out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from coldcache.case import Case
from coldcache.errors import CaseExistsError, NotebookFailedError
from coldcache.record.finish import open_case
from coldcache.report.export import Section, write_report
from coldcache.report.parameters import checked_parameters, notebook_names, notebook_path
from coldcache.verdict import MIME

VERDICT_NOTEBOOK = "90_root_cause"
_CELL_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Report:
    """A finished report: the HTML file, and the verdict as `verdict` (JSON of the contract) with `alert`."""

    html: Path
    verdict: dict[str, Any]
    alert: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What to run. `notebooks` empty means all; `parameters` are texts, converted and checked."""

    out: Path
    notebooks: tuple[str, ...] = ()
    parameters: dict[str, str] = field(default_factory=dict)


def run_report(case_folder: str, options: ReportOptions, on_step: Callable[[str, int, int], None] = lambda *_: None) -> Report:
    """Run the notebooks on a case and write ``index.html`` into the output folder.

    Everything that can be checked is checked before the first kernel starts. The report is
    written in every case, also when a notebook fails.

    Parameters
    ----------
    case_folder : str
        A case folder or the name of a sample.
    on_step : callable
        Called with what is going on, steps done and steps in all.

    Raises
    ------
    NotACaseError, UnknownNameError, UnknownParameterError, ParameterTypeError, CaseExistsError
        Wrong arguments; nothing has run.
    NotebookFailedError
        A notebook failed, or no verdict came; the report holds what there is.
    """
    case = open_case(case_folder)
    names = _chosen(options.notebooks)
    paths = [notebook_path(name) for name in names]
    parameters = checked_parameters(paths, options.parameters)
    folder = _new_folder(options.out)
    sections = []
    for done, path in enumerate(paths):
        on_step(path.stem, done, len(paths) + 1)
        sections.append(_run(path, folder / path.name, {"case_folder": case_folder, **parameters[path]}))
    on_step("writing the report", len(paths), len(paths) + 1)
    bundle = _verdict(sections)
    diagnosis = bundle["diagnosis"] if bundle else None
    page = write_report(folder / "index.html", case, sections, diagnosis)
    on_step("done", len(paths) + 1, len(paths) + 1)
    failed = next((section for section in sections if section.failure), None)
    if failed:
        raise NotebookFailedError(f"{failed.name} did not run to its end: {failed.failure} What there is stands in {page}")
    if bundle is None or diagnosis is None:
        raise NotebookFailedError(f"{VERDICT_NOTEBOOK} ended without a verdict. What there is stands in {page}")
    (folder / "verdict.json").write_text(json.dumps(diagnosis, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return Report(page, diagnosis, bool(bundle["alert"]))


def _chosen(names: tuple[str, ...]) -> list[str]:
    """Return the notebooks to run, always with the verdict's: without it a report could not alert."""
    chosen = {notebook_path(name).stem for name in names} or set(notebook_names())
    return sorted(chosen | {VERDICT_NOTEBOOK})


def _new_folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        raise CaseExistsError(f"{out} already exists, and a report is never overwritten. Choose another --out.") from None
    except OSError as error:
        raise CaseExistsError(f"{out} cannot be created ({error.strerror}). Choose another --out.") from None
    return out


def _run(source: Path, target: Path, parameters: dict[str, Any]) -> Section:
    # CurveZMQ between runner and kernel: without it ipykernel warns on every start.
    config = Config()
    config.KernelManager.transport_encryption = "auto"
    failure = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # nbclient leaves sockets to the collector
            papermill.execute_notebook(
                # papermill formats paths with str.format: braces are doubled.
                _literal(source),
                _literal(target),
                parameters=parameters,
                # Where the user stands: the case is named, and shown, as the user typed it. The
                # notebooks find everything else through the library.
                cwd=str(Path.cwd()),
                kernel_name="python3",
                progress_bar=False,
                execution_timeout=_CELL_TIMEOUT_S,
                config=config,
                # The kernel reports its own shutdown as an error now and then.
                extra_arguments=["--log-level=CRITICAL"],
            )
    except PapermillExecutionError as error:
        failure = f"{error.ename}: {error.evalue}"
    except CellTimeoutError:
        failure = f"a cell took longer than {_CELL_TIMEOUT_S} s."
    except DeadKernelError:
        failure = "its kernel died; was the machine out of memory?"
    notebook = nbformat.read(target if target.exists() else source, as_version=4)
    return Section(source.stem, notebook, failure)


def _literal(path: Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")


def _verdict(sections: list[Section]) -> dict[str, Any] | None:
    for section in sections:
        for cell in section.notebook.cells:
            for output in cell.get("outputs", ()):
                if MIME in output.get("data", {}):
                    return dict(output["data"][MIME])
    return None


def case_name(case: Case) -> str:
    """Return a name for the report's folder: the last part of what the user called the case."""
    return Path(case.shown_as).name or case.folder.resolve().name
