"""The connections of a recording, and what is changed on the server meanwhile.

Two connections. *Control*, named ``coldcache-control``, sends INFO and CONFIG. *Capture* sends
MONITOR and then PSUBSCRIBE (in RESP2 only this order is allowed) and is read raw: subscribing
moves it to the server's ``pubsub`` class, whose output buffer is limited, so that a stalled
capture is closed by the server instead of filling its memory.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionInterface
from redis.retry import Retry

from coldcache.errors import ServerRefusedError, ServerUnreachableError, UrlError
from coldcache.sources.info import parse_info

CONTROL_NAME = "coldcache-control"
CAPTURE_NAME = "coldcache-capture"
_EVENT_FLAGS = "Exemn$g"  # keyevent channel; expired, evicted, keymiss, new, strings, generic
_EVENT_FLAGS_62 = "Exem$g"  # 6.2 refuses any string that holds n
_DEFAULT_PORT = 6379
# MONITOR lines follow their command since 6.2.4 (redis#8859); the events' order relies on it.
_OLDEST = (6, 2, 4)
# Where the server's files lie says nothing about its cache, and reports travel.
_PATHS = frozenset({"dir", "logfile", "pidfile", "aclfile", "unixsocket", "tls-cert-file", "tls-ca-cert-dir", "tls-ca-cert-file"})
_SECRETS = re.compile(r"pass|secret|(master|primary)(auth|user)|key-file", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Which server was recorded. `node` is host:port, without credentials."""

    node: str
    software: str
    version: str
    run_id: str


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
    if parts.scheme == "unix":
        raise UrlError(f"{source} names a unix socket, which this version cannot record. Use redis://host:port.")
    if not usable or parts.scheme not in ("redis", "rediss") or "@" in parts.path + parts.query + parts.fragment:
        raise UrlError(
            f"{source} holds no URL that starts with redis:// or rediss:// and can be read. "
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


@contextmanager
def friendly(node: str) -> Iterator[None]:
    """Turn the client library's errors into one sentence; they may hold the URL, so none is quoted."""
    try:
        yield
    except redis.AuthenticationError:
        raise ServerRefusedError(f"{node} refuses the user or password of the URL. Check them.") from None
    except redis.exceptions.NoPermissionError:
        raise ServerRefusedError(
            f"{node}: the user may not run what an exact recording needs. Grant it with: "
            "ACL SETUSER <user> +monitor +psubscribe +info +config|get +config|set +client|info "
            "+client|setname +echo +time &__keyevent@*__:*"
        ) from None
    except (redis.ConnectionError, redis.TimeoutError, ConnectionError, TimeoutError) as error:
        reason = next((text for text in ("refused", "timed out", "reset", "closed") if text in str(error).lower()), "")
        raise ServerUnreachableError(
            f"No Redis answers at {node}{f' (connection {reason})' if reason else ''}. "
            "Is it running, and does the URL name the right host, port and TLS setting?"
        ) from None
    except redis.ResponseError as error:
        raise ServerRefusedError(f"{node} refuses a command that the recording needs: {_first_words(error)}") from None


def _first_words(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:120]


class Control:
    """The control connection: INFO, CONFIG, and the settings that are put back at the end."""

    def __init__(self, url: str) -> None:
        self.node = node_name(url)
        with friendly(self.node):
            try:
                self._client = redis.Redis.from_url(
                    url,
                    protocol=2,
                    single_connection_client=True,
                    client_name=CONTROL_NAME,
                    socket_connect_timeout=5,
                    socket_timeout=10,
                    # A silent reconnect would change our address, by which our own commands are known.
                    retry=Retry(NoBackoff(), 0),
                    decode_responses=True,
                    encoding_errors="backslashreplace",
                )
            except (ValueError, TypeError):
                raise UrlError(f"The URL of {self.node} has an option that cannot be read. Check what follows '?'.") from None
            # The raw text: redis-py's parsed INFO loses the sections.
            self._client.set_response_callback("INFO", lambda reply, **_: reply)
            self._client.set_response_callback("CLIENT INFO", lambda reply, **_: reply)
            self.info("server")
        self._url = url
        self._events_before: str | None = None

    def info(self, section: str = "everything") -> str:
        """Return INFO's text."""
        return str(self._client.execute_command("INFO", section))

    def identity(self) -> ServerIdentity:
        """Return which server this is.

        Raises
        ------
        ServerRefusedError
            It is older than 6.2.4, where MONITOR lines precede their command.
        """
        flat, _ = parse_info(self.info("server"))
        software = "Valkey" if "valkey_version" in flat else "Redis"
        version = flat.get("valkey_version") or flat.get("redis_version", "0")
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
        if numbers < _OLDEST:
            raise ServerRefusedError(
                f"{self.node} is {software} {version}. An exact recording needs 6.2.4 or newer, "
                "where a key event comes before the line of its command."
            )
        return ServerIdentity(self.node, software, version, flat.get("run_id", ""))

    def address(self) -> str:
        """Return this connection's address as the server, and so MONITOR, prints it."""
        reply = str(self._client.execute_command("CLIENT INFO"))
        fields = dict(part.split("=", 1) for part in reply.split() if "=" in part)
        return fields["addr"]

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
        """Return CONFIG GET *, with secrets and file paths redacted."""
        raw = self._client.config_get("*")
        return {
            name: "(redacted)" if value and (name in _PATHS or _SECRETS.search(name)) else str(value)
            for name, value in sorted((str(name), value) for name, value in raw.items())
        }

    def enable_key_events(self) -> None:
        """Switch on the key events the recording needs, beside those already on."""
        before = str(self._client.config_get("notify-keyspace-events").get("notify-keyspace-events", ""))
        self._events_before = before
        for wanted in (_EVENT_FLAGS, _EVENT_FLAGS_62):
            merged = before + "".join(flag for flag in wanted if flag not in before)
            try:
                self._client.config_set("notify-keyspace-events", merged)
                return
            except redis.exceptions.NoPermissionError:
                raise
            except redis.ResponseError as error:
                refusal = error
        raise refusal

    def restore_key_events(self) -> None:
        """Put the key-event setting back as it was; safe to call twice."""
        if self._events_before is not None:
            self._client.config_set("notify-keyspace-events", self._events_before)
            self._events_before = None

    def mark(self, text: str) -> None:
        """Leave a mark in the stream: an ECHO line that the capture will see."""
        self._client.execute_command("ECHO", text)

    def capture_connection(self) -> tuple[ConnectionInterface, socket.socket, str]:
        """Open the capture connection; return it, its socket and its address as the server prints it.

        redis-py does the handshake (TLS, ACL user, unix socket); after that the socket is ours.
        """
        pool = redis.ConnectionPool.from_url(
            self._url, protocol=2, client_name=CAPTURE_NAME, socket_connect_timeout=5, socket_timeout=None
        )
        connection = pool.make_connection()
        connection.connect()
        connection.send_command("CLIENT", "INFO")
        reply = connection.read_response()
        fields = dict(part.split("=", 1) for part in bytes(reply).decode().split() if "=" in part)
        # redis-py offers no public way to the socket, and its own Monitor mis-splits arguments.
        return connection, connection._sock, fields["addr"]  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
