"""Every fault of the lab: recorded for real, named by the diagnosis, cured by its repair."""

from __future__ import annotations

from pathlib import Path

import pytest
from coldcache.causes.diagnosis import diagnose
from coldcache.lab.caching import Behaviour
from coldcache.lab.faults import SAMPLED, fault
from coldcache.lab.incident import Incident, record_incident

# Eight seconds are few for a leak: a program that gets no time for one of them shows another shape.
pytestmark = [pytest.mark.live, pytest.mark.alone]
SECONDS = 8
FAULTY = [name for name in SAMPLED if name != "healthy"]


@pytest.fixture(scope="module", params=SAMPLED)
def incident(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Incident]:
    folder = tmp_path_factory.mktemp("lab") / "case"
    return request.param, record_incident(request.param, folder, seconds=SECONDS, seed=7)


def test_the_diagnosis_names_the_fault_and_nothing_else(incident: tuple[str, Incident]):
    name, recorded = incident
    truth = fault(name)
    diagnosis = diagnose(recorded.case)
    assert [finding.cause for finding in diagnosis.findings] == ([] if name == "healthy" else [truth.cause])
    assert diagnosis.verdict == ("healthy" if name == "healthy" else "faulty")
    if diagnosis.findings:
        finding = diagnosis.findings[0]
        assert finding.verdict == "confirmed"
        assert finding.edit == truth.edit
        assert finding.fix.id == truth.repair_id
        named = sorted(finding.families, key=lambda pair: pair["reads"])
        assert named == sorted(truth.families, key=lambda pair: pair["reads"])


def test_the_ledger_equals_info_and_the_analyzers_own_count(incident: tuple[str, Incident]):
    _, recorded = incident
    ledger = diagnose(recorded.case).ledger
    assert ledger.residual == 0
    # The analyzer goes on for an instant after the last INFO sample.
    assert 0 <= recorded.analyzer_counts["requests"] - ledger.total <= 30
    assert 0 <= recorded.analyzer_counts["hits"] - ledger.hits <= 30
    useless = ledger.hits - round((ledger.effective_hit_rate or 0) * ledger.total)
    assert abs(recorded.analyzer_counts["unreadable"] - useless) <= 30


def test_misses_sum_to_the_whole(incident: tuple[str, Incident]):
    _, recorded = incident
    diagnosis = diagnose(recorded.case)
    assert diagnosis.misses["count"].sum() == diagnosis.ledger.misses


def test_a_leak_is_measured_in_bytes_per_miss(incident: tuple[str, Incident]):
    name, recorded = incident
    survivors = diagnose(recorded.case).survivors
    if name != "heap_leak":
        assert survivors.recorded
        assert survivors.sites == ()
        return
    site = survivors.sites[0]
    assert "dragon3.py:_keep_thumbnail" in site.site
    assert site.kind == "leak"
    # The truth: a 64 x 48 RGB array for every miss.
    assert site.bytes_per_miss == pytest.approx(64 * 48 * 3, rel=0.1)


def test_the_repair_really_cures_and_the_prediction_holds(incident: tuple[str, Incident], tmp_path: Path):
    name, recorded = incident
    before = diagnose(recorded.case)
    # WHEN the analyzer runs with the fault and its repair
    after = diagnose(record_incident(name, tmp_path / "case", seconds=SECONDS, seed=7, repaired=True).case)
    # THEN the cache is healthy, and as good as predicted
    assert after.verdict == "healthy"
    predicted = before.predicted_hit_rate(before.findings[0]) if before.findings else before.ledger.hit_rate
    if predicted is not None:
        assert after.ledger.hit_rate == pytest.approx(predicted, abs=0.02)


@pytest.mark.parametrize("name", FAULTY)
def test_a_repair_undoes_its_fault_and_only_that(name: str):
    truth = fault(name)
    assert truth.inject(Behaviour()) != Behaviour()
    assert truth.repair(truth.inject(Behaviour())) == Behaviour()
