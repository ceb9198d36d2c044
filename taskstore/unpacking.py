"""From a store to model folders: checked before, while, and after they are written."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from taskstore import atomic
from taskstore.format.digests import check_file
from taskstore.loader import BaseSource
from taskstore.model_folder import size_of, write_assets, write_model
from taskstore.parallel import default_jobs, ordered_map
from taskstore.progress import Callback, Meter

if TYPE_CHECKING:
    from taskstore.store import Store


def unpack(
    store: Store,
    models: Mapping[str, str | None],
    target: Path,
    overwrite: bool,
    jobs: int | None,
    shard_bytes: int,
    progress: Callback,
) -> Path:
    """Write models to `target`: folder below it ("" for itself) -> task (None for the base).

    Every file that is read is checked against the manifest first (all of the store's files where
    several models are written), every tensor when it is rebuilt. Raises FormatError or
    ChecksumMismatch, and then nothing is at `target` that was not there before.
    """
    jobs = jobs or default_jobs()
    for task in models.values():
        if task is not None:
            store.check_task(task)
    atomic.check_target(target.absolute(), overwrite=overwrite, ours=_is_model)
    _check_files(store, models, jobs)
    with ExitStack() as stack:
        base = stack.enter_context(store.open_base(jobs))
        readers = {
            below: stack.enter_context(store.reader(task, base)) for below, task in models.items()
        }
        total = sum(size_of(reader.tensors) for reader in readers.values())
        atomic.check_space(target.absolute().parent, total)
        meter = Meter(progress, total)
        folder = stack.enter_context(atomic.folder(target, overwrite=overwrite, ours=_is_model))
        for below, reader in readers.items():
            meter.stage("writing", below or target.name)
            inside = folder / below
            inside.mkdir(exist_ok=True)
            write_model(reader, inside, shard_bytes=shard_bytes, jobs=jobs, report=meter.add)
            _write_assets(store, models[below], base, inside)
    return target


def _write_assets(store: Store, task: str | None, base: BaseSource, folder: Path) -> None:
    """A model's other files; those of a referenced base come from where it is."""
    manifest = store.manifest
    model = manifest.base if task is None else manifest.tasks[task]
    write_assets(store.path, manifest, model.assets, folder)
    if task is None:
        for inside, path in base.assets.items():
            copy = folder / inside
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _check_files(store: Store, models: Mapping[str, str | None], jobs: int) -> None:
    files = store.manifest.files
    everything = len(models) > 1
    paths = list(files) if everything else store.files_of(next(iter(models.values())))
    for _ in ordered_map(lambda p: check_file(store.path, p, files[p]), paths, jobs=jobs):
        pass


def _is_model(folder: Path) -> bool:
    """A folder that `--overwrite` may replace: a model, or a folder of models and nothing else."""
    if any(folder.glob("model*.safetensors")):
        return True
    inside = list(folder.iterdir())
    return bool(inside) and all(
        path.is_dir() and any(path.glob("model*.safetensors")) for path in inside
    )
