"""Logs the garbage collector's pauses of the program that `coldcache record --run` started.

Python imports ``sitecustomize`` at its start; the recorder puts this folder first on PYTHONPATH.
It uses the standard library only, for it runs in the program's interpreter, and hands over to
the sitecustomize that would have been imported without it. `coldcache.instrument.log_gc` loads
the same file under another name.
"""

import gc
import os
import sys
import time

# Young collections are many and short (859 of 38 µs in a loop that makes 300,000 objects,
# measured): one is worth a line from 1 ms, a full one always.
_LEAST_PAUSE_US = 1000


def log_gc(path: str) -> None:
    """Append one JSON line to `path` per full collection, and per any that took 1 ms or more.

    The file is opened for each line, 6 µs: so it is right after a fork, after a daemon has closed
    every descriptor, and when several processes share the file. It is no second time logged to
    the same file; a file that cannot be written ends the logging without a word.
    """
    if any(getattr(callback, "coldcache_log", None) == path for callback in gc.callbacks):
        return
    began_ns = 0

    def on_collection(phase: str, info: dict[str, int]) -> None:
        nonlocal began_ns
        now_ns = time.perf_counter_ns()
        if phase == "start":
            began_ns = now_ns
            return
        pause_us = (now_ns - began_ns) // 1000
        if not began_ns or (info["generation"] < 2 and pause_us < _LEAST_PAUSE_US):
            return
        line = (
            f'{{"stamp_us": {time.time_ns() // 1000}, "pid": {os.getpid()}, "generation": {info["generation"]}, '
            f'"pause_us": {pause_us}, "collected": {info["collected"]}}}\n'
        )
        try:
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, line.encode())
            finally:
                os.close(file)
        except OSError:
            if on_collection in gc.callbacks:
                gc.callbacks.remove(on_collection)

    on_collection.coldcache_log = path  # type: ignore[attr-defined]
    gc.callbacks.append(on_collection)


def _hand_over() -> None:
    """Take this folder off sys.path and run the next sitecustomize, if there is one."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    found = PathFinder.find_spec(__name__, sys.path)
    if found is not None and found.loader is not None:
        sys.modules[__name__] = module = module_from_spec(found)
        found.loader.exec_module(module)


if __name__ == "sitecustomize":
    if _path := os.environ.get("COLDCACHE_GC_LOG"):
        log_gc(_path)
    _hand_over()
