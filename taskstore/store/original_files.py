"""Write a model's weight files as they were: kept headers around the rebuilt tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from taskstore.errors import FormatError
from taskstore.executors import Executor
from taskstore.format.header import MAX_HEADER
from taskstore.format.manifest import Manifest
from taskstore.format.members import Shard
from taskstore.format.weight_files import tensors_in
from taskstore.models import Originals, TensorInfo, WeightFile
from taskstore.models.folder import write_shard
from taskstore.store.assets import read_asset
from taskstore.store.blocks import own_blocks
from taskstore.store.catalog import label_of, own_tensors
from taskstore.store.rebuild import ModelReader


@dataclass(frozen=True)
class Original:
    """A weight file: the bytes before its data, its tensors in their order there, its checksum."""

    name: str
    head: bytes
    tensors: list[str]
    recorded: Shard


def read(
    root: Path, manifest: Manifest, task: str | None, tier: str | None = None
) -> list[Original]:
    """Read the headers of a task's weight files (None: of the base's).

    Empty where the store does not keep them, and for a lower tier, whose tensors are not the
    originals'.
    Raises FormatError unless they hold the model's tensors, each once, and nothing else.
    """
    model = manifest.base if task is None else manifest.tasks[task]
    if task is not None and tier not in (None, *manifest.tasks[task].all_tiers[-1:]):
        return []
    tensors, files = own_tensors(manifest, task), []
    place: dict[str, str] = {}
    for name, shard in sorted((model.shards or {}).items()):
        label = f"{name!r} of {label_of(task)}"
        if manifest.assets[shard.header].bytes > min(shard.bytes, MAX_HEADER + 8):
            raise FormatError(f"{label}: its header is too large")
        head = read_asset(root, manifest, shard.header)
        inside = tensors_in(label, head, shard.bytes, tensors)
        for tensor in inside:
            if tensor in place:
                raise FormatError(f"{label} repeats {tensor!r} of {place[tensor]!r}")
            place[tensor] = name
        files.append(Original(name, head, inside, shard))
    missing = set(tensors) - set(place)
    if files and missing:
        raise FormatError(f"no weight file of {label_of(task)} holds {min(missing)!r}")
    return files


def read_adapter(root: Path, manifest: Manifest, task: str) -> Original | None:
    """Read the header of a task's adapter file; None where the store does not keep it.

    Raises FormatError unless it holds the adapter's tensors, and nothing else.
    """
    adapter = manifest.tasks[task].adapter
    for name, shard in ((adapter.shards if adapter else None) or {}).items():
        assert adapter is not None
        label = f"{name!r} of {label_of(task)}"
        if manifest.assets[shard.header].bytes > min(shard.bytes, MAX_HEADER + 8):
            raise FormatError(f"{label}: its header is too large")
        head = read_asset(root, manifest, shard.header)
        infos = {n: TensorInfo(t.dtype, tuple(t.shape)) for n, t in adapter.tensors.items()}
        inside = tensors_in(label, head, shard.bytes, infos)
        if missing := infos.keys() - set(inside):
            raise FormatError(f"{label} does not hold {min(missing)!r}")
        return Original(name, head, inside, shard)
    return None


def write(
    reader: ModelReader,
    files: list[Original],
    folder: Path,
    executor: Executor,
    report: Callable[[str, int], None],
) -> None:
    """Write the files to `folder`; raises ChecksumMismatch where one is not what it was."""
    for file in files:  # one stream per file: its last checksum is compared at its end
        inside, digest = (file.tensors, reader.own_tensors), file.recorded.blake3
        blocks = partial(own_blocks, reader, file.tensors, executor)
        write_shard(folder / file.name, file.head, inside, blocks, report, digest, reader.label)


def write_index(root: Path, manifest: Manifest, task: str | None, folder: Path) -> None:
    model = manifest.base if task is None else manifest.tasks[task]
    for name, digest in (model.index or {}).items():
        (folder / name).write_bytes(read_asset(root, manifest, digest))


def stored(root: Path, manifest: Manifest, task: str | None) -> Originals | None:
    """Return the weight files for packing a model of a store again; nothing is read yet."""
    model = manifest.base if task is None else manifest.tasks[task]
    if model.shards is None:
        return None

    def asset(digest: str) -> Callable[[], bytes]:
        return lambda: read_asset(root, manifest, digest)

    def file(name: str, shard: Shard) -> WeightFile:
        return WeightFile(name, shard.bytes, asset(shard.header), lambda: shard.blake3)

    index: Mapping[str, Callable[[], bytes]] = {n: asset(d) for n, d in (model.index or {}).items()}
    return Originals([file(*item) for item in sorted(model.shards.items())], index)
