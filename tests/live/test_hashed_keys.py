"""Recordings that hide their keys: nothing of an id is left in the case, and the diagnosis is what it was."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import coldcache
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from coldcache.case import Case
from coldcache.errors import UsageError
from coldcache.instrument import CacheLog
from coldcache.keys.families import key_families
from coldcache.record.finish import finish_case
from coldcache.record.recorder import RecordOptions, record
from coldcache.replay.ledger import miss_ledger
from live.recorders import client_of, recorder, wait_for

pytestmark = pytest.mark.live

RNG = random.Random(11)
IMAGES = [str(RNG.randrange(10**8, 10**9)) for _ in range(300)]
SESSIONS = [str(uuid.UUID(int=RNG.getrandbits(128), version=4)) for _ in range(40)]
MAILS = ["alice.liddell@example.org", "marchhare%40example.org"]
NAMES = ["alice", "dormouse", "jabberwock\u00e9"]
WORDS = [f"{first}uniq{second}" for first in "abcdefgh" for second in "klmnop"]
ARGUMENT = "argumentofascript"
SECRETS = [*IMAGES, *SESSIONS, *WORDS, "alice", "liddell", "marchhare", "dormouse", "jabberwock", ARGUMENT]


@contextlib.contextmanager
def traffic_with_ids(url: str, log: CacheLog | None = None) -> Iterator[None]:
    """Images are read under one name and written under another; ids of every form beside them."""
    stop = threading.Event()
    log = log or CacheLog(None)

    def work() -> None:
        rng, client = random.Random(3), client_of(url)
        script = client.register_script("redis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])")
        while not stop.is_set():
            image = rng.choice(IMAGES)
            hit = client.get(f"prod_cache:img:{image}") is not None
            log.get(f"prod_cache:img:{image}", hit=hit)
            client.set(f"dev_cache:img:{image}", f"image {image}", ex=300)
            log.set(f"dev_cache:img:{image}", size=6, ttl_s=300)
            session = f"session:{rng.choice(SESSIONS)}"
            client.get(session)
            client.set(session, "s", px=rng.choice([5, 5000]))
            match rng.randrange(6):
                case 0:
                    client.mget([f"session:{name}" for name in NAMES])
                case 1:
                    client.set(f"{rng.choice(['cart', 'profile'])}:{rng.choice(NAMES)}", "x")
                case 2:
                    client.delete(f"mail:{rng.choice(MAILS)}", f"session:{rng.choice(NAMES)}")
                case 3:
                    for word in WORDS:
                        client.hset(f"tag:{word}:count", "f", "1")
                case 4:
                    script(keys=[f"mail:{rng.choice(MAILS)}"], args=[ARGUMENT])
                case 5:
                    client.get(b"bin:\x00\xff\r\n" + rng.choice(NAMES).encode())
            time.sleep(0.001)
        client.close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()


def texts_of(table: pa.Table) -> Iterator[str]:
    """Every text in a table, and the names of its columns."""
    yield "\n".join(table.column_names)
    for column in table.columns:
        plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        if pa.types.is_string(plain.type) or pa.types.is_large_string(plain.type):
            yield "\n".join(str(text) for text in plain.unique().to_pylist())


def leaks(folder: Path) -> set[str]:
    """Return which secrets a case folder holds, in any file, as bytes or as text of a table."""
    found: set[str] = set()
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found |= {secret for secret in SECRETS if secret.encode() in data}
        if path.suffix == ".parquet":
            for text in texts_of(pq.read_table(path)):
                found |= {secret for secret in SECRETS if secret in text}
    return found


def check(case: Case) -> None:
    """Assert that a hashed case holds no secret and still tells what is wrong."""
    assert not leaks(case.folder)
    assert not (case.folder / "raw").exists()
    assert case.meta["policy"]["keys"] == "hashed"
    diagnosis = coldcache.diagnose(case)
    assert diagnosis.ledger.residual == 0
    assert [
        (finding.cause, finding.verdict, finding.edit) for finding in diagnosis.findings if finding.cause == "key_prefix"
    ] == [("key_prefix", "confirmed", "dev_cache -> prod_cache")]


def hashed_again(plain: Case, folder: Path) -> Case:
    """Make the tables of a plain recording with its raw stream kept once more, with keys hidden."""
    shutil.copytree(plain.folder, folder)
    for path in folder.rglob("*.parquet"):
        path.unlink()
    meta = json.loads((folder / "case.json").read_text("utf-8"))
    empty: dict[str, object] = {"epochs": [], "gaps": [], "servers": [], "problems": [], "recorder_notes": [], "streams": []}
    meta |= empty | {"ended": None, "next_seq": 0, "policy": {**meta["policy"], "keys": "hashed", "raw": "removed"}}
    (folder / "case.json").write_text(json.dumps(meta), "utf-8")
    finish_case(folder)
    return coldcache.open_case(folder)


def test_one_stream_in_clear_and_hidden_differs_in_its_keys_alone(server_url: str, tmp_path: Path):
    # GIVEN a plain recording whose raw stream was kept
    log = tmp_path / "app.jsonl"
    with traffic_with_ids(server_url, CacheLog(str(log))):
        options = RecordOptions(url=server_url, out=tmp_path / "plain", seconds=5, app_log=log, keep_raw=True)
        plain = record(options)
    shutil.copytree(plain.folder, tmp_path / "tables", ignore=shutil.ignore_patterns("raw"))
    in_clear = leaks(tmp_path / "tables")
    assert in_clear >= {*SECRETS} - {*IMAGES, *SESSIONS, ARGUMENT}  # the search finds what is there
    assert len(in_clear & {*IMAGES}) > 100
    assert in_clear & {*SESSIONS}
    assert ARGUMENT not in in_clear
    # WHEN its tables are made again, with keys hidden
    case = hashed_again(plain, tmp_path / "hashed")
    # THEN nothing of the ids is left
    check(case)
    # AND every table is what it was, but for keys and the digests of values
    for name in ("accesses", "key_events", "app_log", "info", "commandstats"):
        before, after = plain.table(name), case.table(name)
        assert len(before)
        differing = [column for column in ("key", "value_digest") if column in before]
        pd.testing.assert_frame_equal(before.drop(columns=differing), after.drop(columns=differing))
        if "key" in before:
            # One key is one key.
            pairs = pd.DataFrame({"before": before["key"], "after": after["key"]}).dropna().drop_duplicates()
            assert pairs["before"].is_unique
            assert pairs["after"].is_unique
            assert before["key"].isna().equals(after["key"].isna())
    assert case.accesses["value_digest"].nunique() == plain.accesses["value_digest"].nunique()
    # AND the families of three keys and more are the same, with the same accesses
    sizes = key_families(plain.accesses["key"]).value_counts()
    of_plain, of_hashed = (each.accesses["key"].map(key_families(each.accesses["key"])).value_counts() for each in (plain, case))
    large = [family for family in sizes.index[sizes >= 3] if family != "session:*"]
    assert {"prod_cache:img:*", "dev_cache:img:*", "tag:*:count"} <= set(large)
    assert of_plain[large].to_dict() == of_hashed[large].to_dict()
    # `session:alice` is one of its sessions now.
    assert of_hashed["session:*"] == of_plain[of_plain.index.str.startswith("session:")].sum()
    # AND the ledgers agree
    ledgers = [miss_ledger(each) for each in (plain, case)]
    assert ledgers[0].total == ledgers[1].total > 300
    assert ledgers[0].misses == ledgers[1].misses
    assert ledgers[0].effective_hit_rate == ledgers[1].effective_hit_rate


@pytest.mark.parametrize("mode", ["exact", "monitor", "events", "burst"])
def test_no_id_outlives_a_recording_in_any_mode(server_url: str, tmp_path: Path, mode: str):
    log = tmp_path / "app.jsonl"
    with traffic_with_ids(server_url, CacheLog(str(log))):
        options = RecordOptions(
            url=server_url, out=tmp_path / "case", seconds=4, mode=mode, duty=0.5, app_log=log, keys="hashed", watched=False
        )
        case = record(options)
    assert not leaks(case.folder)
    assert case.accesses["key"].str.contains("_cache:img:").sum() > 100
    assert case.accesses.loc[case.accesses["command"].isin(["EVAL", "EVALSHA"]), "key"].isna().all()
    assert case.meta["policy"]["keys"] == "hashed"
    if mode == "exact":
        check(case)


def test_no_id_outlives_a_recorder_that_was_killed(server_url: str, tmp_path: Path):
    # GIVEN
    with traffic_with_ids(server_url), recorder(server_url, tmp_path / "case", "--keys", "hashed") as process:
        time.sleep(4)
        # WHEN
        process.send_signal(signal.SIGKILL)
        process.wait()
    # THEN the tables are made by themselves, hidden as was asked
    wait_for(lambda: not (tmp_path / "case" / "raw").exists(), 30)
    case = coldcache.open_case(tmp_path / "case")
    assert case.meta["ended"] == "the recorder was killed"
    check(case)


def test_tables_that_were_cut_short_leave_nothing_in_clear(server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # GIVEN a recording whose tables could not be finished: the disk was full after the keys were put aside
    with monkeypatch.context() as patch, traffic_with_ids(server_url):
        patch.setattr("coldcache.keys.hiding.HiddenKeys.of", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
        with pytest.raises(coldcache.errors.RecordingFailedError):
            record(RecordOptions(url=server_url, out=tmp_path / "case", seconds=4, keys="hashed"))
    assert list((tmp_path / "case" / "raw" / "plain").rglob("*.parquet"))
    assert not list((tmp_path / "case").glob("accesses/*"))
    # WHEN it is opened with room again THEN it is whole, and nothing is in clear
    check(coldcache.open_case(tmp_path / "case"))


def test_keeping_the_raw_stream_and_hiding_keys_exclude_each_other(tmp_path: Path):
    options = RecordOptions(url="redis://127.0.0.1:1", out=tmp_path / "case", keep_raw=True, keys="hashed")
    with pytest.raises(UsageError, match="Choose one"):
        record(options)
    assert not (tmp_path / "case").exists()
