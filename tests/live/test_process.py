"""The process side of a recording, against real processes, a real memray and a real debugger."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import memray
import psutil
import pytest
from coldcache.errors import ProcessNotFoundError, UsageError
from coldcache.process.program import Attached, CommandError, MemrayMissingError, Program, attach, detach
from coldcache.process.sampler import ProcessSampler, cgroup_folders, cgroup_sample
from coldcache.sources.heap import read_heap
from coldcache.sources.jsonl import json_lines
from coldcache.sources.process import gc_table, process_table
from conftest import needed_on_ci

pytestmark = pytest.mark.live

LEAK = """
import sys, time
kept = []
def leak():
    kept.append(bytearray(100_000))
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    leak()
    time.sleep(0.01)
"""
FORK = """
import gc, os
kept = [bytearray(1_000_000)]
if (pid := os.fork()) == 0:
    kept.append(bytearray(3_000_000))
    gc.collect()
    os._exit(0)
os.waitpid(pid, 0)
gc.collect()
print("done", os.environ["COLDCACHE_APP_LOG"])
from coldcache.instrument import cache_log
cache_log().get("k", hit=False)
"""


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def the_program(folder: Path, command: str) -> Program:
    return Program(command, folder / "heap", folder / "gc.jsonl", folder / "app.jsonl")


def script(folder: Path, text: str, name: str = "app.py", mode: int = 0o644) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(mode)
    return path


def leaked(capture: Path) -> dict[str, int]:
    with memray.FileReader(capture) as reader:
        sizes: dict[str, int] = {}
        for record in reader.get_leaked_allocation_records(merge_threads=True):
            for function, file, _ in record.stack_trace()[:1]:
                sizes[f"{Path(file).name}:{function}"] = sizes.get(f"{Path(file).name}:{function}", 0) + record.size
    return sizes


# ---- --run -----------------------------------------------------------------------------------


def test_a_leak_is_recorded_and_the_program_is_stopped_in_order(tmp_path: Path):
    program = the_program(tmp_path, f"{sys.executable} -u {script(tmp_path, LEAK)} 60")
    assert program.note is None
    pid = program.start()
    until(lambda: bool(program.heap_files()) and program.heap_files()[0].stat().st_size > 10_000)
    time.sleep(1)
    assert not program.ended()
    assert psutil.Process(pid).cmdline()[1:4] == ["-u", "-m", "memray"]
    program.stop()
    assert program.ended()
    assert program.exit_code not in (None, -signal.SIGKILL)
    (capture,) = program.heap_files()
    # Closed cleanly: compressed, so SIGINT was enough.
    assert capture.read_bytes()[:4] == b"\x04\x22\x4d\x18"
    assert leaked(capture)["app.py:leak"] > 1_000_000
    assert read_heap(capture).pid == pid
    program.stop()


def test_forked_children_are_followed_and_collections_and_calls_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    program = the_program(tmp_path, f"{sys.executable} {script(tmp_path, FORK)}")
    pid = program.start()
    until(program.ended)
    assert program.exit_code == 0
    own, child = program.heap_files()
    assert child.name.startswith(own.name + ".")
    child_pid = int(child.suffix[1:])
    assert leaked(child)["app.py:<module>"] >= 3_000_000
    collections = gc_table(json_lines(tmp_path / "gc.jsonl"))
    assert set(collections["pid"]) == {pid, child_pid}
    assert collections["generation"].eq(2).any()
    assert [line["result"] for line in json_lines(tmp_path / "app.jsonl")] == ["MISS"]
    assert stat.S_IMODE((tmp_path / "gc.jsonl").stat().st_mode) == 0o600
    out, err = capfd.readouterr()
    assert (out, "done" in err) == ("", True)


@pytest.mark.parametrize(
    "command",
    ["{python} app.py 1 'two words'", "{python} -um app 1 'two words'", "./tool 1 'two words'", "app.py 1 'two words'",
     "{python} -X utf8 -c 'import sys; exec(open(\"app.py\").read())' 1 'two words'"],
)  # fmt: skip
def test_every_form_of_a_python_command_sees_its_own_arguments(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    body = "import sys\nprint(sys.argv[1:], __name__, [p for p in sys.path if 'gc_hook' in p])\n"
    script(tmp_path, body)
    script(tmp_path, f"#!{sys.executable} -u\n{body}", "tool", 0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    program = the_program(tmp_path, command.format(python=sys.executable))
    assert program.note is None
    program.start()
    until(program.ended)
    assert "['1', 'two words'] __main__ []" in capfd.readouterr().err
    assert program.exit_code == 0
    assert len(program.heap_files()) == 1


def test_the_programs_own_sitecustomize_still_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    script(tmp_path, "print('own sitecustomize')\nVALUE = 7\n", "sitecustomize.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    program = the_program(
        tmp_path, f"{sys.executable} -c 'import sitecustomize, gc; print(sitecustomize.VALUE, len(gc.callbacks))'"
    )
    program.start()
    until(program.ended)
    assert capfd.readouterr().err.endswith("own sitecustomize\n7 1\n")


def test_any_other_program_runs_as_it_is(tmp_path: Path):
    program = the_program(tmp_path, "sleep 60")
    assert program.note == "not a Python program: only its RSS is sampled"
    pid = program.start()
    assert psutil.Process(pid).name() == "sleep"
    assert program.exit_code is None
    program.stop()
    assert program.exit_code == -signal.SIGINT
    assert program.heap_files() == []


def test_a_program_that_ignores_interrupts_and_its_children_are_ended_too(tmp_path: Path):
    body = """
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
open("ready", "w").close()
time.sleep(60)
"""
    program = the_program(tmp_path, f"sh -c 'cd {tmp_path} && {sys.executable} {script(tmp_path, body)}; true'")
    pid = program.start()
    until((tmp_path / "ready").exists)
    group = [p.pid for p in psutil.Process(pid).children(recursive=True)]
    program.stop(timeout_s=0.5)
    assert program.ended()
    until(lambda: not any(psutil.pid_exists(one) and psutil.Process(one).status() != "zombie" for one in group))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("", "--run is empty"), ("  ", "--run is empty"), ("python 'x.py", "cannot be read"),
        ("no-such-program-here", "no program"), ("python3 no_such.py", "no program 'no_such.py'"),
        ("X=secret python app.py", "starts with X="), ("./missing.py", "no program"),
    ],
)  # fmt: skip
def test_a_command_that_cannot_run_is_one_sentence(command: str, says: str, tmp_path: Path):
    with pytest.raises(CommandError, match=says) as caught:
        the_program(tmp_path, command)
    assert isinstance(caught.value, UsageError)
    assert "secret" not in str(caught.value)


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter without memray."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python")


def test_an_interpreter_without_memray_is_told_what_to_install(bare_python: str, tmp_path: Path):
    with pytest.raises(MemrayMissingError, match=rf"{bare_python} -m pip install memray=="):
        the_program(tmp_path, f"{bare_python} {script(tmp_path, LEAK)} 1")


# ---- --pid -----------------------------------------------------------------------------------


@pytest.fixture
def running() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes, and ends them at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, **options: object) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(command, **options))  # type: ignore[call-overload]
        time.sleep(0.5)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.fixture
def debugger() -> None:
    if not (shutil.which("gdb") or shutil.which("lldb") or hasattr(sys, "remote_exec")):
        needed_on_ci("gdb")


@pytest.mark.usefixtures("debugger")
def test_a_running_program_is_attached_to_and_let_go(tmp_path: Path, running: Callable[..., subprocess.Popen[bytes]]):
    target = running(sys.executable, str(script(tmp_path, LEAK)), "60")
    attached = attach(target.pid, tmp_path / "heap")
    assert attached.why_not is None
    assert attached.path is not None
    assert stat.S_IMODE(attached.path.stat().st_mode) == 0o600
    # A recording that is resumed goes on with it; anybody else is told.
    assert attach(target.pid, tmp_path / "heap") == attached
    assert "under memray already" in str(attach(target.pid, tmp_path / "elsewhere").why_not)
    time.sleep(1)
    assert detach(target.pid) is None
    assert detach(target.pid) is None
    assert target.poll() is None
    assert leaked(attached.path)["app.py:leak"] > 1_000_000
    # And once more, into another file.
    again = attach(target.pid, tmp_path / "heap")
    assert again.path not in (None, attached.path)


@pytest.mark.usefixtures("debugger")
def test_a_program_that_does_nothing_is_left_alone_and_lives_on(tmp_path: Path, running: Callable[..., subprocess.Popen[bytes]]):
    body = "import time\ntime.sleep(8)\nkept = [bytearray(5000) for _ in range(1000)]\ntime.sleep(0.2)\nprint('lives')"
    target = running(sys.executable, "-u", str(script(tmp_path, body)), stdout=subprocess.PIPE)
    attached = attach(target.pid, tmp_path / "heap", timeout_s=3)
    assert attached.path is None
    assert "did not let memray in within 3 s" in str(attached.why_not)
    assert list((tmp_path / "heap").iterdir()) == []
    assert psutil.Process(target.pid).status() == psutil.STATUS_SLEEPING
    if sys.platform == "linux":
        assert "TracerPid:\t0" in Path(f"/proc/{target.pid}/status").read_text()
    # A breakpoint left in its code would kill it now.
    assert target.communicate(timeout=20)[0] == b"lives\n"
    assert target.returncode == 0


@pytest.mark.usefixtures("debugger")
@pytest.mark.parametrize("timeout_s", [0.2, 0.5, 0.8, 1.0])
def test_patience_that_ends_in_the_middle_harms_nobody_and_is_answered_truly(
    timeout_s: float, tmp_path: Path, running: Callable[..., subprocess.Popen[bytes]]
):
    target = running(sys.executable, str(script(tmp_path, LEAK)), "60")
    attached = attach(target.pid, tmp_path / "heap", timeout_s=timeout_s)
    time.sleep(0.7)
    assert target.poll() is None
    assert psutil.Process(target.pid).status() != psutil.STATUS_STOPPED
    writes = [Path(entry.path) for entry in psutil.Process(target.pid).open_files() if "memray-" in entry.path]
    assert writes == ([attached.path] if attached.path else [])


@pytest.mark.usefixtures("debugger")
def test_a_program_without_memray_is_told_what_to_install_and_lives_on(
    bare_python: str, tmp_path: Path, running: Callable[..., subprocess.Popen[bytes]]
):
    target = running(bare_python, str(script(tmp_path, LEAK)), "60")
    attached = attach(target.pid, tmp_path / "heap")
    assert attached.path is None
    assert f"{bare_python} -m pip install memray==" in str(attached.why_not)
    time.sleep(0.3)
    assert target.poll() is None


@pytest.mark.usefixtures("debugger")
def test_a_program_under_memray_already_is_named(tmp_path: Path, running: Callable[..., subprocess.Popen[bytes]]):
    target = running(
        sys.executable, "-m", "memray", "run", "-q", "-o", str(tmp_path / "own.bin"), str(script(tmp_path, LEAK)), "60"
    )
    until((tmp_path / "own.bin").exists)
    time.sleep(0.5)
    attached = attach(target.pid, tmp_path / "heap")
    assert "under memray already" in str(attached.why_not)
    assert "own.bin" in str(attached.why_not)


def test_what_is_no_python_process_is_never_touched(tmp_path: Path, running: Callable[..., subprocess.Popen[bytes]]):
    target = running("sleep", "60")
    assert attach(target.pid, tmp_path) == Attached(None, f"process {target.pid} is not a Python process (sleep)")
    for own in (os.getpid(), os.getppid()):
        assert "the recorder itself" in str(attach(own, tmp_path).why_not)
    target.kill()
    until(lambda: psutil.Process(target.pid).status() == psutil.STATUS_ZOMBIE)
    assert attach(target.pid, tmp_path) == Attached(None, f"process {target.pid} has ended")
    assert "has ended" in str(attach(2**22 + 1, tmp_path).why_not)
    assert detach(2**22 + 1) is None


def test_without_a_debugger_it_says_so(
    tmp_path: Path, running: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
):
    target = running(sys.executable, str(script(tmp_path, LEAK)), "60")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delattr(sys, "remote_exec", raising=False)
    assert "neither gdb nor lldb" in str(attach(target.pid, tmp_path).why_not)


def test_another_users_process_needs_permission(tmp_path: Path, running: Callable[..., subprocess.Popen[bytes]]):
    # GIVEN a recorder run by nobody, and a process of root's
    python = "/usr/bin/python3"
    if os.geteuid() != 0 or not Path(python).exists() or shutil.which("setpriv") is None:
        pytest.skip("needs root, a system Python and setpriv")
    target = running(python, "-c", "import time; time.sleep(60)")
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    code = (
        "from coldcache.process.program import attach; from pathlib import Path; "
        f"print(attach({target.pid}, Path('/tmp')).why_not)"
    )
    run = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, "-c", code],
        env={"PYTHONPATH": f"{Path(__file__).parents[2] / 'lib'}:{packages}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "ModuleNotFoundError" in run.stderr or "PermissionError" in run.stderr:
        pytest.skip("the packages cannot be read by another user or another Python")
    assert "may not trace process" in run.stdout


@pytest.mark.usefixtures("debugger")
def test_root_attaches_to_another_users_process(tmp_path: Path, running: Callable[..., subprocess.Popen[bytes]]):
    python = "/usr/bin/python3"
    if os.geteuid() != 0 or not Path(python).exists() or shutil.which("setpriv") is None:
        pytest.skip("needs root, a system Python and setpriv")
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python]
    environment = {"PYTHONPATH": packages}
    if subprocess.run([*as_nobody, "-c", "import memray"], env=environment, capture_output=True, check=False).returncode:
        pytest.skip("memray cannot be read by another user or another Python")
    target = running(*as_nobody, "-c", LEAK, "60", env=environment)
    attached = attach(target.pid, tmp_path / "heap")
    assert attached.why_not is None
    assert attached.path is not None
    try:
        assert attached.path.stat().st_uid == 65534
        assert stat.S_IMODE(attached.path.stat().st_mode) == 0o600
        time.sleep(0.5)
        assert detach(target.pid) is None
        assert leaked(attached.path)["<string>:leak"] > 100_000
    finally:
        shutil.rmtree(attached.path.parent)


# ---- sampling --------------------------------------------------------------------------------


def test_the_process_and_its_children_are_sampled_until_it_ends(tmp_path: Path, running: Callable[..., subprocess.Popen[bytes]]):
    body = "import os, sys, time\nkept = bytearray(50_000_000)\nif os.fork():\n    time.sleep(2.5); os._exit(0)\ntime.sleep(4)\n"
    target = running(sys.executable, str(script(tmp_path, body)))
    sampler = ProcessSampler(target.pid, tmp_path / "raw")
    sampler.start()
    until(lambda: sampler.ended)
    sampler.close()
    sampler.close()
    assert sampler.lost is None
    table = process_table(json_lines(tmp_path / "raw" / "process.jsonl"))
    own, child = table[~table["child"]], table[table["child"]]
    assert own["pid"].unique().tolist() == [target.pid]
    assert 12 <= len(own) <= 28
    assert child["pid"].nunique() == 1
    assert 2 <= len(child) <= 7
    assert own["rss_bytes"].gt(50_000_000).all()
    assert own["uss_bytes"].notna().sum() == 1
    if sys.platform == "linux":
        # Pages shared by two count half in PSS, not at all in USS.
        assert own["pss_bytes"].dropna().iloc[0] < own["rss_bytes"].iloc[0] - 20_000_000
        assert own["uss_bytes"].dropna().iloc[0] < 30_000_000
    assert stat.S_IMODE((tmp_path / "raw" / "process.jsonl").stat().st_mode) == 0o600


def test_a_killed_recorder_loses_nothing_and_a_resumed_one_goes_on(
    tmp_path: Path, running: Callable[..., subprocess.Popen[bytes]]
):
    target = running("sleep", "60")
    code = f"""
