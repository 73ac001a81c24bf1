"""Before a recording: what it may do here, what it would cost, and what it would harm.

Judged from what :mod:`coldcache.doctor.probe` has seen; the judgement asks no server anything.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
from collections.abc import Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from coldcache.doctor.probe import (
    ABSENT,
    CHANNEL,
    DENIED,
    KEY_EVENTS_WORD,
    LOADING,
    MARK_WORD,
    OK,
    UNSEEN,
    Room,
    Seen,
    look,
    look_or_why,
    room_of,
)
from coldcache.errors import ServerRefusedError
from coldcache.record.guardian import MOST_BUFFER_BYTES, buffer_limit
from coldcache.record.key_events import merged_flags, suffices
from coldcache.record.recorder import MODES
from coldcache.record.server import ACL_LINE, OLDEST_EXACT, url_of_node
from coldcache.record.topology import primaries
from coldcache.showing import SelfShowing

_WITH_MONITOR = ("exact", "burst", "monitor")
# A saturated server loses half of its throughput to MONITOR (facts: -53 % to -62 %), so one above
# this share of a core has nothing to spare.
_BUSY_CPU = 0.8
# CPU per command with MONITOR over without: 104,276 / 45,331 GETs a second in redis.io's MONITOR
# page; 2.1 in valkey#1342, 2.7 in our own run of pipelined GETs.
_MONITOR_CPU_FACTOR = 2.3
# A MONITOR line repeats the command's arguments, escaped (binary grows up to 2.9 times), after a
# header of time, database and address.
_LINE_GROWTH = 1.5
_LINE_HEADER_BYTES = 60
# A message frame: 27 bytes of framing, a channel, a key.
_EVENT_BYTES = 85
_INFO_PER_S = 2
_STALLED_BYTES = 1 << 20
_FULL = 0.95
_LEAST_FREE_BYTES = 200 * 10**6
_SHORT_FREE_BYTES = 10**9
_UNLIMITED_S = 600.0
_FIRST_CHANNEL_ACL = (7, 0, 0)  # from here on new users may use no channel (redis#10017, acl-pubsub-default)
_KEYMISS_SINCE = (6, 0, 0)
_NEW_KEY_SINCE = (7, 0, 0)
_SLOTS = 16384

_Said = TypeVar("_Said", bound=Hashable)

# Host names of managed servers and what is published about them (facts, section 10).
_PROVIDERS = (
    (
        re.compile(r"\.serverless\.[\w-]+\.cache\.amazonaws\.com$"),
        "ElastiCache Serverless",
        "it offers a part of the commands only, and no CONFIG",
        "Where MONITOR is missing below, record a node-based ElastiCache or a staging server of your own.",
    ),
    (
        re.compile(r"\.cache\.amazonaws\.com(\.cn)?$"),
        "ElastiCache",
        "MONITOR is allowed, CONFIG is not: notify-keyspace-events is set through the parameter group",
        "Set notify-keyspace-events to Exem$g (with n from Redis 7 on) in the parameter group; until CONFIG GET can be read, "
        "use --mode monitor.",
    ),
    (
        re.compile(r"\.redis\.cache\.windows\.net$|\.redis\.azure\.net$"),
        "Azure Cache for Redis",
        "MONITOR is not offered there (microsoftarchive/redis#115), and CONFIG is blocked",
        "Set notify-keyspace-events under Advanced settings of the portal; to record exactly, use a staging server of your own.",
    ),
    (
        re.compile(r"\.upstash\.io$"),
        "Upstash",
        "MONITOR is offered over TCP; other administration commands are limited",
        "Use the rediss:// URL of the TCP endpoint, not the REST one.",
    ),
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at.

    state : ``ok``, ``warning`` (a recording works, but know this) or ``problem``
    what : one sentence
    do : the command or setting that mends it, empty where nothing is to be done
    """

    name: str
    state: str
    what: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class ModeChoice:
    """One way to record: whether it is possible, why (not), and what it is expected to cost."""

    mode: str
    possible: bool
    why: str
    cost: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Preflight(SelfShowing):
    """What a recording may do on this server, and what it would cost; shows itself as a report.

    best : the mode to use; None where none is possible
    harm : for each mode, why it would do harm; such a mode wants ``--force``
    ops_per_s : commands a second, of all primaries together; None where INFO is refused
    primaries : host:port of a cluster's primaries, else empty
    """

    node: str
    checks: tuple[Check, ...]
    modes: tuple[ModeChoice, ...]
    best: str | None
    why_best: str
    harm: dict[str, tuple[str, ...]]
    ops_per_s: float | None
    primaries: tuple[str, ...] = ()

    @property
    def fine(self) -> bool:
        """Whether a mode is possible and nothing is a problem."""
        return self.best is not None and all(check.state != "problem" for check in self.checks)

    def mode(self, name: str) -> ModeChoice:
        """Return what is known of one mode."""
        return next(choice for choice in self.modes if choice.mode == name)

    def __str__(self) -> str:
        ops = "" if self.ops_per_s is None else f", {self.ops_per_s:,.0f} commands/s"
        width = max(len(check.name) for check in self.checks)
        lines = [f"Can {self.node} be recorded{ops}?", ""]
        lines += [f"  {check.state:<7}  {check.name:<{width}}  {check.what}" for check in self.checks]
        lines += ["", "Modes"]
        for choice in self.modes:
            mark = "*" if choice.mode == self.best else " "
            harm = self.harm.get(choice.mode, ()) if choice.possible else ()
            can = "no" if not choice.possible else "harms" if harm else "yes"
            lines.append(f"{mark} {choice.mode:<7}  {can:<5}  {choice.why}")
            lines += [f"{'':18}harm: {reason}" for reason in harm]
            if choice.possible:
                lines.append(f"{'':18}cost: {choice.cost}")
        lines += ["", f"Best: {self.best or 'none'}. {self.why_best}"]
        order = {"problem": 0, "warning": 1, "ok": 2}
        todo = list(dict.fromkeys(check.do for check in sorted(self.checks, key=lambda check: order[check.state]) if check.do))
        if todo:
            lines += ["", "What to do", *(f"  {number}. {text}" for number, text in enumerate(todo, 1))]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Preflight {self.node}: {self.best or 'no mode possible'}>"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``doctor --json`` prints."""
        return {
            "node": self.node,
            "fine": self.fine,
            "ops_per_s": self.ops_per_s,
            "primaries": list(self.primaries),
            "checks": [{"name": c.name, "state": c.state, "what": c.what, "do": c.do or None} for c in self.checks],
            "modes": [
                {"mode": m.mode, "possible": m.possible, "why": m.why, "cost": m.cost, "harm": list(self.harm.get(m.mode, ()))}
                for m in self.modes
            ],
            "best": self.best,
            "why_best": self.why_best,
        }


