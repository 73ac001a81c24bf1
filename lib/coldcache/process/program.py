"""The program whose memory is recorded: started under memray (``--run``), or attached to (``--pid``)."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from coldcache.errors import UsageError
from coldcache.instrument import APP_LOG_VARIABLE, GC_LOG_VARIABLE

# Allocations by Python's own allocators too: without them a leak of small objects is charged to
# whoever asked for the arena. FILE.<pid> for every forked child.
_TRACKING = ("--trace-python-allocators", "--follow-fork")
_IMPORT_TIMEOUT_S = 10
_PYTHON = re.compile(r"python[\d.]*t?$", re.IGNORECASE)
# What pip writes where the interpreter's path does not fit a "#!" line.
_LONG_SHEBANG = re.compile(rb"#!/bin/sh\n'''exec' \"?([^\"\n]+?)\"? \"\$0\"")
_CAPTURE_MAGIC = b"memray\0"
_REQUESTS, _REQUEST_S = 5, 1.0  # how often, and for how long, a debugger is asked to let go
_SIGNALS = ((signal.SIGINT, None), (signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0))  # with seconds of patience


class CommandError(UsageError):
    """The command of ``--run`` cannot be started."""


class MemrayMissingError(UsageError):
    """The program's interpreter lacks memray, or has one whose captures ours cannot read."""


# ---- --run -----------------------------------------------------------------------------------


