"""Write a model folder from streams of bits: weight files, index, and the files beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from blake3 import blake3
from numpy.typing import NDArray

from taskstore.errors import ChecksumMismatch
from taskstore.format.container_files import shard_names, split
from taskstore.format.dtypes import nbytes
from taskstore.format.weight_files import Shaped, usual_head, usual_order
from taskstore.locations.files import copy_regular, write_all, write_all_at
from taskstore.locations.flush import Flusher

INDEX = "model.safetensors.index.json"
Blocks = Iterator[tuple[str, NDArray[Any]]]  # tensor name, the next bits of it (N,)


class Place:
    """A weight file that is written where its tensors belong; threads may write side by side."""

    def __init__(self, fd: int, begins: Mapping[str, int]) -> None:
        """`begins`: the first byte of each tensor."""
        self._fd, self._begins = fd, begins

    def begin(self, name: str) -> None:
        """Do nothing: a file grows by itself."""

    def put(self, name: str, offset: int, bits_N: NDArray[Any]) -> None:
        """Write bits from `offset` of a tensor on."""
        write_all_at(self._fd, bits_N.data, self._begins[name] + offset)


def in_order(blocks: Blocks, place: Place) -> Blocks:
    """Put blocks that come in order into their places."""
    at, before = 0, None
    for name, bits_N in blocks:
        at = at if name == before else 0
        place.put(name, at, bits_N)
        yield name, bits_N
        at, before = at + bits_N.nbytes, name


def write_weights(
    folder: Path,
    tensors: Mapping[str, Shaped],
    shard_bytes: int,
    blocks: Callable[[list[str], Place], Blocks],
    report: Callable[[str, int], None],
) -> None:
    """Write all tensors, in the order that safetensors itself writes: larger elements first.

    `blocks` makes the stream of one file from the names of its tensors, and puts each block in its
    place before it gives it; `report` hears of each block's tensor and bytes.
    """
    for file, names in shards_of(folder, tensors, shard_bytes):
        head = usual_head(tensors, names)
        write_shard(folder / file, head, (names, tensors), partial(blocks, names), report)


def shards_of(
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
    inside: tuple[Iterable[str], Mapping[str, Shaped]],
    blocks: Callable[[Place], Blocks],
    report: Callable[[str, int], None],
    digest: str | None = None,
    owner: str = "",
) -> None:
    """Write one file: its head, then the tensors `inside`, which `blocks` puts in their places.

    `inside`: their names in order, and what they are. Blocks come in that order, each after it was
    put, and are read to their end. Raises ChecksumMismatch, which names the `owner`, where the
    BLAKE3 of the file's bytes is not `digest`.
    """
    state, end, begins = blake3(head) if digest else None, len(head), dict[str, int]()
    for name in inside[0]:
        begins[name] = end
        end += nbytes(inside[1][name].dtype, inside[1][name].shape)
    fd, end = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), len(head)
    flusher = Flusher(fd)
    try:
        write_all(fd, head)
        for name, bits_N in blocks(Place(fd, begins)):
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
