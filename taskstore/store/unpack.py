"""Write models of a store as Hugging Face folders, checked before, while and after."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from taskstore.cluster import joined
from taskstore.errors import ChecksumMismatch, InputError, OptionError
from taskstore.executors import Executor, threads
from taskstore.format.container_files import ShardedReader
from taskstore.format.digests import meanwhile
from taskstore.format.dtypes import nbytes
from taskstore.format.layouts import adapter_layouts
from taskstore.format.names import CARD, adapter_of
from taskstore.format.rules.kept_adapters import FILE
from taskstore.format.weight_files import SHARD_BYTES, usual_head, usual_order
from taskstore.locations import dry, ownership, publish
from taskstore.locations.files import link, write_all
from taskstore.locations.publish import Foreign
from taskstore.locations.remote import claims
from taskstore.models import TensorInfo
from taskstore.models.folder import Blocks, Place, in_order, write_shard, write_weights
from taskstore.models.readers.stored_adapter import Adapted
from taskstore.progress import Callback, Meter, silent
from taskstore.store import card, original_files
from taskstore.store.assets import read_asset, write_assets, write_weights_beside
from taskstore.store.blocks import own_blocks
from taskstore.store.catalog import foreign_to, label_of, rebuilt_tensors
from taskstore.store.summary import assets_bytes

if TYPE_CHECKING:
    from taskstore.store.base import BaseSource
    from taskstore.store.contents import StoreContents
    from taskstore.store.rebuild import ModelReader

_log = logging.getLogger(__name__)


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

    The store's files are checked against the manifest while they are read, every tensor when it is
    rebuilt, and a weight file that is written as it was at its end. Raises InputError, FormatError
    or ChecksumMismatch; the target then is as it was before.
    """
    foreign = foreign_to(store.manifest)
    _check(store, models, target, options, foreign)
    with ExitStack() as stack:
        paths = _read_by(store, models, options.tier)
        checked = stack.enter_context(_checked(store, paths, options.executor))
        if options.shard_bytes is None:
            for task in models.values():
                original_files.read(store.path, store.manifest, task, options.tier)
        base = stack.enter_context(store.open_base(options.executor))
        every = [rebuilt_tensors(store.manifest, task, options.tier) for task in models.values()]
        total = sum(tensor.nbytes for tensors in every for tensor in tensors.values())
        beside = sum(assets_bytes(store.manifest, task) for task in models.values())
        publish.check_space(target.absolute(), total + beside)
        meter = Meter(progress, total)
        overwrite = options.overwrite
        made, asked = None, (sorted(models), options.tier, options.shard_bytes)
        if (cluster := joined()) and len(models) > 1:
            kept = claims.made_for(target, cluster, "unpack", store.version, *asked)
            made = stack.enter_context(kept)
        folder = stack.enter_context(publish.folder(target, overwrite=overwrite, foreign=foreign))
        if made:
            models_there = Path(claims.where_parts_lie(target), made.folder)
            shared = store, models_there, replace(options, executor=threads(1))
            for name, size in made.map(_write_apart, shared, models.items()):
                meter.add(name, size)
            for below in models:
                shutil.copytree(models_there / below, folder / below, copy_function=link)
            models = {}
        for below, task in models.items():
            meter.stage("writing", below or target.name)
            _log.info("writing %r of %s to %s", task or "base", store.where, target / below)
            _write_model(store, task, base, folder / below, options, meter)
        checked()
    return target


def _write_model(
    store: StoreContents,
    task: str | None,
    base: BaseSource,
    folder: Path,
    options: UnpackOptions,
    meter: Meter,
) -> None:
    folder.mkdir(exist_ok=True)
    with store.reader(task, base, options.tier) as reader:
        as_it_was = _write_weights(store, task, reader, folder, options, meter)
    root, manifest = store.path, store.manifest
    write_assets(root, manifest, task, base.assets, folder)
    write_weights_beside(root, manifest, task, base.beside, folder)
    card.write(manifest, task, options.tier, folder)
    if not as_it_was:
        ownership.write_note(folder)


