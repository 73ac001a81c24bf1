"""The recorder dies, or is stopped, or its server goes away: the server is unharmed and the case is there."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import coldcache
import coldcache.errors
import pandas as pd
import pytest
import redis
from coldcache.lab.server import lab_server, server_binary
from coldcache.record.recorder import Progress, RecordOptions, record
from coldcache.replay.ledger import miss_ledger
from live.recorders import captures, client_of, recorder, setting, traffic, wait_for

pytestmark = pytest.mark.live
KILLS = 20


def test_after_sigkill_the_setting_is_back_within_five_seconds_and_the_raw_stream_is_gone(server_url: str, tmp_path: Path):
    # GIVEN a recorder at work on a server with a setting of its own
    with contextlib.closing(client_of(server_url)) as client:
        client.config_set("notify-keyspace-events", "Kx")
        before = setting(server_url)
        with recorder(server_url, tmp_path / "case") as process, traffic(server_url):
            assert setting(server_url) != before
            time.sleep(2)
            # WHEN it is killed
            process.send_signal(signal.SIGKILL)
            process.wait()
            # THEN the setting is back at once, and no connection of ours is left
            took = wait_for(lambda: setting(server_url) == before, 5)
        print(f"setting back after {took:.2f} s")
        wait_for(lambda: not [entry for entry in client.client_list() if entry["name"].startswith("coldcache")], 5)
        client.config_set("notify-keyspace-events", "")
    # AND the stream, which holds values, is made into tables by itself
    wait_for(lambda: not (tmp_path / "case" / "raw").exists(), 90)
    assert miss_ledger(coldcache.open_case(tmp_path / "case")).residual == 0


def killed_once(folder: Path, seed: int) -> dict[str, float]:
    """Record, kill at a random moment, and measure what is missing."""
    rng = random.Random(seed)
    with lab_server(server_binary()) as url, recorder(url, folder / "case", "--seconds", "60") as process, traffic(url):
        time.sleep(rng.uniform(0.0, 4.0))
        killed_at = time.time()
        process.send_signal(signal.SIGKILL)
        process.wait()
        restored_s = wait_for(lambda: not setting(url), 10)
    case = coldcache.open_case(folder / "case")
    diagnosis = coldcache.diagnose(case)
    assert case.meta["ended"] == "the recorder was killed"
    assert len(case.gaps) == 1
    assert "killed" in case.gaps[0]["reason"]
    assert not (folder / "case" / "raw").exists()
    last = pd.Timestamp(case.gaps[0]["start"]).timestamp()
    ledger = diagnosis.ledger
    assert ledger.residual in (0, None)
    assert len(case.accesses)
    return {"lost_s": killed_at - last, "restored_s": restored_s, "reads": ledger.total}


def test_twenty_kills_at_random_moments_leave_twenty_cases_that_lack_less_than_a_second(tmp_path: Path):
    folders = [tmp_path / str(number) for number in range(KILLS)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(killed_once, folders, range(KILLS)))
    lost = sorted(result["lost_s"] for result in results)
    print(f"{KILLS} kills: lost median {lost[KILLS // 2]:.3f} s, most {lost[-1]:.3f} s; "
          f"setting back after at most {max(result['restored_s'] for result in results):.2f} s")  # fmt: skip
    assert lost[-1] < 1.0
    assert max(result["restored_s"] for result in results) < 5


@pytest.mark.alone
def test_a_stopped_recorder_is_cut_off_before_a_full_server_evicts_for_it(tmp_path: Path):
    # GIVEN a server of 64 MB, full of keys of 1 KB, all of them wanted, and a recorder
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(lab_server(server_binary(), "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"))
        with contextlib.closing(client_of(url)) as client:
            pipe = client.pipeline(transaction=False)
            number = 0
            while int(client.info("stats")["evicted_keys"]) == 0:
                for _ in range(500):
                    pipe.set(f"user:{number}", "v" * 1000)
                    number += 1
                pipe.execute()
            with recorder(url, tmp_path / "case", "--seconds", "30") as process:
                keys = [f"user:{number - 1 - back}" for back in range(2000)]

                def overwrite() -> None:
                    pipe = client.pipeline(transaction=False)
                    for key in random.sample(keys, 100):
                        pipe.get(key)
                        pipe.set(key, "w" * 1000)
                    pipe.execute()

                began = time.monotonic()
                while time.monotonic() - began < 2:  # the traffic's own buffers evict a little, too
                    overwrite()
                full, evicted = client.dbsize(), int(client.info("stats")["evicted_keys"])
                # WHEN the recorder is stopped while reads and overwrites of existing keys go on at full speed
                process.send_signal(signal.SIGSTOP)
                stopped, done = time.monotonic(), 0
                while time.monotonic() - stopped < 2:
                    overwrite()
                    done += 200
                # THEN the guardian has closed the connection, and fewer than 1 % of the keys are gone
                assert not captures(url)
                gone = int(client.info("stats")["evicted_keys"]) - evicted
                print(f"evicted {gone} of {full} keys ({gone / full:.2%}) while {done / 2:,.0f} commands/s went on")
                assert gone < 0.01 * full
                buffers = int(client.info("memory")["mem_clients_normal"])
                assert buffers < 2 << 20
                process.send_signal(signal.SIGCONT)
                # AND the recorder goes on with key events only
                wait_for(lambda: captures(url), 10)
                time.sleep(2)
                process.send_signal(signal.SIGINT)
                assert process.wait(60) == 0
    case = coldcache.open_case(tmp_path / "case")
    assert [epoch["mode"] for epoch in case.epochs] == ["exact", "events"], case.epochs
    assert "guardian" in case.gaps[0]["reason"]
    assert miss_ledger(case).residual == 0


def test_a_restarted_server_is_a_gap_and_is_recorded_again(tmp_path: Path):
    # GIVEN a recording of a server that is killed and started again on the same port
    port = 0
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        url = first.enter_context(lab_server(server_binary()))
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        stack.enter_context(traffic(url))
        process = stack.enter_context(recorder(url, tmp_path / "case"))
        time.sleep(2)
        # WHEN
        down_at = time.time()
        first.close()
        time.sleep(1.5)
        stack.enter_context(lab_server(server_binary(), port=port))
        up_at = time.time()
        wait_for(lambda: captures(url), 10)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        # THEN the new server is left as it was
        assert setting(url) == ""
    case = coldcache.open_case(tmp_path / "case")
    assert [gap["reason"] for gap in case.gaps] == ["the server restarted"]
    start, end = (pd.Timestamp(case.gaps[0][edge]).timestamp() for edge in ("start", "end"))
    assert abs(start - down_at) < 1
    assert 0 <= end - up_at < 3
    assert len(case.epochs) == 2
    assert len(case.meta["servers"]) == 2
    ledger = miss_ledger(case)
    assert ledger.residual == 0
    assert ledger.total > 100
    assert str(coldcache.diagnose(case))


@pytest.mark.alone
def test_a_disconnect_for_the_output_buffer_limit_is_said_and_stepped_down_from(tmp_path: Path):
    # GIVEN a server that lets subscribers keep 256 KB waiting
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(lab_server(server_binary(), "--client-output-buffer-limit", "pubsub 256kb 0 0"))
        with recorder(url, tmp_path / "case") as process, contextlib.closing(client_of(url)) as client:
            time.sleep(2)
            # WHEN the recorder does not read for a while
            process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            while captures(url) and time.monotonic() - began < 10:
                pipe = client.pipeline(transaction=False)
                for number in range(200):
                    pipe.set(f"k:{number}", "v" * 20_000)
                pipe.execute()
            assert not captures(url)
            process.send_signal(signal.SIGCONT)
            wait_for(lambda: captures(url), 10)
            time.sleep(1.5)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
    case = coldcache.open_case(tmp_path / "case")
    assert "output-buffer limit" in case.gaps[0]["reason"]
    assert [epoch["mode"] for epoch in case.epochs] == ["exact", "events"], case.epochs
    assert any("stepped down" in note for note in case.meta["recorder_notes"])
    assert miss_ledger(case).residual == 0


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A tmpfs of that size; skipped where we may not mount."""
    disk = folder / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root on Linux")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("size", ["12m", "64m"])
