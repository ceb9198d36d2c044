"""Follow the changes of a store while it is served: new tasks, new weights, tasks that went."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from taskstore.errors import TaskstoreError
from taskstore.store import Store
from taskstore_serving.api.answers import WAIT, Refusal

SECONDS = 2.0  # between two looks at the manifest
_log = logging.getLogger("taskstore.serving")


class Tasks(Protocol):
    """What a server offers of its tasks; `Served` does."""

    @property
    def store(self) -> Store: ...
    @property
    def tasks(self) -> dict[str, object]: ...
    def is_current(self, task: str) -> bool: ...
    async def add(self, task: str) -> None: ...
    async def remove(self, task: str, wait: float) -> None: ...


async def watch(served: Tasks, *, new: bool, seconds: float = SECONDS) -> None:
    """Look at the store again and again, for ever; `new`: tasks that are new are served, too."""
    seen = ""
    while True:
        try:
            store = await asyncio.to_thread(lambda: served.store)
        except TaskstoreError as error:  # a disk that is away for a moment
            _log.warning("the store cannot be read: %s", error)
        else:
            if seen and store.version != seen:
                await follow(served, store, new=new)
            seen = store.version
        await asyncio.sleep(seconds)


async def follow(served: Tasks, store: Store, *, new: bool) -> None:
    """Serve what the store holds now; what cannot be served is said, and the rest goes on."""
    gone = [task for task in served.tasks if task not in store.tasks]
    other = [task for task in served.tasks if task in store.tasks and not served.is_current(task)]
    fresh = [task for task in store.tasks if new and task not in served.tasks]
    for task in gone:
        await _try(served.remove(task, WAIT), f"task {task!r} is no longer served")
    for task in other:
        await _try(served.add(task), f"task {task!r} has new weights")
    for task in fresh:
        await _try(served.add(task), f"task {task!r} is served")


async def _try(change: object, words: str) -> None:
    try:
        await change  # type: ignore[misc]
    except (TaskstoreError, Refusal) as error:
        _log.warning("the store has changed, and it could not be followed: %s", error)
    else:
        _log.info("the store has changed: %s", words)
