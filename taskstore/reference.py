"""A base that the store only references: found again, and proved to be the same."""

from __future__ import annotations

import os
from pathlib import Path

from blake3 import blake3

from taskstore.checkpoint import Checkpoint, open_checkpoint
from taskstore.errors import BaseUnavailable, CheckpointError
from taskstore.executors import ordered_map
from taskstore.format.manifest import Base, Manifest

BLOCK = 1 << 20


def open_base(manifest: Manifest, path: str | os.PathLike[str] | None, jobs: int) -> Checkpoint:
    """Open the base at `path`, or where it was when the store was packed, and check every tensor.

    Raises BaseUnavailable where it is missing or holds other weights.
    """
    where = path or _recorded(manifest.base)
    label = f"{manifest.base.name!r}"
    if not os.path.exists(where):
        raise BaseUnavailable(label, f"it is not at {where}")
    try:
        base = open_checkpoint(where)
    except CheckpointError as error:
        raise BaseUnavailable(label, str(error)) from None
    try:
        _check(base, manifest, f"{label} at {where}", jobs)
    except BaseException:
        base.close()
        raise
    return base


def _recorded(base: Base) -> Path:
    """Where the base was: its folder, or for a hub id its place in the local hub cache."""
    assert base.source is not None, "validate.check wants a source for a base not carried"
    if base.revision is None:
        return Path(base.source)
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = f"models--{base.source.replace('/', '--')}"
    return Path(HF_HUB_CACHE) / folder / "snapshots" / base.revision


def _check(base: Checkpoint, manifest: Manifest, label: str, jobs: int) -> None:
    for name, tensor in manifest.tensors.items():
        info = base.tensors.get(name)
        if info is None or (info.dtype, list(info.shape)) != (tensor.dtype, tensor.shape):
            raise BaseUnavailable(label, f"it has changed: tensor {name!r} is not as it was")

    def digest(name: str) -> tuple[str, str]:
        state, n = blake3(), base.tensors[name].numel
        for start in range(0, n, BLOCK):
            state.update(base.read(name, start, min(start + BLOCK, n)).view("u1"))
        return name, state.hexdigest()

    for name, found in ordered_map(digest, manifest.tensors, jobs=jobs):
        if found != manifest.tensors[name].blake3:
            raise BaseUnavailable(label, f"it has changed: tensor {name!r} has other weights")
