"""The safety watch leaves a server that suffers, and only that one."""

from __future__ import annotations

import pytest
from coldcache.record.watch import SafetyWatch, Vitals
from hypothesis import given
from hypothesis import strategies as st

LIMIT = 8 << 20
WELL = Vitals(reply_s=0.002, ops_per_s=1000, cpu_share=0.3, evicted=0, buffer_bytes=0)
SLOW = Vitals(reply_s=0.5, ops_per_s=1000, cpu_share=0.3, evicted=0, buffer_bytes=0)
STARVED = Vitals(reply_s=0.002, ops_per_s=400, cpu_share=0.95, evicted=0, buffer_bytes=0)
CROWDED = Vitals(reply_s=0.002, ops_per_s=1000, cpu_share=0.3, evicted=1, buffer_bytes=LIMIT // 2 + 1)


def verdicts(*looks: Vitals, ops_before: float | None = 1000, baseline: float = 0.002) -> list[str | None]:
    watch = SafetyWatch(ops_before)
    for _ in range(4):
        assert watch.harm(Vitals(baseline, 1000, 0.3, 0, 0), LIMIT) is None
    return [watch.harm(look, LIMIT) for look in looks]


@pytest.mark.parametrize(
    ("suffering", "words"),
    [
        (SLOW, "INFO takes 500 ms instead of 2.0 ms"),
        (STARVED, "runs 400 commands/s instead of 1,000"),
        (CROWDED, "keys are evicted while 4,194,305 bytes wait"),
    ],
)
def test_each_harm_is_told_at_the_fifth_look_in_a_row(suffering: Vitals, words: str):
    told = verdicts(*[suffering] * 5)
    assert told[:4] == [None] * 4
    assert words in str(told[4])


@pytest.mark.parametrize("suffering", [SLOW, STARVED, CROWDED])
def test_one_good_look_begins_the_count_again(suffering: Vitals):
    assert verdicts(*[suffering] * 4, WELL, *[suffering] * 4) == [None] * 9


def test_the_first_looks_are_the_baseline_and_no_verdict():
    # GIVEN a server in all troubles at once WHEN looked at four times THEN nothing is told yet
    watch = SafetyWatch(1000)
    awful = Vitals(9.0, 1, 1.0, 99, LIMIT)
    assert [watch.harm(awful, LIMIT) for _ in range(4)] == [None] * 4


def test_a_server_that_was_slow_before_us_is_not_slow_because_of_us():
    assert verdicts(*[SLOW] * 9, baseline=0.2) == [None] * 9


def test_ten_times_almost_nothing_is_still_fast():
    # 90 ms is 90 times the usual 1 ms, but below the tenth of a second that anybody would notice
    assert verdicts(*[Vitals(0.09, 1000, 0.3, 0, 0)] * 9, baseline=0.001) == [None] * 9


def test_one_spike_in_the_baseline_does_not_hide_a_slow_server():
    watch = SafetyWatch(None)
    for reply_s in (0.002, 3.0, 0.002, 0.002):
        watch.harm(Vitals(reply_s, 1000, 0.3, 0, 0), LIMIT)
    assert [watch.harm(SLOW, LIMIT) for _ in range(5)][-1] is not None


@pytest.mark.parametrize(
    "unharmed",
    [
        Vitals(0.002, 400, 0.5, 0, 0),  # less to do
        Vitals(0.002, 600, 0.95, 0, 0),  # saturated, but more than half
        Vitals(0.002, 1000, 0.3, 50, LIMIT // 2),  # evicts by itself: our buffer is small
        Vitals(0.002, 1000, 0.3, 0, LIMIT),  # a large buffer that costs nobody a key
    ],
)
def test_half_a_sign_is_no_harm(unharmed: Vitals):
    assert verdicts(*[unharmed] * 9) == [None] * 9


def test_without_a_figure_from_before_nothing_is_said_of_throughput():
    assert verdicts(*[STARVED] * 9, ops_before=None) == [None] * 9


@given(st.lists(st.sampled_from([WELL, SLOW, STARVED, CROWDED]), max_size=40))
def test_harm_is_told_exactly_where_one_rule_was_broken_five_times_in_a_row(looks: list[Vitals]):
    expected = [
        at >= 4 and len(set(looks[at - 4 : at + 1])) == 1 and looks[at] is not WELL
        for at in range(len(looks))
    ]  # fmt: skip
    assert [told is not None for told in verdicts(*looks)] == expected


def test_a_small_full_server_is_left_to_the_guardian():
    # GIVEN a server of a few MB that evicts by itself, where only 128 KB may wait
    watch = SafetyWatch()
    busy = Vitals(0.002, 1000, 0.3, 500, 100 << 10)
    # THEN what a healthy capture leaves waiting is no reason to leave
    assert [watch.harm(busy, 128 << 10) for _ in range(20)] == [None] * 20
