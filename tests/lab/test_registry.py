"""The registry: every cause has a fault, every fault a truth that can be checked, and a repair that undoes it."""

from __future__ import annotations

from dataclasses import fields

import pytest
from coldcache.causes.outcomes import CAUSES
from coldcache.lab.caching import Behaviour, Request
from coldcache.lab.faults import FAULTS, SAMPLED
from coldcache.lab.faults.fault import HEALTHY, FaultPair

# A cold start is what the healthy analyzer shows, and low reuse is a look-alike; these two have no fault yet.
WITHOUT_FAULT = {"cold_start", "low_reuse", "fragmentation", "gc_pressure"}
SINGLE = [fault for fault in FAULTS.values() if fault.cause != HEALTHY and not isinstance(fault, FaultPair)]
PAIRS = [fault for fault in FAULTS.values() if isinstance(fault, FaultPair)]
HEALTHY_ONES = [fault for fault in FAULTS.values() if fault.cause == HEALTHY]
STEPS = {step.name for step in fields(Behaviour)}


def test_every_cause_has_a_fault_and_there_is_enough_that_is_healthy():
    assert {fault.cause for fault in SINGLE} | WITHOUT_FAULT == set(CAUSES)
    assert len(HEALTHY_ONES) >= 12
    assert len(PAIRS) >= 10
    assert set(SAMPLED) <= set(FAULTS)


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_truth_is_well_formed(name: str):
    fault = FAULTS[name]
    assert fault.id == name
    assert fault.title
    assert set(fault.changes) | set(fault.setting) <= STEPS
    assert fault.least > 0
    assert set(fault.tolerated) <= set(CAUSES)
    assert bool(fault.tolerated) <= (fault.cause == HEALTHY)
    for truth in fault.truths:
        assert truth.cause in CAUSES
        assert truth.repair_id == truth.cause
        assert truth.edit is None or len(truth.edit.split(" -> ")) == 2
        assert all(set(family) == {"reads", "writes"} for family in truth.families)


@pytest.mark.parametrize("fault", [*SINGLE, *PAIRS], ids=lambda fault: fault.id)
def test_a_fault_is_a_change_that_its_repair_undoes(fault: object):
    healthy = fault.setting_of(Behaviour())
    assert fault.changes or fault.actors or fault.server
    faulty = fault.inject(healthy)
    assert (faulty != healthy) == bool(fault.changes)
    assert fault.repair(faulty) == healthy


@pytest.mark.parametrize("fault", PAIRS, ids=lambda fault: fault.id)
def test_a_pair_is_two_faults_each_with_families_of_its_own(fault: FaultPair):
    first, second = fault.truths
    assert fault.id == f"{first.id}+{second.id}"
    assert all(":img" in family["reads"] for family in first.families)
    assert all(":thumb" in family["reads"] for family in second.families)


@pytest.mark.parametrize("fault", HEALTHY_ONES, ids=lambda fault: fault.id)
def test_a_look_alike_changes_nothing_that_a_repair_would_have_to_undo(fault: object):
    assert fault.truths == ()
    assert not fault.changes
    assert fault.repair_id is None


def test_faults_of_keys_build_the_families_that_their_truth_names():
    import pandas as pd
    from coldcache.keys.families import key_families

    requests = [Request.of(image, number=image, at_s=image / 50, fleet=image % 2) for image in range(400)]
    for fault in SINGLE:
        if fault.cause not in ("key_naming", "key_prefix", "key_hash", "unique_key"):
            continue
        faulty = fault.inject(fault.setting_of(Behaviour()))
        read, written = ([build(request) for request in requests] for build in (faulty.read_key, faulty.write_key))
        families = key_families(pd.Series([*read, *written]))
        assert set(families[read]) == {family["reads"] for family in fault.families}, fault.id
        assert set(families[written]) == {family["writes"] for family in fault.families}, fault.id
