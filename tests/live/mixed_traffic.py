"""Every way to read, write, expire and delete a key, as fast as asked: a program of its own.

    python mixed_traffic.py URL SECONDS COMMANDS_PER_S SEED TAGS

TAGS are hash tags, comma-separated: on a cluster, those of one node. Prints how many commands it
sent. Batches are packed beforehand where they hold no absolute time, so that one process is fast enough.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator

import hiredis
import redis

BATCH = 100
SCRIPT = "local v = redis.call('GET', KEYS[1]); if not v then redis.call('SET', KEYS[1], ARGV[1], 'PX', 300) end; return v"


def commands(rng: random.Random, tags: list[str]) -> Iterator[tuple[object, ...]]:
    """Yield commands; keys of one command share their tag."""
    while True:
        tag = rng.choice(tags)

        def key(tag: str = tag) -> str:
            return f"{{{tag}}}:user:{rng.randrange(3000)}"

        k, v = key(), "v" * rng.randrange(10, 2500)
        now = time.time()
        choices: list[list[tuple[object, ...]]] = [
            [("GET", k)] * 4,
            [("MGET", k, key(), key(), k)],
            [("SET", k, v)],
            [("SET", k, v, "EX", 1)],
            [("SET", k, v, "PX", rng.choice([1, 5, 50, 400]))],
            [("SET", k, v, "EXAT", int(now) + rng.choice([-5, 1, 2]))],
            [("SET", k, v, "PXAT", int(now * 1000) + rng.choice([-100, 20, 700]))],
            [("SET", k, v, "NX", "PX", 200), ("SET", k, v, "XX"), ("SET", k, v, "KEEPTTL")],
            [("SETEX", k, 1, v), ("PSETEX", key(), 30, v)],
            [("SET", k, v, "EX", 0), ("SET", k, v, "GET"), ("GETSET", k, v)],
            [("GETEX", k, "PX", 40), ("GETDEL", key())],
            [("DEL", k, key()), ("UNLINK", key())],
            [("EXPIRE", k, rng.choice([-1, 0, 1, 50])), ("PEXPIRE", key(), 20), ("PERSIST", key())],
            [("EXPIREAT", k, int(now) + 1), ("TTL", k), ("PTTL", key()), ("EXISTS", k, key(), k), ("TYPE", k)],
            [("EVAL", SCRIPT, 1, k, "x")],
            [("MULTI",), ("GET", k), ("SET", key(), v), ("GET", key()), ("EXEC",)],
            [("MULTI",), ("SET", k, v), ("DISCARD",)],
            [("HSET", f"{k}:h", "f", "1"), ("HGET", f"{key()}:h", "f"), ("GET", f"{k}:h"), ("HINCRBY", f"{k}:h", "n", 1)],
            [("INCR", f"{k}:n"), ("APPEND", f"{k}:a", "x"), ("STRLEN", f"{key()}:a"), ("SETRANGE", f"{k}:a", 3, "y")],
            [("SADD", f"{k}:s", "a"), ("SISMEMBER", f"{key()}:s", "a"), ("TOUCH", k, key()), ("LPUSH", f"{k}:l", "x")],
            [
                ("PFADD", f"{k}:p", "a"),
                ("PFCOUNT", f"{key()}:p"),
                ("COPY", k, f"{k}:c", "REPLACE"),
                ("SUNIONSTORE", f"{k}:u", f"{key()}:s"),
            ],
            [("GET", b'{%b}:bin\x00\xff\r\n"\\' % tag.encode() + str(rng.randrange(50)).encode())],
        ]
        yield from rng.choice(choices)


def main() -> None:
    """Send until the time is over."""
    url, seconds, rate, seed, tags = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5].split(",")
    rng = random.Random(seed)
    source = commands(rng, tags)
    pool = redis.ConnectionPool.from_url(url, protocol=2)
    connection = pool.make_connection()
    connection.connect()
    sock = connection._sock
    reader = hiredis.Reader(notEnoughData=Ellipsis)
    batches: list[tuple[int, bytes]] = []
    sent, began = 0, time.monotonic()
    while (now := time.monotonic()) - began < seconds:
        # One batch in four is new, with times of now; the others are taken from the last hundred.
        if len(batches) < 100 or rng.random() < 0.25:
            batch = []
            while len(batch) < BATCH or batch[-1][0] not in ("EXEC", "DISCARD", "GET"):
                batch.append(next(source))
            batches.append((len(batch), b"".join(connection.pack_commands(batch))))
            del batches[:-100]
        count, data = rng.choice(batches)
        sock.sendall(data)
        waiting = count
        while waiting:
            reply = reader.gets()
            if reply is Ellipsis:
                if not (data := sock.recv(1 << 20)):
                    raise SystemExit("the server is gone")
                reader.feed(data)
            else:
                waiting -= 1
        sent += count
        if (ahead := sent / rate - (now - began)) > 0:
            time.sleep(ahead)
    connection.disconnect()
    print(sent)


if __name__ == "__main__":
    main()
