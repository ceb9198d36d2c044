"""Executors: units of work in parallel, results in order.

Work is a function of a module, what all units share, and units of plain data: no closure, so that
an executor may send it elsewhere. Order makes the bytes independent of the number of workers; a
bound on the results in flight makes the memory so. tests/test_executors.py is what each must pass.

Threads are enough on one machine: the loops are compiled without the GIL, and reading, hashing and
zstd release it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from taskstore.errors import OptionError

S = TypeVar("S")
U = TypeVar("U")
R = TypeVar("R")


class Executor(Protocol):
    """Runs units of work; travels in the job that they belong to."""

    @property
    def jobs(self) -> int:
        """Workers."""

    def map(self, function: Callable[[S, U], R], shared: S, units: Iterable[U]) -> Iterator[R]:
        """`function(shared, unit)` for each unit, in the order of the units.

        Units are taken as results are: a bounded number is in flight. The first exception is
        raised in its turn, and later units are not begun.
        """


@dataclass(frozen=True)
class Threads:
    """`jobs` threads; at most `in_flight` results (None: 2 jobs + 1) are started and not taken."""

    jobs: int
    in_flight: int | None = None

    def map(self, function: Callable[[S, U], R], shared: S, units: Iterable[U]) -> Iterator[R]:
        bound = max(1, self.in_flight or 2 * self.jobs + 1)
        if self.jobs == 1 and bound == 1:
            yield from (function(shared, unit) for unit in units)
            return
        pool = ThreadPoolExecutor(self.jobs, thread_name_prefix="taskstore")
        waiting: deque[Future[R]] = deque()
        try:
            for unit in units:
                if len(waiting) == bound:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(function, shared, unit))
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def threads(jobs: int | None = None) -> Threads:
    """`jobs` threads; None: as many as there are cores that this process may use."""
    return Threads(jobs or default_jobs())


def within(jobs: int, max_memory: int, block: int, models: str) -> Threads:
    """Threads with as many results of `block` bytes in flight as fit into `max_memory`.

    Raises OptionError, which names the `models`, where not one fits.
    """
    fixed = 64 << 20  # headers, manifest, threads
    fits = (max_memory - fixed) // block
    if fits < 1:
        raise OptionError(
            f"max-memory of {max_memory >> 20} MiB is too little for {models}; "
            f"one block needs {(block + fixed + (1 << 20)) >> 20} MiB"
        )
    return Threads(jobs, min(fits, 2 * jobs + 1))


def default_jobs() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
