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

With the policy "latency" a request without a first token does not wait for whole turns. Once a turn
has lasted for a quarter of the quantum, or as long since the last visit, a task with such requests
visits: it has the engine until they have their tokens, for a quantum at most, and the turn goes on
where it stopped. With F tasks that have such requests, each visits after at most

    F (a quarter of the quantum + a visit + two swaps + two steps)

and a turn of an ordinary task is as long as before and four visits. "auto" is "latency" while a
swap takes less than QUICK.

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
QUICK = 0.1  # seconds of a swap below which "auto" lets new requests visit
VISITS = 4  # in a quantum, at most
RECENT = 9  # swaps whose (lower) median is the cost; one alone may have been slow


class Turns:
    """Whose turn it is. Times are seconds of one monotonic clock."""

    def __init__(self, quantum: float | None = None, policy: str = "throughput") -> None:
        """A `quantum` of None follows the measured cost of a swap."""
        self._policy = policy
        self._visited: tuple[State, float] | None = None  # in a visit: whose turn, how much of it
        self._since = float("-inf")  # the turn began then, or went on after a visit
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
        fresh: Callable[[State], bool] = lambda task: False,
    ) -> State:
        """Choose the task of the next step.

        present      tasks that have requests
        runnable     whether a task has something to compute
        recomputing  whether the active task's oldest request recomputes what others took from it;
                     the quantum begins after that, or the request might never get further
        fresh        whether a task has requests without a first token
        """
        for task in present:
            self._order.setdefault(task)
        if self._visited is not None and not self._leave(now, runnable, fresh):
            return self.active
        self._catching_up = self._catching_up and recomputing
        if self._catching_up:
            self._began = now
        spent = now - self._began >= self.quantum and not self._catching_up
        over, self._over = self._over or spent, False
        if not over and runnable(self.active):
            self._visit(now, lambda task: fresh(task) and runnable(task))
            return self.active
        others = (task for task in self._order if task != self.active and runnable(task))
        chosen = next(others, self.active)
        if chosen != self.active:
            self._order.pop(self.active, None)
            self._order[self.active] = None
            self.active, self._began, self._catching_up = chosen, now, True
            self._since = now
        return chosen

    def _visit(self, now: float, wanted: Callable[[State], bool]) -> None:
        """Have a task interrupt the turn, where it may."""
        quick = self._policy == "latency" or (self._policy == "auto" and self.cost < QUICK)
        if not quick or self._catching_up or now - self._since < self.quantum / VISITS:
            return
        others = (task for task in self._order if task != self.active and wanted(task))
        for task in others:
            self._visited = self.active, now - self._began
            self.active, self._began = task, now
            return

    def _leave(
        self, now: float, runnable: Callable[[State], bool], fresh: Callable[[State], bool]
    ) -> bool:
        """End a visit whose requests have their first tokens, or that took a quantum."""
        here = runnable(self.active) and fresh(self.active)
        if here and not self._over and now - self._began < self.quantum:
            return False
        assert self._visited is not None
        (self.active, spent), self._visited = self._visited, None
        self._began, self._since, self._over = now - spent, now, False
        return True

    def order(self) -> list[State]:
        """Tasks, that whose last turn is the longest ago first."""
        return list(self._order)

    def served(self, tasks: Iterable[State]) -> None:
        """Count a step of the active task as one of these too, which were computed with it."""
        for task in tasks:
            self._order.pop(task, None)
            self._order[task] = None

    def latest(self, tasks: Iterable[State]) -> State:
        """The one of these tasks whose next turn is the furthest away."""
        places = {task: place for place, task in enumerate(self._order)}
        return max(tasks, key=lambda task: places.get(task, -1))
