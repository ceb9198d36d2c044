"""The choice of the next task, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskstore_serving.engine.policy import FLOOR, TIMES, Turns

from taskstore.swap.states import State

NAMES: list[State] = [None, "a", "b", "c", "d"]


def among(*tasks: State) -> Callable[[State], bool]:
    return lambda task: task in tasks


def test_a_task_keeps_the_engine_until_its_quantum_is_over() -> None:
    turns = Turns(1.0)
    assert turns.pick(10.0, ["a", "b"], among("a", "b")) == "a"
    assert turns.pick(10.9, ["a", "b"], among("a", "b")) == "a"
    assert turns.pick(11.0, ["a", "b"], among("a", "b")) == "b"
    assert turns.pick(12.0, ["a", "b"], among("a", "b")) == "a"


def test_a_task_keeps_the_engine_while_nobody_else_waits_and_not_longer() -> None:
    turns = Turns(1.0)
    assert turns.pick(0.0, ["a"], among("a")) == "a"
    assert turns.pick(50.0, ["a", "b"], among("a")) == "a"
    assert turns.pick(50.1, ["a", "b"], among("a", "b")) == "b"


def test_a_task_without_anything_runnable_gives_the_engine_away_at_once() -> None:
    turns = Turns(1.0)
    assert turns.pick(0.0, ["a", "b"], among("a", "b")) == "a"
    assert turns.pick(0.1, ["a", "b"], among("b")) == "b"
    turns.empty()
    assert turns.pick(0.2, ["a", "b"], among("a", "b")) == "a"
    assert turns.pick(0.3, ["a", "b"], among()) == "a"


def test_the_quantum_follows_the_cost_of_a_swap() -> None:
    turns = Turns()
    assert turns.quantum == FLOOR
    turns.swapped(5.0)  # a slow first one does not count alone
    assert turns.quantum == FLOOR
    for cost in (0.3, 0.2):
        turns.swapped(cost)
    assert turns.quantum == pytest.approx(TIMES * 0.2)
    for _ in range(9):
        turns.swapped(1e-6)
    assert turns.quantum == FLOOR
    fixed = Turns(0.5)
    fixed.swapped(3.0)
    assert fixed.quantum == 0.5


def test_the_quantum_begins_when_what_others_took_is_computed_again() -> None:
    turns = Turns(1.0)
    both = among("a", "b")
    assert turns.pick(0.0, ["a", "b"], both) == "a"
    assert turns.pick(3.0, ["a", "b"], both, recomputing=True) == "a"
    assert turns.pick(3.9, ["a", "b"], both) == "a"
    assert turns.pick(4.0, ["a", "b"], both, recomputing=True) == "b"  # once a turn, at its start
    steps = Turns(0.0)
    assert [steps.pick(n, ["a", "b"], both, n == 1) for n in range(3)] == ["a", "a", "b"]


@given(
    quantum=st.sampled_from([0.0, 0.3, 2.0]),
    steps=st.lists(
        st.tuples(
            st.sets(st.sampled_from(NAMES)),
            st.sampled_from([0.0, 0.1, 1.0]),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=60,
    ),
)
def test_no_task_waits_longer_than_one_turn_of_each_other(
    quantum: float, steps: list[tuple[set[State], float, int]]
) -> None:
    """Any tasks may become runnable or not at any step; "x" always is."""
    swap, recomputation, longest = 0.05, 0.7, 1.0
    turns, now = Turns(quantum), 100.0
    since, seen, run, changes = now, set[State](), 0, 0
    for others, length, recomputing in [*steps, *([(set(NAMES), 1.0, 0)] * 200)]:
        runnable = {"x", *others}
        busy = run <= recomputing and run * length <= recomputation
        before = turns.active
        chosen = turns.pick(now, sorted(runnable, key=str), among(*runnable), busy)
        assert chosen in runnable
        if chosen != before:
            assert chosen not in seen, "a second turn while x waits"
            run, now, changes = 0, now + swap, changes + 1
        run, now = run + 1, now + length
        if chosen == "x":
            since, seen = now, set()
        else:
            seen.add(chosen)
            turn = swap + quantum + longest + recomputation + longest
            assert now - since <= len(NAMES) * turn + longest
    assert changes
