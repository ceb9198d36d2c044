"""Which tasks are computed together: by room, by what cannot be mixed, by what is faster."""

from __future__ import annotations

import pytest
from taskstore_serving.engine.costs import StepCosts
from taskstore_serving.engine.groups import Demand, Mixer

from taskstore.swap.states import State

COSTS = StepCosts(single=(1.0, 0.01), mixed=(1.2, 0.2, 0.03))
ALL: list[State] = [None, "a", "b", "c", "d"]


def mixer(batching: str, slots: int = 8, costs: StepCosts | None = COSTS) -> Mixer:
    return Mixer(batching, slots, frozenset(ALL) - {"d"}, costs)


def group(mixer: Mixer, own: int = 1, **others: int) -> list[State]:
    """With one row a request."""
    requests = dict[State, int](others) | {None: own}
    return mixer.group(None, others, lambda task: Demand(requests[task], requests[task]))


def test_tasks_join_in_their_order_while_there_are_slots() -> None:
    assert group(mixer("mixed"), a=1, b=2, c=1) == [None, "a", "b", "c"]
    assert group(mixer("mixed", slots=4), a=1, b=3, c=2) == [None, "a", "c"]
    assert group(mixer("mixed", slots=4), own=6, a=1) == [None]  # it fills its own batch


def test_what_cannot_be_mixed_is_alone() -> None:
    assert group(mixer("mixed"), d=1, a=1) == [None, "a"]
    assert mixer("mixed").group("d", ["a"], lambda task: Demand(1, 1)) == ["d"]
    assert group(mixer("swap"), a=1) == [None]
    assert group(Mixer("mixed", 8), a=1) == [None]  # before the worker told


def test_auto_mixes_while_that_is_faster_than_a_step_each() -> None:
    assert group(mixer("auto", costs=None), a=1) == [None]
    assert group(mixer("auto"), a=1, b=1) == [None, "a", "b"]
    rows = {None: 1, "a": 500, "b": 1}
    found = mixer("auto").group(None, ["a", "b"], lambda task: Demand(1, rows[task]))
    assert found == [None, "b"]


def test_what_steps_take_beyond_their_products_is_learned() -> None:
    slow = StepCosts(single=(1.0, 0.0), mixed=(3.0, 0.0, 0.0))
    learned = mixer("auto", costs=slow)
    assert group(learned, a=1) == [None]
    learned.took(1, 1, mixed=False, seconds=9.0)
    assert group(learned, a=1) == [None, "a"]
    learned.took(2, 2, mixed=True, seconds=40.0)
    assert group(learned, a=1) == [None]
    for _ in range(20):
        learned.took(2, 2, mixed=True, seconds=5.0)
    assert group(learned, a=1) == [None, "a"]


def test_costs_are_sums() -> None:
    assert COSTS.of_single(100) == pytest.approx(2.0)
    assert COSTS.of_mixed(3, 10) == pytest.approx(1.2 + 0.6 + 0.3)
