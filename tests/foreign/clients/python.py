"""Python: pages that Django caches, views that Flask-Caching caches, jobs and results of Celery."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import random
import time
import uuid
import zlib
from collections.abc import Iterable
from typing import Any, ClassVar

from foreign.application import (
    HEALTHY,
    Application,
    Command,
    Fault,
    Wire,
    counted,
    elsewhere,
    hitting,
    missing,
    prose,
    same,
    zipf,
)

_REDIS_PY = [("CLIENT", "SETINFO", "LIB-NAME", "redis-py"), ("CLIENT", "SETINFO", "LIB-VER", "5.0.8")]


class DjangoPages(Application):
    """A site on Django: cache_page with its two keys for each page, a template fragment, sessions in the cache."""

    name = "django-pages"
    connections = 6
    rate = 200
    faults: ClassVar = {
        "version_bumped": Fault(
            cause="key_version",
            what="a deploy sets VERSION = 2, so all that was cached is stranded under :1:",
            symptom=counted("after_deploy_missed", 60),
            families=elsewhere(
                (":2:views.decorators.cache.cache_header..*.en-us.UTC", ":1:views.decorators.cache.cache_header..*.en-us.UTC"),
                (
                    ":2:views.decorators.cache.cache_page..GET.*.*.en-us.UTC",
                    ":1:views.decorators.cache.cache_page..GET.*.*.en-us.UTC",
                ),
                (":2:template.cache.sidebar.*", ":1:template.cache.sidebar.*"),
            ),
            edits=("1 -> 2",),
            verdicts=frozenset({"faulty", "insufficient_evidence"}),
        ),
        "hash_of_the_process": Fault(
            cause="key_hash",
            what="a fragment's key holds Python's hash() of its name, which every process salts anew",
            symptom=missing(0.3),
            families=same(":1:template.cache.sidebar.*"),
        ),
    }
    _URLS = 260

    def __init__(self, url: str, fault: str = HEALTHY) -> None:
        super().__init__(url, fault)
        self._version = 1
        self._restarts = 0

    def handshake(self, number: int) -> Iterable[Command]:
        return _REDIS_PY

    def prepare(self, wire: Wire) -> None:
        for page in range(self._URLS):
            self._page(wire, page)

    def request(self, wire: Wire, rng: random.Random) -> None:
        self._page(wire, zipf(rng, self._URLS, 0.6))
        for _ in range(4 if self.fault == "hash_of_the_process" else 1):
            self._fragment(wire, rng.randrange(self._URLS))

    def _page(self, wire: Wire, page: int) -> None:
        version = self._version
        address = hashlib.md5(b"https://gardeners.example/plants/%d/" % page).hexdigest()
        vary = hashlib.md5(b"Accept-Encoding").hexdigest()
        header = f":{version}:views.decorators.cache.cache_header..{address}.en-us.UTC"
        body = f":{version}:views.decorators.cache.cache_page..GET.{address}.{vary}.en-us.UTC"
        if self._found(wire, header) and self._found(wire, body):
            return
        self.compute()
        wire.ask("SET", header, pickle.dumps(["HTTP_ACCEPT_ENCODING"], 5), "EX", 600)
        content = {"_headers": {"content-type": "text/html"}, "_container": [prose(page, 1500).encode()], "status": 200}
        wire.ask("SET", body, pickle.dumps(content, 5), "EX", 600)

    def _fragment(self, wire: Wire, number: int) -> None:
        token = hashlib.md5(b"sidebar:%d" % number).hexdigest()
        if self.fault == "hash_of_the_process":
            salt = f"{wire.number} {self._restarts}".encode()
            salted = hashlib.blake2b(token.encode(), digest_size=8, key=salt).digest()
            token = str(int.from_bytes(salted, "big", signed=True))
        key = f":{self._version}:template.cache.sidebar.{token}"
        if not self._found(wire, key):
            wire.ask("SET", key, pickle.dumps(prose(number, 300), 5), "EX", 600)

    def _found(self, wire: Wire, key: str) -> bool:
        hit = self.looked_up(hit=wire.ask("GET", key) is not None)
        if not hit and self._version == 2:
            self.count("after_deploy_missed")
        return hit

    def midway(self, wire: Wire) -> None:
        self._restarts += 1  # gunicorn's max_requests: only the salt of hash() notices
        if self.fault == "version_bumped":
            self._version = 2


class FlaskArticles(Application):
    """A knowledge base on Flask-Caching, whose keys are the paths of requests."""

    name = "flask-articles"
    connections = 3
    rate = 240
    faults: ClassVar = {
        "trailing_slash": Fault(
            cause="key_naming",
            what="a page is looked up by its path as asked for, with a slash, and stored by its canonical path, without",
            symptom=missing(0.9),
            families=elsewhere(("flask_cache_view//kb/*/", "flask_cache_view//kb/*")),
            edits=("(none) -> /",),
        ),
        "click_ids_in_the_path": Fault(
            cause="unique_key",
            what="the key is the full path with the click id that an advertiser adds to each link",
            symptom=missing(0.6),
            families=same("flask_cache_view//kb/*?gclid=*"),
        ),
    }
    _ARTICLES = 90

    def request(self, wire: Wire, rng: random.Random) -> None:
        article = zipf(rng, self._ARTICLES)
        read = written = f"flask_cache_view//kb/{article}"
        if self.fault == "trailing_slash":
            read += "/"
        elif self.fault == "click_ids_in_the_path" and rng.random() < 0.9:
            clicked = base64.urlsafe_b64encode(rng.randbytes(24)).decode()
            read = written = f"{written}?gclid={clicked}"
        if self.looked_up(hit=wire.ask("GET", read) is not None):
            return
        self.compute()
        wire.ask("SETEX", written, 300, b"!" + pickle.dumps(prose(article, 1200), 4))


class CeleryReports(Application):
    """Reports that Celery makes: two workers wait for jobs, the others send them and ask for results until they are there.

    The first look at a result mostly misses, and the next one hits: by design.
    """

    name = "celery-reports"
    connections = 8
    rate = 100
    healthy = staticmethod(hitting(0.4))
    faults: ClassVar = {
        "results_never_expire": Fault(
            cause="key_growth",
            what="result_expires is None and nobody forgets a result: every job leaves its result for ever",
            symptom=counted("kept", 100),
            families=same("celery-task-meta-*"),
        ),
        "prefix_of_the_environment": Fault(
            cause="key_prefix",
            what="workers store results with the prefix of staging, the site asks for them with that of live",
            symptom=counted("given_up", 25),
            families=elsewhere(("live-celery-task-meta-*", "staging-celery-task-meta-*")),
            edits=("staging -> live",),
        ),
    }
    _WORKERS = 2
    _QUEUES = ("celery", "celery\x06\x163", "celery\x06\x166", "celery\x06\x169")

    def handshake(self, number: int) -> Iterable[Command]:
        return _REDIS_PY

    def _result(self, task: str, *, written: bool) -> str:
        split = self.fault == "prefix_of_the_environment"
        return f"{('staging-' if written else 'live-') if split else ''}celery-task-meta-{task}"

    def request(self, wire: Wire, rng: random.Random) -> None:
        if wire.number < self._WORKERS:
            for _ in range(4):
                self._work(wire)
        else:
            self._send(wire, rng)

    def _send(self, wire: Wire, rng: random.Random) -> None:
        self._settings(wire, zipf(rng, 30))
        task = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        body = base64.b64encode(json.dumps([[rng.randrange(900)], {}, {"callbacks": None}]).encode()).decode()
        headers = {"lang": "py", "task": "reports.tasks.render", "id": task, "retries": 0, "origin": f"gen{wire.number}@web"}
        properties = {"delivery_info": {"exchange": "", "routing_key": "celery"}, "delivery_tag": task}
        message = {"body": body, "content-encoding": "utf-8", "headers": headers, "properties": properties}
        wire.ask("LPUSH", "celery", json.dumps(message))
        key = self._result(task, written=False)
        for pause_s in (0.01, 0.02, 0.04, 0.08, 0.16):
            if self.looked_up(hit=wire.ask("GET", key) is not None):
                if self.fault != "results_never_expire":
                    wire.ask("DEL", key)
                return
            self.compute(pause_s)
        self.count("given_up")

    def _settings(self, wire: Wire, customer: int) -> None:
        key = f"reports:layout:{customer}"
        if not self.looked_up(hit=wire.ask("GET", key) is not None):
            wire.ask("SETEX", key, 1800, json.dumps({"columns": prose(customer, 80).split(), "paper": "A4"}))

    def _work(self, wire: Wire) -> None:
        got = wire.ask("BRPOP", *self._QUEUES, 1)
        if got is None:
            return
        message = json.loads(got[1])
        task = message["headers"]["id"]
        tag = message["properties"]["delivery_tag"]
        wire.transaction([("ZADD", "unacked_index", time.time(), tag), ("HSET", "unacked", tag, got[1])])
        self.compute()
        key, meta = self._result(task, written=True), {"status": "SUCCESS", "result": prose(len(task), 200), "task_id": task}
        store: Any = ("SETEX", key, 86_400, json.dumps(meta))
        if self.fault == "results_never_expire":
            store = ("SET", key, json.dumps({**meta, "traceback": base64.b64encode(zlib.compress(task.encode())).decode()}))
            self.count("kept")
        wire.transaction([store, ("PUBLISH", key, json.dumps(meta))])
        wire.transaction([("ZREM", "unacked_index", tag), ("HDEL", "unacked", tag)])


CLIENTS = (DjangoPages, FlaskArticles, CeleryReports)
