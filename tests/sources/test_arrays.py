"""Compiled code without numba: made once, loaded from then on, made again when what it was made of changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import coldcache
import numpy as np
import pytest
from coldcache.sources import arrays
from coldcache.sources.log import kernel

KERNEL = """
def twice(number):
    return 2 * number
ENTRIES = {"twice": (twice, 1)}
"""


def test_an_import_starts_without_a_compiler(tmp_path: Path):
    kernel()  # compiled by now
    log = tmp_path / "a.log"
    log.write_text('1763800000.000000 [0 10.0.0.1:5000] "GET" "k"\n')
    code = (
        "import sys\nfrom coldcache.cli import run\n"
        f"status = run(['import', '-q', {str(log)!r}, '--out', {str(tmp_path / 'case')!r}])\n"
        "print(status, [name for name in ('numba', 'scipy', 'rich', 'pandas') if name in sys.modules])"
    )
    arguments = [sys.executable, "-c", code]
    subprocess.run([*arguments[:2], code.replace("case", "first")], capture_output=True, check=True)  # compiles what is left
    run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "0 []"


def test_a_diagnosis_starts_without_a_compiler(tmp_path: Path):
    # GIVEN a log of commands alone: its keys have families, its reads states and fills
    log, case = tmp_path / "a.log", tmp_path / "case"
    commands = (command for number in range(200) for command in (f'"GET" "user:{number}"', f'"SET" "user:{number}" "v"'))
    log.write_text("".join(f"{1763800000 + at}.000000 [0 10.0.0.1:5000] {command}\n" for at, command in enumerate(commands)))
    code = (
        "import sys\nfrom coldcache.cli import run\n"
        f"run(['diagnose', {str(case)!r}, '--json'])\n"
        "print([name for name in ('numba', 'scipy') if name in sys.modules])"
    )
    subprocess.run([sys.executable, "-m", "coldcache", "import", "-q", str(log), "--out", str(case)], check=True)
    arguments = [sys.executable, "-c", code]
    subprocess.run(arguments, capture_output=True, check=True)  # compiles what is left
    run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_arrays_are_handed_over_only_as_compiled_code_takes_them():
    column = np.arange(6)
    assert arrays.place(column, np.int64, 6) == column.ctypes.data
    odd = np.frombuffer(b"\1" + column.tobytes(), np.uint8)[1:].view(np.int64)  # its address is
    for wrong, kind, count in ((column, np.int32, 6), (column, np.int64, 7), (column[::2], np.int64, 3), (odd, np.int64, 6)):
        with pytest.raises(ValueError, match="is needed"):
            arrays.place(wrong, kind, count)
        as_taken = arrays.handed(wrong, kind)
        assert arrays.place(as_taken, kind, len(wrong)) == as_taken.ctypes.data
        assert as_taken.tolist() == wrong.tolist()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with a kernel, that may be imported."""
    path = tmp_path / "small_kernel.py"
    path.write_text(KERNEL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, "small_kernel", raising=False)
    arrays.compiled.cache_clear()
    yield path
    sys.modules.pop("small_kernel", None)
    arrays.compiled.cache_clear()


def held(folder: Path) -> list[Path]:
    return sorted((folder / "__pycache__").glob("small_kernel.*.o"))


def test_machine_code_is_kept_and_used_again(module: Path, monkeypatch: pytest.MonkeyPatch):
    assert arrays.compiled("small_kernel")["twice"](21) == 42
    (kept,) = held(module.parent)
    arrays.compiled.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(arrays, "_compile", lambda *_: pytest.fail("compiled again"))
        assert arrays.compiled("small_kernel")["twice"](4) == 8
    # What is cut, or made of something else, is made again.
    kept.write_bytes(kept.read_bytes()[:-10])
    arrays.compiled.cache_clear()
    assert arrays.compiled("small_kernel")["twice"](5) == 10
    module.write_text(KERNEL.replace("2 *", "3 *"))
    sys.modules.pop("small_kernel")
    (module.parent / "__pycache__" / "small_kernel.cpython-311.pyc").unlink(missing_ok=True)
    arrays.compiled.cache_clear()
    assert arrays.compiled("small_kernel")["twice"](5) == 15


def test_where_nothing_can_be_written_it_still_works(module: Path):
    (module.parent / "__pycache__").write_text("no folder")
    (module.parent / "cache").write_text("no folder")
    assert arrays.compiled("small_kernel")["twice"](21) == 42


def test_code_that_could_raise_is_refused(module: Path):
    module.write_text("def parts(number):\n    return len([number])\nENTRIES = {'parts': (parts, 1)}\n")
    with pytest.raises(AssertionError, match="may raise or allocate"):
        arrays.compiled("small_kernel")


def test_whoever_waits_for_the_compiler_is_told_once(tmp_path: Path):
    # GIVEN an installation whose machine code is gone
    copy = shutil.copytree(Path(coldcache.__file__).parent, tmp_path / "coldcache", ignore=shutil.ignore_patterns("*.o"))
    log = tmp_path / "a.log"
    log.write_text('1763800000.000000 [0 10.0.0.1:5000] "GET" "k"\n')
    environment = {**os.environ, "PYTHONPATH": str(copy.parent), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def said(case: str, *more: str) -> str:
        command = [sys.executable, "-m", "coldcache", "import", str(log), "--out", str(tmp_path / case), *more]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300
        ).stderr

    # WHEN a log is imported THEN the wait is explained, and there is none the next time
    assert said("one").count("Compiling") == 1
    assert said("two") == ""
