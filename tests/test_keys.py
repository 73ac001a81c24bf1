"""Key families and mismatched families."""

from __future__ import annotations

import base64
from random import Random

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from coldcache.keys.families import (
    SEPARATORS,
    Families,
    families_of,
    key_families,
    key_of,
    looks_of,
    split_key,
    split_keys,
    templates_of,
    variable_parts,
    variable_parts_of,
)
from coldcache.keys.mismatch import lags_of, template_edit
from coldcache.keys.numbering import different_of, numbers_and_first
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
        ("page:*", "page:*/", ("(none) -> /", False)),
        ("/page:*", "page:*", ("/ -> (none)", True)),
        ("a:/*", "a:*", (": -> (none)", True)),
        ("img:*", "img:*", None),
        ("a:b:*", "c:d:*", None),
        ("img:*:*", "img:*", None),
    ],
)
def test_template_edits(written: str, read: str, edit: tuple[str, bool] | None):
    assert template_edit(written, read) == edit


def accesses(family: str, ids: np.ndarray, seconds: np.ndarray) -> pd.DataFrame:
    t = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(seconds, unit="s").round("us").as_unit("us")
    return pd.DataFrame({"t": t, "key": [family.replace("*", str(i)) for i in ids], "family": family})


SECRET = np.array([1, 2], np.uint64)


def shares(reads: pd.DataFrame, writes: pd.DataFrame) -> tuple[float, float]:
    """The share of writes joined to a read of the same id, and its control."""
    keys = pa.array([*reads["key"], *writes["key"]])
    looks = looks_of(keys, SECRET)
    number, hashes, templates = templates_of(keys, looks)
    ids = looks.ids ^ Families.of_templates(hashes, templates, SECRET).of(hashes)[1][number]
    read_us, write_us = (frame["t"].astype("int64").to_numpy() for frame in (reads, writes))
    both = np.sort(np.concatenate([read_us, write_us]))
    ends = np.flatnonzero(np.diff(both) > 2_000_000)
    busy = np.column_stack([both[np.r_[0, ends + 1]], both[np.r_[ends, len(both) - 1]]])
    count = len(reads)
    return lags_of(ids[:count], read_us, ids[count:], write_us, (int(both[0]), int(both[-1])), busy).shares()


def test_a_true_pair_beats_its_shifted_control_and_an_unrelated_pair_does_not():
    # GIVEN one family written 20 ms after it is read under another name, and one written at random
    rng = np.random.default_rng(1)
    ids, at = rng.zipf(1.3, 3000) % 900, np.sort(rng.uniform(0, 60, 3000))
    reads = accesses("prod:img:*", ids, at)
    true_writes = accesses("dev:img:*", ids, at + 0.02)
    random_writes = accesses("dev:img:*", rng.permutation(ids), at + 0.02)
    # WHEN compared
    joined, control = shares(reads, true_writes)
    by_chance, random_control = shares(reads, random_writes)
    # THEN only the true one is far above its control
    assert joined == 1.0
    assert joined - control > 0.1
    assert abs(by_chance - random_control) < 0.05


def test_a_uuid_is_one_variable_part():
    key = "s:550e8400-e29b-41d4-a716-446655440000:v-1"
    assert variable_parts(key, "s:*:v-*") == ("550e8400-e29b-41d4-a716-446655440000", "1")


