"""The policy: which task the engine computes next, and how long it keeps the engine.

A task's turn ends at the first step that starts when its quantum is over, or when it has nothing
runnable. It goes on while no other task has something runnable. The next turn goes to the runnable
task whose last turn is the longest ago.

No task starves. With T runnable tasks, each waits for at most T - 1 turns of others, and never for
two turns of the same task. A turn is one swap and at most

    the quantum (swap included) + one step + the recomputation of one request

The recomputation comes only where other tasks took that request's blocks. Every step of a turn is
the task's, and an empty step ends the turn. So with a quantum of 0 a task waits for T - 1 steps,
and for at most one empty step a task.

A task that runs nothing gets blocks at once in its turn: at worst the youngest paused request of
the task that holds most blocks gives up its own. So the oldest request of a task advances by a
token or more in each turn. vLLM's order decides how long the task's other requests wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from statistics import median_low

from taskstore.swap.states import State

TIMES = 10  # quantum over the cost of a swap
FLOOR = 0.05  # seconds of a quantum at least, and before a swap was measured
RECENT = 9  # swaps whose (lower) median is the cost; one alone may have been slow


class Turns:
    """Whose turn it is. Times are seconds of one monotonic clock."""

    def __init__(self, quantum: float | None = None) -> None:
        """A `quantum` of None follows the measured cost of a swap."""
        self.active: State = None
        self._fixed = quantum
        self._costs: deque[float] = deque([0.0], RECENT)
        self._began = float("-inf")
        self._order: dict[State, None] = {}  # first: its last turn is the longest ago
        self._over = self._catching_up = False

    @property
    def cost(self) -> float:
        """Seconds of a swap; 0 before one was measured."""
        return median_low(self._costs)

    @property
    def quantum(self) -> float:
        return max(FLOOR, TIMES * self.cost) if self._fixed is None else self._fixed

    def swapped(self, seconds: float) -> None:
        """Learn that a swap took that long."""
        self._costs.append(seconds)

    def empty(self) -> None:
        """End the turn: the step had nothing of the active task in it after all."""
        self._over = True

    def pick(
        self,
        now: float,
        present: Iterable[State],
        runnable: Callable[[State], bool],
        recomputing: bool = False,
    ) -> State:
        """Choose the task of the next step.

        present      tasks that have requests
        runnable     whether a task has something to compute
        recomputing  whether the active task's oldest request recomputes what others took from it;
                     the quantum begins after that, or the request might never get further
        """
        for task in present:
            self._order.setdefault(task)
        self._catching_up = self._catching_up and recomputing
        if self._catching_up:
            self._began = now
        spent = now - self._began >= self.quantum and not self._catching_up
        over, self._over = self._over or spent, False
        if not over and runnable(self.active):
            return self.active
        others = (task for task in self._order if task != self.active and runnable(task))
        chosen = next(others, self.active)
        if chosen != self.active:
            self._order.pop(self.active, None)
            self._order[self.active] = None
            self.active, self._began, self._catching_up = chosen, now, True
        return chosen

    def latest(self, tasks: Iterable[State]) -> State:
        """The one of these tasks whose next turn is the furthest away."""
        places = {task: place for place, task in enumerate(self._order)}
        return max(tasks, key=lambda task: places.get(task, -1))
