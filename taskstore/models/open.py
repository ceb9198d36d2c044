"""Open a checkpoint: a folder, a weight file or an adapter, as a user names it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from taskstore.errors import CheckpointError, TaskstoreError
from taskstore.format.names import MANIFEST
from taskstore.locations.hub import locate, name_of
from taskstore.locations.remote.addresses import Address, parse
from taskstore.locations.remote.elsewhere import HERE, Elsewhere, find, renamed
from taskstore.locations.scratch import scratch
from taskstore.models.assets import collect, stays
from taskstore.models.checkpoint import Checkpoint, Reader
from taskstore.models.config import CONFIG
from taskstore.models.original_files import Originals, of_files
from taskstore.models.readers import adapted, index, lora, open_files, other_forms, weights_in
from taskstore.models.readers.adapter_config import adapters_in
from taskstore.models.readers.safetensors import SafetensorsReader

_FACTOR = re.compile(r"[._]lora_(embedding_)?[AB]\b|\blora[._](down|up)\b")
MOST_NAMED = 20  # folders in an error


def open_checkpoint(
    model: str | os.PathLike[str], name: str | None = None, base: Checkpoint | None = None
) -> Checkpoint:
    """Open a model folder, a single weight file, or a LoRA adapter folder of `base`.

    A model may be elsewhere, at an address (`locations.remote.addresses`): its weights are read
    there. Reads headers only. Raises CheckpointError for anything that is not a whole model, and
    RemoteError where an address cannot be read.
    """
    address = parse(model)
    if address is not None:
        return _open_elsewhere(address, name, base)
    path, source, revision = locate(model)
    found = _open(path, name or name_of(path), base, HERE)
    return replace(found, source=source, revision=revision)


def _open_elsewhere(address: Address, name: str | None, base: Checkpoint | None) -> Checkpoint:
    with ExitStack() as stack:
        try:
            place = find(address, stays, stack)
        except TaskstoreError:
            raise
        except OSError as error:
            raise CheckpointError(address, f"cannot be read: {error.strerror or error}") from None
        try:
            found = _open(place.folder, name or address.name, base, place.elsewhere)
        except CheckpointError as error:
            # the folder on this machine says nothing to a user
            raise renamed(error, place, address) from None
        release = stack.pop_all().close
    where = str(address.at(place.revision) if place.revision else address)
    return replace(
        found, source=place.source, revision=place.revision, release=release, address=where
    )


def _open(path: Path, name: str, base: Checkpoint | None, elsewhere: Elsewhere) -> Checkpoint:
    if path.is_file() and lora.adapter_file(path.parent) == path:
        path = path.parent  # an adapter is its config, too
    if path.is_file():
        reader = open_files([path])
        _check_merged(path, reader, base)
        total, kept = path.stat().st_size, _originals(reader, None)
        return Checkpoint(name, path, reader, {}, (), total, originals=kept)
    if (path / MANIFEST).is_file():
        raise CheckpointError(
            path,
            "is a store, not a model: write its models with `taskstore unpack`, or give the "
            "store to `taskstore merge` as BASE",
        )
    adapter = lora.adapter_file(path)
    if adapter is not None:
        return _adapted(adapter, name, base, elsewhere)
    reader, files, index_path = _open_folder(path, elsewhere)
    try:
        _check_merged(path, reader, base)
        beside = collect(path, files, elsewhere)
    except BaseException:
        reader.close()
        raise
    assets, weights = beside.assets, beside.weights
    total = sum(map(elsewhere.size, (*files, *assets.values(), *weights.values())))
    kept = _originals(reader, index_path)
    skipped = tuple(f"{inside} ({why})" for inside, why in beside.skipped.items())
    found = Checkpoint(name, path, reader, assets, skipped, total, originals=kept)
    return replace(found, beside=weights, left_out=beside.left_out)


def _check_merged(path: Path, reader: Reader, base: Checkpoint | None) -> None:
    """Refuse a fine-tune that holds an adapter's factors, unless its base has such tensors, too."""
    found = [name for name in reader.tensors if _FACTOR.search(name)]
    if base is None or not found or any(_FACTOR.search(name) for name in base.tensors):
        return
    reader.close()
    raise CheckpointError(
        path,
        f"holds {len(found)} factors of a LoRA adapter ({found[0]!r}) that are not merged; call "
        "merge_and_unload() before you save the model, or save the adapter alone with PEFT's "
        "save_pretrained, which writes its adapter_config.json",
    )


