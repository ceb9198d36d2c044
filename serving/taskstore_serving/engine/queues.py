"""vLLM's waiting queue, with one queue inside for each task.

In a step only the queues of the step's tasks are seen. Outside of a step all are, so that adding,
aborting and counting work as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from vllm.v1.core.sched.request_queue import RequestQueue, SchedulingPolicy, create_request_queue
from vllm.v1.request import Request

from taskstore.swap.states import State


def task_of(request: Request) -> State:
    """The task of a request, which its LoRARequest names; None is the base. LoRA itself is off."""
    carrier = request.lora_request
    name: State = carrier.lora_name if carrier is not None else None
    return name


class TaskQueue(RequestQueue):
    """A queue a task; within a task the order is that of vLLM's policy."""

    def __init__(self, policy: SchedulingPolicy) -> None:
        self._policy = policy
        self._queues: dict[State, Any] = {}
        self._seen: dict[State, Any] | None = None  # the queues of the step's tasks, in a step
        self._rank: Callable[[State], int] = lambda task: 0

    @contextmanager
    def only(self, tasks: Collection[State], rank: Callable[[State], int]) -> Iterator[None]:
        """Show these tasks alone; the next request is one of the task with the lowest rank."""
        self._seen, self._rank = {task: self.of(task) for task in tasks}, rank
        try:
            yield
        finally:
            self._seen = None

    def of(self, task: State) -> Any:
        if task not in self._queues:
            self._queues[task] = create_request_queue(self._policy)
        return self._queues[task]

    def tasks(self) -> list[State]:
        """Tasks of which requests wait here; others are forgotten."""
        self._queues = {task: queue for task, queue in self._queues.items() if queue}
        return list(self._queues)

    def add_request(self, request: Request) -> None:
        self.of(task_of(request)).add_request(request)

    def prepend_request(self, request: Request) -> None:
        self.of(task_of(request)).prepend_request(request)

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.prepend_request(request)

    def pop_request(self) -> Request:
        return self._first().pop_request()

    def peek_request(self) -> Request:
        return self._first().peek_request()

    def remove_request(self, request: Request) -> None:
        self.of(task_of(request)).remove_request(request)

    def remove_requests(self, requests: Iterable[Request]) -> None:
        gone = set(requests)
        for task in {task_of(request) for request in gone}:
            self.of(task).remove_requests(gone)

    def __bool__(self) -> bool:
        return any(self._visible())

    def __len__(self) -> int:
        return sum(map(len, self._visible()))

    def __iter__(self) -> Iterator[Request]:
        for queue in self._visible():
            yield from queue

    def _visible(self) -> list[Any]:
        return list((self._queues if self._seen is None else self._seen).values())

    def _first(self) -> Any:
        shown = self._queues if self._seen is None else self._seen
        waiting = [task for task, queue in shown.items() if queue]
        if not waiting:
            return create_request_queue(self._policy)
        return shown[min(waiting, key=self._rank) if self._seen else waiting[0]]
