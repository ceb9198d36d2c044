"""Tell whether a fine-tune is somewhere else, too."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from taskstore.format.manifest import Task
from taskstore.locations import ownership
from taskstore.store.store import Store


def only_copies(store: Store, tasks: Iterable[str]) -> list[str]:
    """Return the tasks whose fine-tune is nowhere else, as far as the store can tell.

    It is elsewhere where it came from a hub, at a commit, and where its folder lies beside the
    store with the weight files that came in, to the last bit. Raises UnknownTask.
    """
    for task in tasks:
        store.check_task(task)
    known = store.manifest.tasks
    return [task for task in tasks if not _is_elsewhere(known[task], store.path.parent)]


def _is_elsewhere(task: Task, around: Path) -> bool:
    if task.source and task.revision:
        return True
    if not task.shards or Path(task.origin).name != task.origin:
        return False
    files = {
        name: ownership.Written(bytes=shard.bytes, blake3=shard.blake3)
        for name, shard in task.shards.items()
    }
    return ownership.holds(around / task.origin, files)
