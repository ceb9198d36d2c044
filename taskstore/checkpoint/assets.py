"""What lies beside the weights: configs, tokenizers, chat templates, a model's own code."""

from __future__ import annotations

import os
from pathlib import Path

from taskstore.errors import BadName
from taskstore.format.names import check_path

MAX_ASSET = 256 << 20
WEIGHTS = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf"}
    | {".npz", ".npy", ".tflite", ".pkl", ".pickle"}
)
INDEXES = (".safetensors.index.json", ".bin.index.json")
FOLDERS = ("checkpoint-", "runs", "logs", "wandb", "__pycache__")


def collect(folder: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Path inside the folder -> file, for every asset; and what was left out, with the reason."""
    assets: dict[str, Path] = {}
    skipped: list[str] = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(
            f for f in folders if not f.startswith((".", *FOLDERS)) and not _link(root, f)
        )
        for file in sorted(files):
            path = Path(root) / file
            inside = path.relative_to(folder).as_posix()
            if file.startswith(".") or file.endswith(INDEXES):
                continue
            reason = _reason(path, inside, at_top=Path(root) == folder)
            if reason is None:
                assets[inside] = path
            elif reason:
                skipped.append(f"{inside} ({reason})")
    return assets, tuple(skipped)


def _link(root: str, name: str) -> bool:
    return os.path.islink(os.path.join(root, name))


def _reason(path: Path, inside: str, *, at_top: bool) -> str | None:
    """None: an asset. "": the model's own weights. Else why it is left out."""
    if not path.is_file():
        return "not a regular file"
    if path.suffix in WEIGHTS:
        weights = path.suffix in (".safetensors", ".bin") and not path.name.startswith("training_")
        return "" if at_top and weights else "weights of another format or part"
    try:
        check_path(inside)
    except BadName:
        return "its name is not portable"
    if path.stat().st_size > MAX_ASSET:
        return f"larger than {MAX_ASSET >> 20} MB"
    return None