import time
from pathlib import Path
from coldcache.process.sampler import ProcessSampler
ProcessSampler({target.pid}, Path({str(tmp_path)!r})).start()
time.sleep(60)
"""
    recorder = running(sys.executable, "-c", code)
    path = tmp_path / "process.jsonl"
    until(lambda: path.exists() and len(path.read_bytes().splitlines()) >= 5)
    recorder.kill()
    recorder.wait()
    left = path.read_bytes()
    assert left.endswith(b"\n")
    assert all(json.loads(line)["pid"] == target.pid for line in left.splitlines())
    # WHEN a line was cut off all the same, and the recording is resumed
    with path.open("ab") as file:
        file.write(b'{"stamp_us": 17')
    sampler = ProcessSampler(target.pid, tmp_path)
    sampler.start()
    time.sleep(0.5)
    sampler.close()
    # THEN the new samples stand on lines of their own
    assert path.read_bytes().startswith(left)
    assert len(json_lines(path)) >= len(left.splitlines()) + 3


def test_a_process_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(ProcessNotFoundError, match="There is no process"):
        ProcessSampler(2**22 + 1, tmp_path)
    assert list(tmp_path.iterdir()) == []


def fake_cgroup(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_cgroup_v2_has_the_lowest_limit_on_the_way_up(tmp_path: Path):
    proc, mount = tmp_path / "proc", tmp_path / "cgroup"
    for pid in ("7", "self"):
        fake_cgroup(proc / pid, {"cgroup": "0::/pod/app\n" if pid == "7" else "0::/other\n"})
    events = "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n"
    fake_cgroup(mount / "pod" / "app", {"memory.current": "500\n", "memory.max": "max\n", "memory.events": events})
    fake_cgroup(mount / "pod", {"memory.current": "900\n", "memory.max": "1000\n"})
    folders = cgroup_folders(7, proc, mount)
    assert folders[0] == mount / "pod" / "app"
    assert cgroup_sample(folders) == {"usage_bytes": 500, "limit_bytes": 1000, "oom_kills": 2}


def test_cgroup_v1_has_no_limit_where_the_number_means_none(tmp_path: Path):
    proc, mount = tmp_path / "proc", tmp_path / "cgroup"
    fake_cgroup(proc / "7", {"cgroup": "9:name=systemd:/\n4:cpuset,memory:/app:x\n0::/\n"})
    fake_cgroup(proc / "self", {"cgroup": "4:cpuset,memory:/app:x\n"})
    files = {
        "memory.usage_in_bytes": "500",
        "memory.limit_in_bytes": "9223372036854771712",
        "memory.oom_control": "under_oom 0\n",
    }
    fake_cgroup(mount / "memory" / "app:x", files)
    assert cgroup_sample(cgroup_folders(7, proc, mount)) == {"usage_bytes": 500, "limit_bytes": None, "oom_kills": None}


def test_in_a_container_ones_own_cgroup_is_the_mount(tmp_path: Path):
    proc, mount = tmp_path / "proc", tmp_path / "cgroup"
    for pid, path in (("7", "/docker/a"), ("8", "/docker/b"), ("self", "/docker/a")):
        fake_cgroup(proc / pid, {"cgroup": f"4:memory:{path}\n"})
    fake_cgroup(mount / "memory", {"memory.usage_in_bytes": "500", "memory.limit_in_bytes": "600"})
    assert cgroup_sample(cgroup_folders(7, proc, mount)) == {"usage_bytes": 500, "limit_bytes": 600, "oom_kills": None}
    assert cgroup_folders(8, proc, mount) == []
    assert cgroup_folders(9, proc, mount) == []


def test_this_machines_cgroup_is_sampled_where_there_is_one(tmp_path: Path, running: Callable[..., subprocess.Popen[bytes]]):
    target = running("sleep", "60")
    if not cgroup_folders(target.pid):
        pytest.skip("no memory cgroup can be read here")
    sampler = ProcessSampler(target.pid, tmp_path)
    sampler.start()
    time.sleep(1.3)
    sampler.close()
    lines = json_lines(tmp_path / "cgroup.jsonl")
    assert len(lines) == 2
    assert all(line["usage_bytes"] > 0 for line in lines)
