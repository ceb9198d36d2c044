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


def test_a_new_request_visits_in_the_middle_of_a_turn() -> None:
    turns, both = Turns(1.0, "latency"), among("a", "b", "c")
    pick = [turns.pick(0.0, ["a", "b", "c"], both)]
    fresh = [(0.1, "b"), (0.3, "b"), (0.4, "b"), (0.5, ""), (0.6, "c"), (0.8, "c"), (0.9, "")]
    pick += [turns.pick(now, ["a", "b", "c"], both, fresh=among(task)) for now, task in fresh]
    assert pick == ["a", "a", "b", "b", "a", "a", "c", "a"]
    assert turns.pick(1.2, ["a", "b", "c"], both) == "a"  # what the visits took is added to it
    assert turns.pick(1.35, ["a", "b", "c"], both) == "b"
    plain = Turns(1.0)
    assert [plain.pick(n / 3, ["a", "b"], both, fresh=among("b")) for n in range(3)] == ["a"] * 3


def test_auto_lets_new_requests_visit_while_swaps_are_quick() -> None:
    turns, both = Turns(1.0, "auto"), among("a", "b")
    assert [turns.pick(n / 3, ["a", "b"], both, fresh=among("b")) for n in range(2)] == ["a", "b"]
    slow = Turns(1.0, "auto")
    for _ in range(9):
        slow.swapped(0.2)
    assert [slow.pick(n / 3, ["a", "b"], both, fresh=among("b")) for n in range(2)] == ["a", "a"]


@given(
    steps=st.lists(
        st.tuples(st.sets(st.sampled_from(NAMES)), st.sampled_from([0.05, 0.1, 0.4])),
        min_size=1,
        max_size=60,
    )
)
def test_visits_starve_nobody_and_come_in_time(steps: list[tuple[set[State], float]]) -> None:
    """Any tasks have new requests at any step; "x" has none, "y" one from the first step on."""
    quantum, longest, swap = 1.0, 0.4, 0.05
    turns, now, names = Turns(quantum, "latency"), 100.0, ["x", "y", *NAMES]
    turn = quantum + longest + swap
    visit, last, first, waits = turn + swap, now, now, True
    for others, length in [*steps, *([(set(NAMES), 0.1)] * 300)]:
        fresh = {*others, *(["y"] if waits else [])}
        before = turns.active
        chosen = turns.pick(now, names, lambda task: True, False, among(*fresh))
        now += swap * (chosen != before) + length
        if chosen == "x":
            last = now
        if chosen == "y" and waits:
            waits = False
            assert now - first <= len(names) * (quantum / 4 + visit + 2 * swap + 2 * longest)
        assert now - last <= len(names) * (turn + 4 * (visit + swap)) + turn
    assert not waits


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
