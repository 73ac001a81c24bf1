"""A server to be recorded: where it is, what it is, and the connections of a recording.

Two connections for each server. *Control*, named ``coldcache-control``, sends INFO and CONFIG.
*Capture* is read raw (:mod:`coldcache.record.capture`). A third one belongs to the guardian.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionInterface
from redis.retry import Retry

from coldcache.commands import full_name
from coldcache.errors import ServerRefusedError, ServerUnreachableError, UrlError
from coldcache.sources.clients import client_fields, kept, user_of
from coldcache.sources.info import parse_info
from coldcache.sources.monitor import MARK_CHANNEL

CONTROL_NAME = "coldcache-control"
CAPTURE_NAME = "coldcache-capture"
GUARDIAN_NAME = "coldcache-guardian"
KEY_EVENTS = "__keyevent@*__:*"
# Exactly what a recording in any mode needs; `doctor` and every refusal print it.
ACL_LINE = (
    "ACL SETUSER coldcache +monitor +subscribe +publish +multi +exec +echo +time +info +config|get +config|set "
    "+client|info +client|setname +client|list +client|kill +cluster|nodes +slowlog|get "
    f"&{KEY_EVENTS} &{MARK_CHANNEL}*"
)
_DEFAULT_PORT = 6379
# MONITOR lines follow their command since 6.2.4 (redis#8859); the events' order relies on it.
OLDEST_EXACT = (6, 2, 4)
_CONNECT_TIMEOUT_S = 5
_SLOWLOG_ENTRIES = 1000
_REPLY_TIMEOUT_S = 10
# Where the server's files lie says nothing about its cache, and reports travel.
_PATHS = frozenset(
    {
        "dir",
        "logfile",
        "pidfile",
        "aclfile",
        "unixsocket",
        "tls-cert-file",
        "tls-client-cert-file",
        "tls-ca-cert-dir",
        "tls-ca-cert-file",
        "tls-dh-params-file",
    }
)
_SECRETS = re.compile(r"pass|secret|(master|primary)(auth|user)|key-file", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Which server this is. `node` is host:port or a socket's path, without credentials.

    role : ``primary`` or ``replica``
    cluster : it belongs to a Redis Cluster
    """

    node: str
    software: str
    version: str
    run_id: str
    role: str
    cluster: bool

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers, for comparison."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])

    @property
    def events_precede_lines(self) -> bool:
        """Whether a key event comes before the line of its command: an exact recording rests on it."""
        return self.software == "Valkey" or self.numbers >= OLDEST_EXACT

    def to_dict(self) -> dict[str, Any]:
        """Return the form of ``case.json``."""
        return {
            "node": self.node,
            "software": self.software,
            "version": self.version,
            "run_id": self.run_id,
            "role": self.role,
        }


def url_from(env: str | None, file: Path | None) -> str:
    """Return the server URL from an environment variable or a file.

    It is never an argument: arguments show in process lists and shell histories, and URLs carry
    passwords.

    Raises
    ------
    UrlError
        The variable or file is missing or empty, or both were given.
    """
    if env and file:
        raise UrlError("Give either --url-env or --url-file, not both.")
    if file:
        try:
            url = file.read_text("utf-8").strip()
        except OSError as error:
            raise UrlError(f"--url-file {file} cannot be read ({error.strerror}).") from None
        except UnicodeDecodeError:
            raise UrlError(f"--url-file {file} is no text. It should hold one line, like redis://host:6379/0.") from None
        source = f"The file {file}"
    else:
        name = env or "REDIS_URL"
        url = os.environ.get(name, "").strip()
        source = f"The environment variable {name}"
    if not url:
        raise UrlError(f"{source} is empty. Put the server's URL there, like redis://host:6379/0.")
    try:
        parts = urlsplit(url)
        usable = parts.port is None or parts.port > 0
    except ValueError:
        usable, parts = False, urlsplit("")
    if parts.scheme == "unix" and not parts.path:
        raise UrlError(f"{source} names a unix socket without a path. It should look like unix:///run/redis/redis.sock.")
    if not usable or parts.scheme not in ("redis", "rediss", "unix") or "@" in parts.path + parts.query + parts.fragment:
        raise UrlError(
            f"{source} holds no URL that starts with redis://, rediss:// or unix:// and can be read. "
            "Percent-encode special characters of the password: / is %2F, [ is %5B, @ is %40."
        )
    return url


