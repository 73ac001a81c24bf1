"""Cutting a case into shards: nothing is lost, histories stay whole, and no result depends on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from coldcache import schema
from coldcache.case import open_case
from coldcache.causes.diagnosis import diagnose
from coldcache.errors import NotACaseError
from coldcache.keys.families import key_families
from coldcache.replay.ledger import miss_ledger
from coldcache.replay.usage import key_usage
from coldcache.shards import cut
from coldcache.shards.scratch import Scratch
from coldcache.shards.shard import LABELS, NULL, Shard
from coldcache.shards.workers import Workers
from coldcache.sources.accesses import AccessBuilder, EpochStart
from coldcache.sources.monitor import Listening
from conftest import line
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = st.sampled_from(["img:1", "img:2", "img:30", "user:alice", "user:bob", "", "k", "dev:img:1", "flag", *"abcdef"])
COMMANDS = st.one_of(
    st.tuples(st.just("GET"), NAMES),
    st.tuples(st.just("SET"), NAMES, st.just("v"), st.just("EX"), st.sampled_from(["1", "60", "x"])),
    st.tuples(st.just("MGET"), NAMES, NAMES),
    st.tuples(st.just("RENAME"), NAMES, NAMES),
    st.just(("FLUSHALL",)),
    st.just(("PING",)),
)


def frame_of(commands: list[tuple[str, ...]]) -> pd.DataFrame:
    builder = AccessBuilder("test:6379", ["own"])
    for epoch in range(2):
        builder.begin(EpochStart(epoch=epoch, mode="monitor", after_gap=epoch > 0, own=frozenset({"own"})))
        builder.feed(Listening())
        for number, command in enumerate(commands[epoch::2]):
            builder.feed(line(1000 * epoch + number, *command, db=number % 3 // 2))
    return builder.take_accesses()


def label(shard: Shard, name: str) -> list[str | None]:
    return [None if number < 0 else getattr(shard.vocabulary, name)[number] for number in getattr(shard, name)]


@given(st.lists(COMMANDS, max_size=40), st.integers(1, 30))
@settings(max_examples=60)
def test_every_row_of_a_key_is_in_one_shard_in_order_and_as_it_was(commands: list[tuple[str, ...]], rows: int):
    frame = frame_of(commands)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut, "ROWS_IN_SHARD", rows)
        shards = cut.cut_frame(schema.to_arrow(frame, schema.ACCESSES), Workers())
    seen = np.zeros(len(frame), int)
    shard_of_key: dict[str, int] = {}
    families = key_families(frame["key"])
    for number in range(shards.count):
        shard = shards.shard(number)
        mine = frame.iloc[shard.place].reset_index(drop=True)
        assert mine[["epoch", "seq"]].apply(tuple, axis=1).is_monotonic_increasing or not len(mine)
        for name in LABELS:
            assert label(shard, name) == mine[name].astype("object").where(mine[name].notna(), None).tolist()
        assert shard.t_us.tolist() == mine["t"].astype("int64").tolist()
        assert [None if ttl == NULL else ttl for ttl in shard.ttl_ms] == [None if pd.isna(ttl) else ttl for ttl in mine["ttl_ms"]]
        for place, key, family in zip(shard.place, mine["key"], shard.family, strict=True):
            if pd.isna(key):
                assert family < 0
                continue
            assert shards.families[family] == families[key]
            assert shard_of_key.setdefault(key, number) == number
            seen[place] += 1
    assert (seen == frame["key"].notna()).all()
    assert shards.commands == len(commands)
    assert len(shards.flushes["seq"]) == sum(command == ("FLUSHALL",) for command in commands)


def test_two_names_of_one_thing_are_in_one_shard(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cut, "ROWS_IN_SHARD", 10)
    words = [f"{first}{second}" for first in "abcdefgh" for second in "klmnop"]
    names = [*(f"img:{number}" for number in range(200)), *(f"user:{word}:{number}" for number, word in enumerate(words))]
    shards = cut.cut_frame(
        schema.to_arrow(frame_of([("GET", f"{side}:{name}") for side in ("dev", "prod") for name in names]), schema.ACCESSES),
        Workers(),
    )
    assert shards.count > 20
    of_ids = [set(shard.ids.tolist()) for shard in map(shards.shard, range(shards.count))]
    assert sum(map(len, of_ids)) == len(names)
    for number in range(shards.count):
        ids, times = np.unique(shards.shard(number).ids, return_counts=True)
        assert (times == 2).all()
        assert (ids != 0).all()


@pytest.mark.parametrize("rows_in_memory", [0, 1_000_000], ids=["in files", "in memory"])
@pytest.mark.parametrize("sample", ["healthy", "key_prefix", "ttl_unit", "serialization", "heap_leak"])
def test_a_diagnosis_does_not_depend_on_how_a_case_was_cut(sample: str, rows_in_memory: int, monkeypatch: pytest.MonkeyPatch):
    case = open_case(f"sample-{sample}")
    whole = diagnose(case)
    monkeypatch.setattr(cut, "ROWS_IN_SHARD", 400)
    monkeypatch.setattr(cut, "ROWS_IN_MEMORY", rows_in_memory)
    shards = diagnose(case)
    assert shards.ledger.replays.shards.count > 5
    assert json.dumps(shards.to_dict()) == json.dumps(whole.to_dict())
    pd.testing.assert_frame_equal(shards.ledger.reads, whole.ledger.reads)
    pd.testing.assert_frame_equal(shards.ledger.writes, whole.ledger.writes)
    pd.testing.assert_frame_equal(shards.ledger.by_family(), whole.ledger.by_family())
    pd.testing.assert_frame_equal(key_usage(shards.ledger).families, key_usage(whole.ledger).families)


def test_what_shards_leave_on_the_disk_goes_with_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(open_case("sample-healthy").folder, tmp_path / "c")
    monkeypatch.setattr(cut, "ROWS_IN_SHARD", 1000)
    monkeypatch.setattr(cut, "ROWS_IN_MEMORY", 0)
    ledger = miss_ledger(open_case(tmp_path / "c"))
    (scratch,) = (tmp_path / "c").glob(".scratch-*")
    assert scratch.stat().st_mode & 0o077 == 0
    # It holds numbers, no name of a key.
    key = ledger.reads["key"].iloc[0].encode()
    assert not any(key in file.read_bytes() for file in scratch.iterdir())
    del ledger
    assert not list((tmp_path / "c").glob(".scratch-*"))


def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path: Path):
    code = (
        "import os; from pathlib import Path; from coldcache.shards.scratch import Scratch; "
        f"Scratch.beside(Path({str(tmp_path)!r})); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    mine = Scratch.beside(tmp_path)
    assert list(tmp_path.iterdir()) == [mine.folder]
    other = Scratch.beside(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine.folder, other.folder])


def test_pieces_are_read_as_they_were_put(tmp_path: Path):
    for scratch in (Scratch.in_memory(), Scratch.beside(tmp_path)):
        columns = {"a": np.arange(10, dtype=np.int16), "b": np.linspace(0, 1, 10), "c": np.arange(10) % 2 == 0}
        scratch.put("one", columns, np.array([0, 3, 3, 10]))
        scratch.put("two", {name: values[:4] for name, values in columns.items()}, np.array([0, 1, 1, 4]))
        found, bounds = scratch.gather(["one", "two"], 2)
        assert bounds == [0, 7, 10]
        assert found["a"].tolist() == [3, 4, 5, 6, 7, 8, 9, 1, 2, 3]
        assert found["a"].dtype == np.int16
        assert found["c"].dtype == bool
        assert len(scratch.take("one", 1)["b"]) == 0
        scratch.remove()
    assert not list(tmp_path.iterdir())


def test_a_case_elsewhere_gives_what_it_gives_here(monkeypatch: pytest.MonkeyPatch):
    import fsspec

    here = open_case("sample-key_prefix")
    there = fsspec.filesystem("memory")
    there.put(str(here.folder), "/bucket/key_prefix", recursive=True)
    monkeypatch.setattr(cut, "ROWS_IN_SHARD", 1000)
    monkeypatch.setattr(cut, "ROWS_IN_MEMORY", 0)
    elsewhere = diagnose(open_case("memory://bucket/key_prefix"))
    found, expected = elsewhere.to_dict(), diagnose(here).to_dict()
    assert found["case"].pop("path") == "memory://bucket/key_prefix"
    assert expected["case"].pop("path") == "sample-key_prefix"
    assert json.dumps(found) == json.dumps(expected)
    pd.testing.assert_frame_equal(open_case("memory://bucket/key_prefix").table("info"), here.table("info"))
    del elsewhere
    assert not [name for name in there.find("/bucket") if "scratch" in name]


def test_a_password_in_an_address_is_not_repeated():
    with pytest.raises(NotACaseError) as refused:
        open_case("memory://me:geheim@bucket/nothing")
    assert "geheim" not in str(refused.value)
    assert "nothing" in str(refused.value)
