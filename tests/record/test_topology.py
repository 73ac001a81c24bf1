"""Which primaries CLUSTER NODES names: addresses as servers of all kinds print them."""

from __future__ import annotations

import pytest
from coldcache.record.topology import ClusterNode, primaries

IDS = {letter: letter * 40 for letter in "abcdef"}


def node(letter: str, address: str, flags: str, slots: str = "0-5460", link: str = "connected") -> str:
    primary = "-" if "master" in flags or "primary" in flags else IDS["a"]
    return f"{IDS[letter]} {address} {flags} {primary} 0 1763800000000 1 {link} {slots}".rstrip()


def named(*lines: str, seed: str = "seed.example") -> list[tuple[str, int]]:
    return [(found.host, found.port) for found in primaries("\n".join(lines) + "\n", seed)]


def test_primaries_are_told_by_address_and_replicas_are_not():
    text = "\n".join(
        [
            node("b", "10.0.0.2:7001@17001", "master", "5461-10922"),
            node("a", "10.0.0.1:7000@17000", "myself,master"),
            node("c", "10.0.0.3:7002@17002", "slave", ""),
            node("d", "10.0.0.4:7003@17003", "master", ""),
        ]
    )
    assert primaries(text, "x") == [
        ClusterNode(IDS["a"], "10.0.0.1", 7000, True),
        ClusterNode(IDS["b"], "10.0.0.2", 7001, True),
        ClusterNode(IDS["d"], "10.0.0.4", 7003, False),
    ]


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("10.0.0.1:7000@17000", "10.0.0.1"),
        ("::1:7000@17000", "::1"),
        ("2001:db8::7:7000@17000", "2001:db8::7"),
        ("10.0.0.1:7000@17000,cache-1.example.com", "10.0.0.1"),
        ("10.0.0.1:7000@17000,", "10.0.0.1"),
        (":7000@17000,cache-1.example.com", "cache-1.example.com"),
        (":7000@17000,cache-1.example.com,shard-id=1f", "cache-1.example.com"),
        (":7000@17000,,shard-id=1f", "seed.example"),
        (":7000@17000", "seed.example"),
    ],
)
def test_an_address_in_each_of_its_forms(address: str, host: str):
    assert named(node("a", address, "myself,master")) == [(host, 7000)]


@pytest.mark.parametrize(
    "flags", ["master,fail", "master,handshake", "master,noaddr", "slave", "myself,slave", "slave,fail", "noflags"]
)
def test_what_is_down_or_no_primary_is_left_out(flags: str):
    assert named(node("a", "10.0.0.1:7000@17000", flags)) == []


def test_a_primary_that_only_one_node_cannot_reach_still_counts():
    # `fail?` is a suspicion of the node we asked; it may well answer us
    assert named(node("a", "10.0.0.1:7000@17000", "master,fail?")) == [("10.0.0.1", 7000)]


def test_a_node_without_an_address_is_left_out():
    assert named(node("a", ":0@0", "master,noaddr", link="disconnected")) == []


def test_slots_on_their_way_count_as_served():
    found = primaries(node("a", "10.0.0.1:7000@17000", "master", f"[93-<-{IDS['b']}]"), "x")
    assert found[0].serves


@pytest.mark.parametrize("text", ["", "\n", "ERR This instance has cluster support disabled", "a b c d e f g"])
def test_a_text_that_names_no_node_gives_none(text: str):
    assert primaries(text, "x") == []


def test_the_word_primary_is_understood_too():
    assert named(node("a", "10.0.0.1:7000@17000", "myself,primary")) == [("10.0.0.1", 7000)]
