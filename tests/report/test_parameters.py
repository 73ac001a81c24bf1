"""Notebook parameters are checked before any kernel starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from coldcache.errors import (
    CaseExistsError,
    NotACaseError,
    ParameterTypeError,
    UnknownNameError,
    UnknownParameterError,
    UsageError,
)
from coldcache.report.parameters import checked_parameters, declared_parameters, notebook_names, notebook_path
from coldcache.report.runner import ReportOptions, run_report

TIMELINE = "10_timeline"


def test_every_notebook_declares_its_case_first_with_a_sample_as_default():
    for name in notebook_names():
        declared = declared_parameters(notebook_path(name))
        first = next(iter(declared.values()))
        assert first.name == "case_folder"
        assert first.default.strip("\"'").startswith("sample-")
        assert all(parameter.type in ("str", "int", "float", "bool") and parameter.help for parameter in declared.values())


def test_values_are_converted_to_the_declared_type():
    path = notebook_path(TIMELINE)
    assert checked_parameters([path], {"bin_s": "2.5"}) == {path: {"bin_s": 2.5}}


@pytest.mark.parametrize("value", ["banana", "nan", "inf", ""])
def test_a_wrong_type_names_notebook_parameter_and_value(value: str):
    with pytest.raises(ParameterTypeError, match=r"10_timeline\.ipynb: parameter 'bin_s' should be float"):
        checked_parameters([notebook_path(TIMELINE)], {"bin_s": value})


def test_a_misspelt_parameter_is_met_with_the_nearest():
    with pytest.raises(UnknownParameterError, match="Did you mean 'bin_s'"):
        checked_parameters([notebook_path(TIMELINE)], {"bins": "1"})


def test_credentials_are_refused_and_not_repeated():
    with pytest.raises(UsageError) as caught:
        checked_parameters([notebook_path(TIMELINE)], {"bin_s": "redis://me:swordfish@host:6379"})
    assert "swordfish" not in str(caught.value)


@pytest.mark.parametrize(
    ("case", "options", "error"),
    [
        ("nowhere", {}, NotACaseError),
        ("sample-healthy", {"notebooks": ("10_timelin",)}, UnknownNameError),
        ("sample-healthy", {"parameters": {"bin": "1"}}, UnknownParameterError),
        ("sample-healthy", {"parameters": {"bin_s": "x"}}, ParameterTypeError),
    ],
)
def test_wrong_arguments_end_before_anything_is_written(tmp_path: Path, case: str, options: dict, error: type[Exception]):
    with pytest.raises(error):
        run_report(case, ReportOptions(out=tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_an_existing_report_is_not_overwritten(tmp_path: Path):
    with pytest.raises(CaseExistsError):
        run_report("sample-healthy", ReportOptions(out=tmp_path))
