"""The guardian: a small process that outlives the recorder and keeps the server from harm.

It watches, on connections of its own, the output buffer of every capture connection, and cuts a
capture that the recorder no longer reads before the server suffers. When the recorder is gone,
by SIGKILL too, it puts ``notify-keyspace-events`` back and makes the tables of the case.

The recorder writes one JSON object a line to its standard input and reads its answers, one
JSON object a line, from its standard output. Standard input ending means the recorder is gone.
URLs, which may hold passwords, travel only through that pipe: never an argument, never the
environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import redis

from coldcache.errors import ColdcacheError
from coldcache.record.server import CAPTURE_NAME, GUARDIAN_NAME, client_of
from coldcache.sources.clients import client_fields

# Half of what stands for a stalled monitor: the server itself would cut at 32 MB.
MOST_BUFFER_BYTES = 8 << 20
# On a full server every byte of buffer evicts: this share of maxmemory, and no less than that.
_FULL_SHARE = 0.002
_LEAST_BUFFER_BYTES = 128 << 10
_CALM_INTERVAL_S = 0.1
_TIGHT_INTERVAL_S = 0.01
_TIGHT_BYTES = 2 << 20
_RESTORE_FOR_S = 120.0
_FAREWELL_S = 5.0
_STARTUP_S = 20.0
_CUT_ANSWER_S = 0.5


def buffer_limit(maxmemory: int, used_memory: int) -> int:
    """Return how many bytes a capture may keep waiting in the server, given its memory.

    8 MB where there is room; half of the room that is left; 0.2 % of maxmemory (at least 128 KB)
    where there is none. Client buffers count toward maxmemory, so they evict keys (measured).
    """
    if maxmemory <= 0:
        return MOST_BUFFER_BYTES
    floor = max(_LEAST_BUFFER_BYTES, int(maxmemory * _FULL_SHARE))
    return min(MOST_BUFFER_BYTES, max(floor, (maxmemory - used_memory) // 2))


class Guardian:
    """The recorder's end: starts the process, tells it what to guard, hears what it cut.

    Attributes
    ----------
    cuts : dict of watch id to reason
        Captures that the guardian has closed.
    buffers : dict of watch id to bytes
        The output buffer of every capture as last seen.
    """

    def __init__(self, case_folder: Path) -> None:
        self.cuts: dict[int, str] = {}
        self.buffers: dict[int, int] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._changed = threading.Condition()
        self._next_id = 0
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "coldcache.record.guardian"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Its own session: Ctrl-C in the terminal and a closed terminal do not reach it.
            start_new_session=True,
            text=True,
        )
        self._reader = threading.Thread(target=self._listen, name="coldcache-guardian", daemon=True)
        self._reader.start()
        self._send({"cmd": "case", "folder": str(case_folder.absolute()), "pid": os.getpid()})

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still guards."""
        return self._process.poll() is None

    def guard(self, url: str, *, setting_before: str | None) -> tuple[int, str]:
        """Have a server guarded; return the watch's id and the address of the guardian's connection there.

        From the answer on, `setting_before` is put back if the recorder dies. None leaves it alone.

        Raises
        ------
        ColdcacheError
            The guardian could not connect, or does not answer.
        """
        with self._lock:
            self._next_id += 1
            watch = self._next_id
        self._send({"cmd": "guard", "id": watch, "url": url, "before": setting_before})
        with self._changed:
            self._changed.wait_for(lambda: watch in self._answers or not self.alive, _STARTUP_S)
            answer = self._answers.pop(watch, {"error": "it does not answer"})
        if "error" in answer:
            raise ColdcacheError(f"The guardian process cannot watch the server: {answer['error']}. Try again.")
        return watch, str(answer["address"])

    def setting_is(self, watch: int, now: str | None) -> None:
        """Tell what the setting reads now; the guardian leaves alone what somebody else has changed."""
        self._send({"cmd": "setting", "id": watch, "now": now})

    def capture_is(self, watch: int, client_id: int | None) -> None:
        """Tell which client to watch; None: no capture just now."""
        self.buffers.pop(watch, None)
        self._send({"cmd": "capture", "id": watch, "client": client_id})

    def limit_is(self, watch: int, limit_bytes: int) -> None:
        """Tell how many bytes may wait in the server."""
        self._send({"cmd": "limit", "id": watch, "bytes": limit_bytes})

    def cut(self, watch: int) -> str | None:
        """Return why the guardian closed that capture, if it did; its word may come a moment after the loss."""
        with self._changed:
            self._changed.wait_for(lambda: watch in self.cuts, _CUT_ANSWER_S)
            return self.cuts.pop(watch, None)

    def release(self, watch: int) -> None:
        """Stop guarding: everything is as it was."""
        self._send({"cmd": "release", "id": watch})

    def close(self) -> None:
        """End the guardian in good order; safe to call twice.

        Where a setting could not be put back, because the server is gone, it stays and keeps trying.
        """
        self._send({"cmd": "bye"})
        with contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            # It goes on by itself, as it would after our death; Popen need not complain of that.
            self._process.returncode = 0
            return
        self._reader.join(_FAREWELL_S)
        if self._process.stdout:
            self._process.stdout.close()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            with self._changed:
                if "buffer" in message:
                    self.buffers[message["id"]] = message["buffer"]
                elif "cut" in message:
                    self.cuts[message["id"]] = message["cut"]
                else:
                    self._answers[message["id"]] = message
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


