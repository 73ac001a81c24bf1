"""What lies beside a log: placed in its time, or refused with a reason."""

from __future__ import annotations

import os
from pathlib import Path

import coldcache
import pytest
from coldcache.case import Case
from coldcache.errors import UsageError
from coldcache.importing.importer import import_logs
from coldcache.importing.options import EvidenceFiles, ImportOptions
from coldcache.replay.ledger import miss_ledger

STAMP_US = 1_763_800_000_000_000


def info(hits: int, misses: int, at_us: int | None = None, **more: object) -> str:
    """INFO as redis-cli prints it."""
    stamp = f"server_time_usec:{at_us}\r\n" if at_us is not None else ""
    fields = "".join(f"{name}:{value}\r\n" for name, value in more.items())
    return (
        f"# Server\r\nredis_version:7.0.15\r\n{stamp}run_id:{'a' * 40}\r\n"
        f"# Stats\r\nkeyspace_hits:{hits}\r\nkeyspace_misses:{misses}\r\nevicted_keys:0\r\nexpired_keys:0\r\n"
        f"total_commands_processed:9\r\n{fields}"
    )


def reads(count: int, start_us: int = STAMP_US, key: str = "img:{}") -> str:
    """So many GETs, ten milliseconds apart."""
    stamps = (start_us + at * 10_000 for at in range(count))
    return "".join(
        f'{t // 10**6}.{t % 10**6:06d} [0 10.0.0.1:5000] "GET" "{key.format(at)}"\n' for at, t in enumerate(stamps)
    )  # fmt: skip


def imported(folder: Path, log: str, **beside: list[str] | str) -> Case:
    """The case of a log and of files with these contents."""
    (folder / "ops.log").write_text(log)
    files = {}
    for kind, contents in beside.items():
        if isinstance(contents, str):
            files[kind] = contents
            continue
        paths = []
        for number, content in enumerate(contents):
            path = folder / f"{kind}{number}.txt"
            path.write_text(content)
            paths.append(path)
        files[kind] = tuple(paths)
    return import_logs(ImportOptions(logs=(str(folder / "ops.log"),), out=folder / "case", beside=EvidenceFiles(**files)))


def test_info_with_its_own_clock_is_placed_to_the_line(tmp_path: Path):
    # GIVEN a hundred reads, and INFO before the eleventh and after the sixtieth
    case = imported(
        tmp_path, reads(100), info=[info(5, 5, STAMP_US + 95_000), info(35, 25, STAMP_US + 595_000)],
    )  # fmt: skip
    ledger = miss_ledger(case)
    # THEN what lies between is held against what INFO counted
    assert (ledger.info_hits, ledger.info_misses) == (30, 20)
    assert (ledger.expected, ledger.counted, ledger.residual) == (50, 50, 0)
    assert case.server["version"] == "7.0.15"


def test_the_line_of_info_itself_makes_the_window_exact(tmp_path: Path):
    def own(at_us: int) -> str:
        return f'{at_us // 10**6}.{at_us % 10**6:06d} [0 10.0.0.9:1] "info" "everything"\n'

    lines = reads(100).splitlines(keepends=True)
    log = "".join([*lines[:10], own(STAMP_US + 95_300), *lines[10:60], own(STAMP_US + 595_300), *lines[60:]])
    case = imported(tmp_path, log, info=[info(5, 5, STAMP_US + 95_000), info(35, 25, STAMP_US + 595_000)])
    ledger = miss_ledger(case)
    assert (ledger.expected, ledger.counted, ledger.total) == (50, 50, 100)


def test_info_without_any_date_is_taken_for_both_ends_and_that_is_said(tmp_path: Path):
    case_folder = tmp_path
    for name in ("info0.txt", "info1.txt"):
        (case_folder / name).touch()
    # GIVEN two dumps whose files were copied today, long after the log
    case = imported(case_folder, reads(100), info=[info(0, 0), info(40, 60)])
    ledger = miss_ledger(case)
    assert (ledger.total, ledger.residual) == (100, 0)
    assert [problem for problem in case.meta["problems"] if "nothing tells when INFO was taken" in problem] != []


def test_info_files_are_dated_by_their_time_if_it_fits(tmp_path: Path):
    (tmp_path / "ops.log").write_text(reads(100))
    paths = []
    for name, content, at_us in (("b.txt", info(0, 0), STAMP_US - 500_000), ("a.txt", info(40, 60), STAMP_US + 1_500_000)):
        path = tmp_path / name
        path.write_text(content)
        os.utime(path, ns=(at_us * 1000, at_us * 1000))
        paths.append(path)
    options = ImportOptions(logs=(str(tmp_path / "ops.log"),), out=tmp_path / "case", beside=EvidenceFiles(info=tuple(paths)))
    case = import_logs(options)
    assert case.meta["problems"] == []
    assert miss_ledger(case).residual == 0


