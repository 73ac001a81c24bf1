"""What the foreign applications are made of: a socket that speaks RESP, a pace, what they count, and what is true of a fault.

No application uses a client library of Python's: each sends what its framework would send, command by command, so that the
server, and whoever listens to it, sees that framework.
"""

from __future__ import annotations

import functools
import math
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar
from urllib.parse import urlsplit

import hiredis

Command = tuple[Any, ...]
Symptom = Callable[[Counter[str]], bool]

HEALTHY = "healthy"
LEAST_LOOKUPS = 100
_BACKEND_S = 0.002
# On a machine that is too busy for the rate: so many of the requests, but no more than so many times the seconds asked for.
_LEAST_SHARE = 0.25
_LONGEST = 4


class Wire:
    """A connection of an application: raw RESP over a socket of its own.

    Parameters
    ----------
    url : str
        Of the server; a path names no database, for that is the handshake's to select.
    number : int
        Which of the application's connections it is.
    handshake : commands
        What the client library sends first.
    """

    def __init__(self, url: str, number: int = 0, handshake: Iterable[Command] = ()) -> None:
        at = urlsplit(url)
        self.number = number
        self._socket = socket.create_connection((at.hostname, at.port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self.pipeline(handshake)

    def ask(self, *command: Any) -> Any:
        """Send one command; return its reply, an error as a ``hiredis.ReplyError``."""
        return self.pipeline([command])[0]

    def pipeline(self, commands: Iterable[Command]) -> list[Any]:
        """Send commands in one go; return their replies in order."""
        packed = [hiredis.pack_command(command) for command in commands]
        self._socket.sendall(b"".join(packed))
        return [self._reply() for _ in packed]

    def transaction(self, commands: Iterable[Command]) -> list[Any]:
        """Send commands between MULTI and EXEC; return the replies of what was executed."""
        return self.pipeline([("MULTI",), *commands, ("EXEC",)])[-1]

    def _reply(self) -> Any:
        while (reply := self._reader.gets()) is Ellipsis or isinstance(reply, hiredis.PushNotification):
            if reply is Ellipsis:
                if not (data := self._socket.recv(1 << 16)):
                    raise ConnectionError("the server is gone")
                self._reader.feed(data)
        return reply

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def refused(reply: Any) -> bool:
    """Whether a reply is an error, in which many an application takes no interest."""
    return isinstance(reply, hiredis.ReplyError)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One mistake of an application, and what is true of it.

    Attributes
    ----------
    cause : id of the vocabulary of causes
    what : the mistake, in a sentence
    symptom : tells from what the application counted itself whether the mistake had its effect
    families : (reads, writes) as templates; None where no family stands out
    edits : the edits that mend it, any of which is right; empty where none applies
    verdicts, log_verdicts : those that are right for an exact recording, and for a log
    server : options of the server it needs
    """

    cause: str
    what: str
    symptom: Symptom
    families: frozenset[tuple[str, str]] | None = None
    edits: tuple[str, ...] = ()
    verdicts: frozenset[str] = frozenset({"faulty"})
    # A log knows no outcome for certain: what an exact recording confirms it may only suspect.
    log_verdicts: frozenset[str] = frozenset({"faulty", "insufficient_evidence"})
    server: tuple[str, ...] = ()


def same(*families: str) -> frozenset[tuple[str, str]]:
    """Return families that are read and written under one name."""
    return frozenset((family, family) for family in families)


def elsewhere(*pairs: tuple[str, str]) -> frozenset[tuple[str, str]]:
    """Return families that are read under the first name and written under the second."""
    return frozenset(pairs)


def missing(share: float) -> Symptom:
    """Return the symptom of at least that share of misses among the look-ups."""
    return lambda counts: counts["misses"] >= max(LEAST_LOOKUPS, share * (counts["hits"] + counts["misses"]))


def hitting(share: float) -> Symptom:
    """Return the symptom of at least that share of hits among the look-ups."""
    return lambda counts: counts["hits"] >= max(LEAST_LOOKUPS, share * (counts["hits"] + counts["misses"]))


def counted(what: str, least: int = 50) -> Symptom:
    """Return the symptom of something that the application counted so often."""
    return lambda counts: counts[what] >= least


class Application:
    """A small application of some framework; a subclass says what it sends.

    Attributes
    ----------
    name : how tests call it
    connections, rate : how many it keeps, and how many requests a second it takes over all of them
    burst_s : so far apart are the bursts in which requests come; 0 where they come evenly
    healthy : what it counts when nothing is wrong
    faults : by name
    server : options of the server it runs on, faulty or not
    """

    name: ClassVar[str]
    connections: ClassVar[int] = 4
    rate: ClassVar[int] = 300
    burst_s: ClassVar[float] = 0.0
    healthy: ClassVar[Symptom] = staticmethod(hitting(0.6))
    faults: ClassVar[dict[str, Fault]] = {}

    def __init__(self, url: str, fault: str = HEALTHY) -> None:
        self.url = url
        self.fault = fault
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def handshake(self, number: int) -> Iterable[Command]:
        """Return what the client library sends on a new connection."""
        return ()

    def connect(self, number: int) -> Wire:
        """Open one of the application's connections."""
        return Wire(self.url, number, self.handshake(number))

    def prepare(self, wire: Wire) -> None:
        """Do what was done before anybody looked."""

    def request(self, wire: Wire, rng: random.Random) -> None:
        """Answer one request."""
        raise NotImplementedError

    def midway(self, wire: Wire) -> None:
        """Do what happens once, when half of the time is over."""

    def count(self, what: str, times: int = 1) -> None:
        """Count something."""
        with self._lock:
            self.counts[what] += times

    def looked_up(self, *, hit: bool) -> bool:
        """Count a look-up in the cache; return whether it hit."""
        self.count("hits" if hit else "misses")
        return hit

    def stored(self, reply: Any) -> None:
        """Count a write that the server refused; the application goes on, as many do."""
        if refused(reply):
            self.count("refused")

    def compute(self, seconds: float = _BACKEND_S) -> None:
        """Take the time that a database takes."""
        time.sleep(seconds)


def drive(application: Application, seconds: float) -> None:
    """Let an application take its requests for some seconds, and longer until it has had a good part of them."""
    began = time.monotonic()
    least = _LEAST_SHARE * application.rate * seconds
    taken = [0] * application.connections
    halfway = threading.Event()

    def over() -> bool:
        elapsed = time.monotonic() - began
        return elapsed >= _LONGEST * seconds or (elapsed >= seconds and sum(taken) >= least)

    def work(number: int) -> None:
        rng = random.Random(f"{application.name} {number}")
        wire = application.connect(number)
        gap = application.connections / application.rate
        due = began + gap * number / application.connections
        while not over():
            if number == 0 and not halfway.is_set() and time.monotonic() - began >= seconds / 2:
                application.midway(wire)
                halfway.set()
            application.request(wire, rng)
            taken[number] += 1
            # Who is late does not make up for all of it at once: that would be another distribution.
            due = max(due + gap, time.monotonic() - 0.5)
            time.sleep(max(0.0, began + _next_burst(due - began, application.burst_s) - time.monotonic()))
        wire.close()

    with ThreadPoolExecutor(application.connections) as pool:
        for done in [pool.submit(work, number) for number in range(application.connections)]:
            done.result()


def _next_burst(at_s: float, burst_s: float) -> float:
    return math.ceil(at_s / burst_s) * burst_s if burst_s else at_s


@functools.cache
def _zipf_weights(count: int, exponent: float) -> list[float]:
    return list(accumulate((number + 1) ** -exponent for number in range(count)))


def zipf(rng: random.Random, count: int, exponent: float = 1.0) -> int:
    """Draw a number below `count`, small ones more often."""
    return rng.choices(range(count), cum_weights=_zipf_weights(count, exponent))[0]


@functools.cache
def prose(number: int, size: int) -> str:
    """Return some text, the same for the same number."""
    rng = random.Random(number)
    words: list[str] = []
    while sum(map(len, words)) + len(words) < size:
        words.append("".join(rng.choices("aeioulnrst", k=rng.randint(3, 9))))
    return " ".join(words)[:size]
