"""Where the base comes from: the store, or a folder that is found again and proved."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from taskstore.errors import BadName, BaseUnavailable, CheckpointError, RemoteError
from taskstore.executors import Executor
from taskstore.format import layouts
from taskstore.format import names as filenames
from taskstore.format.container_files import ShardedReader
from taskstore.format.manifest import Base, Manifest
from taskstore.locations.base import Location, PathLike
from taskstore.locations.publish import recover
from taskstore.locations.remote.addresses import HUB, Address, parse
from taskstore.locations.remote.hub_cache import cached
from taskstore.models import Checkpoint, open_checkpoint
from taskstore.models.weights_digest import tensor_digests


def open_base(
    manifest: Manifest, path: str | os.PathLike[str] | None, executor: Executor
) -> Checkpoint:
    """Open the base at `path`, or where it was when the store was packed, and check every tensor.

    Raises BaseUnavailable where it is missing or holds other weights.
    """
    label = f"{manifest.base.name!r}"
    where = path or _recorded(manifest.base)
    try:
        address = parse(where)
        if address is None:
            recover(where)
            if not os.path.exists(where):
                raise BaseUnavailable(label, f"it is not at {where}")
        base = open_checkpoint(where)
    except (CheckpointError, BadName, RemoteError) as error:
        raise BaseUnavailable(label, str(error)) from None
    try:
        _check(base, manifest, f"{label} at {where}", executor)
    except BaseException:
        base.close()
        raise
    return base


def _recorded(base: Base) -> PathLike:
    """Return where the base was: its folder or address, or for a hub id its place in the cache."""
    assert base.source is not None, "validate.check wants a source for a base not carried"
    if base.revision is None or "://" in base.source:
        found = parse(base.source) if "://" in base.source else None
        return str(found.at(base.revision)) if found and base.revision else base.source
    here = cached(base.source, base.revision)
    if any(here.glob("*.safetensors")) or any(here.glob("*.bin")):
        return here
    return str(Address(HUB, base.source, revision=base.revision))


def _check(base: Checkpoint, manifest: Manifest, label: str, executor: Executor) -> None:
    for name, tensor in manifest.tensors.items():
        info = base.tensors.get(name)
        if info is None or (info.dtype, list(info.shape)) != (tensor.dtype, tensor.shape):
            raise BaseUnavailable(label, f"it has changed: tensor {name!r} is not as it was")

    for name, found in tensor_digests(base, manifest.tensors, executor):
        if found != manifest.tensors[name].blake3:
            raise BaseUnavailable(label, f"it has changed: tensor {name!r} has other weights")


Bits = NDArray[Any]


class BaseSource(Protocol):
    """Gives the base's bits: out of the store, or of the checkpoint that it references."""

    def chunks(self, name: str) -> Callable[[int], Bits]:
        """Return chunk number -> bits (N,) of a tensor that is no alias."""

    def place(self, name: str) -> str:
        """Name the file, or the folder of a referenced base, that a tensor is in."""

    @property
    def assets(self) -> Mapping[str, Path]:
        """List the files beside a referenced base's weights; a carried base's are in the store."""

    @property
    def beside(self) -> Mapping[str, Path]:
        """List further weights of a referenced base; a carried base's are in the store."""

    def close(self) -> None:
        """Release what is open."""


class CarriedBase:
    """The base as the store carries it."""

    def __init__(self, location: Location, manifest: Manifest) -> None:
        self._reader = ShardedReader(
            location, filenames.BASE, manifest.files, layouts.base_layouts(manifest)
        )
        self.assets: Mapping[str, Path] = {}
        self.beside: Mapping[str, Path] = {}

    def chunks(self, name: str) -> Callable[[int], Bits]:
        return self._reader.section(name).chunk

    def place(self, name: str) -> str:
        return self._reader.path(name)

    def close(self) -> None:
        self._reader.close()


class ReferencedBase:
    """The base in its own folder; `open_base` has checked that it is the right one."""

    def __init__(self, checkpoint: Checkpoint, chunk: int) -> None:
        self.checkpoint, self._chunk = checkpoint, chunk
        self.assets, self.beside = checkpoint.assets, checkpoint.beside

    def chunks(self, name: str) -> Callable[[int], Bits]:
        n = self.checkpoint.tensors[name].numel

        def read(k: int) -> Bits:
            return self.checkpoint.read(name, k * self._chunk, min((k + 1) * self._chunk, n))

        return read

    def place(self, name: str) -> str:
        return str(self.checkpoint.path)

    def close(self) -> None:
        self.checkpoint.close()
