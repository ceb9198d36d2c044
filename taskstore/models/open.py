"""Open a checkpoint: a folder, a weight file or an adapter, as a user names it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from taskstore.errors import CheckpointError
from taskstore.format.names import MANIFEST
from taskstore.locations.hub import locate, name_of
from taskstore.models.assets import collect
from taskstore.models.checkpoint import Checkpoint, Reader
from taskstore.models.original_files import Originals, of_files
from taskstore.models.readers import index, lora, open_files, weights_in
from taskstore.models.readers.safetensors import SafetensorsReader


def open_checkpoint(
    model: str | os.PathLike[str], name: str | None = None, base: Checkpoint | None = None
) -> Checkpoint:
    """Open a model folder, a single weight file, or a LoRA adapter folder of `base`.

    Reads headers only. Raises CheckpointError for anything that is not a whole model.
    """
    path, source, revision = locate(model)
    if path.is_file():
        reader = open_files([path])
        total, kept = path.stat().st_size, _originals(reader, None)
        return Checkpoint(
            name or name_of(path), path, reader, {}, (), total, source, revision, kept
        )
    if (path / MANIFEST).is_file():
        raise CheckpointError(
            path,
            "is a store, not a model: write its models with `taskstore unpack`, or give the "
            "store to `taskstore merge` as BASE",
        )
    adapter = lora.adapter_file(path)
    if adapter is not None:
        reader, files, index_path = _open_adapter(adapter, base), [adapter], None
    else:
        reader, files, index_path = _open_folder(path)
    beside = collect(path, files)
    assets, weights = beside.assets, beside.weights
    total = sum(f.stat().st_size for f in (*files, *assets.values(), *weights.values()))
    if adapter is not None and base is not None:
        assets, weights = _adapter_assets(assets, base.assets), {**base.beside, **weights}
    kept = _originals(reader, index_path)
    skipped = tuple(f"{inside} ({why})" for inside, why in beside.skipped.items())
    found = Checkpoint(
        name or name_of(path), path, reader, assets, skipped, total, source, revision, kept
    )
    return replace(found, beside=weights, left_out=beside.left_out)


def _originals(reader: Reader, index_path: Path | None) -> Originals | None:
    """Return the weight files as they are; None where a store could not write them again."""
    if not isinstance(reader, SafetensorsReader) or reader.repeats:
        return None
    return of_files(reader.files, index_path)


def _open_folder(folder: Path) -> tuple[Reader, list[Path], Path | None]:
    files, index_path, names = weights_in(folder)
    if not files:
        what = (
            "adapter_config.json and no adapter_model"
            if (folder / lora.CONFIG).exists()
            else "no weights (*.safetensors or pytorch_model.bin)"
        )
        raise CheckpointError(folder, f"holds {what}")
    reader = open_files(files, folder)
    if index_path is not None:
        try:
            index.check_against_index(index_path, reader.tensors, names)
        except CheckpointError:
            reader.close()
            raise
    return reader, files, index_path


def _open_adapter(file: Path, base: Checkpoint | None) -> Reader:
    if base is None:
        raise CheckpointError(file.parent, "is a LoRA adapter; it can be a fine-tune, not a base")
    adapter = open_files([file], file.parent)
    try:
        return lora.LoraReader(file.parent, adapter, base.reader)
    except BaseException:
        adapter.close()
        raise


def _adapter_assets(own: Mapping[str, Path], base: Mapping[str, Path]) -> dict[str, Path]:
    """Return the base's assets under the adapter's own; what only PEFT reads is left out."""
    return {**base, **{k: v for k, v in own.items() if k not in (lora.CONFIG, "README.md")}}
