"""How much may wait for us in the server: no more than its memory bears."""

from __future__ import annotations

import pytest
from coldcache.record.guardian import MOST_BUFFER_BYTES, buffer_limit
from hypothesis import given
from hypothesis import strategies as st

MB = 1 << 20
sizes = st.integers(1, 1 << 45)
used = st.integers(0, 1 << 45)


@pytest.mark.parametrize(
    ("maxmemory", "used_memory", "limit"),
    [
        (0, 5 << 30, 8 * MB),  # no limit of memory
        (-1, 0, 8 * MB),
        (64 * MB, 64 * MB, 134_217),  # full: 0.2 %
        (64 * MB, 80 * MB, 134_217),  # above its limit
        (1 * MB, 1 * MB, 128 << 10),  # the least
        (64 * MB, 60 * MB, 2 * MB),  # half of what is left
        (64 * MB, 10 * MB, 8 * MB),
        (100 << 30, 100 << 30, 8 * MB),  # 0.2 % of 100 GB is more than the most
    ],
)
def test_the_limit_of_some_servers(maxmemory: int, used_memory: int, limit: int):
    assert buffer_limit(maxmemory, used_memory) == limit


@given(sizes, used)
def test_the_limit_lies_between_128_kb_and_8_mb(maxmemory: int, used_memory: int):
    assert 128 << 10 <= buffer_limit(maxmemory, used_memory) <= MOST_BUFFER_BYTES


@given(sizes, used, used)
def test_more_memory_in_use_never_allows_us_more(maxmemory: int, one: int, other: int):
    less, more = sorted((one, other))
    assert buffer_limit(maxmemory, more) <= buffer_limit(maxmemory, less)


@given(sizes, sizes, used)
def test_a_larger_server_never_allows_us_less(one: int, other: int, used_memory: int):
    small, large = sorted((one, other))
    assert buffer_limit(small, used_memory) <= buffer_limit(large, used_memory)