def _write_apart(
    shared: tuple[StoreContents, Path, UnpackOptions], model: tuple[str, str | None]
) -> tuple[str, int]:
    """Write a model in another process, in place of what one that died has written of it."""
    (store, folder, options), (below, task) = shared, model
    shutil.rmtree(folder / below, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    with store.open_base(options.executor) as base:
        _write_model(store, task, base, folder / below, options, Meter(silent, 0))
    publish.sync_all(folder / below)
    tensors = rebuilt_tensors(store.manifest, task, options.tier).values()
    return task or "base", sum(tensor.nbytes for tensor in tensors)


def _check(
    store: StoreContents,
    models: Mapping[str, str | None],
    target: Path,
    options: UnpackOptions,
    foreign: Foreign,
) -> None:
    """Refuse what can be refused before anything is read or written."""
    tier = options.tier
    for task in models.values():
        store.check_tier(task, tier)
    publish.check_target(target.absolute(), overwrite=options.overwrite, foreign=foreign)


@contextmanager
def _checked(
    store: StoreContents, paths: list[str], executor: Executor
) -> Iterator[Callable[[], None]]:
    """Check files while the block reads them, and let it wait; before, in a dry run or one thread.

    Those of a store elsewhere are fetched first.
    """
    if dry.on() or executor.jobs == 1:
        store.check_files(paths, executor)
        yield lambda: None
        return
    store.have(paths)
    half = threads(max(1, executor.jobs // 2))
    with meanwhile(lambda stopped: store.check_files(paths, half, stopped)) as checked:
        yield checked


def _read_by(store: StoreContents, models: Mapping[str, str | None], tier: str | None) -> list[str]:
    """List the files that are read for one model; for several, all of the store's."""
    if len(models) == 1:
        return store.files_of(*models.values(), tier=tier)
    return sorted(store.manifest.files.keys() - {CARD})  # that is for people, and may have changed


def unpack_adapter(
    store: StoreContents, task: str | None, target: Path, options: UnpackOptions, progress: Callback
) -> Path:
    """Write the adapter that a task is to the folder `target`, as it was, byte for byte.

    Raises InputError for the base (None) and for a task that keeps none, OptionError for a tier or
    a size of files, and what `unpack` raises.
    """
    if task is None:
        raise InputError("the base is no adapter; name a task, or leave `adapter` out")
    if options.tier or options.shard_bytes:
        raise OptionError("adapter=True goes without `tier` and `shard_bytes`; leave them out")
    store.check_task(task)
    adapter = store.manifest.tasks[task].adapter
    if adapter is None:
        raise InputError(
            f"task {task!r} keeps no adapter: it was no PEFT folder, or was not packed with "
            'tiers="exact"; unpack it without `adapter`'
        )
    foreign = foreign_to(store.manifest)
    publish.check_target(target.absolute(), overwrite=options.overwrite, foreign=foreign)
    store.check_files(store.files_of(task), options.executor)
    infos = {n: TensorInfo(t.dtype, tuple(t.shape)) for n, t in adapter.tensors.items()}
    meter = Meter(progress, sum(info.nbytes for info in infos.values()))
    file = original_files.read_adapter(store.path, store.manifest, task)
    with (
        closing(_adapter(store, task)) as sections,
        publish.folder(target, overwrite=options.overwrite, foreign=foreign) as folder,
    ):
        made = Adapted(store.manifest.tasks[task], sections, store.manifest.chunk)
        order = file.tensors if file else usual_order(infos)
        head = file.head if file else usual_head(infos, order)
        digest = file.recorded.blake3 if file else None
        label = label_of(task)

        def blocks(place: Place) -> Blocks:
            return in_order(made.blocks(order, label), place)

        write_shard(folder / FILE, head, (order, infos), blocks, meter.add, digest, label)
        for name, hash_ in adapter.assets.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(read_asset(store.path, store.manifest, hash_))
    return target


def stream(
    store: StoreContents, task: str | None, fd: int, options: UnpackOptions, progress: Callback
) -> None:
    """Write a model (None: the base) to a file descriptor, a pipe too, as one safetensors file.

    It is the original file where the store keeps that and the model was one file. What is read is
    checked before, a tensor when it is rebuilt; its last block is written after that, so that a
    damaged model never comes out whole. Raises what `unpack` raises, and BrokenPipeError.
    """
    store.check_tier(task, options.tier)
    store.check_files(store.files_of(task, tier=options.tier), options.executor)
    files = original_files.read(store.path, store.manifest, task, options.tier)
    file = files[0] if len(files) == 1 and files[0].name.endswith(".safetensors") else None
    with (
        store.open_base(options.executor) as base,
        store.reader(task, base, options.tier) as reader,
    ):
        tensors = reader.own_tensors
        order = file.tensors if file else usual_order(tensors)
        waiting = memoryview(file.head if file else usual_head(tensors, order))
        dry.stop()
        meter = Meter(progress, sum(nbytes(t.dtype, t.shape) for t in tensors.values()))
        meter.stage("writing", task or "base")
        state = blake3(waiting)
        for name, bits_N in own_blocks(reader, order, options.executor):
            write_all(fd, waiting)
            waiting = bits_N.data
            state.update(bits_N.view("u1"))
            meter.add(name, bits_N.nbytes)
        if file and state.hexdigest() != file.recorded.blake3:
            raise ChecksumMismatch(reader.label, file.recorded.blake3, state.hexdigest())
        write_all(fd, waiting)


def _adapter(store: StoreContents, task: str) -> ShardedReader:
    manifest = store.manifest
    stem = adapter_of(manifest.folder(task))
    sections = adapter_layouts(manifest, manifest.tasks[task])
    return ShardedReader(store.location, stem, manifest.files, sections)


def _write_weights(
    store: StoreContents,
    task: str | None,
    reader: ModelReader,
    folder: Path,
    options: UnpackOptions,
    meter: Meter,
) -> bool:
    """Write the weight files as they were, where the store keeps them and no others are wanted.

    Returns whether they are as they were.
    """
    root, manifest, executor = store.path, store.manifest, options.executor
    kept = options.shard_bytes is None
    files = original_files.read(root, manifest, task, options.tier) if kept else []
    if files:
        original_files.write(reader, files, folder, executor, meter.add)
        original_files.write_index(root, manifest, task, folder)
    else:
        limit = SHARD_BYTES if options.shard_bytes is None else options.shard_bytes

        def blocks(names: list[str], place: Place) -> Blocks:
            return own_blocks(reader, names, executor, place)

        write_weights(folder, reader.own_tensors, limit, blocks, meter.add)
    return bool(files)
