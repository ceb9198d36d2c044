"""A rebuilt model as a Hugging Face folder: shards, index, and the files beside them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from blake3 import blake3

from taskstore.errors import ChecksumMismatch, FormatError
from taskstore.format.codecs.stream import inflate
from taskstore.format.container_files import shard_names, split
from taskstore.format.manifest import Manifest
from taskstore.format.weight_files import usual_head, usual_order
from taskstore.loader import ModelReader, Rebuilt, rebuild
from taskstore.locations.files import Flusher, write_all

INDEX = "model.safetensors.index.json"


def write_model(
    reader: ModelReader,
    folder: Path,
    *,
    shard_bytes: int,
    jobs: int,
    report: Callable[[str, int], None],
) -> None:
    """Write all tensors of a model to `folder`, each proved against its checksum.

    Tensors stand in the order that safetensors itself writes: larger elements first, then names.
    """
    sizes = {name: reader.tensors[name].nbytes for name in usual_order(reader.tensors)}
    shards = split(sizes, shard_bytes)
    files = shard_names("model", len(shards))
    for file, names in zip(files, shards, strict=True):
        head = usual_head(reader.tensors, names)
        write_shard(reader, folder / file, head, names, jobs, report)
    write_index(folder, files, shards, sum(sizes.values()))


def write_index(folder: Path, files: list[str], shards: list[list[str]], total: int) -> None:
    """Which file has which tensor; nothing where there is one file. `total`: bytes of all."""
    if len(files) > 1:
        place = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(place.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_shard(
    reader: ModelReader,
    path: Path,
    head: bytes,
    names: list[str],
    jobs: int,
    report: Callable[[str, int], None],
    digest: str | None = None,
) -> None:
    """Write one file; raises ChecksumMismatch where `digest` is another than that of its bytes."""
    state = blake3() if digest else None
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    flusher = Flusher(fd)
    try:
        write_all(fd, head)
        end = len(head)
        if state:
            state.update(head)
        for tensor, _, bits_N in rebuild(reader, names, jobs):
            write_all(fd, bits_N.data)
            end += bits_N.nbytes
            if state:
                state.update(bits_N.view("u1"))
            flusher.written_to(end)
            report(tensor.name, bits_N.nbytes)
    finally:
        try:
            flusher.close()
        finally:
            os.close(fd)
    if state and digest and state.hexdigest() != digest:
        raise ChecksumMismatch(f"{path.name!r} of {reader.label}", digest, state.hexdigest())


def write_assets(
    root: Path, manifest: Manifest, task: str | None, beside: Mapping[str, Path], folder: Path
) -> None:
    """Write a model's configs, tokenizer and templates, each proved against its hash.

    `beside`: those of a referenced base, which only the base (`task` None) has.
    """
    model = manifest.base if task is None else manifest.tasks[task]
    for inside, digest in sorted(model.assets.items()):
        raw = read_asset(root, manifest, digest)
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(raw)
    for inside, path in beside.items() if task is None else ():
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def read_asset(root: Path, manifest: Manifest, digest: str) -> bytes:
    """One asset by its hash; raises FormatError where it is missing or damaged."""
    recorded = manifest.assets[digest]
    try:
        raw = (root / "assets" / digest).read_bytes()
    except OSError as error:
        raise FormatError(f"assets/{digest} cannot be read: {error.strerror}") from None
    if recorded.stored == "zstd":
        raw = inflate(raw, recorded.bytes)
    found = blake3(raw).hexdigest()
    if found != digest or len(raw) != recorded.bytes:
        raise ChecksumMismatch(f"assets/{digest}", digest, found)
    return raw


def size_of(tensors: Mapping[str, Rebuilt]) -> int:
    """Bytes of all tensors."""
    return sum(t.nbytes for t in tensors.values())
