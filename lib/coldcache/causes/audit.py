"""The audit: how the server is set up, in what costs no reads now and may tomorrow. Advice, never a cause.

Each says what was measured beside the limit from which it speaks up, so that a server in good order is not talked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from coldcache.case import Case
from coldcache.causes.outcomes import Advice, Evidence, Fix, percent

_MIB = 1 << 20
_RAM_SHARE = 0.75  # Redis's documentation wants a quarter left for forks, buffers and the system
_NEARLY_FULL = 0.8
_LEAST_CONNECTIONS = 50
_IDLE_S = 300
_MOSTLY = 0.5
_FRAGMENTED, _LEAST_FRAGMENTED_BYTES = 1.5, 100 * _MIB  # active-defrag-ignore-bytes of redis.conf; below, the ratio says nothing
_SLOW_US = 10_000
_LATE_SAVES = 10  # times as long as the longest interval that `save` asks for
_BIG_BYTES, _BIG_ELEMENTS = _MIB, 10_000
_LOOPBACK = ("127.", "::1", "localhost", "/")


def audit(case: Case) -> list[Advice]:
    """Look at memory limits, connections, persistence, users, slow commands, big keys and fragmentation."""
    info, config = case.table("info"), case.table("config")
    found: list[Advice] = []
    for node, samples in info.groupby("node", observed=True, sort=True):
        mine = config[config["node"].astype("str").eq(str(node))].set_index("parameter")["value"]
        setup = _Setup(str(node), samples.iloc[-1], mine)
        found += _memory(setup)
        found += _connections(setup, _of(case.table("clients"), setup.node))
        found += _persistence(setup)
        found += _users(setup, _of(case.table("users"), setup.node), _of(case.table("clients"), setup.node))
        found += _fragmentation(setup)
    return [*found, *_slow_commands(case.table("slowlog")), *_big_keys(case.table("big_keys"))]


def _of(table: pd.DataFrame, node: str) -> pd.DataFrame:
    return table[table["node"].astype("str").eq(node)]


@dataclass(frozen=True, slots=True, eq=False)
class _Setup:
    """One server: its last INFO sample, and its configuration; what is not told is None, or empty."""

    node: str
    last: pd.Series
    config: pd.Series

    def number(self, field: str) -> float | None:
        """Return a field of INFO."""
        try:
            value = float(self.last.get(field, "nan"))
        except (TypeError, ValueError):
            return None
        return None if np.isnan(value) else value

    def text(self, field: str) -> str:
        """Return a field of INFO."""
        value = self.last.get(field)
        return value if isinstance(value, str) else ""

    def setting(self, parameter: str) -> str | None:
        """Return a parameter of CONFIG, or INFO's word for it."""
        if parameter in self.config.index:
            return str(self.config[parameter])
        return self.text(parameter.replace("-", "_")) or None


def _advice(cause: str, fix: str, summary: str, evidence: Evidence, text: str, code: str = "") -> Advice:
    return Advice(cause, summary, (evidence,), Fix(fix, text, code))


