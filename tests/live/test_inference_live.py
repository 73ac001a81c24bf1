"""Inference held against the truth: exact recordings of real traffic, their outcomes and events taken away."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis
from coldcache.case import Case, open_case
from coldcache.keys.families import key_families
from coldcache.lab.server import lab_server, server_binary
from coldcache.replay.inference import HIT, MISS, Inference, infer
from coldcache.sources.accesses import AccessBuilder, EpochStart
from coldcache.sources.monitor import Listening, MonitorLine
from conftest import needed_on_ci
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live.workloads import WORKLOADS, Workload, recorded

pytestmark = pytest.mark.live
MIXED = Path(__file__).with_name("mixed_traffic.py")
SAMPLES = ("sample-healthy", "sample-ttl_unit", "sample-key_prefix", "sample-serialization", "sample-heap_leak")


@dataclass(frozen=True)
class Recorded:
    """What is known of a workload: everything in `truth`, what inference may see in the rest."""

    workload: Workload
    truth: pd.DataFrame  # hit, lookups, family of the reads whose outcome is known
    known: np.ndarray  # which rows these are
    accesses: pd.DataFrame
    info: pd.DataFrame  # two samples, before and after
    config: pd.DataFrame

    def infer(self, *, info: bool, config: bool) -> Inference:
        return infer(self.accesses, info=self.info if info else None, config=self.config if config else None)


def stripped(workload: Workload, case: Case) -> Recorded:
    """Take away the outcomes, and what lies outside INFO's first and last sample."""
    info = case.table("info").sort_values("seq", ignore_index=True)
    accesses = case.accesses
    inside = accesses["seq"].between(info["seq"].min(), info["seq"].max())
    accesses = accesses[inside].reset_index(drop=True)
    outcome = accesses["outcome"].astype("str")
    known = (outcome.isin(["hit", "miss"]) & accesses["lookups"].gt(0)).to_numpy()
    family = accesses["key"].map(key_families(accesses["key"]))
    truth = pd.DataFrame({"hit": outcome.eq("hit"), "lookups": accesses["lookups"], "family": family})[known]
    accesses = accesses.assign(outcome=None, outcome_basis=None, key_state=None)
    return Recorded(workload, truth, known, accesses, info.iloc[[0, -1]], case.table("config"))


def mixed(url: str) -> None:
    """Everything there is: scripts, transactions, conditions, wrong types, refused times to live."""
    command = [sys.executable, str(MIXED), url, "1.5", "9000", "1", "a,b"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def binaries() -> list[str]:
    """The embedded Valkey and Debian's Redis."""
    redis_server = shutil.which("redis-server")
    if redis_server is None:
        needed_on_ci("redis-server")
    return [server_binary(), str(redis_server)]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Recorded]:
    """Every workload recorded once, on the two servers in turn; and the shipped samples of the lab."""
    folder, servers, made = tmp_path_factory.mktemp("workloads"), binaries(), []
    for number, workload in enumerate(WORKLOADS):
        case = recorded(servers[number % 2], workload, folder / str(number))
        assert case.gaps == []
        made.append(stripped(workload, case))
    anything = Workload(name="everything", families=())
    made.append(stripped(anything, recorded(servers[1], anything, folder / "mixed", mixed)))
    made += [stripped(Workload(name=name, families=()), open_case(name)) for name in SAMPLES]
    return made


def figures(one: Recorded, got: Inference) -> dict[str, float]:
    """Compare what was inferred with the truth."""
    weights, hit = one.truth["lookups"], one.truth["hit"]
    true_hits = int(weights[hit].sum())
    table = got.families.set_index("family")
    truth = (weights * hit).groupby(one.truth["family"]).sum().reindex(table.index, fill_value=0)
    errors = (100 * (table["hits"] - truth) / table["reads"]).abs()
    inside = truth.between(table["hits_low"], table["hits_high"])
    right = got.outcome[one.known] == np.where(hit, HIT, MISS)
    return {
        "truth": true_hits / weights.sum(),
        "inferred": float(got.hit_rate or 0),
        "error_pp": 100 * abs(got.hits - true_hits) / weights.sum(),
        "worst_family_pp": float(errors[table["reads"] >= 500].max()),
        "right": float(right.mean()),
        "wrong_certain": int((~right & got.sure[one.known]).sum()),
        "low": got.hits_low / weights.sum(),
        "high": got.hits_high / weights.sum(),
        "bounds_hold": bool(got.hits_low <= true_hits <= got.hits_high) and bool(inside.all()),
        "agrees_with_outcomes": abs(int(weights[got.outcome[one.known] == HIT].sum()) - got.hits),
    }


