"""The project's own promises: one set of packages, clean notebooks, a README that names what there is."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import coldcache
import nbformat
import pytest
import yaml
from coldcache.case import sample_names
from coldcache.cli import app
from coldcache.report.parameters import declared_parameters, notebook_names, notebook_path
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def locked() -> dict[str, Version]:
    found = {}
    for entry in re.finditer(
        r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;\\]+)(?: ; ([^\\\n]+))?",
        (ROOT / "requirements.lock").read_text("utf-8"),
        re.MULTILINE,
    ):
        if entry[3] is None or Marker(entry[3].strip()).evaluate():
            found[entry[1].lower().replace("_", "-")] = Version(entry[2])
    return found


def declared() -> list[Requirement]:
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    return [Requirement(text) for group in groups for text in group]


@pytest.mark.parametrize("module", ["record.recorder", "record.guardian", "record.finish", "doctor.preflight", "cli"])
def test_what_records_waits_for_no_compiler(module: str):
    code = f"import sys, coldcache.{module}; print('numba' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_an_import_of_logs_starts_without_pandas(tmp_path: Path):
    log = tmp_path / "a.log"
    log.write_text('1763800000.000000 [0 10.0.0.1:5000] "GET" "k"\n')
    code = (
        "import sys\nfrom coldcache.cli import run\n"
        f"status = run(['import', '-q', {str(log)!r}, '--out', {str(tmp_path / 'case')!r}])\n"
        "print(status, 'pandas' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "0 False"


def test_every_declared_package_is_locked_within_its_range():
    versions = locked()
    for requirement in declared():
        assert requirement.name.lower() in versions, requirement
        assert requirement.specifier.contains(versions[requirement.name.lower()], prereleases=True), requirement


def test_the_lock_has_a_hash_for_every_package():
    blocks = re.split(r"\n(?=[a-zA-Z0-9])", (ROOT / "requirements.lock").read_text("utf-8"))
    assert all("--hash=sha256:" in block for block in blocks if "==" in block.split("\n", 1)[0])


def test_the_slow_jsonschema_stays_out():
    assert locked()["jsonschema"] < Version("4.25")


def test_conda_users_get_python_and_the_locked_set():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    assert Requirement(f"python{PROJECT['project']['requires-python']}").specifier.contains(python.split("=")[1])
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    # conda hands these lines to pip as a requirements file: an option such as --no-deps would break it.
    assert pip == ["-r requirements.lock"]
    others = [entry for entry in environment["dependencies"] if isinstance(entry, str) and not entry.startswith("python=")]
    assert others == ["pip"]


def test_the_library_is_not_hidden_by_the_ignore_file():
    lines = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert lines.index("!/lib/") > lines.index("lib/")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_executed_small_and_clean(path: Path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert path.stat().st_size < 300_000
    text = path.read_text("utf-8")
    assert not re.search(r"/(home|root|tmp|work|Users|private)/", text)
    assert "papermill" not in notebook.metadata
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert "parameters" in code[0].metadata.get("tags", ())
    assert notebook.cells[0].source.startswith("# ")
    assert notebook.cells[0].source.splitlines()[0].endswith("?")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_logic(path: Path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 10
            assert not re.search(r"^\s*(for|while|def|class|if|lambda)\b", cell.source, re.MULTILINE)


def test_the_readme_names_every_command_notebook_parameter_and_sample():
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    wanted = [f"coldcache {name}" for name in commands] + notebook_names() + sample_names()
    wanted += [name for notebook in notebook_names() for name in declared_parameters(notebook_path(notebook))]
    assert [name for name in wanted if name not in readme] == []


def test_the_architecture_names_every_room():
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    rooms = [
        path.name
        for path in (ROOT / "lib" / "coldcache").iterdir()
        if (path.is_dir() and path.name != "__pycache__") or (path.suffix == ".py" and not path.name.startswith("__"))
    ]
    assert [room for room in rooms if room not in text] == []


def test_no_file_carries_a_path_of_some_machine():
    for folder in ("lib", "notebooks", "tools", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".ipynb", ".md", ".html", ".j2"):
                assert not re.search(r"/(root|work)/", path.read_text("utf-8")), path


def test_public_names_are_what_they_say_whatever_was_imported_before():
    # A submodule of the same name would take the place of a function once imported.
    for module in pkgutil.walk_packages(coldcache.__path__, "coldcache."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in set(coldcache.__all__) - {"__version__", "figures"}:
        assert callable(getattr(coldcache, name)), name
    assert set(coldcache.__all__) <= set(dir(coldcache))