def test_a_disk_that_fills_ends_the_recording_with_a_readable_case(tmp_path: Path, size: str):
    # GIVEN a small disk and traffic that fills it: the smaller one before a second look at it
    with small_disk(tmp_path, size) as disk, lab_server(server_binary()) as url, traffic(url, value_bytes=2000, pause_s=0):
        # WHEN
        case = record(RecordOptions(url=url, out=disk / "case", seconds=60))
        # THEN it ends by itself, in good order, and says why
        assert "disk" in case.meta["ended"]
        assert setting(url) == ""
        assert not (disk / "case" / "raw").exists()
        ledger = miss_ledger(case)
        assert ledger.residual in ((0, None) if size == "12m" else (0,))  # None: one sample of INFO
        assert ledger.total > 100
        assert str(coldcache.diagnose(case))


def test_a_disk_that_others_fill_loses_nothing_recorded(tmp_path: Path):
    # GIVEN a recording on a small disk that somebody else fills at once
    with small_disk(tmp_path, "24m") as disk, lab_server(server_binary()) as url, traffic(url, value_bytes=1000):
        filler = disk / "filler"

        def fill(progress: Progress) -> None:
            if progress.elapsed_s > 2 and not filler.exists():
                with contextlib.suppress(OSError), filler.open("wb") as file:
                    while True:
                        file.write(b"x" * 4096)

        # WHEN the tables do not fit either THEN the message says where everything is
        with contextlib.suppress(coldcache.errors.ColdcacheError):
            record(RecordOptions(url=url, out=disk / "case", seconds=30), fill)
        assert setting(url) == ""
        # AND with room again the case opens
        filler.unlink()
        case = coldcache.open_case(disk / "case")
        assert "disk" in case.meta["ended"] + str(case.gaps)
        assert miss_ledger(case).residual == 0
        assert miss_ledger(case).total > 100


