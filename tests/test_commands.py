"""The command table: keys and counted look-ups."""

from __future__ import annotations

import pytest
from coldcache.commands import COUNTED_FROM_7, FLUSHES, Form, Rule, full_name, key_uses, rules


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
        ("BLPOP a b 0", ["a", "b"], 0),
        ("LMPOP 2 a b LEFT", ["a", "b"], 0),
        ("BLMPOP 0.5 2 a b LEFT COUNT 9", ["a", "b"], 0),
        ("BZMPOP 0 1 z MIN", ["z"], 0),
        ("MSETEX 2 a 1 b 2 EX 9", ["a", "b"], 0),
        ("MSETEX 3 a 1 b", ["a"], 0),
        ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", ["a", "b", "d"], 2),
        ("ZINTER x a b", [], 0),
        ("PFMERGE d a b", ["a", "b", "d"], 3),
        ("RENAME a b", ["a", "b"], 0),
        ("BITFIELD b SET u8 0 1", ["b"], 0),
        ("BITFIELD b GET u8 0", ["b"], 1),
        ("MIGRATE host 6379 k 0 5000", ["k"], 0),
        ("XGROUP CREATE s g 0", ["s"], 0),
        ("XGROUP NEWWORD s g 0", ["s"], 0),
        ("XINFO HELP", [], 0),
        ("CLIENT NEWWORD x", [], 0),
        ("SPUBLISH channel x", [], 0),
        ("EVALSHA 0123 1 k", [], 0),
        ("JSON.MGET a b $", ["a", "b"], 0),
        ("JSON.MSET a $ 1 b $ 2", ["a", "b"], 0),
        ("JSON.DEBUG MEMORY doc", ["doc"], 0),
        ("TS.MADD a 1 1 b 1 2", ["a", "b"], 0),
        ("TDIGEST.MERGE d 2 a b", ["a", "b", "d"], 0),
        ("FT.SEARCH index words", [], 0),
        ("BF.ADD filter x", ["filter"], 0),
        ("INCREX n BYINT 2 EX 9", ["n"], 0),
        ("DELEX k IFEQ v", ["k"], 0),
        ("NEW.COMMAND k v", ["k"], 0),
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


@pytest.mark.parametrize(
    ("command", "values"),
    [
        ("SET k v EX 9", ["v"]),
        ("SETEX k 9 v", ["v"]),
        ("MSETEX 2 a 1 b 2 NX", ["1", "2"]),
        ("MSET a 1 b", ["1"]),
        ("APPEND k v", ["v"]),
    ],
)
def test_values_stand_behind_their_keys(command: str, values: list[str]):
    args = command.split()
    assert [args[use.value_index] for use in key_uses(args) if use.value_index] == values


@pytest.mark.parametrize("command", sorted(COUNTED_FROM_7))
def test_redis_6_counts_fewer_lookups(command: str):
    args = [command, "1", "1"] if command.startswith("Z") and command != "ZRANGESTORE" else [command, "a", "b"]
    args = [*args, "c", "d"] if command.startswith("Z") else args[: 2 if command == "PFCOUNT" else 3]
    assert sum(use.lookups for use in key_uses(args)) > 0
    assert sum(use.lookups for use in key_uses(args, before_7=True)) == 0


def test_redis_6_counts_a_union_of_several_counters():
    assert [use.lookups for use in key_uses(["PFCOUNT", "a", "b"], before_7=True)] == [1, 1]


def test_a_rule_tells_what_is_left_of_the_key():
    table = rules()
    assert table["SET"] == Rule(Form.SET, op="write", value=1, options_at=3, creates=True, type="string", keeps_ttl=False)
    assert (table["PEXPIREAT"].ttl_at, table["PEXPIREAT"].ttl_form, table["PEXPIREAT"].op) == (2, "PEXPIREAT", "expire")
    assert table["GETDEL"].removes
    assert (table["LPOP"].may_empty, table["LPOP"].keeps_ttl, table["LPOP"].type) == (True, True, "list")
    assert (table["GEOADD"].type, table["PFADD"].type, table["DEL"].type) == ("zset", "string", "")


def test_rules_are_sound():
    for name, rule in rules().items():
        assert name == name.upper()
        assert (rule.first > 0) == (rule.form not in (Form.KEYLESS, Form.STREAMS)), name
        assert rule.op in ("read", "write", "delete", "expire", "other"), name
        assert bool(rule.target) == (rule.target_op == "write"), name
        assert bool(rule.ttl_at) == bool(rule.ttl_form), name
        assert not (rule.creates and rule.removes and not rule.target), name
    assert {name for name, rule in rules().items() if rule.form == Form.KEYLESS and rule.op != "other"} == FLUSHES
    assert rules()["OBJECT"].first == rules()["OBJECT ENCODING"].first == 2
    with pytest.raises(TypeError):
        rules()["GET"] = Rule()  # type: ignore[index]
