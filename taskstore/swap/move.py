"""Makes one swap: every unit of every lane, or none.

The work runs in threads of a pool, where no KeyboardInterrupt arrives. The caller waits, and an
interrupt is raised when the swap is complete. Where a unit fails, those before it are undone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class _Part:
    """One lane's part of one swap: its units, and those that are done so far."""

    lane: Lane
    units: Sequence[Unit]
    stream: torch.cuda.Stream | None
    done: list[Unit] = field(default_factory=list)


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
        """Swap every unit from `old` to `new`; where one fails, take back those before.

        Raises SwapError where it failed and is undone, NotUndone where even that failed.
        """
        parts = [_Part(*lane, stream) for lane, stream in zip(self._lanes, streams, strict=True)]
        try:
            for part in parts:
                self._run(part, old, new)
        except BaseException as error:
            _undo(parts, old, new)
            raise SwapError(
                f"the swap to {label_of(new)} failed and was undone, {label_of(old)} is live: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _run(self, part: _Part, old: State, new: State) -> None:
        """Swap a lane's units, in several threads where it lets them share."""
        waiting = iter(part.units)

        def work() -> None:
            try:
                part.lane.run(waiting, old, new, part.done)
            except BaseException:
                deque(waiting, maxlen=0)  # the others end with what they have in hand
                raise

        helpers = self._jobs - 1 if part.lane.parallel and len(part.units) > 1 else 0
        futures = [self._pool.submit(work) for _ in range(helpers)]
        try:
            with _alone(part.stream):
                work()
        finally:
            wait(futures)
        for future in futures:
            future.result()


def _undo(parts: Sequence[_Part], old: State, new: State) -> None:
    """Swap back what is done; raises NotUndone."""
    try:
        for part in parts:
            with _alone(part.stream):
                part.lane.run(iter(part.done), new, old, [])
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
