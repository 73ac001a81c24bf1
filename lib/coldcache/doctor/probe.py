"""What a server lets us see, and nothing changed.

Rights are probed by calls that the server refuses for another reason after it has checked them:
``CONFIG SET notify-keyspace-events ?`` is no valid value, ``CLIENT KILL ID none`` no id,
``MONITOR`` not allowed on a subscribed RESP2 connection, so that it is not even switched on. All
verified on Redis 6.2.5, 7.0.15 and Valkey 9.1.2: the setting stays.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from coldcache.errors import ColdcacheError
from coldcache.record.server import KEY_EVENTS, bare_url, client_of, friendly, node_name
from coldcache.sources.clients import client_fields
from coldcache.sources.info import parse_info
from coldcache.sources.monitor import MARK_CHANNEL

_NAME = "coldcache-doctor"
_INVALID_FLAG = "?"  # no event class on any server
_CPU_INTERVAL_S = 0.3
# The states of a right.
OK, DENIED, CHANNEL, ABSENT, LOADING, UNSEEN = "ok", "denied", "channel", "absent", "loading", "unseen"
KEY_EVENTS_WORD, MARK_WORD = f"&{KEY_EVENTS}", f"&{MARK_CHANNEL}*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What probing one server has found; the judgement works on this alone.

    rights : for each word of the ACL line: ``ok``, ``denied``, ``channel`` (the command may run, but not on that
        channel), ``absent`` (renamed or removed), ``loading``, ``unseen``, else the server's own words
    info : INFO's fields; empty where it is refused
    info_bytes : how long INFO's text is
    cpu_share : CPU seconds per second of the thread that runs commands; None where unknown
    setting : ``notify-keyspace-events``; None where it cannot be read
    clients : CLIENT LIST; None where it is refused
    """

    node: str
    host: str = ""
    unix: bool = False
    software: str = "Redis"
    version: str = ""
    rights: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, str] = field(default_factory=dict)
    info_bytes: int = 0
    cpu_share: float | None = None
    setting: str | None = None
    clients: tuple[Mapping[str, str], ...] | None = None
    cluster: bool = False
    cluster_nodes: str = ""
    cluster_state: str = ""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers, for comparison."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])

    @property
    def title(self) -> str:
        """Software and version."""
        return f"{self.software} {self.version or '(version not told)'}"

    def count(self, name: str) -> int:
        """Return a number of INFO; 0 where it is not told."""
        with contextlib.suppress(ValueError):
            return int(float(self.info.get(name, 0)))
        return 0

    @property
    def ops_per_s(self) -> float | None:
        """Commands a second over the last 1.6 s, as INFO counts them."""
        return float(self.info["instantaneous_ops_per_sec"]) if "instantaneous_ops_per_sec" in self.info else None


@dataclass(frozen=True, slots=True)
class Room:
    """The disk a case would lie on: folder that exists, bytes free, and whether it can be written."""

    folder: str
    free_bytes: int
    writable: bool = True


def look_or_why(url: str) -> Seen | str:
    """Return what probing has found, or in one sentence why there is nothing."""
    try:
        return look(url)
    except ColdcacheError as error:
        return str(error)


def look(url: str) -> Seen:
    """Probe a server; change nothing.

    Raises
    ------
    ServerUnreachableError, ServerRefusedError, UrlError
        Nothing can be said at all: it is down, the password is wrong, TLS does not match.
    """
    node = node_name(url)
    with friendly(node, tls=urlsplit(url).scheme == "rediss"), contextlib.closing(_Probe(url)) as probe:
        return _seen(probe, url, node)