def test_info_from_far_outside_the_log_is_pointed_out(tmp_path: Path):
    case = imported(tmp_path, reads(10), info=[info(0, 0, STAMP_US - 30_000_000), info(400, 600, STAMP_US + 90_000_000)])
    assert [problem.split(": ")[1] for problem in case.meta["problems"]] == [
        "INFO was taken 30.0 s before the log begins; it counts look-ups in between that the log does not hold",
        "INFO was taken 89.9 s after the log ends; it counts look-ups in between that the log does not hold",
    ]


def test_info_that_lacks_a_counter_leaves_it_unknown(tmp_path: Path):
    case = imported(tmp_path, reads(10), info=[info(0, 0, STAMP_US), info(4, 6, STAMP_US + 200_000)])
    table = case.table("info")
    assert table["used_memory"].isna().all()
    assert "keys" not in table
    assert coldcache.diagnose(case).to_dict()["memory"]["redis_bytes"] == {"start": None, "end": None, "slope_per_s": None}


def test_the_clock_of_the_application_is_held_against_the_servers(tmp_path: Path):
    # GIVEN an application an hour and 20 ms ahead, whose log also has calls that no line shows
    calls = [(STAMP_US + at * 10_000, f"img:{at}") for at in range(60)] + [(STAMP_US, "local:1")]
    lines = [
        f'{{"t_us": {t + 3_600_020_000}, "pid": 7, "op": "get", "key": "{key}", "size": 1, "ttl_ms": null, "result": "HIT"}}\n'
        for t, key in calls
    ]
    case = imported(tmp_path, reads(100), app_log=["".join(lines)])
    offset = case.meta["clock_offsets"]
    assert offset["server_minus_recorder_us"] == pytest.approx(-3_600_020_000, abs=1000)
    assert "60 calls" in offset["basis"]
    assert any("3,600.020 s ahead of the server's" in note for note in case.meta["recorder_notes"])
    from coldcache.replay.app_log import join_app_log

    assert join_app_log(case).matched == 60


def test_too_few_common_calls_tell_no_offset(tmp_path: Path):
    line = '{"t_us": 1763800000000000, "pid": 7, "op": "get", "key": "x", "size": null, "ttl_ms": null, "result": "MISS"}\n'
    case = imported(tmp_path, reads(10), app_log=[line])
    assert case.meta["clock_offsets"] == {"server_minus_recorder_us": 0}
    assert any("too few of its calls" in note for note in case.meta["recorder_notes"])


def test_slow_logs_and_big_keys_become_tables(tmp_path: Path):
    slow = '1) 1) (integer) 14\n   2) (integer) 1763800000\n   3) (integer) 15000\n   4) 1) "GET"\n      2) "k"\n'
    big = "Biggest string found '\"img:1\"' has 5000 bytes\n"
    case = imported(tmp_path, reads(3), slowlog=[slow], big_keys=[big])
    assert case.table("slowlog")["duration_us"].tolist() == [15_000]
    keys = case.table("big_keys")
    assert keys[["node", "key", "size"]].astype(object).values.tolist() == [["ops.log", "img:1", 5000]]


@pytest.mark.parametrize("kind", ["info", "slowlog", "big_keys", "app_log", "heap", "gc_log"])
def test_a_file_of_another_kind_is_refused_and_leaves_nothing_behind(tmp_path: Path, kind: str):
    with pytest.raises(UsageError, match=f"{kind}0.txt"):
        imported(tmp_path, reads(3), **{kind: ["neither this nor that\n" * 9]})
    assert not (tmp_path / "case").exists()


def test_a_file_that_is_not_there_is_told_before_the_import_begins(tmp_path: Path):
    (tmp_path / "ops.log").write_text(reads(3))
    beside = EvidenceFiles(info=(tmp_path / "absent.txt",))
    with pytest.raises(UsageError, match=r"absent\.txt cannot be read"):
        import_logs(ImportOptions(logs=(str(tmp_path / "ops.log"),), out=tmp_path / "case", beside=beside))


def test_info_of_several_nodes_goes_by_its_name(tmp_path: Path):
    for name in ("east", "west"):
        (tmp_path / f"{name}.log").write_text(reads(10))
        (tmp_path / f"{name}-info.txt").write_text(info(0, 0, STAMP_US) + info(4, 6, STAMP_US + 200_000))
    (tmp_path / "info.txt").write_text(info(0, 0, STAMP_US))
    logs = (str(tmp_path / "east.log"), str(tmp_path / "west.log"))
    beside = EvidenceFiles(info=(tmp_path / "west-info.txt", tmp_path / "east-info.txt"))
    case = import_logs(ImportOptions(logs=logs, out=tmp_path / "case", beside=beside))
    assert sorted(case.table("info")["node"].astype(str)) == ["east.log", "east.log", "west.log", "west.log"]
    beside = EvidenceFiles(info=(tmp_path / "info.txt",))
    with pytest.raises(UsageError, match=r"could be of any of these nodes: east\.log, west\.log"):
        import_logs(ImportOptions(logs=logs, out=tmp_path / "other", beside=beside))
