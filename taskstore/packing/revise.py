"""Add tasks to a store, change them, note their scores, change the store's tiers.

A task that comes, changes or goes costs what it costs alone (`changes`). Other tiers, or masks over
a new multi-task model, need all tasks: what comes bit for bit out of a store can be packed again
without the originals. In its own place, too, a store gets new files and then a new manifest.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from taskstore.errors import BadName, InputError, TargetExists
from taskstore.executors import threads
from taskstore.format import manifest as manifests
from taskstore.format import names
from taskstore.format.rules.since import (
    VERSION_OF_COUNTS,
    VERSION_OF_SCORES,
    VERSION_OF_TIERS,
)
from taskstore.locations.base import PathLike
from taskstore.locations.remote import mirror
from taskstore.models.family import Family, open_finetune
from taskstore.packing.changes.children import recoded
from taskstore.packing.changes.commit import commit, staged
from taskstore.packing.changes.joining import join, renewed
from taskstore.packing.changes.options import AddOptions
from taskstore.packing.changes.provenance import as_packed, scores_of
from taskstore.packing.driver import code_family, pack_family
from taskstore.packing.manifest_draft import with_scores
from taskstore.packing.only_writer import alone, in_place, only_writer
from taskstore.packing.options import PackOptions
from taskstore.packing.parts.agreed import by_name
from taskstore.packing.parts.sealing import writing
from taskstore.packing.report import PackReport
from taskstore.progress import Callback, silent
from taskstore.store import Store
from taskstore.store import open as open_store
from taskstore.store.as_checkpoint import open_family
from taskstore.store.store import opened


@in_place
def add(
    store: Store | PathLike,
    finetunes: Mapping[str, PathLike],
    options: AddOptions | None = None,
    *,
    progress: Callback = silent,
) -> PackReport:
    """Put fine-tunes into a store: their files, and then a manifest that lists them.

    The base is read and no other task, every other file stays as it is, and whoever has the store
    open reads on. Raises BadName for a name that is there, InputError for what cannot be packed,
    ChangedMeanwhile for a store that is not what was read.

    >>> report = taskstore.add("archive", {"german": "family/german"})
    >>> taskstore.open("archive").tasks
    ['english', 'german']
    """
    store = opened(store)
    for name in finetunes:
        names.check_task_name(name)
        if name in store.tasks:
            raise BadName(
                "task name", name, f"is in {store.where} already; taskstore replace changes it"
            )
    names.check_distinct([*store.tasks, *finetunes])
    return _joined(store, finetunes, options or AddOptions(), "add", progress)


@in_place
def replace_tasks(
    store: Store | PathLike,
    finetunes: Mapping[str, PathLike],
    options: AddOptions | None = None,
    *,
    progress: Callback = silent,
) -> PackReport:
    """Give tasks of a store new weights, as `add` does for new tasks; their scores are dropped.

    They keep the tiers that they have, where no others are asked for. Raises UnknownTask.

    >>> report = taskstore.replace("archive", {"english": "family/english"})
    """
    store = opened(store)
    for name in finetunes:
        store.check_task(name)
    return _joined(store, finetunes, options or AddOptions(), "replace", progress)


def _joined(
    store: Store,
    finetunes: Mapping[str, PathLike],
    options: AddOptions,
    what: str,
    progress: Callback,
) -> PackReport:
    if options.repack:
        return _repacked(store, finetunes, options, progress)
    named = by_name(finetunes)
    with (
        staged(store) as folder,
        writing(store.where, what, store.version, options, named) as write,
    ):
        manifest = recoded(store, finetunes, folder, options.jobs)
        manifest, said = join(store, manifest, finetunes, options, folder, progress, write)
        done = commit(store, folder, manifest, what, sorted(finetunes))
    return PackReport(done.where, done.summary(), said)


def _repacked(
    store: Store, finetunes: Mapping[str, PathLike], options: AddOptions, progress: Callback
) -> PackReport:
    """Merge and mask all tasks anew; they must be exact, and come out of the store for that."""
    executor = threads(options.jobs)
    kept = [name for name in store.tasks if name not in finetunes]
    _check_exact(store, kept, "to merge the family anew")
    if store.manifest.merge.options.get("imported"):
        raise InputError(
            f"the masks of {store.where} came from a file, for its multi-task vector, which "
            "another task changes; make masks of our own first: taskstore retier"
        )
    chosen = as_packed(store, executor.jobs)
    chosen = replace(chosen, keep_private=options.keep_private or frozenset(store.tasks))
    store.check_files(store.files_of(None, *kept), executor)
    with ExitStack() as stack:
        family = stack.enter_context(open_family(store, kept, executor, store.path))
        whole = stack.enter_context(closing(_with_more(family, finetunes)))
        what = "replace" if len(kept) < len(store.tasks) else "add"
        scores = scores_of(store, chosen, kept)
        return _in_its_place(store, whole, chosen, scores, progress, what, sorted(finetunes))


def _with_more(family: Family, finetunes: Mapping[str, PathLike]) -> Family:
    """Open models that join those of a store; closing the family closes all."""
    added = [open_finetune(family.base, path, name) for name, path in finetunes.items()]
    tasks = sorted((*family.tasks, *added), key=lambda task: task.name)
    paths = {task.name: task.where for task in added}
    return Family(family.base, tuple(tasks), again=(_with_more, (family, paths)))


def _in_its_place(
    store: Store,
    family: Family,
    options: PackOptions,
    scores: Mapping[str, dict[str, manifests.Score]],
    progress: Callback,
    what: str,
    tasks: Sequence[str] = (),
) -> PackReport:
    """Code all tasks of a store anew, over the base that stays, and swap the manifest."""
    with (
        staged(store) as folder,
        writing(store.where, what, store.version, options, [*tasks]) as write,
    ):
        apart, done = folder / "apart", [store]

        def taken(new: manifests.Manifest) -> manifests.Manifest:
            found = renewed(store.manifest, with_scores(new, scores), apart, folder)
            shutil.rmtree(apart)
            done[0] = commit(store, folder, found, what, [*tasks])
            return done[0].manifest

        chosen = replace(options, base="reference")
        _, report = code_family(family, apart, chosen, progress, taken, write)
    return replace(report, path=done[0].where, summary=done[0].summary())


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
    where = target or store.where
    itself = target is None or _is_same(target, store)
    if itself and target is not None and not options.overwrite:
        raise TargetExists(where)
    with only_writer(store) if itself else nullcontext():
        _check_exact(store, store.tasks, "to change tiers")
        options.check_tasks(store.tasks)
        executor = threads(options.jobs)
        store.check_files(store.files_of(None, *store.tasks), executor)
        chosen = replace(
            options,
            keep_private=True,
            base="embed" if store.manifest.base.carried else "reference",
            chunk=store.manifest.chunk,
        )
        beside = None if mirror.address_of(where) else Path(where)
        with open_family(store, store.tasks, executor, beside) as family:
            scores = scores_of(store, chosen, store.tasks)
            if itself:
                return _in_its_place(store, family, chosen, scores, progress, "retier")
            noted = partial(with_scores, scores=scores)
            with writing(where, "retier", store.version, chosen) as write:
                return pack_family(family, where, chosen, progress, noted, write)


def record(store: Store, label: str, scores: Mapping[str, manifests.Score]) -> Store:
    """Write scores of tasks into the manifest and the card, under the name of an evaluation.

    They are the scores of the tasks that were read: other tasks, and scores of other evaluations,
    may have come or gone since. Raises UnknownTask, ChangedMeanwhile where a task that was scored
    is another one now, and BadName for a label that no manifest may hold.
    """
    for task, score in scores.items():
        store.check_task(task)
        _check_finite(task, score)
    with alone(store):
        now = open_store(store.where, base=store.base_path)
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
        store.close()
        with staged(now) as folder:
            return commit(now, folder, done, "record", sorted(scores))


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


def _is_same(target: PathLike, store: Store) -> bool:
    address = mirror.address_of(target)
    if address is not None:
        return str(address) == store.where
    return os.path.realpath(target) == os.path.realpath(store.path)


def _check_exact(store: Store, tasks: Iterable[str], what: str) -> None:
    for task in tasks:
        try:
            store.check_exact(task)
        except InputError:
            raise InputError(
                f"{what} all fine-tunes are needed, and {store.where} keeps no more of {task!r} "
                f"than its {' and '.join(store.tiers(task))}; pack again from the originals, or "
                'keep an archive (tiers="exact")'
            ) from None
