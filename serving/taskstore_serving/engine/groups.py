"""Which tasks are in a step together: the one whose turn it is, and others while there is room."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from statistics import median

from taskstore.swap.states import State
from taskstore_serving.engine.costs import StepCosts

RECENT = 15  # steps of a kind whose median counts


@dataclass(frozen=True)
class Demand:
    """What a task has to compute: requests, of which each takes a slot, and their rows."""

    requests: int
    rows: int


@dataclass
class Mixer:
    """`mixable` and `costs` are what the worker told; nothing is mixed before.

    What a step takes beyond its products (attention, sampling, Python) is learned from steps of one
    task and mixed ones, each the median of the last ones.
    """

    batching: str
    slots: int
    mixable: Collection[State] = frozenset()
    costs: StepCosts | None = None
    _beyond: dict[bool, deque[float]] = field(
        default_factory=lambda: {mixed: deque(maxlen=RECENT) for mixed in (False, True)}
    )

    def took(self, tasks: int, rows: int, mixed: bool, seconds: float) -> None:
        """Learn what a step took, a swap before it not counted."""
        if self.costs is not None:
            of = self.costs.of_mixed(tasks, rows) if mixed else self.costs.of_single(rows)
            self._beyond[mixed].append(max(0.0, seconds - of))

    def group(
        self, lead: State, others: Iterable[State], demand: Callable[[State], Demand]
    ) -> list[State]:
        """The lead, and those others, in their order, that fit into the slots beside it.

        With batching "auto" those with most rows stay out until a mixed step is faster than a step
        each. What a task demands is asked only where there are others.
        """
        if self.batching == "swap" or lead not in self.mixable:
            return [lead]
        others = [task for task in others if task in self.mixable]
        if not others:
            return [lead]
        own, joined = demand(lead), dict[State, int]()
        used = own.requests
        for task in others:
            found = demand(task)
            if used + found.requests <= self.slots:
                joined[task] = found.rows
                used += found.requests
        while joined and self.batching == "auto" and not self._pays([own.rows, *joined.values()]):
            del joined[max(joined, key=lambda task: joined[task])]
        return [lead, *joined]

    def _pays(self, rows: list[int]) -> bool:
        if self.costs is None:
            return False
        single = median(self._beyond[False] or [0.0])
        mixed = median(self._beyond[True] or [single])
        apart = sum(self.costs.of_single(some) + single for some in rows)
        return self.costs.of_mixed(len(rows), sum(rows)) + mixed < apart
