"""The whole truth under load: every look-up equals INFO's count, on every server, and on a cluster.

COLDCACHE_EXACT_SECONDS sets the length of a recording; 60 for the acceptance run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import coldcache
import pytest
from coldcache.case import Case
from coldcache.lab.server import lab_server, server_binary
from coldcache.record.recorder import RecordOptions, record
from coldcache.record.server import url_of_node
from coldcache.replay.ledger import miss_ledger
from live.clusters import cluster
from live.recorders import captures, recorder, wait_for
from redis.crc import key_slot

pytestmark = [pytest.mark.live, pytest.mark.alone]
SECONDS = float(os.environ.get("COLDCACHE_EXACT_SECONDS", "4"))
RATE = 26_000  # commands per second, over all clients
LEAST_RATE = 20_000 if "COLDCACHE_EXACT_SECONDS" in os.environ else 5_000  # a shared machine may be slow
SCRIPT = Path(__file__).with_name("mixed_traffic.py")


def clients(targets: list[tuple[str, list[str]]], seconds: float) -> list[subprocess.Popen[str]]:
    """Start the traffic: one process a target."""
    command = [sys.executable, str(SCRIPT)]
    return [
        subprocess.Popen(
            [*command, url, str(seconds), str(RATE / len(targets)), str(seed), ",".join(tags)], stdout=subprocess.PIPE, text=True
        )
        for seed, (url, tags) in enumerate(targets)
    ]


def recorded(url: str, out: Path, targets: list[tuple[str, list[str]]]) -> tuple[Case, float]:
    """Record mixed traffic; return the case and the commands sent per second."""
    with recorder(url, out, "--seconds", str(SECONDS + 2)) as process:
        began = time.monotonic()
        workers = clients(targets, SECONDS)
        sent = sum(int(worker.communicate()[0]) for worker in workers)
        rate = sent / (time.monotonic() - began)
        assert process.wait(1200) == 0
    return coldcache.open_case(out), rate


def check(case: Case, rate: float) -> None:
    ledger = miss_ledger(case)
    print(
        f"{case.meta['servers'][0]['software']} {case.meta['servers'][0]['version']}, "
        f"{ledger.windows['node'].nunique()} node(s): "
        f"{rate:,.0f} commands/s, {ledger.total:,} reads, {ledger.hits:,} hits, {ledger.misses:,} misses, "
        f"INFO {ledger.info_hits:,} and {ledger.info_misses:,}, residual {ledger.residual}"
    )
    assert rate >= LEAST_RATE
    assert case.gaps == []
    assert [epoch["mode"] for epoch in case.epochs] == ["exact"] * len(case.epochs)
    assert (ledger.hits, ledger.misses) == (ledger.info_hits, ledger.info_misses)
    assert ledger.residual == 0
    misses = ledger.reads[ledger.reads["outcome"].eq("miss")]
    assert misses["key_state"].notna().all()
    states = set(misses["key_state"].astype("str"))
    assert {"expired", "deleted", "never written"} <= states
    assert case.meta["stream"]["orphan_keymisses"] == 0
    assert case.meta["stream"]["damaged"] == 0
    assert ledger.misses > 1000
    if "evicted" not in states:
        assert case.table("info")["evicted_keys"].max() == 0


def test_every_lookup_of_mixed_traffic_at_full_rate_equals_info(server_binary_path: str, tmp_path: Path):
    # GIVEN a server short of memory, and clients that do everything there is
    with lab_server(server_binary_path, "--maxmemory", "2500kb", "--maxmemory-policy", "allkeys-lru") as url:
        case, rate = recorded(url, tmp_path / "case", [(url, ["a", "b"]), (url, ["b", "c"])])
    # THEN hits and misses are INFO's, every miss knows what had become of its key, evictions too
    check(case, rate)
    assert (case.accesses["key_state"] == "evicted").any()
    assert int(case.table("info")["evicted_keys"].max()) > 0


def tags_of(slots: range, count: int = 4) -> list[str]:
    """Hash tags whose keys lie in these slots."""
    return [tag for tag in (f"t{number}" for number in range(4000)) if key_slot(tag.encode()) in slots][:count]


def test_a_cluster_is_recorded_whole_into_one_case(server_binary_path: str, tmp_path: Path):
    # GIVEN a cluster of three primaries with traffic on each
    with cluster(server_binary_path, primaries=3) as urls:
        shares = [range(0, 5461), range(5461, 10923), range(10923, 16384)]
        targets = [(url, tags_of(slots)) for url, slots in zip(urls, shares, strict=True)]
        case, rate = recorded(urls[1], tmp_path / "case", targets)
        for url in urls:
            assert not captures(url)
    # THEN one case holds all of it
    check(case, rate)
    assert len(case.meta["servers"]) == 3
    assert len(case.epochs) == 3
    assert set(case.accesses["node"].astype("str")) == {url.split("/")[2] for url in urls}


def test_a_failover_is_a_gap_and_the_new_primary_is_recorded(tmp_path: Path):
    # GIVEN a cluster with replicas
    with cluster(server_binary(), primaries=3, replicas=1) as urls:
        primaries, replicas = urls[:3], urls[3:]
        tags = tags_of(range(0, 5461))
        with recorder(primaries[1], tmp_path / "case") as process:
            worker = clients([(primaries[0], tags)], 3)[0]
            worker.communicate()
            # WHEN a primary hands over to its replica
            import redis

            for url in replicas:
                client = redis.Redis.from_url(url, protocol=2)
                if client.info("replication")["master_port"] == int(primaries[0].rsplit(":", 1)[1].split("/")[0]):
                    promoted = url
                    client.execute_command("CLUSTER", "FAILOVER")
                client.close()
            # THEN the recorder follows
            wait_for(lambda: captures(promoted), 20)
            worker = clients([(promoted, tags)], 2)[0]
            worker.communicate()
            process.send_signal(2)
            assert process.wait(120) == 0
    case = coldcache.open_case(tmp_path / "case")
    ledger = miss_ledger(case)
    assert ledger.residual == 0
    assert promoted.split("/")[2] in set(case.accesses["node"].astype("str"))
    assert any("failover" in gap["reason"] or "primary" in gap["reason"] for gap in case.gaps)
    assert any("new primary" in note for note in case.meta["recorder_notes"])


@pytest.mark.parametrize("protocol", [2, 3])
def test_resp3_and_unix_sockets_are_recorded_exactly(server_binary_path: str, tmp_path: Path, protocol: int):
    socket = tmp_path / "redis.sock"
    with lab_server(server_binary_path, "--unixsocket", str(socket)) as url:
        through = f"unix://{socket}?protocol={protocol}"
        worker = clients([(through.split("?", maxsplit=1)[0], ["a"])], 4)[0]
        case = record(RecordOptions(url=through, out=tmp_path / "case", seconds=2))
        worker.communicate()
        over_tcp = record(RecordOptions(url=f"{url}?protocol={protocol}", out=tmp_path / "case-3", seconds=2))
    for one in (case, over_tcp):
        ledger = miss_ledger(one)
        assert ledger.residual == 0
        assert one.meta["stream"]["damaged"] == 0
    assert miss_ledger(case).total > 500
    # our own commands are left out, though a unix socket prints all clients alike
    own = case.accesses["command"].astype("str").isin(["INFO", "ECHO", "CLIENT INFO", "SUBSCRIBE", "MONITOR"])
    assert not own[case.accesses["client"].astype("str").str.startswith("unix:")].any()
    assert url_of_node("redis://u:p@h:1/0", "::1", 2) == "redis://u:p@[::1]:2/0"
