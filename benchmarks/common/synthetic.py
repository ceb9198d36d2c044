"""A synthetic family on disk: a base and its fine-tunes as Hugging Face folders.

    python benchmarks/common/synthetic.py DIR --params 1e9 --tasks 8 --dtype bf16

Weights are normal, about 0.02 wide; each fine-tune adds heavy-tailed small steps, a normal times
its own size, about 2e-4 to 1e-3 wide; both widths vary from tensor to tensor. Everything follows
from the seed, block by block, so memory does not depend on the size and neither do the bytes on
the number of threads.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

if not __package__:
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common.llama_shapes import Llama, of_size

F32 = NDArray[np.float32]
Stored = NDArray[np.uint16] | NDArray[np.float16] | F32
BLOCK = 1 << 20  # elements that one thread makes at a time
SHARD_BYTES = 2 * 10**9
ITEMSIZE = {"bf16": 2, "f16": 2, "f32": 4}
DEFAULT_SEED = 2024


@dataclass(frozen=True)
class Place:
    """Where a tensor lies inside every model folder."""

    number: int  # of the tensor, for its random numbers
    file: str
    offset: int
    elements: int
    is_norm: bool


def task_names(tasks: int) -> list[str]:
    return [f"task{i:02d}" for i in range(tasks)]


def write_family(
    root: Path,
    *,
    params: float,
    tasks: int,
    dtype: str,
    seed: int = DEFAULT_SEED,
    threads: int = 2,
    shard_bytes: int = SHARD_BYTES,
) -> Llama:
    """Write `root`/base and `root`/task00, ...; returns the architecture.

    Raises ValueError for a size that no Llama has.
    """
    model = of_size(params)
    folders = [root / name for name in ("base", *task_names(tasks))]
    headers, places = _layout(model.shapes(), dtype, shard_bytes)
    config = json.dumps(model.config(dtype), indent=2) + "\n"
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(config)
        for file, header in headers.items():
            (folder / file).write_bytes(header)
        if len(headers) > 1:
            _write_index(folder, model, places, dtype)
    files = {
        (folder, file): os.open(folder / file, os.O_WRONLY)
        for folder in folders
        for file in headers
    }
    try:
        with ThreadPoolExecutor(threads) as pool:

            def make(work: tuple[Place, int]) -> None:
                place, start = work
                at = place.offset + start * ITEMSIZE[dtype]
                blocks = _blocks(place, start, seed, tasks, dtype)
                for folder, data in zip(folders, blocks, strict=True):
                    written = os.pwrite(files[folder, place.file], memoryview(data).cast("B"), at)
                    if written != data.nbytes:
                        raise OSError(f"only {written} of {data.nbytes} bytes went to {folder}")

            works = [
                (place, start)
                for place in places.values()
                for start in range(0, place.elements, BLOCK)
            ]
            for _ in pool.map(make, works):
                pass
    finally:
        for fd in files.values():
            os.close(fd)
    return model


def _layout(
    shapes: dict[str, tuple[int, ...]], dtype: str, shard_bytes: int
) -> tuple[dict[str, bytes], dict[str, Place]]:
    """File -> safetensors header, and tensor -> place; shards are filled in order."""
    shards: list[dict[str, int]] = [{}]
    for name, shape in shapes.items():
        size = math.prod(shape) * ITEMSIZE[dtype]
        if shards[-1] and sum(shards[-1].values()) + size > shard_bytes:
            shards.append({})
        shards[-1][name] = size
    numbers = {name: number for number, name in enumerate(shapes)}
    headers: dict[str, bytes] = {}
    places: dict[str, Place] = {}
    for i, shard in enumerate(shards, start=1):
        count = len(shards)
        file = "model.safetensors" if count == 1 else f"model-{i:05d}-of-{count:05d}.safetensors"
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, size in shard.items():
            entries[name] = {
                "dtype": dtype.upper(),
                "shape": list(shapes[name]),
                "data_offsets": [at, at + size],
            }
            at += size
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        headers[file] = struct.pack("<Q", len(text)) + text
        at = len(headers[file])
        for name, size in shard.items():
            elements = math.prod(shapes[name])
            places[name] = Place(numbers[name], file, at, elements, len(shapes[name]) == 1)
            at += size
    return headers, places


def _write_index(folder: Path, model: Llama, places: dict[str, Place], dtype: str) -> None:
    index = {
        "metadata": {"total_size": model.parameters * ITEMSIZE[dtype]},
        "weight_map": {name: place.file for name, place in places.items()},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _blocks(place: Place, start: int, seed: int, tasks: int, dtype: str) -> Iterator[Stored]:
    """Elements of one block in the base, then in each task: what was rounded, and a step."""
    size = min(BLOCK, place.elements - start)
    weights = _random(seed, place.number, start, 0).standard_normal(size, np.float32)
    weights *= np.float32(_width(seed, place.number, 0, 0.01, 0.04))
    if place.is_norm:
        weights += np.float32(1)
    base = _rounded(weights, dtype)
    yield base
    weights = _widened(base)
    for task in range(1, tasks + 1):
        step = _random(seed, place.number, start, task).standard_normal(size, np.float32)
        step *= np.abs(step)
        step *= np.float32(_width(seed, place.number, task, 2e-4, 1e-3))
        step += weights
        yield _rounded(step, dtype)


def _random(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))


def _width(seed: int, tensor: int, model: int, low: float, high: float) -> float:
    """A scale for one tensor of one model, log-uniform."""
    share = _random(seed, tensor, model).uniform()
    return float(low * (high / low) ** share)


def _rounded(block: F32, dtype: str) -> Stored:
    """To the nearest value of the dtype, ties to even; bf16 as its bits."""
    if dtype == "f32":
        return block
    if dtype == "f16":
        return block.astype(np.float16)
    bits = block.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _widened(stored: Stored) -> F32:
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a synthetic family of models.")
    parser.add_argument("root", type=Path, help="folder to write; it must not hold models yet")
    parser.add_argument("--params", type=float, default=2e7)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--dtype", choices=sorted(ITEMSIZE), default="bf16")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    model = write_family(**vars(given))
    print(f"{model} has {model.parameters:,} parameters")


if __name__ == "__main__":
    main()
