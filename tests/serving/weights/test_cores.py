"""Threads that are started from a pinned one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from taskstore_serving.weights.cores import widened

from taskstore.executors import default_jobs


@pytest.fixture
def pinned() -> Iterator[tuple[set[int], set[int]]]:
    """This thread has one core, another thread another: (all of them, this one's)."""
    every = os.sched_getaffinity(0)
    if len(every) < 2:
        pytest.skip("this machine has one core")
    mine, *others = sorted(every)
    ready, done = threading.Event(), threading.Event()

    def other() -> None:
        os.sched_setaffinity(0, set(others))
        ready.set()
        done.wait()

    thread = threading.Thread(target=other)
    thread.start()
    ready.wait()
    os.sched_setaffinity(0, {mine})
    yield every, {mine}
    os.sched_setaffinity(0, every)
    done.set()
    thread.join()


def test_they_get_all_cores_of_the_process(pinned: tuple[set[int], set[int]]) -> None:
    every, mine = pinned
    assert default_jobs() == 1
    with widened():
        assert os.sched_getaffinity(0) == every
        assert default_jobs() == len(every)
    assert os.sched_getaffinity(0) == mine