@dataclass(slots=True)
class _Findings:
    """What the checks of one server have found; each check adds to it."""

    checks: list[Check] = field(default_factory=list)
    harm: dict[str, list[str]] = field(default_factory=lambda: {mode: [] for mode in MODES})
    forbidden: dict[str, list[str]] = field(default_factory=lambda: {mode: [] for mode in MODES})

    def say(self, name: str, state: str, what: str, do: str = "") -> None:
        self.checks.append(Check(name, state, what, do))

    def harms(self, modes: Iterable[str], reason: str) -> None:
        for mode in modes:
            self.harm[mode].append(reason)

    def forbids(self, modes: Iterable[str], reason: str) -> None:
        for mode in modes:
            self.forbidden[mode].append(reason)


def preflight(url: str, *, out: Path, seconds: float | None, duty: float = 0.05) -> Preflight:
    """Look at a server, this machine and the disk; change nothing; take about half a second.

    Parameters
    ----------
    url : str
        The server; of a cluster, any node.
    out : Path
        The case folder to be.
    seconds : float or None
        How long the recording is to take; None counts with ten minutes.
    duty : float
        Share of the time, 0 to 1, that ``burst`` records exactly.

    Raises
    ------
    ServerUnreachableError, ServerRefusedError, UrlError
        Nothing can be said at all: it is down, the password is wrong, TLS does not match.
    """
    seen = look(url)
    room = room_of(out)
    found = judge(seen, room, seconds=seconds, duty=duty)
    if not seen.cluster:
        return found
    nodes = primaries(seen.cluster_nodes, seen.host)
    if not nodes:
        return found
    names = {f"{node.host}:{node.port}": url_of_node(url, node.host, node.port) for node in nodes}
    with ThreadPoolExecutor(min(8, len(names))) as pool:
        looks = dict(zip(names, pool.map(look_or_why, names.values()), strict=True))
    seen_there = {name: replace(look, node=name) for name, look in looks.items() if isinstance(look, Seen)}
    each = {
        name: judge(look, room, seconds=seconds, duty=duty, others=[other for other in seen_there.values() if other is not look])
        for name, look in seen_there.items()
    }
    lost = {name: look for name, look in looks.items() if isinstance(look, str)}
    return _together(found, each, lost)


