"""The lab's matrix: every fault recorded for real, diagnosed on both bases, and held against its truth."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import signal
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from coldcache import __version__
from coldcache.case import Case, open_case
from coldcache.causes.diagnosis import HEALTHY, diagnose
from coldcache.errors import ColdcacheError
from coldcache.importing.importer import import_logs
from coldcache.importing.options import EvidenceFiles, ImportOptions
from coldcache.lab.faults import FAULTS, fault
from coldcache.lab.faults.fault import Fault, FaultPair
from coldcache.lab.incident import record_incident
from coldcache.lab.monitor_log import saved_files
from coldcache.lab.proofs import Recorded, reads

#: From the recorder's own stream, and from what ``redis-cli MONITOR`` and INFO before and after tell.
EXACT, LOG = "exact", "log"
BASES = (EXACT, LOG)
DEFAULT_SECONDS = 11.0
DEFAULT_SEEDS = 3
# What is kept of a recording.
_EXACT_CASE, _LOG_CASE, _SAVED, _COUNTS = "exact", "log", "saved", "counts.json"
# They mostly wait, for time to pass.
_RUNS_PER_CORE = 2
# What may be true of a healthy cache, and is then told by the misses and not by a finding.
_TOLD_BY_MISSES = ("cold_start", "low_reuse", "metric_distortion")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the diagnosis of one recording said, next to the truth.

    fault, seed, basis : what was recorded, and from which evidence it was diagnosed
    cause : the truth
    named : the causes that were named, first things first; without findings the verdict
    wrong : what differs from the truth; empty where all is right
    also : causes that were named beside the right ones
    reads : how many there were, in the exact recording
    """

    fault: str
    seed: int
    basis: str
    cause: str
    named: tuple[str, ...]
    wrong: tuple[str, ...]
    also: tuple[str, ...] = ()
    reads: int = 0

    @property
    def right(self) -> bool:
        """Whether the truth was found."""
        return not self.wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to record.

    faults : ids of the registry
    seeds : how many recordings of each, from different places of the access trace
    seconds : how long each is
    bases : `EXACT`, `LOG` or both; a recording serves both
    jobs : how many at once; None for twice as many as there are cores
    out : folder that keeps the recordings, which are thrown away otherwise; those that it has are not made again
    """

    faults: tuple[str, ...]
    seeds: int = DEFAULT_SEEDS
    seconds: float = DEFAULT_SECONDS
    bases: tuple[str, ...] = BASES
    jobs: int | None = None
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class Matrix:
    """All outcomes of a plan."""

    plan: Plan
    outcomes: tuple[Outcome, ...]

    @property
    def all_right(self) -> bool:
        """Whether every diagnosis told the truth."""
        return all(outcome.right for outcome in self.outcomes)

    def confusion(self, basis: str) -> dict[str, Counter[str]]:
        """Return how often each cause was taken for what, by what was named first; of two faults, both as far as found."""
        table: dict[str, Counter[str]] = defaultdict(Counter)
        for outcome in self._of(basis):
            expected = outcome.cause.split("+")
            # Of two faults it does not matter which is ranked first.
            said = sorted(outcome.named[: len(expected)], key=lambda cause: [*expected, cause].index(cause))
            table[outcome.cause]["+".join(said)] += 1
        return dict(table)

    def _of(self, basis: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.basis == basis]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``coldcache lab run --json`` prints."""
        return {
            "schema": 1,
            "seeds": self.plan.seeds,
            "seconds": self.plan.seconds,
            "right": sum(outcome.right for outcome in self.outcomes),
            "total": len(self.outcomes),
            "confusion": {
                basis: {cause: dict(said) for cause, said in self.confusion(basis).items()} for basis in self.plan.bases
            },
            "runs": [{**asdict(outcome), "right": outcome.right} for outcome in self.outcomes],
        }

    def __str__(self) -> str:
        lines = []
        for basis in self.plan.bases:
            mine = self._of(basis)
            lines.append(f"{_BASIS_NAMES[basis]}: {sum(outcome.right for outcome in mine)} of {len(mine)} right")
            lines += [f"  {cause:<34} {named}" for cause, named in self._rows(basis)]
        for outcome in self.outcomes:
            lines += [f"wrong: {outcome.fault}, seed {outcome.seed}, {outcome.basis}: {'; '.join(outcome.wrong)}"] * (
                not outcome.right
            )
        return "\n".join(lines)

    def _rows(self, basis: str) -> Iterator[tuple[str, str]]:
        for cause, said in self.confusion(basis).items():
            yield cause, ", ".join(f"{name} {count}" for name, count in said.most_common())

    def to_markdown(self) -> str:
        """Return the page ``benchmarks/diagnosis.md``."""
        counts = sorted(outcome.reads for outcome in self.outcomes)
        lines = [
            _PAGE.format(
                plan=self.plan,
                version=__version__,
                python=platform.python_version(),
                median=counts[len(counts) // 2],
                least=counts[0],
            )
        ]
        for basis in self.plan.bases:
            mine = self._of(basis)
            lines += [f"## {_BASIS_NAMES[basis]}: {sum(outcome.right for outcome in mine)} of {len(mine)} right", ""]
            lines += ["| the truth | named first, how often | right |", "| --- | --- | --- |"]
            for cause, named in self._rows(basis):
                of_cause = [outcome for outcome in mine if outcome.cause == cause]
                right = sum(outcome.right for outcome in of_cause)
                lines.append(f"| `{cause}` | {named} | {right} of {len(of_cause)} |")
            lines.append("")
        lines += ["## What is wrong", "", "| entry | basis | wrong | times |", "| --- | --- | --- | --- |"]
        wrong = Counter((outcome.fault, outcome.basis, what) for outcome in self.outcomes for what in outcome.wrong)
        lines += [f"| `{name}` | {basis} | {_cell(what)} | {times} |" for (name, basis, what), times in wrong.items()]
        also = Counter((outcome.fault, outcome.basis, what) for outcome in self.outcomes for what in outcome.also)
        if also:
            lines += ["", "## Named beside the truth", "", "| entry | basis | also named | times |", "| --- | --- | --- | --- |"]
            lines += [f"| `{name}` | {basis} | `{what}` | {times} |" for (name, basis, what), times in also.items()]
        return "\n".join(lines) + "\n"


_BASIS_NAMES = {EXACT: "Exact recording", LOG: "MONITOR log with INFO before and after"}
_PAGE = """# Diagnosis

Every fault of the lab, recorded for real and diagnosed: does the verdict tell the truth? Written by

    coldcache lab run --all --seeds {plan.seeds} --seconds {plan.seconds:g} --write benchmarks/diagnosis.md

coldcache {version}, Python {python}; {plan.seeds} seed(s), each another place in the access trace; {plan.seconds:g} s each. The
same traffic is recorded exactly by coldcache, and saved beside as `redis-cli MONITOR` prints it, with INFO before and after.
A recording has {median:,} reads in the median and {least:,} at least: the busier the machine, the fewer.

A diagnosis is *right* when the injected cause is ranked first, with the edit and the key families of the truth
(`coldcache lab list`). A healthy look-alike is right when the verdict is healthy and nothing is found but what its truth
allows. Of a pair both causes must be among the first two findings. A fault that did not really happen in the recording
counts as wrong.
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


# --- Truth against diagnosis ------------------------------------------------------------------------


def judged(truth: Fault, diagnosis: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Compare a diagnosis with the truth.

    Parameters
    ----------
    truth : Fault
    diagnosis : dict
        As ``coldcache diagnose --json`` prints it.

    Returns
    -------
    named, wrong, also
        The causes named, first things first; what is wrong, in words; what was named beside the truth.
    """
    causes = [finding for finding in diagnosis["findings"] if finding.get("kind") != "advice"]
    if not truth.truths:
        return _judged_healthy(truth, diagnosis, causes)
    findings = causes
    if truth.cause in _TOLD_BY_MISSES and not causes:
        told = [{"cause": row["cause"]} for row in diagnosis["misses"] if row["cause"] in _TOLD_BY_MISSES]
        findings = diagnosis["findings"] or told
    named = tuple(finding["cause"] for finding in findings) or (str(diagnosis["verdict"]),)
    first = findings[: len(truth.truths)]
    others = [finding["cause"] for finding in first if finding["cause"] not in truth.cause.split("+")]
    wrong = tuple(what for part in truth.truths if (what := _missed(part, first, others)))
    also = tuple(dict.fromkeys(cause for cause in named if cause not in truth.cause.split("+"))) if not wrong else ()
    return named, wrong, also


def _judged_healthy(
    truth: Fault, diagnosis: dict[str, Any], causes: list[dict[str, Any]]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    accused = [finding for finding in causes if finding["cause"] not in truth.tolerated]
    wrong = [f"{finding['cause']} ({finding['verdict']}): {finding['summary']}" for finding in accused]
    if not wrong and diagnosis["verdict"] != HEALTHY:
        wrong.append(f"the verdict is {diagnosis['verdict']}")
    return tuple(finding["cause"] for finding in accused) or (str(diagnosis["verdict"]),), tuple(wrong), ()


def _missed(truth: Fault, findings: list[dict[str, Any]], others: list[str]) -> str:
    """Return what of one cause was not found, empty where all was; `others` are the causes that were named wrongly."""
    mine = [finding for finding in findings if finding["cause"] == truth.cause]
    if not mine:
        return f"{truth.cause} was taken for {others[0]}" if others else f"{truth.cause} was not found"
    found = next((finding for finding in mine if finding.get("edit") == truth.edit), mine[0])
    if truth.edit is not None and found.get("edit") != truth.edit:
        return f"{truth.cause}: the edit is {found.get('edit') or 'missing'}, and should be {truth.edit}"
    expected = {(family["reads"], family["writes"]) for family in truth.families}
    named = {(family["reads"], family["writes"]) for family in found.get("families", ())}
    if expected and named != expected:
        return f"{truth.cause}: the families are {_listed(named)}, and should be {_listed(expected)}"
    return ""


def _listed(families: set[tuple[str, str]]) -> str:
    return ", ".join(read if read == written else f"{written} -> {read}" for read, written in sorted(families)) or "none"


# --- Running ----------------------------------------------------------------------------------------


def run_plan(plan: Plan, on_progress: Callable[[str, int, int], None] = lambda *_: None) -> Matrix:
    """Record and diagnose everything of a plan, several at once, each with a server of its own.

    Parameters
    ----------
    plan : Plan
    on_progress : callable
        Told what is done just now, how many are done, and of how many.

    Raises
    ------
    UnknownNameError
        There is no such fault.
    """
    for name in plan.faults:
        fault(name)
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    runs = [(name, seed) for seed in range(1, plan.seeds + 1) for name in plan.faults]
    outcomes: dict[tuple[str, int], tuple[Outcome, ...]] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_terminated_like_interrupted())
        folder = plan.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coldcache-lab-")))
        jobs = min(len(runs), plan.jobs or _RUNS_PER_CORE * (os.cpu_count() or 1))
        pool = stack.enter_context(ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_begin, initargs=(stop,)))
        on_progress("", 0, len(runs))
        try:
            waiting: dict[Future[tuple[Outcome, ...]], tuple[str, int]] = {
                pool.submit(_recorded_and_judged, name, seed, plan, folder): (name, seed) for name, seed in runs
            }
            for done in as_completed(waiting):
                outcomes[waiting[done]] = done.result()
                on_progress(waiting[done][0], len(outcomes), len(runs))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    ordered = [outcome for name in plan.faults for seed in range(1, plan.seeds + 1) for outcome in outcomes[name, seed]]
    return Matrix(plan, tuple(ordered))


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM end everything in good order, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_stop: Event | None = None


