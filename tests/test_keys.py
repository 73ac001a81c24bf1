"""Key families and mismatched families."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from coldcache.keys.families import SEPARATORS, key_families, split_key, variable_parts
from coldcache.keys.mismatch import mismatched_pairs, template_edit
from hypothesis import given
from hypothesis import strategies as st


def test_identifiers_become_stars_and_names_stay():
    keys = pd.Series(
        ["prod_cache:img:9f2c41aa77de0011", "user:7:profile", "page:7:views", "session:550e8400-e29b-41d4-a716-446655440000"]
    )
    assert key_families(keys).tolist() == ["prod_cache:img:*", "user:*:profile", "page:*:views", "session:*"]


def test_a_position_with_many_words_is_variable():
    words = [f"{first}{second}" for first in "abcdefgh" for second in "klmnop"]
    families = key_families(pd.Series([f"tag:{word}:count" for word in words]))
    assert set(families) == {"tag:*:count"}


def test_a_few_words_stay_words():
    families = key_families(pd.Series(["config:limits", "config:colours"]))
    assert sorted(families) == ["config:colours", "config:limits"]


def test_the_variable_parts_names_the_thing():
    assert (
        variable_parts("prod_cache:img:77", "prod_cache:img:*")
        == variable_parts("dev_cache:img:77", "dev_cache:img:*")
        == ("77",)
    )


@pytest.mark.parametrize(
    ("written", "read", "edit"),
    [
        ("dev_cache:img:*", "prod_cache:img:*", ("dev_cache -> prod_cache", True)),
        ("img:*", "app:img:*", ("(none) -> app", True)),
        ("app:app:img:*", "app:img:*", ("app -> (none)", True)),
        ("img:*:small", "img:*:thumb", ("small -> thumb", False)),
        ("img:*", "img:*", None),
        ("a:b:*", "c:d:*", None),
        ("img:*:*", "img:*", None),
    ],
)
def test_template_edits(written: str, read: str, edit: tuple[str, bool] | None):
    assert template_edit(written, read) == edit


def accesses(family: str, ids: np.ndarray, seconds: np.ndarray) -> pd.DataFrame:
    t = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(seconds, unit="s")
    return pd.DataFrame({"t": t, "key": [family.replace("*", str(i)) for i in ids], "family": family})


def test_a_true_pair_beats_its_shifted_control_and_an_unrelated_pair_does_not():
    # GIVEN one family written 20 ms after it is read under another name, and one written at random
    rng = np.random.default_rng(1)
    ids, at = rng.zipf(1.3, 3000) % 900, np.sort(rng.uniform(0, 60, 3000))
    reads = accesses("prod:img:*", ids, at)
    true_writes = accesses("dev:img:*", ids, at + 0.02)
    random_writes = accesses("dev:img:*", rng.permutation(ids), at + 0.02)
    # WHEN compared
    true_pair = mismatched_pairs(reads, true_writes)[0]
    random_pair = mismatched_pairs(reads, random_writes)[0]
    # THEN only the true one is far above its control
    assert true_pair.joined_share == 1.0
    assert true_pair.joined_share - true_pair.control_share > 0.1
    assert abs(random_pair.joined_share - random_pair.control_share) < 0.05


def test_a_uuid_is_one_variable_part():
    key = "s:550e8400-e29b-41d4-a716-446655440000:v-1"
    assert variable_parts(key, "s:*:v-*") == ("550e8400-e29b-41d4-a716-446655440000", "1")


@given(st.lists(st.text(alphabet="abz09*:-_.\\\\x", max_size=60), max_size=40))
def test_every_key_has_one_family_and_keeps_its_shape(keys: list[str]):
    families = key_families(pd.Series(keys, dtype="str"))
    assert set(families.index) == set(keys)
    for key, family in families.items():
        assert len(split_key(key)) == len(SEPARATORS.split(family))


def test_a_silence_does_not_lower_the_control():
    # GIVEN unrelated families of few ids, and a gap that is most of the time
    rng = np.random.default_rng(5)
    at = np.sort(rng.uniform(0, 30, 3000))
    at = np.where(at > 15, at + 300, at)
    reads = accesses("prod:img:*", rng.integers(0, 40, 3000), at)
    writes = accesses("dev:img:*", rng.integers(0, 40, 3000), at + 0.005)
    # WHEN compared THEN chance stands in the control as in the measure
    pair = mismatched_pairs(reads, writes)[0]
    assert abs(pair.joined_share - pair.control_share) < 0.05