JAVA = r"\xac\xed\x00\x05t\x00"


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("s:550e8400-e29b-41d4-a716-446655440000", "s:*"),
        ("s:u550e8400-e29b-41d4-a716-446655440000x", "s:*"),
        ("s:550e8400-e29b-41d4-a716-446655440000-small", "s:*-small"),
        ("s:550e8400-e29b-41d4-a716-44665544000", "s:*-e29b-41d4-a716-*"),
        ("s:" + "0af4" * 16, "s:*"),
        ("s:" + "0AF4" * 10, "s:*"),
        ("s:507f1f77bcf86cd799439011", "s:*"),
        ("s:01ARZ3NDEKTSV4RRFFQ69G5FAV", "s:*"),
        ("s:0ujtsYcgvSTl8PAuAdqWYSMnLOv", "s:*"),
        ("s:1700000000123", "s:*"),
        ("s:1700000000", "s:*"),
        ("f:-8412345678901234567:x", "f:*:x"),
        ("f:-1", "f:*"),
        ("f_-1", "f_*"),
        ("f:--1", "f:--*"),
        ("f:-1a", "f:-1a"),
        ("a-5", "a-*"),
        ("s:dXNlcjoxMjM0NTY3OA==:z", "s:*:z"),
        ("s:dXNlcjoxMjM0NTY3OA===", "s:*==="),
        ("s:Ab3_dEf9Xy7-Zq1Lm4No8P", "s:*"),
        ("sess_Ab3_dEf9Xy7-Zq1Lm4No8P_small", "sess_*_small"),
        ("sess_Ab3_dEf9Xy7-Zq1Lm4No8P_123456", "sess_*_*"),
        ("?token=Ab3dEf9Xy7Zq1Lm4No8P&page=3", "?token=*&page=*"),
        ("q:a%20b", "q:*"),
        (r"q:caf\xc3\xa9", "q:*"),
        (JAVA + r"\x0buser:42", JAVA + ".user:*"),
        (JAVA + ".user:42", JAVA + ".user:*"),
        (JAVA + r"\"user:42", JAVA + ".user:*"),
        (JAVA, "*"),
        (":1:img:42", ":1:img:*"),
        (":100:img:42", ":*:img:*"),
        ("img:1:42", "img:*:*"),
        ("app:app:img:42", "app:app:img:*"),
        ("{user:42}", "{user:*}"),
        ("{user:42}:cart", "{user:*}:cart"),
        ("prod_cache:img:42:v1", "prod_cache:img:*:v1"),
        ("v20260102:v3fa9120c:42", "v20260102:v3fa9120c:*"),
        ("deadbeef:facade", "deadbeef:facade"),
        ("ProductImageThumbnail2:User_Profile_Cache_V2:3", "ProductImageThumbnail2:User_Profile_Cache_V2:*"),
        ("", ""),
        ("::", "::"),
        ("<b>7</b>", "<b>7</b>"),
    ],
)
def test_the_family_of_a_lone_key(key: str, family: str):
    assert key_families(pd.Series([key])).to_dict() == {key: family}


def test_a_few_versions_stay_and_many_are_a_star():
    few, many = ([f"{name}:{number}:v{number % count}" for number in range(90)] for name, count in (("img", 30), ("page", 31)))
    families = key_families(pd.Series([*few, *many, "page:7:latest", "page:7:V1"]))
    # THEN thirty are seen apart, more are one, and what stands beside them is not touched
    assert set(families[few]) == {f"img:*:v{number}" for number in range(30)}
    assert set(families[many]) == {"page:*:v*"}
    assert families[["page:7:latest", "page:7:V1"]].tolist() == ["page:*:latest", "page:*:V*"]
    assert variable_parts("page:8:v12", "page:*:v*") == ("8", "12")
    # AND versions are many in front, too, where no first token is
    assert set(key_families(pd.Series([f"v{number}:img" for number in range(31)]))) == {"v*:img"}


@pytest.mark.parametrize("template", ["{}:img:{}", "app:{}:img:{}", "img:{1}:{0}", "img_{}:{}", ":{}:img:{}"])
def test_a_version_changed_at_a_deploy_is_found(template: str):
    # GIVEN readers at version 2 and writers at version 1, 20 ms later, of the same ids
    rng = np.random.default_rng(1)
    old, new = ("1", "2") if template.startswith(":") else ("v1", "v2")
    ids, at = rng.zipf(1.3, 2000) % 900, np.sort(rng.uniform(0, 60, 2000))
    reads, writes = (accesses(template.format(version, "*"), ids, at + late) for version, late in ((new, 0), (old, 0.02)))
    # WHEN their families are found together
    families = key_families(pd.concat([reads["key"], writes["key"]]))
    (read,), (written,) = (frame["key"].map(families).unique() for frame in (reads, writes))
    # THEN they are two, told apart by the version, and their ids meet
    assert (read, written) == (template.format(new, "*"), template.format(old, "*"))
    edit = template_edit(written, read)
    assert edit is not None
    assert edit[0].replace("img_", "") == f"{old} -> {new}"
    assert shares(reads, writes)[0] == 1.0


