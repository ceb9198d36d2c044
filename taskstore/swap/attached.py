"""An attached module: swaps its task, proves what is live, tells the memory, lets go of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self
from weakref import finalize

from taskstore.errors import SwapError, UnknownTask
from taskstore.format.fidelity import Fidelity
from taskstore.swap.gate import Gate
from taskstore.swap.identify import Verified, verify
from taskstore.swap.job import SwapJob
from taskstore.swap.lane import Lane
from taskstore.swap.memory import SwapMemory, add
from taskstore.swap.move import Mover, NotUndone, uninterrupted
from taskstore.swap.states import State
from taskstore.swap.watch import Watch

CLOSED = "this family is closed; attach the store again to swap"


_log = logging.getLogger(__name__)


class Attached:
    """What `taskstore.attach` gives; a context manager. Thread-safe."""

    def __init__(
        self,
        job: SwapJob,
        lanes: Sequence[Lane],
        watch: Watch,
        gate: Gate,
        hooks: Sequence[Any],
        active: State,
    ) -> None:
        self._job, self._lanes, self._watch, self._gate = job, lanes, watch, gate
        self._active: State = active
        jobs = job.executor.jobs
        self._pool = ThreadPoolExecutor(jobs + 1, thread_name_prefix="taskstore-swap")
        self._mover: Mover | None = Mover(lanes, self._pool, jobs)
        self._unusable: str | None = None
        self._unhook = finalize(self, _remove, hooks)

    @property
    def active(self) -> State:
        """The task that is live; None is the base. Raises SwapError where that is unknown."""
        if self._unusable is not None:
            raise SwapError(self._unusable)
        return self._active

    @property
    def fidelity(self) -> Fidelity:
        """How near the live task is to its fine-tune; the base is exact."""
        return self._job.store.fidelity(self.active, self._job.tier if self.active else None)

    @property
    def tasks(self) -> list[str]:
        """Tasks that `swap` takes."""
        return self._job.tasks

    def holds(self, state: State) -> bool:
        """Tell whether `swap` takes a task, or the base (None)."""
        return state in self._job.attached

    def swap(self, task: State, *, timeout: float | None = None) -> None:
        """Make a task live, or the base (None): bit for bit, in place, all or nothing.

        Waits for running forward passes, at most `timeout` seconds, or raises ModelBusy, as
        `attach` was told. Raises UnknownTask, and SwapError where the module was changed.
        """
        self._check(task)
        if task == self.active:
            return
        with self._gate.swapping(timeout):
            self._move_to(task)

    @contextmanager
    def using(self, task: State, *, timeout: float | None = None) -> Iterator[None]:
        """Make a task live and keep it so until the end of the block; other swaps wait."""
        self._check(task)
        while True:
            with self._gate.reading():
                if self.active == task:
                    yield
                    return
            self.swap(task, timeout=timeout)

    def verify(self) -> Verified:
        """Prove what is live: BLAKE3 of every tensor against the manifest.

        Raises UnknownWeights where a tensor is not what it should be.
        """
        with self._gate.reading():
            found = verify(self._job, self.active)
            self._watch.accept()
            return found

    def memory(self) -> SwapMemory:
        """What is taken, in bytes; `attach` allocated all but the live weights."""
        live = SwapMemory(live=sum(one.nbytes for one in self._job.lives))
        return add([live, *(lane.memory(len(self.tasks)) for lane in self._lanes)])

    def close(self) -> None:
        """Let go of the module: it keeps the task that is live, and takes no more swaps."""
        if self._unusable == CLOSED:
            return
        with self._gate.swapping(None):
            self._unhook()
            self._unusable = CLOSED
            self._watch.close()
            for lane in self._lanes:
                lane.close()
            self._lanes = ()
            self._mover = None
        self._pool.shutdown(wait=False)

    def _check(self, task: State) -> None:
        if self._unusable is not None:
            raise SwapError(self._unusable)
        if task in self._job.attached:
            return
        if task is None:
            problems = "; ".join(self._job.states.misfits(None)[:3])
            raise SwapError(f"the module cannot hold the base: {problems}")
        raise UnknownTask(task, self.tasks)

    def _move_to(self, task: State) -> None:
        """Swap, alone with the weights; another swap may have come before."""
        self._check(task)
        if task == self._active or self._mover is None:
            return
        self._watch.check()
        mover, old, streams = self._mover, self._active, self._mover.streams()

        def work() -> None:
            try:
                mover.move(old, task, streams)
                _log.debug("swapped %r to %r", old, task)
                self._active = task
            except NotUndone as error:
                self._unusable = str(error)
                raise
            finally:
                self._watch.written()

        uninterrupted(self._pool, work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _remove(hooks: Sequence[Any]) -> None:
    """Take the hooks off the module, also where a family is dropped without being closed."""
    for hook in hooks:
        hook.remove()
