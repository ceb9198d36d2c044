import threading
import time

import pytest

from taskstore.executors import ordered_map


@pytest.mark.parametrize(("jobs", "in_flight"), [(1, 1), (1, None), (2, 1), (4, 3), (3, None)])
def test_results_come_in_order(jobs: int, in_flight: int | None) -> None:
    def slow(i: int) -> int:
        time.sleep(0.002 * (i % 3))
        return i * i

    found = list(ordered_map(slow, range(30), jobs=jobs, in_flight=in_flight))
    assert found == [i * i for i in range(30)]


def test_no_more_than_the_bound_is_started() -> None:
    taken = 0
    worst = 0
    lock = threading.Lock()
    started = 0

    def work(_: int) -> None:
        nonlocal started, worst
        with lock:
            started += 1
            worst = max(worst, started - taken)

    for _ in ordered_map(work, range(50), jobs=4, in_flight=5):
        taken += 1
    assert worst <= 6  # five in flight, one handed over and not yet counted


def test_an_error_stops_the_rest() -> None:
    done: list[int] = []

    def work(i: int) -> int:
        if i == 3:
            raise ValueError("three")
        done.append(i)
        return i

    with pytest.raises(ValueError, match="three"):
        list(ordered_map(work, range(1000), jobs=2))
    assert len(done) < 100