def refuse_harm(found: Preflight, mode: str | None, force: bool) -> str:
    """Return the mode to record with: `mode`, or the best one where None.

    Raises
    ------
    ServerRefusedError
        The mode is impossible here, or it would do harm and `force` is False.
    """
    chosen = mode or found.best
    if chosen is None:
        raise ServerRefusedError(f"{found.node} cannot be recorded in any mode: {found.why_best} See: coldcache doctor")
    choice = found.mode(chosen)
    instead = f" --mode {found.best} is possible." if found.best and found.best != chosen else ""
    if not choice.possible:
        raise ServerRefusedError(
            f"{found.node} cannot be recorded with --mode {chosen}: {choice.why}{instead} See: coldcache doctor"
        )
    if (reasons := found.harm.get(chosen, ())) and not force:
        if found.best and found.harm.get(found.best):
            instead = ""
        raise ServerRefusedError(
            f"Recording {found.node} with --mode {chosen} would do harm: {' '.join(reasons)}{instead} "
            "--force records all the same."
        )
    return chosen


def grant_line(software: str, numbers: tuple[int, ...], *, channels_refused: bool = False) -> str:
    """Return the ACL line that this server accepts as it stands.

    Before Redis 7.0 users may use every channel, and a pattern beside that is an error (measured).

    Parameters
    ----------
    channels_refused : bool
        The user may not use the channels even though the server is older than 7.0.
    """
    words = ACL_LINE.split()
    if software == "Redis" and numbers and numbers < _FIRST_CHANNEL_ACL and not channels_refused:
        words = [word for word in words if not word.startswith("&")]
    return " ".join(words)


def judge(seen: Seen, room: Room, *, seconds: float | None = None, duty: float = 0.05, others: Iterable[Seen] = ()) -> Preflight:
    """Return the verdict on what was seen of one server; no server is asked anything here.

    Parameters
    ----------
    others : iterable of Seen
        The primaries recorded beside it, which write to the same disk.
    """
    found = _Findings()
    rates = {mode: stream_rate(seen, mode, duty) for mode in MODES}
    on_disk = {mode: rate + sum(stream_rate(other, mode, duty) for other in others) for mode, rate in rates.items()}
    _check_server(seen, found)
    _check_provider(seen, found)
    _check_rights(seen, found)
    _check_key_events(seen, found)
    _check_memory(seen, found)
    _check_load(seen, found)
    _check_monitors(seen, found)
    if seen.cluster:
        _check_cluster(seen, found)
    _check_disk(room, on_disk, seconds, found)
    _check_process(found)
    modes = tuple(
        ModeChoice(mode, not found.forbidden[mode], _why(mode, found.forbidden[mode]), _cost(seen, mode, rates[mode], duty))
        for mode in MODES
    )
    harm = {mode: tuple(reasons) for mode, reasons in found.harm.items() if reasons}
    best, why = _best(modes, harm)
    return Preflight(
        node=seen.node,
        checks=tuple(found.checks),
        modes=modes,
        best=best,
        why_best=why,
        harm=harm,
        ops_per_s=seen.ops_per_s,
    )


def needed_rights(seen: Seen, mode: str) -> tuple[str, ...]:
    """Return the words of the ACL line that a mode cannot do without on this server."""
    words = ["info", "time", "client|info", "client|setname"]
    words += ["cluster|nodes"] if seen.cluster else []
    if mode in _WITH_MONITOR:
        words += ["monitor", "echo"]
        words += ["multi", "exec"] if seen.unix else []
    if mode != "monitor":
        words += ["subscribe", KEY_EVENTS_WORD, MARK_WORD, "config|get"]
        words += [] if seen.setting is not None and suffices(seen.setting) else ["config|set"]
    if mode in ("events", "burst"):
        words += ["publish", "multi", "exec"]
    return tuple(dict.fromkeys(words))


