"""Read the files beside a model's weights; a store keeps each content once, by its hash."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from blake3 import blake3

from taskstore import extras
from taskstore.errors import CheckpointError, ChecksumMismatch, FormatError, TargetExists
from taskstore.format.manifest import Manifest
from taskstore.format.names import PICKLES
from taskstore.format.rules.frames import inflate
from taskstore.locations.files import read_regular


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
        try:
            with target.open("xb") as file:
                file.write(raw)
        except FileExistsError:
            raise TargetExists(target) from None
    if task is None:
        _copy(beside, folder)


def write_weights_beside(
    root: Path, manifest: Manifest, task: str | None, beside: Mapping[str, Path], folder: Path
) -> list[Path]:
    """Write further weights of a model as they were, whole; see `write_assets`.

    Raises FormatError for a pickle that is more than plain tensors; the file is there then.
    """
    model = manifest.base if task is None else manifest.tasks[task]
    written = []
    for inside, digest in sorted((model.beside or {}).items()):
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(read_asset(root, manifest, digest))
        written.append(target)
        if target.suffix in PICKLES:
            _check_pickle(target, inside)
    if task is None:
        _copy(beside, folder)
    return written


def _copy(beside: Mapping[str, Path], folder: Path) -> None:
    from taskstore.models.folder import copy_assets  # loads NumPy

    copy_assets(beside, folder)


def _check_pickle(path: Path, inside: str) -> None:
    extras.need(f"unpacking {inside}", "torch")
    from taskstore.models.readers.pytorch import check_plain  # loads torch

    try:
        check_plain(path)
    except CheckpointError:
        raise FormatError(
            f"{inside!r} of the store is a pickle that is not plain tensors"
        ) from None


def read_asset(root: Path, manifest: Manifest, digest: str) -> bytes:
    """Read one asset by its hash; raises FormatError where it is missing or damaged."""
    recorded = manifest.assets[digest]
    try:
        size = manifest.files[f"assets/{digest}"].bytes
        raw = read_regular(root / "assets" / digest, size, root)
    except OSError as error:
        raise FormatError(f"assets/{digest} cannot be read: {error.strerror}") from None
    if recorded.stored == "zstd":
        try:
            raw = inflate(raw, recorded.bytes)
        except FormatError as error:
            raise FormatError(f"assets/{digest} is damaged: {error}; restore it") from None
    found = blake3(raw).hexdigest()
    if found != digest or len(raw) != recorded.bytes:
        raise ChecksumMismatch(f"assets/{digest}", digest, found)
    return raw
