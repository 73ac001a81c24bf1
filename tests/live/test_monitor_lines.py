"""What a real server prints for any bytes is what the tests' own printer prints, and reads back the same."""

from __future__ import annotations

import contextlib
import random
import socket
import time

import numpy as np
import pytest
import redis
from coldcache.lab.server import lab_server
from coldcache.sources.log import LogParser
from coldcache.sources.monitor import escape

pytestmark = pytest.mark.live
COMMANDS = 2000


def any_arguments(chance: random.Random) -> list[bytes]:
    """A command with arguments of any bytes: most of them hard ones."""
    hard = [b"", b'"', b"\\", b'" ', b'\\"', b'] "', b"\r\n+1.0 [0 x]", b"\\x41", bytes(range(256)), b"\xc3\xa9", b" "]

    def word() -> bytes:
        if chance.random() < 0.5:
            return chance.choice(hard)
        return bytes(chance.randrange(256) for _ in range(chance.randrange(30)))

    name = chance.choice([b"ECHO", b"echo", b"SET", b"sEt", b"GET", b"MGET", b"DEL", b"EXISTS"])
    count = {b"ECHO": 1, b"SET": 2, b"GET": 1}.get(name.upper(), chance.randrange(1, 5))
    return [name, *(word() for _ in range(count))]


def test_any_bytes_are_printed_as_we_print_them_and_read_back(server_binary_path: str):
    chance = random.Random(11)
    sent = [any_arguments(chance) for _ in range(COMMANDS)]
    with lab_server(server_binary_path) as url, contextlib.closing(redis.Redis.from_url(url, protocol=2)) as client:
        address = client.connection_pool.connection_kwargs
        with socket.create_connection((address["host"], address["port"])) as monitor:
            monitor.sendall(b"MONITOR\r\n")
            assert monitor.recv(5) == b"+OK\r\n"
            for at in range(0, COMMANDS, 500):
                pipe = client.pipeline(transaction=False)
                for args in sent[at : at + 500]:
                    pipe.execute_command(*args)
                pipe.execute(raise_on_error=False)
            client.execute_command("PING", "the end")
            monitor.settimeout(10)
            got, began = b"", time.monotonic()
            while b'"PING" "the end"' not in got and time.monotonic() - began < 30:
                got += monitor.recv(1 << 20)
            while not got.endswith(b"\r\n"):
                got += monitor.recv(1 << 20)
    lines = [line for line in got.split(b"\r\n") if b'"CLIENT"' not in line][:-2]
    printed = [" ".join(f'"{escape(arg)}"' for arg in args).encode() for args in sent]
    assert [line.split(b"] ", 1)[1] for line in lines] == printed
    (batch,) = LogParser().batches(np.frombuffer(got, np.uint8))
    assert len(batch.rejected) == 0
    keys = batch.accesses.to_pandas()
    wanted = [escape(arg) for args in sent if args[0].upper() in (b"GET", b"MGET", b"DEL", b"EXISTS") for arg in args[1:]]
    assert keys.loc[keys["command"].isin(["GET", "MGET", "DEL", "EXISTS"]), "key"].tolist() == wanted
