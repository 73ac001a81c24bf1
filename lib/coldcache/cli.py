"""The command line. Exit status: 0 fine, 2 something is wrong with the cache, 1 coldcache failed, 64 wrong arguments."""

from __future__ import annotations

import atexit
import gc
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coldcache import __version__
from coldcache.errors import CaseExistsError, ColdcacheError, MissingExtraError, UnknownNameError, UsageError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from coldcache.importing.importer import Progress as ImportProgress
    from coldcache.record.recorder import Progress as RecordingProgress

FINE, BROKEN, ALERT, WRONG_ARGUMENTS = 0, 1, 2, 64
_INTERRUPTED = 130  # what typer makes of Ctrl-C
_ISO_FORMATS = ["%Y-%m-%dT%H:%M:%S.%f%z", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"]
_KEY_POLICIES = ("plain", "hashed")
# typer carries its own copy of click and exports only this subclass of its usage errors.
_ClickUsageError: type[Any] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="coldcache",
    help="Why did the Redis cache go cold, and what did it do to memory?\n\n"
    "Try it without a server of your own: [bold]coldcache demo[/bold]. "
    "Exit status: 0 fine, 2 something is wrong with the cache, 1 coldcache itself failed, 64 wrong arguments.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
lab_app = typer.Typer(help="Faults of the sample analyzer whose truth is known: does coldcache find them?", no_args_is_help=True)
app.add_typer(lab_app, name="lab")

CaseArgument = Annotated[str, typer.Argument(metavar="CASE", help="case folder, or a sample such as sample-key_prefix")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"coldcache {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
    pass


@cache
def _messages() -> Console:
    """Return what prints messages; an import that says nothing starts without it."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _say_when_compiling(quiet: bool) -> None:
    """Tell why the first import or diagnosis after an installation takes its time."""
    from coldcache.sources.arrays import say_when_compiling

    if not quiet:
        text = "Compiling, once after each installation: half a minute …"
        say_when_compiling(lambda: _messages().print(text, markup=False, soft_wrap=True))


@contextmanager
def _needs(extra: str) -> Iterator[None]:
    """Turn a missing optional package into the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("coldcache"):
            raise
        raise MissingExtraError(
            f"The package {error.name} is missing. Install it with: pip install 'coldcache[{extra}]'"
        ) from None


@contextmanager
def _bar(name: str, quiet: bool, total: float | None, *columns: str) -> Iterator[Callable[..., None]]:
    """Show a progress bar on a terminal; yield what updates it. A bar in a log file is noise.

    `columns` are names of classes of ``rich.progress``.
    """
    if quiet or not _messages().is_terminal:
        yield lambda **now: None
        return
    from rich import progress

    shown = progress.TextColumn("{task.fields[shown]}")
    more = (getattr(progress, column)() for column in columns)
    parts = (
        progress.SpinnerColumn(), progress.TextColumn(name), progress.BarColumn(), *more, shown, progress.TimeElapsedColumn(),
    )  # fmt: skip
    with progress.Progress(*parts, console=_messages(), transient=True) as bar:
        task = bar.add_task(name, total=total, shown="")
        yield lambda **now: bar.update(task, **now)


@contextmanager
def _recording_bar(seconds: float | None, quiet: bool) -> Iterator[Callable[[RecordingProgress], None]]:
    """Show a recording's bar, and below it what it has seen so far."""
    if quiet or not _messages().is_terminal:
        yield lambda now: None
        return
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    bar = Progress(SpinnerColumn(), TextColumn("recording"), BarColumn(), TimeElapsedColumn())
    task = bar.add_task("recording", total=seconds)
    with Live(bar, console=_messages(), transient=True) as live:

        def show(now: RecordingProgress) -> None:
            bar.update(task, completed=now.elapsed_s)
            live.update(Group(bar, Text(_progress_line(now))))

        yield show


def _progress_line(now: RecordingProgress) -> str:
    """Return the state of a recording on one line: rate, hit rate, misses so far, our cost, gaps."""
    rate = "–" if now.hit_rate is None else f"{now.hit_rate:.1%}"
    parts = [
        now.state,
        f"{now.ops_per_s:,.0f} commands/s",
        f"hit rate {rate}",
        _misses_so_far(now.misses_by_state),
        f"cost {now.stream_bytes_per_s / 1e6:.1f} MB/s, {now.buffer_bytes / 1024:,.0f} KB waiting",
        f"{now.nodes} nodes" if now.nodes > 1 else "",
        f"{now.gaps} gap{'s' * (now.gaps > 1)}" if now.gaps else "",
    ]
    return " · ".join(filter(None, parts))


def _misses_so_far(by_state: dict[str, int]) -> str:
    total = sum(by_state.values())
    shares = [f"{state} {count / total:.0%}" for state, count in by_state.items() if count / total >= 0.01]
    return f"misses: {', '.join(shares[:3])}" if total else ""


@contextmanager
def _report_bar(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    with _bar("notebooks", quiet, None, "MofNCompleteColumn") as update:
        yield lambda step, done, total: update(completed=done, total=total, shown=step)


@app.command()
def demo(
    fault: Annotated[
        str, typer.Option(metavar="ID", help="fault of the sample analyzer, see: coldcache lab list")
    ] = "key_prefix",
    seconds: Annotated[float, typer.Option(min=5, help="length of the recording")] = 20.0,
    out: Annotated[Path | None, typer.Option(help="folder for the case and the report  \\[default: demo/FAULT-TIME]")] = None,
    seed: Annotated[int, typer.Option(help="where in the access trace the requests begin")] = 1,
    rate: Annotated[float, typer.Option(min=1, max=2000, help="requests per second")] = 120.0,
    url_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="use the server whose URL this variable holds, not an embedded one")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress bars")] = False,
) -> int:
    """Record a real incident and explain it: an embedded server, a sample analyzer with a fault, a report.

    Ends with 0 when the verdict names the fault that was switched on, with 1 otherwise.
    """
    with _needs("lab,notebooks"):
        from coldcache.lab.faults import fault as fault_of
        from coldcache.lab.incident import record_incident
        from coldcache.report.runner import ReportOptions, run_report
    from coldcache.case import utc_now
    from coldcache.record.server import url_from

    truth = fault_of(fault)
    folder = out or Path("demo") / f"{fault}-{utc_now():%Y%m%dT%H%M%S}"
    url = url_from(url_env, None) if url_env else None
    if not quiet:
        _messages().print(f"dragon3, a sample image analyzer: {truth.title}. Recording for {seconds:.0f} s.", soft_wrap=True)
    with _recording_bar(seconds, quiet) as show:
        record_incident(fault, folder / "case", seconds=seconds, seed=seed, rate=rate, url=url, on_progress=show)
    with _report_bar(quiet) as step:
        report = run_report(str(folder / "case"), ReportOptions(out=folder / "report"), step)
    findings = report.verdict["findings"]
    named = findings[0]["cause"] if findings else report.verdict["verdict"]
    typer.echo(f"Fault:   {truth.id}")
    typer.echo(f"Verdict: {named}")
    if findings:
        typer.echo(f"         {findings[0]['summary']}")
    typer.echo(f"Report:  {report.html}")
    return FINE if named in (truth.cause, *(part.cause for part in truth.truths)) else BROKEN


@app.command()
def record(
    out: Annotated[
        Path | None, typer.Option(metavar="CASE", help="case folder to create; an existing one is never overwritten")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="CASE", help="go on with this case instead; what lies between becomes a gap")
    ] = None,
    url_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="environment variable that holds the server's URL  \\[default: REDIS_URL]")
    ] = None,
    url_file: Annotated[Path | None, typer.Option(metavar="FILE", help="file that holds the server's URL")] = None,
    pid: Annotated[
        int | None, typer.Option(help="process to sample: RSS, and its heap by attaching memray if it is Python and can be had")
    ] = None,
    attach: Annotated[
        bool, typer.Option("--attach/--no-attach", help="attach memray to --pid; without it only its memory is sampled")
    ] = True,
    run: Annotated[
        str | None,
        typer.Option(metavar="'CMD …'", help="start this Python program under memray and record until it ends"),
    ] = None,
    app_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="log that the application writes with coldcache.instrument")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=2, help="how long; without it until Ctrl-C")] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="exact, monitor, events or burst, see above  \\[default: the best that this server and user allow]"),
    ] = None,
    duty: Annotated[str, typer.Option(metavar="SHARE", help="share of the time that burst records exactly")] = "5%",
    keys: Annotated[
        str, typer.Option(help="plain, or hashed: hides the variable parts of key names, keeps their families")
    ] = "plain",
    keep_raw: Annotated[
        bool, typer.Option("--keep-raw", help="keep the captured stream in raw/: it holds all VALUES in clear")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="record even where the preflight sees harm, and do not step down")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress, for cron")] = False,
) -> int:
    """Record a live server, or a whole cluster, into a case folder.

    The URL comes from a variable or a file, never from the command line, where other users would see it:

        REDIS_URL=redis://host:6379/0 coldcache record --out incident --seconds 60

    --mode exact: MONITOR with key events on one connection. Knows each read's outcome; costs a busy server up to half of its
    throughput while it runs. --mode burst: exact for --duty of the time, key events between. --mode events: key events and INFO
    only, a fraction of the cost; knows each miss. --mode monitor: where key events may not be set; outcomes stay unknown.

    notify-keyspace-events is extended for the recording and put back at its end, on Ctrl-C, and within seconds of a SIGKILL.
    Values are not stored, only their size, a keyed digest and their format. Look before: coldcache doctor.
    """
    from coldcache.doctor.preflight import preflight, refuse_harm
    from coldcache.record.finish import read_meta
    from coldcache.record.recorder import MODES, RecordOptions
    from coldcache.record.recorder import record as record_case
    from coldcache.record.server import url_from

    if (out is None) == (resume is None):
        raise UsageError("Give --out CASE for a new case, or --resume CASE to go on with one.")
    if mode is not None and mode not in MODES:
        raise UnknownNameError(f"There is no mode {mode!r}.{did_you_mean(mode, MODES)} Modes: {', '.join(MODES)}.")
    if keys not in _KEY_POLICIES:
        raise UnknownNameError(f"There is no --keys {keys!r}.{did_you_mean(keys, _KEY_POLICIES)} Use plain or hashed.")
    if run is not None and pid is not None:
        raise UsageError("Give either --run, for a program to start, or --pid, for one that runs.")
    if keys == "hashed" and keep_raw:
        raise UsageError("--keep-raw keeps every key and value in clear, which --keys hashed is to hide. Choose one.")
    share = _share(duty)
    url, folder = url_from(url_env, url_file), out or resume
    assert folder is not None
    if out is not None and out.exists():
        raise CaseExistsError(f"{out} already exists, and a recording is never overwritten. Choose another --out, or --resume.")
    if resume is not None:
        read_meta(resume)
    found = preflight(url, out=folder, seconds=seconds, duty=share)
    chosen = refuse_harm(found, mode, force)
    if not quiet:
        why = f": {found.why_best}" if mode is None else ""
        _messages().print(f"Recording {found.node} in {chosen} mode{why}", markup=False, soft_wrap=True)
        for check in found.checks:
            if check.state != "ok":
                _messages().print(f"{check.state}: {check.what} {check.do}".rstrip(), markup=False, soft_wrap=True)
    options = RecordOptions(
        url=url,
        out=folder,
        resume=resume is not None,
        seconds=seconds,
        mode=chosen,
        duty=share,
        pid=pid,
        attach_memray=attach and pid is not None,
        run=run,
        app_log=app_log,
        keys=keys,
        keep_raw=keep_raw,
        watched=not force,
        ops_before=None if found.primaries else found.ops_per_s,  # of a cluster it is the sum
    )
    with _recording_bar(seconds, quiet) as show:
        case = record_case(options, show)
    typer.echo(str(case))
    typer.echo(f"\nNext: coldcache diagnose {folder}\n      coldcache report {folder}")
    return FINE


