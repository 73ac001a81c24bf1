"""The compiled pairing of writes with the reads they answer, against the plain one."""

from __future__ import annotations

import numpy as np
from coldcache.replay.fills import DONE, FIRST_TOUCH, HIT, IN_FLIGHT, MISS, OVERWRITES, READ, WRITE, Steps, pair
from hypothesis import given, settings
from hypothesis import strategies as st

WINDOW_US = 10
events = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 1), st.integers(0, 6), st.booleans(), st.booleans(), st.booleans(), st.booleans()
    ),
    max_size=60,
)


def plainly(steps: list[tuple[int, int, int, bool, bool, bool, bool]]) -> tuple[list[bool], list[bool], list[int]]:
    """First touches, misses in flight, and the read that each write answers."""
    waiting: dict[tuple[int, int], tuple[list[tuple[int, int]], list[tuple[int, int]]]] = {}
    written: set[tuple[int, int]] = set()
    touched: dict[int, int] = {}
    first_touch, in_flight, follows = [], [], []
    now = 0
    for key, epoch, wait, is_write, miss, answers, overwrites in steps:
        now += wait
        group = (key, epoch)
        if not is_write:
            first_touch.append(key not in touched)
            in_flight.append(miss and touched.get(key) == epoch and group not in written)
            touched.setdefault(key, epoch)
            waiting.setdefault(group, ([], []))[0 if miss else 1].append((len(first_touch) - 1, now))
            if not miss:
                written.add(group)
            continue
        written.add(group)
        follows.append(-1)
        if not answers:
            continue
        touched.setdefault(key, epoch)
        stacks = waiting.setdefault(group, ([], []))
        for unanswered in stacks if overwrites else stacks[:1]:
            if unanswered and now - unanswered[-1][1] <= WINDOW_US:
                follows[-1] = unanswered.pop()[0]
                break
            unanswered.clear()
    return first_touch, in_flight, follows


@given(events)
@settings(deadline=None, max_examples=300)
def test_writes_answer_the_reads_that_the_plain_rule_says(steps: list[tuple[int, int, int, bool, bool, bool, bool]]):
    count = len(steps)

    def column(number: int, kind: type) -> np.ndarray:
        return np.array([step[number] for step in steps], kind)

    keys, epochs, is_write = column(0, np.int64), column(1, np.int32), column(3, np.bool_)
    written = WRITE | DONE * column(5, np.bool_) | OVERWRITES * column(6, np.bool_)
    read = READ | np.where(column(4, np.bool_), MISS, HIT)
    pairs = pair(
        Steps(
            marks=np.where(is_write, written, read).astype(np.uint8), key=keys, group=keys * 2 + epochs, epoch=epochs,
            t_us=np.cumsum(column(2, np.int64)), digest=np.zeros(count, np.uint64), state=np.zeros(count, np.uint8),
        ), order=None, keys=4, groups=8, window_us=WINDOW_US, ends_us=np.zeros(2, np.int64),
    )  # fmt: skip
    reads = np.flatnonzero(~is_write)
    follows = pairs.partner[is_write]
    found = np.where(follows >= 0, np.searchsorted(reads, follows), -1)
    first_touch, in_flight = ((pairs.found[reads] & what > 0).tolist() for what in (FIRST_TOUCH, IN_FLIGHT))
    assert (first_touch, in_flight, found.tolist()) == plainly(steps)
    answer = pairs.partner[reads]
    assert pairs.partner[answer[answer >= 0]].tolist() == reads[answer >= 0].tolist()
