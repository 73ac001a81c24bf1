"""Incidents of applications that this project does not know, in other languages, held against the truth.

They were written before what finds their causes. What is not found yet stands in ``not_yet.py``, case by case; the table shrinks
as checks come, for a line of it whose test passes is an error.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from coldcache.case import open_case
from coldcache.causes.diagnosis import diagnose
from coldcache.causes.outcomes import CAUSES
from coldcache.keys.families import key_families
from foreign.application import HEALTHY
from foreign.harness import BASES, EXACT, INCIDENTS, Recorded, disagreements, record_incident, truth_of
from foreign.not_yet import NOT_YET

pytestmark = [pytest.mark.live, pytest.mark.alone]  # its recordings run side by side already
_TOGETHER = 4  # recordings at a time: they mostly sleep
_LONGEST_S = 600  # for any one of them, on whatever machine
# What the server's evidence does not show: it takes a process, a recording that failed, or a client that stalls.
_NOT_OF_REDIS = {"heap_leak", "unbounded_cache", "fragmentation", "gc_pressure", "incomplete_capture", "monitor_backlog"}

Incidents = Callable[[str, str], Recorded]


@pytest.fixture(scope="session")
def incidents(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Incidents]:
    """Record the incidents of all tests that were asked for, some at a time, while those that are done are looked at."""
    asked = [item.callspec.params for item in request.session.items if item.path == Path(__file__) and hasattr(item, "callspec")]
    wanted = dict.fromkeys((params["name"], params["fault"]) for params in asked)
    # A fork of this process would take its threads' locks with it.
    with ProcessPoolExecutor(_TOGETHER, mp_context=multiprocessing.get_context("spawn")) as pool:
        under_way = {
            (name, fault): pool.submit(record_incident, name, fault, tmp_path_factory.mktemp(f"{name}-{fault}"))
            for name, fault in wanted
        }
        yield lambda name, fault: under_way[name, fault].result(_LONGEST_S)
        pool.shutdown(cancel_futures=True)


@cache
def diagnosed(case: Path) -> dict[str, Any]:
    """The diagnosis of a case as JSON has it."""
    return diagnose(open_case(case)).to_dict()


def expected(name: str, fault: str, basis: str) -> Any:
    """An incident on one basis, with what is known not to be found yet."""
    reason = NOT_YET.get((name, fault, basis))
    marks = [pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason)] if reason else []
    return pytest.param(name, fault, basis, id=f"{name}-{fault}-{basis}", marks=marks)


@pytest.mark.parametrize(("name", "fault", "basis"), [expected(*incident, basis) for incident in INCIDENTS for basis in BASES])
def test_the_diagnosis_tells_the_truth(incidents: Incidents, name: str, fault: str, basis: str):
    found = diagnosed(incidents(name, fault).case_folder(basis))
    assert disagreements(truth_of(name, fault), basis, found) == []


@pytest.mark.parametrize(("name", "fault"), INCIDENTS, ids=["-".join(incident) for incident in INCIDENTS])
def test_the_fault_really_happened_and_was_recorded(incidents: Incidents, name: str, fault: str):
    truth, recorded = truth_of(name, fault), incidents(name, fault)
    # GIVEN what the application counted itself, the fault had its effect
    assert truth.symptom(recorded.counts), recorded.counts
    # THEN all of its look-ups were recorded, among those that its library makes; a failover leaves a gap
    diagnosis = diagnosed(recorded.case_folder(EXACT))
    reads = diagnosis["reads"]
    assert reads["residual"] == 0
    if not diagnosis["case"]["gaps"]:
        assert reads["hits"] >= recorded.counts["hits"]
        assert reads["misses"] >= recorded.counts["misses"]
    # AND the truth names families that there are
    keys = open_case(recorded.case_folder(EXACT)).accesses["key"]
    assert {family for pair in truth.families or () for family in pair} <= set(key_families(keys))


def test_every_cause_that_redis_shows_has_an_incident():
    assert {truth_of(name, fault).cause for name, fault in INCIDENTS} == {HEALTHY, *CAUSES} - _NOT_OF_REDIS


def test_what_is_not_found_yet_is_of_incidents_that_there_are():
    assert set(NOT_YET) <= {(name, fault, basis) for name, fault in INCIDENTS for basis in BASES}