def _originals(reader: Reader, index_path: Path | None) -> Originals | None:
    """Return the weight files as they are; None where a store could not write them again."""
    if not isinstance(reader, SafetensorsReader) or reader.repeats:
        return None
    return of_files(reader.files, index_path)


def _open_folder(folder: Path, elsewhere: Elsewhere) -> tuple[Reader, list[Path], Path | None]:
    files, index_path, names = weights_in(folder)
    if not files:
        if (folder / lora.CONFIG).exists():
            what = "adapter_config.json and no adapter_model"
        elif list(folder.glob("adapter_model.*")):
            what = "an adapter_model and no adapter_config.json, which PEFT writes beside it"
        elif others := adapters_in(folder):
            what = (
                f"{len(others)} adapters and no model; give each: "
                + " ".join(
                    shlex.quote(f"{other}={folder / other}") for other in others[:MOST_NAMED]
                )
                + (" ..." if len(others) > MOST_NAMED else "")
            )
        else:
            what = other_forms.of_folder(folder, _has_model)
        raise CheckpointError(folder, f"holds {what}")
    reader = open_files(files, folder, elsewhere)
    if index_path is not None:
        try:
            index.check_against_index(index_path, reader.tensors, names)
        except CheckpointError:
            reader.close()
            raise
    return reader, files, index_path


def _has_model(folder: Path) -> bool:
    try:
        return bool(weights_in(folder)[0]) or lora.adapter_file(folder) is not None
    except CheckpointError:
        return True  # not a whole one, which its own error says


def _adapted(file: Path, name: str, base: Checkpoint | None, elsewhere: Elsewhere) -> Checkpoint:
    """Open the model that an adapter makes of its base, with the files that this model has."""
    folder = file.parent
    if base is None:
        raise CheckpointError(folder, "is a LoRA adapter; it can be a fine-tune, not a base")
    weights = open_files([file], folder, elsewhere)
    try:
        reader = lora.LoraReader(folder, weights, base)
    except BaseException:
        weights.close()
        raise
    try:
        notes = adapted.notes_on_base(folder, reader.config, base)
        beside, others = collect(folder, [file], elsewhere), adapters_in(folder)
        if others:
            notes += (f"other adapters are left out: {', '.join(others)}; name their folders",)
        own, heavy = (
            {k: v for k, v in files.items() if k.split("/")[0] not in others}
            for files in (beside.assets, beside.weights)
        )
        total = sum(map(elsewhere.size, (file, *own.values(), *heavy.values())))
        assets = _adapter_assets(own, base.assets)
        config = adapted.rebuilt_config(reader, own, base)
        if config is not None:
            place = reader.kept_until_closed.enter_context(scratch(folder, small=True))
            assets[CONFIG] = adapted.write_config(place, config)
    except BaseException:
        reader.close()
        raise
    skipped = tuple(f"{inside} ({why})" for inside, why in beside.skipped.items())
    found = Checkpoint(name, folder, reader, assets, skipped, total)
    weights_beside = {**base.beside, **heavy}
    return replace(found, beside=weights_beside, left_out=beside.left_out, notes=notes)


def _adapter_assets(own: Mapping[str, Path], base: Mapping[str, Path]) -> dict[str, Path]:
    """Return the base's assets under the adapter's own; what only PEFT reads is left out."""
    return {**base, **{k: v for k, v in own.items() if k not in (lora.CONFIG, "README.md")}}
