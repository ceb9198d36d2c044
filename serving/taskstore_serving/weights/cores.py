"""Lets the threads that load and swap use all cores of a worker.

vLLM on the CPU pins each OpenMP thread to a core of its own, the main thread too, and a thread that
the main thread starts inherits that one core.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_ENOUGH = 1 << 20  # elements that torch shares among its threads


@contextmanager
def widened() -> Iterator[None]:
    """Let the calling thread, and threads that it starts, use all cores of the process."""
    if not hasattr(os, "sched_setaffinity"):  # not on Linux
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _all())
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def stay_here() -> tuple[Callable[..., None], tuple[object, ...]]:
    """Initializer of a pool, and its arguments: its threads may use the cores of this one."""
    if not hasattr(os, "sched_setaffinity"):
        return (lambda: None), ()
    return os.sched_setaffinity, (0, os.sched_getaffinity(0))


def _all() -> set[int]:
    """Cores that any thread may use; OpenMP's threads are started first."""
    torch.zeros(_ENOUGH).add_(1)
    cores: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it ended meanwhile
            cores |= os.sched_getaffinity(int(thread.name))
    return cores
