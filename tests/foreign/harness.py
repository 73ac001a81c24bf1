"""Runs a foreign application on a real server, records it in two ways at once, and holds a diagnosis against the truth.

The two ways are those of this project: an exact recording, and a log of MONITOR with INFO before and after, as somebody takes it
with redis-cli and imports it later.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coldcache.importing.importer import import_logs
from coldcache.importing.options import EvidenceFiles, ImportOptions
from coldcache.lab.monitor_log import monitor_log, saved_files
from coldcache.lab.server import lab_server
from coldcache.record.recorder import Progress, RecordOptions, record
from foreign.application import HEALTHY, Application, Fault, drive
from foreign.clients import compiled, jvm, node, php, platforms, python, ruby

SECONDS = 5.0
EXACT, LOG, SAVED = "exact", "log", "saved"
BASES = (EXACT, LOG)
APPLICATIONS: dict[str, type[Application]] = {
    application.name: application
    for language in (php, python, ruby, jvm, node, compiled, platforms)
    for application in language.CLIENTS
}
#: Every application with every fault, and without one.
INCIDENTS = [(name, fault) for name, application in APPLICATIONS.items() for fault in (HEALTHY, *application.faults)]
# A connection that prepares what was there before is none of the application's own.
_PREPARING = -1
# These are no faults: the number that INFO gives is bad, and nothing mends it.
_NO_REPAIR = ("low_reuse", "cold_start")


@dataclass(frozen=True)
class Recorded:
    """What is left of an incident: two cases, and what the application counted itself."""

    folder: Path
    counts: Counter[str]

    def case_folder(self, basis: str) -> Path:
        """Return where the case of that basis is."""
        return self.folder / basis


def truth_of(name: str, fault: str) -> Fault:
    """Return what is true of an application with a fault, or without one."""
    application = APPLICATIONS[name]
    if fault != HEALTHY:
        return application.faults[fault]
    healthy = frozenset({HEALTHY})
    return Fault(cause=HEALTHY, what="none", symptom=application.healthy, verdicts=healthy, log_verdicts=healthy)


def record_incident(name: str, fault: str, folder: Path) -> Recorded:
    """Run an application with a fault for some seconds, and record it in both ways."""
    with lab_server(None, *truth_of(name, fault).server) as url:
        application = APPLICATIONS[name](url, fault)
        with contextlib.closing(application.connect(_PREPARING)) as wire:
            application.prepare(wire)
        application.counts.clear()
        stop = threading.Event()
        failed: list[BaseException] = []

        def work() -> None:
            try:
                with monitor_log(url, folder / SAVED) as saved:
                    drive(application, SECONDS)
                    saved.finish()
            except BaseException as error:
                failed.append(error)
            finally:
                stop.set()

        worker = threading.Thread(target=work)

        def start(_: Progress) -> None:
            if worker.ident is None:
                worker.start()

        record(RecordOptions(url=url, out=folder / EXACT, watched=False, stop=stop), start)
        worker.join()
        if failed:
            raise failed[0]
    log, *info = saved_files(folder / SAVED)
    import_logs(ImportOptions(logs=(str(log),), out=folder / LOG, beside=EvidenceFiles(info=tuple(info))))
    return Recorded(folder, application.counts)


def disagreements(truth: Fault, basis: str, found: dict[str, Any]) -> list[str]:
    """Return in what a diagnosis, as JSON has it, is not what is true; nothing when it is right.

    Parameters
    ----------
    truth : Fault
    basis : ``exact`` or ``log``
    found : dict
        As :meth:`coldcache.causes.diagnosis.Diagnosis.to_dict` returns it.
    """
    advice = [finding["cause"] for finding in found["findings"] if finding.get("kind") == "advice"]
    causes = [finding["cause"] for finding in found["findings"] if finding.get("kind") != "advice"]
    verdicts = truth.log_verdicts if basis == LOG else truth.verdicts
    wrong = [] if found["verdict"] in verdicts else [f"verdict {found['verdict']}"]
    if truth.cause == HEALTHY:
        return wrong + [f"a finding where all is well: {cause}" for cause in causes]
    if truth.cause in _NO_REPAIR:
        most = max(found["misses"], key=lambda row: row["count"], default={"cause": "nothing"})["cause"]
        wrong += [f"a finding where nothing can be mended: {cause}" for cause in causes if cause != truth.cause]
        return wrong + ([] if truth.cause in (most, *causes, *advice) else [f"most misses are put down to {most}"])
    if (causes or advice)[:1] != [truth.cause]:
        return [*wrong, f"ranked first: {', '.join(causes) or 'nothing'}"]
    findings = [finding for finding in found["findings"] if finding["cause"] == truth.cause]
    if truth.edits and findings[0]["edit"] not in truth.edits:
        wrong.append(f"edit {findings[0]['edit']}")
    families = {(pair["reads"], pair["writes"]) for finding in findings for pair in finding["families"]}
    if truth.families is not None and families != truth.families:
        wrong.append(f"families {sorted(families)}")
    return wrong
