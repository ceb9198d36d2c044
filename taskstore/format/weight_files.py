"""Describe a model's weight files: as they were (SPEC.md 5, `shards`), or as usual."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from taskstore.errors import FormatError
from taskstore.format import header, names
from taskstore.format.dtypes import ITEMSIZE, nbytes
from taskstore.format.manifest import Base, Manifest, Task

VERSION_OF_SHARDS = 3
SHARD_BYTES = 5 * 10**9  # the largest weight file where nothing else is said
METADATA = {"format": "pt"}


class Shaped(Protocol):
    """A tensor by its safetensors dtype and shape."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


def usual_order(tensors: Mapping[str, Shaped]) -> list[str]:
    """Order tensors as safetensors itself does: larger elements first, then names."""
    return sorted(tensors, key=lambda name: (-ITEMSIZE[tensors[name].dtype], name))


def usual_head(tensors: Mapping[str, Shaped], order: Iterable[str]) -> bytes:
    """Render the header of a file with these tensors, as safetensors writes it for torch."""
    spans, position = {}, 0
    for name in order:
        tensor = tensors[name]
        end = position + nbytes(tensor.dtype, tensor.shape)
        spans[name] = (tensor.dtype, tensor.shape, position, end)
        position = end
    return header.render(spans, METADATA)


def digests_of(model: Base | Task) -> set[str]:
    """Return the assets that the model's weight files need."""
    return {shard.header for shard in (model.shards or {}).values()} | {
        *(model.index or {}).values()
    }


def check(manifest: Manifest, model: Base | Task, label: str) -> None:
    """Refuse what no reader may accept in `shards` and `index`; BadName for a bad name."""
    if model.shards is None and model.index is None:
        return
    if manifest.version < VERSION_OF_SHARDS:
        raise FormatError(f"{label} has shards, in a store of version {manifest.version}")
    if not model.shards or (model.index is not None and len(model.index) != 1):
        raise FormatError(f"{label} has no shards, or not one index")
    if isinstance(model, Task):
        if any(tier not in ("", "exact") for tier in map(model.best, model.tensors)):
            raise FormatError(f"{label} has shards and is not exact")
    elif not model.carried:
        raise FormatError(f"{label} has shards and is not carried")
    for name in model.shards:
        names.check_shard_name(name)
    for name in model.index or {}:
        names.check_index_name(name)
    for digest in digests_of(model):
        if digest not in manifest.assets:
            raise FormatError(f"{label} has a shard or an index of a hash that is not listed")


def tensors_in(label: str, head: bytes, size: int, tensors: Mapping[str, Shaped]) -> list[str]:
    """Return the names of the tensors of a file of `size` bytes, in the order of their bytes.

    Raises FormatError where `head` is not the header of such a file, or describes a tensor that
    is not in `tensors` or is another there.
    """
    if len(head) < 8 or int.from_bytes(head[:8], "little") != len(head) - 8:
        raise FormatError(f"{label}: its header has another length")
    if len(head) - 8 > header.MAX_HEADER:
        raise FormatError(f"{label}: its header is over 100 MB")
    try:
        entries, _ = header.parse(head[8:], size, ITEMSIZE)
    except header.BadHeader as error:
        raise FormatError(f"{label} {error}") from None
    for name, entry in entries.items():
        wanted = tensors.get(name)
        if wanted is None or (wanted.dtype, wanted.shape) != (entry.dtype, entry.shape):
            raise FormatError(f"{label} holds {name!r}, which the model has not, or not like that")
    return sorted(entries, key=lambda name: (entries[name].begin, entries[name].end))
