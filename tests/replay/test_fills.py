"""The compiled pairing of writes with the reads they answer, against the plain one."""

from __future__ import annotations

import numpy as np
from coldcache.replay.fill_kernel import answered_reads
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
    reads = [at for at, step in enumerate(steps) if not step[3]]
    writes = [at for at, step in enumerate(steps) if step[3]]
    both = reads + writes
    place = {at: number for number, at in enumerate(both)}
    stamps = np.cumsum([step[2] for step in steps], dtype=np.int64) if steps else np.zeros(0, np.int64)

    def column(number: int, chosen: list[int], kind: type) -> np.ndarray:
        return np.array([steps[at][number] for at in chosen], kind)

    keys, epochs = column(0, both, np.int64), column(1, both, np.int64)
    first_touch, in_flight = np.zeros(len(reads), np.bool_), np.zeros(len(reads), np.bool_)
    follows = np.zeros(len(writes), np.int64)
    answered_reads(
        np.array([place[at] for at in range(len(steps))], np.int64), keys, keys * 2 + epochs, epochs, stamps[both],
        column(4, reads, np.bool_), column(5, writes, np.bool_), column(6, writes, np.bool_), WINDOW_US,
        first_touch, in_flight, follows,
    )  # fmt: skip
    assert (first_touch.tolist(), in_flight.tolist(), follows.tolist()) == plainly(steps)
