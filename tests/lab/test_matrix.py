"""The matrix: what counts as right, what its table says, and real runs of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from coldcache.cli import app, lab_app, run
from coldcache.lab.faults import FAULTS
from coldcache.lab.matrix import Matrix, Outcome, Plan, judged, run_plan

IMG = {"reads": "prod_cache:img:*", "writes": "dev_cache:img:*"}
THUMB = {"reads": "prod_cache:thumb:*", "writes": "dev_cache:thumb:*"}


def finding(cause: str, edit: str | None = None, *families: dict[str, str], **more: str) -> dict[str, Any]:
    return {
        "cause": cause, "edit": edit, "families": list(families), "verdict": "confirmed", "summary": f"it is {cause}", **more,
    }  # fmt: skip


def diagnosis(*findings: dict[str, Any], verdict: str = "faulty", misses: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"verdict": verdict, "findings": list(findings), "misses": [{"cause": cause} for cause in misses]}


def test_right_is_the_cause_first_with_its_edit_and_all_its_families():
    truth, edit = FAULTS["key_prefix"], "dev_cache -> prod_cache"
    right = finding("key_prefix", edit, THUMB, IMG)
    assert judged(truth, diagnosis(right)) == (("key_prefix",), (), ())
    assert judged(truth, diagnosis(right, finding("flush"))) == (("key_prefix", "flush"), (), ("flush",))
    assert judged(truth, diagnosis(finding("flush"), right))[1] == ("key_prefix was taken for flush",)
    assert "the edit is dev -> prod" in judged(truth, diagnosis(finding("key_prefix", "dev -> prod", IMG, THUMB)))[1][0]
    assert "the families are dev_cache:img:*" in judged(truth, diagnosis(finding("key_prefix", edit, IMG)))[1][0]
    assert judged(truth, diagnosis(verdict="healthy")) == (("healthy",), ("key_prefix was not found",), ())


def test_a_healthy_cache_is_accused_of_nothing_but_what_its_truth_allows():
    truth = FAULTS["healthy_locks"]
    assert judged(truth, diagnosis(verdict="healthy")) == (("healthy",), (), ())
    assert judged(truth, diagnosis(finding("key_growth", kind="advice"), verdict="healthy"))[1] == ()
    assert judged(truth, diagnosis(finding("metric_distortion"), verdict="healthy"))[1] == ()
    assert judged(truth, diagnosis(finding("set_skipped")))[1] == ("set_skipped (confirmed): it is set_skipped",)
    assert judged(truth, diagnosis(verdict="insufficient_evidence"))[1] == ("the verdict is insufficient_evidence",)


def test_a_distorted_ratio_may_be_told_by_the_misses():
    truth = FAULTS["metric_distortion_locks"]
    assert judged(truth, diagnosis(verdict="healthy", misses=("metric_distortion", "cold_start")))[1] == ()
    assert judged(truth, diagnosis(verdict="healthy", misses=("cold_start",)))[1] != ()


def test_of_two_faults_both_are_found_in_any_order():
    truth = FAULTS["key_prefix+ttl_unit"]
    prefix = finding("key_prefix", "dev_cache -> prod_cache", IMG)
    unit = finding("ttl_unit", "PX 300 -> EX 300", {"reads": "prod_cache:thumb:*", "writes": "prod_cache:thumb:*"})
    assert judged(truth, diagnosis(unit, prefix))[1] == ()
    assert judged(truth, diagnosis(unit, finding("flush"), prefix))[1] == ("key_prefix was taken for flush",)


def test_the_table_says_what_each_cause_was_taken_for():
    plan = Plan(faults=("key_prefix", "key_prefix+ttl_unit"), seeds=2)
    matrix = Matrix(
        plan,
        (
            Outcome("key_prefix", 1, "exact", "key_prefix", ("key_prefix", "flush"), ()),
            Outcome("key_prefix", 2, "exact", "key_prefix", ("healthy",), ("key_prefix was not found",)),
            Outcome("key_prefix+ttl_unit", 1, "exact", "key_prefix+ttl_unit", ("ttl_unit", "key_prefix"), ()),
        ),
    )
    assert matrix.confusion("exact") == {
        "key_prefix": {"key_prefix": 1, "healthy": 1},
        "key_prefix+ttl_unit": {"key_prefix+ttl_unit": 1},
    }
    assert not matrix.all_right
    assert "Exact recording: 2 of 3 right" in str(matrix)
    assert "wrong: key_prefix, seed 2, exact: key_prefix was not found" in str(matrix)
    assert "| `key_prefix` | key_prefix 1, healthy 1 | 1 of 2 |" in matrix.to_markdown()
    assert matrix.to_dict()["right"] == 2


# --- The command line -------------------------------------------------------------------------------


def test_the_list_groups_everything_by_cause(capsys: pytest.CaptureFixture[str]):
    assert run(["lab", "list"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in FAULTS)
    assert "\nkey_naming\n  key_naming_case " in out
    assert "\ntwo at once\n" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lab", "run"], "coldcache lab list"),
        (["lab", "run", "healthy", "--all"], "coldcache lab list"),
        (["lab", "run", "key_prefx"], "Did you mean 'key_prefix'"),
        (["lab", "run", "healthy", "--basis", "exat"], "Did you mean 'exact'"),
        (["lab", "run", "healthy", "--seconds", "1"], "--seconds"),
    ],
)
def test_a_mistake_gets_one_message(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]):
    assert run(arguments) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_every_command_of_the_lab_explains_itself_and_is_in_the_readme(capsys: pytest.CaptureFixture[str]):
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    names = [command.name for command in lab_app.registered_commands]
    assert names == ["list", "run"]
    assert lab_app in [group.typer_instance for group in app.registered_groups]
    for name in names:
        assert run(["lab", str(name), "--help"]) == 0
        assert len(capsys.readouterr().out.splitlines()) > 5
        assert f"coldcache lab {name}" in readme


# --- Real runs --------------------------------------------------------------------------------------

# One of each way in which something can be made to happen: steps, actors, options, fleets, a replica, a restart.
REAL = (
    "healthy_replica", "healthy_queues", "incomplete_capture", "key_version_fleets", "key_collision_type", "wrong_db", "ttl_zero",
    "eviction_lru", "write_rejected_misconf", "monitor_backlog", "flush_restart", "stampede", "heap_leak+key_prefix",
)  # fmt: skip


def _command_of(process: psutil.Process) -> str:
    """Return the command line of a process, nothing if it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.live
