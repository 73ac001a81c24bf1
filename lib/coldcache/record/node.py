"""Recording one server: epoch after epoch, through whatever happens to it.

An epoch is an uninterrupted stretch on one capture connection. A lost connection, a restart, a
step down to a cheaper mode or the duty cycle of ``burst`` ends one and begins the next. INFO is
sampled on the control connection; each sample has an exact place in the stream, so look-ups
between two samples must equal the difference of INFO's counters.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import redis

from coldcache.errors import ColdcacheError, ServerRefusedError
from coldcache.record.capture import MONITOR, StreamCapture
from coldcache.record.guardian import Guardian, buffer_limit
from coldcache.record.journal import AppendedLines, Journal
from coldcache.record.key_events import KeyEventSetting, channels
from coldcache.record.server import Control, ServerIdentity, friendly, node_name
from coldcache.record.watch import SafetyWatch, Vitals
from coldcache.sources.accesses import END_MARK, WITHOUT_LINES
from coldcache.sources.info import parse_info
from coldcache.sources.monitor import MARK_CHANNEL

_INFO_INTERVAL_S = 0.5
_BURST_S = 2.0
# Each miss costs the server some 2 us where it is heard of (measured): beyond this rate they are
# sampled, a second at a time, and the other key events heard on.
_MOST_MISSES_PER_S = 5000
_SAMPLE_S = 1.0
_MOST_PAUSE = 19.0  # times as long as a sample
_RECONNECT_S = 0.5
_LOOK_AROUND_EVERY = 4  # samples: at the setting we need, and at the cluster's topology
# Samples of INFO for one of CLIENT LIST, which takes the server some 2 us a connection; it is not asked for of more than that.
_CLIENTS_EVERY, _MOST_CLIENTS = 20, 1000
# What a capture must have left waiting for a disconnect to be put down to it, where INFO has no
# counter of such disconnects (it has from Valkey 9 on).
_TELLING_BUFFER_BYTES = 256 << 10
_LOST = (redis.ConnectionError, redis.TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """What is known of one node so far: counted since the recording began."""

    commands: int = 0
    hits: int = 0
    misses: int = 0
    stream_bytes: int = 0
    buffer_bytes: int = 0
    ops_per_s: float = 0.0
    gaps: int = 0
    state: str = "connecting"


@dataclass(frozen=True, slots=True)
class _End:
    """Why an epoch ended. kind: ``stop``, ``switch`` to `mode`, ``lost`` or ``fatal``."""

    kind: str
    reason: str
    mode: str = ""
    asked: bool = True


@dataclass(slots=True)
class _Epoch:
    number: int
    mode: str
    capture: StreamCapture
    mark: str | None
    channel: str
    end_mark: str
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """How to record one server.

    mode : ``exact``, ``monitor``, ``events`` or ``burst``
    duty : share of the time, 0 to 1, that ``burst`` records exactly
    ops_before : commands per second before the recording, where known
    watched : leave when the server suffers; False where the user insists with --force
    """

    mode: str = "exact"
    duty: float = 0.05
    ops_before: float | None = None
    watched: bool = True


class NodeRecorder:
    """Records one server in a thread of its own.

    Attributes
    ----------
    node : str
    identity : ServerIdentity
        Known after :meth:`start`.
    progress : NodeProgress
    topology : str
        CLUSTER NODES as it was at the start; empty where this is no cluster.
    failed : str or None
        Why this node's recording ended before it was asked to.
    disk_full : bool
    """

    def __init__(
        self,
        url: str,
        options: NodeOptions,
        journal: Journal,
        info_lines: AppendedLines,
        guardian: Guardian,
        on_topology: Callable[[str], None] | None = None,
    ) -> None:
        self.node = node_name(url)
        self.progress = NodeProgress()
        self.failed: str | None = None
        self.disk_full = False
        self.identity: ServerIdentity
        self.topology = ""
        self._url = url
        self._options = options
        self._journal = journal
        self._info_lines = info_lines
        self._guardian = guardian
        self._on_topology = on_topology
        self._stop = threading.Event()
        self._stop_reason = ""
        self._control: Control | None = None
        self._setting: KeyEventSetting | None = None
        self._config: dict[str, str] = {}
        self._misses_per_s = 0.0
        self._burst_ended = 0.0
        self._set_on = ""  # run id of the server whose setting that is
        self._guard = 0
        self._own: list[str] = []
        self._epoch: _Epoch | None = None
        self._first_sample = threading.Event()
        self._watch = SafetyWatch(options.ops_before)
        self._limit_bytes = 0
        self._began_s = time.time()
        self._clock_offset_us = 0
        self._disconnections: int | None = None
        # What `exact` has been brought down to; the cheapest mode that still tells something.
        self._best = "exact" if options.mode == "burst" else options.mode
        self._thread = threading.Thread(target=self._run, name=f"coldcache-{self.node}", daemon=True)

    @property
    def current_stream(self) -> StreamCapture | None:
        """The capture that is being written just now."""
        return self._epoch.capture if self._epoch else None

    def start(self) -> None:
        """Connect, begin the first epoch and go on in the background.

        Raises
        ------
        ServerUnreachableError, ServerRefusedError
            The server is down, or refuses what the mode needs. Nothing is left changed.
        """
        try:
            with friendly(self.node, tls=self._url.startswith("rediss")):
                self._connect()
                self._epoch = self._open(self._best, joins=False)
        except BaseException:
            self._disconnect()
            raise
        self._thread.start()
        self._first_sample.wait(10)

    def stop(self, reason: str = "") -> None:
        """Ask it to end in good order; `reason` where it is not the end of the whole recording."""
        self._stop_reason = reason
        self._stop.set()

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join()

    @property
    def running(self) -> bool:
        """Whether it is still at work."""
        return self._thread.is_alive()

    @property
    def answers(self) -> bool:
        """Whether the server is connected just now."""
        return self._control is not None

    def _connect(self) -> None:
        control = self._control = Control(self._url)
        identity = control.identity()
        if not identity.events_precede_lines and self._best == "exact":
            raise ServerRefusedError(
                f"{self.node} is {identity.software} {identity.version}. An exact recording needs 6.2.4 or newer, "
                "where a key event comes before the line of its command. Use --mode monitor or --mode events."
            )
        self.identity = identity
        self.topology = control.cluster_nodes() if identity.cluster else ""
        self._clock_offset_us = control.clock_offset_us()
        self._own = [control.address()]
        if self._best != "monitor" and (self._setting is None or identity.run_id != self._set_on):
            # After a restart the server has forgotten our change; after a cut it has not.
            self._setting, self._set_on = KeyEventSetting(control), identity.run_id
        before, self._guard = self._guard, 0
        self._guard, address = self._guardian.guard(self._url, setting_before=self._setting.before if self._setting else None)
        if before:
            self._guardian.release(before)
        self._own.append(address)
        if self._setting:
            self._setting.extend(control)
            self._guardian.setting_is(self._guard, self._setting.now)
        if self._disconnections is None:
            self._disconnections = _disconnections(parse_info(control.info())[0])
        self._config = control.config()
        self._journal.config(self.node, self._config)
        self._journal.users(self.node, control.users())

    def _disconnect(self) -> None:
        """Put the setting back and close; where the server is gone, the guardian keeps trying for a while."""
        self._put_back()
        if self._guard and (self._setting is None or self._setting.now is None):
            self._guardian.release(self._guard)
            self._guard = 0
        self._drop_control()

    def _keep_slow_commands(self) -> None:
        if self._control:
            with contextlib.suppress(redis.RedisError, OSError):
                self._journal.slow_commands(self.node, self._control.slow_commands(int(self._began_s)))

    def _keep_clients(self, flat: dict[str, str]) -> None:
        """Keep who is connected, unless they are so many that asking would be felt."""
        if self._control and _count(flat, "connected_clients") <= _MOST_CLIENTS:
            with contextlib.suppress(*_LOST):
                self._journal.clients(self.node, self._control.clients())

    def _put_back(self) -> None:
        if self._setting and self._control:
            with contextlib.suppress(redis.RedisError, OSError):
                self._setting.restore(self._control)

    def _drop_control(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                control.close()

    def _open(self, mode: str, *, joins: bool) -> _Epoch:
        """Begin an epoch on a new capture connection."""
        assert self._control is not None
        control, number = self._control, self._journal.new_epoch()
        token = secrets.token_hex(8)
        asks: list[tuple[str, ...]] = [] if mode in WITHOUT_LINES else [MONITOR]
        if mode != "monitor":
            asks += [("SUBSCRIBE", *events) for events in channels(self._config, mode)]
        connection, address, client_id = control.capture_connection()
        epoch = _Epoch(
            number,
            mode,
            StreamCapture(
                connection,
                self._journal.stream_path(number),
                asks=asks,
                channel=f"{MARK_CHANNEL}{token}",
                end_mark=f"{END_MARK}{token}",
            ),
            # Our INFO lines are known by their address; without lines or addresses, by a mark.
            mark=f"coldcache-{token}" if mode in WITHOUT_LINES or control.unix else None,
            channel=f"{MARK_CHANNEL}{token}",
            end_mark=f"{END_MARK}{token}",
        )
        self._journal.epoch(
            number,
            mode=mode,
            joins=joins,
            own=[*self._own, address],
            control=self._own[0],
            mark=epoch.mark,
            clock_offset_us=self._clock_offset_us,
            server=self.identity.to_dict(),
        )
        try:
            epoch.capture.start()
        except BaseException as error:
            epoch.capture.close()
            self._journal.epoch_end(number, f"it did not begin ({type(error).__name__})", asked=False)
            raise
        self._guardian.capture_is(self._guard, client_id)
        return epoch

    def _run(self) -> None:
        epoch = self._epoch
        try:
            while epoch is not None:
                end = self._follow(epoch)
                epoch = self._epoch = self._next(epoch, end)
        finally:
            self._epoch = None
            self._disconnect()
            self.progress = replace(self.progress, state="ended")
            self._first_sample.set()

    def _next(self, epoch: _Epoch, end: _End) -> _Epoch | None:
        """Close an epoch and begin the next one, if there is to be one."""
        if end.kind == "stop":
            # First the end of the stream: without events, the reads after it would all look like hits.
            self._finish(epoch, end)
            self._put_back()
            self._keep_slow_commands()
            return None
        if end.kind == "switch":
            try:
                following = self._open(end.mode, joins=True)
            except (ColdcacheError, redis.RedisError, OSError):
                return self._next(epoch, _End("lost", end.reason, asked=False))
            self._finish(epoch, end)
            return following
        waited = self._guardian.buffers.get(self._guard, 0)
        cut = self._guardian.cut(self._guard)
        self._guardian.capture_is(self._guard, None)
        epoch.capture.close()
        self._journal.epoch_end(epoch.number, end.reason, asked=False)
        self.progress = replace(self.progress, gaps=self.progress.gaps + 1)
        if end.kind == "fatal":
            self.failed = end.reason
            return None
        return self._recover(epoch, end.reason, cut, waited)

    def _finish(self, epoch: _Epoch, end: _End) -> None:
        """Have the capture read up to a mark of now, then close it."""
        if self._control:
            with contextlib.suppress(redis.RedisError, OSError):
                if epoch.mode in WITHOUT_LINES:
                    self._control.publish(epoch.channel, epoch.end_mark)
                else:
                    self._control.echo(epoch.end_mark)
        epoch.capture.finish()
        lost = epoch.capture.lost
        self._journal.epoch_end(epoch.number, lost or end.reason, asked=end.asked and lost is None)

    def _recover(self, epoch: _Epoch, reason: str, cut: str | None, waited: int) -> _Epoch | None:
        """Find out what happened, and go on as soon as the server lets us.

        `cut`: why the guardian closed the capture, if it did. `waited`: bytes that were waiting for us.
        """
        run_id = self.identity.run_id
        self.progress = replace(self.progress, state=f"waiting: {reason}")
        while not self._stop.is_set():
            try:
                if self._control is None:
                    self._connect()
                following, reason = self._reopen(epoch, reason, run_id, cut, waited)
                self._journal.epoch_end(epoch.number, reason, asked=False)
                return following
            except ServerRefusedError as error:
                self.failed = str(error)
                return None
            except (ColdcacheError, redis.RedisError, OSError):
                self._drop_control()
                self._stop.wait(_RECONNECT_S)
        return None

    def _reopen(self, epoch: _Epoch, reason: str, run_id: str, ours: str | None, waited: int) -> tuple[_Epoch | None, str]:
        """Begin an epoch after a loss, stepping down where we were the problem; return it and the reason."""
        assert self._control is not None
        flat, _ = parse_info(self._control.info())
        if flat.get("run_id", run_id) != run_id:
            return self._open(epoch.mode, joins=False), "the server restarted"
        now, before = _disconnections(flat), self._disconnections
        self._disconnections = now
        if ours is None and (now > before if now is not None and before is not None else waited >= _TELLING_BUFFER_BYTES):
            ours = "the server closed the connection for its output-buffer limit"
        if ours is None:
            return self._open(epoch.mode, joins=False), reason
        if epoch.mode != "exact":
            self.failed = f"{ours}; the recording of {self.node} ends here"
            self._journal.note(self.failed)
            return None, ours
        self._best = "events"
        self._journal.note(f"{self.node}: stepped down from exact to events: {ours}")
        return self._open("events", joins=False), f"{ours}; stepped down to events"

    def _follow(self, epoch: _Epoch) -> _End:
        """Sample INFO until something ends the epoch."""
        assert self._control is not None
        control, due, taken = self._control, time.monotonic(), 0
        before: tuple[float, dict[str, str]] | None = None
        self.progress = replace(self.progress, state=epoch.mode)
        while True:
            stopping = self._stop.is_set()
            asked_at = time.monotonic()
            try:
                text = control.marked_info(epoch.mark, epoch.channel if epoch.mode in WITHOUT_LINES else None)
            except _LOST:
                self._drop_control()
                return _End("lost", epoch.capture.lost or "the server stopped answering")
            flat, _ = parse_info(text)
            now = (time.monotonic(), flat)
            if before and (reset := _reset(before[1], flat)):
                return _End("switch", reset, mode=epoch.mode, asked=False)
            try:
                self._info_lines.append(
                    {
                        "epoch": epoch.number,
                        "stamp_us": time.time_ns() // 1000,
                        "asked_us": round(asked_at * 1e6),
                        "mono_us": time.monotonic_ns() // 1000,
                        "text": text,
                    }
                )
            except OSError:
                self.disk_full = True
                return _End("fatal", "the disk is full")
            if stopping or taken % _CLIENTS_EVERY == 0:
                self._keep_clients(flat)
            taken += 1
            harm = self._learn(epoch, before, now, now[0] - asked_at)
            self._first_sample.set()
            before = now
            epoch.capture.sync()
            if end := self._ended_by(epoch, harm, taken, stopping=stopping):
                return end
            due = max(due + _INFO_INTERVAL_S, time.monotonic())
            self._stop.wait(due - time.monotonic())

    def _ended_by(self, epoch: _Epoch, harm: str | None, taken: int, *, stopping: bool) -> _End | None:
        """Return what ends the epoch after a sample, or None."""
        if epoch.capture.disk_full:
            self.disk_full = True
            return _End("fatal", "the disk is full")
        if not epoch.capture.running:
            return _End("lost", epoch.capture.lost or "the stream ended")
        if stopping:
            return _End("stop", self._stop_reason or "completed", asked=not self._stop_reason)
        if harm and self._options.watched and epoch.mode not in WITHOUT_LINES:
            return self._step_down(epoch, harm)
        if mode := self._next_phase(epoch, taken):
            return _End("switch", "duty cycle", mode=mode)
        return self._look_around(epoch, taken) if taken % _LOOK_AROUND_EVERY == 0 else None

    def _step_down(self, epoch: _Epoch, harm: str) -> _End:
        """Leave MONITOR because the server suffers."""
        if epoch.mode == "monitor":
            self.failed = f"stopped, so that the server does not suffer: {harm}"
            self._journal.note(f"{self.node}: {self.failed}")
            return _End("stop", self.failed, asked=False)
        self._best = "events"
        self._journal.note(f"{self.node}: stepped down from exact to events: {harm}")
        return _End("switch", f"stepped down to events: {harm}", mode="events")

    def _look_around(self, epoch: _Epoch, taken: int) -> _End | None:
        """See whether somebody has changed the setting or the cluster's topology."""
        assert self._control is not None
        with contextlib.suppress(*_LOST):
            if self._setting and self._setting.lost(self._control):
                return self._switched_off(epoch, taken)
            if self._on_topology and self.topology:
                self._on_topology(self._control.cluster_nodes())
        return None

    def _switched_off(self, epoch: _Epoch, taken: int) -> _End:
        """Switch key events on again that somebody switched off; what was sampled since we last looked counts for nothing."""
        assert self._setting is not None
        assert self._control is not None
        self._setting.extend(self._control)
        self._guardian.setting_is(self._guard, self._setting.now)
        self._journal.distrust(epoch.number, samples=max(0, taken - _LOOK_AROUND_EVERY))
        return _End("switch", "somebody else changed notify-keyspace-events", mode=epoch.mode, asked=False)

    def _next_phase(self, epoch: _Epoch, taken: int) -> str | None:
        """Return the mode that a duty cycle wants next, or None."""
        if taken < 2:
            return None
        now = time.monotonic()
        if self._options.mode == "burst" and self._best == "exact":
            if epoch.mode == "exact":
                self._burst_ended = now
                return "events" if now - epoch.began >= _BURST_S else None
            if now - self._burst_ended >= _BURST_S * (1 / self._options.duty - 1):
                return "exact"
        if epoch.mode == "events" and self._misses_per_s > _MOST_MISSES_PER_S:
            return "changes" if now - epoch.began >= _SAMPLE_S else None
        if epoch.mode == "changes":
            pause_s = _SAMPLE_S * min(self._misses_per_s / _MOST_MISSES_PER_S - 1, _MOST_PAUSE)
            return "events" if now - epoch.began >= pause_s else None
        return None

    def _learn(
        self,
        epoch: _Epoch,
        before: tuple[float, dict[str, str]] | None,
        now: tuple[float, dict[str, str]],
        reply_s: float,
    ) -> str | None:
        """Update the progress and the guardian's limit; return what harm the server suffers, if any."""
        flat = now[1]
        self._limit_bytes = buffer_limit(_count(flat, "maxmemory"), _count(flat, "used_memory"))
        self._guardian.limit_is(self._guard, self._limit_bytes)
        buffer_bytes = self._guardian.buffers.get(self._guard, 0)
        if before is None:
            return None
        passed = max(now[0] - before[0], 1e-3)

        def rose(name: str) -> int:
            return _count(flat, name) - _count(before[1], name)

        cpu = sum(_number(flat, f"used_cpu_{kind}") - _number(before[1], f"used_cpu_{kind}") for kind in ("sys", "user"))
        commands = max(0, rose("total_commands_processed") - 1)  # our own INFO is no command of theirs
        self._misses_per_s = rose("keyspace_misses") / passed
        self.progress = replace(
            self.progress,
            commands=self.progress.commands + commands,
            hits=self.progress.hits + rose("keyspace_hits"),
            misses=self.progress.misses + rose("keyspace_misses"),
            stream_bytes=self.progress.stream_bytes + epoch.capture.take_new_bytes(),
            buffer_bytes=buffer_bytes,
            ops_per_s=commands / passed,
        )
        vitals = Vitals(reply_s, commands / passed, cpu / passed, rose("evicted_keys"), buffer_bytes)
        return self._watch.harm(vitals, self._limit_bytes)


def _reset(before: dict[str, str], now: dict[str, str]) -> str | None:
    """Return what makes two INFO samples of one connection incomparable."""
    if before.get("role") != now.get("role"):
        return f"failover: this server is a {'replica' if now.get('role') == 'slave' else 'primary'} now"
    if any(_count(now, name) < _count(before, name) for name in ("keyspace_hits", "keyspace_misses", "total_commands_processed")):
        return "INFO's counters were reset (CONFIG RESETSTAT)"
    return None


def _disconnections(flat: dict[str, str]) -> int | None:
    value = flat.get("client_output_buffer_limit_disconnections")
    return int(value) if value is not None else None


def _count(flat: dict[str, str], name: str) -> int:
    return int(flat.get(name, 0))


def _number(flat: dict[str, str], name: str) -> float:
    return float(flat.get(name, 0))