class Program:
    """A program started beside the recording, under memray if it is a Python program.

    It runs in a session of its own, so Ctrl-C reaches the recorder only, which then stops it in
    order. Its standard input is empty; what it prints goes to our standard error.

    Parameters
    ----------
    command : str
        As typed in a shell; no shell is involved. ``python x.py …``, ``python -m mod …``,
        ``python -c …``, ``x.py``, and scripts with a Python ``#!`` line run under memray.
    heap_folder : Path
        Where memray's capture goes; created, private.
    gc_log, app_log : Path
        Where the program's collector pauses and its :mod:`coldcache.instrument` log go.

    Attributes
    ----------
    note : str or None
        Why there will be no heap profile.

    Raises
    ------
    CommandError
        The command is empty or not readable, or there is no such program or script.
    MemrayMissingError
        The interpreter cannot import memray.
    """

    def __init__(self, command: str, heap_folder: Path, gc_log: Path, app_log: Path) -> None:
        arguments, self.note = _under_memray(_words(command), heap_file := new_heap_file(heap_folder))
        self._arguments = arguments
        self._heap_file = heap_file
        self._gc_log, self._app_log = gc_log.absolute(), app_log.absolute()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Start it; return the process id of the program itself.

        Raises
        ------
        CommandError
            The system cannot run the file.
        """
        hook = str(Path(__file__).parent / "gc_hook")
        paths = [hook, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            GC_LOG_VARIABLE: str(self._gc_log),
            APP_LOG_VARIABLE: str(self._app_log),
        }
        try:
            with _default_interrupt():
                self._process = subprocess.Popen(
                    self._arguments, env=environment, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True
                )
        except OSError as error:
            raise CommandError(f"{self._arguments[0]} cannot be run ({error.strerror}). Check --run.") from None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit status, negative for a signal; None before it has ended."""
        return self._process.poll() if self._process else None

    def ended(self) -> bool:
        """Whether the program was started and has ended."""
        return self.exit_code is not None

    def stop(self, timeout_s: float = 10) -> None:
        """End the program and what it started: SIGINT, so that memray closes its file, then SIGTERM, then SIGKILL.

        Each is sent to the whole process group. Nothing happens if the program has ended.
        """
        if self._process is None or self.ended():
            return
        for number, patience_s in _SIGNALS:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
                os.killpg(self._process.pid, number)
            if self._gone(timeout_s if patience_s is None else patience_s):
                return

    def _gone(self, patience_s: float) -> bool:
        """Wait for the program and its group to end; return whether they did."""
        deadline = time.monotonic() + patience_s
        while not (self.ended() and not _group_alive(self._process.pid if self._process else 0)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def heap_files(self) -> list[Path]:
        """Return the captures there are: the program's own first, then those of its forked children by pid."""
        return heap_files_of(self._heap_file)


def new_heap_file(folder: Path) -> Path:
    """Create a private folder if need be and return the path of a capture in it that does not exist yet."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder.absolute() / f"memray-{time.time_ns()}.bin"


def heap_files_of(capture: Path) -> list[Path]:
    """Return a capture, if it exists, and those that memray's follow_fork wrote beside it, ``FILE.<pid>``."""
    children = [path for path in capture.parent.glob(f"{capture.name}.*") if path.suffix[1:].isdigit()]
    return [path for path in (capture, *sorted(children, key=lambda path: int(path.suffix[1:]))) if path.exists()]


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return sys.platform == "linux"
    return True


@contextlib.contextmanager
def _default_interrupt() -> Iterator[None]:
    """Let a child receive SIGINT even where a shell (``coldcache … &``) made us ignore it: it would inherit that."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread()
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise CommandError(f"--run cannot be read ({str(error).lower()}). Quote it as in: --run 'python app.py'") from None
    if not words:
        raise CommandError("--run is empty. Name the program, as in: --run 'python app.py'")
    return words


def _under_memray(words: list[str], heap_file: Path) -> tuple[list[str], str | None]:
    """Return the command to start, and why it has no heap profile (None: it has one)."""
    program, rest = words[0], words[1:]
    found = shutil.which(program)
    if _PYTHON.fullmatch(Path(program).name):
        if found is None:
            raise _not_found(program)
        flags, target = _interpreter_flags(rest)
        interpreter = [found, *flags]
    elif (python := _script_interpreter(path := Path(found or program))) is not None:
        interpreter, target = python, [str(path), *rest]
    elif found is None:
        raise _not_found(program)
    else:
        return [found, *rest], "not a Python program: only its RSS is sampled"
    if not target:
        return [*interpreter, *rest], "Python without a script: only its RSS is sampled"
    if target[0] not in ("-c", "-m"):
        if not (script := Path(target[0])).exists():
            raise _not_found(target[0])
        if script.is_dir() or script.suffix in (".pyz", ".zip"):
            return [*interpreter, *target], "memray runs no folder and no archive: only its RSS is sampled"
    _need_memray(interpreter)
    return [*interpreter, "-m", "memray", "run", *_TRACKING, "-q", "-o", str(heap_file), *target], None


def _not_found(program: str) -> CommandError:
    if re.match(r"\w+=", program):
        name = program.partition("=")[0]
        return CommandError(f"--run starts with {name}=, but no shell reads it. Set variables before coldcache.")
    return CommandError(f"There is no program {program!r}. Check --run and PATH; a relative path starts at the current folder.")


def _interpreter_flags(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split Python's command line into its own options and what it runs: script, ``-m mod`` or ``-c code``, with arguments.

    Options may be joined (``-um mod``, ``-Wignore``); -W, -X and --check-hash-based-pycs take a value.
    """
    flags: list[str] = []
    at = 0
    while at < len(arguments) and arguments[at].startswith("-") and arguments[at] != "-":
        option = arguments[at]
        at += 1
        if option.startswith("--"):
            flags.append(option)
            if option == "--check-hash-based-pycs":
                flags += arguments[at : at + 1]
                at += 1
            continue
        letters = re.match(r"-([^cmWX]*)([cmWX]?)(.*)", option, re.DOTALL)
        assert letters is not None
        plain, valued, value = letters.groups()
        if valued in ("c", "m"):
            values = [value] if value else arguments[at : at + 1]
            at += 0 if value else 1
            return flags + ([f"-{plain}"] if plain else []), [f"-{valued}", *values, *arguments[at:]] if values else []
        flags.append(option)
        if valued and not value:
            flags += arguments[at : at + 1]
            at += 1
    target = arguments[at:]
    return flags, [] if target[:1] == ["-"] else target


def _script_interpreter(path: Path) -> list[str] | None:
    """Return the interpreter, with options, of a Python script: what its ``#!`` names, else for ``.py`` the one on PATH."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return None
    if match := _LONG_SHEBANG.match(head):
        return [os.fsdecode(match[1])]
    if head.startswith(b"#!"):
        line = os.fsdecode(head[2:].split(b"\n", 1)[0]).split()
        if line and Path(line[0]).name == "env":
            line = [word for word in line[1:] if word != "-S"]
        if line and _PYTHON.fullmatch(Path(line[0]).name):
            return [shutil.which(line[0]) or line[0], *line[1:]]
        return None
    return [shutil.which("python") or shutil.which("python3") or sys.executable] if path.suffix == ".py" else None


def _need_memray(interpreter: list[str]) -> None:
    try:
        answer = subprocess.run(
            [*interpreter, "-c", "import memray; print(memray.__version__)"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_IMPORT_TIMEOUT_S, check=False,
        )  # fmt: skip
    except OSError as error:
        raise CommandError(f"{interpreter[0]} cannot be run ({error.strerror}). Check --run.") from None
    except subprocess.TimeoutExpired:
        raise CommandError(f"{interpreter[0]} did not start within {_IMPORT_TIMEOUT_S} s. Check --run.") from None
    ours = _memray_version()
    theirs = answer.stdout.strip().rsplit("\n", 1)[-1]
    if answer.returncode or not theirs:
        raise MemrayMissingError(f"{interpreter[0]} cannot import memray. {_install(interpreter[0])}")
    # A capture can be read by its own version only: 1.19 and 1.20 refuse each other's, measured.
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise MemrayMissingError(
            f"{interpreter[0]} has memray {theirs}, whose captures memray {ours} cannot read. {_install(interpreter[0])}"
        )


def _memray_version() -> str:
    from importlib.metadata import version

    return version("memray")


def _install(interpreter: str) -> str:
    return f"Install it there: {interpreter} -m pip install memray=={_memray_version()}"


# ---- --pid -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attached:
    """What attaching came to: the capture's path, or in one sentence why there is none."""

    path: Path | None
    why_not: str | None


def attach(pid: int, heap_folder: Path, *, timeout_s: float = 15) -> Attached:
    """Start memray in a running Python process.

    Memory allocated before is invisible. The process stands still for about a second while a
    debugger injects memray, and only at its next allocation: hence the time-out. A process that
    already writes a capture into `heap_folder` (a recording that is resumed) goes on doing so.

    Parameters
    ----------
    pid : int
    heap_folder : Path
        Where the capture goes. Where the process runs as another user, who cannot write there,
        the capture goes to a temporary folder of that user.
    timeout_s : float
        1.2 s is what attaching takes to a busy process, measured.

    Returns
    -------
    Attached
        Never raises for reasons of the target.
    """
    if (reason := _not_attachable(pid)) is not None:
        return Attached(None, reason)
    if (capture := _open_capture(pid)) is not None:
        if capture.parent == heap_folder.absolute():
            return Attached(capture, None)
        return Attached(
            None,
            f"process {pid} is under memray already and writes {capture.name}; "
            f"if nobody needs it: {sys.executable} -m memray detach {pid}",
        )
    try:
        capture = _capture_for(pid, heap_folder)
    except (OSError, psutil.Error) as error:
        return Attached(None, f"process {pid} runs as another user, who has nowhere to write a capture ({error})")
    output, in_time = _run_helper(["attach", *_TRACKING, "--force", "-o", str(capture), str(pid)], pid, timeout_s)
    # The target tells: it may have begun to track just when our patience ended.
    if _open_capture(pid) == capture or (in_time and not output):
        return Attached(capture, None)
    capture.unlink(missing_ok=True)
    return Attached(None, _why_not(pid, output, in_time, timeout_s))


def detach(pid: int, timeout_s: float = 15) -> str | None:
    """Stop memray in a process that `attach` started it in; return why it goes on, None when it does not.

    Either way the capture can be read, without its last 10 ms while memray goes on.
    """
    if not psutil.pid_exists(pid):
        return None
    output, in_time = _run_helper(["detach", str(pid)], pid, timeout_s)
    if in_time and (not output or "no previous" in output or not psutil.pid_exists(pid)):
        return None
    if not in_time and _open_capture(pid) is None:  # it closed its file just when our patience ended
        return None
    return _why_not(pid, output, in_time, timeout_s)


def _not_attachable(pid: int) -> str | None:
    """Return why no debugger should even try, None if it should."""
    try:
        if pid in (os.getpid(), *(parent.pid for parent in psutil.Process().parents())):
            return f"process {pid} is the recorder itself or one that started it, and would be stopped with it"
        target = psutil.Process(pid)
        if target.status() == psutil.STATUS_ZOMBIE:
            raise psutil.NoSuchProcess(pid)
        if not _is_python(target):
            return f"process {pid} is not a Python process ({target.name()})"
        if other := _elsewhere(pid):
            return other
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError, ValueError, OverflowError):
        return f"process {pid} has ended"
    except (psutil.AccessDenied, PermissionError):
        return _no_permission(pid)
    if not (hasattr(sys, "remote_exec") or shutil.which("gdb") or shutil.which("lldb")):
        return "memray attaches by way of a debugger, and neither gdb nor lldb is installed here; install one, or use --run"
    return None