def _seen(probe: _Probe, url: str, node: str) -> Seen:
    parts = urlsplit(url)
    text = probe.ask("info", "INFO", "everything")
    began, sampled = time.monotonic(), probe.cpu()
    flat, _ = parse_info(text) if isinstance(text, str) else ({}, {})
    software, version, cluster = _identity(flat, probe)
    for word, command, fine in (
        ("time", ("TIME",), ""),
        ("client|info", ("CLIENT", "INFO"), ""),
        ("client|setname", ("CLIENT", "SETNAME", _NAME), ""),
        ("client|kill", ("CLIENT", "KILL", "ID", "none"), "integer|greater than 0|syntax"),
        ("echo", ("ECHO", _NAME), ""),
        ("publish", ("PUBLISH", f"{MARK_CHANNEL}doctor", ""), ""),
        # Refused alone, it says "without MULTI"; but NOPERM comes first.
        ("exec", ("EXEC",), "without multi"),
    ):
        probe.ask(word, *command, fine=fine)
    if probe.ask("multi", "MULTI") is not None:
        probe.ask("", "EXEC", fine="without multi|discarded|execabort")
    setting = probe.setting()
    nodes = state = ""
    if cluster:
        nodes = str(probe.ask("cluster|nodes", "CLUSTER", "NODES") or "")
        told = re.search(r"cluster_state:(\w+)", str(probe.ask("", "CLUSTER", "INFO") or ""))
        state = told[1] if told else ""
    listed = probe.ask("client|list", "CLIENT", "LIST")
    probe.look_at_stream()
    share = None
    if sampled is not None:
        time.sleep(max(0.0, began + _CPU_INTERVAL_S - time.monotonic()))
        after, passed = probe.cpu(), time.monotonic() - began
        share = (after - sampled) / passed if after is not None else None
    return Seen(
        node=node,
        host=parts.hostname or "",
        unix=parts.scheme == "unix",
        software=software,
        version=version,
        rights=probe.rights,
        info=flat,
        info_bytes=len(text) if isinstance(text, str) else 0,
        cpu_share=share,
        setting=setting,
        clients=None if listed is None else tuple(client_fields(line) for line in str(listed).splitlines() if line),
        cluster=cluster,
        cluster_nodes=nodes,
        cluster_state=state,
    )


def _identity(flat: Mapping[str, str], probe: _Probe) -> tuple[str, str, bool]:
    """Return software, version, and whether it belongs to a cluster."""
    for name, software in (
        ("valkey_version", "Valkey"),
        ("dragonfly_version", "Dragonfly"),
        ("garnet_version", "Garnet"),
        ("kvrocks_version", "Kvrocks"),
    ):
        if name in flat:
            return software, flat[name], flat.get("cluster_enabled") == "1" or flat.get("redis_mode") == "cluster"
    if flat:
        # KeyDB tells itself by the counter of its MVCC snapshots only.
        software = "KeyDB" if "mvcc_depth" in flat else "Redis"
        return software, flat.get("redis_version", ""), flat.get("cluster_enabled") == "1" or flat.get("redis_mode") == "cluster"
    # HELLO needs no right (redis: CMD_NO_AUTH), so it tells the version where INFO may not.
    reply = probe.ask("", "HELLO")
    pairs = (
        reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=False)) if isinstance(reply, list) else {}
    )
    software = "Valkey" if pairs.get("server") == "valkey" else "Redis"
    return software, str(pairs.get("version", "")), pairs.get("mode") == "cluster"


