"""A diagnosis by other processes: the same result, byte for byte, also when one of them is killed half-way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from coldcache.case import open_case
from coldcache.causes.diagnosis import diagnose
from coldcache.cli import run
from coldcache.errors import SchedulerError
from coldcache.importing.importer import import_logs
from coldcache.importing.options import EvidenceFiles, ImportOptions
from coldcache.shards import cut
from coldcache.shards.workers import Workers


@dataclass
class Cluster:
    """A scheduler and two workers, each a process of its own."""

    address: str
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)


def started(*arguments: str, folder: Path) -> subprocess.Popen[bytes]:
    log = (folder / f"{arguments[0]}-{time.monotonic_ns()}.log").open("wb")
    return subprocess.Popen([sys.executable, "-m", "dask", *arguments], stdout=log, stderr=log, cwd=folder)


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    contact = folder / "scheduler.json"
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    scheduler = started("scheduler", "--port", "0", "--scheduler-file", str(contact), *local, folder=folder)
    workers = []
    try:
        until = time.monotonic() + 60
        while not contact.exists() or not contact.read_text().strip():
            assert time.monotonic() < until, "no scheduler"
            time.sleep(0.1)
        address = json.loads(contact.read_text())["address"]
        options = ["--nthreads", "1", "--no-nanny", "--host", "127.0.0.1", "--no-dashboard"]
        workers = [started("worker", address, *options, folder=folder) for _ in range(2)]
        import distributed

        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield Cluster(address, workers)
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """An imported log of a cache whose keys are read under another name than they are written, with INFO before and after."""
    lines, hits, misses = [], 0, 0
    for number in range(12_000):
        at = f"{1763800000 + number // 100}.{number % 100:02d}0000 [0 10.0.0.1:5000]"
        key = (number * 7919) % 3000
        lines += [f'{at} "GET" "prod_cache:img:{key}"', f'{at} "SET" "dev_cache:img:{key}" "v" "EX" "3600"']
        misses += 1
        if number % 3 == 0:
            lines += [f'{at} "SET" "user:{key}" "v"', f'{at} "GET" "user:{key}"']
            hits += 1
    (tmp_path / "a.log").write_text("\n".join(lines) + "\n")
    for name, count, at in (("before", (0, 0), 1763799999), ("after", (hits, misses), 1763800121)):
        stats = f"keyspace_hits:{count[0]}\nkeyspace_misses:{count[1]}\nevicted_keys:0\n"
        text = f"# Server\nserver_time_usec:{at}000000\n# Stats\n{stats}"
        (tmp_path / f"{name}.txt").write_text(text)
    beside = EvidenceFiles(info=(tmp_path / "before.txt", tmp_path / "after.txt"))
    import_logs(ImportOptions(logs=(str(tmp_path / "a.log"),), out=tmp_path / "case", beside=beside))
    return tmp_path / "case"


def test_a_cluster_says_what_one_machine_says_also_when_a_worker_is_killed(
    cluster: Cluster, case: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cut, "ROWS_IN_SHARD", 2000)
    opened = open_case(case)
    here = diagnose(opened)
    assert here.ledger.replays.shards.count > 10
    assert here.findings[0].cause == "key_prefix"
    expected = json.dumps(here.to_dict())
    del here
    with Workers(cluster.address) as workers:
        assert json.dumps(diagnose(opened, workers).to_dict()) == expected
    seen: list[str] = []

    def told(what: str, done: int, total: int) -> None:
        if what == "following the keys" and done == 3:
            cluster.workers[0].kill()
        if done == total:
            seen.append(what)

    with Workers(cluster.address, told) as workers:
        assert json.dumps(diagnose(opened, workers).to_dict()) == expected
    assert cluster.workers[0].wait(timeout=10) == -9
    assert seen[-1] == "sharing the misses out"
    assert not list(case.glob(".scratch-*"))


def test_the_command_line_takes_a_scheduler(cluster: Cluster, case: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["diagnose", str(case), "--json", "--scheduler", cluster.address]) == 2
    there = capsys.readouterr().out
    assert run(["diagnose", str(case), "--json"]) == 2
    assert capsys.readouterr().out == there


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "ftp://x"])
def test_a_scheduler_that_is_not_there_is_one_clear_message(address: str, case: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["diagnose", str(case), "--scheduler", address]) == 1
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert "dask scheduler" in message


def test_a_scheduler_without_workers_says_so(cluster: Cluster):
    for worker in cluster.workers:
        worker.kill()
        worker.wait()
    with pytest.raises(SchedulerError, match=r"no workers|did not finish"):
        Workers(cluster.address)