def node_name(url: str) -> str:
    """Return ``host:port`` or the socket path of a URL: no user, no password, no query."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    try:
        return f"{parts.hostname or 'localhost'}:{parts.port or _DEFAULT_PORT}"
    except ValueError:
        raise UrlError("The server URL holds a port that is no number.") from None


def url_of_node(url: str, host: str, port: int) -> str:
    """Return the URL of another node of the same cluster: same credentials and options."""
    parts = urlsplit(url)
    credentials, at, _ = parts.netloc.rpartition("@")
    shown = f"[{host}]" if ":" in host else host
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}{shown}:{port}"))


def protocol_of(url: str) -> int:
    """Return the RESP version to speak: 2, or 3 where the URL asks for it with ``?protocol=3``."""
    return 3 if parse_qs(urlsplit(url).query).get("protocol") == ["3"] else 2


@contextmanager
def friendly(node: str, *, tls: bool = False) -> Iterator[None]:
    """Turn the client library's errors into one sentence; they may hold the URL, so none is quoted."""
    try:
        yield
    except redis.AuthenticationError as error:
        raise ServerRefusedError(_not_let_in(node, str(error).lower())) from None
    except redis.InvalidResponse:
        raise ServerRefusedError(f"What answers at {node} is no Redis. Check host and port of the URL.") from None
    except redis.exceptions.NoPermissionError:
        raise ServerRefusedError(
            f"{node}: the user may not run what the recording needs. See what is missing with: coldcache doctor. "
            f"This grants it: {ACL_LINE}"
        ) from None
    except (redis.ConnectionError, redis.TimeoutError, ConnectionError, TimeoutError) as error:
        raise ServerUnreachableError(_unreachable(node, str(error).lower(), tls=tls)) from None
    except redis.ResponseError as error:
        raise ServerRefusedError(f"{node} refuses a command that the recording needs: {_first_words(error)}") from None


def _not_let_in(node: str, error: str) -> str:
    if "authentication required" in error or "noauth" in error:
        return (
            f"{node} wants a password, and the URL has none. It should look like redis://user:password@host:port, "
            "or redis://:password@host:port where there are no users."
        )
    if "without any password" in error or "no password is set" in error:
        return f"{node} has no password set, but the URL holds one. Leave it out of the URL."
    return f"{node} refuses the user or password of the URL. Check them."


def _unreachable(node: str, error: str, *, tls: bool) -> str:
    """Return what a connection's failure means, from the client library's text in lower case."""
    known = (
        (
            ("wrong_version_number", "wrong version number", "record layer failure"),
            "does not speak TLS there. Use redis:// instead of rediss://, or name its TLS port.",
        ),
        (
            ("is not valid for", "hostname mismatch", "doesn't match"),
            "has a TLS certificate for another name. Use a name in the URL that the certificate holds.",
        ),
        (
            ("certificate_verify_failed", "certificate verify failed"),
            "has a TLS certificate that is not trusted here. Name the authority in the URL: "
            "rediss://host:port?ssl_ca_certs=/path/ca.crt",
        ),
        (
            ("certificate required", "tlsv13_alert_certificate_required", "handshake failure"),
            "wants a client certificate. Name it in the URL: ?ssl_certfile=/path/client.crt&ssl_keyfile=/path/client.key",
        ),
        (("max number of clients",), "has reached its limit of clients (maxclients). Close some, or raise it."),
        (("loading the dataset", "is loading"), "is loading its data set. Try again when it is done."),
        (
            ("name or service not known", "nodename nor servname", "no address associated", "name resolution"),
            "is a name that cannot be resolved here. Check the host in the URL.",
        ),
    )
    for texts, meaning in known:
        if any(text in error for text in texts):
            return f"{node} {meaning}"
    if tls and "no such file" in error:
        return f"{node}: a certificate or key file that the URL names (ssl_…=) does not exist. Check its path."
    if tls and "eof occurred" in error:
        return (
            f"{node} closes the TLS connection: it may want a client certificate. Name it in the URL: "
            "?ssl_certfile=/path/client.crt&ssl_keyfile=/path/client.key"
        )
    reason = next((text for text in ("refused", "timed out", "timeout", "reset", "closed") if text in error), "")
    hint = ""
    if not tls and reason in ("closed", "reset"):
        hint = " If that port speaks TLS, the URL must start with rediss://."
    elif tls and reason in ("timed out", "timeout", "closed", "reset"):
        # A plain Redis waits for the rest of what it takes for a command.
        hint = " If that port does not speak TLS, the URL must start with redis://."
    return (
        f"No Redis answers at {node}{f' (connection {reason})' if reason else ''}. "
        f"Is it running, and does the URL name the right host, port and TLS setting?{hint}"
    )


