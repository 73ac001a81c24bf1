"""Nothing secret is written anywhere: not the password, not the URL, not a value, however a recording ends.

A server with TLS and an ACL user, traffic with values that look secret, and a recorder as its own
process with a home and a temporary folder of its own; then a search of every byte that it wrote.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import coldcache
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from coldcache.lab.server import lab_server
from coldcache.record.server import ACL_LINE
from coldcache.replay.ledger import miss_ledger
from conftest import needed_on_ci
from live.certificates import Certificates, make_certificates, tls_server
from live.recorders import wait_for

pytestmark = pytest.mark.live

# Every secret holds a word that no escaping, quoting or encoding changes.
PASSWORD = 'p@ss/Zq7LeakPassword:#[1]?%25&é"\\ x'
REQUIREPASS, MASTERAUTH, REPLACED = "Zq7LeakRequirepass", "Zq7LeakMasterauth", "Zq7LeakReplaced"
VALUES = [
    "AKIAZQ7LEAKVALUE0000/wJalrXUtnFEMI/K7MDENG/Zq7LeakValueAws",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJacTdMZWFrIn0.Zq7LeakValueJwt",
    "4111 1111 1111 1111 exp 12/29 cvv 123 Zq7LeakValueCard",
    "password=hunter2Zq7LeakValuePassword",
    "-----BEGIN PRIVATE KEY-----\nMIIEvQZq7LeakValuePem\n-----END PRIVATE KEY-----\n",
    '{"ssn": "078-05-1120", "note": "Zq7LeakValueJson"}',
]
WORDS = {
    "password": ["Zq7LeakPassword", "Zq7LeakRequirepass", "Zq7LeakMasterauth", "Zq7LeakReplaced", "p%40ss", "p%2540ss"],
    "value": ["Zq7LeakValue", "hunter2", "4111 1111", "AKIAZQ7", "MIIEvQ", "078-05-1120"],
}
ALL = [word for words in WORDS.values() for word in words]


def write_secrets(client: redis.Redis) -> None:
    """Send the values in every place of a command that is no key."""
    for number, value in enumerate(VALUES):
        key = f"user:{number}"
        client.get(f"absent:{number}")
        client.set(key, value, ex=300)
        client.get(key)
        client.execute_command("SET", key, value, "GET")
        client.execute_command("GETSET", key, value)
        client.execute_command("SETEX", key, 60, value)
        client.execute_command("PSETEX", key, 60_000, value)
        client.mset({f"{key}:a": value, f"{key}:b": value})
        client.append(f"{key}:c", value)
        client.setrange(f"{key}:d", 3, value)
        client.hset(f"{key}:h", mapping={"field": value, value: "1"})
        client.hget(f"{key}:h", value)
        client.lpush(f"{key}:l", value)
        client.linsert(f"{key}:l", "BEFORE", value, value)
        client.sadd(f"{key}:s", value)
        client.sismember(f"{key}:s", value)
        client.zadd(f"{key}:z", {value: 1})
        client.xadd(f"{key}:x", {"field": value}, maxlen=10)
        client.pfadd(f"{key}:p", value)
        client.publish("a channel", value)
        client.echo(value)
        client.execute_command("PING", value)
        client.eval("return redis.call('SET', KEYS[1], ARGV[1])", 1, f"{key}:e", value)
        client.script_load(f"-- {value!r}\nreturn 1")
        with client.pipeline(transaction=True) as pipe:
            pipe.set(key, value).get(key).execute()
        with contextlib.suppress(redis.ResponseError):
            client.execute_command("SET", key, value, "EX", value)
        with contextlib.suppress(redis.ResponseError):
            client.execute_command("INCRBY", key, value)
        with contextlib.suppress(redis.ResponseError):
            client.execute_command(value, key)
        client.delete(key)


@dataclass
class Server:
    """A server that wants TLS and a password, and its administrator's connection."""

    admin: redis.Redis
    url: str
    ca: Path
    stop: contextlib.ExitStack

    def captures(self) -> bool:
        return any(entry["name"] == "coldcache-capture" for entry in self.admin.client_list())

    def setting(self) -> str:
        return str(self.admin.config_get("notify-keyspace-events")["notify-keyspace-events"])


