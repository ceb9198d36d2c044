"""Write a model folder from streams of bits: weight files, index, and the files beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3
from numpy.typing import NDArray

from taskstore.errors import ChecksumMismatch
from taskstore.format.container_files import shard_names, split
from taskstore.format.dtypes import nbytes
from taskstore.format.weight_files import Shaped, usual_head, usual_order
from taskstore.locations.files import copy_regular, write_all
from taskstore.locations.flush import Flusher

INDEX = "model.safetensors.index.json"
Blocks = Iterable[tuple[str, NDArray[Any]]]  # tensor name, the next bits of it (N,)


def write_weights(
    folder: Path,
    tensors: Mapping[str, Shaped],
    shard_bytes: int,
    blocks: Callable[[list[str]], Blocks],
    report: Callable[[str, int], None],
) -> None:
    """Write all tensors, in the order that safetensors itself writes: larger elements first.

    `blocks` makes the stream of one file from the names of its tensors; `report` hears of each
    block's tensor and bytes.
    """
    for file, names in _shards(folder, tensors, shard_bytes):
        write_shard(folder / file, usual_head(tensors, names), blocks(names), report)


def reserve_weights(
    folder: Path, tensors: Mapping[str, Shaped], shard_bytes: int
) -> list[tuple[str, str, int]]:
    """Write the files of `write_weights` with room for their tensors; returns where each begins.

    That is (tensor, file, byte).
    """
    found = []
    for file, names in _shards(folder, tensors, shard_bytes):
        head = usual_head(tensors, names)
        at = len(head)
        for name in names:
            found.append((name, file, at))
            at += nbytes(tensors[name].dtype, tensors[name].shape)
        with open(folder / file, "xb") as made:
            made.write(head)
            made.truncate(at)
    return found


def _shards(
    folder: Path, tensors: Mapping[str, Shaped], shard_bytes: int
) -> list[tuple[str, list[str]]]:
    """Return the names of weight files, each with its tensors; writes the index of several."""
    sizes = {
        name: nbytes(tensors[name].dtype, tensors[name].shape) for name in usual_order(tensors)
    }
    shards = split(sizes, shard_bytes)
    files = list(zip(shard_names("model", len(shards)), shards, strict=True))
    if len(files) > 1:
        place = {name: file for file, names in files for name in names}
        index = {
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": dict(sorted(place.items())),
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return files


def write_shard(
    path: Path,
    head: bytes,
    blocks: Blocks,
    report: Callable[[str, int], None],
    digest: str | None = None,
    owner: str = "",
) -> None:
    """Write one file: its head, then its blocks, which are read to their end.

    Raises ChecksumMismatch, which names the `owner`, where the BLAKE3 of its bytes is not `digest`.
    """
    state = blake3() if digest else None
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    flusher = Flusher(fd)
    try:
        write_all(fd, head)
        end = len(head)
        if state:
            state.update(head)
        for name, bits_N in blocks:
            write_all(fd, bits_N.data)
            end += bits_N.nbytes
            if state:
                state.update(bits_N.view("u1"))
            flusher.written_to(end)
            report(name, bits_N.nbytes)
    finally:
        os.close(fd)
    if state and digest and state.hexdigest() != digest:
        raise ChecksumMismatch(f"{path.name!r} of {owner}", digest, state.hexdigest())


def copy_assets(assets: Mapping[str, Path], folder: Path) -> None:
    """Copy the files beside a model's weights: path inside the folder -> where it is now."""
    for inside, path in sorted(assets.items()):
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_regular(path, target)
