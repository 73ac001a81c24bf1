"""Connections and users as the server prints them."""

from __future__ import annotations

from coldcache.sources.clients import client_fields, client_rows, kept, user_of

LINE = (
    "id=7 addr=10.0.0.1:50 laddr=10.0.0.2:6379 fd=8 name=worker age=61 idle=5 flags=O db=2 sub=0 psub=0 ssub=0 multi=-1 qbuf=0 "
    "qbuf-free=0 argv-mem=10 multi-mem=0 rbs=1024 rbp=0 obl=0 oll=3 omem=4096 tot-mem=6144 events=r cmd=monitor user=default "
    "redir=-1 resp=2 lib-name=redis-py lib-ver=8.0.0"
)


def test_a_connection_keeps_what_says_who_it_is_and_what_it_costs():
    found = kept(client_fields(LINE))
    assert found == {
        "client": "10.0.0.1:50", "name": "worker", "user": "default", "library": "redis-py", "flags": "O", "db": 2, "age_s": 61,
        "idle_s": 5, "output_bytes": 4096, "memory_bytes": 6144, "command": "monitor",
    }  # fmt: skip


def test_what_an_old_server_does_not_tell_is_unknown():
    found = kept(client_fields("addr=10.0.0.1:50 name= age=1 idle=0 flags=N db=0 omem=0 cmd=get"))
    assert (found["name"], found["user"], found["library"], found["memory_bytes"]) == (None, None, None, None)


def test_our_own_connections_are_left_out():
    client = kept(client_fields(LINE))
    samples = [{"stamp_us": 5, "node": "n:1", "clients": [client, client | {"client": "10.0.0.9:1"}]}]
    assert [row[:3] for row in client_rows(samples, frozenset({"10.0.0.9:1"}))] == [(5, "n:1", "10.0.0.1:50")]


def test_users_lose_their_passwords():
    found = user_of("user app on sanitize-payload #5e884898da28 >plain <old !hash ~cache:* resetchannels -@all +get")
    assert found == {
        "user": "app", "enabled": True, "needs_password": True, "rules": "sanitize-payload ~cache:* resetchannels -@all +get",
    }  # fmt: skip
    opened = user_of("user default on nopass ~* &* +@all")
    assert opened is not None
    assert not opened["needs_password"]
    assert user_of("(error) NOPERM") is None
