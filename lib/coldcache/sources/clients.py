"""Who is connected to a server, and which users it knows: rows of `clients` and `users`; without pandas, for the guardian."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from coldcache import schema

_MASKED = ("#", ">", "<", "!")  # before a password or its hash: ACL SETUSER


def client_fields(reply: object) -> dict[str, str]:
    """Return the fields of one line of CLIENT INFO or CLIENT LIST."""
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
    return dict(part.split("=", 1) for part in text.split() if "=" in part)


def kept(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return what is kept of a connection, as JSON holds it; what the server does not tell is None.

    `oll` and `omem` are the list of replies that wait and its bytes: what a client that does not read costs the server
    (``getClientOutputBufferMemoryUsage`` in ``src/networking.c``).
    """
    return {
        "client": fields.get("addr"),
        "name": fields.get("name") or None,
        "user": fields.get("user"),
        "library": fields.get("lib-name") or None,
        "flags": fields.get("flags"),
        "db": _number(fields.get("db")),
        "age_s": _number(fields.get("age")),
        "idle_s": _number(fields.get("idle")),
        "output_bytes": _number(fields.get("omem")),
        "memory_bytes": _number(fields.get("tot-mem")),
        "command": fields.get("cmd"),
    }


def client_rows(samples: Iterable[Mapping[str, Any]], own: frozenset[str]) -> list[tuple[Any, ...]]:
    """Return samples of CLIENT LIST as rows of ``schema.CLIENTS``, their time in µs.

    Parameters
    ----------
    samples : iterable of mapping
        ``stamp_us``, ``node`` and ``clients``, each as :func:`kept` gives it.
    own : frozenset of str
        Addresses of the recorder's connections, which are left out.
    """
    names = [column.name for column in schema.CLIENTS.columns[2:]]
    return [
        (sample["stamp_us"], sample["node"], *(client.get(name) for name in names))
        for sample in samples
        for client in sample["clients"]
        if client.get("client") not in own
    ]


def user_of(line: str) -> dict[str, Any] | None:
    """Return a user as ACL LIST prints it, without its passwords and their hashes; None where the line is none."""
    words = line.split()
    if len(words) < 2 or words[0] != "user":
        return None
    rules = [word for word in words[2:] if not word.startswith(_MASKED)]
    return {
        "user": words[1],
        "enabled": "on" in rules,
        "needs_password": "nopass" not in rules,
        "rules": " ".join(word for word in rules if word not in ("on", "off", "nopass", "resetpass")),
    }


def user_rows(users: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[tuple[Any, ...]]:
    """Return the users of each node, as :func:`user_of` gives them, as rows of ``schema.USERS``."""
    names = [column.name for column in schema.USERS.columns[1:]]
    return [(node, *(user[name] for name in names)) for node, found in users.items() for user in found]


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.lstrip("-").isdigit() else None
