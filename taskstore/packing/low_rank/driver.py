"""The low-rank parts of a pack: which rests have one, and each found when its matrix is coded.

Exact tensors that a merged adapter changed have one too (range_finder.py).

One matrix of one task is a piece of work. It is read whole, and its factors are kept from its
first block to its last. Linear algebra runs on one thread, so that the same machine finds the same
factors with any number of jobs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from threadpoolctl import threadpool_limits

from taskstore.executors import Executor
from taskstore.format.tiers.rest import is_factored, row_length
from taskstore.kernels.factored.low_rank import NONE, LowRank
from taskstore.kernels.factored.update import Update
from taskstore.merging.task_vectors import Block, whole_vector
from taskstore.models.compare import Plan
from taskstore.models.family import Family
from taskstore.packing.low_rank import range_finder
from taskstore.packing.low_rank.components import components, factored
from taskstore.packing.low_rank.importance import file_of, importance
from taskstore.packing.low_rank.rates import rates
from taskstore.packing.low_rank.shares import shares
from taskstore.packing.options import PackOptions

FACTORED = ("factored", "low_rank")  # codecs with factors of a whole tensor
BYTES = 24  # of memory per element of a matrix whose factors are found


def planned(family: Family, plan: Plan, options: PackOptions) -> Plan:
    """Return the plan, with the rests that are coded with a part of low rank."""
    base = family.base.tensors
    tasks = [
        {
            name: replace(entry, codec="factored")
            if entry.kind == "rest" and is_factored(base[name].shape, options.bits_of(task.name))
            else entry
            for name, entry in planned.items()
        }
        for task, planned in zip(family.tasks, plan.tasks, strict=True)
    ]
    return replace(plan, tasks=tuple(tasks))


@dataclass
class LowRanks:
    """What blocks of one tensor share. `steps`: of the tasks that have such parts, by number."""

    family: Family
    options: PackOptions
    steps: Mapping[int, float]
    parents: Mapping[str, str]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _found: dict[tuple[int, str], Future[Any]] = field(default_factory=dict)
    _left: dict[tuple[int, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        largest = max((i.numel for i in self.family.base.tensors.values()), default=1)
        at_once = max(1, self.options.max_memory // 2 // max(1, BYTES * largest))
        self._at_once = threading.Semaphore(at_once)
        self._shares = shares(self.family.base.tensors)

    def __reduce__(self) -> tuple[type[LowRanks], tuple[object, ...]]:
        """Another process finds the factors that it needs itself."""
        return LowRanks, (self.family, self.options, self.steps, self.parents)

    def step_of(self, t: int, name: str, codec: str | None) -> float:
        """Return the step of a tensor's rest."""
        task = self.steps.get(t) or 2.0 ** (2 - self.options.bits_of(self.family.tasks[t].name))
        return task * self._shares[name] if codec == "factored" else task

    def of(self, t: int, block: Block) -> LowRank:
        """Return the factors of a task's rest; raises NotFinite."""
        if not block.info.numel:
            return NONE
        return self._kept(t, block, self._of_rest)  # type: ignore[no-any-return]

    def update_of(self, t: int, block: Block) -> Update:
        """Return what changed an exact tensor of a task."""
        return self._kept(t, block, self._of_exact)  # type: ignore[no-any-return]

    def _of_rest(self, t: int, name: str) -> LowRank:
        x = whole_vector(self.family, name, t, self.options.chunk)
        columns = row_length(x.shape)
        weights = importance(file_of(self.options, self.family.tasks[t].name), name, columns)
        parts = components(x.reshape(-1, columns), importance=weights)
        return factored(parts, self.step_of(t, name, "factored"))

    def _of_exact(self, t: int, name: str) -> Update:
        task, tasks = self.family.tasks[t], {task.name: task for task in self.family.tasks}
        given = tasks.get(self.parents.get(task.name, ""), self.family.base)
        given = given if name in given.tensors else self.family.base
        return range_finder.whole(task, given, self.family.base.tensors[name], name)

    def _kept(self, t: int, block: Block, make: Callable[[int, str], Any]) -> Any:
        """Make factors at a tensor's first block, and keep them to its last."""
        key, mine = (t, block.name), False
        with self._lock:
            if key not in self._found:
                self._found[key], mine = Future(), True
                self._left[key] = -(-block.info.numel // self.options.chunk)
            future = self._found[key]
        if mine:
            try:
                with self._at_once:
                    future.set_result(make(t, block.name))
            except BaseException as error:
                future.set_exception(error)
        result = future.result()
        with self._lock:
            self._left[key] -= 1
            if not self._left[key]:
                del self._left[key], self._found[key]
        return result


def low_ranks(
    family: Family,
    plan: Plan,
    options: PackOptions,
    parents: Mapping[str, str],
    executor: Executor,
    stage: Callable[[str, str], None],
) -> LowRanks:
    """Find the step of each task that has rests with a part of low rank; raises NotFinite."""
    steps = {}
    for t, (task, entries) in enumerate(zip(family.tasks, plan.tasks, strict=True)):
        if any(entry.codec == "factored" for entry in entries.values()):
            stage("choosing", task.name)
            known = rates(family, plan, t, executor, options)
            steps[t] = known.step(options.bits_of(task.name))
    return LowRanks(family, options, steps, parents)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep linear algebra to the thread that calls it."""
    with threadpool_limits(1, user_api="blas"):
        yield
