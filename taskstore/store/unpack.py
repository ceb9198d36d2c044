"""Write models of a store as Hugging Face folders, checked before, while and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from taskstore.executors import Executor, threads
from taskstore.format.weight_files import SHARD_BYTES
from taskstore.locations import publish
from taskstore.models.folder import write_weights
from taskstore.progress import Callback, Meter
from taskstore.store import original_files
from taskstore.store.assets import write_assets
from taskstore.store.rebuild import own_blocks

if TYPE_CHECKING:
    from taskstore.store.contents import StoreContents
    from taskstore.store.rebuild import ModelReader


@dataclass(frozen=True)
class UnpackOptions:
    """How models are written.

    tier         None: the best of each
    overwrite    replace a model, or a folder of models, that is there
    shard_bytes  no weight file is larger, unless one tensor is; None: the files as they were, where
                 the store keeps them
    executor     what decodes
    """

    tier: str | None = None
    overwrite: bool = False
    shard_bytes: int | None = None
    executor: Executor = field(default_factory=threads)


def unpack(
    store: StoreContents,
    models: Mapping[str, str | None],
    target: Path,
    options: UnpackOptions,
    progress: Callback,
) -> Path:
    """Write models to `target`: folder below it ("" for itself) -> task (None for the base).

    Files are checked against the manifest first, every tensor when it is rebuilt, and a weight
    file that is written as it was at its end. Raises InputError, FormatError or ChecksumMismatch;
    the target then is as it was before.
    """
    ours = _is_model_of(store)
    _check(store, models, target, options, ours)
    with ExitStack() as stack:
        base = stack.enter_context(store.open_base(options.executor))
        readers = {
            below: stack.enter_context(store.reader(task, base, options.tier))
            for below, task in models.items()
        }
        total = sum(t.nbytes for reader in readers.values() for t in reader.tensors.values())
        publish.check_space(target.absolute().parent, total)
        meter = Meter(progress, total)
        overwrite = options.overwrite
        folder = stack.enter_context(publish.folder(target, overwrite=overwrite, ours=ours))
        for below, reader in readers.items():
            meter.stage("writing", below or target.name)
            (folder / below).mkdir(exist_ok=True)
            _write_weights(store, models[below], reader, folder / below, options, meter)
            write_assets(store.path, store.manifest, models[below], base.assets, folder / below)
    return target


def _check(
    store: StoreContents,
    models: Mapping[str, str | None],
    target: Path,
    options: UnpackOptions,
    ours: Callable[[Path], bool],
) -> None:
    """Refuse what can be refused before anything is written.

    Where several models are written all of the store's files are checked, else those that are read.
    """
    tier = options.tier
    for task in models.values():
        store.check_tier(task, tier)
    publish.check_target(target.absolute(), overwrite=options.overwrite, ours=ours)
    everything = len(models) > 1
    paths = store.manifest.files if everything else store.files_of(*models.values(), tier=tier)
    store.check_files(paths, options.executor)
    if options.shard_bytes is None:
        for task in models.values():
            original_files.read(store.path, store.manifest, task, tier)


def _write_weights(
    store: StoreContents,
    task: str | None,
    reader: ModelReader,
    folder: Path,
    options: UnpackOptions,
    meter: Meter,
) -> None:
    """Write the weight files as they were, where the store keeps them and no others are wanted."""
    root, manifest, executor = store.path, store.manifest, options.executor
    kept = options.shard_bytes is None
    files = original_files.read(root, manifest, task, options.tier) if kept else []
    if files:
        original_files.write(reader, files, folder, executor, meter.add)
        original_files.write_index(root, manifest, task, folder)
    else:
        limit = SHARD_BYTES if options.shard_bytes is None else options.shard_bytes
        write_weights(
            folder, reader.own_tensors, limit, lambda n: own_blocks(reader, n, executor), meter.add
        )


def _is_model_of(store: StoreContents) -> Callable[[Path], bool]:
    """Return a test for folders that `--overwrite` may replace: a model, or a folder of models."""
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