@contextlib.contextmanager
def private_server(files: Certificates) -> Iterator[Server]:
    binary = shutil.which("redis-server")
    if binary is None:
        needed_on_ci("redis-server")
    with contextlib.ExitStack() as stack:
        plain, tls = stack.enter_context(tls_server(str(binary), files))
        with contextlib.closing(redis.Redis.from_url(plain, protocol=2)) as client:
            client.config_set("masterauth", MASTERAUTH)
            client.execute_command(*ACL_LINE.split(), "on", f">{PASSWORD}")
            client.config_set("requirepass", REQUIREPASS)
        admin = redis.Redis.from_url(plain, protocol=2, decode_responses=True, password=REQUIREPASS)
        stack.callback(admin.close)
        options = f"?ssl_ca_certs={files.authority}"
        url = tls.replace("rediss://", f"rediss://coldcache:{quote(PASSWORD, safe='')}@") + options
        yield Server(admin, url, files.authority, stack)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def shared_server(files: Certificates) -> Iterator[Server]:
    with private_server(files) as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """The server, as it is for every test: the setting of key events empty, and the user with its password."""
    yield shared_server
    shared_server.admin.execute_command("ACL", "SETUSER", "coldcache", "resetpass", f">{PASSWORD}")
    shared_server.admin.config_set("notify-keyspace-events", "")


