"""What rows add up to by family, in one compiled pass, against plain selections."""

from __future__ import annotations

import numpy as np
from coldcache.replay import fills
from coldcache.replay.tally import MISS_KINDS, SUMS, Columns, add_up
from hypothesis import given, settings
from hypothesis import strategies as st

FAMILIES, NAMES, FORMATS, FORMS = 3, 6, 2, 2
IS_NX = np.array([1, 0, 0], np.uint8)  # the last one stands for none
LATEST = np.iinfo(np.int64).max
rows = st.lists(
    st.tuples(
        st.sampled_from([0, fills.READ, fills.READ | fills.HIT, fills.READ | fills.MISS]),
        st.sampled_from([0, fills.WRITE, fills.WRITE | fills.DONE, fills.WRITE | fills.DONE | fills.STORED]),
        st.booleans(),  # whether it is counted
        st.integers(0, NAMES - 1),  # the remainder is the family
        st.integers(1, 3),  # look-ups
        st.integers(0, 31),  # what is found of it
        st.integers(0, MISS_KINDS - 1),
        st.integers(-1, 40),  # its partner, if there is such a row
        st.integers(-1, FORMATS - 1),
        st.integers(-1, FORMS - 1),
        st.integers(-1, 1),  # condition
    ),
    max_size=40,
)


def plainly(t: Columns) -> tuple[dict[str, list[int]], list[list[list[int]]]]:
    """The sums and the tables, by family."""

    def has(marks: np.ndarray, mark: int) -> np.ndarray:
        return (marks & mark) > 0

    counted, answered = has(t.marks, fills.COUNTED), t.partner >= 0
    read, write = counted & has(t.marks, fills.READ), counted & has(t.marks, fills.WRITE)
    hit, miss = read & has(t.marks, fills.HIT), read & has(t.marks, fills.MISS)
    done, stored = write & has(t.marks, fills.DONE), write & has(t.marks, fills.STORED)
    useful = hit & ~answered
    of_hit = answered & has(np.append(t.marks, 0)[t.partner], fills.HIT)
    same, again = has(t.found, fills.SAME_VALUE), has(t.found, fills.REWRITTEN)
    rewrite = write & ~has(t.marks, fills.READ) & of_hit & (same | again)

    def rows_of(chosen: np.ndarray, weights: np.ndarray | None = None) -> list[int]:
        return np.bincount(t.family[chosen], None if weights is None else weights[chosen], FAMILIES).astype(int).tolist()

    def keys_of(*chosen: np.ndarray) -> list[int]:
        names = set.intersection(*(set(t.name[those].tolist()) for those in chosen))
        return np.bincount([name % FAMILIES for name in names] or np.zeros(0, int), minlength=FAMILIES).tolist()

    def table(chosen: np.ndarray, column: np.ndarray, width: int, weights: np.ndarray | None = None) -> list[list[int]]:
        return np.transpose([rows_of(chosen & (column == number), weights) for number in range(width)]).tolist()

    refused = write & ~done & (t.ttl_form >= 0) & (t.condition < 0)
    sums = {
        "reads": rows_of(read), "hits": rows_of(hit), "lookups": rows_of(read, t.lookups), "hit_lookups": rows_of(hit, t.lookups),
        "useful": rows_of(useful), "useful_lookups": rows_of(useful, t.lookups), "filled": rows_of(miss & answered),
        "writes": rows_of(write), "done_writes": rows_of(done), "read_keys": keys_of(read), "written_keys": keys_of(done),
        "read_and_written_keys": keys_of(read, done), "rewrites": rows_of(rewrite), "rewrites_same": rows_of(rewrite & same),
        "stored": rows_of(stored), "stored_nx": rows_of(stored & (t.condition == 0)), "refused_with_ttl": rows_of(refused),
    }  # fmt: skip
    tables = [
        table(miss, t.kind, MISS_KINDS), table(miss, t.kind, MISS_KINDS, t.lookups), table(write, t.value_format, FORMATS),
        table(stored, t.value_format, FORMATS), table(stored, t.ttl_form, FORMS),
    ]  # fmt: skip
    return sums, tables


@given(rows)
@settings(deadline=None, max_examples=200)
def test_sums_by_family_are_those_of_plain_selections(drawn: list[tuple[int, int, bool, int, int, int, int, int, int, int, int]]):
    read, write, counted, name, lookups, found, kind, partner, value_format, ttl_form, condition = (
        np.array(drawn, int).reshape(-1, 11).T
    )
    columns = Columns(
        marks=read | write | counted * fills.COUNTED, found=found, partner=np.where(partner < len(drawn), partner, -1), kind=kind,
        family=name % FAMILIES, lookups=lookups, t_us=np.cumsum(found) % 7, name=name, value_format=value_format,
        ttl_form=ttl_form, condition=condition,
    )  # fmt: skip
    sums, *tables, times = add_up(columns, IS_NX, families=FAMILIES, names=NAMES, formats=FORMATS, forms=FORMS)
    wanted, wanted_tables = plainly(columns)
    assert dict(zip(SUMS, sums.T.tolist(), strict=True)) == wanted
    assert [table.tolist() for table in tables] == wanted_tables
    for side, mark in enumerate((fills.READ, fills.WRITE | fills.DONE)):
        chosen = (columns.marks & (mark | fills.COUNTED)) == mark | fills.COUNTED
        for family in range(FAMILIES):
            mine = columns.t_us[chosen & (columns.family == family)]
            assert times[family, [side, side + 2]].tolist() == [mine.min(initial=LATEST), mine.max(initial=-LATEST - 1)]


@given(st.lists(st.tuples(*[st.integers(-1, 1)] * 8), max_size=20))
@settings(deadline=None)
def test_marks_are_what_the_labels_mean(drawn: list[tuple[int, ...]]):
    kinds = (np.int32, np.int8, np.int16, np.int16, np.int16, np.int16, np.int16, np.int32)
    wide = np.array(drawn, int).reshape(-1, 8)
    labels = fills.Labels(*(column.astype(kind) for column, kind in zip(wide.T, kinds, strict=True)))
    meanings = fills.Meanings(
        *(
            np.array(means, np.uint8)
            for means in (
                [0, fills.WRITE, 0], [fills.DONE, fills.DONE | fills.STORED, 0], [0, fills.OVERWRITES, 0],
                [0, fills.HIT, fills.MISS], [0, 3, 5], [0, 0, fills.COUNTED],
            )
        )
    )  # fmt: skip
    marks, state = fills.mark(labels, meanings)
    for row, (family, lookups, op, outcome, command, got, what, epoch) in enumerate(drawn):
        wanted = 0
        if family >= 0 and lookups > 0:
            wanted |= fills.READ | (0, fills.HIT, fills.MISS)[got + 1]
        if family >= 0 and op == 0:
            wanted |= fills.WRITE | (fills.DONE, fills.DONE | fills.STORED, 0)[outcome + 1] | fills.OVERWRITES * (command == 0)
        if family >= 0 and epoch == 1:
            wanted |= fills.COUNTED
        assert marks[row] == wanted
        assert state[row] == ((0, 3, 5)[what + 1] if wanted & fills.MISS else 0)
