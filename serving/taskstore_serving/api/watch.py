"""Follow the changes of a store while it is served: new tasks, new weights, tasks that went."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from typing import Protocol

from taskstore.errors import TaskstoreError
from taskstore.format.names import MANIFEST
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
    """Look at the store again and again, for ever; `new`: tasks that are new are served, too.

    The manifest is read where its file is another one, or was touched. The first look counts: the
    store may have changed while the server started.
    """
    store: Store | None = None
    stamp: tuple[int, ...] | None = None
    while True:
        before, stamp = stamp, await asyncio.to_thread(_stamp, store)
        if stamp is None or stamp != before:
            seen = store
            try:
                store = await asyncio.to_thread(lambda: served.store)
            except TaskstoreError as error:  # a disk that is away for a moment
                _log.warning("the store cannot be read: %s", error)
                stamp = None
            else:
                store.close()  # it holds no files of an older version back
                if seen is None or store.version != seen.version:
                    try:
                        await follow(served, store, new=new)
                    except Exception:  # the store changed again in the middle: look once more
                        _log.warning("the store has changed, and is looked at again", exc_info=True)
                        store, stamp = seen, None
        await asyncio.sleep(seconds)


def _stamp(store: Store | None) -> tuple[int, ...] | None:
    """Return what another manifest in its place changes; None: it is to be read in any case."""
    with suppress(OSError):
        if store is not None and not store.is_elsewhere:
            found = os.stat(store.path / MANIFEST)
            return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
    return None


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
