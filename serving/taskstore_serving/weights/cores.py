"""The cores of a worker, which OpenMP shares out: its main thread is left with one of them.

vLLM on the CPU pins each OpenMP thread to a core of its own, the main thread too, and a thread that
is started from there is born on that one core. What loads and swaps wants all of them.
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
    """The calling thread may use all cores of the process, and so may threads that it starts."""
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
    """Initializer of a pool, and its arguments: its threads may use what this one may use now."""
    if not hasattr(os, "sched_setaffinity"):
        return (lambda: None), ()
    return os.sched_setaffinity, (0, os.sched_getaffinity(0))


def _all() -> set[int]:
    """Of any thread; OpenMP's are started first."""
    torch.zeros(_ENOUGH).add_(1)
    cores: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it ended meanwhile
            cores |= os.sched_getaffinity(int(thread.name))
    return cores