def test_with_info_before_and_after_the_hit_rates_are_right_overall_and_by_family(recordings: list[Recorded]):
    assert len(recordings) >= 10
    table = pd.DataFrame({one.workload.name: figures(one, one.infer(info=True, config=True)) for one in recordings}).T
    print(table.to_string(float_format="{:.4f}".format))
    assert (table["error_pp"] <= 0.5).all()
    assert (table["worst_family_pp"] <= 2).all()
    assert (table["agrees_with_outcomes"] <= 1).all()
    assert table["bounds_hold"].all()
    assert (table["wrong_certain"] == 0).all()


def test_single_reads_are_right_in_cache_aside_traffic(recordings: list[Recorded]):
    for one in recordings:
        found = figures(one, one.infer(info=True, config=True))
        assert found["right"] >= one.workload.right, one.workload.name


@pytest.mark.parametrize("config", [True, False])
def test_without_info_the_bounds_hold_and_what_is_certain_is_right(recordings: list[Recorded], config: bool):
    for one in recordings:
        got = one.infer(info=False, config=config)
        found = figures(one, got)
        assert found["bounds_hold"], one.workload.name
        assert found["wrong_certain"] == 0, one.workload.name
        assert got.counted is None
        if config and one.workload.name != "everything" and "--maxmemory" not in one.workload.options:
            assert got.hits_low == got.hits_low_unevicted


def test_expected_lookups_are_those_that_info_counts(recordings: list[Recorded]):
    for one in recordings:
        got = one.infer(info=True, config=False)
        assert got.expected == got.counted, one.workload.name
        assert got.basis == "inferred"


def test_well_behaved_traffic_needs_no_info(recordings: list[Recorded]):
    names = ["healthy, warm", "TTL", "eviction", "flush", "multiplexed"]
    for one in recordings:
        if one.workload.name in names:
            found = figures(one, one.infer(info=False, config=True))
            assert found["error_pp"] <= 1, one.workload.name
            assert found["right"] >= 0.99, one.workload.name


# --- Random commands on few keys: what is certain is never wrong ------------------------------------

COMMANDS = re.split(
    r"\|",
    "SET {k} v|SET {k} v EX 0|SET {k} v EX abc|SET {k} v PX 40|SET {k} v PX 10|SET {k} v EX 100|SET {k} v NX|SET {k} v XX|"
    "SET {k} v KEEPTTL|SET {k} v GET|SET {k} v NX GET|SET {k} v XX PX 30|SET {k} v PXAT 1000|SET {k} v EXAT 0|SET {k} v NX XX|"
    "SETEX {k} 0 v|SETEX {k} 9 v|PSETEX {k} 20 v|SETNX {k} v|GETSET {k} v|MSET {k} v {o} w|MSETNX {k} v {o} w|"
    "APPEND {k} x|INCR {k}|INCRBY {k} 2|SETRANGE {k} 0 {e}|SETRANGE {k} 1 x|SETBIT {k} 1 1|BITFIELD {k} GET u8 0|"
    "BITFIELD {k} SET u8 0 1|HSET {k} f 1|HSETNX {k} f 1|HINCRBY {k} f 1|HDEL {k} f|RPUSH {k} a|RPUSH {k} a b|LPOP {k}|"
    "LPUSHX {k} a|LREM {k} 0 a|LTRIM {k} 1 0|SADD {k} a|SREM {k} a|SPOP {k}|SMOVE {k} {o} a|ZADD {k} 1 a|ZADD {k} XX 1 a|"
    "ZREM {k} a|LMOVE {k} {o} LEFT LEFT|RPOPLPUSH {k} {k}|XADD {k} * f v|XADD {k} NOMKSTREAM * f v|XTRIM {k} MAXLEN 0|"
    "PFADD {k} a|PFMERGE {k} {o}|SUNIONSTORE {k} {o}|SINTERSTORE {k} {o} {k}|SDIFFSTORE {k} {o}|BITOP NOT {k} {o}|"
    "ZUNIONSTORE {k} 1 {o}|DEL {k}|UNLINK {k} {o}|"
    "GETDEL {k}|GETEX {k}|GETEX {k} PX 30|GETEX {k} PERSIST|GETEX {k} EX 0|GETEX {k} PXAT 1000|"
    "EXPIRE {k} 100|EXPIRE {k} 0|EXPIRE {k} -1|PEXPIRE {k} 25|PEXPIREAT {k} 1000|EXPIREAT {k} 4102444800|PERSIST {k}|"
    "EXPIRE {k} 100 NX|EXPIRE {k} 50 XX|EXPIRE {k} 200 GT|EXPIRE {k} 10 LT|PEXPIRE {k} 15 LT|EXPIRE {k} abc|"
    "RENAME {k} {o}|RENAME {k} {k}|RENAMENX {k} {o}|COPY {k} {o}|COPY {k} {o} REPLACE|COPY {k} {o} DB 1|MOVE {k} 1|"
    "FLUSHDB|FLUSHALL|SWAPDB 0 1|SORT {k} ALPHA|OBJECT FREQ {k}|TOUCH {k} {o}|"
    "GET {k}|GET {k}|GET {k}|MGET {k} {o}|EXISTS {k} {o}|HGET {k} f|TTL {k}|TYPE {k}|LLEN {k}|STRLEN {k}",
)
READS = ["EXISTS {k}", "GET {k}", "TTL {k}"]
STEP = st.tuples(
    st.sampled_from(COMMANDS) | st.sampled_from(READS), st.sampled_from("abc"), st.sampled_from("abc"), st.sampled_from([0, 0, 1])
)
PAUSES_S = [0.0] * 10 + [0.02, 0.06]