def _begin(stop: Event) -> None:
    """Begin a process of the pool: whoever started it says when to stop, not Ctrl-C."""
    global _stop  # noqa: PLW0603 (there is no other way to hand something to all tasks of a process)
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stopped() -> bool:
    return _stop is not None and _stop.is_set()


def _recorded_and_judged(name: str, seed: int, plan: Plan, parent: Path) -> tuple[Outcome, ...]:
    truth, folder = FAULTS[name], parent / f"{name}-{seed}"
    try:
        recorded = _kept(folder) or _recorded(truth, seed, plan, folder)
    except ColdcacheError as error:
        return tuple(_failed(truth, seed, basis, error) for basis in plan.bases)
    happened = truth.proof(recorded)
    not_real = (f"it did not happen: {happened}, and not {truth.least}",) if happened < truth.least else ()
    outcomes = []
    for basis in plan.bases:
        try:
            diagnosis = diagnose(recorded.case if basis == EXACT else _imported(folder)).to_dict()
        except Exception as error:  # whatever a diagnosis stumbles over is what this is to find
            outcomes.append(_failed(truth, seed, basis, error))
            continue
        named, wrong, also = judged(truth, diagnosis)
        outcomes.append(Outcome(name, seed, basis, truth.cause, named, not_real + wrong, also, reads(recorded)))
        (folder / f"{basis}.json").write_text(json.dumps(diagnosis, indent=2, ensure_ascii=False) + "\n", "utf-8")
    if not plan.out:
        shutil.rmtree(folder)
    return tuple(outcomes)


