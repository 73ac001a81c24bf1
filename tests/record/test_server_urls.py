"""URLs of servers: read, named without credentials, and never quoted in an error."""

from __future__ import annotations

import inspect
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from coldcache.errors import ServerRefusedError, ServerUnreachableError, UrlError
from coldcache.record.server import bare_url, client_of, friendly, node_name, protocol_of, url_from, url_of_node
from coldcache.sources.clients import client_fields
from hypothesis import given
from hypothesis import strategies as st

SECRET = "s3cr3t-Pa55"


def test_a_url_comes_from_a_variable_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REDIS_URL", "redis://default:6379/0")
    monkeypatch.setenv("OTHER", " redis://other:6379/0 \n")
    (tmp_path / "url").write_text("rediss://file:6380/0\n")
    assert url_from(None, None) == "redis://default:6379/0"
    assert url_from("OTHER", None) == "redis://other:6379/0"
    assert url_from(None, tmp_path / "url") == "rediss://file:6380/0"
    with pytest.raises(UrlError, match="not both"):
        url_from("OTHER", tmp_path / "url")


@pytest.mark.parametrize(
    "url",
    [
        "redis://h", "redis://h:1/2", "rediss://u:p%40%2F%5B@h:6380?ssl_ca_certs=/ca.crt", "unix:///run/redis.sock",
        f"unix://u:{SECRET}@/run/redis.sock?protocol=3", "redis://[::1]:7000/0", "redis://:p@h",
    ],
)  # fmt: skip
def test_urls_that_can_be_used(monkeypatch: pytest.MonkeyPatch, url: str):
    monkeypatch.setenv("REDIS_URL", url)
    assert url_from(None, None) == url


@pytest.mark.parametrize(
    "url",
    [
        "", "   ", "h:6379", f"http://u:{SECRET}@h", f"redis://u:{SECRET}/@h:1", f"redis://u:{SECRET}#x@h:1",
        f"redis://u:{SECRET}?x@h", f"redis://u:{SECRET}[@h:1", f"redis://u:{SECRET}@h:port", f"redis://u:{SECRET}@h:0",
        f"redis://u:{SECRET}@h:99999", "unix://", f"unix://u:{SECRET}@", f"redis:/u:{SECRET}@h", f"redis://:12/{SECRET}@h",
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_used_is_an_error_that_does_not_quote_it(monkeypatch: pytest.MonkeyPatch, url: str):
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(UrlError, match="REDIS_URL") as caught:
        url_from(None, None)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_url_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(UrlError, match="No such file"):
        url_from(None, tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe" + SECRET.encode())
    with pytest.raises(UrlError, match="no text") as caught:
        url_from(None, tmp_path / "binary")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://h", "h:6379"),
        ("redis://", "localhost:6379"),
        (f"rediss://u:{SECRET}@Cache.Example.com:6380/3?x=1", "cache.example.com:6380"),
        (f"unix://u:{SECRET}@/run/redis.sock?db=1", "/run/redis.sock"),
        ("redis://[2001:db8::7]:7000", "2001:db8::7:7000"),
    ],
)
def test_a_node_is_named_without_user_password_and_options(url: str, name: str):
    assert node_name(url) == name


def test_a_port_that_is_no_number_is_told_without_the_url():
    with pytest.raises(UrlError) as caught:
        node_name(f"redis://u:{SECRET}@h:x")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "host", "expected"),
    [
        ("redis://h:1/0", "10.0.0.2", "redis://10.0.0.2:7001/0"),
        ("rediss://u:p%40@h:1/0?ssl_ca_certs=/ca", "cache-2", "rediss://u:p%40@cache-2:7001/0?ssl_ca_certs=/ca"),
        ("redis://:p@h:1", "2001:db8::7", "redis://:p@[2001:db8::7]:7001"),
        ("redis://[::1]:1", "::1", "redis://[::1]:7001"),
    ],
)
def test_another_node_of_a_cluster_has_the_same_credentials_and_options(url: str, host: str, expected: str):
    made = url_of_node(url, host, 7001)
    assert made == expected
    assert node_name(made) == f"{host}:7001"


