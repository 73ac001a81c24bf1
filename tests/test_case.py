"""The case folder: created once, private, refused when it is no case."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from coldcache import schema
from coldcache.case import new_case_folder, open_case, sample_names, samples_folder, write_table
from coldcache.errors import CaseExistsError, DamagedCaseError, NotACaseError, UnknownNameError
from coldcache.lab.faults import SAMPLED
from conftest import case_of, line


def test_an_existing_folder_is_never_overwritten(tmp_path: Path):
    with pytest.raises(CaseExistsError, match="already exists"):
        new_case_folder(tmp_path)


def test_files_are_private(tmp_path: Path):
    case = case_of(tmp_path / "c", [line(0, "GET", "a")])
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    modes = {path.stat().st_mode & 0o777 for path in case.folder.rglob("*") if path.is_file()}
    assert modes == {0o600}


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"format": 99}', '{"format": 1}', "\x00\xff"])
def test_what_is_no_case_is_refused_in_one_sentence(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "case.json").write_text(content, "utf-8")
    with pytest.raises(NotACaseError) as caught:
        open_case(tmp_path)
    assert caught.value.exit_code == 64
    assert "\n" not in str(caught.value)


def test_a_misspelt_sample_is_met_with_the_nearest():
    with pytest.raises(NotACaseError, match="Did you mean 'sample-key_prefix'"):
        open_case("sample-key_prefx")


def test_a_damaged_table_says_which(tmp_path: Path):
    case = case_of(tmp_path / "c", [line(0, "GET", "a")])
    (case.folder / "server" / "info.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DamagedCaseError, match=r"server/info\.parquet"):
        case.table("info")


def test_a_missing_table_is_empty_and_named(tmp_path: Path):
    case = case_of(tmp_path / "c", [line(0, "GET", "a")])
    assert case.table("heap_intervals").empty
    assert case.missing("info", "heap_intervals") == ["heap profile"]
    with pytest.raises(UnknownNameError, match="Did you mean 'accesses'"):
        case.table("acceses")


def test_undeclared_and_naive_columns_are_bugs(tmp_path: Path):
    frame = schema.CONFIG.empty().assign(extra=1)
    with pytest.raises(ValueError, match="undeclared"):
        write_table(tmp_path, "config", frame)


def test_every_column_of_every_table_has_a_meaning():
    for table in schema.TABLES.values():
        assert table.meaning
        assert all(column.meaning for column in table.columns)


def test_samples_are_complete_small_and_as_recorded():
    assert sample_names() == sorted(f"sample-{fault}" for fault in SAMPLED)
    listed = dict(reversed(entry.split("  ", 1)) for entry in (samples_folder() / "SHA256SUMS").read_text("utf-8").splitlines())
    found = {path.relative_to(samples_folder()).as_posix(): path for path in samples_folder().glob("*/**/*") if path.is_file()}
    assert found.keys() == listed.keys()
    for name, path in found.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name], name
    for fault in SAMPLED:
        folder = samples_folder() / fault
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 2_000_000
        assert json.loads((folder / "case.json").read_text("utf-8"))["notes"]["lab"]["command"].startswith("coldcache demo")


def test_what_the_recorder_noted_is_shown(tmp_path: Path):
    case = case_of(tmp_path / "case", [line(0, "GET", "a")])
    case.meta["recorder_notes"] = ["stepped down from exact to events: the server answers slowly"]
    assert "note      stepped down from exact to events" in str(case)