def _recorded(truth: Fault, seed: int, plan: Plan, folder: Path) -> Recorded:
    """Record one incident; what the analyzer counted is written last, and so tells a whole recording."""
    if folder.exists():
        shutil.rmtree(folder)  # what an interrupted run left
    incident = record_incident(
        truth.id,
        folder / _EXACT_CASE,
        seconds=plan.seconds,
        seed=seed,
        with_heap=truth.heap,
        log=folder / _SAVED,
        stopped=_stopped,
    )
    if _stopped():
        raise InterruptedError("the lab was told to stop")
    (folder / _COUNTS).write_text(json.dumps(incident.analyzer_counts), "utf-8")
    return Recorded(incident.case, incident.analyzer_counts)


def _kept(folder: Path) -> Recorded | None:
    """Return a recording that an earlier run kept; None if there is none."""
    counts = folder / _COUNTS
    return Recorded(open_case(folder / _EXACT_CASE), json.loads(counts.read_text("utf-8"))) if counts.exists() else None


def _failed(truth: Fault, seed: int, basis: str, error: Exception) -> Outcome:
    return Outcome(truth.id, seed, basis, truth.cause, ("(failed)",), (f"failed: {type(error).__name__}: {error}",))


def _imported(folder: Path) -> Case:
    """Return a case of what was saved without coldcache; a heap profile is there if the process had one."""
    log, *info = saved_files(folder / _SAVED)
    heap = folder / _EXACT_CASE / "heap" / "memray.bin"
    beside = EvidenceFiles(info=tuple(info), heap=(heap,) if heap.exists() else ())
    shutil.rmtree(folder / _LOG_CASE, ignore_errors=True)
    return import_logs(ImportOptions(logs=(str(log),), out=folder / _LOG_CASE, beside=beside))


def grouped() -> dict[str, list[Fault]]:
    """Return all there is by cause, in the registry's order; pairs under one heading."""
    groups: dict[str, list[Fault]] = defaultdict(list)
    for one in FAULTS.values():
        groups["two at once" if isinstance(one, FaultPair) else one.cause].append(one)
    return dict(groups)
