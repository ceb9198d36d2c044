"""From a store to model folders: checked before, while, and after they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from taskstore.executors import default_jobs
from taskstore.format.digests import check_files
from taskstore.format.weight_files import SHARD_BYTES
from taskstore.locations import publish
from taskstore.models.folder import write_weights
from taskstore.progress import Callback, Meter
from taskstore.store import original_files
from taskstore.store.assets import write_assets
from taskstore.store.rebuild import rebuilt_blocks

if TYPE_CHECKING:
    from taskstore.store.contents import StoreContents
    from taskstore.store.rebuild import ModelReader


def unpack(
    store: StoreContents,
    models: Mapping[str, str | None],
    target: Path,
    tier: str | None,
    overwrite: bool,
    jobs: int | None,
    shard_bytes: int | None,
    progress: Callback,
) -> Path:
    """Write models to `target`: folder below it ("" for itself) -> task (None for the base).

    `tier` None: the best of each. Raises InputError where a task does not have it.
    A model whose weight files the store keeps gets them as they were, unless `shard_bytes` asks
    for others or a lower tier is wanted; each is compared with its checksum. Every file that is
    read is checked against the manifest first (all of the store's files where several models are
    written), every tensor when it is rebuilt. Raises FormatError or ChecksumMismatch, and then
    nothing is at `target` that was not there before.
    """
    jobs = jobs or default_jobs()
    for task in models.values():
        store.check_tier(task, tier)
    ours = _is_model_of(store)
    publish.check_target(target.absolute(), overwrite=overwrite, ours=ours)
    _check_files(store, models, tier, jobs)
    if shard_bytes is None:
        for task in models.values():
            original_files.read(
                store.path, store.manifest, task, tier
            )  # refused before any is written
    with ExitStack() as stack:
        base = stack.enter_context(store.open_base(jobs))
        readers = {
            below: stack.enter_context(store.reader(task, base, tier))
            for below, task in models.items()
        }
        total = sum(t.nbytes for reader in readers.values() for t in reader.tensors.values())
        publish.check_space(target.absolute().parent, total)
        meter = Meter(progress, total)
        folder = stack.enter_context(publish.folder(target, overwrite=overwrite, ours=ours))
        for below, reader in readers.items():
            meter.stage("writing", below or target.name)
            inside = folder / below
            inside.mkdir(exist_ok=True)
            _write_weights(store, models[below], tier, reader, inside, shard_bytes, jobs, meter)
            write_assets(store.path, store.manifest, models[below], base.assets, inside)
    return target


def _write_weights(
    store: StoreContents,
    task: str | None,
    tier: str | None,
    reader: ModelReader,
    folder: Path,
    shard_bytes: int | None,
    jobs: int,
    meter: Meter,
) -> None:
    kept = shard_bytes is None
    files = original_files.read(store.path, store.manifest, task, tier) if kept else []
    if files:
        original_files.write(reader, files, folder, jobs=jobs, report=meter.add)
        original_files.write_index(store.path, store.manifest, task, folder)
    else:
        limit = SHARD_BYTES if shard_bytes is None else shard_bytes
        write_weights(
            folder, reader.tensors, limit, lambda n: rebuilt_blocks(reader, n, jobs), meter.add
        )


def _check_files(
    store: StoreContents, models: Mapping[str, str | None], tier: str | None, jobs: int
) -> None:
    everything = len(models) > 1
    paths = store.manifest.files if everything else store.files_of(*models.values(), tier=tier)
    check_files(store.path, store.manifest.files, paths, jobs)


def _is_model_of(store: StoreContents) -> Callable[[Path], bool]:
    """Tells folders that `--overwrite` may replace: a model, or a folder of models and no more."""
    manifest = store.manifest
    shards = [manifest.base.shards, *(task.shards for task in manifest.tasks.values())]
    kept = [set(names) for names in shards if names]

    def is_model(folder: Path) -> bool:
        weights = {path.name for path in folder.glob("*.safetensors")}
        return weights in kept or any(name.startswith("model") for name in weights)

    def ours(folder: Path) -> bool:
        inside = list(folder.iterdir())
        return is_model(folder) or (
            bool(inside) and all(path.is_dir() and is_model(path) for path in inside)
        )

    return ours