def _no_permission(pid: int) -> str:
    return f"this user may not trace process {pid}; record as root or with CAP_SYS_PTRACE, or start the program with --run"


def _is_python(target: psutil.Process) -> bool:
    """Whether the process is a Python interpreter or has one built in (Linux: by its memory map)."""
    if _PYTHON.fullmatch(Path(target.exe()).name.removesuffix(" (deleted)")):
        return True
    maps = Path("/proc", str(target.pid), "maps")
    return not maps.parent.exists() or "libpython" in maps.read_text(errors="replace")


def _elsewhere(pid: int) -> str | None:
    """Return why the process is out of reach: in another container, or under a debugger already (Linux)."""
    proc = Path("/proc")
    if not (proc / str(pid)).exists():
        return None
    if (proc / str(pid) / "ns" / "mnt").readlink() != (proc / "self" / "ns" / "mnt").readlink():
        return f"process {pid} runs in another container; record from inside it, or start the program with --run"
    if tracer := _status_field(pid, "TracerPid"):
        return f"process {pid} is being traced by process {tracer} (a debugger or strace) already"
    return None


def _status_field(pid: int, name: str) -> int:
    text = Path("/proc", str(pid), "status").read_text()
    return int(dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line).get(name, "0").split()[0])


def _open_capture(pid: int) -> Path | None:
    """Return the memray capture that a process is writing, None without one, or where the system does not tell."""
    with contextlib.suppress(psutil.Error, OSError):
        for entry in psutil.Process(pid).open_files():
            if stat.S_ISREG(os.stat(entry.path).st_mode):
                with open(entry.path, "rb") as file:
                    if file.read(len(_CAPTURE_MAGIC)) == _CAPTURE_MAGIC:
                        return Path(entry.path)
    return None


