"""Code fine-tunes against a store's base, and take their files and entries into the store.

They are packed as a store of their own, in the folder of what is new, whose base is referenced.
So a fine-tune costs what it costs alone, however many tasks there are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
from blake3 import blake3

from taskstore.errors import InputError, OptionError
from taskstore.executors import threads
from taskstore.format import manifest as m
from taskstore.format.names import BASE, MAX_NAME, MULTITASK, by_stem, folder_of, stems_of
from taskstore.format.rules import lineage
from taskstore.locations.base import PathLike
from taskstore.packing.changes import given
from taskstore.packing.changes.commit import kept_of
from taskstore.packing.changes.options import AddOptions
from taskstore.packing.driver import Writer, code_family
from taskstore.packing.elsewhere.sending import named
from taskstore.packing.options import PackOptions
from taskstore.packing.parents import nearest
from taskstore.progress import Callback
from taskstore.store import Store


def join(
    store: Store,
    manifest: m.Manifest,
    finetunes: Mapping[str, PathLike],
    options: AddOptions,
    folder: Path,
    progress: Callback,
    write: Writer | None = None,
) -> tuple[m.Manifest, list[str]]:
    """Code fine-tunes into `folder`; returns `manifest` with them, and what to say.

    A task of the same name is replaced. `write` writes files, None: this process. Raises what
    `pack` raises.
    """
    for name in {*options.statistics} - {"", *finetunes}:
        raise OptionError(f"statistics are given for {name!r}, which is no task that joins")
    groups, said = list[tuple[PackOptions, Mapping[str, PathLike]]](), list[str]()
    for some in _alike(store, finetunes):
        parents = {n: p for n, p in options.parents.items() if n in some or n not in finetunes}
        own = replace(options, parents=parents)
        wanted, far = own.for_tasks(store, some), dict[str, float]()
        own.check_parents(store, some, wanted.tier_names)
        if wanted.tier_names == ("mask",) and options.max_error is not None:
            far = _too_far(store, some, wanted, options.max_error)
            said += [_said(name, error, options.max_error) for name, error in far.items()]
            rest = replace(options, tiers=options.rest, parents={}).for_tasks(store, ())
            groups.append((rest, {name: some[name] for name in far}))
        groups.append((wanted, {name: path for name, path in some.items() if name not in far}))
    for number, (chosen, some) in enumerate(groups):
        if some:
            masked, executor = "mask" in chosen.tier_names, threads(chosen.jobs)
            if chosen.tier_names in (("exact",), ("rest", "exact")):
                with given.joined(store, some, False, (), executor) as family:
                    found = nearest.choose(store, finetunes, family, chosen, executor)
                chosen = replace(chosen, parent="none", parents=found)
            beside = sorted({*chosen.parents.values()} - {*some})
            with given.joined(store, some, masked, beside, executor) as family:
                alone = folder / f"alone-{number}"
                new, report = code_family(family, alone, chosen, progress, write=write)
                lines = (*report.notes, *report.warnings)
                said += [line for line in lines if line.startswith(tuple(some))]
                manifest = adopted(manifest, new, alone, folder, list(some))
            shutil.rmtree(alone)
    return kept_of(manifest, list(manifest.tasks)), said


def _alike(store: Store, finetunes: Mapping[str, PathLike]) -> list[Mapping[str, PathLike]]:
    """Split fine-tunes by the tiers of the tasks that they replace; new ones are one group."""
    known, groups = store.manifest.tasks, dict[tuple[str, ...], dict[str, PathLike]]()
    for name, path in finetunes.items():
        tiers = known[name].all_tiers if name in known else ()
        groups.setdefault(tiers, {})[name] = path
    return [*groups.values()]


def _too_far(
    store: Store, finetunes: Mapping[str, PathLike], options: PackOptions, most: float
) -> dict[str, float]:
    """Return the error of each fine-tune that masks would not keep well enough, by a sample."""
    executor = threads(options.jobs)
    with given.joined(store, finetunes, True, (), executor) as family:
        lam = options.lam_of("")
        found = given.errors_of_masks(family, lam, options.chunk, executor)
    return {name: error for name, error in found.items() if error > most}


def _said(name: str, error: float, most: float) -> str:
    return (
        f"{name}: a mask over the multi-task model that is there would have the error {error:.3f}, "
        f"more than {most:g}: it gets a rest (a larger `max_error` takes the mask, repack=True "
        "merges the family anew)"
    )


def adopted(
    manifest: m.Manifest, new: m.Manifest, alone: Path, folder: Path, names: Collection[str]
) -> m.Manifest:
    """Move the files of new tasks to `folder`, under names of their own, and enter the tasks.

    They lie in the folder `alone`, and `new` lists them.
    """
    _check_same_base(manifest, new)
    files, tasks = dict(manifest.files), dict(manifest.tasks)
    for name in names:
        own = _own_files(new, name)
        place = _place(new, name, own)
        for inside, path in own.items():
            target = f"tasks/{place}/{inside}"
            files[target] = new.files[path]
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            os.rename(alone / path, folder / target)
        tasks[name] = msgspec.structs.replace(new.tasks[name], folder=place)
    for digest in new.assets:
        path = f"assets/{digest}"
        if path not in files:
            (folder / "assets").mkdir(exist_ok=True)
            os.rename(alone / path, folder / path)
            files[path] = new.files[path]
    for name in names:
        _check_parent(new, tasks, name)
    order, own_vectors = sorted(tasks), new.vectors
    return msgspec.structs.replace(
        manifest,
        version=max(manifest.version, new.version),
        tasks={name: tasks[name] for name in order},
        vectors=_vectors(manifest.vectors, own_vectors and own_vectors.of(names), order),
        assets=dict(sorted({**new.assets, **manifest.assets}.items())),
        files=files,
    )


def renewed(manifest: m.Manifest, new: m.Manifest, alone: Path, folder: Path) -> m.Manifest:
    """Put all of `new` in the place of a store's tasks and multi-task model, as `adopted` does.

    Only the base stays.
    """
    start = msgspec.structs.replace(
        manifest,
        tasks={},
        vectors=None,
        merge=new.merge,
        tensors={
            name: msgspec.structs.replace(tensor, multitask=new.tensors[name].multitask)
            for name, tensor in manifest.tensors.items()
        },
        files={
            **{p: manifest.files[p] for p in manifest.files if p.startswith((BASE, "assets/"))},
            **_multitask(new, alone, folder),
        },
    )
    found = adopted(start, new, alone, folder, list(new.tasks))
    return kept_of(msgspec.structs.replace(found, vectors=new.vectors), list(found.tasks))


def _multitask(new: m.Manifest, alone: Path, folder: Path) -> dict[str, m.File]:
    """Move a multi-task model to `folder`, under names by its content (SPEC.md 8)."""
    places = named(new, by_stem(new.files).get(MULTITASK, []))
    for path, target in places.items():
        os.rename(alone / path, folder / target)
    return {target: new.files[path] for path, target in places.items()}


def _check_parent(alone: m.Manifest, tasks: Mapping[str, m.Task], name: str) -> None:
    """Refuse a parent that has not in the store what a task was coded given."""
    task = tasks[name]
    for tensor in task.tensors:
        given_here = lineage.has_parents(tasks, task, tensor)
        if task.best(tensor) == "exact" and given_here != lineage.has_parents(
            alone.tasks, task, tensor
        ):
            raise InputError(
                f"task {name!r} cannot be coded against {task.parent!r}, which has tensor "
                f"{tensor!r} in another form; leave it out of `parents`"
            )


def _own_files(manifest: m.Manifest, task: str) -> dict[str, str]:
    """Return path below the task's folder -> path in the store."""
    listed = by_stem(manifest.files)
    paths = [path for stem in stems_of(manifest.folder(task)) for path in listed.get(stem, ())]
    return {path.rpartition("/")[2]: path for path in paths}