def stream_rate(seen: Seen, mode: str, duty: float = 0.05) -> float:
    """Return the bytes a second to be expected on disk: an estimate, rather too high than too low."""
    ops = seen.ops_per_s or 0.0
    lines = float(seen.info.get("instantaneous_input_kbps", 0)) * 1024 * _LINE_GROWTH + _LINE_HEADER_BYTES * ops
    events = _EVENT_BYTES * ops
    stream = {
        "monitor": lines,
        "exact": lines + events,
        "events": events,
        "burst": duty * (lines + events) + (1 - duty) * events,
    }[mode]
    return stream + _INFO_PER_S * seen.info_bytes


def _check_server(seen: Seen, found: _Findings) -> None:
    numbers = seen.numbers
    state, means, do = "ok", "exact recording works: a key event comes before the line of its command", ""
    if seen.software == "KeyDB":
        state, means = "warning", "MONITOR can crash or deadlock it (KeyDB#777, KeyDB#150)"
        do = "Record with --mode events."
        found.harms(_WITH_MONITOR, "MONITOR can crash or deadlock KeyDB (KeyDB#777, KeyDB#150).")
    elif seen.software == "Garnet":
        state, means = "warning", "it has no MONITOR (garnet#538)"
        found.forbids(_WITH_MONITOR, "Garnet has no MONITOR (garnet#538).")
    elif seen.software in ("Dragonfly", "Kvrocks"):
        state, means = "warning", "coldcache was never measured on it: trust a recording only where its residual is 0"
    elif seen.software == "Redis" and numbers and numbers < OLDEST_EXACT:
        state, means = "warning", "a MONITOR line comes before its command, so no exact recording"
        do = "Update to Redis 6.2.4 or newer, or record with --mode monitor."
        found.forbids(
            ("exact", "burst"), f"{seen.title} prints a MONITOR line before its command; exact outcomes need 6.2.4 or newer."
        )
        if numbers < _KEYMISS_SINCE:
            means += "; it knows no keymiss event either"
            found.forbids(("events",), f"{seen.title} has no keymiss event; that came with 6.0.")
    elif seen.software == "Redis" and numbers and numbers < _NEW_KEY_SINCE:
        means += "; no event tells a new key from an overwritten one, and CLIENT commands do not show in MONITOR"
    elif seen.software == "Valkey" and numbers in ((8, 1, 0), (8, 1, 1)):
        state, means = (
            "warning",
            "MONITOR prints quotes raw (valkey#1342): some keys and values may be cut wrongly",
        )
        do = "Update Valkey to 8.1.2 or newer."
    if not numbers:
        state, means = "warning", "what it implies cannot be said"
    found.say("server", state, f"{seen.title}: {means}.", do)
    if seen.count("loading") or seen.count("async_loading") or LOADING in seen.rights.values():
        found.say(
            "state",
            "problem",
            "The server is loading its data set: MONITOR shows nothing until it is done.",
            "Wait and ask again.",
        )
        found.harms(MODES, "The server is still loading its data set.")
    if seen.info.get("role") == "slave":
        link = "" if seen.info.get("master_link_status", "up") == "up" else ", and its link to the primary is down"
        found.say(
            "role",
            "warning",
            f"It is a replica{link}: it shows the reads it answers itself and the primary's writes, never the primary's reads.",
            "To see why the cache misses, name the primary in the URL (INFO replication tells it: master_host, master_port).",
        )


def _check_provider(seen: Seen, found: _Findings) -> None:
    for pattern, name, limits, do in _PROVIDERS:
        if pattern.search(seen.host):
            blocked = any(seen.rights.get(word, OK) != OK for word in ("monitor", "config|get", "config|set"))
            found.say("provider", "warning" if blocked else "ok", f"{name}: {limits}.", do if blocked else "")
            return
    if all(seen.rights.get(word) == ABSENT for word in ("monitor", "config|get")):
        found.say(
            "provider",
            "warning",
            "Neither MONITOR nor CONFIG exists here, as on Memorystore and other managed servers: no stream can be recorded.",
            "Record a staging server of your own with the same application, or import logs.",
        )