def _first_words(error: Exception) -> str:
    """Return what the server says, without the arguments it repeats: they may be a password."""
    return re.split(r",? with args|\n", str(error), maxsplit=1, flags=re.IGNORECASE)[0][:120]


def client_of(url: str, name: str, *, reply_timeout_s: float = _REPLY_TIMEOUT_S) -> redis.Redis:
    """Return a client of one connection that never reconnects silently.

    A silent reconnect would change our address, by which our own commands are known.

    Raises
    ------
    UrlError
        The URL has an option that cannot be read.
    """
    try:
        return redis.Redis.from_url(
            bare_url(url),
            protocol=protocol_of(url),
            single_connection_client=True,
            client_name=name,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            socket_timeout=reply_timeout_s,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            encoding_errors="backslashreplace",
        )
    except redis.RedisError:
        raise
    except (ValueError, TypeError):
        raise UrlError(f"The URL of {node_name(url)} has an option that cannot be read. Check what follows '?'.") from None


def bare_url(url: str) -> str:
    """Return the URL without ``protocol=``, passed on as a number, and without a database: SELECT would be one right more."""
    parts = urlsplit(url)
    query = "&".join(part for part in parts.query.split("&") if part and not part.startswith(("protocol=", "db=")))
    if parts.scheme == "unix":  # urlunsplit would leave out the empty host's slashes
        return f"unix://{parts.netloc}{parts.path}{'?' if query else ''}{query}"
    return urlunsplit(parts._replace(query=query, path=""))


