"""Collect what lies beside the weights: configs, tokenizers, templates, code, further weights."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from taskstore import extras
from taskstore.errors import BadName, CheckpointError
from taskstore.format.manifest import MAX_ASSET
from taskstore.format.names import INDEXES, PICKLES, check_asset_path, check_beside_path
from taskstore.locations.files import resolve
from taskstore.locations.pointers import pointer
from taskstore.locations.remote.elsewhere import HERE, Elsewhere

WEIGHTS = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf"}
    | {".npz", ".npy", ".tflite", ".pkl", ".pickle"}
)
FOLDERS = ("checkpoint-", "runs", "logs", "wandb", "__pycache__")
TRAINING = ("optimizer", "scheduler", "rng_state", "training_args", "trainer_state", "scaler")
COPIES = ("model", "pytorch_model", "diffusion_pytorch_model", "consolidated", "adapter_model")


@dataclass
class Beside:
    """Path inside the folder -> where it lies, or why it is left out."""

    assets: dict[str, Path] = field(default_factory=dict)
    weights: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What is left out and is no state of a training."""
        return tuple(path for path, why in self.skipped.items() if why != "state of a training")


def collect(folder: Path, weights: Collection[Path], elsewhere: Elsewhere = HERE) -> Beside:
    """Find what lies beside `weights`, the files that the model is read from.

    What is `elsewhere` and is carried is brought here.

    Raises CheckpointError for a link to a file outside of the folder, and for a Git LFS pointer in
    the place of a file that would be carried, but for pictures and the like.
    """
    found = Beside()
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(
            f for f in folders if not f.startswith((".", *FOLDERS)) and not _link(root, f)
        )
        for file in sorted(files):
            path = Path(root) / file
            inside = path.relative_to(folder).as_posix()
            index = file.endswith(INDEXES)
            if file.startswith(".") or path in weights or (index and inside == file):
                continue
            is_weights = index or path.suffix in WEIGHTS
            reason = _reason(path, inside, is_weights, elsewhere)
            if reason is None:
                elsewhere.bring(path)
            if reason is None and (wrong := pointer(_real(path, folder))):
                if wrong.size <= MAX_ASSET and not _is_media(inside):
                    raise CheckpointError(path, wrong.problem)
                reason = wrong.problem.removeprefix("is ")
            elif reason is None and path.suffix in PICKLES:
                reason = _pickle(path)
            if reason is not None:
                found.skipped[inside] = reason
            else:
                (found.weights if is_weights else found.assets)[inside] = _real(path, folder)
    return found


def stays(name: str, size: int) -> bool:
    """Tell of a file of a model elsewhere whether it is read there, if it is read at all."""
    return Path(name).suffix in WEIGHTS or size > MAX_ASSET


def _real(path: Path, folder: Path) -> Path:
    try:
        return resolve(path, folder)
    except OSError as error:
        raise CheckpointError(path, str(error.strerror)) from None


def _is_media(name: str) -> bool:
    return (mimetypes.guess_type(name)[0] or "").startswith(("image/", "video/", "audio/"))


def _link(root: str, name: str) -> bool:
    return os.path.islink(os.path.join(root, name))


def _reason(path: Path, inside: str, is_weights: bool, elsewhere: Elsewhere) -> str | None:
    """Return why a file is left out; None for one that is carried."""
    if not path.is_file():
        return "not a regular file"
    if is_weights and path.name.startswith(TRAINING):
        return "state of a training"
    if is_weights and inside == path.name and inside.startswith(COPIES):
        return "weights that the model is not read from"
    try:
        (check_beside_path if is_weights else check_asset_path)(inside)
    except BadName:
        return "weights of another kind" if is_weights else "its name is not portable"
    if elsewhere.size(path) > MAX_ASSET:
        return f"larger than {MAX_ASSET >> 20} MB"
    return None


def _pickle(path: Path) -> str | None:
    extras.need(f"carrying {path}", "torch")
    from taskstore.models.readers.pytorch import check_plain  # loads torch

    try:
        check_plain(path)
    except CheckpointError:
        return "a pickle that is not plain tensors"
    return None
