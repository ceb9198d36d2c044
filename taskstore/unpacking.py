"""From a store to model folders: checked before, while, and after they are written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from taskstore import atomic
from taskstore.format.digests import check_files
from taskstore.loader import check_tier
from taskstore.model_folder import size_of, write_assets, write_model
from taskstore.parallel import default_jobs
from taskstore.progress import Callback, Meter

if TYPE_CHECKING:
    from taskstore.store import Store


def unpack(
    store: Store,
    models: Mapping[str, str | None],
    target: Path,
    tier: str | None,
    overwrite: bool,
    jobs: int | None,
    shard_bytes: int,
    progress: Callback,
) -> Path:
    """Write models to `target`: folder below it ("" for itself) -> task (None for the base).

    `tier` None: the best of each. Raises InputError where a task does not have it.
    Every file that is read is checked against the manifest first (all of the store's files where
    several models are written), every tensor when it is rebuilt. Raises FormatError or
    ChecksumMismatch, and then nothing is at `target` that was not there before.
    """
    jobs = jobs or default_jobs()
    for task in models.values():
        if task is not None:
            store.check_task(task)
            check_tier(store.manifest, task, tier)
    atomic.check_target(target.absolute(), overwrite=overwrite, ours=_is_model)
    _check_files(store, models, jobs)
    with ExitStack() as stack:
        base = stack.enter_context(store.open_base(jobs))
        readers = {
            below: stack.enter_context(store.reader(task, base, tier))
            for below, task in models.items()
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
            write_assets(store.path, store.manifest, models[below], base.assets, inside)
    return target


def _check_files(store: Store, models: Mapping[str, str | None], jobs: int) -> None:
    everything = len(models) > 1
    paths = store.manifest.files if everything else store.files_of(*models.values())
    check_files(store.path, store.manifest.files, paths, jobs)


def _is_model(folder: Path) -> bool:
    """A folder that `--overwrite` may replace: a model, or a folder of models and nothing else."""
    if any(folder.glob("model*.safetensors")):
        return True
    inside = list(folder.iterdir())
    return bool(inside) and all(
        path.is_dir() and any(path.glob("model*.safetensors")) for path in inside
    )