WORDS = [f"{first}{second}" for first in "abcdefghijklmnopqrst" for second in "klmnopqrstuvwxyz"]


def test_a_first_token_of_many_is_variable_and_tables_are_not():
    assert set(key_families(pd.Series([f"{word}:profile" for word in WORDS[:31]]))) == {"*:profile"}
    assert set(key_families(pd.Series([f"{word}:{n}:x" for word in WORDS[:301] for n in range(3)]))) == {"*:*:x"}
    assert set(key_families(pd.Series([f"{word}:{other}" for word, other in zip(WORDS, WORDS[::-1], strict=True)]))) == {"*:*"}
    tables = [f"{word}:{n}" for word in WORDS[:60] for n in range(3)]
    assert set(key_families(pd.Series(tables))) == {f"{word}:*" for word in WORDS[:60]}


def test_keys_with_the_same_tokens_but_for_a_hash_tag_stay_apart():
    keys = [f"{{{name}:{n}}}" for name in ("user", "page") for n in range(50)]
    assert set(key_families(pd.Series(keys))) == {"{user:*}", "{page:*}"}


def test_enormous_and_hostile_keys():
    # GIVEN keys that a quadratic search would not end on
    size = 1_000_000
    dashes, mixed, words = "-" * size, "a3B_" * (size // 4), "abC-" * (size // 4) + "1"
    keys = [dashes, ":" * size, "7" * size, "0af3-" * (size // 5), mixed, words, "=" * size, "<script>", "\x00\n", "é:7"]
    # WHEN
    families = key_families(pd.Series(keys, dtype="str"))
    # THEN each has one, of its shape
    assert bool(families[dashes] == dashes)  # pytest would compare them letter by letter
    assert [families[key][:9] for key in ("7" * size, mixed)] == ["*"] * 2
    assert families["é:7"] == "é:*"
    for key, family in families.items():
        assert len(split_key(key)) == len(SEPARATORS.split(family))


def test_nulls_are_left_out_and_repeated_keys_are_one_row():
    keys = pd.concat([pd.Series(["a:1", None, "b:2"], dtype="str"), pd.Series(["a:1"], dtype="str")])
    families = key_families(keys)
    assert families.to_dict() == {"a:1": "a:*", "b:2": "b:*"}
    assert keys.map(families).tolist()[::2] == ["a:*", "b:*"]
    assert key_families(keys.head(0)).empty


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_families_as_codes(kind: pa.DataType):
    # GIVEN keys from the middle of an array
    codes, templates = families_of(pa.array(["no", "b:1", "a:1", "b:2"], kind).slice(1))
    assert (codes.tolist(), codes.dtype, templates) == ([0, 1, 0], np.int32, ["b:*", "a:*"])
    codes, templates = families_of(pa.array([], kind))
    assert (codes.tolist(), codes.dtype, templates) == ([], np.int32, [])


def test_the_length_behind_javas_prefix_is_the_keys_own():
    # GIVEN a key of eighteen bytes, two of them printed as escapes
    parts = variable_parts(JAVA + r"\x12dev_cache:img:4\"\xff7", JAVA + ".dev_cache:img:*")
    # THEN under the longer name it has nineteen
    assert key_of(JAVA + ".prod_cache:img:*", parts) == JAVA + r"\x13prod_cache:img:4\"\xff7"


TOKENS = st.one_of(
    st.sampled_from(["", "img", "user", "Ab3dEf9Xy7", "*", "v*", "v1", "v2", "V3", "v0af1b2c3", "1", "42", "-7", "%20", "é"]),
    st.sampled_from([JAVA, JAVA + "a", JAVA + r"\x0b", "550e8400", "e29b", "41d4", "a716", "446655440000", "Zq1Lm4No8PxY", "=="]),
    st.uuids().map(str),
    st.binary(min_size=12, max_size=40).map(lambda data: base64.urlsafe_b64encode(data).decode()),
    st.sampled_from(WORDS),
)
ANY_KEYS = st.one_of(
    st.text(alphabet="abz09*:-_.\\x", max_size=60),
    st.lists(st.tuples(TOKENS, st.sampled_from([*":/_.?&=|-{} ", "-", "_"])), max_size=9).map(
        lambda parts: "".join(token + separator for token, separator in parts)
    ),
    st.lists(TOKENS, min_size=1, max_size=4).map(":".join),
)


@given(st.lists(ANY_KEYS, max_size=40))
def test_every_key_fits_its_family(keys: list[str]):
    families = key_families(pd.Series(keys, dtype="str"))
    assert set(families.index) == set(keys)
    for key, family in families.items():
        parts, template = split_key(key), SEPARATORS.split(family)
        # THEN token by token, a fixed one being its own; the separators stay
        assert "".join(parts) == key
        assert len(parts) == len(template)
        assert all(fixed in ("*", "v*", "V*", part) for part, fixed in zip(parts[::2], template[::2], strict=True))
        assert [s for s in template[1::2] if len(s) == 1] == [s for s in parts[1::2] if len(s) == 1 and s in ":/_.?&=|-{} "]
        # AND the variable parts put in give the key again, but for the length behind Java's prefix: one of more than a byte is a
        # part of the first token
        again = key_of(family, variable_parts(key, family))
        assert again == key or (key.startswith(JAVA) and (split_key(again)[2:] == parts[2:] or not again.startswith(JAVA)))
    assert list(split_keys(keys)) == [split_key(key) for key in keys]
    for family, group in families.groupby(families):
        assert variable_parts_of(group.index, family) == {key: variable_parts(key, family) for key in group.index}


@given(st.lists(ANY_KEYS, max_size=40), st.integers(0, 400), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(keys: list[str], words: int, random: Random):
    # GIVEN keys, with first tokens so many that they may be variable, and versions, too
    keys = [*keys, *(f"{word}:x" for word in WORDS[:words]), *(f"{word}-{word}" for word in WORDS[: words // 2])]
    keys += [f"img:v{n}" for n in range(words // 8)]
    before = key_families(pd.Series(keys, dtype="str"))
    # THEN again, and in another order, each has the family it had
    assert key_families(pd.Series(keys, dtype="str")).equals(before)
    random.shuffle(keys)
    assert key_families(pd.Series(keys + keys[:5], dtype="str")).to_dict() == before.to_dict()


@given(st.lists(ANY_KEYS, max_size=20))
def test_another_family_changes_nothing(keys: list[str]):
    # GIVEN a family with a first token of its own
    others = [f"another:{n}:v{n % 3}:{word}" for n, word in enumerate(WORDS)]
    alone, beside = (key_families(pd.Series(each, dtype="str")) for each in (keys, keys + others))
    assert beside[alone.index].to_dict() == alone.to_dict()


def test_a_silence_does_not_lower_the_control():
    # GIVEN unrelated families of few ids, and a gap that is most of the time
    rng = np.random.default_rng(5)
    at = np.sort(rng.uniform(0, 30, 3000))
    at = np.where(at > 15, at + 300, at)
    reads = accesses("prod:img:*", rng.integers(0, 40, 3000), at)
    writes = accesses("dev:img:*", rng.integers(0, 40, 3000), at + 0.005)
    # WHEN compared THEN chance stands in the control as in the measure
    joined, control = shares(reads, writes)
    assert abs(joined - control) < 0.05


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2**64 - 1) | st.integers(0, 9)), max_size=60), st.integers(0, 5))
def test_hashes_are_numbered_and_counted_as_pandas_does(rows: list[tuple[int, int]], most: int):
    values = np.array([value for _, value in rows], np.uint64)
    numbers, different, first = numbers_and_first(values)
    expected, uniques = pd.factorize(values)
    assert numbers.tolist() == expected.tolist()
    assert different.tolist() == uniques.tolist()
    assert first.tolist() == [numbers.tolist().index(number) for number in range(len(different))]
    groups = np.array([group for group, _ in rows], np.int32)
    counted = pd.Series(values).groupby(groups).transform("nunique").clip(upper=most + 1)
    assert different_of(groups, values, most).tolist() == counted.tolist()