class Cable:
    """A TCP connection to a server that can be cut, and mended."""

    def __init__(self, port: int) -> None:
        import socket

        self._target, self._pairs, self.cut = port, [], False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        import socket

        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                if self.cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._pairs.append((near, far))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    @staticmethod
    def _carry(source, sink) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(2)
            end.close()

    def break_(self) -> None:
        import socket

        self.cut = True
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def close(self) -> None:
        self.break_()
        self._server.close()


def test_a_network_cut_is_a_gap_and_the_server_is_left_as_it_was(tmp_path: Path):
    with lab_server(server_binary()) as url, traffic(url):
        cable = Cable(int(url.rsplit(":", 1)[1].split("/")[0]))
        through = f"redis://127.0.0.1:{cable.port}/0"
        cut_at = 0.0

        def cut(progress: Progress) -> None:
            nonlocal cut_at
            if progress.elapsed_s > 2 and not cut_at:
                cut_at = time.time()
                cable.break_()
            elif cut_at and time.time() - cut_at > 1.5:
                cable.cut = False

        case = record(RecordOptions(url=through, out=tmp_path / "case", seconds=7), cut)
        cable.close()
        assert setting(url) == ""
    assert len(case.gaps) == 1
    assert abs(pd.Timestamp(case.gaps[0]["start"]).timestamp() - cut_at) < 1
    assert len(case.epochs) == 2
    assert miss_ledger(case).residual == 0