@pytest.fixture(scope="module")
def clients() -> Iterator[list[tuple[redis.Redis, redis.Redis]]]:
    """Of each server, a client of database 0 and one of database 1."""
    first, second = binaries()
    with lab_server(first) as one, lab_server(second) as two:
        made = [tuple(redis.Redis.from_url(f"{url.rsplit('/', 1)[0]}/{db}", protocol=2) for db in (0, 1)) for url in (one, two)]
        yield made  # type: ignore[misc]
        for pair in made:
            for client in pair:
                client.close()


def run(clients: tuple[redis.Redis, redis.Redis], steps: list[Any]) -> tuple[pd.DataFrame, list[dict[str, bool]]]:
    """Run commands; return their accesses as a log has them, and of each whether its keys were there."""
    builder = AccessBuilder("test:6379")
    builder.begin(EpochStart(mode="monitor"))
    builder.feed(Listening())
    present: list[dict[str, bool]] = []
    for (template, key, other, db), pause_s in steps:
        time.sleep(pause_s)
        args = ["" if word == "{e}" else word.format(k=key, o=other) for word in template.split()]
        # Whether the keys are there, the command and its stamp see one clock: of the transaction.
        with clients[db].pipeline(transaction=True) as pipe:
            for name in "abc":
                pipe.execute_command("EXISTS", name)
            pipe.execute_command(*args)
            pipe.time()
            replies = pipe.execute(raise_on_error=False)
        present.append(dict(zip("abc", (bool(reply) for reply in replies[:3]), strict=True)))
        seconds, microseconds = replies[-1]
        builder.feed(MonitorLine(seconds * 1_000_000 + microseconds, db, "1.2.3.4:5", args))
    return builder.take_accesses(), present


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.tuples(STEP, st.sampled_from(PAUSES_S)), min_size=5, max_size=40),
    server=st.integers(0, 1),
    empty=st.booleans(),
)
def test_what_is_certain_is_never_wrong(
    clients: list[tuple[redis.Redis, redis.Redis]], steps: list[Any], server: int, empty: bool
):
    # GIVEN three keys in two databases, present or not, and any commands
    pair = clients[server]
    pair[0].flushall()
    for name in "" if empty else "ab":
        pair[0].set(name, "1", px=60)
        pair[1].rpush(name, "1")
    accesses, present = run(pair, steps)
    config = pd.DataFrame({"node": ["test:6379"], "parameter": ["maxmemory"], "value": ["0"]})
    # WHEN their outcomes are inferred
    got = infer(accesses, config=config, slack_ms=15)
    # THEN whatever is called certain is so
    first_seq = int(accesses["seq"].min())
    for row in np.flatnonzero(got.sure):
        truth = present[int(accesses["seq"].iloc[row]) - first_seq][accesses["key"].iloc[row]]
        history = accesses.iloc[: row + 1][["db", "command", "key", "ttl_ms", "condition"]].to_string()
        assert got.outcome[row] == int(truth), history