@pytest.mark.alone  # its recordings run side by side already
def test_what_a_fault_is_about_really_happens_and_nothing_is_left(tmp_path: Path):
    # WHEN some are recorded and diagnosed
    plan = Plan(faults=REAL, seeds=1, seconds=10, jobs=4, out=tmp_path / "cases")
    matrix = run_plan(plan)
    # THEN each was recorded, and shows what it is about, whatever the diagnosis says
    assert [outcome.fault for outcome in matrix.outcomes] == [name for name in REAL for _ in plan.bases]
    wrong = [f"{outcome.fault}: {what}" for outcome in matrix.outcomes for what in outcome.wrong]
    assert [what for what in wrong if "it did not happen" in what or ": failed" in what] == []
    # AND no process is left
    assert [child for child in psutil.Process().children(recursive=True) if "dragon3" in _command_of(child)] == []
    # AND the same again diagnoses what was kept, with the same result
    began = {path: path.stat().st_mtime_ns for path in (tmp_path / "cases").glob("*/exact/case.json")}
    assert run_plan(plan) == matrix
    assert {path: path.stat().st_mtime_ns for path in began} == began


@pytest.mark.live
def test_ctrl_c_ends_a_run_and_leaves_nothing(tmp_path: Path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [
        sys.executable,
        "-m",
        "coldcache",
        "lab",
        "run",
        "healthy",
        "eviction_neighbour",
        "--seeds",
        "1",
        "--seconds",
        "120",
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # GIVEN a run whose analyzers are at work
    children: list[psutil.Process] = []
    deadline = time.monotonic() + 90
    while sum("dragon3" in " ".join(child.cmdline()) for child in children) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.5)
        children = [child for child in psutil.Process(process.pid).children(recursive=True) if child.status() != "zombie"]
    time.sleep(2)
    # WHEN it is interrupted
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    # THEN it says so, and neither a process nor a file is left
    assert process.returncode == 1
    assert (out, err) == ("", "coldcache: interrupted.\n")
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert list(tmp_path.iterdir()) == []


def test_the_page_of_benchmarks_is_of_this_registry():
    page = (Path(__file__).parents[2] / "benchmarks" / "diagnosis.md").read_text("utf-8")
    assert [cause for cause in {fault.cause for fault in FAULTS.values()} if f"| `{cause}` |" not in page] == []


def test_json_is_json_and_nothing_else(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    matrix = Matrix(Plan(faults=("healthy",)), (Outcome("healthy", 1, "exact", "healthy", ("healthy",), ()),))
    monkeypatch.setattr("coldcache.lab.matrix.run_plan", lambda plan, on_progress: matrix)
    assert run(["lab", "run", "healthy", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads(json.dumps(matrix.to_dict()))
    assert err == ""
