"""Collect what lies beside the weights: configs, tokenizers, chat templates, a model's own code."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from taskstore.errors import BadName, CheckpointError
from taskstore.format.manifest import MAX_ASSET
from taskstore.format.names import INDEXES, check_asset_path
from taskstore.locations.files import resolve

WEIGHTS = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf"}
    | {".npz", ".npy", ".tflite", ".pkl", ".pickle"}
)
FOLDERS = ("checkpoint-", "runs", "logs", "wandb", "__pycache__")


def collect(folder: Path, weights: Collection[Path]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return path inside the folder -> where it lies, of every asset; and what was left out, why.

    `weights` are the files that the model is read from. Raises CheckpointError for a link to a file
    outside of the folder.
    """
    assets: dict[str, Path] = {}
    skipped: list[str] = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(
            f for f in folders if not f.startswith((".", *FOLDERS)) and not _link(root, f)
        )
        for file in sorted(files):
            path = Path(root) / file
            inside = path.relative_to(folder).as_posix()
            if file.startswith(".") or file.endswith(INDEXES) or path in weights:
                continue
            reason = _reason(path, inside)
            if reason is None:
                assets[inside] = _real(path, folder)
            else:
                skipped.append(f"{inside} ({reason})")
    return assets, tuple(skipped)


def _real(path: Path, folder: Path) -> Path:
    try:
        return resolve(path, folder)
    except OSError as error:
        raise CheckpointError(path, str(error.strerror)) from None


def _link(root: str, name: str) -> bool:
    return os.path.islink(os.path.join(root, name))


def _reason(path: Path, inside: str) -> str | None:
    """Return why a file is left out; None for an asset."""
    if not path.is_file():
        return "not a regular file"
    if path.suffix in WEIGHTS:
        return "weights that the model is not read from"
    try:
        check_asset_path(inside)
    except BadName:
        return "its name is not portable"
    if path.stat().st_size > MAX_ASSET:
        return f"larger than {MAX_ASSET >> 20} MB"
    return None