class _Probe:
    """One connection that asks what is allowed, and a second one for a moment.

    Attributes
    ----------
    rights : dict of ACL word to state, see :class:`Seen`
    """

    def __init__(self, url: str) -> None:
        self.rights: dict[str, str] = {}
        self._url = url
        self._client = client_of(url, "")
        for command in ("INFO", "CLIENT INFO", "CLIENT LIST", "CLUSTER NODES", "CLUSTER INFO", "HELLO"):
            self._client.set_response_callback(command, lambda reply, **_: reply)

    def ask(self, word: str, *command: str, fine: str = "") -> Any:
        """Return the reply, or None where it is refused; note under `word` whether the right is there.

        Parameters
        ----------
        fine : str
            Pattern of an error that shows that the right is there: it comes after the check of rights.
        """
        return self._noted(word, lambda: self._client.execute_command(*command), fine)

    def _noted(self, word: str, call: Callable[[], Any], fine: str) -> Any:
        reply, state = None, OK
        try:
            reply = call()
        except redis.AuthenticationError:
            raise
        except redis.exceptions.BusyLoadingError:
            state = LOADING
        except redis.ResponseError as error:
            if str(error).lower().startswith("noauth"):
                raise
            state = _state_of(error, fine)
        if word:
            self.rights[word] = state
        return reply

    def cpu(self) -> float | None:
        """Return the CPU seconds of the thread that runs commands, of the whole server where it tells no more."""
        reply = self.ask("", "INFO", "cpu")
        if not isinstance(reply, str):
            return None
        flat, _ = parse_info(reply)
        for suffix in ("_main_thread", ""):
            if f"used_cpu_user{suffix}" in flat:
                return float(flat[f"used_cpu_user{suffix}"]) + float(flat.get(f"used_cpu_sys{suffix}", 0))
        return None

    def setting(self) -> str | None:
        """Return ``notify-keyspace-events``, and note whether it may be read and set; it stays as it is."""
        name = "notify-keyspace-events"
        before = self._setting()
        self.ask("config|set", "CONFIG", "SET", name, _INVALID_FLAG, fine="invalid")
        if before is not None and self._setting() != before:
            # A server that takes nonsense: none that we know does.
            self.ask("", "CONFIG", "SET", name, before)
        return before

    def _setting(self) -> str | None:
        reply = self._noted("config|get", lambda: self._client.config_get("notify-keyspace-events"), "")
        return str(reply["notify-keyspace-events"]) if reply and "notify-keyspace-events" in reply else None

    def look_at_stream(self) -> None:
        """Note whether we may subscribe and run MONITOR, on a connection that is closed at once.

        MONITOR is asked for after subscribing, where RESP2 refuses it, but not before it has
        checked the right. Only a user who may not subscribe at all gets it for a moment.
        """
        pool = redis.ConnectionPool.from_url(
            bare_url(self._url),
            protocol=2,
            socket_connect_timeout=5,
            socket_timeout=10,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        connection = pool.make_connection()
        try:
            connection.connect()
            for word, channel_word, command in (
                ("subscribe", KEY_EVENTS_WORD, ("SUBSCRIBE", "__keyevent@0__:keymiss")),
                ("subscribe", MARK_WORD, ("SUBSCRIBE", f"{MARK_CHANNEL}doctor")),
            ):
                self._send(connection, word, command)
                state = self.rights[word]
                self.rights[channel_word] = state if state in (OK, CHANNEL) else UNSEEN
                if state == CHANNEL:
                    self.rights[word] = OK
            self._send(connection, "monitor", ("MONITOR",), fine="can't execute|allowed in this context")
        finally:
            connection.disconnect()
        if self.rights["publish"] == CHANNEL:
            self.rights["publish"], self.rights[MARK_WORD] = OK, CHANNEL

    def _send(self, connection: Any, word: str, command: tuple[str, ...], fine: str = "") -> None:
        connection.send_command(*command)
        self._noted(word, connection.read_response, fine)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _state_of(error: Exception, fine: str) -> str:
    text = str(error).split("\n", 1)[0]
    lowered = text.lower()
    if isinstance(error, redis.exceptions.NoPermissionError) or "noperm" in lowered:
        return CHANNEL if "channel" in lowered else DENIED
    if lowered.startswith(("unknown command", "unknown subcommand")) or "unknown command" in lowered:
        return ABSENT
    if fine and re.search(fine, lowered):
        return OK
    return text[:120]


def room_of(out: Path) -> Room:
    """Return the disk that `out` would lie on: that of the nearest folder that exists."""
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    return Room(str(folder), shutil.disk_usage(folder).free, os.access(folder, os.W_OK))
