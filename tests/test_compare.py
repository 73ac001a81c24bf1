"""What changed between two recordings."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
from coldcache.case import write_table
from coldcache.causes.diagnosis import Diagnosis, diagnose
from coldcache.cli import run
from coldcache.compare import Comparison, compare
from coldcache.record.finish import open_case
from conftest import case_of, event, line
from test_cli import SCHEMA


def compared(before: str, after: str) -> Comparison:
    baseline, now = (diagnose(open_case(f"sample-{name}")) for name in (before, after))
    return compare(baseline, now)


def told(comparison: Comparison) -> set[tuple[str, str, str | None, str | None]]:
    return {(change.kind, change.what, change.before, change.after) for change in comparison.changes}


def test_a_prefix_that_a_deploy_changed_is_an_edited_family():
    comparison = compared("healthy", "key_prefix")
    assert ("family", "dev_cache:img:*", "prod_cache:img:*", "dev_cache:img:*") in told(comparison)
    assert ("hit_rate", "prod_cache:img:*", "63 %", "0 %") in told(comparison)
    assert (comparison.mended, comparison.appeared) == ((), ("key_prefix",))
    assert comparison.headline.startswith("The hit rate fell from 63.7% to 0.0%: key_prefix is new")


def test_the_other_way_round_it_proves_the_repair():
    comparison = compared("ttl_unit", "healthy")
    assert (comparison.mended, comparison.appeared) == (("ttl_unit",), ())
    assert ("ttl", "prod_cache:img:*", "PX 300", "EX 300") in told(comparison)
    assert "rose from" in comparison.headline


def test_a_format_that_nobody_can_read_shows_in_the_share_of_reads_that_used_a_hit():
    comparison = compared("healthy", "serialization")
    assert ("format", "prod_cache:img:*", "json", "python_repr:json") in told(comparison)
    assert "share of reads that used a hit fell" in comparison.headline


def test_a_recording_has_not_changed_from_itself():
    comparison = compared("healthy", "healthy")
    assert comparison.changes == ()
    assert "stayed at" in comparison.headline


def reading(
    folder: Path, names: list[str], *, size: int = 10, every_ms: int = 10, config: dict[str, str] | None = None
) -> Diagnosis:
    """Each key of the families is written, then read, 60 times over."""
    items = []
    for at in range(60):
        for number, name in enumerate(names):
            key = f"{name}:{at % 20:08x}9"
            items += [
                event("set", key),
                line(at * every_ms + number, "SET", key, "x" * size),
                line(at * every_ms + number, "GET", key),
            ]
    case = case_of(folder, items)
    if config:
        rows = [("test:6379", name, value) for name, value in config.items()]
        write_table(folder, "config", pd.DataFrame(rows, columns=["node", "parameter", "value"]))
    return diagnose(case)


def test_new_and_vanished_families_sizes_and_settings(tmp_path: Path):
    before = reading(tmp_path / "a", ["shop:cart", "shop:order"], config={"maxmemory": "0", "hz": "10", "port": "1"})
    after = reading(tmp_path / "b", ["shop:cart", "blog"], size=100, config={"maxmemory": "1000", "hz": "10", "port": "2"})
    changes = told(compare(before, after))
    assert ("config", "maxmemory", "0", "1000") in changes
    assert not {"hz", "port"} & {what for kind, what, *_ in changes if kind == "config"}
    assert ("size", "shop:cart:*", "10 bytes", "100 bytes") in changes
    families = {(what, was is None, now is None) for kind, what, was, now in changes if kind == "family"}
    assert families == {("shop:order:*", False, True), ("blog:*", True, False)}


def test_a_version_in_the_middle_of_the_name_is_an_edit(tmp_path: Path):
    comparison = compare(reading(tmp_path / "a", ["shop:v1:cart"]), reading(tmp_path / "b", ["shop:v2:cart"]))
    assert told(comparison) == {("family", "shop:v2:cart:*", "shop:v1:cart:*", "shop:v2:cart:*")}
    assert comparison.families[["family", "status", "was"]].values.tolist() == [["shop:v2:cart:*", "edited", "shop:v1:cart:*"]]


def test_the_command_line_tells_both_ways(capsys: pytest.CaptureFixture[str]):
    assert run(["diagnose", "sample-key_prefix", "--baseline", "sample-healthy", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, SCHEMA)
    assert found["baseline"]["appeared"] == ["key_prefix"]
    assert run(["diagnose", "sample-healthy", "--baseline", "sample-key_prefix", "--quiet"]) == 0
    assert "Compared with sample-key_prefix: The hit rate rose" in capsys.readouterr().out
    assert run(["diagnose", "sample-healthy", "--baseline", "sample-helthy"]) == 64