class _Watch(threading.Thread):
    """Guards one server: one connection, one thread, so that a slow server delays no other."""

    def __init__(self, message: dict[str, Any], recorder: psutil.Process, answer: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(name=f"watch-{message['id']}", daemon=True)
        self.id = int(message["id"])
        self.before: str | None = message["before"]
        self.now: str | None = None
        self.client_id: int | None = None
        self.limit_bytes = MOST_BUFFER_BYTES
        self.over = threading.Event()
        self._url = message["url"]
        self._recorder = recorder
        self._answer = answer
        self._client = self._connect()
        reply = self._client.execute_command("CLIENT INFO")
        answer({"id": self.id, "address": client_fields(reply)["addr"]})

    def _connect(self) -> redis.Redis:
        client = client_of(self._url, GUARDIAN_NAME, reply_timeout_s=2.0)
        for command in ("CLIENT INFO", "CLIENT LIST"):
            client.set_response_callback(command, lambda reply, **_: reply)
        return client

    def run(self) -> None:
        """Look at the buffer until told that all is over."""
        shown = 0.0
        while not self.over.wait(_TIGHT_INTERVAL_S if self.limit_bytes < _TIGHT_BYTES else _CALM_INTERVAL_S):
            client_id = self.client_id
            if client_id is None:
                continue
            try:
                reason, waiting = self._look(client_id)
            except redis.ResponseError:
                self.client_id = None  # no right to look: the server's own limit for subscribers remains
                continue
            except (redis.RedisError, OSError):
                self._client.close()
                if self.over.wait(0.5):
                    return
                with contextlib.suppress(ColdcacheError, redis.RedisError, OSError):
                    self._client = self._connect()
                continue
            if reason:
                self.client_id = None
                self._answer({"id": self.id, "cut": reason})
            elif time.monotonic() - shown > 1:
                shown = time.monotonic()
                self._answer({"id": self.id, "buffer": waiting})

    def _look(self, client_id: int) -> tuple[str | None, int]:
        """Cut the capture if it harms; return why it was cut, and the bytes that wait for it."""
        stopped = self.limit_bytes < MOST_BUFFER_BYTES and self._recorder_stopped()
        fields = client_fields(self._client.execute_command("CLIENT LIST", "ID", str(client_id)))
        if fields.get("name") != CAPTURE_NAME:
            return None, 0  # gone; after a restart the id may be somebody else's
        waiting = int(fields.get("omem", 0))
        if waiting <= self.limit_bytes and not stopped:
            return None, waiting
        self._client.execute_command("CLIENT KILL", "ID", str(client_id))
        if stopped:
            return "the recorder was stopped while the server's memory was short, so the guardian closed its connection", waiting
        return (
            f"{waiting:,} bytes waited in the server for the recorder, more than {self.limit_bytes:,}: "
            "the guardian closed the connection before the server suffered"
        ), waiting

    def _recorder_stopped(self) -> bool:
        try:
            return self._recorder.status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return False

    def put_back(self, deadline: float) -> bool:
        """Restore the setting, retrying until `deadline`. The dead recorder's connections close by themselves."""
        self.over.set()
        self.join(3)
        while True:
            try:
                if self.before is not None:
                    found = str(self._client.config_get("notify-keyspace-events").get("notify-keyspace-events", ""))
                    if found != self.before and self.now in (None, found):
                        self._client.config_set("notify-keyspace-events", self.before)
                return True
            except redis.ResponseError:
                return False
            except (redis.RedisError, OSError):
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.25)
                with contextlib.suppress(ColdcacheError, redis.RedisError, OSError):
                    self._client = self._connect()

    def close(self) -> None:
        """Close the connection."""
        self.over.set()
        with contextlib.suppress(redis.RedisError, OSError):
            self._client.close()


class _Orders:
    """What the recorder has told the guardian so far."""

    def __init__(self, answer: Callable[[dict[str, Any]], None]) -> None:
        self.watches: dict[int, _Watch] = {}
        self.folder: Path | None = None
        self.orderly = False
        self._answer = answer
        self._recorder = psutil.Process(os.getppid())

    def take(self, message: dict[str, Any]) -> None:
        """Take one message of the recorder."""
        command = message["cmd"]
        if command == "case":
            self.folder, self._recorder = Path(message["folder"]), psutil.Process(message["pid"])
        elif command == "bye":
            self.orderly = True
        elif command == "guard":
            self._guard(message)
        elif watch := self.watches.get(message["id"]):
            if command == "setting":
                watch.now = message["now"]
            elif command == "capture":
                watch.client_id = message["client"]
            elif command == "limit":
                watch.limit_bytes = message["bytes"]
            elif command == "release":
                del self.watches[watch.id]
                watch.close()

    def _guard(self, message: dict[str, Any]) -> None:
        try:
            watch = _Watch(message, self._recorder, self._answer)
        except (ColdcacheError, redis.RedisError, OSError) as error:
            self._answer({"id": message["id"], "error": type(error).__name__})
            return
        self.watches[watch.id] = watch
        watch.start()


def main() -> None:
    """Run the guardian's process: standard input to standard output."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    out = threading.Lock()

    def answer(message: dict[str, Any]) -> None:
        with out, contextlib.suppress(OSError, ValueError):
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()

    orders = _Orders(answer)
    for line in sys.stdin:
        try:
            orders.take(json.loads(line))
        except (ValueError, KeyError, psutil.Error):
            break  # the recorder died in the middle of a line
    deadline = time.monotonic() + _RESTORE_FOR_S
    for watch in orders.watches.values():
        watch.put_back(deadline)
        watch.close()
    if not orders.orderly and orders.folder is not None and (orders.folder / "case.json").exists():
        # The recorder is dead. Its raw stream holds values: make the tables and remove it.
        os.nice(10)
        from coldcache.record.finish import finish_case

        with contextlib.suppress(ColdcacheError, OSError):
            finish_case(orders.folder)


if __name__ == "__main__":
    main()
