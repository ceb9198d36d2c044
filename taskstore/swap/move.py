"""One swap: every unit of every lane, or none.

The work runs in threads of a pool, where no KeyboardInterrupt arrives; whoever asked for it waits,
and an interrupt is raised when the swap is whole. Where a unit fails, those before it are undone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import ExitStack, contextmanager

import torch

from taskstore.errors import SwapError
from taskstore.store.catalog import label_of
from taskstore.swap.lane import Lane, Unit
from taskstore.swap.states import State


class NotUndone(SwapError):
    """A swap failed and so did taking it back: nobody knows what is live."""


def uninterrupted(pool: Executor, work: Callable[[], None]) -> None:
    """Run `work` in the pool to its end; an interrupt meanwhile is raised after it."""
    future: Future[None] = Future()

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                work()
                future.set_result(None)
            except BaseException as error:
                future.set_exception(error)

    interrupt: BaseException | None = None
    submitted = False
    while True:
        try:
            if not submitted:
                pool.submit(run)
                submitted = True
            wait([future])
            break
        except BaseException as error:
            if future.cancel():  # it has not begun and never will
                raise
            submitted, interrupt = True, error
    if interrupt is not None:
        raise interrupt
    future.result()


class Mover:
    """Moves all lanes from one state to another."""

    def __init__(self, lanes: Sequence[Lane], pool: Executor, jobs: int) -> None:
        self._lanes = [(lane, lane.units()) for lane in lanes]
        self._pool, self._jobs = pool, jobs

    def streams(self) -> list[torch.cuda.Stream | None]:
        """The caller's current stream on each lane's device; a stream belongs to a thread."""
        return [
            torch.cuda.current_stream(lane.device) if lane.device.type == "cuda" else None
            for lane, _ in self._lanes
        ]

    def move(self, old: State, new: State, streams: Sequence[torch.cuda.Stream | None]) -> None:
        """Raises SwapError where it failed and is undone, NotUndone where even that failed."""
        done: list[list[Unit]] = [[] for _ in self._lanes]
        try:
            for (lane, units), mine, stream in zip(self._lanes, done, streams, strict=True):
                self._run(lane, units, old, new, mine, stream)
        except BaseException as error:
            self._undo(done, old, new, streams)
            raise SwapError(
                f"the swap to {label_of(new)} failed and was undone, {label_of(old)} is live: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _run(
        self,
        lane: Lane,
        units: Sequence[Unit],
        old: State,
        new: State,
        done: list[Unit],
        stream: torch.cuda.Stream | None,
    ) -> None:
        waiting = iter(units)

        def work() -> None:
            try:
                lane.run(waiting, old, new, done)
            except BaseException:
                deque(waiting, maxlen=0)  # the others end with what they have in hand
                raise

        helpers = self._jobs - 1 if lane.parallel and len(units) > 1 else 0
        futures = [self._pool.submit(work) for _ in range(helpers)]
        try:
            with _alone(stream):
                work()
        finally:
            wait(futures)
        for future in futures:
            future.result()

    def _undo(
        self,
        done: Sequence[Sequence[Unit]],
        old: State,
        new: State,
        streams: Sequence[torch.cuda.Stream | None],
    ) -> None:
        try:
            for (lane, _), units, stream in zip(self._lanes, done, streams, strict=True):
                with _alone(stream):
                    lane.run(iter(units), new, old, [])
        except BaseException as error:
            raise NotUndone(
                f"a swap from {label_of(old)} to {label_of(new)} failed and could not be undone "
                f"({type(error).__name__}: {error}); load the model again"
            ) from error


@contextmanager
def _alone(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """On that stream, after all that the device was told before; done when it ends."""
    if stream is None:
        yield
        return
    with ExitStack() as stack:
        torch.cuda.synchronize(stream.device)
        stack.callback(torch.cuda.synchronize, stream.device)
        stack.enter_context(torch.cuda.stream(stream))
        yield
