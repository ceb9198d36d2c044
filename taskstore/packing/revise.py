"""Add tasks to a store, remove them, change its tiers; the old store stays until that is done.

What comes bit for bit out of a store can be packed again without the originals, so a store with
exact tiers takes new tasks and other tiers: it is packed anew from itself. That gives the same
bytes as packing the originals. Taking a task away needs no packing, in any store: its files are
left out, the others are linked. Nor does a note of scores.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from taskstore.errors import BadName, InputError
from taskstore.executors import threads
from taskstore.format import manifest as manifests
from taskstore.format import names
from taskstore.format.rules.since import (
    VERSION_OF_COUNTS,
    VERSION_OF_SCORES,
    VERSION_OF_TIERS,
)
from taskstore.locations import publish
from taskstore.locations.base import PathLike
from taskstore.locations.files import copy_regular, resolve
from taskstore.merging.methods import registry
from taskstore.models.family import Family, open_finetune
from taskstore.packing.driver import pack_family
from taskstore.packing.manifest_draft import seal
from taskstore.packing.only_writer import in_place, only_writer
from taskstore.packing.options import PackOptions
from taskstore.packing.report import PackReport
from taskstore.progress import Callback, silent
from taskstore.store import Store
from taskstore.store import open as open_store
from taskstore.store.as_checkpoint import open_family
from taskstore.store.contents import not_of_a_store
from taskstore.store.store import opened


@in_place
def add(
    store: Store | PathLike,
    finetunes: Mapping[str, PathLike],
    *,
    keep_private: bool = False,
    jobs: int | None = None,
    progress: Callback = silent,
) -> PackReport:
    """Put fine-tunes into a store of exact tasks, in place of the old store when all is written.

    Every file is checked first, every tensor while it is read. Raises BadName for a name that is
    there, InputError for a store whose tasks are not exact, ChangedMeanwhile for one that is not
    what was read.

    >>> report = taskstore.add("archive", {"german": "family/german"})
    >>> taskstore.open("archive").tasks
    ['english', 'german']
    """
    store, executor = opened(store), threads(jobs)
    for name in finetunes:
        names.check_task_name(name)
        if name in store.tasks:
            raise BadName("task name", name, f"is in {store.path} already; remove that one first")
    names.check_distinct([*store.tasks, *finetunes])
    _check_exact(store, "to add a task")
    if store.manifest.merge.options.get("imported"):
        raise InputError(
            f"the masks of {store.path} came from a file, for its multi-task vector, which another "
            "task changes; make masks of our own first: taskstore retier"
        )
    _check_alone(store)
    options = _options(store, executor.jobs)
    options = replace(options, keep_private=keep_private or frozenset(store.tasks))
    store.check_files(store.files_of(None, *store.tasks), executor)
    with ExitStack() as stack:
        family = stack.enter_context(open_family(store, store.tasks, executor, store.path))
        added = [
            stack.enter_context(closing(open_finetune(family.base, path, name)))
            for name, path in finetunes.items()
        ]
        tasks = sorted((*family.tasks, *added), key=lambda task: task.name)
        whole = Family(family.base, tuple(tasks))
        return pack_family(whole, store.path, options, progress, _scores(store, options))


def retier(
    store: Store,
    options: PackOptions,
    target: PathLike | None = None,
    *,
    progress: Callback = silent,
) -> PackReport:
    """Pack a store of exact tasks again with other options, to `target` or in its own place.

    Raises InputError for a store whose tasks are not exact, ChangedMeanwhile for one that is to be
    replaced and is not what was read.
    """
    where = Path(target or store.path)
    itself = os.path.realpath(where) == os.path.realpath(store.path)
    with only_writer(store) if itself else nullcontext():
        _check_exact(store, "to change tiers")
        options.check_tasks(store.tasks)
        if target is None:
            _check_alone(store)
        executor = threads(options.jobs)
        store.check_files(store.files_of(None, *store.tasks), executor)
        chosen = replace(
            options,
            keep_private=True,
            base="embed" if store.manifest.base.carried else "reference",
            overwrite=options.overwrite or target is None,
            chunk=store.manifest.chunk,
        )
        with open_family(store, store.tasks, executor, where) as family:
            return pack_family(family, where, chosen, progress, _scores(store, chosen))


@in_place
def remove(store: Store | PathLike, tasks: Sequence[str], *, jobs: int | None = None) -> Store:
    """Take tasks out of a store of any kind; the others stay as they are, to the last bit.

    Every file that stays is checked first. Raises UnknownTask, InputError where none is left, and
    ChangedMeanwhile for a store that is not what was read.

    >>> taskstore.remove("archive", ["german"]).tasks
    ['english']
    """
    store = opened(store)
    for task in tasks:
        store.check_task(task)
    left = {name: task for name, task in store.manifest.tasks.items() if name not in tasks}
    if not left:
        raise InputError(f"{store.path} would have no task left; delete the folder instead")
    kept = store.files_of(None, *left)
    assets = {d: a for d, a in store.manifest.assets.items() if f"assets/{d}" in kept}
    known = store.manifest.vectors
    vectors = known and known.of(left)
    done = msgspec.structs.replace(store.manifest, tasks=left, vectors=vectors, assets=assets)
    _check_alone(store)
    return _rewrite(store, done, kept, jobs)


def record(
    store: Store, label: str, scores: Mapping[str, manifests.Score], *, jobs: int | None = None
) -> Store:
    """Write scores of tasks into the manifest and the card, under the name of an evaluation.

    They are the scores of the tasks that were read: other tasks, and scores of other evaluations,
    may have come or gone since. Raises UnknownTask, ChangedMeanwhile where a task that was scored
    is another one now, and BadName for a label that no manifest may hold.
    """
    for task, score in scores.items():
        store.check_task(task)
        _check_finite(task, score)
    with publish.alone(store.path):
        now = open_store(store.path, base=store.base_path)
        if any(_unscored(now, task) != _unscored(store, task) for task in scores):
            store.check_unchanged()
        check_record(now, label)
        tasks = {
            name: msgspec.structs.replace(task, scores={**(task.scores or {}), label: scores[name]})
            if name in scores
            else task
            for name, task in now.manifest.tasks.items()
        }
        tiers = any(score.lower for score in scores.values())
        needed = VERSION_OF_TIERS if tiers else VERSION_OF_SCORES
        needed = VERSION_OF_COUNTS if any(score.n for score in scores.values()) else needed
        version = max(now.manifest.version, needed)
        done = msgspec.structs.replace(now.manifest, version=version, tasks=tasks)
        return _rewrite(now, done, now.files_of(None, *tasks), jobs)


def _unscored(store: Store, task: str) -> tuple[object, object]:
    """Return the base and a task without its scores; None: it is gone."""
    found = store.manifest.tasks.get(task)
    return store.manifest.base, found and msgspec.structs.replace(found, scores=None)


def _check_finite(task: str, score: manifests.Score) -> None:
    for number in (score.rebuilt, score.base, score.original, *(score.lower or {}).values()):
        if number is not None and not abs(number) <= sys.float_info.max:
            raise InputError(
                f"a score of task {task!r} is {number!r:.99}, which is no finite number"
            )


def check_record(store: Store, label: str) -> None:
    """Raise, before anything is evaluated, what `record` would raise after it."""
    if not label.strip() or names.has_control(label):
        raise BadName("name of the evaluation", label, "is empty or holds a control character")
    _check_alone(store)


def _rewrite(
    store: Store, manifest: manifests.Manifest, kept: list[str], jobs: int | None
) -> Store:
    """Write another manifest over the same files, which are checked and linked.

    No tensor is decoded, and none needs to be: files and the checksums of tensors stay together, so
    `verify --deep` finds what it found before.
    """
    store.check_files(kept, threads(jobs))
    files = {path: store.manifest.files[path] for path in kept}
    done = msgspec.structs.replace(manifest, files=files)
    with publish.folder(store.path, overwrite=True, foreign=not_of_a_store) as folder:
        for path in kept:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            _link(resolve(store.path / path, store.path), folder / path)
        seal(folder, done)
    return open_store(store.path, base=store.base_path)


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        copy_regular(source, target)


def _check_alone(store: Store) -> None:
    """Refuse a folder with files that are not the store's: they would go with the old folder."""
    publish.check_target(store.path, overwrite=True, foreign=not_of_a_store)


