"""Notebook parameters, checked before any kernel starts: papermill itself validates nothing."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papermill

from coldcache.errors import ParameterTypeError, UnknownNameError, UnknownParameterError, UsageError, did_you_mean

# Tag of a parameters cell: this notebook does something, and a report on a case must not do it again.
NOT_FOR_REPORTS = "report-never"
_CREDENTIALS = re.compile(r"\w+://[^/\s]*@")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter that a notebook declares: its annotated type, default and comment, as text."""

    name: str
    type: str
    default: str
    help: str


def notebooks_folder() -> Path:
    """Return the folder of the notebooks: ``notebooks`` of the checkout, or $COLDCACHE_NOTEBOOKS."""
    return Path(os.environ.get("COLDCACHE_NOTEBOOKS") or Path(__file__).parents[3] / "notebooks")


def notebook_names() -> list[str]:
    """Return the names of the notebooks that a report runs, in reading order."""
    return [path.stem for path in _notebooks() if not _never_reported(path)]


def _notebooks() -> list[Path]:
    return sorted(notebooks_folder().glob("[0-9]*.ipynb"))


def _never_reported(notebook: Path) -> bool:
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return any(NOT_FOR_REPORTS in cell["metadata"].get("tags", ()) for cell in cells)


def notebook_path(name: str) -> Path:
    """Return the notebook of a report of that name, with or without ``.ipynb``.

    Raises
    ------
    UnknownNameError
        There is no such notebook.
    UsageError
        It does something itself, like recording, and is no part of a report.
    """
    stem = name.removesuffix(".ipynb")
    if any(stem == path.stem and _never_reported(path) for path in _notebooks()):
        raise UsageError(
            f"{stem} is no part of a report: it would record, while a report explains what was recorded. "
            "Open it in JupyterLab, or record with: coldcache record"
        )
    if stem not in (known := notebook_names()):
        raise UnknownNameError(f"There is no notebook {name!r}.{did_you_mean(stem, known)} Notebooks: {', '.join(known)}.")
    return notebooks_folder() / f"{stem}.ipynb"


def declared_parameters(notebook: Path) -> dict[str, Parameter]:
    """Return what a notebook's ``parameters`` cell declares."""
    found = papermill.inspect_notebook(str(notebook))
    return {name: Parameter(name, str(p["inferred_type_name"]), str(p["default"]), str(p["help"])) for name, p in found.items()}


def checked_parameters(notebooks: list[Path], given: Mapping[str, str]) -> dict[Path, dict[str, Any]]:
    """Return the parameters of each notebook, converted to the declared types.

    Parameters
    ----------
    notebooks : list of Path
    given : mapping of name to text
        A parameter goes to every notebook that declares it.

    Raises
    ------
    UnknownParameterError
        No notebook declares it.
    ParameterTypeError
        A value does not convert to the declared type.
    UsageError
        A value carries credentials: papermill would write them into its output.
    """
    declared = {notebook: declared_parameters(notebook) for notebook in notebooks}
    known = sorted({name for parameters in declared.values() for name in parameters} - {"case_folder"})
    for name, value in given.items():
        if _CREDENTIALS.search(value):
            raise UsageError(
                f"The parameter {name!r} holds a user or password, and parameters are stored in the report. "
                "Put the URL into an environment variable."
            )
        if name not in known:
            where = notebooks[0].name if len(notebooks) == 1 else "No notebook of this report"
            has = "has no" if len(notebooks) == 1 else "has a"
            raise UnknownParameterError(
                f"{where} {has} parameter {name!r}.{did_you_mean(name, known)} Declared: {', '.join(known) or 'none'}."
            )
    return {
        notebook: {name: _convert(parameters[name], value, notebook) for name, value in given.items() if name in parameters}
        for notebook, parameters in declared.items()
    }


_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _convert(parameter: Parameter, text: str, notebook: Path) -> Any:
    try:
        if parameter.type == "bool":
            return _BOOLEANS[text.lower()]
        if parameter.type in ("int", "float"):
            number = {"int": int, "float": float}[parameter.type](text)
            if not math.isfinite(number):
                raise ValueError(text)
            return number
    except (ValueError, KeyError):
        raise ParameterTypeError(
            f"{notebook.name}: parameter {parameter.name!r} should be {parameter.type} but got {text!r}. "
            f"Default: {parameter.default}. {parameter.help}".rstrip()
        ) from None
    return text
