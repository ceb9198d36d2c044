"""A family in an engine's memory: live weights, and D, masks and rests beside them.

An engine fuses, shards, pads and ties, so its parameters are not the checkpoint's tensors. Its own
`load_weights` knows where each checkpoint weight goes. D and masks are read off what it writes
(`learning`), and swaps work on the engine's parameters.

Afterwards the engine may prepare its weights for computing. `guard` refuses an engine that moved,
resized or changed a weight that a swap would write. `verify` proves what is live by the digests
that were taken while the engine loaded each task.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from torch import nn

from taskstore.errors import SwapError, TaskstoreError, UnknownTask, UnknownWeights
from taskstore.executors import threads
from taskstore.format.digests import model_digest
from taskstore.store import Store
from taskstore.swap.move import Mover, NotUndone
from taskstore.swap.states import State
from taskstore_serving.weights.beside import Beside
from taskstore_serving.weights.cores import stay_here
from taskstore_serving.weights.digests import check_live, check_shared, facts, shared_digests
from taskstore_serving.weights.groups import fill, refill
from taskstore_serving.weights.guard import Guard, check_tasks, check_touchable
from taskstore_serving.weights.kernel_order import KernelOrder
from taskstore_serving.weights.learning import Learner
from taskstore_serving.weights.spans import Places
from taskstore_serving.weights.streams import Streams

_OLD = "\0"  # begins the name of the weights that a task had; no task's name has it


class LiveFamily:
    """The weights that a worker swaps. One thread at a time."""

    def __init__(
        self,
        model: nn.Module,
        store: Store,
        tasks: Sequence[str],
        masks: Literal["host", "device"] = "host",
        residual: int = 0,
    ) -> None:
        """Fill a model with the base and learn the tasks.

        Raises UnknownTask, SwapError for a model or task that cannot be swapped, NotEnoughMemory,
        FormatError, ChecksumMismatch.
        """
        self._model, self._residual, self._executor = model, residual, threads()
        self._loaded = shared_digests(store.manifest)
        self._where = (store.where, store.base_path)
        self.active: State = None
        self.swaps, self.seconds, self.verified = 0, 0.0, False
        self._tasks: dict[str, dict[str, Any]] = {}
        self._untouchable = set[str]()
        self.order = KernelOrder({})
        check_tasks(model, store, tasks, residual, self._executor)
        with Streams(store, tasks, residual, self._executor) as streams:
            self._groups = fill(model, streams)
            self.lives = [live for group in self._groups for live in group.lives]
            self._expected: dict[State, dict[str, str]] = {None: self.digests()}
            self._guard = Guard(model, self.lives, self._expected[None])
            self._places = Places(model, self._groups, streams)
            self.beside = Beside(self.lives, self._places.spans, streams, masks)
            self.beside.keep_base(streams)
            learner = self._learner(streams)
            for group in self._groups:
                learner.delta(group)
            for task in tasks:
                self._learn(streams, task)
        self._pool = ThreadPoolExecutor(self._executor.jobs, "taskstore-swap", *stay_here())
        self._mover: Mover | None = self._new_mover()

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that are served."""
        return [name for name in self._tasks if not name.startswith(_OLD)]

    def swap(self, task: State) -> None:
        """Make a task live, or the base (None). Raises UnknownTask or SwapError."""
        self._known(task)
        began, moved = time.perf_counter(), task != self.active
        self._move_to(task)
        if moved:
            self.swaps += 1
            self.seconds += time.perf_counter() - began

    def recover(self) -> None:
        """Make the base live after a swap that failed; read it anew where nobody knows what is.

        Raises what reading it does, and UnknownWeights where it is not what was loaded.
        """
        try:
            self._move_to(None)
        except SwapError:
            device = self.lives[0].tensor.device  # as loaders expect it
            with device, Streams(Store(*self._where), [], 0, self._executor) as streams:
                refill(self._model, self._groups, streams)
            self.order.reorder_again(self.lives)
            self._mover, self.active = self._new_mover(), None
            self.verify(None)

    def add(self, task: str) -> None:
        """Learn and prove one more task of the store as it is now; what is live stays so.

        All or nothing. Raises what the constructor raises, UnknownWeights, and SwapError where the
        task is there already, the store holds another base or multi-task model than the one that
        was loaded, or it cannot be read.
        """
        self._usable()
        if task in self._tasks:
            raise SwapError(f"task {task!r} is served already; remove it first")
        try:
            self._add(task)
        except TaskstoreError:
            raise
        except Exception as error:
            raise SwapError(
                f"task {task!r} could not be added, all is as it was: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _add(self, task: str) -> None:
        store = Store(*self._where)
        store.check_task(task)
        check_shared(store, self._loaded, task)
        check_tasks(self._model, store, [task], self._residual, self._executor)
        active, verified = self.active, self.verified
        self._move_to(None)
        try:
            device = self.lives[0].tensor.device  # as loaders expect it
            with device, Streams(store, [task], self._residual, self._executor) as streams:
                self._learn(streams, task)
            try:
                self.verify(task)
            except BaseException:
                self._forget(task)
                self.verified = verified
                raise
        finally:
            self._move_to(active)

    def replace(self, task: str) -> None:
        """Learn and prove the new weights of a task; the old ones wait beside them for `settle`.

        All or nothing. Raises what `add` does, NotEnoughMemory where there is no room for both.
        """
        self._known(task)
        active = self.active
        self._move_to(None)
        self._rename(task, _OLD + task)
        try:
            self.add(task)
        except BaseException:
            self._rename(_OLD + task, task)
            raise
        finally:
            self._move_to(active)

    def settle(self, task: str, keep_new: bool) -> None:
        """End `replace`: drop the old weights of a task, or the new ones; nothing without it."""
        if (old := _OLD + task) in self._tasks:
            self.remove(old if keep_new else task)
            if not keep_new:
                self._rename(old, task)

    def _rename(self, task: str, name: str) -> None:
        self.beside.rename(task, name)
        self._tasks[name], self._expected[name] = self._tasks.pop(task), self._expected.pop(task)

    def remove(self, task: str) -> None:
        """Take a task out and free its memory; where it is live, the base becomes so."""
        self._known(task)
        if task == self.active:
            self._move_to(None)
        self._forget(task)

    def verify(self, task: State) -> dict[str, Any]:
        """Prove the live bytes of a task, or of the base (None); what is live stays so.

        Raises UnknownWeights where a tensor is not what loading the task gives.
        """
        self._known(task)
        active = self.active
        self._move_to(task)
        try:
            found = self.digests()
        finally:
            self._move_to(active)
        expected = {**self._expected[None], **self._expected[task]}
        try:
            check_live(found, expected, task)
        except UnknownWeights:
            self.verified = False
            raise
        size = sum(live.nbytes for live in self.lives)
        return {"task": task, "tensors": len(found), "bytes": size, "digest": model_digest(found)}

    def verify_all(self) -> list[dict[str, Any]]:
        """Prove the base and every task. Raises UnknownWeights."""
        found = [self.verify(task) for task in (None, *self._tasks)]
        self.verified = True
        return found

    def digests(self) -> dict[str, str]:
        """Name of each live tensor -> BLAKE3 of its bytes in the order of a checkpoint."""
        return self.order.digests(self.lives, self._executor)

    def state(self) -> dict[str, Any]:
        """What is live and what tasks take, as plain values."""
        size = self.beside.task_bytes
        return {
            "active": self.active,
            "swaps": self.swaps,
            "swap_seconds": self.seconds,
            "tasks": {name: {**self._tasks[name], "bytes": size(name)} for name in self.tasks},
            "memory": {"live": sum(live.nbytes for live in self.lives), **self.beside.bytes()},
            "verified": self.verified,
            "reordered": len(self.order.shapes),
        }

    def guard(self, model: nn.Module) -> None:
        """Raise SwapError unless the model computes from the very memory that swaps write."""
        self._untouchable = self._guard.check(model, self.digests(), self.beside.swaps)

    def reorder(self, places: Collection[int]) -> set[int]:
        """Put matrices at these addresses into the order of the CPU's kernel; where it was done.

        The base must be live. A matrix that rests are added to stays as it is.
        """
        lives = {live.name: live for live in self.lives if live.tensor.data_ptr() in places}
        for name in self.beside.spanned:
            lives.pop(name, None)
        self.order = KernelOrder({name: tuple(live.tensor.shape) for name, live in lives.items()})
        masks = [self.beside.masks(task) for task in self._tasks]
        for name, live in lives.items():
            self.order.reorder(name, live.tensor)
            self.order.reorder(name, self.beside.deltas[name])
            for mask in masks:
                self.order.reorder_mask(name, mask[name])
        return {live.tensor.data_ptr() for live in lives.values()}

    def _learner(self, streams: Streams) -> Learner:
        return Learner(self._model, streams, self.beside.deltas, self.beside.regions)

    def _learn(self, streams: Streams, task: str) -> None:
        """Learn a task, all of it or nothing. The base must be live."""
        self._places.check(streams, task)
        masks = self.beside.add(task, streams)
        learner, expected = self._learner(streams), dict[str, str]()
        try:
            for group in self._groups:
                check_touchable(self._untouchable, group, streams, task)
                with self.order.undone(group.lives, self.beside.deltas) as reordered:
                    expected |= learner.task(group, task, masks)
                for name in reordered:
                    self.order.reorder_mask(name, masks[name])
        except BaseException:
            self.beside.remove(task)
            raise
        self.beside.learned(task)
        self._expected[task] = expected
        self._tasks[task] = facts(streams.manifest, task, self._residual)

    def _forget(self, task: str) -> None:
        self.beside.remove(task)
        del self._tasks[task], self._expected[task]

    def _known(self, task: State) -> None:
        if task is not None and task not in self._tasks:
            raise UnknownTask(task, self._tasks)

    def _new_mover(self) -> Mover:
        return Mover([self.beside.lane], self._pool, self._executor.jobs)

    def _move_to(self, task: State) -> None:
        mover = self._usable()
        if task == self.active:
            return
        try:
            mover.move(self.active, task, mover.streams())
        except NotUndone:
            self._mover = None
            raise
        self.active = task

    def _usable(self) -> Mover:
        if self._mover is None:
            raise SwapError("nobody knows what is live since a swap failed; start the engine again")
        return self._mover