@dataclass
class Place:
    """Where a process of ours may write: everything in here is searched."""

    root: Path
    written: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("home", "tmp", "work"):
            (self.root / name).mkdir(parents=True)

    @property
    def case(self) -> Path:
        return self.root / "work" / "case"

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "PYTHONDONTWRITEBYTECODE": "1",
            **more,
        }

    def start(self, *arguments: str, wrapper: Iterable[str] = (), **environment: str) -> subprocess.Popen[bytes]:
        """Start coldcache; whatever it creates without asking for less would be readable by all."""
        return subprocess.Popen(
            [*wrapper, sys.executable, "-m", "coldcache", *arguments],
            env=self.environment(**environment),
            cwd=self.root / "work",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            umask=0,
        )

    def end_of(self, process: subprocess.Popen[bytes], timeout_s: float = 90) -> int:
        """Wait for its end, keep what it printed, return its exit status."""
        out, err = process.communicate(timeout=timeout_s)
        self.written += [out, err]
        return process.returncode

    def ran(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Run coldcache to its end; return its exit status and what it printed."""
        status = self.end_of(self.start(*arguments, **environment), 240)
        return status, b"".join(self.written[-2:]).decode()

    def leaks(self, words: Iterable[str] = ALL, *, besides: str = "") -> list[str]:
        """Where one of the words stands; files that match the pattern `besides` may hold them."""
        words = [word.encode() for word in words]
        words += [base64.b64encode(word)[:-4] for word in words if len(word) > 12]
        found = [f"printed: {word!r}" for word in words for text in self.written if word in text]
        for path in sorted(self.root.rglob("*")):
            if besides and re.search(besides, path.as_posix()):
                continue
            contents = [path.name.encode()]
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                if path.is_file():
                    contents += unpacked(path)
            found += [f"{path}: {word!r}" for word in words for content in contents if word in content]
        return found

    def too_open(self) -> list[str]:
        """Files and folders of the case that others than its owner could read or write."""
        found = []
        for path in [self.case, *sorted(self.case.rglob("*"))]:
            with contextlib.suppress(FileNotFoundError):
                mode = stat.S_IMODE(path.stat().st_mode)
                if mode != (0o700 if path.is_dir() else 0o600):
                    found.append(f"{path.relative_to(self.root)}: {mode:o}")
        return found


def unpacked(path: Path) -> list[bytes]:
    """The bytes of a file, and of what is packed in it."""
    contents = [path.read_bytes()]
    if path.suffix == ".zst":
        with pa.input_stream(path, compression="zstd") as stream:
            contents.append(stream.read())
    elif path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        contents.append(str(file.metadata.metadata).encode())
        contents.append(file.read().to_pandas().astype("str").to_csv().encode())
    return contents


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "place")


def url_file(tmp_path: Path, url: str) -> str:
    """A file that holds the URL, outside of what is searched."""
    path = tmp_path / "url"
    path.write_text(url + "\n")
    return str(path)


@contextlib.contextmanager
def recording(place: Place, server: Server, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """`coldcache record`, yielded once it captures and has seen traffic."""
    process = place.start("record", "--out", "case", *arguments, **environment)
    try:
        wait_for(lambda: process.poll() is not None or server.captures(), 30)
        assert process.poll() is None, process.communicate()
        wait_for((place.case / "raw" / "info.jsonl").exists, 10)
        write_secrets(server.admin)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    recorder = psutil.Process(process.pid)
    return [recorder, *recorder.children(recursive=True)]


def assert_clean(place: Place) -> None:
    """No secret anywhere, nothing readable by others, and a case that is whole all the same."""
    assert place.leaks() == []
    assert place.too_open() == []
    assert not (place.case / "raw").exists()
    case = coldcache.open_case(place.case)
    assert len(case.accesses) > 100
    assert case.accesses["value_bytes"].notna().sum() > 50
    config = case.table("config").set_index("parameter")["value"]
    assert (config["requirepass"], config["masterauth"]) == ("(redacted)", "(redacted)")


def test_the_search_finds_what_is_planted(place: Place):
    # GIVEN a secret in each form in which a file may hold it
    word = "Zq7LeakPassword"
    table = pa.table({"key": [f"a {word}"] * 1000})
    pq.write_table(table, place.root / "work" / "t.parquet", compression="zstd")
    with pa.CompressedOutputStream(pa.OSFile(str(place.root / "tmp" / "s.resp.zst"), "wb"), "zstd") as packed:
        packed.write(word.encode())
    (place.root / "home" / "page.html").write_bytes(base64.b64encode(word.encode()))
    (place.root / "home" / word).write_text("")
    place.written.append(f"error: {word}".encode())
    # WHEN searched THEN all five are found
    found = place.leaks([word])
    assert [text for text in ("printed", "t.parquet", "s.resp.zst", "page.html", f"home/{word}") if text not in str(found)] == []


# -- while it runs -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["exact", "events"])
def test_while_it_records_only_the_stream_holds_values_and_nothing_holds_the_password(
    server: Server, place: Place, tmp_path: Path, mode: str
):
    # GIVEN a recorder whose URL comes from a file
    given = url_file(tmp_path, server.url)
    with recording(place, server, "--mode", mode, "--seconds", "4", "--url-file", given) as process:
        # WHEN every file is searched while it runs THEN the captured stream alone holds values, none holds the password
        time.sleep(1)
        assert place.leaks(WORDS["password"]) == []
        assert place.leaks(WORDS["value"], besides=r"/raw/stream-\d+\.resp$") == []
        assert place.too_open() == []
        if mode == "exact":
            assert b"Zq7LeakValue" in (place.case / "raw" / "stream-0000.resp").read_bytes()
        # AND what other users see of its processes tells nothing, nor does the environment that they inherit
        processes = family(process)
        assert len(processes) == 2, "the recorder and its guardian"
        for member in processes:
            shown = (
                [Path(f"/proc/{member.pid}/{name}") for name in ("cmdline", "comm", "environ")] if sys.platform == "linux" else []
            )
            told = " ".join([*member.cmdline(), member.name(), *(path.read_bytes().decode("latin-1") for path in shown)])
            assert not [word for word in ALL if word in told]
            assert server.url not in told
        assert place.end_of(process) == 0
    assert place.leaks() == []
    assert place.too_open() == []


@pytest.mark.parametrize("keys", ["plain", "hashed"])
def test_a_recording_that_ends_normally_leaves_no_secret(server: Server, place: Place, keys: str):
    with recording(place, server, "--seconds", "3", "--keys", keys, REDIS_URL=server.url) as process:
        # The tables are being made after 3 s: no moment of it may leave something open
        seen: set[str] = set()
        done = threading.Event()

        def look() -> None:
            while not done.wait(0.005):
                seen.update(place.too_open())

        looker = threading.Thread(target=look)
        looker.start()
        try:
            assert place.end_of(process) == 0
        finally:
            done.set()
            looker.join()
    assert_clean(place)
    if keys == "plain":
        assert seen == set()
    assert miss_ledger(coldcache.open_case(place.case)).residual == 0
    assert server.setting() == ""


def test_ctrl_c_leaves_no_secret(server: Server, place: Place, tmp_path: Path):
    with recording(place, server, "--url-file", url_file(tmp_path, server.url)) as process:
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert place.end_of(process) == 0
    assert_clean(place)


def test_after_sigkill_the_guardian_leaves_no_secret(server: Server, place: Place):
    with recording(place, server, REDIS_URL=server.url) as process:
        time.sleep(1.5)
        write_secrets(server.admin)
        time.sleep(0.6)
        guardian = family(process)[1]
        process.kill()
        place.end_of(process)
        psutil.wait_procs([guardian], 60)
    assert not guardian.is_running()
    assert_clean(place)
    assert server.setting() == ""


def test_a_password_that_is_changed_meanwhile_is_told_without_either(server: Server, place: Place):
    with recording(place, server, "--seconds", "8", REDIS_URL=server.url) as process:
        time.sleep(1)
        server.admin.execute_command("ACL", "SETUSER", "coldcache", "resetpass", f">{REPLACED}")
        server.admin.execute_command("CLIENT", "KILL", "USER", "coldcache")
        place.end_of(process, 200)
    case = coldcache.open_case(place.case)
    assert "refuses the user or password" in case.meta["ended"] + str(case.gaps) + str(case.meta["recorder_notes"])
    assert_clean(place)


def test_a_server_that_goes_away_leaves_no_secret(files: Certificates, place: Place):
    with private_server(files) as server, recording(place, server, "--seconds", "5", REDIS_URL=server.url) as process:
        time.sleep(1)
        server.stop.close()
        place.end_of(process, 200)
    assert coldcache.open_case(place.case).gaps
    assert_clean(place)


# -- what is refused -----------------------------------------------------------------------------


def broken_urls(server: Server) -> dict[str, str]:
    host = server.url.rpartition("@")[2]
    address = host.partition("/")[0]
    encoded = quote(PASSWORD, safe="")
    return {
        "wrong password": f"rediss://coldcache:{encoded}x@{host}",
        "wrong user": f"rediss://nobody:{encoded}@{host}",
        "password of nobody": f"rediss://:{encoded}@{host}",
        "not encoded": f"rediss://coldcache:{PASSWORD}@{host}",
        "port": f"rediss://coldcache:{encoded}@127.0.0.1:{encoded}",
        "authority not named": f"rediss://coldcache:{encoded}@{address}",
        "authority not there": f"rediss://coldcache:{encoded}@{address}?ssl_ca_certs=/nowhere/ca.crt",
        "option": f"rediss://coldcache:{encoded}@{address}?socket_timeout={encoded}",
        "unknown option": f"rediss://coldcache:{encoded}@{address}?{encoded}={encoded}",
        "no TLS": f"redis://coldcache:{encoded}@{address}",
        "refused": f"rediss://coldcache:{encoded}@127.0.0.1:1",
        "no such host": f"rediss://coldcache:{encoded}@nowhere.invalid:1",
        "unix": f"unix://coldcache:{encoded}@/nowhere/redis.sock",
        "scheme": f"http://coldcache:{encoded}@{host}",
        "password as option": f"rediss://{address}?ssl_ca_certs={server.ca}&username=coldcache&password={encoded}x",
    }


CASES = [
    "wrong password", "wrong user", "password of nobody", "not encoded", "port", "authority not named", "authority not there",
    "option", "unknown option", "no TLS", "refused", "no such host", "unix", "scheme", "password as option",
]  # fmt: skip


@pytest.mark.parametrize("wrong", CASES)
def test_a_url_that_does_not_work_is_told_in_one_sentence_without_it(server: Server, place: Place, wrong: str):
    url = broken_urls(server)[wrong]
    for arguments in (("record", "--out", "case", "--seconds", "2"), ("doctor", "--json")):
        status, told = place.ran(*arguments, REDIS_URL=url)
        assert status in (1, 64), told
        assert "Traceback" not in told
    assert place.leaks() == []
    assert not place.case.exists()


@pytest.mark.parametrize("command", ["record", "doctor"])
def test_a_server_that_does_not_know_auth_does_not_make_us_print_the_password(place: Place, command: str):
    binary = shutil.which("redis-server")
    if binary is None:
        needed_on_ci("redis-server")
    with lab_server(str(binary), "--rename-command", "AUTH", "") as url:
        asked = url.replace("redis://", "redis://:Zq7LeakPassword@")
        status, _ = place.ran(command, "--out", "case", "--seconds", "2", REDIS_URL=asked)
    assert status == 1
    assert place.leaks() == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--mode", "exakt"), ("--duty", "many"), ("--keys", "secret"), ("--seconds", "soon"), ("--pid", "4194305"),
        ("--run", "python 'unclosed"), ("--url-file", "/nowhere"), ("--no-such-option",), ("--keep-raw", "--keys", "hashed"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_told_without_the_url(server: Server, place: Place, arguments: tuple[str, ...]):
    status, told = place.ran("record", "--out", "case", "--seconds", "2", *arguments, REDIS_URL=server.url)
    assert status in (1, 64), told
    assert place.leaks() == []
    assert not place.case.exists()


CRASHES = {
    "at the start": "import coldcache.record.recorder as r; r.Guardian = lambda folder: 1 / 0",
    "in a thread": "import coldcache.record.node as n; n.NodeRecorder._learn = lambda *a, **k: {}[a]",
    "while finishing": "import coldcache.record.build as b; b.build_tables = lambda *a: {}['bug']",
    "in the tables": "import coldcache.record.build as b; b.AccessBuilder.feed = lambda self, item, at: {}['bug']",
}


@pytest.mark.parametrize("where", CRASHES)
def test_a_bug_of_ours_shows_its_traceback_and_no_secret(server: Server, place: Place, where: str):
    # GIVEN a recorder with a bug WHEN it crashes with a traceback
    program = f"{CRASHES[where]}; from coldcache.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "record", "--out", "case", "--seconds", "3"],
        env=place.environment(REDIS_URL=server.url), cwd=place.root / "work", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        umask=0,
    )  # fmt: skip
    writer_ends = time.monotonic() + 4
    while process.poll() is None and time.monotonic() < writer_ends:
        write_secrets(server.admin)
        time.sleep(0.1)
    place.end_of(process)
    # THEN it tells none, and what is left of the case is its owner's only
    assert b"Traceback" in b"".join(place.written)
    assert place.leaks(WORDS["password"]) == []
    assert place.leaks(WORDS["value"], besides=r"/raw/stream-\d+\.resp$") == []
    if place.case.exists():
        assert place.too_open() == []


# -- what others make of a case ------------------------------------------------------------------


def test_doctor_diagnose_and_report_hold_no_secret(server: Server, place: Place):
    with recording(place, server, "--seconds", "3", REDIS_URL=server.url) as process:
        write_secrets(server.admin)
        assert place.end_of(process) == 0
    for arguments in (("doctor",), ("doctor", "--json"), ("diagnose", "case"), ("diagnose", "case", "--json")):
        status, told = place.ran(*arguments, REDIS_URL=server.url)
        assert status in (0, 1, 2), told
        assert "Traceback" not in told
    # WHEN notebooks run with the URL in their environment
    status, told = place.ran("report", "case", "--out", "report", "--quiet", REDIS_URL=server.url)
    assert status in (0, 2), told
    # THEN neither the notebooks as executed, with their parameters, nor the page hold any of it
    assert (place.root / "work" / "report" / "index.html").exists()
    assert len(list((place.root / "work" / "report").glob("*.ipynb"))) > 1
    assert place.leaks() == []


# -- every system call ---------------------------------------------------------------------------

WRITE = re.compile(r"\b(?:write|pwrite64|writev|pwritev2?|sendto|sendmsg)\((\d+)<([^>]*)>")
OPEN = re.compile(r'\bopenat\([^,]*, "([^"]*)", ([A-Z_|0-9a-z]+)(?:, (0\d+))?\) = \d+<([^>]*)>')


def test_every_write_of_every_process_is_where_it_may_be(server: Server, place: Place, tmp_path: Path):
    # GIVEN a recorder under strace, with all its threads and its guardian
    strace = shutil.which("strace")
    trace = tmp_path / "trace"
    calls = "trace=openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,memfd_create,linkat,link,symlink"
    tool = [str(strace), "-f", "-qq", "-y", "-s", "100000", "-e", calls, "-e", "signal=none", "-o", str(trace)]
    if strace is None or subprocess.run([*tool, "true"], check=False, capture_output=True).returncode:
        pytest.skip("strace is not installed, or may not trace here")
    arguments = ("record", "--out", "case", "--seconds", "5", "--mode", "exact", "--quiet")
    process = place.start(*arguments, wrapper=tool, REDIS_URL=server.url)
    wait_for(lambda: process.poll() is not None or server.captures(), 60)
    wait_for((place.case / "raw" / "info.jsonl").exists, 20)
    write_secrets(server.admin)
    assert place.end_of(process, 200) == 0
    lines = trace.read_text("latin-1").splitlines()
    # THEN files are written only in the case, and in the places that are meant for it
    opened = [match for entry in lines if (match := OPEN.search(entry)) and re.search("O_WRONLY|O_RDWR|O_CREAT", match[2])]
    assert opened
    outside = [match[4] for match in opened if not match[4].startswith((str(place.root), "/dev/", "/proc/"))]
    assert outside == []
    assert not [entry for entry in lines if "memfd_create(" in entry]
    # AND every file of the case is created for its owner only
    created = [(match[4], match[3]) for match in opened if match[4].startswith(str(place.case.parent)) and "O_CREAT" in match[2]]
    assert {mode for _, mode in created} == {"0600"}, created
    # AND the password goes into no file: only into sockets and the pipe to the guardian
    writes = [(match[2], entry) for entry in lines if (match := WRITE.search(entry))]
    assert len(writes) > 50
    to_files = [(target, entry) for target, entry in writes if target.startswith("/")]
    for target, entry in to_files:
        assert not [word for word in WORDS["password"] if word in entry], target
    told_to = {re.sub(r"\d+|\[.*\]", "", target) for target, entry in writes if "p%40ss" in entry}
    assert told_to == {"pipe:"}
    # AND values go into the captured stream and nowhere else
    holding = {target for target, entry in writes if any(word in entry for word in WORDS["value"])}
    assert {re.sub(r"\d+", "N", Path(target).name) for target in holding} == {"stream-N.resp"}
    assert_clean(place)
