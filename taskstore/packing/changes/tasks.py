"""Remove and rename tasks of a store, and copy some to another store.

Nothing is decoded but what was coded against a task that goes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import msgspec

from taskstore.errors import BadName, InputError
from taskstore.executors import threads
from taskstore.format import manifest as m
from taskstore.format import names
from taskstore.format.manifest_file import not_of_a_store
from taskstore.format.names import CARD
from taskstore.locations import dry, publish
from taskstore.locations.base import PathLike
from taskstore.locations.files import copy_regular, resolve
from taskstore.locations.remote import mirror
from taskstore.locations.scratch import scratch
from taskstore.packing.changes.children import check_complete, recoded
from taskstore.packing.changes.commit import commit, kept_of, staged
from taskstore.packing.changes.history import with_change
from taskstore.packing.elsewhere.sending import bucket, check_target, put_store
from taskstore.packing.only_writer import in_place
from taskstore.public import public
from taskstore.store import Store
from taskstore.store import open as open_store
from taskstore.store.card import seal
from taskstore.store.store import opened


@in_place
def remove(store: Store | PathLike, tasks: Sequence[str]) -> Store:
    """Take tasks out of a store of any kind; the others stay as they are, to the last bit.

    What is coded against one of them is coded anew, against the task above it or the base.

    Raises UnknownTask, InputError where none is left, and ChangedMeanwhile for a store that is not
    what was read.

    >>> taskstore.remove("archive", ["german"]).tasks
    ['english']
    """
    store = opened(store)
    for task in tasks:
        store.check_task(task)
    left = [name for name in store.tasks if name not in tasks]
    if not left:
        raise InputError(f"{store.where} would have no task left; delete the folder instead")
    with staged(store) as folder:
        manifest = recoded(store, tasks, folder)
        return commit(store, folder, kept_of(manifest, left), "remove", list(tasks))


@in_place
def rename(store: Store | PathLike, old: str, new: str) -> Store:
    """Give a task another name; its files stay where they are.

    Raises UnknownTask, and BadName for a name that is there or that no task may have.

    >>> store = taskstore.copy("archive", ["english"], "small")
    >>> taskstore.rename(store, "english", "en").tasks
    ['en']
    """
    store = opened(store)
    store.check_task(old)
    names.check_task_name(new)
    if new in store.tasks:
        raise BadName("task name", new, f"is in {store.where} already; remove that one first")
    names.check_distinct([new, *(name for name in store.tasks if name != old)])
    manifest = store.manifest
    place = manifest.folder(old)
    tasks = {_renamed(n, old, new): _with_parent(t, old, new) for n, t in manifest.tasks.items()}
    folder = None if place == names.folder_of(new) else place
    tasks[new] = msgspec.structs.replace(tasks[new], folder=folder)
    done = msgspec.structs.replace(
        manifest,
        tasks={name: tasks[name] for name in sorted(tasks)},
        vectors=manifest.vectors and _vectors(manifest.vectors, old, new),
    )
    with staged(store) as made:
        return commit(store, made, done, "rename", [old, new])


def _renamed(name: str, old: str, new: str) -> str:
    return new if name == old else name


def _with_parent(task: m.Task, old: str, new: str) -> m.Task:
    return msgspec.structs.replace(task, parent=new) if task.parent == old else task


def _vectors(vectors: m.Vectors, old: str, new: str) -> m.Vectors:
    """Put the rows in the order of the names again."""
    norms = {_renamed(name, old, new): norm for name, norm in vectors.norms.items()}
    pairs = {frozenset(_renamed(n, old, new) for n in p): x for p, x in vectors.pairs().items()}
    order = sorted(norms)
    return m.Vectors(
        share=vectors.share,
        norms={name: norms[name] for name in order},
        cosines=[[pairs[frozenset((a, b))] for b in order[:i]] for i, a in enumerate(order)],
    )


@public
def copy(
    store: Store | PathLike,
    tasks: Collection[str] | None,
    target: PathLike,
    *,
    overwrite: bool = False,
    jobs: int | None = None,
) -> Store:
    """Make a store of some tasks of another (None: of all); their files are copied, and checked.

    Both may be at addresses; what is at the target already, or was fetched, is not sent again.
    Raises UnknownTask, InputError for a task without its parent or the store itself as target,
    TargetExists, FormatError or ChecksumMismatch; the target then is as it was.

    >>> taskstore.copy("archive", ["english"], "english-only").tasks
    ['english']
    """
    store = opened(store)
    for task in tasks or ():
        store.check_task(task)
    wanted = store.tasks if tasks is None else tasks
    check_complete(store.manifest, wanted)
    executor, address = threads(jobs), mirror.address_of(target)
    where = Path(target).absolute()
    if str(address) == store.where or (not address and where.resolve() == store.path.resolve()):
        raise InputError(
            f"{target} is the store that is copied, and would lose its other tasks: name another "
            "folder, or take tasks out with `taskstore remove`"
        )
    kept = kept_of(store.manifest, [name for name in store.tasks if name in wanted])
    paths = [path for path in kept.files if path != CARD]
    done = kept if tasks is None else with_change(kept, store.version, "copy", sorted(tasks))
    seen = check_target(target, overwrite=overwrite)
    if address is not None:
        dry.note(sum(kept.files[path].bytes for path in paths))
        dry.stop()
        with scratch(mirror.folder_of(address), small=True) as folder:
            put_store(bucket(address), done, folder, seen, partial(_found, store))
        return open_store(target, base=store.base_path)
    publish.check_space(where, sum(kept.files[path].bytes for path in paths))
    store.check_files(paths, executor)
    with publish.folder(where, overwrite=overwrite, foreign=not_of_a_store) as folder:
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            copy_regular(resolve(store.path / path, store.path), folder / path)
        seal(folder, done)
    return open_store(target, base=store.base_path)


def _found(store: Store, path: str) -> Path:
    """Return where a file of a store lies on this machine, after a check."""
    store.check_files([path], threads(1))
    return resolve(store.path / path, store.path)
