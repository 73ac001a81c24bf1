"""A log in blocks of whole lines: nothing lost, nothing twice, whatever the file."""

from __future__ import annotations

import bz2
import gzip
import io
from pathlib import Path

import pyarrow as pa
import pytest
from coldcache.errors import NotALogError
from coldcache.importing import blocks
from coldcache.importing.blocks import LogFile
from hypothesis import given
from hypothesis import strategies as st


def whole(log: LogFile) -> tuple[bytes, list[int]]:
    """All bytes of the blocks, and the offsets of the blocks."""
    found = list(log.blocks())
    assert all(block.data().tobytes().endswith(b"\n") for block in found[:-1])
    return b"".join(block.data().tobytes() for block in found), [block.offset for block in found]


@given(content=st.binary(max_size=500), block_bytes=st.integers(1, 64), sample=st.integers(0, 100))
def test_blocks_are_the_file_in_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, block_bytes: int, sample: int
):
    path = tmp_path_factory.mktemp("log") / "a.log"
    path.write_bytes(b"x" + content)  # never the first bytes of a packed file
    log = LogFile(str(path), block_bytes)
    assert log.sample(sample) == (b"x" + content)[:sample]
    data, offsets = whole(log)
    assert data == b"x" + content
    assert offsets == sorted(set(offsets))
    assert log.position == log.size == len(data)
    assert log.problem == ""


@pytest.mark.parametrize("pack", ["gzip", "two gzips", "zstd", "bz2"])
def test_packed_logs_are_unpacked_on_the_way(tmp_path: Path, pack: str):
    content = b"".join(b"line %d\n" % number for number in range(50_000))
    path = tmp_path / "a.log.packed"
    path.write_bytes(
        {
            "gzip": lambda: gzip.compress(content),
            "two gzips": lambda: gzip.compress(content[:1000]) + gzip.compress(content[1000:]),
            "zstd": lambda: pa.compress(content, "zstd", asbytes=True),
            "bz2": lambda: bz2.compress(content),
        }[pack]()
    )
    assert whole(LogFile(str(path), 1 << 16))[0] == content


def test_a_packed_log_that_was_cut_gives_what_can_be_unpacked_and_says_so(tmp_path: Path):
    content = b"".join(b"line %d %d\n" % (number, hash((number, 1))) for number in range(100_000))
    packed = gzip.compress(content)
    path = tmp_path / "a.log.gz"
    path.write_bytes(packed[: len(packed) // 2])
    log = LogFile(str(path))
    data, _ = whole(log)
    assert content.startswith(data)
    assert len(data) > len(content) // 3
    assert "a.log.gz ends within its packed data" in log.problem


def test_a_line_longer_than_memory_allows_is_left_out_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(blocks, "MOST_LINE_BYTES", 4096)
    path = tmp_path / "a.log"
    giant = b"x" * 3_000_000
    path.write_bytes(b"before\n" + giant + b"\nafter\n" + giant)
    found = list(LogFile(str(path), 1024).blocks())
    assert [block.too_long for block in found if block.too_long] == [3_000_000, 3_000_000]
    assert [block.offset for block in found if block.too_long] == [7, 3_000_014]
    assert b"".join(block.data().tobytes() for block in found) == b"before\nafter\n"


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch):
    class _Input:
        buffer = io.BufferedReader(io.BytesIO(b"a\nb\nc"))  # type: ignore[arg-type]

    monkeypatch.setattr("sys.stdin", _Input)
    log = LogFile("-", 2)
    assert log.name == "standard input"
    assert log.size is None
    assert log.position == 0
    assert whole(log)[0] == b"a\nb\nc"


@pytest.mark.parametrize("what", ["absent", "folder"])
def test_what_cannot_be_read_is_named(tmp_path: Path, what: str):
    with pytest.raises(NotALogError, match="cannot be read"):
        LogFile(str(tmp_path / "absent.log" if what == "absent" else tmp_path))