class Control:
    """The control connection: INFO, CONFIG, marks in the stream.

    Attributes
    ----------
    node : str
        ``host:port`` or the socket's path.
    unix : bool
        MONITOR prints all clients of a unix socket alike, so our own commands carry a mark there.

    Raises
    ------
    ServerUnreachableError, ServerRefusedError, UrlError
    """

    def __init__(self, url: str) -> None:
        self.node = node_name(url)
        self.url = url
        self.unix = urlsplit(url).scheme == "unix"
        self.tls = urlsplit(url).scheme == "rediss"
        with friendly(self.node, tls=self.tls):
            self._client = client_of(url, CONTROL_NAME)
            # The raw text: redis-py's parsed INFO loses the sections.
            for command in ("INFO", "CLIENT INFO", "CLIENT LIST", "CLUSTER NODES"):
                self._client.set_response_callback(command, lambda reply, **_: reply)
            self.info("server")

    def info(self, section: str = "everything") -> str:
        """Return INFO's text."""
        return str(self._client.execute_command("INFO", section))

    def marked_info(self, mark: str | None, channel: str | None) -> str:
        """Return INFO's text and leave a mark in the capture at the very place of its counters.

        Parameters
        ----------
        mark : str or None
            Text of an ECHO line before the INFO line; None where the address tells our lines.
        channel : str or None
            Where to publish `mark` instead: a connection that hears only events sees no lines.
        """
        if mark is None:
            return self.info()
        # One transaction is one uninterrupted place in the server's order.
        pipe = self._client.pipeline(transaction=True)
        pipe.execute_command("PUBLISH", channel, mark) if channel else pipe.execute_command("ECHO", mark)
        pipe.execute_command("INFO", "everything")
        return str(pipe.execute()[1])

    def identity(self) -> ServerIdentity:
        """Return which server this is."""
        flat, _ = parse_info(self.info())
        return ServerIdentity(
            node=self.node,
            software="Valkey" if "valkey_version" in flat else "Redis",
            version=flat.get("valkey_version") or flat.get("redis_version", "0"),
            run_id=flat.get("run_id", ""),
            role="replica" if flat.get("role") == "slave" else "primary",
            cluster=flat.get("cluster_enabled") == "1" or flat.get("redis_mode") == "cluster",
        )

    def address(self) -> str:
        """Return this connection's address as the server, and so MONITOR, prints it."""
        return client_fields(self._client.execute_command("CLIENT INFO"))["addr"]

    def clients(self) -> list[dict[str, Any]]:
        """Return who is connected, see :func:`coldcache.sources.clients.kept`; empty where CLIENT LIST is refused."""
        try:
            lines = str(self._client.execute_command("CLIENT LIST")).splitlines()
        except redis.ResponseError:
            return []
        return [kept(client_fields(line)) for line in lines if line]

    def users(self) -> list[dict[str, Any]]:
        """Return the server's users without their passwords; empty where ACL LIST is refused, or unknown (before Redis 6).

        It is asked for as the default user only: where another one may not, the server would log the attempt.
        """
        try:
            if client_fields(self._client.execute_command("CLIENT INFO")).get("user") != "default":
                return []
            lines = self._client.execute_command("ACL LIST")
        except redis.ResponseError:
            return []
        return [user for line in lines if (user := user_of(str(line)))]

    def cluster_nodes(self) -> str:
        """Return CLUSTER NODES' text."""
        return str(self._client.execute_command("CLUSTER NODES"))

    def clock_offset_us(self, samples: int = 9) -> int:
        """Return server clock minus this machine's clock in µs: the sample with the shortest round trip."""
        best: tuple[int, int] | None = None
        for _ in range(samples):
            before = time.time_ns() // 1000
            seconds, micros = self._client.time()
            after = time.time_ns() // 1000
            candidate = (after - before, int(seconds) * 1_000_000 + int(micros) - (before + after) // 2)
            best = min(best, candidate) if best else candidate
        assert best is not None
        return best[1]

    def config(self) -> dict[str, str]:
        """Return CONFIG GET *, with secrets and file paths redacted; empty where CONFIG is refused."""
        try:
            raw = self._client.config_get("*")
        except redis.ResponseError:
            return {}
        return {
            name: "(redacted)" if value and (name in _PATHS or _SECRETS.search(name)) else str(value)
            for name, value in sorted((str(name), value) for name, value in raw.items())
        }

    def slow_commands(self, since_s: int) -> list[dict[str, Any]]:
        """Return the slow log's entries from a time on (Unix seconds), without arguments: they hold values.

        Empty where SLOWLOG is refused: it is worth having, not worth failing for.
        """
        self._client.set_response_callback("SLOWLOG GET", lambda reply, **_: reply)
        try:
            entries = self._client.execute_command("SLOWLOG GET", _SLOWLOG_ENTRIES)
        except redis.ResponseError:
            return []
        return [
            {
                "stamp_us": int(entry[1]) * 1_000_000,
                "command": full_name([str(word) for word in entry[3]]),
                "duration_us": int(entry[2]),
                "arguments": len(entry[3]),
                "client": str(entry[4]) if len(entry) > 4 else None,
            }
            for entry in entries
            if int(entry[1]) >= since_s and entry[3]
        ]

    def key_event_setting(self) -> str:
        """Return ``notify-keyspace-events`` as the server prints it."""
        return str(self._client.config_get("notify-keyspace-events").get("notify-keyspace-events", ""))

    def set_key_event_setting(self, value: str) -> None:
        """Set ``notify-keyspace-events``."""
        self._client.config_set("notify-keyspace-events", value)

    def echo(self, text: str) -> None:
        """Leave a mark in the stream: an ECHO line that the capture will see."""
        self._client.execute_command("ECHO", text)

    def publish(self, channel: str, text: str) -> None:
        """Leave a mark for a capture that hears only events."""
        self._client.execute_command("PUBLISH", channel, text)

    def capture_connection(self) -> tuple[ConnectionInterface, str, int]:
        """Open a connection for the capture; return it, its address as the server prints it, and its client id.

        redis-py does the handshake (TLS, ACL user, unix socket); after that its socket is ours.
        """
        pool = redis.ConnectionPool.from_url(
            bare_url(self.url),
            protocol=protocol_of(self.url),
            client_name=CAPTURE_NAME,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            socket_timeout=_REPLY_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        connection = pool.make_connection()
        connection.connect()
        connection.send_command("CLIENT", "INFO")
        fields = client_fields(connection.read_response())
        return connection, fields["addr"], int(fields["id"])

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