def _share(text: str) -> float:
    """Return a share of time from ``5%`` or ``0.05``."""
    number, percent, rest = text.strip().partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if rest.strip() or not 0.001 <= share <= 0.9:
        raise UsageError(f"--duty {text!r} should be a share between 0.1% and 90%, like 5% or 0.05.")
    return share


@app.command()
def doctor(
    url_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="environment variable that holds the server's URL; else REDIS_URL")
    ] = None,
    url_file: Annotated[Path | None, typer.Option(metavar="FILE", help="file that holds the server's URL")] = None,
    out: Annotated[Path, typer.Option(metavar="CASE", help="case folder to be: is there room on its disk?")] = Path("case"),
    seconds: Annotated[float | None, typer.Option(min=2, help="length of the recording to be; else ten minutes")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output, nothing else")] = False,
) -> int:
    """Say whether a server can be recorded, in which mode, at what cost, and what is missing.

    It takes half a second and changes nothing: rights are tried with calls that the server refuses
    for another reason. Look here first; `record` refuses what this calls harmful.

        REDIS_URL=redis://host:6379/0 coldcache doctor --out incident --seconds 60

    Ends with 0 when a mode is possible and nothing is a problem, with 1 otherwise.
    """
    from coldcache.doctor.preflight import preflight
    from coldcache.record.server import url_from

    found = preflight(url_from(url_env, url_file), out=out, seconds=seconds)
    typer.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) if as_json else str(found))
    return FINE if found.fine else BROKEN


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Let a short program run without looking for cycles: many objects are made at its start, and none of them is garbage."""
    was_on = gc.isenabled()
    gc.disable()
    atexit.register(gc.freeze)  # nor at its end, when the system takes everything back at once
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _import_bar(quiet: bool) -> Iterator[Callable[[ImportProgress], None]]:
    with _bar("importing", quiet, None, "TransferSpeedColumn", "TimeRemainingColumn") as update:
        yield lambda now: update(completed=now.read_bytes, total=now.size_bytes, shown=f"{now.lines:,} lines")


@app.command("import")
def import_(
    logs: Annotated[list[str], typer.Argument(metavar="LOG…", help="MONITOR logs, packed or not; - reads standard input")],
    out: Annotated[Path, typer.Option(metavar="CASE", help="case folder to create; an existing one is never overwritten")],
    info: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="INFO, saved before, after or again and again")] = None,
    heap: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="memray capture of the application")] = None,
    app_log: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="the application's own log of its cache calls")
    ] = None,
    app_log_pattern: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="finds a call in its lines: named groups key, op or result, and time, size, ttl"),
    ] = None,
    gc_log: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="collections, as coldcache.instrument.log_gc writes them")
    ] = None,
    slowlog: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="SLOWLOG GET, as redis-cli prints it")] = None,
    big_keys: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="output of redis-cli --bigkeys, --memkeys or --hotkeys")
    ] = None,
    dialect: Annotated[str | None, typer.Option(metavar="NAME", help="form of the logs, if it is not found by itself")] = None,
    start: Annotated[
        datetime | None,
        typer.Option(metavar="ISO8601", help="when it began, for files whose times lack the year", formats=_ISO_FORMATS),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")] = False,
) -> int:
    r"""Build a case from files that others made.

    \b
    redis-cli INFO everything > before.txt
    timeout 60 redis-cli MONITOR > ops.log
    redis-cli INFO everything > after.txt
    coldcache import ops.log --info before.txt --info after.txt --out incident

    Logs of redis-cli, the raw socket, docker, kubectl, journald, Kvrocks, RedisInsight and others are told apart by themselves;
    gzip, zstd and bzip2 are unpacked on the way. Several logs are several nodes, but for rotated ones (ops.log, ops.log.1.gz).
    Every line is parsed, or counted with a reason in the table rejected. Values are not kept, only size, keyed digest and format.

    MONITOR tells no outcomes: with INFO from before and after, the hit rate is known all the same.
    """
    with _nothing_collected():
        from coldcache.importing.importer import import_logs
        from coldcache.importing.options import EvidenceFiles, ImportOptions

    beside = EvidenceFiles(
        info=tuple(info or ()),
        slowlog=tuple(slowlog or ()),
        big_keys=tuple(big_keys or ()),
        app_log=tuple(app_log or ()),
        app_log_pattern=app_log_pattern,
        heap=tuple(heap or ()),
        gc_log=tuple(gc_log or ()),
        start=start,
    )
    _say_when_compiling(quiet)
    with _import_bar(quiet) as show:
        case = import_logs(ImportOptions(logs=tuple(logs), out=out, dialect=dialect, beside=beside), show)
    typer.echo(str(case))
    typer.echo(f"\nNext: coldcache diagnose {out}\n      coldcache report {out}")
    return FINE


@app.command()
def diagnose(
    case: CaseArgument,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output, nothing else")] = False,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="CASE", help="say what changed from that recording: a good one, or one from before a repair"),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Dask scheduler whose workers see the case's folder, such as tcp://10.0.0.5:8786; see README"
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")] = False,
) -> int:
    """Say what is wrong with the cache of a case, and how that is known.

    CASE may lie elsewhere, too: s3://bucket/case, or any other address that fsspec knows.
    """
    from coldcache.causes.diagnosis import diagnose as diagnose_case
    from coldcache.record.finish import open_case
    from coldcache.shards.workers import Workers

    cases = [open_case(name) for name in (case, baseline) if name is not None]
    _say_when_compiling(quiet)
    with (
        _bar("diagnosing", quiet, None, "MofNCompleteColumn") as update,
        Workers(scheduler, lambda what, done, total: update(completed=done, total=total, shown=what)) as workers,
    ):
        diagnosis, *good = (diagnose_case(opened, workers) for opened in cases)
        comparison = None
        if good:
            from coldcache.compare import compare

            comparison = compare(good[0], diagnosis)
    if as_json:
        told = diagnosis.to_dict() | ({"baseline": comparison.to_dict()} if comparison else {})
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        for part in (diagnosis.ledger, diagnosis, comparison):
            if part is not None:
                typer.echo(str(part))
    return ALERT if diagnosis.alert else FINE


@app.command()
def report(
    case: CaseArgument,
    notebook: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="run only this notebook and the verdict's; may be repeated")
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="a notebook's parameter; may be repeated")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder to write  \\[default: reports/CASE]")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")] = False,
) -> int:
    """Run the notebooks on a case and write one offline HTML report."""
    with _needs("notebooks"):
        from coldcache.report.runner import ReportOptions, case_name, run_report
    from coldcache.record.finish import open_case

    options = ReportOptions(
        out=out or Path("reports") / case_name(open_case(case)),
        notebooks=tuple(notebook or ()),
        parameters=_pairs(parameter or []),
    )
    with _report_bar(quiet) as step:
        made = run_report(case, options, step)
    findings = made.verdict["findings"]
    typer.echo(f"Verdict: {findings[0]['cause'] if findings else made.verdict['verdict']}")
    if findings:
        typer.echo(f"         {findings[0]['summary']}")
    typer.echo(f"Report:  {made.html}")
    return ALERT if made.alert else FINE


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--parameter {text!r} should be NAME=VALUE, like --parameter bin_s=2.")
        pairs[name] = value
    return pairs


@lab_app.command("list")
def lab_list() -> int:
    """List faults and healthy look-alikes by cause: id, the edit that mends it, and what goes wrong.

    Any id is good for coldcache lab run ID and coldcache demo --fault ID.
    """
    from coldcache.lab.matrix import grouped

    for cause, faults in grouped().items():
        typer.echo(cause)
        for fault in faults:
            edits = ", ".join(filter(None, (part.edit for part in fault.truths)))
            typer.echo(f"  {fault.id:<38} {edits or '–':<34} {fault.title}")
    return FINE


@lab_app.command("run")
def lab_run(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID…", help="what to record, see: coldcache lab list")] = None,
    every: Annotated[bool, typer.Option("--all", help="everything that the lab has")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="recordings of each, from different places of the access trace")] = 3,
    seconds: Annotated[float, typer.Option(min=8, help="length of each recording")] = 11.0,
    basis: Annotated[
        str,
        typer.Option(metavar="exact|log|both", help="what to diagnose: coldcache's own recording, a plain MONITOR log, or both"),
    ] = "both",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="recordings at once, each with a server of its own  \\[default: two per core]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="folder that keeps the recordings; those it has are only diagnosed again")
    ] = None,
    write: Annotated[Path | None, typer.Option(metavar="FILE", help="write the result as a page of Markdown, too")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output, nothing else")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")] = False,
) -> int:
    """Record faults whose truth is known, diagnose them, and compare: does coldcache tell the truth?

    Each is recorded exactly, and at the same time saved as people save it: a log of redis-cli MONITOR with INFO before
    and after. Right is who ranks the injected cause first, with its edit and its key families; and who finds nothing in a
    healthy look-alike. The confusion matrix says what each cause was taken for.

        coldcache lab run key_prefix ttl_unit --seeds 1

        coldcache lab run --all --write benchmarks/diagnosis.md

    With --out DIR the recordings stay, and the same command again takes a minute: it diagnoses them anew. Look at any of
    them: coldcache diagnose DIR/key_prefix-1/exact (or …/log).

    Ends with 0 when every diagnosis was right, with 2 otherwise.
    """
    with _needs("lab"):
        from coldcache.lab.faults import FAULTS
        from coldcache.lab.matrix import BASES, Plan, run_plan

    if bool(ids) == every:
        raise UsageError("Name what to record, or everything with --all. What there is: coldcache lab list")
    if basis not in (*BASES, "both"):
        raise UnknownNameError(f"There is no basis {basis!r}.{did_you_mean(basis, BASES)} Use exact, log or both.")
    plan = Plan(
        faults=tuple(FAULTS) if every else tuple(dict.fromkeys(ids or ())),
        seeds=seeds,
        seconds=seconds,
        bases=BASES if basis == "both" else (basis,),
        jobs=jobs,
        out=out,
    )
    with _bar("lab", quiet, None, "MofNCompleteColumn") as update:
        matrix = run_plan(plan, lambda name, done, total: update(completed=done, total=total, shown=name))
    if write:
        write.write_text(matrix.to_markdown(), "utf-8")
    typer.echo(json.dumps(matrix.to_dict(), indent=2, ensure_ascii=False) if as_json else str(matrix))
    return FINE if matrix.all_right else ALERT


def main() -> None:
    """Run the command line and leave with the contract's exit status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit status; messages go to stderr."""
    try:
        status = app(arguments, standalone_mode=False)
    except ColdcacheError as error:
        _messages().print(f"coldcache: {error}", markup=False, soft_wrap=True)
        return error.exit_code
    except _ClickUsageError as error:
        _messages().print(f"coldcache: {error.format_message()} Try: coldcache --help", markup=False, soft_wrap=True)
        return WRONG_ARGUMENTS
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except BrokenPipeError:
        return BROKEN
    if status == _INTERRUPTED:
        _messages().print("coldcache: interrupted.", markup=False)
        return BROKEN
    return status if isinstance(status, int) else FINE
