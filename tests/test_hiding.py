"""Hidden keys: the families stay, the ids go."""

from __future__ import annotations

import pandas as pd
import pytest
from coldcache.keys.families import SEPARATORS, VARIABLE, VERSIONS, key_families, split_key, variable_parts
from coldcache.keys.hiding import HiddenKeys
from hypothesis import given
from hypothesis import strategies as st


def hidden(keys: list[str]) -> list[str]:
    return HiddenKeys(keys).of(pd.Series(keys, dtype="str")).tolist()


def families(keys: list[str]) -> list[str]:
    return key_families(pd.Series(keys, dtype="str")).reindex(keys).tolist()


def test_ids_go_and_the_family_stays():
    keys = [f"user:{number}:profile" for number in (7, 8, 9)]
    forms = hidden(keys)
    assert families(forms) == ["user:*:profile"] * 3
    assert [len(form.split(":")[1]) for form in forms] == [10] * 3


def test_an_id_has_one_name_under_every_family():
    # GIVEN what is read under one name and written under another
    reads, writes = ([f"{name}_cache:img:{number}" for number in range(40)] for name in ("prod", "dev"))
    forms = hidden(reads + writes)
    # THEN the same ids still meet
    assert [variable_parts(key, "prod_cache:img:*") for key in forms[:40]] == [
        variable_parts(key, "dev_cache:img:*") for key in forms[40:]
    ]


def test_two_recordings_do_not_join():
    assert hidden(["user:7"]) != hidden(["user:7"])


@pytest.mark.parametrize(
    ("keys", "secret"),
    [
        (["session:alice"], "alice"),
        (["session:alice", "cart:alice", "profile:alice"], "alice"),
        (["alice:session", "alice:cart", "alice:profile"], "alice"),
        ([f"mail:alice@example.org:{number}" for number in range(9)], "alice"),
        ([f"mail:alice%40example.org:{number}" for number in range(9)], "alice"),
        ([f"user1234:order:{number}" for number in range(9)], "1234"),
        ([rf"jos\xc3\xa9:order:{number}" for number in range(9)], "jos"),
        ([f"u550e8400-e29b-41d4-a716-446655440000:{number}" for number in range(9)], "e29b"),
    ],
)
def test_what_may_be_somebody_is_hidden_even_where_it_is_fixed(keys: list[str], secret: str):
    assert not any(secret in form for form in hidden([*keys, *(f"page:{number}:views" for number in range(9))]))


def test_a_lone_key_keeps_the_words_that_larger_families_have():
    forms = hidden([*(f"session:{number}" for number in range(5)), "session:alice"])
    assert families(forms) == ["session:*"] * 6


def test_a_version_is_kept():
    keys = [f"v20260102:img:{number}" for number in range(5)]
    assert families(hidden(keys)) == ["v20260102:img:*"] * 5


def test_many_versions_are_hidden_and_stay_versions():
    # GIVEN visitors, whose numbers look like versions
    keys = [f"seen:v{number}:page" for number in range(1000, 1040)]
    forms = hidden([*keys, "of:1039", "of:1040", "of:1041"])
    # THEN their numbers go, and are the same numbers under another family
    assert families(forms)[:40] == ["seen:v*:page"] * 40
    assert not any(key in forms for key in keys)
    assert variable_parts(forms[39], "seen:v*:page") == variable_parts(forms[40], "of:*")


def test_what_a_dash_stands_before_stays_a_token():
    # GIVEN names, of which one in a hundred would be of digits alone: a sign and a number
    forms = hidden([f"a:-{first}{last}" for first in "abcdefgh" for last in "ijklmnopqrst"])
    assert all(form.split(":")[1].startswith("-") and len(split_key(form)) == 5 for form in forms)


def test_nulls_stay_null_and_the_index_stays():
    keys = pd.Series(["user:1", None, "user:1"], index=[4, 2, 9], dtype="str", name="key")
    forms = HiddenKeys(["user:1"]).of(keys)
    assert forms.isna().tolist() == [False, True, False]
    assert forms.index.tolist() == [4, 2, 9]
    assert forms[4] == forms[9] != "user:1"


def test_an_unknown_key_is_never_passed_on():
    with pytest.raises(KeyError):
        HiddenKeys(["user:1"]).of(pd.Series(["user:2"]))


WORDS = st.sampled_from(["prod_cache", "dev_cache", "img", "user", "page", "profile", "", "v2"])
IDS = st.one_of(
    st.integers(0, 10**12).map(str),
    st.uuids().map(str),
    st.text("0123456789abcdef", min_size=8, max_size=40),
    st.emails(),
    st.text(st.characters(codec="ascii", exclude_characters='"\\'), max_size=12),
    st.sampled_from(["alice", "bob", "*", "", r"\xff"]),
)
KEYS = st.one_of(
    st.lists(st.one_of(WORDS, IDS), min_size=1, max_size=5).flatmap(
        lambda parts: st.sampled_from(":/.").map(lambda s: s.join(parts))
    ),
    st.text(alphabet="abz09*:-_.\\x", max_size=40),
)


@given(st.lists(KEYS, max_size=150, unique=True))
def test_any_keys_stay_apart_and_no_variable_part_stays(keys: list[str]):
    plain, forms = key_families(pd.Series(keys, dtype="str")), hidden(keys)
    # THEN different keys stay different, and so do different tokens
    assert len(set(forms)) == len(keys)
    names: dict[str, set[str]] = {}
    sizes = plain.value_counts()
    known = {token for family in sizes.index[sizes >= 3] for token in SEPARATORS.split(family)}
    hidden_families = key_families(pd.Series(forms, dtype="str"))
    for key, form in zip(keys, forms, strict=True):
        was, now = split_key(key), split_key(form)
        before, after = SEPARATORS.split(plain[key]), SEPARATORS.split(hidden_families[form])
        assert was[1::2] == now[1::2]
        for old, new, template, new_template in zip(was[::2], now[::2], before[::2], after[::2], strict=True):
            # AND what is variable is named, and seen as variable; what is kept is of a family of three keys
            if template == VARIABLE:
                assert new_template == VARIABLE
            if new_template == VARIABLE:
                names.setdefault(old, set()).add(new)
                assert len(new) == 10
            elif new_template in VERSIONS and old != new:
                names.setdefault(old[1:], set()).add(new[1:])
                assert template == new_template
            else:
                assert new == old == new_template
                assert not new or new in known
    assert all(len(found) == 1 for found in names.values())
    assert len({next(iter(found)) for found in names.values()}) == len(names)


TEMPLATES = st.sampled_from(["{}:img:{}", "{}:user:{}:profile", "page.{}.{}"])
NUMBERS = st.one_of(st.uuids().map(str), st.integers(min_value=0).map(str))


@given(
    st.lists(st.tuples(TEMPLATES, st.sampled_from(["prod_cache", "dev_cache", "v2"]), NUMBERS), max_size=40), st.integers(0, 60)
)
def test_families_of_three_keys_and_more_are_what_they_were(drawn: list[tuple[str, str, str]], words: int):
    # GIVEN families of three keys at least, one of them of words so many that they are ids, one of as many versions
    keys = {template.format(name, number) for template, name, _ in drawn for number in range(3)}
    keys |= {template.format(name, number) for template, name, number in drawn}
    keys |= {f"tag:{chr(97 + n // 26)}{chr(97 + n % 26)}:count" for n in range(words)} if words > 30 else set()
    keys |= {f"img:{n}:v{n}" for n in range(words)} if words > 30 else set()
    listed = sorted(keys)
    # THEN hiding changes no family
    assert families(hidden(listed)) == families(listed)
