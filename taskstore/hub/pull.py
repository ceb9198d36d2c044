"""Bring a store of a hub, or some of its tasks, into a folder: only the files that these need."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from taskstore.errors import InputError
from taskstore.format.manifest_file import is_store, read
from taskstore.format.names import CARD, MANIFEST
from taskstore.hub.push import repository_of
from taskstore.locations import dry
from taskstore.locations.base import PathLike
from taskstore.locations.remote.repository import Repository
from taskstore.packing.changes.tasks import copy
from taskstore.public import public
from taskstore.store import Store
from taskstore.store import open as open_store


@public
def pull(
    source: str, tasks: Collection[str] | None, target: PathLike, *, jobs: int | None = None
) -> Store:
    """Write tasks (None: all) of the store in the repository `source` to the folder `target`.

    A target that holds tasks of that store already keeps them, and gets these too. Files come
    through the hub's cache, are checked, and are fetched once. Raises UnknownTask, InputError,
    RemoteError, FormatError or ChecksumMismatch; the target then is as it was.

    >>> taskstore.pull("org/family", ["billing"], "family")  # doctest: +SKIP
    """
    place = Repository(repository_of(source))
    folder = place.fetch([MANIFEST])
    store = open_store(folder)
    there = _there(store, Path(target), source)
    wanted = sorted({*there, *(store.tasks if tasks is None else tasks)})
    for task in wanted:
        store.check_task(task)
    needed = {*store.files_of(None, *wanted), CARD} & {*store.manifest.files}
    dry.note(sum(store.manifest.files[name].bytes for name in needed))
    dry.stop()
    place.fetch(sorted(needed))
    return copy(store, wanted, target, overwrite=bool(there), jobs=jobs)


def _there(store: Store, target: Path, source: str) -> list[str]:
    """Return the tasks that an earlier pull wrote; raises InputError for others."""
    if not is_store(target):
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise InputError(f"{target} is there, and is no store of {source}; name another folder")
        return []
    found = read(target)
    for name, task in found.tasks.items():
        if store.manifest.tasks.get(name) != task:
            raise InputError(
                f"{target} has a task {name!r} that is not, or no longer, in {source}; name "
                "another folder"
            )
    if found.base != store.manifest.base:
        raise InputError(f"{target} has another base than {source}; name another folder")
    return list(found.tasks)