def _memory(setup: _Setup) -> Iterator[Advice]:
    """Compare the limit of memory, the policy and the machine's memory."""
    ram, used, limit = (setup.number(name) for name in ("total_system_memory", "used_memory", "maxmemory"))
    if used is None or limit is None:
        return
    if ram and not limit and used > (1 - _RAM_SHARE) * ram:
        yield _advice(
            "eviction", "maxmemory",
            f"{setup.node} has no maxmemory and holds {percent(used / ram)} of the machine's memory: it grows until the system "
            "kills it.",
            Evidence("used memory as a share of the machine's", used / ram, 1 - _RAM_SHARE),
            "Set a limit that leaves a quarter of the machine free, and a policy that evicts.",
            f"CONFIG SET maxmemory {int(_RAM_SHARE * ram)}\nCONFIG SET maxmemory-policy allkeys-lru\n",
        )  # fmt: skip
    if ram and limit > _RAM_SHARE * ram:
        yield _advice(
            "eviction", "maxmemory",
            f"maxmemory of {setup.node} is {percent(limit / ram)} of the machine's memory: a fork for persistence or a few large "
            "replies have it killed before it evicts.",
            Evidence("maxmemory as a share of the machine's memory", limit / ram, _RAM_SHARE),
            "Leave a quarter of the machine to forks, buffers and the system.",
            f"CONFIG SET maxmemory {int(_RAM_SHARE * ram)}\n",
        )  # fmt: skip
    policy = setup.setting("maxmemory-policy") or ""
    if limit and policy == "noeviction" and used > _NEARLY_FULL * limit:
        yield _advice(
            "write_rejected", "maxmemory-policy",
            f"{setup.node} is {percent(used / limit)} full under noeviction: when it is full, every write is refused.",
            Evidence("used memory as a share of maxmemory", used / limit, _NEARLY_FULL),
            "A cache wants a policy that evicts: the least recently used of all keys, or the least frequently used.",
            "CONFIG SET maxmemory-policy allkeys-lru\n",
        )  # fmt: skip
    keys, volatile = setup.number("keys"), setup.number("expires")
    if limit and policy.startswith("volatile") and keys and volatile is not None and keys - volatile > _MOSTLY * keys:
        yield _advice(
            "ttl_lost", "maxmemory-policy",
            f"{policy} evicts keys with a time to live only, and {percent(1 - volatile / keys)} of the keys of {setup.node} have "
            "none: the few others are evicted all the sooner.",
            Evidence("share of keys that the policy never evicts", 1 - volatile / keys, _MOSTLY),
            "Give every key of the cache a time to live, or let all keys be evicted.",
            f"CONFIG SET maxmemory-policy {policy.replace('volatile-ttl', 'volatile-lru').replace('volatile', 'allkeys')}\n",
        )  # fmt: skip


def _connections(setup: _Setup, clients: pd.DataFrame) -> Iterator[Advice]:
    """Look at idle connections, and at how many more may come."""
    connected, most = setup.number("connected_clients"), setup.number("maxclients")
    if connected and most and connected > _NEARLY_FULL * most:
        yield _advice(
            "connection_churn", "maxclients",
            f"{connected:,.0f} of {most:,.0f} connections to {setup.node} are taken: beyond that, clients are turned away.",
            Evidence("connections as a share of maxclients", connected / most, _NEARLY_FULL),
            "Use a pool in every process, and see which client holds so many: CLIENT LIST.",
        )  # fmt: skip
    if clients.empty or setup.setting("timeout") != "0":
        return
    last = clients[clients["t"].eq(clients["t"].max())]
    # Subscribers, monitors and replicas wait by trade.
    waiting = last["flags"].astype("str").str.contains("[OPSM]", regex=True)
    idle = int((last["idle_s"].gt(_IDLE_S) & ~waiting).sum())
    if idle >= _LEAST_CONNECTIONS and idle > _MOSTLY * len(last):
        yield _advice(
            "connection_churn", "timeout",
            f"{idle:,} of {len(last):,} connections to {setup.node} have said nothing for five minutes, and timeout 0 keeps them "
            "for ever.",
            Evidence(f"connections idle for more than {_IDLE_S} s", idle, _LEAST_CONNECTIONS),
            "Close what leaks connections, or let the server close idle ones, later than the pools do.",
            "CONFIG SET timeout 600\n",
        )  # fmt: skip


def _persistence(setup: _Setup) -> Iterator[Advice]:
    """Look at whether what should be saved is saved."""
    failed = [name for name in ("rdb_last_bgsave_status", "aof_last_write_status") if setup.text(name) == "err"]
    if failed:
        yield _advice(
            "write_rejected", "persistence",
            f"The last save of {setup.node} failed ({', '.join(failed)}): and it may refuse every write.",
            Evidence("saves that failed", len(failed), 0),
            "See the server's log: mostly the disk is full, or there is no memory for the fork.",
        )  # fmt: skip
    words = (setup.setting("save") or "").split()
    intervals = [int(seconds) for seconds in words[::2] if seconds.isdigit()]
    saved, now, changes = (
        setup.number(name) for name in ("rdb_last_save_time", "server_time_usec", "rdb_changes_since_last_save")
    )
    if not intervals or saved is None or now is None or not changes:
        return
    age_s = now / 1e6 - saved
    if age_s > _LATE_SAVES * max(intervals):
        yield _advice(
            "write_rejected", "persistence",
            f"{setup.node} was last saved {age_s / 3600:.1f} hours ago, and should be every {max(intervals) / 60:.0f} minutes.",
            Evidence("age of the last save, seconds", age_s, float(max(intervals))),
            "See the server's log for failed forks; for a pure cache, switch saving off.",
            'CONFIG SET save ""\n',
        )  # fmt: skip