def _check_rights(seen: Seen, found: _Findings) -> None:
    refused: dict[str, list[str]] = {}
    for mode in MODES:
        for word in needed_rights(seen, mode):
            state = seen.rights.get(word, OK)
            if state in (OK, LOADING, UNSEEN):
                continue
            refused.setdefault(word, []).append(mode)
        denied = [word for word, modes in refused.items() if mode in modes and seen.rights[word] in (DENIED, CHANNEL)]
        if denied:
            found.forbids((mode,), f"The user lacks {_marked(denied)}.")
        for word, modes in refused.items():
            if mode in modes and word not in denied:
                found.forbids((mode,), _lacking(word, seen.rights[word]))
    granted = [word for word in refused if seen.rights[word] in (DENIED, CHANNEL)]
    absent = [word for word in refused if seen.rights[word] == ABSENT]
    others = [word for word in refused if word not in granted + absent]
    none_left = all(found.forbidden[mode] for mode in MODES)
    state = "problem" if none_left else "warning"
    if granted:
        found.say("rights", state, f"The user lacks {_marked(granted)}.", _grant(seen))
    for word in absent:
        found.say("commands", state, _lacking(word, ABSENT), _bring_back(word, found))
    for word in others:
        found.say("commands", state, f"The server refuses {_command(word)}: {seen.rights[word]}.")
    if not refused:
        found.say("rights", "ok", "The user may run all that any mode needs.")
    guard = [word for word in ("client|list", "client|kill") if seen.rights.get(word, OK) != OK]
    # Subscribing moves a connection to the class whose buffer the server limits; without that and
    # without the guardian nothing would stop a stalled MONITOR (facts, section 7).
    if guard and not found.forbidden["monitor"] and (seen.rights.get("subscribe"), seen.rights.get(MARK_WORD)) != (OK, OK):
        found.harms(("monitor",), "Neither the server nor the guardian could limit what waits for us there.")
    if guard and any(not found.forbidden[mode] for mode in MODES):
        found.say(
            "guardian",
            "warning",
            f"Without {' and '.join(_command(word) for word in guard)} the guardian cannot watch and cut our connection: "
            "the server's own limit for subscribers (32 MB by default) remains.",
            _grant(seen) if any(seen.rights[word] == DENIED for word in guard) else "",
        )


def _check_key_events(seen: Seen, found: _Findings) -> None:
    if seen.setting is None:
        return
    shown = f"notify-keyspace-events is {seen.setting!r}" if seen.setting else "notify-keyspace-events is off"
    if suffices(seen.setting):
        found.say("key events", "ok", f"{shown}: what a recording needs is on already, nothing is changed.")
    elif "A" in seen.setting:
        found.say(
            "key events",
            "warning",
            f"{shown}: with A in it an n cannot be read back, so a recording puts back what is read, without a hidden n.",
            "If your application needs the n (new keys), set it again afterwards: CONFIG SET notify-keyspace-events "
            f"{seen.setting}n",
        )
    else:
        wanted = merged_flags(seen.setting, new_keys=seen.software != "Redis" or seen.numbers >= _NEW_KEY_SINCE)
        found.say("key events", "ok", f"{shown}: a recording sets {wanted} and puts it back at its end.")


def _check_memory(seen: Seen, found: _Findings) -> None:
    used, most, policy = seen.count("used_memory"), seen.count("maxmemory"), seen.info.get("maxmemory_policy", "noeviction")
    if "used_memory" not in seen.info:
        return
    if not most:
        system = seen.count("total_system_memory")
        total = max(seen.count("used_memory_rss"), used)
        if system and total > _FULL * system:
            reason = f"Redis uses {total / system:.0%} of the machine's memory and has no maxmemory: buffers may get it killed."
            found.say("memory", "problem", reason, "Set a maxmemory below the machine's memory, or record with --mode events.")
            found.harms(_WITH_MONITOR, reason)
            return
        share = f" of {_bytes(system)} in the machine" if system else ""
        found.say("memory", "ok", f"{_bytes(total)}{share} in use, no maxmemory.")
        return
    limit = buffer_limit(most, used)
    text = f"{_bytes(used)} of {_bytes(most)} in use ({used / most:.0%}), policy {policy}"
    if policy == "noeviction" and used > _FULL * most:
        reason = f"Memory is {used / most:.0%} full with policy noeviction: what waits for us there makes writes fail (OOM)."
        found.say("memory", "problem", f"{text}: our buffer could make writes fail.", "Raise maxmemory (CONFIG SET maxmemory …).")
        found.harms(_WITH_MONITOR, reason)
    elif limit < MOST_BUFFER_BYTES:
        found.say(
            "memory",
            "warning",
            f"{text}: what waits for us there takes room from keys, so the guardian cuts the capture at {limit:,} bytes.",
            "Nothing has to be done: after a cut the recording goes on with key events only. To avoid it, use --mode events.",
        )
    else:
        found.say("memory", "ok", f"{text}; the guardian cuts the capture if {_bytes(limit)} ever wait for it.")