def _capture_for(pid: int, heap_folder: Path) -> Path:
    """Return the path of a capture that the target can write; an empty file stands there, its user's and private."""
    owner = psutil.Process(pid).uids().effective
    if owner == os.geteuid():
        capture = new_heap_file(heap_folder)
        os.close(os.open(capture, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        return capture
    # The case folder is ours alone, and forked children need a folder to create theirs in.
    folder = Path(tempfile.mkdtemp(prefix="coldcache-heap-"))
    capture = folder / f"memray-{time.time_ns()}.bin"
    os.close(os.open(capture, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        for path in (capture, folder):
            os.chown(path, owner, -1)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return capture


def _run_helper(arguments: list[str], pid: int, timeout_s: float) -> tuple[str, bool]:
    """Run memray's own attach or detach; return what it printed and whether it ended in time."""
    stopped_before = _stopped(pid)
    helper = subprocess.Popen(
        [sys.executable, "-P", "-m", "memray", *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        start_new_session=True,
    )  # fmt: skip
    in_time = False
    output = ""
    try:
        output, _ = helper.communicate(timeout=timeout_s)
        in_time = True
    except subprocess.TimeoutExpired:
        pass
    finally:
        _let_go(helper)
        if not stopped_before and _stopped(pid):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)
    return output.strip(), in_time


def _let_go(helper: subprocess.Popen[str]) -> None:
    """End a helper whose time is up, and before it the debugger that still holds the target.

    Only SIGINT will do for the debugger: it then takes its breakpoints out of the target's code
    and detaches. SIGTERM and SIGKILL leave them in, and the target dies of SIGTRAP at its next
    allocation (gdb 13, measured). So the debugger is asked repeatedly and never killed. Without a
    debugger the injection is done, or not begun: the helper gets some time to hear the answer.
    """
    debuggers: list[psutil.Process] = []
    for _ in range(_REQUESTS):
        if helper.poll() is not None:
            break
        debuggers = []
        with contextlib.suppress(psutil.Error):
            debuggers = psutil.Process(helper.pid).children()
        for debugger in debuggers:
            with contextlib.suppress(psutil.Error):
                debugger.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            helper.wait(_REQUEST_S)
    if not debuggers:
        helper.kill()
    if helper.poll() is None and debuggers:
        if helper.stdout:  # the debugger goes when the target next allocates
            helper.stdout.close()
    else:
        with helper:
            pass


def _stopped(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    return False


def _why_not(pid: int, output: str, in_time: bool, timeout_s: float) -> str:
    """Return memray's answer in one sentence and with the way out."""
    if not psutil.pid_exists(pid):
        return f"process {pid} has ended"
    if not in_time:
        return (
            f"process {pid} did not let memray in within {timeout_s:g} s, for it allocates nothing or the machine is busy; "
            "it runs on as before. Attach while it works, or start the program with --run"
        )
    known = (
        ("No module named 'memray", f"process {pid} cannot import memray. {_install(_interpreter_of(pid))}"),
        ("No more than one Tracker", f"process {pid} is under memray already"),
        ("not seem to be running Python", f"process {pid} is not a Python process"),
        ("Cannot find a supported", "neither gdb nor lldb is installed here"),
        ("permission to trace", _no_permission(pid)),
        ("different user", _no_permission(pid)),
        ("memray shared library", f"process {pid}'s user cannot read the memray that is installed here"),
    )
    last = output.splitlines()[-1][:200] if output else "no answer"
    return next((answer for sign, answer in known if sign in output), f"memray could not attach to process {pid}: {last}")


def _interpreter_of(pid: int) -> str:
    """Return the interpreter as the process was started, which for a virtual environment is not its executable."""
    with contextlib.suppress(psutil.Error, IndexError):
        target = psutil.Process(pid)
        first = target.cmdline()[0]
        if (path := Path(target.cwd(), first)).exists() and "/" in first:
            return os.path.normpath(path)
        return shutil.which(first, path=target.environ().get("PATH")) or target.exe()
    return "python"
