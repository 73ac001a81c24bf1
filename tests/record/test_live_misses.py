"""The misses shown while recording: by what had become of the key, from the stream as it grows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from coldcache.record import live
from coldcache.record.live import LiveMisses
from hypothesis import given
from hypothesis import strategies as st


def heard(event: str, key: str, db: int = 0) -> bytes:
    channel = f"__keyevent@{db}__:{event}"
    parts = ("message", channel, key)
    return f"*{len(parts)}\r\n".encode() + b"".join(f"${len(part)}\r\n{part}\r\n".encode() for part in parts)


def counted(path: Path, *streams: bytes) -> tuple[dict[str, int], LiveMisses]:
    """Look once after each piece has been written."""
    misses = LiveMisses()
    path.write_bytes(b"")
    for stream in streams:
        with path.open("ab") as file:
            file.write(stream)
        misses.look(path)
    return dict(misses.by_state), misses


@pytest.mark.parametrize(
    ("before", "state"),
    [
        ("expired", "expired"),
        ("evicted", "evicted"),
        ("del", "deleted"),
        ("rename_from", "deleted"),
        ("set", "never written"),
        (None, "never written"),
    ],
)
def test_a_miss_is_counted_by_the_last_thing_that_happened_to_its_key(tmp_path: Path, before: str | None, state: str):
    stream = (heard(before, "a") if before else b"") + heard("keymiss", "a")
    assert counted(tmp_path / "s", stream)[0] == {state: 1}


def test_the_same_key_of_another_database_is_another_key(tmp_path: Path):
    assert counted(tmp_path / "s", heard("expired", "a", db=1) + heard("keymiss", "a", db=0))[0] == {"never written": 1}


def test_what_was_counted_is_not_counted_again(tmp_path: Path):
    assert counted(tmp_path / "s", heard("keymiss", "a"), b"", heard("keymiss", "a"))[0] == {"never written": 2}


EVENTS = [heard("evicted", "a"), heard("keymiss", "a"), b'+1.000000 [0 c:1] "GET" "a"\r\n', heard("keymiss", "b")]


@given(st.lists(st.integers(0, sum(map(len, EVENTS))), max_size=6))
def test_events_cut_across_reads_are_counted_once(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]):
    # GIVEN a stream WHEN it is looked at while it grows, cut anywhere
    stream = b"".join(EVENTS)
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    # THEN
    assert counted(tmp_path_factory.mktemp("s") / "s", *pieces)[0] == {"evicted": 1, "never written": 1}


def test_on_a_stream_too_fast_to_follow_the_counts_are_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "_MOST_BYTES", 2000)
    shares, misses = counted(tmp_path / "s", heard("keymiss", "a") * 10)
    assert (shares, misses.sampled) == ({"never written": 10}, False)
    shares, misses = counted(tmp_path / "s", heard("keymiss", "a") * 1000)
    assert misses.sampled
    assert 0 < shares["never written"] < 1000


def test_a_stream_that_is_not_there_is_nothing_yet(tmp_path: Path):
    misses = LiveMisses()
    misses.look(tmp_path / "none")
    assert not misses.by_state


def test_keys_are_remembered_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "_MOST_KEYS", 2)
    stream = heard("expired", "a") + heard("expired", "b") + heard("expired", "c") + heard("keymiss", "a") + heard("keymiss", "c")
    assert counted(tmp_path / "s", stream)[0] == {"never written": 1, "expired": 1}
