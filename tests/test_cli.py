"""The command line: one clear message, the contract's exit status, JSON and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import coldcache
import jsonschema
import pytest
from coldcache.case import sample_names
from coldcache.cli import app, run

SCHEMA = json.loads((Path(coldcache.__file__).parent / "diagnosis.schema.json").read_text("utf-8"))


def test_the_schema_itself_is_valid():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("sample", sample_names())
def test_diagnose_json_is_what_the_contract_says_and_nothing_else(sample: str, capsys: pytest.CaptureFixture[str]):
    status = run(["diagnose", sample, "--json"])
    out, err = capsys.readouterr()
    found = json.loads(out)
    jsonschema.validate(found, SCHEMA)
    assert err == ""
    truth = sample.removeprefix("sample-")
    assert status == (0 if truth == "healthy" else 2)
    assert [finding["cause"] for finding in found["findings"]] == ([] if truth == "healthy" else [truth])
    assert sum(row["count"] for row in found["misses"]) == found["reads"]["misses"]
    assert found["reads"]["residual"] == 0
    decided = [row["cause"] for part in ("findings", "ruled_out", "not_testable") for row in found[part]]
    assert sorted({*decided, "cold_start"}) == sorted(SCHEMA["$defs"]["cause"]["enum"])
    assert len(decided) == len(set(decided))


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["record", "--out", "{new}", "--url-env", "DOWN"], 1, "No Redis answers at 127.0.0.1:1"),
        (["record", "--out", "{old}", "--url-env", "DOWN"], 64, "already exists"),
        (["record", "--out", "{new}", "--url-env", "UNSET"], 64, "The environment variable UNSET is empty"),
        (["record", "--out", "{new}", "--url-env", "HTTP"], 64, "no URL that starts with redis://"),
        (["record", "--out", "{new}", "--url-env", "BRACKET"], 64, "can be read"),
        (["record", "--out", "{new}", "--url-env", "SLASH"], 64, "can be read"),
        (["record", "--out", "{new}", "--url-env", "OPTION"], 64, "what follows '?'"),
        (["record", "--out", "{new}", "--url-env", "SOCKET"], 1, "No Redis answers at /nonexistent/redis.sock"),
        (["record", "--out", "{new}", "--url-file", "/nonexistent"], 64, "cannot be read"),
        (["record", "--out", "{new}", "--mode", "exakt"], 64, "Did you mean 'exact'"),
        (["record"], 64, "--out"),
        (["record", "--out", "{new}", "--resume", "{old}"], 64, "--resume"),
        (["record", "--resume", "{old}", "--url-env", "DOWN"], 64, "holds no case.json"),
        (["record", "--out", "{new}", "--duty", "200%"], 64, "between 0.1% and 90%"),
        (["record", "--out", "{new}", "--duty", "often"], 64, "between 0.1% and 90%"),
        (["record", "--out", "{new}", "--keys", "hashd"], 64, "Did you mean 'hashed'"),
        (["record", "--out", "{new}", "--run", "x.py", "--pid", "1"], 64, "either --run"),
        (["record", "--out", "{new}", "--keys", "hashed", "--keep-raw", "--url-env", "DOWN"], 64, "Choose one"),
        (["doctor", "--url-env", "DOWN"], 1, "No Redis answers at 127.0.0.1:1"),
        (["doctor", "--url-env", "UNSET"], 64, "is empty"),
        (["report", "{old}"], 64, "holds no case.json"),
        (["report", "{new}"], 64, "is not a folder"),
        (["report", "sample-healthy", "--out", "{new}", "-p", "bins_s=1"], 64, "Did you mean 'bin_s'"),
        (["report", "sample-healthy", "--out", "{new}", "-p", "bin_s=wide"], 64, "should be float but got 'wide'"),
        (["report", "sample-healthy", "--out", "{new}", "-p", "bin_s"], 64, "should be NAME=VALUE"),
        (["report", "sample-healthy", "--out", "{old}"], 64, "already exists"),
        (["diagnose", "{old}", "--json"], 64, "holds no case.json"),
        (["diagnose", "sample-helthy"], 64, "Did you mean 'sample-healthy'"),
        (["demo", "--fault", "key_prefx"], 64, "Did you mean 'key_prefix'"),
        (["demo", "--seconds", "soon"], 64, "--seconds"),
        (["dmeo"], 64, "dmeo"),
    ],
)
def test_a_mistake_gets_one_message_and_the_right_status(
    arguments: list[str],
    status: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("DOWN", "redis://:swordfish@127.0.0.1:1/0")
    monkeypatch.setenv("HTTP", "http://me:swordfish@host")
    monkeypatch.setenv("BRACKET", "redis://:sword[fish@host")
    monkeypatch.setenv("SLASH", "redis://user:12345/swordfish@host")
    monkeypatch.setenv("OPTION", "redis://:swordfish@127.0.0.1:1/0?socket_timeout=abc")
    monkeypatch.setenv("SOCKET", "unix:///nonexistent/redis.sock")
    monkeypatch.delenv("UNSET", raising=False)
    (tmp_path / "old").mkdir()
    filled = [argument.format(new=tmp_path / "new", old=tmp_path / "old") for argument in arguments]
    assert run(filled) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.startswith("coldcache: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert "swordfish" not in err
    assert not (tmp_path / "new").exists()


def test_the_console_script_and_the_module_are_the_same_program():
    ends = [
        subprocess.run([*command, "diagnose", "nowhere"], capture_output=True, text=True, check=False)
        for command in ([str(Path(sys.executable).with_name("coldcache"))], [sys.executable, "-m", "coldcache"])
    ]
    assert [end.returncode for end in ends] == [64, 64]
    assert ends[0].stderr == ends[1].stderr


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]):
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert {"demo", "record", "doctor", "diagnose", "report"} <= set(names)
    for name in names:
        assert run([name, "--help"]) == 0
        assert len(capsys.readouterr().out.splitlines()) > 5


def test_the_lab_lists_its_faults(capsys: pytest.CaptureFixture[str]):
    assert run(["lab", "list"]) == 0
    assert "dev_cache -> prod_cache" in capsys.readouterr().out