def _check_load(seen: Seen, found: _Findings) -> None:
    if seen.cpu_share is None or seen.ops_per_s is None:
        return
    text = f"{seen.ops_per_s:,.0f} commands/s; commands keep {seen.cpu_share:.0%} of a core busy"
    if seen.cpu_share <= _BUSY_CPU:
        found.say("load", "ok", f"{text}.")
        return
    found.say(
        "load",
        "warning",
        f"{text}: the server has nothing to spare, and MONITOR would take about half of its throughput.",
        "Record with --mode burst (exact for a small share of the time) or --mode events, or at a quieter hour.",
    )
    reason = f"The server is saturated ({seen.cpu_share:.0%} of a core); MONITOR would take about half of its throughput."
    found.harms(("exact", "monitor"), reason)


def _check_monitors(seen: Seen, found: _Findings) -> None:
    if seen.clients is None:
        return
    others = [client for client in seen.clients if "O" in client.get("flags", "")]
    stalled = [client for client in others if int(client.get("omem", 0)) > _STALLED_BYTES]
    for client in stalled:
        waiting = _bytes(int(client["omem"]))
        found.say(
            "monitors",
            "problem",
            f"A stalled MONITOR client (id {client['id']}, {client.get('addr', '')}) keeps {waiting} waiting in the server; "
            "that counts toward maxmemory and evicts keys.",
            f"CLIENT KILL ID {client['id']}",
        )
        found.harms(
            _WITH_MONITOR,
            f"A stalled MONITOR client already keeps {waiting} in the server: first CLIENT KILL ID {client['id']}.",
        )
    if live := len(others) - len(stalled):
        found.say(
            "monitors",
            "warning",
            f"{live} other MONITOR client{'s are' if live > 1 else ' is'} there already, and each one costs as much as ours.",
            "If nobody needs it: " + ", ".join(f"CLIENT KILL ID {client['id']}" for client in others if client not in stalled),
        )
    if not others:
        found.say("monitors", "ok", "No other MONITOR client is there.")


def _check_cluster(seen: Seen, found: _Findings) -> None:
    nodes = primaries(seen.cluster_nodes, seen.host)
    if not nodes:
        return
    names = ", ".join(f"{node.host}:{node.port}" for node in nodes)
    covered = _slots_served(seen.cluster_nodes)
    if seen.cluster_state == "fail" or covered < _SLOTS:
        found.say(
            "cluster",
            "problem",
            f"The cluster is not well (state {seen.cluster_state or 'unknown'}): {covered:,} of {_SLOTS:,} slots are served.",
            f"See what is wrong with: redis-cli --cluster check {seen.node}",
        )
    else:
        found.say(
            "cluster", "ok", f"{len(nodes)} primaries: {names}. Each is recorded; the user needs the same rights on every one."
        )


def _check_disk(room: Room, rates: Mapping[str, float], seconds: float | None, found: _Findings) -> None:
    span = seconds if seconds is not None else _UNLIMITED_S
    length = f"{span:,.0f} s" if seconds is not None else "ten minutes"
    needs = {mode: max(_LEAST_FREE_BYTES, 2 * rate * span) for mode, rate in rates.items()}
    text = f"{_bytes(room.free_bytes)} free at {room.folder}"
    do = f"Free some space, name another disk with --out, or record less: {length} may take up to {_bytes(needs['exact'])}."
    if not room.writable:
        found.say("disk", "problem", f"{room.folder} cannot be written.", "Name a folder of your own with --out.")
        found.forbids(MODES, f"{room.folder} cannot be written.")
        return
    for mode, need in needs.items():
        if room.free_bytes < need:
            found.harms((mode,), f"The disk may fill up: {text}, and {length} may take {_bytes(need)}.")
    if room.free_bytes < needs["exact"]:
        found.say("disk", "problem", f"{text}: too little.", do)
    elif room.free_bytes < _SHORT_FREE_BYTES:
        found.say("disk", "warning", f"{text}: enough for {length}, not for much more.", "Free some space, or give --seconds.")
    else:
        expected = f"; {length} may take up to {_bytes(rates['exact'] * span)}" if rates["exact"] else ""
        found.say("disk", "ok", f"{text}{expected}.")


