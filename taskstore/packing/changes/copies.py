"""Tell whether a fine-tune is somewhere else, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from taskstore.format.manifest import Task
from taskstore.locations import ownership
from taskstore.locations.ownership import Written
from taskstore.store.store import Store


def only_copies(
    store: Store, tasks: Iterable[str], folders: Iterable[Path] = (), stores: Iterable[Store] = ()
) -> list[str]:
    """Return the tasks whose fine-tune is nowhere else, as far as the store can tell.

    It is elsewhere where it came from a hub, at a commit; where its folder beside the store, or one
    of `folders`, has the weight files that came in, to the last bit; and where one of `stores`
    keeps them as an exact task. Raises UnknownTask.
    """
    for task in tasks:
        store.check_task(task)
    around, others = store.path.parent, [t for s in stores for t in s.manifest.tasks.values()]
    kept = [_files(task) for task in others if "exact" in task.all_tiers]
    known, looked = store.manifest.tasks, [*folders]
    return [task for task in tasks if not _is_elsewhere(known[task], around, looked, kept)]


def _is_elsewhere(
    task: Task, around: Path, folders: Sequence[Path], kept: Sequence[Mapping[str, Written]]
) -> bool:
    if task.source and task.revision:
        return True
    if not (files := _files(task)):
        return False
    beside = [around / task.origin] if Path(task.origin).name == task.origin else []
    return files in kept or any(ownership.holds(folder, files) for folder in (*beside, *folders))


def _files(task: Task) -> dict[str, Written]:
    """The weight files that came in."""
    shards = (task.shards or {}).items()
    return {name: Written(bytes=shard.bytes, blake3=shard.blake3) for name, shard in shards}
