"""Code children of a task that goes, or changes, against the nearest task above it that stays."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

import msgspec

from taskstore.errors import InputError
from taskstore.executors import threads
from taskstore.format import manifest as m
from taskstore.format.rules import lineage
from taskstore.store import Store


def check_complete(manifest: m.Manifest, tasks: Collection[str]) -> None:
    """Raise InputError where one of these tasks is coded against one that is not among them."""
    for name in tasks:
        parent = manifest.tasks[name].parent
        if parent is not None and parent not in tasks:
            raise InputError(
                f"task {name!r} is coded against {parent!r}; name it too, or pack again with "
                'parent="none"'
            )


def above(manifest: m.Manifest, task: str, gone: Collection[str] = ()) -> str | None:
    """Return the nearest task above another that stays and has the same tiers; None: the base."""
    tasks = manifest.tasks
    tiers = tasks[task].all_tiers
    staying = (name for name in lineage.parents(tasks, task) if name not in gone)
    return next((name for name in staying if tasks[name].all_tiers == tiers), None)


def recoded(
    store: Store, gone: Collection[str], folder: Path, jobs: int | None = None
) -> m.Manifest:
    """Code the children of tasks that go anew, with files in `folder`; returns the manifest.

    All that stays of it is as it was, to the last bit, and is proved while it is read. Raises what
    reading a damaged store raises.
    """
    manifest = store.manifest
    children = [n for n, task in manifest.tasks.items() if n not in gone and task.parent in gone]
    if not children:
        return manifest
    from taskstore.packing.changes.joining import adopted  # loads NumPy, as `_coded` does

    for number, child in enumerate(children):
        parent, alone = above(manifest, child, gone), folder / f"recoded-{number}"
        new = _coded(store, child, parent, alone, jobs)
        old = manifest.tasks[child]
        if _bits(new.tasks[child]) != _bits(old):
            raise InputError(
                f"task {child!r} is coded against {old.parent!r}, and would not be the same "
                'without it; remove both, or pack again with parent="none"'
            )
        manifest = adopted(manifest, new, alone, folder, [child])
        task = msgspec.structs.replace(manifest.tasks[child], scores=old.scores, lam=old.lam)
        tasks = {**manifest.tasks, child: task}
        manifest = msgspec.structs.replace(manifest, tasks=tasks, vectors=store.manifest.vectors)
        shutil.rmtree(alone)
    return manifest


def _bits(task: m.Task) -> dict[str, m.TaskTensor]:
    """Return what a task's tensors are, however they are coded."""
    return {name: msgspec.structs.replace(t, codec=None) for name, t in task.tensors.items()}


def _coded(
    store: Store, child: str, parent: str | None, alone: Path, jobs: int | None
) -> m.Manifest:
    """Code a task of a store, with the one that it is to be coded against, as a store."""
    from taskstore.packing.changes import given  # loads NumPy
    from taskstore.packing.changes.options import as_it_was
    from taskstore.packing.driver import code_family

    executor = threads(jobs)
    wanted = as_it_was(store, child, parent, executor.jobs)
    beside, masked = [child, *([parent] if parent else [])], "mask" in wanted.tier_names
    with given.joined(store, {}, masked, beside, executor) as family:
        return code_family(family, alone, wanted)[0]
