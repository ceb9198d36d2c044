"""What every executor must do. A new one is an entry of KINDS; test_work.py is what it gets.

Work here is as the library's: functions of this module, shared data and units that are plain. What
was begun is noted as files, so that workers in other processes can be seen too.
"""

from __future__ import annotations

import gc
import itertools
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstore.executors import Executor, Threads, default_jobs, threads


@dataclass(frozen=True)
class Kind:
    """An executor; at most `bound` of its units are begun and not taken."""

    make: Callable[[], Executor]
    bound: int

    @property
    def jobs(self) -> int:
        return self.make().jobs


KINDS = {
    "one thread": Kind(lambda: Threads(1, 1), 1),
    "one thread ahead": Kind(lambda: Threads(1), 3),
    "two threads": Kind(lambda: Threads(2), 5),
    "two threads, one in flight": Kind(lambda: Threads(2, 1), 1),
    "more threads than in flight": Kind(lambda: Threads(8, 3), 3),
    "many in flight": Kind(lambda: Threads(3, 40), 40),
}


_others = set[threading.Thread]()  # of tests that ran before


@pytest.fixture(autouse=True)
def before() -> None:
    _others.clear()
    _others.update(threading.enumerate())


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    yield KINDS[request.param]
    assert workers() == []


def workers() -> list[str]:
    """Threads of executors that are alive; pools of attached models have names of their own."""
    new = {*threading.enumerate()} - _others
    return [thread.name for thread in new if thread.name.startswith("taskstore_")]


def square(plus: int, unit: int) -> int:
    return unit * unit + plus


def noted(folder: Path, unit: int) -> int:
    (folder / str(unit)).touch()
    return unit


def noted_until_three(folder: Path, unit: int) -> int:
    noted(folder, unit)
    if unit == 3:
        raise ValueError("three")
    return unit


def slow_after_a_failure(folder: Path, unit: int) -> int:
    if unit > 0:
        noted(folder, unit)
        time.sleep(0.5)  # long against the time in which the failure is seen
        return unit
    raise ValueError("zero")


def after_the_next(folder: Path, unit: int) -> int:
    """An even unit ends when the odd one after it has."""
    deadline = time.monotonic() + 60
    while unit % 2 == 0 and not (folder / str(unit + 1)).exists():
        assert time.monotonic() < deadline, "the next unit was never begun"
        time.sleep(0.001)
    return noted(folder, unit)


def begun(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir())


class Units:
    """Numbers from 0 on, that know how many were taken."""

    def __init__(self, count: int | None = None) -> None:
        self.taken, self._count = 0, count

    def __iter__(self) -> Iterator[int]:
        for unit in itertools.count() if self._count is None else range(self._count):
            self.taken += 1
            yield unit


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_results_are_in_the_order_of_the_units(kind: Kind, count: int) -> None:
    found = list(kind.make().map(square, 5, range(count)))
    assert found == [unit * unit + 5 for unit in range(count)]


@given(units=st.lists(st.integers(), max_size=30), jobs=st.integers(1, 4), bound=st.integers(1, 9))
def test_any_jobs_and_any_bound(units: list[int], jobs: int, bound: int) -> None:
    found = list(Threads(jobs, bound).map(square, 0, iter(units)))
    assert found == [unit * unit for unit in units]


def test_a_unit_that_ends_late_keeps_its_place(kind: Kind, tmp_path: Path) -> None:
    if min(kind.jobs, kind.bound) < 2:
        pytest.skip("one unit at a time")
    assert list(kind.make().map(after_the_next, tmp_path, range(20))) == list(range(20))


def test_units_are_taken_as_results_are(kind: Kind, tmp_path: Path) -> None:
    """Of units without an end: what was handed out, what is in flight, and one in the hand."""
    units = Units()
    results = kind.make().map(noted, tmp_path, units)
    assert units.taken == 0 and workers() == []
    for handed_out, result in zip(range(30), results, strict=False):
        assert result == handed_out
        assert units.taken <= handed_out + 1 + kind.bound
        assert set(begun(tmp_path)) <= set(range(units.taken))
    results.close()  # type: ignore[attr-defined]
    assert len(begun(tmp_path)) <= 30 + kind.bound


def test_when_the_first_result_is_taken(kind: Kind, tmp_path: Path) -> None:
    units = Units()
    results = kind.make().map(noted, tmp_path, units)
    assert next(results) == 0
    assert units.taken <= kind.bound + 1
    results.close()  # type: ignore[attr-defined]
    assert {0} <= set(begun(tmp_path)) <= set(range(kind.bound + 1))


def test_an_exception_comes_in_its_turn(kind: Kind, tmp_path: Path) -> None:
    units, found = Units(), list[int]()
    with pytest.raises(ValueError, match="three"):
        for result in kind.make().map(noted_until_three, tmp_path, units):
            found.append(result)
    assert found == [0, 1, 2]
    assert workers() == []
    assert units.taken <= 3 + 1 + kind.bound
    after = begun(tmp_path)
    assert set(range(4)) <= set(after) <= set(range(3 + 1 + kind.bound))
    assert begun(tmp_path) == after  # and nothing begins later


def test_what_waits_for_a_worker_is_dropped_with_an_exception(tmp_path: Path) -> None:
    kind = KINDS["many in flight"]
    with pytest.raises(ValueError, match="zero"):
        list(kind.make().map(slow_after_a_failure, tmp_path, itertools.count()))
    assert workers() == []
    assert len(begun(tmp_path)) < kind.bound - 1


def broken_units() -> Iterator[int]:
    yield from range(3)
    raise OSError("units cannot be read")


def test_an_exception_of_the_units_comes_through(kind: Kind) -> None:
    with pytest.raises(OSError, match="units cannot be read"):
        list(kind.make().map(square, 0, broken_units()))
    assert workers() == []


@pytest.mark.parametrize("how", ["closed", "forgotten", "never begun"])
def test_results_that_nobody_wants(kind: Kind, tmp_path: Path, how: str) -> None:
    results = kind.make().map(noted, tmp_path, itertools.count())
    if how != "never begun":
        assert next(results) == 0
    if how == "closed":
        results.close()  # type: ignore[attr-defined]
    del results
    gc.collect()
    assert workers() == []
    assert len(begun(tmp_path)) <= 1 + kind.bound


def test_an_executor_does_several_things_at_once(kind: Kind) -> None:
    """A pass that is half done does not hold up another, nor later ones."""
    executor = kind.make()
    pairs = zip(executor.map(square, 1, range(40)), executor.map(square, 2, range(40)), strict=True)
    assert all(b == a + 1 for a, b in pairs)
    assert list(executor.map(square, 0, [3])) == [9]


def test_an_executor_is_plain_data(kind: Kind) -> None:
    executor = kind.make()
    assert kind.jobs >= 1
    assert pickle.loads(pickle.dumps(executor)) == executor


def test_the_usual_number_of_jobs() -> None:
    assert threads(3).jobs == 3
    assert threads().jobs == threads(0).jobs == default_jobs() >= 1