@pytest.mark.parametrize(
    ("url", "bare", "protocol"),
    [
        ("redis://u:p@h:1/3", "redis://u:p@h:1", 2),
        ("redis://h:1?protocol=3&db=2", "redis://h:1", 3),
        ("redis://h:1?protocol=2", "redis://h:1", 2),
        ("redis://h:1?protocol=9", "redis://h:1", 2),
        (
            "rediss://h:1/0?ssl_ca_certs=/ca&protocol=3&ssl_check_hostname=no",
            "rediss://h:1?ssl_ca_certs=/ca&ssl_check_hostname=no",
            3,
        ),
        ("unix:///run/redis.sock?db=4", "unix:///run/redis.sock", 2),
        ("unix://u:p@/run/redis.sock?protocol=3&socket_timeout=9", "unix://u:p@/run/redis.sock?socket_timeout=9", 3),
    ],
)
def test_a_bare_url_asks_for_no_database_and_leaves_the_protocol_to_us(url: str, bare: str, protocol: int):
    assert (bare_url(url), protocol_of(url)) == (bare, protocol)
    assert bare_url(bare) == bare


def test_an_option_that_cannot_be_read_is_told_without_the_url():
    with pytest.raises(UrlError, match="option") as caught:
        client_of(f"redis://u:{SECRET}@h:1?socket_timeout=soon", "x")
    assert SECRET not in str(caught.value)


def test_the_fields_of_a_client_line():
    assert client_fields(b"id=7 addr=[::1]:50 name=a=b flags=N") == {"id": "7", "addr": "[::1]:50", "name": "a=b", "flags": "N"}


# What a server or proxy quotes back: the arguments of a command that it does not know.
QUOTING = [
    f"Error 111 connecting to redis://u:{SECRET}@h:1. Connection refused.",
    f"unknown command 'AUTH', with args beginning with: 'u' '{SECRET}' ",
    f"unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `u`, `{SECRET}`, ",
    f"WRONGPASS invalid username-password pair u:{SECRET}",
    SECRET,
]
REDIS_ERRORS = [
    error for _, error in inspect.getmembers(redis.exceptions, inspect.isclass) if issubclass(error, redis.RedisError)
]
OF_CONNECTIONS = (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse)
CONNECTION_ERRORS = [error for error in REDIS_ERRORS if issubclass(error, OF_CONNECTIONS)]
# A redirection wants "slot host:port" as its text.
REFUSALS = [
    error
    for error in REDIS_ERRORS
    if issubclass(error, redis.ResponseError) and not issubclass(error, redis.exceptions.AskError | redis.InvalidResponse)
]


def sentence(error: Exception, *, tls: bool) -> str:
    """What a user is told."""
    with pytest.raises((ServerRefusedError, ServerUnreachableError)) as told, friendly("h:1", tls=tls):
        raise error
    assert told.value.__suppress_context__
    return str(told.value)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("quoting", QUOTING)
def test_an_error_of_the_connection_is_one_sentence_that_quotes_nothing(quoting: str, tls: bool):
    for error in (*CONNECTION_ERRORS, ConnectionResetError, BrokenPipeError, TimeoutError):
        told = sentence(error(quoting), tls=tls)
        assert SECRET not in told, error
        assert "h:1" in told


@pytest.mark.parametrize("quoting", QUOTING[1:3])
def test_a_refusal_never_quotes_a_password(quoting: str):
    for error in REFUSALS:
        assert SECRET not in sentence(error(quoting), tls=False), error


@given(st.text(min_size=6).filter(lambda text: text.strip() == text and text not in "h:6379 localhost refuses"))
def test_no_password_shows_in_a_nodes_name(password: str):
    encoded = quote(password, safe="")
    assert node_name(f"redis://user:{encoded}@10.0.0.1:6379/0?x={encoded}") == "10.0.0.1:6379"
    assert bare_url(f"redis://user:{encoded}@10.0.0.1:6379/0").count(encoded) == 1