def _check_process(found: _Findings) -> None:
    """Look at this machine: what a look into the program's heap needs."""
    debugger = next((name for name in ("gdb", "lldb") if shutil.which(name)), None)
    if importlib.util.find_spec("memray") is None:
        found.say("process", "warning", "memray is not installed: no heap profile of the program.", "pip install memray")
    elif debugger is None:
        found.say(
            "process",
            "warning",
            "Neither gdb nor lldb is installed: a program that runs already (--pid) shows its memory, but no heap profile.",
            "Install gdb, or start the program with --run.",
        )
    elif _ptrace_restricted():
        found.say(
            "process",
            "warning",
            f"memray and {debugger} are there, but this system lets only root attach to a running program (ptrace_scope).",
            "For a heap profile of a running program run coldcache as root, or start the program with --run.",
        )
    else:
        found.say("process", "ok", f"memray and {debugger} are there: heap profiles of started and of running programs.")


def _ptrace_restricted() -> bool:
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        return False
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text("ascii")) > 0
    return False


def _command(word: str) -> str:
    return word.replace("|", " ").upper()


def _marked(words: Iterable[str]) -> str:
    """Return rights with the mark they have in the ACL line: + for a command, & for a channel."""
    return ", ".join(word if word.startswith("&") else f"+{word}" for word in words)


def _lacking(word: str, state: str) -> str:
    if state == ABSENT:
        return f"{_command(word)} does not exist on this server: it is renamed, removed or blocked."
    return f"The server refuses {_command(word)}: {state}."


def _bring_back(word: str, found: _Findings) -> str:
    possible = [mode for mode in MODES if not found.forbidden[mode]]
    command = _command(word).split(" ", maxsplit=1)[0]
    instead = f", or record with --mode {possible[0]}" if possible else ""
    return f"Take 'rename-command {command} …' out of redis.conf and restart, if the server is yours{instead}."


def _grant(seen: Seen) -> str:
    """Return the line that an administrator pastes; it names no user, for that is part of the URL."""
    refused = CHANNEL in (seen.rights.get(KEY_EVENTS_WORD), seen.rights.get(MARK_WORD))
    line = grant_line(seen.software, seen.numbers, channels_refused=refused)
    return f"As an administrator, with your URL's user in place of 'coldcache' (a new one also wants: on >PASSWORD): {line}"


def _slots_served(cluster_nodes: str) -> int:
    """Return how many slots have a primary that is up, from the text of CLUSTER NODES."""
    served = 0
    for line in cluster_nodes.splitlines():
        fields = line.split()
        if len(fields) < 8 or set(fields[2].split(",")) & {"fail", "noaddr", "handshake"}:
            continue
        for slots in fields[8:]:
            if not slots.startswith("["):  # [slot->-node]: one that moves
                first, _, last = slots.partition("-")
                served += int(last or first) - int(first) + 1
    return served


_WHY = {
    "exact": "hit, miss, expiry and eviction of every command, known and not guessed",
    "burst": "like exact for a small share of the time, key events in between",
    "monitor": "every command; which reads missed stays open, INFO tells only how many",
    "events": "every missing, expired and evicted key, and INFO's totals; no client, no command",
}


def _why(mode: str, forbidden: list[str]) -> str:
    return " ".join(dict.fromkeys(forbidden)) if forbidden else f"{_WHY[mode][0].upper()}{_WHY[mode][1:]}."


