"""Archives beside packages from the index that code a fine-tune: bits, and whether it comes back.

Each package codes every fine-tune as its own documents say and decodes it, in its own environment
(envs.py); what comes back is compared with the original, bit for bit, here.
"""

from __future__ import annotations

import filecmp
import json
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import taskstore
from benchmarks.common import envs
from benchmarks.common.family import Family, files_of, size_of, weights_of
from benchmarks.common.measure import Side, SideFailed
from benchmarks.common.sides import HERE, NORMAL, remove
from taskstore.format.dtypes import MASKED
from taskstore.kernels import floats
from taskstore.models import Checkpoint, open_checkpoint

PIECE = 1 << 22
FOREIGN = {**NORMAL, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Way:
    """One way to use a package; `options` are what the call gets beside its defaults."""

    name: str
    tool: str
    options: Mapping[str, Any] = field(default_factory=dict)


# What a package needs and does not ask pip for.
BESIDE = {"deltatensors": ("safetensors",), "sparse-llm": ("accelerate",)}
WAYS = (
    Way("zipnn, each file alone", "zipnn"),
    Way("zipnn, delta", "zipnn", {"delta_compressed_type": "byte"}),
    Way("deltatensors, as it is called", "deltatensors"),
    Way("deltatensors, int4", "deltatensors", {"strategy": "int4"}),
    Way("deltatensors, sparsity 0", "deltatensors", {"sparsity": 0.0}),
    Way("sparse-llm, compress", "sparse-llm"),
)
TOOLS = tuple(dict.fromkeys(way.tool for way in WAYS))


@dataclass
class Found:
    """What one way stored and gave back, over all fine-tunes."""

    stored: int = 0
    weights: int = 0
    differ: int = 0  # weights whose bits are others
    largest: float = 0.0  # difference of two weights
    files: bool = True  # came back byte for byte

    @property
    def lossless(self) -> str:
        return "no" if self.differ else "files" if self.files else "tensors"

    def compare(self, original: Path, back: Path) -> None:
        """Add a fine-tune; raises ValueError where a tensor is missing or has another shape."""
        theirs = [back / path.name for path in weights_of(original)]
        self.files &= all(
            copy.is_file() and filecmp.cmp(path, copy, shallow=False)
            for path, copy in zip(weights_of(original), theirs, strict=True)
        )
        with_bits, other = open_checkpoint(original), open_checkpoint(back)
        for name, info in with_bits.tensors.items():
            for w_N, back_N in _pieces(name, with_bits, other):
                changed_N = w_N != back_N
                self.weights += w_N.size
                self.differ += int(np.count_nonzero(changed_N))
                if info.dtype in MASKED and changed_N.any():
                    ours_N, theirs_N = (
                        floats.to_float32(bits_N[changed_N], info.dtype).astype(np.float64)
                        for bits_N in (w_N, back_N)
                    )
                    self.largest = max(self.largest, float(np.abs(ours_N - theirs_N).max()))


def _pieces(name: str, original: Checkpoint, back: Checkpoint) -> Iterator[tuple[Any, Any]]:
    """Bits of a tensor and of what came back, rounded to its dtype where that is another."""
    info, other = original.tensors[name], back.tensors.get(name)
    floating = other is not None and {info.dtype, other.dtype} <= MASKED
    if other is None or other.shape != info.shape or not (floating or other.dtype == info.dtype):
        raise ValueError(f"{name} did not come back as a tensor of its shape and kind")
    for start in range(0, info.numel, PIECE):
        stop = min(start + PIECE, info.numel)
        back_N = back.read(name, start, stop)
        if other.dtype != info.dtype:
            back_N = floats.from_float32(floats.to_float32(back_N, other.dtype), info.dtype)
        yield original.read(name, start, stop), back_N


def archive(family: Family, work: Path, level: Any) -> Found:
    """All files of an archive but the base's: configs, tokenizers and manifest too."""
    options = taskstore.PackOptions(tiers="exact", level=level)
    store = work / "store"
    taskstore.pack(family.base, family.tasks, store, options)
    shared = [path for path in files_of(store) if path.parent == store and _of_base(path)]
    found = Found(size_of(files_of(store)) - size_of(shared))
    for name, folder in family.tasks.items():
        back = taskstore.open(store).unpack(name, work / "back", tier="exact")
        found.compare(folder, back)
        remove(back)
    remove(store)
    return found


def _of_base(path: Path) -> bool:
    return path.name.startswith("base") and path.suffix == ".safetensors"


def rival(way: Way, family: Family, work: Path) -> Found:
    """Raises SideFailed where the package fails, ValueError where a tensor does not come back."""
    found = Found()
    for folder in family.tasks.values():
        stored, back = work / "stored", work / "back"
        for path in (stored, back):
            remove(path)
            path.mkdir()
        given = {
            "tool": way.tool,
            "options": way.options,
            "base": str(family.base),
            "task": str(folder),
            "torch_dtype": family.torch_dtype,
            "stored": str(stored),
            "back": str(back),
        }
        worker = str(HERE / "archives" / "worker.py")
        command = [str(envs.python_of(way.tool)), worker, json.dumps(given)]
        Side(way.name, command, lambda: None, FOREIGN).run()
        found.stored += size_of(files_of(stored))
        found.compare(folder, back)
    return found


def show(family: Family, work: Path, tools: Iterable[str], console: Console) -> None:
    """Measure and print; a package that cannot be had or fails is a line below the table."""
    table = Table(title=f"All that is stored of {len(family.tasks)} fine-tunes beside the base")
    for column in ("way", "version", "bits/parameter", "lossless", "weights that differ", "by"):
        table.add_column(column, justify="left" if column in ("way", "lossless") else "right")
    failed = []

    def add(name: str, version: str, found: Found) -> None:
        same = not found.differ
        table.add_row(
            name,
            version,
            f"{8 * found.stored / found.weights:.3f}",
            found.lossless,
            "" if same else f"{100 * found.differ / found.weights:.2g} %",
            "" if same else f"{found.largest:.2g}",
        )

    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix="run-") as scratch:
        for level, name in (("speed", ""), ("archive", ", --level archive")):
            found = archive(family, Path(scratch), level)
            add(f"pack --tiers exact{name}", taskstore.__version__, found)
        for way in (way for way in WAYS if way.tool in tools):
            try:
                envs.ensure(way.tool, *BESIDE.get(way.tool, ()))
                add(way.name, envs.version_of(way.tool), rival(way, family, Path(scratch)))
            except (envs.ToolError, SideFailed, ValueError, subprocess.SubprocessError) as error:
                failed.append(f"{way.name}: {str(error).strip().splitlines()[-1]}")
    console.print(table)
    for line in failed:
        console.print(line, markup=False)