def test_resume_goes_on_with_the_case_and_what_lies_between_is_a_gap(tmp_path: Path):
    with lab_server(server_binary()) as url, traffic(url):
        first = record(RecordOptions(url=url, out=tmp_path / "case", seconds=2))
        reads = miss_ledger(first).total
        time.sleep(1)
        case = record(RecordOptions(url=url, out=tmp_path / "case", seconds=2, resume=True))
    assert len(case.epochs) == 2
    assert len(case.gaps) == 1
    gap = case.gaps[0]
    assert pd.Timestamp(gap["end"]) - pd.Timestamp(gap["start"]) > pd.Timedelta("0.9s")
    ledger = miss_ledger(case)
    assert ledger.residual == 0
    assert ledger.total > reads + 50
    assert case.accesses["seq"].is_monotonic_increasing
    assert not case.accesses.duplicated(["seq", "arg"]).any()


def test_a_killed_recording_can_be_resumed(tmp_path: Path):
    with lab_server(server_binary()) as url, traffic(url):
        with recorder(url, tmp_path / "case") as process:
            time.sleep(2)
            process.send_signal(signal.SIGKILL)
        with recorder(url, tmp_path / "case", "--resume", str(tmp_path / "case"), "--seconds", "3") as process:
            assert process.wait(60) == 0
    case = coldcache.open_case(tmp_path / "case")
    assert len(case.epochs) == 2
    assert "killed" in case.gaps[0]["reason"] + case.gaps[-1]["reason"]
    assert miss_ledger(case).residual == 0


def test_a_case_that_is_being_recorded_is_left_alone(tmp_path: Path):
    with lab_server(server_binary()) as url, recorder(url, tmp_path / "case") as process:
        with pytest.raises(coldcache.errors.UnfinishedCaseError, match="still being recorded"):
            coldcache.open_case(tmp_path / "case")
        assert process.poll() is None


def test_key_events_that_somebody_switches_off_are_noticed(tmp_path: Path):
    with lab_server(server_binary()) as url, traffic(url), contextlib.closing(client_of(url)) as client:
        done = []

        def meddle(progress: Progress) -> None:
            if progress.elapsed_s > 3 and not done:
                done.append(client.config_set("notify-keyspace-events", ""))

        case = record(RecordOptions(url=url, out=tmp_path / "case", seconds=8), meddle)
        assert setting(url) == ""
    assert any("notify-keyspace-events" in gap["reason"] for gap in case.gaps)
    assert miss_ledger(case).residual == 0


def test_the_guardian_outlives_ctrl_c_and_ends_with_the_recorder(tmp_path: Path):
    with lab_server(server_binary()) as url, recorder(url, tmp_path / "case") as process:
        import psutil

        guardians = psutil.Process(process.pid).children()
        assert len(guardians) == 1
        time.sleep(1.2)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
        psutil.wait_procs(guardians, 5)
        assert not any(guardian.is_running() for guardian in guardians)
        with contextlib.closing(client_of(url)) as client, contextlib.suppress(redis.RedisError):
            assert not [entry for entry in client.client_list() if entry["name"].startswith("coldcache")]


def test_without_its_guardian_a_recording_ends_in_good_order(tmp_path: Path):
    with lab_server(server_binary()) as url, traffic(url), recorder(url, tmp_path / "case") as process:
        import psutil

        time.sleep(1.5)
        psutil.Process(process.pid).children()[0].kill()
        assert process.wait(30) == 0
        assert setting(url) == ""
    case = coldcache.open_case(tmp_path / "case")
    assert "guardian" in case.meta["ended"]
    assert miss_ledger(case).residual == 0


def test_a_raw_stream_that_a_killed_finisher_left_behind_is_removed(tmp_path: Path):
    with lab_server(server_binary()) as url, traffic(url):
        case = record(RecordOptions(url=url, out=tmp_path / "case", seconds=2))
    raw = case.folder / "raw"
    raw.mkdir()
    (raw / "stream-0000.resp").write_bytes(b"secret values")
    assert coldcache.open_case(tmp_path / "case").meta["ended"] == "completed"
    assert not raw.exists()