def _users(setup: _Setup, users: pd.DataFrame, clients: pd.DataFrame) -> Iterator[Advice]:
    """Look at who may do everything."""
    default = users[users["user"].eq("default") & users["enabled"]]
    local = clients["client"].astype("str").str.startswith(_LOOPBACK)
    if len(default) and not default["needs_password"].any() and len(clients) and not local.all():
        yield _advice(
            "flush", "default_user",
            f"Anybody who reaches {setup.node} is its default user, without a password: they may read and flush everything.",
            Evidence("connections from other machines", int((~local).sum()), 0),
            "Give the default user a password, then every application a user of its own.",
            "ACL SETUSER default >a-long-password   # and in the applications' URLs\n",
        )  # fmt: skip
    used = set(clients["user"].dropna().astype("str"))
    rules = users["rules"].astype("str")
    broad = users[rules.str.contains(r"\+@all", regex=True) & rules.str.contains("~*", regex=False) & users["user"].ne("default")]
    if names := sorted(used & set(broad["user"])):
        yield _advice(
            "flush", "acl",
            f"{', '.join(names)} may run every command on every key of {setup.node}, FLUSHALL and CONFIG among them.",
            Evidence("users of applications that may do everything", len(names), 0),
            "Grant what the application needs: its keys, reads and writes, nothing dangerous.",
            "\n".join(f"ACL SETUSER {name} resetkeys ~cache:* -@all +@read +@write +@connection" for name in names) + "\n",
        )  # fmt: skip


def _fragmentation(setup: _Setup) -> Iterator[Advice]:
    """Look at the memory that the allocator holds beyond the data."""
    ratio, used = setup.number("mem_fragmentation_ratio"), setup.number("used_memory")
    if ratio and used and ratio > _FRAGMENTED and (ratio - 1) * used > _LEAST_FRAGMENTED_BYTES:
        yield _advice(
            "fragmentation", "activedefrag",
            f"{setup.node} takes {ratio:.1f} times the memory of its data: {(ratio - 1) * used / _MIB:,.0f} MiB are fragments.",
            Evidence("memory of the process over memory in use", ratio, _FRAGMENTED),
            "Let the server tidy its memory up, where it is built with jemalloc.",
            "CONFIG SET activedefrag yes\n",
        )  # fmt: skip


def _slow_commands(slowlog: pd.DataFrame) -> Iterator[Advice]:
    """Look at commands that hold everybody up."""
    slow = slowlog[slowlog["duration_us"].gt(_SLOW_US)]
    if slow.empty:
        return
    by_command = (
        slow.groupby(slow["command"].astype("str"))["duration_us"].agg(["size", "max"]).sort_values("max", ascending=False)
    )
    told = ", ".join(f"{name} {most / 1000:.0f} ms" for name, most in by_command["max"].head(3).items())
    yield _advice(
        "key_growth", "slow_commands",
        f"{len(slow):,} commands took longer than 10 ms, and all others waited meanwhile: {told} at worst.",
        Evidence("longest command, ms", float(slow["duration_us"].max()) / 1000, _SLOW_US / 1000),
        "Ask for less at once: SCAN instead of KEYS, ranges instead of whole collections, UNLINK instead of DEL.",
    )  # fmt: skip


def _big_keys(big_keys: pd.DataFrame) -> Iterator[Advice]:
    """Look at keys that are large by themselves."""
    unit = big_keys["unit"].astype("str")
    big = big_keys[
        (unit.eq("bytes") & big_keys["size"].gt(_BIG_BYTES))
        | (~unit.isin(["bytes", "hits"]) & big_keys["size"].gt(_BIG_ELEMENTS))
    ]
    if big.empty:
        return
    told = ", ".join(f"{row.key} ({row.size:,} {row.unit})" for row in big.head(3).itertuples())
    yield _advice(
        "fat_values", "big_keys",
        f"{len(big):,} keys are big: {told}. One of them moves, expires or is evicted at once, and holds everybody up.",
        Evidence("keys of more than 1 MiB or 10,000 elements", len(big), 0),
        "Cut them up by what is read together, or give them a bound.",
    )  # fmt: skip
