"""Who does the work on shards: this machine's cores, or the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, TypeVar

import pyarrow as pa

from coldcache.errors import SchedulerError

Told = Callable[[str, int, int], None]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# More threads than that win little, for Python code runs in one of them at a time, and each holds a shard.
_MOST_THREADS = 8
_ATTEMPTS = 3  # of a task whose worker died
# M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: malloc.h of glibc
_MALLOC_OPTIONS = ((-8, 1), (-3, 1 << 30), (-1, (1 << 31) - 1))


def nobody(what: str, done: int, total: int) -> None:
    """Tell nobody how far the work has come."""


class Workers:
    """Runs a function on many items and returns the results in their order.

    Parameters
    ----------
    scheduler : str, optional
        Address of a Dask scheduler (``tcp://host:8786``) whose workers see the case's folder and have coldcache
        installed. Without it this machine's cores do the work, in threads: what is slow is compiled, and leaves Python alone.
    told : callable of (what, done, total)
        Is told how far the work has come.

    Raises
    ------
    SchedulerError
        The scheduler cannot be reached, has no worker, or lost every worker that a task was given to.
    """

    def __init__(self, scheduler: str | None = None, told: Told = nobody) -> None:
        self._told = told
        self._scheduler = scheduler
        self._client = _connected(scheduler) if scheduler is not None else None

    @property
    def apart(self) -> bool:
        """Whether the work is done by other processes, which share files with this one, but no memory."""
        return self._client is not None

    def map(self, what: str, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        """Return ``function(item)`` of every item; `what` says what is done, for people.

        A task may be done twice, where a worker dies: it must come to the same, and write its files in one step.
        """
        if not items:
            return []
        self._told(what, 0, len(items))
        if self._client is not None:
            return self._on_cluster(what, function, items)
        if len(items) == 1:
            result = function(items[0])
            self._told(what, 1, 1)
            return [result]
        return self._in_threads(what, function, items)

    def _in_threads(self, what: str, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        import dask.threaded  # a third of a second that a small case does not need
        from dask.callbacks import Callback

        done = 0

        def one_more(*_: Any) -> None:
            nonlocal done
            done += 1
            self._told(what, done, len(items))

        names = [(what, number) for number in range(len(items))]
        graph = {name: (partial(function, item),) for name, item in zip(names, items, strict=True)}
        _keep_memory()
        threads = min(_MOST_THREADS, os.cpu_count() or 1, len(items))
        with Callback(posttask=one_more):
            return list(dask.threaded.get(graph, names, num_workers=threads))

    def _on_cluster(self, what: str, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        from distributed import CancelledError, KilledWorker, as_completed

        client: Any = self._client
        futures = [client.submit(partial(function, item), pure=False, retries=_ATTEMPTS) for item in items]
        try:
            for done, _ in enumerate(as_completed(futures, loop=client.loop), start=1):
                self._told(what, done, len(items))
            return list(client.gather(futures))
        except (KilledWorker, CancelledError, OSError) as error:
            raise SchedulerError(
                f"The workers of {self._scheduler} did not finish ({type(error).__name__} while {what}). Look at their logs for "
                "want of memory, start more of them, and say again; or leave --scheduler out."
            ) from None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the cluster, if there is one."""
        if self._client is not None:
            self._client.close()


@cache
def _keep_memory() -> None:
    """Let glibc keep the memory that is freed, in one arena, instead of giving it back to the system at each step.

    Threads would have arenas of 64 MB at most, past which every array is new memory, cleared by the system: a fifth of all time,
    and half as much memory again (measured with 500,000 rows in a shard). Arrow, which has an allocator of its own that gives
    memory back, takes it from there, too: half of the system's time, and a third of the memory less (measured likewise).
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        for option, value in _MALLOC_OPTIONS:
            set_option(option, value)
        pa.set_memory_pool(pa.system_memory_pool())


def _connected(scheduler: str) -> Any:
    """Return a client of a scheduler that has workers."""
    import distributed

    try:
        client = distributed.Client(scheduler, timeout=10, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise SchedulerError(
            f"No Dask scheduler answers at {scheduler} ({type(error).__name__}). Start one with `dask scheduler`, workers with "
            "`dask worker ADDRESS`, and give its address, such as tcp://127.0.0.1:8786."
        ) from None
    if not client.scheduler_info(n_workers=-1)["workers"]:
        client.close()
        raise SchedulerError(f"The Dask scheduler at {scheduler} has no workers. Start some with `dask worker {scheduler}`.")
    return client