def _check_exact(store: Store, what: str) -> None:
    for task in store.tasks:
        try:
            store.check_exact(task)
        except InputError:
            raise InputError(
                f"{what} all fine-tunes are needed, and {store.path} keeps no more of {task!r} "
                "than a mask; pack again from the originals, or keep an archive (--tiers exact)"
            ) from None


def _options(store: Store, jobs: int) -> PackOptions:
    """Return what a store of exact tasks was packed with, as far as it matters."""
    manifest = store.manifest
    tasks = manifest.tasks
    method, merge_options = manifest.merge.method, manifest.merge.options
    try:
        registry.check(method, merge_options, packing=True)
    except InputError:  # of a newer taskstore, or of none
        method, merge_options = "lsq", {}
    lambdas = {name: task.lam for name, task in tasks.items()}
    bits = {name: task.bits for name, task in tasks.items() if task.bits is not None}
    tiers = list({tier: None for name in tasks for tier in store.tiers(name)})
    masked: dict[str, Any] = {
        "method": method,
        "merge_options": merge_options,
        "lam": _common(lambdas.values()),
        "lambdas": lambdas,
    }
    return PackOptions(
        tiers=",".join(tiers),
        level="archive" if any(task.codecs for task in tasks.values()) else "speed",
        residual=_common(bits.values()),
        residuals=bits,
        base="embed" if manifest.base.carried else "reference",
        jobs=jobs,
        overwrite=True,
        chunk=manifest.chunk,
        **(masked if "mask" in tiers else {}),
    )


def _scores(store: Store, options: PackOptions) -> dict[str, dict[str, manifests.Score]]:
    """Return the recorded scores that stay true: of exact tensors, not of the tiers below them."""
    if "exact" not in options.tier_names:
        return {}
    return {
        name: {label: msgspec.structs.replace(s, lower=None) for label, s in task.scores.items()}
        for name, task in store.manifest.tasks.items()
        if task.scores
    }


def _common(values: Iterable[float]) -> float | None:
    """Return what all tasks have, so that a new one gets it too; None where they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None
