"""The command table: keys and counted look-ups."""

from __future__ import annotations

import pytest
from coldcache.commands import full_name, key_uses


@pytest.mark.parametrize(
    ("command", "keys", "lookups"),
    [
        ("GET k", ["k"], 1),
        ("get k", ["k"], 1),
        ("MGET a b a", ["a", "b", "a"], 3),
        ("SET k v", ["k"], 0),
        ("SET k v GET", ["k"], 1),
        ("SET k GET", ["k"], 0),
        ("MSET a 1 b 2", ["a", "b"], 0),
        ("DEL a b", ["a", "b"], 0),
        ("EXISTS a a", ["a", "a"], 2),
        ("HGET h f", ["h"], 1),
        ("XREAD COUNT 2 STREAMS s t 0 0", ["s", "t"], 4),
        ("ZINTER 2 a b WITHSCORES", ["a", "b"], 2),
        ("OBJECT ENCODING k", ["k"], 1),
        ("EVAL return 1 k", [], 0),
        ("PING", [], 0),
        ("INFO everything", [], 0),
        ("JSON.GET doc $", ["doc"], 0),
        ("COPY a b", ["a", "b"], 1),
        ("BITOP AND d a b", ["a", "b", "d"], 2),
        ("GET", [], 0),
    ],
)
def test_keys_and_lookups(command: str, keys: list[str], lookups: int):
    args = command.split()
    uses = key_uses(args)
    assert [args[use.index] for use in uses] == keys
    assert sum(use.lookups for use in uses) == lookups


def test_container_commands_carry_their_subcommand():
    assert full_name(["object", "encoding", "k"]) == "OBJECT ENCODING"
    assert full_name(["get", "object"]) == "GET"
