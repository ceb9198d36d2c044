"""The models that are packed: where they are, how large, of which dtype."""

from __future__ import annotations

import json
import math
import os
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


@dataclass(frozen=True)
class Family:
    base: Path
    tasks: dict[str, Path]
    dtype: str  # of most weights, as safetensors and the command line write it: bf16

    @property
    def folders(self) -> list[Path]:
        return [self.base, *self.tasks.values()]

    @property
    def files(self) -> list[Path]:
        """Every file, also those beside the weights."""
        return [path for folder in self.folders for path in files_of(folder)]

    @property
    def nbytes(self) -> int:
        return size_of(self.files)

    @property
    def parameters(self) -> int:
        """Of the base, as stored."""
        return sum(
            math.prod(entry["shape"])
            for path in weights_of(self.base)
            for entry in _entries(path).values()
        )

    @property
    def torch_dtype(self) -> str:
        """The dtype as torch, mergekit and zipnn spell it."""
        return TORCH_NAMES[self.dtype.upper()]


def open_family(root: Path, base: str, tasks: list[str]) -> Family:
    """Folders below `root`; raises FileNotFoundError where one has no safetensors files."""
    folders = {name: root / name for name in (base, *tasks)}
    for folder in folders.values():
        if not weights_of(folder):
            raise FileNotFoundError(f"{folder} holds no *.safetensors")
    return Family(folders[base], {name: folders[name] for name in tasks}, _dtype(folders[base]))


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def weights_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def size_of(files: list[Path]) -> int:
    return sum(os.path.getsize(file) for file in files)


def _dtype(folder: Path) -> str:
    """The dtype with the most bytes, in lower case; ValueError for one that is no float here."""
    sizes: Counter[str] = Counter()
    for path in weights_of(folder):
        for entry in _entries(path).values():
            begin, end = entry["data_offsets"]
            sizes[entry["dtype"]] += end - begin
    dtype = sizes.most_common(1)[0][0]
    if dtype not in TORCH_NAMES:
        raise ValueError(f"{folder} is mostly {dtype}; this benchmark knows {list(TORCH_NAMES)}")
    return dtype.lower()


def _entries(path: Path) -> dict[str, Any]:
    """The header of a safetensors file."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entries: dict[str, Any] = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    return entries
