"""How keys are used, against literal reads and writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coldcache import figures
from coldcache.replay.ledger import miss_ledger
from coldcache.replay.usage import KeyUsage, key_usage
from conftest import case_of, event, line


def usage(folder: Path, *items: object) -> KeyUsage:
    return key_usage(miss_ledger(case_of(folder / "case", list(items))))


def test_keys_are_counted_by_family_with_what_is_stored(tmp_path: Path):
    found = usage(
        tmp_path,
        line(0, "GET", "img:1"), line(1, "GET", "img:1"), line(2, "GET", "img:2"), line(3, "GET", "other"),
        event("set", "img:1"), line(4, "SET", "img:1", "x" * 10, "EX", "60"),
        event("set", "img:1"), line(5, "SET", "img:1", "x" * 30),
        event("set", "img:3"), line(6, "SET", "img:3", "x" * 20, "EX", "20"),
    )  # fmt: skip
    image = found.families.set_index("family").loc["img:*"]
    assert (image["keys"], image["reads"], image["writes"]) == (3, 3, 3)
    assert (image["reads_per_key"], image["one_hit_share"], image["unread_share"]) == (1.5, 0.5, 0.5)
    assert (image["stored_bytes"], image["value_bytes"], image["ttl_s"]) == (50, 20, 40)
    assert image["no_ttl_share"] == pytest.approx(1 / 3)
    other = found.families.set_index("family").loc["other"]
    assert (other["keys"], other["writes"]) == (1, 0)
    assert np.isnan(other["stored_bytes"])
    assert "4 in 2 families" in str(found)


def test_the_curve_of_concentration_begins_with_the_most_read(tmp_path: Path):
    items = [line(at, "GET", "img:1") for at in range(97)] + [line(100 + at, "GET", f"img:{at}") for at in range(2, 5)]
    curve = usage(tmp_path, *items).concentration
    assert curve["reads_share"].iloc[[0, 25, 100]].tolist() == pytest.approx([0, 0.97, 1])
    assert curve["reads_share"].is_monotonic_increasing


def test_of_nothing_there_is_a_note_instead_of_a_picture(tmp_path: Path):
    found = usage(tmp_path, line(0, "PING"))
    assert found.families.empty
    assert str(found).endswith("none")
    for figure in (figures.key_families(found.families), figures.concentration(found.concentration)):
        assert "There are no" in figure.layout.annotations[0].text


def test_keys_are_drawn_with_their_names_escaped(tmp_path: Path):
    found = usage(tmp_path, line(0, "GET", "<b>x</b>"), line(1, "GET", "<b>x</b>"))
    assert "&lt;b&gt;" in figures.key_families(found.families).to_json().replace("\\u003c", "<").replace("\\u0026", "&")
    assert len(figures.concentration(found.concentration).data) == 2