def _cost(seen: Seen, mode: str, rate: float, duty: float) -> str:
    """Return the expected cost in words: an estimate from INFO and from published measurements."""
    if seen.ops_per_s is None:
        return "cannot be estimated without INFO"
    disk = f"up to {_bytes(rate * 60)} a minute on disk"
    if mode == "events":
        # benchmarks/README.md: within the noise, but where tens of thousands of reads miss every second.
        return f"{disk}; a few percent of the throughput: each miss is a message"
    if seen.cpu_share is None:
        effect = "MONITOR costs a saturated server about half of its throughput"
    else:
        wanted = seen.cpu_share * _MONITOR_CPU_FACTOR
        if wanted <= 1:
            effect = f"server CPU {seen.cpu_share:.0%} to about {wanted:.0%} of a core"
        else:
            effect = f"about {1 - 1 / max(wanted, 1):.0%} of the throughput while MONITOR is on"
    return f"{disk}; {effect}" + (f", {duty:.0%} of the time" if mode == "burst" else "")


def _best(modes: tuple[ModeChoice, ...], harm: Mapping[str, tuple[str, ...]]) -> tuple[str | None, str]:
    possible = [choice.mode for choice in modes if choice.possible]
    if not possible:
        return None, "Every mode lacks something; the points below mend it."
    harmless = [mode for mode in possible if not harm.get(mode)]
    if not harmless:
        least = "events" if "events" in possible else possible[-1]
        return least, f"Every possible mode would do harm, and {least} the least: {harm[least][0]} It wants --force."
    best = harmless[0]
    passed_over = MODES[: MODES.index(best)]
    harmful = [mode for mode in passed_over if mode in possible]
    if harmful:
        return best, f"Harmful just now: {_and(harmful)}. {harm[harmful[0]][0]}"
    if passed_over:
        return best, f"Not possible here: {_and(passed_over)}."
    return best, "It tells most, and nothing speaks against it."


def _and(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _bytes(number: float) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} B"


def _together(found: Preflight, each: Mapping[str, Preflight], lost: Mapping[str, str]) -> Preflight:
    """Return one verdict on a cluster: a mode is possible where every primary that answers lets it.

    Of the node that was asked first, which may be a replica, counts what it says of the cluster.
    """
    checks = [check for check in found.checks if check.name == "cluster"]
    checks += [
        Check(
            "cluster",
            "problem",
            f"Primary {name} cannot be looked at: {why}",
            f"Let this machine reach {name}, the address that CLUSTER NODES names; where that is an inner one, "
            "set cluster-announce-ip, or run coldcache inside the same network.",
        )
        for name, why in lost.items()
    ]
    first = next(iter(each.values()), found)
    where = _places({name: [check for check in one.checks if check.name != "cluster"] for name, one in each.items()})
    amiss = {check.name for check in where if check.state != "ok"}
    for check, place in where.items():
        if check.state != "ok" or (check in first.checks and check.name not in amiss):
            local = bool(place) and check.do
            checks.append(replace(check, what=place + check.what, do=f"On {place}{check.do}" if local else check.do))
    modes, harm = [], {}
    for choice in first.modes:
        against = _places(
            {name: [] if one.mode(choice.mode).possible else [one.mode(choice.mode).why] for name, one in each.items()}
        )
        reasons = _places({name: one.harm.get(choice.mode, ()) for name, one in each.items()})
        why = " ".join(f"{place}{text}" for text, place in against.items())
        possible = choice.possible if not each else not against
        modes.append(ModeChoice(choice.mode, possible, why or choice.why, f"each primary {choice.cost}"))
        if reasons:
            harm[choice.mode] = tuple(f"{place}{text}" for text, place in reasons.items())
    best, why_best = _best(tuple(modes), harm)
    ops = [one.ops_per_s for one in each.values() if one.ops_per_s is not None]
    return replace(
        found,
        checks=tuple(checks),
        modes=tuple(modes),
        best=best,
        why_best=why_best,
        harm=harm,
        ops_per_s=sum(ops) if ops else None,
        primaries=tuple(sorted([*each, *lost])),
    )


def _places(said: Mapping[str, Iterable[_Said]]) -> dict[_Said, str]:
    """Return what was said of any node, with the nodes it was said of; without them where it is all of them."""
    names: dict[_Said, list[str]] = {}
    for name, sayings in said.items():
        for saying in sayings:
            names.setdefault(saying, []).append(name)
    return {saying: "" if len(there) == len(said) else f"{', '.join(there)}: " for saying, there in names.items()}
