"""notify-keyspace-events: extended for a recording, put back, and left alone where somebody else has changed it."""

from __future__ import annotations

from typing import cast

import pytest
import redis
from coldcache.record.key_events import KeyEventSetting, merged_flags
from coldcache.record.server import Control
from hypothesis import given
from hypothesis import strategies as st

ALL_OF_A = "g$lshzxetd"  # redis.conf: A is an alias for "g$lshzxetd"; m and n are not in it
flags = st.text("KEAg$lshzxetdmn", max_size=14).map(lambda text: "".join(dict.fromkeys(text)))


class FakeServer:
    """Prints its setting as a server does: unlike what was set, and with A for its classes."""

    def __init__(self, setting: str = "", *, knows_n: bool = True, refusal: Exception | None = None) -> None:
        self.setting, self.knows_n, self.refusal = setting, knows_n, refusal
        self.asked: list[str] = []

    def key_event_setting(self) -> str:
        return self.setting

    def set_key_event_setting(self, value: str) -> None:
        self.asked.append(value)
        if self.refusal:
            raise self.refusal
        if not self.knows_n and "n" in value:
            raise redis.ResponseError("Invalid event class character. Use 'g$lshzxeKEtmdA'.")
        classes = set(value.replace("A", ALL_OF_A))
        shown = "A" if set(ALL_OF_A) <= classes else "".join(flag for flag in ALL_OF_A if flag in classes)
        self.setting = shown + "".join(flag for flag in "KEmn" if flag in classes)


def control(server: FakeServer) -> Control:
    return cast("Control", server)


@pytest.mark.parametrize(
    ("before", "new_keys", "merged"),
    [
        ("", True, "Exemn$g"),
        ("", False, "Exem$g"),
        ("Kx", True, "KxEemn$g"),
        ("AKE", True, "AKEmn"),
        ("AKEm", False, "AKEm"),
        ("A", False, "AEm"),
        ("Exemn$g", True, "Exemn$g"),
    ],
)
def test_flags_are_added_to_those_that_are_on(before: str, new_keys: bool, merged: str):
    assert merged_flags(before, new_keys=new_keys) == merged


@given(flags, st.booleans())
def test_merging_keeps_every_flag_adds_all_that_is_needed_and_repeats_none(before: str, new_keys: bool):
    merged = merged_flags(before, new_keys=new_keys)
    assert merged.startswith(before)
    assert len(merged) == len(set(merged))
    assert set("Exem$g" + "n" * new_keys) <= set(merged) | (set(ALL_OF_A) if "A" in merged else set())
    assert merged_flags(merged, new_keys=new_keys) == merged


def test_a_setting_is_extended_and_put_back():
    # GIVEN a server with a setting of its own
    server = FakeServer("Kx")
    setting = KeyEventSetting(control(server))
    assert not setting.enough
    # WHEN extended THEN all that was on still is
    setting.extend(control(server))
    assert setting.now == server.setting
    assert set("KxEemn$g") == set(server.setting)
    assert not setting.lost(control(server))
    # AND afterwards it is as before, however often it is put back
    setting.restore(control(server))
    assert set(server.setting) == set("Kx")
    assert setting.now is None
    setting.restore(control(server))
    assert len(server.asked) == 2


def test_a_setting_that_is_enough_is_never_touched():
    server = FakeServer("AKEmn")
    setting = KeyEventSetting(control(server))
    assert setting.enough
    setting.extend(control(server))
    setting.restore(control(server))
    assert server.asked == []


def test_redis_62_refuses_n_and_is_asked_without_it():
    server = FakeServer("", knows_n=False)
    setting = KeyEventSetting(control(server))
    setting.extend(control(server))
    assert server.asked == ["Exemn$g", "Exem$g"]
    assert set(server.setting) == set("Exem$g")


def test_a_missing_right_is_told_and_not_asked_for_twice():
    server = FakeServer("", refusal=redis.exceptions.NoPermissionError("no permissions to run 'config|set'"))
    setting = KeyEventSetting(control(server))
    with pytest.raises(redis.exceptions.NoPermissionError):
        setting.extend(control(server))
    assert len(server.asked) == 1
    assert setting.now is None


def test_what_somebody_else_has_set_meanwhile_is_left_alone():
    # GIVEN an extended setting WHEN somebody sets their own
    server = FakeServer("")
    setting = KeyEventSetting(control(server))
    setting.extend(control(server))
    server.setting = "AKE"
    # THEN events we need are missing, and the end of the recording changes nothing
    assert setting.lost(control(server))
    setting.restore(control(server))
    assert server.setting == "AKE"


def test_somebody_elses_setting_is_extended_again_and_is_what_is_put_back():
    server = FakeServer("")
    setting = KeyEventSetting(control(server))
    setting.extend(control(server))
    server.setting = "Kx"
    setting.extend(control(server))
    assert set("Exem$g") <= set(server.setting)
    setting.restore(control(server))
    assert set(server.setting) == set("Kx")


def test_another_setting_that_holds_all_we_need_is_no_loss():
    server = FakeServer("")
    setting = KeyEventSetting(control(server))
    setting.extend(control(server))
    server.setting = "AKEmn"
    assert not setting.lost(control(server))
    setting.restore(control(server))
    assert server.setting == "AKEmn"


def test_a_failure_to_put_back_leaves_it_to_be_tried_again():
    server = FakeServer("")
    setting = KeyEventSetting(control(server))
    setting.extend(control(server))
    server.refusal = redis.ConnectionError("gone")
    with pytest.raises(redis.ConnectionError):
        setting.restore(control(server))
    server.refusal = None
    setting.restore(control(server))
    assert server.setting == ""


@given(flags, st.booleans())
def test_extend_then_restore_is_as_if_nothing_had_been(before: str, knows_n: bool):
    server = FakeServer("", knows_n=knows_n)
    if not knows_n:
        before = before.replace("n", "")
    server.set_key_event_setting(before)
    printed = server.setting
    setting = KeyEventSetting(control(server))
    setting.extend(control(server))
    assert not setting.lost(control(server))
    setting.restore(control(server))
    assert server.setting == printed