def _place(manifest: m.Manifest, name: str, own: Mapping[str, str]) -> str:
    """Name a folder by its content (SPEC.md 8): another content never gets the name."""
    lines = (f"{inside} {manifest.files[own[inside]].blake3}\n" for inside in sorted(own))
    return f"{folder_of(name)[: MAX_NAME - 13]}-{blake3(''.join(lines).encode()).hexdigest()[:12]}"


def _check_same_base(manifest: m.Manifest, new: m.Manifest) -> None:
    """Refuse new tasks whose base is not the store's, to the last bit."""
    for name, tensor in manifest.tensors.items():
        if tensor.blake3 != new.tensors[name].blake3:
            raise InputError(f"tensor {name!r} of the base is not what was packed")


def _vectors(
    ours: m.Vectors | None, new: m.Vectors | None, order: Collection[str]
) -> m.Vectors | None:
    """Join what is said of the tasks' vectors; new ones and old ones were never compared."""
    if ours is None or new is None:
        return None
    norms = {**ours.norms, **new.norms}
    known = {**ours.pairs(), **new.pairs()}
    for pair in list(known):
        if len(pair & new.norms.keys()) == 1:  # of a task that is replaced
            del known[pair]
    names = list(order)
    return m.Vectors(
        share=min(ours.share, new.share),
        norms={name: norms[name] for name in names},
        cosines=[[known.get(frozenset((a, b))) for b in names[:i]] for i, a in enumerate(names)],
    )
