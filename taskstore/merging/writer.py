"""A model folder from a stream of bits: shards, index, and the files beside them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from taskstore.checkpoint import Checkpoint, TensorInfo
from taskstore.format.container_files import shard_names, split
from taskstore.format.weight_files import usual_head, usual_order
from taskstore.locations.files import Flusher, write_all
from taskstore.model_folder import write_index

Bits = NDArray[Any]
CONFIG = "config.json"
TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def shards_of(tensors: Mapping[str, TensorInfo], limit: int) -> list[list[str]]:
    """Names of the tensors of each weight file, in the order of their bytes."""
    return split({name: tensors[name].nbytes for name in usual_order(tensors)}, limit)


def write_weights(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    shards: list[list[str]],
    bits: Iterable[tuple[str, Bits]],
    report: Callable[[str], None],
) -> None:
    """`bits` are the tensors' blocks, in the order of `shards`."""
    files, stream = shard_names("model", len(shards)), iter(bits)
    for file, names in zip(files, shards, strict=True):
        _write_file(folder / file, tensors, names, stream, report)
    write_index(folder, files, shards, sum(info.nbytes for info in tensors.values()))


def _write_file(
    path: Path,
    tensors: Mapping[str, TensorInfo],
    names: list[str],
    stream: Iterator[tuple[str, Bits]],
    report: Callable[[str], None],
) -> None:
    head = usual_head(tensors, names)
    left = sum(tensors[name].nbytes for name in names)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    flusher = Flusher(fd)
    try:
        write_all(fd, head)
        end = len(head)
        while left:
            name, bits_N = next(stream)
            write_all(fd, bits_N.data)
            end, left = end + bits_N.nbytes, left - bits_N.nbytes
            flusher.written_to(end)
            report(name)
    finally:
        try:
            flusher.close()
        finally:
            os.close(fd)


def write_assets(model: Checkpoint, folder: Path) -> None:
    """The files beside a model's weights."""
    for inside, path in sorted(model.assets.items()):
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def write_config(model: Checkpoint, folder: Path, changes: Mapping[str, Any]) -> None:
    """A model's config.json; `changes` are members that it has and that are set.

    One that is not JSON is copied as it is.
    """
    source = model.assets.get(CONFIG)
    if source is None:
        return
    config = read_config(model)
    changed = config | {key: value for key, value in changes.items() if key in config}
    if changed == config:
        shutil.copyfile(source, folder / CONFIG)
    else:
        text = json.dumps(changed, indent=2, ensure_ascii=False) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")


def read_config(model: Checkpoint) -> dict[str, Any]:
    """Empty where there is none, or it is not what a config is."""
    try:
        config = json.loads(model.assets[CONFIG].read_bytes())
    except (KeyError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}
