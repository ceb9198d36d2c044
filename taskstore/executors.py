"""Work in threads, results in order, a bounded number in flight.

Threads are enough: the loops are compiled without the GIL, and reading, hashing and zstd release
it. Order makes the bytes independent of the number of workers; the bound makes the memory so.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def default_jobs() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], *, jobs: int, in_flight: int | None = None
) -> Iterator[R]:
    """Like map(), with `jobs` threads and at most `in_flight` results started and not taken."""
    bound = max(1, in_flight or 2 * jobs + 1)
    if jobs == 1 and bound == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="taskstore")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            if len(waiting) == bound:
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
